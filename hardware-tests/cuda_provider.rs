//! ONNX Runtime's CUDA provider as an oracle: what it computes on a GPU, the GPU backend must compute as well.
//!
//! It is for tests alone: no backend of triscore is made of it. Where it cannot do all of a model on the GPU, that is an error with ONNX Runtime's reason and never
//! an answer from the processor. `TRISCORE_ONNXRUNTIME` names a library that has the provider (Python's onnxruntime-gpu), `LD_LIBRARY_PATH` the folders
//! of NVIDIA's, and `TRISCORE_CUDA_PROVIDER=required` makes its absence a failure. As a contestant it is measured by `scripts/gpu/peers.py`.

use ort::ep::CUDA;
use ort::session::{Session, SessionInputValue};
use ort::value::Tensor as OrtTensor;
use triscore::cpu::CpuBackend;
use triscore::gpu::GpuBackend;
use triscore::model::ReadLimits;
use triscore::tensor::Difference;
use triscore::{Backend, Call, CompileOptions, DType, Device, Model, Tensor};

use crate::{cases, inputs, networks};

/// Two orders of summing floats of 32 bits, over networks of some ten layers, are further apart than this from 16 bits and TF32, which have 50 at best.
const LEAST_DB: f64 = 80.0;

/// A model in a session of the provider.
struct CudaProvider(Session);

impl CudaProvider {
    /// # Errors
    /// ONNX Runtime's reason: there is no such provider, no GPU, or an operator that it has no CUDA kernel for.
    fn open(model: &[u8]) -> Result<Self, String> {
        let environment = CpuBackend::new().environment().map_err(|e| e.to_string())?;
        let provider = CUDA::default().with_tf32(false).build().error_on_failure();
        let session = || -> ort::Result<Session> {
            Session::builder(&environment)?
                .with_execution_providers([provider])?
                .with_config_entry("session.disable_cpu_ep_fallback", "1")?
                .commit_from_memory(model)
        };
        session().map(Self).map_err(|e| e.to_string())
    }

    fn score(&mut self, inputs: &[Tensor]) -> Result<Vec<f32>, String> {
        let value = |tensor: &Tensor| -> ort::Result<SessionInputValue<'static>> {
            let shape = tensor.shape().to_vec();
            Ok(match tensor.dtype() {
                DType::I64 => {
                    OrtTensor::from_array((shape, tensor.as_slice::<i64>().unwrap().to_vec()))?.into()
                }
                _ => OrtTensor::from_array((shape, tensor.as_slice::<f32>().unwrap().to_vec()))?.into(),
            })
        };
        let mut score = || -> ort::Result<Vec<f32>> {
            let values = inputs.iter().map(value).collect::<ort::Result<Vec<_>>>()?;
            let outputs = self.0.run(values.as_slice())?;
            Ok(outputs[0].try_extract_tensor::<f32>()?.1.to_vec())
        };
        score().map_err(|e| e.to_string())
    }
}

/// The first real GPU.
fn device() -> Result<Device, String> {
    let devices = GpuBackend::new().probe().map_err(|e| e.to_string())?;
    devices.into_iter().find(|d| !d.emulated).ok_or_else(|| "the GPU is emulated".to_owned())
}

#[test]
fn the_gpu_backend_computes_what_the_cuda_provider_does() {
    let is_required = std::env::var("TRISCORE_CUDA_PROVIDER").is_ok_and(|v| v == "required");
    let first = networks::resnet(&[1, 1], 16, 64, 100);
    if let Err(why) = CudaProvider::open(&first) {
        assert!(!is_required, "required and not there: {why}");
        println!("skipped: ONNX Runtime's CUDA provider: {why}");
        // It says what is missing, and did not take the processor instead.
        assert!(why.contains("CUDA") || why.contains("cuda"), "{why}");
        return;
    }
    let device = device().expect("a provider that takes a model has a GPU");
    let file = |name| std::fs::read(cases::path(name)).unwrap();
    for (name, bytes) in [
        ("a small ResNet", first),
        ("ResNet-50", networks::resnet(&[3, 4, 6, 3], 64, 224, 1000)),
        ("BERT of two layers", networks::bert(2, 256, 4, 128, 1000)),
        ("digits_cnn", file("digits_cnn/model.onnx")),
        ("digits_vit", file("digits_vit/model.onnx")),
    ] {
        let model = Model::from_bytes(bytes.clone(), &ReadLimits::default()).unwrap();
        let given = inputs::rows(model.signature().inputs(), 8, 1);
        let expected = CudaProvider::open(&bytes).and_then(|mut p| p.score(&given)).unwrap();
        let gpu = GpuBackend::new();
        let scorer = gpu.compile(&model, std::slice::from_ref(&device), &CompileOptions::default()).unwrap();
        let scored = scorer.score(&given, &Call::new()).unwrap();
        let got = scored.tensor(0).unwrap().as_slice::<f32>().unwrap();
        assert_eq!(expected.len(), got.len(), "{name}");
        let mut difference = Difference::default();
        difference.add(&expected, got);
        println!("{device}: {name}: {:.0} dB from ONNX Runtime's CUDA provider", difference.sqnr_db());
        // Not the other way round, which a NaN would pass.
        assert!(difference.sqnr_db() >= LEAST_DB, "{name}: {:.1} dB", difference.sqnr_db());
    }
}
