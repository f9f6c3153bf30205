//! Mistakes that are put into kernels, each of which the suite must find: a test that cannot fail proves nothing.

use super::ONLY;
use super::emulated::{SCHEDULES, again, driver};

/// A mistake in a kernel: the file, the text, how many times it comes before the one that is replaced, what replaces it; the test and the cases that
/// must fail then.
type Mutant = (&'static str, &'static str, usize, &'static str, &'static str, &'static str);

const BARRIER: &str = "__syncthreads();";
const ROWS_TEST: &str = "gpu::suite::operators_over_rows_are_what_they_are_elsewhere";
const PRODUCTS_TEST: &str = "gpu::suite::products_are_what_they_are_elsewhere";
const WINDOWS_TEST: &str = "gpu::suite::windows_are_what_they_are_elsewhere";
const TENSOR_PRODUCTS_TEST: &str = "gpu::suite::products_on_tensor_cores_are_what_they_are_elsewhere";
const FLOATS_TEST: &str = "gpu::suite::floats_are_multiplied_by_tiles_as_they_are_elsewhere";
const TENSOR_WINDOWS_TEST: &str = "gpu::suite::windows_on_tensor_cores_are_what_they_are_elsewhere";
const SUMS_TEST: &str = "gpu::suite::quantised::sums_of_integers_are_what_they_are_elsewhere";
const POINTWISE_TEST: &str = "gpu::suite::pointwise_operators_are_what_they_are_elsewhere";
const FLOAT8_TEST: &str = "gpu::suite::float8::conversions_are_those_of_the_processor_to_the_bit";
const FLOAT8_PRODUCTS_TEST: &str = "gpu::suite::float8::products_are_what_they_are_elsewhere";
const FLOAT8_SUMS_TEST: &str = "gpu::suite::float8::large_sums_lose_nothing_of_what_is_small";

const MUTANTS: &[Mutant] = &[
    // Barriers: before others read what was written, and before what others still read is written again.
    ("block", BARRIER, 0, "", ROWS_TEST, "1001"),
    ("block", BARRIER, 1, "", ROWS_TEST, "f32[1001]"),
    ("gemm", BARRIER, 0, "", PRODUCTS_TEST, "Gelu"),
    ("gemm", BARRIER, 1, "", PRODUCTS_TEST, "Gelu"),
    ("conv", BARRIER, 0, "", WINDOWS_TEST, "pads=[1, 1, 1, 1]>(x, w, b)"),
    ("conv", BARRIER, 1, "", WINDOWS_TEST, "pads=[1, 1, 1, 1]>(x, w, b)"),
    // Half of a warp is left out.
    ("block", "by = WARP / 2", 0, "by = WARP / 4", ROWS_TEST, "1001"),
    // Beside the memory that it was given.
    ("map", "i < count", 0, "i <= count", POINTWISE_TEST, "Relu"),
    ("gemm", "if (row < m && column < n)", 0, "if (column < n)", PRODUCTS_TEST, "Gelu"),
    ("conv", "if (row < w.rows && column", 0, "if (column", WINDOWS_TEST, "pads=[1, 1, 1, 1]>(x, w, b)"),
    (
        "window",
        "&& (unsigned)x < (unsigned)w.length[2]",
        0,
        "&& x >= 0",
        WINDOWS_TEST,
        "pads=[1, 1, 1, 1]>(x, w, b)",
    ),
    ("window", "(unsigned)y < (unsigned)w.length[1]", 0, "y < w.length[1]", WINDOWS_TEST, "AveragePool"),
    // Tiles of Hopper: read too early, written anew too early, given back by too few.
    (
        "wgmma_tiles",
        "barrier_wait(there(stages, turn.stage), turn.parity);",
        0,
        "",
        TENSOR_PRODUCTS_TEST,
        "f32[150, 320]",
    ),
    (
        "wgmma_tiles",
        "barrier_wait(used(stages, turn.stage), turn.parity ^ 1);",
        0,
        "",
        TENSOR_PRODUCTS_TEST,
        "f32[150, 320]",
    ),
    ("wgmma_tiles", "wgmma_wait<1>(sums);", 0, "", TENSOR_PRODUCTS_TEST, "f32[150, 320]"),
    (
        "wgmma_tiles",
        "if (step > 0 && threadIdx.x",
        0,
        "if (step > 1 && threadIdx.x",
        TENSOR_PRODUCTS_TEST,
        "f32[150, 320]",
    ),
    ("gemm_wgmma", "if (row < m && column < n)", 0, "if (column < n)", TENSOR_PRODUCTS_TEST, "f32[150, 320]"),
    ("conv_wgmma", "- w.pad[0];", 0, ";", TENSOR_WINDOWS_TEST, "x: f32[2, 64, 13, 11]"),
    // Tiles of few columns: with a box that they do not have, as wide as others, half of their sums.
    ("wgmma_tiles", "part < N / 64", 0, "part < 2", TENSOR_PRODUCTS_TEST, "x: f32[2, 150, 104]"),
    ("wgmma_tiles", "N = COLUMNS", 0, "N = 128", TENSOR_PRODUCTS_TEST, "x: f32[150, 640]"),
    ("wgmma_tiles", "j < N / 8", 0, "j < 4", TENSOR_WINDOWS_TEST, "x: f32[3, 64, 9, 9]"),
    // Parts of a depth: added up before all of them are there, or some of them twice; not counted anew; of the wrong depth.
    ("parts", BARRIER, 1, "", TENSOR_PRODUCTS_TEST, "f32[20, 840]"),
    (
        "parts",
        "if (before + 1 != (unsigned)parts.count)",
        0,
        "if (part.number + 1 != parts.count)",
        TENSOR_PRODUCTS_TEST,
        "f32[20, 840]",
    ),
    ("parts", "own.clear();", 0, "", TENSOR_PRODUCTS_TEST, "f32[20, 840]"),
    ("parts", "parts.arrived[tile] = 0;", 0, ";", TENSOR_PRODUCTS_TEST, "f32[20, 840]"),
    ("parts", "(part.z * gridDim.y + blockIdx.y)", 0, "blockIdx.y", TENSOR_PRODUCTS_TEST, "f32[2, 9, 416]"),
    ("tiles", "if (step >= part.begin)", 1, "if (step >= 0)", TENSOR_PRODUCTS_TEST, "f32[20, 840]"),
    // Four beside each other: of which a lane has two already, and of which there are not as many.
    ("fours", "is_odd ? got0 : first0", 0, "first0", TENSOR_PRODUCTS_TEST, "f32[20, 840]"),
    ("fours", "if (i + j < count)", 0, "", TENSOR_PRODUCTS_TEST, "f32[137, 320]"),
    ("fours", "i + W <= count", 1, "true", TENSOR_PRODUCTS_TEST, "f16[24, 10]"),
    // Floats as they are: of another column, and of another depth.
    ("float_tiles", "lane() % 4 * 4; }", 0, "lane() % 2 * 4; }", FLOATS_TEST, "f32[150, 320]"),
    ("float_tiles", "piece * 4 + part, WIDE", 0, "part, WIDE", FLOATS_TEST, "f32[20, 840]"),
    ("conv_tiles", "+ px * w.x_stride[3]", 0, "", TENSOR_WINDOWS_TEST, "f32[1, 48, 5, 5]"),
    // What nobody writes.
    ("normalise", "result(out, as_logarithm", 0, "if (i != 5) result(out, as_logarithm", ROWS_TEST, "1001"),
    ("normalise_held", "if (column(j) < columns)", 0, "", ROWS_TEST, "f32[7, 132]"),
    ("normalise_held", "if (row >= rows)", 0, "if (false)", ROWS_TEST, "f32[7, 132]"),
    // Integers of another type, and what is beyond an image.
    ("tensor_tiles", "mma_u8s8(d, a, b)", 0, "mma_s8(d, a, b)", SUMS_TEST, "x: u8[20, 1712]"),
    ("tensor_tiles", "mma_u8(d, a, b)", 0, "mma_s8u8(d, a, b)", SUMS_TEST, "x: u8[9, 48]"),
    ("wgmma_tiles", "wgmma_u8s8)", 0, "wgmma_s8)", SUMS_TEST, "x: u8[500, 144]"),
    ("wgmma_tiles", "wgmma_s8u8)", 0, "wgmma_u8)", SUMS_TEST, "x: i8[2, 70, 1040]"),
    ("conv_tiles", "is_there || HAS_BEYOND", 0, "is_there", SUMS_TEST, "z = u8[] 117"),
    ("conv_tiles", "is_there ? x + at : beyond", 0, "x + at", SUMS_TEST, "z = u8[] 117"),
    ("conv", "(SUM)load(x[at]) - from", 0, "(SUM)load(x[at])", SUMS_TEST, "group=2"),
    ("conv_direct", "- from) * (SUM)", 0, ") * (SUM)", SUMS_TEST, "z = u8[] 120"),
    ("tiles", BARRIER, 0, "", SUMS_TEST, "x: u8[20, 1712]"),
    // Floats of 8 bits: halfway between two, beyond the greatest one, infinite and no number.
    ("common", "(magnitude >> cut & 1)", 0, "0", FLOAT8_TEST, ""),
    ("common", "special | sign", 0, "sign", FLOAT8_TEST, ""),
    ("common", "== 0x7f800000 ?", 0, "== 0x7f800001 ?", FLOAT8_TEST, ""),
    ("pointwise", "absolute(x) > 464", 0, "absolute(x) >= 464", FLOAT8_TEST, ""),
    // Of another kind; of the first half of a stage twice.
    (
        "tensor_tiles",
        "f8e4m3, f8e5m2, mma_e4m3e5m2",
        0,
        "f8e4m3, f8e5m2, mma_e4m3",
        FLOAT8_PRODUCTS_TEST,
        "x: LEFT[20, 1712]",
    ),
    (
        "wgmma_tiles",
        "false, wgmma_e5m2e4m3",
        0,
        "false, wgmma_e4m3e5m2",
        FLOAT8_PRODUCTS_TEST,
        "x: LEFT[150, 976]",
    ),
    ("tensor_tiles", "half * 2 + part / 2", 0, "part / 2", FLOAT8_PRODUCTS_TEST, "x: LEFT[20, 1712]"),
    // A stage's sums that are added twice, or before they are there; sums that are not added as floats are.
    (
        "wgmma_tiles",
        "STAGE_BYTES, false)",
        0,
        "STAGE_BYTES, step > 0)",
        FLOAT8_PRODUCTS_TEST,
        "x: LEFT[150, 976]",
    ),
    ("wgmma_tiles", "wgmma_wait<0>(sums);", 1, "", FLOAT8_PRODUCTS_TEST, "x: LEFT[150, 976]"),
    // Those of one part of two alone.
    ("wgmma_tiles", "i < PARTS * SUMS", 1, "i < SUMS", FLOAT8_PRODUCTS_TEST, "x: LEFT[500, 800]"),
    (
        "wgmma_tiles",
        "BY_STAGE = sizeof(Element) == 1",
        0,
        "BY_STAGE = false",
        FLOAT8_SUMS_TEST,
        "x: f32[66, 6000]",
    ),
    ("tensor_tiles", "#if __CUDA_ARCH__ == 900", 0, "#if 1", FLOAT8_SUMS_TEST, "x: f32[9, 6000]"),
    ("reduce", "if (threadIdx.x == 0)", 0, "if (threadIdx.x == 0 && row != 1)", ROWS_TEST, "ReduceL2"),
];

#[test]
fn mistakes_in_kernels_are_found() {
    let kernels = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/cuda");
    if driver().is_none() {
        return;
    }
    let changed = tempfile::tempdir().unwrap();
    for (file, text, nth, with, test, only) in MUTANTS {
        for other in std::fs::read_dir(&kernels).unwrap() {
            let other = other.unwrap();
            std::fs::copy(other.path(), changed.path().join(other.file_name())).unwrap();
        }
        let source = std::fs::read_to_string(kernels.join(file).with_extension("cu")).unwrap();
        let place = source.match_indices(text).nth(*nth).map(|(at, _)| at);
        let at = place.unwrap_or_else(|| panic!("{file} has no '{text}' {nth}"));
        let mutant = format!("{}{with}{}", &source[..at], &source[at + text.len()..]);
        std::fs::write(changed.path().join(file).with_extension("cu"), mutant).unwrap();
        let found = SCHEDULES.iter().find(|(order, time)| {
            let mut command = again(test).unwrap();
            command.env("CUDA_EMULATOR_ORDER", order).env("CUDA_EMULATOR_TIME", time).env(ONLY, only);
            let ran = command.env("TRISCORE_CUDA_KERNELS", changed.path()).output().unwrap();
            let said =
                [ran.stdout, ran.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
            assert!(!said.contains("does not compile"), "{file}: '{with}': {said}");
            !ran.status.success()
        });
        println!("{file}: '{text}' {nth} -> '{with}': found {found:?}");
        assert!(found.is_some(), "{file}: '{text}' {nth} -> '{with}' passes in every schedule");
    }
}
