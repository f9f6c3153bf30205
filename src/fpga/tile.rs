//! How large the engine was built: what a binary's manifest says, what the compiler is told, and what the planner counts with.

/// The sizes of the engine's array and of its memory on the chip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tile {
    /// Output pixels that are computed side by side: `ROWS` of the kernels.
    pub rows: usize,
    /// So many elements of a window are staged on the chip at once for each pixel: `K_CAPACITY` of the kernels.
    pub depth: usize,
}

impl Default for Tile {
    /// What suits a processor's registers and caches, which is what emulates.
    fn default() -> Self {
        Self { rows: 14, depth: 4608 }
    }
}

impl Tile {
    /// Whether an engine can be of that size: the loops take two elements at once, and whole vectors of 16.
    pub(super) fn is_possible(self) -> bool {
        (1..=1024).contains(&self.rows)
            && (16..=1 << 20).contains(&self.depth)
            && self.depth.is_multiple_of(16)
    }
}
