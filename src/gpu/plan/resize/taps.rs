//! Which elements along an axis an element of a resized axis is made of, and what they weigh: ONNX's definition of `Resize`, in tables.
//!
//! Everything is computed as ONNX's reference does it, in doubles. Where a coordinate is a whole number, the neighbour on its left counts as the first
//! one, with a distance of one.

use crate::error::{Result, ScoreError};
use crate::graph::Attributes;

/// How coordinates of the result become coordinates of the input, along one axis.
#[derive(Debug, Clone, Copy)]
pub(super) struct Axis {
    pub(super) length: usize,
    pub(super) made: usize,
    pub(super) scale: f64,
    /// The part of the input that is resized, from 0 to 1, for `tf_crop_and_resize`.
    pub(super) region: (f64, f64),
}

/// What is done along each axis.
#[derive(Debug, Clone)]
pub(super) struct Mode {
    kind: Kind,
    coordinates: Coordinates,
    exclude_outside: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Nearest(Nearest),
    Linear { antialias: bool },
    Cubic { antialias: bool, a: f64 },
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Nearest {
    PreferFloor,
    PreferCeil,
    Floor,
    Ceil,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Coordinates {
    HalfPixel,
    Symmetric,
    PyTorch,
    AlignCorners,
    Asymmetric,
    Crop,
}

/// So many elements for each element of the result.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Taps {
    pub(super) each: usize,
    pub(super) from: Vec<i64>,
    pub(super) weights: Vec<f64>,
    /// Elements of the result that are outside of the input, and get a value of their own.
    pub(super) outside: Vec<bool>,
}

impl Mode {
    /// # Errors
    /// `BadModel` for a mode that ONNX does not have.
    pub(super) fn of(attributes: &Attributes) -> Result<Self> {
        let text = |name: &str, default: &'static str| attributes.text(name).unwrap_or(default).to_owned();
        let wrong = |name: &str, value: &str| Err(ScoreError::bad_model(format!("{name} is '{value}'")));
        let antialias = attributes.flag("antialias");
        let kind = match text("mode", "nearest").as_str() {
            "nearest" => Kind::Nearest(match text("nearest_mode", "round_prefer_floor").as_str() {
                "round_prefer_floor" => Nearest::PreferFloor,
                "round_prefer_ceil" => Nearest::PreferCeil,
                "floor" => Nearest::Floor,
                "ceil" => Nearest::Ceil,
                other => return wrong("nearest_mode", other),
            }),
            "linear" => Kind::Linear { antialias },
            "cubic" => {
                let a = f64::from(attributes.float("cubic_coeff_a").unwrap_or(-0.75));
                Kind::Cubic { antialias, a }
            }
            other => return wrong("mode", other),
        };
        let coordinates = match text("coordinate_transformation_mode", "half_pixel").as_str() {
            "half_pixel" => Coordinates::HalfPixel,
            "half_pixel_symmetric" => Coordinates::Symmetric,
            "pytorch_half_pixel" => Coordinates::PyTorch,
            "align_corners" => Coordinates::AlignCorners,
            "asymmetric" => Coordinates::Asymmetric,
            "tf_crop_and_resize" => Coordinates::Crop,
            other => return wrong("coordinate_transformation_mode", other),
        };
        Ok(Self { kind, coordinates, exclude_outside: attributes.flag("exclude_outside") })
    }

    pub(super) fn is_nearest(&self) -> bool {
        matches!(self.kind, Kind::Nearest(_))
    }

    pub(super) fn is_crop(&self) -> bool {
        self.coordinates == Coordinates::Crop
    }

    /// Whether nothing happens along an axis.
    pub(super) fn keeps(&self, axis: &Axis) -> bool {
        let is_whole = !self.is_crop() || axis.region == (0.0, 1.0);
        axis.length == axis.made && (axis.scale - 1.0).abs() <= 1e-9 && is_whole
    }

    /// The input's coordinate of an element of the result.
    fn coordinate(&self, axis: &Axis, element: usize) -> f64 {
        let (x, length) = (element as f64, axis.length as f64);
        // As long as the scale says, which need not be a whole number.
        let made = axis.scale * length;
        match self.coordinates {
            Coordinates::AlignCorners if made == 1.0 => 0.0,
            Coordinates::AlignCorners => x * (length - 1.0) / (made - 1.0),
            Coordinates::Asymmetric => x / axis.scale,
            Coordinates::PyTorch if made == 1.0 => -0.5,
            Coordinates::PyTorch | Coordinates::HalfPixel => (x + 0.5) / axis.scale - 0.5,
            Coordinates::Symmetric => {
                let offset = length / 2.0 * (1.0 - axis.made as f64 / made);
                offset + (x + 0.5) / axis.scale - 0.5
            }
            Coordinates::Crop => {
                let (start, end) = axis.region;
                let along = match made == 1.0 {
                    true => (end - start) * (length - 1.0) / 2.0,
                    false => x * (end - start) * (length - 1.0) / (made - 1.0),
                };
                along + start * (length - 1.0)
            }
        }
    }

    /// The tables of an axis.
    pub(super) fn taps(&self, axis: &Axis) -> Taps {
        let last = axis.length.saturating_sub(1) as f64;
        let mut taps = Taps { each: 1, from: Vec::new(), weights: Vec::new(), outside: Vec::new() };
        for element in 0..axis.made {
            let x = self.coordinate(axis, element);
            taps.outside.push(self.is_crop() && !(0.0..=last).contains(&x));
            let whole = x.fract() == 0.0;
            let (left, distance) = if whole { (x - 1.0, 1.0) } else { (x.floor(), x - x.floor()) };
            let (first, weights) = self.weights(distance, axis.scale);
            taps.each = weights.len();
            let places = (0..weights.len()).map(|t| left + (first + t as i64) as f64);
            let is_inside = |place: f64| (0.0..=last).contains(&place);
            let counted = places
                .clone()
                .zip(&weights)
                .map(|(place, weight)| if self.exclude_outside && !is_inside(place) { 0.0 } else { *weight });
            let sum = if self.exclude_outside { counted.clone().sum::<f64>() } else { 1.0 };
            let sum = if sum == 0.0 { 1.0 } else { sum };
            taps.weights.extend(counted.map(|weight| weight / sum));
            taps.from.extend(places.map(|place| place.clamp(0.0, last) as i64));
        }
        taps
    }

    /// What the neighbours weigh for a coordinate that far right of its left neighbour; and which of them, counted from that one, is the first.
    fn weights(&self, distance: f64, scale: f64) -> (i64, Vec<f64>) {
        match self.kind {
            Kind::Nearest(nearest) => {
                let is_right = match nearest {
                    _ if distance == 1.0 => true,
                    Nearest::PreferFloor => distance > 0.5,
                    Nearest::PreferCeil => distance >= 0.5,
                    Nearest::Floor => false,
                    Nearest::Ceil => true,
                };
                (i64::from(is_right), vec![1.0])
            }
            Kind::Linear { antialias: false } => (0, vec![1.0 - distance, distance]),
            Kind::Linear { antialias: true } => {
                spread(scale, 1.0, distance, |x| (1.0 - x.abs()).clamp(0.0, 1.0))
            }
            Kind::Cubic { antialias: false, a } => {
                (-1, (-1..3).map(|t| cubic(f64::from(t) - distance, a)).collect())
            }
            Kind::Cubic { antialias: true, a } => spread(scale, 2.0, distance, |x| cubic(x, a)),
        }
    }
}

/// The filter of cubic convolution (Keys 1981).
fn cubic(x: f64, a: f64) -> f64 {
    let x = x.abs();
    if x <= 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a
    } else {
        0.0
    }
}

/// A filter that is stretched as far as the result is smaller, its weights adding up to one.
fn spread(scale: f64, reach: f64, distance: f64, filter: impl Fn(f64) -> f64) -> (i64, Vec<f64>) {
    let scale = scale.min(1.0);
    let first = (-reach / scale).floor() as i64 + 1;
    let weights = (first..2 - first).map(|t| filter(scale * (t as f64 - distance))).collect::<Vec<_>>();
    let sum = weights.iter().sum::<f64>();
    (first, weights.into_iter().map(|w| w / sum).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taps(attributes: Attributes, length: usize, made: usize) -> Taps {
        let scale = made as f64 / length as f64;
        Mode::of(&attributes).unwrap().taps(&Axis { length, made, scale, region: (0.0, 1.0) })
    }

    #[test]
    fn tables_are_those_of_the_definition() {
        let of = |mode: &str, coordinates: &str| {
            Attributes::new().with_text("mode", mode).with_text("coordinate_transformation_mode", coordinates)
        };
        assert_eq!(taps(of("nearest", "asymmetric"), 2, 4).from, [0, 0, 1, 1]);
        let floor = of("nearest", "half_pixel").with_text("nearest_mode", "floor");
        assert_eq!(taps(floor, 2, 4).from, [0, 0, 0, 1]);
        let linear = taps(of("linear", "align_corners"), 2, 3);
        assert_eq!((linear.each, linear.from.as_slice()), (2, [0, 0, 0, 1, 0, 1].as_slice()));
        assert_eq!(linear.weights, [0.0, 1.0, 0.5, 0.5, 0.0, 1.0]);
        let cubic = taps(of("cubic", "half_pixel"), 4, 8);
        assert_eq!((cubic.each, &cubic.from[4..8]), (4, [0, 0, 1, 2].as_slice()));
        assert!((cubic.weights.iter().sum::<f64>() - 8.0).abs() < 1e-12);
        let wide = taps(of("linear", "half_pixel").with_int("antialias", 1), 4, 2);
        assert_eq!(wide.each, 4);
        assert!((wide.weights[..4].iter().sum::<f64>() - 1.0).abs() < 1e-12);
        assert!(
            Mode::of(&of("bicubic", "half_pixel")).unwrap_err().to_string().contains("mode is 'bicubic'")
        );
    }
}
