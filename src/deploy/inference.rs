//! `inferenceconfig.json`: the script that answers a service's requests, and the Python that runs it.
//!
//! The file is read as Azure ML's tools of version 1 read it (JSON or YAML, unknown keys ignored with a
//! warning, `null` the same as absent), with the command line's flags over it. What such a file leaves to
//! other files is read along with it, so that the result stands for itself:
//! [`InferenceConfig::to_json`] is the same configuration in one file, fit to be kept with a service.
//!
//! | file | idea |
//! |---|---|
//! | `section` | one object of the file, read key by key |
//! | `script` | the entry script, its folder, and whether it is Python |
//! | `sources` | where the environment is described: an object, a folder, or the keys of old |
//! | `environment` | the `environment` object |
//! | `conda` | a conda specification |
//! | `spec` | what comes out |

mod conda;
mod environment;
mod script;
mod section;
mod sources;
mod spec;

pub use script::check_syntax;
pub use spec::{EnvironmentSpec, ImageSpec, ManagedPython, PythonSpec, owns_variable};

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::report::{Report, Warning, describe};
use super::text;
use crate::error::{ErrorKind, Result, ScoreError};
use script::Places;
use section::Section;

/// An inference configuration, checked.
///
/// ```
/// use triscore::deploy::{InferenceConfig, PythonSpec};
///
/// let file = br#"{
///     "entryScript": "score.py",
///     "sourceDirectory": "./source_dir",
///     "environment": {"name": "my-env", "python": {"condaDependencies": {
///         "dependencies": ["python=3.8", {"pip": ["azureml-defaults", "numpy"]}]
///     }}}
/// }"#;
/// let config = InferenceConfig::parse(file)?;
/// assert_eq!(config.azureml_entry_script(), "source_dir/score.py");
/// let PythonSpec::Managed(python) = &config.environment.python else { unreachable!() };
/// assert_eq!(python.pip, ["azureml-defaults", "numpy"]);
/// # Ok::<(), triscore::ScoreError>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct InferenceConfig {
    /// `entryScript`: relative to the source directory, or the file's name where there is none.
    pub entry_script: PathBuf,
    /// `sourceDirectory`, from the root: a folder that is shipped whole.
    pub source_directory: Option<PathBuf>,
    /// The entry script's file, from the root.
    pub script: PathBuf,
    /// `description`.
    pub description: Option<String>,
    /// The Python that runs the script.
    pub environment: EnvironmentSpec,
    /// What its author should know; what of the environment cannot be honoured here stands in
    /// [`EnvironmentSpec::notes`].
    pub warnings: Vec<Warning>,
}

/// What a command line says over the file. Flags win over the file's values; only an `environment` object in
/// the file wins over the three flags that name an environment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs)] // the names are those of the file's keys
pub struct InferenceOverrides {
    pub entry_script: Option<String>,
    pub source_directory: Option<String>,
    pub conda_file: Option<String>,
    pub runtime: Option<String>,
    pub extra_dockerfile_steps: Option<String>,
    pub enable_gpu: Option<bool>,
    pub cuda_version: Option<String>,
    pub base_image: Option<String>,
    pub base_image_registry: Option<String>,
    /// A registered environment: there are none here, and the error says what to do instead.
    pub environment_name: Option<String>,
    /// Its version.
    pub environment_version: Option<String>,
    /// A folder with `azureml_environment.json` and `conda_dependencies.yml`, or one of the two.
    pub environment_directory: Option<PathBuf>,
}

const KEYS: &[&str] = &[
    "entryScript",
    "sourceDirectory",
    "environment",
    "description",
    "runtime",
    "condaFile",
    "extraDockerfileSteps",
    "extraDockerFileSteps",
    "enableGpu",
    "cudaVersion",
    "baseImage",
    "baseImageRegistry",
];

impl InferenceConfig {
    /// Reads JSON or YAML, and touches no other file: a script need not exist, and a file that names another
    /// one to be read (`condaFile`) is an error. [`read`](Self::read) looks at those.
    ///
    /// # Errors
    /// `BadConfig` with every violation, one a line; `TooLarge`.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        Self::build(&parse(bytes)?, &InferenceOverrides::default(), None)
    }

    /// Reads a file and those that it names. Paths are relative to the working directory, as Azure's tools
    /// had it; what is not there and is there beside the file is taken, with a warning.
    ///
    /// # Errors
    /// As [`parse`](Self::parse), with the path; `BadConfig` also for what is named and is not there;
    /// `NotFound` or `Io` when the file cannot be read.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        Self::resolve(Some(path.as_ref()), &InferenceOverrides::default())
    }

    /// Reads a file, if there is one, with a command line's flags over it.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn resolve(path: Option<&Path>, flags: &InferenceOverrides) -> Result<Self> {
        let Some(path) = path else {
            return Self::build(&Value::Object(Map::new()), flags, Some(Places { beside: None }));
        };
        let beside = path.parent().map(|p| if p.as_os_str().is_empty() { Path::new(".") } else { p });
        text::read(path, "read the inference configuration")
            .and_then(|bytes| parse(&bytes))
            .and_then(|root| Self::build(&root, flags, Some(Places { beside })))
            .map_err(|e| e.with_at(path.display().to_string()))
    }

    fn build(root: &Value, flags: &InferenceOverrides, places: Option<Places<'_>>) -> Result<Self> {
        let mut report = Report::default();
        let file = Section::new("", root, KEYS, &mut report);
        let entry = file.line("entryScript", &mut report);
        let folder = file.line("sourceDirectory", &mut report);
        let description = file.text("description", &mut report).map(str::to_owned);
        let entry = flags.entry_script.as_deref().or(entry);
        let folder = flags.source_directory.as_deref().or(folder);
        let script = script::script(entry, folder, places, &mut report);
        let environment = sources::environment(&file, flags, places, script.folder.as_deref(), &mut report);
        let warnings = report.close().map_err(|e| {
            ScoreError::bad_config(format!("Invalid inference configuration.\n{}", e.message()))
        })?;
        Ok(Self {
            entry_script: script.entry,
            source_directory: script.folder,
            script: script.file,
            description,
            environment,
            warnings,
        })
    }

    /// The name of the source directory, which is also its name in the service's folder: what
    /// `AZUREML_SOURCE_DIRECTORY` says.
    pub fn azureml_source_directory(&self) -> Option<String> {
        let name = self.source_directory.as_deref()?.file_name()?;
        Some(name.to_string_lossy().into_owned())
    }

    /// The entry script from the service's folder: what `AZUREML_ENTRY_SCRIPT` says.
    pub fn azureml_entry_script(&self) -> String {
        let entry = self.entry_script.to_string_lossy();
        match self.azureml_source_directory() {
            Some(folder) => format!("{folder}/{entry}"),
            None => entry.into_owned(),
        }
    }

    /// The same configuration as one file that needs no other; [`parse`](Self::parse) reads it. What
    /// `extraDockerfileSteps` names is left out: only an image takes it, never a service. **It holds
    /// the values of variables and the addresses of package indexes**, which may be secret.
    pub fn to_json(&self) -> Value {
        let text = |path: &Path| Value::from(path.to_string_lossy());
        let mut out = Map::new();
        let entry = if self.source_directory.is_some() { &self.entry_script } else { &self.script };
        out.insert("entryScript".to_owned(), text(entry));
        if let Some(folder) = &self.source_directory {
            out.insert("sourceDirectory".to_owned(), text(folder));
        }
        if let Some(description) = &self.description {
            out.insert("description".to_owned(), description.clone().into());
        }
        out.insert("environment".to_owned(), self.environment.to_json());
        out.into()
    }
}

fn parse(bytes: &[u8]) -> Result<Value> {
    let root = text::parse(bytes).map_err(|e| match e.kind() {
        ErrorKind::BadConfig => ScoreError::bad_config(format!(
            "Error parsing --inference-config-file. Must be valid JSON or YAML file. {}",
            e.message()
        )),
        _ => e,
    })?;
    match root.is_object() {
        true => Ok(root),
        false => {
            let got = describe(&root, true);
            Err(ScoreError::bad_config(format!("expected an object of keys and values, got {got}")))
        }
    }
}

#[cfg(test)]
mod tests;
