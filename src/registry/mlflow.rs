//! The files that MLflow keeps runs in, read.
//!
//! ```text
//! mlruns/<experiment id>/meta.yaml            name: of the experiment
//! mlruns/<experiment id>/<run id>/meta.yaml   start_time: in milliseconds
//! mlruns/<experiment id>/<run id>/metrics/…   lines "<timestamp> <value> <step>"
//! mlruns/<experiment id>/<run id>/artifacts/… what the run put out
//! ```
//!
//! Folders only: a link to one is not followed. What MLflow marks as deleted does not count.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::files;
use super::names::suggestion;
use crate::error::{Result, ScoreError};

/// A small file about a run.
const META_LIMIT_BYTES: u64 = 1 << 20;
/// A metric's history: some millions of steps.
const METRIC_LIMIT_BYTES: u64 = 1 << 28;

/// A metric, and which of its values is best.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BestBy {
    /// The name of the metric.
    pub metric: String,
    /// Which value is best.
    pub goal: Goal,
}

/// Which value of a metric is best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Goal {
    /// The largest: accuracy.
    Max,
    /// The smallest: loss.
    Min,
}

#[derive(Deserialize)]
struct ExperimentMeta {
    name: Option<String>,
    lifecycle_stage: Option<String>,
}

#[derive(Deserialize)]
struct RunMeta {
    start_time: Option<i64>,
    lifecycle_stage: Option<String>,
}

/// An experiment: a name for its runs.
#[derive(Debug)]
pub(super) struct Experiment {
    pub(super) name: String,
    pub(super) folder: PathBuf,
}

/// One run of a training program.
pub(super) struct Run {
    pub(super) id: String,
    pub(super) folder: PathBuf,
    start_time_ms: i64,
}

/// The experiments that can be read, and what is wrong with the first that cannot: it is only in
/// the way of who does not find what he wants among the others.
pub(super) fn experiments(root: &Path) -> Result<(Vec<Experiment>, Option<ScoreError>)> {
    let (mut experiments, mut broken) = (Vec::new(), None);
    for folder in folders(root)? {
        match read_meta::<ExperimentMeta>(&folder) {
            Ok(Some(ExperimentMeta { name: Some(name), lifecycle_stage }))
                if is_active(lifecycle_stage.as_deref()) =>
            {
                experiments.push(Experiment { name, folder });
            }
            Ok(_) => {}
            Err(e) => broken = broken.or(Some(e)),
        }
    }
    Ok((experiments, broken))
}

fn is_active(lifecycle_stage: Option<&str>) -> bool {
    lifecycle_stage.is_none_or(|stage| stage == "active")
}

/// The folders in a folder, links left out, sorted.
pub(super) fn folders(parent: &Path) -> Result<Vec<PathBuf>> {
    let read = |e| ScoreError::io("read the folder of runs", parent, e);
    let mut out = Vec::new();
    for entry in std::fs::read_dir(parent).map_err(read)? {
        let entry = entry.map_err(read)?;
        if entry.file_type().map_err(read)?.is_dir() {
            out.push(entry.path());
        }
    }
    out.sort();
    Ok(out)
}

/// The `meta.yaml` of an experiment or a run; `None` where there is none.
fn read_meta<T: serde::de::DeserializeOwned>(folder: &Path) -> Result<Option<T>> {
    let path = folder.join("meta.yaml");
    if path.symlink_metadata().is_err() {
        return Ok(None);
    }
    let text = files::read_text(&path, META_LIMIT_BYTES)?;
    serde_saphyr::from_str(&text).map(Some).map_err(|e| {
        ScoreError::bad_config(format!("is not what MLflow writes: {e}")).with_at(path.display().to_string())
    })
}

fn runs(experiment: &Experiment) -> Result<Vec<Run>> {
    let mut runs = Vec::new();
    for folder in folders(&experiment.folder)? {
        runs.extend(run_in(folder)?);
    }
    Ok(runs)
}

/// The run in that folder, if there is one.
pub(super) fn run_in(folder: PathBuf) -> Result<Option<Run>> {
    if !folder.symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
        return Ok(None);
    }
    let Some(meta) = read_meta::<RunMeta>(&folder)? else { return Ok(None) };
    let id = folder.file_name().and_then(|name| name.to_str()).map(str::to_owned);
    Ok(id.filter(|_| is_active(meta.lifecycle_stage.as_deref())).map(|id| Run {
        id,
        folder,
        start_time_ms: meta.start_time.unwrap_or(0),
    }))
}

/// The run whose last value of the metric is best; of equals, the newest.
pub(super) fn best_run(experiment: &Experiment, by: &BestBy) -> Result<Run> {
    let Some(metric) = files::plain_relative(Path::new(&by.metric)) else {
        return Err(ScoreError::bad_input(format!("'{}' is not the name of a metric", by.metric)));
    };
    let at = |e: ScoreError| e.with_at(format!("experiment '{}'", experiment.name));
    let (mut best, mut nan, mut available): (Option<(f64, Run)>, usize, _) = (None, 0, BTreeSet::new());
    for run in runs(experiment)? {
        let metrics = run.folder.join("metrics");
        let Some(value) = last_value(&metrics.join(&metric))? else {
            metric_names(&metrics, "", 4, &mut available)?;
            continue;
        };
        if value.is_nan() {
            nan += 1;
            continue;
        }
        let is_better = best.as_ref().is_none_or(|(old, old_run)| {
            let ordering = match by.goal {
                Goal::Max => value.total_cmp(old),
                Goal::Min => old.total_cmp(&value),
            };
            // -0 and 0 are equal, whatever the total order says.
            let ordering = if value == *old { Ordering::Equal } else { ordering };
            ordering
                .then_with(|| (run.start_time_ms, &run.id).cmp(&(old_run.start_time_ms, &old_run.id)))
                .is_gt()
        });
        if is_better {
            best = Some((value, run));
        }
    }
    best.map(|(_, run)| run).ok_or_else(|| {
        let metric = &by.metric;
        at(match nan {
            0 if available.is_empty() => {
                ScoreError::not_found(format!("no run has a metric '{metric}', nor any other"))
            }
            0 => {
                let hint = suggestion(metric, available.iter().map(String::as_str));
                ScoreError::not_found(format!("no run has a metric '{metric}'; {hint}"))
            }
            _ => ScoreError::not_found(format!(
                "metric '{metric}' is NaN in every run that has it; none is best"
            )),
        })
    })
}

/// The last value of a metric: at the highest step, of those the latest. `None` without a value.
fn last_value(path: &Path) -> Result<Option<f64>> {
    if !path.symlink_metadata().is_ok_and(|meta| meta.is_file()) {
        return Ok(None);
    }
    let text = files::read_text(path, METRIC_LIMIT_BYTES)?;
    let mut last: Option<(i64, i64, f64)> = None;
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let mut fields = line.split_whitespace();
        let timestamp = fields.next().and_then(|f| f.parse::<i64>().ok());
        let value = fields.next().and_then(|f| f.parse::<f64>().ok());
        // The oldest versions wrote no step; the newest write more fields after it.
        let step = fields.next().map_or(Some(0), |f| f.parse::<i64>().ok());
        let (Some(timestamp), Some(value), Some(step)) = (timestamp, value, step) else {
            let what = "is not a line of a metric; expected '<timestamp> <value> <step>'";
            return Err(ScoreError::bad_config(what).with_at(format!("{}:{}", path.display(), index + 1)));
        };
        if last.is_none_or(|(s, t, _)| (step, timestamp) >= (s, t)) {
            last = Some((step, timestamp, value));
        }
    }
    Ok(last.map(|(_, _, value)| value))
}

/// Gathers the names of a run's metrics; a name may have parts, each a folder.
fn metric_names(folder: &Path, prefix: &str, depth: usize, names: &mut BTreeSet<String>) -> Result<()> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(()) };
    for entry in entries {
        let entry = entry.map_err(|e| ScoreError::io("read the folder", folder, e))?;
        let (Ok(kind), Ok(name)) = (entry.file_type(), entry.file_name().into_string()) else { continue };
        let name = format!("{prefix}{name}");
        if kind.is_dir() && depth > 1 {
            metric_names(&entry.path(), &format!("{name}/"), depth - 1, names)?;
        } else if kind.is_file() && names.len() < 1000 {
            names.insert(name);
        }
    }
    Ok(())
}
