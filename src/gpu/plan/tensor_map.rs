//! A tensor as Hopper copies tiles of it: said here, encoded by the driver when it is known where the tensor lies, and given to a kernel by value.

use crate::tensor::DType;

/// How a tensor lies, and what a copy takes of it.
#[derive(Debug, Clone, PartialEq)]
pub(in super::super) struct TensorMap<Place> {
    /// Floats of 32 bits are copied as TF32.
    pub(in super::super) dtype: DType,
    pub(in super::super) at: Place,
    /// The axis that lies together first.
    pub(in super::super) lengths: [usize; AXES],
    /// Bytes from one element to the next, of all axes but the first.
    pub(in super::super) strides: [usize; AXES - 1],
    pub(in super::super) taken: Taken,
}

/// All of triscore's have so many axes; some of one element.
pub(in super::super) const AXES: usize = 4;

/// What one copy takes.
#[derive(Debug, Clone, PartialEq)]
pub(in super::super) enum Taken {
    /// So many elements along each axis.
    Box([usize; AXES]),
    /// A pixel of each of so many windows, one after the other, of an image whose axes are channels, width, height and images.
    Windows(Windows),
}

/// The windows of a convolution as they begin in an image; of width and height, in this order.
#[derive(Debug, Clone, PartialEq)]
pub(in super::super) struct Windows {
    pub(in super::super) channels: usize,
    pub(in super::super) pixels: usize,
    /// Where the first one begins, from the first element; and where they end to begin, from behind the last one.
    pub(in super::super) lower: [i32; 2],
    pub(in super::super) upper: [i32; 2],
    pub(in super::super) steps: [usize; 2],
}

/// Of two axes, where windows begin and end to begin, and how far a pixel of one is from its begin.
const CORNERS: std::ops::RangeInclusive<i64> = -128..=127;
const MOST_OFFSET: i64 = 255;
const MOST_STEP: usize = 8;

/// How a convolution goes along an axis.
#[derive(Debug, Clone, Copy)]
pub(super) struct Along {
    pub(super) length: usize,
    pub(super) outputs: usize,
    pub(super) kernel: usize,
    pub(super) stride: usize,
    pub(super) dilation: usize,
    pub(super) pads: (usize, usize),
}

impl Windows {
    /// Windows along width and height; `None` where copies do not take them.
    pub(super) fn of(along: [Along; 2], channels: usize, pixels: usize) -> Option<Self> {
        let (mut lower, mut upper) = ([0; 2], [0; 2]);
        for ((axis, lower), upper) in along.iter().zip(&mut lower).zip(&mut upper) {
            // What is out of all bounds is not taken, and must not overflow before.
            let number = |n: usize| i64::from(u32::try_from(n).unwrap_or(u32::MAX));
            let reach = number(axis.kernel.saturating_sub(1).saturating_mul(axis.dilation));
            let (first, last) = (-number(axis.pads.0), number(axis.pads.1) - reach);
            // As many as the convolution has.
            let steps = (number(axis.length) + last - first).max(0) as u64;
            let is_taken = CORNERS.contains(&first)
                && CORNERS.contains(&last)
                && reach <= MOST_OFFSET
                && (1..=MOST_STEP).contains(&axis.stride)
                && steps.div_ceil(axis.stride as u64) == axis.outputs as u64;
            if !is_taken {
                return None;
            }
            (*lower, *upper) = (i32::try_from(first).ok()?, i32::try_from(last).ok()?);
        }
        Some(Self { channels, pixels, lower, upper, steps: along.map(|axis| axis.stride) })
    }
}

/// Copies take what begins at such multiples of bytes.
const ALIGN_BYTES: usize = 16;
/// And strides are less than this.
const MOST_STRIDE: usize = 1 << 40;

impl<Place> TensorMap<Place> {
    /// With its place said otherwise.
    pub(super) fn map<Other>(&self, place: impl Fn(&Place) -> Other) -> TensorMap<Other> {
        let TensorMap { dtype, at, lengths, strides, taken } = self;
        TensorMap { dtype: *dtype, at: place(at), lengths: *lengths, strides: *strides, taken: taken.clone() }
    }
}

/// Strides in bytes as copies take them, for axes of these lengths; `None` where they do not. Along an axis of one element any stride will do.
pub(super) fn strides(lengths: [usize; AXES - 1], given: [isize; AXES - 1]) -> Option<[usize; AXES - 1]> {
    let mut strides = [ALIGN_BYTES; AXES - 1];
    for ((stride, length), given) in strides.iter_mut().zip(lengths).zip(given) {
        if length != 1 {
            let is_taken = |s: &usize| *s > 0 && s.is_multiple_of(ALIGN_BYTES) && *s < MOST_STRIDE;
            *stride = usize::try_from(given).ok().filter(is_taken)?;
        }
    }
    Some(strides)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_those_of_the_convolution_or_none() {
        let good = Along { length: 9, outputs: 5, kernel: 3, stride: 2, dilation: 1, pads: (1, 1) };
        let of = |axis: Along| Windows::of([good, axis], 64, 128).map(|w| (w.lower, w.upper, w.steps));
        assert_eq!(of(good), Some(([-1, -1], [-1, -1], [2, 2])));
        let even = Along { length: 10, ..good };
        assert_eq!(of(even), Some(([-1, -1], [-1, -1], [2, 2])), "what is left over at the end");
        let wide = Along { outputs: 3, dilation: 2, pads: (0, 0), ..good };
        assert_eq!(of(wide), Some(([-1, 0], [-1, -4], [2, 2])));
        for wrong in [
            Along { outputs: 6, ..good },
            Along { stride: 9, outputs: 1, ..good },
            Along { pads: (129, 1), outputs: 69, ..good },
            Along { pads: (usize::MAX, usize::MAX), ..good },
            Along { kernel: usize::MAX, dilation: usize::MAX, ..good },
            Along { length: 400, kernel: 2, dilation: 256, stride: 1, outputs: 146, ..good },
        ] {
            assert_eq!(of(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn strides_are_what_copies_take_or_none() {
        let rows = [
            ([9, 2, 3], [32, 16, 64], Some([32, 16, 64])),
            ([9, 1, 3], [32, 7, 64], Some([32, 16, 64])),
            ([9, 2, 3], [0, 16, 64], None),
            ([9, 2, 3], [32, -16, 64], None),
            ([9, 2, 3], [32, 24, 64], None),
            ([9, 2, 3], [32, 16, 1 << 40], None),
        ];
        for (lengths, given, expected) in rows {
            assert_eq!(strides(lengths, given), expected, "{lengths:?} {given:?}");
        }
    }
}
