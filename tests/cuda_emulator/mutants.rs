//! Mistakes that are made in kernels, put into them: the emulated driver must find each in at least one schedule.

use std::fs;
use std::path::Path;

use super::{SCHEDULES, build, emulator, root, run_inside};

/// The file, the text, how many times it comes before the one that is replaced, and what replaces it.
type Mutant = (&'static str, &'static str, usize, &'static str);

const BARRIER: &str = "__syncthreads();";

const MUTANTS: [Mutant; 11] = [
    // Barriers: before others read what was written, and before what others still read is written again. (The last one of common.cu is
    // for a kernel that takes two maxima; there is none yet.)
    ("common.cu", BARRIER, 0, ""),
    ("common.cu", BARRIER, 1, ""),
    ("common.cu", BARRIER, 2, ""),
    ("gemm.cu", BARRIER, 0, ""),
    ("gemm.cu", BARRIER, 1, ""),
    ("transpose.cu", BARRIER, 0, ""),
    // One that not all threads of a block reach.
    ("transpose.cu", BARRIER, 0, "if (threadIdx.x < 16) __syncthreads();"),
    // Beside the memory that it was given.
    ("gemm.cu", "row >= m || column >= n", 0, "column >= n"),
    // What nobody writes.
    ("softmax.cu", "to[i] = expf", 0, "if (i != 5) to[i] = expf"),
    // Half of a warp is left out.
    ("common.cu", "by = WARP / 2", 0, "by = WARP / 4"),
    ("layer_norm.cu", "/ columns + epsilon", 0, "/ columns"),
];

pub(crate) fn all() {
    if emulator().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for (number, mutant) in MUTANTS.iter().enumerate() {
        let (file, text, nth, with) = *mutant;
        let kernels = folder.path().join(format!("{number}"));
        fs::create_dir(&kernels).unwrap();
        // Only what the mistake can show in: the other families would take time to compile and to run.
        let families: &[&str] = match file {
            "common.cu" => &["softmax.cu", "layer_norm.cu", "transpose.cu", "gemm.cu"],
            _ => &["common.cu", "softmax.cu", "layer_norm.cu", "transpose.cu", "gemm.cu"],
        };
        for other in families {
            copy(other, &kernels);
        }
        let source = fs::read_to_string(root().join("kernels/cuda").join(file)).unwrap();
        let (at, _) =
            source.match_indices(text).nth(nth).unwrap_or_else(|| panic!("{file} has no '{text}' {nth}"));
        let changed = format!("{}{with}{}", &source[..at], &source[at + text.len()..]);
        fs::write(kernels.join(file), changed).unwrap();
        let driver = build(&kernels, &folder.path().join(format!("built{number}"))).unwrap();
        let found = SCHEDULES.iter().find(|schedule| {
            !run_inside("kernels_compute_what_they_say", &driver, **schedule).status.success()
        });
        println!("{file}: '{text}' {nth} -> '{with}': found {found:?}");
        assert!(found.is_some(), "{file}: '{text}' {nth} -> '{with}' passes in every schedule");
    }
}

fn copy(file: &str, to: &Path) {
    fs::copy(root().join("kernels/cuda").join(file), to.join(file)).unwrap();
}
