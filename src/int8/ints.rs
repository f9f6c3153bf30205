//! Quantised tensors and accumulators as plain numbers.

use crate::error::{Result, ScoreError};
use crate::int8::QType;
use crate::tensor::{DType, Tensor, element_count};

/// The integers of a quantised tensor, row-major, each as an i32 whatever its type: the oracle is no place to save bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ints {
    shape: Vec<usize>,
    values: Vec<i32>,
}

/// Exact sums of products, row-major.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accumulators {
    /// The length of each axis.
    pub shape: Vec<usize>,
    /// The sums.
    pub values: Vec<i64>,
}

impl Ints {
    /// A tensor of that shape.
    ///
    /// # Errors
    /// `BadInput` where shape and number of values do not agree.
    pub fn new(shape: &[usize], values: Vec<i32>) -> Result<Self> {
        let expected = element_count(shape)?;
        if expected != values.len() {
            let what = format!("shape {shape:?} has {expected} elements, got {}", values.len());
            return Err(ScoreError::bad_input(what));
        }
        Ok(Self { shape: shape.to_vec(), values })
    }

    /// The integers of a tensor of u8, i8, u16, i16 or i32.
    ///
    /// # Errors
    /// `Unsupported` for another type.
    pub fn of(tensor: &Tensor) -> Result<Self> {
        fn wide<T: Copy + Into<i32>>(slice: &[T]) -> Vec<i32> {
            slice.iter().map(|v| (*v).into()).collect()
        }
        let values = match tensor.dtype() {
            DType::U8 => wide(tensor.as_slice::<u8>()?),
            DType::I8 => wide(tensor.as_slice::<i8>()?),
            DType::U16 => wide(tensor.as_slice::<u16>()?),
            DType::I16 => wide(tensor.as_slice::<i16>()?),
            DType::I32 => tensor.as_slice::<i32>()?.to_vec(),
            other => {
                return Err(ScoreError::unsupported(format!(
                    "{other} is no type of integers to compute with"
                )));
            }
        };
        Self::new(tensor.shape(), values)
    }

    /// As a tensor of that type; what does not fit it saturates.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn to_tensor(&self, qtype: QType) -> Result<Tensor> {
        let narrow = |v: &i32| qtype.saturate((*v).into());
        let (shape, values) = (&self.shape, self.values.iter().map(narrow));
        match qtype {
            QType::U8 => Tensor::from_slice(shape, &values.map(|v| v as u8).collect::<Vec<_>>()),
            QType::I8 => Tensor::from_slice(shape, &values.map(|v| v as i8).collect::<Vec<_>>()),
            QType::U16 => Tensor::from_slice(shape, &values.map(|v| v as u16).collect::<Vec<_>>()),
            QType::I16 => Tensor::from_slice(shape, &values.map(|v| v as i16).collect::<Vec<_>>()),
        }
    }

    /// The length of each axis.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The integers.
    pub fn values(&self) -> &[i32] {
        &self.values
    }

    /// How many there are along an axis; 1 where there is no such axis.
    pub(super) fn length(&self, axis: usize) -> usize {
        self.shape.get(axis).copied().unwrap_or(1)
    }

    /// The integer at that place; nothing is stored outside, so outside is zero.
    pub(super) fn at(&self, place: usize) -> i32 {
        self.values.get(place).copied().unwrap_or(0)
    }

    /// The same integers in another shape of as many.
    ///
    /// # Errors
    /// `BadInput` where it has more or fewer.
    pub fn reshape(self, shape: &[usize]) -> Result<Self> {
        Self::new(shape, self.values)
    }

    /// Each integer through a function.
    pub(super) fn map(&self, f: impl Fn(i32) -> i32) -> Self {
        Self { shape: self.shape.clone(), values: self.values.iter().map(|v| f(*v)).collect() }
    }
}

/// The shape that two broadcast to, as NumPy does it.
///
/// # Errors
/// `BadInput` with both shapes where they do not.
pub(super) fn broadcast(a: &[usize], b: &[usize]) -> Result<Vec<usize>> {
    let rank = a.len().max(b.len());
    let length = |shape: &[usize], axis: usize| match (axis + shape.len()).checked_sub(rank) {
        Some(at) => shape.get(at).copied().unwrap_or(1),
        None => 1,
    };
    let together = |axis| match (length(a, axis), length(b, axis)) {
        (a, b) if a == b || b == 1 => Some(a),
        (1, b) => Some(b),
        _ => None,
    };
    let shape = (0..rank).map(together).collect::<Option<Vec<_>>>();
    shape.ok_or_else(|| ScoreError::bad_input(format!("shapes {a:?} and {b:?} do not broadcast")))
}

/// Where each element of a tensor of shape `to` lies in one of shape `from` that broadcasts to it.
pub(super) fn broadcast_places(from: &[usize], to: &[usize]) -> Vec<usize> {
    let before = to.len() - from.len().min(to.len());
    let mut strides = vec![0; to.len()];
    let mut stride = 1;
    for (axis, length) in from.iter().enumerate().rev() {
        if let Some(s) = strides.get_mut(before + axis).filter(|_| *length != 1) {
            *s = stride;
        }
        stride *= length;
    }
    let count = to.iter().product::<usize>();
    let place = |mut i: usize| {
        let mut place = 0;
        for (length, stride) in to.iter().zip(&strides).rev() {
            place += i % length.max(&1) * stride;
            i /= length.max(&1);
        }
        place
    };
    (0..count).map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_go_into_tensors_and_back() {
        for (qtype, values) in [
            (QType::U8, vec![0, 255]),
            (QType::I8, vec![-128, 127]),
            (QType::U16, vec![0, 65_535]),
            (QType::I16, vec![-32_768, 32_767]),
        ] {
            let ints = Ints::new(&[2], values).unwrap();
            assert_eq!(Ints::of(&ints.to_tensor(qtype).unwrap()).unwrap(), ints);
        }
        assert!(Ints::new(&[3], vec![1]).is_err());
        assert!(Ints::of(&Tensor::from_slice(&[1], &[1f32]).unwrap()).is_err());
    }

    #[test]
    fn broadcasting_is_numpys() {
        type Row<'a> = (&'a [usize], &'a [usize], Option<&'a [usize]>);
        let rows: [Row<'_>; 6] = [
            (&[2, 3], &[3], Some(&[2, 3])),
            (&[2, 1], &[1, 3], Some(&[2, 3])),
            (&[], &[4], Some(&[4])),
            (&[0, 3], &[1, 3], Some(&[0, 3])),
            (&[2, 3], &[2], None),
            (&[1], &[0], Some(&[0])),
        ];
        for (a, b, expected) in rows {
            assert_eq!(broadcast(a, b).ok().as_deref(), expected, "{a:?} {b:?}");
        }
        assert_eq!(broadcast_places(&[2, 1], &[2, 3]), [0, 0, 0, 1, 1, 1]);
        assert_eq!(broadcast_places(&[3], &[2, 3]), [0, 1, 2, 0, 1, 2]);
    }
}
