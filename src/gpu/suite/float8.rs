//! Floats of 8 bits: conversions to the bit.

use super::{SCHEDULES, everywhere, gpus};
use crate::gpu::GpuBackend;
use crate::graph::testing::{model_of, read};
use crate::scoring::{Backend, Call, CompileOptions};
use crate::tensor::{F8E4M3, F8E5M2, Tensor};

/// What a model makes of a tensor on each GPU.
fn scored(text: &str, input: &Tensor) -> Vec<Vec<Tensor>> {
    let model = read(&model_of(text));
    let options = CompileOptions { lanes: Some(1), skip_tuning: true, ..CompileOptions::default() };
    let of = |device| {
        let scorer = GpuBackend::new().guarded().compile(&model, &[device], &options).unwrap();
        let scored = scorer.score(std::slice::from_ref(input), &Call::new()).unwrap();
        let tensors = scored.outputs.iter().map(|output| output.as_tensor().unwrap().clone());
        tensors.collect()
    };
    gpus().into_iter().map(of).collect()
}

/// Numbers of both formats, what is halfway between two, what is just beside that; numbers of every size, and what is none.
fn edges() -> Vec<f32> {
    let codes = (0..=u8::MAX).flat_map(|c| [F8E4M3::from_bits(c).to_f32(), F8E5M2::from_bits(c).to_f32()]);
    let mut numbers = codes.filter(|v| v.is_finite()).collect::<Vec<_>>();
    numbers.extend([
        464.0,
        -464.0,
        465.0,
        480.0,
        61_440.0,
        -61_440.0,
        65_536.0,
        f32::MAX,
        f32::MIN_POSITIVE,
        1e-42,
    ]);
    numbers.sort_by(f32::total_cmp);
    let halves = numbers.windows(2).map(|pair| (pair[0] + pair[1]) / 2.0).collect::<Vec<_>>();
    numbers.extend(halves);
    let beside = numbers.iter().flat_map(|v| [v.next_up(), v.next_down()]).collect::<Vec<_>>();
    numbers.extend(beside);
    // As many as there are exponents and signs, each with a fraction of its own.
    numbers.extend((0..512u32).map(|n| f32::from_bits(n << 23 | n.wrapping_mul(0x9e37_79b9) & 0x7f_ffff)));
    numbers.extend([f32::INFINITY, f32::NEG_INFINITY, f32::NAN, -f32::NAN]);
    numbers
}

#[test]
fn conversions_are_those_of_the_processor_to_the_bit() {
    everywhere(
        "gpu::suite::float8::conversions_are_those_of_the_processor_to_the_bit",
        &SCHEDULES[..1],
        || {
            let numbers = edges();
            // What is written down in 8 bits is read again.
            let text = format!(
                "x: f32[{}]\na = Cast<to=17>(x)\nb = Cast<to=17, saturate=0>(x)\nc = Cast<to=19>(x)\nd = Cast<to=19, saturate=0>(x)\ne = Cast<to=1>(b)\nf = Cast<to=1>(d)\n-> a: f8e4m3[?], b: f8e4m3[?], c: f8e5m2[?], d: f8e5m2[?], e, f",
                numbers.len()
            );
            let encoded: [fn(f32) -> u8; 4] = [
                |v| F8E4M3::from_f32(v).to_bits(),
                |v| F8E4M3::from_f32_unsaturated(v).to_bits(),
                |v| F8E5M2::from_f32(v).to_bits(),
                |v| F8E5M2::from_f32_unsaturated(v).to_bits(),
            ];
            let decoded: [fn(f32) -> f32; 2] =
                [|v| F8E4M3::from_f32_unsaturated(v).to_f32(), |v| F8E5M2::from_f32_unsaturated(v).to_f32()];
            for outputs in scored(&text, &Tensor::from_slice(&[numbers.len()], &numbers).unwrap()) {
                let (codes, floats) = outputs.split_at(encoded.len());
                assert_eq!(floats.len(), decoded.len());
                for (at, (got, encode)) in codes.iter().zip(encoded).enumerate() {
                    for (number, code) in numbers.iter().zip(got.as_bytes()) {
                        assert_eq!(*code, encode(*number), "output {at}: {number:e}");
                    }
                }
                for (at, (got, decode)) in floats.iter().zip(decoded).enumerate() {
                    for (number, got) in numbers.iter().zip(got.as_slice::<f32>().unwrap()) {
                        let expected = decode(*number);
                        let is_same =
                            got.to_bits() == expected.to_bits() || (got.is_nan() && expected.is_nan());
                        assert!(is_same, "number {at}: {number:e} is {got}, not {expected}");
                    }
                }
            }
        },
    );
}
