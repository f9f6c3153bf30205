//! Convolutions that a library computes, on the emulated cuDNN: they are what they are elsewhere, and it is really the library that computes them.
//!
//! The emulated library refuses what the real one would; how fast any of it is shows on a GPU alone, where `TRISCORE_GPU_CONVOLUTIONS=cudnn` before the
//! other suites has them run so.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use cudarc::driver::CudaContext;

use super::cases::{TENSOR_WINDOWS, WINDOWS};
use super::emulated::{SCHEDULES, in_schedules, is_inside, passes};
use super::library::{SLOW_KERNELS, driver_alone, kept, passes_beside};
use super::{Noise, difference, gpus, launched, run};
use crate::cpu::CpuBackend;
use crate::gpu::GpuBackend;
use crate::gpu::choice::CONVOLUTIONS_VARIABLE;
use crate::gpu::cudnn::Cudnn;
use crate::gpu::cudnn::tests::hold;
use crate::graph::testing::{model_of, read};
use crate::scoring::{Backend, Call, CompileOptions, Precision};

const ALL: [Precision; 4] = [Precision::F32, Precision::Tf32, Precision::F16, Precision::Bf16];

/// Convolutions that a library takes, and how many of them there are: with every end that it has, over one, two and three axes, in groups, with gaps
/// and steps, padded at one side more than at the other, of few channels and of one for each group.
const TAKEN: &[(&str, usize)] = &[
    (
        "x: f32[2, 16, 9, 10]\nw = f32[24, 16, 3, 2] 0.1 -0.2 0.3\nb = f32[24] 1 2\na = Conv<pads=[1, 0, 2, 1], strides=[2, 1]>(x, w, b)\nr = Conv<pads=[1, 0, 2, 1], strides=[2, 1]>(x, w)\nc = Add(a, r)\nd = Relu(c)\ny = GlobalAveragePool(d)\n-> y",
        2,
    ),
    (
        "x: f32[2, 16, 9, 10]\nw = f32[24, 16, 3, 3] 0.1 -0.2 0.3\nv = f32[24, 24, 3, 3] 0.01 -0.02 0.03 -0.01 0.02\nb = f32[24] 1 2\na = Conv<pads=[1, 1, 1, 1]>(x, w, b)\nc = Relu(a)\nd = Conv<pads=[1, 1, 1, 1]>(c, v)\ne = Add(d, c)\nf = Conv<strides=[2, 2]>(e, v)\ng = Relu(f)\nh = Conv(g, v, b)\ny = GlobalAveragePool(h)\n-> y",
        4,
    ),
    (
        "x: f32[2, 32, 9, 9]\nw = f32[36, 16, 3, 3] 0.1 0.2 -0.3 0.4 0.5\nb = f32[36] 1 2 3\na = Conv<group=2, dilations=[1, 2], strides=[2, 1]>(x, w, b)\ny = GlobalAveragePool(a)\n-> y",
        1,
    ),
    (
        "x: f32[2, 8, 9, 9]\nv = f32[16, 8, 3, 3] 0.1 -0.2\nw = f32[16, 1, 3, 3] 1 2 3 4 5\nb = f32[16] 1 2\nd = Conv(x, v)\na = Conv<group=16, pads=[1, 1, 1, 1]>(d, w, b)\nc = Relu(a)\ny = GlobalAveragePool(c)\n-> y",
        2,
    ),
    (
        "x: f32[2, 8, 40]\nw = f32[17, 8, 3] 0.1 0.2 -0.3 0.4 0.5\na = Conv<auto_pad=SAME_UPPER, strides=[2]>(x, w)\nb = Relu(a)\ny = GlobalMaxPool(b)\n-> y",
        1,
    ),
    (
        "x: f32[1, 8, 5, 6, 7]\nw = f32[18, 8, 2, 3, 2] 0.1 -0.2 0.3\nb = f32[18] 1 2\na = Conv<pads=[1, 0, 0, 0, 1, 0]>(x, w, b)\ny = GlobalAveragePool(a)\n-> y",
        1,
    ),
    (
        "x: f32[1, 3, 12, 12]\nw = f32[16, 3, 3, 3] 0.1 0.2 -0.3\na = Conv(x, w)\nb = Relu(a)\nc = MaxPool<kernel_shape=[2, 2], strides=[2, 2]>(b)\ny = GlobalAveragePool(c)\n-> y",
        1,
    ),
];

/// What ends otherwise stays with the kernel.
const LEFT: &[&str] = &[
    "x: f32[2, 16, 9, 9]\nw = f32[24, 16, 3, 3] 0.1 -0.2\na = Conv(x, w)\nb = Sigmoid(a)\ny = GlobalAveragePool(b)\n-> y",
];

/// Runs a test again on the emulated driver, with the library: it computes on the host, so that only when work is done can make a difference.
fn in_library(test: &str, body: impl Fn()) {
    if is_inside() {
        return body();
    }
    let schedules = [SCHEDULES[0], SCHEDULES[3]];
    in_schedules(
        &format!("gpu::suite::convolutions::{test}"),
        &schedules,
        &[(CONVOLUTIONS_VARIABLE, "cudnn")],
    );
}

/// What computes a model's convolutions.
fn convolutions(text: &str, precision: Precision) -> Vec<&'static str> {
    let is_one = |kernel: &&str| kernel.starts_with("conv") || *kernel == "cudnn";
    launched(text, precision).into_iter().filter(is_one).collect()
}

#[test]
fn convolutions_of_the_library_are_what_they_are_elsewhere() {
    in_library("convolutions_of_the_library_are_what_they_are_elsewhere", || {
        run(&TAKEN.iter().map(|(text, _)| *text).collect::<Vec<_>>(), &ALL);
        run(LEFT, &ALL[..1]);
        run(WINDOWS, &ALL[..1]);
        run(&TENSOR_WINDOWS[..6], &ALL[1..3]);
    });
}

#[test]
fn it_is_the_library_that_convolves_what_it_takes() {
    in_library("it_is_the_library_that_convolves_what_it_takes", || {
        for (text, count) in TAKEN {
            for precision in ALL {
                assert_eq!(convolutions(text, precision), vec!["cudnn"; *count], "{precision:?}\n{text}");
            }
        }
        for text in LEFT {
            for precision in ALL {
                let kernels = convolutions(text, precision);
                let is_left = kernels.len() == 1 && kernels[0] != "cudnn";
                assert!(is_left, "{precision:?}: {kernels:?}\n{text}");
            }
        }
    });
}

#[test]
fn the_emulated_library_takes_and_refuses_what_the_real_one_does() {
    in_library("the_emulated_library_takes_and_refuses_what_the_real_one_does", || {
        let context = CudaContext::new(0).unwrap();
        let library = Cudnn::load(&context, 13).unwrap();
        assert_eq!(library.version(), 91_900);
        hold(&Arc::new(library));
    });
}

#[test]
fn lanes_convolve_side_by_side() {
    in_library("lanes_convolve_side_by_side", || {
        let model = read(&model_of(TAKEN[1].0));
        let options = CompileOptions { lanes: Some(2), skip_tuning: true, ..CompileOptions::default() };
        let (cpu, gpu) = (CpuBackend::new(), GpuBackend::new());
        let expected = cpu.compile(&model, &cpu.probe().unwrap(), &options).unwrap();
        // In half precision the library uses its workspace.
        let options = CompileOptions { precision: Precision::F16, ..options };
        let scorer = gpu.compile(&model, &gpus(), &options).unwrap();
        std::thread::scope(|scope| {
            for caller in 1..=4 {
                let (scorer, expected) = (&scorer, &expected);
                scope.spawn(move || {
                    let mut noise = Noise(caller * 77);
                    for _ in 0..3 {
                        let input = [noise.tensor(crate::tensor::DType::F32, &[2, 16, 9, 10])];
                        let got = scorer.score(&input, &Call::new()).unwrap();
                        let expected = expected.score(&input, &Call::new()).unwrap();
                        let wrong = difference(got.tensor(0).unwrap(), expected.tensor(0).unwrap(), 4e-3);
                        assert_eq!(wrong, None, "caller {caller}");
                    }
                });
            }
        });
    });
}

#[test]
fn what_was_measured_once_is_kept() {
    let test = "gpu::suite::convolutions::what_was_measured_once_is_kept";
    if !is_inside() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().to_str().unwrap();
        let variables = [(CONVOLUTIONS_VARIABLE, "fastest"), ("TRISCORE_KERNEL_CACHE", folder), SLOW_KERNELS];
        return drop(passes(test, &variables));
    }
    let folder = PathBuf::from(std::env::var("TRISCORE_KERNEL_CACHE").unwrap());
    let (text, count) = TAKEN[0];
    assert_eq!(convolutions(text, Precision::F32), vec!["cudnn"; count]);
    let (path, first) = kept(&folder);
    let name = path.file_name().unwrap().to_string_lossy();
    assert!(name.starts_with("convolutions-") && name.contains("-91900-"), "{name}");
    assert_eq!(first.lines().count(), 2 + count, "{first}");
    // Floats of 32 bits are multiplied as such: the engine without tensor cores.
    assert_eq!(
        first.lines().filter(|line| line.starts_with("0.2=-1 conv_float f32:2x16x9x10")).count(),
        count,
        "{first}"
    );
    // From the file, and what is damaged anew.
    assert_eq!(convolutions(text, Precision::F32), vec!["cudnn"; count]);
    assert_eq!(kept(&folder).1, first);
    std::fs::write(&path, first.replacen("0.2=-1", "7.2=5", 1)).unwrap();
    assert_eq!(convolutions(text, Precision::F32), vec!["cudnn"; count]);
    assert_eq!(kept(&folder).1, first);
    assert_eq!(convolutions(text, Precision::F16), vec!["cudnn"; count]);
    let (_, both) = kept(&folder);
    assert_eq!(both.lines().count(), 2 + 2 * count, "{both}");
    run(&[text], &[Precision::F32, Precision::F16]);
}

#[test]
fn without_being_asked_for_an_emulated_library_convolves_nothing() {
    let test = "gpu::suite::convolutions::without_being_asked_for_an_emulated_library_convolves_nothing";
    if !is_inside() {
        passes(test, &[(CONVOLUTIONS_VARIABLE, "own")]);
        return drop(passes(test, &[]));
    }
    assert_eq!(convolutions(TAKEN[0].0, Precision::F32), ["conv_float"; 2]);
}

/// A library that is none, one that refuses, one that is too old.
const BAD: &[(&str, &str, &str)] = &[
    ("", "", ""),
    ("int x;", "", " has no function cudnnGetVersion"),
    ("refuses", "return 1001;", "cudnnCreate: status 1001 NOT_THIS_GPU: it is emulated"),
    ("is old", "return 0;", "is cuDNN 80907: expected 9.0 or later"),
];

/// C for such a library.
fn source(kind: &str, create: &str) -> String {
    let version = if kind == "is old" { 80907 } else { 91900 };
    let others = [
        "Destroy",
        "SetStream",
        "BackendCreateDescriptor",
        "BackendDestroyDescriptor",
        "BackendFinalize",
        "BackendSetAttribute",
        "BackendGetAttribute",
        "BackendExecute",
    ];
    let others = others.map(|name| format!("int cudnn{name}() {{ return 2000; }}\n")).concat();
    format!(
        "unsigned long cudnnGetVersion() {{ return {version}; }}
         const char *cudnnGetErrorString(int status) {{ return \"NOT_THIS_GPU\"; }}
         void cudnnGetLastErrorString(char *text, unsigned long most) {{ const char *why = \"it is emulated\"; while ((*text++ = *why++)); }}
         int cudnnCreate(void **at) {{ {create} }}\n{others}"
    )
}

#[test]
fn without_a_library_that_works_kernels_convolve_and_who_demands_it_is_told_why() {
    let test = "gpu::suite::convolutions::without_a_library_that_works_kernels_convolve_and_who_demands_it_is_told_why";
    if is_inside() {
        let model = read(&model_of(TAKEN[0].0));
        return match std::env::var(CONVOLUTIONS_VARIABLE).unwrap().as_str() {
            "cudnn" => {
                let error = GpuBackend::new().compile(&model, &gpus(), &CompileOptions::default());
                let error = error.expect_err("there is no library").to_string();
                let why = std::env::var("EXPECTED").unwrap();
                assert!(error.contains("TRISCORE_GPU_CONVOLUTIONS=cudnn") && error.contains(&why), "{error}");
            }
            _ => assert_eq!(convolutions(TAKEN[0].0, Precision::F32), ["conv_float"; 2]),
        };
    }
    for (kind, create, why) in BAD {
        let Some(alone) = driver_alone() else { return };
        if !kind.is_empty() {
            let (c, so) = (alone.path().join("cudnn.c"), alone.path().join("libcudnn.so.9"));
            let text = if create.is_empty() { (*kind).to_owned() } else { source(kind, create) };
            std::fs::write(&c, text).unwrap();
            let Ok(made) =
                Command::new("cc").args(["-shared", "-fPIC", "-w", "-o"]).arg(&so).arg(&c).status()
            else {
                return println!("skipped: there is no C compiler");
            };
            assert!(made.success());
        }
        for mode in ["fastest", "cudnn"] {
            passes_beside(test, alone.path(), &[(CONVOLUTIONS_VARIABLE, mode), ("EXPECTED", why)]);
        }
    }
}
