//! Convolutions on Hopper's own tensor cores: which of those that tensor cores take are `kernels/cuda/conv_wgmma.cu`'s.
//!
//! A copy brings a pixel of 128 or 256 windows at once, so many channels of it as a stage is deep. That is for channels that fill a stage for the most part, or
//! for several of them; few channels are better packed as `conv_tensor.cu` packs them. Three spatial axes are left to it, too, and what copies cannot
//! say of a window.

use super::program::Array;
use super::tensor_map::{self, Along, Taken, TensorMap, Windows};
use super::text::{Struct, divide};
use super::wgmma::step;
use super::windows::{Images, three};
use super::{Argument, Operator, Planner};
use crate::error::Result;
use crate::graph::Window;

impl Planner<'_> {
    /// The launch on Hopper's tensor cores, for weights `[outputs][taps · channels of a group]`; where `has_beyond`, what is beyond an image is not zero.
    pub(super) fn conv_on_wgmma(
        &self,
        images: &Images,
        weights: &Array,
        window: &Window,
        shape: &[usize],
        groups: usize,
        has_beyond: bool,
    ) -> Result<Option<Operator>> {
        let (view, size) = (&images.array.view, images.array.view.size);
        let (rank, outputs) = (shape.len(), shape.get(1).copied().unwrap_or(0));
        let (inputs, per_group) = (images.channels / groups.max(1), outputs / groups.max(1));
        let spatial = three(shape.get(2..).unwrap_or_default(), 1);
        let rows = shape.first().copied().unwrap_or(1) * spatial.iter().product::<usize>();
        let Some(tile) = self.wide_tile(images.array.dtype, [rows, per_group, groups]) else {
            return Ok(None);
        };
        let kernel = three(&window.kernel, 1);
        let padded = inputs.next_multiple_of(step(size));
        // A stage that reads another group's channels would multiply them with zeros, which is no zero for what is infinite.
        let is_deep = padded * 2 <= inputs * 3 && (groups == 1 || padded == inputs);
        if !is_deep || images.lengths[0] != 1 || kernel[0] != 1 || spatial[0] != 1 {
            return Ok(None);
        }
        let pads = (0..rank.saturating_sub(2)).map(|axis| {
            let own = window.kernel.get(axis).copied().unwrap_or(1);
            window.padding(axis, view.length(2 + axis), own)
        });
        let pads = three(&pads.collect::<Vec<_>>(), (0, 0));
        // Copies know nothing beyond an image but zeros.
        if has_beyond && pads.iter().any(|pad| *pad != (0, 0)) {
            return Ok(None);
        }
        let (strides, dilations) = (three(&window.strides, 1), three(&window.dilations, 1));
        let along = |axis: usize| -> Option<Along> {
            Some(Along {
                length: *images.lengths.get(axis)?,
                outputs: *spatial.get(axis)?,
                kernel: *kernel.get(axis)?,
                stride: *strides.get(axis)?,
                dilation: *dilations.get(axis)?,
                pads: *pads.get(axis)?,
            })
        };
        let (Some(height), Some(width)) = (along(1), along(2)) else { return Ok(None) };
        let windows = Windows::of([width, height], step(size), tile.rows());
        let far = three(&(2..rank).map(|axis| view.stride(axis)).collect::<Vec<_>>(), 0);
        let lengths = [width.length, height.length, view.length(0)];
        let image_strides = tensor_map::strides(lengths, [far[2], far[1], view.stride(0)]);
        let (Some(windows), Some(image_strides)) = (windows, image_strides) else { return Ok(None) };
        let taps = kernel[1] * kernel[2];
        let tap_bytes = (inputs * size) as isize;
        let weight_strides = [tap_bytes * taps as isize, tap_bytes, 0];
        let Some(weight_strides) = tensor_map::strides([outputs, taps, 1], weight_strides) else {
            return Ok(None);
        };
        let dtype = images.array.dtype;
        let number = |n: usize| i32::try_from(n).unwrap_or(i32::MAX) as u32;
        let mut words = [rows, per_group, inputs, groups].map(number).to_vec();
        let of_both = |of: fn(&Along) -> usize| [of(&height), of(&width)].map(number);
        words.extend(of_both(|a| a.kernel));
        words.extend(of_both(|a| a.stride));
        words.extend(of_both(|a| a.dilation));
        words.extend(of_both(|a| a.pads.0));
        words.extend([height.outputs, width.outputs].into_iter().flat_map(divide));
        let arguments = vec![
            Argument::Result,
            Argument::Tensor(TensorMap {
                dtype,
                at: (view.storage, view.offset),
                lengths: [images.channels, width.length, height.length, view.length(0)],
                strides: image_strides,
                taken: Taken::Windows(windows),
            }),
            Argument::Tensor(TensorMap {
                dtype: weights.dtype,
                at: (weights.view.storage, weights.view.offset),
                lengths: [inputs, outputs, taps, 1],
                strides: weight_strides,
                taken: tile.right_box(size, false),
            }),
            Argument::Struct(Struct { pointers: Vec::new(), words }),
        ];
        Ok(Some(tile.operator("conv_wgmma", [dtype, weights.dtype], false, arguments)?))
    }
}
