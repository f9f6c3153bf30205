//! Stopping services and deleting them.

use std::time::{Duration, Instant};

use super::layout;
use crate::error::{Result, ScoreError};
use crate::registry::{CandidateStage, ProcessStamp, ServiceRecord, ServiceState, Workspace};

/// How long a service may take to end what is in flight; longer than its server's own patience.
const PATIENCE: Duration = Duration::from_secs(40);

/// Stops a service's processes; it stays registered and can be started again.
///
/// # Errors
/// `NotFound`; `Conflict` when another command is at work on it.
pub fn stop(workspace: &Workspace, name: &str) -> Result<ServiceRecord> {
    let _operation = workspace.begin_operation(name, "stopping")?;
    stop_process(&workspace.show_service(name)?)?;
    // Only now: an update may have come to its end meanwhile.
    let record = workspace.show_service(name)?;
    abandon(workspace, &record)?;
    let reason = format!("it was stopped: `triscore service start -n {name}` starts it again");
    workspace.set_service_state(name, record.generation, ServiceState::Failed, Some(&reason))?;
    workspace.show_service(name)
}

/// Stops a service and removes all that is its own. Its models stay.
///
/// # Errors
/// `NotFound`; `Conflict` when another command is at work on it; `Io`.
pub fn delete(workspace: &Workspace, name: &str) -> Result<ServiceRecord> {
    let _operation = workspace.begin_operation(name, "deleting")?;
    let record = workspace.show_service(name)?;
    // Told only: what matters is that it is gone in the end.
    let _ = workspace.set_service_state(name, record.generation, ServiceState::Deleting, None);
    stop_process(&record)?;
    // Its files before its name: whoever is killed in between leaves something that can be deleted again.
    let folder = workspace.service_dir(name)?;
    super::layout::remove_whole(&folder).map_err(|e| ScoreError::io("remove", &folder, e))?;
    workspace.delete_service(name)
}

/// Drops an update of a service that nobody works on any more: its command was killed before it was handed
/// over, or the supervisor that had it is gone. To be called by whoever has the right to change the service.
///
/// # Errors
/// `Conflict` when the supervisor is at work on it.
pub(super) fn abandon(workspace: &Workspace, record: &ServiceRecord) -> Result<()> {
    let name = &record.spec.name;
    let Some(candidate) = record.candidate else { return Ok(()) };
    let alive = record.status.process.is_some_and(|p| p.is_alive());
    let is_worked_on = candidate.stage == CandidateStage::Starting && alive;
    // The supervisor may take it on at this very moment: then it is the supervisor's.
    if is_worked_on || !workspace.drop_candidate(name, candidate)? {
        let text = format!("service '{name}' is being updated; try again when that is done, or stop it");
        return Err(ScoreError::conflict(text));
    }
    layout::remove(&layout::folder(workspace, name, candidate.generation)?);
    Ok(())
}

/// Ends a service's processes: asks, waits, and at last insists.
pub(super) fn stop_process(record: &ServiceRecord) -> Result<()> {
    let Some(process) = record.status.process.filter(ProcessStamp::is_alive) else { return Ok(()) };
    signal(process.pid, libc::SIGTERM);
    let asked = Instant::now();
    while process.is_alive() {
        match asked.elapsed() {
            late if late > PATIENCE + Duration::from_secs(5) => {
                let text = format!("process {} of service '{}' does not end", process.pid, record.spec.name);
                return Err(ScoreError::internal(text));
            }
            // The host dies with its supervisor.
            late if late > PATIENCE => signal(process.pid, libc::SIGKILL),
            _ => {}
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Sends a signal to a process that was just seen alive.
pub(super) fn signal(pid: u32, signal: libc::c_int) {
    // 0 and negative numbers would mean groups of processes.
    let Some(pid) = libc::pid_t::try_from(pid).ok().filter(|pid| *pid > 0) else { return };
    // SAFETY: sends a signal and touches no memory.
    unsafe { libc::kill(pid, signal) };
}
