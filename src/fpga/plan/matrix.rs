//! Jobs of the matrix kernel: what convolutions and products have in common.

use super::Planner;
use super::pack::{LANES, Packed};
use super::residual::{self, Residual};
use super::words::{Descriptor, Kernel, SUMS_I32, SUMS_I64, bounds, planes, type_code};
use crate::graph::Node;
use crate::int8::{QParams, QType};
use crate::layout::view::View;

/// So many shares of a launch keep all compute units busy to its end: with few, some units wait for the one that has one more.
const BUSY: usize = 16;

/// One job of the matrix kernel, in the words of its head.
pub(super) struct Job<'a> {
    pub(super) x: &'a View,
    /// Strides of x and y: image, row, pixel, group.
    pub(super) x_strides: [isize; 4],
    pub(super) y: &'a View,
    pub(super) y_strides: [isize; 4],
    pub(super) x_type: QType,
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) channels: usize,
    pub(super) kernel: [usize; 2],
    pub(super) strides: [usize; 2],
    pub(super) dilations: [usize; 2],
    pub(super) pads: [usize; 2],
    pub(super) pad_value: i32,
    pub(super) out: [usize; 2],
    pub(super) images: usize,
    pub(super) groups: usize,
    pub(super) outputs: usize,
    pub(super) weights: Operand<'a>,
    /// The packed bias and factors in the constants.
    pub(super) factors: usize,
    pub(super) to: Option<QParams>,
    pub(super) wide: bool,
    pub(super) row_factor: i32,
    /// What is added to each element, and its strides as y's.
    pub(super) residual: Option<(&'a Residual, &'a View, [isize; 4])>,
}

/// Where weights and biases lie.
pub(super) enum Operand<'a> {
    Constant {
        weights: usize,
        group_bytes: usize,
        bias: usize,
    },
    /// Packed on the device: an operand for each image and group.
    Packed {
        weights: &'a View,
        bias: &'a View,
        /// Planes of bytes that the weights have.
        planes: usize,
    },
}

/// Bytes of a sum, and of what it begins with.
pub(super) fn size_of_sums(is_long: bool) -> usize {
    if is_long { size_of::<i64>() } else { size_of::<i32>() }
}

impl Planner<'_> {
    /// Puts packed weights into the constants, for inputs of that type.
    pub(super) fn operand(&mut self, packed: &Packed, x_type: QType) -> Operand<'static> {
        let weights = self.constants.add(&packed.bytes);
        let bias = self.constants.add(&packed.bias_bytes(planes(x_type) > 1));
        Operand::Constant { weights, group_bytes: packed.group_bytes, bias }
    }

    pub(super) fn matrix(&mut self, node: &Node, job: &Job<'_>, also: &[&View]) {
        let tiles = job.outputs.div_ceil(LANES);
        let w_planes = if let Operand::Packed { planes, .. } = job.weights { planes } else { 1 };
        let is_long = planes(job.x_type) * w_planes > 1;
        let bias_bytes = tiles * LANES * size_of_sums(is_long);
        // With weights of their own, images are computed one by one.
        let by_image = matches!(job.weights, Operand::Packed { .. });
        let pixels = job.out[0] * job.out[1] * if by_image { 1 } else { job.images };
        let blocks = pixels.div_ceil(self.tile.rows);
        let others = job.groups * if by_image { job.images } else { 1 };
        let shares = tiles.min(BUSY.div_ceil((blocks * others).max(1)));
        let (low, high) = job.to.as_ref().map_or((0.0, 0.0), bounds);
        let descriptor = Descriptor::new()
            .view(job.x)
            .ints(&job.x_strides)
            .int(type_code(job.x_type))
            .ints(&[job.height, job.width, job.channels])
            .ints(&job.kernel)
            .ints(&job.strides)
            .ints(&job.dilations)
            .ints(&job.pads)
            .int(job.pad_value)
            .ints(&job.out)
            .ints(&[pixels, job.groups, job.outputs])
            .view(job.y)
            .ints(&job.y_strides)
            .int(match job.residual.as_ref().map(|(r, ..)| &r.to).or(job.to.as_ref()) {
                Some(to) => type_code(to.qtype()),
                None if is_long => SUMS_I64,
                None => SUMS_I32,
            });
        let descriptor = match &job.weights {
            Operand::Constant { weights, group_bytes, bias } => descriptor
                .constant(*weights)
                .ints(&[0, *group_bytes, 0, 1, 0])
                .constant(*bias)
                .ints(&[0, bias_bytes, 0]),
            Operand::Packed { weights, bias, planes } => {
                let plane_bytes = tiles * job.channels.next_multiple_of(2) * LANES;
                let group_bytes = planes * plane_bytes;
                descriptor
                    .view(weights)
                    .ints(&[job.groups * group_bytes, group_bytes, plane_bytes, *planes, 1])
                    .view(bias)
                    .ints(&[job.groups * bias_bytes, bias_bytes, 1])
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
            .ints(&[shares, job.images]);
        let descriptor = residual::words(descriptor, job.residual);
        let added = job.residual.map(|(_, view, _)| view);
        let reads = std::iter::once(job.x).chain(also.iter().copied()).chain(added).collect::<Vec<_>>();
        self.operator(node, Kernel::Matrix, descriptor, blocks * shares * others, &reads, job.y);
        if let Some((residual, ..)) = job.residual {
            self.also_for(&residual.origins);
        }
    }
}
