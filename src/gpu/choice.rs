//! Which products a library computes, and which our own kernels: whatever is faster, measured once on the device itself.
//!
//! A plan says beside a launch what a library could do instead. When a plan is loaded, each product that was not met before is timed as it will
//! run, by the kernel and by every algorithm that the library proposes, and the fastest is taken for good: in memory while the machine lives, on disk
//! beside the kernel cache ([`Kept`]), where the library's algorithm is known by its code. Anything that goes wrong with the library leaves the
//! kernel, which takes everything.
//!
//! `TRISCORE_GPU_PRODUCTS` ends the measuring: `own` is triscore's kernels and no library, `cublaslt` is the library's first proposal wherever
//! the library takes a product, and an error where there is no library. An emulated device has no times that mean anything, so there it is `own`
//! unless something else is said; `fastest` is what real devices do. Two loads may choose differently where two ways are equally fast, and then differ in how sums are rounded; with the same file on disk they do not.
//! What is faster on which GPU, and by how much, only that GPU says: the choices and their times are in the log (`debug`).

mod kept;

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cudarc::driver::CudaContext;

use super::cublaslt::{Algorithm, CublasLt, Product};
use super::images::cache_folder;
use super::lane::GpuLane;
use super::machine::{GpuMachine, Loaded};
use super::plan::{Launch, Matrix, Shape};
use crate::error::{ErrorKind, Result, ScoreError};
use crate::scoring::Device;
use kept::{Entry, Kept};

/// The environment variable that says who computes products.
pub(super) const PRODUCTS_VARIABLE: &str = "TRISCORE_GPU_PRODUCTS";

/// A library's product instead of a kernel.
pub(super) struct Chosen {
    pub(super) product: Arc<Product>,
    pub(super) algorithm: Algorithm,
}

/// What is run instead of each kernel of a plan, in the order of its functions; nothing where the kernel runs.
#[derive(Default)]
pub(super) struct Selection(Vec<Option<Arc<Chosen>>>);

impl Selection {
    /// What is run instead of that function.
    pub(super) fn at(&self, at: usize) -> Option<&Chosen> {
        self.0.get(at).and_then(Option::as_deref)
    }

    /// What any of it uses besides its matrices.
    pub(super) fn workspace_bytes(&self) -> usize {
        self.0.iter().flatten().map(|chosen| chosen.algorithm.workspace).max().unwrap_or(0)
    }
}

/// How it is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Fastest,
    Own,
    Library,
}

impl Mode {
    fn of(named: Option<&str>, is_emulated: bool) -> Result<Self> {
        match named {
            None | Some("") if is_emulated => Ok(Self::Own),
            None | Some("") => Ok(Self::Fastest),
            Some("fastest") => Ok(Self::Fastest),
            Some("own") => Ok(Self::Own),
            Some("cublaslt") => Ok(Self::Library),
            Some(other) => Err(ScoreError::unavailable(format!(
                "{PRODUCTS_VARIABLE} is '{other}': expected own, cublaslt or fastest"
            ))),
        }
    }
}

/// The choices of one machine.
pub(super) struct Choices {
    library: Arc<CublasLt>,
    mode: Mode,
    kept: Option<Kept>,
    known: Mutex<HashMap<String, Option<Arc<Chosen>>>>,
}

impl Choices {
    /// Where there is something to choose between: nothing without the library.
    ///
    /// # Errors
    /// `Unavailable` where the library is demanded and missing.
    pub(super) fn open(context: &Arc<CudaContext>, device: &Device, driver: i32) -> Result<Option<Self>> {
        let mode = Mode::of(std::env::var(PRODUCTS_VARIABLE).ok().as_deref(), device.emulated)?;
        if mode == Mode::Own {
            return Ok(None);
        }
        let library = match (CublasLt::load(context, driver / 1000), mode) {
            (Ok(library), _) => Arc::new(library),
            (Err(e), Mode::Library) => {
                return Err(e.with_at(format!("{PRODUCTS_VARIABLE}=cublaslt, {device}")));
            }
            (Err(e), _) => {
                tracing::debug!("products run on triscore's own kernels: {e}");
                return Ok(None);
            }
        };
        let version = env!("CARGO_PKG_VERSION");
        let folder = if mode == Mode::Fastest { cache_folder() } else { None };
        let kept = folder.map(|folder| Kept::new(&folder, &device.name, driver, library.version, version));
        Ok(Some(Self { library, mode, kept, known: Mutex::default() }))
    }

    /// What is run instead of each launch's kernel: of the preparations, then of the launches.
    ///
    /// # Errors
    /// `DeviceLost`; anything else leaves the kernel.
    pub(super) fn choose(&self, machine: &Arc<GpuMachine>, loaded: &Loaded) -> Result<Selection> {
        let (mut chosen, mut new) = (Vec::new(), BTreeMap::new());
        let (mut stored, mut lane) = (None, None);
        for (at, launch) in loaded.plan.preparations.iter().chain(&loaded.plan.launches).enumerate() {
            let Some(wanted) = &launch.library else {
                chosen.push(None);
                continue;
            };
            let key = key(&wanted.shape, launch.kernel);
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
            if let Some(known) = known {
                chosen.push(known);
                continue;
            }
            let stored = stored.get_or_insert_with(|| self.kept.as_ref().map(Kept::read).unwrap_or_default());
            let found = match Product::of(&self.library, &wanted.shape) {
                Ok(product) => {
                    let product = Arc::new(product);
                    match self.remembered(&product, stored.get(&key)) {
                        Some(found) => found,
                        None => {
                            let trial = Trial { machine, loaded, launch, at, key: &key };
                            let measured = trial.fastest(&product, &mut lane);
                            let found = measured.or_else(|e| left_to_the_kernel(&key, e).map(|()| None))?;
                            if let Some((found, entry)) = found {
                                new.insert(key.clone(), entry);
                                found
                            } else {
                                None
                            }
                        }
                    }
                }
                Err(e) => {
                    left_to_the_kernel(&key, e)?;
                    None
                }
            };
            self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(key, found.clone());
            chosen.push(found);
        }
        if let (Some(kept), false) = (&self.kept, new.is_empty()) {
            kept.add(&new);
        }
        Ok(Selection(chosen))
    }

    /// What needs no measuring: what is demanded, or was measured before; `None` where there is nothing of it.
    #[allow(clippy::option_option, reason = "the inner one is a choice, too: the kernel")]
    fn remembered(&self, product: &Arc<Product>, entry: Option<&Entry>) -> Option<Option<Arc<Chosen>>> {
        let of = |algorithm: &Algorithm| {
            Some(Arc::new(Chosen { product: product.clone(), algorithm: *algorithm }))
        };
        match (self.mode, entry) {
            (Mode::Library, _) => product.algorithms.first().map(of),
            (_, Some(None)) => Some(None),
            (_, Some(Some(code))) => product.algorithms.iter().find(|a| a.code == *code).map(of),
            (_, None) => None,
        }
    }
}

/// The library cannot have this product; an error only where nothing can any more.
fn left_to_the_kernel(key: &str, error: ScoreError) -> Result<()> {
    match error.kind() {
        ErrorKind::DeviceLost => Err(error),
        _ => {
            tracing::debug!("product {key} is left to triscore's kernel: {error}");
            Ok(())
        }
    }
}

/// What is measured.
struct Trial<'a> {
    machine: &'a Arc<GpuMachine>,
    loaded: &'a Loaded,
    launch: &'a Launch,
    at: usize,
    key: &'a str,
}

/// What was found, and how it is kept.
type Found = (Option<Arc<Chosen>>, Entry);

impl Trial<'_> {
    /// The fastest way. The lane, with memory of its own, is made when it is first wanted.
    fn fastest(&self, product: &Arc<Product>, lane: &mut Option<GpuLane>) -> Result<Option<Found>> {
        let lane = match lane {
            Some(lane) => lane,
            None => {
                let mut new = GpuLane::new(self.machine.clone())?;
                new.prepare_trials(self.loaded, super::cublaslt::WORKSPACE_BYTES)?;
                lane.insert(new)
            }
        };
        let launch = (self.at, self.launch);
        let own = lane.trial(self.loaded, launch, None)?;
        let (mut best, mut found): (Duration, Found) = (own, (None, None));
        let mut times = String::new();
        for algorithm in &product.algorithms {
            let chosen = Chosen { product: product.clone(), algorithm: *algorithm };
            match lane.trial(self.loaded, launch, Some(&chosen)) {
                Ok(time) => {
                    // Writing to a text does not fail.
                    let _ = write!(times, " {:.2}", time.as_secs_f64() * 1e6);
                    if time < best {
                        (best, found) = (time, (Some(Arc::new(chosen)), Some(algorithm.code)));
                    }
                }
                Err(e) => left_to_the_kernel(self.key, e)?,
            }
        }
        let name = if found.0.is_some() { "cublaslt" } else { self.launch.kernel };
        let (key, own) = (self.key, own.as_secs_f64() * 1e6);
        tracing::debug!("product {key}: {name}; own {own:.2} us, cublaslt{times} us");
        Ok(Some(found))
    }
}

/// All that a choice depends on, as one line of text.
fn key(shape: &Shape, kernel: &str) -> String {
    let Shape { m, n, k, batch, left, right, result, is_tf32, bias_align, residual_align, has_relu } = shape;
    let side = |matrix: &Matrix| {
        let Matrix { dtype, is_transposed, stride, batch_stride, align } = matrix;
        let lies = if *is_transposed { "columns" } else { "rows" };
        format!("{}:{lies}:{stride}:{batch_stride}:{align}", dtype.name())
    };
    let mut text = format!("{kernel} {m}x{n}x{k}x{batch} {} {} {}", side(left), side(right), side(result));
    for (name, has) in [(" tf32", *is_tf32), (" relu", *has_relu)] {
        text.push_str(if has { name } else { "" });
    }
    for (name, align) in [("bias", bias_align), ("residual", residual_align)] {
        if let Some(align) = align {
            // Writing to a text does not fail.
            let _ = write!(text, " {name}:{align}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::DType;

    #[test]
    fn the_environment_says_who_computes() {
        for (named, is_emulated, expected) in [
            (None, false, Mode::Fastest),
            (None, true, Mode::Own),
            (Some(""), true, Mode::Own),
            (Some("own"), false, Mode::Own),
            (Some("cublaslt"), true, Mode::Library),
            (Some("fastest"), true, Mode::Fastest),
        ] {
            assert_eq!(Mode::of(named, is_emulated).unwrap(), expected);
        }
        let e = Mode::of(Some("cudnn"), false).expect_err("no library of products");
        assert!(
            e.message().contains("TRISCORE_GPU_PRODUCTS is 'cudnn': expected own, cublaslt or fastest"),
            "{e}"
        );
    }

    #[test]
    fn products_that_differ_in_anything_have_keys_that_differ() {
        let side = Matrix { dtype: DType::F16, is_transposed: false, stride: 8, batch_stride: 0, align: 256 };
        let shape = Shape {
            m: 7,
            n: 8,
            k: 8,
            batch: 1,
            left: side,
            right: side,
            result: side,
            is_tf32: false,
            bias_align: None,
            residual_align: None,
            has_relu: false,
        };
        let transposed = Matrix { is_transposed: true, ..side };
        let shapes = [
            shape.clone(),
            Shape { m: 8, ..shape.clone() },
            Shape { batch: 2, ..shape.clone() },
            Shape { left: transposed, ..shape.clone() },
            Shape { right: transposed, ..shape.clone() },
            Shape { result: Matrix { dtype: DType::F32, ..side }, ..shape.clone() },
            Shape { right: Matrix { align: 2, ..side }, ..shape.clone() },
            Shape { bias_align: Some(16), ..shape.clone() },
            Shape { has_relu: true, ..shape.clone() },
            Shape { is_tf32: true, ..shape.clone() },
            Shape { residual_align: Some(16), ..shape.clone() },
        ];
        let keys = shapes.iter().map(|shape| key(shape, "gemm")).collect::<std::collections::BTreeSet<_>>();
        assert_eq!(keys.len(), shapes.len(), "{keys:?}");
        assert_eq!(key(&shape, "gemm"), "gemm 7x8x8x1 f16:rows:8:0:256 f16:rows:8:0:256 f16:rows:8:0:256");
        assert!(keys.iter().all(|key| !key.contains('\n')));
    }
}
