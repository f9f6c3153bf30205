//! The outputs of a training run, as a model's source.
//!
//! Azure kept runs in the cloud; here they are where MLflow writes them (see [`mlflow`]). No link on the
//! way from the runs folder to the asset is followed, and the asset path cannot leave the run's
//! artifacts.
//!
//! [`mlflow`]: super::mlflow

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::files;
use super::mlflow::{BestBy, Experiment, Run, best_run, experiments, folders, run_in};
use super::names::suggestion;
use crate::error::{Result, ScoreError};

/// What `az ml` wrote about a run: a few hundred bytes.
const META_LIMIT_BYTES: u64 = 1 << 20;

/// A file or folder in the outputs of a training run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunSource {
    /// Where MLflow keeps the runs; `./mlruns` where nothing is said.
    pub runs_root: PathBuf,
    /// The file or folder in the run's artifacts. As Azure had it, it may begin with `outputs/`.
    pub asset_path: PathBuf,
    /// The experiment. Needed to choose its best run.
    pub experiment_name: Option<String>,
    /// The run. Without it the best is taken.
    pub run_id: Option<String>,
    /// What makes a run the best.
    pub best_by: Option<BestBy>,
    /// A JSON file that names experiment and run: what `az ml run submit-script -t` wrote.
    pub run_metadata_file: Option<PathBuf>,
}

/// What a [`RunSource`] stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedRun {
    /// The experiment.
    pub experiment_name: String,
    /// The run.
    pub run_id: String,
    /// The file or folder.
    pub path: PathBuf,
    /// The name it goes by, where that is not its base name.
    pub top: Option<String>,
}

#[derive(Deserialize)]
struct RunMetadataFile {
    #[serde(alias = "runId")]
    run_id: Option<String>,
    #[serde(alias = "experimentName")]
    experiment_name: Option<String>,
}

impl RunSource {
    /// That file or folder of a run yet to be named, in `./mlruns`.
    pub fn new(asset_path: impl Into<PathBuf>) -> Self {
        Self {
            runs_root: PathBuf::from("mlruns"),
            asset_path: asset_path.into(),
            experiment_name: None,
            run_id: None,
            best_by: None,
            run_metadata_file: None,
        }
    }

    /// Finds the run and the asset.
    ///
    /// # Errors
    /// - `BadInput`: it is not said which run, or said in two ways; the asset path leaves the run.
    /// - `NotFound`: no such experiment, run, metric or asset; what there is instead is named.
    /// - `BadConfig`: a file about a run cannot be understood.
    /// - `Io`: a file cannot be read.
    pub fn resolve(&self) -> Result<ResolvedRun> {
        let (experiment_name, run_id) = self.named()?;
        let (experiments, broken) = experiments(&self.runs_root)?;
        let chosen: Vec<&Experiment> = match &experiment_name {
            Some(name) => experiments.iter().filter(|e| e.name == *name).collect(),
            None => experiments.iter().collect(),
        };
        if let (Some(name), true) = (&experiment_name, chosen.is_empty()) {
            let hint = suggestion(name, experiments.iter().map(|e| e.name.as_str()));
            let none = || self.at(ScoreError::not_found(format!("there is no experiment '{name}'; {hint}")));
            return Err(broken.unwrap_or_else(none));
        }
        let (experiment, run) = match (&run_id, &self.best_by) {
            (Some(_), Some(_)) => {
                return Err(ScoreError::bad_input("give a run, or the metric to choose one by, not both"));
            }
            (Some(id), None) => match (self.run_of(id, &chosen)?, broken) {
                (Some(found), _) => found,
                (None, Some(broken)) if experiment_name.is_none() => return Err(broken),
                (None, _) => return Err(self.no_run(id, &chosen)),
            },
            (None, Some(by)) => match (&experiment_name, chosen.as_slice()) {
                (None, _) => {
                    return Err(ScoreError::bad_input(
                        "to choose the best run, give the experiment to choose from",
                    ));
                }
                (_, [experiment]) => (*experiment, best_run(experiment, by)?),
                _ => return Err(self.ambiguous(&chosen)),
            },
            (None, None) => {
                return Err(ScoreError::bad_input(
                    "give the run whose output to register (a run id or a run metadata file), \
                     or the metric to choose the best run by",
                ));
            }
        };
        let (path, top) = asset(&run.folder, &self.asset_path)?;
        Ok(ResolvedRun { experiment_name: experiment.name.clone(), run_id: run.id, path, top })
    }

    fn at(&self, e: ScoreError) -> ScoreError {
        e.with_at(self.runs_root.display().to_string())
    }

    fn ambiguous(&self, experiments: &[&Experiment]) -> ScoreError {
        let folders =
            experiments.iter().map(|e| e.folder.display().to_string()).collect::<Vec<_>>().join(", ");
        self.at(ScoreError::bad_input(format!(
            "more than one experiment fits: {folders}; give its runs folder alone"
        )))
    }

    /// Experiment and run as given here and in the run metadata file, which must agree.
    fn named(&self) -> Result<(Option<String>, Option<String>)> {
        let Some(path) = &self.run_metadata_file else {
            return Ok((self.experiment_name.clone(), self.run_id.clone()));
        };
        let at = |e: ScoreError| e.with_at(path.display().to_string());
        let text = files::read_text(path, META_LIMIT_BYTES)?;
        let file: RunMetadataFile = files::json_object(&text).map_err(|e| {
            at(ScoreError::bad_config(format!(
                "is not run metadata: {e}; expected a JSON object with \"runId\" and \"experimentName\""
            )))
        })?;
        if file.run_id.is_none() {
            return Err(at(ScoreError::bad_config("has no \"runId\"")));
        }
        let join = |what, given: &Option<String>, read: Option<String>| match (given, read) {
            (Some(given), Some(read)) if *given != read => Err(at(ScoreError::bad_input(format!(
                "names {what} '{read}', and '{given}' was given; leave one of them out"
            )))),
            (given, read) => Ok(read.or_else(|| given.clone())),
        };
        Ok((
            join("the experiment", &self.experiment_name, file.experiment_name)?,
            join("the run", &self.run_id, file.run_id)?,
        ))
    }

    fn run_of<'a>(&self, id: &str, experiments: &[&'a Experiment]) -> Result<Option<(&'a Experiment, Run)>> {
        // One plain name: a run id is a folder, and leads nowhere else.
        if files::plain_relative(Path::new(id))
            .is_none_or(|path| path.as_os_str() != id || path.iter().count() != 1)
        {
            return Ok(None);
        }
        let mut found = Vec::new();
        for experiment in experiments {
            found.extend(run_in(experiment.folder.join(id))?.map(|run| (*experiment, run)));
        }
        match found.len() {
            0 | 1 => Ok(found.pop()),
            _ => Err(self.ambiguous(&found.iter().map(|(e, _)| *e).collect::<Vec<_>>())),
        }
    }

    fn no_run(&self, id: &str, experiments: &[&Experiment]) -> ScoreError {
        let names = |experiment: &&Experiment| folders(&experiment.folder).unwrap_or_default();
        let others: Vec<PathBuf> =
            experiments.iter().flat_map(names).filter(|folder| folder.join("meta.yaml").exists()).collect();
        let hint = suggestion(id, others.iter().filter_map(|folder| folder.file_name()?.to_str()));
        let of = match experiments {
            [one] => format!(" in experiment '{}'", one.name),
            _ => String::new(),
        };
        self.at(ScoreError::not_found(format!("there is no run '{}'{of}; {hint}", id.escape_debug())))
    }
}

/// Where an asset is in a run's artifacts, and its name where that is not the base name.
fn asset(run: &Path, asset_path: &Path) -> Result<(PathBuf, Option<String>)> {
    let at = |e: ScoreError| e.with_at(format!("asset path '{}'", asset_path.display()));
    let Some(mut relative) = files::plain_relative(asset_path) else {
        let what = "leads out of the run; expected a path in its outputs, like 'outputs/model.onnx'";
        return Err(at(ScoreError::bad_input(what)));
    };
    let artifacts = run.join("artifacts");
    let mut top = None;
    // Azure's runs put their files under `outputs`; MLflow's have them in the artifacts themselves.
    if relative.starts_with("outputs") && artifacts.join("outputs").symlink_metadata().is_err() {
        relative = relative.components().skip(1).collect();
        if relative.as_os_str().is_empty() {
            top = Some("outputs".to_owned());
        }
    }
    let mut path = run.to_owned();
    for part in Path::new("artifacts").join(&relative).components() {
        path.push(part);
        match path.symlink_metadata() {
            Ok(meta) if meta.is_symlink() => {
                let what = format!("'{}' is a symbolic link, which is not followed", path.display());
                return Err(at(ScoreError::bad_input(what)));
            }
            Ok(_) => {}
            Err(e) => return Err(at(ScoreError::io("find the run's output", &path, e))),
        }
    }
    Ok((path, top))
}

#[cfg(test)]
mod tests {
    use super::super::mlflow::Goal;
    use super::*;
    use crate::ErrorKind;
    use std::os::unix::fs::symlink;

    fn put(root: &Path, name: &str, text: &str) {
        let path = root.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Four runs of one experiment, one deleted, one NaN; a second and a deleted experiment.
    fn mlruns() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        put(
            root,
            "7/meta.yaml",
            "artifact_location: x\nexperiment_id: '7'\nlifecycle_stage: active\nname: digits\n",
        );
        for (run, start, stage, accuracy) in [
            ("aa", 10, "active", "1 0.5 0\n3 0.9 2\n2 0.7 1\n"),
            ("bb", 30, "active", "1 0.9 0\n"),
            ("cc", 20, "active", "1 0.99 0\n2 nan 1\n"),
            ("dd", 40, "deleted", "1 1.0 0\n"),
        ] {
            put(
                root,
                &format!("7/{run}/meta.yaml"),
                &format!(
                    "run_id: {run}\nstart_time: {start}\nend_time: null\nlifecycle_stage: {stage}\nstatus: 3\n"
                ),
            );
            put(root, &format!("7/{run}/metrics/accuracy"), accuracy);
            put(root, &format!("7/{run}/artifacts/model.onnx"), run);
        }
        put(root, "7/aa/metrics/val/loss", "1 0.25 0\n");
        put(root, "7/bb/metrics/val/loss", "1 -inf\n");
        put(root, "7/bb/artifacts/outputs/model.onnx", "outputs");
        put(root, "8/meta.yaml", "name: other\n");
        put(root, "8/ee/meta.yaml", "run_id: ee\n");
        put(root, "9/meta.yaml", "name: gone\nlifecycle_stage: deleted\n");
        std::fs::create_dir(root.join(".trash")).unwrap();
        dir
    }

    fn source(root: &tempfile::TempDir, asset: &str) -> RunSource {
        RunSource { runs_root: root.path().to_owned(), ..RunSource::new(asset) }
    }

    fn best(root: &tempfile::TempDir, metric: &str, goal: Goal) -> RunSource {
        RunSource {
            experiment_name: Some("digits".into()),
            best_by: Some(BestBy { metric: metric.into(), goal }),
            ..source(root, "model.onnx")
        }
    }

    fn of_run(root: &tempfile::TempDir, id: &str, asset: &str) -> RunSource {
        RunSource { run_id: Some(id.into()), ..source(root, asset) }
    }

    #[test]
    fn the_run_is_found() {
        let root = mlruns();
        for (source, experiment, run, tail) in [
            (of_run(&root, "aa", "model.onnx"), "digits", "aa", "7/aa/artifacts/model.onnx"),
            (of_run(&root, "aa", "outputs/model.onnx"), "digits", "aa", "7/aa/artifacts/model.onnx"),
            (
                of_run(&root, "bb", "./outputs/model.onnx"),
                "digits",
                "bb",
                "7/bb/artifacts/outputs/model.onnx",
            ),
            // 0.9 both, and NaN and deleted do not count: the newer of the two.
            (best(&root, "accuracy", Goal::Max), "digits", "bb", "7/bb/artifacts/model.onnx"),
            (best(&root, "val/loss", Goal::Max), "digits", "aa", "7/aa/artifacts/model.onnx"),
            (best(&root, "val/loss", Goal::Min), "digits", "bb", "7/bb/artifacts/model.onnx"),
        ] {
            let found = source.resolve().unwrap();
            assert_eq!((found.experiment_name.as_str(), found.run_id.as_str()), (experiment, run));
            assert_eq!((found.path, found.top), (root.path().join(tail), None), "{source:?}");
        }
        let whole = of_run(&root, "aa", "outputs").resolve().unwrap();
        assert_eq!((whole.path, whole.top), (root.path().join("7/aa/artifacts"), Some("outputs".into())));
    }

    #[test]
    fn the_run_is_not_found() {
        let root = mlruns();
        symlink("/etc/passwd", root.path().join("7/aa/artifacts/link")).unwrap();
        symlink("/etc", root.path().join("7/aa/artifacts/etc")).unwrap();
        let experiment = |name: &str| RunSource {
            experiment_name: Some(name.into()),
            ..best(&root, "accuracy", Goal::Max)
        };
        let nan = BestBy { metric: "only".into(), goal: Goal::Max };
        put(root.path(), "8/ee/metrics/only", "1 NaN 0\n");
        for folder in ["10", "11"] {
            put(root.path(), &format!("{folder}/meta.yaml"), "name: twice\n");
            put(root.path(), &format!("{folder}/ff/meta.yaml"), "run_id: ff\n");
        }
        for (source, kind, word) in [
            (source(&root, "model.onnx"), ErrorKind::BadInput, "give the run"),
            (experiment("twice"), ErrorKind::BadInput, "more than one experiment fits"),
            (of_run(&root, "ff", "model.onnx"), ErrorKind::BadInput, "more than one experiment fits"),
            (
                RunSource { run_id: Some("aa".into()), ..best(&root, "accuracy", Goal::Max) },
                ErrorKind::BadInput,
                "not both",
            ),
            (
                RunSource { experiment_name: None, ..best(&root, "accuracy", Goal::Max) },
                ErrorKind::BadInput,
                "experiment",
            ),
            (experiment("digit"), ErrorKind::NotFound, "did you mean 'digits'"),
            (experiment("gone"), ErrorKind::NotFound, "there is no experiment 'gone'"),
            (
                RunSource { best_by: Some(nan), ..experiment("other") },
                ErrorKind::NotFound,
                "NaN in every run",
            ),
            (best(&root, "acuracy", Goal::Max), ErrorKind::NotFound, "did you mean 'accuracy'"),
            (best(&root, "f1", Goal::Max), ErrorKind::NotFound, "'accuracy', 'val/loss'"),
            (best(&root, "../params/x", Goal::Max), ErrorKind::BadInput, "not the name of a metric"),
            (of_run(&root, "dd", "model.onnx"), ErrorKind::NotFound, "there is no run 'dd'"),
            (of_run(&root, "../7/aa", "model.onnx"), ErrorKind::NotFound, "there is no run"),
            (of_run(&root, ".", "model.onnx"), ErrorKind::NotFound, "there is no run"),
            (of_run(&root, "aa/.", "model.onnx"), ErrorKind::NotFound, "there is no run"),
            (of_run(&root, "ab", "model.onnx"), ErrorKind::NotFound, "did you mean 'aa', 'bb'"),
            (of_run(&root, "aa", "none.onnx"), ErrorKind::NotFound, "find the run's output"),
            (of_run(&root, "aa", "../meta.yaml"), ErrorKind::BadInput, "leads out of the run"),
            (of_run(&root, "aa", "outputs/../../meta.yaml"), ErrorKind::BadInput, "leads out of the run"),
            (of_run(&root, "aa", "/etc/passwd"), ErrorKind::BadInput, "leads out of the run"),
            (of_run(&root, "aa", ""), ErrorKind::BadInput, "leads out of the run"),
            (of_run(&root, "aa", "link"), ErrorKind::BadInput, "symbolic link"),
            (of_run(&root, "aa", "etc/passwd"), ErrorKind::BadInput, "symbolic link"),
            (
                RunSource { runs_root: root.path().join("no"), ..of_run(&root, "aa", "m") },
                ErrorKind::NotFound,
                "folder of runs",
            ),
        ] {
            let e = source.resolve().unwrap_err();
            assert!(e.kind() == kind && e.to_string().contains(word), "{e}\nfor {source:?}");
        }
    }

    #[test]
    fn files_that_are_not_mlflows_are_named() {
        let root = mlruns();
        for (name, text, place) in [
            ("7/aa/metrics/accuracy", "1 0.5 0\n1 high 1\n", "accuracy:2"),
            ("7/aa/metrics/accuracy", "0.5\n", "accuracy:1"),
            ("7/aa/meta.yaml", "start_time: [\n", "aa/meta.yaml"),
            ("7/meta.yaml", "- name\n", "7/meta.yaml"),
        ] {
            let root = mlruns();
            put(root.path(), name, text);
            let e = best(&root, "accuracy", Goal::Max).resolve().unwrap_err();
            assert!(e.kind() == ErrorKind::BadConfig && e.to_string().contains(place), "{e}");
        }
        // A broken neighbour is not in the way of what is named; it may be of the best.
        put(root.path(), "8/meta.yaml", "- name\n");
        put(root.path(), "7/cc/meta.yaml", "start_time: [\n");
        assert_eq!(of_run(&root, "aa", "model.onnx").resolve().unwrap().run_id, "aa");
        for source in [best(&root, "accuracy", Goal::Max), of_run(&root, "ee", "model.onnx")] {
            assert_eq!(source.resolve().unwrap_err().kind(), ErrorKind::BadConfig, "{source:?}");
        }
        std::fs::remove_dir_all(root.path().join("7/cc")).unwrap();
        put(root.path(), "7/aa/metrics/accuracy", "\n");
        assert_eq!(best(&root, "accuracy", Goal::Max).resolve().unwrap().run_id, "bb");
    }

    #[test]
    fn the_run_metadata_file() {
        let root = mlruns();
        let path = root.path().join("run.json");
        let with = |text: &str, experiment: Option<&str>, run: Option<&str>| {
            std::fs::write(&path, text).unwrap();
            RunSource {
                experiment_name: experiment.map(str::to_owned),
                run_id: run.map(str::to_owned),
                run_metadata_file: Some(path.clone()),
                ..source(&root, "model.onnx")
            }
            .resolve()
        };
        for text in [
            r#"{"runId": "bb", "experimentName": "digits", "runStatus": "Finished"}"#,
            r#"{"run_id": "bb", "experiment_name": "digits"}"#,
            r#"{"runId": "bb"}"#,
        ] {
            for (experiment, run) in [(None, None), (Some("digits"), Some("bb"))] {
                assert_eq!(with(text, experiment, run).unwrap().run_id, "bb", "{text}");
            }
        }
        for (text, experiment, run, kind) in [
            (r#"{"runId": "bb"}"#, None, Some("aa"), ErrorKind::BadInput),
            (r#"{"runId": "bb", "experimentName": "digits"}"#, Some("other"), None, ErrorKind::BadInput),
            (r#"{"experimentName": "digits"}"#, None, None, ErrorKind::BadConfig),
            (r#"{"runId": 7}"#, None, None, ErrorKind::BadConfig),
            (r#"["bb", "digits"]"#, None, None, ErrorKind::BadConfig),
            ("", None, None, ErrorKind::BadConfig),
        ] {
            let e = with(text, experiment, run).unwrap_err();
            assert!(e.kind() == kind && e.to_string().contains("run.json"), "{e}");
        }
    }
}
