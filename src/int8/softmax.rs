//! Softmax over the last axis, as ONNX Runtime's `QLinearSoftmax` computes it.

use super::ints::Ints;
use super::params::QParams;
use crate::error::{Result, ScoreError};

/// The exponentials that one row's integers look up.
///
/// `t[i] = f32(exp((i - 255 + B) · x_scale))` for `i` from 0 to 255, with
/// `B = max(0, ln(FLT_MAX / max(length, 2)) - 5) / x_scale`: as large as possible without the sum of a row overflowing. Of 16 bits there are
/// 65,536 entries, and where the result has 16 bits `length` is no less than its steps, so that an entry times them does not overflow either.
#[derive(Debug, Clone, PartialEq)]
pub struct SoftmaxTable {
    entries: Vec<f32>,
    /// `floor(1 / y_scale)`. For a scale of 1/255 it is 254, because f32(1/255) is a little too large: ONNX Runtime's
    /// probabilities are 0.4 % low then, and so are ours.
    steps: f32,
}

impl SoftmaxTable {
    /// The table for rows of that length.
    pub fn new(from: &QParams, length: usize, to: &QParams) -> Self {
        let scale = f64::from(from.scale());
        let most = i32::try_from(from.qtype().count() - 1).unwrap_or(i32::MAX);
        let steps = (1.0 / to.scale()).floor();
        // A row of one would overflow when it is multiplied by the steps; ONNX Runtime's does not.
        let parts = (length.max(2) as f32).max(if to.qtype().size_bytes() == 2 { steps } else { 0.0 });
        let room = f64::from(f32::MAX / parts).ln() - 5.0;
        let shift = room.max(0.0) / scale;
        let entry = |i: i32| libm::exp((f64::from(i - most) + shift) * scale) as f32;
        Self { entries: (0..=most).map(entry).collect(), steps }
    }

    /// The exponentials.
    pub fn entries(&self) -> &[f32] {
        &self.entries
    }

    /// How many steps of the output a probability of one is.
    pub fn steps(&self) -> f32 {
        self.steps
    }
}

/// `QLinearSoftmax` over the last axis: each integer is shifted so that the greatest of its row is the last of the table, the entries
/// are summed one after another in f32, and `q = saturate(round_half_even(f32(f32(t · steps) / sum)) + y_zero)`.
///
/// # Errors
/// `BadInput` for a tensor without axes.
pub fn softmax(x: &Ints, from: &QParams, to: &QParams) -> Result<Ints> {
    let Some(length) = x.shape().last().copied() else {
        return Err(ScoreError::bad_input("a softmax of a scalar: expected an axis"));
    };
    let table = SoftmaxTable::new(from, length, to);
    let last = i32::try_from(table.entries.len()).unwrap_or(i32::MAX) - 1;
    let mut values = Vec::with_capacity(x.values().len());
    for row in x.values().chunks(length.max(1)) {
        let greatest = row.iter().copied().max().unwrap_or(0);
        let entry =
            |q: &i32| usize::try_from(last - (greatest - q)).ok().and_then(|i| table.entries.get(i)).copied();
        let entries = row.iter().map(|q| entry(q).unwrap_or(0.0)).collect::<Vec<_>>();
        let sum = entries.iter().fold(0f32, |sum, t| sum + t);
        values.extend(entries.iter().map(|t| to.round(t * table.steps / sum)));
    }
    Ints::new(x.shape(), values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::int8::QType;

    #[test]
    fn probabilities_are_in_steps_of_the_output() {
        let x = QParams::new(0.1, 128, QType::U8).unwrap();
        let y = QParams::new(1.0 / 256.0, 0, QType::U8).unwrap();
        let of = |values: &[i32]| {
            softmax(&Ints::new(&[1, values.len()], values.to_vec()).unwrap(), &x, &y).unwrap()
        };
        assert_eq!(of(&[100, 100]).values(), [128, 128]);
        assert_eq!(of(&[7]).values(), [255], "256 saturates");
        // 1 / (1 + e⁻¹) of 256 is 187.2.
        assert_eq!(of(&[110, 100]).values(), [187, 69]);
        let quirk = QParams::new(1.0 / 255.0, 0, QType::U8).unwrap();
        assert_eq!(SoftmaxTable::new(&x, 2, &quirk).steps(), 254.0);
        let wide = QParams::new(1.0 / 65_536.0, 0, QType::U16).unwrap();
        let of_wide = softmax(&Ints::new(&[2], vec![110, 100]).unwrap(), &x, &wide).unwrap();
        assert_eq!(of_wide.values(), [47_911, 17_625], "1 / (1 + e⁻¹) of 65,536 is 47,911.1");
        let empty = softmax(&Ints::new(&[3, 0], vec![]).unwrap(), &x, &y).unwrap();
        assert!(empty.values().is_empty());
    }

    #[test]
    fn no_row_overflows() {
        for (scale, length) in [(1e-3, 1000), (1.0, 3), (100.0, 100_000)] {
            let x = QParams::new(scale, 0, QType::U8).unwrap();
            let y = QParams::new(1.0 / 256.0, 0, QType::U8).unwrap();
            let table = SoftmaxTable::new(&x, length, &y);
            let greatest = table.entries().last().copied().unwrap();
            assert!(
                (greatest * length as f32).is_finite() && greatest * table.steps() < f32::INFINITY,
                "{scale} {length}"
            );
        }
    }
}
