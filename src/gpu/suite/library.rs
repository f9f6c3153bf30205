//! What a library computes, here products on the emulated cuBLASLt: they are what they are elsewhere, and it is really the library that computes them.
//!
//! The emulated library refuses what the real one would, so a layout, an alignment or a workspace that is wrong here fails; how fast any of it is
//! shows on a GPU alone, where `TRISCORE_GPU_PRODUCTS=cublaslt` before the other suites has them run so.

use super::cases::{PRODUCTS, TENSOR_PRODUCTS, TENSOR_WINDOWS};
use super::emulated::{SCHEDULES, in_schedules, is_inside, passes};
use super::{FLOATS, gpus, launched, run};
use crate::gpu::GpuBackend;
use crate::gpu::choice::PRODUCTS_VARIABLE;
use crate::graph::testing::{model_of, read};
use crate::scoring::{Backend, CompileOptions, Precision};

const ALL: [Precision; 4] = [Precision::F32, Precision::Tf32, Precision::F16, Precision::Bf16];

/// Products that a library takes: with every end that it has, of constants and of what is computed, side by side in memory, with gaps, transposed, of
/// one row, one column, one number; with the precisions in which all of them are the library's.
const TAKEN: &[(&str, &[Precision])] = &[
    (
        "x: f32[2, 70, 40]\nw = f32[40, 72] 0.1 0.2 -0.3\nb = f32[72] 1 2 3\nr: f32[2, 70, 72]\na = MatMul(x, w)\nc = Add(a, b)\nd = Add(r, c)\ny = Relu(d)\n-> y",
        &[Precision::F32, Precision::Tf32],
    ),
    (
        "x: f32[3, 70, 40]\nw = f32[40, 72] 0.1 0.2 -0.3\nb = f32[72] 1 2 3\na = MatMul(x, w)\nc = Add(a, b)\nd = Relu(c)\nv = f32[72, 16] 0.3 -0.1\ny = MatMul(d, v)\n-> y",
        &ALL,
    ),
    ("x: f32[9, 16]\nw: f32[16, 24]\nb: f32[24]\na = MatMul(x, w)\ny = Add(a, b)\n-> y", &ALL),
    ("x: f32[2, 3, 14, 48]\nw: f32[2, 3, 48, 16]\ny = MatMul(x, w)\n-> y", &ALL),
    (
        "x: f32[2, 7, 9]\nw: f32[2, 5, 9]\nt = Transpose<perm=[0, 2, 1]>(w)\ny = MatMul(x, t)\n-> y",
        &[Precision::F32],
    ),
    ("x: f32[9, 7]\nw: f32[5, 9]\nc: f32[5]\ny = Gemm<transA=1, transB=1>(x, w, c)\n-> y", &[Precision::F32]),
    (
        "x: f32[9, 16]\nw = f32[16, 8] 0.1 0.2\nv = f32[16, 8] 0.3 0.4\na = MatMul(x, w)\nb = MatMul(x, v)\ny = Concat<axis=1>(a, b)\n-> y",
        &ALL,
    ),
    (
        "x: f32[8, 33]\ns = i64[1] 1\ne = i64[1] 33\nd = i64[1] 1\na = Slice(x, s, e, d)\nw: f32[32, 5]\ny = MatMul(a, w)\n-> y",
        &[Precision::F32],
    ),
    (
        "x: f32[9, 16]\nw: f32[16, 8]\nb: f32[16]\ns = i64[1] 4\ne = i64[1] 12\nc = Slice(b, s, e)\na = MatMul(x, w)\ny = Add(a, c)\n-> y",
        &[Precision::F32],
    ),
    ("x: f32[1, 16]\nw: f32[16, 1]\nb: f32[1, 1]\na = MatMul(x, w)\ny = Relu(a)\n-> y", &ALL),
    ("x: f32[2, 5, 9]\nw: f32[9]\ny = MatMul(x, w)\n-> y", &[Precision::F32]),
    (
        "x: f32[3, 16, 6, 6]\nw = f32[24, 16, 1, 1] 0.1 -0.2 0.3\nb = f32[24] 1 2\na = Conv(x, w, b)\nr = Relu(a)\ny = GlobalAveragePool(r)\n-> y",
        &[Precision::Tf32, Precision::F16, Precision::Bf16],
    ),
];

/// Of 8-bit floats, which have a scale behind them: one number; of both kinds, of batches, with what else a library does.
const FLOAT8: &[&str] = &[
    "x: f32[2, 35, 32]\ns = f32[] 0.01\nz = f8e4m3[] 0\nq = QuantizeLinear(x, s, z)\nf = DequantizeLinear(q, s, z)\nw = f8e4m3[32, 48] 56 193 8 100\nv = DequantizeLinear(w, s)\nb = f32[48] 0.1 0.2\na = MatMul(f, v)\nc = Add(a, b)\nd = Relu(c)\ny = Softmax(d)\n-> y",
    "x: f8e5m2[9, 64]\ns = f32[] 0.5\nf = DequantizeLinear(x, s)\nw = f8e4m3[16, 64] 56 193 8 100\nv = DequantizeLinear(w, s)\nt = Transpose(v)\na = MatMul(f, t)\ny = Relu(a)\n-> y",
    "x: f8e4m3[2, 3, 16, 32]\nw: f8e5m2[2, 3, 16, 32]\ns = f32[] 0.25\nf = DequantizeLinear(x, s)\nv = DequantizeLinear(w, s)\nt = Transpose<perm=[0, 1, 3, 2]>(v)\na = MatMul(f, t)\ny = Softmax(a)\n-> y",
];

/// What ends otherwise, or lies otherwise, stays with the kernel.
const LEFT: &[&str] = &[
    "x: f32[9, 16]\nw: f32[16, 24]\na = MatMul(x, w)\ny = Gelu(a)\n-> y",
    "x: f32[9, 16]\nw: f32[16, 24]\nr: f32[9, 24]\na = MatMul(x, w)\nb = Relu(a)\ny = Add(b, r)\n-> y",
    "x: i32[7, 33]\nw: i32[33, 5]\na = MatMul(x, w)\ny = Cast<to=1>(a)\n-> y",
];

/// With it every library is faster than any kernel.
pub(super) const SLOW_KERNELS: (&str, &str) = ("CUDA_EMULATOR_KERNEL_MS", "5");

/// Runs a test again in every schedule of the emulated driver, with the library.
fn in_library(test: &str, body: impl Fn()) {
    if is_inside() {
        return body();
    }
    in_schedules(&format!("gpu::suite::library::{test}"), &SCHEDULES, &[(PRODUCTS_VARIABLE, "cublaslt")]);
}

/// The kernels of a model's products.
fn products(text: &str, precision: Precision) -> Vec<&'static str> {
    let is_product = |kernel: &&str| kernel.starts_with("gemm") || *kernel == "cublaslt";
    launched(text, precision).into_iter().filter(is_product).collect()
}

#[test]
fn products_of_the_library_are_what_they_are_elsewhere() {
    in_library("products_of_the_library_are_what_they_are_elsewhere", || {
        let taken = TAKEN.iter().map(|(text, _)| *text).collect::<Vec<_>>();
        run(&taken, &ALL);
        run(LEFT, &FLOATS);
        run(FLOAT8, &FLOATS);
        run(PRODUCTS, &ALL);
        run(TENSOR_PRODUCTS, &ALL);
    });
}

#[test]
fn convolutions_of_one_pixel_are_the_librarys_too() {
    in_library("convolutions_of_one_pixel_are_the_librarys_too", || {
        run(TENSOR_WINDOWS, &[Precision::Tf32, Precision::F16, Precision::Bf16]);
    });
}

#[test]
fn it_is_the_library_that_computes_what_it_takes() {
    in_library("it_is_the_library_that_computes_what_it_takes", || {
        for (text, precisions) in TAKEN {
            for precision in *precisions {
                let kernels = products(text, *precision);
                let is_taken = !kernels.is_empty() && kernels.iter().all(|kernel| *kernel == "cublaslt");
                assert!(is_taken, "{precision:?}: {kernels:?}\n{text}");
            }
        }
        for text in FLOAT8 {
            // The first has a bias, which is of 16 bits.
            let precisions = if text.contains("Add(") { &FLOATS[1..] } else { &FLOATS[..] };
            for precision in precisions {
                assert_eq!(products(text, *precision), ["cublaslt"], "{precision:?}\n{text}");
            }
        }
        for text in LEFT {
            for precision in FLOATS {
                let kernels = products(text, precision);
                assert!(kernels.iter().all(|kernel| *kernel != "cublaslt"), "{kernels:?}\n{text}");
            }
        }
    });
}

/// The file of choices in a folder, as text.
pub(super) fn kept(folder: &std::path::Path) -> (std::path::PathBuf, String) {
    let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let paths = paths.filter(|path| path.extension().is_some_and(|e| e == "choices")).collect::<Vec<_>>();
    let [path] = paths.as_slice() else { panic!("{paths:?}") };
    (path.clone(), std::fs::read_to_string(path).unwrap())
}

#[test]
fn what_was_measured_once_is_kept_and_what_is_damaged_is_measured_again() {
    let test = "gpu::suite::library::what_was_measured_once_is_kept_and_what_is_damaged_is_measured_again";
    if !is_inside() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().to_str().unwrap();
        let variables = [(PRODUCTS_VARIABLE, "fastest"), ("TRISCORE_KERNEL_CACHE", folder), SLOW_KERNELS];
        return drop(passes(test, &variables));
    }
    let folder = std::path::PathBuf::from(std::env::var("TRISCORE_KERNEL_CACHE").unwrap());
    let (text, precision) = (TAKEN[1].0, Precision::F32);
    assert_eq!(products(text, precision), ["cublaslt"; 2]);
    let (path, first) = kept(&folder);
    assert_eq!(first.lines().count(), 4, "{first}");
    assert!(first.lines().filter(|line| line.contains(" gemm_float ")).count() == 2, "{first}");
    // From the file.
    assert_eq!(products(text, precision), ["cublaslt"; 2]);
    assert_eq!(kept(&folder).1, first);
    // More products are added.
    assert_eq!(products(TAKEN[2].0, precision), ["cublaslt"]);
    assert_eq!(kept(&folder).1.lines().count(), 5);
    // Damaged, it is as if it were not there.
    std::fs::write(&path, first.replacen("gemm", "gemn", 1)).unwrap();
    assert_eq!(products(text, precision), ["cublaslt"; 2]);
    let again = kept(&folder).1;
    assert_eq!(again.lines().count(), 4, "{again}");
    assert!(again.lines().filter(|line| line.contains(" gemm_float ")).count() == 2, "{again}");
    run(&[text], &[precision]);
}

#[test]
fn without_being_asked_for_an_emulated_library_computes_nothing() {
    let test = "gpu::suite::library::without_being_asked_for_an_emulated_library_computes_nothing";
    if !is_inside() {
        passes(test, &[(PRODUCTS_VARIABLE, "own")]);
        return drop(passes(test, &[]));
    }
    let kernels = products(TAKEN[0].0, Precision::F32);
    assert!(kernels.iter().all(|kernel| kernel.starts_with("gemm")), "{kernels:?}");
}

/// A folder of the emulated driver without its libraries. `None`, said, where there is no emulated driver.
pub(super) fn driver_alone() -> Option<tempfile::TempDir> {
    let (folder, alone) = (super::emulated::driver()?, tempfile::tempdir().unwrap());
    for name in ["libcuda.so.1", "words", "cache"] {
        let (from, to) = (folder.join(name), alone.path().join(name));
        if from.exists() {
            std::os::unix::fs::symlink(from, to).unwrap();
        }
    }
    Some(alone)
}

/// Runs a test again on the driver of that folder, with these variables; it must pass. What it said.
pub(super) fn passes_beside(test: &str, folder: &std::path::Path, variables: &[(&str, &str)]) -> String {
    let mut command = super::emulated::again(test).unwrap();
    let ran = command.env("LD_LIBRARY_PATH", folder).envs(variables.iter().copied()).output().unwrap();
    let said = String::from_utf8_lossy(&[ran.stdout, ran.stderr].concat()).into_owned();
    assert!(ran.status.success(), "{said}");
    said
}

#[test]
fn a_library_that_is_demanded_and_missing_is_an_error() {
    let test = "gpu::suite::library::a_library_that_is_demanded_and_missing_is_an_error";
    if !is_inside() {
        let Some(alone) = driver_alone() else { return };
        return drop(passes_beside(test, alone.path(), &[(PRODUCTS_VARIABLE, "cublaslt")]));
    }
    let model = read(&model_of(TAKEN[0].0));
    let error = GpuBackend::new().compile(&model, &gpus(), &CompileOptions::default());
    let error = error.expect_err("there is no library").to_string();
    // A machine may have NVIDIA's own, which refuses an emulated GPU.
    assert!(error.contains("TRISCORE_GPU_PRODUCTS=cublaslt"), "{error}");
}
