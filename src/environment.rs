//! The Python environments of entry scripts: built once from what an inference configuration lists, kept
//! by content, and shared by every service that asks for the same.
//!
//! Where Azure built a container image in the cloud, this makes a virtual environment on this machine: the
//! interpreter that was asked for (or, with a word about it, another), and the packages as pip finds them
//! with the user's own configuration. Its name is a hash over all that decides what is in it, so a second
//! deployment finds it ready, and a change of one requirement makes another beside it.
//!
//! | file | idea |
//! |---|---|
//! | `requirements` | conda's and pip's lists in pip's words |
//! | `interpreter` | finding a Python |
//! | `store` | the folders, whole or not, in use or not |
//! | `run` | running `venv` and `pip`, within bounds |
//! | `build` | making one, and what to say when that fails |
//! | `redact` | no passwords in logs and messages |

mod build;
mod interpreter;
mod redact;
mod requirements;
mod run;
mod store;

pub use interpreter::{MIN_PYTHON, PYTHON_VARIABLE};
pub use requirements::Requirements;
pub use store::{Kept, list, remove_unused};

pub(crate) use redact::redact;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use crate::child;
use crate::deploy::{EnvironmentSpec, PythonSpec, Warning};
use crate::error::{Result, ScoreError};
use crate::registry::lock::Lock;
use crate::scoring::Call;
use interpreter::{Interpreter, Search};
use store::Place;

/// The layout of what is built; part of the hash, so that a change makes new ones.
const FORMAT: u32 = 1;

/// How long one build may take, if the call does not say less.
const BUILD_TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// A Python that runs an entry script. While it is held, [`remove_unused`] leaves it alone.
#[derive(Debug)]
#[non_exhaustive]
pub struct Environment {
    /// The interpreter.
    pub python: PathBuf,
    /// Its version: `3.11.7`.
    pub python_version: String,
    /// What it is kept under; of an interpreter that the user looks after, a hash of its path and version.
    pub hash: String,
    /// The virtual environment; `None` for an interpreter that the user looks after.
    pub folder: Option<PathBuf>,
    /// Whether it was built just now.
    pub built: bool,
    /// Where the environment is not what was asked for, in words.
    pub notes: Vec<Warning>,
    _in_use: Option<Lock>,
}

/// What is happening while an environment is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress<'a> {
    /// Another process builds the same one; said every few seconds.
    Waiting {
        /// Since when.
        seconds: u64,
    },
    /// The environment is not what was asked for; said before it is built.
    Note(&'a Warning),
    /// An empty environment is made.
    Creating {
        /// The interpreter's version.
        python_version: &'a str,
    },
    /// pip looks for a package.
    Collecting(&'a str),
    /// pip downloads a file.
    Downloading(&'a str),
    /// pip builds a package from its source, which may take long.
    Compiling(&'a str),
    /// pip installs what it found, so many packages.
    Installing {
        /// How many.
        packages: usize,
    },
}

impl std::fmt::Display for Progress<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Waiting { seconds } => {
                write!(f, "another process builds the same environment ({seconds} s)")
            }
            Self::Note(warning) => write!(f, "warning: {warning}"),
            Self::Creating { python_version } => {
                write!(f, "making an environment with Python {python_version}")
            }
            Self::Collecting(package) => write!(f, "collecting {package}"),
            Self::Downloading(file) => write!(f, "downloading {file}"),
            Self::Compiling(package) => write!(f, "building {package} from its source"),
            Self::Installing { packages } => write!(f, "installing {packages} packages"),
        }
    }
}

/// What is to be built: everything that decides what is in an environment.
#[derive(Debug)]
struct Plan {
    interpreter: Interpreter,
    requirements: Requirements,
    notes: Vec<Warning>,
    /// 64 digits.
    hash: String,
}

impl Plan {
    fn of(python: &crate::deploy::ManagedPython) -> Result<Self> {
        let mut requirements = Requirements::of(python)?;
        let (interpreter, instead) = Search::of_this_process().find(python.python_version.as_deref())?;
        let mut notes = std::mem::take(&mut requirements.notes);
        notes.extend(instead);
        let mut lines = requirements.lines.clone();
        lines.sort();
        let hash = hash_of(&(FORMAT, &interpreter.path, interpreter.version, &requirements.options, lines))?;
        Ok(Self { interpreter, requirements, notes, hash })
    }
}

/// The environment that a configuration asks for, built if it is not there.
///
/// # Errors
/// - `BadConfig`: pip refuses a requirement, in pip's own words.
/// - `Unavailable`: no interpreter, or no package index, can be reached.
/// - `DeadlineExceeded`: it took longer than half an hour.
/// - `Conflict`: another process has held the same environment for that long.
/// - `Io`: the home folder cannot be written, or is full.
///
/// Where there is a log, the error names it.
pub fn ensure(
    spec: &EnvironmentSpec,
    home: &Path,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Environment> {
    ensure_within(spec, home, &Call::new(), progress)
}

/// [`ensure`], given up when the call is cancelled or its time is up: pip is killed, and nothing is left that
/// looks ready.
///
/// # Errors
/// As [`ensure`], and `Cancelled`.
pub fn ensure_within(
    spec: &EnvironmentSpec,
    home: &Path,
    call: &Call,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Environment> {
    let python = match &spec.python {
        PythonSpec::UserManaged { interpreter } => return user_managed(interpreter),
        PythonSpec::Managed(python) => python,
    };
    let mut plan = Plan::of(python)?;
    let place = Place::new(home, &plan.hash);
    let since = Instant::now();
    let (mut built, mut told) = (false, None);
    loop {
        call.check()?;
        // Whole environments are used side by side; only to build one it must be held alone.
        if place.mark().is_some()
            && let Some(lock) = place.try_lock(false)?
        {
            if is_ready(&place, &plan) {
                let notes = std::mem::take(&mut plan.notes);
                return Ok(Environment {
                    python: place.python(),
                    python_version: plan.interpreter.version_text(),
                    folder: Some(place.folder()),
                    hash: place.hash,
                    built,
                    notes,
                    _in_use: Some(lock),
                });
            }
            if built {
                return Err(ScoreError::internal("the environment was built, and its Python does not run")
                    .with_at(place.log().display().to_string()));
            }
        }
        if let Some(_alone) = place.try_lock(true)? {
            // Somebody may have finished it just now.
            if !is_ready(&place, &plan) {
                let left = call.deadline().map(|at| at.saturating_duration_since(Instant::now()));
                let bounded = call.clone().with_timeout(left.map_or(BUILD_TIMEOUT, |l| l.min(BUILD_TIMEOUT)));
                plan.notes.iter().for_each(|note| progress(Progress::Note(note)));
                build::build(&place, &plan, &bounded, progress)?;
                built = true;
            }
            continue;
        }
        if since.elapsed() > BUILD_TIMEOUT {
            let message =
                "another process has held this environment for half an hour; try again when it is done";
            return Err(ScoreError::conflict(message).with_at(place.folder().display().to_string()));
        }
        let seconds = since.elapsed().as_secs();
        if told.is_none_or(|last| seconds >= last + 5) {
            told = Some(seconds);
            progress(Progress::Waiting { seconds });
        }
        // Not all at the same moment again.
        std::thread::sleep(Duration::from_millis(50 + u64::from(std::process::id() % 50)));
    }
}

/// The environment that a configuration asks for if it is there already; nothing is built.
///
/// # Errors
/// As [`ensure`], for what is found out before anything is built.
pub fn find(spec: &EnvironmentSpec, home: &Path) -> Result<Option<Environment>> {
    let python = match &spec.python {
        PythonSpec::UserManaged { interpreter } => return user_managed(interpreter).map(Some),
        PythonSpec::Managed(python) => python,
    };
    let plan = Plan::of(python)?;
    let place = Place::new(home, &plan.hash);
    if place.mark().is_none() {
        return Ok(None);
    }
    let Some(lock) = place.try_lock(false)? else { return Ok(None) };
    Ok(is_ready(&place, &plan).then(|| Environment {
        python: place.python(),
        python_version: plan.interpreter.version_text(),
        folder: Some(place.folder()),
        hash: place.hash,
        built: false,
        notes: plan.notes,
        _in_use: Some(lock),
    }))
}

/// The version of the interpreter that an environment would be built with.
///
/// # Errors
/// As [`ensure`], for what is found out before anything is built.
pub fn python_version(spec: &EnvironmentSpec) -> Result<String> {
    match &spec.python {
        PythonSpec::UserManaged { interpreter } => Ok(user_managed(interpreter)?.python_version),
        PythonSpec::Managed(python) => Ok(Plan::of(python)?.interpreter.version_text()),
    }
}

/// The version of Python that a configuration names, as far as a minor version: `3.9`. Not looked for on this
/// machine.
pub fn pinned_version(spec: &EnvironmentSpec) -> Option<String> {
    match &spec.python {
        PythonSpec::Managed(python) => interpreter::pinned(python.python_version.as_deref()?),
        PythonSpec::UserManaged { .. } => None,
    }
}

impl Environment {
    /// What is installed, one requirement a line, as `pip freeze` writes it.
    ///
    /// # Errors
    /// `Unavailable` when the interpreter has no pip.
    pub fn freeze(&self) -> Result<Vec<String>> {
        let mut command = Command::new(&self.python);
        command.args(["-I", "-m", "pip", "--disable-pip-version-check", "freeze"]);
        let ended = child::run(&mut command, Duration::from_secs(60), 4 << 20);
        let ended = ended.map_err(|e| ScoreError::io("run pip", &self.python, e))?;
        if !ended.is_good() {
            let why = redact(ended.err.lines().last().unwrap_or("it says nothing")).into_owned();
            let message = format!("pip cannot tell what is installed: {why}");
            return Err(ScoreError::unavailable(message).with_at(self.python.display().to_string()));
        }
        let lines = ended.out.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
        Ok(lines.map(|line| redact(line).into_owned()).collect())
    }
}

fn user_managed(interpreter: &str) -> Result<Environment> {
    let found = Search::of_this_process().user_managed(interpreter)?;
    let hash = hash_of(&(FORMAT, &found.path, found.version))?;
    Ok(Environment {
        python_version: found.version_text(),
        python: found.path,
        hash: hash.chars().take(store::HASH_DIGITS).collect(),
        folder: None,
        built: false,
        notes: Vec::new(),
        _in_use: None,
    })
}

fn hash_of(content: &impl serde::Serialize) -> Result<String> {
    use std::fmt::Write;
    let bytes = serde_json::to_vec(content)
        .map_err(|e| ScoreError::internal(format!("cannot name an environment: {e}")))?;
    Ok(Sha256::digest(bytes).iter().fold(String::new(), |mut out, byte| {
        let _ = write!(out, "{byte:02x}"); // a String never refuses
        out
    }))
}

/// Whether an environment is whole, the right one, and its Python still runs: the one that it was made with may
/// have been removed.
fn is_ready(place: &Place, plan: &Plan) -> bool {
    if place.mark().is_none_or(|mark| mark.hash != plan.hash) {
        return false;
    }
    let mut command = Command::new(place.python());
    command.args(["-I", "-S", "-c", "import sys; print('.'.join(map(str, sys.version_info[:3])))"]);
    let ended = child::run(&mut command, Duration::from_secs(30), 1 << 10);
    ended.is_ok_and(|ended| ended.is_good() && ended.out.trim() == plan.interpreter.version_text())
}
