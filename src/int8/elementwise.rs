//! Sums and products element by element, concatenation, tables.

use super::ints::{Ints, broadcast, broadcast_places};
use super::params::QParams;
use crate::error::{Result, ScoreError};

/// What [`add`] computes with: `fma(a, self.a, fma(b, self.b, self.fixed))` is rounded and saturated.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AddFactors {
    /// Of the first tensor's integers.
    pub a: f32,
    /// Of the second one's.
    pub b: f32,
    /// What all zero points come to.
    pub fixed: f32,
}

impl AddFactors {
    /// From two tensors to their sum.
    pub fn of(a: &QParams, b: &QParams, to: &QParams) -> Self {
        let (ra, rb) = (a.scale() / to.scale(), b.scale() / to.scale());
        let (az, bz) = (a.zero_point() as f32, b.zero_point() as f32);
        Self { a: ra, b: rb, fixed: to.zero_point() as f32 - ra.mul_add(az, rb * bz) }
    }
}

/// What [`mul`] brings a product to the output's steps with.
pub fn mul_factor(a: &QParams, b: &QParams, to: &QParams) -> f32 {
    a.scale() * b.scale() / to.scale()
}

/// `QLinearAdd`: with `ra = f32(a_scale / y_scale)`, `rb = f32(b_scale / y_scale)` and
/// `F = f32(y_zero) - fma(ra, a_zero, f32(rb · b_zero))`, it is `saturate(round_half_even(fma(a, ra, fma(b, rb, F))))`.
///
/// The zero point is added before rounding, and `fma` rounds once: so does ONNX Runtime on processors with FMA, and adding
/// dequantised numbers would give another integer in one of fifty. Shapes broadcast.
///
/// # Errors
/// `BadInput` where they do not.
pub fn add((a, a_params): (&Ints, &QParams), (b, b_params): (&Ints, &QParams), to: &QParams) -> Result<Ints> {
    let AddFactors { a: ra, b: rb, fixed } = AddFactors::of(a_params, b_params, to);
    both(a, b, |a, b| round_at_zero((a as f32).mul_add(ra, (b as f32).mul_add(rb, fixed)), to))
}

/// `QLinearMul`: `p = f32((a - a_zero)(b - b_zero))`, then
/// `saturate(round_half_even(f32(p · f32(f32(a_scale · b_scale) / y_scale)) + f32(y_zero)))`. Shapes broadcast.
///
/// # Errors
/// `BadInput` where they do not.
pub fn mul((a, a_params): (&Ints, &QParams), (b, b_params): (&Ints, &QParams), to: &QParams) -> Result<Ints> {
    let factor = mul_factor(a_params, b_params, to);
    let (az, bz) = (i64::from(a_params.zero_point()), i64::from(b_params.zero_point()));
    both(a, b, |a, b| {
        let product = (i64::from(a) - az) * (i64::from(b) - bz);
        round_at_zero(product as f32 * factor + to.zero_point() as f32, to)
    })
}

/// Rounds what has the zero point in it already.
pub(super) fn round_at_zero(value: f32, to: &QParams) -> i32 {
    to.qtype().saturate(value.round_ties_even() as i64)
}

fn both(a: &Ints, b: &Ints, f: impl Fn(i32, i32) -> i32) -> Result<Ints> {
    let shape = broadcast(a.shape(), b.shape())?;
    let places = broadcast_places(a.shape(), &shape).into_iter().zip(broadcast_places(b.shape(), &shape));
    Ints::new(&shape, places.map(|(i, j)| f(a.at(i), b.at(j))).collect())
}

/// Each integer's entry in a table that begins with that of the type's least integer.
///
/// # Errors
/// `BadModel` for a table of another length than the type has integers.
pub fn lookup(x: &Ints, from: &QParams, table: &[i32]) -> Result<Ints> {
    let expected = from.qtype().count();
    if table.len() != expected {
        return Err(ScoreError::bad_model(format!(
            "a table of {} entries, expected {expected}",
            table.len()
        )));
    }
    let entry = |q: i32| usize::try_from(q - from.qtype().min()).ok().and_then(|i| table.get(i)).copied();
    Ok(x.map(|q| entry(q).unwrap_or(0)))
}

/// The table that brings integers to other parameters: dequantise, quantise.
pub fn requantize_table(from: &QParams, to: &QParams) -> Vec<i32> {
    from.table(to, |x| x)
}

/// `QLinearConcat`: what has the output's parameters is copied, the rest requantised.
///
/// # Errors
/// `BadInput` where the shapes differ elsewhere than along the axis.
pub fn concat(parts: &[(&Ints, &QParams)], axis: usize, to: &QParams) -> Result<Ints> {
    let first = parts.first().map(|(x, _)| x.shape().to_vec()).unwrap_or_default();
    let mut shape = first.clone();
    let mut total = 0;
    for (x, _) in parts {
        let others = |shape: &[usize]| {
            shape.iter().enumerate().filter(|(i, _)| *i != axis).map(|(_, n)| *n).collect::<Vec<_>>()
        };
        if x.shape().len() != first.len() || others(x.shape()) != others(&first) || axis >= first.len() {
            let what = format!("shapes {first:?} and {:?} do not join along axis {axis}", x.shape());
            return Err(ScoreError::bad_input(what));
        }
        total += x.length(axis);
    }
    if let Some(length) = shape.get_mut(axis) {
        *length = total;
    }
    let outer = first.iter().take(axis).product::<usize>();
    let mut values = Vec::new();
    for block in 0..outer {
        for (x, from) in parts {
            let size = x.shape().iter().skip(axis).product::<usize>();
            for i in block * size..(block + 1) * size {
                values.push(if *from == to { x.at(i) } else { to.quantize(from.dequantize(x.at(i))) });
            }
        }
    }
    Ints::new(&shape, values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::int8::QType;

    fn ints(shape: &[usize], values: &[i32]) -> Ints {
        Ints::new(shape, values.to_vec()).unwrap()
    }

    fn params(scale: f32, zero: i32) -> QParams {
        QParams::new(scale, zero, QType::U8).unwrap()
    }

    #[test]
    fn worked_by_hand() {
        let a = ints(&[2, 2], &[10, 20, 30, 250]);
        let b = ints(&[2], &[4, 8]);
        let (p, q, y) = (params(0.5, 10), params(1.0, 4), params(1.0, 3));
        // 0, 5, 10, 120 plus 0, 4.
        assert_eq!(add((&a, &p), (&b, &q), &y).unwrap(), ints(&[2, 2], &[3, 12, 13, 127]));
        // 0·0, 5·4, 10·0, 120·4.
        assert_eq!(mul((&a, &p), (&b, &q), &y).unwrap(), ints(&[2, 2], &[3, 23, 3, 255]));
        let odd = ints(&[1], &[11]);
        assert_eq!(
            add((&odd, &p), (&ints(&[1], &[4]), &q), &y).unwrap().values(),
            [4],
            "0.5 + 3 is rounded at once: to even"
        );
        assert!(add((&a, &p), (&ints(&[3], &[0; 3]), &q), &y).is_err());
    }

    #[test]
    fn what_has_other_parameters_is_requantised() {
        let (p, q) = (params(0.5, 10), params(1.0, 0));
        let joined =
            concat(&[(&ints(&[2, 1], &[10, 20]), &p), (&ints(&[2, 2], &[1, 2, 3, 4]), &q)], 1, &q).unwrap();
        assert_eq!(joined, ints(&[2, 3], &[0, 1, 2, 5, 3, 4]));
        assert_eq!(requantize_table(&p, &q)[20], 5);
        for (shape, axis) in [(&[3, 1][..], 1), (&[2][..], 0), (&[2, 1][..], 2)] {
            let other = ints(shape, &vec![0; shape.iter().product()]);
            assert!(
                concat(&[(&ints(&[2, 1], &[0, 0]), &p), (&other, &p)], axis, &q).is_err(),
                "{shape:?} along {axis}"
            );
        }
    }

    #[test]
    fn a_table_begins_with_the_least_integer() {
        let signed = QParams::new(1.0, 0, QType::I8).unwrap();
        let negated = signed.table(&signed, |x| -x);
        assert_eq!(lookup(&ints(&[3], &[-128, 0, 5]), &signed, &negated).unwrap().values(), [127, 0, -5]);
        assert!(lookup(&ints(&[1], &[0]), &signed, &negated[1..]).is_err());
    }
}
