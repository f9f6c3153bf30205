//! An embedder's first program: read a model, make it ready on the CPU, score.
//!
//! `cargo run --example score`

use triscore::cpu::CpuBackend;
use triscore::{Backend, Call, CompileOptions, Model, Result, Tensor};

fn main() -> Result<()> {
    let model = Model::open("models/digits_cnn/model.onnx")?;
    let cpu = CpuBackend::new();
    let scorer = cpu.compile(&model, &cpu.probe()?, &CompileOptions::default())?;

    let images = Tensor::from_slice(&[2, 1, 8, 8], &[0.5f32; 128])?;
    let scored = scorer.score(&[images], &Call::new())?;
    println!("{}", scored.tensor(0)?.view::<f32>()?);
    println!("{} in {:?}", scorer.placement().summary(), scored.timing.compute);
    Ok(())
}
