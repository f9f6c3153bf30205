//! Counters and histograms, and their text for Prometheus.
//!
//! Histograms in seconds, because a summary cannot be added up over replicas. Where dashboards know a
//! name already (`nv_inference_…`), the same number stands under that name too.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::scoring::Timing;

/// Upper bounds of the histograms' buckets, in microseconds.
const BOUNDS_US: [u64; 16] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    5_000_000, 30_000_000,
];

/// The statuses that are counted by their number; any other counts as 0.
const STATUSES: [u16; 20] =
    [200, 400, 401, 404, 405, 408, 409, 413, 415, 422, 429, 431, 499, 500, 501, 502, 503, 504, 507, 0];

/// Everything that is counted.
#[derive(Debug, Default)]
pub(super) struct Metrics {
    by_status: [AtomicU64; STATUSES.len()],
    /// From the head of the request to its answer, on the scoring route.
    request: Histogram,
    /// Waiting for a scorer thread.
    queue: Histogram,
    /// Within the scorer.
    compute: Histogram,
    input_us: AtomicU64,
    output_us: AtomicU64,
    rows: AtomicU64,
    cancelled: AtomicU64,
    timed_out: AtomicU64,
    overloaded: AtomicU64,
    device_lost: AtomicU64,
    refused_connections: AtomicU64,
}

#[derive(Debug, Default)]
struct Histogram {
    buckets: [AtomicU64; BOUNDS_US.len() + 1],
    sum_ns: AtomicU64,
}

impl Histogram {
    fn observe(&self, time: Duration) {
        let us = time.as_micros() as u64;
        let bucket = BOUNDS_US.partition_point(|bound| *bound < us);
        if let Some(bucket) = self.buckets.get(bucket) {
            add(bucket, 1);
        }
        add(&self.sum_ns, time.as_nanos() as u64);
    }

    fn count(&self) -> u64 {
        self.buckets.iter().map(load).sum()
    }

    fn write(&self, out: &mut String, name: &str, help: &str) {
        let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} histogram\n");
        let mut below = 0;
        for (bound, count) in BOUNDS_US.iter().zip(&self.buckets) {
            below += load(count);
            let _ = writeln!(out, "{name}_bucket{{le=\"{}\"}} {below}", *bound as f64 / 1e6);
        }
        let (count, sum) = (self.count(), load(&self.sum_ns) as f64 / 1e9);
        let _ = write!(out, "{name}_bucket{{le=\"+Inf\"}} {count}\n{name}_sum {sum}\n{name}_count {count}\n");
    }
}

fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

fn load(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// What is read at the moment of asking.
#[derive(Debug)]
pub(super) struct Gauges<'a> {
    pub(super) service: &'a str,
    pub(super) version: &'a str,
    pub(super) queued: usize,
    pub(super) in_flight: usize,
    pub(super) in_flight_bytes: usize,
    pub(super) connections: usize,
    pub(super) ready: bool,
}

impl Metrics {
    /// A request on the scoring route was answered.
    pub(super) fn answered(&self, status: u16, time: Duration) {
        let place = STATUSES.iter().position(|s| *s == status).unwrap_or(STATUSES.len() - 1);
        if let Some(counter) = self.by_status.get(place) {
            add(counter, 1);
        }
        self.request.observe(time);
    }

    /// The model answered.
    pub(super) fn scored(&self, waited: Duration, ran: Duration, timing: &Timing, rows: usize) {
        self.queue.observe(waited);
        self.compute.observe(ran);
        add(&self.rows, rows as u64);
        for (counter, time) in [(&self.input_us, timing.upload), (&self.output_us, timing.download)] {
            if !time.is_zero() {
                add(counter, time.as_micros() as u64);
            }
        }
    }

    /// An application's function ran for so long.
    pub(super) fn ran(&self, exec: Duration) {
        self.compute.observe(exec);
        add(&self.rows, 1);
    }

    pub(super) fn cancelled(&self, count: usize) {
        add(&self.cancelled, count as u64);
    }
    pub(super) fn timed_out(&self) {
        add(&self.timed_out, 1);
    }
    pub(super) fn overloaded(&self) {
        add(&self.overloaded, 1);
    }
    pub(super) fn device_lost(&self) {
        add(&self.device_lost, 1);
    }
    pub(super) fn refused_connection(&self) {
        add(&self.refused_connections, 1);
    }

    /// All of it, in Prometheus' text format.
    pub(super) fn text(&self, now: &Gauges<'_>) -> String {
        let mut out = String::with_capacity(8192);
        let statuses =
            STATUSES.iter().zip(&self.by_status).map(|(s, n)| (*s, load(n))).filter(|(_, n)| *n > 0);
        let statuses = statuses.collect::<Vec<_>>();
        out.push_str("# HELP triscore_requests_total Answers of the scoring route.\n");
        out.push_str("# TYPE triscore_requests_total counter\n");
        for (status, n) in &statuses {
            let _ = writeln!(out, "triscore_requests_total{{status=\"{status}\"}} {n}");
        }
        let help = "From the head of a request to its answer.";
        self.request.write(&mut out, "triscore_request_duration_seconds", help);
        self.queue.write(&mut out, "triscore_queue_duration_seconds", "Waiting for a scorer thread.");
        self.compute.write(
            &mut out,
            "triscore_compute_duration_seconds",
            "Within the scorer, or the script.",
        );
        let one = |out: &mut String, name: &str, kind: &str, help: &str, n: u64| {
            let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {n}\n");
        };
        one(&mut out, "triscore_queue_size", "gauge", "Requests that wait.", now.queued as u64);
        one(&mut out, "triscore_in_flight_requests", "gauge", "Requests admitted.", now.in_flight as u64);
        let bytes = now.in_flight_bytes as u64;
        one(&mut out, "triscore_in_flight_bytes", "gauge", "Bytes of bodies admitted.", bytes);
        one(&mut out, "triscore_connections", "gauge", "Open connections.", now.connections as u64);
        one(&mut out, "triscore_ready", "gauge", "Whether it is ready.", u64::from(now.ready));
        let counters = [
            ("triscore_cancelled_total", "Requests whose client left.", &self.cancelled),
            ("triscore_timeouts_total", "Requests that took too long.", &self.timed_out),
            ("triscore_overloaded_total", "Requests there was no room for.", &self.overloaded),
            ("triscore_device_lost_total", "Times the device was lost.", &self.device_lost),
            ("triscore_refused_connections_total", "Connections over the limit.", &self.refused_connections),
        ];
        for (name, help, counter) in counters {
            one(&mut out, name, "counter", help, load(counter));
        }
        let label = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let labels = format!("{{model=\"{}\",version=\"{}\"}}", label(now.service), label(now.version));
        let answered =
            |good: bool| statuses.iter().filter(|(s, _)| (*s == 200) == good).map(|(_, n)| n).sum();
        let us = |h: &Histogram| load(&h.sum_ns) / 1000;
        let known: [(&str, &str, u64); 10] = [
            ("nv_inference_request_success", "counter", answered(true)),
            ("nv_inference_request_failure", "counter", answered(false)),
            ("nv_inference_count", "counter", load(&self.rows)),
            ("nv_inference_exec_count", "counter", self.compute.count()),
            ("nv_inference_request_duration_us", "counter", us(&self.request)),
            ("nv_inference_queue_duration_us", "counter", us(&self.queue)),
            ("nv_inference_compute_input_duration_us", "counter", load(&self.input_us)),
            ("nv_inference_compute_infer_duration_us", "counter", us(&self.compute)),
            ("nv_inference_compute_output_duration_us", "counter", load(&self.output_us)),
            ("nv_inference_pending_request_count", "gauge", now.queued as u64),
        ];
        for (name, kind, n) in known {
            let _ = write!(out, "# TYPE {name} {kind}\n{name}{labels} {n}\n");
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_what_is_told() {
        let m = Metrics::default();
        m.answered(200, Duration::from_micros(60));
        m.answered(200, Duration::from_secs(60));
        m.answered(418, Duration::from_micros(100));
        m.scored(Duration::ZERO, Duration::from_millis(2), &Timing::default(), 32);
        let gauges = Gauges {
            service: "di\"gits",
            version: "1",
            queued: 3,
            in_flight: 4,
            in_flight_bytes: 5,
            connections: 6,
            ready: true,
        };
        let text = m.text(&gauges);
        for line in [
            "triscore_requests_total{status=\"200\"} 2",
            "triscore_requests_total{status=\"0\"} 1",
            "triscore_request_duration_seconds_bucket{le=\"0.00005\"} 0",
            "triscore_request_duration_seconds_bucket{le=\"0.0001\"} 2",
            "triscore_request_duration_seconds_bucket{le=\"+Inf\"} 3",
            "triscore_request_duration_seconds_count 3",
            "triscore_compute_duration_seconds_sum 0.002",
            "triscore_queue_size 3",
            "nv_inference_count{model=\"di\\\"gits\",version=\"1\"} 32",
            "nv_inference_request_failure{model=\"di\\\"gits\",version=\"1\"} 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }
}
