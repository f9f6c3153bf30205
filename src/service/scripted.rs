//! The workers of an entry script, as its deployment file says: how many, with what around them, within which
//! bounds.
//!
//! Azure ran a script in containers: so many replicas, in each of them so many workers, each worker one request
//! at a time. Here a worker is a process, whatever container it would have been in.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::deploy::{Adapter, ComputeType, DeploymentConfig, InferenceConfig, Scaling};
use crate::environment::Environment;
use crate::error::{Result, ScoreError};
use crate::model::Model;
use crate::script::{LogSink, Pool, ScriptOptions, runtime};

/// How many workers a replica has, where `WORKER_COUNT` says nothing.
const WORKER_COUNT: usize = 1;
/// More processes than any machine here would run well.
const MOST_WORKERS: usize = 1024;

/// An entry script as it is served.
#[derive(Clone)]
pub struct ScriptService {
    /// The script and its variables.
    pub inference: InferenceConfig,
    /// Its Python; held as long as it may be started.
    pub environment: Arc<Environment>,
    /// `AML_APP_ROOT`: where [`InferenceConfig::azureml_entry_script`] begins.
    pub app_root: PathBuf,
    /// `AZUREML_MODEL_DIR`.
    pub model_dir: Option<PathBuf>,
    /// A folder for the worker's own files.
    pub runtime: PathBuf,
    /// Where the workers' lines go; standard error, unless given.
    pub log: Option<LogSink>,
}

impl std::fmt::Debug for ScriptService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ScriptService")
            .field("app_root", &self.app_root)
            .field("entry_script", &self.inference.azureml_entry_script())
            .field("environment", &self.environment)
            .field("model_dir", &self.model_dir)
            .finish_non_exhaustive()
    }
}

impl ScriptService {
    /// Starts the workers, and comes back once the script's `init()` has returned in each of them.
    ///
    /// # Errors
    /// As [`Pool::start`]; `BadConfig` for variables that mean nothing.
    pub(super) fn start(
        &self,
        service: &str,
        config: &DeploymentConfig,
        adapter: Adapter,
    ) -> Result<Arc<Pool>> {
        let worker = runtime::lay_out(&self.runtime)?;
        let mut options = ScriptOptions::new(
            &self.environment.python,
            worker,
            &self.app_root,
            self.inference.azureml_entry_script(),
        );
        service.clone_into(&mut options.service_name);
        options.environment = self.variables(service);
        let per_replica = self.workers_per_replica(config)?;
        options.workers = replicas(config).saturating_mul(per_replica).min(MOST_WORKERS);
        options.scoring_timeout_ms = self.scoring_timeout_ms(config)?;
        options.max_queue_wait_ms = max_queue_wait_ms(config, options.scoring_timeout_ms);
        if let Some(seconds) = self.number("WORKER_TIMEOUT")? {
            options.init_timeout_ms = seconds.saturating_mul(1000);
        }
        options.memory_limit_bytes = memory_limit_bytes(config).map(|all| all / per_replica.max(1) as u64);
        if let Some(log) = &self.log {
            options.log = log.clone();
        }
        let (config, root) = (config.clone(), self.app_root.clone());
        let open = move |path: &Path| {
            let model = Model::open(path)?;
            let mut config = config.clone();
            // A script may open several models, and not all of them have a dimension of each name.
            config.triscore.buckets = config.triscore.buckets.of(model.signature());
            let compiled = adapter.compile(&config, &model)?;
            let device = &compiled.selection;
            tracing::info!(model = %path.display(), %device, "the script has opened a model");
            Ok(compiled.scorer)
        };
        options.door = Some(Arc::new(crate::script::door::Door::new(Arc::new(open), root)));
        Pool::start(options)
    }

    /// How long a request may take: what the script's variables say, but no longer than a front end would have
    /// waited that the deployment file speaks of.
    pub(super) fn scoring_timeout_ms(&self, config: &DeploymentConfig) -> Result<u64> {
        let stated = u64::from(config.timeouts.scoring_timeout_ms);
        Ok(match self.number("SCORING_TIMEOUT_MS")? {
            Some(own) if config.states("scoringTimeoutMs") => own.min(stated),
            Some(own) => own,
            None => stated,
        })
    }

    /// The origins whose pages may call.
    pub(super) fn cors_origins(&self) -> Vec<String> {
        let origins = self.variable("AML_CORS_ORIGINS").unwrap_or_default();
        origins.split(',').map(str::trim).filter(|o| !o.is_empty()).map(str::to_owned).collect()
    }

    /// The path that everything is served below besides, where the script's author has chosen one.
    pub(super) fn path_prefix(&self) -> Option<String> {
        let prefix = self.variable("SERVICE_PATH_PREFIX")?.trim_matches('/');
        (!prefix.is_empty()).then(|| format!("/{prefix}"))
    }

    /// A worker takes one request at a time, so that many workers are that many at once.
    fn workers_per_replica(&self, config: &DeploymentConfig) -> Result<usize> {
        let asked =
            self.number("WORKER_COUNT")?.map_or(WORKER_COUNT, |n| usize::try_from(n).unwrap_or(usize::MAX));
        let most = match config.states("maxConcurrentRequestsPerContainer") {
            true => config.timeouts.max_concurrent_requests_per_container as usize,
            false => MOST_WORKERS,
        };
        if asked > most {
            tracing::warn!(
                "WORKER_COUNT is {asked} and only {most} of them are started: more could not work at once"
            );
        }
        Ok(asked.min(most).max(1))
    }

    fn variable(&self, name: &str) -> Option<&str> {
        self.inference.environment.variables.get(name).map(String::as_str)
    }

    /// A variable that must be a number from 1 on.
    fn number(&self, name: &str) -> Result<Option<u64>> {
        let Some(text) = self.variable(name) else { return Ok(None) };
        match text.trim().parse::<u64>() {
            Ok(number) if number > 0 => Ok(Some(number)),
            _ => {
                let shown = text.chars().take(32).collect::<String>().escape_debug().to_string();
                let text =
                    format!("environmentVariables.{name}: expected a whole number from 1 on, got '{shown}'");
                Err(ScoreError::bad_config(text))
            }
        }
    }

    /// What a worker finds in its environment, the user's own variables first.
    fn variables(&self, service: &str) -> Vec<(OsString, OsString)> {
        let spec = &self.inference.environment;
        let mut all =
            spec.variables.iter().map(|(k, v)| (k.into(), v.into())).collect::<Vec<(OsString, OsString)>>();
        let mut put = |name: &str, value: OsString| {
            if self.variable(name).is_none() {
                all.push((name.into(), value));
            }
        };
        put("SERVICE_NAME", service.into());
        put("WORKSPACE_NAME", "triscore".into());
        if let Some(dir) = &self.model_dir {
            put("AZUREML_MODEL_DIR", dir.into());
        }
        if let Some(name) = self.inference.azureml_source_directory() {
            put("AZUREML_SOURCE_DIRECTORY", name.into());
        }
        all
    }
}

/// So many replicas at the start; more do not come with the load.
fn replicas(config: &DeploymentConfig) -> usize {
    let replicas = match config.scaling {
        Scaling::Fixed { replicas } => replicas,
        Scaling::Auto { min_replicas, .. } => min_replicas,
    };
    (replicas as usize).max(1)
}

/// The memory that one replica may take. A request that is no limit is none here either; a container
/// instance got just what it asked for.
fn memory_limit_bytes(config: &DeploymentConfig) -> Option<u64> {
    let asked = &config.resources;
    let stated = asked.memory_is_stated && config.compute == ComputeType::Aci;
    let gb = asked.memory_gb_limit.or(stated.then_some(asked.memory_gb))?;
    Some((gb * 1e9) as u64)
}

/// How long a request may wait for its turn. Only a cluster's front end had a bound by itself; on one machine,
/// and in a container instance, callers waited as long as they cared to.
pub(super) fn max_queue_wait_ms(config: &DeploymentConfig, scoring_timeout_ms: u64) -> u64 {
    let cluster = matches!(config.compute, ComputeType::Aks | ComputeType::AksEndpoint);
    match cluster || config.states("maxQueueWaitMs") {
        true => config.timeouts.max_queue_wait_ms.into(),
        false => scoring_timeout_ms,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deploy::PythonSpec;
    use serde_json::{Value, json};

    fn script(variables: &[(&str, &str)]) -> ScriptService {
        let config = json!({
            "entryScript": "score.py", "sourceDirectory": "/src",
            "environment": {
                "python": {"userManagedDependencies": true, "interpreterPath": "python3"},
                "environmentVariables": variables.iter().copied().collect::<std::collections::BTreeMap<_, _>>(),
            },
        });
        let inference = InferenceConfig::parse(config.to_string().as_bytes()).unwrap();
        assert!(matches!(inference.environment.python, PythonSpec::UserManaged { .. }));
        let home = tempfile::tempdir().unwrap();
        let environment =
            crate::environment::ensure(&inference.environment, home.path(), &mut |_| {}).unwrap();
        ScriptService {
            inference,
            environment: environment.into(),
            app_root: "/app".into(),
            model_dir: None,
            runtime: "/runtime".into(),
            log: None,
        }
    }

    fn config(file: Value) -> DeploymentConfig {
        DeploymentConfig::parse(file.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn files_and_variables_say_how_many_and_how_long() {
        let local = json!({"computeType": "local"});
        let aks = |keys: Value| {
            let mut file = json!({"computeType": "aks", "autoscaleEnabled": false});
            file.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
            file
        };
        // Variables, file; workers in all, scoring timeout.
        let rows = [
            (&[][..], local.clone(), 1, 60_000),
            (&[("WORKER_COUNT", "3"), ("SCORING_TIMEOUT_MS", "500")], local, 3, 500),
            (&[("WORKER_COUNT", "2")], aks(json!({"numReplicas": 4})), 8, 60_000),
            (
                &[("WORKER_COUNT", "8"), ("SCORING_TIMEOUT_MS", "5000")],
                aks(json!({"maxConcurrentRequestsPerContainer": 2, "scoringTimeoutMs": 1000})),
                2,
                1000,
            ),
        ];
        for (variables, file, workers, timeout_ms) in rows {
            let (script, config) = (script(variables), config(file));
            let all = replicas(&config) * script.workers_per_replica(&config).unwrap();
            assert_eq!((all, script.scoring_timeout_ms(&config).unwrap()), (workers, timeout_ms));
        }
        for (file, wait_ms) in [
            (json!({"computeType": "local"}), 7),
            (json!({"computeType": "aci"}), 7),
            (json!({"computeType": "aks"}), 500),
            (json!({"computeType": "aks", "maxQueueWaitMs": 20}), 20),
        ] {
            assert_eq!(max_queue_wait_ms(&config(file), 7), wait_ms);
        }
        let wrong = script(&[("WORKER_COUNT", "many")]);
        let e = wrong.workers_per_replica(&config(json!({"computeType": "local"}))).unwrap_err();
        assert_eq!(
            e.message(),
            "environmentVariables.WORKER_COUNT: expected a whole number from 1 on, got 'many'"
        );
    }

    #[test]
    fn only_what_limits_memory_is_a_limit() {
        let asks = |kind: &str, keys: Value| {
            memory_limit_bytes(&config(json!({"computeType": kind, "containerResourceRequirements": keys})))
        };
        assert_eq!(asks("aks", json!({"cpu": 1, "memoryInGB": 2})), None);
        assert_eq!(
            asks("aks", json!({"cpu": 1, "memoryInGB": 2, "memoryInGBLimit": 3})),
            Some(3_000_000_000)
        );
        assert_eq!(asks("aci", json!({"cpu": 1, "memoryInGB": 2})), Some(2_000_000_000));
        assert_eq!(memory_limit_bytes(&config(json!({"computeType": "aci"}))), None);
    }

    #[test]
    fn a_script_finds_its_own_variables_and_the_services() {
        let variables = script(&[("SERVICE_NAME", "mine"), ("A", "b")]).variables("digits");
        let value =
            |name: &str| variables.iter().find(|(n, _)| n == name).unwrap().1.to_str().unwrap().to_owned();
        assert_eq!((&*value("SERVICE_NAME"), &*value("A")), ("mine", "b"));
        assert_eq!(value("AZUREML_SOURCE_DIRECTORY"), "src");
        assert!(!variables.iter().any(|(n, _)| n == "AZUREML_MODEL_DIR"), "there is no model");
        let origins = script(&[("AML_CORS_ORIGINS", "https://a.example, *,")]).cors_origins();
        assert_eq!(origins, ["https://a.example", "*"]);
        for (prefix, path) in [("", None), ("a/b", Some("/a/b")), ("/a/", Some("/a"))] {
            assert_eq!(script(&[("SERVICE_PATH_PREFIX", prefix)]).path_prefix().as_deref(), path);
        }
    }
}
