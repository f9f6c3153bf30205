//! Mistakes that are made in kernels, put into them: the emulated driver must find each in at least one schedule.

use super::emulated::{SCHEDULES, driver};
use super::hopper::{WIDE_PRODUCT, WRITTEN_PRODUCT};
use super::sources::{DYNAMIC, MUTANT, PRODUCT, ROW_SUMS, TOGETHER, TRANSPOSE, TRANSPOSED_PRODUCT, WARPS};
use super::{KERNELS, PRODUCTS, WIDE_PRODUCTS, run_inside};

/// The text, what of it is replaced, by what, and the test that must fail then.
type Mutant = (&'static str, &'static str, &'static str, &'static str);

pub(crate) const MUTANTS: [Mutant; 50] = [
    // Barriers: before others read what was written, and before what others still read is written again.
    (ROW_SUMS, "__syncthreads(); // written", "", KERNELS),
    (ROW_SUMS, "__syncthreads(); // halved", "", KERNELS),
    (ROW_SUMS, "__syncthreads(); // read", "", KERNELS),
    (TRANSPOSE, "__syncthreads();", "", KERNELS),
    (DYNAMIC, "__syncthreads();", "", KERNELS),
    (PRODUCT, "__syncthreads(); // copied", "", PRODUCTS),
    (PRODUCT, "__syncthreads(); // used", "", PRODUCTS),
    (TRANSPOSED_PRODUCT, "__syncthreads();", "", PRODUCTS),
    // One that not all threads of a block reach, and an exchange that not all lanes of a warp do.
    (TRANSPOSE, "__syncthreads();", "if (threadIdx.x < 16) __syncthreads();", KERNELS),
    (WARPS, "if (lane % 2 == 0)", "if (lane % 4 == 0)", KERNELS),
    (PRODUCT, "MMA(d, a_part, b_part);", "if (lane < 16) MMA(d, a_part, b_part);", PRODUCTS),
    // A block that takes itself for the last one, by its number.
    (TOGETHER, "before + 1 != gridDim.x", "blockIdx.x + 1 != gridDim.x", KERNELS),
    (TOGETHER, "before + 1 != gridDim.x", "blockIdx.x != 0", KERNELS),
    (TOGETHER, "__syncthreads();", "", KERNELS),
    // Half of a warp is left out.
    (WARPS, "by = warpSize / 2", "by = warpSize / 4", KERNELS),
    (WARPS, "value, 0, 4)", "value, 0, 8)", KERNELS),
    // Beside the memory that it was given.
    (TRANSPOSE, "column0 + i < columns &&", "", KERNELS),
    (DYNAMIC, "values[threadIdx.x] =", "values[threadIdx.x + 1] =", KERNELS),
    (PRODUCT, "lane / 2 * 32 + part;", "lane / 2 * 32 + part + 1024;", PRODUCTS),
    (PRODUCT, "is_row && next + part < row_bytes", "true", PRODUCTS),
    // What nobody writes.
    (WARPS, "if (i < from.count)\n        sums", "if (i < from.count && i != 5)\n        sums", KERNELS),
    // Asynchronous copies that nobody waits for: all of them, and one group too few.
    (PRODUCT, "copy_async_wait<1>();", "", PRODUCTS),
    (PRODUCT, "copy_async_wait<1>();", "copy_async_wait<2>();", PRODUCTS),
    (TRANSPOSED_PRODUCT, "copy_async_wait<0>();", "", PRODUCTS),
    (TRANSPOSED_PRODUCT, "copy_async_commit();", "", PRODUCTS),
    // Stale: the fragment of the first step for all of them, and the stage of the step before.
    (PRODUCT, "load_matrix_x2(", "if (step == 0) load_matrix_x2(", PRODUCTS),
    (PRODUCT, "step % 2 * 1024;", "(step + 1) % 2 * 1024;", PRODUCTS),
    // A row's address that is no multiple of 16 bytes.
    (PRODUCT, "lane / 16 * 16);", "lane / 16 * 8);", PRODUCTS),
    // A tile that is read before it is there, written anew before it was read, or given back while products are at it.
    (WIDE_PRODUCT, "barrier_wait(there + step % 2, step / 2 % 2);", "", WIDE_PRODUCTS),
    (WIDE_PRODUCT, "barrier_wait(used + step % 2, step / 2 % 2 ^ 1);", "", WIDE_PRODUCTS),
    (WIDE_PRODUCT, "step / 2 % 2);", "step / 2 % 2 ^ 1);", WIDE_PRODUCTS),
    (
        WIDE_PRODUCT,
        "wgmma_wait<0>(d);\n        if (threadIdx.x % 32 == 0)\n            barrier_arrive(used + step % 2);",
        "if (threadIdx.x % 32 == 0) barrier_arrive(used + step % 2); wgmma_wait<0>(d);",
        WIDE_PRODUCTS,
    ),
    (WIDE_PRODUCT, "wgmma_wait<0>(d);", "", WIDE_PRODUCTS),
    (WIDE_PRODUCT, "wgmma_wait<0>(d);", "wgmma_wait<1>(d);", WIDE_PRODUCTS),
    (WIDE_PRODUCT, "wgmma_commit();", "", WIDE_PRODUCTS),
    (WIDE_PRODUCT, "wgmma_fence();", "", WIDE_PRODUCTS),
    (WRITTEN_PRODUCT, "wgmma_wait<0>(d);", "", WIDE_PRODUCTS),
    // Barriers that count wrongly, and those that copies do not know of.
    (WIDE_PRODUCT, "step % 2, STAGE_BYTES);", "step % 2, STAGE_BYTES + 16);", WIDE_PRODUCTS),
    (WIDE_PRODUCT, "step % 2, STAGE_BYTES);", "step % 2, STAGE_BYTES - 16);", WIDE_PRODUCTS),
    (WIDE_PRODUCT, "if (threadIdx.x % 32 == 0)", "if (threadIdx.x == 0)", WIDE_PRODUCTS),
    (WIDE_PRODUCT, "if (threadIdx.x % 32 == 0)", "", WIDE_PRODUCTS),
    (WIDE_PRODUCT, "barriers_begun();", "", WIDE_PRODUCTS),
    // As many columns for all, and sums of two shapes at once.
    (WIDE_PRODUCT, "((64 + COLUMNS) * 128)", "(192 * 128)", WIDE_PRODUCTS),
    (
        WIDE_PRODUCT,
        "wgmma_commit();",
        "WGMMA(*(float (*)[32])d[0], matrix_of(stage, 0, 1024), matrix_of(stage + 8192, 0, 1024), true); wgmma_commit();",
        WIDE_PRODUCTS,
    ),
    // A warp of the four that does not come.
    (WIDE_PRODUCT, "wgmma_fence();", "if (threadIdx.x < 32) continue; wgmma_fence();", WIDE_PRODUCTS),
    // Matrices that lie otherwise: by their swizzle, their parts, and where they begin.
    (WIDE_PRODUCT, "8192, 1024)", "8192, 512)", WIDE_PRODUCTS),
    (
        WIDE_PRODUCT,
        "TILES_SHARED(stages);",
        "TILES_SHARED(shared); unsigned char *stages = shared + 512;",
        WIDE_PRODUCTS,
    ),
    (WRITTEN_PRODUCT, "piece ^ row % 8", "piece ^ row % 4", WIDE_PRODUCTS),
    // What threads wrote, and did not say so; and what others have not written yet.
    (WRITTEN_PRODUCT, "shared_written();", "", WIDE_PRODUCTS),
    (WRITTEN_PRODUCT, "__syncthreads();", "", WIDE_PRODUCTS),
];

pub(crate) fn all() {
    if driver().is_none() {
        return;
    }
    for (number, (_, was, with, test)) in MUTANTS.iter().enumerate() {
        let what = format!("{number}: '{was}' -> '{with}'");
        let found = SCHEDULES.iter().find_map(|schedule| {
            let ran = run_inside(test, *schedule, &[(MUTANT, &number.to_string())])?;
            let said = String::from_utf8_lossy(&ran.stderr).into_owned();
            assert!(!said.contains("does not compile"), "{what}: {said}");
            (!ran.status.success()).then_some((schedule, said))
        });
        let (schedule, said) = found.unwrap_or_else(|| panic!("{what} passes in every schedule"));
        let is_why =
            |line: &&str| ["CUDA emulator: ", "expected", "failed: "].iter().any(|word| line.contains(word));
        println!("{what}: {schedule:?}: {}", said.lines().find(is_why).unwrap_or("wrong"));
    }
}
