//! Weights and biases as integers.

use crate::error::{Result, ScoreError};
use crate::int8::{Ints, QType, WeightParams};

/// The largest integer of a weight. -128 is left out: what is symmetric loses nothing, and two products of two such numbers would
/// not fit 16 bits, which devices sum in.
const MOST: f64 = 127.0;

/// The largest integer of a bias: half of what there is, the sums need the rest.
const MOST_BIAS: f64 = (1u32 << 30) as f64;

/// Weights as i8 in `[-127, 127]`, zero at zero, with one scale or one for each index of an axis.
#[derive(Debug, Clone, PartialEq)]
pub struct Weights {
    /// The integers.
    pub values: Ints,
    /// Their scales.
    pub params: WeightParams,
}

/// Rounds weights to integers. With an `axis` every index of it has a scale of its own, `max|w| / 127`; a channel of zeros has a
/// scale of one.
///
/// With a `bias` (one a channel, and the scale of the input) a channel's scale is raised where its bias would not fit 30 bits otherwise.
///
/// # Errors
/// `BadModel` for weights or biases that are not finite, or a bias of another length.
pub fn quantize_weights(
    shape: &[usize],
    weights: &[f32],
    axis: Option<usize>,
    bias: Option<(&[f32], f32)>,
) -> Result<(Weights, Option<Vec<i32>>)> {
    if weights.iter().any(|w| !w.is_finite()) {
        return Err(ScoreError::bad_model("weights that are infinite or no numbers"));
    }
    let (channels, inner) = match axis {
        Some(axis) => {
            (shape.get(axis).copied().unwrap_or(1), shape.iter().skip(axis + 1).product::<usize>().max(1))
        }
        None => (1, 1),
    };
    let channel = |i: usize| if axis.is_some() { i / inner % channels.max(1) } else { 0 };
    let mut largest = vec![0f64; channels];
    for (i, w) in weights.iter().enumerate() {
        if let Some(most) = largest.get_mut(channel(i)) {
            *most = most.max(f64::from(w.abs()));
        }
    }
    if let Some((bias, x_scale)) = bias {
        if bias.iter().any(|b| !b.is_finite()) || (axis.is_some() && bias.len() != channels) {
            return Err(ScoreError::bad_model(format!(
                "{} biases for {channels} channels: expected as many, finite",
                bias.len()
            )));
        }
        for (i, b) in bias.iter().enumerate() {
            let least_scale = f64::from(b.abs()) / (f64::from(x_scale) * MOST_BIAS);
            if let Some(most) = largest.get_mut(if axis.is_some() { i } else { 0 }) {
                *most = most.max(least_scale * MOST);
            }
        }
    }
    let scale = |most: &f64| {
        let scale = (most / MOST) as f32;
        if scale.is_normal() { scale } else { 1.0 }
    };
    let scales = largest.iter().map(scale).collect::<Vec<_>>();
    let at = |c: usize| scales.get(c).or(scales.first()).copied().unwrap_or(1.0);
    let integer = |(i, w): (usize, &f32)| {
        (f64::from(*w) / f64::from(at(channel(i)))).round_ties_even().clamp(-MOST, MOST) as i32
    };
    let values = Ints::new(shape, weights.iter().enumerate().map(integer).collect())?;
    let rounded = bias.map(|(bias, x_scale)| {
        let integer = |(c, b): (usize, &f32)| {
            // In the step that the sums have: the product is taken in f32, as whoever runs the model takes it.
            (f64::from(*b) / f64::from(x_scale * at(if axis.is_some() { c } else { 0 }))).round_ties_even()
                as i32
        };
        bias.iter().enumerate().map(integer).collect()
    });
    let zeros = vec![0; scales.len()];
    Ok((Weights { values, params: WeightParams::new(scales, zeros, QType::I8)? }, rounded))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_channel_has_its_own_scale() {
        let w = [1.0, -2.0, 0.0, 0.0, 0.5, 0.25];
        let (rows, _) = quantize_weights(&[3, 2], &w, Some(0), None).unwrap();
        assert_eq!(rows.values.values(), [64, -127, 0, 0, 127, 64]);
        assert_eq!(rows.params.scales(), [2.0 / 127.0, 1.0, 0.5 / 127.0]);
        let (columns, _) = quantize_weights(&[3, 2], &w, Some(1), None).unwrap();
        assert_eq!(columns.values.values(), [127, -127, 0, 0, 64, 16]);
        let (one, _) = quantize_weights(&[3, 2], &w, None, None).unwrap();
        assert_eq!(one.values.values(), [64, -127, 0, 0, 32, 16]);
    }

    #[test]
    fn a_bias_is_in_steps_of_the_sums_and_fits() {
        let (w, bias) = quantize_weights(&[2, 1], &[1.27, 1e-9], Some(0), Some((&[1.0, 5.0], 0.5))).unwrap();
        assert_eq!(bias.as_ref().unwrap()[0], 200, "0.01 · 0.5 steps");
        let second = bias.unwrap()[1];
        assert!((1 << 29..=1 << 30).contains(&second), "{second}");
        let scale = f64::from(w.params.scales()[1]);
        assert!((f64::from(second) * scale * 0.5 - 5.0).abs() < 1e-6, "the scale was raised until it fits");
        assert!(quantize_weights(&[1], &[f32::NAN], None, None).is_err());
        assert!(quantize_weights(&[2, 1], &[1.0, 1.0], Some(0), Some((&[1.0], 0.5))).is_err());
    }
}
