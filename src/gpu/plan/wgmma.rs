//! Products on Hopper's own tensor cores: when `kernels/cuda/gemm_wgmma.cu` takes a product that tensor cores take, and with which tiles.
//!
//! Its tiles are large and its blocks stay on their multiprocessors, which is fast where there is a tile for each of them; a result of fewer tiles is
//! better off with the small ones of `gemm_tensor.cu`. What its copies cannot say (more axes of a batch than two, rows that repeat) is left to it, too.
//!
//! Hopper adds products of 8-bit floats to a sum of which it keeps 13 bits of the fraction ("DeepSeek-V3 Technical Report", 3.3.2). So each 128 of depth are
//! added up by themselves, and then as floats are. Within them what lies so far beneath the largest product is lost: less than was when numbers became 8 bits.

use super::product::int;
use super::program::stored_name;
use super::sources::Source;
use super::tensor_map::{self, Taken, TensorMap};
use super::tensor_product::Sides;
use super::text::Struct;
use super::{Argument, Operator, Planner, TensorCores};
use crate::error::Result;
use crate::layout::view::{Loops, Storage, View};
use crate::tensor::DType;

/// Bytes of depth of a stage (kernels/cuda/wgmma_tiles.cu).
const SPAN_BYTES: usize = 128;
/// Columns of a tile, and of one for a result that has no more.
const COLUMNS: usize = 128;
const NARROW: usize = 64;
/// Two warpgroups multiply, parts of 64 rows each; a third one has tiles copied.
const MULTIPLIERS: usize = 2;
const PART_ROWS: usize = 64;
const THREADS: usize = 128 * (MULTIPLIERS + 1);
/// Two barriers of each stage.
const BARRIER_BYTES: usize = 2 * 8;
/// Results of no more rows or columns than these leave half of a tile empty. Where columns are that few, it is reading that takes time, not products: the
/// small blocks of the other kernels, several on a multiprocessor, read while others write.
const FEW_ROWS: usize = 64;
const FEW_COLUMNS: usize = 32;

/// The part of a result that a block computes at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WideTile {
    /// Of 64 rows, of each warpgroup that multiplies.
    parts: usize,
    columns: usize,
    stages: usize,
    /// Blocks that take them.
    pub(super) blocks: usize,
}

impl WideTile {
    /// For a result of so many rows and columns, so many times, of elements of that type; `None` where the device would be idle for the most part, or has no
    /// such tensor cores.
    fn of(cores: TensorCores, dtype: DType, [rows, columns, times]: [usize; 3]) -> Option<Self> {
        let TensorCores::Wgmma { multiprocessors } = cores else { return None };
        if rows <= FEW_ROWS || columns <= FEW_COLUMNS {
            return None;
        }
        // Columns of a tile; stages of high ones and of low ones, as many as shared memory has room for, or as are enough.
        let (own, [of_high, of_low]) = if columns <= NARROW { (NARROW, [5, 8]) } else { (COLUMNS, [4, 6]) };
        let tile = |parts: usize, stages: usize| {
            let tiles = rows.div_ceil(MULTIPLIERS * parts * PART_ROWS) * columns.div_ceil(own) * times.max(1);
            (tiles, Self { parts, columns: own, stages, blocks: tiles.min(multiprocessors) })
        };
        let ((large, high), (small, low)) = (tile(2, of_high), tile(1, of_low));
        // Twice the rows are read for less, unless there are rows of which much is empty. Sums that are added up twice leave no registers for as many columns.
        let has_room = own == NARROW || !dtype.is_float8();
        let is_high = large >= multiprocessors && large * 8 <= small * 5 && has_room;
        match (is_high, small * 2 >= multiprocessors) {
            (true, _) => Some(high),
            (false, true) => Some(low),
            (false, false) => None,
        }
    }

    pub(super) fn rows(self) -> usize {
        MULTIPLIERS * self.parts * PART_ROWS
    }

    fn shared_bytes(self) -> usize {
        self.stages * ((self.rows() + self.columns) * SPAN_BYTES + BARRIER_BYTES)
    }

    /// The box of a right tile.
    pub(super) fn right_box(self, size: usize, right_rows: bool) -> Taken {
        // Columns that lie together come in boxes of what a swizzle spans.
        let rows = if right_rows { step(size) } else { self.columns };
        Taken::Box([step(size), rows, 1, 1])
    }

    /// The launch of a kernel with such tiles, of elements of those types on the left and on the right.
    pub(super) fn operator(
        self,
        kernel: &'static str,
        [left, right]: [DType; 2],
        right_rows: bool,
        arguments: Vec<Argument>,
    ) -> Result<Operator> {
        let source = Source::new(kernel, kernel, &["hopper", "fours", "wgmma_tiles"])
            .define("ELEMENT", stored_name(left)?)
            .define("RIGHT", stored_name(right)?)
            .define("RIGHT_ROWS", i32::from(right_rows))
            .define("TILE_N", self.columns)
            .define("PARTS", self.parts)
            .define("STAGES", self.stages);
        Ok(Operator {
            source,
            grid: [self.blocks, 1, 1],
            block: THREADS,
            shared_bytes: self.shared_bytes(),
            arguments,
            writes: Vec::new(),
        })
    }
}

impl Planner<'_> {
    /// The tile for a result of so many rows and columns, so many times, of elements that are stored so, if they are multiplied on such tensor cores.
    pub(super) fn wide_tile(&self, dtype: DType, shape: [usize; 3]) -> Option<WideTile> {
        WideTile::of(self.settings.tensor_cores, dtype, shape).filter(|_| !self.is_plain(dtype))
    }
}

/// Elements of depth that a stage has.
pub(super) fn step(size: usize) -> usize {
    SPAN_BYTES / size.max(1)
}

/// A batch as two axes: their lengths, the inner one first, and the strides of each side along them.
#[derive(Debug, PartialEq)]
struct Batch {
    lengths: [usize; 2],
    strides: [[isize; 2]; 2],
}

impl Batch {
    /// Of the views of both sides' first elements; `None` where it has more axes.
    fn of(left: &View, right: &View) -> Option<Self> {
        let order = (0..left.shape.len()).collect::<Vec<_>>();
        let index = View::ordered(Storage(0), &left.shape, &order, 1);
        let loops = Loops::over(&[&index, left, right]);
        let axis = |list: &[isize], n: usize| list.iter().rev().nth(n).copied().unwrap_or(0);
        let mut lengths = loops.lengths.iter().rev().copied();
        let found = [lengths.next().unwrap_or(1), lengths.next().unwrap_or(1)];
        let [_, left, right] = loops.strides.as_slice() else { return None };
        let sides = [left, right].map(|list| [axis(list, 0), axis(list, 1)]);
        lengths.next().is_none().then_some(Self { lengths: found, strides: sides })
    }

    /// A side's lengths along both axes: one where its matrices are the same all along.
    fn own(&self, side: usize) -> ([usize; 2], [isize; 2]) {
        let strides = self.strides.get(side).copied().unwrap_or_default();
        let [inner, outer] = self.lengths;
        ([if strides[0] == 0 { 1 } else { inner }, if strides[1] == 0 { 1 } else { outer }], strides)
    }
}

impl Sides {
    /// The launch on Hopper's tensor cores, for so many matrices, and rows, columns and depth of each; the views are of their first elements, and the left
    /// one's rows are that far from each other.
    pub(super) fn on_wgmma(
        &self,
        planner: &Planner<'_>,
        (left_batch, right_batch): (&View, &View),
        left_stride: isize,
        [matrices, m, n, k]: [usize; 4],
    ) -> Result<Option<Operator>> {
        let (dtype, size) = (self.left.dtype, self.left.view.size);
        let Some(tile) = planner.wide_tile(dtype, [m, n, matrices]) else { return Ok(None) };
        // Only 16 bits are multiplied where columns lie together.
        if self.right_rows && size != 2 {
            return Ok(None);
        }
        let batch = match matrices {
            1 => Some(Batch { lengths: [1, 1], strides: [[0, 0]; 2] }),
            _ => Batch::of(left_batch, right_batch),
        };
        let Some(batch) = batch else { return Ok(None) };
        // The axis that lies together, the other one, and its stride.
        let right = &self.right.view;
        let axis = right.shape.len().saturating_sub(if self.right_rows { 2 } else { 1 });
        let left_axes = ([k, m], left_stride, Taken::Box([step(size), tile.rows(), 1, 1]));
        let right_lengths = if self.right_rows { [n, k] } else { [k, n] };
        let right_axes = (right_lengths, right.stride(axis), tile.right_box(size, self.right_rows));
        let mut arguments = vec![Argument::Result];
        for (side, array, axes) in [(0, &self.left, left_axes), (1, &self.right, right_axes)] {
            let ([inner, other], stride, taken) = axes;
            let ([first, second], [first_stride, second_stride]) = batch.own(side);
            let given = [stride, first_stride, second_stride];
            let Some(strides) = tensor_map::strides([other, first, second], given) else { return Ok(None) };
            let (at, dtype) = ((array.view.storage, array.view.offset), array.dtype);
            let lengths = [inner, other, first, second];
            arguments.push(Argument::Tensor(TensorMap { dtype, at, lengths, strides, taken }));
        }
        let has = |side: usize| batch.own(side).0.map(|length| u32::from(length != 1));
        let words = [batch.lengths[0] as u32].into_iter().chain(has(0)).chain(has(1)).collect();
        arguments.push(Argument::Struct(Struct { pointers: Vec::new(), words }));
        arguments.extend([int(m)?, int(n)?, int(k)?, int(matrices)?]);
        Ok(Some(tile.operator("gemm_wgmma", [dtype, self.right.dtype], self.right_rows, arguments)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const H200: TensorCores = TensorCores::Wgmma { multiprocessors: 132 };

    #[test]
    fn tiles_are_as_large_as_leaves_no_multiprocessor_idle() {
        use DType::{F8E4M3, F16};
        // (elements, rows, columns and times of a result; rows, columns and blocks of its tiles)
        let cases = [
            (F16, [4096, 4096, 1], Some([256, 128, 132])),
            (F16, [2048, 1024, 1], Some([128, 128, 128])),
            (F16, [128, 128, 80], Some([128, 128, 80])),
            // Rows that are empty.
            (F16, [128, 128, 200], Some([128, 128, 132])),
            (F16, [300, 128, 80], Some([128, 128, 132])),
            // 64 tiles for 132 multiprocessors; few rows.
            (F16, [1024, 1024, 1], None),
            (F16, [64, 100_000, 1], None),
            // ResNet-50's first stage, of 32 images, of 8 and of one.
            (F16, [32 * 3136, 64, 1], Some([256, 64, 132])),
            (F16, [8 * 3136, 64, 1], Some([128, 64, 132])),
            (F16, [3136, 64, 1], None),
            // One column more than a narrow tile has, fewer than that, and few.
            (F16, [100_000, 65, 1], Some([256, 128, 132])),
            (F16, [100_000, 33, 1], Some([256, 64, 132])),
            (F16, [100_000, 32, 1], None),
            // Sums that are added up twice.
            (F8E4M3, [4096, 4096, 1], Some([128, 128, 132])),
            (F8E4M3, [100_000, 64, 1], Some([256, 64, 132])),
        ];
        for (dtype, shape, expected) in cases {
            let tile = WideTile::of(H200, dtype, shape);
            let of = tile.map(|tile| [tile.rows(), tile.columns, tile.blocks]);
            assert_eq!(of, expected, "{dtype:?} {shape:?}");
            // What a multiprocessor of Hopper has.
            assert!(tile.is_none_or(|tile| tile.shared_bytes() <= 227 << 10), "{tile:?}");
            let others = TensorCores::Mma { has_float8: true, multiprocessors: 132 };
            assert_eq!(WideTile::of(others, dtype, shape), None);
        }
    }

    #[test]
    fn a_batch_is_two_axes_or_none() {
        let view = |shape: &[usize], strides: &[isize]| View {
            storage: Storage(0),
            offset: 0,
            shape: shape.to_vec(),
            strides: strides.to_vec(),
            size: 2,
        };
        // Heads that lie between the rows of a matrix, and one matrix for all of them.
        let batch = Batch::of(&view(&[2, 3], &[600, 16]), &view(&[2, 3], &[32, 0])).unwrap();
        assert_eq!(batch, Batch { lengths: [3, 2], strides: [[16, 600], [0, 32]] });
        assert_eq!((batch.own(0).0, batch.own(1).0), ([3, 2], [1, 2]));
        // Without gaps it is one axis.
        let batch = Batch::of(&view(&[2, 3], &[48, 16]), &view(&[2, 3], &[0, 0])).unwrap();
        assert_eq!(batch, Batch { lengths: [6, 1], strides: [[16, 0], [0, 0]] });
        let odd = view(&[2, 3, 2], &[1600, 16, 100]);
        assert_eq!(Batch::of(&odd, &odd), None);
    }
}
