//! A library that may compute a kind of work, how it is chosen, and what it proposes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::CudaContext;

use super::kept::Kept;
use crate::error::{Result, ScoreError};
use crate::gpu::chosen::{Chosen, Way};
use crate::gpu::cublaslt::{Algorithm, CublasLt, Product};
use crate::gpu::cudnn::{Convolution, Cudnn};
use crate::gpu::images::cache_folder;
use crate::gpu::libraries;
use crate::gpu::plan::Work;
use crate::scoring::Device;

/// What there is a choice about.
#[derive(Debug, Clone, Copy)]
pub(super) struct Subject {
    /// The environment variable that says who computes it.
    pub(super) variable: &'static str,
    /// As choices call it, on disk and in the log.
    pub(super) name: &'static str,
    /// The library, as the variable and profiles call it.
    pub(super) library: &'static str,
    /// Which that is.
    pub(super) which: libraries::Library,
}

/// How it is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Fastest,
    Own,
    Library,
}

impl Subject {
    pub(super) fn mode(&self, named: Option<&str>, is_emulated: bool) -> Result<Mode> {
        match named {
            None | Some("") if is_emulated => Ok(Mode::Own),
            None | Some("" | "fastest") => Ok(Mode::Fastest),
            Some("own") => Ok(Mode::Own),
            Some(library) if library == self.library => Ok(Mode::Library),
            Some(other) => Err(ScoreError::unavailable(format!(
                "{} is '{other}': expected own, {} or fastest",
                self.variable, self.library
            ))),
        }
    }
}

enum Library {
    CublasLt(Arc<CublasLt>),
    Cudnn(Arc<Cudnn>),
}

/// A library that may compute work of one kind on one machine. It is loaded when work of its kind is first met: that takes time and memory of the device,
/// which a model without such work need not pay.
pub(super) struct Side {
    pub(super) subject: Subject,
    pub(super) mode: Mode,
    context: Arc<CudaContext>,
    device: String,
    driver: i32,
    opened: Mutex<Option<Arc<Opened>>>,
    /// Whether it was said that it does not load.
    is_told: AtomicBool,
}

/// The library, loaded, and what is on disk of choices with this very version of it.
pub(super) struct Opened {
    library: Library,
    pub(super) kept: Option<Kept>,
}

impl Side {
    /// Nothing where there is nothing to choose.
    ///
    /// # Errors
    /// `Unavailable` where the library is demanded and missing.
    pub(super) fn of(
        subject: Subject,
        context: &Arc<CudaContext>,
        device: &Device,
        driver: i32,
    ) -> Result<Option<Self>> {
        let Subject { variable, name, library, which } = subject;
        let mode = subject.mode(std::env::var(variable).ok().as_deref(), device.emulated)?;
        if mode == Mode::Own {
            return Ok(None);
        }
        let (opened, is_told) = (Mutex::default(), AtomicBool::new(false));
        let (context, name_of_device) = (context.clone(), device.name.clone());
        let side = Self { subject, mode, context, device: name_of_device, driver, opened, is_told };
        // One that is not to be seen may be where the loader alone finds it.
        if mode == Mode::Library || libraries::find(which, Some(driver / 1000)).is_err() {
            match (side.opened(), mode) {
                (Ok(_), _) => {}
                (Err(e), Mode::Library) => {
                    return Err(e.with_at(format!("{variable}={library}, {device}")));
                }
                (Err(e), _) => {
                    tracing::debug!("{name}s run on triscore's own kernels: {e}");
                    return Ok(None);
                }
            }
        }
        Ok(Some(side))
    }

    /// The library, and its version.
    fn load(&self) -> Result<(usize, Library)> {
        let (context, driver) = (&self.context, self.driver / 1000);
        match self.subject.which {
            libraries::Library::CublasLt => {
                let library = CublasLt::load(context, driver)?;
                Ok((library.version, Library::CublasLt(Arc::new(library))))
            }
            libraries::Library::Cudnn => {
                let library = Cudnn::load(context, driver)?;
                Ok((library.version(), Library::Cudnn(Arc::new(library))))
            }
            libraries::Library::Nvrtc => Err(ScoreError::internal("NVRTC computes nothing of a plan")),
        }
    }

    /// The library, for work that it could do. One that is there and does not load costs speed, so that is said, once.
    ///
    /// # Errors
    /// As [`Self::opened`].
    pub(super) fn for_work(&self) -> Result<Arc<Opened>> {
        self.opened().inspect_err(|e| {
            if !self.is_told.swap(true, Ordering::Relaxed) {
                tracing::warn!("{}s run on triscore's own kernels: {e}", self.subject.name);
            }
        })
    }

    /// The library, loaded now if it was not.
    ///
    /// # Errors
    /// `Unavailable`: why it cannot be.
    pub(super) fn opened(&self) -> Result<Arc<Opened>> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(opened) = &*opened {
            return Ok(opened.clone());
        }
        let (version, library) = self.load()?;
        let folder = if self.mode == Mode::Fastest { cache_folder() } else { None };
        let own = env!("CARGO_PKG_VERSION");
        let (kind, device) = (self.subject.name, &self.device);
        let kept = folder.map(|folder| Kept::new(&folder, kind, device, self.driver, version, own));
        Ok(opened.insert(Arc::new(Opened { library, kept })).clone())
    }
}

impl Opened {
    /// What the library proposes for work of its kind.
    ///
    /// # Errors
    /// `Unavailable` where it does not take it.
    pub(super) fn proposes(&self, work: &Work) -> Result<Proposals> {
        match (&self.library, work) {
            (Library::CublasLt(library), Work::Product(shape)) => {
                Product::of(library, shape).map(|product| Proposals::Product(Arc::new(product)))
            }
            (Library::Cudnn(library), Work::Convolution(shape)) => {
                Convolution::of(library, shape).map(Proposals::Convolution)
            }
            _ => Err(ScoreError::internal("work that is the other library's")),
        }
    }
}

/// The ways in which a library would compute something, the best first, as it thinks.
pub(super) enum Proposals {
    Product(Arc<Product>),
    Convolution(Convolution),
}

impl Proposals {
    /// A word for each, by which it is known when it is proposed again.
    pub(super) fn codes(&self) -> Vec<String> {
        match self {
            Self::Product(product) => product.algorithms.iter().map(Algorithm::word).collect(),
            Self::Convolution(convolution) => convolution.codes().map(str::to_owned).collect(),
        }
    }

    /// One of them, ready to be run.
    ///
    /// # Errors
    /// `Unavailable` where it does not do it after all.
    pub(super) fn chosen(&self, at: usize) -> Result<Chosen> {
        match self {
            Self::Product(product) => {
                let missing = || ScoreError::internal("an algorithm that was not proposed");
                let algorithm = *product.algorithms.get(at).ok_or_else(missing)?;
                let (way, workspace) = (Way::Product(product.clone(), algorithm), algorithm.workspace);
                Ok(Chosen { way, workspace })
            }
            Self::Convolution(convolution) => {
                let plan = convolution.plan(at)?;
                let workspace = plan.workspace;
                Ok(Chosen { way: Way::Convolution(plan), workspace })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{CONVOLUTIONS, PRODUCTS};
    use super::*;

    #[test]
    fn the_environment_says_who_computes() {
        for subject in [PRODUCTS, CONVOLUTIONS] {
            for (named, is_emulated, expected) in [
                (None, false, Mode::Fastest),
                (None, true, Mode::Own),
                (Some(""), true, Mode::Own),
                (Some("own"), false, Mode::Own),
                (Some(subject.library), true, Mode::Library),
                (Some("fastest"), true, Mode::Fastest),
            ] {
                assert_eq!(subject.mode(named, is_emulated).unwrap(), expected);
            }
        }
        for (subject, named, expected) in [
            (PRODUCTS, "cudnn", "TRISCORE_GPU_PRODUCTS is 'cudnn': expected own, cublaslt or fastest"),
            (
                CONVOLUTIONS,
                "cublaslt",
                "TRISCORE_GPU_CONVOLUTIONS is 'cublaslt': expected own, cudnn or fastest",
            ),
        ] {
            let e = subject.mode(Some(named), false).expect_err("the other one's library");
            assert!(e.message().contains(expected), "{e}");
        }
    }
}
