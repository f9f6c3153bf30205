//! Batches: rows scored together answer what they answer alone, and many callers what one does.

use std::sync::Arc;

use triscore::{Call, Scorer, Tensor, Value};

use super::{compile, compile_any};
use crate::{Target, inputs};

/// Models whose rows are independent, one of every kind of work.
const INDEPENDENT: [&str; 6] = [
    "digits_cnn/model.onnx",
    "digits_mlp/model.onnx",
    "digits_vit/model.onnx",
    "sklearn/iris_logreg_zipmap.onnx",
    "sklearn/rf200.onnx",
    "tiny/two_inputs.onnx",
];

/// `score(concat(a, b)) == concat(score(a), score(b))`, whatever strategy each size is run with.
pub(crate) fn invariance(target: &Target) -> Vec<String> {
    let mut failures = Vec::new();
    for name in INDEPENDENT {
        if let Err(e) = invariant(target, name) {
            failures.push(format!("{name}: {e}"));
        }
    }
    failures
}

fn invariant(target: &Target, name: &str) -> Result<(), String> {
    let Some((_, scorer)) = compile(target, name)? else { return Ok(()) };
    let axis = scorer.signature().batch_axis().ok_or("it has no batch axis")?;
    for (a, b) in [(1, 1), (2, 3), (1, 15), (16, 16), (31, 33), (64, 64), (1, 130)] {
        let together = inputs::rows(scorer.signature().inputs(), a + b, 7);
        let cut = |rows: std::ops::Range<usize>| {
            let part = together.iter().map(|t| t.rows(axis, rows.clone())).collect::<Result<Vec<_>, _>>();
            part.map_err(|e| e.to_string())
        };
        let whole = score(&scorer, &together)?;
        let (head, tail) = (score(&scorer, &cut(0..a)?)?, score(&scorer, &cut(a..a + b)?)?);
        for (i, whole) in whole.iter().enumerate() {
            let joined = Value::concat(axis, &[&head[i], &tail[i]]).map_err(|e| e.to_string())?;
            if !near(whole, &joined) {
                return Err(format!("output {i} of {a} + {b} rows differs from the parts'"));
            }
        }
    }
    Ok(())
}

/// A model that mixes its rows must not be taken for one that does not.
pub(crate) fn dependent_rows(target: &Target) -> Vec<String> {
    let check = || -> Result<(), String> {
        let Some((_, scorer)) = compile(target, "tiny/not_batchable.onnx")? else { return Ok(()) };
        match scorer.signature().batch_axis() {
            None => Ok(()),
            Some(axis) => Err(format!("axis {axis} is said to be a batch axis")),
        }
    };
    check().err().into_iter().collect()
}

/// Eight callers at once get what one caller gets, on every size of batch.
pub(crate) fn concurrency(target: &Target) -> Vec<String> {
    const CALLERS: usize = 8;
    const CALLS: usize = 250;
    let check = || -> Result<(), String> {
        let scorer = compile_any(target, "digits_cnn/model.onnx")?;
        let ports = scorer.signature().inputs();
        let inputs = (0..16).map(|i| inputs::rows(ports, [1, 2, 5, 32][i % 4], i as u64)).collect::<Vec<_>>();
        let expected = inputs.iter().map(|i| score(&scorer, i)).collect::<Result<Vec<_>, _>>()?;
        std::thread::scope(|s| {
            let call = |caller: usize| {
                let (scorer, inputs, expected) = (&scorer, &inputs, &expected);
                s.spawn(move || -> Result<(), String> {
                    for i in 0..target.times(CALLS) {
                        let which = (caller * 31 + i) % inputs.len();
                        let got = score(scorer, &inputs[which])?;
                        if !got.iter().zip(&expected[which]).all(|(g, e)| near(g, e)) {
                            return Err(format!("caller {caller}, call {i}: another answer than alone"));
                        }
                    }
                    Ok(())
                })
            };
            let callers = (0..CALLERS).map(call).collect::<Vec<_>>();
            callers.into_iter().map(|c| c.join().unwrap()).collect::<Result<Vec<_>, _>>()
        })?;
        Ok(())
    };
    check().err().into_iter().collect()
}

fn score(scorer: &Arc<dyn Scorer>, inputs: &[Tensor]) -> Result<Vec<Value>, String> {
    scorer.score(inputs, &Call::new()).map(|s| s.outputs).map_err(|e| e.to_string())
}

/// Equal but for rounding: other batch sizes may run other kernels.
fn near(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Tensor(a), Value::Tensor(b)) => match (a.as_slice::<f32>(), b.as_slice::<f32>()) {
            (Ok(x), Ok(y)) => {
                a.shape() == b.shape() && x.iter().zip(y).all(|(x, y)| (x - y).abs() <= 1e-5 + 1e-4 * y.abs())
            }
            _ => a == b,
        },
        (Value::Sequence(a), Value::Sequence(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| near(a, b))
        }
        (Value::Map(a), Value::Map(b)) => {
            a.keys() == b.keys() && near(&a.values().clone().into(), &b.values().clone().into())
        }
        _ => false,
    }
}
