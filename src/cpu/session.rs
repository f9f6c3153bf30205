//! One ONNX Runtime session as a [`Lane`].

use std::sync::Arc;
use std::time::Instant;

use ort::session::builder::GraphOptimizationLevel;
use ort::session::{Session, SessionInputValue};

use super::convert;
use super::library::Runtime;
use super::quantised::Types;
use super::watch::Slot;
use crate::error::{Result, ScoreError};
use crate::model::Model;
use crate::scoring::{Call, Lane, Scored, Timing};
use crate::tensor::Tensor;

/// How a session computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Threads {
    /// Threads that run operators, the caller's among them.
    pub(super) count: usize,
    /// Whether they spin for work between operators. Right for a lone caller, ruinous for several.
    pub(super) spin: bool,
}

impl Threads {
    /// One thread: the caller's own.
    pub(super) const ONE: Self = Self { count: 1, spin: false };
}

/// A session and the slot through which its run can be ended.
pub(super) struct SessionLane {
    session: Session,
    slot: Arc<Slot>,
    /// ONNX Runtime reads external weights from here; kept until the session is gone.
    _external: Vec<Arc<[u8]>>,
}

/// What every session of a scorer is made from.
pub(super) struct Source<'a> {
    pub(super) runtime: &'a Runtime,
    pub(super) model: &'a Model,
    pub(super) external: Vec<(String, Arc<[u8]>)>,
    /// Whether allocations are bounded (the bound itself is registered with the runtime).
    pub(super) bounded: bool,
}

impl SessionLane {
    pub(super) fn open(source: &Source<'_>, threads: Threads) -> Result<Self> {
        let types = Types::of(source.model);
        let build = |exact: bool| -> ort::Result<Session> {
            let mut b = Session::builder(source.runtime.environment())?
                .with_optimization_level(GraphOptimizationLevel::All)?
                .with_intra_threads(threads.count)?
                .with_inter_threads(1)?
                .with_intra_op_spinning(threads.spin)?
                .with_inter_op_spinning(false)?
                // What was checked is an ONNX file; it must not be read as anything else.
                .with_config_entry("session.load_model_format", "ONNX")?
                // Without VNNI its products of 8 bits, u8 × i8, saturate pairs of sums at 16; unsigned weights take another kernel, which
                // does not. With VNNI this changes nothing.
                .with_config_entry("session.x64quantprecision", if exact { "1" } else { "0" })?;
            if source.bounded {
                b = b.with_env_allocators()?;
            }
            if types.has_16_bits() {
                b = b.with_config_entry("session.qdq_matmulnbits_accuracy_level", "1")?;
            }
            if types.loses_relu() {
                b = b.with_disabled_optimizers("ReluQuantRewrite")?;
            }
            for (name, bytes) in &source.external {
                b = b.with_external_initializer_file_in_memory(name, bytes.clone())?;
            }
            b.commit_from_memory(source.model.bytes())
        };
        // It makes weights unsigned behind signed inputs, too, and then finds no kernel (ONNX Runtime 1.32). Those were exact as they were.
        let session = build(true).or_else(|e| if has_no_kernel(&e) { build(false) } else { Err(e) });
        let session = session.map_err(|e| {
            let e = convert::error(&e, "cannot load the model");
            // A model that passed our reader and fails here uses what ONNX Runtime does not take.
            match e.kind() {
                crate::ErrorKind::Internal | crate::ErrorKind::BadInput => ScoreError::bad_model(e.message()),
                _ => e,
            }
        })?;
        check_ports(&session, source.model)?;
        let external = source.external.iter().map(|(_, bytes)| bytes.clone()).collect();
        Ok(Self { session, slot: Slot::new()?, _external: external })
    }
}

fn has_no_kernel(e: &ort::Error) -> bool {
    e.message().contains("Failed to find kernel") && e.message().contains("QLinear")
}

/// Inputs and outputs go to ONNX Runtime by place, so its order must be the signature's.
fn check_ports(session: &Session, model: &Model) -> Result<()> {
    let ours = model.signature();
    let same = |theirs: &[ort::value::Outlet], ours: &[crate::Port]| {
        theirs.len() == ours.len() && theirs.iter().zip(ours).all(|(t, o)| t.name() == o.name)
    };
    if same(session.inputs(), ours.inputs()) && same(session.outputs(), ours.outputs()) {
        return Ok(());
    }
    Err(ScoreError::internal("ONNX Runtime sees other inputs or outputs than the model's signature has"))
}

impl Lane for SessionLane {
    fn score(&mut self, inputs: &[Tensor], call: &Call) -> Result<Scored> {
        call.check()?;
        let values = inputs.iter().map(convert::input).collect::<Result<Vec<SessionInputValue<'_>>>>()?;
        let start = Instant::now();
        let slot = self.slot.clone();
        let watched = slot.watch(call);
        let run = self.session.run_with_options(values.as_slice(), slot.options());
        // Asked first: a run that was ended also fails, with a text of its own.
        if let Some(ended) = watched.and_then(|w| w.finish()) {
            return Err(ended);
        }
        let answered = run.map_err(|e| convert::error(&e, "scoring failed"))?;
        let compute = start.elapsed();
        let outputs = answered.into_iter().map(|(_, v)| convert::output(v)).collect::<Result<_>>()?;
        Ok(Scored::new(outputs, Timing { compute, ..Timing::default() }))
    }
}

impl std::fmt::Debug for SessionLane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SessionLane")
    }
}
