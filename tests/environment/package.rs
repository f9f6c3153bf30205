//! `triscore model package`: the real program writes a folder for docker. docker itself is not run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use triscore::deploy::InferenceConfig;

use super::home::ensure;

/// A workspace with a model, and a project beside it.
struct Project {
    dir: tempfile::TempDir,
}

impl Project {
    fn new(environment: Value) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let project = Self { dir };
        fs::create_dir_all(project.path("source_dir/data")).unwrap();
        fs::write(project.path("source_dir/score.py"), "def init(): pass\ndef run(x): return x\n").unwrap();
        fs::write(project.path("source_dir/data/words.txt"), "words\n").unwrap();
        let inference = json!({
            "entryScript": "score.py", "sourceDirectory": "./source_dir", "environment": environment,
        });
        fs::write(project.path("ic.json"), inference.to_string()).unwrap();
        fs::write(project.path("weights.bin"), "weights").unwrap();
        project.ok(&["model", "register", "-n", "weights", "-p", "weights.bin"]);
        project
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn run(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_triscore"))
            .args(args)
            .arg("--json")
            .env("TRISCORE_HOME", self.path("home"))
            .current_dir(self.dir.path())
            .output()
            .unwrap()
    }

    fn ok(&self, args: &[&str]) -> Value {
        let out = self.run(args);
        assert!(out.status.success(), "{out:?}");
        serde_json::from_slice(&out.stdout).unwrap()
    }

    fn fails(&self, args: &[&str], code: i32, words: &str) {
        let out = self.run(args);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.code() == Some(code) && said.contains(words), "expected {code} {words}: {out:?}");
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }
}

const PACKAGE: [&str; 6] = ["model", "package", "-m", "weights", "--ic", "ic.json"];

fn package<'a>(more: &[&'a str]) -> Vec<&'a str> {
    PACKAGE.iter().chain(more).copied().collect()
}

#[test]
fn a_folder_for_docker_names_the_pins() {
    let project = Project::new(json!({
        "environmentVariables": { "GREETING": "hello" },
        "docker": { "baseImage": "mcr.microsoft.com/azureml/openmpi3.1.2-ubuntu18.04" },
        "python": { "condaDependencies": { "dependencies": ["python=3.9.5", { "pip": [
            "six", "azureml-contrib-services", "--extra-index-url https://me:s3cret@localhost:9/simple"
        ] }] } },
    }));
    let wrote = project.ok(&package(&["--output-path", "out"]));
    let files = wrote["files"].as_array().unwrap().iter().map(|f| f.as_str().unwrap()).collect::<Vec<_>>();
    for file in [
        "Dockerfile",
        "README.md",
        "requirements.txt",
        "app/source_dir/score.py",
        "app/source_dir/data/words.txt",
        "azureml-models/weights/1/weights.bin",
        "bin/triscore",
        "config/inferenceconfig.json",
        "config/deploymentconfig.json",
    ] {
        assert!(files.contains(&file) && project.path("out").join(file).is_file(), "{file}: {files:?}");
    }
    assert_eq!(
        (&wrote["pinned"], &wrote["baseImage"]),
        (&json!(false), &json!("python:3.9-slim")),
        "{wrote}"
    );
    assert_eq!(wrote["models"], json!(["weights:1"]));
    let dockerfile = project.text("out/Dockerfile");
    for line in [
        "FROM python:3.9-slim",
        "COPY requirements.txt /opt/triscore/requirements.txt",
        "COPY azureml-models/ /var/azureml-app/azureml-models/",
        "COPY app/ /var/azureml-app/",
        "ENV AML_APP_ROOT=\"/var/azureml-app\"",
        "ENV AZUREML_MODEL_DIR=\"/var/azureml-app/azureml-models/weights/1\"",
        "ENV AZUREML_ENTRY_SCRIPT=\"source_dir/score.py\"",
        "ENV AZUREML_SOURCE_DIRECTORY=\"source_dir\"",
        "EXPOSE 5001",
    ] {
        assert!(dockerfile.lines().any(|l| l == line), "{line} in:\n{dockerfile}");
    }
    let last = dockerfile.lines().last().unwrap();
    assert!(
        last.starts_with("CMD [\"triscore\", \"serve\", \"--ic\"") && last.contains("\"--port\", \"5001\"")
    );
    let requirements = project.text("out/requirements.txt");
    assert_eq!(requirements, "--extra-index-url https://****@localhost:9/simple\nsix\nflask>=2\n");
    let notes = wrote["notes"].to_string();
    for words in ["not built here", "passwords of package indexes", "replaced by python:3.9-slim"] {
        assert!(notes.contains(words), "{words} in {notes}");
    }
    let readme = project.text("out/README.md");
    assert!(
        readme.contains("docker build -t") && readme.contains("passwords of package indexes"),
        "{readme}"
    );
    let inside = InferenceConfig::parse(project.text("out/config/inferenceconfig.json").as_bytes()).unwrap();
    assert_eq!(inside.source_directory.as_deref(), Some(Path::new("/var/azureml-app/source_dir")));
    assert_eq!(inside.environment.variables["GREETING"], "hello");
    assert!(!inside.to_json().to_string().contains("s3cret"));
}

#[test]
fn an_environment_that_was_built_is_pinned_and_folders_are_not_overwritten() {
    let project = Project::new(json!({
        "python": { "condaDependencies": { "dependencies": [{ "pip": ["six<=1.16.0"] }] } },
    }));
    let config = InferenceConfig::parse(project.text("ic.json").as_bytes()).unwrap();
    let built = ensure(&config.environment, &project.path("home")).0.unwrap();
    let wrote = project.ok(&package(&["--output-path", "out", "--no-wait"]));
    assert_eq!(wrote["pinned"], true, "{wrote}");
    assert_eq!(project.text("out/requirements.txt"), "six==1.16.0\n");
    let minor = built.python_version.rsplit_once('.').unwrap().0;
    assert_eq!(wrote["baseImage"], format!("python:{minor}-slim"));

    project.fails(&package(&["--output-path", "out"]), 73, "--overwrite");
    fs::write(project.path("out/mine"), "").unwrap();
    fs::write(project.path("out/app/old.py"), "").unwrap();
    fs::write(
        project.path("dc.json"),
        r#"{"computeType": "aci", "authEnabled": true, "keys": {"primaryKey": "s3cret"}}"#,
    )
    .unwrap();
    let again = project.ok(&package(&["--output-path", "out", "--overwrite", "--dc", "dc.json"]));
    assert!(project.path("out/mine").exists() && !project.path("out/app/old.py").exists());
    let deployment = project.text("out/config/deploymentconfig.json");
    assert!(deployment.contains("authEnabled") && !deployment.contains("s3cret"), "{deployment}");
    assert!(again["notes"].to_string().contains("keys: left out"), "{again}");
}

#[test]
fn what_cannot_be_packaged_says_why() {
    let project = Project::new(json!({ "python": {} }));
    project.fails(&PACKAGE, 69, "--output-path");
    let out = ["--output-path", "out"];
    project.fails(
        &["model", "package", "--ic", "ic.json", out[0], out[1]],
        65,
        "--model or --model-metadata-file",
    );
    project.fails(&["model", "package", "-m", "weights", out[0], out[1]], 65, "need to specify entry_script");
    project.fails(&["model", "package", "-m", "none", "--ic", "ic.json", out[0], out[1]], 66, "none");
    project.fails(&package(&["--output-path", "source_dir/out"]), 65, "part of itself");
    project.fails(&package(&["--es", "gone.py", out[0], out[1]]), 78, "gone.py");
    project.fails(&package(&["--cf", "c.yml", out[0], out[1]]), 78, "condaFile");
    std::os::unix::fs::symlink("/etc/hostname", project.path("source_dir/link")).unwrap();
    project.fails(&package(&out), 65, "a link that leads out");
    assert!(!project.path("out").exists());
    let left = fs::read_dir(project.dir.path()).unwrap().flatten().map(|e| e.file_name());
    assert!(left.into_iter().all(|name| !name.to_string_lossy().starts_with(".triscore")));
    // The flags alone do.
    fs::remove_file(project.path("source_dir/link")).unwrap();
    let flags =
        ["model", "package", "-m", "weights", "--es", "score.py", "--sd", "source_dir", "--rt", "python"];
    let wrote = project.ok(&[&flags[..], &out].concat());
    assert_eq!(wrote["pinned"], false);
    assert!(project.text("out/requirements.txt").contains("inference-schema[numpy-support]"));
}
