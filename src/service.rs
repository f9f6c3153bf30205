//! A deployed service's life: from a model and a deployment file to a process that answers, and to its end.
//!
//! A service outlives the command that deployed it, and nothing watches over it but itself: there is no
//! daemon. So it is two processes. The **supervisor** is tiny, does nothing but wait, and starts the
//! other one again when it crashes or loses its device; the **host** loads the model and serves. The
//! registry holds what both were asked to do and how they stand, so that any later command can tell, and
//! can start a service again whose processes are gone.
//!
//! | file | idea |
//! |---|---|
//! | `layout` | where a service keeps its files |
//! | `launch` | deploy and start: from the registry to a running supervisor |
//! | `update` | the next version of a service beside the one that serves, and in its place |
//! | `supervise` | the supervisor |
//! | `probe` | whether the host still answers |
//! | `hosted` | the host under its supervisor |
//! | `inherit` | the socket and the pipe that the supervisor leaves to its host |
//! | `entry_script` | a script that is checked, with its Python, and its files laid out |
//! | `host` | load a model as its deployment file says, and serve it: in any process |
//! | `scripted` | the workers of an entry script, as its deployment file says |
//! | `config_file` | the variables that the Azure ML inference server took from `config.json` |
//! | `observe` | how a service stands now, and waiting for that to settle |
//! | `end` | stop and delete |
//! | `profile` | what a model needs, measured |
//! | `package` | a service as a folder from which docker builds an image |
//! | `logs` | the end of a service's log, and the traceback of what failed first |
//! | `secrets` | keys and tokens of a service that runs |
//! | `client` | the few HTTP requests that commands make to a service |
//! | `tls` | trusting exactly the certificate that a service was deployed with |
//!
//! A service's states are those of the registry's [`ServiceState`](crate::registry::ServiceState). Who
//! sets which: `launch` Transitioning; the host Healthy, Unschedulable and Failed; the supervisor
//! Unhealthy while it starts the host again, and Failed when it gives up; `observe` Failed when both
//! processes are gone without a word.

mod client;
mod config_file;
mod end;
mod entry_script;
mod host;
mod hosted;
mod inherit;
mod launch;
mod layout;
mod logs;
mod observe;
mod package;
mod probe;
mod profile;
mod scripted;
mod secrets;
mod supervise;
mod tls;
mod tree;
mod update;

pub use client::{Answer, Endpoint, post_score};
pub use end::{delete, stop};
pub use entry_script::{EntryScript, environments_in_use};
pub use host::{Event, Host, KeySource, Listen, OnRetired, Served};
pub use hosted::{Inherited, host_for_supervisor};
pub use launch::{Deployment, deploy, start};
pub use layout::log_path;
pub use logs::logs;
pub use observe::{address, endpoint, list, scoring_uri, show, swagger_uri, wait};
pub use package::{Package, Packaged, package};
pub use profile::{Load, Measured, ProfilePoint, ProfileRequest, Recommendation, profile, recommend};
pub use scripted::ScriptService;
pub use secrets::{AccessToken, access_token, credential, regenerate_key};
pub use supervise::supervise;
pub use update::{ConfigChange, Update, Updated, update, wait_update};
