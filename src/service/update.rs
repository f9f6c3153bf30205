//! Changing a service that serves, without a gap.
//!
//! Labels change in the registry alone. Everything else is a new version: laid out beside the old one, in a
//! folder and a generation of its own, and then offered to the supervisor, which brings it up on the
//! service's socket (see `supervise`). Whoever is killed in the middle, the old version serves on or the new
//! one does; what was given up is swept by the next who looks.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::host::refuse_unserved;
use super::launch::{self, Version, check_models};
use super::{end, layout, observe};
use crate::deploy::DeploymentConfig;
use crate::error::{ErrorKind, Result, ScoreError};
use crate::registry::{
    CandidateStage, ModelRecord, ModelRef, ProcessStamp, ServiceRecord, ServiceState, ServiceStatus,
    ServiceUpdate, Workspace,
};

/// From the deployment file that a service has, as it was written, to the one that it shall have.
pub type ConfigChange<'a> = dyn Fn(&Value) -> Result<DeploymentConfig> + 'a;

/// What to change about a service; what is not given stays.
pub struct Update<'a> {
    /// The service's name.
    pub name: String,
    /// Other models.
    pub models: Option<Vec<ModelRef>>,
    /// Another deployment file, or parts of it.
    pub config: Option<&'a ConfigChange<'a>>,
    /// Tags, properties and the description.
    pub labels: ServiceUpdate,
    /// The program that runs services: this one.
    pub program: PathBuf,
    /// ONNX Runtime's library, if it was named.
    pub onnxruntime: Option<PathBuf>,
}

/// How an update goes on.
#[derive(Debug)]
pub enum Updated {
    /// It is done: only labels have changed.
    Labels(Box<ServiceRecord>),
    /// The new version is coming up beside the old one: [`wait_update`] for this generation.
    Rolling(i64),
    /// The service had no process, and is starting as it is now: [`wait`](super::wait) for it.
    Started(Box<ServiceRecord>),
}

/// Changes a service. Its name, port, keys (unless the new file brings some) and compute type stay.
///
/// # Errors
/// `BadInput`: nothing is to be changed, or a rule is broken. `BadConfig`, `Unsupported`: the new version cannot
/// be deployed as it is described. `Conflict`: another command or update is at work on it. `NotFound`.
pub fn update(workspace: &Workspace, update: &Update<'_>) -> Result<Updated> {
    let rolls = update.models.is_some() || update.config.is_some();
    if !rolls && update.labels == ServiceUpdate::default() {
        return Err(ScoreError::bad_input("No parameters provided to update."));
    }
    let name = &update.name;
    let operation = workspace.begin_operation(name, "updating")?;
    let old = workspace.show_service(name)?;
    end::abandon(workspace, &old)?;
    if !rolls {
        return workspace.update_service(name, &update.labels).map(|r| Updated::Labels(Box::new(r)));
    }
    let mut spec = old.spec.clone();
    update.labels.apply(&mut spec)?;
    let folder = layout::folder(workspace, name, old.generation)?;
    let (settings, old_config) = layout::read(&folder).map_err(|e| e.with_at(format!("service '{name}'")))?;
    let config = match update.config {
        Some(change) => change(old_config.raw())?,
        None => old_config.clone(),
    };
    check_change(&old_config, &config)?;
    refuse_unserved(&config)?;
    let keys = if update.config.is_some() { launch::keys(&config)? } else { Default::default() };
    let models = models(workspace, update, &old)?;
    spec.model_ids = models.iter().map(ModelRecord::id).collect();
    spec.deployment_config = config.redacted();
    // What the service says of itself; everything else among the properties is its owner's, and stays.
    let has_https = if config.ssl.enabled { "True" } else { "False" };
    spec.properties.insert("hasHttps".to_owned(), has_https.to_owned());
    let version = Version {
        models: &models,
        config: &config,
        // The port stays: whoever calls the service knows it.
        port: old.status.port.or(settings.port),
        address: settings.address,
        onnxruntime: update
            .onnxruntime
            .clone()
            .map(|p| p.canonicalize().unwrap_or(p))
            .or(settings.onnxruntime),
    };
    let generation = version.lay_out_beside(workspace, &old, &spec, keys)?;
    let Some(supervisor) = old.status.process.filter(ProcessStamp::is_alive) else {
        let begun =
            ServiceStatus { port: old.status.port, ..ServiceStatus::new(ServiceState::Transitioning) };
        let record = workspace.promote_candidate(name, generation, &begun)?;
        layout::sweep(workspace, name);
        let spawned = launch::spawn(workspace, &record, &update.program);
        let record = launch::started(workspace, &record, operation, spawned)?;
        return Ok(Updated::Started(Box::new(record)));
    };
    workspace.offer_candidate(name, generation)?;
    end::signal(supervisor.pid, libc::SIGHUP);
    // Until it is taken on it is this command's: the lock is kept for so long.
    taken_on(workspace, name, generation, supervisor)?;
    drop(operation);
    Ok(Updated::Rolling(generation))
}

/// What stays over an update must.
fn check_change(old: &DeploymentConfig, new: &DeploymentConfig) -> Result<()> {
    if old.compute != new.compute {
        return Err(ScoreError::bad_input(format!(
            "the service is of computeType {} and an update cannot make it {}: deploy it anew with --overwrite",
            old.compute, new.compute
        )));
    }
    if !old.auth.token && new.auth.token && new.auth.key {
        return Err(ScoreError::bad_input(
            "switching to token auth needs key auth off: add --auth-enabled false",
        ));
    }
    if !new.ssl.enabled && (new.ssl.certificate.is_some() || new.ssl.key.is_some()) {
        return Err(ScoreError::bad_input(
            "sslCertificate and sslKey are given while SSL is off: add --ssl-enabled true, or leave them out",
        ));
    }
    Ok(())
}

/// The models of the new version: others, or the same.
fn models(workspace: &Workspace, update: &Update<'_>, old: &ServiceRecord) -> Result<Vec<ModelRecord>> {
    let same = || old.spec.model_ids.iter().map(|id| id.parse()).collect::<Result<Vec<ModelRef>>>();
    let models = update.models.clone().map_or_else(same, Ok)?;
    check_models(&models)?;
    models.iter().map(|model| workspace.show(model)).collect()
}

/// Waits until the supervisor has taken the new version on.
fn taken_on(workspace: &Workspace, name: &str, generation: i64, supervisor: ProcessStamp) -> Result<()> {
    /// A supervisor does nothing that takes longer, but for waiting for the registry.
    const PATIENCE: Duration = Duration::from_secs(30);
    let since = Instant::now();
    loop {
        let mark = workspace.show_service(name)?.candidate.filter(|c| c.generation == generation);
        let Some(mark) = mark.filter(|c| c.stage != CandidateStage::Starting) else { return Ok(()) };
        if (!supervisor.is_alive() || since.elapsed() > PATIENCE) && workspace.drop_candidate(name, mark)? {
            layout::remove(&layout::folder(workspace, name, generation)?);
            let text = format!("the service's process {} does not take the new version on", supervisor.pid);
            return Err(ScoreError::unavailable(text).with_at(format!("service '{name}'")));
        }
        std::thread::sleep(Duration::from_millis(3));
    }
}

/// Waits until an update has come to its end. `tick` is called now and then.
///
/// # Errors
/// Why the update failed; the previous version serves on then. `Conflict` when somebody stopped, deleted or
/// deployed the service meanwhile.
pub fn wait_update(
    workspace: &Workspace,
    name: &str,
    generation: i64,
    mut tick: impl FnMut(Duration),
) -> Result<ServiceRecord> {
    let at = |e: ScoreError| e.with_at(format!("service '{name}'"));
    let since = Instant::now();
    loop {
        let gone = |e: ScoreError| match e.kind() {
            ErrorKind::NotFound => ScoreError::conflict(format!("service '{name}' was deleted meanwhile")),
            _ => e,
        };
        let record = observe::now(workspace, name, false).map_err(gone)?;
        if record.generation == generation {
            return Ok(record);
        }
        if let Some(failed) = record.failed_update.filter(|f| f.generation == generation) {
            let text = format!("the update failed and the previous version serves on: {}", failed.reason);
            return Err(at(ScoreError::new(failed.kind, text)));
        }
        if record.candidate.is_none_or(|c| c.generation != generation) {
            let text = "the update was given up: the service was stopped, started or deployed anew meanwhile";
            return Err(at(ScoreError::conflict(text)));
        }
        tick(since.elapsed());
        std::thread::sleep(Duration::from_millis(10));
    }
}
