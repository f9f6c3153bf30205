//! From an exact sum to an integer of the output: one multiplication, one rounding, saturation.

use super::ints::{Accumulators, Ints};
use super::params::{QParams, WeightParams};
use crate::error::Result;

/// The factors that bring sums of products to the output's steps, one a channel.
///
/// `m[c] = f32(f32(x_scale · w_scale[c]) / y_scale)`, in exactly this order; then
/// `q = saturate(round_half_even(f32(acc) · m[c]) + y_zero)`. Any other order of these roundings gives other integers, up to
/// one in seven thousand.
#[derive(Debug, Clone, PartialEq)]
pub struct Rescale {
    factors: Vec<f32>,
    to: QParams,
}

impl Rescale {
    /// The factors from an input, through weights, to an output.
    pub fn new(x: &QParams, w: &WeightParams, to: &QParams) -> Self {
        let factor = |w: &f32| x.scale() * w / to.scale();
        Self { factors: w.scales().iter().map(factor).collect(), to: *to }
    }

    /// The factors: one, or one a channel.
    pub fn factors(&self) -> &[f32] {
        &self.factors
    }

    /// The integer for a sum of that channel.
    pub fn apply(&self, sum: i64, channel: usize) -> i32 {
        let at = if self.factors.len() == 1 { 0 } else { channel };
        let factor = self.factors.get(at).copied().unwrap_or(1.0);
        self.to.round(sum as f32 * factor)
    }

    /// The integers for sums whose channels run along an axis.
    pub(super) fn apply_all(&self, sums: &Accumulators, axis: usize) -> Result<Ints> {
        let inner = sums.shape.iter().skip(axis + 1).product::<usize>().max(1);
        let channels = sums.shape.get(axis).copied().unwrap_or(1).max(1);
        let values = sums.values.iter().enumerate().map(|(i, s)| self.apply(*s, i / inner % channels));
        Ints::new(&sums.shape, values.collect())
    }
}

/// How large the sums of products of a channel can become, whatever the input is: `Σ |w| · max|x - x_zero| + |bias|`.
/// A device that sums in 32 bits takes a layer only if this is within them.
pub fn accumulator_bound(weights: impl Iterator<Item = i32>, w_zero: i32, x: &QParams, bias: i32) -> i64 {
    let (low, high) = (x.qtype().min() - x.zero_point(), x.qtype().max() - x.zero_point());
    let farthest = i64::from(low.abs().max(high.abs()));
    weights.map(|w| i64::from(w - w_zero).abs() * farthest).sum::<i64>() + i64::from(bias).abs()
}

/// [`Rescale::apply`] without floats: what a device without a float unit computes, and the same to the bit.
///
/// `f32(acc)` is the sum rounded to 24 bits; its product with the factor's 24-bit mantissa is rounded to 24 bits again, and then to an
/// integer, half to even each time: exactly what an f32 multiplication and a rounding do.
pub fn integer_rescale(sum: i64, factor: f32, to: &QParams) -> i32 {
    let (mantissa, exponent) = round_to_24_bits(sum.unsigned_abs());
    let bits = factor.to_bits();
    let factor_mantissa = u64::from(bits & 0x7f_ffff | 0x80_0000);
    let factor_exponent = (bits >> 23 & 0xff) as i32 - 150;
    let (mantissa, more) = round_to_24_bits(mantissa * factor_mantissa);
    let exponent = exponent + factor_exponent + more;
    let magnitude = match exponent {
        0.. => i64::try_from(mantissa)
            .ok()
            .and_then(|m| m.checked_mul(1 << exponent.min(38)))
            .unwrap_or(i64::MAX),
        _ => shift_right_half_even(mantissa, exponent.unsigned_abs()) as i64,
    };
    let steps = if sum < 0 { -magnitude } else { magnitude };
    to.qtype().saturate(steps.saturating_add(to.zero_point().into()))
}

/// The 24 highest bits of a number, rounded half to even, and how far they were shifted.
fn round_to_24_bits(value: u64) -> (u64, i32) {
    let surplus = (64 - value.leading_zeros()).saturating_sub(24);
    let rounded = shift_right_half_even(value, surplus);
    // Rounding up may carry into a 25th bit, which then ends in a zero.
    match rounded >> 24 {
        0 => (rounded, surplus as i32),
        _ => (rounded >> 1, surplus as i32 + 1),
    }
}

/// Divides by a power of two, half to even.
pub(super) fn shift_right_half_even(value: u64, by: u32) -> u64 {
    if by == 0 {
        return value;
    }
    if by > 63 {
        return 0;
    }
    let (whole, rest, half) = (value >> by, value & ((1 << by) - 1), 1u64 << (by - 1));
    whole + u64::from(rest > half || (rest == half && whole & 1 == 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::int8::QType;

    #[test]
    fn a_sum_is_multiplied_once_and_rounded_once() {
        let x = QParams::new(0.5, 0, QType::U8).unwrap();
        let w = WeightParams::new(vec![0.5, 1.0], vec![0, 0], QType::I8).unwrap();
        let to = QParams::new(1.0, 3, QType::U8).unwrap();
        let rescale = Rescale::new(&x, &w, &to);
        assert_eq!(rescale.factors(), [0.25, 0.5]);
        for (sum, channel, expected) in
            [(2, 0, 3), (6, 0, 5), (1, 1, 3), (3, 1, 5), (-100, 0, 0), (1 << 40, 0, 255)]
        {
            assert_eq!(rescale.apply(sum, channel), expected, "{sum} in channel {channel}");
        }
    }

    #[test]
    fn the_bound_is_what_the_worst_input_makes() {
        let x = QParams::new(1.0, 100, QType::U8).unwrap();
        // 155 is farther from 100 than 0 is.
        assert_eq!(accumulator_bound([3, -4].into_iter(), 0, &x, -10), 7 * 155 + 10);
        assert_eq!(accumulator_bound([3, -4].into_iter(), 1, &x, 0), 7 * 155);
    }

    #[test]
    fn without_floats_it_is_the_same_to_the_bit() {
        let mut state = 0x1234_5678_9abc_def1u64;
        let mut next = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        for qtype in [QType::U8, QType::I8, QType::U16] {
            let to = QParams::new(1.0, (qtype.max() + qtype.min()) / 2, qtype).unwrap();
            for round in 0..200_000 {
                // Sums of every size, factors from 2⁻³⁰ to 2⁵, and many that end in exact halves.
                let sum = next() as i64 >> (32 + next() % 31);
                let factor = match round % 3 {
                    0 => 2f32.powi(-((next() % 20) as i32)),
                    _ => f32::from_bits((97 + (next() % 35) as u32) << 23 | (next() as u32 & 0x7f_ffff)),
                };
                let plain = to.round(sum as f32 * factor);
                assert_eq!(integer_rescale(sum, factor, &to), plain, "{sum} · {factor:e} as {qtype:?}");
            }
        }
    }
}
