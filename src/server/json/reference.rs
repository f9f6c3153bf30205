//! The decoder against a plain one that builds a tree of values first: same tensors, same refusals,
//! over thousands of seeded bodies, right ones, wrong ones and damaged ones.

use serde_json::Value;

use super::{ReplyForm, decode};
use crate::signature::{Dim, Port, PortKind, Signature};
use crate::tensor::{DType, F8E4M3, F8E5M2, Tensor, element_count};

/// xorshift64*: the same bodies on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }
    fn below(&mut self, n: usize) -> usize {
        (self.next() >> 33) as usize % n
    }
    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
}

/// The plain decoder: `None` is a refusal.
fn plain(body: &[u8], signature: &Signature) -> Option<Vec<Tensor>> {
    let value: Value = serde_json::from_slice(body).ok()?;
    let ports = signature.inputs();
    let Value::Object(object) = value else {
        return (ports.len() == 1).then(|| tensor(&value, &ports[0]))?.map(|t| vec![t]);
    };
    let mut inputs = vec![None; ports.len()];
    for (key, value) in &object {
        let alias = ports.len() == 1 && ["data", "input_data", "inputs"].contains(&key.as_str());
        let index = signature.input_index(key).or(alias.then_some(0))?;
        if inputs[index].replace(tensor(value, &ports[index])?).is_some() {
            return None;
        }
    }
    inputs.into_iter().collect()
}

fn tensor(value: &Value, port: &Port) -> Option<Tensor> {
    let (dims, dtype) = (port.dims().unwrap(), port.dtype().unwrap());
    let mut shape = vec![None; dims.len()];
    let mut leaves = Vec::new();
    flatten(value, dims, &mut shape, &mut leaves)?;
    let shape = shape.iter().zip(dims).map(|(n, d)| match (n, d) {
        (Some(n), _) => *n,
        (None, Dim::Fixed(n)) => *n,
        (None, Dim::Free(_)) => 0,
    });
    let shape = shape.collect::<Vec<_>>();
    assert_eq!(element_count(&shape).unwrap(), leaves.len());
    macro_rules! all {
        ($convert:expr) => {
            Tensor::from_slice(&shape, &leaves.iter().map($convert).collect::<Option<Vec<_>>>()?).unwrap()
        };
    }
    macro_rules! integers {
        ($type:ty) => {
            all!(|v: &Value| match v.as_i64() {
                Some(n) => <$type>::try_from(n).ok(),
                None if v.is_u64() => <$type>::try_from(v.as_u64()?).ok(),
                // serde_json reads `-0` as a float.
                None => (v.as_f64()?.to_bits() == (-0.0f64).to_bits()).then_some(0),
            })
        };
    }
    Some(match dtype {
        DType::Bool => all!(|v: &Value| v.as_bool()),
        DType::Bf16 => all!(|v: &Value| v.as_f64().map(half::bf16::from_f64).filter(|v| v.is_finite())),
        DType::F16 => all!(|v: &Value| v.as_f64().map(half::f16::from_f64).filter(|v| v.is_finite())),
        DType::F32 => all!(|v: &Value| v.as_f64().map(|v| v as f32).filter(|v| v.is_finite())),
        DType::F64 => all!(|v: &Value| v.as_f64()),
        DType::F8E4M3 => all!(|v: &Value| v
            .as_f64()
            .map(|v| F8E4M3::from_f32_unsaturated(v as f32))
            .filter(|v| v.is_finite())),
        DType::F8E5M2 => all!(|v: &Value| v
            .as_f64()
            .map(|v| F8E5M2::from_f32_unsaturated(v as f32))
            .filter(|v| v.is_finite())),
        DType::I8 => integers!(i8),
        DType::I16 => integers!(i16),
        DType::I32 => integers!(i32),
        DType::I64 => integers!(i64),
        DType::U8 => integers!(u8),
        DType::U16 => integers!(u16),
        DType::U32 => integers!(u32),
        DType::U64 => integers!(u64),
        DType::String => {
            let texts = leaves.iter().map(|v| v.as_str().map(str::to_owned));
            Tensor::strings(&shape, texts.collect::<Option<Vec<_>>>()?).unwrap()
        }
    })
}

fn flatten(value: &Value, dims: &[Dim], shape: &mut [Option<usize>], leaves: &mut Vec<Value>) -> Option<()> {
    let Some((dim, inner)) = dims.split_first() else {
        leaves.push(value.clone());
        return Some(());
    };
    let (length, below) = shape.split_first_mut().unwrap();
    let items = value.as_array()?;
    for item in items {
        flatten(item, inner, below, leaves)?;
    }
    if matches!(dim, Dim::Fixed(n) if *n != items.len()) || length.is_some_and(|n| n != items.len()) {
        return None;
    }
    *length = Some(items.len());
    Some(())
}

fn random_signature(r: &mut Random) -> Signature {
    let types = DType::all().collect::<Vec<_>>();
    let names = ["x", "input_ids", "data", "inputs", "ü\"q"];
    let first = r.below(names.len());
    let ports = (0..1 + r.below(3)).map(|i| {
        let dims = (0..r.below(4)).map(|_| match r.below(3) {
            0 => Dim::named("n"),
            1 => Dim::Free(None),
            _ => Dim::Fixed(1 + r.below(3)),
        });
        let dims = dims.collect();
        Port::tensor(names[(first + i) % names.len()], r.pick(&types), dims)
    });
    Signature::new(ports.collect(), vec![Port::tensor("y", DType::F32, vec![])]).unwrap()
}

fn random_value(r: &mut Random, dims: &[Dim], free: usize, dtype: DType, out: &mut String) {
    let wrong = [
        "null", "{}", "[]", "1.5", "\"t\"", "true", "-1", "1e39", "NaN", "70000", "1e400", "-0", "1.0",
        "[[1]]",
    ];
    if r.one_in(60) {
        return out.push_str(r.pick(&wrong));
    }
    let Some((dim, inner)) = dims.split_first() else {
        return out.push_str(&match dtype {
            DType::Bool => r.pick(&["true", "false"]).to_string(),
            DType::String => r.pick(&["\"fox\"", "\"\"", "\"\\u00fc\\n\"", "\"ü\""]).to_string(),
            DType::U8 | DType::U16 | DType::U32 | DType::U64 => r.below(256).to_string(),
            d if d.is_float() => {
                r.pick(&["1", "-2.5", "3e-7", "0.1", "16777217", "4.2396826e-11"]).to_string()
            }
            _ => (r.below(256) as i64 - 128).to_string(),
        });
    };
    let length = match dim {
        Dim::Fixed(n) => *n,
        Dim::Free(_) => free,
    };
    let length = if r.one_in(40) { r.below(4) } else { length };
    out.push('[');
    for i in 0..length {
        out.push_str(if i > 0 { r.pick(&[",", ", ", " ,\n"]) } else { "" });
        random_value(r, inner, free, dtype, out);
    }
    out.push(']');
}

fn random_body(r: &mut Random, signature: &Signature) -> String {
    let free = r.below(4);
    let ports = signature.inputs();
    let mut out = String::new();
    if ports.len() == 1 && r.one_in(3) {
        random_value(r, ports[0].dims().unwrap(), free, ports[0].dtype().unwrap(), &mut out);
        return out;
    }
    out.push('{');
    let mut first = true;
    for port in ports {
        if r.one_in(50) {
            continue;
        }
        out.push_str(if first { "" } else { "," });
        first = false;
        let alias = ports.len() == 1 && r.one_in(4);
        let name = if alias { r.pick(&["data", "input_data", "inputs", "idata"]) } else { &port.name };
        out.push_str(&serde_json::to_string(name).unwrap());
        out.push_str(" : ");
        random_value(r, port.dims().unwrap(), free, port.dtype().unwrap(), &mut out);
    }
    out.push('}');
    out
}

/// Both decoders must agree; says whether they took the body.
fn agree(body: &[u8], signature: &Signature) -> bool {
    let shown = || String::from_utf8_lossy(body).into_owned();
    match (decode(body, signature), plain(body, signature)) {
        (Ok(got), Some(expected)) => {
            assert_eq!(got.inputs, expected, "{} for {:?}", shown(), signature.inputs());
            assert_eq!(got.form, ReplyForm::Named);
            true
        }
        (Err(_), None) => false,
        // A tree of values keeps the last of two equal keys and cannot refuse them.
        (Err(e), Some(_)) if e.to_string().contains("twice") => false,
        (Err(e), Some(_)) => panic!("refused: {e}: {} for {:?}", shown(), signature.inputs()),
        (Ok(_), None) => panic!("accepted: {} for {:?}", shown(), signature.inputs()),
    }
}

#[test]
fn the_streaming_decoder_agrees_with_a_plain_one() {
    let mut r = Random(0x5EED_0001);
    let (mut taken, mut refused) = (0, 0);
    for _ in 0..4000 {
        let signature = random_signature(&mut r);
        let mut body = random_body(&mut r, &signature).into_bytes();
        let counter = if agree(&body, &signature) { &mut taken } else { &mut refused };
        *counter += 1;
        for _ in 0..3 {
            if body.is_empty() {
                break;
            }
            let at = r.below(body.len());
            match r.below(4) {
                0 => drop(body.remove(at)),
                1 => body.insert(at, r.pick(b"[]{},:\"0-.eN\x00\xff \\")),
                2 => body[at] ^= 1 << r.below(8),
                _ => body.truncate(at),
            }
            agree(&body, &signature);
        }
    }
    assert!(taken > 1000 && refused > 300, "{taken} taken, {refused} refused: the cases are lopsided");
}

/// The same inputs in the form of the Open Inference Protocol, keys in any order.
#[test]
fn protocol_bodies_read_as_the_plain_ones_do() {
    let mut r = Random(0x5EED_0002);
    let mut taken = 0;
    for _ in 0..2000 {
        let signature = random_signature(&mut r);
        let body = random_body(&mut r, &signature);
        let Some(expected) = plain(body.as_bytes(), &signature).filter(|_| body.starts_with('{')) else {
            continue;
        };
        let tree: serde_json::Map<String, Value> = serde_json::from_str(&body).unwrap();
        let list = signature.inputs().iter().zip(&expected).map(|(port, tensor)| {
            let nested = tree.get(&port.name).or_else(|| tree.values().next()).unwrap();
            let mut leaves = Vec::new();
            let dims = port.dims().unwrap();
            flatten(nested, dims, &mut vec![None; dims.len()], &mut leaves).unwrap();
            let flat = Value::Array(leaves);
            // A scalar is its own nesting; below an empty array the nesting does not tell the shape.
            let data = if r.one_in(2) || tensor.is_empty() { &flat } else { nested };
            let mut keys = [
                format!("\"name\": {}", Value::from(port.name.as_str())),
                format!("\"shape\":{:?}", tensor.shape()),
                format!("\"datatype\":\"{}\"", tensor.dtype().v2_name()),
                format!("\"data\" :{data}"),
                "\"parameters\":{\"a\":[1]}".to_owned(),
            ];
            let turn = r.below(keys.len());
            keys.rotate_left(turn);
            format!("{{{}}}", keys.join(", "))
        });
        let list = list.collect::<Vec<_>>().join(",");
        let body = format!("{{\"id\":\"7\",\"parameters\":{{}}, \"inputs\" : [ {list}]}}");
        let decoded = decode(body.as_bytes(), &signature).unwrap_or_else(|e| panic!("{e}: {body}"));
        assert_eq!(decoded.inputs, expected, "{body}");
        assert_eq!(decoded.form, ReplyForm::V2 { id: Some("7".into()), outputs: None });
        taken += 1;
    }
    assert!(taken > 400, "only {taken}");
}

#[test]
fn what_is_wrong_with_a_body_is_said() {
    let dims = |n| vec![Dim::named("b"), Dim::Fixed(n)];
    let y = || vec![Port::tensor("y", DType::F32, dims(1))];
    let one = Signature::new(vec![Port::tensor("x", DType::F32, dims(2))], y()).unwrap();
    let two = Signature::new(
        vec![Port::tensor("input_ids", DType::I64, dims(2)), Port::tensor("mask", DType::Bool, dims(2))],
        y(),
    )
    .unwrap();
    let kind = PortKind::Tensor { dtype: DType::F32, dims: None };
    let any = Signature::new(vec![Port { name: "x".into(), kind, optional: false }], y()).unwrap();
    let deep = "[".repeat(100_000);
    let v2 = |inner: &str| format!("{{\"inputs\":[{{{inner}}}]}}");
    let x = r#""name":"x","shape":[1,2],"datatype":"FP32","data":[1,2]"#;
    let cases: &[(&Signature, String, &str)] = &[
        (&one, "".into(), "POST body is empty. Expecting a JSON dictionary."),
        (&one, " \n".into(), "POST body is empty"),
        (&one, "{\"x\":[[1,2]]".into(), "POST body could not be decoded as JSON: EOF"),
        (&one, "{\"x\":[[1,2]]}}".into(), "trailing characters"),
        (&one, "[[1,2]] 5".into(), "trailing characters"),
        (&one, "{\"x\":[[1,NaN]]}".into(), "NaN is not JSON; send a finite number"),
        (&one, "{\"x\":\n [[1,-Infinity]]}".into(), "-Infinity is not JSON"),
        (&one, "{\"x\":[[1,1e999]]}".into(), "number out of range"),
        (&one, "{\"x\":[[1,2]],\"x\":[[1,2]]}".into(), "x: the input is given twice"),
        (&one, "{\"x\":[[1,2]],\"data\":[[1,2]]}".into(), "x: the input is given twice"),
        (&one, "{\"X\":[[1,2]]}".into(), "missing input 'x'; unknown key 'X' (did you mean 'x'?)"),
        (&one, "{\"x\":[[1,2]],\"id\":\"1\"}".into(), "unknown key 'id'"),
        (&one, "{\"x\":[[1,2]],\"parameters\":{}}".into(), "unknown key 'parameters'"),
        (&one, deep.clone(), "x[0][0]: expected a number, got an array"),
        (&any, deep.clone(), "recursion limit"),
        (&one, format!("{{\"u\":{deep}"), "EOF"),
        (&one, "\"text\"".into(), "x: expected an array of arrays, got a string"),
        (&two, "[[1,2]]".into(), "The model has 2 inputs: 'input_ids', 'mask'"),
        (&two, "{}".into(), "missing inputs 'input_ids', 'mask'"),
        (&two, "{\"data\":[[1,2]]}".into(), "unknown key 'data'"),
        (
            &two,
            "{\"input_id\":[[1,2]],\"maks\":1,\"q\":2}".into(),
            "unknown keys 'input_id' (did you mean 'input_ids'?), 'maks' (did you mean 'mask'?), 'q'",
        ),
        (
            &two,
            "{\"input_ids\":[[1,2.0]],\"mask\":[]}".into(),
            "input_ids[0][1]: expected an integer, got 2.0",
        ),
        (&one, v2(r#""name":"z","shape":[1,2],"datatype":"FP32","data":[1,2]"#), "no input 'z'"),
        (&one, v2(r#""shape":[1,2],"datatype":"FP32","data":[1,2]"#), "inputs[0]: the key 'name' is missing"),
        (
            &one,
            v2(r#""name":"x","shape":[1,2],"datatype":"INT64","data":[1,2]"#),
            "datatype FP32, got 'INT64'",
        ),
        (&one, v2(r#""name":"x","datatype":"FP32","data":[1,2]"#), "'x' has no 'shape'"),
        (&one, v2(r#""name":"x","shape":[1,2],"datatype":"FP32""#), "'x' has no 'data'"),
        (&one, v2(r#""name":"x","shape":[1,2],"data":[1,2]"#), "no 'datatype': expected FP32"),
        (&one, v2(r#""name":"x","shape":[2,2],"datatype":"FP32","data":[1,2]"#), "cannot reshape [2]"),
        (
            &one,
            v2(r#""name":"x","shape":[2,1],"datatype":"FP32","data":[1,2]"#),
            "expected shape [b, 2], got [2, 1]",
        ),
        (
            &one,
            v2(r#""name":"x","shape":[1,2],"datatype":"FP32","data":[[1],[2]]"#),
            "'data' is nested as [2, 1]",
        ),
        (&one, v2(r#""data":[1,"2"],"name":"x","shape":[1,2],"datatype":"FP32""#), "x[1]: expected a number"),
        (&one, v2(r#""name":"x","shape":[-1,2],"datatype":"FP32","data":[1,2]"#), "invalid value"),
        (
            &one,
            v2(r#""name":"x","shape":[4294967296,4294967296,2],"datatype":"FP32","data":[]"#),
            "more elements than",
        ),
        (&one, v2(r#""name":"x","name":"x""#), "'name' stands twice"),
        (&one, v2(r#""name":"x","dtype":"FP32""#), "unknown key 'dtype'"),
        (&one, format!("{{\"inputs\":[{{{x}}},{{{x}}}]}}"), "x: the input is given twice"),
        (&one, format!("{{\"inputs\":[{{{x}}}],\"inputs\":[{{{x}}}]}}"), "'inputs' stands twice"),
        (
            &one,
            format!("{{\"outputs\":[{{\"name\":\"z\"}}],\"inputs\":[{{{x}}}]}}"),
            "outputs: the model has no output 'z'",
        ),
        (
            &one,
            format!("{{\"outputs\":[{{\"name\":\"y\"}},{{\"name\":\"y\"}}],\"inputs\":[{{{x}}}]}}"),
            "asked for twice",
        ),
        (&one, format!("{{\"extra\":1,\"inputs\":[{{{x}}}]}}"), "unknown key 'extra'"),
    ];
    for (signature, body, message) in cases {
        let e = decode(body.as_bytes(), signature).expect_err(body);
        assert_eq!(e.kind(), crate::ErrorKind::BadInput, "{body}");
        assert!(e.to_string().contains(message), "{}: {e}", &body[..body.len().min(200)]);
    }
    let e = decode(b"{\"x\":[[\"\xff\"]]}", &one).unwrap_err();
    assert!(e.to_string().starts_with("Input cannot be decoded as UTF-8"), "{e}");
    let some = decode(format!("{{\"outputs\":[{{\"name\":\"y\"}}],\"inputs\":[{{{x}}}]}}").as_bytes(), &one);
    assert_eq!(some.unwrap().form, ReplyForm::V2 { id: None, outputs: Some(vec![0]) });
}
