//! The bound that a deployment's `memoryInGB` sets, in a process of its own: ONNX Runtime's allocator is
//! registered once a process.

#![cfg(feature = "cpu")]
#![allow(clippy::unwrap_used, reason = "a test may assert its way forward")]

use triscore::cpu::CpuBackend;
use triscore::{Backend, Call, CompileOptions, DType, ErrorKind, Health, Model, Tensor};

#[test]
fn a_batch_that_does_not_fit_is_refused_and_the_next_one_is_scored() {
    let cpu = CpuBackend::new();
    let devices = cpu.probe().unwrap();
    let model = Model::open("models/digits_cnn/model.onnx").unwrap();
    let options = CompileOptions { memory_bytes: Some(200 << 20), ..CompileOptions::default() };
    let scorer = cpu.compile(&model, &devices, &options).unwrap();
    let batch = |rows: usize| Tensor::zeros(DType::F32, &[rows, 1, 8, 8]).unwrap();

    // The first layer alone answers 16 × 8 × 8 floats a row: 400 MB for these.
    for _ in 0..3 {
        let e = scorer.score(&[batch(100_000)], &Call::new()).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::OutOfMemory, "{e}");
        let small = scorer.score(&[batch(64)], &Call::new()).unwrap();
        assert_eq!(small.tensor(0).unwrap().shape(), &[64, 10]);
    }
    assert_eq!(scorer.health(), Health::Ready);

    let resident = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak =
        resident.lines().find_map(|l| l.strip_prefix("VmHWM:")).and_then(|l| l.split_whitespace().next());
    if let Some(peak) = peak.and_then(|kib| kib.parse::<u64>().ok()) {
        assert!(peak < 400 << 10, "the process held {peak} KiB at its peak");
    }
}
