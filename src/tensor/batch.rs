//! Cutting tensors into rows and joining them again: what batching and batch splitting need.
//!
//! Rows along the first axis are contiguous, so cutting there shares the bytes. Any other axis copies.

use std::ops::Range;

use super::{AlignedBytes, DType, Data, Tensor, Value, element_count};
use crate::error::{Result, ScoreError};

impl Tensor {
    /// The part of the tensor whose index on `axis` lies in `rows`. Shares the bytes when `axis` is 0.
    ///
    /// # Errors
    /// `BadInput` when the axis or the range lies outside the shape; `OutOfMemory`.
    pub fn rows(&self, axis: usize, rows: Range<usize>) -> Result<Self> {
        let length = *self.shape.get(axis).ok_or_else(|| self.no_axis(axis))?;
        if rows.start > rows.end || rows.end > length {
            return Err(ScoreError::bad_input(format!(
                "rows {}..{} lie outside axis {axis} of shape {:?}",
                rows.start, rows.end, self.shape
            )));
        }
        let mut shape = self.shape.clone();
        if let Some(d) = shape.get_mut(axis) {
            *d = rows.len();
        }
        if axis == 0 {
            return Ok(self.leading_rows(shape, rows, length));
        }
        let blocks = Blocks::of(self, axis)?;
        let cut = blocks.inner * rows.start..blocks.inner * rows.end;
        match &self.data {
            Data::Strings(..) => {
                let all = self.string_slice().chunks_exact(blocks.outer_step.max(1));
                let picked = all.flat_map(|b| b.get(cut.clone()).unwrap_or_default());
                Tensor::strings(&shape, picked.cloned().collect::<Vec<_>>())
            }
            Data::Bytes(..) => {
                let mut out = AlignedBytes::zeroed(super::byte_count(self.dtype, &shape)?)?;
                let step = cut.len();
                if step > 0 {
                    let all = self.as_bytes().chunks_exact(blocks.outer_step);
                    for (to, from) in out.as_mut_slice().chunks_exact_mut(step).zip(all) {
                        to.copy_from_slice(from.get(cut.clone()).unwrap_or_default());
                    }
                }
                Tensor::new(self.dtype, &shape, out)
            }
        }
    }

    fn leading_rows(&self, shape: Vec<usize>, rows: Range<usize>, length: usize) -> Self {
        let data = match &self.data {
            Data::Bytes(buffer, all) => {
                let row = all.len().checked_div(length).unwrap_or(0);
                let start = all.start + row * rows.start;
                Data::Bytes(buffer.clone(), start..start + row * rows.len())
            }
            Data::Strings(strings, all) => {
                let row = all.len().checked_div(length).unwrap_or(0);
                let start = all.start + row * rows.start;
                Data::Strings(strings.clone(), start..start + row * rows.len())
            }
        };
        Self { dtype: self.dtype, shape, data }
    }

    /// The tensors one after another along `axis`.
    ///
    /// # Errors
    /// `BadInput` when there is none, or when they differ in type or in another axis; `OutOfMemory`.
    pub fn concat(axis: usize, parts: &[&Tensor]) -> Result<Self> {
        let (first, rest) =
            parts.split_first().ok_or_else(|| ScoreError::bad_input("cannot join zero tensors"))?;
        if rest.is_empty() {
            return Ok((*first).clone());
        }
        let mut shape = first.shape.clone();
        let length = shape.get_mut(axis).ok_or_else(|| first.no_axis(axis))?;
        for part in rest {
            if !first.joins(part, axis) {
                return Err(ScoreError::bad_input(format!(
                    "cannot join {first:?} and {part:?} along axis {axis}: they differ elsewhere"
                )));
            }
            *length = part.shape.get(axis).and_then(|d| length.checked_add(*d)).ok_or_else(|| {
                ScoreError::bad_input(format!("axis {axis} of the joined tensors is longer than memory"))
            })?;
        }
        let blocks = parts.iter().map(|p| Blocks::of(p, axis)).collect::<Result<Vec<_>>>()?;
        let outer = element_count(shape.get(..axis).unwrap_or_default())?;
        if first.dtype == DType::String {
            let mut joined = Vec::with_capacity(element_count(&shape)?);
            for i in 0..outer {
                for (part, b) in parts.iter().zip(&blocks) {
                    let block = b.outer_step * i..b.outer_step * (i + 1);
                    joined.extend_from_slice(part.string_slice().get(block).unwrap_or_default());
                }
            }
            return Tensor::strings(&shape, joined);
        }
        let mut out = AlignedBytes::zeroed(super::byte_count(first.dtype, &shape)?)?;
        let mut to = out.as_mut_slice();
        for i in 0..outer {
            for (part, b) in parts.iter().zip(&blocks) {
                let block = part.as_bytes().get(b.outer_step * i..b.outer_step * (i + 1)).unwrap_or_default();
                let (head, tail) = to.split_at_mut(block.len().min(to.len()));
                head.copy_from_slice(block);
                to = tail;
            }
        }
        Tensor::new(first.dtype, &shape, out)
    }

    /// Whether the two have one type and agree on every axis but this one.
    fn joins(&self, other: &Tensor, axis: usize) -> bool {
        let but = |t: &Tensor| {
            t.shape.iter().enumerate().filter(|(i, _)| *i != axis).map(|(_, d)| *d).collect::<Vec<_>>()
        };
        self.dtype == other.dtype && self.shape.len() == other.shape.len() && but(self) == but(other)
    }

    fn no_axis(&self, axis: usize) -> ScoreError {
        ScoreError::bad_input(format!("there is no axis {axis} in shape {:?}", self.shape))
    }
}

/// How a tensor falls into contiguous blocks along an axis, in bytes (in strings, for text).
struct Blocks {
    /// One step along the axis.
    inner: usize,
    /// All steps along the axis: one step along what lies outside of it.
    outer_step: usize,
}

impl Blocks {
    fn of(tensor: &Tensor, axis: usize) -> Result<Self> {
        let size = tensor.dtype.size_bytes().unwrap_or(1);
        let inside = tensor.shape.get(axis + 1..).unwrap_or_default();
        let inner = element_count(inside)?.saturating_mul(size);
        let length = tensor.shape.get(axis).copied().unwrap_or(0);
        Ok(Self { inner, outer_step: inner.saturating_mul(length) })
    }
}

impl Value {
    /// The part of the value that belongs to these rows of the batch: rows of a tensor along `axis`,
    /// elements of a sequence.
    ///
    /// # Errors
    /// `BadInput` when the range lies outside, or when it is a map, which has no rows.
    pub fn rows(&self, axis: usize, rows: Range<usize>) -> Result<Self> {
        match self {
            Self::Tensor(tensor) => tensor.rows(axis, rows).map(Value::Tensor),
            Self::Sequence(values) => {
                values.get(rows.clone()).map(|v| Self::Sequence(v.to_vec())).ok_or_else(|| {
                    let (start, end, len) = (rows.start, rows.end, values.len());
                    ScoreError::bad_input(format!("rows {start}..{end} lie outside a sequence of {len}"))
                })
            }
            Self::Map(_) => Err(ScoreError::bad_input("a map has no rows")),
        }
    }

    /// The values one after another: tensors along `axis`, sequences end to end.
    ///
    /// # Errors
    /// `BadInput` when they differ in kind, type or shape, or are maps.
    pub fn concat(axis: usize, parts: &[&Value]) -> Result<Self> {
        let mut tensors = Vec::with_capacity(parts.len());
        let mut sequence = Vec::new();
        for part in parts {
            match part {
                Value::Tensor(tensor) => tensors.push(tensor),
                Value::Sequence(values) => sequence.extend(values.iter().cloned()),
                Value::Map(_) => return Err(ScoreError::bad_input("maps cannot be joined")),
            }
        }
        match (tensors.len(), parts.len()) {
            (0, 1..) => Ok(Value::Sequence(sequence)),
            (t, all) if t == all => Tensor::concat(axis, &tensors).map(Value::Tensor),
            _ => Err(ScoreError::bad_input("tensors and sequences cannot be joined")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(shape: &[usize]) -> Tensor {
        let n = element_count(shape).unwrap();
        Tensor::from_slice(shape, &(0..n as i32).collect::<Vec<_>>()).unwrap()
    }

    fn texts(shape: &[usize]) -> Tensor {
        let n = element_count(shape).unwrap();
        Tensor::strings(shape, (0..n).map(|i| i.to_string()).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn what_is_cut_apart_joins_to_what_it_was() {
        for shape in [&[5][..], &[4, 3], &[3, 5, 2], &[2, 3, 0, 2], &[1, 7, 1], &[0, 4]] {
            for t in [numbers(shape), texts(shape)] {
                for axis in 0..shape.len() {
                    for cut in 0..=shape[axis] {
                        let head = t.rows(axis, 0..cut).unwrap();
                        let tail = t.rows(axis, cut..shape[axis]).unwrap();
                        assert_eq!(
                            Tensor::concat(axis, &[&head, &tail]).unwrap(),
                            t,
                            "{shape:?} {axis} {cut}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn rows_of_the_first_axis_share_the_bytes() {
        let t = numbers(&[4, 3]);
        let row = t.rows(0, 2..3).unwrap();
        assert_eq!(row.as_slice::<i32>().unwrap(), &[6, 7, 8]);
        assert_eq!(row.as_bytes().as_ptr(), t.as_bytes()[24..].as_ptr());
        assert_eq!(row.rows(0, 0..1).unwrap(), row);
        assert_eq!(t.rows(1, 1..3).unwrap().as_slice::<i32>().unwrap(), &[1, 2, 4, 5, 7, 8, 10, 11]);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let t = numbers(&[4, 3]);
        assert!(t.rows(2, 0..1).is_err());
        assert!(t.rows(0, 3..5).is_err());
        #[allow(clippy::reversed_empty_ranges)]
        let backwards = 3..2;
        assert!(t.rows(0, backwards).is_err());
        assert!(Tensor::concat(0, &[]).is_err());
        assert!(Tensor::concat(0, &[&t, &numbers(&[4, 2])]).is_err());
        assert!(Tensor::concat(0, &[&t, &texts(&[4, 3])]).is_err());
        assert!(Tensor::concat(0, &[&t, &numbers(&[4, 3, 1])]).is_err());
    }

    #[test]
    fn sequences_have_rows_too() {
        let v = |i: i32| Value::Tensor(Tensor::from_slice(&[1], &[i]).unwrap());
        let seq = Value::Sequence(vec![v(1), v(2), v(3)]);
        let parts = [seq.rows(0, 0..1).unwrap(), seq.rows(0, 1..3).unwrap()];
        assert_eq!(Value::concat(0, &[&parts[0], &parts[1]]).unwrap(), seq);
        assert!(Value::concat(0, &[&seq, &v(1)]).is_err());
        assert!(seq.rows(0, 2..4).is_err());
    }
}
