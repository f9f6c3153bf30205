//! A depth in parts ("split-K"): how many blocks share the sums of a result of few tiles.
//!
//! A model's last product, or a convolution of one small image, has a handful of tiles and a depth of thousands: with a block for each tile most of a GPU is
//! idle while few of its multiprocessors work long. So blocks of their own sum up parts of the depth, and the last one to be done with a tile adds the
//! parts up and does what is done to the result (`kernels/cuda/parts.cu`). The parts' sums lie in the plan's memory for that launch alone. What counts
//! the parts is one piece of memory for all launches of a plan, as they come one after the other and each leaves it as it was: zero.

use super::tensor_product::Tile;
use super::text::{NOWHERE, Struct};
use super::{Argument, Held, Operator, Planner};
use crate::layout::view::Storage;

/// Steps of a part, at least: as many again are lost until the first is there and the sums are with the last block.
const LEAST_STEPS: usize = 6;
/// Blocks that a multiprocessor has room for.
const BLOCKS_EACH: usize = 2;
/// One block adds up so many parts, at most.
const MOST_PARTS: usize = 16;
/// A sum of a part, and what counts parts.
const WORD_BYTES: usize = 4;

/// The parts of a depth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Parts {
    count: usize,
    /// Of each of them; the last one may have fewer.
    steps: usize,
}

impl Parts {
    /// Of so many steps, for a result of so many tiles.
    fn of(multiprocessors: usize, tiles: usize, steps: usize) -> Self {
        let idle = (multiprocessors * BLOCKS_EACH).checked_div(tiles).unwrap_or(1);
        let wanted = idle.min(steps / LEAST_STEPS).clamp(1, MOST_PARTS);
        let each = steps.div_ceil(wanted).max(1);
        Self { count: steps.div_ceil(each).max(1), steps: each }
    }
}

impl Planner<'_> {
    /// A launch of a block for each tile, as one whose blocks share the depth of so many bytes where that fills the device.
    pub(super) fn in_parts(&mut self, mut operator: Operator, tile: Tile, depth_bytes: usize) -> Operator {
        let [columns, rows, matrices] = operator.grid;
        let tiles = columns * rows * matrices;
        let multiprocessors = self.settings.tensor_cores.multiprocessors();
        let Parts { count, steps } = match tile.shared_steps(depth_bytes) {
            Some(steps) => Parts::of(multiprocessors, tiles, steps),
            None => Parts { count: 1, steps: 0 },
        };
        let pointers = match count {
            1 => vec![(NOWHERE, 0); 2],
            _ => {
                let sums =
                    self.hold(Held { bytes: tiles * count * tile.sums() * WORD_BYTES, constant: None });
                operator.grid = [columns, rows, matrices * count];
                operator.writes.push(sums);
                vec![(sums, 0), (self.arrivals(tiles), 0)]
            }
        };
        operator.source = operator.source.define("SPLIT", i32::from(count > 1));
        let words = [count, steps].map(|n| u32::try_from(n).unwrap_or(u32::MAX)).to_vec();
        operator.arguments.push(Argument::Struct(Struct { pointers, words }));
        operator
    }

    /// What counts the parts of so many tiles.
    fn arrivals(&mut self, tiles: usize) -> Storage {
        let storage = match self.arrived {
            Some(storage) => storage,
            None => self.hold(Held { bytes: 0, constant: None }),
        };
        self.arrived = Some(storage);
        if let Some(held) = self.held.get_mut(storage.0) {
            held.bytes = held.bytes.max(tiles * WORD_BYTES);
        }
        storage
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Plan, PlannedArgument, Settings, TensorCores, plan};
    use super::*;
    use crate::graph::fold;
    use crate::graph::testing::graph_of;
    use crate::scoring::Precision;

    #[test]
    fn a_depth_is_shared_by_as_many_blocks_as_would_be_idle() {
        // (multiprocessors, tiles, steps, parts, steps of each)
        let cases = [
            // BERT-base on an H200, one sequence of 128 tokens: attention's end, both products of the feed-forward net.
            (132, 24, 24, 4, 6),
            (132, 96, 24, 2, 12),
            (132, 24, 96, 11, 9),
            // ResNet-50, one image: its last convolutions, and what classifies.
            (132, 8, 144, 16, 9),
            (132, 16, 64, 10, 7),
            // The device is full, or the depth is no work.
            (132, 200, 1000, 1, 1000),
            (132, 1, 11, 1, 11),
            (132, 1, 12, 2, 6),
            (2, 1, 13, 2, 7),
            // A device that is not known, nothing to do.
            (0, 1, 100, 1, 100),
            (132, 0, 100, 1, 100),
            (132, 1, 0, 1, 1),
        ];
        for (multiprocessors, tiles, steps, count, each) in cases {
            let parts = Parts::of(multiprocessors, tiles, steps);
            assert_eq!(parts, Parts { count, steps: each }, "{tiles} tiles of {steps} steps");
            assert!((count - 1) * each < steps.max(1), "no part is empty");
        }
    }

    fn planned(text: &str) -> Plan {
        let mut graph = graph_of(text);
        fold::fold(&mut graph, None).unwrap();
        let tensor_cores = TensorCores::Wgmma { multiprocessors: 132 };
        plan(&graph, Settings { precision: Precision::Bf16, tensor_cores, ..Settings::default() }).unwrap()
    }

    #[test]
    fn launches_of_parts_share_what_counts_them_and_nobody_else_does() {
        let text = "x: f32[1, 64, 7, 7]
             w = f32[64, 64, 3, 3] 1
             v = f32[64, 64, 3, 3] 2
             a = Conv<pads=[1, 1, 1, 1]>(x, w)
             b = Relu(a)
             c = Conv<pads=[1, 1, 1, 1]>(b, v)
             s = i64[2] 1 -1
             f = Reshape(c, s)
             u = f32[3136, 10] 1
             y = MatMul(f, u)
             -> y";
        let plan = planned(text);
        let shared = plan.launches.iter().filter(|l| l.kernel.ends_with("_tensor")).collect::<Vec<_>>();
        // 18 steps of a convolution, 98 of a product, and one tile of each.
        assert_eq!(shared.iter().map(|l| l.grid).collect::<Vec<_>>(), [[1, 1, 3], [1, 1, 3], [1, 1, 14]]);
        let (arena, start, bytes) = plan.zeroed.unwrap();
        assert_eq!(bytes, 4);
        let places = |l: &crate::gpu::plan::Launch| l.arguments.last().cloned().unwrap_or_default();
        for launch in &shared {
            let argument = places(launch);
            let [sums, arrived, ..] = argument.as_slice() else { panic!("{argument:?}") };
            assert_eq!(*arrived, PlannedArgument::Arena(arena, start));
            assert_ne!(sums, arrived);
        }
        // No tensor lies there, at any time.
        let counts =
            |value: &&PlannedArgument| matches!(value, PlannedArgument::Arena(_, at) if *at == start);
        let all = plan.launches.iter().flat_map(|l| l.arguments.iter().flatten());
        assert_eq!(all.filter(counts).count(), shared.len());
        // Nothing is counted where nothing is shared.
        let whole = planned("x: f32[8, 64]\nw = f32[64, 64] 1\ny = MatMul(x, w)\n-> y");
        assert_eq!((whole.zeroed, whole.launches[0].grid), (None, [1, 1, 1]));
    }
}
