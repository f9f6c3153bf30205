//! From the registry to a running supervisor.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::host::refuse_unserved;
use super::layout::{self, Settings};
use super::{end, observe};
use crate::deploy::{ComputeType, DeploymentConfig};
use crate::error::{ErrorKind, Result, ScoreError};
use crate::registry::{
    Keys, Labels, ModelRef, Operation, ProcessStamp, Secret, ServiceKeys, ServiceRecord, ServiceSpec,
    ServiceState, ServiceStatus, Workspace,
};

/// What is to be deployed, and how.
#[derive(Debug)]
pub struct Deployment {
    /// The service's name: 3 to 32 lower-case letters, digits and dashes.
    pub name: String,
    /// The models; without an entry script exactly one.
    pub models: Vec<ModelRef>,
    /// The deployment file.
    pub config: DeploymentConfig,
    /// What it is, in words.
    pub description: Option<String>,
    /// Labels that may change.
    pub tags: Labels,
    /// Labels that never change.
    pub properties: Labels,
    /// Replace a service of that name. Local services are replaced in any case, as they always were.
    pub overwrite: bool,
    /// The port, before the file's.
    pub port: Option<u16>,
    /// The address to listen on.
    pub address: IpAddr,
    /// The program that runs services: this one.
    pub program: PathBuf,
    /// ONNX Runtime's library, if it was named.
    pub onnxruntime: Option<PathBuf>,
}

/// Deploys: writes the service down, lays its files out, and starts its supervisor. The state is
/// `Transitioning`; [`wait`](super::wait) for more.
///
/// # Errors
/// `BadInput`, `BadConfig`, `Unsupported`: it cannot be deployed as it is described. `Conflict`: there is
/// such a service, or another command is at work on it. `NotFound`: the model. `Io`.
pub fn deploy(workspace: &Workspace, deployment: &Deployment) -> Result<ServiceRecord> {
    let d = deployment;
    let [model] = d.models.as_slice() else {
        return Err(ScoreError::unsupported(format!(
            "{} models were named: without an entry script a service runs exactly one",
            d.models.len()
        )));
    };
    refuse_unserved(&d.config)?;
    let operation = workspace.begin_operation(&d.name, "deploying")?;
    let model = workspace.show(model)?;
    let old = match workspace.show_service(&d.name) {
        Ok(old) => Some(old),
        Err(e) if e.kind() == ErrorKind::NotFound => None,
        Err(e) => return Err(e),
    };
    let replace = d.overwrite || d.config.compute == ComputeType::Local;
    // Whatever may be refused is looked at before the old service is stopped.
    let keys = keys(&d.config)?;
    if let Some(old) = &old {
        if !replace {
            return Err(ScoreError::conflict(format!(
                "service '{}' exists and is {}: --overwrite replaces it",
                d.name, old.status.state
            )));
        }
        end::stop_process(old)?;
    }
    let mut properties = d.properties.clone();
    for (key, value) in [("hasInferenceSchema", "False"), ("hasHttps", "False")] {
        properties.entry(key.to_owned()).or_insert_with(|| value.to_owned());
    }
    let spec = ServiceSpec {
        model_ids: vec![model.id()],
        description: d.description.clone(),
        tags: d.tags.clone(),
        properties,
        deployment_config: d.config.redacted(),
        ..ServiceSpec::new(&d.name, d.config.compute.to_string(), workspace.service_dir(&d.name)?)
    };
    let record = match replace {
        true => workspace.replace_service(&spec, keys)?,
        false => workspace.insert_service(&spec, keys)?,
    };
    let prepare = || -> Result<()> {
        let folder = layout::folder(workspace, &d.name, record.generation)?;
        // The model is laid out below the folder, which creates it.
        let model_ref = ModelRef::new(&model.name, Some(model.version))?;
        let version_dir = workspace.materialise(&model_ref, &folder)?;
        let model_dir = version_dir.join(model.top_name());
        let settings = Settings {
            model_dir: model_dir.strip_prefix(&folder).unwrap_or(&model_dir).to_owned(),
            model_id: model.id(),
            port: d.port,
            address: d.address,
            // The service may be started again from another folder.
            onnxruntime: d.onnxruntime.as_ref().map(|p| p.canonicalize().unwrap_or_else(|_| p.clone())),
        };
        layout::write(&folder, &settings, &d.config)?;
        layout::remove_old(workspace, &record);
        spawn(workspace, &record, &d.program)
    };
    started(workspace, &record, operation, prepare())
}

/// Starts a service again whose processes are gone, as it was deployed.
///
/// # Errors
/// `Conflict` when it runs; `NotFound`; `Io`.
pub fn start(workspace: &Workspace, name: &str, program: &Path) -> Result<ServiceRecord> {
    let operation = workspace.begin_operation(name, "starting")?;
    let record = workspace.show_service(name)?;
    if let Some(process) = record.status.process.filter(ProcessStamp::is_alive) {
        return Err(ScoreError::conflict(format!(
            "service '{name}' runs already, as process {}",
            process.pid
        )));
    }
    // Half a deployment is not started.
    layout::read(&layout::folder(workspace, name, record.generation)?)
        .map_err(|e| e.with_at(format!("service '{name}'")))?;
    // The port stays: whoever calls the service knows it.
    let status =
        ServiceStatus { port: record.status.port, ..ServiceStatus::new(ServiceState::Transitioning) };
    workspace.set_service_status(name, record.generation, &status)?;
    let spawned = spawn(workspace, &record, program);
    started(workspace, &record, operation, spawned)
}

/// Ends the operation that has started a service, or has failed to.
fn started(
    workspace: &Workspace,
    record: &ServiceRecord,
    operation: Operation,
    outcome: Result<()>,
) -> Result<ServiceRecord> {
    let name = &record.spec.name;
    if let Err(e) = &outcome {
        let failed = ServiceState::Failed;
        workspace.set_service_state(name, record.generation, failed, Some(&e.to_string()))?;
    }
    drop(operation);
    outcome?;
    observe::show(workspace, name)
}

/// Starts the supervisor, which outlives this process, and waits until it has written down that it is there.
///
/// It says so itself (`Workspace::claim_service`): this process may be killed at any moment, and nobody would
/// know of a supervisor that only this one knows.
fn spawn(workspace: &Workspace, record: &ServiceRecord, program: &Path) -> Result<()> {
    /// A process that has not begun by then never will.
    const PATIENCE: Duration = Duration::from_secs(60);
    let name = &record.spec.name;
    let log = layout::open_log(workspace, name)?;
    let errors = log.try_clone().map_err(|e| ScoreError::io("open the log", Path::new("service.log"), e))?;
    let mut child = Command::new(program)
        .arg("--home")
        .arg(workspace.root())
        .args(["supervise", name, &record.generation.to_string()])
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        .spawn()
        .map_err(|e| ScoreError::io("start the service's process", program, e))?;
    let asked = Instant::now();
    loop {
        // In this order: what it wrote before it ended is there to be read.
        let ended = child.try_wait().ok().flatten();
        let status = workspace.show_service(name)?.status;
        if status.process.is_some() || status.state != ServiceState::Transitioning {
            return Ok(());
        }
        let why = match ended {
            Some(how) => format!("the service's process ended at once ({how})"),
            None if asked.elapsed() > PATIENCE => "the service's process does not begin".to_owned(),
            None => {
                std::thread::sleep(Duration::from_millis(3));
                continue;
            }
        };
        let _ = child.kill();
        let tail = layout::log_tail(workspace, name, 3).join(" | ");
        return Err(ScoreError::internal(format!("{why}. Its log ends with: {tail}")));
    }
}

/// The file's keys before those that the service has, before new ones.
fn keys(config: &DeploymentConfig) -> Result<Keys> {
    let Some(primary) = &config.keys.primary else { return Ok(Keys::KeepOrGenerate) };
    let secondary = match &config.keys.secondary {
        Some(key) => Secret::new(key.expose())?,
        None => Secret::generate(),
    };
    Ok(Keys::Set(ServiceKeys { primary: Secret::new(primary.expose())?, secondary }))
}
