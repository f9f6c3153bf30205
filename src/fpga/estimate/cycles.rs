//! The cycles of a launch: the kernels' loop nests, counted from a descriptor.
//!
//! A step of an innermost loop takes a cycle when the loop is pipelined with an initiation interval of one, which is assumed; unrolled loops and
//! lanes cost nothing. Every function here mirrors a kernel, and a test builds the kernels with a counter at the same places
//! (`TICK` in `kernels/opencl`) and holds the two against each other, launch by launch.

use super::super::plan::{Kernel, Launch, Plan};
use super::super::tile::{LANES, Tile};
use super::layout::Descriptor;

const LANES_U64: u64 = LANES as u64;

/// Bytes of an element of the type that a word names: the kernels' `TYPE_U8` and so on.
fn bytes_of(code: i64) -> u64 {
    match code {
        0 | 1 => 1,
        2 | 3 => 2,
        4 => 4,
        _ => 8,
    }
}

/// What a launch takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    /// Cycles of one compute unit that does all of it.
    pub cycles: u64,
    /// Bytes read from the card's memory.
    pub read_bytes: u64,
    /// Bytes written to it.
    pub written_bytes: u64,
    /// Products of two integers; each is two operations, with its sum.
    pub products: u64,
}

/// What a launch of a plan takes.
pub(super) fn of(plan: &Plan, launch: &Launch, tile: Tile) -> Cost {
    let d = Descriptor::new(plan.words.get(launch.at..).unwrap_or_default());
    let work = launch.work as u64;
    match launch.kernel {
        Kernel::Matrix => matrix(d, work, tile),
        Kernel::Pack => pack(d, work),
        Kernel::Depthwise => depthwise(d, work),
        Kernel::Elementwise => elementwise(d, work),
        Kernel::Move => moved(d, work),
        Kernel::Pool => pool(d, work),
        Kernel::Softmax => softmax(d, work),
        Kernel::LayerNorm => layer_norm(d, work),
    }
}

/// Steps that stage one output pixel's window, elements `[k0, k1)` of it: vectors that are read, and vectors of padding.
fn stage_pixel(d: Descriptor<'_>, row: i64, column: i64, k0: i64, k1: i64) -> (u64, u64) {
    let [channels, height, width] = ["M_CHANNELS", "M_HEIGHT", "M_WIDTH"].map(|name| d.word(name));
    let (kernel_h, kernel_w) = (d.word("M_KERNEL_H"), d.word("M_KERNEL_W"));
    let top = row * d.word("M_STRIDE_H") - d.word("M_PAD_H");
    let left = column * d.word("M_STRIDE_W") - d.word("M_PAD_W");
    let bytes = bytes_of(d.word("M_X_TYPE")) as i64;
    let is_run = d.word("M_X_PIXEL") == channels * bytes && d.word("M_DILATION_W") == 1;
    let (mut vectors, mut padding) = (0, 0);
    let vectors_of =
        |k: i64, length: i64| (((k + length).min(k1) - k.max(k0)).max(0) as u64).div_ceil(LANES_U64);
    for i in 0..kernel_h {
        let k = i * kernel_w * channels;
        let y = top + i * d.word("M_DILATION_H");
        if k >= k1 || k + kernel_w * channels <= k0 {
            continue;
        }
        if y < 0 || y >= height {
            padding += vectors_of(k, kernel_w * channels);
        } else if is_run {
            let before = (-left).clamp(0, kernel_w);
            let inside = (width - left).clamp(before, kernel_w) - before;
            padding += vectors_of(k, before * channels);
            vectors += vectors_of(k + before * channels, inside * channels);
            padding += vectors_of(k + (before + inside) * channels, (kernel_w - before - inside) * channels);
        } else {
            for j in 0..kernel_w {
                let (x, count) = (left + j * d.word("M_DILATION_W"), vectors_of(k + j * channels, channels));
                match (0..width).contains(&x) {
                    true => vectors += count,
                    false => padding += count,
                }
            }
        }
    }
    (vectors, padding)
}

fn matrix(d: Descriptor<'_>, work: u64, tile: Tile) -> Cost {
    let rows = tile.rows as i64;
    let (pixels, out_w, outputs) = (d.word("M_PIXELS"), d.word("M_OUT_W").max(1), d.word("M_OUTPUTS"));
    let per_image = (d.word("M_OUT_H") * out_w).max(1);
    let columns = (outputs + LANES as i64 - 1) / LANES as i64;
    let depth = d.word("M_KERNEL_H") * d.word("M_KERNEL_W") * d.word("M_CHANNELS");
    // Of 16 bits, each half of a row is a plane, and the array goes over all pairs of planes.
    let (x_bytes, w_planes) = (bytes_of(d.word("M_X_TYPE")), d.length("M_W_PLANES"));
    let (planes, whole) = (x_bytes * w_planes, tile.depth as i64);
    let (even, capacity) = ((depth + 1) & !1, if x_bytes == 2 { whole / 4 * 2 } else { whole });
    let chunks = ((even + capacity - 1) / capacity).max(1);
    let (blocks, shares) = (((pixels + rows - 1) / rows).max(1), d.word("M_COLUMN_SHARES").max(1));
    let (is_wide, sums_rows) = (d.word("M_WIDE") != 0, d.word("M_ROW_FACTOR") != 0);
    let (element_bytes, bias_bytes) = (bytes_of(d.word("M_Y_TYPE")), if planes > 1 { 8 } else { 4 });
    let added_bytes = if d.word("M_ADD_TYPE") < 0 { 0 } else { bytes_of(d.word("M_ADD_TYPE")) };
    let mut cost = Cost::default();
    // A block is staged alike for every group and share.
    let staged = |block: i64, chunk: i64| {
        let valid = (pixels - block * rows).min(rows);
        let (k0, k1) = (chunk * capacity, even.min((chunk + 1) * capacity));
        let (mut vectors, mut others) = (0, 0);
        for r in 0..rows {
            let q = (block * rows + r.min(valid - 1)) % per_image;
            let (read, padding) = stage_pixel(d, q / out_w, q % out_w, k0, k1.min(depth));
            vectors += read;
            others += padding + if sums_rows { (k1.min(depth) - k0).max(0) as u64 } else { 0 };
        }
        (vectors, others)
    };
    for block in 0..blocks {
        let valid = (pixels - block * rows).min(rows).max(0) as u64;
        let stages = (0..chunks).map(|chunk| staged(block, chunk)).collect::<Vec<_>>();
        // Whose work this block is: every group and image once for each share.
        let times = work / (blocks * shares) as u64;
        for share in 0..shares {
            let (first, last) = (columns * share / shares, columns * (share + 1) / shares);
            for column in first..last {
                let mut one = Cost::default();
                for (chunk, (vectors, others)) in stages.iter().enumerate() {
                    if chunks > 1 || column == first {
                        one.cycles += vectors + others;
                        one.read_bytes += vectors * LANES_U64 * x_bytes;
                    }
                    let (k0, k1) = (chunk as i64 * capacity, even.min((chunk as i64 + 1) * capacity));
                    let steps = (k1 - k0).max(0) as u64;
                    one.cycles += planes * if is_wide { steps } else { steps / 2 };
                    one.read_bytes += planes * steps * LANES_U64;
                }
                let lanes = (outputs - column * LANES as i64).clamp(0, LANES as i64) as u64;
                one.cycles += valid;
                // Biases, and factors of four bytes.
                one.read_bytes += (bias_bytes + 4) * LANES_U64 + valid * lanes * added_bytes;
                one.written_bytes += valid * lanes * element_bytes;
                one.products += valid * lanes * depth as u64;
                cost.cycles += one.cycles * times;
                cost.read_bytes += one.read_bytes * times;
                cost.written_bytes += one.written_bytes * times;
                cost.products += one.products * times;
            }
        }
    }
    cost
}

fn pack(d: Descriptor<'_>, work: u64) -> Cost {
    let depth = d.length("P_DEPTH");
    let even = depth.next_multiple_of(2);
    let planes = bytes_of(d.word("P_X_TYPE"));
    let bias_bytes = if d.word("P_BIAS_IS_LONG") != 0 { 8 } else { 4 };
    Cost {
        cycles: work * (even + 1),
        read_bytes: work * depth * LANES_U64 * planes,
        written_bytes: work * (even * planes + bias_bytes) * LANES_U64,
        products: 0,
    }
}

fn depthwise(d: Descriptor<'_>, work: u64) -> Cost {
    let (channels, taps) = (d.length("D_CHANNELS"), d.length("D_KERNEL_H") * d.length("D_KERNEL_W"));
    let (vectors, width) = (channels.div_ceil(LANES_U64), d.length("D_OUT_W"));
    Cost {
        cycles: work * vectors * width * (taps + 1),
        read_bytes: work * vectors * LANES_U64 * (width * taps * (1 + bytes_of(d.word("D_X_TYPE"))) + 8),
        written_bytes: work * width * channels * bytes_of(d.word("D_Y_TYPE")),
        products: work * width * channels * taps,
    }
}

fn elementwise(d: Descriptor<'_>, work: u64) -> Cost {
    let length = |axis: usize| u64::try_from(d.at("E_SHAPE", axis)).unwrap_or(0);
    let (rows, last) = (work * length(1) * length(2), length(3));
    Cost {
        cycles: rows * last.div_ceil(LANES_U64),
        read_bytes: rows * last * (bytes_of(d.word("E_A_TYPE")) + bytes_of(d.word("E_B_TYPE"))),
        written_bytes: rows * last * bytes_of(d.word("E_Y_TYPE")),
        products: 0,
    }
}

fn moved(d: Descriptor<'_>, work: u64) -> Cost {
    let length = |axis: usize| u64::try_from(d.at("V_SHAPE", axis)).unwrap_or(0);
    let rows = work * (1..5).map(length).product::<u64>();
    let is_wide = |name: &str| d.word(name) == 2;
    let has_table = d.word("V_HAS_TABLE") != 0;
    let (wide_x, wide_y) = (is_wide("V_X_BYTES"), is_wide("V_Y_BYTES"));
    let (x_bytes, y_bytes) = (if wide_x { 2 } else { 1 }, if wide_y { 2 } else { 1 });
    let stride = d.at("V_X_STRIDES", 5);
    let is_run = wide_x == wide_y && stride == x_bytes && d.at("V_Y_STRIDES", 5) == stride;
    let steps = match !has_table && is_run {
        true => (length(5) * y_bytes).div_ceil(LANES_U64),
        false => length(5),
    };
    let table = if has_table && !wide_x && !wide_y { 256 } else { 0 };
    // A table that does not fit the chip is read element by element.
    let looked_up = if has_table && table == 0 { y_bytes } else { 0 };
    Cost {
        cycles: table + rows * steps,
        read_bytes: table + rows * length(5) * (x_bytes as u64 + looked_up),
        written_bytes: rows * length(5) * y_bytes,
        products: 0,
    }
}

fn pool(d: Descriptor<'_>, work: u64) -> Cost {
    /// `POOL_AVERAGE` of the kernel, whose lanes divide one after another.
    const AVERAGE: i64 = 1;
    let (channels, width) = (d.length("L_CHANNELS"), d.length("L_OUT_W"));
    let (vectors, taps) = (channels.div_ceil(LANES_U64), d.length("L_KERNEL_H") * d.length("L_KERNEL_W"));
    let divisions = if d.word("L_KIND") == AVERAGE { LANES_U64 } else { 0 };
    Cost {
        cycles: work * width * vectors * (taps + divisions + 1),
        read_bytes: work * width * vectors * taps * LANES_U64 * bytes_of(d.word("L_X_TYPE")),
        written_bytes: work * width * channels * bytes_of(d.word("L_Y_TYPE")),
        products: 0,
    }
}

fn softmax(d: Descriptor<'_>, work: u64) -> Cost {
    let (length, x_bytes) = (d.length("S_LENGTH"), bytes_of(d.word("S_X_TYPE")));
    // The table of 8 bits is copied onto the chip; that of 16 is looked up twice for every element.
    let (copied, looked_up) = if x_bytes == 1 { (256, 0) } else { (0, 2 * 4) };
    Cost {
        cycles: copied + work * 3 * length,
        read_bytes: 4 * copied + work * length * (3 * x_bytes + looked_up),
        written_bytes: work * length * bytes_of(d.word("S_Y_TYPE")),
        products: 0,
    }
}

fn layer_norm(d: Descriptor<'_>, work: u64) -> Cost {
    let length = d.length("N_LENGTH");
    Cost {
        cycles: work * (2 * length + 32),
        read_bytes: work * length * (2 * bytes_of(d.word("N_X_TYPE")) + 4 + 8),
        written_bytes: work * length * bytes_of(d.word("N_Y_TYPE")),
        products: work * length,
    }
}
