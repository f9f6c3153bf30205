//! The host of a deployed service, under its supervisor.
//!
//! A host that serves writes into the registry how it stands. One that loads beside another (an update)
//! does not: the registry knows the other. It reports to the supervisor, a line of JSON each time, and
//! the supervisor decides what becomes of it. Once it is ready it is the one that serves.

use std::fs::File;
use std::io::Write;
use std::os::fd::{OwnedFd, RawFd};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};

use super::host::{Event, Host, KeySource, Listen, OnRetired, state_of};
use super::{inherit, layout};
use crate::deploy::Auth;
use crate::error::{ErrorKind, Result, ScoreError};
use crate::registry::{ProcessStamp, ServiceState, ServiceStatus, Workspace};
use crate::scoring::Backend;
use crate::server::{Accept, Keys};

/// What a host was left by its supervisor.
#[derive(Debug)]
pub struct Inherited {
    listener: std::net::TcpListener,
    report: File,
    is_candidate: bool,
}

impl Inherited {
    /// Takes what stands under these numbers: the socket, and a pipe to report on. To be called before anything
    /// else is opened. A candidate loads beside another host, on the same socket.
    ///
    /// # Errors
    /// `Internal` when it is not there.
    pub fn take(listener: RawFd, report: RawFd, is_candidate: bool) -> Result<Self> {
        let report = inherit::take(report)?.into();
        Ok(Self { listener: inherit::listener(listener)?, report, is_candidate })
    }
}

/// What a host says of itself to its supervisor.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Report {
    /// A candidate scores, on that device; with the reason, if that is not the one that was asked for first.
    Ready {
        /// In words.
        device: String,
        /// In words.
        reason: Option<String>,
    },
    /// A candidate will not.
    Failed {
        /// The name of the kind of error.
        kind: String,
        /// The error, in words.
        message: String,
    },
    /// It takes no more connections in, as it was told to.
    Retired,
}

impl Report {
    fn write(&self, to: &mut File) {
        let sent = serde_json::to_string(self).map_err(std::io::Error::other);
        if let Err(e) = sent.and_then(|text| to.write_all(format!("{text}\n").as_bytes())) {
            tracing::error!("cannot report to the supervisor: {e}");
        }
    }

    /// The error of a candidate that failed.
    pub(super) fn error(kind: &str, message: String) -> ScoreError {
        let kind = ErrorKind::ALL.into_iter().find(|k| k.row().name == kind);
        ScoreError::new(kind.unwrap_or(ErrorKind::Internal), message)
    }
}

/// The reports of a host, as they come.
pub(super) struct Reports(BufReader<tokio::io::Take<tokio::net::unix::pipe::Receiver>>);

impl Reports {
    /// Those that come out of this pipe; `None` when it cannot be waited for.
    pub(super) fn new(pipe: OwnedFd) -> Option<Self> {
        /// A host says two things at most, in a few lines' length.
        const MOST_BYTES: u64 = 1 << 20;
        let pipe = tokio::net::unix::pipe::Receiver::from_owned_fd(pipe);
        pipe.ok().map(|pipe| Self(BufReader::new(pipe.take(MOST_BYTES))))
    }

    /// The next; `None` when its process has closed the pipe.
    pub(super) async fn next(&mut self) -> Option<Report> {
        loop {
            let mut line = String::new();
            match self.0.read_line(&mut line).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
            if let Ok(report) = serde_json::from_str(&line) {
                return Some(report);
            }
        }
    }
}

/// Runs as the host of a service, under its supervisor; says how it stands.
///
/// # Errors
/// As [`Host::run`].
pub fn host_for_supervisor(
    workspace: &Arc<Workspace>,
    name: &str,
    generation: i64,
    inherited: Inherited,
    backends: impl FnOnce(Option<&std::path::Path>) -> Vec<Arc<dyn Backend>>,
) -> Result<()> {
    let record = workspace.show_service(name)?;
    let supervisor = record.status.process;
    die_with_parent(supervisor)?;
    let Inherited { listener, mut report, is_candidate } = inherited;
    let mut serves = !is_candidate;
    let port = listener.local_addr().ok().map(|address| address.port());
    let status = |state| ServiceStatus { process: supervisor, port, ..ServiceStatus::new(state) };
    let run = || -> Result<()> {
        let folder = layout::folder(workspace, name, generation)?;
        let (settings, config) = layout::read(&folder)?;
        let accept = if is_candidate { Accept::WhenReady } else { Accept::Now };
        let mut other = report.try_clone().map_err(|e| ScoreError::internal(e.to_string()).with_source(e))?;
        let retired = OnRetired(Box::new(move || Report::Retired.write(&mut other)));
        let host = Host {
            name: name.to_owned(),
            model_version: settings.model_id.rsplit_once(':').map(|(_, v)| v.to_owned()),
            model: folder.join(&settings.model_dir),
            keys: keys(workspace, name, generation, config.auth),
            config,
            listen: Listen::On(listener, accept, retired),
            backends: backends(settings.onnxruntime.as_deref()),
        };
        host.run(|event| {
            let Event::Ready(selection) = event else { return };
            let (device, reason) = (selection.to_string(), selection.fell_back.clone());
            // From here on it is the one that serves.
            if !std::mem::replace(&mut serves, true) {
                Report::Ready { device, reason }.write(&mut report);
                return;
            }
            let healthy = ServiceStatus { device: Some(device), reason, ..status(ServiceState::Healthy) };
            if let Err(e) = workspace.set_service_status(name, generation, &healthy) {
                tracing::error!("cannot write down how the service stands: {e}");
            }
        })
    };
    let ended = run();
    match &ended {
        Err(e) if !serves => {
            let kind = e.row().name.to_owned();
            Report::Failed { kind, message: e.to_string() }.write(&mut report);
        }
        Err(e) if e.kind() != ErrorKind::DeviceLost => {
            workspace.set_service_status(name, generation, &status(state_of(e)).with_error(e))?;
        }
        _ => {}
    }
    ended
}

/// The keys of this version of the service, read from the registry whenever they may have changed.
fn keys(workspace: &Arc<Workspace>, name: &str, generation: i64, auth: Auth) -> KeySource {
    if !auth.is_required() {
        return KeySource::Fixed(None);
    }
    let (workspace, name) = (workspace.clone(), name.to_owned());
    KeySource::Reread(Arc::new(move || {
        let keys = workspace.service_keys_of(&name, generation)?;
        let primary = keys.primary.expose();
        match auth.token {
            true => Keys::tokens(primary).map(Some),
            false => Keys::new(primary, Some(keys.secondary.expose())).map(Some),
        }
    }))
}

/// Has the system end this process when its supervisor dies.
///
/// # Errors
/// `Conflict` when it is dead already, or was never the one.
fn die_with_parent(supervisor: Option<ProcessStamp>) -> Result<()> {
    #[cfg(target_os = "linux")]
    // SAFETY: this option takes one integer and touches no memory.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
    }
    // Asked only now: from here on its death is told.
    match supervisor {
        Some(known) if ProcessStamp::of(std::os::unix::process::parent_id()) == Some(known) => Ok(()),
        _ => Err(ScoreError::conflict("a service's host is started by its supervisor alone")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::OwnedFd;

    #[test]
    fn reports_arrive_as_they_were_written() {
        let (reader, writer) = std::io::pipe().unwrap();
        let mut writer = File::from(OwnedFd::from(writer));
        let sent = [
            Report::Ready { device: "cpu:0 \"x\"\n".into(), reason: None },
            Report::Failed { kind: "bad_model".into(), message: "line\nline".into() },
            Report::Retired,
        ];
        for report in &sent {
            report.write(&mut writer);
            writer.write_all(b"noise\n{}\n").unwrap();
        }
        drop(writer);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let heard = runtime.block_on(async {
            let mut reports = Reports::new(reader.into()).unwrap();
            let mut heard = Vec::new();
            while let Some(report) = reports.next().await {
                heard.push(report);
            }
            heard
        });
        assert_eq!(heard, sent);
        assert_eq!(Report::error("bad_model", String::new()).kind(), ErrorKind::BadModel);
        assert_eq!(Report::error("from the future", String::new()).kind(), ErrorKind::Internal);
    }
}
