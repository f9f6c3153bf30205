//! Memory over a life: flat over many scores, and given back when models are unloaded.

use triscore::{Call, CompileOptions};

use crate::{Target, inputs};

/// What the process may hold more at the end than at the beginning: allocators keep a little.
const SLACK_BYTES: u64 = 12 << 20;

/// Scores and loads until a leak of a kilobyte each would show.
pub(crate) fn memory(target: &Target) -> Vec<String> {
    let check = || -> Result<(), String> {
        let model = target.model("digits_cnn/model.onnx").ok_or("the device takes nothing of it")?;
        let devices = std::slice::from_ref(&target.device);
        let load = || target.backend.compile(&model, devices, &CompileOptions::default());
        let load = || load().map_err(|e| e.to_string());
        let scorer = load()?;
        let inputs = inputs::rows(scorer.signature().inputs(), 8, 3);
        let scores = |n: usize| -> Result<(), String> {
            for _ in 0..target.times(n) {
                scorer.score(&inputs, &Call::new()).map_err(|e| e.to_string())?;
            }
            Ok(())
        };
        scores(2_000)?;
        let before = resident_bytes();
        scores(10_000)?;
        grown("10,000 scores", before)?;
        // The first loads fill the caches of the library and of the allocator.
        for _ in 0..3 {
            drop(load()?);
        }
        let before = resident_bytes();
        for _ in 0..20 {
            drop(load()?);
        }
        grown("20 loads", before)
    };
    check().err().into_iter().collect()
}

fn grown(what: &str, before: u64) -> Result<(), String> {
    let now = resident_bytes();
    let more = now.saturating_sub(before);
    if more <= SLACK_BYTES { Ok(()) } else { Err(format!("{what} left {} KiB behind", more >> 10)) }
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap_or("0 kB");
    line.split_whitespace().next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) * 1024
}
