//! What the engine does not take, run by a host: by whole parts, only where one is given, and named in the placement.

use std::sync::Arc;

use triscore::graph::{Attributes, Graph, Op, Shape, encode};
use triscore::model::ReadLimits;
use triscore::quantize::{Calibration, Scheme, quantize};
use triscore::scoring::Site;
use triscore::{Backend, BackendKind, Call, CompileOptions, DType, Model};

use super::{CpuBackend, FpgaBackend, devices, heldout, models};

/// The residual CNN with an LRN and a Mish after its first Relu, and an ArgMax at its end.
fn changed() -> Model {
    let mut graph = Graph::of(&Model::open(models("digits_res")).unwrap()).unwrap();
    let relu = graph.nodes().iter().position(|n| n.is("Relu")).unwrap();
    let before = graph.node(relu).unwrap().output(0).unwrap();
    let (dtype, shape) = (graph.value(before).dtype, graph.value(before).shape.clone());
    let normed = graph.add_value("normed", dtype, shape.clone());
    let after = graph.add_value("after", dtype, shape);
    graph.replace_reads(before, after);
    let size = Attributes::new().with_int("size", 3);
    graph.push_node(Op::onnx("LRN", size), &[before], normed, &[]);
    graph.push_node(Op::onnx("Mish", Attributes::new()), &[normed], after, &[]);
    graph.tidy().unwrap();
    let scores = graph.outputs()[0];
    let best = graph.add_value("best", Some(DType::I64), Shape::UNKNOWN);
    graph.push_node(Op::onnx("ArgMax", Attributes::new()), &[scores], best, &[]);
    let nodes = graph.nodes().iter().collect::<Vec<_>>();
    let proto = graph.part_to_model(&nodes, graph.inputs(), &[scores, best]);
    Model::from_bytes(encode(&proto.unwrap()).unwrap(), &ReadLimits::default()).unwrap()
}

fn quantized(float: &Model) -> Model {
    let x = heldout("digits_res");
    let samples = (0..32).map(|i| vec![x.rows(0, i..i + 1).unwrap()]).collect::<Vec<_>>();
    let cpu = CpuBackend::new();
    let done = quantize(float, &samples, &Scheme::default(), Calibration::MinMax, &cpu, &|_, _, _| {});
    Model::from_bytes(encode(&done.unwrap().model).unwrap(), &ReadLimits::default()).unwrap()
}

#[test]
fn what_the_engine_does_not_take_runs_on_the_host_and_is_named() {
    let (model, x) = (quantized(&changed()), heldout("digits_res"));
    let cpu: Arc<dyn Backend> = Arc::new(CpuBackend::new());
    let right = cpu.compile(&model, &cpu.probe().unwrap(), &CompileOptions::default()).unwrap();
    for device in devices() {
        let (fpga, one) = (FpgaBackend::new(), std::slice::from_ref(&device));
        let options = CompileOptions { host: Some(cpu.clone()), ..CompileOptions::default() };
        let scorer = fpga.compile(&model, one, &options).unwrap();
        let placement = scorer.placement();
        println!("{device}: {}", placement.summary());
        let host = placement.on_host().map(|n| (n.operator.as_str(), &n.site)).collect::<Vec<_>>();
        let operators = host.iter().map(|(operator, _)| *operator).collect::<Vec<_>>();
        assert_eq!(operators, ["LRN", "ArgMax"], "and the Mish is a table");
        for (operator, site) in host {
            assert!(matches!(site, Site::Host { reason } if !reason.is_empty()), "{operator}: {site:?}");
        }
        assert_eq!(fpga.place(&model, &device).unwrap(), *placement);
        for rows in [1, 2, 7] {
            let inputs = [x.rows(0, 0..rows).unwrap()];
            let (got, right) =
                (scorer.score(&inputs, &Call::new()).unwrap(), right.score(&inputs, &Call::new()).unwrap());
            for output in 0..2 {
                let (got, right) = (got.tensor(output).unwrap(), right.tensor(output).unwrap());
                assert_eq!((got.dtype(), got.shape()), (right.dtype(), right.shape()), "{rows} rows");
                assert_eq!(got.as_bytes(), right.as_bytes(), "{device}: output {output} of {rows} rows");
            }
        }
        // Eight callers at once: the host's parts are shared by the lanes.
        let inputs = [x.rows(0, 0..3).unwrap()];
        let alone = scorer.score(&inputs, &Call::new()).unwrap().tensor(0).unwrap().as_bytes().to_vec();
        std::thread::scope(|s| {
            for _ in 0..8 {
                s.spawn(|| {
                    for _ in 0..25 {
                        let scored = scorer.score(&inputs, &Call::new()).unwrap();
                        assert_eq!(scored.tensor(0).unwrap().as_bytes(), alone);
                    }
                });
            }
        });
    }
}

#[test]
fn without_a_host_a_model_runs_whole_or_not_at_all() {
    let (mixed, float) = (quantized(&changed()), Model::open(models("digits_res")).unwrap());
    let Some(device) = devices().into_iter().next() else { return };
    let (fpga, one) = (FpgaBackend::new(), std::slice::from_ref(&device));
    let host: Arc<dyn Backend> = Arc::new(CpuBackend::new());
    let with_host = CompileOptions { host: Some(host), ..CompileOptions::default() };
    let rows = [
        (&mixed, CompileOptions::default(), "LRN", "\"policy\": \"prefer\""),
        (&float, CompileOptions::default(), "none of its", "triscore quantize"),
        // A host is for the rest: with nothing on the device, it would be another device than was asked for.
        (&float, with_host, "none of its", "triscore quantize"),
    ];
    for (model, options, what, to_do) in rows {
        let e = fpga.compile(model, one, &options).unwrap_err();
        assert_eq!(e.kind(), triscore::ErrorKind::Unsupported);
        assert!(e.to_string().contains(what) && e.to_string().contains(to_do), "{e}");
    }
    let placement = fpga.place(&float, &device).unwrap();
    assert_eq!((placement.backend(), placement.on_device()), (BackendKind::Fpga, 0));
}
