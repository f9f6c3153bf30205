//! `deploymentconfig.json`, as Azure ML's tools of version 1 wrote and read it.
//!
//! Reading is three steps, each in its own file: bytes to a checked value (`deploy::text`), the value against the
//! table of keys (`schema`), and the rules between keys with the defaults (`build`). The typed
//! result says what the file means; [`DeploymentConfig::states`] and [`DeploymentConfig::raw`] say what it
//! literally holds, for the few who must tell a default from a statement.

mod build;
mod parts;
mod schema;

pub use parts::{
    AcceleratorRequest, Auth, Batching, ComputeType, Keys, LivenessProbe, Policy, Resources, Scaling, Secret,
    Ssl, Timeouts, TriscoreOptions,
};

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde_json::Value;

use super::report::{self, Report, Warning, describe};
use super::text;
use crate::error::{Result, ScoreError};

/// A deployment configuration, checked, with its defaults.
///
/// Unknown keys and keys without effect do not fail: they are in [`warnings`](Self::warnings), and whoever
/// reads a file is to print them. `null` is the same as absent.
///
/// ```
/// use triscore::deploy::{DeploymentConfig, Requirement};
/// use triscore::BackendKind;
///
/// let file = br#"{"computeType": "AKS", "gpuCores": 1, "numReplicas": 2}"#;
/// let config = DeploymentConfig::parse(file)?;
/// assert_eq!(Requirement::of(&config), Requirement::Require { kind: BackendKind::Gpu, count: 1 });
/// # Ok::<(), triscore::ScoreError>(())
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DeploymentConfig {
    /// `computeType`.
    pub compute: ComputeType,
    /// `port`, for local services; `None` takes a free one.
    pub port: Option<u16>,
    /// `containerResourceRequirements`.
    pub resources: Resources,
    /// The accelerators that are asked for.
    pub request: AcceleratorRequest,
    /// Who may call.
    pub auth: Auth,
    /// The keys that the file brings along.
    pub keys: Keys,
    /// Transport encryption.
    pub ssl: Ssl,
    /// How many replicas.
    pub scaling: Scaling,
    /// Timeouts and concurrency.
    pub timeouts: Timeouts,
    /// `livenessProbeRequirements`.
    pub liveness: LivenessProbe,
    /// The `triscore` object.
    pub triscore: TriscoreOptions,
    /// What its author should know.
    pub warnings: Vec<Warning>,
    raw: Raw,
}

impl DeploymentConfig {
    /// Reads JSON or YAML. Touches no file: whether the files of `sslEnabled` are there is asked by
    /// [`read`](Self::read) alone.
    ///
    /// # Errors
    /// `BadConfig` with every violation, one a line, each with key, expected and got; `TooLarge`.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        Self::checked(bytes, false)
    }

    /// Reads a file.
    ///
    /// # Errors
    /// As [`parse`](Self::parse), with the path; `NotFound` or `Io` when it cannot be read; `BadConfig` also
    /// when `sslCertificate` or `sslKey` names no file.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bytes = text::read(path, "read the deployment configuration")?;
        Self::checked(&bytes, true).map_err(|e| e.with_at(path.display().to_string()))
    }

    /// Reads a file without checking what it says, for [`from_value`](Self::from_value).
    ///
    /// # Errors
    /// `BadConfig` with the path when it is neither JSON nor YAML; `TooLarge`, `NotFound` or `Io`.
    pub fn value(path: impl AsRef<Path>) -> Result<Value> {
        let path = path.as_ref();
        let bytes = text::read(path, "read the deployment configuration")?;
        text::parse(&bytes).map_err(|e| e.with_at(path.display().to_string()))
    }

    /// Checks what a file holds, or what was made of it.
    ///
    /// # Errors
    /// As [`read`](Self::read), without the path.
    pub fn from_value(root: Value) -> Result<Self> {
        Self::checked_value(root, true)
    }

    fn checked(bytes: &[u8], look_for_files: bool) -> Result<Self> {
        Self::checked_value(text::parse(bytes)?, look_for_files)
    }

    fn checked_value(root: Value, look_for_files: bool) -> Result<Self> {
        if !root.is_object() {
            let got = describe(&root, true);
            return Err(ScoreError::bad_config(format!("expected an object of keys and values, got {got}")));
        }
        let mut report = Report::default();
        let compute = build::compute_type(&root, &mut report);
        let fields = schema::check(&root, compute, &mut report);
        let mut config = build::config(&fields, compute, &mut report);
        if look_for_files {
            build::look_for_files(&config.ssl, &mut report);
        }
        config.warnings = report.close()?;
        config.raw = Raw(root);
        Ok(config)
    }

    /// The file as it was read. **It holds the keys**; [`redacted`](Self::redacted) does not.
    pub fn raw(&self) -> &Value {
        &self.raw.0
    }

    /// The file as it was read, fit to be shown: every value below `keys`, and `sslKey`, is replaced, and so is
    /// every unknown key's, of which nobody knows what it holds.
    pub fn redacted(&self) -> Value {
        schema::redacted(&self.raw.0)
    }

    /// Whether the file itself gives a value for this key (`"autoScaler.minReplicas"`), rather than a default.
    pub fn states(&self, path: &str) -> bool {
        let mut names = path.split('.');
        names.try_fold(&self.raw.0, |value, name| value.get(name)).is_some_and(|v| !v.is_null())
    }
}

/// The file, kept out of `Debug`: it holds secrets.
#[derive(Clone, Default)]
struct Raw(Value);

impl fmt::Debug for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} keys", self.0.as_object().map_or(0, serde_json::Map::len))
    }
}

/// The values that may be read, by path: known, applicable, not null, and of the right type.
#[derive(Debug, Default)]
struct Fields<'v>(BTreeMap<&'static str, &'v Value>);

impl<'v> Fields<'v> {
    fn insert(&mut self, path: &'static str, value: &'v Value) {
        self.0.insert(path, value);
    }

    fn has(&self, path: &str) -> bool {
        self.0.contains_key(path)
    }

    fn flag(&self, path: &str) -> Option<bool> {
        self.0.get(path)?.as_bool()
    }

    fn number(&self, path: &str) -> Option<f64> {
        self.0.get(path)?.as_f64()
    }

    /// A whole number; the table keeps every one of them within 32 bits.
    fn count(&self, path: &str) -> Option<u32> {
        u32::try_from(schema::whole(self.0.get(path)?)?).ok()
    }

    fn size(&self, path: &str) -> Option<usize> {
        self.count(path).map(|n| n as usize)
    }

    fn text(&self, path: &str) -> Option<&'v str> {
        self.0.get(path)?.as_str()
    }

    /// Lists of whole numbers, by their names.
    fn lengths(&self, path: &str) -> impl Iterator<Item = (&'v str, Vec<usize>)> {
        let all = self.0.get(path).and_then(|value| value.as_object()).into_iter().flatten();
        all.map(|(name, list)| {
            let numbers = list.as_array().into_iter().flatten().filter_map(schema::whole);
            (name.as_str(), numbers.filter_map(|n| usize::try_from(n).ok()).collect())
        })
    }

    fn list(&self, path: &str) -> Option<impl Iterator<Item = &'v str>> {
        Some(self.0.get(path)?.as_array()?.iter().filter_map(Value::as_str))
    }
}

#[cfg(test)]
mod tests;
