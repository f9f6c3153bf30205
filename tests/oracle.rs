//! The int8 arithmetic held to ONNX Runtime, to the bit: seeded models of one operator between Q/DQ pairs, through the graph,
//! the rewrite to integers and the reference on one side, through ONNX Runtime on the other.
//!
//! ONNX Runtime fuses multiplications and additions on processors with FMA. Without it it gives other integers, so on such a machine this is
//! skipped, by name. (Without VNNI its sums of 8-bit products would saturate; the CPU backend tells it to use kernels that do not.)

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "tests")]
#![cfg(all(feature = "cpu", feature = "opencl"))]

#[path = "oracle/cases.rs"]
mod cases;
#[path = "oracle/model.rs"]
mod model;
#[path = "oracle/processor.rs"]
mod processor;

use triscore::cpu::CpuBackend;
use triscore::graph::{Graph, rewrite};
use triscore::int8::QType;
use triscore::quantize::reference;
use triscore::{Backend, Call, CompileOptions, DType, Model, Tensor};

fn onnx_runtime(model: &Model, inputs: &[Tensor]) -> triscore::Result<Tensor> {
    let cpu = CpuBackend::new();
    let options = CompileOptions { lanes: Some(1), skip_tuning: true, ..CompileOptions::default() };
    cpu.compile(model, &cpu.probe()?, &options)?.score(inputs, &Call::new())?.tensor(0).cloned()
}

/// What the reference makes of the model once it is operators on integers; and whether nothing of it is floats any more.
fn oracle(model: &Model, inputs: &[Tensor]) -> triscore::Result<(Tensor, bool)> {
    let shapes = inputs.iter().map(Tensor::shape).collect::<Vec<_>>();
    let mut graph = Graph::of(model)?.bind(&shapes)?;
    rewrite::to_integers(&mut graph)?;
    graph.tidy()?;
    rewrite::remove_identities(&mut graph)?;
    graph.tidy()?;
    let is_integer = !graph.nodes().iter().any(|n| n.is("DequantizeLinear") || n.is("QuantizeLinear"));
    let values = reference::run(&graph, inputs)?;
    let output = graph.outputs()[0].index();
    Ok((values[output].clone().unwrap(), is_integer))
}

fn compare(operator: &str, activation: QType, seeds: std::ops::Range<u64>) -> (usize, Vec<String>) {
    let (mut elements, mut failures) = (0, Vec::new());
    for seed in seeds {
        let case = cases::case(operator, activation, seed);
        let (got, is_integer) =
            oracle(&case.model, &case.inputs).unwrap_or_else(|e| panic!("{}: {e}", case.what));
        let expected = match onnx_runtime(&case.model, &case.inputs) {
            Ok(expected) => expected,
            // Its global pool refuses factors beyond 2³¹ or so; ours has an answer.
            Err(e) if e.to_string().contains("out of computation range") => continue,
            Err(e) => panic!("{}: {e}", case.what),
        };
        elements += expected.len();
        if !is_integer {
            failures.push(format!("{}: not all of it became integer operators", case.what));
        }
        if got.shape() != expected.shape() || got.as_bytes() != expected.as_bytes() {
            let wrong =
                got.as_bytes().iter().zip(expected.as_bytes()).enumerate().filter(|(_, (g, e))| g != e);
            let (count, first) =
                (wrong.clone().count(), wrong.map(|(i, (g, e))| format!("[{i}] is {g}, not {e}")).next());
            let (shape, wanted) = (got.shape(), expected.shape());
            failures.push(format!("{}: {shape:?} for {wanted:?}, {count} differ, {first:?}", case.what));
        }
    }
    (elements, failures)
}

#[test]
fn every_operator_equals_onnx_runtime_to_the_bit() {
    if let Some(reason) = processor::no_oracle() {
        return println!("skipped: {reason}");
    }
    let (mut total, mut failures) = (0, Vec::new());
    for operator in cases::OPERATORS {
        let (elements, failed) = compare(operator, QType::U8, 0..300);
        println!("{operator}: 300 cases, {elements} elements, {} differ", failed.len());
        total += elements;
        failures.extend(failed);
    }
    assert!(
        failures.is_empty(),
        "{} of the cases differ:\n{}",
        failures.len(),
        failures[..failures.len().min(12)].join("\n")
    );
    assert!(total > 1_000_000, "only {total} elements compared");
}

/// ONNX Runtime has no operators on integers of 16 bits: it computes floats between the pairs, which are exact to a step or, where they are
/// sums with a bias that was rounded, to three; further where large terms cancel, as sums of floats are. (As it is by default, it multiplies with activations rounded to 8 bits instead: the
/// CPU backend tells it not to, and hundreds of steps would be missed here if it did not.)
#[test]
fn sixteen_bits_are_within_a_few_steps_of_floats() {
    const STEPS: u16 = 3;
    // So few of an operator's cases may be further apart, within the error of their sums.
    const FURTHER: usize = 2;
    let mut failures = Vec::new();
    for operator in cases::OPERATORS {
        let (mut elements, mut farthest, mut further) = (0, 0, 0);
        for seed in 0..100 {
            let case = cases::case(operator, QType::U16, seed);
            let (got, is_integer) =
                oracle(&case.model, &case.inputs).unwrap_or_else(|e| panic!("{}: {e}", case.what));
            let expected =
                onnx_runtime(&case.model, &case.inputs).unwrap_or_else(|e| panic!("{}: {e}", case.what));
            let (got, expected) = (got.as_slice::<u16>().unwrap(), expected.as_slice::<u16>().unwrap());
            let apart = got.iter().zip(expected).map(|(g, e)| g.abs_diff(*e)).max().unwrap_or(0);
            elements += got.len();
            farthest = farthest.max(apart);
            let allowed = f32::from(STEPS) + case.float_error_steps;
            further += usize::from(apart > STEPS);
            if f32::from(apart) > allowed || !is_integer {
                let what = format!("{apart} steps apart of {allowed}, on integers: {is_integer}");
                failures.push(format!("{}: {what}", case.what));
            }
        }
        println!(
            "{operator}: 100 cases, {elements} elements, {farthest} steps apart at most, {further} more than {STEPS}"
        );
        if further > FURTHER {
            failures.push(format!("{operator}: {further} cases are more than {STEPS} steps apart"));
        }
    }
    assert!(failures.is_empty(), "{} of the cases:\n{}", failures.len(), failures.join("\n"));
}

/// What any processor must get right, whatever its instructions: kernels of processors without VNNI add pairs of products in 16 bits.
/// (With signed integers that are not constant they still do: ONNX Runtime has no way around that.)
#[test]
fn products_with_the_largest_weights_do_not_saturate() {
    const DEPTH: usize = 64;
    for weight in [127i8, -128] {
        let mut b = model::Builder::default();
        b.input("x", DType::U8, &[2, DEPTH]);
        b.constant("w", &Tensor::from_slice(&[DEPTH, 16], &[weight; DEPTH * 16]).unwrap());
        b.node("MatMulInteger", &["x", "w"], "y", vec![]);
        b.output("y", DType::I32);
        let x = Tensor::from_slice(&[2, DEPTH], &[255u8; 2 * DEPTH]).unwrap();
        let sums = onnx_runtime(&b.build(), &[x]).unwrap();
        assert_eq!(sums.as_slice::<i32>().unwrap(), [255 * i32::from(weight) * DEPTH as i32; 32], "{weight}");
    }
}

/// Operators on signed integers in their own form, not between Q/DQ pairs: ONNX Runtime turns none of them round.
#[test]
fn convolutions_of_signed_integers_load_and_are_exact() {
    let mut random = cases::Random::new(5);
    for extreme in [false, true] {
        let (x_shape, w_shape) = ([1, 32, 9, 9], [16, 32, 3, 3]);
        let (mut x, mut w) = (random.integers(QType::I8, &x_shape), random.integers(QType::I8, &w_shape));
        if extreme {
            let all =
                |shape: &[usize], v: i8| Tensor::from_slice(shape, &vec![v; shape.iter().product()]).unwrap();
            (x, w) = (all(&x_shape, -128), all(&w_shape, 127));
        }
        let mut b = model::Builder::default();
        b.input("x", DType::I8, &x_shape);
        b.constant("w", &w);
        for (name, scale) in [("xs", 0.02f32), ("ws", 0.01), ("ys", 0.9)] {
            b.constant(name, &Tensor::from_slice(&[], &[scale]).unwrap());
        }
        b.constant("z", &Tensor::from_slice(&[], &[0i8]).unwrap());
        let read = ["x", "xs", "z", "w", "ws", "z", "ys", "z"];
        b.node("QLinearConv", &read, "y", vec![model::ints("pads", &[1, 1, 1, 1])]);
        b.output("y", DType::I8);
        let (model, inputs) = (b.build(), [x]);
        let expected = oracle(&model, &inputs).unwrap().0;
        let got = onnx_runtime(&model, &inputs).unwrap();
        let wrong = got.as_bytes().iter().zip(expected.as_bytes()).filter(|(g, e)| g != e).count();
        assert_eq!(wrong, 0, "of {}, extreme: {extreme}", got.len());
    }
}
