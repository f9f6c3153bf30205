//! The engines that cuDNN proposes for a graph, in the order in which it thinks of them: those of its heuristics, then those that it falls back to.
//!
//! An engine says in *numerical notes* how its arithmetic differs from the plain one. Only tensor cores are taken of that, and of floats of 32 bits only
//! where TF32 was asked for: an engine that multiplies in fewer bits, by transforms (Winograd, FFT), adds parts in fewer bits, or gives something else
//! each time is passed over, and so is one with a note that is not known here.

use std::sync::Arc;

use cudarc::cudnn::sys::{
    cudnnBackendAttributeName_t as Name, cudnnBackendAttributeType_t as Type,
    cudnnBackendBehaviorNote_t as Behaviour, cudnnBackendDescriptorType_t as Kind,
    cudnnBackendHeurMode_t as Heuristics, cudnnBackendNumericalNote_t as Note,
};

use super::descriptor::{Descriptor, Functions};
use super::{MOST_COMPILED, MOST_PROPOSALS, Target, WORKSPACE_BYTES};
use crate::error::{Result, ScoreError};
use crate::gpu::plan::ConvShape;
use crate::tensor::DType;

/// So many are asked for: those that are not taken among them.
const MOST_ASKED: usize = 64;
/// An engine has so many notes and knobs at most.
const MOST_NOTES: usize = 32;
const MOST_KNOBS: usize = 64;

/// An engine with its knobs set.
pub(super) struct Proposal {
    /// What makes it the same one when it is proposed again: the engine's number, and each knob with its value.
    pub(super) code: String,
    config: Arc<Descriptor>,
    /// Whether it is compiled before it can run.
    is_compiled: bool,
}

/// Whether an engine's arithmetic is what was asked for.
fn is_taken(notes: &[u32], shape: &ConvShape) -> bool {
    let takes_tensor_cores = shape.images.dtype != DType::F32 || shape.is_tf32;
    notes.iter().all(|note| {
        (*note == Note::CUDNN_NUMERICAL_NOTE_TENSOR_CORE as u32 && takes_tensor_cores)
            || *note == Note::CUDNN_NUMERICAL_NOTE_STRICT_NAN_PROP as u32
    })
}

/// The proposals whose arithmetic is the one that was asked for, the best first; may be none.
pub(super) fn proposals(
    functions: &Arc<Functions>,
    graph: &Arc<Descriptor>,
    shape: &ConvShape,
    target: &Target,
) -> Result<Vec<Proposal>> {
    let mut all: Vec<Proposal> = Vec::new();
    let mut refused = None;
    for mode in [Heuristics::CUDNN_HEUR_MODE_A, Heuristics::CUDNN_HEUR_MODE_FALLBACK] {
        // Heuristics that know nothing of a graph may say so as an error.
        let configs = match configs(functions, graph, mode, target) {
            Ok(configs) => configs,
            Err(e) => {
                refused.get_or_insert(e);
                continue;
            }
        };
        for config in configs {
            let (proposal, notes) = described(config)?;
            let is_new = all.iter().all(|known| known.code != proposal.code);
            let compiled = all.iter().filter(|known| known.is_compiled).count();
            let is_cheap = !proposal.is_compiled || compiled < MOST_COMPILED;
            if is_taken(&notes, shape) && is_new && is_cheap && all.len() < MOST_PROPOSALS {
                all.push(proposal);
            }
        }
    }
    match (all.is_empty(), refused) {
        (true, Some(e)) => Err(e),
        _ => Ok(all),
    }
}

fn configs(
    functions: &Arc<Functions>,
    graph: &Arc<Descriptor>,
    mode: Heuristics,
    target: &Target,
) -> Result<Vec<Descriptor>> {
    let heuristics = Descriptor::new(functions, Kind::CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR)?
        .with_named(Name::CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, &[graph])?
        .with_choice(Name::CUDNN_ATTR_ENGINEHEUR_MODE, Type::CUDNN_TYPE_HEUR_MODE, mode as u32)?;
    let heuristics = match target {
        Target::Handle(_) => heuristics,
        Target::Described(device) => {
            heuristics.with_named(Name::CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, &[device])?
        }
    };
    let (heuristics, results) = (heuristics.finalised()?, Name::CUDNN_ATTR_ENGINEHEUR_RESULTS);
    let count = heuristics.count(results, Type::CUDNN_TYPE_BACKEND_DESCRIPTOR)?.min(MOST_ASKED);
    match count {
        0 => Ok(Vec::new()),
        _ => heuristics.others(results, Kind::CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, count),
    }
}

/// A proposal, and its engine's numerical notes.
fn described(config: Descriptor) -> Result<(Proposal, Vec<u32>)> {
    let engine =
        config.others(Name::CUDNN_ATTR_ENGINECFG_ENGINE, Kind::CUDNN_BACKEND_ENGINE_DESCRIPTOR, 1)?;
    let nothing = || ScoreError::unavailable("cuDNN proposes no engine");
    let engine = engine.first().ok_or_else(nothing)?;
    let notes = engine.read::<u32>(
        Name::CUDNN_ATTR_ENGINE_NUMERICAL_NOTE,
        Type::CUDNN_TYPE_NUMERICAL_NOTE,
        MOST_NOTES,
    )?;
    let behaviour = engine.read::<u32>(
        Name::CUDNN_ATTR_ENGINE_BEHAVIOR_NOTE,
        Type::CUDNN_TYPE_BEHAVIOR_NOTE,
        MOST_NOTES,
    )?;
    let is_compiled = behaviour.contains(&(Behaviour::CUDNN_BEHAVIOR_NOTE_RUNTIME_COMPILATION as u32));
    let mut code = engine.number(Name::CUDNN_ATTR_ENGINE_GLOBAL_INDEX)?.to_string();
    let knobs = config.others(
        Name::CUDNN_ATTR_ENGINECFG_KNOB_CHOICES,
        Kind::CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR,
        MOST_KNOBS,
    )?;
    for knob in &knobs {
        let which =
            knob.read::<u32>(Name::CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE, Type::CUDNN_TYPE_KNOB_TYPE, 1)?;
        let value = knob.number(Name::CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE)?;
        code.push_str(&format!(".{}={value}", which.first().copied().unwrap_or(0)));
    }
    Ok((Proposal { code, config: Arc::new(config), is_compiled }, notes))
}

/// What runs a proposal, and the bytes of workspace that it uses. It may be compiled for that, which takes a second.
pub(super) fn plan(
    functions: &Arc<Functions>,
    proposal: &Proposal,
    target: &Target,
) -> Result<(Arc<Descriptor>, usize)> {
    let plan = Descriptor::new(functions, Kind::CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR)?
        .with_named(Name::CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, &[&proposal.config])?;
    let plan = match target {
        Target::Handle(handle) => plan.with_handle(Name::CUDNN_ATTR_EXECUTION_PLAN_HANDLE, handle)?,
        Target::Described(device) => {
            plan.with_named(Name::CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, &[device])?
        }
    };
    let plan = plan.finalised()?;
    let workspace = plan.number(Name::CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE)?;
    let fits = usize::try_from(workspace).ok().filter(|bytes| *bytes <= WORKSPACE_BYTES);
    let too_much = || {
        ScoreError::unavailable(format!(
            "cuDNN's engine {} wants {workspace} bytes of workspace",
            proposal.code
        ))
    };
    Ok((plan, fits.ok_or_else(too_much)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::plan::Strided;

    #[test]
    fn only_the_arithmetic_that_was_asked_for_is_taken() {
        let lies = |dtype| Strided { dtype, lengths: vec![1; 4], strides: vec![1; 4], align: 16 };
        let shape = |dtype, is_tf32| ConvShape {
            images: lies(dtype),
            weights: lies(dtype),
            result: lies(dtype),
            strides: vec![1; 2],
            dilations: vec![1; 2],
            pads: vec![[0, 0]; 2],
            is_tf32,
            bias_align: None,
            residual: None,
            has_relu: false,
        };
        let (exact, tf32, half) =
            (shape(DType::F32, false), shape(DType::F32, true), shape(DType::F16, false));
        let tensor_core = Note::CUDNN_NUMERICAL_NOTE_TENSOR_CORE as u32;
        for (notes, expected) in [
            (vec![], [true, true, true]),
            (vec![Note::CUDNN_NUMERICAL_NOTE_STRICT_NAN_PROP as u32], [true, true, true]),
            (vec![tensor_core], [false, true, true]),
            (vec![tensor_core, Note::CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS as u32], [false; 3]),
            (vec![tensor_core, Note::CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION as u32], [false; 3]),
            (vec![Note::CUDNN_NUMERICAL_NOTE_FFT as u32], [false; 3]),
            (vec![Note::CUDNN_NUMERICAL_NOTE_WINOGRAD as u32], [false; 3]),
            (vec![Note::CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC as u32], [false; 3]),
            (vec![77], [false; 3]),
        ] {
            let taken = [&exact, &tf32, &half].map(|shape| is_taken(&notes, shape));
            assert_eq!(taken, expected, "{notes:?}");
        }
    }
}
