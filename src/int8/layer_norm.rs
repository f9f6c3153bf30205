//! Layer normalisation on integers alone: our own definition, the same on every device.
//!
//! `y = (x - mean) / sqrt(variance + epsilon) · scale + bias` over the last axis. In floats its result depends on the order of
//! sums and on how a device divides. But the mean and the variance of integers are exact: with `n` elements `q`,
//! `d = n(q - zero) - Σ(q - zero)` and `v = n·Σ(q - zero)² - (Σ(q - zero))²` are integers, and
//! `(x - mean) / sqrt(variance + epsilon) = d / sqrt(v + epsilon·n² / x_scale²)`. The square root and the division are taken once a row, on
//! 62 and 31 bits, and the rest is fixed point, so that the result is the integer that the formula rounds to but for values
//! within about 10⁻⁵ of a half.

use super::ints::Ints;
use super::params::QParams;
use crate::error::{Result, ScoreError};

/// The constants of a layer normalisation, made once for a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerNorm {
    /// `f`: bits behind the point of the variance; even.
    pub variance_bits: u32,
    /// `E = round(epsilon · n² / x_scale² · 2^f)`.
    pub epsilon: u64,
    /// `T`: bits behind the point of a normalised element.
    pub normal_bits: u32,
    /// `g`: bits behind the point of the factors.
    pub factor_bits: u32,
    /// `G = round(scale / y_scale · 2^g)`, below 2³⁰.
    pub factors: Vec<i32>,
    /// `B = round(bias / y_scale · 2^(T + g))`.
    pub biases: Vec<i64>,
}

/// So many bits have the products of a normalised element and a factor; with the bias they stay below 2⁶³.
const PRODUCT_BITS: u32 = 62;
const FACTOR_BITS: u32 = 30;

impl LayerNorm {
    /// The constants for rows of as many elements as `scale` and `bias` have.
    ///
    /// # Errors
    /// `BadModel` where scale and bias are not as many, or not finite; `Unsupported` where rows are too long or numbers too large
    /// for the fixed point, with both.
    pub fn new(from: &QParams, scale: &[f32], bias: &[f32], epsilon: f32, to: &QParams) -> Result<Self> {
        let n = scale.len();
        if n != bias.len()
            || n == 0
            || scale.iter().chain(bias).any(|v| !v.is_finite())
            || epsilon.is_nan()
            || epsilon < 0.0
        {
            let what = format!(
                "a layer normalisation of {n} scales, {} biases and epsilon {epsilon:e}: expected as many, finite",
                bias.len()
            );
            return Err(ScoreError::bad_model(what));
        }
        let too_large = |what: String| {
            ScoreError::unsupported(format!("{what} is too large for a layer normalisation on integers"))
        };
        let span = from.qtype().max() - from.qtype().min();
        // v = n·Σ(q - z)² - (Σ(q - z))² is at most n²·span²/4; d is at most n·span and is multiplied by up to 2³².
        let most_v = (n as f64 * f64::from(span) / 2.0).powi(2);
        if n as f64 * f64::from(span) >= f64::from(1u32 << 30) {
            return Err(too_large(format!("a row of {n} elements")));
        }
        let exact_epsilon = f64::from(epsilon) * (n as f64 / f64::from(from.scale())).powi(2);
        let bits =
            (0..=20).rev().step_by(2).find(|f| (most_v + exact_epsilon) * 2f64.powi(*f) < 2f64.powi(61));
        let Some(variance_bits) = bits else {
            return Err(too_large(format!("epsilon {epsilon:e} / scale {:e}", from.scale())));
        };
        let root_bits = (n as f64).sqrt().log2().ceil() as u32 + 1;
        let normal_bits = PRODUCT_BITS - FACTOR_BITS - root_bits;
        let steps = |v: &f32| f64::from(*v) / f64::from(to.scale());
        let largest = |values: &[f32]| values.iter().map(|v| steps(v).abs()).fold(0.0, f64::max);
        let (scale_steps, bias_steps) = (largest(scale), largest(bias));
        let fits = |g: &u32| {
            scale_steps * 2f64.powi(*g as i32) < f64::from((1 << FACTOR_BITS) - 1)
                && bias_steps * 2f64.powi((normal_bits + g) as i32) < 2f64.powi(61)
        };
        let Some(factor_bits) = (0..=40u32).rev().find(fits) else {
            return Err(too_large(format!("a scale of {scale_steps:e} steps or a bias of {bias_steps:e}")));
        };
        let factors =
            scale.iter().map(|s| (steps(s) * 2f64.powi(factor_bits as i32)).round_ties_even() as i32);
        let unit = 2f64.powi((normal_bits + factor_bits) as i32);
        let biases = bias.iter().map(|b| (steps(b) * unit).round_ties_even() as i64).collect();
        Ok(Self {
            variance_bits: variance_bits as u32,
            epsilon: (exact_epsilon * 2f64.powi(variance_bits)).round_ties_even() as u64,
            normal_bits,
            factor_bits,
            factors: factors.collect(),
            biases,
        })
    }

    /// One row.
    fn row(&self, row: &[i32], from: &QParams, to: &QParams, out: &mut Vec<i32>) {
        let n = row.len() as i64;
        let centred = row.iter().map(|q| i64::from(q - from.zero_point())).collect::<Vec<_>>();
        let sum = centred.iter().sum::<i64>();
        let squares = centred.iter().map(|q| q * q).sum::<i64>();
        let v = (n * squares - sum * sum) as u64;
        let variance = (v << self.variance_bits) + self.epsilon;
        // Shifted by an even number of bits into [2⁶⁰, 2⁶²), so that its root has 31 bits.
        let shift = (62 - (64 - variance.leading_zeros()).max(1)) & !1;
        let root = (variance << shift).isqrt().max(1);
        let reciprocal = ((1u64 << 62) / root) as i64;
        // d / sqrt(v + E) = d · reciprocal / 2^(62 - f/2 - shift/2); T bits of it are kept.
        let surplus = 62 - (self.variance_bits / 2) as i32 - (shift / 2) as i32 - self.normal_bits as i32;
        for (i, q) in centred.iter().enumerate() {
            let product = (n * q - sum) * if variance == 0 { 0 } else { reciprocal };
            let normal = match surplus {
                1.. => (product + (1 << (surplus - 1))) >> surplus,
                _ => product << -surplus,
            };
            let factor = i64::from(self.factors.get(i).copied().unwrap_or(0));
            let y = normal * factor + self.biases.get(i).copied().unwrap_or(0);
            let steps = shift_right_half_even(y, self.normal_bits + self.factor_bits);
            out.push(to.qtype().saturate(steps + i64::from(to.zero_point())));
        }
    }
}

/// Divides by a power of two, half to even.
fn shift_right_half_even(value: i64, by: u32) -> i64 {
    let magnitude = super::rescale::shift_right_half_even(value.unsigned_abs(), by) as i64;
    if value < 0 { -magnitude } else { magnitude }
}

/// Normalises over the last axis.
///
/// # Errors
/// `BadInput` where the last axis is not as long as the scale.
pub fn layer_norm(x: &Ints, from: &QParams, norm: &LayerNorm, to: &QParams) -> Result<Ints> {
    let n = norm.factors.len();
    if x.shape().last() != Some(&n) {
        return Err(ScoreError::bad_input(format!("rows of {:?}, expected {n} elements", x.shape().last())));
    }
    let mut values = Vec::with_capacity(x.values().len());
    for row in x.values().chunks_exact(n) {
        norm.row(row, from, to, &mut values);
    }
    Ints::new(x.shape(), values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::int8::QType;

    /// The formula in f64.
    fn exact(
        row: &[i32],
        from: &QParams,
        scale: &[f32],
        bias: &[f32],
        epsilon: f32,
        to: &QParams,
    ) -> Vec<f64> {
        let x = row
            .iter()
            .map(|q| f64::from(q - from.zero_point()) * f64::from(from.scale()))
            .collect::<Vec<_>>();
        let n = x.len() as f64;
        let mean = x.iter().sum::<f64>() / n;
        let variance = x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
        let root = (variance + f64::from(epsilon)).sqrt();
        let y = x
            .iter()
            .zip(scale)
            .zip(bias)
            .map(|((x, s), b)| (x - mean) / root * f64::from(*s) + f64::from(*b));
        y.map(|y| y / f64::from(to.scale()) + f64::from(to.zero_point())).collect()
    }

    #[test]
    fn it_is_the_formula_but_for_halves() {
        let mut state = 77u64;
        let mut next = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u32 << 24) as f32
        };
        let (mut worst, mut elements) = (0f64, 0);
        for (qtype, n) in [
            (QType::U8, 48),
            (QType::I8, 1),
            (QType::U8, 768),
            (QType::I8, 7),
            (QType::U16, 64),
            (QType::U8, 4096),
        ] {
            for round in 0..40 {
                let from =
                    QParams::new(0.001 + next() * 0.3, (qtype.min() as f32 + next() * 200.0) as i32, qtype)
                        .unwrap();
                let to = QParams::new(0.005 + next() * 0.1, (qtype.min() + qtype.max()) / 2, qtype).unwrap();
                let scale = (0..n).map(|_| next() * 4.0 - 1.0).collect::<Vec<_>>();
                let bias = (0..n).map(|_| next() * 2.0 - 1.0).collect::<Vec<_>>();
                let span = if round % 4 == 0 { 3.0 } else { (qtype.max() - qtype.min()) as f32 };
                let row = (0..n).map(|_| qtype.min() + (next() * span) as i32).collect::<Vec<_>>();
                let norm = LayerNorm::new(&from, &scale, &bias, 1e-5, &to).unwrap();
                let got = layer_norm(&Ints::new(&[1, n], row.clone()).unwrap(), &from, &norm, &to).unwrap();
                for (q, y) in got.values().iter().zip(exact(&row, &from, &scale, &bias, 1e-5, &to)) {
                    let y = y.clamp(qtype.min().into(), qtype.max().into());
                    worst = worst.max((f64::from(*q) - y).abs() - 0.5);
                    elements += 1;
                }
            }
        }
        assert!(elements > 100_000 && worst < 2e-5 * 65.0, "{worst:e} beyond a half");
    }

    #[test]
    fn rows_without_variance_are_the_bias() {
        let p = QParams::new(0.5, 10, QType::U8).unwrap();
        for epsilon in [0.0, 1e-5] {
            let norm = LayerNorm::new(&p, &[1.0, 2.0], &[3.0, -1.0], epsilon, &p).unwrap();
            let out = layer_norm(&Ints::new(&[1, 2], vec![7, 7]).unwrap(), &p, &norm, &p).unwrap();
            assert_eq!(out.values(), [16, 8], "epsilon {epsilon}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let p = QParams::new(0.5, 10, QType::U8).unwrap();
        let tiny = QParams::new(1e-30, 10, QType::U8).unwrap();
        let rows = [
            (LayerNorm::new(&p, &[1.0], &[1.0, 2.0], 0.0, &p), "1 scales, 2 biases"),
            (LayerNorm::new(&p, &[], &[], 0.0, &p), "0 scales"),
            (LayerNorm::new(&p, &[f32::NAN], &[0.0], 0.0, &p), "finite"),
            (LayerNorm::new(&p, &[1.0], &[0.0], -1.0, &p), "epsilon -1"),
            (LayerNorm::new(&tiny, &[1.0], &[0.0], 1.0, &p), "too large"),
            (LayerNorm::new(&p, &[1e30], &[0.0], 0.0, &p), "a scale of"),
            (LayerNorm::new(&p, &[1.0], &[1e30], 0.0, &p), "or a bias of"),
        ];
        for (norm, expected) in rows {
            let error = norm.unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let norm = LayerNorm::new(&p, &[1.0], &[0.0], 0.0, &p).unwrap();
        assert!(layer_norm(&Ints::new(&[2], vec![0; 2]).unwrap(), &p, &norm, &p).is_err());
    }
}
