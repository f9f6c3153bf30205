//! Scales and zero points, checked once.

use crate::error::{Result, ScoreError};
use crate::tensor::DType;

/// The integer type of a quantised tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum QType {
    /// Unsigned, 8 bits: the usual type of activations.
    U8,
    /// Signed, 8 bits: the usual type of weights.
    I8,
    /// Unsigned, 16 bits.
    U16,
    /// Signed, 16 bits.
    I16,
}

impl QType {
    /// The least integer.
    pub const fn min(self) -> i32 {
        match self {
            Self::U8 | Self::U16 => 0,
            Self::I8 => -128,
            Self::I16 => -32_768,
        }
    }

    /// The greatest integer.
    pub const fn max(self) -> i32 {
        match self {
            Self::U8 => 255,
            Self::I8 => 127,
            Self::U16 => 65_535,
            Self::I16 => 32_767,
        }
    }

    /// Bytes of one element.
    pub const fn size_bytes(self) -> usize {
        match self {
            Self::U8 | Self::I8 => 1,
            Self::U16 | Self::I16 => 2,
        }
    }

    /// How many integers there are.
    pub const fn count(self) -> usize {
        1 << (8 * self.size_bytes())
    }

    /// The integer in the type's range that is nearest.
    pub fn saturate(self, value: i64) -> i32 {
        value.clamp(self.min().into(), self.max().into()) as i32
    }
}

impl From<QType> for DType {
    fn from(qtype: QType) -> Self {
        match qtype {
            QType::U8 => Self::U8,
            QType::I8 => Self::I8,
            QType::U16 => Self::U16,
            QType::I16 => Self::I16,
        }
    }
}

impl TryFrom<DType> for QType {
    type Error = ScoreError;

    fn try_from(dtype: DType) -> Result<Self> {
        match dtype {
            DType::U8 => Ok(Self::U8),
            DType::I8 => Ok(Self::I8),
            DType::U16 => Ok(Self::U16),
            DType::I16 => Ok(Self::I16),
            other => Err(ScoreError::unsupported(format!(
                "{other} is no type of quantised tensors: expected u8, i8, u16 or i16"
            ))),
        }
    }
}

/// How the integers of a tensor stand for numbers: `x = (q - zero_point) · scale`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QParams {
    scale: f32,
    zero_point: i32,
    qtype: QType,
}

impl QParams {
    /// Parameters that make sense.
    ///
    /// # Errors
    /// `BadModel` for a scale that is zero, negative, subnormal, infinite or not a number, and for a zero point outside the
    /// type.
    pub fn new(scale: f32, zero_point: i32, qtype: QType) -> Result<Self> {
        check_scale(scale)?;
        check_zero_point(zero_point, qtype)?;
        Ok(Self { scale, zero_point, qtype })
    }

    /// The distance between the numbers of two neighbouring integers.
    pub fn scale(&self) -> f32 {
        self.scale
    }

    /// The integer that stands for zero.
    pub fn zero_point(&self) -> i32 {
        self.zero_point
    }

    /// The type of the integers.
    pub fn qtype(&self) -> QType {
        self.qtype
    }

    /// `QuantizeLinear`: `saturate(round_half_even(x / scale) + zero_point)`, the quotient rounded to f32. What is not a number
    /// becomes the least integer, as on ONNX Runtime's vector units.
    pub fn quantize(&self, x: f32) -> i32 {
        self.round(x / self.scale)
    }

    /// Rounds what is in units of the scale already.
    pub(super) fn round(&self, steps: f32) -> i32 {
        if steps.is_nan() {
            return self.qtype.min();
        }
        // An f32 beyond 64 bits saturates in the cast, and then in the sum.
        let steps = steps.round_ties_even() as i64;
        self.qtype.saturate(steps.saturating_add(self.zero_point.into()))
    }

    /// `DequantizeLinear`: `(q - zero_point) · scale` in f32.
    pub fn dequantize(&self, q: i32) -> f32 {
        (q - self.zero_point) as f32 * self.scale
    }

    /// Every integer of the type, from the least on.
    pub fn integers(&self) -> impl Iterator<Item = i32> + use<> {
        self.qtype.min()..=self.qtype.max()
    }

    /// What a function of one element becomes: its result for every integer, from the least on.
    pub fn table(&self, to: &QParams, f: impl Fn(f32) -> f32) -> Vec<i32> {
        self.integers().map(|q| to.quantize(f(self.dequantize(q)))).collect()
    }
}

/// The parameters of weights: one scale and zero point for all, or one for each output channel.
#[derive(Debug, Clone, PartialEq)]
pub struct WeightParams {
    scales: Vec<f32>,
    zero_points: Vec<i32>,
    qtype: QType,
}

impl WeightParams {
    /// Parameters that make sense.
    ///
    /// # Errors
    /// `BadModel` as for [`QParams::new`], naming the channel, and where scales and zero points are not as many.
    pub fn new(scales: Vec<f32>, zero_points: Vec<i32>, qtype: QType) -> Result<Self> {
        if scales.is_empty() || scales.len() != zero_points.len() {
            let what = format!(
                "{} scales and {} zero points: expected as many, and one at least",
                scales.len(),
                zero_points.len()
            );
            return Err(ScoreError::bad_model(what));
        }
        for (channel, (scale, zero)) in scales.iter().zip(&zero_points).enumerate() {
            let at = |e: ScoreError| e.with_at(format!("channel {channel}"));
            check_scale(*scale).map_err(at)?;
            check_zero_point(*zero, qtype).map_err(at)?;
        }
        Ok(Self { scales, zero_points, qtype })
    }

    /// The type of the integers.
    pub fn qtype(&self) -> QType {
        self.qtype
    }

    /// The scales: one, or one a channel.
    pub fn scales(&self) -> &[f32] {
        &self.scales
    }

    /// The zero points: as many as scales.
    pub fn zero_points(&self) -> &[i32] {
        &self.zero_points
    }

    /// The scale and the zero point of an output channel.
    pub fn channel(&self, channel: usize) -> (f32, i32) {
        let at = if self.scales.len() == 1 { 0 } else { channel };
        let scale = self.scales.get(at).copied().unwrap_or(1.0);
        (scale, self.zero_points.get(at).copied().unwrap_or(0))
    }

    /// Whether they fit that many output channels.
    ///
    /// # Errors
    /// `BadModel` with both numbers.
    pub fn check_channels(&self, channels: usize) -> Result<()> {
        if self.scales.len() == 1 || self.scales.len() == channels {
            return Ok(());
        }
        let what = format!(
            "{} weight scales for {channels} output channels: expected 1 or {channels}",
            self.scales.len()
        );
        Err(ScoreError::bad_model(what))
    }
}

impl From<QParams> for WeightParams {
    fn from(p: QParams) -> Self {
        Self { scales: vec![p.scale], zero_points: vec![p.zero_point], qtype: p.qtype }
    }
}

fn check_scale(scale: f32) -> Result<()> {
    match scale.is_normal() && scale > 0.0 {
        true => Ok(()),
        false => {
            Err(ScoreError::bad_model(format!("a scale of {scale:e}: expected a normal number above zero")))
        }
    }
}

fn check_zero_point(zero: i32, qtype: QType) -> Result<()> {
    match (qtype.min()..=qtype.max()).contains(&zero) {
        true => Ok(()),
        false => Err(ScoreError::bad_model(format!(
            "a zero point of {zero}: expected {} to {} for {}",
            qtype.min(),
            qtype.max(),
            DType::from(qtype)
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_half_to_even_and_saturates() {
        let p = QParams::new(0.5, 10, QType::U8).unwrap();
        let rows = [
            (0.0, 10),
            (0.25, 10),
            (0.75, 12),
            (1.25, 12),
            (-0.25, 10),
            (-0.75, 8),
            (122.5, 255),
            (1e30, 255),
            (f32::INFINITY, 255),
            (-1e30, 0),
            (f32::NEG_INFINITY, 0),
            (f32::NAN, 0),
        ];
        for (x, q) in rows {
            assert_eq!(p.quantize(x), q, "{x}");
        }
        assert_eq!(p.dequantize(255), 122.5);
        assert_eq!(p.table(&p, |x| -x).first(), Some(&20), "-(-5)/0.5 + 10");
    }

    #[test]
    fn parameters_that_make_no_sense_are_refused() {
        for scale in [0.0, -0.0, -1.0, f32::NAN, f32::INFINITY, 1e-40] {
            let error = QParams::new(scale, 0, QType::U8).unwrap_err().to_string();
            assert!(error.contains("a scale of"), "{error}");
            let error = WeightParams::new(vec![1.0, scale], vec![0, 0], QType::I8).unwrap_err().to_string();
            assert!(error.contains("channel 1"), "{error}");
        }
        for (zero, qtype) in
            [(-1, QType::U8), (256, QType::U8), (128, QType::I8), (-129, QType::I8), (65_536, QType::U16)]
        {
            assert!(
                QParams::new(1.0, zero, qtype).unwrap_err().to_string().contains("a zero point of"),
                "{zero}"
            );
        }
        assert!(WeightParams::new(vec![1.0], vec![], QType::I8).is_err());
        let three = WeightParams::new(vec![1.0; 3], vec![0; 3], QType::I8).unwrap();
        assert!(three.check_channels(3).is_ok());
        assert!(
            three
                .check_channels(4)
                .unwrap_err()
                .to_string()
                .contains("3 weight scales for 4 output channels")
        );
    }
}
