//! Quantised operators: the reference, and the engine on every OpenCL device.
//!
//! Scales and zero points are inputs in these models. A device takes them as constants, so for it they are bound first.

use triscore::fpga::FpgaBackend;
use triscore::graph::Graph;
use triscore::quantize::reference;
use triscore::{Backend, Call, CompileOptions, ErrorKind, Model, Tensor};

use super::Case;

fn cases() -> Vec<Case> {
    let folder = super::folder().join("int8");
    super::names("int8.txt").iter().map(|name| Case::read(name, &folder.join(name))).collect()
}

/// The model with every input but the first (or the weights, too) as a constant.
fn bound(case: &Case) -> Model {
    case.bound(|input| input > 0).0
}

#[test]
fn the_reference_conforms() {
    for case in cases().iter().filter(|c| !c.name.ends_with("_expanded")) {
        let shapes = case.inputs.iter().map(Tensor::shape).collect::<Vec<_>>();
        let graph = Graph::of(&case.model).unwrap().bind(&shapes).unwrap();
        let values = reference::run(&graph, &case.inputs).unwrap_or_else(|e| panic!("{}: {e}", case.name));
        for (id, expected) in graph.outputs().iter().zip(&case.outputs) {
            let got = values[id.index()].as_ref().unwrap();
            assert_eq!((got.dtype(), got.shape()), (expected.dtype(), expected.shape()), "{}", case.name);
            assert_eq!(got.as_bytes(), expected.as_bytes(), "{}", case.name);
        }
    }
}

#[test]
fn the_engine_conforms_on_every_device() {
    let fpga = FpgaBackend::new();
    let devices = match fpga.probe() {
        Ok(devices) => devices,
        Err(e) => return println!("skipped: {e}"),
    };
    for device in devices {
        let mut passed = 0;
        for case in cases() {
            let options = CompileOptions { lanes: Some(1), ..CompileOptions::default() };
            match fpga.compile(&bound(&case), std::slice::from_ref(&device), &options) {
                Ok(scorer) => {
                    let scored = scorer.score(&case.inputs[..1], &Call::new()).unwrap();
                    assert_equal(&case, &scored, &device);
                    passed += 1;
                }
                Err(e) => {
                    assert_eq!(e.kind(), ErrorKind::Unsupported, "{}: {e}", case.name);
                    println!("{device}: {}: not on the engine: {e}", case.name);
                }
            }
        }
        println!("{device}: {passed} cases conform");
        assert!(passed >= 6, "only {passed} cases run on the engine");
    }
}

/// To the bit.
fn assert_equal(case: &Case, scored: &triscore::Scored, device: &triscore::Device) {
    for (i, expected) in case.outputs.iter().enumerate() {
        let (got, name) = (scored.tensor(i).unwrap(), &case.name);
        assert_eq!((got.dtype(), got.shape()), (expected.dtype(), expected.shape()), "{device}: {name}");
        assert_eq!(got.as_bytes(), expected.as_bytes(), "{device}: {name}");
    }
}

/// With the parameters as constants, and as inputs that differ from call to call.
#[cfg(all(feature = "cpu", feature = "cuda"))]
#[test]
fn the_gpu_conforms() {
    use super::float::{inside, is_inside};

    if !is_inside() {
        inside("int8::the_gpu_conforms");
    }
    let gpu = triscore::gpu::GpuBackend::new();
    let devices = match gpu.probe() {
        Ok(devices) => devices,
        Err(e) => return println!("skipped: {e}"),
    };
    for device in devices.iter().filter(|device| device.emulated == is_inside()) {
        let mut passed = 0;
        for case in cases() {
            let constant = bound(&case);
            for (model, inputs) in [(&constant, &case.inputs[..1]), (&case.model, &case.inputs[..])] {
                let options = CompileOptions { lanes: Some(1), ..CompileOptions::default() };
                let scorer = match gpu.compile(model, std::slice::from_ref(device), &options) {
                    Ok(scorer) => scorer,
                    Err(e) => {
                        assert_eq!(e.kind(), ErrorKind::Unsupported, "{}: {e}", case.name);
                        println!("{device}: {}: not on the GPU: {e}", case.name);
                        continue;
                    }
                };
                let scored = scorer.score(inputs, &Call::new()).unwrap();
                assert_equal(&case, &scored, device);
                passed += 1;
            }
        }
        println!("{device}: {passed} cases conform");
        assert!(passed >= 28, "only {passed} cases run on the GPU");
    }
}
