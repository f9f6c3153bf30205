//! Shapes that vary from call to call: sequences that are padded up to few lengths, and rows that other kernels compute than a batch.

use super::{difference, everywhere, gpus};
use crate::cpu::CpuBackend;
use crate::gpu::GpuBackend;
use crate::graph::testing::{model_of, read};
use crate::scoring::{Backend, Bucketed, Buckets, Call, CompileOptions, Precision};
use crate::tensor::Tensor;

/// Attention of tokens to each other, as far as a mask lets them.
const MASKED: &str = "x: f32[batch, tokens, 16]
     m: f32[batch, 1, tokens]
     one = f32[] 1
     far = f32[] -10000
     k = Transpose<perm=[0, 2, 1]>(x)
     r = MatMul(x, k)
     h = f32[] 0.25
     s = Mul(r, h)
     d = Sub(one, m)
     e = Mul(d, far)
     t = Add(s, e)
     p = Softmax(t)
     y = MatMul(p, x)
     -> y: f32[batch, tokens, 16]";

fn inputs(rows: usize, length: usize) -> Vec<Tensor> {
    let values = (0..rows * length * 16).map(|i| ((i * 7919) % 101) as f32 / 101.0 - 0.5);
    let x = Tensor::from_slice(&[rows, length, 16], &values.collect::<Vec<_>>()).unwrap();
    vec![x, Tensor::from_slice(&[rows, 1, length], &vec![1f32; rows * length]).unwrap()]
}

#[test]
fn sequences_that_are_padded_are_what_they_are_elsewhere() {
    let test = "gpu::suite::shapes::sequences_that_are_padded_are_what_they_are_elsewhere";
    everywhere(test, &[("forward", "late")], || {
        let model = read(&model_of(MASKED));
        let cpu = CpuBackend::new();
        let exact = cpu.compile(&model, &cpu.probe().unwrap(), &CompileOptions::default()).unwrap();
        let buckets = Buckets::default().with("tokens", [4, 8]);
        for (precision, tolerance) in [(Precision::F32, 1e-5), (Precision::Bf16, 3e-2)] {
            let options = CompileOptions { lanes: Some(1), precision, ..CompileOptions::default() };
            let compiled = |text: &str| GpuBackend::new().compile(&read(&model_of(text)), &gpus(), &options);
            let scorer = Bucketed::new(compiled(MASKED).unwrap(), buckets.clone(), precision).unwrap();
            for (rows, length) in [(1, 3), (2, 4), (1, 5), (3, 7), (1, 8), (1, 11)] {
                let inputs = inputs(rows, length);
                let expected = exact.score(&inputs, &Call::new()).unwrap();
                let got = crate::Scorer::score(&scorer, &inputs, &Call::new()).unwrap();
                let wrong = difference(got.tensor(0).unwrap(), expected.tensor(0).unwrap(), tolerance);
                assert_eq!(wrong, None, "{precision}: {rows} of {length}");
            }
            // Without its mask every token looks at the padding, too.
            let bare = MASKED.replace("t = Add(s, e)", "t = Add(s, d)");
            let refused = Bucketed::new(compiled(&bare).unwrap(), buckets.clone(), precision).unwrap_err();
            assert!(refused.to_string().contains("changes output 'y'"), "{precision}: {refused}");
        }
    });
}

/// Blocks share the depth of a row's tile by four, and that of a batch's tiles by two, so that sums of 16 bits are rounded otherwise.
const DEEP: &str = "x: f32[rows, 64, 840]
     w = f32[840, 840] 0.11 -0.07 0.05 -0.02 0.03
     a = MatMul(x, w)
     b = Tanh(a)
     c = MatMul(b, w)
     d = Tanh(c)
     v = f32[840, 40] 0.1 -0.07 0.03
     y = MatMul(d, v)
     -> y: f32[rows, 64, 40]";

#[test]
fn rows_stay_rows_where_a_batch_is_computed_otherwise() {
    let test = "gpu::suite::shapes::rows_stay_rows_where_a_batch_is_computed_otherwise";
    everywhere(test, &[("forward", "late")], || {
        let model = read(&model_of(DEEP));
        for precision in [Precision::F32, Precision::Bf16, Precision::F16] {
            let options = CompileOptions { lanes: Some(1), precision, ..CompileOptions::default() };
            let scorer = GpuBackend::new().compile(&model, &gpus(), &options).unwrap();
            assert_eq!(scorer.signature().batch_axis(), Some(0), "{precision}");
        }
    });
}
