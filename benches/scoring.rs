//! Where the time of a score goes, part by part: tensors, the call itself, JSON, batches.
//!
//! `cargo bench --bench scoring`. For claims against ONNX Runtime see `ratios`, which runs the contestants
//! in turn; what is here is for finding out which part changed.

#![allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    missing_docs,
    reason = "a benchmark may stop where it cannot measure"
)]

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ort::session::Session;
use ort::session::builder::GraphOptimizationLevel;
use ort::value::TensorRef;
use triscore::cpu::CpuBackend;
use triscore::server::json::{self, Answer, ReplyForm};
use triscore::{Backend, Call, CompileOptions, Dim, Model, Scorer, Tensor};

fn model(name: &str) -> Model {
    Model::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(name)).unwrap()
}

fn scorer(model: &Model, options: &CompileOptions) -> Arc<dyn Scorer> {
    let cpu = CpuBackend::new();
    cpu.compile(model, &cpu.probe().unwrap(), options).unwrap()
}

fn input(model: &Model, rows: usize) -> Tensor {
    let dims = model.signature().inputs()[0].dims().unwrap();
    let shape = dims.iter().map(|d| if let Dim::Fixed(n) = d { *n } else { rows }).collect::<Vec<_>>();
    let count = shape.iter().product::<usize>();
    Tensor::from_slice(&shape, &(0..count).map(|i| (i % 17) as f32 / 17.0).collect::<Vec<_>>()).unwrap()
}

/// Making a tensor, viewing it, cutting a row out of it, joining rows.
fn tensors(c: &mut Criterion) {
    let mut group = c.benchmark_group("tensor");
    for rows in [1usize, 32, 1024] {
        let elements = vec![0.5f32; rows * 64];
        let tensor = Tensor::from_slice(&[rows, 64], &elements).unwrap();
        group.throughput(Throughput::Bytes((rows * 256) as u64));
        group.bench_with_input(BenchmarkId::new("from_slice", rows), &elements, |b, e| {
            b.iter(|| Tensor::from_slice(&[rows, 64], black_box(e)).unwrap());
        });
        group.bench_function(BenchmarkId::new("view", rows), |b| {
            b.iter(|| black_box(&tensor).view::<f32>().unwrap().len());
        });
        group.bench_function(BenchmarkId::new("row", rows), |b| {
            b.iter(|| black_box(&tensor).rows(0, 0..1).unwrap());
        });
        let halves = [tensor.rows(0, 0..rows / 2).unwrap(), tensor.rows(0, rows / 2..rows).unwrap()];
        group.bench_function(BenchmarkId::new("concat", rows), |b| {
            b.iter(|| Tensor::concat(0, &[black_box(&halves[0]), &halves[1]]).unwrap());
        });
    }
    group.finish();
}

/// One score through `Scorer`, and the same session called directly through `ort`.
fn calls(c: &mut Criterion) {
    let mut group = c.benchmark_group("score");
    for name in ["digits_mlp", "digits_cnn"] {
        let model = model(&format!("{name}/model.onnx"));
        let scorer = scorer(&model, &CompileOptions::default());
        let mut bare = Session::builder(&CpuBackend::new().environment().unwrap())
            .unwrap()
            .with_optimization_level(GraphOptimizationLevel::All)
            .unwrap()
            .with_intra_threads(1)
            .unwrap()
            .commit_from_memory(model.bytes())
            .unwrap();
        let inputs = [input(&model, 1)];
        group.bench_function(BenchmarkId::new("scorer", name), |b| {
            b.iter(|| scorer.score(black_box(&inputs), &Call::new()).unwrap());
        });
        group.bench_function(BenchmarkId::new("bare ort", name), |b| {
            b.iter(|| {
                let x = (inputs[0].shape(), inputs[0].as_slice::<f32>().unwrap());
                drop(black_box(bare.run(ort::inputs![TensorRef::from_array_view(x).unwrap()]).unwrap()));
            });
        });
    }
    group.finish();
}

/// A request body to tensors, and an answer to a body.
fn bodies(c: &mut Criterion) {
    let mut group = c.benchmark_group("json");
    let model = model("digits_mlp/model.onnx");
    let signature = model.signature();
    let scorer = scorer(&model, &CompileOptions::default());
    for rows in [1usize, 32, 1024] {
        let x = input(&model, rows);
        let list = x
            .view::<f32>()
            .unwrap()
            .outer_iter()
            .map(|r| r.iter().copied().collect())
            .collect::<Vec<Vec<_>>>();
        let body = serde_json::to_vec(&serde_json::json!({ "x": list })).unwrap();
        let scored = scorer.score(&[x], &Call::new()).unwrap();
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_with_input(BenchmarkId::new("decode", rows), &body, |b, body| {
            b.iter(|| json::decode(black_box(body), signature).unwrap());
        });
        let answer = Answer { model_name: "digits", model_version: None };
        group.bench_function(BenchmarkId::new("encode", rows), |b| {
            let mut out = Vec::new();
            b.iter(|| {
                out.clear();
                json::encode(&mut out, &scored.outputs, signature, &ReplyForm::Named, answer).unwrap();
            });
        });
    }
    group.finish();
}

/// Batches as the warm-up measured them best, and on one lane.
fn batches(c: &mut Criterion) {
    let mut group = c.benchmark_group("batch");
    for name in ["digits_cnn/model.onnx", "sklearn/rf200.onnx"] {
        let model = model(name);
        let tuned = scorer(&model, &CompileOptions::default());
        let serial = scorer(&model, &CompileOptions { skip_tuning: true, ..CompileOptions::default() });
        for rows in [8usize, 32, 128] {
            let inputs = [input(&model, rows)];
            group.throughput(Throughput::Elements(rows as u64));
            for (how, scorer) in [("tuned", &tuned), ("serial", &serial)] {
                group.bench_function(BenchmarkId::new(format!("{name} {how}"), rows), |b| {
                    b.iter(|| scorer.score(black_box(&inputs), &Call::new()).unwrap());
                });
            }
        }
    }
    group.finish();
}

criterion_group!(benches, tensors, calls, bodies, batches);
criterion_main!(benches);
