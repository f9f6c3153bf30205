//! Whether two answers are the same but for rounding: what checks that rows are independent, and that padding changes nothing.

use super::Precision;
use crate::tensor::{DType, F8E4M3, F8E5M2, Tensor, Value};

/// What rounding explains: other shapes run other kernels, which add up in another order.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tolerance {
    /// A difference as a share of the number.
    relative: f64,
    /// One of numbers near zero: a share of the largest number of the tensor, or of one.
    absolute: f64,
}

impl Tolerance {
    /// That of floats which are stored or multiplied so on the way.
    pub(crate) fn of(precision: Precision) -> Self {
        let (relative, absolute) = match precision {
            Precision::Bf16 => (3e-2, 1e-2),
            Precision::F16 | Precision::Tf32 => (5e-3, 2e-3),
            Precision::Model | Precision::F32 | Precision::Int8 => (1e-3, 1e-4),
        };
        Self { relative, absolute }
    }

    /// At least that of floats which are stored as this type.
    pub(crate) fn where_stored_as(self, dtype: DType) -> Self {
        let own = match dtype {
            // A step of these is an eighth of a number, or a quarter.
            DType::F8E4M3 | DType::F8E5M2 => Self { relative: 0.1, absolute: 5e-2 },
            DType::Bf16 => Self::of(Precision::Bf16),
            DType::F16 => Self::of(Precision::F16),
            _ => return self,
        };
        Self { relative: self.relative.max(own.relative), absolute: self.absolute.max(own.absolute) }
    }

    fn is_near(self, a: f64, b: f64, scale: f64) -> bool {
        let bound = self.absolute * scale + self.relative * a.abs().max(b.abs());
        a == b || (a.is_nan() && b.is_nan()) || (bound.is_finite() && (a - b).abs() <= bound)
    }
}

/// Whether two values are equal but for rounding.
pub(crate) fn close(a: &Value, b: &Value, tolerance: Tolerance) -> bool {
    match (a, b) {
        (Value::Tensor(a), Value::Tensor(b)) => close_tensors(a, b, tolerance),
        (Value::Sequence(a), Value::Sequence(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| close(a, b, tolerance))
        }
        (Value::Map(a), Value::Map(b)) => {
            a.keys() == b.keys() && close_tensors(a.values(), b.values(), tolerance)
        }
        _ => false,
    }
}

fn close_tensors(a: &Tensor, b: &Tensor, tolerance: Tolerance) -> bool {
    if a.dtype() != b.dtype() || a.shape() != b.shape() {
        return false;
    }
    let tolerance = tolerance.where_stored_as(a.dtype());
    macro_rules! near_as {
        ($t:ty, $to_f64:expr) => {
            match (a.as_slice::<$t>(), b.as_slice::<$t>()) {
                (Ok(a), Ok(b)) => {
                    let sizes = b.iter().map(|v| $to_f64(*v).abs()).filter(|v| v.is_finite());
                    let scale = sizes.fold(1.0, f64::max);
                    a.iter().zip(b).all(|(a, b)| tolerance.is_near($to_f64(*a), $to_f64(*b), scale))
                }
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
            (t(&[0.0, 100.0]), t(&[0.009, 100.0]), true),
            (t(&[f32::INFINITY]), t(&[f32::INFINITY]), true),
            (t(&[f32::INFINITY]), t(&[1.0]), false),
            (t(&[1.0]), t(&[1.0, 1.0]), false),
            (t(&[1.0]), Value::Sequence(vec![t(&[1.0])]), false),
        ] {
            assert_eq!(close(&a, &b, Tolerance::of(Precision::Model)), equal, "{a:?} {b:?}");
        }
    }

    #[test]
    fn what_is_rounded_on_the_way_differs_more() {
        let t = |v: &[f32]| Value::Tensor(Tensor::from_slice(&[v.len()], v).unwrap());
        let (a, b) = (t(&[1.0, 0.0]), t(&[1.03, 0.01]));
        let is_close = |precision| close(&a, &b, Tolerance::of(precision));
        assert!(is_close(Precision::Bf16) && !is_close(Precision::F16) && !is_close(Precision::F32));
        assert!(!close(&a, &t(&[1.2, 0.0]), Tolerance::of(Precision::Bf16)));
        // By what it is stored as, here or on the way.
        let stored =
            |v: f32| Tensor::from_slice(&[1], &[half::bf16::from_f32(v)]).map(Value::Tensor).unwrap();
        let model = Tolerance::of(Precision::Model);
        assert!(close(&stored(1.0), &stored(1.01), model) && !close(&stored(1.0), &stored(1.1), model));
        let (eight, sixteen) = (model.where_stored_as(DType::F8E4M3), model.where_stored_as(DType::F16));
        assert!(close(&t(&[1.0]), &t(&[1.1]), eight) && !close(&t(&[1.0]), &t(&[1.1]), sixteen));
    }
}
