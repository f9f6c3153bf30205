//! `triscore devices`: every backend's devices, or why there are none.

use serde_json::json;
use triscore::Result;

use super::Global;
use super::output::{Output, size, table, text};

/// Probes every backend and prints what it says.
pub(super) fn run(global: &Global, out: &Output) -> Result<()> {
    let probes = global.backends().into_iter().map(|b| (b.kind(), b.probe())).collect::<Vec<_>>();
    let json = probes.iter().map(|(kind, probe)| match probe {
        Ok(devices) => json!({ "backend": kind.to_string(), "devices": devices.iter().map(|d| json!({
            "index": d.index,
            "name": d.name,
            "memoryBytes": d.memory_bytes,
            "emulated": d.emulated,
            "facts": d.facts.iter().map(|(k, v)| (k.to_string(), json!(v))).collect::<serde_json::Map<_, _>>(),
        })).collect::<Vec<_>>() }),
        Err(e) => json!({ "backend": kind.to_string(), "devices": [], "reason": e.to_string() }),
    });
    out.result(&json.collect(), || {
        let mut rows = table(&["device", "name", "memory", "facts"]);
        let mut reasons = String::new();
        for (kind, probe) in &probes {
            match probe {
                Ok(devices) => devices.iter().for_each(|d| {
                    let name = if d.emulated { format!("{} (emulated)", d.name) } else { d.name.clone() };
                    let memory = d.memory_bytes.map(size).unwrap_or_default();
                    let facts =
                        d.facts.iter().map(|(k, v)| format!("{k} {v}")).collect::<Vec<_>>().join("; ");
                    rows.add_row([format!("{kind}:{}", d.index), name, memory, facts]);
                }),
                Err(e) => reasons.push_str(&format!("\n{kind}: none: {e}\n")),
            }
        }
        format!("{}\n{reasons}", text(&rows))
    })
}
