//! The `environment` object, as Azure's tools wrote it down: which of it counts here, and what there is to
//! say about the rest.

use std::path::Path;

use serde_json::Value;

use super::section::Section;
use super::{EnvironmentSpec, ImageSpec, PythonSpec, conda, owns_variable, script};
use crate::deploy::report::{Report, describe, short};
use crate::deploy::{Warning, text};

const KEYS: &[&str] = &[
    "name",
    "version",
    "environmentVariables",
    "inferencingStackVersion",
    "assetId",
    "python",
    "docker",
    "spark",
    "databricks",
    "r",
];
const PYTHON_KEYS: &[&str] = &[
    "userManagedDependencies",
    "interpreterPath",
    "condaDependenciesFile",
    "baseCondaEnvironment",
    "condaDependencies",
];
const DOCKER_KEYS: &[&str] = &[
    "enabled",
    "baseImage",
    "baseDockerfile",
    "buildContext",
    "sharedVolumes",
    "shmSize",
    "arguments",
    "gpuSupport",
    "baseImageRegistry",
    "platform",
];
const REGISTRY_KEYS: &[&str] = &["address", "username", "password", "registryIdentity"];

/// Where registered environments were, and what stands in their place.
pub(super) const NOT_REGISTERED: &str = "environments are not registered here: put the whole environment into the \
     inference configuration, or give its folder, as `az ml environment download` wrote it, as --environment-directory";

/// Reads the object; `folder` is where files beside it are looked for.
pub(super) fn environment(value: &Value, folder: Option<&Path>, report: &mut Report) -> EnvironmentSpec {
    let object = Section::new("environment", value, KEYS, report);
    let mut spec = EnvironmentSpec::default();
    let says_more = KEYS.iter().skip(2).any(|key| object.value(key).is_some());
    if value.is_object() && !says_more {
        let named = value.get("name").and_then(Value::as_str).unwrap_or_default();
        let got = format!("only the name of one ('{}')", short(named));
        report.violation("environment", format!("a whole environment ({NOT_REGISTERED})"), got);
        return spec;
    }
    spec.name = object.line("name", report).map(str::to_owned);
    if let Some(name) =
        spec.name.as_deref().filter(|n| n.starts_with("Microsoft") || n.starts_with("AzureML"))
    {
        let expected = "a name that does not begin with Microsoft or AzureML";
        report.violation("environment.name", expected, format!("'{}'", short(name)));
    }
    spec.version = object.line("version", report).map(str::to_owned);
    variables(&object, &mut spec, report);
    for (key, why) in [
        ("inferencingStackVersion", "ignored; triscore is what serves"),
        ("assetId", "ignored; there are no assets of Azure's here"),
        ("r", "ignored; the script runs with Python alone"),
    ] {
        if object.says(key) {
            note(&mut spec, &object.at(key), why);
        }
    }
    frameworks(&object, &mut spec, report);
    if let Some(docker) = object.section("docker", DOCKER_KEYS, report) {
        image(&docker, &mut spec, report);
    }
    if let Some(section) = object.section("python", PYTHON_KEYS, report) {
        python(&section, folder, &mut spec, report);
    }
    if let PythonSpec::Managed(managed) = &spec.python
        && !managed.pip.iter().chain(&managed.conda).any(|p| p.starts_with("azureml-defaults"))
    {
        let at = "environment.python.condaDependencies";
        report.warning(
            at,
            "azureml-defaults is not in it: Azure could not serve it; triscore brings its own server",
        );
    }
    spec
}

fn note(spec: &mut EnvironmentSpec, key: &str, message: impl Into<String>) {
    spec.notes.push(Warning { key: key.to_owned(), message: message.into() });
}

fn variables(object: &Section<'_>, spec: &mut EnvironmentSpec, report: &mut Report) {
    const KEY: &str = "environmentVariables";
    let Some(value) = object.value(KEY) else { return };
    let Some(map) = value.as_object() else {
        report.violation(&object.at(KEY), "an object of texts", describe(value, true));
        return;
    };
    for (name, value) in map {
        let at = format!("{}.{}", object.at(KEY), short(name));
        // Values may be secrets: none is shown.
        let Some(text) = value.as_str().filter(|t| !t.contains('\0')) else {
            if !value.is_null() {
                let hint = if value.is_number() || value.is_boolean() { ", in quotes" } else { "" };
                report.violation(&at, format!("a text{hint}"), describe(value, true));
            }
            continue;
        };
        if name.is_empty() || name.contains(['=', '\0']) {
            report.violation(&at, "a name of a variable, without '='", "another");
        } else if owns_variable(name) {
            note(spec, &at, "ignored; the service sets it itself");
        } else {
            spec.variables.insert(name.clone(), text.to_owned());
        }
    }
}

/// Spark and Databricks stand in every file that Azure's SDK wrote; it matters only where they name something.
fn frameworks(object: &Section<'_>, spec: &mut EnvironmentSpec, report: &mut Report) {
    const SPARK: &[&str] = &["repositories", "packages", "precachePackages"];
    const BRICKS: &[&str] =
        &["mavenLibraries", "pypiLibraries", "rcranLibraries", "jarLibraries", "eggLibraries"];
    if object.section("spark", SPARK, report).is_some_and(|s| s.says("packages")) {
        note(spec, "environment.spark", "ignored; Spark is not run here, the script runs with plain Python");
    }
    if object.section("databricks", BRICKS, report).is_some_and(|s| BRICKS.iter().any(|k| s.says(k))) {
        note(spec, "environment.databricks", "ignored; Databricks' libraries are not installed here");
    }
}

fn image(docker: &Section<'_>, spec: &mut EnvironmentSpec, report: &mut Report) {
    const PLATFORM: &[&str] = &["os", "architecture"];
    let base = docker.line("baseImage", report);
    let dockerfile = docker.text("baseDockerfile", report);
    let context = docker.says("buildContext");
    if [base.is_some(), dockerfile.is_some(), context].into_iter().filter(|given| *given).count() > 1 {
        let expected = "one of docker.baseImage, docker.baseDockerfile and docker.buildContext";
        report.violation("environment.docker", expected, "more than one");
    }
    let registry = docker.section("baseImageRegistry", REGISTRY_KEYS, report);
    let address = registry.as_ref().and_then(|r| r.line("address", report));
    if registry.is_some_and(|r| r.says("username") || r.says("password")) {
        note(
            spec,
            "environment.docker.baseImageRegistry",
            "its user and password are ignored; log in with docker",
        );
    }
    spec.image = ImageSpec {
        base: base.map(|image| with_registry(image, address)),
        dockerfile: dockerfile.map(str::to_owned),
        extra_steps: None,
        gpu: docker.flag("gpuSupport", report).unwrap_or(false),
    };
    for (key, given) in [("baseImage", base.is_some()), ("baseDockerfile", dockerfile.is_some())] {
        if given {
            note(spec, &docker.at(key), NO_CONTAINER);
        }
    }
    if context {
        note(spec, &docker.at("buildContext"), "ignored; no image is built");
    }
    if spec.image.gpu {
        note(spec, &docker.at("gpuSupport"), NO_CUDA);
    }
    if docker.says("arguments") {
        note(spec, &docker.at("arguments"), "ignored; the service runs without a container");
    }
    // What Azure's SDK writes into every file is nobody's wish.
    if docker.line("shmSize", report).is_some_and(|size| size != "2g") {
        note(spec, &docker.at("shmSize"), "ignored; the service uses this machine's shared memory");
    }
    if let Some(platform) = docker.section("platform", PLATFORM, report) {
        let (os, arch) = (platform.line("os", report), platform.line("architecture", report));
        let usual = os.is_none_or(|os| os.eq_ignore_ascii_case("linux"))
            && arch.is_none_or(|a| a.eq_ignore_ascii_case("amd64"));
        if !usual {
            note(spec, &docker.at("platform"), "ignored; the service runs on this machine as it is");
        }
    }
}

pub(super) const NO_CONTAINER: &str = "no image is pulled: the script runs with a Python of this machine; `triscore model package` makes use of it";
pub(super) const NO_CUDA: &str = "no CUDA image is used: this machine's driver is, and the deployment file says how many GPUs a service gets";

/// An image with its registry in front, unless it names one already.
pub(super) fn with_registry(image: &str, address: Option<&str>) -> String {
    match address.map(|a| a.trim_end_matches('/')) {
        Some(address) if !image.starts_with(&format!("{address}/")) => format!("{address}/{image}"),
        _ => image.to_owned(),
    }
}

fn python(section: &Section<'_>, folder: Option<&Path>, spec: &mut EnvironmentSpec, report: &mut Report) {
    let user_managed = section.flag("userManagedDependencies", report).unwrap_or(false);
    let interpreter = section.line("interpreterPath", report);
    let file = section.line("condaDependenciesFile", report);
    let inline = section.value("condaDependencies");
    if section.says("baseCondaEnvironment") {
        note(spec, &section.at("baseCondaEnvironment"), "ignored; there is no conda here");
    }
    if user_managed {
        if inline.is_some() || file.is_some() {
            let why = "ignored, as userManagedDependencies is true: the interpreter is used as it is";
            note(spec, &section.at("condaDependencies"), why);
        }
        let interpreter = interpreter.unwrap_or("python");
        // The service will not run in this folder.
        let path = || script::absolute(Path::new(interpreter)).to_string_lossy().into_owned();
        let interpreter = if interpreter.contains('/') { path() } else { interpreter.to_owned() };
        spec.python = PythonSpec::UserManaged { interpreter };
        return;
    }
    // "python" is what Azure's SDK writes into every file.
    if interpreter.is_some_and(|i| i != "python") {
        note(spec, &section.at("interpreterPath"), "ignored, as userManagedDependencies is not true");
    }
    let managed = match (inline, file) {
        (Some(inline), file) => {
            if file.is_some() {
                report
                    .warning(&section.at("condaDependenciesFile"), "ignored, as condaDependencies is given");
            }
            conda::managed(&section.at("condaDependencies"), inline, report)
        }
        (None, Some(file)) => conda_file(&section.at("condaDependenciesFile"), file, folder, report),
        (None, None) => return,
    };
    spec.python = PythonSpec::Managed(managed);
}

/// A conda specification in a file of its own.
fn conda_file(key: &str, file: &str, folder: Option<&Path>, report: &mut Report) -> super::ManagedPython {
    let Some(folder) = folder else {
        report.violation(key, "to be read from a file, beside which it is", "a text without a place");
        return super::ManagedPython::default();
    };
    read_conda(key, &folder.join(file), report)
}

/// Reads a conda specification's file.
pub(super) fn read_conda(key: &str, path: &Path, report: &mut Report) -> super::ManagedPython {
    match text::read(path, "read the conda file").and_then(|bytes| text::parse(&bytes)) {
        Ok(value) => conda::managed(key, &value, report),
        Err(e) => {
            report.fault(format!("{key}: {}", e.with_at(path.display().to_string())));
            super::ManagedPython::default()
        }
    }
}
