//! Batches: rows that are independent, rows that are not, and more rows than fit a device at once.

use triscore::graph::{Attributes, Graph, Op, encode};
use triscore::model::ReadLimits;
use triscore::quantize::{Calibration, Scheme, quantize};
use triscore::{Backend, Call, CompileOptions, Model, Tensor};

use super::{CpuBackend, FpgaBackend, devices, heldout, models, quantized};

/// The digits MLP that adds to each row the row at the other end of the batch.
fn with_dependent_rows() -> Model {
    let mut graph = Graph::of(&Model::open(models("digits_mlp")).unwrap()).unwrap();
    let x = graph.inputs()[0];
    let (dtype, shape) = (graph.value(x).dtype, graph.value(x).shape.clone());
    let (turned, sum) =
        (graph.add_value("turned", dtype, shape.clone()), graph.add_value("sum", dtype, shape));
    graph.replace_reads(x, sum);
    let mut constant = |v: i64| graph.add_constant("k", Tensor::from_slice(&[1], &[v]).unwrap());
    let (begin, end, axis, step) = (constant(-1), constant(i64::MIN + 1), constant(0), constant(-1));
    let slice = Op::onnx("Slice", Attributes::new());
    graph.push_node(slice, &[x, begin, end, axis, step], turned, &[]);
    graph.push_node(Op::onnx("Add", Attributes::new()), &[x, turned], sum, &[]);
    graph.tidy().unwrap();
    let float = Model::from_bytes(encode(&graph.to_model().unwrap()).unwrap(), &ReadLimits::default());
    let x = heldout("digits_mlp");
    let samples = (0..8).map(|i| vec![x.rows(0, i..i + 4).unwrap()]).collect::<Vec<_>>();
    let cpu = CpuBackend::new();
    let (scheme, ranges) = (Scheme::default(), Calibration::MinMax);
    let done = quantize(&float.unwrap(), &samples, &scheme, ranges, &cpu, &|_, _, _| {}).unwrap();
    Model::from_bytes(encode(&done.model).unwrap(), &ReadLimits::default()).unwrap()
}

#[test]
fn rows_that_depend_on_each_other_are_no_batch() {
    let model = with_dependent_rows();
    assert_eq!(model.signature().batch_axis(), Some(0), "by its shapes it might have one");
    for device in devices() {
        let options = CompileOptions::default();
        let one = std::slice::from_ref(&device);
        let scorer = FpgaBackend::new().compile(&model, one, &options).unwrap();
        assert!(scorer.placement().is_all_on_device());
        assert_eq!(scorer.signature().batch_axis(), None, "{device}");
        let independent = FpgaBackend::new().compile(&quantized("digits_mlp"), one, &options).unwrap();
        assert_eq!(independent.signature().batch_axis(), Some(0), "{device}");
    }
}

#[test]
fn more_rows_than_fit_are_scored_in_pieces() {
    const TIMES: usize = 30;
    let (model, x) = (quantized("digits_res"), heldout("digits_res"));
    let x = x.rows(0, 0..100).unwrap();
    for device in devices().into_iter().take(1) {
        // An emulated device has the host's memory, of which this is a little: some hundred rows fit.
        let memory_bytes = Some(4 << 20);
        let options = CompileOptions { lanes: Some(1), memory_bytes, ..CompileOptions::default() };
        let scorer = FpgaBackend::new().compile(&model, std::slice::from_ref(&device), &options).unwrap();
        let most = scorer.limits().rows_at_once.unwrap();
        assert!((10..1000).contains(&most), "{most} rows at once");
        let once = scorer.score(std::slice::from_ref(&x), &Call::new()).unwrap();
        let many = Tensor::concat(0, &vec![&x; TIMES]).unwrap();
        let scored = scorer.score(&[many], &Call::new()).unwrap();
        println!("{device}: {:?}", scored.timing);
        let (once, scored) = (once.tensor(0).unwrap(), scored.tensor(0).unwrap());
        assert_eq!(scored.shape()[0], 100 * TIMES);
        for piece in scored.as_bytes().chunks(once.size_bytes()) {
            assert_eq!(piece, once.as_bytes());
        }
    }
}
