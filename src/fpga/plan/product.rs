//! Matrix products: of a constant matrix, and of two tensors that are made on the way.

use super::Planner;
use super::matrix::{Job, Operand, size_of_sums};
use super::pack::{LANES, Weights, lanes_of, pack};
use super::words::{Descriptor, Kernel, plane_lack, planes, type_code};
use crate::error::{Result, ScoreError};
use crate::graph::Node;
use crate::int8::{Ints, QParams, QType, Rescale, WeightParams};
use crate::layout::view::View;

impl Planner<'_> {
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
        let is_long = planes(from.qtype()) > 1;
        let size = to.as_ref().map_or(size_of_sums(is_long), |to| to.qtype().size_bytes());
        let residual = if to.is_some() { self.residual(node) } else { None };
        let order = (0..rank).collect::<Vec<_>>();
        let y = self.allocate_sum(node, residual.as_ref(), &order, size)?;
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
            x_lack: plane_lack(from),
            is_long,
        })?;
        let factors = match &to {
            Some(to) => Rescale::new(from, params, to).factors().to_vec(),
            None => vec![1.0],
        };
        let (a, images) = self.pixels(node, a)?;
        let pixels = [a.length(0), a.length(1), a.length(2), *columns];
        let gaps = || ScoreError::internal("a new tensor has gaps");
        let y_pixels = y.reshaped(&pixels).ok_or_else(gaps)?;
        let added = match &residual {
            Some(residual) => {
                let rows = self.contiguous_rows(node, residual.view.clone())?;
                Some(match rows.reshaped(&pixels) {
                    Some(added) => added,
                    None => self.copied(node, &rows, &order)?.reshaped(&pixels).ok_or_else(gaps)?,
                })
            }
            None => None,
        };
        let strides_of = |v: &View| [v.stride(0), v.stride(1), v.stride(2), 0];
        let job = Job {
            x_strides: strides_of(&a),
            y_strides: strides_of(&y_pixels),
            x_type: from.qtype(),
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
            weights: self.operand(&packed, from.qtype()),
            to,
            wide: packed.wide,
            row_factor: packed.lack,
            residual: residual.as_ref().zip(added.as_ref()).map(|(r, view)| (r, view, strides_of(view))),
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
        let (w_planes, is_long) = (planes(b_type), planes(from.qtype()) * planes(b_type) > 1);
        // |a'| and |b'| are 128 at most, and what each lacks 255; with planes, each of their products is summed by itself.
        let largest = if is_long { 128 * 128 } else { 512 * 512 };
        if i64::try_from(depth).unwrap_or(i64::MAX) > i64::from(i32::MAX) / largest {
            return Err(ScoreError::unsupported(format!("sums of {depth} products could exceed 32 bits")));
        }
        let y = self.allocate_output(node, &(0..rank).collect::<Vec<_>>(), to.qtype().size_bytes())?;
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
        let w_plane = tiles * even * LANES;
        let (w_group, bias_group) = (w_planes * w_plane, tiles * LANES * size_of_sums(is_long));
        let w = self.allocate(&[images * groups * w_group], &[0], 1)?;
        let bias = self.allocate(&[images * groups * tiles * LANES], &[0], size_of_sums(is_long))?;
        let (a_lack, b_lack) = (plane_lack(from), plane_lack(&b_from));
        let descriptor = Descriptor::new()
            .view(&b4)
            .ints(&[b4.stride(0), b4.stride(1), b4.stride(2), b4.stride(3)])
            .int(type_code(b_type))
            .ints(&[depth, columns, groups])
            .view(&w)
            .ints(&[groups * w_group, w_group, w_plane])
            .view(&bias)
            .ints(&[groups * bias_group, bias_group, usize::from(is_long)])
            .int(a_lack)
            .long((i64::from(a_lack) * i64::from(b_lack) * depth as i64) as u64);
        self.operator(node, Kernel::Pack, descriptor, images * groups * tiles, &[&b4], &w);
        // The same launch writes the bias.
        self.also_writes(&bias);
        let factors = Rescale::new(from, &WeightParams::from(b_from), &to);
        let job = Job {
            x_strides: [a4.stride(0), 0, a4.stride(2), a4.stride(1)],
            y_strides: [y4.stride(0), 0, y4.stride(2), y4.stride(1)],
            x_type: from.qtype(),
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
            weights: Operand::Packed { weights: &w, bias: &bias, planes: w_planes },
            to: Some(to),
            wide: true,
            row_factor: b_lack,
            residual: None,
            x: &a4,
            y: &y4,
        };
        self.matrix(node, &job, &[&w, &bias]);
        Ok(())
    }
}
