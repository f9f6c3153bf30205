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
    CandidateMark, CandidateStage, Keys, Labels, ModelRecord, ModelRef, Operation, ProcessStamp, Secret,
    ServiceKeys, ServiceRecord, ServiceSpec, ServiceState, ServiceStatus, Workspace,
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
/// A service that is replaced serves on until the new one's files are there, and is then stopped: the new one
/// may need the very device that it holds. [`update`](super::update()) is the way without a gap.
///
/// # Errors
/// `BadInput`, `BadConfig`, `Unsupported`: it cannot be deployed as it is described. `Conflict`: there is
/// such a service, or another command is at work on it. `NotFound`: the model. `Io`.
pub fn deploy(workspace: &Workspace, deployment: &Deployment) -> Result<ServiceRecord> {
    let d = deployment;
    check_models(&d.models)?;
    refuse_unserved(&d.config)?;
    let operation = workspace.begin_operation(&d.name, "deploying")?;
    let models = d.models.iter().map(|model| workspace.show(model)).collect::<Result<Vec<_>>>()?;
    let old = match workspace.show_service(&d.name) {
        Ok(old) => Some(old),
        Err(e) if e.kind() == ErrorKind::NotFound => None,
        Err(e) => return Err(e),
    };
    let replace = d.overwrite || d.config.compute == ComputeType::Local;
    let keys = keys(&d.config)?;
    let mut properties = d.properties.clone();
    let has_https = if d.config.ssl.enabled { "True" } else { "False" };
    for (key, value) in [("hasInferenceSchema", "False"), ("hasHttps", has_https)] {
        properties.entry(key.to_owned()).or_insert_with(|| value.to_owned());
    }
    let spec = ServiceSpec {
        model_ids: models.iter().map(ModelRecord::id).collect(),
        description: d.description.clone(),
        tags: d.tags.clone(),
        properties,
        deployment_config: d.config.redacted(),
        ..ServiceSpec::new(&d.name, d.config.compute.to_string(), workspace.service_dir(&d.name)?)
    };
    let version = Version {
        models: &models,
        config: &d.config,
        port: d.port,
        address: d.address,
        // The service may be started again from another folder.
        onnxruntime: d.onnxruntime.as_ref().map(|p| p.canonicalize().unwrap_or_else(|_| p.clone())),
    };
    let Some(old) = old else {
        let record = workspace.insert_service(&spec, keys)?;
        let prepared =
            version.lay_out(workspace, &record).and_then(|()| spawn(workspace, &record, &d.program));
        return started(workspace, &record, operation, prepared);
    };
    if !replace {
        return Err(ScoreError::conflict(format!(
            "service '{}' exists and is {}: --overwrite replaces it, `triscore service update` changes it",
            d.name, old.status.state
        )));
    }
    let generation = version.lay_out_beside(workspace, &old, &spec, keys)?;
    end::stop_process(&old)?;
    let begun = ServiceStatus::new(ServiceState::Transitioning);
    let record = workspace.promote_candidate(&d.name, generation, &begun)?;
    layout::sweep(workspace, &d.name);
    let spawned = spawn(workspace, &record, &d.program);
    started(workspace, &record, operation, spawned)
}

/// Without an entry script exactly one model can be served.
pub(super) fn check_models(models: &[ModelRef]) -> Result<()> {
    match models {
        [_] => Ok(()),
        _ => Err(ScoreError::unsupported(format!(
            "{} models were named: without an entry script a service runs exactly one",
            models.len()
        ))),
    }
}

/// One version of a service, about to be laid out in a folder of its own.
pub(super) struct Version<'a> {
    pub(super) models: &'a [ModelRecord],
    pub(super) config: &'a DeploymentConfig,
    pub(super) port: Option<u16>,
    pub(super) address: IpAddr,
    pub(super) onnxruntime: Option<PathBuf>,
}

impl Version<'_> {
    /// Lays the files out that the host will need.
    fn lay_out(&self, workspace: &Workspace, record: &ServiceRecord) -> Result<()> {
        self.lay_out_in(workspace, &layout::folder(workspace, &record.spec.name, record.generation)?)
    }

    /// Lays them out as the next version of a service, whose serving one is not touched; gives its generation.
    pub(super) fn lay_out_beside(
        &self,
        workspace: &Workspace,
        old: &ServiceRecord,
        spec: &ServiceSpec,
        keys: Keys,
    ) -> Result<i64> {
        end::abandon(workspace, old)?;
        let name = &old.spec.name;
        let generation = workspace.put_candidate(spec, keys)?.generation;
        let folder = layout::folder(workspace, name, generation)?;
        if let Err(e) = self.lay_out_in(workspace, &folder) {
            let mark = CandidateMark { generation, stage: CandidateStage::Preparing };
            if let Err(e) = workspace.drop_candidate(name, mark) {
                tracing::warn!("cannot strike the update out that could not be laid out: {e}");
            }
            layout::remove(&folder);
            return Err(e);
        }
        Ok(generation)
    }

    fn lay_out_in(&self, workspace: &Workspace, folder: &Path) -> Result<()> {
        let [model] = self.models else {
            return Err(ScoreError::internal("a service without an entry script has one model"));
        };
        // The model is laid out below the folder, which creates it.
        let model_ref = ModelRef::new(&model.name, Some(model.version))?;
        let version_dir = workspace.materialise(&model_ref, folder)?;
        let model_dir = version_dir.join(model.top_name());
        let settings = Settings {
            model_dir: model_dir.strip_prefix(folder).unwrap_or(&model_dir).to_owned(),
            model_id: model.id(),
            port: self.port,
            address: self.address,
            onnxruntime: self.onnxruntime.clone(),
        };
        layout::write(folder, &settings, self.config)
    }
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
    end::abandon(workspace, &record)?;
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
pub(super) fn started(
    workspace: &Workspace,
    record: &ServiceRecord,
    operation: Operation,
    outcome: Result<()>,
) -> Result<ServiceRecord> {
    let name = &record.spec.name;
    if let Err(e) = &outcome {
        workspace.fail_service(name, record.generation, ServiceState::Failed, e)?;
    }
    drop(operation);
    outcome?;
    observe::show(workspace, name)
}

/// Starts the supervisor, which outlives this process, and waits until it has written down that it is there.
///
/// It says so itself (`Workspace::claim_service`): this process may be killed at any moment, and nobody would
/// know of a supervisor that only this one knows.
pub(super) fn spawn(workspace: &Workspace, record: &ServiceRecord, program: &Path) -> Result<()> {
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
pub(super) fn keys(config: &DeploymentConfig) -> Result<Keys> {
    let Some(primary) = &config.keys.primary else { return Ok(Keys::KeepOrGenerate) };
    let secondary = match &config.keys.secondary {
        Some(key) => Secret::new(key.expose())?,
        None => Secret::generate(),
    };
    Ok(Keys::Set(ServiceKeys { primary: Secret::new(primary.expose())?, secondary }))
}
