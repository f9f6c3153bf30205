//! A service as a folder from which docker builds an image: the script, the models, the packages and this
//! program.
//!
//! docker itself is not needed here, and is not run: the folder is written where triscore is, and built
//! wherever there is docker. So nothing in it is tried out before; what is known to matter (the C library
//! that this program was made for, passwords that are left out) is said in its README.
//!
//! The folder comes into its place whole or not at all.

mod dockerfile;
mod tree;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::deploy::{DeploymentConfig, ImageSpec, InferenceConfig, ManagedPython, PythonSpec, Warning};
use crate::environment::{self, Requirements, redact};
use crate::error::{Result, ScoreError};
use crate::registry::{ModelRef, Workspace};
use dockerfile::Image;

/// The folder of the application in an image, as in Azure's.
const APP_ROOT: &str = "/var/azureml-app";

/// The version of Python for a configuration that names none, on a machine that has none.
const DEFAULT_PYTHON: &str = "3.11";

/// What is to be packaged.
#[derive(Debug)]
pub struct Package {
    /// The models; at least one.
    pub models: Vec<ModelRef>,
    /// The script and its environment, read from files that are there.
    pub inference: InferenceConfig,
    /// The deployment file; without it the service is a local one.
    pub deployment: Option<DeploymentConfig>,
    /// The folder to write.
    pub output_path: PathBuf,
    /// Write into a folder that holds something, and replace what an earlier package wrote there.
    pub overwrite: bool,
    /// The program that serves in the image: this one.
    pub program: PathBuf,
    /// ONNX Runtime's library, for `import triscore` in scripts; without it they cannot.
    pub onnxruntime: Option<PathBuf>,
}

/// What was written.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Packaged {
    /// The folder.
    pub folder: PathBuf,
    /// The files in it, relative, in order.
    pub files: Vec<String>,
    /// The models: `name:version`.
    pub models: Vec<String>,
    /// The image that it builds on; `None` where the configuration brings a Dockerfile.
    pub base_image: Option<String>,
    /// Whether the requirements are those of the environment as it was built here, each with its version.
    pub pinned: bool,
    /// What its user should know; it stands in the README too.
    pub notes: Vec<Warning>,
}

/// What a package writes at the top of its folder, and may replace there.
const ENTRIES: [&str; 9] = [
    ".dockerignore",
    "Dockerfile",
    "README.md",
    "app",
    "azureml-models",
    "bin",
    "config",
    "lib",
    "requirements.txt",
];

/// Writes the folder.
///
/// # Errors
/// `Conflict`: the folder holds something, and nobody said to overwrite. `BadInput`: no model, or a folder within
/// the source directory. `NotFound`: a model. `BadConfig`: the packages. `Io`.
pub fn package(workspace: &Workspace, package: &Package) -> Result<Packaged> {
    let target = std::path::absolute(&package.output_path)
        .map_err(|e| ScoreError::io("find the folder", &package.output_path, e))?;
    let at_target = || target.display().to_string();
    if package.models.is_empty() {
        return Err(ScoreError::bad_input("expected at least one model to package, got none"));
    }
    if package.inference.source_directory.as_deref().is_some_and(|source| tree::is_within(&target, source)) {
        let message = "the package would be a part of itself: choose a folder outside of sourceDirectory";
        return Err(ScoreError::bad_input(message).with_at(at_target()));
    }
    if !package.overwrite && fs::read_dir(&target).is_ok_and(|mut entries| entries.next().is_some()) {
        let message = "the folder is not empty; --overwrite replaces what an earlier package wrote there";
        return Err(ScoreError::conflict(message).with_at(at_target()));
    }
    let parent = target.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(parent).map_err(|e| ScoreError::io("create the folder", parent, e))?;
    // Beside its place, so that moving it there is one step.
    let staging = tree::Staging::new(parent)?;
    let mut packaged = fill(workspace, package, staging.path())?;
    packaged.files = tree::files(staging.path())?;
    staging.settle(&target, &ENTRIES)?;
    packaged.folder = target;
    Ok(packaged)
}

fn fill(workspace: &Workspace, package: &Package, folder: &Path) -> Result<Packaged> {
    let inference = &package.inference;
    let mut notes = Vec::new();

    let app = folder.join("app");
    create(&app)?;
    match (&inference.source_directory, inference.azureml_source_directory()) {
        (Some(source), Some(name)) => tree::copy(source, &app.join(name))?,
        _ => tree::copy(&inference.script, &app.join(&inference.entry_script))?,
    }

    let mut models = Vec::new();
    for model in &package.models {
        let model = workspace.show(model)?;
        workspace.materialise(&ModelRef::new(&model.name, Some(model.version))?, folder)?;
        models.push(model);
    }
    let model_dir = match models.as_slice() {
        [one] => format!("{APP_ROOT}/azureml-models/{}/{}", one.name, one.version),
        _ => format!("{APP_ROOT}/azureml-models"),
    };

    let python = python(workspace, inference, &mut notes)?;
    write(&folder.join("requirements.txt"), &python.requirements)?;

    create(&folder.join("bin"))?;
    tree::copy(&package.program, &folder.join("bin/triscore"))?;
    create(&folder.join("lib"))?;
    match &package.onnxruntime {
        // Under the name by which the program looks for it, whatever the file was a link to.
        Some(library) => {
            let real = library.canonicalize().map_err(|e| ScoreError::io("find the library", library, e))?;
            tree::copy(&real, &folder.join("lib/libonnxruntime.so"))?;
        }
        None => {
            let message = "was not found here: scripts in the image cannot score through triscore's backends, \
                           only with packages of their own";
            notes.push(note("ONNX Runtime's library", message));
            write(&folder.join("lib/README"), "ONNX Runtime's libonnxruntime.so belongs here.\n")?;
        }
    }

    create(&folder.join("config"))?;
    write(&folder.join("config/inferenceconfig.json"), &pretty(&inside(inference)))?;
    let deployment = deployment(package.deployment.as_ref(), &mut notes);
    write(&folder.join("config/deploymentconfig.json"), &pretty(&deployment))?;

    let image = Image::of(&inference.environment.image, &python.version, &mut notes);
    let variables = [
        ("AML_APP_ROOT", APP_ROOT.to_owned()),
        ("AZUREML_MODEL_DIR", model_dir),
        ("AZUREML_ENTRY_SCRIPT", inference.azureml_entry_script()),
        ("AZUREML_SOURCE_DIRECTORY", inference.azureml_source_directory().unwrap_or_default()),
        ("TRISCORE_HOME", "/var/triscore".to_owned()),
    ];
    write(&folder.join("Dockerfile"), &image.dockerfile(&variables))?;
    // The context is this folder and nothing that may be put beside it later.
    write(
        &folder.join(".dockerignore"),
        "*\n!app\n!azureml-models\n!bin\n!config\n!lib\n!requirements.txt\n",
    )?;
    let models = models.iter().map(|m| m.id()).collect::<Vec<_>>();
    let readme = dockerfile::readme(&models, inference, &python.version, python.pinned, &notes);
    write(&folder.join("README.md"), &readme)?;
    Ok(Packaged {
        folder: folder.to_owned(),
        files: Vec::new(),
        models,
        base_image: image.base().map(str::to_owned),
        pinned: python.pinned,
        notes,
    })
}

/// The Python of an image.
struct Python {
    /// `3.11`.
    version: String,
    requirements: String,
    pinned: bool,
}

fn python(workspace: &Workspace, inference: &InferenceConfig, notes: &mut Vec<Warning>) -> Result<Python> {
    const KEY: &str = "requirements.txt";
    let spec = &inference.environment;
    let minor = |version: &str| version.split('.').take(2).collect::<Vec<_>>().join(".");
    let none = ManagedPython::default();
    let (managed, is_own) = match &spec.python {
        PythonSpec::Managed(managed) => (managed, false),
        PythonSpec::UserManaged { .. } => (&none, true),
    };
    let requirements = Requirements::of(managed)?;
    if is_own && brings_python(&spec.image) {
        // The image brings the packages, as it did on Azure.
        let version = DEFAULT_PYTHON.to_owned();
        return Ok(Python { version, requirements: String::new(), pinned: false });
    }
    // An environment that cannot be found for want of an interpreter is no reason not to package it.
    let built = environment::find(spec, workspace.root()).ok().flatten();
    let (version, lines, pinned) = match built {
        Some(built) => (minor(&built.python_version), built.freeze()?, true),
        None => {
            let message = "the environment was not built here, so the packages are as they were written; a deployment \
                           builds it, and then every package has its version";
            notes.push(note(KEY, message));
            notes.extend(requirements.notes.iter().cloned());
            let here = || environment::python_version(spec).ok().map(|v| minor(&v));
            let version = environment::pinned_version(spec).or_else(here);
            (version.unwrap_or_else(|| DEFAULT_PYTHON.to_owned()), requirements.lines.clone(), false)
        }
    };
    if lines.iter().any(|line| line.contains("file://")) {
        notes.push(note(
            KEY,
            "some packages were installed from files of this machine, which the image has not",
        ));
    }
    let mut text = String::new();
    for line in requirements.options.iter().chain(&lines) {
        let shown = redact(line);
        if shown != *line {
            let message = "passwords of package indexes are left out; give them to docker as a build secret";
            notes.push(note(KEY, message));
        }
        text.push_str(&shown);
        text.push('\n');
    }
    notes.dedup();
    Ok(Python { version, requirements: text, pinned })
}

/// Whether the image that a configuration names has a Python of its own choice.
fn brings_python(image: &ImageSpec) -> bool {
    image.base.is_some() || image.dockerfile.is_some()
}

/// The configuration as the program finds it in the image, where the packages are the interpreter's own.
fn inside(inference: &InferenceConfig) -> Value {
    let mut inside = inference.clone();
    let root = Path::new(APP_ROOT);
    inside.source_directory = inference.azureml_source_directory().map(|name| root.join(name));
    inside.script = root.join(inference.azureml_entry_script());
    inside.environment.image = ImageSpec::default();
    let interpreter = match &inference.environment.python {
        PythonSpec::UserManaged { interpreter } if brings_python(&inference.environment.image) => {
            interpreter.clone()
        }
        _ => "python3".to_owned(),
    };
    inside.environment.python = PythonSpec::UserManaged { interpreter };
    inside.to_json()
}

/// The deployment file without its keys: an image is no place for them.
fn deployment(config: Option<&DeploymentConfig>, notes: &mut Vec<Warning>) -> Value {
    let Some(config) = config else { return json!({ "computeType": "local" }) };
    let mut raw = config.raw().clone();
    if let Some(root) = raw.as_object_mut()
        && root.remove("keys").is_some_and(|keys| !keys.is_null())
    {
        let message = "left out of the image: give them to the service when it is started";
        notes.push(note("keys", message));
    }
    raw
}

fn note(key: &str, message: &str) -> Warning {
    Warning { key: key.to_owned(), message: message.to_owned() }
}

fn create(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).map_err(|e| ScoreError::io("create the folder", folder, e))
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).map_err(|e| ScoreError::io("write", path, e))
}

fn pretty(value: &Value) -> String {
    // What is JSON already can always be written.
    serde_json::to_string_pretty(value).unwrap_or_default() + "\n"
}
