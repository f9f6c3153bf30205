//! What this machine, or the container around this process, has to give.
//!
//! A container that may use two of a host's 64 cores has two. The kernel says so in three places that know
//! nothing of each other (affinity, quota, memory limit), and every group above this one may be tighter
//! than this one; so all of them are read, and the smallest counts.

use std::fs;
use std::path::{Path, PathBuf};

/// Cores and memory that can be had.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Machine {
    /// Processor cores; a quota makes fractions.
    pub cpu_cores: f64,
    /// Memory in bytes; `None` where it is not known, and then every request is taken as met.
    pub memory_bytes: Option<u64>,
}

impl Machine {
    /// Looks at this machine.
    pub fn detect() -> Self {
        let proc = Path::new("/proc");
        Self::at(proc, Path::new("/sys/fs/cgroup"))
    }

    fn at(proc: &Path, cgroup: &Path) -> Self {
        let groups = groups(proc, cgroup);
        // What the standard library says already counts affinity and quota, but rounds the quota down.
        let whole = std::thread::available_parallelism().map_or(1.0, |n| n.get() as f64);
        let affinity = affinity(proc).unwrap_or(whole);
        let quota = groups.iter().filter_map(|group| quota(group)).fold(f64::INFINITY, f64::min);
        let limits = groups.iter().filter_map(|group| memory_limit(group));
        let memory = limits.chain(total_memory(proc)).min();
        Self { cpu_cores: affinity.min(quota), memory_bytes: memory }
    }
}

/// The control groups that hold this process, inner ones first: of version 2, else of version 1.
fn groups(proc: &Path, cgroup: &Path) -> Vec<PathBuf> {
    let text = fs::read_to_string(proc.join("self/cgroup")).unwrap_or_default();
    let mut out = Vec::new();
    for line in text.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let roots = match controllers {
            "" => vec![cgroup.to_owned(), cgroup.join("unified")],
            _ => controllers
                .split(',')
                .filter(|c| matches!(*c, "cpu" | "memory"))
                .map(|c| cgroup.join(c))
                .collect(),
        };
        let inner = Path::new(path.trim_start_matches('/'));
        // A path that leaves the root is of another namespace: only the root can be read then.
        let inner = if path.contains("..") { Path::new("") } else { inner };
        for root in roots {
            out.extend(inner.ancestors().map(|group| root.join(group)));
        }
    }
    out
}

/// Cores that a group may use at once.
fn quota(group: &Path) -> Option<f64> {
    let read = |name| fs::read_to_string(group.join(name)).ok();
    let number = |text: &str| text.trim().parse::<f64>().ok().filter(|n| *n > 0.0);
    let (quota, period) = match read("cpu.max") {
        Some(text) => {
            let mut parts = text.split_whitespace();
            (number(parts.next()?)?, number(parts.next()?)?)
        }
        None => (number(&read("cpu.cfs_quota_us")?)?, number(&read("cpu.cfs_period_us")?)?),
    };
    Some(quota / period)
}

/// Bytes that a group may use; what means "no limit" does not parse, or is larger than any memory.
fn memory_limit(group: &Path) -> Option<u64> {
    let read = |name| fs::read_to_string(group.join(name)).ok()?.trim().parse::<u64>().ok();
    read("memory.max").or_else(|| read("memory.limit_in_bytes"))
}

fn total_memory(proc: &Path) -> Option<u64> {
    let text = fs::read_to_string(proc.join("meminfo")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// How many processors this process may be scheduled on: `0-3,8` are five.
fn affinity(proc: &Path) -> Option<f64> {
    let text = fs::read_to_string(proc.join("self/status")).ok()?;
    let list = text.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    let mut count = 0u32;
    for range in list.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.parse::<u32>().ok()?, last.parse::<u32>().ok()?);
        count = count.checked_add(last.checked_sub(first)?.checked_add(1)?)?;
    }
    Some(f64::from(count)).filter(|n| *n > 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine as files: name and content of each.
    fn machine(files: &[(&str, &str)]) -> Machine {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        Machine::at(&dir.path().join("proc"), &dir.path().join("cg"))
    }

    #[test]
    fn the_tightest_group_counts() {
        let host = [
            ("proc/meminfo", "MemFree: 1 kB\nMemTotal:       16000000 kB\n"),
            ("proc/self/status", "Name:\tx\nCpus_allowed_list:\t0-3,8\n"),
        ];
        type Case = (&'static [(&'static str, &'static str)], f64, u64);
        const V2: (&str, &str) = ("proc/self/cgroup", "0::/a/b\n");
        const V1: (&str, &str) = ("proc/self/cgroup", "4:memory:/a\n3:cpu,cpuacct:/a\n2:pids:/\n");
        let cases: [Case; 7] = [
            (&[], 5.0, 16_384_000_000),
            (&[V2], 5.0, 16_384_000_000),
            (&[V2, ("cg/a/b/cpu.max", "max 100000\n"), ("cg/a/b/memory.max", "max\n")], 5.0, 16_384_000_000),
            (&[V2, ("cg/a/b/cpu.max", "150000 100000\n"), ("cg/a/memory.max", "1000\n")], 1.5, 1000),
            (
                &[V2, ("cg/a/b/cpu.max", "900000 100000\n"), ("cg/cpu.max", "50000 100000")],
                0.5,
                16_384_000_000,
            ),
            (&[("proc/self/cgroup", "0::/../x\n"), ("cg/memory.max", "2000\n")], 5.0, 2000),
            (
                &[
                    V1,
                    ("cg/cpu/a/cpu.cfs_quota_us", "250000\n"),
                    ("cg/cpu/a/cpu.cfs_period_us", "100000\n"),
                    ("cg/cpu/cpu.cfs_quota_us", "-1\n"),
                    ("cg/memory/a/memory.limit_in_bytes", "3000\n"),
                    ("cg/memory/memory.limit_in_bytes", "9223372036854771712\n"),
                ],
                2.5,
                3000,
            ),
        ];
        for (files, cpu_cores, memory) in cases {
            let expected = Machine { cpu_cores, memory_bytes: Some(memory) };
            assert_eq!(machine(&[&host, files].concat()), expected, "{files:?}");
        }
        let unknown =
            machine(&[("proc/meminfo", "nonsense"), ("proc/self/status", "Cpus_allowed_list:\t3-1")]);
        assert_eq!(unknown.memory_bytes, None);
        assert!(unknown.cpu_cores >= 1.0);
    }

    #[test]
    fn this_machine_has_something() {
        let machine = Machine::detect();
        assert!(machine.cpu_cores > 0.0, "{machine:?}");
        assert!(machine.memory_bytes.is_none_or(|bytes| bytes > 1 << 20), "{machine:?}");
    }
}
