//! Convolutions and matrix products on the matrix engine.

use super::super::view::View;
use super::Planner;
use super::pack::{LANES, Packed, Weights, lanes_of, pack};
use super::ports::channels_last;
use super::words::{Descriptor, Kernel, bounds, lack, mask};
use crate::error::{Result, ScoreError};
use crate::graph::{AutoPad, Node, Window};
use crate::int8::{Ints, QParams, QType, Rescale, WeightParams};

/// Shares of a launch that all compute units can be busy with.
const BUSY: usize = 4;

/// One job of the matrix kernel, in the words of its head.
struct Job<'a> {
    x: &'a View,
    /// Strides of x and y: image, row, pixel, group.
    x_strides: [isize; 4],
    y: &'a View,
    y_strides: [isize; 4],
    mask: i64,
    height: usize,
    width: usize,
    channels: usize,
    kernel: [usize; 2],
    strides: [usize; 2],
    dilations: [usize; 2],
    pads: [usize; 2],
    pad_value: i32,
    out: [usize; 2],
    images: usize,
    groups: usize,
    outputs: usize,
    weights: Operand<'a>,
    /// The packed bias and factors in the constants.
    factors: usize,
    to: Option<QParams>,
    wide: bool,
    row_factor: i32,
}

/// Where weights and biases lie.
enum Operand<'a> {
    Constant {
        weights: usize,
        group_bytes: usize,
        bias: usize,
    },
    /// Packed on the device: an operand for each image and group.
    Packed {
        weights: &'a View,
        bias: &'a View,
    },
}

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
        let size = if is_sums { size_of::<i32>() } else { 1 };
        let y = self.allocate_output(node, &channels_last(axes + 2), size)?;
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
        let weights = Weights {
            groups,
            outputs: group_outputs,
            depth: taps * in_group,
            at: &at,
            params: &params,
            bias: bias.as_deref(),
            x_lack: lack(&from),
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
        if let Some(to) =
            to.as_ref().filter(|_| groups > 1 && in_group == 1 && group_outputs == 1 && packed.lack == 0)
        {
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
            x_strides: strides_of(&x, in_group),
            y_strides: strides_of(&y, group_outputs * size),
            mask: mask(from.qtype()),
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
            weights: self.operand(&packed),
            to,
            wide: packed.wide,
            row_factor: packed.lack,
            x: &x,
            y: &y,
        };
        self.matrix(node, &job, &[]);
        Ok(())
    }

    fn operand(&mut self, packed: &Packed) -> Operand<'static> {
        let weights = self.constants.add(&packed.bytes);
        let bias = self.constants.add(bytemuck::cast_slice(&packed.bias));
        Operand::Constant { weights, group_bytes: packed.group_bytes, bias }
    }

    /// The view if a pixel's channels are contiguous, else a copy whose are.
    pub(super) fn channels_contiguous(&mut self, node: &Node, x: View) -> Result<View> {
        if x.stride(1) == x.size as isize || x.length(1) == 1 {
            return Ok(x);
        }
        self.copied(node, &x, &channels_last(x.shape.len()))
    }

    pub(super) fn matmul(&mut self, node: &Node) -> Result<()> {
        let (a, from) = self.quantised(node, 0)?;
        let to = self.made(node, 6)?;
        let b_type = self.qtype(node, 3)?;
        let b_params = self.weight_params(node, 4, b_type)?;
        let is_constant = node.input(3).is_some_and(|id| self.graph.constant(id).is_some());
        let constant = if is_constant { Some(self.constant(node, 3)?.clone()) } else { None };
        match constant {
            Some(b) if b.shape().len() == 2 => {
                let b = Ints::of(&b)?;
                let columns = b.shape().get(1).copied().unwrap_or(0);
                let at = |_: usize, output: usize, k: usize| {
                    b.values().get(k * columns + output).copied().unwrap_or(0)
                };
                self.product(node, a, &from, (b.shape(), &at), &b_params, None, Some(to))
            }
            _ => self.product_of_activations(node, a, &from, &b_params, b_type, to),
        }
    }

    /// The sums of a product with a constant matrix.
    pub(super) fn matmul_integer(&mut self, node: &Node) -> Result<()> {
        let (a, from) = self.unscaled(node, 0, 2)?;
        let b = self.constant(node, 1)?.clone();
        let params = self.unscaled_weights(node, 3, QType::try_from(b.dtype())?)?;
        let b = Ints::of(&b)?;
        let columns = b.shape().get(1).copied().unwrap_or(0);
        let at =
            |_: usize, output: usize, k: usize| b.values().get(k * columns + output).copied().unwrap_or(0);
        self.product(node, a, &from, (b.shape(), &at), &params, None, None)
    }

    pub(super) fn gemm(&mut self, node: &Node) -> Result<()> {
        let (a, from) = self.quantised(node, 0)?;
        let tensor = self.constant(node, 3)?.clone();
        let params = self.weight_params(node, 4, QType::try_from(tensor.dtype())?)?;
        if node.op.attributes.flag("transA") || node.op.attributes.float("alpha").is_some_and(|a| a != 1.0) {
            return Err(ScoreError::unsupported("transA, or an alpha other than 1"));
        }
        let bias = match node.input(6) {
            Some(_) => Some(self.constant(node, 6)?.as_slice::<i32>()?.to_vec()),
            None => None,
        };
        let to = match node.input(7) {
            Some(_) => Some(self.made(node, 7)?),
            None => None,
        };
        let b = Ints::of(&tensor)?;
        let [rows, columns] = b.shape() else {
            return Err(ScoreError::bad_model("weights that are no matrix"));
        };
        let (rows, columns) = (*rows, *columns);
        let transposed = node.op.attributes.flag("transB");
        let at = |_: usize, output: usize, k: usize| {
            let place = if transposed { output * columns + k } else { k * columns + output };
            b.values().get(place).copied().unwrap_or(0)
        };
        let shape = if transposed { [columns, rows] } else { [rows, columns] };
        self.product(node, a, &from, (&shape, &at), &params, bias.as_deref(), to)
    }

    /// A product with a constant matrix `[depth, columns]`: every row of `a` is a pixel.
    #[allow(
        clippy::too_many_arguments,
        reason = "one call for three operators; a struct would be built and taken apart once"
    )]
    fn product(
        &mut self,
        node: &Node,
        a: View,
        from: &QParams,
        (shape, at): (&[usize], &dyn Fn(usize, usize, usize) -> i32),
        params: &WeightParams,
        bias: Option<&[i32]>,
        to: Option<QParams>,
    ) -> Result<()> {
        let [depth, columns] = shape else { return Err(ScoreError::bad_model("weights that are no matrix")) };
        if a.shape.last() != Some(depth) {
            return Err(ScoreError::bad_model(format!(
                "rows of {:?} and weights {shape:?} do not multiply",
                a.shape
            )));
        }
        params.check_channels(*columns)?;
        let a = self.contiguous_rows(node, a)?;
        let rank = a.shape.len();
        let out_shape =
            a.shape.get(..rank - 1).unwrap_or_default().iter().copied().chain([*columns]).collect::<Vec<_>>();
        let size = if to.is_some() { 1 } else { size_of::<i32>() };
        let y = self.allocate_output(node, &(0..rank).collect::<Vec<_>>(), size)?;
        if y.shape != out_shape {
            return Err(ScoreError::bad_model(format!(
                "its result is {:?}, expected {out_shape:?}",
                y.shape
            )));
        }
        let packed = pack(&Weights {
            groups: 1,
            outputs: *columns,
            depth: *depth,
            at,
            params,
            bias,
            x_lack: lack(from),
        })?;
        let factors = match &to {
            Some(to) => Rescale::new(from, params, to).factors().to_vec(),
            None => vec![1.0],
        };
        let (a, images) = self.pixels(node, a)?;
        let y_pixels = y.reshaped(
            &[a.shape.as_slice(), &[*columns]]
                .concat()
                .into_iter()
                .enumerate()
                .filter(|(i, _)| *i != 3)
                .map(|(_, n)| n)
                .collect::<Vec<_>>(),
        );
        let y_pixels = y_pixels.ok_or_else(|| ScoreError::internal("a new tensor has gaps"))?;
        let job = Job {
            x_strides: [a.stride(0), a.stride(1), a.stride(2), 0],
            y_strides: [y_pixels.stride(0), y_pixels.stride(1), y_pixels.stride(2), 0],
            mask: mask(from.qtype()),
            height: a.length(1),
            width: a.length(2),
            channels: *depth,
            kernel: [1, 1],
            strides: [1, 1],
            dilations: [1, 1],
            pads: [0, 0],
            pad_value: 0,
            out: [a.length(1), a.length(2)],
            images,
            groups: 1,
            outputs: *columns,
            factors: self.constants.add(bytemuck::cast_slice(&lanes_of(&factors, 1, *columns))),
            weights: self.operand(&packed),
            to,
            wide: packed.wide,
            row_factor: packed.lack,
            x: &a,
            y: &y,
        };
        self.matrix(node, &job, &[]);
        Ok(())
    }

    /// Rows `[…, depth]` as an image `[images, rows, pixels, depth]`, copied where its axes do not collapse to that.
    fn pixels(&mut self, node: &Node, a: View) -> Result<(View, usize)> {
        let depth = a.shape.last().copied().unwrap_or(1);
        let rows = a.shape.iter().rev().skip(1).product::<usize>();
        if let Some(flat) = a.reshaped(&[1, 1, rows, depth]) {
            return Ok((flat, 1));
        }
        let outer = a.shape.first().copied().unwrap_or(1);
        let inner =
            a.shape.get(1..a.shape.len().saturating_sub(2)).unwrap_or_default().iter().product::<usize>();
        let last = a.length(a.shape.len().saturating_sub(2));
        match a.reshaped(&[outer, inner, last, depth]).filter(|_| a.shape.len() > 2) {
            Some(image) => Ok((image, outer)),
            None => {
                let order = (0..a.shape.len()).collect::<Vec<_>>();
                let copy = self.copied(node, &a, &order)?;
                let flat = copy.reshaped(&[1, 1, rows, depth]);
                flat.map(|f| (f, 1)).ok_or_else(|| ScoreError::internal("a row-major copy has gaps"))
            }
        }
    }

    /// A product of two tensors that are made on the way: the right one is packed first.
    fn product_of_activations(
        &mut self,
        node: &Node,
        a: View,
        from: &QParams,
        b_params: &WeightParams,
        b_type: QType,
        to: QParams,
    ) -> Result<()> {
        let b = self.view(node, 3)?;
        let ([b_scale], [b_zero]) = (b_params.scales(), b_params.zero_points()) else {
            return Err(ScoreError::unsupported("a right operand with several scales that is not constant"));
        };
        let b_from = QParams::new(*b_scale, *b_zero, b_type)?;
        let a = self.contiguous_rows(node, a)?;
        let rank = a.shape.len();
        if rank < 2 || b.shape.len() != rank || a.shape.get(..rank - 2) != b.shape.get(..rank - 2) {
            let what = format!(
                "operands {:?} and {:?}: the engine multiplies batches of one shape",
                a.shape, b.shape
            );
            return Err(ScoreError::unsupported(what));
        }
        let (rows, depth, columns) = (a.length(rank - 2), a.length(rank - 1), b.length(rank - 1));
        if b.length(rank - 2) != depth {
            return Err(ScoreError::bad_model(format!(
                "matrices {:?} and {:?} do not multiply",
                a.shape, b.shape
            )));
        }
        // |a'| and |b'| are 128 at most, and what each lacks 255.
        if i64::try_from(depth).unwrap_or(i64::MAX) > i64::from(i32::MAX) / (512 * 512) {
            return Err(ScoreError::unsupported(format!("sums of {depth} products could exceed 32 bits")));
        }
        let y = self.allocate_output(node, &(0..rank).collect::<Vec<_>>(), 1)?;
        // Batches are images and groups: two levels are enough for what strides cannot say in one.
        let batch = a.shape.get(..rank - 2).unwrap_or_default().to_vec();
        let (images, groups) = match batch.as_slice() {
            [] => (1, 1),
            [n] => (1, *n),
            [outer, rest @ ..] => (*outer, rest.iter().product()),
        };
        let levels = |v: &View, rows: usize, columns: usize| {
            v.reshaped(&[images, groups, rows, columns])
                .ok_or_else(|| ScoreError::unsupported(format!("strides of {:?}", v.shape)))
        };
        let (a4, b4, y4) =
            (levels(&a, rows, depth)?, levels(&b, depth, columns)?, levels(&y, rows, columns)?);
        let (even, tiles) = (depth.next_multiple_of(2), columns.div_ceil(LANES));
        let (w_group, bias_group) = (tiles * even * LANES, tiles * LANES * size_of::<i32>());
        let w = self.allocate(&[images * groups * w_group], &[0], 1)?;
        let bias = self.allocate(&[images * groups * tiles * LANES], &[0], size_of::<i32>())?;
        let (a_lack, b_lack) = (lack(from), lack(&b_from));
        let descriptor = Descriptor::new()
            .view(&b4)
            .ints(&[b4.stride(0), b4.stride(1), b4.stride(2), b4.stride(3)])
            .int(mask(b_type))
            .ints(&[depth, columns, groups])
            .view(&w)
            .ints(&[groups * w_group, w_group])
            .view(&bias)
            .ints(&[groups * bias_group, bias_group])
            .int(a_lack)
            .int(i64::from(a_lack) * i64::from(b_lack) * depth as i64);
        self.operator(node, Kernel::Pack, descriptor, images * groups * tiles, &[&b4], &w);
        // The same launch writes the bias.
        self.also_writes(&bias);
        let factors = Rescale::new(from, &WeightParams::from(b_from), &to);
        let job = Job {
            x_strides: [a4.stride(0), 0, a4.stride(2), a4.stride(1)],
            y_strides: [y4.stride(0), 0, y4.stride(2), y4.stride(1)],
            mask: mask(from.qtype()),
            height: 1,
            width: rows,
            channels: depth,
            kernel: [1, 1],
            strides: [1, 1],
            dilations: [1, 1],
            pads: [0, 0],
            pad_value: 0,
            out: [1, rows],
            images,
            groups,
            outputs: columns,
            factors: self.constants.add(bytemuck::cast_slice(&lanes_of(factors.factors(), groups, columns))),
            weights: Operand::Packed { weights: &w, bias: &bias },
            to: Some(to),
            wide: true,
            row_factor: b_lack,
            x: &a4,
            y: &y4,
        };
        self.matrix(node, &job, &[&w, &bias]);
        Ok(())
    }

    fn matrix(&mut self, node: &Node, job: &Job<'_>, also: &[&View]) {
        let tiles = job.outputs.div_ceil(LANES);
        let bias_bytes = tiles * LANES * size_of::<i32>();
        // With weights of their own, images are computed one by one.
        let by_image = matches!(job.weights, Operand::Packed { .. });
        let pixels = job.out[0] * job.out[1] * if by_image { 1 } else { job.images };
        let blocks = pixels.div_ceil(self.tile.rows);
        let others = job.groups * if by_image { job.images } else { 1 };
        let shares = if blocks * others >= BUSY { 1 } else { tiles.min(BUSY) };
        let (low, high) = job.to.as_ref().map_or((0.0, 0.0), bounds);
        let descriptor = Descriptor::new()
            .view(job.x)
            .ints(&job.x_strides)
            .int(job.mask)
            .ints(&[job.height, job.width, job.channels])
            .ints(&job.kernel)
            .ints(&job.strides)
            .ints(&job.dilations)
            .ints(&job.pads)
            .int(job.pad_value)
            .ints(&job.out)
            .ints(&[pixels, job.groups, job.outputs])
            .view(job.y)
            .ints(&job.y_strides);
        let descriptor = match &job.weights {
            Operand::Constant { weights, group_bytes, bias } => descriptor
                .constant(*weights)
                .ints(&[0, *group_bytes, 0])
                .constant(*bias)
                .ints(&[0, bias_bytes, 0]),
            Operand::Packed { weights, bias } => {
                let group_bytes = tiles * job.channels.next_multiple_of(2) * LANES;
                descriptor.view(weights).ints(&[job.groups * group_bytes, group_bytes, 1]).view(bias).ints(&[
                    job.groups * bias_bytes,
                    bias_bytes,
                    1,
                ])
            }
        };
        let descriptor = descriptor
            .constant(job.factors)
            .int(tiles * LANES * size_of::<f32>())
            .int(job.to.map_or(0, |to| to.zero_point()))
            .float(low)
            .float(high)
            .int(i64::from(job.wide))
            .int(job.row_factor)
            .int(i64::from(job.to.is_none()))
            .ints(&[shares, job.images]);
        let reads = std::iter::once(job.x).chain(also.iter().copied()).collect::<Vec<_>>();
        self.operator(node, Kernel::Matrix, descriptor, blocks * shares * others, &reads, job.y);
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
        let mut bias = vec![0i32; channels.next_multiple_of(LANES)];
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
        let row = |v: &View| if axes == 2 { v.stride(2) } else { 0 };
        let out = two(y.shape.get(2..).unwrap_or_default());
        let (low, high) = bounds(to);
        let descriptor = Descriptor::new()
            .view(x)
            .ints(&[x.stride(0), row(x), x.stride(axes + 1)])
            .int(mask(from.qtype()))
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
            .constant(self.constants.add(&weights))
            .constant(self.constants.add(bytemuck::cast_slice(&bias)))
            .constant(self.constants.add(bytemuck::cast_slice(&lanes_of(factors, 1, channels))))
            .int(to.zero_point())
            .float(low)
            .float(high);
        self.operator(node, Kernel::Depthwise, descriptor, x.length(0) * out[0], &[x], y);
        Ok(())
    }
}
