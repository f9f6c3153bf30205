//! Convolutions: on the matrix engine, and channel by channel.

use super::Planner;
use super::matrix::{Job, size_of_sums};
use super::pack::{LANES, Packed, Weights, lanes_of, pack};
use super::words::{Descriptor, Kernel, bounds, lack, plane_lack, planes, type_code};
use crate::error::{Result, ScoreError};
use crate::graph::{AutoPad, Node, Window};
use crate::int8::{Ints, QParams, QType, Rescale};
use crate::layout::view::View;
use crate::layout::view::channels_last;

impl Planner<'_> {
    pub(super) fn conv(&mut self, node: &Node) -> Result<()> {
        // Without an output's parameters the result is the sums themselves.
        let is_sums = node.is("ConvInteger");
        let weights_at = if is_sums { 1 } else { 3 };
        let tensor = self.constant(node, weights_at)?.clone();
        let (integers, qtype) = (Ints::of(&tensor)?, QType::try_from(tensor.dtype())?);
        let ((x, from), params, to) = match is_sums {
            true => (self.unscaled(node, 0, 2)?, self.unscaled_weights(node, 3, qtype)?, None),
            false => {
                (self.quantised(node, 0)?, self.weight_params(node, 4, qtype)?, Some(self.made(node, 6)?))
            }
        };
        let axes = x.shape.len().saturating_sub(2);
        let refuse = |what: String| Err(ScoreError::unsupported(what));
        if !(1..=2).contains(&axes) || integers.shape().len() != axes + 2 {
            return refuse(format!("a convolution over {axes} axes: the engine has one over 1 or 2"));
        }
        let window = Window::of_conv(&node.op.attributes, axes)?;
        let groups = node.op.attributes.int("group").unwrap_or(1);
        let groups = usize::try_from(groups).ok().filter(|g| *g > 0);
        let (outputs, in_group) =
            (integers.shape().first().copied().unwrap_or(0), integers.shape().get(1).copied().unwrap_or(0));
        let Some(groups) =
            groups.filter(|g| in_group.checked_mul(*g) == Some(x.length(1)) && outputs.is_multiple_of(*g))
        else {
            return refuse(format!(
                "channels {:?} and weights {:?} do not fit the groups",
                x.shape,
                integers.shape()
            ));
        };
        params.check_channels(outputs)?;
        let x = self.channels_contiguous(node, x)?;
        let is_long = planes(from.qtype()) > 1;
        let size = to.as_ref().map_or(size_of_sums(is_long), |to| to.qtype().size_bytes());
        // One axis is a row of an image of one row.
        let two = |list: &[usize], one: usize| match list {
            [a] => [one, *a],
            [a, b, ..] => [*a, *b],
            [] => [one, one],
        };
        let kernel = two(integers.shape().get(2..).unwrap_or_default(), 1);
        let spatial = two(x.shape.get(2..).unwrap_or_default(), 1);
        let pads = match window.auto_pad {
            AutoPad::None => window.pads.get(..axes).unwrap_or_default().to_vec(),
            _ => {
                let kernel_of = |a: usize| integers.shape().get(a + 2).copied().unwrap_or(1);
                (0..axes).map(|a| window.padding(a, x.length(a + 2), kernel_of(a)).0).collect()
            }
        };
        let bias = match node.input(8).filter(|_| !is_sums) {
            Some(_) => Some(self.constant(node, 8)?.as_slice::<i32>()?.to_vec()),
            None => None,
        };
        let group_outputs = outputs / groups;
        let (taps, values) = (kernel.iter().product::<usize>(), integers.values());
        // Weights are [output][channel][tap]; the engine goes over taps first, then channels.
        let at = |group: usize, output: usize, k: usize| {
            let (tap, channel) = (k / in_group, k % in_group);
            let place = ((group * group_outputs + output) * in_group + channel) * taps + tap;
            values.get(place).copied().unwrap_or(0)
        };
        // A window of more products of 16 by 8 bits could exceed 32.
        const WIDE_TAPS: usize = 511;
        let is_symmetric =
            params.zero_points().iter().all(|z| *z == if qtype == QType::U8 { 128 } else { 0 });
        let is_depthwise = groups > 1 && in_group == 1 && group_outputs == 1 && is_symmetric;
        let is_depthwise = is_depthwise && !is_sums && (!is_long || taps <= WIDE_TAPS);
        let residual = if is_depthwise || is_sums { None } else { self.residual(node) };
        let added = match &residual {
            Some(residual) => Some(self.channels_contiguous(node, residual.view.clone())?),
            None => None,
        };
        let y = self.allocate_sum(node, residual.as_ref(), &channels_last(axes + 2), size)?;
        let weights = Weights {
            groups,
            outputs: group_outputs,
            depth: taps * in_group,
            at: &at,
            params: &params,
            bias: bias.as_deref(),
            x_lack: if is_depthwise { lack(&from) } else { plane_lack(&from) },
            is_long,
        };
        let packed = pack(&weights)?;
        let factors = to.as_ref().map_or(vec![1.0], |to| Rescale::new(&from, &params, to).factors().to_vec());
        let (rows, row_axis) = (axes == 2, axes);
        let stride_of = |v: &View, axis: usize| v.stride(axis);
        let strides_of = |v: &View, channels: usize| {
            [
                v.stride(0),
                if rows { stride_of(v, 2) } else { 0 },
                stride_of(v, row_axis + 1),
                channels as isize,
            ]
        };
        if let Some(to) = to.as_ref().filter(|_| is_depthwise) {
            return self.depthwise(
                node,
                &x,
                &y,
                &window,
                spatial,
                kernel,
                two(&pads, 0),
                &from,
                to,
                &packed,
                &factors,
                outputs,
                axes,
            );
        }
        let job = Job {
            x_strides: strides_of(&x, in_group * x.size),
            y_strides: strides_of(&y, group_outputs * y.size),
            x_type: from.qtype(),
            height: spatial[0],
            width: spatial[1],
            channels: in_group,
            kernel,
            strides: two(&window.strides, 1),
            dilations: two(&window.dilations, 1),
            pads: two(&pads, 0),
            pad_value: -lack(&from),
            out: two(y.shape.get(2..).unwrap_or_default(), 1),
            images: x.length(0),
            groups,
            outputs: group_outputs,
            factors: self.constants.add(bytemuck::cast_slice(&lanes_of(&factors, groups, group_outputs))),
            weights: self.operand(&packed, from.qtype()),
            to,
            wide: packed.wide,
            row_factor: packed.lack,
            residual: residual
                .as_ref()
                .zip(added.as_ref())
                .map(|(residual, view)| (residual, view, strides_of(view, group_outputs * view.size))),
            x: &x,
            y: &y,
        };
        self.matrix(node, &job, &[]);
        Ok(())
    }

    /// The view if a pixel's channels are contiguous, else a copy whose are.
    pub(super) fn channels_contiguous(&mut self, node: &Node, x: View) -> Result<View> {
        if x.stride(1) == x.size as isize || x.length(1) == 1 {
            return Ok(x);
        }
        self.copied(node, &x, &channels_last(x.shape.len()))
    }

    #[allow(clippy::too_many_arguments, reason = "the convolution's parameters, found once")]
    fn depthwise(
        &mut self,
        node: &Node,
        x: &View,
        y: &View,
        window: &Window,
        spatial: [usize; 2],
        kernel: [usize; 2],
        pads: [usize; 2],
        from: &QParams,
        to: &QParams,
        packed: &Packed,
        factors: &[f32],
        channels: usize,
        axes: usize,
    ) -> Result<()> {
        let two = |list: &[usize]| match list {
            [a] => [1, *a],
            [a, b, ..] => [*a, *b],
            [] => [1, 1],
        };
        // One output a group: its lane is the group's number here.
        let taps = kernel.iter().product::<usize>();
        let mut weights = vec![0u8; channels.next_multiple_of(LANES) * taps];
        let mut bias = vec![0i64; channels.next_multiple_of(LANES)];
        for channel in 0..channels {
            for tap in 0..taps {
                let byte = packed.bytes.get(channel * packed.group_bytes + tap * LANES).copied().unwrap_or(0);
                if let Some(slot) = weights.get_mut((channel / LANES * taps + tap) * LANES + channel % LANES)
                {
                    *slot = byte;
                }
            }
            if let Some(slot) = bias.get_mut(channel) {
                *slot = packed.bias.get(channel * LANES).copied().unwrap_or(0);
            }
        }
        let bias = Packed { bias, ..Packed::default() }.bias_bytes(planes(from.qtype()) > 1);
        let row = |v: &View| if axes == 2 { v.stride(2) } else { 0 };
        let out = two(y.shape.get(2..).unwrap_or_default());
        let (low, high) = bounds(to);
        let descriptor = Descriptor::new()
            .view(x)
            .ints(&[x.stride(0), row(x), x.stride(axes + 1)])
            .int(type_code(from.qtype()))
            .ints(&spatial)
            .int(channels)
            .ints(&kernel)
            .ints(&two(&window.strides))
            .ints(&two(&window.dilations))
            .ints(&pads)
            .int(-lack(from))
            .ints(&out)
            .view(y)
            .ints(&[y.stride(0), row(y), y.stride(axes + 1)])
            .int(type_code(to.qtype()))
            .constant(self.constants.add(&weights))
            .constant(self.constants.add(&bias))
            .constant(self.constants.add(bytemuck::cast_slice(&lanes_of(factors, 1, channels))))
            .int(to.zero_point())
            .float(low)
            .float(high);
        self.operator(node, Kernel::Depthwise, descriptor, x.length(0) * out[0], &[x], y);
        Ok(())
    }
}
