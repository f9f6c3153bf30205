//! The registry as its users drive it: whole models in and out, many processes at once, crashes.
//!
//! Tests that need another process run this very program again, for one test of the name `child_…`,
//! which does nothing unless it is told to in the environment.

#![cfg(feature = "server")]
#![allow(clippy::unwrap_used)] // helpers of tests, which clippy.toml does not count as tests

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use triscore::registry::{
    Framework, KeyKind, Keys, ModelFilter, ModelRef, ModelSource, ModelUpdate, NewModel, ProcessStamp,
    Resources, RunSource, Secret, ServiceFilter, ServiceKeys, ServiceSpec, ServiceState, ServiceStatus,
    ServiceUpdate, Workspace, WorkspaceOptions,
};
use triscore::{ErrorKind, ScoreError};

const ROOT: &str = "TRISCORE_TEST_ROOT";

fn child(test: &str, root: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([test, "--exact", "--quiet"]).env(ROOT, root).stdout(Stdio::null());
    command
}

/// Where the child is to work; `None` when this run is not a child's.
fn child_root() -> Option<PathBuf> {
    std::env::var_os(ROOT).map(PathBuf::from)
}

fn model_ref(text: &str) -> ModelRef {
    text.parse().unwrap()
}

fn labels(pairs: &[(&str, &str)]) -> std::collections::BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn with_timeout(root: &Path, timeout: Duration) -> Result<Workspace, ScoreError> {
    let mut options = WorkspaceOptions::default();
    options.busy_timeout = timeout;
    Workspace::open_with(root, options)
}

/// A workspace, and a folder `bert` with two files beside it.
fn scene() -> (tempfile::TempDir, Workspace, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("bert");
    std::fs::create_dir_all(folder.join("sub")).unwrap();
    std::fs::write(folder.join("model.onnx"), "onnx bytes").unwrap();
    std::fs::write(folder.join("sub/vocab.txt"), "words").unwrap();
    let workspace = Workspace::open(dir.path().join("ws")).unwrap();
    (dir, workspace, folder)
}

/// Every file below a folder of the workspace.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files
}

fn blobs(workspace: &Workspace) -> Vec<PathBuf> {
    files_below(&workspace.root().join("blobs"))
}

#[test]
fn a_model_goes_in_and_comes_out() {
    let (dir, workspace, folder) = scene();
    let mut told = Vec::new();
    let new = NewModel {
        description: Some("reads".into()),
        tags: labels(&[("stage", "prod")]),
        properties: labels(&[("source", "lab")]),
        framework: Some(Framework::Onnx),
        framework_version: Some("1.4".into()),
        resources: Resources { cpu: Some(0.5), memory_gb: Some(1.0), gpu: Some(1), fpga: None },
        sample_input_dataset_id: Some("in".into()),
        sample_output_dataset_id: Some("out".into()),
        experiment_name: Some("e".into()),
        run_id: Some("r".into()),
        ..NewModel::from_path("bert", &folder)
    };
    let model = workspace
        .register_with(&new, &mut |p| told.push((p.file.to_owned(), p.bytes_done, p.bytes)))
        .unwrap();
    assert_eq!(told, [("bert/model.onnx".to_owned(), 10, 15), ("bert/sub/vocab.txt".to_owned(), 15, 15)]);
    assert_eq!((model.id().as_str(), model.files.len(), model.size_bytes()), ("bert:1", 2, 15));
    assert_eq!(workspace.show(&model_ref("bert")).unwrap(), model, "what was returned is what is stored");
    assert_eq!(model.to_cli_json()["cpu"], serde_json::json!(0.5));

    let out = dir.path().join("out");
    assert_eq!(workspace.download(&model_ref("bert:1"), &out, false).unwrap(), out.join("bert"));
    assert_eq!(std::fs::read_to_string(out.join("bert/sub/vocab.txt")).unwrap(), "words");
    let e = workspace.download(&model_ref("bert:1"), &out, false).unwrap_err();
    assert!(e.kind() == ErrorKind::Conflict && e.to_string().contains("bert/model.onnx"), "{e}");
    std::fs::write(out.join("bert/model.onnx"), "mine").unwrap();
    workspace.download(&model_ref("bert:1"), &out, true).unwrap();
    assert_eq!(std::fs::read_to_string(out.join("bert/model.onnx")).unwrap(), "onnx bytes");
    assert_eq!(files_below(&out).len(), 2, "no temporary file stays");

    // A link in the way does not lead a download astray.
    let astray = dir.path().join("astray");
    std::fs::create_dir_all(&astray).unwrap();
    std::fs::create_dir_all(dir.path().join("out2")).unwrap();
    std::os::unix::fs::symlink(&astray, dir.path().join("out2/bert")).unwrap();
    let e = workspace.download(&model_ref("bert"), &dir.path().join("out2"), true).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Conflict, "{e}");
    assert!(files_below(&astray).is_empty());
}

#[test]
fn models_are_laid_out_as_azure_does() {
    let (dir, workspace, folder) = scene();
    workspace.register(&NewModel::from_path("one", folder.join("model.onnx"))).unwrap();
    workspace.register(&NewModel::from_path("two", &folder)).unwrap();
    let service = dir.path().join("service");
    for again in [false, true] {
        if again {
            // What somebody left in the folder does not get among the files of the model.
            std::fs::write(service.join("azureml-models/one/1/model.onnx"), "changed").unwrap();
            std::fs::write(service.join("azureml-models/one/1/extra"), "").unwrap();
        }
        let one = workspace.materialise(&model_ref("one"), &service).unwrap();
        assert_eq!(one, service.join("azureml-models/one/1"));
        assert_eq!(files_below(&one), [one.join("model.onnx")]);
        assert_eq!(std::fs::read_to_string(one.join("model.onnx")).unwrap(), "onnx bytes");
    }
    let two = workspace.materialise(&model_ref("two:1"), &service).unwrap();
    assert!(two.join("bert/sub/vocab.txt").exists());
    let long = dir.path().join("a-model-whose-name-is-longer-than-thirty.onnx");
    std::fs::write(&long, "x").unwrap();
    let local = workspace.materialise_path(&long, &service).unwrap();
    assert_eq!(local, service.join("azureml-models/a-model-whose-name-is-longer-t/0"));
    assert_eq!(files_below(&local), [local.join(long.file_name().unwrap())]);
    let top: HashSet<_> = std::fs::read_dir(&service).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(top, HashSet::from(["azureml-models".into()]), "no temporary folder stays");
}

#[test]
fn versions_are_never_given_twice() {
    let (_dir, workspace, folder) = scene();
    let register = |name: &str| workspace.register(&NewModel::from_path(name, &folder)).unwrap().version;
    assert_eq!((register("m"), register("m"), register("n"), register("m")), (1, 2, 1, 3));
    workspace.delete(&model_ref("m:3")).unwrap();
    assert_eq!(workspace.show(&model_ref("m")).unwrap().version, 2);
    assert_eq!(register("m"), 4);
    for version in [1, 2, 4] {
        workspace.delete(&model_ref(&format!("m:{version}"))).unwrap();
    }
    assert_eq!(register("m"), 5);
}

#[test]
fn equal_files_are_kept_once_and_go_with_the_last_model() {
    let (_dir, workspace, folder) = scene();
    workspace.register(&NewModel::from_path("m", &folder)).unwrap();
    workspace.register(&NewModel::from_path("n", folder.join("model.onnx"))).unwrap();
    assert_eq!(blobs(&workspace).len(), 2);
    workspace.delete(&model_ref("m:1")).unwrap();
    assert_eq!(blobs(&workspace).len(), 1);
    workspace.delete(&model_ref("n:1")).unwrap();
    assert!(blobs(&workspace).is_empty() && workspace.list(&ModelFilter::default()).unwrap().is_empty());
}

#[test]
fn what_breaks_a_rule_is_refused_with_all_reasons() {
    let (_dir, workspace, folder) = scene();
    let good = NewModel::from_path("m", &folder);
    let bad = Resources { cpu: Some(0.0), memory_gb: Some(-1.0), gpu: Some(0), fpga: Some(0) };
    let all = NewModel {
        name: "a b".into(),
        framework_version: Some("1".into()),
        resources: bad,
        tags: labels(&[("", "x")]),
        ..good.clone()
    };
    let e = workspace.register(&all).unwrap_err();
    assert_eq!((e.kind(), e.message().lines().count()), (ErrorKind::BadInput, 7), "{e}");
    for (model, kind, word) in [
        (NewModel::from_path("m", folder.join("none")), ErrorKind::NotFound, "find the model"),
        (NewModel::from_path("m", workspace.root()), ErrorKind::BadInput, "belongs to the workspace"),
        (NewModel::from_path("m", workspace.root().join("registry.sqlite")), ErrorKind::BadInput, "belongs"),
        (NewModel::new("m", ModelSource::Run(RunSource::new("outputs/m"))), ErrorKind::NotFound, "mlruns"),
    ] {
        let e = workspace.register(&model).unwrap_err();
        assert!(e.kind() == kind && e.to_string().contains(word), "{e}");
    }
    let mut options = WorkspaceOptions::default();
    options.source_limits.max_bytes = 14;
    let small = Workspace::open_with(workspace.root(), options).unwrap();
    assert_eq!(small.register(&good).unwrap_err().kind(), ErrorKind::TooLarge);
    assert!(workspace.list(&ModelFilter::default()).unwrap().is_empty() && blobs(&workspace).is_empty());
    // None of the refusals has used up a number.
    assert_eq!(workspace.register(&good).unwrap().version, 1);
}

#[test]
fn a_file_that_grows_while_it_is_copied_meets_the_limit() {
    let (_dir, workspace, folder) = scene();
    let mut options = WorkspaceOptions::default();
    options.source_limits.max_bytes = 20;
    let workspace = Workspace::open_with(workspace.root(), options).unwrap();
    let vocab = folder.join("sub/vocab.txt");
    let grow = &mut |p: &triscore::registry::Progress<'_>| {
        if p.files_done == 0 {
            std::fs::write(&vocab, "w".repeat(100)).unwrap();
        }
    };
    let e = workspace.register_with(&NewModel::from_path("m", &folder), grow).unwrap_err();
    assert!(e.kind() == ErrorKind::TooLarge && e.to_string().contains("vocab.txt"), "{e}");
    assert!(files_below(&workspace.root().join("staging")).is_empty());
}

#[test]
fn models_out_of_a_run() {
    let (dir, workspace, _) = scene();
    let runs = dir.path().join("mlruns");
    let run = runs.join("3/abc");
    std::fs::create_dir_all(run.join("artifacts/net")).unwrap();
    std::fs::write(runs.join("3/meta.yaml"), "name: digits\n").unwrap();
    std::fs::write(run.join("meta.yaml"), "start_time: 5\n").unwrap();
    std::fs::write(run.join("artifacts/net/model.onnx"), "x").unwrap();
    let source = RunSource { runs_root: runs, run_id: Some("abc".into()), ..RunSource::new("outputs/net") };
    let new = NewModel::new("m", ModelSource::Run(source.clone()));
    let model = workspace.register(&new).unwrap();
    assert_eq!((model.experiment_name.as_deref(), model.run_id.as_deref()), (Some("digits"), Some("abc")));
    assert_eq!(model.files[0].path, "net/model.onnx");
    let whole = NewModel::new("m", ModelSource::Run(RunSource { asset_path: "outputs".into(), ..source }));
    assert_eq!(workspace.register(&whole).unwrap().files[0].path, "outputs/net/model.onnx");
    let contradicts = NewModel { run_id: Some("def".into()), ..new };
    assert_eq!(workspace.register(&contradicts).unwrap_err().kind(), ErrorKind::BadInput);
}

#[test]
fn models_are_listed_newest_first() {
    let (_dir, workspace, folder) = scene();
    let new = |name: &str| NewModel::from_path(name, &folder);
    for model in [
        NewModel { tags: labels(&[("stage", "test")]), run_id: Some("r1".into()), ..new("a") },
        NewModel { properties: labels(&[("p", "1")]), framework: Some(Framework::Onnx), ..new("b") },
        NewModel { tags: labels(&[("stage", "prod"), ("x", "")]), ..new("a") },
        new("a"),
    ] {
        workspace.register(&model).unwrap();
    }
    let some = |text: &str| Some(text.to_owned());
    let none = ModelFilter::default;
    for (filter, ids) in [
        (none(), vec!["a:3", "a:2", "b:1", "a:1"]),
        (ModelFilter { latest: true, ..none() }, vec!["a:3", "b:1"]),
        (ModelFilter { name: some("a"), ..none() }, vec!["a:3", "a:2", "a:1"]),
        (ModelFilter { name: some("A"), ..none() }, vec![]),
        (ModelFilter { tags: vec!["stage".into()], ..none() }, vec!["a:2", "a:1"]),
        (ModelFilter { tags: vec!["stage=prod".into(), "x=".into()], ..none() }, vec!["a:2"]),
        (ModelFilter { tags: vec!["stage".into()], latest: true, ..none() }, vec![]),
        (ModelFilter { properties: vec!["p=1".into()], ..none() }, vec!["b:1"]),
        (ModelFilter { framework: Some(Framework::Onnx), ..none() }, vec!["b:1"]),
        (ModelFilter { run_id: some("r1"), ..none() }, vec!["a:1"]),
    ] {
        let found: Vec<String> = workspace.list(&filter).unwrap().iter().map(|m| m.id()).collect();
        assert_eq!(found, ids, "{filter:?}");
    }
}

#[test]
fn what_is_not_there_is_named_with_what_is() {
    let (_dir, workspace, folder) = scene();
    let e = workspace.show(&model_ref("m")).unwrap_err();
    assert!(e.kind() == ErrorKind::NotFound && e.message().contains("none yet"), "{e}");
    for _ in 0..10 {
        workspace.register(&NewModel::from_path("digits", folder.join("model.onnx"))).unwrap();
    }
    for (wanted, hint) in [
        ("digit", "did you mean 'digits'?"),
        ("Digits:3", "did you mean 'digits'?"),
        ("resnet", "there is 'digits'"),
        ("digits:11", "'digits' has version 10, 9, 8, 7, 6, 5, 4, 3 and 2 older"),
    ] {
        for e in [
            workspace.show(&model_ref(wanted)).unwrap_err(),
            workspace.download(&model_ref(wanted), Path::new("/nonexistent"), false).unwrap_err(),
            workspace
                .update(
                    &model_ref(wanted),
                    &ModelUpdate { description: Some("x".into()), ..Default::default() },
                )
                .unwrap_err(),
        ] {
            assert!(e.kind() == ErrorKind::NotFound && e.message().ends_with(hint), "{e}");
        }
    }
    assert_eq!(workspace.delete(&model_ref("digits")).unwrap_err().kind(), ErrorKind::BadInput);
    assert_eq!(workspace.delete(&model_ref("digits:99")).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn models_change_where_they_may() {
    let (_dir, workspace, folder) = scene();
    let new = NewModel {
        tags: labels(&[("a", "1"), ("b", "2")]),
        properties: labels(&[("p", "1")]),
        resources: Resources { cpu: Some(1.0), ..Resources::default() },
        ..NewModel::from_path("m", &folder)
    };
    let before = workspace.register(&new).unwrap();
    let update = ModelUpdate {
        add_tags: labels(&[("a", "9")]),
        remove_tags: vec!["b".into()],
        add_properties: labels(&[("q", "2")]),
        description: Some("new".into()),
        resources: Resources { memory_gb: Some(2.0), ..Resources::default() },
        sample_input_dataset_id: Some("in".into()),
        sample_output_dataset_id: None,
    };
    let after = workspace.update(&model_ref("m:1"), &update).unwrap();
    assert_eq!(after, workspace.show(&model_ref("m")).unwrap());
    assert_eq!((after.tags.clone(), after.properties.len()), (labels(&[("a", "9")]), 2));
    assert_eq!(after.resources, Resources { cpu: Some(1.0), memory_gb: Some(2.0), ..Resources::default() });
    assert!(after.modified_time >= before.modified_time && after.created_time == before.created_time);
    for (update, kind) in [
        (ModelUpdate::default(), ErrorKind::BadInput),
        (
            ModelUpdate {
                add_properties: labels(&[("p", "1")]),
                add_tags: labels(&[("lost", "")]),
                ..Default::default()
            },
            ErrorKind::Conflict,
        ),
        (
            ModelUpdate {
                resources: Resources { cpu: Some(0.0), ..Default::default() },
                ..Default::default()
            },
            ErrorKind::BadInput,
        ),
    ] {
        assert_eq!(workspace.update(&model_ref("m"), &update).unwrap_err().kind(), kind);
        assert_eq!(workspace.show(&model_ref("m")).unwrap(), after);
    }
}

#[test]
fn a_damaged_file_is_found_out_and_healed_by_its_source() {
    let (dir, workspace, folder) = scene();
    let new = NewModel::from_path("m", folder.join("model.onnx"));
    let model = workspace.register(&new).unwrap();
    let blob = blobs(&workspace).pop().unwrap();
    let out = dir.path().join("out");
    let refused = |word: &str| {
        for e in [
            workspace.download(&model_ref("m"), &out, true).unwrap_err(),
            workspace.materialise(&model_ref("m"), &out).unwrap_err(),
        ] {
            assert_eq!(e.kind(), ErrorKind::Io);
            for part in [word, "m:1", "model.onnx", &model.files[0].sha256] {
                assert!(e.to_string().contains(part), "{e} lacks {part}");
            }
        }
        assert!(files_below(&out).is_empty(), "nothing damaged comes out");
    };
    // Same length, one bit; shorter; a link to something else; gone.
    std::fs::remove_file(&blob).unwrap();
    std::fs::write(&blob, "onnx bytez").unwrap();
    refused("is damaged in the registry");
    std::fs::write(&blob, "").unwrap();
    refused("is damaged in the registry");
    std::fs::remove_file(&blob).unwrap();
    refused("is missing from the registry");
    std::os::unix::fs::symlink(folder.join("model.onnx"), &blob).unwrap();
    let e = workspace.download(&model_ref("m"), &out, true).unwrap_err();
    assert!(e.to_string().contains("symbolic link"), "{e}");

    assert_eq!(workspace.register(&new).unwrap().version, 2);
    for version in ["m:1", "m:2"] {
        workspace.download(&model_ref(version), &out, true).unwrap();
    }
}

#[test]
fn two_processes_register_the_same_name() {
    let (_dir, workspace, _) = scene();
    let children: Vec<Child> = (0..2)
        .map(|_| child("child_registers", workspace.root()).env("TRISCORE_TEST_COUNT", "50").spawn().unwrap())
        .collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let models = workspace.list(&ModelFilter::default()).unwrap();
    let versions: Vec<i64> = models.iter().rev().map(|m| m.version).collect();
    assert_eq!(versions, (1..=100).collect::<Vec<_>>());
    assert_eq!(
        blobs(&workspace).len(),
        models.iter().map(|m| &m.files[0].sha256).collect::<HashSet<_>>().len()
    );
}

/// The other process: registers as often as it is told to, or until it is killed.
#[test]
fn child_registers() {
    let Some(root) = child_root() else { return };
    let count = std::env::var("TRISCORE_TEST_COUNT").ok().map_or(usize::MAX, |n| n.parse().unwrap());
    let workspace = with_timeout(&root, Duration::from_secs(30)).unwrap();
    let dir = tempfile::tempdir_in(root.parent().unwrap()).unwrap();
    let file = dir.path().join("model.onnx");
    for n in 0..count {
        // Some of a few pieces, some of them equal to the other process's.
        std::fs::write(&file, format!("{n}").repeat(1 + n % 7 * 100_000)).unwrap();
        workspace.register(&NewModel::from_path("m", &file)).unwrap();
    }
}

/// Killed at any moment, a registration has happened or it has not.
#[test]
fn registrations_survive_kill_9() {
    let (dir, workspace, _) = scene();
    let root = workspace.root().to_owned();
    drop(workspace);
    let mut last = 0;
    for round in 0..24_u64 {
        let mut child = child("child_registers", &root).stderr(Stdio::null()).spawn().unwrap();
        // From before the child has opened the workspace to many registrations later, spread unevenly.
        std::thread::sleep(Duration::from_micros(2_000 + round * round * 37 % 40_000 + round * 1_500));
        child.kill().unwrap();
        child.wait().unwrap();

        let workspace = Workspace::open(&root).unwrap();
        let models = workspace.list(&ModelFilter::default()).unwrap();
        let versions: Vec<i64> = models.iter().rev().map(|m| m.version).collect();
        assert_eq!(versions, (1..=versions.len() as i64).collect::<Vec<_>>(), "after round {round}");
        let latest = versions.len() as i64;
        assert!(latest >= last, "what was registered stays registered");
        for model in models.iter().take(usize::try_from(latest - last).unwrap() + 1) {
            workspace.download(&model_ref(&model.id()), &dir.path().join("out"), true).unwrap();
        }
        last = latest;
    }
    assert!(last > 0, "no child came as far as a registration");

    let workspace = Workspace::open(&root).unwrap();
    workspace.gc().unwrap().expect("nobody else is at work");
    let models = workspace.list(&ModelFilter::default()).unwrap();
    let named: HashSet<String> =
        models.iter().flat_map(|m| m.files.iter().map(|f| f.sha256.clone())).collect();
    let kept: HashSet<String> =
        blobs(&workspace).iter().map(|p| p.file_name().unwrap().to_str().unwrap().to_owned()).collect();
    assert_eq!(kept, named, "all files that a model names are there, and no others");
    assert!(files_below(&root.join("staging")).is_empty());
    let db = rusqlite::Connection::open(root.join("registry.sqlite")).unwrap();
    let check: String = db.pragma_query_value(None, "integrity_check", |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
}

#[test]
fn what_a_crash_left_is_collected_but_not_from_under_a_registration() {
    let (_dir, workspace, folder) = scene();
    workspace.register(&NewModel::from_path("m", &folder)).unwrap();
    let orphan = workspace.root().join("blobs/ab").join("ab".repeat(32));
    std::fs::create_dir_all(orphan.parent().unwrap()).unwrap();
    std::fs::write(&orphan, "orphan").unwrap();
    std::fs::create_dir(workspace.root().join("staging/left")).unwrap();
    std::fs::write(workspace.root().join("staging/left/part"), "x").unwrap();

    let other = Workspace::open(workspace.root()).unwrap();
    let meanwhile = &mut |_: &triscore::registry::Progress<'_>| {
        assert_eq!(other.gc().unwrap(), None, "collected while a registration is under way");
    };
    // The registration itself cleans up before it begins, since it finds the traces of a crash.
    workspace.register_with(&NewModel::from_path("m", &folder), meanwhile).unwrap();
    assert!(!orphan.exists() && files_below(&workspace.root().join("staging")).is_empty());

    std::fs::create_dir_all(orphan.parent().unwrap()).unwrap();
    std::fs::write(&orphan, "orphan").unwrap();
    let collected = other.gc().unwrap().unwrap();
    assert_eq!((collected.files, collected.bytes), (1, 6));
    assert_eq!(blobs(&workspace).len(), 2);
}

#[test]
fn a_workspace_that_is_held_is_a_conflict_in_time() {
    let (_dir, workspace, folder) = scene();
    let root = workspace.root().to_owned();
    let quick = with_timeout(&root, Duration::from_millis(200)).unwrap();
    let holder = rusqlite::Connection::open(root.join("registry.sqlite")).unwrap();
    holder.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let begun = Instant::now();
    for e in [
        quick.register(&NewModel::from_path("m", &folder)).unwrap_err(),
        quick.list(&ModelFilter::default()).unwrap_err(),
        with_timeout(&root, Duration::from_millis(200)).unwrap_err(),
    ] {
        assert_eq!(e.kind(), ErrorKind::Conflict, "{e}");
        assert!(
            e.message().contains(root.to_str().unwrap()) && e.message().contains("another process"),
            "{e}"
        );
    }
    assert!(begun.elapsed() >= Duration::from_millis(500) && begun.elapsed() < Duration::from_secs(4));
    holder.execute_batch("ROLLBACK").unwrap();
    assert_eq!(quick.register(&NewModel::from_path("m", &folder)).unwrap().version, 1);
}

/// Reading needs no right to write. Root may write anywhere, so the test goes on as another user.
#[test]
fn a_read_only_workspace_is_read() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::os::unix::process::CommandExt;
    let (dir, workspace, folder) = scene();
    workspace.register(&NewModel::from_path("m", &folder)).unwrap();
    let root = workspace.root().to_owned();
    drop(workspace);
    let mode =
        |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    let folders = ["", "blobs", "locks", "staging"].map(|name| root.join(name));
    for path in files_below(&root) {
        mode(&path, 0o444);
        mode(path.parent().unwrap(), 0o555);
    }
    folders.iter().for_each(|path| mode(path, 0o555));
    mode(dir.path(), 0o777);

    let mut command = child("child_reads", &root);
    if root.metadata().unwrap().uid() == 0 {
        // The program itself may lie where the other user cannot go.
        let program = dir.path().join("program");
        std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
        mode(&program, 0o755);
        command = Command::new(program);
        command.args(["child_reads", "--exact", "--quiet"]).env(ROOT, &root).env("TMPDIR", dir.path());
        command.current_dir(dir.path()).uid(65_534).gid(65_534).stdout(Stdio::null());
    }
    let status = command.status().unwrap();
    folders.iter().for_each(|path| mode(path, 0o755));
    assert!(status.success());
}

#[test]
fn child_reads() {
    let Some(root) = child_root() else { return };
    let workspace = Workspace::open(&root).unwrap();
    assert_eq!(workspace.list(&ModelFilter::default()).unwrap().len(), 1);
    let out = tempfile::tempdir().unwrap();
    workspace.download(&model_ref("m"), out.path(), false).unwrap();
    let update = ModelUpdate { description: Some("x".into()), ..Default::default() };
    for e in [
        workspace.register(&NewModel::from_path("m", out.path().join("bert"))).unwrap_err(),
        workspace.update(&model_ref("m"), &update).unwrap_err(),
        workspace.delete(&model_ref("m:1")).unwrap_err(),
        workspace.begin_operation("abc", "deploying").unwrap_err(),
        Workspace::open(root.join("below")).unwrap_err(),
    ] {
        assert!(e.kind() == ErrorKind::Io && e.to_string().contains(root.to_str().unwrap()), "{e}");
    }
    assert_eq!(workspace.list(&ModelFilter::default()).unwrap().len(), 1);
}

fn spec(name: &str, models: &[&str]) -> ServiceSpec {
    ServiceSpec {
        model_ids: models.iter().map(|m| (*m).to_owned()).collect(),
        deployment_config: serde_json::json!({"computeType": "local", "port": 32267}),
        ..ServiceSpec::new(name, "Local", "/somewhere")
    }
}

#[test]
fn a_service_lives() {
    let (_dir, workspace, folder) = scene();
    workspace.register(&NewModel::from_path("m", &folder)).unwrap();
    let full = ServiceSpec {
        description: Some("d".into()),
        tags: labels(&[("t", "1")]),
        properties: labels(&[("p", "1")]),
        ..spec("my-service", &["m:1", "local.onnx:0"])
    };
    let first = workspace.insert_service(&full, Keys::default()).unwrap();
    assert_eq!((first.status.state, &first.spec), (ServiceState::Transitioning, &full));
    assert_eq!(workspace.show_service("my-service").unwrap(), first);
    assert_eq!(workspace.insert_service(&full, Keys::default()).unwrap_err().kind(), ErrorKind::Conflict);

    let running = ServiceStatus {
        state: ServiceState::Healthy,
        reason: None,
        port: Some(32267),
        process: Some(ProcessStamp::current()),
        device: Some("cpu: 2 cores".into()),
    };
    workspace.set_service_status("my-service", first.generation, &running).unwrap();
    workspace
        .set_service_state("my-service", first.generation, ServiceState::Unhealthy, Some("slow"))
        .unwrap();
    let now = workspace.show_service("my-service").unwrap();
    assert_eq!(
        now.status,
        ServiceStatus { state: ServiceState::Unhealthy, reason: Some("slow".into()), ..running.clone() }
    );
    assert!(now.status.process.unwrap().is_alive());

    let update = ServiceUpdate {
        add_tags: labels(&[("t", "2")]),
        add_properties: labels(&[("q", "")]),
        ..Default::default()
    };
    let updated = workspace.update_service("my-service", &update).unwrap();
    assert_eq!(updated, workspace.show_service("my-service").unwrap());
    assert_eq!((updated.spec.tags["t"].as_str(), updated.spec.properties.len()), ("2", 2));
    assert_eq!(workspace.update_service("my-service", &update).unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(
        workspace.update_service("my-service", &ServiceUpdate::default()).unwrap_err().kind(),
        ErrorKind::BadInput
    );

    // The model stays for as long as the service does.
    let e = workspace.delete(&model_ref("m:1")).unwrap_err();
    assert!(e.kind() == ErrorKind::Conflict && e.message().contains("'my-service'"), "{e}");
    workspace.delete_service("my-service").unwrap();
    assert_eq!(workspace.delete_service("my-service").unwrap_err().kind(), ErrorKind::NotFound);
    workspace.delete(&model_ref("m:1")).unwrap();
}

#[test]
fn an_old_process_does_not_speak_for_a_new_deployment() {
    let (_dir, workspace, _) = scene();
    let old = workspace.insert_service(&spec("abc", &[]), Keys::default()).unwrap();
    let new = workspace.replace_service(&spec("abc", &[]), Keys::default()).unwrap();
    assert!(new.generation > old.generation && new.created_time == old.created_time);
    let failed = ServiceStatus::new(ServiceState::Failed).with_reason("killed");
    let e = workspace.set_service_status("abc", old.generation, &failed).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Conflict);
    assert!(workspace.set_service_state("abc", old.generation, ServiceState::Failed, None).is_err());
    assert_eq!(workspace.show_service("abc").unwrap().status.state, ServiceState::Transitioning);
    // Nor for one of its name that came after it was deleted.
    workspace.delete_service("abc").unwrap();
    let e = workspace.set_service_status("abc", new.generation, &failed).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::NotFound);
    let newest = workspace.insert_service(&spec("abc", &[]), Keys::default()).unwrap();
    assert!(newest.generation > new.generation);
    assert!(workspace.set_service_status("abc", old.generation, &failed).is_err());
    workspace.set_service_status("abc", newest.generation, &failed).unwrap();
    assert_eq!(workspace.show_service("abc").unwrap().status, failed);
}

#[test]
fn services_that_cannot_be() {
    let (_dir, workspace, folder) = scene();
    workspace.register(&NewModel::from_path("m", &folder)).unwrap();
    for (spec, kind, word) in [
        (spec("Abc", &["m:1"]), ErrorKind::BadInput, "not a service name"),
        (ServiceSpec { tags: labels(&[("", "")]), ..spec("abc", &[]) }, ErrorKind::BadInput, "needs a key"),
        (spec("abc", &["m:1", "m:2"]), ErrorKind::NotFound, "'m' has version 1"),
        (spec("abc", &["n:1"]), ErrorKind::NotFound, "'n:1' is not registered"),
        (spec("abc", &["m"]), ErrorKind::BadInput, "needs its version"),
        (spec("abc", &[":0"]), ErrorKind::BadInput, "not a model name"),
    ] {
        for e in [
            workspace.insert_service(&spec, Keys::default()).unwrap_err(),
            workspace.replace_service(&spec, Keys::default()).unwrap_err(),
        ] {
            assert!(e.kind() == kind && e.message().contains(word), "{e}");
        }
    }
    assert!(workspace.list_services(&ServiceFilter::default()).unwrap().is_empty());
    workspace.insert_service(&spec("my-service", &[]), Keys::default()).unwrap();
    workspace.insert_service(&spec("another", &["m:1"]), Keys::default()).unwrap();
    let e = workspace.show_service("my_service").unwrap_err();
    assert!(e.message().ends_with("did you mean 'my-service'?"), "{e}");
    let names = |filter| {
        workspace.list_services(&filter).unwrap().into_iter().map(|s| s.spec.name).collect::<Vec<_>>()
    };
    assert_eq!(names(ServiceFilter::default()), ["another", "my-service"]);
    assert_eq!(names(ServiceFilter { model_name: Some("m".into()), ..Default::default() }), ["another"]);
}

#[test]
fn keys_are_kept_and_not_shown() {
    let (_dir, workspace, _) = scene();
    let record = workspace.insert_service(&spec("abc", &[]), Keys::default()).unwrap();
    let first = workspace.service_keys("abc").unwrap();
    let shown = format!(
        "{record:?} {} {:?}",
        record.to_json(),
        workspace.list_services(&ServiceFilter::default()).unwrap()
    );
    for key in [&first.primary, &first.secondary] {
        assert!(!shown.contains(key.expose()), "{shown}");
    }
    // A new deployment does not lock its clients out.
    workspace.replace_service(&spec("abc", &[]), Keys::default()).unwrap();
    assert!(workspace.service_keys("abc").unwrap().accept(first.primary.expose().as_bytes()));
    let second = workspace.regenerate_service_key("abc", KeyKind::Primary, None).unwrap();
    assert!(
        !second.accept(first.primary.expose().as_bytes())
            && second.accept(first.secondary.expose().as_bytes())
    );
    workspace.regenerate_service_key("abc", KeyKind::Secondary, Some(Secret::new("mine").unwrap())).unwrap();
    assert_eq!(workspace.service_keys("abc").unwrap().secondary.expose(), "mine");
    let set = ServiceKeys { primary: Secret::new("one").unwrap(), secondary: Secret::new("two").unwrap() };
    workspace.replace_service(&spec("abc", &[]), Keys::Set(set)).unwrap();
    assert!(workspace.service_keys("abc").unwrap().accept(b"two"));
    workspace.delete_service("abc").unwrap();
    assert_eq!(workspace.service_keys("abc").unwrap_err().kind(), ErrorKind::NotFound);
    // What was deleted is not in the file any more.
    let db = std::fs::read(workspace.root().join("registry.sqlite")).unwrap();
    let text = String::from_utf8_lossy(&db);
    assert!(!text.contains(first.primary.expose()) && !text.contains(second.primary.expose()));
}

/// A process that dies within an operation leaves the service to the next.
#[test]
fn an_operation_ends_with_its_process() {
    let (_dir, workspace, _) = scene();
    let mut child = child("child_operates", workspace.root()).spawn().unwrap();
    let until = Instant::now() + Duration::from_secs(20);
    let ready = workspace.root().join("ready");
    while !ready.exists() {
        assert!(Instant::now() < until, "the child does not begin");
        std::thread::sleep(Duration::from_millis(5));
    }
    let e = workspace.begin_operation("my-service", "deleting").unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Conflict);
    assert!(e.message().contains(&format!("process {}", child.id())), "{e}");
    child.kill().unwrap();
    child.wait().unwrap();
    drop(workspace.begin_operation("my-service", "deleting").unwrap());
}

#[test]
fn child_operates() {
    let Some(root) = child_root() else { return };
    let workspace = Workspace::open(&root).unwrap();
    let _operation = workspace.begin_operation("my-service", "deploying").unwrap();
    std::fs::write(root.join("ready"), "").unwrap();
    std::thread::sleep(Duration::from_secs(60));
}

/// One workspace among many threads of one process.
#[test]
fn threads_share_a_workspace() {
    let (_dir, workspace, folder) = scene();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..5 {
                    let id = workspace.register(&NewModel::from_path("m", &folder)).unwrap().id();
                    workspace.delete(&model_ref(&id)).unwrap();
                    workspace.register(&NewModel::from_path("m", folder.join("model.onnx"))).unwrap();
                }
            });
        }
    });
    let models = workspace.list(&ModelFilter::default()).unwrap();
    assert_eq!(models.len(), 20);
    workspace.gc().unwrap().unwrap();
    assert_eq!(blobs(&workspace).len(), 1);
    let versions: HashSet<i64> = models.iter().map(|m| m.version).collect();
    assert!(versions.len() == 20 && versions.iter().all(|v| (1..=40).contains(v)));
}
