//! Convolution over any number of spatial axes.

use super::ints::{Accumulators, Ints};
use super::params::{QParams, WeightParams};
use super::rescale::Rescale;
use crate::error::{Result, ScoreError};

/// How a kernel moves; one entry a spatial axis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConvShape {
    /// Steps between two outputs.
    pub strides: Vec<usize>,
    /// Steps between two elements of the kernel.
    pub dilations: Vec<usize>,
    /// Padding, `[begins…, ends…]`.
    pub pads: Vec<usize>,
    /// Groups of channels that are convolved on their own.
    pub groups: usize,
}

impl ConvShape {
    /// Steps of one, no padding, one group.
    pub fn plain(axes: usize) -> Self {
        Self { strides: vec![1; axes], dilations: vec![1; axes], pads: vec![0; 2 * axes], groups: 1 }
    }

    /// The outputs along a spatial axis.
    fn outputs(&self, axis: usize, length: usize, kernel: usize) -> Option<usize> {
        let (stride, dilation) = (*self.strides.get(axis)?, *self.dilations.get(axis)?);
        let (before, after) = (*self.pads.get(axis)?, *self.pads.get(axis + self.strides.len())?);
        let span = kernel.checked_sub(1)?.checked_mul(dilation)?.checked_add(1)?;
        let padded = length.checked_add(before)?.checked_add(after)?;
        Some(padded.checked_sub(span).map_or(0, |room| room / stride.max(1) + 1))
    }
}

/// `QLinearConv`: `acc = Σ (x - x_zero)(w - w_zero) + bias`, then [`Rescale`]. Padding stands for zeros, so it adds nothing.
///
/// `x` is `[batch, channels, spatial…]`, `w` is `[outputs, channels / groups, kernel…]`, `bias` one i32 an output channel in
/// steps of `x_scale · w_scale`.
///
/// # Errors
/// `BadModel` where shapes, groups or numbers of channels do not fit.
pub fn conv(
    (x, x_params): (&Ints, &QParams),
    (w, w_params): (&Ints, &WeightParams),
    bias: Option<&[i32]>,
    shape: &ConvShape,
    to: &QParams,
) -> Result<Ints> {
    let sums = conv_integer(x, x_params.zero_point(), w, w_params, bias, shape)?;
    Rescale::new(x_params, w_params, to).apply_all(&sums, 1)
}

/// The sums alone: `ConvInteger`, where `w_params` gives only zero points.
///
/// # Errors
/// As [`conv`].
pub fn conv_integer(
    x: &Ints,
    x_zero: i32,
    w: &Ints,
    w_params: &WeightParams,
    bias: Option<&[i32]>,
    shape: &ConvShape,
) -> Result<Accumulators> {
    let axes = shape.strides.len();
    let refuse = |what: &str| {
        Err(ScoreError::bad_model(format!(
            "{what}: input {:?}, weights {:?}, {} groups",
            x.shape(),
            w.shape(),
            shape.groups
        )))
    };
    if x.shape().len() != axes + 2 || w.shape().len() != axes + 2 || axes == 0 {
        return refuse(&format!("a convolution over {axes} axes"));
    }
    let (batch, channels, outputs) = (x.length(0), x.length(1), w.length(0));
    let in_group = w.length(1);
    let groups = shape.groups;
    if groups == 0 || in_group.checked_mul(groups) != Some(channels) || !outputs.is_multiple_of(groups) {
        return refuse("channels do not fit the groups");
    }
    w_params.check_channels(outputs)?;
    if bias.is_some_and(|b| b.len() != outputs) {
        return refuse("the bias has not one number an output channel");
    }
    let out =
        (0..axes).map(|a| shape.outputs(a, x.length(a + 2), w.length(a + 2))).collect::<Option<Vec<_>>>();
    let Some(out) = out else { return refuse("the kernel does not fit") };
    let pixels = out.iter().product::<usize>();
    let in_pixels = x.shape().iter().skip(2).product::<usize>();
    let taps = w.shape().iter().skip(2).product::<usize>();
    // Where each tap of the kernel reads for each output pixel: the same for every image and channel.
    let reads =
        (0..pixels).map(|pixel| (0..taps).map(|tap| read(x, w, shape, &out, pixel, tap)).collect::<Vec<_>>());
    let reads = reads.collect::<Vec<_>>();
    let mut values = Vec::with_capacity(batch * outputs * pixels);
    for image in 0..batch {
        for output in 0..outputs {
            let group = output / (outputs / groups);
            let (_, w_zero) = w_params.channel(output);
            let start = i64::from(bias.and_then(|b| b.get(output)).copied().unwrap_or(0));
            for read in &reads {
                let mut sum = start;
                for channel in 0..in_group {
                    let x_at = (image * channels + group * in_group + channel) * in_pixels;
                    let w_at = (output * in_group + channel) * taps;
                    for (tap, place) in read.iter().enumerate() {
                        if let Some(place) = place {
                            sum +=
                                i64::from(x.at(x_at + place) - x_zero) * i64::from(w.at(w_at + tap) - w_zero);
                        }
                    }
                }
                values.push(sum);
            }
        }
    }
    let shape = [batch, outputs].into_iter().chain(out).collect();
    Ok(Accumulators { shape, values })
}

/// The place within a channel of the input that a tap reads for an output pixel; nothing where that is padding.
fn read(x: &Ints, w: &Ints, shape: &ConvShape, out: &[usize], pixel: usize, tap: usize) -> Option<usize> {
    let (mut pixel, mut tap) = (pixel, tap);
    let (mut place, mut stride) = (0, 1);
    for axis in (0..out.len()).rev() {
        let (outputs, kernel, length) = (*out.get(axis)?, w.length(axis + 2), x.length(axis + 2));
        let at = pixel % outputs * shape.strides.get(axis)? + tap % kernel * shape.dilations.get(axis)?;
        let at = at.checked_sub(*shape.pads.get(axis)?).filter(|at| *at < length)?;
        place += at * stride;
        stride *= length;
        pixel /= outputs;
        tap /= kernel;
    }
    Some(place)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::int8::QType;

    fn ints(shape: &[usize], values: &[i32]) -> Ints {
        Ints::new(shape, values.to_vec()).unwrap()
    }

    fn params(zero: i32) -> QParams {
        QParams::new(1.0, zero, QType::U8).unwrap()
    }

    #[test]
    fn worked_by_hand() {
        let x = ints(&[1, 1, 3, 3], &[1, 2, 3, 4, 5, 6, 7, 8, 9]);
        let w = ints(&[1, 1, 2, 2], &[1, 0, 0, 1]);
        let weights = WeightParams::new(vec![1.0], vec![0], QType::I8).unwrap();
        let sum = |shape: &ConvShape, zero, bias: Option<&[i32]>| {
            conv_integer(&x, zero, &w, &weights, bias, shape).unwrap()
        };
        let plain = ConvShape::plain(2);
        assert_eq!(sum(&plain, 0, None).values, [6, 8, 12, 14]);
        assert_eq!(sum(&plain, 1, Some(&[10])).values, [14, 16, 20, 22]);
        let dilated = ConvShape { dilations: vec![2, 2], ..plain.clone() };
        assert_eq!(sum(&dilated, 0, None).values, [10]);
        // Padding is zero, not the least integer: with a zero point of 1 the corner sums only 1 - 1.
        let padded = ConvShape { pads: vec![1, 1, 1, 1], strides: vec![2, 2], ..plain.clone() };
        assert_eq!(
            sum(&padded, 1, None),
            Accumulators { shape: vec![1, 1, 2, 2], values: vec![0, 2, 6, 12] }
        );
        let y = conv((&x, &params(0)), (&w, &weights), None, &plain, &params(0)).unwrap();
        assert_eq!(y, ints(&[1, 1, 2, 2], &[6, 8, 12, 14]));
    }

    #[test]
    fn groups_and_channels_have_their_own_weights() {
        let x = ints(&[1, 2, 2], &[1, 2, 3, 4]);
        let w = ints(&[2, 1, 1], &[10, 100]);
        let weights = WeightParams::new(vec![1.0, 1.0], vec![0, 1], QType::I8).unwrap();
        let shape = ConvShape { groups: 2, ..ConvShape::plain(1) };
        assert_eq!(conv_integer(&x, 0, &w, &weights, None, &shape).unwrap().values, [10, 20, 297, 396]);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let weights = WeightParams::new(vec![1.0], vec![0], QType::I8).unwrap();
        let three = WeightParams::new(vec![1.0; 3], vec![0; 3], QType::I8).unwrap();
        let x = ints(&[1, 2, 2], &[0; 4]);
        let w = ints(&[2, 2, 1], &[0; 4]);
        let plain = ConvShape::plain(1);
        let rows = [
            (&w, &weights, None, ConvShape { groups: 2, ..plain.clone() }, "channels do not fit"),
            (&w, &weights, None, ConvShape { groups: 0, ..plain.clone() }, "channels do not fit"),
            (&w, &weights, None, ConvShape::plain(2), "over 2 axes"),
            (&w, &three, None, plain.clone(), "3 weight scales for 2"),
            (&w, &weights, Some(&[1][..]), plain.clone(), "the bias has not"),
        ];
        for (w, params, bias, shape, expected) in rows {
            let error = conv_integer(&x, 0, w, params, bias, &shape).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let large = ints(&[1, 2, 3], &[0; 6]);
        assert_eq!(
            conv_integer(&x, 0, &large, &weights, None, &plain).unwrap().shape,
            [1, 1, 0],
            "a kernel that fits nowhere"
        );
    }
}
