//! Floats of 8 bits: conversions to the bit, and products and convolutions of both kinds of them, on tensor cores that have them, on those that do not, and on
//! none.

use super::emulated::{in_schedules, is_inside};
use super::{ONLY, SCHEDULES, compare_within, everywhere, gpus};
use crate::gpu::GpuBackend;
use crate::graph::testing::{model_of, read};
use crate::scoring::{Backend, Call, CompileOptions, Precision};
use crate::tensor::{F8E4M3, F8E5M2, Tensor};

/// Compute capabilities, and in how many schedules each is tried: without tensor cores, with those that have no floats of 8 bits, those of warps that have, and
/// Hopper's.
const DEVICES: [(&str, usize); 4] = [("75", 1), ("80", 1), ("89", 1), ("90", 2)];

/// Products, of `LEFT` and `RIGHT` floats that are whole numbers, dequantised by scales that are powers of two: so nothing is rounded, and sums are exact.
const PRODUCTS: &[&str] = &[
    "x: LEFT[2, 70, 80]\nw = RIGHT[80, 72] 1 -2 3 4 -1 0 2\nr: f32[2, 70, 72]\nt = f32[72] 0.5 0.25 1 2\nb = f32[72] 1 -2 30\nf = DequantizeLinear(x, s, _)\ng = DequantizeLinear<axis=1>(w, t, _)\na = MatMul(f, g)\nc = Add(a, b)\nd = Relu(c)\ny = Add(d, r)\n-> y",
    "x: LEFT[2, 3, 140, 48]\nw: RIGHT[2, 3, 48, 136]\nf = DequantizeLinear(x, s, _)\ng = DequantizeLinear(w, s, _)\ny = MatMul(f, g)\n-> y",
    // A batch of which one side has a part, and what a batch only repeats.
    "x: LEFT[2, 3, 20, 32]\nw: RIGHT[3, 32, 9]\nf = DequantizeLinear(x, s, _)\ng = DequantizeLinear(w, s, _)\ny = MatMul(f, g)\n-> y",
    "x: LEFT[130, 64]\nw = RIGHT[37, 64] 1 -2 3 4 -1\nb = f32[37] 1 2\nf = DequantizeLinear(x, s, _)\ng = DequantizeLinear(w, s, _)\ny = Gemm<transB=1>(f, g, b)\n-> y",
    "x: LEFT[20, 1712]\nw = RIGHT[48, 1712] 1 -2 3 4 -1\nf = DequantizeLinear(x, s, _)\ng = DequantizeLinear(w, s, _)\ny = Gemm<transB=1>(f, g)\n-> y",
    "x: LEFT[32, 9]\nw: RIGHT[5, 32]\nf = DequantizeLinear(x, s, _)\ng = DequantizeLinear(w, s, _)\ny = Gemm<transA=1, transB=1>(f, g)\n-> y",
    // Depths that pieces of 8 bits are not of, but those of 16 are; and neither are.
    "x: LEFT[70, 40]\nw = RIGHT[40, 33] 1 -2 3\nf = DequantizeLinear(x, s, _)\ng = DequantizeLinear(w, s, _)\ny = MatMul(f, g)\n-> y",
    "x: LEFT[7, 41]\nw: RIGHT[41, 5]\nf = DequantizeLinear(x, s, _)\ng = DequantizeLinear(w, s, _)\ny = MatMul(f, g)\n-> y",
    // More steps of depth than stages, columns that are no pairs, and a result in 8 bits that is multiplied on.
    "x: LEFT[150, 976]\nw = RIGHT[137, 976] 1 -1 1 0 -1 2\nb = f32[137] 1 2\nf = DequantizeLinear(x, s, _)\ng = DequantizeLinear(w, s, _)\na = Gemm<transB=1>(f, g, b)\ny = Relu(a)\n-> y",
    // The same of few columns, of low tiles and of high ones.
    "x: LEFT[150, 1232]\nw = RIGHT[50, 1232] 1 -1 1 0 -1 2\nf = DequantizeLinear(x, s, _)\ng = DequantizeLinear(w, s, _)\ny = Gemm<transB=1>(f, g)\n-> y",
    "x: LEFT[500, 800]\nw = RIGHT[63, 800] 1 -1 1 0 -1 2\nf = DequantizeLinear(x, s, _)\ng = DequantizeLinear(w, s, _)\na = Gemm<transB=1>(f, g)\ny = Relu(a)\n-> y",
    "x: LEFT[66, 160]\nw = RIGHT[160, 80] 1 0 -1\nv = LEFT[80, 70] 1 -1 0 1\no = f32[] 4\nf = DequantizeLinear(x, s, _)\ng = DequantizeLinear(w, s, _)\na = MatMul(f, g)\nb = Relu(a)\nq = QuantizeLinear<output_dtype=RIGHT_CODE>(b, o, _)\nh = DequantizeLinear(q, o, _)\nk = DequantizeLinear(v, s, _)\ny = MatMul(h, k)\n-> y",
];

/// Convolutions of such: of one, two and three axes, with padding, steps, gaps and groups, of three channels and of one pixel, of channels that fill a stage or
/// most of one, and of one for each group.
const CONVOLUTIONS: &[&str] = &[
    "x: LEFT[2, 3, 19, 17]\nw = RIGHT[20, 3, 3, 3] 1 -2 3 4 -1\nt = f32[20] 0.5 0.25\nb = f32[20] 1 2\nf = DequantizeLinear(x, s, _)\ng = DequantizeLinear<axis=0>(w, t, _)\na = Conv<pads=[1, 1, 1, 1], strides=[2, 2]>(f, g, b)\ny = Relu(a)\n-> y",
    "x: LEFT[2, 16, 9, 10]\nw = RIGHT[72, 16, 3, 2] 1 -2 3 4 -1\nr: f32[2, 72, 9, 7]\nf = DequantizeLinear(x, s, _)\ng = DequantizeLinear(w, s, _)\na = Conv<dilations=[1, 3], pads=[2, 0, 0, 0]>(f, g)\ny = Add(a, r)\n-> y",
    "x: LEFT[2, 32, 9, 9]\nw = RIGHT[36, 16, 3, 3] 1 -2 3 4 -1\nb = f32[36] 1 2 3\nf = DequantizeLinear(x, s, _)\ng = DequantizeLinear(w, s, _)\ny = Conv<group=2, strides=[2, 1]>(f, g, b)\n-> y",
    "x: LEFT[2, 16, 40]\nw = RIGHT[17, 16, 3] 1 -2 3 4 -1\nf = DequantizeLinear(x, s, _)\ng = DequantizeLinear(w, s, _)\ny = Conv<auto_pad=SAME_UPPER, strides=[2]>(f, g)\n-> y",
    "x: LEFT[1, 16, 5, 6, 7]\nw: RIGHT[18, 16, 2, 3, 2]\nf = DequantizeLinear(x, s, _)\ng = DequantizeLinear(w, s, _)\ny = Conv<pads=[1, 0, 0, 0, 1, 0]>(f, g)\n-> y",
    "x: LEFT[3, 16, 6, 6]\nw = RIGHT[16, 16, 1, 1] 1 -2 3 4\nf = DequantizeLinear(x, s, _)\ng = DequantizeLinear(w, s, _)\ny = Conv(f, g)\n-> y",
    "x: LEFT[2, 128, 13, 11]\nw = RIGHT[72, 128, 3, 2] 1 -2 3 4 -1\nb = f32[72] 1 2\nf = DequantizeLinear(x, s, _)\ng = DequantizeLinear(w, s, _)\na = Conv<dilations=[1, 3], pads=[2, 1, 0, 2], strides=[2, 1]>(f, g, b)\ny = Relu(a)\n-> y",
    "x: LEFT[3, 256, 6, 7]\nw = RIGHT[140, 128, 2, 2] 1 -2 3 4 -1\nf = DequantizeLinear(x, s, _)\ng = DequantizeLinear(w, s, _)\ny = Conv<group=2, auto_pad=SAME_LOWER>(f, g)\n-> y",
    "x: LEFT[2, 96, 190]\nw = RIGHT[66, 96, 3] 1 -2 3 4 -1\nr: f32[2, 66, 95]\nf = DequantizeLinear(x, s, _)\ng = DequantizeLinear(w, s, _)\na = Conv<auto_pad=SAME_UPPER, strides=[2]>(f, g)\ny = Add(a, r)\n-> y",
    "x: LEFT[4, 256, 12, 12]\nw = RIGHT[100, 128, 2, 2] 1 -2 3 4 -1\nf = DequantizeLinear(x, s, _)\ng = DequantizeLinear(w, s, _)\ny = Conv<group=2>(f, g)\n-> y",
    "x: LEFT[2, 4, 9, 9]\nw = RIGHT[4, 1, 3, 3] 1 -2 3 4 -1\nf = DequantizeLinear(x, s, _)\ng = DequantizeLinear(w, s, _)\ny = Conv<group=4>(f, g)\n-> y",
    "x: LEFT[2, 6, 9, 9]\nw: RIGHT[20, 6, 3, 3]\nf = DequantizeLinear(x, s, _)\ng = DequantizeLinear(w, s, _)\ny = Conv(f, g)\n-> y",
];

/// Numbers of any size, and sums that are large beside what is added to them: near, as tensor cores cut off what lies far beneath the largest product.
const NEAR: &[&str] = &[
    "x: f32[70, 96]\nw: f32[96, 72]\np = QuantizeLinear<output_dtype=LEFT_CODE>(x, u, _)\nq = QuantizeLinear<output_dtype=RIGHT_CODE>(w, u, _)\nf = DequantizeLinear(p, u, _)\ng = DequantizeLinear(q, u, _)\ny = MatMul(f, g)\n-> y",
    "x: f32[66, 6000]\nw = RIGHT[6000, 66] 1\na = Abs(x)\np = QuantizeLinear<output_dtype=LEFT_CODE>(a, u, _)\nf = DequantizeLinear(p, u, _)\ng = DequantizeLinear(w, s, _)\ny = MatMul(f, g)\n-> y",
    "x: f32[9, 6000]\nw = RIGHT[6000, 33] 1\na = Abs(x)\np = QuantizeLinear<output_dtype=LEFT_CODE>(a, u, _)\nf = DequantizeLinear(p, u, _)\ng = DequantizeLinear(w, s, _)\ny = MatMul(f, g)\n-> y",
    "x: f32[1, 384, 9, 9]\nw = RIGHT[66, 384, 4, 4] 1\na = Abs(x)\np = QuantizeLinear<output_dtype=LEFT_CODE>(a, u, _)\nf = DequantizeLinear(p, u, _)\ng = DequantizeLinear(w, s, _)\ny = Conv(f, g)\n-> y",
];
const NEAR_TOLERANCE: f64 = 1e-3;

/// So many tiles that they are large, or of many rows and few columns.
const LARGE: &[&str] = &[
    "x: LEFT[12200, 32]\nw = RIGHT[32, 40] 1 -2 3 4 -1\nf = DequantizeLinear(x, s, _)\ng = DequantizeLinear(w, s, _)\ny = MatMul(f, g)\n-> y",
    "x: LEFT[1281, 16]\nw = RIGHT[16, 1025] 1 -2 3 4 -1\nf = DequantizeLinear(x, s, _)\ng = DequantizeLinear(w, s, _)\na = MatMul(f, g)\nb = i64[1] 1\ny = ReduceMax(a, b)\n-> y",
    "x: LEFT[1, 16, 65, 65]\nw = RIGHT[272, 16, 2, 2] 1 -2 3 4 -1\nf = DequantizeLinear(x, s, _)\ng = DequantizeLinear(w, s, _)\na = Conv(f, g)\ny = GlobalMaxPool(a)\n-> y",
];

/// A kind of float: its name, ONNX's number for it, and the code of a number.
type Kind = (&'static str, &'static str, fn(f32) -> u8);
const KINDS: [Kind; 2] = [
    ("f8e4m3", "17", |v| F8E4M3::from_f32(v).to_bits()),
    ("f8e5m2", "19", |v| F8E5M2::from_f32(v).to_bits()),
];

/// The text with these kinds on its sides. Inputs of them are made of others, as whole numbers from -4 to 4; of constants the codes are written down.
fn of_kinds(text: &str, left: &Kind, right: &Kind) -> String {
    let mut made = "s = f32[] 0.5\nu = f32[] 0.01\nfour = f32[] 4\n".to_owned();
    for line in text.lines() {
        let of = [("LEFT[", left), ("RIGHT[", right)].into_iter().find(|(side, _)| line.contains(side));
        let Some((side, (dtype, number, code))) = of else {
            made.push_str(&line.replace("LEFT_CODE", left.1).replace("RIGHT_CODE", right.1));
            made.push('\n');
            continue;
        };
        let (name, shape) = line.split_once(side).unwrap();
        let name = name.trim_end_matches([':', '=', ' ']);
        let (shape, numbers) = shape.split_once(']').unwrap();
        made.push_str(&match line.contains(" = ") {
            true => {
                let codes = numbers.split_whitespace().map(|n| code(n.parse().unwrap()).to_string());
                format!("{name} = {dtype}[{shape}] {}\n", codes.collect::<Vec<_>>().join(" "))
            }
            false => format!(
                "{name}_own: f32[{shape}]\n{name}_wide = Mul({name}_own, four)\n{name}_whole = Round({name}_wide)\n{name} = Cast<to={number}>({name}_whole)\n"
            ),
        });
    }
    made
}

/// Runs the cases on devices of every sort: on a real one of both kinds on both sides, on the emulated ones of one pair of kinds after the other, but where
/// some cases alone are asked for.
fn run_all(
    test: &str,
    devices: &[(&str, usize)],
    cases: &[&str],
    precisions: &[Precision],
    tolerance: Option<f64>,
) {
    let body = || {
        let only = std::env::var(ONLY).unwrap_or_default();
        let mut wrong = Vec::new();
        for (number, text) in cases.iter().enumerate().filter(|(_, text)| text.contains(&only)) {
            let pairs = KINDS.iter().flat_map(|left| KINDS.iter().map(move |right| (left, right)));
            for (pair, (left, right)) in pairs.enumerate() {
                let text = of_kinds(text, left, right);
                for device in &gpus() {
                    let is_every = !device.emulated || !only.is_empty();
                    let is_its_turn = |at: usize| is_every || (number + at) % 4 == pair;
                    for (_, precision) in precisions.iter().enumerate().filter(|(at, _)| is_its_turn(*at)) {
                        let what = compare_within(device, &text, *precision, number as u64 + 1, tolerance);
                        wrong.extend(what.map(|what| format!("{device}: {precision:?}: {what}\n{text}")));
                    }
                }
            }
        }
        assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong.join("\n\n"));
    };
    let test = format!("gpu::suite::float8::{test}");
    everywhere(&test, &[], body);
    if !is_inside() {
        for (capability, schedules) in devices {
            in_schedules(&test, &SCHEDULES[..*schedules], &[("CUDA_EMULATOR_CAPABILITY", *capability)]);
        }
    }
}

#[test]
fn products_are_what_they_are_elsewhere() {
    let precisions = [Precision::F32, Precision::Bf16];
    run_all("products_are_what_they_are_elsewhere", &DEVICES, PRODUCTS, &precisions, None);
}

#[test]
fn convolutions_are_what_they_are_elsewhere() {
    let precisions = [Precision::F32, Precision::F16];
    run_all("convolutions_are_what_they_are_elsewhere", &DEVICES, CONVOLUTIONS, &precisions, None);
}

#[test]
fn large_sums_lose_nothing_of_what_is_small() {
    let (test, precisions) = ("large_sums_lose_nothing_of_what_is_small", [Precision::F32]);
    run_all(test, &DEVICES, NEAR, &precisions, Some(NEAR_TOLERANCE));
}

#[test]
fn large_tiles_are_what_they_are_elsewhere() {
    let (test, precisions) = ("large_tiles_are_what_they_are_elsewhere", [Precision::F32]);
    run_all(test, &[("89", 1), ("90", 1)], LARGE, &precisions, None);
}

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
