//! What a service's Python is to be, whatever a configuration called it.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::deploy::Warning;

/// A service's environment: the variables of its processes and the Python that runs its script.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct EnvironmentSpec {
    /// `name`.
    pub name: Option<String>,
    /// `version`.
    pub version: Option<String>,
    /// `environmentVariables`, without those that a service sets itself ([`owns_variable`]).
    pub variables: BTreeMap<String, String>,
    /// The interpreter and its packages.
    pub python: PythonSpec,
    /// What only a container can honour.
    pub image: ImageSpec,
    /// What cannot be honoured here, each said once.
    pub notes: Vec<Warning>,
}

/// The interpreter and its packages.
#[derive(Debug, Clone, PartialEq)]
pub enum PythonSpec {
    /// `userManagedDependencies`: an interpreter as it is; nothing is installed.
    UserManaged {
        /// `interpreterPath`: a path, or a name to be looked for on `PATH`.
        interpreter: String,
    },
    /// An interpreter with the packages that are listed.
    Managed(ManagedPython),
}

impl Default for PythonSpec {
    fn default() -> Self {
        Self::Managed(ManagedPython::default())
    }
}

/// Packages as a conda specification lists them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ManagedPython {
    /// What follows `python` in the list: `=3.8.5`, `>=3.8,<3.11`; `None` takes any.
    pub python_version: Option<String>,
    /// conda packages as written, without `python`.
    pub conda: Vec<String>,
    /// pip requirements as written. **They may hold passwords**, in the addresses of packages.
    pub pip: Vec<String>,
    /// pip's options among them (`--extra-index-url …`). **They may hold passwords.**
    pub pip_options: Vec<String>,
    /// conda's channels.
    pub channels: Vec<String>,
}

/// What is said of the container image. It has no effect on services of this machine; the build context of
/// a packaged service is made from it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImageSpec {
    /// `docker.baseImage`, with its registry in front if one is named.
    pub base: Option<String>,
    /// `docker.baseDockerfile`: the text of a Dockerfile.
    pub dockerfile: Option<String>,
    /// What `extraDockerfileSteps` names: lines of a Dockerfile.
    pub extra_steps: Option<String>,
    /// `enableGpu`, `gpuSupport`: the image is to bring CUDA along.
    pub gpu: bool,
}

/// Whether a service sets this variable for its processes itself, so that no configuration may.
pub fn owns_variable(name: &str) -> bool {
    const OWN: [&str; 4] =
        ["AML_APP_ROOT", "AZUREML_ENTRY_SCRIPT", "AZUREML_MODEL_DIR", "AZUREML_SOURCE_DIRECTORY"];
    OWN.contains(&name) || name.starts_with("TRISCORE_")
}

impl EnvironmentSpec {
    /// As an `environment` object that needs no file beside it.
    pub(super) fn to_json(&self) -> Value {
        let mut out = Map::new();
        for (key, value) in [("name", &self.name), ("version", &self.version)] {
            if let Some(text) = value {
                out.insert(key.to_owned(), text.clone().into());
            }
        }
        out.insert("environmentVariables".to_owned(), json!(self.variables));
        let python = match &self.python {
            PythonSpec::UserManaged { interpreter } => {
                json!({ "userManagedDependencies": true, "interpreterPath": interpreter })
            }
            PythonSpec::Managed(managed) => json!({ "condaDependencies": managed.to_json() }),
        };
        out.insert("python".to_owned(), python);
        let mut docker = Map::new();
        for (key, value) in [("baseImage", &self.image.base), ("baseDockerfile", &self.image.dockerfile)] {
            if let Some(text) = value {
                docker.insert(key.to_owned(), text.clone().into());
            }
        }
        if self.image.gpu {
            docker.insert("gpuSupport".to_owned(), true.into());
        }
        if !docker.is_empty() {
            out.insert("docker".to_owned(), docker.into());
        }
        out.into()
    }
}

impl ManagedPython {
    fn to_json(&self) -> Value {
        let python = self.python_version.iter().map(|version| json!(format!("python{version}")));
        let conda = self.conda.iter().map(|package| json!(package));
        let pip = self.pip_options.iter().chain(&self.pip).collect::<Vec<_>>();
        let pip = (!pip.is_empty()).then(|| json!({ "pip": pip }));
        json!({
            "channels": self.channels,
            "dependencies": python.chain(conda).chain(pip).collect::<Vec<_>>(),
        })
    }
}
