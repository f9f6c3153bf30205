//! Answers as JSON, written straight from the tensors.

use super::ReplyForm;
use crate::error::{Result, ScoreError};
use crate::signature::Signature;
use crate::tensor::{DType, Element, F8E4M3, F8E5M2, Map, Tensor, Value};

/// Who answers, for the forms that say so.
#[derive(Debug, Clone, Copy)]
pub struct Answer<'a> {
    /// The model's name.
    pub model_name: &'a str,
    /// The model's version, where it has one.
    pub model_version: Option<&'a str>,
}

/// Appends the outputs to `out` as the body of an answer.
///
/// # Errors
/// `Internal` when the values are not what the signature says.
pub fn encode(
    out: &mut Vec<u8>,
    outputs: &[Value],
    signature: &Signature,
    form: &ReplyForm,
    answer: Answer<'_>,
) -> Result<()> {
    let ports = signature.outputs();
    if ports.len() != outputs.len() {
        let (expected, got) = (ports.len(), outputs.len());
        return Err(ScoreError::internal(format!("the model has {expected} outputs and answered {got}")));
    }
    out.reserve(64 + outputs.iter().map(Value::size_bytes).sum::<usize>().saturating_mul(3));
    let ReplyForm::V2 { id, outputs: selected } = form else {
        out.push(b'{');
        for (i, (port, value)) in ports.iter().zip(outputs).enumerate() {
            comma(out, i);
            text(out, &port.name);
            out.push(b':');
            write_value(out, value)?;
        }
        out.push(b'}');
        return Ok(());
    };
    out.extend_from_slice(b"{\"model_name\":");
    text(out, answer.model_name);
    for (key, value) in [("model_version", answer.model_version), ("id", id.as_deref())] {
        if let Some(value) = value {
            out.push(b',');
            text(out, key);
            out.push(b':');
            text(out, value);
        }
    }
    out.extend_from_slice(b",\"outputs\":[");
    let all = || (0..outputs.len()).collect();
    for (i, place) in selected.clone().unwrap_or_else(all).into_iter().enumerate() {
        let (Some(port), Some(value)) = (ports.get(place), outputs.get(place)) else {
            return Err(ScoreError::internal(format!("there is no output {place}")));
        };
        let tensor = value.as_tensor().map_err(|e| ScoreError::internal(e.to_string()))?;
        comma(out, i);
        out.extend_from_slice(b"{\"name\":");
        text(out, &port.name);
        out.extend_from_slice(b",\"shape\":");
        nested(out, &[tensor.shape().len()], tensor.shape(), |out, n| integer(out, *n));
        out.extend_from_slice(b",\"datatype\":\"");
        out.extend_from_slice(tensor.dtype().v2_name().as_bytes());
        out.extend_from_slice(b"\",\"data\":");
        write_tensor(out, tensor, &[tensor.len()])?;
        out.push(b'}');
    }
    out.extend_from_slice(b"]}");
    Ok(())
}

fn write_value(out: &mut Vec<u8>, value: &Value) -> Result<()> {
    match value {
        Value::Tensor(tensor) => write_tensor(out, tensor, tensor.shape()),
        Value::Sequence(values) => {
            out.push(b'[');
            for (i, value) in values.iter().enumerate() {
                comma(out, i);
                write_value(out, value)?;
            }
            out.push(b']');
            Ok(())
        }
        Value::Map(map) => write_map(out, map),
    }
}

/// A map as an object: JSON has no other keys than text.
fn write_map(out: &mut Vec<u8>, map: &Map) -> Result<()> {
    let (keys, values) = (map.keys(), map.values());
    out.push(b'{');
    for i in 0..keys.len() {
        comma(out, i);
        let key = keys.rows(0, i..i + 1)?.reshape(&[])?;
        if key.dtype() == DType::String {
            write_tensor(out, &key, &[])?;
        } else {
            out.push(b'"');
            write_tensor(out, &key, &[])?;
            out.push(b'"');
        }
        out.push(b':');
        write_tensor(out, &values.rows(0, i..i + 1)?.reshape(&[])?, &[])?;
    }
    out.push(b'}');
    Ok(())
}

/// The tensor's elements nested as `shape` says.
fn write_tensor(out: &mut Vec<u8>, tensor: &Tensor, shape: &[usize]) -> Result<()> {
    fn each<T: Element>(
        out: &mut Vec<u8>,
        tensor: &Tensor,
        shape: &[usize],
        write: impl Fn(&mut Vec<u8>, &T) + Copy,
    ) -> Result<()> {
        nested(out, shape, tensor.as_slice::<T>()?, write);
        Ok(())
    }
    macro_rules! integers {
        ($type:ty) => {
            each::<$type>(out, tensor, shape, |out, v| integer(out, *v))
        };
    }
    match tensor.dtype() {
        DType::Bool => each::<bool>(out, tensor, shape, |out, v| {
            out.extend_from_slice(if *v { b"true" } else { b"false" });
        }),
        DType::Bf16 => each::<half::bf16>(out, tensor, shape, |out, v| float(out, v.to_f32())),
        DType::F16 => each::<half::f16>(out, tensor, shape, |out, v| float(out, v.to_f32())),
        DType::F32 => each::<f32>(out, tensor, shape, |out, v| float(out, *v)),
        DType::F64 => each::<f64>(out, tensor, shape, |out, v| float(out, *v)),
        DType::F8E4M3 => each::<F8E4M3>(out, tensor, shape, |out, v| float(out, v.to_f32())),
        DType::F8E5M2 => each::<F8E5M2>(out, tensor, shape, |out, v| float(out, v.to_f32())),
        DType::I8 => integers!(i8),
        DType::I16 => integers!(i16),
        DType::I32 => integers!(i32),
        DType::I64 => integers!(i64),
        DType::U8 => integers!(u8),
        DType::U16 => integers!(u16),
        DType::U32 => integers!(u32),
        DType::U64 => integers!(u64),
        DType::String => {
            nested(out, shape, tensor.as_strings()?, |out, v| text(out, v));
            Ok(())
        }
    }
}

/// The elements nested as `shape` says, which holds as many.
fn nested<T>(out: &mut Vec<u8>, shape: &[usize], elements: &[T], write: impl Fn(&mut Vec<u8>, &T) + Copy) {
    let Some((length, inner)) = shape.split_first() else {
        if let Some(element) = elements.first() {
            write(out, element);
        }
        return;
    };
    out.push(b'[');
    if inner.is_empty() {
        for (i, element) in elements.iter().enumerate() {
            comma(out, i);
            write(out, element);
        }
    } else {
        let step = elements.len().checked_div(*length).unwrap_or(0);
        for i in 0..*length {
            comma(out, i);
            nested(out, inner, elements.get(i * step..(i + 1) * step).unwrap_or_default(), write);
        }
    }
    out.push(b']');
}

#[inline]
fn comma(out: &mut Vec<u8>, index: usize) {
    if index > 0 {
        out.push(b',');
    }
}

#[inline]
fn integer(out: &mut Vec<u8>, v: impl itoa::Integer) {
    out.extend_from_slice(itoa::Buffer::new().format(v).as_bytes());
}

/// The shortest text that reads back as the same float; what JSON has no word for, as Python writes it.
#[inline]
fn float<F: ryu::Float + Into<f64>>(out: &mut Vec<u8>, v: F) {
    let wide: f64 = v.into();
    out.extend_from_slice(match wide {
        _ if wide.is_finite() => {
            return out.extend_from_slice(ryu::Buffer::new().format_finite(v).as_bytes());
        }
        _ if wide.is_nan() => b"NaN",
        _ if wide > 0.0 => b"Infinity",
        _ => b"-Infinity",
    });
}

/// A JSON string.
pub(in crate::server) fn text(out: &mut Vec<u8>, v: &str) {
    let plain = v.bytes().all(|b| b >= 0x20 && b != b'"' && b != b'\\');
    if plain {
        out.push(b'"');
        out.extend_from_slice(v.as_bytes());
        out.push(b'"');
    } else {
        // Writing text into memory cannot fail.
        let _ = serde_json::to_writer(out, v);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signature::{Dim, Port, PortKind};

    fn written(value: impl Into<Value>) -> String {
        let mut out = Vec::new();
        write_value(&mut out, &value.into()).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn values_become_json() {
        let t = |shape: &[usize], v: &[f32]| Tensor::from_slice(shape, v).unwrap();
        let map = Map::new(
            Tensor::from_slice(&[2], &[0i64, -7]).unwrap(),
            Tensor::from_slice(&[2], &[0.25f32, 1e-9]).unwrap(),
        );
        let named = Map::new(
            Tensor::strings(&[1], vec!["a\"b".to_owned()]).unwrap(),
            Tensor::from_slice(&[1], &[true]).unwrap(),
        );
        let sequence = Value::Sequence(vec![Value::Map(map.unwrap()), Value::Map(named.unwrap())]);
        let cases = [
            (written(t(&[2, 2], &[1., -0.5, 4.2396826e-11, 1e20])), "[[1.0,-0.5],[4.2396826e-11,1e20]]"),
            (written(t(&[], &[0.1])), "0.1"),
            (written(t(&[0, 3], &[])), "[]"),
            (written(t(&[2, 0], &[])), "[[],[]]"),
            (written(t(&[1, 2, 0], &[])), "[[[],[]]]"),
            (written(t(&[3], &[f32::NAN, f32::INFINITY, f32::NEG_INFINITY])), "[NaN,Infinity,-Infinity]"),
            (written(Tensor::from_slice(&[2], &[u64::MAX, 0]).unwrap()), "[18446744073709551615,0]"),
            (written(Tensor::from_slice(&[1], &[i8::MIN]).unwrap()), "[-128]"),
            (written(Tensor::from_slice(&[1], &[half::f16::from_f32(1.5)]).unwrap()), "[1.5]"),
            (written(Tensor::from_slice(&[2], &[true, false]).unwrap()), "[true,false]"),
            (written(Tensor::strings(&[2], vec!["ü".into(), "\n".into()]).unwrap()), "[\"ü\",\"\\n\"]"),
            (written(sequence), "[{\"0\":0.25,\"-7\":1e-9},{\"a\\\"b\":true}]"),
        ];
        for (got, expected) in cases {
            assert_eq!(got, expected);
        }
    }

    #[test]
    fn an_answer_has_the_form_of_its_request() {
        let dims = || vec![Dim::named("b"), Dim::Fixed(2)];
        let outputs = vec![
            Port::tensor("y", DType::F32, dims()),
            Port {
                name: "n".into(),
                kind: PortKind::Tensor { dtype: DType::I64, dims: None },
                optional: false,
            },
        ];
        let signature = Signature::new(vec![], outputs).unwrap();
        let values = [
            Value::from(Tensor::from_slice(&[1, 2], &[1f32, 2.]).unwrap()),
            Value::from(Tensor::from_slice(&[], &[3i64]).unwrap()),
        ];
        let answer = Answer { model_name: "m", model_version: Some("2") };
        let encoded = |form| {
            let mut out = Vec::new();
            encode(&mut out, &values, &signature, &form, answer).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(encoded(ReplyForm::Named), r#"{"y":[[1.0,2.0]],"n":3}"#);
        assert_eq!(
            encoded(ReplyForm::V2 { id: Some("7".into()), outputs: None }),
            r#"{"model_name":"m","model_version":"2","id":"7","outputs":[{"name":"y","shape":[1,2],"datatype":"FP32","data":[1.0,2.0]},{"name":"n","shape":[],"datatype":"INT64","data":[3]}]}"#
        );
        assert_eq!(
            encoded(ReplyForm::V2 { id: None, outputs: Some(vec![1]) }),
            r#"{"model_name":"m","model_version":"2","outputs":[{"name":"n","shape":[],"datatype":"INT64","data":[3]}]}"#
        );
        let one = encode(&mut Vec::new(), &values[..1], &signature, &ReplyForm::Named, answer);
        assert_eq!(one.unwrap_err().kind(), crate::ErrorKind::Internal);
    }
}
