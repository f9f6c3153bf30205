//! The supervisor: starts the host, and starts it again when it crashes or loses its device.
//!
//! What a second try cannot mend (a bad model, a missing device, a port in use) is not tried again: the
//! host has written the reason down, and the supervisor ends with it.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::host::{Event, Host, state_of};
use super::layout;
use crate::error::{ErrorKind, Result, ScoreError};
use crate::registry::{ProcessStamp, ServiceState, ServiceStatus, Workspace};
use crate::scoring::Backend;
use crate::server::Keys;

/// Starts in a row that end within [`SETTLED`]; one more and the supervisor gives up.
const MOST_RESTARTS: u32 = 5;
/// A host that ran for this long has settled, and its next crash counts as the first.
const SETTLED: Duration = Duration::from_secs(60);
/// The first pause before a restart; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// Runs as the supervisor of a service until it is told to stop or the service cannot be kept up.
///
/// # Errors
/// Whatever ended the service; it is written down in the registry too. `Conflict` or `NotFound` when the
/// service is not waiting for this process (any more).
pub fn supervise(workspace: &Workspace, name: &str, generation: i64) -> Result<()> {
    // A session of its own: the terminal that the service was deployed from may close.
    // SAFETY: takes nothing and touches no memory; it fails only for a leader of a process group.
    unsafe { libc::setsid() };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| ScoreError::internal(format!("cannot wait for processes: {e}")).with_source(e))?;
    let _entered = runtime.enter();
    // Before anybody knows whom to stop.
    let stops = Stops::new()?;
    workspace.claim_service(name, generation, ProcessStamp::current())?;
    let ended = runtime.block_on(keep_up(workspace, name, generation, stops));
    if let Err(e) = &ended
        && e.kind() != ErrorKind::Unavailable
    {
        workspace.set_service_state(name, generation, ServiceState::Failed, Some(&e.to_string()))?;
    }
    ended
}

/// The signals that tell a service to stop.
struct Stops {
    terminate: Signal,
    interrupt: Signal,
}

impl Stops {
    fn new() -> Result<Self> {
        let on = |kind| signal(kind).map_err(failed);
        Ok(Self { terminate: on(SignalKind::terminate())?, interrupt: on(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

fn failed(e: std::io::Error) -> ScoreError {
    ScoreError::internal(format!("cannot run a service: {e}")).with_source(e)
}

async fn keep_up(workspace: &Workspace, name: &str, generation: i64, mut stops: Stops) -> Result<()> {
    let mut restarts = 0;
    loop {
        let begun = Instant::now();
        let mut host = tokio::process::Command::new(program()?)
            .arg("--home")
            .arg(workspace.root())
            .args(["host", name, &generation.to_string()])
            .stdin(Stdio::null())
            .spawn()
            .map_err(failed)?;
        let mut stopping = false;
        let ended = loop {
            tokio::select! {
                ended = host.wait() => break ended.map_err(failed)?,
                () = stops.next() => stopping = true,
            }
            // Told to stop: the host ends in order, and so do we. Told twice, so is the host.
            if let Some(pid) = host.id() {
                super::end::signal(pid, libc::SIGTERM);
            }
        };
        if stopping {
            return Ok(());
        }
        let code = ended.code().and_then(|c| u8::try_from(c).ok());
        let lost = ErrorKind::DeviceLost.row().exit_code;
        match code {
            Some(0) => return Ok(()),
            // It says why by itself.
            Some(code) if code != lost && is_told(code) => {
                return Err(ScoreError::unavailable("the service could not be started; its state says why"));
            }
            _ => {}
        }
        restarts = if begun.elapsed() > SETTLED { 1 } else { restarts + 1 };
        let what = format!("the service's process ended unexpectedly ({ended})");
        if restarts > MOST_RESTARTS {
            return Err(ScoreError::internal(format!("{what}, {restarts} times in a row; see its log")));
        }
        let text = format!("{what}; starting it again ({restarts} of {MOST_RESTARTS})");
        tracing::error!("{text}");
        workspace.set_service_state(name, generation, ServiceState::Unhealthy, Some(&text))?;
        let pause = FIRST_PAUSE * 2u32.saturating_pow(restarts - 1);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stops.next() => return Ok(()),
        }
    }
}

/// This program's file. One that was replaced or removed since (an upgrade, a build) still runs from where
/// the system keeps it.
fn program() -> Result<PathBuf> {
    let path = std::env::current_exe().map_err(failed)?;
    let kept = Path::new("/proc/self/exe");
    Ok(if !path.exists() && kept.exists() { kept.to_owned() } else { path })
}

/// Whether a process that ends with this code has said why: a crash ends by a signal or with 101.
fn is_told(code: u8) -> bool {
    ErrorKind::ALL.iter().any(|kind| kind.row().exit_code == code && *kind != ErrorKind::Internal)
}

/// Runs as the host of a service, under its supervisor; writes down how it stands.
///
/// # Errors
/// As [`Host::run`].
pub fn host_for_supervisor(
    workspace: &Workspace,
    name: &str,
    generation: i64,
    backends: impl FnOnce(Option<&std::path::Path>) -> Vec<Arc<dyn Backend>>,
) -> Result<()> {
    let record = workspace.show_service(name)?;
    let supervisor = record.status.process;
    die_with_parent(supervisor)?;
    let status = |state| ServiceStatus { process: supervisor, ..ServiceStatus::new(state) };
    let run = || -> Result<()> {
        let folder = layout::folder(workspace, name, generation)?;
        let (settings, config) = layout::read(&folder)?;
        let keys = match config.auth.is_required() {
            true => {
                let keys = workspace.service_keys(name)?;
                Some(Keys::new(keys.primary.expose(), Some(keys.secondary.expose()))?)
            }
            false => None,
        };
        // A service keeps its port when it is started again, also one that the system has chosen.
        let stated = settings.port.or(config.port).filter(|port| *port != 0);
        let address = SocketAddr::new(settings.address, stated.or(record.status.port).unwrap_or(0));
        if record.status.port == Some(address.port()) {
            wait_until_free(address);
        }
        let host = Host {
            name: name.to_owned(),
            model_version: settings.model_id.rsplit_once(':').map(|(_, v)| v.to_owned()),
            model: folder.join(&settings.model_dir),
            config,
            keys,
            address,
            backends: backends(settings.onnxruntime.as_deref()),
        };
        let mut bound = None;
        host.run(|event| {
            let status = match event {
                Event::Listening(address) => {
                    bound = Some(address.port());
                    ServiceStatus { port: bound, ..status(ServiceState::Transitioning) }
                }
                Event::Ready(selection) => ServiceStatus {
                    port: bound,
                    device: Some(selection.to_string()),
                    reason: selection.fell_back.clone(),
                    ..status(ServiceState::Healthy)
                },
                _ => return,
            };
            if let Err(e) = workspace.set_service_status(name, generation, &status) {
                tracing::error!("cannot write down how the service stands: {e}");
            }
        })
    };
    let ended = run();
    if let Err(e) = &ended
        && e.kind() != ErrorKind::DeviceLost
    {
        let port = workspace.show_service(name).ok().and_then(|r| r.status.port);
        let status = ServiceStatus { port, ..status(state_of(e)) }.with_reason(e.to_string());
        workspace.set_service_status(name, generation, &status)?;
    }
    ended
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

/// The host before this one may still be ending; somebody else's program is not waited for long.
fn wait_until_free(address: SocketAddr) {
    const PATIENCE: Duration = Duration::from_secs(2);
    let since = Instant::now();
    let in_use = || matches!(TcpListener::bind(address), Err(e) if e.kind() == std::io::ErrorKind::AddrInUse);
    while in_use() && since.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(10));
    }
}
