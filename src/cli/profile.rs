//! `triscore model profile`: measures a model on sample data, and says what to ask for.

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use triscore::service::{Load, Measured, ProfilePoint, ProfileRequest, profile, recommend};
use triscore::{BackendKind, Result, ScoreError};

use super::Global;
use super::named::Models;
use super::output::{Output, table, text};

/// What `profile` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The profile's name.
    #[arg(short, long)]
    name: String,

    #[command(flatten)]
    models: Models,

    /// The inference file of an entry script.
    #[arg(long = "ic", visible_alias = "inference-config-file", value_name = "FILE")]
    inference_config_file: Option<PathBuf>,

    /// A request to measure with, or `@FILE`; several are sent in turn.
    #[arg(short = 'd', long, value_name = "JSON", required = true)]
    input_data: Vec<String>,

    /// Measure with that many cores only.
    #[arg(long, value_name = "CORES")]
    cc: Option<f64>,

    /// Accepted for old command lines: memory is measured, not limited.
    #[arg(long, value_name = "GB")]
    gb: Option<f64>,

    /// How long to measure each point, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 3.0)]
    seconds: f64,

    /// How long a start may take, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    start_limit: u64,

    /// Write the result there, as JSON.
    #[arg(short = 't', long, value_name = "FILE")]
    output_metadata_file: Option<PathBuf>,

    /// What it is, in words.
    #[arg(long)]
    description: Option<String>,
}

/// Measures, and prints what was measured and what is recommended.
pub(super) fn run(args: &Args, global: &Global, out: &Output) -> Result<()> {
    let bad = |flag: &str, text: String| ScoreError::bad_input(text).with_at(flag);
    if !(0.1..=600.0).contains(&args.seconds) {
        return Err(bad("--seconds", format!("expected 0.1 to 600, got {}", args.seconds)));
    }
    if args.gb.is_some() {
        out.note("warning: --gb: has no effect here: memory is measured, and what was held is recommended");
    }
    let most = std::thread::available_parallelism().map_or(1, usize::from);
    let request = ProfileRequest {
        program: super::own_program()?,
        serve: served(args, global)?,
        samples: args.input_data.iter().map(|d| super::body(d)).collect::<Result<_>>()?,
        backends: backends(global, out),
        cores: match args.cc {
            Some(cores) if !(cores > 0.0 && cores.ceil() <= most as f64) => {
                return Err(bad("--cc", format!("expected more than 0 and at most {most}, got {cores}")));
            }
            Some(cores) => vec![cores.ceil() as usize],
            None => doubling(most),
        },
        duration: Duration::from_secs_f64(args.seconds),
        start_patience: Duration::from_secs(args.start_limit.max(1)),
    };
    let shows = std::io::stderr().is_terminal() && !out.is_json();
    let points = profile(&request, |backend, cores| {
        if shows {
            let _ = writeln!(std::io::stderr(), "measuring {backend} with {cores} cores …");
        }
    })?;
    let json = to_json(args, &points);
    if let Some(file) = &args.output_metadata_file {
        let bytes = serde_json::to_vec_pretty(&json).unwrap_or_default();
        std::fs::write(file, bytes).map_err(|e| ScoreError::io("write the profile", file, e))?;
    }
    out.result(&json, || shown(&points))?;
    match points.iter().any(|p| p.outcome.is_ok()) {
        true => Ok(()),
        false => {
            let why = points.iter().find_map(|p| p.outcome.as_ref().err()).cloned().unwrap_or_default();
            Err(ScoreError::unavailable(format!("nothing could be measured: {why}")).with_at(&args.name))
        }
    }
}

/// The arguments of `triscore serve` that name what is served.
fn served(args: &Args, global: &Global) -> Result<Vec<OsString>> {
    let models = match args.inference_config_file {
        // An entry script may do without a model.
        Some(_) => args.models.all()?,
        None => args.models.at_least_one("profiled")?,
    };
    let mut serve = Vec::<OsString>::new();
    if let Some(home) = &global.home {
        serve.extend(["--home".into(), home.into()]);
    }
    if let Some(library) = &global.onnxruntime {
        serve.extend(["--onnxruntime".into(), library.into()]);
    }
    if let Some(file) = &args.inference_config_file {
        serve.extend(["--ic".into(), file.into()]);
    }
    for model in models {
        serve.push(model.to_string().into());
    }
    Ok(serve)
}

/// The backends that have a device now; why another has none is told, once.
fn backends(global: &Global, out: &Output) -> Vec<BackendKind> {
    let mut usable = Vec::new();
    for backend in global.backends() {
        match backend.probe() {
            Ok(devices) if devices.iter().any(|d| !d.emulated) => usable.push(backend.kind()),
            Ok(_) => out.note(&format!("{}: not measured: only emulated devices are there", backend.kind())),
            Err(e) => out.note(&format!("{}: not measured: {e}", backend.kind())),
        }
    }
    usable
}

/// 1, 2, 4, … and the last.
fn doubling(most: usize) -> Vec<usize> {
    let mut cores =
        std::iter::successors(Some(1), |n| Some(n * 2)).take_while(|n| *n < most).collect::<Vec<_>>();
    cores.push(most.max(1));
    cores
}

fn shown(points: &[ProfilePoint]) -> String {
    let mut rows =
        table(&["backend", "cores", "alone p50", "p99", "busy req/s", "p99", "cores used", "memory"]);
    for p in points {
        let ms = |load: &Load, share| format!("{:.2} ms", load.percentile_ms(share));
        let head = [p.backend.to_string(), p.cores.to_string()];
        let rest = match &p.outcome {
            Ok(m) => [
                ms(&m.alone, 0.5),
                ms(&m.alone, 0.99),
                format!("{:.0}", m.busy.per_second),
                ms(&m.busy, 0.99),
                format!("{:.2}", m.used_cores),
                format!("{:.0} MB", m.peak_memory_bytes as f64 / 1e6),
            ],
            Err(why) => {
                [why.clone(), String::new(), String::new(), String::new(), String::new(), String::new()]
            }
        };
        rows.add_row(head.into_iter().chain(rest));
    }
    let mut shown = text(&rows);
    if let Some(r) = recommend(points) {
        shown += &format!(
            "\nrecommended: {}, \"cpu\": {}, \"memoryInGB\": {:.1} ({})",
            r.backend, r.cpu, r.memory_gb, r.why
        );
    }
    shown
}

/// With the names that Azure's profiles had, and what they had no word for behind them.
fn to_json(args: &Args, points: &[ProfilePoint]) -> Value {
    let recommended = recommend(points);
    let chosen = recommended.as_ref().and_then(|r| {
        let point = points.iter().find(|p| p.backend == r.backend && p.cores == r.cpu);
        point.and_then(|p| p.outcome.as_ref().ok())
    });
    let percentile = |share| chosen.map(|m| m.alone.percentile_ms(share));
    let total = chosen.map(|m| m.alone.ok + m.alone.failed);
    json!({
        "name": args.name,
        "description": args.description,
        "state": if chosen.is_some() { "Succeeded" } else { "Failed" },
        "recommendedCpu": recommended.as_ref().map(|r| r.cpu),
        "recommendedMemoryInGB": recommended.as_ref().map(|r| r.memory_gb),
        "recommendedBackend": recommended.as_ref().map(|r| r.backend.to_string()),
        "reason": recommended.as_ref().map(|r| r.why.clone()),
        "totalQueries": total,
        "successQueries": chosen.map(|m| m.alone.ok),
        "successRate": chosen.zip(total).map(|(m, total)| 100.0 * m.alone.ok as f64 / total.max(1) as f64),
        "averageLatencyInMs": chosen.map(|m| m.alone.mean_ms()),
        "latencyPercentile50InMs": percentile(0.5),
        "latencyPercentile90InMs": percentile(0.9),
        "latencyPercentile95InMs": percentile(0.95),
        "latencyPercentile99InMs": percentile(0.99),
        "latencyPercentile999InMs": percentile(0.999),
        "measuredQueriesPerSecond": chosen.map(|m| m.busy.per_second),
        "maxUtilizedCpu": chosen.map(|m| m.used_cores),
        "maxUtilizedMemoryInGB": chosen.map(gigabytes),
        "points": points.iter().map(point_json).collect::<Vec<_>>(),
    })
}

fn gigabytes(m: &Measured) -> f64 {
    m.peak_memory_bytes as f64 / f64::from(1 << 30)
}

fn point_json(p: &ProfilePoint) -> Value {
    let load = |l: &Load| {
        json!({
            "callers": l.callers,
            "ok": l.ok,
            "failed": l.failed,
            "firstFailure": l.first_failure,
            "perSecond": l.per_second,
            "p50Ms": l.percentile_ms(0.5),
            "p99Ms": l.percentile_ms(0.99),
        })
    };
    let (backend, cores) = (p.backend.to_string(), p.cores);
    match &p.outcome {
        Err(why) => json!({ "backend": backend, "cores": cores, "error": why }),
        Ok(m) => json!({
            "backend": backend,
            "cores": cores,
            "device": m.device,
            "alone": load(&m.alone),
            "busy": load(&m.busy),
            "usedCores": m.used_cores,
            "peakMemoryInGB": gigabytes(m),
            "startMs": m.start_ms,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_double_up_to_the_last() {
        for (most, expected) in [(1, &[1][..]), (2, &[1, 2]), (6, &[1, 2, 4, 6]), (8, &[1, 2, 4, 8])] {
            assert_eq!(doubling(most), expected);
        }
    }
}
