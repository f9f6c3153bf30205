//! Convolutions on tensor cores: which of them they take, and how images and weights must lie.
//!
//! A tile's piece of 16 bytes must be of one pixel, so channels come last and are a multiple of a piece; the three channels of a first layer get zeros beside
//! them, in the images and in the weights. Weights are `[output][taps · channels]`. Where the kernel is one pixel and no place is left out, it is a
//! matrix product.

use super::pointwise::literal;
use super::program::{Array, Program, Register, stored_name};
use super::sources::Source;
use super::tensor_product::{Tile, lies_in_pieces, piece_elements};
use super::text::{Access, Struct};
use super::windows::{FEW_OUTPUTS, Images, three};
use super::{Argument, Base, Deferred, Operator, Planner, floats};
use crate::error::{Result, ScoreError};
use crate::graph::{Node, Window};
use crate::layout::view::View;
use crate::layout::view::channels_last;
use crate::tensor::{DType, Tensor};

impl Planner<'_> {
    /// A convolution without its bias, if tensor cores take it.
    pub(super) fn conv_on_tensor_cores(
        &mut self,
        node: &Node,
        shape: &[usize],
        window: &Window,
        groups: usize,
    ) -> Result<Option<Deferred>> {
        let (rank, weights) = (shape.len(), self.input_shape(node, 1)?);
        let (inputs, outputs) = (weights.get(1).copied().unwrap_or(0), shape.get(1).copied().unwrap_or(0));
        let per_group = outputs / groups.max(1);
        let Some(dtype) = self.tensor_type(self.input_dtype(node, 0)?, self.input_dtype(node, 1)?) else {
            return Ok(None);
        };
        let is_constant = node.input(1).is_some_and(|id| self.graph.constant(id).is_some());
        let padded = inputs.next_multiple_of(piece_elements(dtype)?);
        let is_padded = padded != inputs;
        // Pairs of results begin at even channels; only constants get zeros beside them.
        let is_taken = (3..=5).contains(&rank)
            && inputs > 0
            && per_group >= FEW_OUTPUTS
            && (groups == 1 || (!is_padded && per_group.is_multiple_of(2)))
            && (!is_padded || is_constant);
        if !is_taken {
            return Ok(None);
        }
        let x = self.pixels_in_pieces(node, dtype, padded * groups)?;
        let order = std::iter::once(0).chain(2..rank).chain([1]).collect::<Vec<_>>();
        let right = match node.input(1).and_then(|id| self.graph.constant(id)) {
            Some(tensor) if is_padded => {
                self.constant_array(with_channels(tensor, padded)?, &order, dtype)?
            }
            _ => self.dense(node, 1, &order, dtype)?,
        };
        if let Some(y) = self.as_product(&x, &right, shape, window, groups)? {
            return Ok(Some(y));
        }
        let lengths = three(x.view.shape.get(2..).unwrap_or_default(), 1);
        let images = Images { array: x, lengths, channels: padded * groups };
        let kernel = three(&window.kernel, 1);
        let words =
            self.window_words(&images, window, shape, (padded, per_group), [padded, kernel[2], kernel[1]]);
        let rows = shape.first().copied().unwrap_or(1) * shape.iter().skip(2).product::<usize>();
        let tile = Tile::of(rows, per_group, groups);
        let source = Source::new("conv_tensor", "conv_tensor", &["tensor_core", "tensor_tiles"])
            .define("ELEMENT", stored_name(dtype)?);
        let operator = match self.conv_on_wgmma(&images, &right, window, shape, groups)? {
            Some(operator) => operator,
            None => Operator {
                source: tile.define(source),
                grid: [per_group.div_ceil(tile.columns), rows.div_ceil(tile.rows), groups],
                block: tile.threads(),
                shared_bytes: tile.shared_bytes(),
                arguments: vec![
                    Argument::Result,
                    Argument::at(&images.array.view),
                    Argument::at(&right.view),
                    Argument::Struct(Struct { pointers: Vec::new(), words }),
                ],
                writes: Vec::new(),
            },
        };
        let places = std::iter::once(0).chain(2..rank).collect();
        let access = Access::Pairs(vec![places, vec![1]]);
        let library = self.conv_form(&images.array, &right, window, shape);
        let base = Base { operator, access, order: channels_last(rank), library };
        let program = Program::given(Register::F32, shape);
        Ok(Some(Deferred { program, base: Some(Box::new(base)), origins: Vec::new() }))
    }

    /// The images with their channels last, so many of them: a copy, unless they lie so.
    fn pixels_in_pieces(&mut self, node: &Node, dtype: DType, channels: usize) -> Result<Array> {
        let x = self.memory(node, 0)?;
        if x.dtype == dtype && x.view.length(1) == channels && lies_in_pieces(&x.view, 1) {
            return Ok(x);
        }
        let order = channels_last(x.view.shape.len());
        if x.view.length(1) == channels {
            return self.dense(node, 0, &order, dtype);
        }
        let own = x.view.length(1);
        let mut shape = x.view.shape.clone();
        let mut part = |length: usize| {
            if let Some(slot) = shape.get_mut(1) {
                *slot = length;
            }
            shape.clone()
        };
        let (whole, zeros) = (part(channels), part(channels - own));
        let whole = self.allocate(&whole, dtype, Some(&order))?;
        let beside = whole.view.offset.checked_add_signed(whole.view.stride(1) * own as isize);
        let into = |shape: &[usize], offset: usize| Array {
            view: View { shape: shape.to_vec(), offset, ..whole.view.clone() },
            dtype,
        };
        let behind = into(&zeros, beside.unwrap_or(0));
        self.map(&Program::of(x.clone())?, &into(&x.view.shape, whole.view.offset), &node.origins)?;
        self.map(&literal(Register::F32, 0.0, &zeros).program, &behind, &node.origins)?;
        Ok(whole)
    }

    /// A convolution of one pixel as a product of all pixels with the weights.
    fn as_product(
        &mut self,
        x: &Array,
        weights: &Array,
        shape: &[usize],
        window: &Window,
        groups: usize,
    ) -> Result<Option<Deferred>> {
        let rank = shape.len();
        let is_one = groups == 1
            && window.kernel.iter().chain(&window.strides).all(|n| *n == 1)
            && x.view.shape.get(2..) == shape.get(2..);
        let (channels, outputs) = (x.view.length(1), weights.view.length(0));
        let rows = x.view.count().checked_div(channels).unwrap_or(0);
        let pixels = x.view.transposed(&channels_last(rank)).reshaped(&[rows, channels]);
        let weights_view = weights.view.reshaped(&[outputs, channels]);
        let (true, Some(pixels), Some(right)) = (is_one, pixels, weights_view) else { return Ok(None) };
        let (left, right) = (
            Array { view: pixels, dtype: x.dtype },
            Array { view: right.transposed(&[1, 0]), dtype: weights.dtype },
        );
        let mut y = self.matmul(&left, &right, &[rows, outputs])?;
        let base = y.base.as_mut().ok_or_else(|| ScoreError::internal("a product that is done already"))?;
        let places = std::iter::once(0).chain(2..rank).collect();
        base.access = base.access.over(vec![vec![], places, vec![1]]);
        base.order = channels_last(rank);
        y.program = Program::given(y.program.register(), shape);
        Ok(Some(y))
    }
}

/// Weights with so many channels, zeros for those that are new.
fn with_channels(weights: &Tensor, channels: usize) -> Result<Tensor> {
    let mut shape = weights.shape().to_vec();
    let taps = shape.iter().skip(2).product::<usize>();
    let own = shape.get(1).copied().unwrap_or(0) * taps;
    if let Some(slot) = shape.get_mut(1) {
        *slot = channels;
    }
    let mut numbers = Vec::with_capacity(shape.iter().product());
    for output in floats(weights)?.chunks(own.max(1)) {
        numbers.extend(output.iter().map(|v| *v as f32));
        numbers.extend(std::iter::repeat_n(0.0, channels * taps - output.len()));
    }
    Tensor::from_slice(&shape, &numbers)
}
