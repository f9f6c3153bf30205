//! Times become figures: medians and percentiles, for people as a table and for `scripts/gpu/report.py` as JSON.
//!
//! The JSON of `scripts/gpu/peers.py` has the same form: `cases`, each with `contestant`, `network`, `precision`, `batch`, and times in milliseconds.

use serde_json::{Value, json};
use triscore::gpu::Measured;
use triscore::scoring::Device;

use crate::cases::Network;

/// What of times is told.
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

impl Spread {
    /// The median, the 5th and the 95th percentile.
    pub(crate) fn of(times: &[f64]) -> Self {
        let mut sorted = times.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |share: f64| sorted.get((sorted.len() as f64 * share) as usize).copied().unwrap_or(f64::NAN);
        Self { median: at(0.5), low: at(0.05), high: at(0.95) }
    }

    fn json(&self) -> Value {
        json!({ "median_ms": self.median, "p5_ms": self.low, "p95_ms": self.high })
    }
}

/// One case, measured.
pub(crate) struct Case {
    pub(crate) network: &'static Network,
    pub(crate) precision: &'static str,
    pub(crate) measured: Measured,
    pub(crate) roof: Option<f64>,
    /// Callers of one scorer with two lanes, and rows a second of all of them together.
    pub(crate) callers: Vec<(usize, f64)>,
}

/// What stands over [`Case::line`].
pub(crate) fn heading() -> String {
    format!(
        "{:<16} {:>6} {:>5} {:>8} {:>10} {:>10} {:>10} {:>12} {:>6}   {:>9} {:>9} {:>6}   {:>12} {:>12} {:>12}",
        "network",
        "",
        "batch",
        "kernels",
        "median ms",
        "p5",
        "p95",
        "rows/s",
        "roof",
        "whole ms",
        "parts ms",
        "ratio",
        "1 caller",
        "2 callers",
        "4 callers"
    )
}

impl Case {
    fn rate(&self) -> f64 {
        self.measured.rows as f64 * 1e3 / Spread::of(&self.measured.compute).median
    }

    /// The sum of a run's parts, each measured alone.
    fn parts(&self) -> f64 {
        let m = &self.measured;
        [&m.upload, &m.compute, &m.download].iter().map(|times| Spread::of(times).median).sum()
    }

    pub(crate) fn line(&self) -> String {
        let (compute, whole) = (Spread::of(&self.measured.compute), Spread::of(&self.measured.whole).median);
        let roof = self.roof.map_or("-".to_owned(), |roof| format!("{:.0} %", 100.0 * self.rate() / roof));
        let callers = self.callers.iter().map(|(_, rate)| format!(" {rate:>12.1}")).collect::<String>();
        format!(
            "{:<16} {:>6} {:>5} {:>8} {:>10.4} {:>10.4} {:>10.4} {:>12.1} {roof:>6}   {whole:>9.4} {:>9.4} {:>6.2}  {callers}",
            self.network.name,
            self.precision,
            self.measured.rows,
            self.measured.kernels,
            compute.median,
            compute.low,
            compute.high,
            self.rate(),
            self.parts(),
            whole / self.parts(),
        )
    }

    pub(crate) fn json(&self) -> Value {
        let m = &self.measured;
        let mut case = json!({
            "contestant": "triscore",
            "network": self.network.name,
            "unit": self.network.unit,
            "precision": self.precision,
            "batch": m.rows,
            "rate": self.rate(),
            "times_ms": m.compute,
            "rounds": m.compute.len(),
            "kernels": m.kernels,
            "placement": m.placement,
            "arena_bytes": m.arena_bytes,
            "constant_bytes": m.constant_bytes,
            "upload_bytes": m.upload_bytes,
            "download_bytes": m.download_bytes,
            "by_events": m.by_events,
            "share_of_roof": self.roof.map(|roof| self.rate() / roof),
            "upload": Spread::of(&m.upload).json(),
            "download": Spread::of(&m.download).json(),
            "whole": Spread::of(&m.whole).json(),
            "whole_by_parts": Spread::of(&m.whole).median / self.parts(),
            "rows_per_second_by_callers":
                self.callers.iter().map(|(n, rate)| (n.to_string(), json!(rate))).collect::<serde_json::Map<_, _>>(),
        });
        if let (Some(case), Value::Object(spread)) = (case.as_object_mut(), Spread::of(&m.compute).json()) {
            case.extend(spread);
        }
        case
    }
}

/// The device, and what else one must know to judge the figures.
pub(crate) fn about(device: &Device, quick: bool) -> Value {
    let facts = device.facts.iter().map(|(name, text)| ((*name).to_owned(), json!(text)));
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpu.lines().find_map(|l| l.strip_prefix("model name")).unwrap_or_default();
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    json!({
        "program": format!("triscore {}", env!("CARGO_PKG_VERSION")),
        "unix_time": now.as_secs(),
        "quick": quick,
        "cases": [],
        "failed": [],
        "device": {
            "name": device.name,
            "shown": device.to_string(),
            "emulated": device.emulated,
            "memory_bytes": device.memory_bytes,
            "facts": facts.collect::<serde_json::Map<_, _>>(),
        },
        "host": {
            "processor": cpu.trim_start_matches(['\t', ' ', ':']),
            "cores": std::thread::available_parallelism().map_or(0, usize::from),
            "kernel": kernel.trim(),
        },
    })
}
