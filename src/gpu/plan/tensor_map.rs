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
