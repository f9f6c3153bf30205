//! Right answers: against ONNX Runtime's Python package for every model, against labels for the digits.

use triscore::cpu::CpuBackend;
use triscore::{Backend, Call, CompileOptions};

use super::{compile, compile_any};
use crate::{Target, cases};

/// Every example of every model: all element types, text, sequences and maps among them.
pub(crate) fn examples(target: &Target) -> Vec<String> {
    let mut failures = Vec::new();
    for example in cases::examples() {
        if example.model.ends_with("slow.onnx") {
            continue; // Takes seconds by design; the suite of deadlines has it.
        }
        if let Err(e) = one(target, &example) {
            failures.push(format!("{}: {e}", example.model));
        }
    }
    failures
}

fn one(target: &Target, example: &cases::Example) -> Result<(), String> {
    let Some((model, scorer)) = compile(target, &example.model)? else { return Ok(()) };
    let inputs = cases::tensors(scorer.signature().inputs(), &example.inputs);
    let scored = scorer.score(&inputs, &Call::new()).map_err(|e| e.to_string())?;
    let ports = scorer.signature().outputs();
    if target.is_fpga() {
        // What was quantised answers otherwise; what it should answer, ONNX Runtime says.
        let cpu = CpuBackend::new();
        let devices = cpu.probe().map_err(|e| e.to_string())?;
        let cpu = cpu.compile(&model, &devices, &CompileOptions::default()).map_err(|e| e.to_string())?;
        let expected = cpu.score(&inputs, &Call::new()).map_err(|e| e.to_string())?;
        let equal = expected.outputs == scored.outputs;
        return if equal { Ok(()) } else { Err("differs from ONNX Runtime's answer".to_owned()) };
    }
    if scored.outputs.len() != ports.len() {
        return Err(format!("{} outputs, not {}", scored.outputs.len(), ports.len()));
    }
    for (port, got) in ports.iter().zip(&scored.outputs) {
        if let Some(what) = cases::difference(got, &example.outputs[&port.name]) {
            return Err(format!("output '{}': {what}", port.name));
        }
    }
    Ok(())
}

/// The digits models on held-out digits: at least 98 % right.
pub(crate) fn accuracy(target: &Target) -> Vec<String> {
    const LEAST: f64 = 0.98;
    let mut failures = Vec::new();
    for folder in ["digits_cnn", "digits_res", "digits_vit"] {
        match correct(target, folder) {
            Ok(rate) if rate >= LEAST => {}
            Ok(rate) => failures.push(format!("{folder}: {rate:.4} are right, at least {LEAST} must be")),
            Err(e) => failures.push(format!("{folder}: {e}")),
        }
    }
    failures
}

fn correct(target: &Target, folder: &str) -> Result<f64, String> {
    let scorer = compile_any(target, &format!("{folder}/model.onnx"))?;
    let (x, labels) = cases::heldout(folder);
    let scored = scorer.score(&[x], &Call::new()).map_err(|e| e.to_string())?;
    let logits = scored.tensor(0).and_then(|t| t.view::<f32>()).map_err(|e| e.to_string())?;
    let best = |row: ndarray::ArrayViewD<'_, f32>| {
        row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map_or(-1, |(i, _)| i as i64)
    };
    let right = logits.outer_iter().zip(&labels).filter(|(row, label)| best(row.clone()) == **label).count();
    Ok(right as f64 / labels.len() as f64)
}
