//! The supervisor: holds the listening socket, starts the host on it, and starts it again when it crashes or
//! loses its device.
//!
//! The socket is the supervisor's, so a host that crashes leaves no gap in which callers are refused: they
//! wait in the socket's backlog until the next one takes them. For the same reason a new version can come
//! up beside the old one: it is started on the same socket, loads, says that it is ready, and takes the
//! service's place in the registry; only then is the old one told to end.
//!
//! What a second try cannot mend (a bad model, a missing device, a port in use) is not tried again: the
//! host has written the reason down, and the supervisor ends with it.
//!
//! Everything happens in one loop, on one thread: hosts die with the thread that started them.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use super::host::state_of;
use super::hosted::{Report, Reports};
use super::{inherit, layout};
use crate::error::{ErrorKind, Result, ScoreError};
use crate::registry::{ProcessStamp, ServiceState, ServiceStatus, Workspace};
use crate::server;

/// Starts in a row that end within [`SETTLED`]; one more and the supervisor gives up.
const MOST_RESTARTS: u32 = 5;
/// A host that ran for this long has settled, and its next crash counts as the first.
const SETTLED: Duration = Duration::from_secs(60);
/// The first pause before a restart; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// How long a host may take to see that it is to take no more callers in.
const HAND_OVER: Duration = Duration::from_secs(2);
/// How often the registry is asked to take a new version in before that is given up; each time it is waited
/// for.
const PROMOTIONS: u32 = 3;

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
    // Before anybody knows whom to signal.
    let signals = Signals::new()?;
    let me = ProcessStamp::current();
    workspace.claim_service(name, generation, me)?;
    let begin = || {
        let listener = listen(workspace, name, generation)?;
        Supervisor::new(workspace, name, generation, me, listener, signals)
    };
    let ended = begin().and_then(|supervisor| runtime.block_on(supervisor.run()));
    match ended {
        Err(Ended { e, told: false, generation }) => {
            workspace.fail_service(name, generation, state_of(&e), &e)?;
            Err(e)
        }
        Err(Ended { e, .. }) => Err(e),
        Ok(()) => Ok(()),
    }
}

/// How a service came to its end by itself.
struct Ended {
    e: ScoreError,
    /// Whether the registry knows already.
    told: bool,
    generation: i64,
}

/// Binds the service's socket: a stated port, else the one that it had, else a free one.
fn listen(workspace: &Workspace, name: &str, generation: i64) -> std::result::Result<TcpListener, Ended> {
    let bind = || {
        let folder = layout::folder(workspace, name, generation)?;
        let (settings, config) = layout::read(&folder)?;
        let known = workspace.show_service(name)?.status.port;
        let stated = settings.port.or(config.port).filter(|port| *port != 0);
        let address = SocketAddr::new(settings.address, stated.or(known).unwrap_or(0));
        if known == Some(address.port()) {
            wait_until_free(address);
        }
        server::bind_listener(address)
    };
    bind().map_err(|e| Ended { e, told: false, generation })
}

/// The host of a supervisor that was killed may still be ending; somebody else's program is not waited for
/// long.
fn wait_until_free(address: SocketAddr) {
    const PATIENCE: Duration = Duration::from_secs(3);
    let since = Instant::now();
    let in_use = || matches!(TcpListener::bind(address), Err(e) if e.kind() == std::io::ErrorKind::AddrInUse);
    while in_use() && since.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The signals that steer a supervisor.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// Something in the registry has changed: keys, or there is a new version.
    look: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        let on = |kind| signal(kind).map_err(failed);
        Ok(Self {
            terminate: on(SignalKind::terminate())?,
            interrupt: on(SignalKind::interrupt())?,
            look: on(SignalKind::hangup())?,
        })
    }
}

fn failed(e: std::io::Error) -> ScoreError {
    ScoreError::internal(format!("cannot run a service: {e}")).with_source(e)
}

/// What is heard of a host.
enum News {
    Reported(u32, Report),
    Ended(u32, ExitStatus),
}

/// A host's process.
struct Running {
    pid: u32,
    generation: i64,
    begun: Instant,
    /// What it has reported, if it loads beside another.
    failed: Option<ScoreError>,
}

/// A new version that is ready.
struct HandOver {
    device: String,
    reason: Option<String>,
    /// The host that was told to take no more callers in.
    from: Option<u32>,
    /// When that is not waited for any longer.
    until: Instant,
}

struct Supervisor<'w> {
    workspace: &'w Workspace,
    name: &'w str,
    me: ProcessStamp,
    listener: TcpListener,
    port: u16,
    signals: Signals,
    news: mpsc::UnboundedReceiver<News>,
    tell: mpsc::UnboundedSender<News>,
    /// The version that serves.
    generation: i64,
    /// Its host, unless that has just crashed.
    serving: Option<Running>,
    restarts: u32,
    restart_at: Option<Instant>,
    /// The host of the next version, while it loads.
    next: Option<Running>,
    /// The next version is ready, and the old one was told to take no more callers in.
    hand_over: Option<HandOver>,
    /// Hosts of earlier versions that end what they have begun.
    retired: Vec<u32>,
    stopping: bool,
    /// Why there is no serving host and will be none, unless the next version comes up.
    over: Option<Ended>,
}

impl<'w> Supervisor<'w> {
    fn new(
        workspace: &'w Workspace,
        name: &'w str,
        generation: i64,
        me: ProcessStamp,
        listener: TcpListener,
        signals: Signals,
    ) -> std::result::Result<Self, Ended> {
        let ended = |e| Ended { e, told: false, generation };
        let port = listener.local_addr().map_err(|e| ended(failed(e)))?.port();
        let (tell, news) = mpsc::unbounded_channel();
        let status = ServiceStatus {
            port: Some(port),
            process: Some(me),
            ..ServiceStatus::new(ServiceState::Transitioning)
        };
        workspace.set_service_status(name, generation, &status).map_err(ended)?;
        layout::sweep(workspace, name);
        Ok(Self {
            workspace,
            name,
            me,
            listener,
            port,
            signals,
            news,
            tell,
            generation,
            serving: None,
            restarts: 0,
            restart_at: None,
            next: None,
            hand_over: None,
            retired: Vec::new(),
            stopping: false,
            over: None,
        })
    }

    async fn run(mut self) -> std::result::Result<(), Ended> {
        self.start_serving()?;
        loop {
            let (restart_at, hand_over) = (self.restart_at, self.hand_over.as_ref().map(|h| h.until));
            tokio::select! {
                Some(news) = self.news.recv() => match news {
                    News::Reported(pid, report) => self.reported(pid, report),
                    News::Ended(pid, how) => self.ended(pid, how),
                },
                _ = self.signals.terminate.recv() => self.stop(),
                _ = self.signals.interrupt.recv() => self.stop(),
                _ = self.signals.look.recv() => self.look(),
                () = at(restart_at) => {
                    self.restart_at = None;
                    self.start_serving()?;
                }
                // It will have seen its signal in the end.
                () = at(hand_over) => self.promote(),
            }
            let running = self.serving.is_some() || self.next.is_some() || !self.retired.is_empty();
            if self.stopping && !running {
                return Ok(());
            }
            if self.next.is_none()
                && let Some(over) = self.over.take()
            {
                return Err(over);
            }
        }
    }

    /// Told to stop: the hosts end in order, and so do we. Told twice, so are they.
    fn stop(&mut self) {
        self.stopping = true;
        (self.restart_at, self.hand_over) = (None, None);
        for pid in self.hosts() {
            super::end::signal(pid, libc::SIGTERM);
        }
    }

    fn hosts(&self) -> Vec<u32> {
        let loaded = self.serving.iter().chain(&self.next).map(|host| host.pid);
        loaded.chain(self.retired.iter().copied()).collect()
    }

    /// Something in the registry has changed.
    fn look(&mut self) {
        // Keys: whoever asks for some must ask for the new ones.
        for pid in self.hosts() {
            super::end::signal(pid, libc::SIGHUP);
        }
        if self.stopping || self.next.is_some() {
            return;
        }
        match self.workspace.claim_candidate(self.name, self.generation) {
            Ok(Some(candidate)) => match self.spawn(candidate.generation, true) {
                Ok(host) => self.next = Some(host),
                Err(e) => self.give_up(candidate.generation, &e),
            },
            Ok(None) => {}
            Err(e) => tracing::error!("cannot look for a new version of the service: {e}"),
        }
    }

    fn start_serving(&mut self) -> std::result::Result<(), Ended> {
        let generation = self.generation;
        self.serving =
            Some(self.spawn(generation, false).map_err(|e| Ended { e, told: false, generation })?);
        Ok(())
    }

    /// Starts a host on the socket. A candidate reports to us; one that serves writes down how it stands.
    fn spawn(&self, generation: i64, is_candidate: bool) -> Result<Running> {
        layout::mark_start(self.name, generation);
        let mut command = tokio::process::Command::new(program()?);
        command.arg("--home").arg(self.workspace.root()).args(["host", self.name, &generation.to_string()]);
        let socket = inherit::leave_open(&mut command, self.listener.as_fd())?;
        command.args(["--listener", &socket.to_string()]);
        inherit::ignore_hangup(&mut command);
        let (reports, writer) = std::io::pipe().map_err(failed)?;
        let number = inherit::leave_open(&mut command, writer.as_fd())?;
        command.args(["--report", &number.to_string()]);
        if is_candidate {
            command.arg("--candidate");
        }
        let mut host = command.stdin(Stdio::null()).spawn().map_err(failed)?;
        // Our own ends of the pipe are closed: what is left is the host's.
        drop((command, writer));
        let pid = host.id().ok_or_else(|| ScoreError::internal("a process without an id"))?;
        let tell = self.tell.clone();
        tokio::spawn(async move {
            // All of its reports first: its end makes sense of them.
            if let Some(mut reports) = Reports::new(OwnedFd::from(reports)) {
                while let Some(report) = reports.next().await {
                    let _ = tell.send(News::Reported(pid, report));
                }
            }
            if let Ok(how) = host.wait().await {
                let _ = tell.send(News::Ended(pid, how));
            }
        });
        Ok(Running { pid, generation, begun: Instant::now(), failed: None })
    }

    fn reported(&mut self, pid: u32, report: Report) {
        match report {
            Report::Retired if self.hand_over.as_ref().is_some_and(|h| h.from == Some(pid)) => self.promote(),
            Report::Retired => {}
            _ if self.stopping || self.next.as_ref().is_none_or(|next| next.pid != pid) => {}
            // Told once it has ended, so that what it held is free again.
            Report::Failed { kind, message } => {
                if let Some(next) = &mut self.next {
                    next.failed = Some(Report::error(&kind, message));
                }
            }
            Report::Ready { device, reason } => {
                let from = self.serving.as_ref().map(|old| old.pid);
                self.hand_over = Some(HandOver { device, reason, from, until: Instant::now() + HAND_OVER });
                match from {
                    Some(pid) => super::end::signal(pid, libc::SIGUSR1),
                    None => self.promote(),
                }
            }
        }
    }

    /// The next version is ready, and the old one takes no more callers in: it takes the service's place.
    fn promote(&mut self) {
        let (Some(next), Some(HandOver { device, reason, .. })) = (self.next.take(), self.hand_over.take())
        else {
            return;
        };
        // Its connections end in their own time.
        self.retired.extend(self.serving.take().map(|old| old.pid));
        let status = ServiceStatus {
            port: Some(self.port),
            process: Some(self.me),
            device: Some(device),
            reason,
            ..ServiceStatus::new(ServiceState::Healthy)
        };
        let mut tries = 0;
        let promoted = loop {
            tries += 1;
            match self.workspace.promote_candidate(self.name, next.generation, &status) {
                Err(e) if tries < PROMOTIONS => tracing::warn!("cannot write the new version down: {e}"),
                outcome => break outcome,
            }
        };
        if let Err(e) = promoted {
            // Then it is the old version's place still: callers wait on the socket until that is back.
            super::end::signal(next.pid, libc::SIGKILL);
            self.next = Some(Running { failed: Some(e), ..next });
            self.restart_at = Some(Instant::now());
            return;
        }
        tracing::info!(service = self.name, generation = next.generation, "the new version serves");
        self.generation = next.generation;
        self.serving = Some(next);
        (self.restarts, self.restart_at, self.over) = (0, None, None);
        self.sweep();
    }

    /// Removes what earlier versions left, once nobody uses it any more.
    fn sweep(&self) {
        if self.retired.is_empty() {
            layout::sweep(self.workspace, self.name);
        }
    }

    fn ended(&mut self, pid: u32, how: ExitStatus) {
        if let Some(next) = self.next.take_if(|next| next.pid == pid) {
            // Where the old one was told already to take no more callers in, another host of it does.
            if self.hand_over.take().is_some() {
                self.retired.extend(self.serving.take().map(|old| old.pid));
                self.restart_at = Some(Instant::now());
            }
            let e = next.failed.unwrap_or_else(|| {
                ScoreError::internal(format!(
                    "the new version's process ended unexpectedly ({how}); see the log"
                ))
            });
            if !self.stopping {
                self.give_up(next.generation, &e);
            }
        } else if let Some(serving) = self.serving.take_if(|serving| serving.pid == pid) {
            match self.hand_over.is_some() {
                true => self.promote(),
                false => self.crashed(&serving, how),
            }
        } else {
            self.retired.retain(|retired| *retired != pid);
            self.sweep();
        }
    }

    fn give_up(&self, generation: i64, e: &ScoreError) {
        tracing::error!("the update to generation {generation} failed: {e}");
        if let Err(e) = self.workspace.fail_candidate(self.name, generation, e) {
            tracing::error!("cannot write down that the update failed: {e}");
        }
        self.sweep();
    }

    /// The host that served has ended: is it started again?
    fn crashed(&mut self, host: &Running, how: ExitStatus) {
        if self.stopping {
            return;
        }
        let generation = host.generation;
        let code = how.code().and_then(|c| u8::try_from(c).ok());
        let lost = ErrorKind::DeviceLost.row().exit_code;
        match code {
            // Somebody told it to end.
            Some(0) => {
                self.stop();
                return;
            }
            // It says why by itself.
            Some(code) if code != lost && is_told(code) => {
                let e = ScoreError::unavailable("the service could not be started; its state says why");
                self.over = Some(Ended { e, told: true, generation });
                return;
            }
            _ => {}
        }
        self.restarts = if host.begun.elapsed() > SETTLED { 1 } else { self.restarts + 1 };
        let what = format!("the service's process ended unexpectedly ({how})");
        if self.restarts > MOST_RESTARTS {
            let e = ScoreError::internal(format!("{what}, {} times in a row; see its log", self.restarts));
            self.over = Some(Ended { e, told: false, generation });
            return;
        }
        let text = format!("{what}; starting it again ({} of {MOST_RESTARTS})", self.restarts);
        tracing::error!("{text}");
        let state = ServiceState::Unhealthy;
        if let Err(e) = self.workspace.set_service_state(self.name, generation, state, Some(&text)) {
            tracing::error!("cannot write down that the service is started again: {e}");
        }
        self.restart_at = Some(Instant::now() + FIRST_PAUSE * 2u32.saturating_pow(self.restarts - 1));
    }
}

/// Comes back at that time, or never.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
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
