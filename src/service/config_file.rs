//! `config.json`, in which the Azure ML inference server took the variables that are its own.
//!
//! It lies where the variable `AZUREML_CONFIG_FILE` says, else in the application's folder, else beside the entry
//! script. What the environment says wins over it. The name is a common one, so only the keys that are the
//! server's are taken; the others are somebody else's, and are named in the log.

use std::path::Path;

use serde_json::{Map, Value};

use crate::deploy::{self, InferenceConfig};
use crate::error::{Result, ScoreError};

/// The variables that the file may give.
const KEYS: [&str; 11] = [
    "AML_APP_INSIGHTS_ENABLED",
    "AML_APP_INSIGHTS_KEY",
    "AML_CORS_ORIGINS",
    "AML_MODEL_DC_STORAGE_ENABLED",
    "APP_INSIGHTS_LOG_RESPONSE_ENABLED",
    "AZUREML_LOG_LEVEL",
    "SCORING_TIMEOUT_MS",
    "SERVICE_NAME",
    "SERVICE_PATH_PREFIX",
    "SERVICE_VERSION",
    "WORKSPACE_NAME",
];

/// Puts what the file says, if there is one, behind the variables of the configuration.
///
/// # Errors
/// `BadConfig` for a file that is no JSON object, or a value that is no text, number or truth value; `NotFound`
/// or `Io` for one that is named and cannot be read.
pub(super) fn merge(inference: &mut InferenceConfig, app_root: &Path) -> Result<()> {
    let variables = &mut inference.environment.variables;
    let named = variables.get("AZUREML_CONFIG_FILE").map(|path| app_root.join(path));
    let beside = inference.script.parent().unwrap_or(app_root);
    let usual = [app_root, beside].map(|folder| folder.join("config.json"));
    let Some(path) = named.or_else(|| usual.into_iter().find(|path| path.is_file())) else { return Ok(()) };
    let mut others = Vec::new();
    for (key, value) in read(&path)? {
        let text = match value {
            _ if !KEYS.contains(&key.as_str()) => {
                others.push(key);
                continue;
            }
            Value::String(text) => text,
            Value::Bool(_) | Value::Number(_) => value.to_string(),
            _ => {
                let text = format!("{key}: expected text, a number, true or false");
                return Err(ScoreError::bad_config(text).with_at(path.display().to_string()));
            }
        };
        variables.entry(key).or_insert(text);
    }
    if !others.is_empty() {
        let (path, keys) = (path.display(), others.join(", "));
        tracing::warn!("{path}: keys that are none of the inference server's are left alone: {keys}");
    }
    Ok(())
}

fn read(path: &Path) -> Result<Map<String, Value>> {
    let bytes = deploy::read_small_file(path, "read the server's configuration")?;
    let wrong = |what: String| ScoreError::bad_config(what).with_at(path.display().to_string());
    if bytes.len() > deploy::MAX_SMALL_FILE_BYTES {
        return Err(wrong(format!("expected at most {} bytes", deploy::MAX_SMALL_FILE_BYTES)));
    }
    serde_json::from_slice(&bytes)
        .map_err(|e| wrong(format!("expected a JSON object of keys and values: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use std::fs;

    #[test]
    fn the_file_stands_behind_the_environment() {
        let root = tempfile::tempdir().unwrap();
        let inference = |variables: &str| {
            let text = format!(
                r#"{{"entryScript": "score.py", "sourceDirectory": "{}/src", "environment": {{
                    "environmentVariables": {{{variables}}}, "python": {{"userManagedDependencies": true}}}}}}"#,
                root.path().display()
            );
            InferenceConfig::parse(text.as_bytes()).unwrap()
        };
        let merged = |variables: &str| {
            let mut config = inference(variables);
            merge(&mut config, root.path()).map(|()| config.environment.variables)
        };
        assert_eq!(merged("").unwrap().len(), 0, "there is none");
        let put = |name: &str, text: &str| {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        put(
            "src/config.json",
            r#"{"SERVICE_NAME": "beside", "SCORING_TIMEOUT_MS": 500, "hidden_size": [768]}"#,
        );
        let found = merged(r#""SERVICE_NAME": "own""#).unwrap();
        assert_eq!((&*found["SERVICE_NAME"], &*found["SCORING_TIMEOUT_MS"], found.len()), ("own", "500", 2));
        put("config.json", r#"{"SERVICE_NAME": "root"}"#);
        assert_eq!(merged("").unwrap()["SERVICE_NAME"], "root");
        let named = r#""AZUREML_CONFIG_FILE": "other.json""#;
        assert_eq!(merged(named).unwrap_err().kind(), ErrorKind::NotFound);
        for (text, words) in [
            ("[1]", "a JSON object"),
            ("{", "a JSON object"),
            (r#"{"SERVICE_NAME": {}}"#, "SERVICE_NAME: expected text"),
        ] {
            put("other.json", text);
            let e = merged(named).unwrap_err();
            assert!(e.kind() == ErrorKind::BadConfig && e.to_string().contains(words), "{e}");
        }
    }
}
