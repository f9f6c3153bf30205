//! From a float model to a quantised one, and what a quantised one computes.
//!
//! Post-training static quantisation: the float model is [simplified](crate::graph::rewrite::simplify), run on samples to see which values its
//! tensors take, and written with Q/DQ pairs in place ([`insert`]), which every runtime of ONNX runs. Devices compute on the integers behind
//! the pairs ([`to_integers`](crate::graph::rewrite::to_integers)); [`mod@reference`] says, to the bit, what they must get.
//!
//! Where no range that was seen before suits, [`quantize_dynamic`] finds one for every call; [`quantize_float8`] makes 8-bit floats of products alone, for
//! GPUs that multiply those.
//!
//! What it cost is measured, not assumed: [`quantize`] runs both models on samples and [reports](Report) every layer's signal-to-noise
//! ratio, the worst first.

mod calibrate;
mod dynamic;
mod float8;
pub mod insert;
pub mod plot;
pub mod range;
pub mod reference;
mod report;
pub mod weights;

use std::collections::HashMap;

use crate::error::{Result, ScoreError};
use crate::graph::{Graph, ValueId, fold, rewrite};
use crate::int8::{QParams, QType};
use crate::model::Model;
use crate::model::onnx::ModelProto;
use crate::scoring::Backend;
use crate::tensor::Tensor;

pub use calibrate::observe;
pub use dynamic::quantize_dynamic;
pub use float8::quantize_float8;
pub use insert::Scheme;
pub use range::Calibration;
pub use report::{Layer, Report};

pub use crate::tensor::Difference;

/// What is being done, how much of it is done, and how much there is.
pub type Progress<'a> = &'a (dyn Fn(&str, usize, usize) + Sync);

/// A quantised model and what quantising cost.
#[derive(Debug)]
pub struct Quantized {
    /// The model with Q/DQ pairs.
    pub model: ModelProto,
    /// What it cost.
    pub report: Report,
}

/// Quantises a model.
///
/// `samples` are sets of inputs, each as for one score; `runtime` runs the float model on them, and both for the report.
///
/// # Errors
/// `BadInput` without samples, or where they do not fit the model; `Unsupported` where nothing of the model can be quantised, or it
/// cannot be brought into the form of today's operator set; what the runtime says.
pub fn quantize(
    model: &Model,
    samples: &[Vec<Tensor>],
    scheme: &Scheme,
    calibration: Calibration,
    runtime: &dyn Backend,
    progress: Progress<'_>,
) -> Result<Quantized> {
    require_samples(samples)?;
    let float = simplified(model, samples, runtime)?;
    let plan = insert::choose(&float, scheme);
    if plan.values.is_empty() {
        let what = "none of its operators on f32 has an integer form, or all are excluded";
        return Err(ScoreError::unsupported(what));
    }
    let seen = observe(&float, &plan.observed(), samples, runtime, progress)?;
    let mut params: HashMap<ValueId, QParams> = HashMap::new();
    for (id, seen) in &seen {
        let named = |e: ScoreError| e.with_at(format!("'{}'", float.value(*id).name));
        let own = match is_probability(&float, *id) {
            true => probability(scheme.activations)?,
            false => {
                let range = seen.range(calibration, scheme.activations).map_err(named)?;
                range::params_of(range, scheme.activations, scheme.symmetric).map_err(named)?
            }
        };
        params.insert(*id, own);
    }
    for value in &plan.values {
        if let Some(own) = params.get(&plan.owner(*value)).copied() {
            params.insert(*value, own);
        }
    }
    let mut quantised = float.clone();
    insert::insert(&mut quantised, &plan, &params, scheme)?;
    let report = report::compare(&float, &quantised, &plan, samples, runtime, progress)?;
    Ok(Quantized { model: quantised.to_model()?, report })
}

fn require_samples(samples: &[Vec<Tensor>]) -> Result<()> {
    match samples.is_empty() {
        true => Err(ScoreError::bad_input("no samples to calibrate with: give some that are typical")),
        false => Ok(()),
    }
}

/// The graph that is quantised, of a model that these samples fit.
fn simplified(model: &Model, samples: &[Vec<Tensor>], runtime: &dyn Backend) -> Result<Graph> {
    for sample in samples {
        model.signature().check(sample)?;
    }
    let mut float = Graph::of(model)?;
    fold::fold(&mut float, Some(runtime))?;
    rewrite::simplify(&mut float)?;
    Ok(float)
}

/// Whether a value is what a softmax makes: its range is known, and a step of 1/256 is exact where 1/255 is not.
fn is_probability(graph: &Graph, value: ValueId) -> bool {
    graph.nodes().iter().any(|n| n.is("Softmax") && n.output(0) == Some(value))
}

fn probability(qtype: QType) -> Result<QParams> {
    QParams::new(1.0 / qtype.count() as f32, qtype.min(), qtype)
}
