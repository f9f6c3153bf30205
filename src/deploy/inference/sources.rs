//! Which of the ways to describe an environment a configuration takes: an `environment` object, a folder
//! that holds one, or the keys of the years before there were environments.

use std::path::Path;

use serde_json::{Value, json};

use super::environment::{self, NO_CONTAINER, NO_CUDA, NOT_REGISTERED, with_registry};
use super::script::Places;
use super::section::Section;
use super::{EnvironmentSpec, InferenceOverrides, ManagedPython, PythonSpec};
use crate::deploy::report::{Report, either, short};
use crate::deploy::{Warning, text};

/// The keys of old, as the file or a flag gives them.
struct Legacy<'a> {
    runtime: Option<&'a str>,
    conda_file: Option<&'a str>,
    steps: Option<&'a str>,
    gpu: Option<bool>,
    cuda: Option<&'a str>,
    base_image: Option<&'a str>,
    registry: Option<String>,
}

/// Reads the environment, wherever it is.
pub(super) fn environment(
    file: &Section<'_>,
    flags: &InferenceOverrides,
    places: Option<Places<'_>>,
    source_directory: Option<&Path>,
    report: &mut Report,
) -> EnvironmentSpec {
    let legacy = Legacy::read(file, flags, report);
    let object = file.value("environment");
    let folder = flags.environment_directory.as_deref();
    let named = flags.environment_name.is_some() || flags.environment_version.is_some();
    if object.is_some() && (folder.is_some() || named) {
        let why = "ignored: the environment in the inference configuration wins";
        report.warning("--environment-name, --environment-directory", why);
    } else if folder.is_some() && named {
        report.warning("--environment-name", "ignored: --environment-directory says which");
    }
    let given = legacy.given();
    if (object.is_some() || folder.is_some()) && !given.is_empty() {
        let expected = format!("it alone, or {} without it", either(&given));
        report.violation("environment", expected, "both");
    }
    match (object, folder) {
        (Some(object), _) => environment::environment(object, places.and_then(|p| p.beside), report),
        (None, Some(folder)) => from_folder(folder, report),
        (None, None) if named => {
            report.violation("--environment-name", format!("no name ({NOT_REGISTERED})"), "one");
            EnvironmentSpec::default()
        }
        (None, None) => legacy.environment(places, source_directory, report),
    }
}

/// A folder as `az ml environment download` wrote it, or with a conda file alone.
fn from_folder(folder: &Path, report: &mut Report) -> EnvironmentSpec {
    const OBJECT: &str = "azureml_environment.json";
    const CONDA: [&str; 3] = ["conda_dependencies.yml", "conda_dependencies.yaml", "conda.yml"];
    let key = "--environment-directory";
    let conda = CONDA.iter().map(|name| folder.join(name)).find(|path| path.is_file());
    let path = folder.join(OBJECT);
    let object = match path.is_file() {
        true => text::read(&path, "read the environment").and_then(|bytes| text::parse(&bytes)),
        false if conda.is_some() => Ok(json!({ "environmentVariables": {} })),
        false => {
            let got = format!("'{}' without", short(&folder.to_string_lossy()));
            report.violation(key, format!("a folder with {OBJECT} or {}", either(&CONDA)), got);
            return EnvironmentSpec::default();
        }
    };
    let mut object = match object {
        Ok(object) => object,
        Err(e) => {
            report.fault(format!("{key}: {}", e.with_at(path.display().to_string())));
            return EnvironmentSpec::default();
        }
    };
    // The packages stand in the file beside it, whatever the object calls that.
    let is_user_managed = object.pointer("/python/userManagedDependencies") == Some(&Value::Bool(true));
    let has_conda = object.pointer("/python/condaDependencies").is_some_and(|v| !v.is_null());
    if let (Some(conda), Some(root), false, false) =
        (conda, object.as_object_mut(), is_user_managed, has_conda)
    {
        let file = conda.file_name().map(|n| n.to_string_lossy().into_owned());
        let python = root.entry("python").or_insert_with(|| json!({}));
        if let Some(python) = python.as_object_mut() {
            python.insert("condaDependenciesFile".to_owned(), json!(file));
        } else if python.is_null() {
            *python = json!({ "condaDependenciesFile": file });
        }
    }
    environment::environment(&object, Some(folder), report)
}

impl<'a> Legacy<'a> {
    fn read(file: &Section<'a>, flags: &'a InferenceOverrides, report: &mut Report) -> Self {
        let mut text = |key: &str, flag: &'a Option<String>| {
            let value = file.line(key, report);
            flag.as_deref().or(value)
        };
        let runtime = text("runtime", &flags.runtime);
        let conda_file = text("condaFile", &flags.conda_file);
        let cuda = text("cudaVersion", &flags.cuda_version);
        let base_image = text("baseImage", &flags.base_image);
        // Both spellings were documented; the first is the one that Azure's tools read.
        let steps = text("extraDockerfileSteps", &None);
        let other = text("extraDockerFileSteps", &None);
        let steps = flags.extra_dockerfile_steps.as_deref().or(steps).or(other);
        let gpu = file.flag("enableGpu", report);
        // A text in the documentation, an object in the SDK.
        let registry = match file.value("baseImageRegistry") {
            Some(Value::Object(_)) => {
                let keys = &["address", "username", "password", "registryIdentity"];
                let object = file.section("baseImageRegistry", keys, report);
                object.and_then(|o| o.line("address", report)).map(str::to_owned)
            }
            _ => file.line("baseImageRegistry", report).map(str::to_owned),
        };
        let registry = flags.base_image_registry.clone().or(registry);
        Self { runtime, conda_file, steps, gpu: flags.enable_gpu.or(gpu), cuda, base_image, registry }
    }

    /// The names of what is given.
    fn given(&self) -> Vec<&'static str> {
        [
            ("runtime", self.runtime.is_some()),
            ("condaFile", self.conda_file.is_some()),
            ("extraDockerfileSteps", self.steps.is_some()),
            ("enableGpu", self.gpu.is_some()),
            ("cudaVersion", self.cuda.is_some()),
            ("baseImage", self.base_image.is_some()),
        ]
        .into_iter()
        .filter_map(|(name, given)| given.then_some(name))
        .collect()
    }

    fn environment(
        &self,
        places: Option<Places<'_>>,
        source_directory: Option<&Path>,
        report: &mut Report,
    ) -> EnvironmentSpec {
        let mut spec = EnvironmentSpec::default();
        let mut note = |key: &str, message: &str| {
            spec.notes.push(Warning { key: key.to_owned(), message: message.to_owned() });
        };
        match self.runtime.map(str::to_ascii_lowercase).as_deref() {
            None | Some("python" | "python-slim") => {}
            Some("spark-py") => note("runtime", "Spark is not run here; the script runs with plain Python"),
            Some(_) => {
                let got = format!("'{}'", short(self.runtime.unwrap_or_default()));
                report.violation("runtime", "python or spark-py", got);
            }
        }
        if let Some(cuda) = self.cuda.filter(|cuda| !["9.0", "9.1", "10.0"].contains(cuda)) {
            report.violation("cudaVersion", "9.0, 9.1 or 10.0, in quotes", format!("'{}'", short(cuda)));
        }
        spec.image.gpu = self.gpu == Some(true) || self.cuda == Some("10.0");
        if spec.image.gpu {
            note("enableGpu", NO_CUDA);
        }
        if let Some(image) = self.base_image {
            note("baseImage", NO_CONTAINER);
            spec.image.base = Some(with_registry(image, self.registry.as_deref()));
        }
        if let Some(steps) = self.steps {
            note(
                "extraDockerfileSteps",
                "no image is built: the steps are not run; `triscore model package` takes them over",
            );
            spec.image.extra_steps =
                self.file("extraDockerfileSteps", steps, places, source_directory, report, |path, report| {
                    match text::read(path, "read the Dockerfile steps")
                        .and_then(|b| text::decode(&b).map(str::to_owned))
                    {
                        Ok(text) => Some(text),
                        Err(e) => {
                            report.fault(format!(
                                "extraDockerfileSteps: {}",
                                e.with_at(path.display().to_string())
                            ));
                            None
                        }
                    }
                });
        }
        let python = match self.conda_file {
            Some(conda) => self.file("condaFile", conda, places, source_directory, report, |path, report| {
                Some(environment::read_conda("condaFile", path, report))
            }),
            // The serving stack was part of those images.
            None => Some(ManagedPython { pip: vec!["azureml-defaults".to_owned()], ..Default::default() }),
        };
        spec.python = PythonSpec::Managed(python.unwrap_or_default());
        if self.given().is_empty() {
            report.warning(
                "environment",
                "not given: the script runs with what azureml-defaults brings, and no more",
            );
        }
        spec
    }

    /// A file that is named relative to sourceDirectory.
    fn file<T>(
        &self,
        key: &str,
        file: &str,
        places: Option<Places<'_>>,
        source_directory: Option<&Path>,
        report: &mut Report,
        read: impl FnOnce(&Path, &mut Report) -> Option<T>,
    ) -> Option<T> {
        let Some(places) = places else {
            report.violation(key, "to be read from a file, beside which it is", "a text without a place");
            return None;
        };
        let path = places.find(key, file, source_directory, false, report)?;
        read(&path, report)
    }
}
