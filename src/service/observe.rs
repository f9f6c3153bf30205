//! How a service stands now: what the registry says, held against the processes that there are.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use super::{client, end, layout};
use crate::error::{ErrorKind, Result, ScoreError};
use crate::registry::{CandidateStage, ServiceFilter, ServiceRecord, ServiceState, Workspace};

/// How long a healthy service may take to say so.
const PROBE: Duration = Duration::from_secs(2);
/// How often a waiting command looks.
const LOOK: Duration = Duration::from_millis(20);

/// A service as it stands now.
///
/// # Errors
/// `NotFound`; `Conflict` when the workspace is held.
pub fn show(workspace: &Workspace, name: &str) -> Result<ServiceRecord> {
    settle(workspace, workspace.show_service(name)?, true)
}

/// The same, without asking the service itself where that is not `probe`d.
pub(super) fn now(workspace: &Workspace, name: &str, probe: bool) -> Result<ServiceRecord> {
    settle(workspace, workspace.show_service(name)?, probe)
}

/// The services that fit, as they stand now.
///
/// # Errors
/// `Conflict` when the workspace is held.
pub fn list(workspace: &Workspace, filter: &ServiceFilter) -> Result<Vec<ServiceRecord>> {
    workspace.list_services(filter)?.into_iter().map(|r| settle(workspace, r, true)).collect()
}

/// Waits until a deployment has come to its end, good or bad. `tick` is called now and then with what is
/// known so far.
///
/// # Errors
/// `Conflict` when the service is deployed anew or deleted meanwhile.
pub fn wait(
    workspace: &Workspace,
    name: &str,
    generation: i64,
    mut tick: impl FnMut(&ServiceRecord, Duration),
) -> Result<ServiceRecord> {
    let start = Instant::now();
    loop {
        let gone = |e: ScoreError| match e.kind() {
            ErrorKind::NotFound => ScoreError::conflict(format!("service '{name}' was deleted meanwhile")),
            _ => e,
        };
        let record = settle(workspace, workspace.show_service(name).map_err(gone)?, false)?;
        if record.generation != generation {
            return Err(ScoreError::conflict(format!("service '{name}' was deployed anew meanwhile")));
        }
        if !matches!(record.status.state, ServiceState::Transitioning | ServiceState::Unhealthy) {
            return Ok(record);
        }
        tick(&record, start.elapsed());
        std::thread::sleep(LOOK);
    }
}

/// Corrects what the registry says where the processes show otherwise.
fn settle(workspace: &Workspace, mut record: ServiceRecord, probe: bool) -> Result<ServiceRecord> {
    use ServiceState::{Healthy, Transitioning, Unhealthy};
    if record.candidate.is_some() {
        record = settle_candidate(workspace, record)?;
    }
    let name = record.spec.name.clone();
    if record.status.state == ServiceState::Deleting {
        return match workspace.begin_operation(&name, "looking at") {
            Ok(_operation) => {
                let reason = "its deletion was interrupted: delete it again";
                workspace.correct_service(&record, ServiceState::Failed, reason)
            }
            Err(_) => Ok(record),
        };
    }
    if !matches!(record.status.state, Transitioning | Healthy | Unhealthy) {
        return Ok(record);
    }
    let gone = match &record.status.process {
        Some(process) if process.is_alive() => None,
        Some(process) => Some(died(workspace, &name, process.pid)),
        // Written down and not started yet: a command is at work on it, or it was ended in the middle.
        None => match workspace.begin_operation(&name, "looking at") {
            Ok(_) => Some(interrupted(workspace, &record)),
            Err(_) => None,
        },
    };
    if let Some(reason) = gone {
        // What it had no time for.
        if let Ok(_operation) = workspace.begin_operation(&name, "looking at")
            && workspace.show_service(&name).is_ok_and(|now| now.status.process == record.status.process)
        {
            layout::sweep(workspace, &name);
        }
        // It may have said why in its last moment, after we read: then that stands.
        return match workspace.correct_service(&record, ServiceState::Failed, &reason) {
            Err(e) if e.kind() == ErrorKind::NotFound => Err(e),
            Err(e) => {
                // Somebody who may only read still learns how it is.
                tracing::debug!("cannot write down that service '{name}' is gone: {e}");
                record.status.state = ServiceState::Failed;
                record.status.reason = Some(reason);
                record.status.error_kind = None;
                Ok(record)
            }
            now => now,
        };
    }
    if probe
        && record.status.state == Healthy
        && let Some(reason) = unwell(&record)
    {
        record.status.state = Unhealthy;
        record.status.reason = Some(reason);
    }
    Ok(record)
}

/// Drops an update that nobody works on any more.
fn settle_candidate(workspace: &Workspace, record: ServiceRecord) -> Result<ServiceRecord> {
    let name = &record.spec.name;
    let starting = record.candidate.is_some_and(|c| c.stage == CandidateStage::Starting);
    if starting && record.status.process.is_some_and(|p| p.is_alive()) {
        return Ok(record);
    }
    // A command that prepares it has the right to change the service: then it is not for us to judge.
    let Ok(_operation) = workspace.begin_operation(name, "looking at") else { return Ok(record) };
    let record = workspace.show_service(name)?;
    if let Err(e) = end::abandon(workspace, &record) {
        tracing::debug!("an update of service '{name}' stays: {e}");
    }
    workspace.show_service(name)
}

/// Where the command that was to start a service was killed; whether there is enough to start it from.
fn interrupted(workspace: &Workspace, record: &ServiceRecord) -> String {
    let name = &record.spec.name;
    let folder = layout::folder(workspace, name, record.generation);
    match folder.and_then(|folder| layout::read(&folder)) {
        Ok(_) => format!("its start was interrupted: `triscore service start -n {name}` starts it"),
        Err(_) => "its deployment was interrupted: deploy it again".to_owned(),
    }
}

fn died(workspace: &Workspace, name: &str, pid: u32) -> String {
    let tail = layout::log_tail(workspace, name, 3);
    let log =
        if tail.is_empty() { String::new() } else { format!(" Its log ends with: {}", tail.join(" | ")) };
    format!(
        "its process {pid} is gone without a word (killed, or the machine was restarted): \
         `triscore service start -n {name}` starts it again.{log}"
    )
}

/// Why a service that says it is healthy is not.
fn unwell(record: &ServiceRecord) -> Option<String> {
    let to = match endpoint(record) {
        Ok(to) => to?,
        Err(e) => return Some(e.to_string()),
    };
    match client::health(&to, PROBE) {
        Ok(answer) if answer.status == 200 => None,
        Ok(answer) => {
            Some(format!("GET / answers {}: {}", answer.status, String::from_utf8_lossy(&answer.body)))
        }
        Err(e) => Some(e.to_string()),
    }
}

/// Where a service is reached from this machine, once it has a port; whether it still listens is another
/// question.
pub fn address(record: &ServiceRecord) -> Option<SocketAddr> {
    let ip = match listens_on(record) {
        // All addresses of the machine: any will do.
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    record.status.port.map(|port| SocketAddr::new(ip, port))
}

/// Where a service is reached from this machine and how it is spoken to there, once it has a port.
///
/// # Errors
/// `NotFound` or `BadConfig` when the certificate cannot be read that it was deployed with.
pub fn endpoint(record: &ServiceRecord) -> Result<Option<client::Endpoint>> {
    let Some(address) = address(record) else { return Ok(None) };
    let certificate = || folder(record).join(layout::CERTIFICATE);
    let tls = speaks_tls(record).then(|| super::tls::trusting(&certificate())).transpose()?;
    Ok(Some(client::Endpoint { address, tls }))
}

fn folder(record: &ServiceRecord) -> std::path::PathBuf {
    record.spec.source_dir.join(record.generation.to_string())
}

/// The address that the service was deployed to listen on; this machine's own where that cannot be read.
fn listens_on(record: &ServiceRecord) -> IpAddr {
    layout::settings(&folder(record)).map_or(Ipv4Addr::LOCALHOST.into(), |s| s.address)
}

/// Whether a service was deployed to speak TLS.
fn speaks_tls(record: &ServiceRecord) -> bool {
    record.spec.deployment_config.get("sslEnabled").and_then(serde_json::Value::as_bool) == Some(true)
}

/// Where a service is called, while it listens.
pub fn scoring_uri(record: &ServiceRecord) -> Option<String> {
    if !matches!(
        record.status.state,
        ServiceState::Transitioning | ServiceState::Healthy | ServiceState::Unhealthy
    ) {
        return None;
    }
    let local = record.spec.compute_type.eq_ignore_ascii_case("local");
    let prefix = match local || record.spec.compute_type.eq_ignore_ascii_case("aci") {
        true => String::new(),
        false => format!("/api/v1/service/{}", record.spec.name),
    };
    let address = address(record)?;
    let host = match address.ip().is_loopback() && address.is_ipv4() {
        true => format!("localhost:{}", address.port()),
        false => address.to_string(),
    };
    let scheme = if speaks_tls(record) { "https" } else { "http" };
    Some(format!("{scheme}://{host}{prefix}/score"))
}

/// Where a service describes itself, once it listens.
pub fn swagger_uri(record: &ServiceRecord) -> Option<String> {
    scoring_uri(record).and_then(|uri| uri.strip_suffix("score").map(|base| format!("{base}swagger.json")))
}
