//! The suites, one file an idea.

mod answers;
mod batching;
mod endings;
mod lifetime;
mod refusals;

use std::sync::Arc;

use triscore::{Model, Scorer};

use crate::{Suite, Target};

/// Every suite, the plain ones first.
pub(crate) const ALL: &[Suite] = &[
    Suite { name: "answers", run: answers::examples },
    Suite { name: "accuracy", run: answers::accuracy },
    Suite { name: "bad input", run: refusals::bad_input },
    Suite { name: "batch invariance", run: batching::invariance },
    Suite { name: "dependent rows", run: batching::dependent_rows },
    Suite { name: "concurrency", run: batching::concurrency },
    Suite { name: "deadline and cancel", run: endings::deadline_and_cancel },
    Suite { name: "memory", run: lifetime::memory },
];

/// A model as the device takes it, and made ready there.
type Ready = (Model, Arc<dyn Scorer>);

/// The model of that name on the target, in the way an embedder would have it; `None` where the device takes nothing of it.
fn compile(target: &Target, name: &str) -> Result<Option<Ready>, String> {
    let Some(model) = target.model(name) else { return Ok(None) };
    let devices = std::slice::from_ref(&target.device);
    let scorer = target.backend.compile(&model, devices, &target.options());
    let scorer = scorer.map_err(|e| format!("{name} does not compile: {e}"))?;
    Ok(Some((model, scorer)))
}

/// As [`compile`], for a model that every device takes.
fn compile_any(target: &Target, name: &str) -> Result<Arc<dyn Scorer>, String> {
    Ok(compile(target, name)?.ok_or_else(|| format!("the device takes nothing of {name}"))?.1)
}
