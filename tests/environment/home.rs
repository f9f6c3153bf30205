//! A home folder, and what is asked of it.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;
use triscore::deploy::{EnvironmentSpec, InferenceConfig};
use triscore::environment::{self, Environment};

/// The specification of an environment with these packages of pip's.
pub(crate) fn spec(pip: &[&str]) -> EnvironmentSpec {
    spec_of(json!([{ "pip": pip }]))
}

/// The specification of an environment with these dependencies.
pub(crate) fn spec_of(dependencies: serde_json::Value) -> EnvironmentSpec {
    config(json!({ "python": { "condaDependencies": { "dependencies": dependencies } } }))
}

/// The specification in an `environment` object.
pub(crate) fn config(environment: serde_json::Value) -> EnvironmentSpec {
    let file = json!({ "entryScript": "score.py", "environment": environment });
    InferenceConfig::parse(file.to_string().as_bytes()).unwrap().environment
}

/// Ensures an environment; gives it with what was said on the way.
pub(crate) fn ensure(spec: &EnvironmentSpec, home: &Path) -> (triscore::Result<Environment>, Vec<String>) {
    let mut said = Vec::new();
    let environment = environment::ensure(spec, home, &mut |progress| said.push(progress.to_string()));
    (environment, said)
}

/// What a line of Python prints.
pub(crate) fn python(interpreter: &Path, code: &str) -> String {
    let ended = Command::new(interpreter).args(["-c", code]).output().unwrap();
    assert!(ended.status.success(), "{ended:?}");
    String::from_utf8(ended.stdout).unwrap().trim().to_owned()
}

/// The folder of environments.
pub(crate) fn environments(home: &Path) -> PathBuf {
    home.join("environments")
}
