//! Lanes, the wide session and the plans behind one [`Scorer`].

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::library::Runtime;
use super::memory::Memory;
use super::session::{SessionLane, Source, Threads};
use super::{host, tune};
use crate::error::{ErrorKind, Result, ScoreError};
use crate::model::Model;
use crate::scoring::{
    Call, CompileOptions, Device, Health, Lane, LaneGuard, Lanes, Limits, Placement, Precision, Sample,
    Scored, Scorer, Strategy, Timing, Tolerance, checked_rows, sample,
};
use crate::signature::Signature;
use crate::tensor::{Tensor, Value};

/// A model in ONNX Runtime sessions.
pub(super) struct CpuScorer {
    signature: Signature,
    limits: Limits,
    placement: Placement,
    devices: Vec<Device>,
    lanes: Lanes<SessionLane>,
    /// A session of many threads; used only by who holds every lane.
    wide: Option<Mutex<SessionLane>>,
    /// Runs all parts of a split batch but the first, which the caller runs itself.
    pool: Option<rayon::ThreadPool>,
    /// How many more calls run serially because callers met: see [`CpuScorer::score`].
    crowded: AtomicU32,
    /// The last field, so that it is dropped last: what the sessions freed goes back to the system.
    _trim: TrimOnDrop,
}

struct TrimOnDrop;

impl Drop for TrimOnDrop {
    fn drop(&mut self) {
        host::trim_memory();
    }
}

impl CpuScorer {
    /// Loads the model into as many sessions as threads and memory allow, checks that its rows are
    /// independent, and measures how batches are best run.
    pub(super) fn load(
        runtime: Arc<Runtime>,
        model: &Model,
        placement: Placement,
        devices: Vec<Device>,
        options: &CompileOptions,
    ) -> Result<Self> {
        let start = Instant::now();
        let trim = TrimOnDrop;
        let budget = host::thread_budget(options.cpu_cores);
        let memory = Memory::of(&runtime, options)?;
        let external = model.external().iter().map(|f| (f.name.clone(), Arc::from(&f.bytes[..])));
        let source = Source {
            runtime: &runtime,
            model,
            external: external.collect(),
            bounded: options.memory_bytes.is_some(),
        };
        let open = |threads| SessionLane::open(&source, threads).map_err(|e| memory.explain(e));
        let mut first = open(Threads::ONE)?;
        let mut sample = sample(model.signature());
        let mut one_call = Duration::ZERO;
        if let Some(inputs) = sample.as_ref().and_then(|s| s.rows(1).ok()) {
            let start = Instant::now();
            match first.score(&inputs, &Call::new()) {
                Err(e) if e.kind() == ErrorKind::OutOfMemory => return Err(memory.explain(e)),
                // The sample is our guess at what the model takes, so that it failed says nothing of the model.
                Err(e) => {
                    tracing::debug!("the model takes no sample: {e}");
                    sample = None;
                }
                Ok(_) => one_call = start.elapsed(),
            }
        }
        host::trim_memory();
        let fit = memory.sessions_that_fit();
        let wanted = options.lanes.unwrap_or(budget).max(1);
        let mut sessions = vec![first];
        if budget > 1 && fit < 2 && options.lanes.is_none() {
            // Only one fits: let it have all the threads.
            sessions.clear();
            sessions.push(open(Threads { count: budget, spin: false })?);
        }
        for _ in 1..wanted.min(fit) {
            match open(Threads::ONE) {
                // What fits was an estimate; fewer lanes are better than none.
                Err(e) if e.kind() == ErrorKind::OutOfMemory => {
                    tracing::warn!(lanes = sessions.len(), "no more lanes: {e}");
                    break;
                }
                session => sessions.push(session?),
            }
        }
        let count = sessions.len();
        let mut scorer = Self {
            signature: model.signature().clone(),
            limits: Limits::new(count),
            placement,
            devices,
            lanes: Lanes::new(sessions)?,
            wide: None,
            pool: None,
            crowded: AtomicU32::new(0),
            _trim: trim,
        };
        if options.skip_tuning {
            scorer.signature = scorer.signature.without_batch_axis();
        } else {
            scorer.check_rows(sample.as_ref(), one_call);
        }
        if let Some(sample) = sample.filter(|_| !options.skip_tuning && budget > 1 && fit > 1) {
            if fit > count {
                scorer.wide = match open(Threads { count: budget, spin: true }) {
                    Err(e) if e.kind() == ErrorKind::OutOfMemory => None,
                    session => Some(Mutex::new(session?)),
                };
            }
            scorer.tune(&sample, budget)?;
        }
        host::trim_memory();
        // Only now: the measurements above go by what suits the model, not by what callers may send.
        scorer.limits.max_batch = options.max_batch;
        scorer.limits.resident_bytes = host::resident_bytes();
        tracing::info!(
            lanes = count,
            threads = budget,
            plans = scorer.limits.plans.len(),
            load_ms = start.elapsed().as_millis() as u64,
            "the model is ready on the CPU"
        );
        Ok(scorer)
    }

    /// Takes the batch axis out of the signature unless rows scored together equal rows scored alone.
    fn check_rows(&mut self, sample: Option<&Sample>, one_call: Duration) {
        let sample = match sample {
            Some(_) if one_call > tune::SLOW => {
                Err(ScoreError::unsupported(format!("one call takes {} ms", one_call.as_millis())))
            }
            Some(sample) => Ok(sample),
            None => Err(ScoreError::unsupported("what the model takes could not be guessed")),
        };
        let run = |inputs: &[Tensor]| self.score_as(Strategy::Serial, inputs, &Call::new());
        self.signature = checked_rows(self.signature.clone(), sample, Tolerance::of(Precision::Model), &run);
    }

    fn tune(&mut self, sample: &Sample, threads: usize) -> Result<()> {
        let ways = threads.min(self.lanes.total());
        if self.signature.batch_axis().is_some() && ways > 1 {
            let name = |i| format!("triscore-split-{i}");
            let pool = rayon::ThreadPoolBuilder::new().num_threads(ways - 1).thread_name(name).build();
            self.pool = Some(pool.map_err(|e| ScoreError::internal(format!("no threads: {e}")))?);
        }
        let mut strategies = vec![Strategy::Serial];
        if self.pool.is_some() {
            strategies.push(Strategy::Split { ways });
        }
        if self.wide.is_some() {
            strategies.push(Strategy::Wide { threads });
        }
        let batched = self.signature.batch_axis().is_some();
        let measured = tune::measure(&self.runner(), sample, batched, &strategies);
        // A batch that fails (it may not fit into memory) leaves all of them unmeasured, not the model unloaded.
        let (plans, preferred) = measured.unwrap_or_else(|e| {
            tracing::warn!("how batches are best run could not be measured: {e}");
            (Vec::new(), None)
        });
        let used = |f: fn(&Strategy) -> bool| plans.iter().any(|p| f(&p.strategy));
        if !used(|s| matches!(s, Strategy::Wide { .. })) {
            self.wide = None;
        }
        if !used(|s| matches!(s, Strategy::Split { .. })) {
            self.pool = None;
        }
        self.limits.plans = plans;
        self.limits.preferred_batch = preferred;
        Ok(())
    }

    /// All that measuring needs of the scorer.
    fn runner(&self) -> impl Fn(Strategy, &[Tensor]) -> Result<Scored> + '_ {
        |strategy, inputs| self.score_as(strategy, inputs, &Call::new())
    }

    /// Runs the inputs in that way if every lane is free for it, else serially.
    fn score_as(&self, strategy: Strategy, inputs: &[Tensor], call: &Call) -> Result<Scored> {
        match (strategy, &self.pool, &self.wide) {
            (Strategy::Split { ways }, Some(pool), _) => {
                let Some(axis) = self.signature.batch_axis() else { return self.lanes.score(inputs, call) };
                match self.all_lanes() {
                    Some(lanes) => split(pool, lanes, ways, axis, inputs, call),
                    None => self.lanes.score(inputs, call),
                }
            }
            (Strategy::Wide { .. }, _, Some(wide)) => match self.all_lanes() {
                Some(mut lanes) => {
                    // One of the guards catches a panic; the others are held so that nobody else runs.
                    let Some(mut guard) = lanes.pop() else { return self.lanes.score(inputs, call) };
                    let mut wide = wide.lock().unwrap_or_else(PoisonError::into_inner);
                    guard.run(|_| wide.score(inputs, call))
                }
                None => self.lanes.score(inputs, call),
            },
            _ => self.lanes.score(inputs, call),
        }
    }

    /// Every lane, or none.
    fn all_lanes(&self) -> Option<Vec<LaneGuard<'_, SessionLane>>> {
        let lanes = (0..self.lanes.total()).map_while(|_| self.lanes.try_acquire()).collect::<Vec<_>>();
        if lanes.len() < self.lanes.total() {
            self.callers_met();
            return None;
        }
        Some(lanes)
    }

    fn callers_met(&self) {
        // Long enough that trying again costs little, short enough that a lone caller does not wait long.
        const CALLS: u32 = 64;
        self.crowded.store(CALLS, Ordering::Relaxed);
    }
}

/// Cuts the batch into parts and runs each on a lane of its own.
fn split(
    pool: &rayon::ThreadPool,
    lanes: Vec<LaneGuard<'_, SessionLane>>,
    ways: usize,
    axis: usize,
    inputs: &[Tensor],
    call: &Call,
) -> Result<Scored> {
    let start = Instant::now();
    let rows = inputs.first().and_then(|t| t.shape().get(axis)).copied().unwrap_or(0);
    let ways = ways.min(lanes.len()).min(rows).max(1);
    let part = |i: usize| -> Result<Vec<Tensor>> {
        let cut = rows * i / ways..rows * (i + 1) / ways;
        inputs.iter().map(|t| t.rows(axis, cut.clone())).collect()
    };
    let mut jobs = Vec::with_capacity(ways);
    for (i, lane) in lanes.into_iter().take(ways).enumerate() {
        jobs.push((part(i)?, lane, None));
    }
    pool.in_place_scope(|scope| {
        let mut jobs = jobs.iter_mut();
        let own = jobs.next();
        for (inputs, lane, result) in jobs {
            scope.spawn(move |_| *result = Some(lane.run(|lane| lane.score(inputs, call))));
        }
        if let Some((inputs, lane, result)) = own {
            *result = Some(lane.run(|lane| lane.score(inputs, call)));
        }
    });
    let none = || Err(ScoreError::internal("a part of a batch was not run"));
    let parts =
        jobs.into_iter().map(|(_, _, result)| result.unwrap_or_else(none)).collect::<Result<Vec<_>>>()?;
    let compute = start.elapsed();
    Ok(Scored::new(join(axis, &parts)?, Timing { compute, ..Timing::default() }))
}

/// The outputs of all parts, one after another.
fn join(axis: usize, parts: &[Scored]) -> Result<Vec<Value>> {
    let count = parts.first().map_or(0, |p| p.outputs.len());
    let port = |i: usize| parts.iter().filter_map(|p| p.outputs.get(i)).collect::<Vec<_>>();
    (0..count).map(|i| Value::concat(axis, &port(i))).collect()
}

impl Scorer for CpuScorer {
    fn signature(&self) -> &Signature {
        &self.signature
    }
    fn limits(&self) -> &Limits {
        &self.limits
    }
    fn placement(&self) -> &Placement {
        &self.placement
    }
    fn devices(&self) -> &[Device] {
        &self.devices
    }

    /// A batch whose plan is parallel runs so only while its caller is alone. Two callers that each take every
    /// lane run one after the other, which is slower than both serially at once; so once callers have met,
    /// the calls that follow run serially, and then one tries again.
    fn score(&self, inputs: &[Tensor], call: &Call) -> Result<Scored> {
        self.signature.check(inputs)?;
        let rows = self.signature.rows(inputs);
        self.limits.check_rows(rows)?;
        let planned = self.limits.plan(rows).map_or(Strategy::Serial, |p| p.strategy);
        if planned == Strategy::Serial {
            return self.lanes.score(inputs, call);
        }
        let calm = |n: u32| n.checked_sub(1);
        let crowded = self.crowded.fetch_update(Ordering::Relaxed, Ordering::Relaxed, calm).is_ok();
        let scored = match crowded {
            true => self.lanes.score(inputs, call)?,
            false => self.score_as(planned, inputs, call)?,
        };
        if !scored.timing.wait.is_zero() {
            self.callers_met();
        }
        Ok(scored)
    }

    fn health(&self) -> Health {
        self.lanes.health()
    }
}

impl std::fmt::Debug for CpuScorer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CpuScorer").field("lanes", &self.lanes).field("limits", &self.limits).finish()
    }
}
