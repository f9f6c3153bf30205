//! Quantisation whose parameters follow from the tensor itself.

use super::ints::Ints;
use super::params::{QParams, QType};
use crate::error::{Result, ScoreError};

/// `DynamicQuantizeLinear` to u8: with `low = min(0, min x)` and `high = max(0, max x)`, the scale is `f32((high - low) / 255)` and the zero
/// point `saturate(round_half_even(0 - low / scale))`. A tensor of zeros has a scale of one.
///
/// # Errors
/// `BadInput` for what is not finite, which has no range.
pub fn dynamic_quantize(shape: &[usize], x: &[f32]) -> Result<(Ints, QParams)> {
    if let Some(at) = x.iter().position(|v| !v.is_finite()) {
        let what =
            format!("element {at} is {}: a range takes finite numbers", x.get(at).copied().unwrap_or(0.0));
        return Err(ScoreError::bad_input(what));
    }
    let low = x.iter().copied().fold(0f32, f32::min);
    let high = x.iter().copied().fold(0f32, f32::max);
    let scale = match (high - low) / 255.0 {
        0.0 => 1.0,
        scale => scale,
    };
    let zero = (0.0 - low / scale).round_ties_even();
    let params = QParams::new(scale, QType::U8.saturate(zero as i64), QType::U8)?;
    let values = x.iter().map(|v| params.quantize(*v)).collect();
    Ok((Ints::new(shape, values)?, params))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_range_holds_zero() {
        let (q, p) = dynamic_quantize(&[3], &[-1.0, 0.0, 4.1]).unwrap();
        assert_eq!((p.scale(), p.zero_point()), (5.1 / 255.0, 50));
        assert_eq!(q.values(), [0, 50, 255]);
        let (q, p) = dynamic_quantize(&[2], &[2.0, 5.1]).unwrap();
        assert_eq!((p.zero_point(), q.values()), (0, &[100, 255][..]));
        let (q, p) = dynamic_quantize(&[2], &[0.0, 0.0]).unwrap();
        assert_eq!((p.scale(), q.values()), (1.0, &[0, 0][..]));
        assert!(dynamic_quantize(&[1], &[f32::NAN]).unwrap_err().to_string().contains("element 0 is NaN"));
    }
}
