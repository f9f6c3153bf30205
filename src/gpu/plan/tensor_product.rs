//! Products on tensor cores: when they take a product, and how its two sides must lie.
//!
//! What is stored in 16 bits is multiplied so, and floats of 32 bits where the caller has asked for TF32; sums are floats. Integers of 8 bits are
//! multiplied as they are, whatever the caller has asked for, and their sums are integers. So are floats of 8 bits, whose sums are floats; where tensor
//! cores do not have them (before compute capability 8.9), they are multiplied as the numbers of 16 bits that all of them are. A tile is copied in
//! pieces of 16 bytes, so every row of a side must begin at a multiple of them and have a multiple of them. A side that lies otherwise is copied
//! first, a constant one is uploaded as it is wanted; a depth that is no multiple of a piece is left to gemm.cu.

use super::product::int;
use super::program::{Array, Program, stored_name};
use super::sources::Source;
use super::text::Generated;
use super::{Argument, Operator, Planner, TensorCores};
use crate::error::{Result, ScoreError};
use crate::layout::view::View;
use crate::scoring::Precision;
use crate::tensor::DType;

/// What an asynchronous copy moves.
const PIECE_BYTES: usize = 16;
/// Bytes of depth of a step, and steps that are in shared memory at once (kernels/cuda/tensor_tiles.cu).
const STEP_BYTES: usize = 64;
const STAGES: usize = 3;
/// Fewer large tiles than this leave parts of a GPU without work, and small ones are better.
const FEW_TILES: usize = 96;
/// Rows and columns of those. Of a result of no more columns, a large tile is as narrow: half of it would be empty.
const SMALL: usize = 64;

/// The two sides of a product, as the kernel wants them.
pub(super) struct Sides {
    /// `[…, m, k]`, the depth together.
    pub(super) left: Array,
    /// `[…, k, n]`.
    pub(super) right: Array,
    /// Whether the columns of the right side lie together, else the depth.
    pub(super) right_rows: bool,
}

/// The part of a result that a block computes, and how its warps share it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tile {
    pub(super) rows: usize,
    pub(super) columns: usize,
    warps: [usize; 2],
}

impl Tile {
    /// For a result of so many rows and columns, so many times.
    pub(super) fn of(rows: usize, columns: usize, times: usize) -> Self {
        let is_narrow = columns <= SMALL;
        let large = match is_narrow {
            true => Self { rows: 128, columns: SMALL, warps: [4, 2] },
            false => Self { rows: 128, columns: 128, warps: [2, 4] },
        };
        let tiles = rows.div_ceil(large.rows) * columns.div_ceil(large.columns) * times;
        match tiles < FEW_TILES || (is_narrow && rows <= SMALL) {
            true => Self { rows: SMALL, columns: SMALL, warps: [2, 2] },
            false => large,
        }
    }

    pub(super) fn sums(self) -> usize {
        self.rows * self.columns
    }

    /// Steps of a depth of so many bytes, where blocks may share them: a result of large tiles fills a device by itself.
    pub(super) fn shared_steps(self, depth_bytes: usize) -> Option<usize> {
        (self.rows == SMALL).then(|| depth_bytes.div_ceil(STEP_BYTES))
    }

    pub(super) fn threads(self) -> usize {
        32 * self.warps.iter().product::<usize>()
    }

    pub(super) fn shared_bytes(self) -> usize {
        STAGES * STEP_BYTES * (self.rows + self.columns)
    }

    pub(super) fn define(self, source: Source) -> Source {
        let [rows, columns] = self.warps;
        let source = source.define("TILE_M", self.rows).define("TILE_N", self.columns);
        source.define("WARPS_M", rows).define("WARPS_N", columns)
    }
}

impl Sides {
    /// The launch, for so many matrices, and rows, columns and depth of each.
    pub(super) fn operator(
        &self,
        planner: &mut Planner<'_>,
        batches: Generated,
        row_stride: usize,
        [matrices, m, n, k]: [usize; 4],
    ) -> Result<Operator> {
        let tile = Tile::of(m, n, matrices);
        let source =
            Source::new("gemm_tensor", "gemm_tensor", &["tensor_core", "fours", "tensor_tiles", "parts"])
                .define("ELEMENT", stored_name(self.left.dtype)?)
                .define("RIGHT", stored_name(self.right.dtype)?)
                .define("RIGHT_ROWS", i32::from(self.right_rows));
        let mut source = tile.define(source);
        source.generated.push_str(&batches.text);
        let view = &self.right.view;
        let axis = view.shape.len().saturating_sub(if self.right_rows { 2 } else { 1 });
        let stride = view.stride(axis) / view.size.max(1) as isize;
        let operator = Operator {
            source,
            grid: [n.div_ceil(tile.columns), m.div_ceil(tile.rows), matrices],
            block: tile.threads(),
            shared_bytes: tile.shared_bytes(),
            arguments: vec![
                Argument::Result,
                Argument::at(&self.left.view),
                Argument::at(&self.right.view),
                Argument::Struct(batches.argument),
                int(row_stride)?,
                int(usize::try_from(stride).unwrap_or(0))?,
                int(m)?,
                int(n)?,
                int(k)?,
            ],
            writes: Vec::new(),
        };
        Ok(planner.in_parts(operator, tile, k * self.left.view.size))
    }
}

impl Planner<'_> {
    /// What tensor cores multiply tensors of these types as, if they do.
    pub(super) fn tensor_types(&self, left: DType, right: DType) -> Option<[DType; 2]> {
        let is_tf32 = self.settings.precision == Precision::Tf32;
        let cores = self.settings.tensor_cores;
        let types = match [self.stored(left), self.stored(right)] {
            // Each of them, exactly.
            types if types.iter().all(|t| t.is_float8()) && !cores.has_float8() => [DType::F16; 2],
            types => types,
        };
        let is_taken = match types {
            [DType::F16, DType::F16] | [DType::Bf16, DType::Bf16] => true,
            [DType::F32, DType::F32] => is_tf32,
            [DType::I8 | DType::U8, DType::I8 | DType::U8] => true,
            [left, right] => left.is_float8() && right.is_float8(),
        };
        (is_taken && cores != TensorCores::None).then_some(types)
    }

    /// The sides of a product of matrices, if tensor cores take it.
    pub(super) fn for_tensor_cores(&mut self, a: &Array, b: &Array) -> Result<Option<Sides>> {
        let Some([own, other]) = self.tensor_types(a.dtype, b.dtype) else { return Ok(None) };
        let (Some(row), Some(deep)) = (a.view.shape.len().checked_sub(2), b.view.shape.len().checked_sub(2))
        else {
            return Ok(None);
        };
        let size = super::element_bytes(own)?;
        let (depth, columns) = (a.view.length(row + 1), b.view.length(deep + 1));
        if depth == 0 || !(depth * size).is_multiple_of(PIECE_BYTES) {
            return Ok(None);
        }
        let left = match a.dtype == own && lies_in_pieces(&a.view, row + 1) {
            true => a.clone(),
            false => {
                let order = (0..row + 2).collect::<Vec<_>>();
                self.copied(a, own, &order)?
            }
        };
        // Nothing turns bytes round between shared memory and registers.
        let is_whole = size > 1 && (columns * size).is_multiple_of(PIECE_BYTES);
        // A constant may lie either way for nothing, and Hopper multiplies TF32 in one way alone.
        let is_turned = own == DType::F32 && self.settings.tensor_cores.is_wgmma() && self.is_constant(b);
        if b.dtype == other && is_whole && !is_turned && lies_in_pieces(&b.view, deep + 1) {
            return Ok(Some(Sides { left, right: b.clone(), right_rows: true }));
        }
        let right = match b.dtype == other && lies_in_pieces(&b.view, deep) {
            true => b.clone(),
            false => {
                let order = (0..deep).chain([deep + 1, deep]).collect::<Vec<_>>();
                self.copied(b, other, &order)?
            }
        };
        Ok(Some(Sides { left, right, right_rows: false }))
    }

    fn is_constant(&self, array: &Array) -> bool {
        self.held.get(array.view.storage.0).is_some_and(|held| held.constant.is_some())
    }

    /// A tensor stored as that type, its axes in that order without gaps: a constant is uploaded so, another one is copied.
    fn copied(&mut self, array: &Array, dtype: DType, order: &[usize]) -> Result<Array> {
        let constant = self.held.get(array.view.storage.0).and_then(|held| held.constant.clone());
        if let Some(constant) = constant {
            let shape = constant.tensor.shape();
            let plain = View::ordered(array.view.storage, shape, &constant.order, array.view.size);
            let rank = shape.len();
            // Each axis as it is, or the last two of them changed.
            let same = (0..rank).collect::<Vec<_>>();
            let mut swapped = same.clone();
            if rank >= 2 {
                swapped.swap(rank - 1, rank - 2);
            }
            if let Some(turn) = [same, swapped].into_iter().find(|turn| plain.transposed(turn) == array.view)
            {
                let place = |axis: &usize| turn.get(*axis).copied().unwrap_or(*axis);
                let order = order.iter().map(place).collect::<Vec<_>>();
                let stored = self.constant_array(constant.tensor, &order, dtype)?;
                return Ok(Array { view: stored.view.transposed(&turn), dtype });
            }
        }
        let copy = self.allocate(&array.view.shape, dtype, Some(order))?;
        let program = Program::of(array.clone())?;
        self.map(&program, &copy, &[])?;
        match lies_in_pieces(&copy.view, order.last().copied().unwrap_or(0)) {
            true => Ok(copy),
            false => Err(ScoreError::internal("a copy that does not lie in pieces")),
        }
    }
}

/// Elements of a piece.
pub(super) fn piece_elements(dtype: DType) -> Result<usize> {
    Ok(PIECE_BYTES / super::element_bytes(dtype)?.max(1))
}

/// Whether the elements along that axis lie together, and every row of them begins at a multiple of a piece.
pub(super) fn lies_in_pieces(view: &View, together: usize) -> bool {
    let others = (0..view.shape.len()).filter(|axis| *axis != together && view.length(*axis) != 1);
    (view.length(together) == 1 || view.stride(together) == view.size as isize)
        && view.offset.is_multiple_of(PIECE_BYTES)
        && others.into_iter().all(|axis| view.stride(axis).unsigned_abs().is_multiple_of(PIECE_BYTES))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_are_large_where_a_device_is_filled_and_narrow_where_the_result_is() {
        // (rows, columns, times, rows and columns of a tile)
        let cases = [
            // ResNet-50's first stage, of 8 images and of one; BERT-base, of 8 sequences of 128 tokens and of one.
            (8 * 3136, 64, 1, [128, 64]),
            (3136, 64, 1, [64, 64]),
            (8 * 3136, 256, 1, [128, 128]),
            (1024, 3072, 1, [128, 128]),
            (128, 768, 1, [64, 64]),
            // As many tiles as fill a device, and one less; columns that fill a tile, and one more.
            (95 * 128 + 1, 64, 1, [128, 64]),
            (95 * 128, 64, 1, [64, 64]),
            (95 * 128 + 1, 65, 1, [128, 128]),
            (95 * 128 + 1, 5, 1, [128, 64]),
            // Of many small matrices a small tile has all.
            (64, 64, 1000, [64, 64]),
            (65, 64, 96, [128, 64]),
        ];
        for (rows, columns, times, expected) in cases {
            let tile = Tile::of(rows, columns, times);
            assert_eq!([tile.rows, tile.columns], expected, "{times} times {rows} x {columns}");
            // Each warp has 32 columns, of 32 rows or 64; small tiles alone share their depth.
            let [by_rows, by_columns] = tile.warps;
            assert_eq!((tile.columns / by_columns, tile.rows / by_rows % 32), (32, 0));
            assert_eq!(tile.shared_steps(STEP_BYTES + 1), (expected == [64, 64]).then_some(2));
        }
    }
}
