//! What a process and all that it started use, read from `/proc`.

use std::collections::HashMap;
use std::fs;

/// The process and its living descendants.
fn tree(root: u32) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        if let Some(parent) = stat(pid).and_then(|f| f.first()?.parse().ok()) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let (mut found, mut waiting) = (Vec::new(), vec![root]);
    while let Some(pid) = waiting.pop() {
        found.push(pid);
        waiting.extend(children.remove(&pid).unwrap_or_default());
    }
    found
}

/// The fields of `/proc/PID/stat` from the parent's number on: those before are the command's name, which may
/// hold blanks, and the state.
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    Some(rest.split_whitespace().skip(1).map(str::to_owned).collect())
}

/// Processor time that the tree has used, in seconds, ended children that were waited for included.
pub(super) fn cpu_seconds(root: u32) -> f64 {
    // SAFETY: asks for a number and touches no memory.
    let ticks_per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) }.max(1) as f64;
    let ticks = |pid| {
        let fields = stat(pid).unwrap_or_default();
        // utime, stime, cutime, cstime: fields 14 to 17 of proc(5).
        fields.iter().skip(10).take(4).filter_map(|f| f.parse::<f64>().ok()).sum::<f64>()
    };
    tree(root).into_iter().map(ticks).sum::<f64>() / ticks_per_second
}

/// The most resident memory that each process of the tree held, added up, in bytes.
pub(super) fn peak_memory_bytes(root: u32) -> u64 {
    let peak = |pid| -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    };
    tree(root).into_iter().filter_map(peak).sum::<u64>() * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_something() {
        let own = std::process::id();
        assert!(tree(own).contains(&own));
        assert!(peak_memory_bytes(own) > 1 << 20);
        let before = cpu_seconds(own);
        let begun = std::time::Instant::now();
        let mut sum = 0u64;
        while begun.elapsed().as_millis() < 60 {
            sum = std::hint::black_box(sum.wrapping_mul(31).wrapping_add(1));
        }
        assert!(cpu_seconds(own) > before);
        assert_eq!((cpu_seconds(u32::MAX), peak_memory_bytes(u32::MAX)), (0.0, 0));
    }
}
