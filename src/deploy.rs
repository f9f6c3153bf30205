//! Deployment files, and the adapter that picks a backend from them.
//!
//! A `deploymentconfig.json` that was written for Azure ML works unchanged: [`DeploymentConfig`] reads it,
//! names everything that is wrong with it in one message, and says what has no effect off Azure.
//! [`Adapter`] turns what it asks for into a backend and devices of this machine, or into a reason.
//! [`InferenceConfig`] reads the file beside it, which says what script answers, and with which Python.
//!
//! The adapter is where policy lives, and its one rule is that **a file never runs on less than it
//! asks for** unless the file itself says so: `gpuCores: 1` on a machine without a GPU is an error with the
//! reason in it, not a slow service. `"triscore": {"policy": "prefer"}` is how a file says so.

mod adapter;
mod config;
mod inference;
mod machine;
mod report;
mod requirement;
mod text;

pub use adapter::{Adapter, Compiled, Selection, backends, backends_with, select};
pub use config::{
    AcceleratorRequest, Auth, Batching, ComputeType, DeploymentConfig, Keys, LivenessProbe, Policy,
    Resources, Scaling, Secret, Ssl, Timeouts, TriscoreOptions,
};
pub use inference::{
    EnvironmentSpec, ImageSpec, InferenceConfig, InferenceOverrides, ManagedPython, PythonSpec, check_syntax,
    owns_variable,
};
pub use machine::Machine;
pub use report::Warning;
pub use requirement::Requirement;
#[cfg(feature = "server")]
pub(crate) use text::{MAX_BYTES as MAX_SMALL_FILE_BYTES, read as read_small_file};
