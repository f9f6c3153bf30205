//! The real library, asked what it takes, on a machine without a GPU.
//!
//! cuDNN plans for a GPU that is described (9.8 and later), so everything but running is seen: that it takes our descriptors, which engines it proposes,
//! and that plans are made of them. It compiles some of those; for that it wants the driver's functions to be there, and does not call them, so the test
//! runs in a process of its own with a driver that has nothing but their names. The test is passed over, and says so, where cuDNN is missing;
//! `TRISCORE_CUDNN=required` makes that an error (`make test-cudnn` installs it).

use std::path::Path;
use std::process::Command;

use super::*;
use crate::gpu::plan::Strided;
use crate::tensor::DType;

/// What cuDNN looks for in a driver before it compiles.
const DRIVER: &[&str] = &[
    "CtxGetCurrent",
    "CtxGetLimit",
    "CtxPopCurrent",
    "CtxPushCurrent",
    "DeviceGet",
    "DeviceGetCount",
    "DriverGetVersion",
    "GetErrorName",
    "GetErrorString",
    "KernelGetAttribute",
    "KernelSetAttribute",
    "LaunchCooperativeKernel",
    "LaunchKernel",
    "LaunchKernelEx",
    "LibraryGetKernel",
    "LibraryLoadData",
    "LibraryLoadFromFile",
    "LibraryUnload",
    "LinkAddData",
    "LinkComplete",
    "LinkCreate",
    "LinkDestroy",
    "OccupancyMaxPotentialClusterSize",
    "StreamGetCtx",
];

/// A GPU as cuDNN describes one, by what is published of it: its architecture, multiprocessors, shared memory of a block, second cache, memory.
fn described(
    name: &str,
    architecture: u32,
    multiprocessors: u32,
    shared: u32,
    cache: u32,
    memory: u64,
) -> String {
    format!(
        r#"{{"deviceName": "{name}", "deviceVer": {architecture}, "driverVer": 13000, "multiProcessorCount": {multiprocessors},
            "maxSharedMemoryPerBlockOptin": {shared}, "l2CacheSize": {cache}, "totalGlobalMem": {memory},
            "maxGridSize": [2147483647, 65535, 65535], "maxBlockSize": [1024, 1024, 64], "cudaDeviceId": 0, "isTccDriver": 0,
            "maxCtasPerSM": 32, "maxRegistersPerSM": 65536, "maxSharedMemoryPerBlock": 49152, "maxThreadsPerBlock": 1024,
            "maxThreadsPerSM": 2048, "memClockRateKHz": 2619000, "smClockRateKHz": 1980000, "pciDeviceId": 0, "regsPerBlock": 65536,
            "reservedSharedMemoryPerBlock": 1024, "supportCoopLaunch": 1, "warpSize": 32}}"#
    )
}

/// Channels closest together, without gaps.
fn dense(dtype: DType, lengths: &[usize]) -> Strided {
    let mut strides = vec![1; lengths.len()];
    let mut stride = lengths[1];
    for axis in [0].into_iter().chain(2..lengths.len()).rev().collect::<Vec<_>>() {
        strides[axis] = stride;
        stride *= lengths[axis];
    }
    Strided { dtype, lengths: lengths.to_vec(), strides, align: 256 }
}

/// Of these images and weights, with steps, gaps and zeros, the same along each axis.
fn shape(
    dtype: DType,
    images: &[usize],
    weights: &[usize],
    [stride, dilation, pad]: [usize; 3],
) -> ConvShape {
    let axes = images.len() - 2;
    let mut result = vec![images[0], weights[0]];
    for axis in 2..images.len() {
        // Along an axis of one element nothing is done.
        let span = (weights[axis] - 1) * dilation + 1;
        result.push((images[axis] + 2 * if images[axis] > 1 { pad } else { 0 } - span) / stride + 1);
    }
    let pads = images[2..].iter().map(|n| if *n > 1 { [pad, pad] } else { [0, 0] }).collect();
    ConvShape {
        images: dense(dtype, images),
        weights: dense(dtype, weights),
        result: dense(dtype, &result),
        strides: vec![stride; axes],
        dilations: vec![dilation; axes],
        pads,
        is_tf32: false,
        bias_align: None,
        residual: None,
        has_relu: false,
    }
}

/// With these of bias, residual and ReLU.
fn ending(shape: &ConvShape, [bias, residual, relu]: [bool; 3]) -> ConvShape {
    ConvShape {
        bias_align: bias.then_some(256),
        residual: residual.then(|| shape.result.clone()),
        has_relu: relu,
        ..shape.clone()
    }
}

/// All that planners make: every end in every precision, and every kind of window with the ends that are usual.
fn shapes() -> Vec<(String, ConvShape)> {
    let mut all = Vec::new();
    let precisions = [
        ("f32", DType::F32, false),
        ("tf32", DType::F32, true),
        ("f16", DType::F16, false),
        ("bf16", DType::Bf16, false),
    ];
    for (precision, dtype, is_tf32) in precisions {
        let of = |images: &[usize], weights: &[usize], how| ConvShape {
            is_tf32,
            ..shape(dtype, images, weights, how)
        };
        let plain = of(&[8, 64, 28, 28], &[64, 64, 3, 3], [1, 1, 1]);
        for end in 0..8 {
            let ends = [end & 1 != 0, end & 2 != 0, end & 4 != 0];
            all.push((format!("{precision}, ends {ends:?}"), ending(&plain, ends)));
        }
        let usual = [true, false, true];
        for (name, shape) in [
            ("steps", of(&[8, 64, 28, 28], &[128, 64, 3, 3], [2, 1, 1])),
            ("gaps", of(&[8, 64, 28, 28], &[64, 64, 3, 3], [1, 2, 2])),
            ("groups", of(&[8, 64, 28, 28], &[64, 32, 3, 3], [1, 1, 1])),
            ("one channel for each group", of(&[8, 64, 28, 28], &[64, 1, 3, 3], [1, 1, 1])),
            ("one axis", of(&[8, 64, 1, 128], &[64, 64, 1, 3], [1, 1, 1])),
            ("three axes", of(&[2, 16, 9, 14, 14], &[32, 16, 3, 3, 3], [1, 1, 1])),
            ("a first layer", of(&[8, 8, 224, 224], &[64, 8, 7, 7], [2, 1, 3])),
            ("odd channels", of(&[8, 24, 28, 28], &[17, 24, 3, 3], [1, 1, 1])),
        ] {
            all.push((format!("{precision}, {name}"), ending(&shape, usual)));
        }
        if dtype != DType::F32 {
            let wide = ConvShape { result: dense(DType::F32, &[8, 64, 28, 28]), ..plain.clone() };
            all.push((format!("{precision}, a result of 32 bits"), ending(&wide, usual)));
        }
        let uneven =
            ConvShape { pads: vec![[0, 1], [1, 0]], result: dense(dtype, &[8, 64, 27, 27]), ..plain };
        all.push((format!("{precision}, uneven zeros"), ending(&uneven, usual)));
    }
    all
}

/// What is wrong in itself, so that a library refuses it, the real one and the emulated one.
fn wrong() -> Vec<(&'static str, ConvShape)> {
    let right = ending(&shape(DType::F16, &[8, 64, 28, 28], &[64, 64, 3, 3], [1, 1, 1]), [true; 3]);
    let result = |lengths: &[usize]| dense(DType::F16, lengths);
    vec![
        (
            "a result that is too long",
            ConvShape { result: result(&[8, 64, 29, 28]), residual: None, ..right.clone() },
        ),
        (
            "a result of other channels",
            ConvShape { result: result(&[8, 32, 28, 28]), residual: None, ..right.clone() },
        ),
        ("channels in no whole groups", ConvShape { weights: result(&[64, 48, 3, 3]), ..right.clone() }),
        ("too few steps", ConvShape { strides: vec![1], ..right.clone() }),
        ("no steps", ConvShape { strides: vec![0, 1], ..right.clone() }),
        ("no images", ConvShape { images: result(&[0, 64, 28, 28]), ..right.clone() }),
        (
            "an odd address",
            ConvShape { images: Strided { align: 3, ..right.images.clone() }, ..right.clone() },
        ),
        (
            "a stride too few",
            ConvShape { images: Strided { strides: vec![1; 3], ..right.images.clone() }, ..right.clone() },
        ),
        (
            "weights of another type",
            ConvShape { weights: dense(DType::F32, &[64, 64, 3, 3]), ..right.clone() },
        ),
    ]
}

#[test]
fn the_real_library_takes_what_planners_make() {
    const TEST: &str = "gpu::cudnn::tests::the_real_library_takes_what_planners_make";
    const INSIDE: &str = "TRISCORE_TEST_CUDNN";
    let is_required = std::env::var("TRISCORE_CUDNN").as_deref() == Ok("required");
    if std::env::var_os(INSIDE).is_none() {
        // Only found: it must not be loaded before the driver that goes with it.
        if let Err(e) = libraries::find(Library::Cudnn, None) {
            assert!(!is_required, "{e}");
            return println!("skipped: {e}");
        }
        let folder = tempfile::tempdir().unwrap();
        let Some(()) = nameless_driver(folder.path()) else {
            assert!(!is_required, "there is no C compiler");
            return println!("skipped: there is no C compiler");
        };
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([TEST, "--exact", "--nocapture"]).env(INSIDE, "1").env("LD_LIBRARY_PATH", folder.path());
        let ran = command.output().unwrap();
        let said = String::from_utf8_lossy(&[ran.stdout, ran.stderr].concat()).into_owned();
        assert!(ran.status.success(), "{said}");
        return println!("{said}");
    }
    let library = libraries::load(Library::Cudnn, None).unwrap();
    let functions = Functions::of(&library).unwrap();
    println!("cuDNN {} of {}", functions.version, library.found.path.display());
    let gpus = [
        described("NVIDIA H200", 900, 132, 232_448, 52_428_800, 150_000_000_000),
        described("NVIDIA A100-SXM4-80GB", 800, 108, 166_912, 41_943_040, 85_000_000_000),
    ];
    for gpu in &gpus {
        let device = Descriptor::new(&functions, Kind::CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR)
            .and_then(|d| {
                d.with(Name::CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, Type::CUDNN_TYPE_CHAR, gpu.as_bytes())
            })
            .and_then(Descriptor::finalised)
            .unwrap();
        println!("{gpu}");
        hold(&Arc::new(Cudnn::for_target(functions.clone(), Target::Described(device))));
    }
}

/// Asks a library for everything that planners make, and for what is wrong: the real one and the emulated one must agree.
pub(in crate::gpu) fn hold(library: &Arc<Cudnn>) {
    let mut refused = Vec::new();
    for (name, shape) in shapes() {
        let planned = Convolution::of(library, &shape).and_then(|convolution| {
            let codes = convolution.codes().map(str::to_owned).collect::<Vec<_>>();
            let chosen = (0..codes.len()).find_map(|at| convolution.plan(at).ok());
            let nothing = || ScoreError::unavailable(format!("no plan of {codes:?}"));
            Ok((codes.clone(), chosen.ok_or_else(nothing)?.workspace))
        });
        match planned {
            Ok((codes, workspace)) => println!("{name}: {codes:?}, {workspace} bytes of workspace"),
            Err(e) => refused.push(format!("{name}: {e}")),
        }
    }
    assert!(refused.is_empty(), "{} are refused:\n{}", refused.len(), refused.join("\n"));
    let taken = wrong().into_iter().filter_map(|(what, shape)| match Convolution::of(library, &shape) {
        Ok(_) => Some(what),
        Err(e) => {
            println!("{what}: {e}");
            None
        }
    });
    assert_eq!(taken.collect::<Vec<_>>(), Vec::<&str>::new());
    errors_say_what_the_library_says(&library.functions);
}

/// A library of the driver's name with functions that fail. `None` without a compiler.
fn nameless_driver(folder: &Path) -> Option<()> {
    let (c, so) = (folder.join("driver.c"), folder.join("libcuda.so.1"));
    let text = DRIVER.iter().map(|name| format!("int cu{name}(void) {{ return 3; }}\n")).collect::<String>();
    std::fs::write(&c, text).unwrap();
    let made = Command::new("cc")
        .args(["-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o"])
        .arg(so)
        .arg(c)
        .status();
    assert!(made.ok()?.success());
    Some(())
}

/// What is wrong is refused, in the words of the library: the call, the status, its last error.
fn errors_say_what_the_library_says(functions: &Arc<Functions>) {
    let tensor = || Descriptor::new(functions, Kind::CUDNN_BACKEND_TENSOR_DESCRIPTOR).unwrap();
    let dimensions = Name::CUDNN_ATTR_TENSOR_DIMENSIONS;
    for (made, expected) in [
        (
            tensor().finalised().map(drop),
            "cudnnBackendFinalize of CUDNN_BACKEND_TENSOR_DESCRIPTOR: status 2000",
        ),
        (
            tensor().with(dimensions, Type::CUDNN_TYPE_INT32, &[1i32]).map(drop),
            "cudnnBackendSetAttribute of CUDNN_ATTR_TENSOR_DIMENSIONS: status 2010 CUDNN_STATUS_BAD_PARAM_ATTRIBUTE_TYPE: ",
        ),
        (
            tensor().with_lengths(Name::CUDNN_ATTR_CONVOLUTION_DILATIONS, &[1]).map(drop),
            "cudnnBackendSetAttribute of CUDNN_ATTR_CONVOLUTION_DILATIONS: status 2000 CUDNN_STATUS_BAD_PARAM: ",
        ),
    ] {
        let e = made.expect_err(expected).to_string();
        assert!(e.contains(expected) && e.contains("TRISCORE_GPU_CONVOLUTIONS=own"), "{e}");
    }
}
