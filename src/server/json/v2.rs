//! The inputs of a body in the form of the Open Inference Protocol, version 2.
//!
//! Each states its own name, type and shape, and its data is flat or nested. The keys come in any order;
//! where the data comes before the name, its place is remembered and it is read once the name is
//! known, so that even then nothing is kept but the tensor.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::body::{Cx, Key};
use super::nest::TensorSeed;
use super::{ReplyForm, explain};
use crate::error::{Result, ScoreError};
use crate::signature::{Port, PortKind, Signature};
use crate::tensor::{DType, Tensor};

/// One of the outputs that a request asks for.
#[derive(Deserialize)]
pub(super) struct Selected {
    pub(super) name: String,
}

/// The list of inputs.
pub(super) struct InputList<'a, 'b, 's> {
    pub(super) cx: &'a mut Cx<'b, 's>,
}

impl<'de> DeserializeSeed<'de> for InputList<'_, '_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for InputList<'_, '_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of inputs")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let mut index = 0;
        while seq.next_element_seed(Input { cx: self.cx, index })?.is_some() {
            index += 1;
        }
        Ok(())
    }
}

/// One input.
struct Input<'a, 'b, 's> {
    cx: &'a mut Cx<'b, 's>,
    index: usize,
}

/// What one input says of itself.
#[derive(Default)]
struct Stated {
    name: Option<String>,
    shape: Option<Vec<usize>>,
    datatype: Option<String>,
    data: Option<Tensor>,
    /// Where in the body the data begins, when it came before the name.
    data_offset: Option<usize>,
}

impl<'de> DeserializeSeed<'de> for Input<'_, '_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Input<'_, '_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an input as {\"name\", \"shape\", \"datatype\", \"data\"}")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        let mut stated = Stated::default();
        while let Some(key) = map.next_key_seed(Key)? {
            match &*key {
                "name" if stated.name.is_none() => stated.name = Some(map.next_value()?),
                "shape" if stated.shape.is_none() => stated.shape = Some(map.next_value()?),
                "datatype" if stated.datatype.is_none() => stated.datatype = Some(map.next_value()?),
                "data" if stated.data.is_none() && stated.data_offset.is_none() => {
                    self.data(&key, &mut map, &mut stated)?;
                }
                "parameters" => drop(map.next_value::<IgnoredAny>()?),
                "name" | "shape" | "datatype" | "data" => {
                    return Err(self.refuse(format!("the key '{key}' stands twice")));
                }
                _ => {
                    let known = ["name", "shape", "datatype", "data", "parameters"];
                    let expected = explain::name_list(known);
                    return Err(
                        self.refuse(format!("unknown key {}: expected {expected}", explain::quoted(&key)))
                    );
                }
            }
        }
        self.finish(stated)
    }
}

impl<'s> Input<'_, '_, 's> {
    fn refuse<E: serde::de::Error>(&mut self, what: impl Into<String>) -> E {
        let place = format!("inputs[{}]", self.index);
        self.cx.refuse(ScoreError::bad_input(what).with_at(place))
    }

    /// The model's input of that name.
    fn port<E: serde::de::Error>(&mut self, name: &str) -> Result<(usize, &'s Port), E> {
        let signature = self.cx.signature;
        let found = signature.input_index(name);
        if let Some((index, port)) = found.and_then(|i| signature.inputs().get(i).map(|p| (i, p))) {
            return Ok((index, port));
        }
        let names = || signature.inputs().iter().map(|p| p.name.as_str());
        let meant = explain::nearest(name, names()).map(|m| format!(" (did you mean '{m}'?)"));
        Err(self.refuse(format!(
            "the model has no input {}{}; the inputs are {}",
            explain::quoted(name),
            meant.unwrap_or_default(),
            explain::name_list(names())
        )))
    }

    fn data<'de, A: MapAccess<'de>>(
        &mut self,
        key: &Cow<'de, str>,
        map: &mut A,
        stated: &mut Stated,
    ) -> Result<(), A::Error> {
        let Some(name) = &stated.name else {
            let Some(offset) = self.cx.value_offset(key) else {
                return Err(self.refuse("write the key 'data' without escapes, or after 'name'"));
            };
            stated.data_offset = Some(offset);
            return map.next_value::<IgnoredAny>().map(drop);
        };
        let (_, port) = self.port(name)?;
        stated.data = Some(map.next_value_seed(self.seed(port))?);
        Ok(())
    }

    fn seed(&mut self, port: &'s Port) -> TensorSeed<'_, 's> {
        let body_bytes = self.cx.body.len();
        TensorSeed { port, by_shape: false, body_bytes, error: &mut self.cx.error }
    }

    fn finish<E: serde::de::Error>(&mut self, stated: Stated) -> Result<(), E> {
        let Some(name) = stated.name else { return Err(self.refuse("the key 'name' is missing")) };
        let (index, port) = self.port(&name)?;
        let tensor = match (stated.data, stated.data_offset) {
            (Some(tensor), _) => tensor,
            (None, Some(offset)) => {
                let rest = self.cx.body.get(offset..).unwrap_or_default();
                let mut from = serde_json::Deserializer::from_slice(rest);
                self.seed(port).deserialize(&mut from).map_err(E::custom)?
            }
            (None, None) => return Err(self.refuse(format!("'{name}' has no 'data'"))),
        };
        let Some(shape) = stated.shape else {
            return Err(self.refuse(format!("'{name}' has no 'shape'")));
        };
        let dtype = port.dtype().map_or("", DType::v2_name);
        match stated.datatype {
            Some(given) if given == dtype => {}
            Some(given) => {
                let got = explain::quoted(&given);
                return Err(self.refuse(format!("'{name}' has datatype {dtype}, got {got}")));
            }
            None => return Err(self.refuse(format!("'{name}' has no 'datatype': expected {dtype}"))),
        }
        let flat = tensor.shape().len() == 1;
        let shaped = match () {
            () if tensor.shape() == shape => Ok(tensor),
            () if flat => tensor.reshape(&shape),
            () => {
                let nested = tensor.shape();
                Err(ScoreError::bad_input(format!("'shape' says {shape:?}, 'data' is nested as {nested:?}")))
            }
        };
        let checked = shaped.and_then(|tensor| port.check(&tensor).map(|()| tensor));
        match checked {
            Ok(tensor) => self.cx.keep(index, tensor),
            Err(e) => {
                let place = format!("inputs[{}]", self.index);
                Err(self.cx.refuse(e.with_at(place)))
            }
        }
    }
}

/// The form of the answer, with the outputs that were asked for checked.
pub(super) fn reply_form(
    signature: &Signature,
    id: Option<String>,
    outputs: Option<Vec<String>>,
) -> Result<ReplyForm> {
    let ports = signature.outputs();
    let names = || ports.iter().map(|p| p.name.as_str());
    let mut places = Vec::new();
    for name in outputs.iter().flatten() {
        let Some(place) = ports.iter().position(|p| p.name == *name) else {
            return Err(ScoreError::bad_input(format!(
                "the model has no output {}; the outputs are {}",
                explain::quoted(name),
                explain::name_list(names())
            ))
            .with_at("outputs"));
        };
        if places.contains(&place) {
            let what = format!("the output {} is asked for twice", explain::quoted(name));
            return Err(ScoreError::bad_input(what).with_at("outputs"));
        }
        places.push(place);
    }
    // An empty list is what clients send who want all of them.
    let outputs = (!places.is_empty()).then_some(places);
    let wanted = |i: usize| outputs.as_ref().is_none_or(|o| o.contains(&i));
    let mut others = ports.iter().enumerate().filter(|(i, p)| {
        let tensor = matches!(p.kind, PortKind::Tensor { .. });
        wanted(*i) && !tensor
    });
    if let Some((_, port)) = others.next() {
        return Err(ScoreError::bad_input(format!(
            "the protocol has no form for a {}: ask for the other outputs with \"outputs\", or send the inputs \
             as {{name: data}}",
            port.kind
        ))
        .with_at(format!("output '{}'", port.name)));
    }
    Ok(ReplyForm::V2 { id, outputs })
}
