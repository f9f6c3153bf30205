//! What processor, threads and memory this process may use.
//!
//! In a container the machine's own numbers are lies: the control group says what may be used. Threads
//! come from `available_parallelism`, which reads affinity and the group's quota; memory from
//! [`Machine`](crate::machine::Machine), which looks at every group above this process.

use std::fs;

/// Threads that can run at once, as affinity and control group allow.
pub(super) fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, Into::into)
}

/// The thread budget of a deployment: its `cpu`, rounded up, but not more than there are.
pub(super) fn thread_budget(cpu_cores: Option<f64>) -> usize {
    match cpu_cores {
        // A cast of a float saturates, so absurd numbers end at what there is.
        Some(cores) if cores > 0.0 => (cores.ceil() as usize).clamp(1, threads()),
        _ => threads(),
    }
}

/// Memory that may be used in all, in bytes: the machine's, or less where a control group says so.
pub(super) fn memory_bytes() -> Option<u64> {
    crate::machine::Machine::detect().memory_bytes
}

/// Memory that this process holds, in bytes.
pub(super) fn resident_bytes() -> Option<u64> {
    kib_field("/proc/self/status", "VmRSS:")
}

fn kib_field(path: &str, field: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix(field))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

/// Gives freed memory back to the system. ONNX Runtime frees half of what it used while loading, and
/// the C library keeps it: 290 → 130 MB for a ResNet-50.
pub(super) fn trim_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: takes no pointer and may be called at any time from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// What the processor calls itself.
pub(super) fn processor_name() -> String {
    cpuinfo("model name").unwrap_or_else(|| format!("{} processor", std::env::consts::ARCH))
}

/// The vector and matrix instructions that matter to a model's speed, and to int8 exactness.
pub(super) fn instruction_sets() -> Option<String> {
    const TOLD: [&str; 6] = ["fma", "avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8"];
    let flags = cpuinfo("flags")?;
    let has = |name: &&str| flags.split_whitespace().any(|f| f == *name);
    Some(TOLD.iter().filter(|n| has(n)).copied().collect::<Vec<_>>().join(" "))
}

fn cpuinfo(field: &str) -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|l| l.split(':').next().is_some_and(|name| name.trim() == field))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deployment_gets_what_it_asks_and_never_more_than_there_is() {
        let all = threads();
        for (cores, expected) in [
            (None, all),
            (Some(0.1), 1),
            (Some(1.0), 1),
            (Some(1e300), all),
            (Some(f64::NAN), all),
            (Some(-1.0), all),
        ] {
            assert_eq!(thread_budget(cores), expected, "{cores:?}");
        }
    }

    #[test]
    fn memory_is_known_on_linux() {
        if cfg!(target_os = "linux") {
            assert!(resident_bytes().unwrap() > 100_000);
            assert!(memory_bytes().unwrap() > resident_bytes().unwrap());
        }
    }
}
