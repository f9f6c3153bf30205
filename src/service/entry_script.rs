//! An entry script on its way into a service: checked, its Python built, its files laid out.
//!
//! ```text
//! <generation>/app/                     what the script knows as AML_APP_ROOT
//! <generation>/app/azureml-models/…     the models
//! <generation>/app/<source directory>/… the script and what comes along with it
//! <generation>/runtime/                 the worker that runs it
//! <generation>/inferenceconfig.json     for the owner alone: variables may be secret
//! ```
//!
//! Everything is a copy: what is edited after a deployment changes the next one.

use std::fs;
use std::path::{Path, PathBuf};

use super::{layout, tree};
use crate::deploy::{self, InferenceConfig, PythonSpec};
use crate::environment::{self, Environment, Progress};
use crate::error::{Result, ScoreError};
use crate::registry::Workspace;

/// The folder of the models in an application's.
pub(super) const MODELS: &str = "azureml-models";

/// An entry script that can be served: it is Python, and there is a Python that runs it.
#[derive(Debug)]
pub struct EntryScript {
    inference: InferenceConfig,
    /// Held until the service is there: nobody removes it meanwhile.
    environment: Environment,
}

impl EntryScript {
    /// Builds the environment unless it is there already, and has its Python look at the script without
    /// running it.
    ///
    /// # Errors
    /// As [`environment::ensure`]; `BadConfig` with line and reason when the script is not Python.
    pub fn prepare(
        inference: InferenceConfig,
        home: &Path,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Self> {
        let environment = environment::ensure(&inference.environment, home, progress)?;
        deploy::check_syntax(&environment.python, &inference.script)?;
        Ok(Self { inference, environment })
    }

    /// What it is made from.
    pub fn inference(&self) -> &InferenceConfig {
        &self.inference
    }

    /// The Python that runs it.
    pub fn environment(&self) -> &Environment {
        &self.environment
    }

    /// Both.
    pub fn into_parts(self) -> (InferenceConfig, Environment) {
        (self.inference, self.environment)
    }

    /// Whether the script describes its input with a schema, as far as its text says.
    pub(super) fn has_schema(&self) -> bool {
        fs::read_to_string(&self.inference.script).is_ok_and(|text| text.contains("inference_schema"))
    }

    /// Lays the files out in a deployment's folder, all but the models; gives the folder for those.
    pub(super) fn lay_out(&self, folder: &Path, home: &Path) -> Result<PathBuf> {
        let app = app_root(folder);
        fs::create_dir_all(&app).map_err(|e| ScoreError::io("create the folder", &app, e))?;
        if self.inference.source_directory.as_deref().is_some_and(|source| tree::is_within(home, source)) {
            let text = "sourceDirectory holds triscore's own folder, which would be copied into itself: choose \
                        another --home, or move the script into a folder of its own";
            return Err(ScoreError::bad_config(text).with_at(home.display().to_string()));
        }
        copy_sources(&self.inference, &app)?;
        crate::script::runtime::lay_out(&runtime(folder))?;
        let mut kept = within(self.inference.clone(), &app);
        if let PythonSpec::UserManaged { interpreter } = &mut kept.environment.python {
            // The service may be started again with another PATH.
            *interpreter = self.environment.python.to_string_lossy().into_owned();
        }
        layout::write_json(&folder.join(FILE), &kept.to_json())?;
        Ok(app)
    }
}

const FILE: &str = "inferenceconfig.json";

/// The environments that services need, those that do not run now among them.
///
/// # Errors
/// `Io`, `BadConfig` and what [`environment::find`] says: then nobody can tell, and none may be removed.
pub fn environments_in_use(workspace: &Workspace) -> Result<Vec<String>> {
    let services = workspace.root().join("services");
    let below = |folder: PathBuf| fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path());
    let mut used = Vec::new();
    // Versions that are coming up too: whatever is laid out.
    for folder in below(services).flat_map(below).filter(|folder| folder.join(FILE).is_file()) {
        let spec = read(&folder)?.environment;
        let found = environment::find(&spec, workspace.root());
        used.extend(found.map_err(|e| e.with_at(folder.display().to_string()))?.map(|found| found.hash));
    }
    Ok(used)
}

/// The folder that a script knows as `AML_APP_ROOT`.
pub(super) fn app_root(folder: &Path) -> PathBuf {
    folder.join("app")
}

/// The folder of the worker's own files.
pub(super) fn runtime(folder: &Path) -> PathBuf {
    folder.join("runtime")
}

/// The configuration of a script that was laid out in a deployment's folder.
///
/// # Errors
/// `NotFound`, `Io` or `BadConfig`: somebody has been at the folder.
pub(super) fn read(folder: &Path) -> Result<InferenceConfig> {
    let path = folder.join(FILE);
    let text = fs::read(&path).map_err(|e| ScoreError::io("read the inference configuration", &path, e))?;
    let inference = InferenceConfig::parse(&text).map_err(|e| e.with_at(path.display().to_string()))?;
    // The folder may have been moved.
    Ok(within(inference, &app_root(folder)))
}

/// The same configuration for files that lie in an application's folder.
fn within(mut inference: InferenceConfig, app: &Path) -> InferenceConfig {
    inference.script = app.join(inference.azureml_entry_script());
    inference.source_directory = inference.azureml_source_directory().map(|name| app.join(name));
    inference
}

/// Copies a script, with its folder if it has one, into an application's folder.
///
/// # Errors
/// `BadConfig` when the folder has a name that is taken there; `BadInput` for what cannot come along; `Io`.
pub(super) fn copy_sources(inference: &InferenceConfig, app: &Path) -> Result<()> {
    match (&inference.source_directory, inference.azureml_source_directory()) {
        (Some(_), Some(name)) if name == MODELS => {
            let text = format!("sourceDirectory: '{MODELS}' is the models' own folder: rename it");
            Err(ScoreError::bad_config(text))
        }
        (Some(source), Some(name)) => tree::copy(source, &app.join(name)),
        _ => tree::copy(&inference.script, &app.join(&inference.entry_script)),
    }
}
