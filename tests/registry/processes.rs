//! Many processes on one workspace, some of which are killed.
//!
//! A test that needs another process runs this very program again, for one test of the name `child_…`,
//! which does nothing unless it is told to in the environment.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use triscore::registry::{ModelFilter, ModelUpdate, NewModel, Progress, Workspace, WorkspaceOptions};
use triscore::{ErrorKind, ScoreError};

use super::{blobs, files_below, model_ref, scene};

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

fn with_timeout(root: &Path, timeout: Duration) -> Result<Workspace, ScoreError> {
    let mut options = WorkspaceOptions::default();
    options.busy_timeout = timeout;
    Workspace::open_with(root, options)
}

#[test]
fn two_processes_register_the_same_name() {
    let (_dir, workspace, _) = scene();
    let children: Vec<Child> = (0..2)
        .map(|_| {
            child("processes::child_registers", workspace.root())
                .env("TRISCORE_TEST_COUNT", "50")
                .spawn()
                .unwrap()
        })
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
        let mut child = child("processes::child_registers", &root).stderr(Stdio::null()).spawn().unwrap();
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
    let meanwhile = &mut |_: &Progress<'_>| {
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

    let mut command = child("processes::child_reads", &root);
    if root.metadata().unwrap().uid() == 0 {
        // The program itself may lie where the other user cannot go.
        let program = dir.path().join("program");
        std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
        mode(&program, 0o755);
        command = Command::new(program);
        command
            .args(["processes::child_reads", "--exact", "--quiet"])
            .env(ROOT, &root)
            .env("TMPDIR", dir.path());
        command.current_dir(dir.path()).uid(65_534).gid(65_534).stdout(Stdio::null());
    }
    let status = command.status().unwrap();
    folders.iter().for_each(|path| mode(path, 0o755));
    assert!(status.success() && dir.path().join("child-was-here").exists());
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
    std::fs::write(root.with_file_name("child-was-here"), "").unwrap();
}

/// A process that dies within an operation leaves the service to the next.
#[test]
fn an_operation_ends_with_its_process() {
    let (_dir, workspace, _) = scene();
    let mut child = child("processes::child_operates", workspace.root()).spawn().unwrap();
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
