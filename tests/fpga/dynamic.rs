//! Dynamically quantised models: the products on the device, what is between them on the host, together what ONNX Runtime computes.

use std::sync::Arc;

use triscore::graph::encode;
use triscore::model::ReadLimits;
use triscore::quantize::{Scheme, quantize_dynamic};
use triscore::{Backend, Call, CompileOptions, Model};

use super::{CpuBackend, FpgaBackend, devices, heldout, models};

fn dynamic(folder: &str) -> Model {
    let (float, x) = (Model::open(models(folder)).unwrap(), heldout(folder));
    let samples = (0..16).map(|i| vec![x.rows(0, i..i + 1).unwrap()]).collect::<Vec<_>>();
    let done = quantize_dynamic(&float, &samples, &Scheme::default(), &CpuBackend::new(), &|_, _, _| {});
    let done = done.unwrap();
    // A range of its own for every call loses less than one for all of them.
    for (name, difference) in &done.report.outputs {
        assert!(difference.sqnr_db() > 35.0, "{folder}: {name}: {} dB", difference.sqnr_db());
    }
    Model::from_bytes(encode(&done.model).unwrap(), &ReadLimits::default()).unwrap()
}

#[test]
fn products_run_on_the_device_and_the_rest_on_the_host() {
    let cpu: Arc<dyn Backend> = Arc::new(CpuBackend::new());
    for folder in ["digits_mlp", "digits_vit"] {
        let (model, x) = (dynamic(folder), heldout(folder));
        let right = cpu.compile(&model, &cpu.probe().unwrap(), &CompileOptions::default()).unwrap();
        for device in devices() {
            let options = CompileOptions { host: Some(cpu.clone()), ..CompileOptions::default() };
            let one = std::slice::from_ref(&device);
            let scorer = FpgaBackend::new().compile(&model, one, &options).unwrap();
            let placement = scorer.placement();
            println!("{device}: {folder}: {}", placement.summary());
            let is_product = |operator: &str| operator == "MatMulInteger";
            let on_host = placement.on_host().filter(|n| is_product(&n.operator)).count();
            let all = placement.nodes().iter().filter(|n| is_product(&n.operator)).count();
            assert!(on_host == 0 && all >= 3, "{on_host} of {all} products on the host");
            assert_eq!(scorer.signature().batch_axis(), None, "the range is that of the whole batch");
            let inputs = [x.rows(0, 0..5).unwrap()];
            let got = scorer.score(&inputs, &Call::new().with_profile()).unwrap();
            let right = right.score(&inputs, &Call::new()).unwrap();
            assert_eq!(got.launches.iter().filter(|l| l.kernel == "matrix").count(), all);
            let (got, right) = (got.tensor(0).unwrap(), right.tensor(0).unwrap());
            // The sums are equal; floats between them are added in another order at times.
            let near = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-4 * (1.0 + b.abs());
            let (got, right) = (got.as_slice::<f32>().unwrap(), right.as_slice::<f32>().unwrap());
            assert!(got.iter().zip(right).all(near), "{device}: {folder}\n{got:?}\n{right:?}");
        }
    }
}
