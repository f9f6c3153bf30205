//! The accelerated door: how an entry script scores on the backend of its deployment.
//!
//! A script that says `import triscore` where it said `import onnxruntime` gets the same session with the same
//! `run`, and the model runs where the deployment file says: in this process, which holds the device. The
//! tensors do not travel: they lie in memory that both processes map, and what crosses the socket is a short
//! message that says where.
//!
//! ```text
//!  worker (Python)                                    host
//!  triscore.InferenceSession(path) ── open ─────────► Models: one compile a model, however many workers
//!  session.run(names, feeds)       ── run ──────────► Scorer::score on tensors in the worker's arenas
//!                                  ◄─ done, where ───  outputs written into the worker's arena
//! ```
//!
//! The worker makes the memory, because it knows when no array refers to it any more. The host believes
//! nothing of what a worker says: an arena is mapped only if it can never shrink (a shrunk file under a mapping
//! kills who reads it), every offset and length is checked, and what is written while it is read can make
//! an answer wrong and nothing worse: text, truth values and the integers that serve as indices are copied before
//! they are looked at.
//!
//! | file | idea |
//! |---|---|
//! | `models` | compiled models, shared by all workers of a service |
//! | `connection` | one worker's socket and the thread that serves it |
//! | `wire` | the messages |
//! | `arena` | a worker's memory, mapped |
//! | `values` | tensors out of arenas, and answers into them |

mod arena;
mod connection;
mod models;
mod values;
mod wire;

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use connection::Connection;

use super::DoorEnd;
use crate::error::{ErrorKind, Result, ScoreError};
use crate::scoring::{Health, Scorer};
use models::Models;

/// The environment variable that tells a worker which descriptor is its end of the door.
pub const DOOR_FD: &str = "TRISCORE_DOOR_FD";

/// One service's door: shared by its workers, and what keeps the models that they opened.
pub struct Door {
    models: Arc<Models>,
}

/// Makes the model in a file ready on the deployment's backend.
pub type OpenModel = dyn Fn(&Path) -> Result<Arc<dyn Scorer>> + Send + Sync;

impl Door {
    /// A door whose models are made ready by `open`. A relative path that comes without the folder of its
    /// worker is below `root`.
    ///
    /// `open` is called once a model, from the thread of the worker that opens it first; other workers wait.
    pub fn new(open: Arc<OpenModel>, root: PathBuf) -> Self {
        Self { models: Arc::new(Models::new(open, root)) }
    }

    /// A new worker's end of the door, to be inherited under the number in [`DOOR_FD`], and the connection
    /// that serves it for as long as it is kept.
    ///
    /// The worker's end is closed on exec until whoever starts the worker says otherwise.
    ///
    /// # Errors
    /// `Io` when there are no descriptors or threads left.
    pub fn connect(&self) -> Result<(OwnedFd, Connection)> {
        Connection::open(Arc::clone(&self.models))
    }

    /// How many models are ready.
    pub fn model_count(&self) -> usize {
        self.models.scorers().len()
    }

    /// Whether every model that was opened can be scored: the worst of their states. A lost device is for
    /// the service to act on; a script that opens the model again gets it compiled anew.
    pub fn health(&self) -> Health {
        let mut worst = Health::Ready;
        for scorer in self.models.scorers() {
            match scorer.health() {
                Health::Ready => {}
                lost @ Health::Lost { .. } => return lost,
                degraded @ Health::Degraded { .. } => worst = degraded,
            }
        }
        worst
    }
}

impl super::Door for Door {
    fn open(&self, _worker: u64) -> Result<DoorEnd> {
        let (descriptor, connection) = self.connect()?;
        Ok(DoorEnd { descriptor, guard: Box::new(connection) })
    }

    fn health(&self) -> Health {
        self.health()
    }
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Door({} models)", self.model_count())
    }
}

/// The error of a system call that failed.
fn system(doing: &str, error: rustix::io::Errno) -> ScoreError {
    let error = std::io::Error::from(error);
    ScoreError::new(ErrorKind::Io, format!("cannot {doing}: {error}")).with_source(error)
}
