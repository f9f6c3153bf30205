//! What goes wrong on a GPU, on the emulated driver, which is told to fail: each is an error that says what it is, and nothing is left behind.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "tests")]
#![cfg(all(feature = "cuda", feature = "cpu", target_os = "linux"))]

#[allow(dead_code, reason = "it is more than is needed here")]
#[path = "oracle/cases.rs"]
mod cases;
#[path = "../hardware-tests/emulated.rs"]
mod emulated;
#[allow(dead_code, reason = "it is more than is needed here")]
#[path = "oracle/model.rs"]
mod model;

use std::sync::Arc;

use triscore::gpu::GpuBackend;
use triscore::graph::{Graph, rewrite};
use triscore::int8::QType;
use triscore::quantize::reference;
use triscore::{Backend, Call, CompileOptions, DType, ErrorKind, Health, Model, Result, Scorer, Tensor};

use emulated::{is_inside, passes};
use model::Builder;

/// Layers of `width` by `width` weights, of which each is its number over the width: x is averaged, and grows by a factor of two a layer.
fn layers(width: usize, count: usize) -> Model {
    let mut builder = Builder::default();
    let mut x = builder.input("x", DType::F32, &[1, width]);
    for layer in 0..count {
        let weights = vec![2.0 / width as f32; width * width];
        let weights = Tensor::from_slice(&[width, width], &weights).unwrap();
        let weights = builder.constant(&format!("w{layer}"), &weights);
        x = builder.node("MatMul", &[&x, &weights], &format!("y{layer}"), vec![]);
    }
    builder.output(&x, DType::F32);
    builder.build()
}

fn load(model: &Model) -> Result<Arc<dyn Scorer>> {
    let gpu = GpuBackend::new();
    gpu.compile(model, &gpu.probe()?, &CompileOptions::default())
}

fn score(scorer: &Arc<dyn Scorer>, width: usize) -> Result<f32> {
    let x = Tensor::from_slice(&[1, width], &vec![1.0f32; width])?;
    let scored = scorer.score(&[x], &Call::new())?;
    let values = scored.tensor(0)?.as_slice::<f32>()?.to_vec();
    assert!(values.iter().all(|v| *v == values[0]), "{values:?}");
    Ok(values[0])
}

/// What the emulated driver says, when the process ends, is still allocated.
fn leaves_nothing(test: &str, variables: &[(&str, &str)]) {
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report");
    let mut all = variables.to_vec();
    all.push(("CUDA_EMULATOR_REPORT", report.to_str().unwrap()));
    if passes(test, &all).is_empty() {
        return;
    }
    let left = std::fs::read_to_string(&report).unwrap();
    let mut counts = left.split_whitespace().filter_map(|w| w.parse::<u64>().ok()).peekable();
    assert!(counts.peek().is_some() && counts.all(|n| n == 0), "{variables:?} leaves: {left}");
}

#[test]
fn a_model_that_does_not_fit_is_refused_fifty_times_and_the_next_one_loads() {
    if !is_inside() {
        let test = "a_model_that_does_not_fit_is_refused_fifty_times_and_the_next_one_loads";
        return leaves_nothing(test, &[("CUDA_EMULATOR_MEMORY_MB", "2")]);
    }
    // Four megabytes of weights for a device of two.
    let large = layers(512, 4);
    for _ in 0..50 {
        let error = load(&large).expect_err("it does not fit");
        assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error}");
        assert!(error.to_string().contains("allocating") && error.to_string().contains("gpu:0"), "{error}");
    }
    let small = load(&layers(64, 3)).unwrap();
    assert_eq!(score(&small, 64).unwrap(), 8.0);
}

#[test]
fn an_allocation_that_fails_anywhere_is_an_error_and_leaves_nothing() {
    let test = "an_allocation_that_fails_anywhere_is_an_error_and_leaves_nothing";
    if !is_inside() {
        for number in 1..=16 {
            leaves_nothing(test, &[("CUDA_EMULATOR_FAIL", &format!("alloc:{number}"))]);
        }
        return;
    }
    let model = layers(32, 3);
    let attempt = || {
        let scorer = load(&model)?;
        score(&scorer, 32)
    };
    // One allocation fails, in whichever attempt it comes; the others score.
    let failed =
        (0..4).filter_map(|_| attempt().map(|value| assert_eq!(value, 8.0)).err()).collect::<Vec<_>>();
    assert!(failed.len() <= 1 && failed.iter().all(|e| e.kind() == ErrorKind::OutOfMemory), "{failed:?}");
}

#[test]
fn a_lost_context_is_lost_for_the_process_which_says_so() {
    let test = "a_lost_context_is_lost_for_the_process_which_says_so";
    if !is_inside() {
        for number in [1, 4, 9, 30] {
            passes(test, &[("CUDA_EMULATOR_FAIL", &format!("launch:{number}"))]);
        }
        return;
    }
    let model = layers(32, 3);
    let lost = |e: &triscore::ScoreError| {
        assert_eq!(e.kind(), ErrorKind::DeviceLost, "{e}");
        assert!(
            e.to_string().contains("ILLEGAL_ADDRESS") && e.to_string().contains("restart the process"),
            "{e}"
        );
    };
    match load(&model) {
        Err(e) => lost(&e),
        Ok(scorer) => {
            let failed = (0..20).find_map(|_| score(&scorer, 32).err());
            lost(&failed.expect("the launch that fails is among these"));
            // Every lane sees it, and says it again.
            while let Health::Degraded { .. } = scorer.health() {
                lost(&score(&scorer, 32).unwrap_err());
            }
            assert!(matches!(scorer.health(), Health::Lost { .. }), "{:?}", scorer.health());
            assert_eq!(score(&scorer, 32).unwrap_err().kind(), ErrorKind::DeviceLost);
        }
    }
    lost(&load(&model).expect_err("nobody gets it back"));
}

#[test]
fn old_drivers_are_refused_or_used_without_what_they_lack() {
    let test = "old_drivers_are_refused_or_used_without_what_they_lack";
    if !is_inside() {
        passes(test, &[("CUDA_EMULATOR_VERSION", "11080")]);
        passes(test, &[("CUDA_EMULATOR_VERSION", "12000")]);
        return;
    }
    let loaded = load(&layers(32, 3));
    match std::env::var("CUDA_EMULATOR_VERSION").as_deref() {
        Ok("11080") => {
            let error = loaded.expect_err("too old").to_string();
            assert!(error.contains("too old") && error.contains("11.8") && error.contains("525"), "{error}");
        }
        _ => assert_eq!(score(&loaded.unwrap(), 32).unwrap(), 8.0),
    }
}

#[test]
fn lanes_spread_over_two_gpus() {
    if !is_inside() {
        return leaves_nothing("lanes_spread_over_two_gpus", &[("CUDA_EMULATOR_DEVICES", "2")]);
    }
    let gpu = GpuBackend::new();
    let devices = gpu.probe().unwrap();
    assert_eq!(devices.len(), 2);
    let scorer = gpu.compile(&layers(32, 3), &devices, &CompileOptions::default()).unwrap();
    assert_eq!((scorer.devices().len(), scorer.limits().lanes), (2, 4));
    std::thread::scope(|s| {
        for _ in 0..8 {
            s.spawn(|| (0..5).for_each(|_| assert_eq!(score(&scorer, 32).unwrap(), 8.0)));
        }
    });
}

#[test]
fn shapes_that_were_not_seen_before_are_planned_and_wrong_ones_refused() {
    if !is_inside() {
        return leaves_nothing("shapes_that_were_not_seen_before_are_planned_and_wrong_ones_refused", &[]);
    }
    let scorer = load(&layers(32, 3)).unwrap();
    let wrong = Tensor::from_slice(&[1, 33], &[1.0f32; 33]).unwrap();
    let error = scorer.score(&[wrong], &Call::new()).expect_err("33 columns");
    assert_eq!(error.kind(), ErrorKind::BadInput, "{error}");
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("models/digits_mlp/model.onnx");
    let scorer = load(&Model::open(folder).unwrap()).unwrap();
    // Most are run with more rows than they have, of which nobody sees anything.
    let x = |rows: std::ops::Range<usize>| {
        let values = rows.clone().flat_map(|row| (0..64).map(move |i| ((row * 7 + i * 3) % 17) as f32));
        Tensor::from_slice(&[rows.len(), 64], &values.collect::<Vec<_>>()).unwrap()
    };
    let answers = |x: Tensor| {
        let scored = scorer.score(&[x], &Call::new()).unwrap();
        assert_eq!(scored.tensor(0).unwrap().shape()[1..], [10]);
        scored.tensor(0).unwrap().as_slice::<f32>().unwrap().to_vec()
    };
    let alone = (0..33).flat_map(|row| answers(x(row..row + 1))).collect::<Vec<_>>();
    for rows in (1..=20).chain([33, 3, 17, 1]) {
        let together = answers(x(0..rows));
        assert_eq!(together.len(), rows * 10);
        let is_near = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-5 * b.abs().max(1.0);
        assert!(together.iter().zip(&alone).all(is_near), "{rows} rows: {together:?}");
    }
}

#[test]
fn a_model_is_measured_part_by_part_and_one_that_is_not_wholly_there_is_not() {
    if !is_inside() {
        let test = "a_model_is_measured_part_by_part_and_one_that_is_not_wholly_there_is_not";
        leaves_nothing(test, &[("CUDA_EMULATOR_VERSION", "12000")]);
        return leaves_nothing(test, &[]);
    }
    let (gpu, options) = (GpuBackend::new(), CompileOptions::default());
    let device = gpu.probe().unwrap().remove(0);
    let measured = gpu.measure(&layers(64, 3), &device, &options, 1, 4).unwrap();
    assert!(measured.kernels >= 1 && measured.placement == "gpu 3/3", "{measured:?}");
    assert_eq!((measured.upload_bytes, measured.download_bytes), (256, 256));
    assert_eq!(measured.by_events, std::env::var_os("CUDA_EMULATOR_VERSION").is_none());
    for times in [&measured.compute, &measured.upload, &measured.download, &measured.whole] {
        assert!(times.len() == 4 && times.iter().all(|t| t.is_finite() && *t >= 0.0), "{measured:?}");
    }
    assert!(measured.compute.iter().any(|t| *t > 0.0), "{measured:?}");
    let mut builder = Builder::default();
    let x = builder.input("x", DType::F32, &[4, 4]);
    let y = builder.node("Det", &[&x], "y", vec![]);
    builder.output(&y, DType::F32);
    let error = gpu.measure(&builder.build(), &device, &options, 1, 4).expect_err("no kernel for Det");
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains("Det"), "{error}");
}

/// Seeded products, and what joins two tensors, between Q/DQ pairs: to the bit what operators on integers must give.
#[test]
fn quantised_operators_equal_the_reference() {
    if !is_inside() {
        return drop(passes("quantised_operators_equal_the_reference", &[]));
    }
    let seeds = std::env::var("TRISCORE_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(3);
    let gpu = GpuBackend::new().guarded();
    let mut failures = Vec::new();
    for operator in
        ["Conv", "MatMul", "MatMul2", "Gemm", "Add", "Mul", "MaxPool", "Clip", "Residual", "Deep", "Empty"]
    {
        for (seed, activation) in (0..seeds).flat_map(|seed| [(seed, QType::U8), (seed, QType::I8)]) {
            let case = cases::case(operator, activation, seed);
            let shapes = case.inputs.iter().map(Tensor::shape).collect::<Vec<_>>();
            let mut graph = Graph::of(&case.model).unwrap().bind(&shapes).unwrap();
            rewrite::to_integers(&mut graph).unwrap();
            graph.tidy().unwrap();
            let values = reference::run(&graph, &case.inputs).unwrap();
            let expected = values[graph.outputs()[0].index()].as_ref().unwrap();
            let scorer = gpu.compile(&case.model, &gpu.probe().unwrap(), &CompileOptions::default());
            match scorer.and_then(|scorer| scorer.score(&case.inputs, &Call::new())) {
                Ok(scored) if scored.tensor(0).unwrap().as_bytes() == expected.as_bytes() => {}
                Ok(scored) => {
                    let got = scored.tensor(0).unwrap().as_bytes().iter().zip(expected.as_bytes());
                    let wrong = got.filter(|(g, e)| g != e).count();
                    failures.push(format!("{}: {wrong} of {} differ", case.what, expected.len()));
                }
                Err(e) => failures.push(format!("{}: {e}", case.what)),
            }
        }
    }
    assert!(failures.is_empty(), "{} of the cases:\n{}", failures.len(), failures.join("\n"));
}
