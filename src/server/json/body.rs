//! The outermost object of a body: which key is which input.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

use super::nest::TensorSeed;
use super::v2::{InputList, Selected};
use super::{DecodedRequest, ReplyForm, explain};
use crate::error::{Result, ScoreError};
use crate::signature::Signature;
use crate::tensor::Tensor;

/// What a model of one input may call it besides its own name.
const ALIASES: [&str; 3] = ["data", "input_data", "inputs"];
/// More unknown keys than this are counted, not named.
const NAMED_AT_MOST: usize = 8;

/// A body being read.
pub(super) struct Cx<'b, 's> {
    pub(super) body: &'b [u8],
    pub(super) signature: &'s Signature,
    pub(super) inputs: Vec<Option<Tensor>>,
    /// The reason of a refusal, which serde's own error cannot carry.
    pub(super) error: Option<ScoreError>,
    id: Option<String>,
    outputs: Option<Vec<String>>,
    /// Whether the list of inputs of the Open Inference Protocol was seen.
    listed: bool,
    unknown: Vec<String>,
    unknown_count: usize,
}

impl<'b, 's> Cx<'b, 's> {
    pub(super) fn new(body: &'b [u8], signature: &'s Signature) -> Self {
        Self {
            body,
            signature,
            inputs: vec![None; signature.inputs().len()],
            error: None,
            id: None,
            outputs: None,
            listed: false,
            unknown: Vec::new(),
            unknown_count: 0,
        }
    }

    pub(super) fn refuse<E: serde::de::Error>(&mut self, reason: ScoreError) -> E {
        self.error.get_or_insert(reason);
        E::custom("the body was refused")
    }

    /// Where in the body the value of this key begins: behind the colon. Known unless the key was
    /// written with escapes, which no client does for the few keys that this is asked for.
    #[allow(clippy::ptr_arg, reason = "only a borrowed key tells where it stands")]
    pub(super) fn value_offset(&self, key: &Cow<'_, str>) -> Option<usize> {
        let Cow::Borrowed(key) = key else { return None };
        let after_key = key.as_ptr().addr().checked_sub(self.body.as_ptr().addr())? + key.len() + 1;
        let rest = self.body.get(after_key..)?;
        let colon = rest.iter().position(|b| !b.is_ascii_whitespace())?;
        (rest.get(colon) == Some(&b':')).then_some(after_key + colon + 1)
    }

    /// Whether the value of this key is an array whose first element is an object.
    #[allow(clippy::ptr_arg, reason = "only a borrowed key tells where it stands")]
    fn lists_objects(&self, key: &Cow<'_, str>) -> bool {
        let rest = self.value_offset(key).and_then(|at| self.body.get(at..)).unwrap_or_default();
        let mut tokens = rest.iter().filter(|b| !b.is_ascii_whitespace());
        tokens.next() == Some(&b'[') && tokens.next() == Some(&b'{')
    }

    /// Which input a key of the outermost object means.
    fn input_index(&self, key: &str) -> Option<usize> {
        let alias = || (self.inputs.len() == 1 && ALIASES.contains(&key)).then_some(0);
        self.signature.input_index(key).or_else(alias)
    }

    /// Keeps the tensor of an input; it must be the first for that input.
    pub(super) fn keep<E: serde::de::Error>(&mut self, index: usize, tensor: Tensor) -> Result<(), E> {
        match self.inputs.get_mut(index) {
            Some(slot @ None) => {
                *slot = Some(tensor);
                Ok(())
            }
            _ => {
                let name = self.signature.inputs().get(index).map_or("", |p| p.name.as_str());
                Err(self.refuse(ScoreError::bad_input("the input is given twice").with_at(name)))
            }
        }
    }

    fn note_unknown(&mut self, key: &str) {
        self.unknown_count += 1;
        if self.unknown.len() < NAMED_AT_MOST {
            self.unknown.push(key.to_owned());
        }
    }

    fn once<E: serde::de::Error>(&mut self, seen: bool, key: &str) -> Result<(), E> {
        if seen {
            return Err(self.refuse(ScoreError::bad_input(format!("the key '{key}' stands twice"))));
        }
        Ok(())
    }

    #[allow(clippy::ptr_arg, reason = "only a borrowed key tells where it stands")]
    fn entry<'de, A: MapAccess<'de>>(&mut self, key: &Cow<'de, str>, map: &mut A) -> Result<(), A::Error> {
        let name = &**key;
        if name == "inputs" && self.lists_objects(key) {
            self.once(self.listed, name)?;
            self.listed = true;
            return map.next_value_seed(InputList { cx: self });
        }
        if let Some(index) = self.input_index(name)
            && let Some(port) = self.signature.inputs().get(index)
        {
            let body_bytes = self.body.len();
            let seed = TensorSeed { port, by_shape: true, body_bytes, error: &mut self.error };
            let tensor = map.next_value_seed(seed)?;
            return self.keep(index, tensor);
        }
        match name {
            "id" => {
                self.once(self.id.is_some(), name)?;
                self.id = Some(map.next_value()?);
            }
            "outputs" => {
                self.once(self.outputs.is_some(), name)?;
                let selected: Vec<Selected> = map.next_value()?;
                self.outputs = Some(selected.into_iter().map(|s| s.name).collect());
            }
            _ => {
                map.next_value::<IgnoredAny>()?;
                if name != "parameters" || !self.listed {
                    self.note_unknown(name);
                }
            }
        }
        Ok(())
    }

    /// The request, once the whole body was read.
    pub(super) fn finish(mut self) -> Result<DecodedRequest> {
        if self.listed {
            // `parameters` may have stood before the list told which form this is.
            let before = self.unknown.len();
            self.unknown.retain(|key| key != "parameters");
            self.unknown_count -= before - self.unknown.len();
        } else {
            for (key, seen) in [("id", self.id.is_some()), ("outputs", self.outputs.is_some())] {
                if seen {
                    self.note_unknown(key);
                }
            }
        }
        let ports = self.signature.inputs();
        let names = || ports.iter().map(|p| p.name.as_str());
        let missing = ports.iter().zip(&self.inputs).filter(|(_, t)| t.is_none());
        let missing = missing.map(|(p, _)| p.name.as_str()).collect::<Vec<_>>();
        let mut wrong = Vec::new();
        if !missing.is_empty() {
            let s = if missing.len() == 1 { "" } else { "s" };
            wrong.push(format!("missing input{s} {}", explain::name_list(missing.iter().copied())));
        }
        if self.unknown_count > 0 {
            let s = if self.unknown_count == 1 { "" } else { "s" };
            let mut what = format!("unknown key{s} ");
            for (i, key) in self.unknown.iter().enumerate() {
                what.push_str(if i > 0 { ", " } else { "" });
                what.push_str(&explain::quoted(key));
                if let Some(meant) = explain::nearest(key, names()) {
                    what.push_str(&format!(" (did you mean '{meant}'?)"));
                }
            }
            if self.unknown_count > self.unknown.len() {
                what.push_str(&format!(" and {} more", self.unknown_count - self.unknown.len()));
            }
            wrong.push(what);
        }
        if !wrong.is_empty() {
            let inputs = explain::name_list(names());
            return Err(ScoreError::bad_input(format!("{}; the inputs are {inputs}", wrong.join("; "))));
        }
        let form = match self.listed {
            false => ReplyForm::Named,
            true => super::v2::reply_form(self.signature, self.id.take(), self.outputs.take())?,
        };
        Ok(DecodedRequest { inputs: self.inputs.into_iter().flatten().collect(), form })
    }
}

impl<'de> Visitor<'de> for &mut Cx<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON dictionary")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key_seed(Key)? {
            self.entry(&key, &mut map)?;
        }
        if self.error.is_some() {
            return Err(A::Error::custom("the body was refused"));
        }
        Ok(())
    }
}

/// A key, borrowed from the body where it has no escapes.
pub(super) struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Key {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }
    fn visit_borrowed_str<E: serde::de::Error>(self, v: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(v))
    }
    fn visit_str<E: serde::de::Error>(self, v: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(v.to_owned()))
    }
}
