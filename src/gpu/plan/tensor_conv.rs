//! Convolutions by tiles, as products are (`tensor_product`): which of them they take, and how images and weights must lie.
//!
//! A tile's piece of 16 bytes must be of one pixel, so channels come last and are a multiple of a piece; the three channels of a first layer get zeros beside
//! them, in the images and in the weights. Beyond an image is zero, or the zero point that stands for it. Weights are `[output][taps · channels]`. Where the kernel is one pixel and no place is left out, it is a
//! matrix product.

use super::pointwise::literal;
use super::program::{Array, Program, Register, stored_name};
use super::sources::Source;
use super::tensor_product::{Tile, lies_in_pieces, piece_elements};
use super::text::{Access, Struct};
use super::windows::{ConvForm, FEW_OUTPUTS, Images, Operand, three};
use super::{Argument, Base, Deferred, Operator, Planner};
use crate::error::{Result, ScoreError};
use crate::graph::{Node, Window};
use crate::layout::view::View;
use crate::layout::view::channels_last;
use crate::tensor::{AlignedBytes, DType, Tensor};

impl Planner<'_> {
    /// A convolution without its bias, if tensor cores take it. Where `beyond` is given, a piece of it stands for what is beyond the images, else zeros.
    pub(super) fn conv_on_tensor_cores(
        &mut self,
        node: &Node,
        form: &ConvForm,
        of: &Operand,
        by: &Operand,
        beyond: Option<&Array>,
    ) -> Result<Option<Deferred>> {
        let ConvForm { shape, window, groups, inputs, outputs: per_group } = form;
        let (rank, groups, inputs, per_group) = (shape.len(), *groups, *inputs, *per_group);
        let types = self.tensor_types(self.operand_dtype(node, of)?, self.operand_dtype(node, by)?);
        let Some([dtype, stored]) = types else { return Ok(None) };
        let constant = match by {
            Operand::Input(input) => self.input_id(node, *input).ok().and_then(|id| self.graph.constant(id)),
            Operand::Constant(tensor) => Some(tensor),
            Operand::Memory(_) => None,
        };
        let padded = inputs.next_multiple_of(piece_elements(dtype)?);
        let is_padded = padded != inputs;
        // Only constants get zeros beside them.
        let is_taken = (3..=5).contains(&rank)
            && inputs > 0
            && per_group >= FEW_OUTPUTS
            && (groups == 1 || !is_padded)
            && (!is_padded || constant.is_some());
        if !is_taken {
            return Ok(None);
        }
        let x = self.operand_array(node, of)?;
        let x = self.pixels_in_pieces(x, dtype, padded * groups, &node.origins)?;
        let order = std::iter::once(0).chain(2..rank).chain([1]).collect::<Vec<_>>();
        let right = match constant {
            Some(tensor) if is_padded => {
                self.constant_array(with_channels(tensor, padded)?, &order, stored)?
            }
            _ => self.operand_dense(node, by, &order, stored)?,
        };
        if let Some(y) = self.as_product(&x, &right, shape, window, groups)? {
            return Ok(Some(y));
        }
        let lengths = three(x.view.shape.get(2..).unwrap_or_default(), 1);
        let images = Images { array: x, lengths, channels: padded * groups };
        let kernel = three(&window.kernel, 1);
        let words =
            self.window_words(&images, window, shape, (padded, per_group), [padded, kernel[2], kernel[1]]);
        let sum = Register::of(dtype)?;
        let rows = shape.first().copied().unwrap_or(1) * shape.iter().skip(2).product::<usize>();
        let tile = Tile::of(rows, per_group, groups);
        let source = match self.is_plain(dtype) {
            true => {
                let needs =
                    &["tensor_core", "fours", "parts", "tiles", "float_tiles", "window", "conv_tiles"];
                Source::new("conv_float", "conv_float", needs)
            }
            false => {
                let needs =
                    &["tensor_core", "fours", "parts", "tiles", "tensor_tiles", "window", "conv_tiles"];
                let source = Source::new("conv_tensor", "conv_tensor", needs);
                source.define("ELEMENT", stored_name(dtype)?).define("RIGHT", stored_name(stored)?)
            }
        };
        let source = source.define("BEYOND", i32::from(beyond.is_some()));
        let operator = match self.conv_on_wgmma(&images, &right, window, shape, groups, beyond.is_some())? {
            Some(operator) => operator,
            None => {
                let operator = Operator {
                    source: tile.define(source),
                    grid: [per_group.div_ceil(tile.columns), rows.div_ceil(tile.rows), groups],
                    block: tile.threads(),
                    shared_bytes: tile.shared_bytes(),
                    arguments: vec![
                        Argument::Result,
                        Argument::at(&images.array.view),
                        Argument::at(&right.view),
                        Argument::at(&beyond.unwrap_or(&images.array).view),
                        Argument::Struct(Struct { pointers: Vec::new(), words }),
                    ],
                    writes: Vec::new(),
                };
                let depth = padded * kernel.iter().product::<usize>();
                self.in_parts(operator, tile, depth * images.array.view.size)
            }
        };
        let places = std::iter::once(0).chain(2..rank).collect();
        // A group's first channel, too, must begin where several are written at once.
        let first = [4, 2].into_iter().find(|n| groups == 1 || per_group.is_multiple_of(*n)).unwrap_or(1);
        let access = Access::Fours { groups: vec![places, vec![1]], first };
        let library = self.library_conv(&images.array, &right, window, shape);
        let base = Base { operator, access, order: channels_last(rank), library };
        let program = Program::given(sum, shape);
        Ok(Some(Deferred { program, base: Some(Box::new(base)), origins: Vec::new() }))
    }

    /// The images with their channels last, so many of them: a copy, unless they lie so.
    fn pixels_in_pieces(
        &mut self,
        x: Array,
        dtype: DType,
        channels: usize,
        origins: &[usize],
    ) -> Result<Array> {
        if x.dtype == dtype && x.view.length(1) == channels && lies_in_pieces(&x.view, 1) {
            return Ok(x);
        }
        let order = channels_last(x.view.shape.len());
        if x.view.length(1) == channels {
            return self.ordered(x, &order, dtype, origins);
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
        self.map(&Program::of(x.clone())?, &into(&x.view.shape, whole.view.offset), origins)?;
        self.map(&literal(Register::of(dtype)?, 0.0, &zeros).program, &behind, origins)?;
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
    let taps = shape.iter().skip(2).product::<usize>() * super::element_bytes(weights.dtype())?;
    let own = shape.get(1).copied().unwrap_or(0) * taps;
    if let Some(slot) = shape.get_mut(1) {
        *slot = channels;
    }
    let mut whole = AlignedBytes::zeroed(shape.first().copied().unwrap_or(0) * channels * taps)?;
    let outputs = whole.as_mut_slice().chunks_mut((channels * taps).max(1));
    for (to, from) in outputs.zip(weights.as_bytes().chunks(own.max(1))) {
        if let Some(to) = to.get_mut(..from.len()) {
            to.copy_from_slice(from);
        }
    }
    Tensor::new(weights.dtype(), &shape, whole)
}
