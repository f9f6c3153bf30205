//! The registry as its users drive it: whole models in and out; then services; then many processes at
//! once, and crashes.

#![cfg(feature = "server")]
#![allow(clippy::unwrap_used)] // helpers of tests, which clippy.toml does not count as tests

#[path = "registry/processes.rs"]
mod processes;
#[path = "registry/services.rs"]
mod services;

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use triscore::ErrorKind;
use triscore::registry::{
    Framework, ModelFilter, ModelRef, ModelSource, ModelUpdate, NewModel, Resources, RunSource, Workspace,
    WorkspaceOptions,
};

fn model_ref(text: &str) -> ModelRef {
    text.parse().unwrap()
}

fn labels(pairs: &[(&str, &str)]) -> std::collections::BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
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
