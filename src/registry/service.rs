//! A deployed service as the registry knows it: what was asked for, and how it stands.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde_json::{Value, json};

use super::keys::ServiceKeys;
use super::process::ProcessStamp;
use super::record::{Labels, add_properties, change_tags, label_faults};
use crate::error::{ErrorKind, Result, ScoreError};

/// The states of Azure's cloud services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ServiceState {
    /// Being deployed or changed.
    Transitioning,
    /// Answers.
    Healthy,
    /// Runs and does not answer.
    Unhealthy,
    /// Could not be deployed, or ended by itself.
    Failed,
    /// What it needs is not there now.
    Unschedulable,
    /// Being deleted.
    Deleting,
}

impl ServiceState {
    /// Every state.
    pub const ALL: [ServiceState; 6] = [
        Self::Transitioning,
        Self::Healthy,
        Self::Unhealthy,
        Self::Failed,
        Self::Unschedulable,
        Self::Deleting,
    ];

    /// Its name as Azure's cloud services spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Transitioning => "Transitioning",
            Self::Healthy => "Healthy",
            Self::Unhealthy => "Unhealthy",
            Self::Failed => "Failed",
            Self::Unschedulable => "Unschedulable",
            Self::Deleting => "Deleting",
        }
    }

    /// Its name as Azure's local services spell it. They knew no [`Unschedulable`](Self::Unschedulable); it is
    /// spelled alike.
    pub fn local_name(self) -> &'static str {
        match self {
            Self::Transitioning => "deploying",
            Self::Healthy => "running",
            Self::Unhealthy => "unknown",
            Self::Failed => "failed",
            Self::Unschedulable => "unschedulable",
            Self::Deleting => "deleted",
        }
    }

    /// Whether a deployment has come to its end in this state: what a client waits for.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Healthy | Self::Failed)
    }
}

impl fmt::Display for ServiceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for ServiceState {
    type Err = ScoreError;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|s| s.name() == text).ok_or_else(|| {
            ScoreError::new(
                ErrorKind::BadInput,
                format!("unknown state of a service: '{}'", text.escape_debug()),
            )
        })
    }
}

/// How a service stands. Only who runs it knows; see [`Workspace::set_service_status`].
///
/// [`Workspace::set_service_status`]: super::Workspace::set_service_status
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceStatus {
    /// The state.
    pub state: ServiceState,
    /// Why it is in it.
    pub reason: Option<String>,
    /// Where it listens.
    pub port: Option<u16>,
    /// The process that runs it.
    pub process: Option<ProcessStamp>,
    /// What it scores on, in words: backend and device.
    pub device: Option<String>,
    /// What kind of error the reason is, where it is one.
    pub error_kind: Option<ErrorKind>,
}

impl ServiceStatus {
    /// That state, and nothing else known.
    pub fn new(state: ServiceState) -> Self {
        Self { state, reason: None, port: None, process: None, device: None, error_kind: None }
    }

    /// The same with a reason.
    #[must_use]
    pub fn with_reason(mut self, reason: impl Into<String>) -> Self {
        self.reason = Some(reason.into());
        self
    }

    /// The same with an error as its reason.
    #[must_use]
    pub fn with_error(mut self, e: &ScoreError) -> Self {
        self.error_kind = Some(e.kind());
        self.with_reason(e.to_string())
    }
}

/// A service to be written down, when its deployment begins.
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceSpec {
    /// The name.
    pub name: String,
    /// The models, as `name:version`, in the order they were given. Version 0 is a local path that is not
    /// registered.
    pub model_ids: Vec<String>,
    /// Where it runs, as Azure names it: `Local`, `ACI`, `AKS`.
    pub compute_type: String,
    /// What it is, in words.
    pub description: Option<String>,
    /// Labels that may change.
    pub tags: Labels,
    /// Labels that may be added, and never change.
    pub properties: Labels,
    /// The deployment configuration as the user wrote it. Its `keys` are left out when it is stored; give
    /// them as [`Keys::Set`].
    pub deployment_config: Value,
    /// The folder with its files.
    pub source_dir: PathBuf,
}

impl ServiceSpec {
    /// A service of that name, of that kind, in that folder; nothing else said.
    pub fn new(
        name: impl Into<String>,
        compute_type: impl Into<String>,
        source_dir: impl Into<PathBuf>,
    ) -> Self {
        Self {
            name: name.into(),
            model_ids: Vec::new(),
            compute_type: compute_type.into(),
            description: None,
            tags: Labels::new(),
            properties: Labels::new(),
            deployment_config: Value::Null,
            source_dir: source_dir.into(),
        }
    }
}

/// A deployed service.
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceRecord {
    /// What was asked for.
    pub spec: ServiceSpec,
    /// How it stands.
    pub status: ServiceStatus,
    /// Which deployment of this workspace it is. Later ones have higher numbers, whatever their name,
    /// and none is given twice.
    pub generation: i64,
    /// When it was first deployed: ISO 8601, UTC.
    pub created_time: String,
    /// When anything of it changed last: ISO 8601, UTC.
    pub updated_time: String,
    /// The version that is to take its place, if one is under way.
    pub candidate: Option<CandidateMark>,
    /// How its last update failed, if it did.
    pub failed_update: Option<FailedUpdate>,
}

/// How far a candidate is: the next version of a service, beside the one that serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CandidateStage {
    /// A command lays its files out.
    Preparing,
    /// It waits for the service's supervisor to take it on.
    Waiting,
    /// The supervisor has taken it on: it loads.
    Starting,
}

impl CandidateStage {
    /// Every stage.
    pub const ALL: [CandidateStage; 3] = [Self::Preparing, Self::Waiting, Self::Starting];

    /// Its name in the registry.
    pub fn name(self) -> &'static str {
        match self {
            Self::Preparing => "Preparing",
            Self::Waiting => "Waiting",
            Self::Starting => "Starting",
        }
    }
}

/// That a service has a candidate, and how far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CandidateMark {
    /// The generation that it will be.
    pub generation: i64,
    /// How far it is.
    pub stage: CandidateStage,
}

/// Why a candidate was given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedUpdate {
    /// The generation that it would have been.
    pub generation: i64,
    /// What kind of error it was.
    pub kind: ErrorKind,
    /// The error, in words.
    pub reason: String,
}

impl ServiceRecord {
    /// Everything that is known of it, but for the keys.
    pub fn to_json(&self) -> Value {
        let (spec, status) = (&self.spec, &self.status);
        json!({
            "name": spec.name,
            "description": spec.description,
            "tags": spec.tags,
            "properties": spec.properties,
            "computeType": spec.compute_type,
            "state": status.state.name(),
            "localState": status.state.local_name(),
            "error": status.reason,
            "modelIds": spec.model_ids,
            "deploymentConfig": spec.deployment_config,
            "sourceDir": spec.source_dir.to_string_lossy(),
            "port": status.port,
            "pid": status.process.map(|p| p.pid),
            "device": status.device,
            "generation": self.generation,
            "createdTime": self.created_time,
            "updatedTime": self.updated_time,
        })
    }
}

/// Which keys a service gets when it is deployed.
#[derive(Debug, Clone, Default)]
pub enum Keys {
    /// Those it has; new ones if it has none.
    #[default]
    KeepOrGenerate,
    /// These.
    Set(ServiceKeys),
}

/// What to change about a service without deploying it anew; what is not given stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServiceUpdate {
    /// Tags to put, over those that are there.
    pub add_tags: Labels,
    /// Tags to take away, by key.
    pub remove_tags: Vec<String>,
    /// Properties to add, none of which may be there.
    pub add_properties: Labels,
    /// A new description.
    pub description: Option<String>,
}

impl ServiceUpdate {
    /// Makes the changes to what is asked for.
    ///
    /// # Errors
    /// `BadInput` when a rule is broken or a tag is not there, `Conflict` when a property is there already.
    pub fn apply(&self, spec: &mut ServiceSpec) -> Result<()> {
        let faults = label_faults("tag", &self.add_tags).or(label_faults("property", &self.add_properties));
        if let Some(fault) = faults {
            return Err(ScoreError::bad_input(fault));
        }
        change_tags(&mut spec.tags, &self.add_tags, &self.remove_tags)?;
        add_properties(&mut spec.properties, &self.add_properties)?;
        if self.description.is_some() {
            spec.description.clone_from(&self.description);
        }
        Ok(())
    }
}

/// Which services to list; every part that is given must fit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServiceFilter {
    /// Of that kind; upper and lower case do not matter.
    pub compute_type: Option<String>,
    /// With that model, as `name:version`.
    pub model_id: Option<String>,
    /// With any version of that model.
    pub model_name: Option<String>,
    /// With these tags, each `key` or `key=value`.
    pub tags: Vec<String>,
    /// With these properties, each `key` or `key=value`.
    pub properties: Vec<String>,
}

impl ServiceFilter {
    pub(super) fn fits(&self, spec: &ServiceSpec) -> bool {
        let of_model = |name: &String| {
            spec.model_ids.iter().any(|id| id.rsplit_once(':').is_some_and(|(model, _)| model == name))
        };
        self.compute_type.as_ref().is_none_or(|kind| kind.eq_ignore_ascii_case(&spec.compute_type))
            && self.model_id.as_ref().is_none_or(|id| spec.model_ids.contains(id))
            && self.model_name.as_ref().is_none_or(of_model)
            && super::record::labels_match(&spec.tags, &self.tags)
            && super::record::labels_match(&spec.properties, &self.properties)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_have_two_spellings() {
        for (state, name, local, is_final) in [
            (ServiceState::Transitioning, "Transitioning", "deploying", false),
            (ServiceState::Healthy, "Healthy", "running", true),
            (ServiceState::Unhealthy, "Unhealthy", "unknown", false),
            (ServiceState::Failed, "Failed", "failed", true),
            (ServiceState::Unschedulable, "Unschedulable", "unschedulable", false),
            (ServiceState::Deleting, "Deleting", "deleted", false),
        ] {
            assert_eq!((state.name(), state.local_name(), state.is_final()), (name, local, is_final));
            assert_eq!(name.parse::<ServiceState>().unwrap(), state);
        }
        assert_eq!("healthy".parse::<ServiceState>().unwrap_err().kind(), ErrorKind::BadInput);
    }

    #[test]
    fn filters() {
        let mut spec = ServiceSpec::new("abc", "ACI", "/s");
        spec.model_ids = vec!["m:1".into(), "n:12".into()];
        spec.tags.insert("stage".into(), "prod".into());
        let some = |text: &str| Some(text.to_owned());
        let none = ServiceFilter::default;
        for (filter, fits) in [
            (none(), true),
            (ServiceFilter { compute_type: some("aci"), model_id: some("m:1"), ..none() }, true),
            (ServiceFilter { compute_type: some("AKS"), model_id: some("m:1"), ..none() }, false),
            (ServiceFilter { model_id: some("n:1"), ..none() }, false),
            (ServiceFilter { model_name: some("n"), tags: vec!["stage".into()], ..none() }, true),
            (ServiceFilter { model_name: some("o"), ..none() }, false),
            (ServiceFilter { tags: vec!["stage=test".into()], ..none() }, false),
        ] {
            assert_eq!(filter.fits(&spec), fits, "{filter:?}");
        }
    }
}
