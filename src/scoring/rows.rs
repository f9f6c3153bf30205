//! Whether the rows of a batch are independent: what joins requests and cuts batches must know, and no model says it.

use crate::error::Result;
use crate::signature::Signature;
use crate::tensor::{DType, F8E4M3, F8E5M2, Tensor, Value};

use super::{Sample, Scored};

/// Runs inputs: all that a scorer is to what checks it.
pub(crate) type Run<'a> = dyn Fn(&[Tensor]) -> Result<Scored> + 'a;

/// Rows of the sample that the independence of rows is checked with.
const CHECK_ROWS: usize = 2;
/// Relative and absolute difference that rounding explains: other batch sizes run other kernels.
const TOLERANCE: (f64, f64) = (1e-3, 1e-4);

/// The signature, without its batch axis unless rows scored together equal rows scored alone.
pub(crate) fn checked_rows(signature: Signature, sample: Result<&Sample>, run: &Run<'_>) -> Signature {
    let Some(axis) = signature.batch_axis() else { return signature };
    let reason = match sample.and_then(|sample| rows_are_independent(run, sample, axis)) {
        Ok(true) => return signature,
        Ok(false) => "its rows depend on each other".to_owned(),
        Err(e) => format!("that its rows are independent could not be checked: {e}"),
    };
    tracing::warn!(reason, "the model's first axis is not used as a batch axis");
    signature.without_batch_axis()
}

/// Whether rows scored together answer what they answer alone.
fn rows_are_independent(run: &Run<'_>, sample: &Sample, axis: usize) -> Result<bool> {
    let all = sample.rows(CHECK_ROWS)?;
    let together = run(&all)?.outputs;
    for row in 0..CHECK_ROWS {
        let one = all.iter().map(|t| t.rows(axis, row..row + 1)).collect::<Result<Vec<_>>>()?;
        let alone = run(&one)?.outputs;
        for (together, alone) in together.iter().zip(&alone) {
            // An output that has not one element a row has no rows at all.
            let Ok(cut) = together.rows(axis, row..row + 1) else { return Ok(false) };
            if !close(&cut, alone) {
                return Ok(false);
            }
        }
    }
    Ok(together.iter().all(|v| v.rows(axis, 0..CHECK_ROWS + 1).is_err()))
}

/// Whether two values are equal but for rounding.
fn close(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Tensor(a), Value::Tensor(b)) => close_tensors(a, b),
        (Value::Sequence(a), Value::Sequence(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| close(a, b))
        }
        (Value::Map(a), Value::Map(b)) => a.keys() == b.keys() && close_tensors(a.values(), b.values()),
        _ => false,
    }
}

fn close_tensors(a: &Tensor, b: &Tensor) -> bool {
    if a.dtype() != b.dtype() || a.shape() != b.shape() {
        return false;
    }
    let (relative, absolute) = TOLERANCE;
    let near = |a: f64, b: f64| {
        let bound = absolute + relative * a.abs().max(b.abs());
        a == b || (a.is_nan() && b.is_nan()) || (bound.is_finite() && (a - b).abs() <= bound)
    };
    macro_rules! near_as {
        ($t:ty, $to_f64:expr) => {
            match (a.as_slice::<$t>(), b.as_slice::<$t>()) {
                (Ok(a), Ok(b)) => a.iter().zip(b).all(|(a, b)| near($to_f64(*a), $to_f64(*b))),
                _ => false,
            }
        };
    }
    match a.dtype() {
        DType::F32 => near_as!(f32, f64::from),
        DType::F64 => near_as!(f64, f64::from),
        DType::F16 => near_as!(half::f16, half::f16::to_f64),
        DType::Bf16 => near_as!(half::bf16, half::bf16::to_f64),
        DType::F8E4M3 => near_as!(F8E4M3, |v: F8E4M3| f64::from(v.to_f32())),
        DType::F8E5M2 => near_as!(F8E5M2, |v: F8E5M2| f64::from(v.to_f32())),
        _ => a == b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_forgiven_and_nothing_else() {
        let t = |v: &[f32]| Value::Tensor(Tensor::from_slice(&[v.len()], v).unwrap());
        for (a, b, equal) in [
            (t(&[1.0, f32::NAN]), t(&[1.0005, f32::NAN]), true),
            (t(&[0.0]), t(&[0.00009]), true),
            (t(&[1.0]), t(&[1.01]), false),
            (t(&[f32::INFINITY]), t(&[f32::INFINITY]), true),
            (t(&[f32::INFINITY]), t(&[1.0]), false),
            (t(&[1.0]), t(&[1.0, 1.0]), false),
            (t(&[1.0]), Value::Sequence(vec![t(&[1.0])]), false),
        ] {
            assert_eq!(close(&a, &b), equal, "{a:?} {b:?}");
        }
    }
}
