//! The suites, one file an idea.

mod answers;
mod batching;
mod endings;
mod lifetime;
mod refusals;

use std::sync::Arc;

use triscore::{CompileOptions, Model, Scorer};

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

/// The model on the target, in the way an embedder would have it.
fn compile(target: &Target, model: &Model) -> Result<Arc<dyn Scorer>, String> {
    let devices = std::slice::from_ref(&target.device);
    let options = CompileOptions::default();
    target.backend.compile(model, devices, &options).map_err(|e| format!("does not compile: {e}"))
}
