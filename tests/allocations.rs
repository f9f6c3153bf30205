//! What a call allocates must not grow with the model: counted by the allocator itself.

#![cfg(feature = "cpu")]
#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test may assert its way forward")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use triscore::cpu::CpuBackend;
use triscore::{Backend, Call, CompileOptions, DType, Dim, Model, Tensor};

/// Counts what this thread allocates.
struct Counting;

thread_local! {
    static BYTES: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: hands everything to the system's allocator; the count is a plain cell of the calling thread.
unsafe impl GlobalAlloc for Counting {
    // SAFETY: the caller's promises are handed on as they are.
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = BYTES.try_with(|b| b.set(b.get() + layout.size()));
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }
    // SAFETY: the caller's promises are handed on as they are.
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes allocated by one call at batch 1, once everything is warm.
fn bytes_of_a_call(file: &str) -> usize {
    let cpu = CpuBackend::new();
    let model = Model::open(file).unwrap();
    let scorer = cpu.compile(&model, &cpu.probe().unwrap(), &CompileOptions::default()).unwrap();
    let port = &model.signature().inputs()[0];
    let shape =
        port.dims().unwrap().iter().map(|d| if let Dim::Fixed(n) = d { *n } else { 1 }).collect::<Vec<_>>();
    let inputs = [Tensor::zeros(DType::F32, &shape).unwrap()];
    let call = Call::new();
    for _ in 0..10 {
        scorer.score(&inputs, &call).unwrap();
    }
    let before = BYTES.get();
    scorer.score(&inputs, &call).unwrap();
    BYTES.get() - before
}

#[test]
fn a_call_allocates_the_same_little_for_every_model() {
    // 69 kB, 128 kB and 1.4 MB of model; the answers are 10, 10 and 11 numbers.
    let models =
        ["models/digits_mlp/model.onnx", "models/digits_cnn/model.onnx", "models/sklearn/rf200.onnx"];
    for model in models {
        let bytes = bytes_of_a_call(model);
        assert!(bytes > 0, "nothing is counted");
        assert!(bytes < 4096, "{model}: one call allocates {bytes} bytes");
    }
}
