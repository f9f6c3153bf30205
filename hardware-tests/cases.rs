//! The models of this repository and what they are known to answer.

#[path = "root.rs"]
mod root;

use std::path::PathBuf;

use serde_json::Value as Json;
use triscore::{DType, F8E4M3, F8E5M2, Model, Port, PortKind, Tensor, Value};

/// A file below `models/`.
pub(crate) fn path(name: &str) -> PathBuf {
    root::root().join("models").join(name)
}

/// A model below `models/`, read.
pub(crate) fn model(name: &str) -> Model {
    Model::open(path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// A model with one request and the response that ONNX Runtime's Python package gave.
pub(crate) struct Example {
    pub(crate) model: String,
    pub(crate) inputs: Json,
    pub(crate) outputs: Json,
}

/// Every example of the folders that have some.
pub(crate) fn examples() -> Vec<Example> {
    let mut all = Vec::new();
    for folder in ["tiny", "sklearn"] {
        let text = std::fs::read_to_string(path(folder).join("examples.json")).unwrap();
        let Json::Object(entries) = serde_json::from_str::<Json>(&text).unwrap() else { panic!("{folder}") };
        for (name, example) in entries {
            let model = format!("{folder}/{name}.onnx");
            all.push(Example {
                model,
                inputs: example["request"].clone(),
                outputs: example["response"].clone(),
            });
        }
    }
    assert!(all.len() > 20, "the examples are gone");
    all
}

/// The inputs of an example as tensors, in the order of the ports.
pub(crate) fn tensors(ports: &[Port], json: &Json) -> Vec<Tensor> {
    ports.iter().map(|p| tensor(p, &json[&p.name])).collect()
}

fn tensor(port: &Port, json: &Json) -> Tensor {
    let PortKind::Tensor { dtype, dims } = &port.kind else { panic!("{port:?}") };
    let rank = dims.as_ref().map_or(0, Vec::len);
    let mut shape = Vec::new();
    let mut at = json;
    for _ in 0..rank {
        let items = at.as_array().unwrap();
        shape.push(items.len());
        at = items.first().unwrap_or(&Json::Null);
    }
    let mut flat = Vec::new();
    flatten(json, &mut flat);
    of_json(*dtype, &shape, &flat)
}

fn flatten<'a>(json: &'a Json, out: &mut Vec<&'a Json>) {
    match json {
        Json::Array(items) => items.iter().for_each(|i| flatten(i, out)),
        leaf => out.push(leaf),
    }
}

fn of_json(dtype: DType, shape: &[usize], flat: &[&Json]) -> Tensor {
    macro_rules! numbers {
        ($get:ident, $to:expr) => {
            Tensor::from_slice(shape, &flat.iter().map(|j| $to(j.$get().unwrap())).collect::<Vec<_>>())
        };
    }
    match dtype {
        DType::Bool => numbers!(as_bool, |v| v),
        DType::F16 => numbers!(as_f64, half::f16::from_f64),
        DType::Bf16 => numbers!(as_f64, half::bf16::from_f64),
        DType::F8E4M3 => numbers!(as_f64, |v| F8E4M3::from_f32(v as f32)),
        DType::F8E5M2 => numbers!(as_f64, |v| F8E5M2::from_f32(v as f32)),
        DType::F32 => numbers!(as_f64, |v| v as f32),
        DType::F64 => numbers!(as_f64, |v| v),
        DType::I8 => numbers!(as_i64, |v| v as i8),
        DType::I16 => numbers!(as_i64, |v| v as i16),
        DType::I32 => numbers!(as_i64, |v| v as i32),
        DType::I64 => numbers!(as_i64, |v| v),
        DType::U8 => numbers!(as_u64, |v| v as u8),
        DType::U16 => numbers!(as_u64, |v| v as u16),
        DType::U32 => numbers!(as_u64, |v| v as u32),
        DType::U64 => numbers!(as_u64, |v| v),
        DType::String => {
            let texts = flat.iter().map(|j| j.as_str().unwrap().to_owned()).collect::<Vec<_>>();
            Tensor::strings(shape, texts)
        }
        other => panic!("{other}"),
    }
    .unwrap()
}

/// How a value differs from what it should be; nothing if it does not.
pub(crate) fn difference(got: &Value, expected: &Json) -> Option<String> {
    match (got, expected) {
        (Value::Sequence(items), Json::Array(want)) if items.len() == want.len() => {
            items.iter().zip(want).find_map(|(g, w)| difference(g, w))
        }
        (Value::Map(map), Json::Object(want)) => {
            let keys = leaves(map.keys());
            let values = leaves(map.values());
            (keys.len() != want.len()).then(|| format!("{} keys, not {}", keys.len(), want.len())).or_else(
                || {
                    keys.iter().zip(values).find_map(|(k, v)| {
                        let key = k.as_str().map_or_else(|| k.to_string(), str::to_owned);
                        let want = want.get(&key).cloned().unwrap_or(Json::Null);
                        (!near(&v, &want)).then(|| format!("[{key}] is {v}, not {want}"))
                    })
                },
            )
        }
        (Value::Tensor(tensor), want) => {
            let mut flat = Vec::new();
            flatten(want, &mut flat);
            let got = leaves(tensor);
            if got.len() != flat.len() {
                return Some(format!("{} elements, not {}", got.len(), flat.len()));
            }
            let at = got.iter().zip(&flat).position(|(g, w)| !near(g, w))?;
            Some(format!("element {at} is {}, not {}", got[at], flat[at]))
        }
        _ => Some(format!("{got:?} is not of the kind of {expected}")),
    }
}

/// The elements of a tensor as JSON.
fn leaves(t: &Tensor) -> Vec<Json> {
    macro_rules! as_json {
        ($t:ty, $f:expr) => {
            t.as_slice::<$t>().unwrap().iter().map(|v| Json::from($f(*v))).collect()
        };
    }
    match t.dtype() {
        DType::Bool => as_json!(bool, |v| v),
        DType::F16 => as_json!(half::f16, half::f16::to_f64),
        DType::Bf16 => as_json!(half::bf16, half::bf16::to_f64),
        DType::F8E4M3 => as_json!(F8E4M3, |v: F8E4M3| f64::from(v.to_f32())),
        DType::F8E5M2 => as_json!(F8E5M2, |v: F8E5M2| f64::from(v.to_f32())),
        DType::F32 => as_json!(f32, f64::from),
        DType::F64 => as_json!(f64, |v| v),
        DType::I8 => as_json!(i8, |v| v),
        DType::I16 => as_json!(i16, |v| v),
        DType::I32 => as_json!(i32, |v| v),
        DType::I64 => as_json!(i64, |v| v),
        DType::U8 => as_json!(u8, |v| v),
        DType::U16 => as_json!(u16, |v| v),
        DType::U32 => as_json!(u32, |v| v),
        DType::U64 => as_json!(u64, |v| v),
        DType::String => t.as_strings().unwrap().iter().map(|s| Json::from(s.as_str())).collect(),
        other => panic!("{other}"),
    }
}

/// Floats within what ONNX's own backend tests allow (relative 1e-3, absolute 1e-5), the rest exactly.
fn near(got: &Json, want: &Json) -> bool {
    if got == want {
        return true;
    }
    match (got.as_f64(), want.as_f64()) {
        (Some(g), Some(w)) if got.is_f64() => (g - w).abs() <= 1e-5 + 1e-3 * w.abs(),
        _ => false,
    }
}

/// Held-out data of a model: images or rows, and the labels.
pub(crate) fn heldout(folder: &str) -> (Tensor, Vec<i64>) {
    let file = std::fs::File::open(path(folder).join("heldout.npz")).unwrap();
    let mut npz = npyz::npz::NpzArchive::new(std::io::BufReader::new(file)).unwrap();
    let x = npz.by_name("x").unwrap().unwrap();
    let shape = x.shape().iter().map(|d| *d as usize).collect::<Vec<_>>();
    let x = x.into_vec::<f32>().unwrap();
    let y = npz.by_name("y").unwrap().unwrap().into_vec::<i64>().unwrap();
    (Tensor::from_slice(&shape, &x).unwrap(), y)
}

/// What to calibrate a model with: its own data where there is some, else noise.
pub(crate) fn calibration(name: &str, ports: &[Port]) -> Result<Vec<Vec<Tensor>>, String> {
    if let Some(port) = ports.iter().find(|p| p.dtype() != Some(DType::F32) || p.dims().is_none()) {
        return Err(format!("its input '{}' is {}", port.name, port.kind));
    }
    if let Some(folder) = name.strip_suffix("/model.onnx").filter(|f| f.starts_with("digits")) {
        let (x, _) = heldout(folder);
        return Ok((0..64).map(|i| vec![x.rows(0, i..i + 1).unwrap()]).collect());
    }
    Ok((0..8).map(|seed| crate::inputs::rows(ports, 1, seed)).collect())
}
