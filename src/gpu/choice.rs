//! What a library computes, and what our own kernels: whatever is faster, measured once on the device itself.
//!
//! A plan says beside a launch what a library could do instead: products by cuBLASLt, convolutions by cuDNN. When a plan is loaded, each that was not
//! met before is timed as it will run, by the kernel and by every way that the library proposes, and the fastest is taken for good: in memory while the
//! machine lives, on disk beside the kernel cache ([`Kept`]), where the library's proposal is known by its code. Anything that goes wrong with the
//! library leaves the kernel, which takes everything.
//!
//! `TRISCORE_GPU_PRODUCTS` and `TRISCORE_GPU_CONVOLUTIONS` end the measuring: `own` is triscore's kernels and no library, `cublaslt` and `cudnn` are the
//! library's first proposal wherever the library takes one, and an error where there is no library. An emulated device has no times that mean anything,
//! so there it is `own` unless something else is said; `fastest` is what real devices do. Two loads may choose differently where two ways are equally
//! fast, and then differ in how sums are rounded; with the same file on disk they do not. What is faster on which GPU, and by how much, only that GPU
//! says: the choices and their times are in the log (`debug`).

mod kept;
mod key;
mod side;

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cudarc::driver::CudaContext;

use super::chosen::{CUBLASLT, CUDNN, Chosen, Selection};
use super::lane::GpuLane;
use super::libraries::Library;
use super::loaded::Loaded;
use super::machine::GpuMachine;
use super::plan::{Launch, Work};
use crate::error::{ErrorKind, Result, ScoreError};
use crate::scoring::Device;
use kept::{Entry, Kept};
use key::key;
use side::{Mode, Proposals, Side, Subject};

const PRODUCTS: Subject = Subject {
    variable: "TRISCORE_GPU_PRODUCTS",
    name: "product",
    library: CUBLASLT,
    which: Library::CublasLt,
};
const CONVOLUTIONS: Subject = Subject {
    variable: "TRISCORE_GPU_CONVOLUTIONS",
    name: "convolution",
    library: CUDNN,
    which: Library::Cudnn,
};

/// The environment variable that says who computes products.
#[cfg(test)]
pub(super) const PRODUCTS_VARIABLE: &str = PRODUCTS.variable;
/// The environment variable that says who computes convolutions.
#[cfg(test)]
pub(super) const CONVOLUTIONS_VARIABLE: &str = CONVOLUTIONS.variable;

/// The choices of one machine.
pub(super) struct Choices {
    products: Option<Side>,
    convolutions: Option<Side>,
    known: Mutex<HashMap<String, Option<Arc<Chosen>>>>,
}

impl Choices {
    /// Between kernels and the libraries that there are.
    ///
    /// # Errors
    /// `Unavailable` where a library is demanded and missing.
    pub(super) fn open(context: &Arc<CudaContext>, device: &Device, driver: i32) -> Result<Self> {
        let products = Side::of(PRODUCTS, context, device, driver)?;
        let convolutions = Side::of(CONVOLUTIONS, context, device, driver)?;
        Ok(Self { products, convolutions, known: Mutex::default() })
    }

    /// Whether there is something to choose about products.
    pub(super) fn has_products(&self) -> bool {
        self.products.is_some()
    }

    /// Whether there is something to choose about convolutions.
    pub(super) fn has_convolutions(&self) -> bool {
        self.convolutions.is_some()
    }

    /// What is run instead of each launch's kernel: of the preparations, then of the launches.
    ///
    /// # Errors
    /// `DeviceLost`; anything else leaves the kernel.
    pub(super) fn choose(&self, machine: &Arc<GpuMachine>, loaded: &Loaded) -> Result<Selection> {
        let (mut products, mut convolutions) = (Files::default(), Files::default());
        let (mut chosen, mut refused, mut lane) = (Vec::new(), Vec::new(), None);
        for (at, launch) in loaded.plan.preparations.iter().chain(&loaded.plan.launches).enumerate() {
            let of = launch.library.as_ref().map(|wanted| match wanted.work {
                Work::Product(_) => (&wanted.work, &self.products, &mut products),
                Work::Convolution(_) => (&wanted.work, &self.convolutions, &mut convolutions),
            });
            let Some((work, Some(side), files)) = of else {
                chosen.push(None);
                continue;
            };
            let key = key(work, launch.kernel);
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
            let found = match known {
                Some(known) => known,
                None => {
                    let trial = Trial { machine, loaded, launch, at, key: &key, side };
                    let found = trial.found(work, files, &mut lane).or_else(|e| {
                        refused.push(e.to_string());
                        trial.left(e).map(|()| None)
                    })?;
                    self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(key, found.clone());
                    found
                }
            };
            chosen.push(found);
        }
        // One by one they are in the debug log: a library that takes nothing of a model is worth knowing of.
        if let Some(first) = refused.first() {
            let count = refused.len();
            tracing::info!(
                "{count} kinds of products or convolutions are refused by a library; the first: {first}"
            );
        }
        for (side, files) in [(&self.products, products), (&self.convolutions, convolutions)] {
            let Some(side) = side.as_ref().filter(|_| !files.new.is_empty()) else { continue };
            if let Some(kept) = &side.opened()?.kept {
                kept.add(&files.new);
            }
        }
        Ok(Selection(chosen))
    }
}

/// What is on disk of one kind of choices, read when it is first wanted, and what comes to it.
#[derive(Default)]
struct Files {
    stored: Option<BTreeMap<String, Entry>>,
    new: BTreeMap<String, Entry>,
}

/// What is measured.
struct Trial<'a> {
    machine: &'a Arc<GpuMachine>,
    loaded: &'a Loaded,
    launch: &'a Launch,
    at: usize,
    key: &'a str,
    side: &'a Side,
}

impl Trial<'_> {
    /// The choice: what is demanded, or was measured before, or is measured now. The lane, with memory of its own, is made when it is first wanted.
    fn found(
        &self,
        work: &Work,
        files: &mut Files,
        lane: &mut Option<GpuLane>,
    ) -> Result<Option<Arc<Chosen>>> {
        let library = self.side.for_work()?;
        let read = || library.kept.as_ref().map(Kept::read).unwrap_or_default();
        let stored = files.stored.get_or_insert_with(read).get(self.key);
        if let (Mode::Fastest, Some(None)) = (self.side.mode, stored) {
            return Ok(None);
        }
        let proposals = library.proposes(work)?;
        let codes = proposals.codes();
        if self.side.mode == Mode::Library {
            return self.first(&proposals, codes.len());
        }
        // One that is not proposed any more is measured again, and so is one that is refused, of proposals that nobody has planned yet.
        let at = stored.and_then(|code| codes.iter().position(|own| Some(own) == code.as_ref()));
        let proposals = match at.map(|at| proposals.chosen(at)) {
            None => proposals,
            Some(Ok(chosen)) => return Ok(Some(Arc::new(chosen))),
            Some(Err(e)) => {
                self.left(e)?;
                library.proposes(work)?
            }
        };
        let (found, entry) = self.fastest(&proposals, codes, lane)?;
        files.new.insert(self.key.to_owned(), entry);
        Ok(found)
    }

    /// The first proposal that the library does after all.
    fn first(&self, proposals: &Proposals, count: usize) -> Result<Option<Arc<Chosen>>> {
        for at in 0..count {
            match proposals.chosen(at) {
                Ok(chosen) => return Ok(Some(Arc::new(chosen))),
                Err(e) => self.left(e)?,
            }
        }
        Ok(None)
    }

    /// The fastest way, and how it is kept.
    fn fastest(
        &self,
        proposals: &Proposals,
        codes: Vec<String>,
        lane: &mut Option<GpuLane>,
    ) -> Result<(Option<Arc<Chosen>>, Entry)> {
        let lane = match lane {
            Some(lane) => lane,
            None => {
                let mut new = GpuLane::new(self.machine.clone())?;
                new.prepare_trials(self.loaded)?;
                lane.insert(new)
            }
        };
        let launch = (self.at, self.launch);
        let own = lane.trial(self.loaded, launch, None)?;
        let (mut best, mut found): (Duration, _) = (own, (None, None));
        let mut times = String::new();
        for (at, code) in codes.into_iter().enumerate() {
            let measured = proposals.chosen(at).and_then(|chosen| {
                let time = lane.trial(self.loaded, launch, Some(&chosen))?;
                Ok((time, chosen))
            });
            match measured {
                Ok((time, chosen)) => {
                    // Writing to a text does not fail.
                    let _ = write!(times, " {:.2}", time.as_secs_f64() * 1e6);
                    if time < best {
                        (best, found) = (time, (Some(Arc::new(chosen)), Some(code)));
                    }
                }
                Err(e) => self.left(e)?,
            }
        }
        let Subject { name, library, .. } = self.side.subject;
        let winner = if found.0.is_some() { library } else { self.launch.kernel };
        let (key, own) = (self.key, own.as_secs_f64() * 1e6);
        tracing::debug!("{name} {key}: {winner}; own {own:.2} us, {library}{times} us");
        Ok(found)
    }

    /// The library cannot have this; an error only where nothing can any more.
    fn left(&self, error: ScoreError) -> Result<()> {
        match error.kind() {
            ErrorKind::DeviceLost => Err(error),
            _ => {
                let (name, key) = (self.side.subject.name, self.key);
                tracing::debug!("{name} {key} is left to triscore's kernel: {error}");
                Ok(())
            }
        }
    }
}
