//! A worker's process: how it is started, and what the system says of it.

use std::io::ErrorKind as Io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::pool::Shared;
use crate::error::{Result, ScoreError};

/// For a worker that was killed to be gone.
const KILL_PATIENCE: Duration = Duration::from_secs(5);

/// Starts a worker that has these descriptors: its socket, and its end of the door.
pub(super) fn spawn(shared: &Shared, fds: &[RawFd]) -> Result<Child> {
    let options = &shared.options;
    let mut command = Command::new(&options.python);
    command.arg("-u").arg(&options.worker_script).current_dir(&options.app_root);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    // Of the shell that this process came from, they would speak of another service.
    command.env_remove("AZUREML_MODEL_DIR").env_remove("AZUREML_SOURCE_DIRECTORY");
    command.env("AML_APP_ROOT", &options.app_root).env("AZUREML_ENTRY_SCRIPT", &options.entry_script);
    command.env("SERVICE_NAME", &options.service_name);
    command.env("SCORING_TIMEOUT_MS", options.scoring_timeout_ms.to_string());
    command.envs(options.environment.iter().map(|(name, value)| (name, value)));
    let given = options.environment.iter().rev().find(|(name, _)| name == "PYTHONPATH");
    let given = given.map(|(_, value)| value.clone()).or_else(|| std::env::var_os("PYTHONPATH"));
    let mut path = options.worker_script.with_file_name("shims").into_os_string();
    if let Some(given) = given.filter(|g| !g.is_empty()) {
        path.push(":");
        path.push(given);
    }
    command.env("PYTHONPATH", path);
    for (name, fd) in ["TRISCORE_WORKER_FD", "TRISCORE_DOOR_FD"].into_iter().zip(fds) {
        command.env(name, fd.to_string());
    }
    let fds = fds.to_vec();
    let parent = std::process::id();
    let prepare = move || {
        // Only here, in the child: set for this process, any other child started now would inherit them.
        for fd in &fds {
            // SAFETY: takes a descriptor that is open and no memory; safe after fork.
            if unsafe { libc::fcntl(*fd, libc::F_SETFD, 0) } < 0 {
                return Err(std::io::Error::last_os_error());
            }
        }
        #[cfg(target_os = "linux")]
        // SAFETY: this option takes one integer and touches no memory.
        unsafe {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        }
        match std::os::unix::process::parent_id() == parent {
            true => Ok(()),
            false => Err(Io::BrokenPipe.into()),
        }
    };
    // SAFETY: the closure makes system calls alone; it takes no lock and allocates nothing.
    unsafe { command.pre_exec(prepare) };
    command.spawn().map_err(|e| ScoreError::io("start the Python interpreter", &options.python, e))
}

/// Whether a child has ended; it stays to be waited for, so that its id is not used again.
pub(super) fn has_ended(child: &Child) -> bool {
    // SAFETY: all zeros is a value of this plain structure.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: `info` is valid for writes for as long as the call takes.
    let called = unsafe { libc::waitid(libc::P_PID, child.id(), &raw mut info, flags) };
    // SAFETY: a call that succeeded filled the field, or left it zero.
    called != 0 || unsafe { info.si_pid() } != 0
}

/// A descriptor that becomes readable when the child ends; `None` where the system has none, and then the
/// child is looked at every [`LOOK`].
pub(super) fn process_fd(child: &Child) -> Option<OwnedFd> {
    #[cfg(target_os = "linux")]
    {
        let pid = libc::pid_t::try_from(child.id()).ok()?;
        // SAFETY: the call takes two integers and touches no memory.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        let fd = RawFd::try_from(fd).ok().filter(|fd| *fd >= 0)?;
        // SAFETY: the descriptor is new and nobody else's.
        Some(unsafe { OwnedFd::from_raw_fd(fd) })
    }
    #[cfg(not(target_os = "linux"))]
    None
}

/// Waits for a child that was killed: a bounded time, because a process that hangs in the system (a dead
/// file server, a broken driver) does not end even then.
pub(super) fn wait_for_exit(child: &mut Child) -> std::io::Result<ExitStatus> {
    let until = Instant::now() + KILL_PATIENCE;
    loop {
        match child.try_wait()? {
            Some(status) => return Ok(status),
            None if Instant::now() >= until => return Err(Io::TimedOut.into()),
            None => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

/// Kills a child that was not waited for yet, and what it started.
pub(super) fn kill_group(child: &Child) {
    if let Ok(pid) = libc::pid_t::try_from(child.id()) {
        // SAFETY: no memory is involved; the id is the child's own until it is waited for.
        unsafe { libc::kill(-pid, libc::SIGKILL) };
    }
}

pub(super) fn exit_words(status: ExitStatus) -> String {
    const NAMES: [(i32, &str); 6] =
        [(4, "SIGILL"), (6, "SIGABRT"), (7, "SIGBUS"), (9, "SIGKILL"), (11, "SIGSEGV"), (15, "SIGTERM")];
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(signal)) => match NAMES.iter().find(|(n, _)| *n == signal) {
            Some((_, name)) => format!("was killed by signal {signal} ({name})"),
            None => format!("was killed by signal {signal}"),
        },
        (None, None) => "ended".to_owned(),
    }
}

pub(super) fn resident_bytes(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages = text.split_ascii_whitespace().nth(1)?.parse::<u64>().ok()?;
    // SAFETY: asks for a constant; no memory is involved.
    let page = u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).ok()?;
    pages.checked_mul(page)
}
