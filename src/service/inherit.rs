//! File descriptors that a supervisor leaves to its host: the listening socket, and a pipe to report on.
//!
//! Rust opens everything close-on-exec, so nothing else gets through. The host closes both to its own
//! children again as soon as it has taken them: a script's process must not keep a port.

use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use crate::error::{Result, ScoreError};

/// Has a command leave a descriptor open for what it starts, under the same number.
pub(super) fn leave_open(command: &mut tokio::process::Command, fd: BorrowedFd<'_>) -> Result<RawFd> {
    // A copy that the closure owns: it is open for as long as the command may be started.
    let copy = fd.try_clone_to_owned().map_err(lost)?;
    let number = copy.as_raw_fd();
    // SAFETY: between fork and exec, only fcntl is called, which may be.
    unsafe {
        command.pre_exec(move || close_on_exec(copy.as_fd(), false));
    }
    Ok(number)
}

/// Has the command begin with SIGHUP ignored: one that comes before the program listens to it must not end
/// it.
pub(super) fn ignore_hangup(command: &mut tokio::process::Command) {
    // SAFETY: between fork and exec, only signal is called, which may be.
    unsafe {
        command.pre_exec(|| {
            libc::signal(libc::SIGHUP, libc::SIG_IGN);
            Ok(())
        });
    }
}

/// Takes the listening socket that was left open under this number.
///
/// # Errors
/// `Internal` when there is none.
pub(super) fn listener(number: RawFd) -> Result<TcpListener> {
    let fd = take(number)?;
    let mut listens: libc::c_int = 0;
    let mut size = std::mem::size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the descriptor is open, and the kernel writes at most `size` bytes to `listens`.
    let asked = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ACCEPTCONN,
            std::ptr::from_mut(&mut listens).cast(),
            &mut size,
        )
    };
    match asked == 0 && listens == 1 {
        true => Ok(fd.into()),
        false => Err(ScoreError::internal(format!("descriptor {number} is no listening socket"))),
    }
}

/// Takes whatever was left open under this number, and closes it to this program's own children.
///
/// # Errors
/// `Internal` when nothing is open there.
pub(super) fn take(number: RawFd) -> Result<OwnedFd> {
    // SAFETY: asks about a number, which need not be a descriptor, and touches no memory.
    if number <= 2 || unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return Err(ScoreError::internal(format!("descriptor {number} was not left open")));
    }
    // SAFETY: it is open, and this program opens nothing before it takes what was left to it: it is ours.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    close_on_exec(fd.as_fd(), true).map_err(lost)?;
    Ok(fd)
}

fn close_on_exec(fd: BorrowedFd<'_>, close: bool) -> std::io::Result<()> {
    let flags = if close { libc::FD_CLOEXEC } else { 0 };
    // SAFETY: sets a flag of an open descriptor and touches no memory.
    match unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, flags) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

fn lost(e: std::io::Error) -> ScoreError {
    ScoreError::internal(format!("cannot hand a descriptor on: {e}")).with_source(e)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::process::Stdio;

    #[test]
    fn what_is_left_open_arrives_and_nothing_else() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let (_other_reader, other) = std::io::pipe().unwrap();
        let mut command = tokio::process::Command::new("sh");
        let number = leave_open(&mut command, writer.as_fd()).unwrap();
        let script = format!(
            "test -e /proc/self/fd/{} && exit 9; echo hello > /proc/self/fd/{number}",
            other.as_raw_fd()
        );
        command.arg("-c").arg(script).stdin(Stdio::null());
        let status = command.as_std_mut().status().unwrap();
        assert!(status.success(), "{status}");
        drop((command, writer));
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello\n");
    }

    #[test]
    fn only_a_listening_socket_is_taken_for_one() {
        let bound = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = bound.local_addr().unwrap();
        let taken = listener(std::os::fd::IntoRawFd::into_raw_fd(bound)).unwrap();
        assert_eq!(taken.local_addr().unwrap(), address);
        let (_reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(b"x").unwrap();
        assert!(listener(std::os::fd::IntoRawFd::into_raw_fd(writer)).is_err());
        for number in [-1, 0, 2, 1 << 20] {
            assert!(take(number).is_err(), "{number}");
        }
    }
}
