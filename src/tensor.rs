//! Tensors: the one currency between callers, backends and the wire.
//!
//! A tensor is an element type, a shape, and row-major bytes (or strings). [`Tensor::new`] and
//! [`Tensor::strings`] are the only ways to make one, and they check that the three agree with
//! overflow-checked arithmetic; whatever receives a tensor may therefore rely on it. A tensor never
//! changes after it was made, so clones and rows of it share their bytes.
//!
//! ```
//! use triscore::{DType, Tensor};
//!
//! let t = Tensor::from_slice(&[2, 3], &[1f32, 2., 3., 4., 5., 6.])?;
//! assert_eq!((t.dtype(), t.shape()), (DType::F32, &[2, 3][..]));
//! assert_eq!(t.view::<f32>()?[[1, 0]], 4.0); // an ndarray view, nothing copied
//! assert!(t.as_slice::<i64>().is_err()); // the wrong element type is an error, never a guess
//! # Ok::<(), triscore::ScoreError>(())
//! ```

mod batch;
mod buffer;
mod difference;
mod dtype;
mod float8;
mod value;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use ndarray::{ArrayView, ArrayViewD, Dimension, IxDyn};

pub use buffer::{ALIGN_BYTES, AlignedBytes, Buffer, Memory};
pub use difference::Difference;
pub use dtype::{DType, Element};
pub use float8::{F8E4M3, F8E5M2};
pub use value::{Map, Value};

use crate::error::{Result, ScoreError};

/// An immutable n-dimensional array of one element type, row-major, cheap to clone.
#[derive(Clone)]
pub struct Tensor {
    dtype: DType,
    shape: Vec<usize>,
    data: Data,
}

#[derive(Clone)]
enum Data {
    /// A range of bytes of a shared buffer.
    Bytes(Buffer, Range<usize>),
    /// A range of shared strings.
    Strings(Arc<[String]>, Range<usize>),
}

/// How many elements a shape holds; an error where the product does not fit an address.
pub fn element_count(shape: &[usize]) -> Result<usize> {
    // A zero anywhere makes the count zero, however large the other dimensions are.
    if shape.contains(&0) {
        return Ok(0);
    }
    shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d)).ok_or_else(|| {
        ScoreError::bad_input(format!("shape {shape:?} has more elements than memory has addresses"))
    })
}

impl Tensor {
    /// A tensor over bytes that are already there: row-major, little-endian, exactly as long as the
    /// shape says.
    ///
    /// # Errors
    /// `BadInput` when the shape overflows, when the length of the buffer is not the number of elements
    /// times their size, when a `bool` is neither 0 nor 1, or when `dtype` is
    /// [`DType::String`] (see [`Tensor::strings`]).
    pub fn new(dtype: DType, shape: &[usize], buffer: impl Into<Buffer>) -> Result<Self> {
        let buffer = buffer.into();
        let expected = byte_count(dtype, shape)?;
        let bytes = buffer.as_slice();
        if bytes.len() != expected {
            return Err(ScoreError::bad_input(format!(
                "a {dtype} tensor of shape {shape:?} has {expected} bytes, got {}",
                bytes.len()
            )));
        }
        if dtype == DType::Bool
            && let Some(at) = bytes.iter().position(|b| *b > 1)
        {
            return Err(ScoreError::bad_input(format!("element {at} of a bool tensor is neither 0 nor 1")));
        }
        Ok(Self { dtype, shape: shape.to_vec(), data: Data::Bytes(buffer, 0..expected) })
    }

    /// A tensor of text.
    ///
    /// # Errors
    /// `BadInput` when the number of strings is not what the shape says.
    pub fn strings(shape: &[usize], strings: impl Into<Arc<[String]>>) -> Result<Self> {
        let strings = strings.into();
        let (expected, got) = (element_count(shape)?, strings.len());
        if got != expected {
            return Err(ScoreError::bad_input(format!(
                "a string tensor of shape {shape:?} has {expected} elements, got {got}"
            )));
        }
        Ok(Self { dtype: DType::String, shape: shape.to_vec(), data: Data::Strings(strings, 0..got) })
    }

    /// A tensor with a copy of `elements`.
    ///
    /// # Errors
    /// `BadInput` when the number of elements is not what the shape says; `OutOfMemory`.
    pub fn from_slice<T: Element>(shape: &[usize], elements: &[T]) -> Result<Self> {
        Self::new(T::DTYPE, shape, AlignedBytes::copy_of(bytemuck::cast_slice(elements))?)
    }

    /// A tensor with a copy of an array, in row-major order whatever the array's own order is.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn from_array<T: Element, D: Dimension>(array: ArrayView<'_, T, D>) -> Result<Self> {
        match array.as_slice() {
            Some(elements) => Self::from_slice(array.shape(), elements),
            None => Self::from_slice(array.shape(), &array.iter().copied().collect::<Vec<T>>()),
        }
    }

    /// A tensor of zeros (of empty strings, for text).
    ///
    /// # Errors
    /// `BadInput` when the shape overflows; `OutOfMemory`.
    pub fn zeros(dtype: DType, shape: &[usize]) -> Result<Self> {
        match dtype {
            DType::String => Self::strings(shape, vec![String::new(); element_count(shape)?]),
            _ => Self::new(dtype, shape, AlignedBytes::zeroed(byte_count(dtype, shape)?)?),
        }
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The length of every axis; empty for a scalar.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// How many elements it holds.
    pub fn len(&self) -> usize {
        match &self.data {
            Data::Bytes(_, range) => self.dtype.size_bytes().map_or(0, |size| range.len() / size),
            Data::Strings(_, range) => range.len(),
        }
    }

    /// Whether it holds no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The size of its content in bytes: of the elements, or of all texts together.
    pub fn size_bytes(&self) -> usize {
        match &self.data {
            Data::Bytes(_, range) => range.len(),
            Data::Strings(..) => self.string_slice().iter().map(String::len).sum(),
        }
    }

    /// The elements as bytes, row-major; empty for text.
    pub fn as_bytes(&self) -> &[u8] {
        match &self.data {
            // The range was checked when the tensor was made, and a buffer never changes its length.
            Data::Bytes(buffer, range) => buffer.as_slice().get(range.clone()).unwrap_or_default(),
            Data::Strings(..) => &[],
        }
    }

    /// The elements, row-major.
    ///
    /// # Errors
    /// `BadInput` when `T` is not the tensor's element type.
    pub fn as_slice<T: Element>(&self) -> Result<&[T]> {
        if T::DTYPE != self.dtype {
            return Err(self.wrong_dtype(T::DTYPE));
        }
        bytemuck::checked::try_cast_slice(self.as_bytes()).map_err(|e| {
            ScoreError::internal(format!("a {} tensor's bytes are not its type: {e}", self.dtype))
        })
    }

    /// The texts, row-major.
    ///
    /// # Errors
    /// `BadInput` when it is not a tensor of text.
    pub fn as_strings(&self) -> Result<&[String]> {
        match &self.data {
            Data::Strings(..) => Ok(self.string_slice()),
            Data::Bytes(..) => Err(self.wrong_dtype(DType::String)),
        }
    }

    /// The elements as an n-dimensional view; nothing is copied.
    ///
    /// # Errors
    /// `BadInput` when `T` is not the tensor's element type.
    pub fn view<T: Element>(&self) -> Result<ArrayViewD<'_, T>> {
        ArrayView::from_shape(IxDyn(&self.shape), self.as_slice()?).map_err(|e| {
            ScoreError::internal(format!("shape {:?} does not fit its elements: {e}", self.shape))
        })
    }

    /// The same elements in another shape; nothing is copied.
    ///
    /// # Errors
    /// `BadInput` when the two shapes do not hold the same number of elements.
    pub fn reshape(&self, shape: &[usize]) -> Result<Self> {
        if element_count(shape)? != self.len() {
            return Err(ScoreError::bad_input(format!(
                "cannot reshape {:?} ({} elements) to {shape:?}",
                self.shape,
                self.len()
            )));
        }
        Ok(Self { shape: shape.to_vec(), ..self.clone() })
    }

    fn string_slice(&self) -> &[String] {
        match &self.data {
            Data::Strings(strings, range) => strings.get(range.clone()).unwrap_or_default(),
            Data::Bytes(..) => &[],
        }
    }

    fn wrong_dtype(&self, asked: DType) -> ScoreError {
        ScoreError::bad_input(format!("the tensor holds {}, it was read as {asked}", self.dtype))
    }
}

/// How many bytes the elements of a shape take.
fn byte_count(dtype: DType, shape: &[usize]) -> Result<usize> {
    let size = dtype.size_bytes().ok_or_else(|| {
        ScoreError::bad_input("a string tensor is made from strings, not from bytes: use Tensor::strings")
    })?;
    element_count(shape)?.checked_mul(size).ok_or_else(|| {
        ScoreError::bad_input(format!("a {dtype} tensor of shape {shape:?} has more bytes than memory"))
    })
}

impl PartialEq for Tensor {
    /// Equal type, shape and bits: two NaNs of the same bits are equal, +0 and −0 are not.
    fn eq(&self, other: &Self) -> bool {
        self.dtype == other.dtype
            && self.shape == other.shape
            && self.as_bytes() == other.as_bytes()
            && self.string_slice() == other.string_slice()
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor({}{:?})", self.dtype, self.shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn type_shape_and_bytes_must_agree() {
        let bytes = |n: usize| AlignedBytes::zeroed(n).unwrap();
        // (type, shape, bytes, what the message must say; empty = accepted)
        let cases: &[(DType, &[usize], usize, &str)] = &[
            (DType::F32, &[2, 3], 24, ""),
            (DType::F32, &[], 4, ""),
            (DType::F32, &[0, usize::MAX, 9], 0, ""),
            (DType::F64, &[2], 16, ""),
            (DType::F32, &[2, 3], 23, "24 bytes, got 23"),
            (DType::F32, &[2, 3], 28, "24 bytes, got 28"),
            (DType::F32, &[usize::MAX, 2], 8, "more elements than memory"),
            (DType::F64, &[usize::MAX / 2], 8, "more bytes than memory"),
            (DType::String, &[1], 1, "Tensor::strings"),
        ];
        for (dtype, shape, len, message) in cases {
            match Tensor::new(*dtype, shape, bytes(*len)) {
                Ok(t) => {
                    assert!(message.is_empty(), "{shape:?}");
                    assert_eq!((t.dtype(), t.shape(), t.size_bytes()), (*dtype, *shape, *len));
                }
                Err(e) => {
                    assert!(!message.is_empty() && e.to_string().contains(message), "{e}");
                    assert_eq!(e.kind(), crate::ErrorKind::BadInput);
                }
            }
        }
        let two = AlignedBytes::copy_of(&[0, 2]).unwrap();
        assert!(Tensor::new(DType::Bool, &[2], two).unwrap_err().to_string().contains("element 1"));
    }

    #[test]
    fn every_element_type_goes_in_and_out() {
        fn check<T: Element + PartialEq + fmt::Debug>(values: &[T]) {
            let t = Tensor::from_slice(&[values.len()], values).unwrap();
            assert_eq!(t.as_slice::<T>().unwrap(), values);
            assert_eq!(t.view::<T>().unwrap().len(), values.len());
            assert_eq!(t.as_bytes().as_ptr().addr() % ALIGN_BYTES, 0);
        }
        check(&[true, false]);
        check(&[half::f16::from_f32(1.5)]);
        check(&[half::bf16::from_f32(-2.0)]);
        check(&[1f32, f32::NAN.min(2.0)]);
        check(&[f64::MIN, f64::MAX]);
        check(&[i8::MIN, i8::MAX]);
        check(&[i16::MIN]);
        check(&[i32::MIN]);
        check(&[i64::MIN]);
        check(&[u8::MAX]);
        check(&[u16::MAX]);
        check(&[u32::MAX]);
        check(&[u64::MAX]);
    }

    #[test]
    fn strings_are_counted_and_not_mistaken_for_bytes() {
        let t = Tensor::strings(&[2, 1], vec!["brown".to_owned(), "fox".to_owned()]).unwrap();
        assert_eq!(t.as_strings().unwrap()[1], "fox");
        assert_eq!((t.len(), t.size_bytes()), (2, 8));
        assert!(t.as_slice::<u8>().is_err());
        assert!(Tensor::strings(&[3], vec![String::new()]).is_err());
    }

    #[test]
    fn arrays_of_any_layout_become_row_major() {
        let a = ndarray::arr2(&[[1i32, 2, 3], [4, 5, 6]]);
        let t = Tensor::from_array(a.t()).unwrap();
        assert_eq!(t.shape(), &[3, 2]);
        assert_eq!(t.as_slice::<i32>().unwrap(), &[1, 4, 2, 5, 3, 6]);
        assert_eq!(t.reshape(&[6]).unwrap().shape(), &[6]);
        assert!(t.reshape(&[5]).is_err());
    }
}
