//! JSON bodies to tensors, and answers to JSON bodies.
//!
//! # What a request may look like
//! | body | for |
//! |---|---|
//! | `{"x": [[…]], "mask": [[…]]}` | any model: one key an input |
//! | `{"data": [[…]]}`, `{"input_data": …}`, `{"inputs": …}` | a model of one input, unless an input has that name |
//! | `[[…]]` | a model of one input |
//! | `{"id"?, "inputs": [{"name", "shape", "datatype", "data"}], "outputs"?: [{"name"}]}` | any model: the Open Inference Protocol, version 2; `data` is flat or nested |
//!
//! The first three are answered by an object keyed by output names: tensors as nested arrays, maps as
//! objects, sequences as arrays. The fourth is answered in its own form, with flat data.
//!
//! # Where it is stricter than Python's `json`
//! A key that stands twice, a ragged array, `1.0` for an integer, a number that its type cannot hold and
//! `NaN` in a request are errors that name the tensor and the place. Answers may hold bare `NaN`,
//! `Infinity` and `-Infinity`, as `json.dumps` writes them: JSON has no word for them, and the clients
//! of this contract read these. f32 is written as the shortest text that reads back as the same f32.
//! Answers are compact: no space after `,` and `:`, text as UTF-8.

mod body;
mod cells;
mod explain;
mod leaf;
mod nest;
mod query;
#[cfg(test)]
mod reference;
mod v2;
mod write;

pub use query::query_to_json;
pub(super) use write::text as write_text;
pub use write::{Answer, encode};

use serde::Deserializer as _;
use serde::de::DeserializeSeed;

use crate::error::{Result, ScoreError};
use crate::signature::Signature;
use crate::tensor::Tensor;

/// A request's tensors, and how it wants to be answered.
#[derive(Debug, Clone, PartialEq)]
pub struct DecodedRequest {
    /// The inputs, in the order of the signature.
    pub inputs: Vec<Tensor>,
    /// The form of the answer.
    pub form: ReplyForm,
}

/// The form of an answer: that of its request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplyForm {
    /// An object keyed by output names.
    Named,
    /// As the Open Inference Protocol has it.
    V2 {
        /// Echoed.
        id: Option<String>,
        /// Which outputs were asked for, by their place in the signature; `None` is all.
        outputs: Option<Vec<usize>>,
    },
}

/// Decodes a request body. Never panics, and never holds more than a small multiple of the body,
/// whatever the bytes are.
///
/// # Errors
/// `BadInput` saying what is wrong, where in the body, and what was expected; `OutOfMemory`.
pub fn decode(body: &[u8], signature: &Signature) -> Result<DecodedRequest> {
    let Some(first) = body.iter().find(|b| !b.is_ascii_whitespace()) else {
        return Err(ScoreError::bad_input("POST body is empty. Expecting a JSON dictionary."));
    };
    let mut from = serde_json::Deserializer::from_slice(body);
    let mut error = None;
    let (decoded, named) = if *first == b'{' {
        let mut cx = body::Cx::new(body, signature);
        let read = from.deserialize_map(&mut cx);
        error = cx.error.take();
        (read, Some(cx))
    } else {
        let [port] = signature.inputs() else {
            return Err(ScoreError::bad_input(format!(
                "POST body should be a JSON dictionary. The model has {} inputs: {}",
                signature.inputs().len(),
                explain::name_list(signature.inputs().iter().map(|p| p.name.as_str()))
            )));
        };
        let seed = nest::TensorSeed { port, by_shape: true, body_bytes: body.len(), error: &mut error };
        match seed.deserialize(&mut from) {
            Ok(tensor) => {
                from.end().map_err(|e| explain::syntax(body, &e))?;
                return Ok(DecodedRequest { inputs: vec![tensor], form: ReplyForm::Named });
            }
            Err(e) => (Err(e), None),
        }
    };
    match (decoded.and_then(|()| from.end()), error, named) {
        (_, Some(reason), _) => Err(reason),
        (Err(e), None, _) => Err(explain::syntax(body, &e)),
        (Ok(()), None, Some(cx)) => cx.finish(),
        (Ok(()), None, None) => Err(ScoreError::internal("a body was read as nothing")),
    }
}
