//! Inputs that do not fit: refused with the name of the input, and nothing broken.

use triscore::{Call, DType, ErrorKind, Tensor};

use super::compile_any;
use crate::Target;

/// Wrong counts, types, shapes and lengths; the next right call is answered.
pub(crate) fn bad_input(target: &Target) -> Vec<String> {
    let mut failures = Vec::new();
    let scorer = match compile_any(target, "tiny/two_inputs.onnx") {
        Ok(scorer) => scorer,
        Err(e) => return vec![e],
    };
    let t = |dtype, shape: &[usize]| Tensor::zeros(dtype, shape).unwrap();
    let good = || t(DType::F32, &[2, 3]);
    let cases: Vec<(&str, Vec<Tensor>, &str)> = vec![
        ("none", vec![], "expected 2 inputs"),
        ("one", vec![good()], "expected 2 inputs"),
        ("three", vec![good(), good(), good()], "expected 2 inputs"),
        ("type", vec![good(), t(DType::F64, &[2, 3])], "input 'b': expected f32, got f64"),
        ("rank", vec![t(DType::F32, &[6]), good()], "input 'a': expected shape"),
        ("width", vec![t(DType::F32, &[2, 4]), good()], "input 'a': expected shape"),
        ("rows", vec![good(), t(DType::F32, &[3, 3])], "dimension 'batch' is 3 here and 2"),
    ];
    for (what, inputs, message) in cases {
        match scorer.score(&inputs, &Call::new()) {
            Ok(_) => failures.push(format!("{what}: was scored")),
            Err(e) if e.kind() == ErrorKind::BadInput && e.to_string().contains(message) => {}
            Err(e) => failures.push(format!("{what}: {e:?} does not say '{message}'")),
        }
    }
    for rows in [0, 1, 2] {
        let inputs = vec![t(DType::F32, &[rows, 3]), t(DType::F32, &[rows, 3])];
        match scorer.score(&inputs, &Call::new()).map(|s| s.outputs[0].size_bytes()) {
            Ok(bytes) if bytes == rows * 12 => {}
            other => failures.push(format!("{rows} rows afterwards: {other:?}")),
        }
    }
    failures
}
