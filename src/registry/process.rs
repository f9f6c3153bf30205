//! Which process: its id, and when it started, because ids are used again.

/// One process, for as long as it lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProcessStamp {
    /// Its id.
    pub pid: u32,
    /// When it started, in ticks since boot; `None` where the system does not tell.
    pub start_time: Option<u64>,
}

impl ProcessStamp {
    /// This process.
    pub fn current() -> Self {
        let pid = std::process::id();
        Self { pid, start_time: stat(pid).map(|(_, start_time)| start_time) }
    }

    /// The process that has this id now, if one does.
    pub fn of(pid: u32) -> Option<Self> {
        let stamp = match stat(pid) {
            Some((_, start_time)) => Self { pid, start_time: Some(start_time) },
            None => Self { pid, start_time: None },
        };
        stamp.is_alive().then_some(stamp)
    }

    /// Whether it still runs. A process that ended and was not waited for does not.
    pub fn is_alive(&self) -> bool {
        match (stat(self.pid), self.start_time) {
            (Some(('Z' | 'X', _)), _) => false,
            (Some((_, start_time)), Some(known)) => start_time == known,
            (Some(_), None) => true,
            (None, _) => !cfg!(target_os = "linux") && answers(self.pid),
        }
    }
}

/// State and start time of a process as Linux tells them.
fn stat(pid: u32) -> Option<(char, u64)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in brackets, may hold spaces and brackets of its own.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    // The start time is field 22; the state was field 3.
    Some((state, fields.nth(18)?.parse().ok()?))
}

/// Whether a process of that id takes signals: all there is to know where there is no `/proc`.
fn answers(pid: u32) -> bool {
    // 0 would mean our own group.
    let Some(pid) = libc::pid_t::try_from(pid).ok().filter(|pid| *pid > 0) else { return false };
    // SAFETY: signal 0 is only checked for whether it could be sent; no memory is involved.
    let sent = unsafe { libc::kill(pid, 0) };
    sent == 0 || std::io::Error::last_os_error().raw_os_error() == Some(libc::EPERM)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn life_and_death() {
        let me = ProcessStamp::current();
        assert!(me.is_alive() && answers(me.pid));
        assert_eq!(ProcessStamp::of(me.pid), Some(me));
        assert!(ProcessStamp { start_time: None, ..me }.is_alive());
        assert!(!ProcessStamp { start_time: Some(1), ..me }.is_alive(), "the id was used again");

        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let stamp = ProcessStamp::of(child.id()).unwrap();
        assert!(stamp.is_alive());
        child.kill().unwrap();
        // Dead and not waited for yet: the kill takes effect in its own time.
        let until = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while stamp.is_alive() && std::time::Instant::now() < until {
            std::thread::yield_now();
        }
        assert!(!stamp.is_alive());
        child.wait().unwrap();
        assert!(!stamp.is_alive() && !answers(stamp.pid));
        assert_eq!(ProcessStamp::of(stamp.pid), None);
        assert!(!ProcessStamp { pid: u32::MAX, start_time: None }.is_alive());
    }
}
