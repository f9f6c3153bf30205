//! From a list of conda and pip packages to requirements that pip alone can install.
//!
//! There is no conda here. Most of what is listed as conda's are Python packages, which pip knows under the
//! same name; the few that differ, and those that are no Python packages, stand in two small tables. What is
//! in neither goes to pip as it is, whose words then say that there is no such package.
//!
//! Azure's own packages made an environment able to serve. That is triscore's part here, and it brings what
//! scripts import from them; what those packages brought along, and scripts rely on, is installed in their
//! place.

use crate::deploy::{ManagedPython, Warning};
use crate::error::{Result, ScoreError};

/// What pip is given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Requirements {
    /// Options for all of them. **They may hold passwords**, as may the requirements.
    pub options: Vec<String>,
    /// One a line.
    pub lines: Vec<String>,
    /// What was changed or left out, in words.
    pub notes: Vec<Warning>,
}

/// Packages that conda knows under another name than pip.
const RENAMED: &[(&str, &str)] = &[
    ("dask-core", "dask"),
    ("matplotlib-base", "matplotlib"),
    ("msgpack-python", "msgpack"),
    ("opencv", "opencv-python-headless"),
    ("py-opencv", "opencv-python-headless"),
    ("py-xgboost", "xgboost"),
    ("pyqt", "PyQt5"),
    ("pytables", "tables"),
    ("python-graphviz", "graphviz"),
    ("pytorch", "torch"),
    ("pytorch-cpu", "torch"),
    ("pytorch-gpu", "torch"),
    ("tensorflow-base", "tensorflow"),
    ("tensorflow-mkl", "tensorflow"),
];

/// What every environment has, in the interpreter's own version; nothing is said of them.
const ALWAYS_THERE: &[&str] = &["pip", "python"];

/// conda packages that are libraries; wheels bring their own, or find this machine's.
const NO_PYTHON: &[&str] = &[
    "_libgcc_mutex",
    "_openmp_mutex",
    "blas",
    "ca-certificates",
    "cpuonly",
    "cudatoolkit",
    "cudnn",
    "intel-openmp",
    "libblas",
    "libgcc",
    "libgcc-ng",
    "libgomp",
    "liblapack",
    "libopenblas",
    "libopencv",
    "libstdcxx-ng",
    "llvm-openmp",
    "mkl",
    "nccl",
    "nomkl",
    "openblas",
    "openssl",
    "pytorch-cuda",
];

/// Azure's packages, whose part triscore takes.
const AZURE: &[&str] = &[
    "applicationinsights",
    "azureml-contrib-services",
    "azureml-core",
    "azureml-defaults",
    "azureml-inference-server-http",
    "azureml-model-management-sdk",
    "azureml-sdk",
];

impl Requirements {
    /// What pip is to install for a list of packages.
    ///
    /// # Errors
    /// `BadConfig` for a conda package that is written in a way that pip has no like of.
    pub fn of(python: &ManagedPython) -> Result<Self> {
        const PLACE: &str = "condaDependencies";
        let mut out = Self { options: python.pip_options.clone(), ..Self::default() };
        let mut note = |message: String| out.notes.push(Warning { key: PLACE.to_owned(), message });
        let in_pip = python.pip.iter().map(|line| name(line)).collect::<Vec<_>>();
        let (mut faults, mut left_out, mut overruled) = (Vec::new(), Vec::new(), Vec::new());
        let mut lines: Vec<String> = Vec::new();
        for package in &python.conda {
            match conda(package) {
                Err(fault) => faults.push(format!("{PLACE}: '{}': {fault}", super::redact(package))),
                Ok(Mapped::Silent) => {}
                Ok(Mapped::LeftOut(name)) => left_out.push(name),
                Ok(Mapped::To(line)) if in_pip.contains(&name(&line)) => overruled.push(line),
                Ok(Mapped::To(line)) => lines.push(line),
            }
        }
        if !faults.is_empty() {
            return Err(ScoreError::bad_config(faults.join("\n")));
        }
        lines.extend(python.pip.iter().cloned());
        let is_azure = |line: &String| AZURE.contains(&name(line).as_str());
        let (azure, mut lines) = lines.into_iter().partition::<Vec<_>, _>(is_azure);
        let azure = azure.iter().map(|line| name(line)).collect::<Vec<_>>();
        if !left_out.is_empty() {
            note(format!("{}: left out, they are no Python packages", left_out.join(", ")));
        }
        if !overruled.is_empty() {
            note(format!("{}: left out, pip's list says another", overruled.join(", ")));
        }
        // Of azureml-defaults nothing is said: it is in every file, and this is what it asks for.
        let replaced = azure.iter().filter(|n| *n != "azureml-defaults").cloned().collect::<Vec<_>>();
        if !replaced.is_empty() {
            let all = replaced.join(", ");
            note(format!("{all}: not installed; triscore brings what scripts import from them"));
        }
        for (wanted, by) in [
            ("inference-schema[numpy-support]", &["azureml-defaults"][..]),
            ("inference-schema", &["azureml-inference-server-http"]),
            ("flask>=2", &["azureml-defaults", "azureml-contrib-services", "azureml-inference-server-http"]),
            ("numpy", &["azureml-defaults"]),
        ] {
            let is_there = lines.iter().any(|line| name(line) == name(wanted));
            if !is_there && azure.iter().any(|n| by.contains(&n.as_str())) {
                lines.push(wanted.to_owned());
            }
        }
        let mut seen = std::collections::HashSet::new();
        lines.retain(|line| seen.insert(line.clone()));
        out.lines = lines;
        Ok(out)
    }

    /// The text of a `requirements.txt`.
    pub fn text(&self) -> String {
        self.options.iter().chain(&self.lines).map(|line| format!("{line}\n")).collect()
    }
}

/// What becomes of a conda package.
#[derive(Debug, PartialEq, Eq)]
enum Mapped {
    To(String),
    LeftOut(String),
    Silent,
}

fn conda(text: &str) -> std::result::Result<Mapped, String> {
    let plain = text.rsplit("::").next().unwrap_or(text).trim();
    let end = plain.find(|c: char| !(c.is_ascii_alphanumeric() || "-_.".contains(c))).unwrap_or(plain.len());
    let (package, version) = plain.split_at(end);
    let package = package.to_ascii_lowercase();
    if package.is_empty() {
        return Err("expected the name of a package, and its version".to_owned());
    }
    if ALWAYS_THERE.contains(&package.as_str()) {
        return Ok(Mapped::Silent);
    }
    if NO_PYTHON.contains(&package.as_str()) {
        return Ok(Mapped::LeftOut(package));
    }
    let renamed = RENAMED.iter().find(|(conda, _)| *conda == package).map(|(_, pip)| (*pip).to_owned());
    Ok(Mapped::To(format!("{}{}", renamed.unwrap_or(package), conda_version(version.trim())?)))
}

/// A version as conda asks for it, in pip's words. The build (`=1.2=py38_0`) is conda's own affair.
fn conda_version(text: &str) -> std::result::Result<String, String> {
    let compact = text.split_whitespace().collect::<String>();
    let good =
        |v: &str| !v.is_empty() && v.chars().all(|c| c.is_ascii_alphanumeric() || ".*+!_-".contains(c));
    let exact = |version: &str| match good(version) {
        true => Ok(format!("=={version}")),
        false => Err("expected a version, such as 'numpy=1.19.2' or 'numpy>=1.19,<2'".to_owned()),
    };
    if text.is_empty() {
        return Ok(String::new());
    }
    if let Some(version) = compact.strip_prefix("==") {
        return exact(version.split('=').next().unwrap_or_default());
    }
    if let Some(version) = compact.strip_prefix('=') {
        let mut parts = version.splitn(2, '=');
        let (version, build) = (parts.next().unwrap_or_default(), parts.next());
        // `=1.19` is any 1.19, where pip's `==1.19` is 1.19.0 alone.
        let any =
            build.is_none() && good(version) && !version.ends_with('*') && version.split('.').count() < 3;
        return exact(&if any { format!("{version}.*") } else { version.to_owned() });
    }
    if text.starts_with(|c: char| c.is_ascii_digit()) {
        return exact(text.split_whitespace().next().unwrap_or_default());
    }
    let clauses = compact.split(',').map(|clause| {
        let version = clause.trim_start_matches(['<', '>', '=', '!', '~']);
        let operator = clause.strip_suffix(version).unwrap_or_default();
        (["<", "<=", ">", ">=", "==", "!=", "~="].contains(&operator) && good(version)).then_some(clause)
    });
    match clauses.collect::<Option<Vec<_>>>() {
        Some(_) => Ok(compact),
        None => {
            Err("pip has no like of this: put the package into the list 'pip', in pip's words".to_owned())
        }
    }
}

/// The name in a requirement, as package indexes compare names.
pub(super) fn name(line: &str) -> String {
    let line = line.trim();
    let end = line.find(|c: char| !(c.is_ascii_alphanumeric() || "-_.".contains(c))).unwrap_or(line.len());
    let (name, _) = line.split_at(end);
    let mut out = String::with_capacity(name.len());
    for c in name.chars() {
        match c {
            '-' | '_' | '.' if out.ends_with('-') => {}
            '-' | '_' | '.' => out.push('-'),
            c => out.push(c.to_ascii_lowercase()),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(dependencies: serde_json::Value) -> Result<Requirements> {
        let file = json!({
            "entryScript": "s.py",
            "environment": { "python": { "condaDependencies": { "dependencies": dependencies } } },
        });
        let config = crate::deploy::InferenceConfig::parse(file.to_string().as_bytes()).unwrap();
        match &config.environment.python {
            crate::deploy::PythonSpec::Managed(python) => Requirements::of(python),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_published_samples() {
        let dummy = of(json!(["python=3.6.2", { "pip": ["azureml-defaults"] }])).unwrap();
        assert_eq!(dummy.lines, ["inference-schema[numpy-support]", "flask>=2", "numpy"]);
        assert_eq!(dummy.notes, []);
        let real =
            of(json!(["python=3.6.2", { "pip": ["nltk", "numpy", "onnxruntime", "azureml-defaults"] }]))
                .unwrap();
        assert_eq!(
            real.lines,
            ["nltk", "numpy", "onnxruntime", "inference-schema[numpy-support]", "flask>=2"]
        );
        assert_eq!(real.text().lines().count(), 5);
    }

    #[test]
    fn conda_packages_in_pips_words() {
        for (conda, pip) in [
            ("scikit-learn", Some("scikit-learn")),
            ("numpy=1.19.2", Some("numpy==1.19.2")),
            ("numpy=1.19.2=py38h_0", Some("numpy==1.19.2")),
            ("numpy=1.19=py38h_0", Some("numpy==1.19")),
            ("numpy=1.19", Some("numpy==1.19.*")),
            ("numpy=1.19.*", Some("numpy==1.19.*")),
            ("numpy==1.19", Some("numpy==1.19")),
            ("numpy 1.19.2", Some("numpy==1.19.2")),
            ("numpy 1.19.2 py38_0", Some("numpy==1.19.2")),
            ("numpy >=1.19, <2", Some("numpy>=1.19,<2")),
            ("conda-forge::Pillow=8.0.1", Some("pillow==8.0.1")),
            ("pytorch::pytorch=1.7.1", Some("torch==1.7.1")),
            ("py-opencv", Some("opencv-python-headless")),
            ("ruamel_yaml", Some("ruamel_yaml")),
            ("pip=20.2", None),
            ("setuptools=50.3.0", Some("setuptools==50.3.0")),
            ("cudatoolkit=11.0", None),
            ("mkl", None),
        ] {
            let out = of(json!([conda])).unwrap();
            assert_eq!(out.lines, pip.into_iter().collect::<Vec<_>>(), "{conda}");
            assert_eq!(out.notes.len(), usize::from(["cudatoolkit=11.0", "mkl"].contains(&conda)), "{conda}");
        }
        for conda in [
            "numpy=1.19|1.20",
            "numpy[version='>=1']",
            "numpy=",
            "=1.0",
            "numpy >",
            "https://u:p@h/x.tar.bz2",
        ] {
            let e = of(json!([conda])).unwrap_err().to_string();
            assert!(e.starts_with("condaDependencies: '") && !e.contains("u:p"), "{e}");
        }
    }

    #[test]
    fn azures_packages_are_replaced_by_what_they_brought() {
        let all = of(json!([{ "pip": [
            "azureml_defaults~=1.30", "Azureml-Core==1.30", "azureml-sdk[automl]", "applicationinsights",
            "azureml-contrib-services>=1", "azureml-inference-server-http", "flask==2.0.1",
            "inference-schema[pandas-support]", "azureml-train-core",
        ] }]))
        .unwrap();
        let left = ["flask==2.0.1", "inference-schema[pandas-support]", "azureml-train-core", "numpy"];
        assert_eq!(all.lines, left);
        assert_eq!(all.notes.len(), 1);
        assert!(all.notes[0].message.starts_with("azureml-core, azureml-sdk, applicationinsights, "));
        let services = of(json!([{ "pip": ["azureml-contrib-services"] }])).unwrap();
        assert_eq!(services.lines, ["flask>=2"]);
        let server = of(json!([{ "pip": ["azureml-inference-server-http"] }])).unwrap();
        assert_eq!(server.lines, ["inference-schema", "flask>=2"]);
        assert_eq!(of(json!([])).unwrap().lines, [""; 0]);
    }

    #[test]
    fn what_pip_says_wins_and_options_come_first() {
        let out = of(json!([
            "numpy=1.19.2",
            { "pip": ["NumPy==1.20", "six", "six", "--pre", "x @ https://h/x.whl ; python_version > '3'"] },
        ]))
        .unwrap();
        assert_eq!(out.text(), "--pre\nNumPy==1.20\nsix\nx @ https://h/x.whl ; python_version > '3'\n");
        assert!(out.notes[0].message.starts_with("numpy==1.19.2: left out"), "{:?}", out.notes);
        for (line, expected) in [("A_b.-C >=1", "a-b-c"), ("six", "six"), ("x[y]==1", "x"), ("", "")] {
            assert_eq!(name(line), expected);
        }
    }
}
