//! Where a service keeps its files, below the workspace:
//!
//! ```text
//! services/<name>/service.log                     what its processes print, over all deployments
//! services/<name>/<generation>/settings.json      what the deploy command was told besides the file
//! services/<name>/<generation>/deploymentconfig.json
//! services/<name>/<generation>/{certificate,key}.pem   with sslEnabled; for the owner alone
//! services/<name>/<generation>/azureml-models/<model>/<version>/…
//! services/<name>/<generation>/{app/,runtime/,inferenceconfig.json}   with an entry script: see `entry_script`
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::deploy::{self, DeploymentConfig};
use crate::error::{Result, ScoreError};
use crate::registry::Workspace;
use crate::server::Tls;

/// A log longer than this is put aside (one old one is kept) when a service starts.
const LOG_LIMIT_BYTES: u64 = 16 << 20;

/// The copies of a deployment's certificate and of its key, in its folder.
pub(super) const CERTIFICATE: &str = "certificate.pem";
pub(super) const PRIVATE_KEY: &str = "key.pem";

/// What a deployment was told besides its deployment file, and what the host needs to find.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Settings {
    /// What is scored, relative to the deployment's folder: a model's file or folder; with an entry script
    /// what it knows as `AZUREML_MODEL_DIR`, and nothing where there is no model.
    pub(super) model_dir: Option<PathBuf>,
    /// `name:version`, where there is one model.
    pub(super) model_id: Option<String>,
    /// Whether an entry script answers.
    #[serde(default)]
    pub(super) entry_script: bool,
    /// The port that was asked for on the command line.
    pub(super) port: Option<u16>,
    /// The address to listen on.
    pub(super) address: std::net::IpAddr,
    /// ONNX Runtime's library, if it was named.
    pub(super) onnxruntime: Option<PathBuf>,
}

/// Where the log of a service is.
///
/// # Errors
/// `BadInput` when no service can have that name.
pub fn log_path(workspace: &Workspace, name: &str) -> Result<PathBuf> {
    Ok(workspace.service_dir(name)?.join("service.log"))
}

/// The folder of one deployment.
pub(super) fn folder(workspace: &Workspace, name: &str, generation: i64) -> Result<PathBuf> {
    Ok(workspace.service_dir(name)?.join(generation.to_string()))
}

/// Writes down what the host will need.
pub(super) fn write(folder: &Path, settings: &Settings, config: &DeploymentConfig) -> Result<()> {
    write_json(&folder.join("settings.json"), settings)?;
    // As the user wrote it: it may hold keys, so nobody else may read it.
    let mut file = config.raw().clone();
    let mut pair = Vec::new();
    for (key, name, path) in
        [("sslCertificate", CERTIFICATE, &config.ssl.certificate), ("sslKey", PRIVATE_KEY, &config.ssl.key)]
    {
        let Some(path) = path.as_ref().filter(|_| config.ssl.enabled) else { continue };
        let copy = folder.join(name);
        let pem = read_pem(key, path)?;
        write_private(&copy, &pem)?;
        pair.push(pem);
        // What is read from now on is the copy: an update may come from another folder.
        if let Some(entry) = file.get_mut(key) {
            *entry = copy.to_string_lossy().into();
        }
    }
    if let [certificate, key] = pair.as_slice() {
        // Known before anything that runs is stopped.
        Tls::from_pem(certificate, key)?;
    }
    write_json(&folder.join("deploymentconfig.json"), &file)
}

/// Writes a file that its owner alone may read.
pub(super) fn write_json(path: &Path, content: &impl Serialize) -> Result<()> {
    let json = serde_json::to_vec_pretty(content)
        .map_err(|e| ScoreError::internal(format!("cannot write a service's settings: {e}")))?;
    write_private(path, &json)
}

/// Reads a PEM file, from the folder that the command runs in.
fn read_pem(key: &str, path: &Path) -> Result<Vec<u8>> {
    /// Chains of certificates are far shorter.
    const MOST_BYTES: usize = deploy::MAX_SMALL_FILE_BYTES;
    let bytes = deploy::read_small_file(path, "read the PEM file").map_err(|e| e.with_at(key))?;
    let label: &[u8] = if key == "sslKey" { b"PRIVATE KEY-----" } else { b"BEGIN CERTIFICATE-----" };
    if bytes.len() > MOST_BYTES || !bytes.windows(label.len()).any(|w| w == label) {
        let what = if key == "sslKey" { "private key" } else { "certificate" };
        let text = format!("holds no {what} in PEM (\"-----BEGIN …\"), or is larger than {MOST_BYTES} bytes");
        return Err(ScoreError::bad_config(text).with_at(path.display().to_string()).with_at(key));
    }
    Ok(bytes)
}

fn write_private(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
    let written = file.as_mut().map_err(|e| e.kind().into()).and_then(|f| f.write_all(bytes));
    written.map_err(|e| ScoreError::io("write", path, e))
}

/// Reads what the deploy command was told.
pub(super) fn settings(folder: &Path) -> Result<Settings> {
    let path = folder.join("settings.json");
    let text = fs::read(&path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => {
            let text =
                "the service's settings are not there (was its deployment interrupted?): deploy it again";
            ScoreError::not_found(text).with_at(path.display().to_string())
        }
        _ => ScoreError::io("read a service's settings", &path, e),
    })?;
    serde_json::from_slice(&text).map_err(|e| {
        ScoreError::bad_config(format!("{e}; deploy the service again")).with_at(path.display().to_string())
    })
}

/// Reads what was written down.
pub(super) fn read(folder: &Path) -> Result<(Settings, DeploymentConfig)> {
    let settings = settings(folder)?;
    // Not `read`: the files of sslCertificate are relative to where the deploy command ran.
    let path = folder.join("deploymentconfig.json");
    let text = fs::read(&path).map_err(|e| ScoreError::io("read the deployment configuration", &path, e))?;
    Ok((settings, DeploymentConfig::parse(&text).map_err(|e| e.with_at(path.display().to_string()))?))
}

/// The log, open for appending; put aside first if it has grown long.
pub(super) fn open_log(workspace: &Workspace, name: &str) -> Result<File> {
    let path = log_path(workspace, name)?;
    if fs::metadata(&path).is_ok_and(|m| m.len() > LOG_LIMIT_BYTES) {
        let _ = fs::rename(&path, path.with_extension("log.1"));
    }
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(&path)
        .map_err(|e| ScoreError::io("open the log", &path, e))
}

/// The last lines of a service's log, for messages.
pub(super) fn log_tail(workspace: &Workspace, name: &str, lines: usize) -> Vec<String> {
    const TAIL_BYTES: u64 = 16 << 10;
    let read = || -> std::io::Result<String> {
        use std::io::{Read, Seek, SeekFrom};
        let path = log_path(workspace, name).map_err(std::io::Error::other)?;
        let mut file = File::open(path)?;
        let from = file.metadata()?.len().saturating_sub(TAIL_BYTES);
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let all = text.lines().collect::<Vec<_>>();
    all.iter().skip(all.len().saturating_sub(lines)).map(|l| (*l).to_owned()).collect()
}

/// How a line in the log begins that tells of a start.
pub(super) const START_MARK: &str = "---- triscore: starting ";

/// Marks in the log, which is this process's standard error, that a host begins there.
pub(super) fn mark_start(name: &str, generation: i64) {
    let now = crate::registry::now();
    let _ = writeln!(std::io::stderr(), "{START_MARK}service '{name}', generation {generation}, at {now}");
}

/// Removes the folders of deployments that neither serve nor are to serve: of earlier ones, and of updates that
/// were given up. A folder that cannot be removed is left, and logged.
///
/// To be called by the service's supervisor, or where it has none: only it knows whether a host still ends
/// that uses an old folder.
pub(super) fn sweep(workspace: &Workspace, name: &str) {
    let Ok(dir) = workspace.service_dir(name) else { return };
    let entries = fs::read_dir(&dir).into_iter().flatten().flatten();
    let numbered = |entry: fs::DirEntry| {
        let generation = entry.file_name().to_str().and_then(|n| n.parse::<i64>().ok())?;
        Some((generation, entry.path()))
    };
    let folders = entries.filter_map(numbered).collect::<Vec<_>>();
    // Asked only now: a folder that was there before belongs to a generation that is known by now.
    let Ok(record) = workspace.show_service(name) else { return };
    let used = [Some(record.generation), record.candidate.map(|c| c.generation)];
    for (_, path) in folders.into_iter().filter(|(generation, _)| !used.contains(&Some(*generation))) {
        remove(&path);
    }
}

/// Removes a folder; one that cannot be removed is left, and logged.
pub(super) fn remove(path: &Path) {
    if let Err(e) = remove_whole(path) {
        tracing::warn!(folder = %path.display(), "cannot remove an old deployment: {e}");
    }
}

/// Removes a folder, if it is there, also while a process that was killed writes its last file into it.
pub(super) fn remove_whole(path: &Path) -> std::io::Result<()> {
    use std::io::ErrorKind::{DirectoryNotEmpty, NotFound};
    const TRIES: u32 = 100;
    for _ in 0..TRIES {
        match fs::remove_dir_all(path) {
            Err(e) if e.kind() == NotFound => return Ok(()),
            Err(e) if e.kind() == DirectoryNotEmpty => std::thread::sleep(Duration::from_millis(10)),
            done => return done,
        }
    }
    fs::remove_dir_all(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn certificates_are_copied_for_the_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("1");
        fs::create_dir(&folder).unwrap();
        let (cert, key) = (dir.path().join("c.pem"), dir.path().join("k.pem"));
        let config = DeploymentConfig::parse(
            serde_json::json!({
                "computeType": "aci", "sslEnabled": true, "sslCertificate": cert, "sslKey": key, "cname": "x",
            })
            .to_string()
            .as_bytes(),
        )
        .unwrap();
        let settings = Settings {
            model_dir: Some("m".into()),
            model_id: Some("m:1".to_owned()),
            entry_script: false,
            port: None,
            address: std::net::Ipv4Addr::LOCALHOST.into(),
            onnxruntime: None,
        };
        let write = || write(&folder, &settings, &config);
        assert_eq!(write().unwrap_err().kind(), ErrorKind::NotFound);
        fs::write(&cert, "-----BEGIN CERTIFICATE-----\n").unwrap();
        fs::write(&key, "-----BEGIN CERTIFICATE-----\n").unwrap();
        let e = write().unwrap_err();
        assert!(e.kind() == ErrorKind::BadConfig && e.to_string().starts_with("sslKey: "), "{e}");
        fs::write(&cert, include_str!("tls/one.pem")).unwrap();
        fs::write(&key, include_str!("tls/two.key.pem")).unwrap();
        let e = write().unwrap_err();
        assert!(e.kind() == ErrorKind::BadConfig && e.to_string().contains("cannot be used together"), "{e}");
        fs::write(&key, include_str!("tls/one.key.pem")).unwrap();
        write().unwrap();
        // What was given may go.
        fs::remove_file(&cert).unwrap();
        fs::remove_file(&key).unwrap();
        let (read_settings, read) = read(&folder).unwrap();
        assert_eq!(read_settings, settings);
        for (path, name) in [(read.ssl.certificate, CERTIFICATE), (read.ssl.key, PRIVATE_KEY)] {
            let path = path.unwrap();
            assert_eq!(path, folder.join(name));
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        }
        DeploymentConfig::from_value(config.raw().clone()).unwrap_err();
    }
}
