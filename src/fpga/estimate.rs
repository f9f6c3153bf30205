//! What the engine would do on a board that is not there: **estimated**, from its loop nests and the board's data sheet.
//!
//! The cycles are the kernels' own (`cycles`, held to the kernels by a test). Around them stand assumptions, each a constant with its reason
//! here: a pipeline takes a step each cycle, the clock is the board's [`assumed`](Board::assumed_clock_mhz) one, memory gives its data
//! sheet's bandwidth, a part of the device is left for the shell and for routing. Nothing of it was measured on a board, and a number of
//! this module is no promise: it says what bounds each layer, and which size of the array is worth a synthesis.

mod boards;
mod cycles;
mod layout;
pub mod plot;

use crate::error::{Result, ScoreError};
use crate::graph::Graph;
use crate::model::Model;
use crate::offload;

use super::plan::{Launch, Plan, plan};
use super::tile::{LANES, Tile};

pub use boards::{BOARDS, Board, board};
pub use cycles::Cost;

/// So much of a device's multipliers and memory a design is assumed to fill: the rest is the shell's, and room to route.
const USABLE: f64 = 0.7;
/// What starting a kernel is assumed to take, in seconds: launches are queued ahead, so only a little of it is seen.
const LAUNCH_S: f64 = 5e-6;
/// What the kernels beside the matrix engine are assumed to take: lanes of products and of single-precision steps, in DSP blocks a unit.
const OTHER_BLOCKS: usize = 16 * 8;
/// The rows and compute units that are tried.
const ROWS: [usize; 10] = [4, 7, 14, 16, 28, 32, 49, 56, 64, 112];
const UNITS: [usize; 7] = [1, 2, 3, 4, 6, 8, 12];

/// An engine of a certain size.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Size {
    /// The array and its memory.
    pub tile: Tile,
    /// How many engines share each operator.
    pub units: usize,
}

/// What bounds a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// The kernel computes all the time.
    Compute,
    /// The array waits for windows to be staged: steps that multiply nothing are the larger part.
    Staging,
    /// Memory on the card gives no more.
    Memory,
    /// Starting it takes longer than running it.
    Launch,
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Compute => "compute",
            Self::Staging => "staging",
            Self::Memory => "memory",
            Self::Launch => "launch",
        })
    }
}

/// A launch on the board.
#[derive(Debug, Clone, PartialEq)]
pub struct Layer {
    /// The kernel.
    pub kernel: &'static str,
    /// The places, in the model's order, of the nodes that it computes.
    pub nodes: Vec<usize>,
    /// What it takes.
    pub cost: Cost,
    /// Estimated seconds.
    pub time_s: f64,
    /// What bounds it.
    pub bound: Bound,
}

/// A size of the engine, and what it would reach.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// The size.
    pub size: Size,
    /// DSP blocks that it takes.
    pub dsp_blocks: usize,
    /// Bytes on the chip that it takes.
    pub on_chip_bytes: usize,
    /// Whether it fits what is usable of the board.
    pub fits: bool,
    /// Estimated rows of a batch a second (images, for a model of images).
    pub rows_per_s: f64,
}

/// A model on a board, estimated.
#[derive(Debug, Clone, PartialEq)]
pub struct Estimate {
    /// The board.
    pub board: Board,
    /// The size that is best among those that fit.
    pub best: Candidate,
    /// All sizes that were tried, the best first.
    pub candidates: Vec<Candidate>,
    /// Every launch with the best size.
    pub layers: Vec<Layer>,
    /// Estimated seconds for the batch.
    pub time_s: f64,
    /// Rows of the batch.
    pub rows: usize,
    /// How many of the model's nodes the host would run: they are not estimated.
    pub on_host: usize,
}

/// Estimates a quantised model on a board, for a batch of that many rows.
///
/// # Errors
/// `Unsupported` where nothing of the model is for the engine; what planning says.
pub fn estimate(model: &Model, board: &Board, rows: usize) -> Result<Estimate> {
    let placed = super::placed(model)?;
    offload::require_device(&placed, true, "an FPGA", super::ADVICE)?;
    let parts = placed.bound_parts(rows)?;
    let mut candidates = Vec::new();
    for array in ROWS {
        let tile = Tile { rows: array, ..Tile::default() };
        let launches = launches(&parts, tile)?;
        for units in UNITS {
            let size = Size { tile, units };
            let time_s = launches.iter().map(|l| layer(l, board, size).time_s).sum::<f64>();
            let (dsp_blocks, on_chip_bytes) = (dsp_blocks(board, size), on_chip_bytes(size));
            let fits = dsp_blocks as f64 <= USABLE * board.dsp_blocks as f64
                && on_chip_bytes as f64 <= USABLE * board.on_chip_bytes as f64;
            candidates.push(Candidate {
                size,
                dsp_blocks,
                on_chip_bytes,
                fits,
                rows_per_s: rows as f64 / time_s,
            });
        }
    }
    candidates.sort_by(|a, b| b.fits.cmp(&a.fits).then(b.rows_per_s.total_cmp(&a.rows_per_s)));
    let none = || ScoreError::unsupported(format!("no size of the engine fits {}", board.device));
    let best = candidates.first().filter(|c| c.fits).copied().ok_or_else(none)?;
    let launches = launches(&parts, best.size.tile)?;
    let layers = launches.iter().map(|l| layer(l, board, best.size)).collect::<Vec<_>>();
    let time_s = layers.iter().map(|l| l.time_s).sum();
    let on_host = placed.placement.on_host().count();
    Ok(Estimate { board: *board, best, candidates, layers, time_s, rows, on_host })
}

/// A launch and what it takes.
struct Counted {
    launch: Launch,
    cost: Cost,
}

fn launches(parts: &[Graph], tile: Tile) -> Result<Vec<Counted>> {
    let mut all = Vec::new();
    for part in parts {
        let plan: Plan = plan(part, tile, false)?;
        let count = |l: &Launch| Counted { launch: l.clone(), cost: cycles::of(&plan, l, tile) };
        all.extend(plan.launches.iter().map(count));
    }
    Ok(all)
}

fn layer(counted: &Counted, board: &Board, size: Size) -> Layer {
    let Counted { launch, cost } = counted;
    // The unit with the most work is the last to be done.
    let share = launch.work.div_ceil(size.units) as f64 / launch.work.max(1) as f64;
    let clock_hz = board.assumed_clock_mhz * 1e6;
    let compute_s = cost.cycles as f64 * share / clock_hz;
    let memory_s = (cost.read_bytes + cost.written_bytes) as f64 / board.memory_bytes_per_s;
    let steps = cost.products as f64 / products_per_cycle(size.tile) as f64;
    let bound = match () {
        () if LAUNCH_S > compute_s.max(memory_s) => Bound::Launch,
        () if memory_s > compute_s => Bound::Memory,
        () if cost.products > 0 && steps * 2.0 < cost.cycles as f64 => Bound::Staging,
        () => Bound::Compute,
    };
    let time_s = compute_s.max(memory_s) + LAUNCH_S;
    Layer { kernel: launch.kernel.name(), nodes: launch.origins.clone(), cost: *cost, time_s, bound }
}

/// Products that an array makes in a cycle: two for each of its elements.
pub fn products_per_cycle(tile: Tile) -> usize {
    tile.rows * LANES * 2
}

/// Blocks of all units: the array's products, and the kernels beside it.
fn dsp_blocks(board: &Board, size: Size) -> usize {
    size.units * (products_per_cycle(size.tile).div_ceil(board.products_per_block) + OTHER_BLOCKS)
}

/// The staged windows in 16 bits, and the tables of the other kernels.
fn on_chip_bytes(size: Size) -> usize {
    const TABLES_BYTES: usize = 256 + 1024;
    size.units * (size.tile.rows * (size.tile.depth + 2 * LANES) * 2 + TABLES_BYTES)
}

impl Estimate {
    /// Operations a second that the whole reaches: two for each product.
    pub fn operations_per_s(&self) -> f64 {
        2.0 * self.layers.iter().map(|l| l.cost.products as f64).sum::<f64>() / self.time_s
    }

    /// Operations a second that the arrays could make at most.
    pub fn peak_operations_per_s(&self) -> f64 {
        let Size { tile, units } = self.best.size;
        2.0 * (products_per_cycle(tile) * units) as f64 * self.board.assumed_clock_mhz * 1e6
    }
}

#[cfg(test)]
mod tests;
