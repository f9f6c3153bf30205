//! Where decoded elements go: a buffer that grows like a `Vec` and is aligned as a tensor wants it.
//!
//! How many rows a body holds is known only at its end, so the buffer must grow; what it became is
//! handed to the tensor as it lies, without a copy. It grows by what was truly read, never by what a
//! body claims.

use bytemuck::{Pod, Zeroable};

use crate::error::{Result, ScoreError};
use crate::tensor::{Buffer, DType, Memory, Tensor};

/// What elements of one type are pushed into, and a tensor is made of.
pub(super) trait Column: Sized {
    /// The element as it is read.
    type Item: super::leaf::Leaf;

    /// An empty column with room for about so many elements.
    fn with_capacity(elements: usize) -> Result<Self>;

    /// One element more.
    fn push(&mut self, item: Self::Item) -> Result<()>;

    /// The tensor of all of them.
    fn finish(self, dtype: DType, shape: &[usize]) -> Result<Tensor>;
}

/// As much as a tensor's start is aligned to.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

const LINE_BYTES: usize = size_of::<Line>();

/// A column of elements of one fixed size.
pub(super) struct Cells<T> {
    lines: Vec<Line>,
    len: usize,
    item: std::marker::PhantomData<T>,
}

impl<T: Pod + super::leaf::Leaf> Cells<T> {
    fn grow(&mut self) -> Result<()> {
        let more = self.lines.len().max(1);
        self.lines.try_reserve(more).map_err(|_| out_of_memory(self.lines.len() * 2 * LINE_BYTES))?;
        self.lines.resize(self.lines.len() + more, Line::zeroed());
        Ok(())
    }
}

impl<T: Pod + super::leaf::Leaf> Column for Cells<T> {
    type Item = T;

    fn with_capacity(elements: usize) -> Result<Self> {
        let lines = elements.saturating_mul(size_of::<T>()).div_ceil(LINE_BYTES);
        let mut cells = Self { lines: Vec::new(), len: 0, item: std::marker::PhantomData };
        cells.lines.try_reserve_exact(lines).map_err(|_| out_of_memory(lines * LINE_BYTES))?;
        cells.lines.resize(lines, Line::zeroed());
        Ok(cells)
    }

    #[inline]
    fn push(&mut self, item: T) -> Result<()> {
        loop {
            let slots: &mut [T] = bytemuck::cast_slice_mut(&mut self.lines);
            if let Some(slot) = slots.get_mut(self.len) {
                *slot = item;
                self.len += 1;
                return Ok(());
            }
            self.grow()?;
        }
    }

    fn finish(self, dtype: DType, shape: &[usize]) -> Result<Tensor> {
        let bytes = self.len * size_of::<T>();
        Tensor::new(dtype, shape, Buffer::from_memory(Lines { lines: self.lines, bytes })?)
    }
}

/// The finished buffer: the first so many bytes of the lines.
struct Lines {
    lines: Vec<Line>,
    bytes: usize,
}

impl Memory for Lines {
    fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(&self.lines).get(..self.bytes).unwrap_or_default()
    }
}

impl Column for Vec<String> {
    type Item = String;

    fn with_capacity(elements: usize) -> Result<Self> {
        let mut strings = Vec::new();
        strings.try_reserve(elements).map_err(|_| out_of_memory(elements * size_of::<String>()))?;
        Ok(strings)
    }

    fn push(&mut self, item: String) -> Result<()> {
        if self.len() == self.capacity() {
            self.try_reserve(1).map_err(|_| out_of_memory(self.len() * 2 * size_of::<String>()))?;
        }
        Vec::push(self, item);
        Ok(())
    }

    fn finish(self, _: DType, shape: &[usize]) -> Result<Tensor> {
        Tensor::strings(shape, self)
    }
}

fn out_of_memory(bytes: usize) -> ScoreError {
    ScoreError::out_of_memory(format!("cannot allocate {bytes} bytes for the tensors of this request"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_pushed_is_what_the_tensor_holds() {
        for n in [0usize, 1, 15, 16, 17, 1000] {
            for capacity in [0, 1, n, 5000] {
                let mut cells = Cells::<f32>::with_capacity(capacity).unwrap();
                (0..n).for_each(|i| cells.push(i as f32).unwrap());
                let tensor = cells.finish(DType::F32, &[n]).unwrap();
                let expected = (0..n).map(|i| i as f32).collect::<Vec<_>>();
                assert_eq!(tensor.as_slice::<f32>().unwrap(), expected);
            }
        }
        let mut one = Cells::<i64>::with_capacity(0).unwrap();
        one.push(7).unwrap();
        assert!(one.finish(DType::I64, &[2]).is_err(), "the shape must agree");
    }

    #[test]
    fn an_impossible_capacity_is_an_error() {
        assert!(Cells::<f64>::with_capacity(usize::MAX / 16).is_err());
    }
}
