//! Registered models and services: what Azure's cloud workspace kept, in a folder.
//!
//! A [`Workspace`] is shared by any number of processes, each of which may be killed at any moment.
//! Everything here follows from that:
//! - Rows stand in one SQLite database and change in transactions. Files of models are kept by content
//!   and written before the row that names them, so a crash leaves the old state or the new, and at
//!   most files that nobody names, which are collected later.
//! - Versions count up within the transaction that registers, and are never given twice.
//! - Locks are the kernel's and end with the process that holds them.
//! - Waiting is bounded ([`WorkspaceOptions::busy_timeout`]); what is held too long is a `Conflict`.
//!
//! ```
//! use triscore::registry::{ModelRef, NewModel, Workspace};
//!
//! # fn main() -> triscore::Result<()> {
//! # let dir = tempfile::tempdir().map_err(|e| triscore::ScoreError::internal(e.to_string()))?;
//! # let file = dir.path().join("model.onnx");
//! # std::fs::write(&file, "not looked into").map_err(|e| triscore::ScoreError::internal(e.to_string()))?;
//! let workspace = Workspace::open(dir.path().join("workspace"))?;
//! let model = workspace.register(&NewModel::from_path("digits", &file))?;
//! assert_eq!(model.id(), "digits:1");
//!
//! // What a service sees: $AZUREML_MODEL_DIR/model.onnx.
//! let model_dir = workspace.materialise(&"digits".parse::<ModelRef>()?, &dir.path().join("service"))?;
//! assert!(model_dir.ends_with("azureml-models/digits/1") && model_dir.join("model.onnx").exists());
//! # Ok(())
//! # }
//! ```

mod blobs;
mod candidates;
mod clock;
mod db;
mod fault;
mod fetch;
mod files;
mod keys;
pub(crate) mod lock;
mod metadata;
mod mlflow;
mod models;
mod names;
mod operation;
mod process;
mod record;
mod runs;
mod schema;
mod service;
mod services;
mod source;
mod workspace;

pub use blobs::{Collected, Progress};
pub use candidates::Candidate;
pub(crate) use clock::now;
pub use keys::{KeyKind, Secret, ServiceKeys};
pub use metadata::ModelMetadata;
pub use mlflow::{BestBy, Goal};
pub use models::{ModelFilter, ModelSource, ModelUpdate, NewModel};
pub use names::{Framework, ModelRef, check_service_name};
pub use operation::Operation;
pub use process::ProcessStamp;
pub use record::{Labels, ModelFile, ModelRecord, Resources};
pub use runs::{ResolvedRun, RunSource};
pub use service::{
    CandidateMark, CandidateStage, FailedUpdate, Keys, ServiceFilter, ServiceRecord, ServiceSpec,
    ServiceState, ServiceStatus, ServiceUpdate,
};
pub use source::SourceLimits;
pub use workspace::{Workspace, WorkspaceOptions};
