//! The estimate's cycles against the kernels themselves: built with a counter at every step, and launched.

use opencl3::kernel::Kernel as ClKernel;
use opencl3::memory::ClMem;
use opencl3::program::Program;
use opencl3::types::CL_BLOCKING;

use super::*;
use crate::fpga::engine::{Engine, Memory};
use crate::fpga::plan::Kernel;
use crate::fpga::{FpgaBackend, opencl, sources};
use crate::graph::rewrite::{remove_identities, to_integers};
use crate::graph::testing::graph_of;
use crate::scoring::Backend;

/// Where the counter lies, before the arena.
const BEFORE_BYTES: usize = 64;

/// An engine whose kernels count.
struct Counting {
    engine: Engine,
    program: Program,
}

impl Counting {
    fn new(tile: Tile) -> Option<Self> {
        let device = match FpgaBackend::new().probe() {
            Ok(devices) => devices.into_iter().next()?,
            Err(e) => {
                println!("skipped: {e}");
                return None;
            }
        };
        let engine = Engine::build(opencl::place(&device).unwrap(), tile).unwrap();
        let options = format!("{} -DENGINE_COUNT={BEFORE_BYTES}", sources::options(tile));
        let program = engine.program_with(&options).unwrap();
        Some(Self { engine, program })
    }

    /// The steps that each launch of a plan takes on the device, all of it by one unit.
    fn ticks(&self, plan: &Plan) -> Vec<u64> {
        let queue = self.engine.queue().unwrap();
        let zeros = vec![0u8; plan.arena_bytes + BEFORE_BYTES];
        let memory = |bytes: &[u8]| -> Memory {
            let mut memory = self.engine.memory(bytes.len().max(64), false).unwrap();
            if !bytes.is_empty() {
                // SAFETY: as many bytes as the memory has at least; the write blocks.
                unsafe { queue.enqueue_write_buffer(&mut memory.buffer, CL_BLOCKING, 0, bytes, &[]) }
                    .unwrap();
            }
            memory
        };
        let (mut arena, constants) = (memory(&zeros), memory(&plan.constants));
        let words = memory(bytemuck::cast_slice(&plan.words));
        let mut counted = Vec::new();
        for launch in &plan.launches {
            // SAFETY: the counter's bytes; the write blocks.
            unsafe { queue.enqueue_write_buffer(&mut arena.buffer, CL_BLOCKING, 0, &[0u8; 8], &[]) }.unwrap();
            let kernel = ClKernel::create(&self.program, launch.kernel.name()).unwrap();
            let ints = [launch.at as i32, 0, launch.work as i32];
            // SAFETY: as ENGINE_ARGUMENTS declares them; the arena has the counter's bytes more than the plan says.
            unsafe {
                kernel.set_arg(0, &arena.buffer.get()).unwrap();
                kernel.set_arg(1, &constants.buffer.get()).unwrap();
                kernel.set_arg(2, &words.buffer.get()).unwrap();
                ints.iter().zip(3..).for_each(|(v, at)| kernel.set_arg(at, v).unwrap());
                let one = [1usize];
                queue
                    .enqueue_nd_range_kernel(
                        kernel.get(),
                        1,
                        std::ptr::null(),
                        one.as_ptr(),
                        one.as_ptr(),
                        &[],
                    )
                    .unwrap();
            }
            queue.finish().unwrap();
            let mut ticks = [0u8; 8];
            // SAFETY: the counter's bytes; the read blocks.
            unsafe { queue.enqueue_read_buffer(&arena.buffer, CL_BLOCKING, 0, &mut ticks, &[]) }.unwrap();
            counted.push(u64::from_ne_bytes(ticks));
        }
        counted
    }
}

/// Graphs that reach every kernel and every way through its loops.
fn graphs() -> Vec<(&'static str, Graph)> {
    const C: &str = "s = f32[] 0.5\nt = f32[] 0.25\nz = u8[] 128\nn = i8[] 0\ng = f32[21] 1";
    let conv = |x: &str, w: &str, attributes: &str| {
        format!(
            "x: u8{x}\nw = i8{w} 3\nf = DequantizeLinear(x, s, z)\nv = DequantizeLinear(w, s, n)\n\
             c = Conv<{attributes}>(f, v)\ny = QuantizeLinear(c, t, z)\n-> y: u8[?]"
        )
    };
    let unary = |x: &str, op: &str| {
        format!("x: u8{x}\nf = DequantizeLinear(x, s, z)\nr = {op}\ny = QuantizeLinear(r, t, z)\n-> y: u8[?]")
    };
    let binary = |a: &str, b: &str, op: &str| {
        format!(
            "a: u8{a}\nb: u8{b}\nf = DequantizeLinear(a, s, z)\ng = DequantizeLinear(b, t, z)\nr = {op}\n\
             y = QuantizeLinear(r, t, z)\n-> y: u8[?]"
        )
    };
    let texts = [
        ("pointwise", conv("[1, 19, 7, 5]", "[33, 19, 1, 1]", "kernel_shape=[1 1]")),
        ("padded", conv("[2, 24, 9, 7]", "[20, 24, 3, 3]", "kernel_shape=[3 3], pads=[1 1 1 1]")),
        (
            "strided",
            conv("[1, 5, 13, 11]", "[7, 5, 5, 3]", "kernel_shape=[5 3], strides=[2 3], pads=[2 0 1 1]"),
        ),
        (
            "dilated",
            conv("[1, 6, 12, 12]", "[17, 6, 3, 3]", "kernel_shape=[3 3], dilations=[2 3], pads=[2 3 2 3]"),
        ),
        ("grouped", conv("[2, 12, 8, 8]", "[18, 4, 3, 3]", "kernel_shape=[3 3], group=3, pads=[1 1 1 1]")),
        ("depthwise", conv("[1, 37, 9, 9]", "[37, 1, 3, 3]", "kernel_shape=[3 3], group=37, strides=[2 2]")),
        ("deep", conv("[1, 600, 5, 5]", "[20, 600, 3, 3]", "kernel_shape=[3 3], pads=[1 1 1 1]")),
        ("product of activations", binary("[3, 17, 21]", "[3, 21, 30]", "MatMul(f, g)")),
        ("sum", binary("[3, 5, 37]", "[3, 5, 37]", "Add(f, g)")),
        ("broadcast", binary("[4, 3, 5, 9]", "[3, 1, 9]", "Mul(f, g)")),
        ("table", unary("[3, 50]", "Sigmoid(f)")),
        ("softmax", unary("[6, 33]", "Softmax<axis=-1>(f)")),
        ("max pool", unary("[2, 21, 9, 9]", "MaxPool<kernel_shape=[3 3], strides=[2 2], pads=[1 1 1 1]>(f)")),
        ("average pool", unary("[1, 18, 8, 8]", "AveragePool<kernel_shape=[2 3], strides=[2 1]>(f)")),
        ("global pool", unary("[2, 20, 5, 7]", "GlobalAveragePool(f)")),
        ("layer norm", unary("[7, 21]", "LayerNormalization<axis=-1>(f, g, g)")),
        (
            "residual",
            "x: u8[2, 9, 20]\nw = i8[20, 20] 3\nf = DequantizeLinear(x, s, z)\nv = DequantizeLinear(w, s, n)\n\
             m = MatMul(f, v)\nq = QuantizeLinear(m, t, z)\nd = DequantizeLinear(q, t, z)\nr = Add(f, d)\n\
             y = QuantizeLinear(r, t, z)\n-> y: u8[?]"
                .to_owned(),
        ),
        ("join", binary("[2, 5, 3]", "[2, 9, 3]", "Concat<axis=1>(f, g)")),
    ];
    let graph = |(name, text): (&'static str, String)| {
        // A name of the text hides the constant of that name.
        let constants =
            if text.contains("g = Deq") { C.replace("\ng = f32[21] 1", "") } else { C.to_owned() };
        let mut graph = graph_of(&format!("{constants}\n{text}"));
        to_integers(&mut graph).unwrap();
        graph.tidy().unwrap();
        remove_identities(&mut graph).unwrap();
        graph.tidy().unwrap();
        (name, graph)
    };
    // Of 16 bits the array goes over planes, and other ways are taken through the loops.
    let wide = |(name, text): &(&'static str, String)| {
        (
            *name,
            text.replace("u8[", "u16[").replace("DequantizeLinear(x, s, z)", "DequantizeLinear(x, s, zw)"),
        )
    };
    let wide = texts.iter().map(wide).map(|(name, text)| {
        let text = ["(a, s, z)", "(b, t, z)", "(c, t, z)", "(r, t, z)", "(m, t, z)", "(q, t, z)"]
            .iter()
            .fold(text, |text, triple| text.replace(triple, &triple.replace("z)", "zw)")));
        (name, format!("zw = u16[] 32768\n{text}"))
    });
    let wide = wide.collect::<Vec<_>>();
    texts.into_iter().chain(wide).map(graph).collect()
}

#[test]
fn the_cycles_are_the_kernels_own() {
    let mut seen = std::collections::BTreeSet::new();
    for tile in [Tile::default(), Tile { rows: 5, depth: 48 }] {
        let Some(counting) = Counting::new(tile) else { return };
        for (name, graph) in graphs() {
            let plan = plan(&graph, tile, false).unwrap_or_else(|e| panic!("{name}: {e}"));
            let ticks = counting.ticks(&plan);
            for (launch, ticks) in plan.launches.iter().zip(ticks) {
                let cost = cycles::of(&plan, launch, tile);
                println!("{name}: {}: {} cycles, {ticks} counted", launch.kernel.name(), cost.cycles);
                assert_eq!(cost.cycles, ticks, "{name}: {} of {tile:?}", launch.kernel.name());
                seen.insert(launch.kernel);
            }
        }
    }
    assert_eq!(seen.len(), Kernel::ALL.len(), "only these were counted: {seen:?}");
}

#[test]
fn a_larger_array_takes_more_of_the_board_and_less_time() {
    let small = Size { tile: Tile { rows: 7, ..Tile::default() }, units: 1 };
    let large = Size { tile: Tile { rows: 14, ..Tile::default() }, units: 2 };
    for board in &BOARDS {
        assert!(dsp_blocks(board, small) < dsp_blocks(board, large), "{}", board.name);
        assert!(!board.source.is_empty() && board.memory_bytes_per_s > 1e9);
    }
    assert!(on_chip_bytes(small) * 3 < on_chip_bytes(large));
    assert_eq!(board("U250").map(|b| b.name), Some("u250"));
    assert!(board("u999").is_none());
}
