//! How large the engine was built: what a binary's manifest says, what the compiler is told, and what the planner counts with.

use crate::scoring::Device;

/// Elements of a vector: `LANES` of the kernels.
pub(super) const LANES: usize = 16;

/// The sizes of the engine's array and of its memory on the chip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tile {
    /// Output pixels that are computed side by side: `ROWS` of the kernels.
    pub rows: usize,
    /// So many elements of a window are staged on the chip at once for each pixel: `K_CAPACITY` of the kernels.
    pub depth: usize,
}

impl Default for Tile {
    /// What suits the registers and caches of a processor with vectors of 512 bits.
    fn default() -> Self {
        Self { rows: 14, depth: 4608 }
    }
}

/// Rows whose sums fit the registers of a processor with smaller vectors: two of 256 bits a row, twelve of sixteen in all. With more of
/// them sums go to memory and back in the innermost loop.
const FEW_ROWS: usize = 6;

impl Tile {
    /// What suits a device: the registers of the processor that emulates one; for a board, what its binary is built with where nothing is said.
    pub fn for_device(device: &Device) -> Self {
        match super::opencl::vector_lanes(device) {
            Some(lanes) if device.emulated && lanes < LANES => Self { rows: FEW_ROWS, ..Self::default() },
            _ => Self::default(),
        }
    }

    /// Whether an engine can be of that size: the loops take two elements at once, and whole vectors of 16.
    pub(super) fn is_possible(self) -> bool {
        (1..=1024).contains(&self.rows)
            && (16..=1 << 20).contains(&self.depth)
            && self.depth.is_multiple_of(16)
    }
}
