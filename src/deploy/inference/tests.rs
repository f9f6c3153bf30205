use std::fs;

use serde_json::json;

use super::*;

/// The two files of Azure's documentation.
const DUMMY: &str = r#"{
    "entryScript": "echo_score.py",
    "sourceDirectory": "./source_dir",
    "environment": {
        "docker": {
            "arguments": [],
            "baseDockerfile": null,
            "baseImage": "mcr.microsoft.com/azureml/openmpi3.1.2-ubuntu18.04",
            "enabled": false,
            "sharedVolumes": true,
            "shmSize": null
        },
        "environmentVariables": {"EXAMPLE_ENV_VAR": "EXAMPLE_VALUE"},
        "name": "my-deploy-env",
        "python": {
            "baseCondaEnvironment": null,
            "condaDependencies": {
                "channels": [],
                "dependencies": ["python=3.6.2", {"pip": ["azureml-defaults"]}],
                "name": "project_environment"
            },
            "condaDependenciesFile": null,
            "interpreterPath": "python",
            "userManagedDependencies": false
        },
        "version": "1"
    }
}"#;

fn parse(text: &str) -> Result<InferenceConfig> {
    InferenceConfig::parse(text.as_bytes())
}

fn good(text: &str) -> InferenceConfig {
    parse(text).unwrap_or_else(|e| panic!("{text}: {e}"))
}

/// A folder with a script in a source folder, and the given configuration beside it.
fn project(config: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("source_dir")).unwrap();
    fs::write(dir.path().join("source_dir/score.py"), "").unwrap();
    fs::write(dir.path().join("alone.py"), "").unwrap();
    let file = dir.path().join("inferenceconfig.json");
    fs::write(&file, config).unwrap();
    (dir, file)
}

fn managed(config: &InferenceConfig) -> &ManagedPython {
    match &config.environment.python {
        PythonSpec::Managed(python) => python,
        other => panic!("{other:?}"),
    }
}

fn notes(config: &InferenceConfig) -> Vec<&str> {
    config.environment.notes.iter().map(|n| n.key.as_str()).collect()
}

#[test]
fn the_published_samples_work() {
    let dummy = good(DUMMY);
    assert_eq!(dummy.entry_script, Path::new("echo_score.py"));
    assert_eq!(dummy.azureml_entry_script(), "source_dir/echo_score.py");
    assert_eq!(dummy.azureml_source_directory().as_deref(), Some("source_dir"));
    assert!(dummy.source_directory.as_deref().unwrap().is_absolute());
    let environment = &dummy.environment;
    assert_eq!(environment.name.as_deref(), Some("my-deploy-env"));
    assert_eq!(environment.version.as_deref(), Some("1"));
    assert_eq!(environment.variables["EXAMPLE_ENV_VAR"], "EXAMPLE_VALUE");
    assert_eq!(managed(&dummy).python_version.as_deref(), Some("=3.6.2"));
    assert_eq!(managed(&dummy).pip, ["azureml-defaults"]);
    assert_eq!((dummy.warnings.len(), notes(&dummy)), (0, vec!["environment.docker.baseImage"]));

    let real = DUMMY
        .replace("echo_score.py", "score.py")
        .replace("\"azureml-defaults\"", "\"azureml-defaults\", \"nltk\", \"numpy\", \"onnxruntime\"")
        .replace("\"version\": \"1\"", "\"version\": \"2\"");
    let real = good(&real);
    assert_eq!(managed(&real).pip, ["azureml-defaults", "nltk", "numpy", "onnxruntime"]);
    assert_eq!((real.environment.version.as_deref(), real.warnings.len()), (Some("2"), 0));
}

#[test]
fn yaml_is_read_and_what_comes_out_needs_no_other_file() {
    let yaml = good(
        "entryScript: sub/score.py\nsourceDirectory: source_dir\ndescription: it\nenvironment:\n  \
         name: env\n  environmentVariables: {A: b}\n  docker: {baseImage: a/b, \
         baseImageRegistry: {address: reg.io}, gpuSupport: true}\n  python:\n    condaDependencies:\n      \
         channels: [conda-forge]\n      dependencies:\n      - python>=3.8\n      - numpy=1.19\n      \
         - pip: [azureml-defaults, '--index-url https://user:secret@a/b']\n",
    );
    assert_eq!(yaml.environment.image.base.as_deref(), Some("reg.io/a/b"));
    let json = yaml.to_json();
    let again = good(&json.to_string());
    assert_eq!(again, yaml);
    let user = good("entryScript: s.py\nenvironment: {python: {userManagedDependencies: true}}");
    let python = PythonSpec::UserManaged { interpreter: "python".to_owned() };
    assert_eq!(user.environment.python, python);
    assert_eq!(good(&user.to_json().to_string()), user);
    assert_eq!(user.azureml_entry_script(), "s.py");
    let inner = "{python: {userManagedDependencies: true, interpreterPath: ./env/../bin/python}}";
    let relative = good(&format!("entryScript: s.py\nsourceDirectory: a/../b/.\nenvironment: {inner}"));
    let here = std::env::current_dir().unwrap();
    let interpreter = here.join("bin/python").to_str().unwrap().to_owned();
    assert_eq!(relative.environment.python, PythonSpec::UserManaged { interpreter });
    assert_eq!(relative.source_directory, Some(here.join("b")));
    assert_eq!(good(&relative.to_json().to_string()), relative);
    assert_eq!(user.azureml_source_directory(), None);
}

#[test]
fn every_rule_is_named() {
    let env = |inner: &str| format!("entryScript: s.py\nenvironment: {inner}\n");
    let python = |inner: &str| env(&format!("{{name: e, python: {inner}}}"));
    let rows = [
        ("{}".to_owned(), "entryScript: need to specify entry_script"),
        ("entryScript:".to_owned(), "need to specify entry_script"),
        ("[1]".to_owned(), "expected an object of keys and values, got a list"),
        ("entryScript: 5".to_owned(), "entryScript: expected a text, in quotes, got the number 5"),
        ("entryScript: s.txt".to_owned(), "entryScript: expected a Python script with the extension .py"),
        ("entryScript: my-s.py".to_owned(), "entryScript: expected a name that Python can import"),
        ("entryScript: class.py".to_owned(), "no keyword of Python, got 'class'"),
        (
            "entryScript: ../s.py\nsourceDirectory: d".to_owned(),
            "a path inside sourceDirectory, got '../s.py'",
        ),
        ("entryScript: /s.py\nsourceDirectory: d".to_owned(), "a path inside sourceDirectory, got '/s.py'"),
        (
            "entryScript: s.py\nsourceDirectory: /".to_owned(),
            "sourceDirectory: expected a folder with a name",
        ),
        ("entryScript: s.py\ncondaFile: c.yml".to_owned(), "condaFile: expected to be read from a file"),
        ("entryScript: s.py\nruntime: ruby".to_owned(), "runtime: expected python or spark-py, got 'ruby'"),
        ("entryScript: s.py\ncudaVersion: '11'".to_owned(), "cudaVersion: expected 9.0, 9.1 or 10.0"),
        (
            "entryScript: s.py\nenableGpu: 'true'".to_owned(),
            "enableGpu: expected true or false, without quotes",
        ),
        (env("{name: e}"), "environments are not registered here"),
        (env("{name: e, version: '3'}"), "only the name of one ('e')"),
        (env("{}"), "environment: expected a whole environment"),
        (env("5"), "environment: expected an object, got the number 5"),
        (env("{name: AzureML-x, python: {}}"), "environment.name: expected a name that does not begin"),
        (env("{name: Microsoft1, python: {}}"), "environment.name"),
        (
            env("{version: 1, python: {}}"),
            "environment.version: expected a text, in quotes, got the number 1",
        ),
        (
            env("{environmentVariables: {A: 1}}"),
            "environmentVariables.A: expected a text, in quotes, got a number",
        ),
        (env("{environmentVariables: {'a=b': c}}"), "a name of a variable"),
        (env("{environmentVariables: [1]}"), "environmentVariables: expected an object of texts"),
        (env("{docker: {baseImage: a, baseDockerfile: FROM b}}"), "environment.docker: expected one of"),
        (env("{docker: {baseImage: a, buildContext: {location: x}}}"), "got more than one"),
        (python("{userManagedDependencies: yes}"), "expected true or false, got the text 'yes'"),
        (python("{condaDependencies: {dependencies: [{pip: ['-r x.txt']}]}}"), "the option -r"),
        (python("{condaDependenciesFile: c.yml}"), "condaDependenciesFile: expected to be read from a file"),
        (
            env("{name: e, python: {}}\nruntime: python\nbaseImage: x"),
            "it alone, or runtime or baseImage without it",
        ),
    ];
    for (text, words) in rows {
        let e = parse(&text).expect_err(&text);
        assert_eq!(e.kind(), ErrorKind::BadConfig, "{text}");
        assert!(e.to_string().contains(words), "{text}\n  expected: {words}\n  got: {e}");
    }
    let e = parse("entryScript: x.txt\nruntime: ruby\nenableGpu: 1").unwrap_err().to_string();
    assert!(e.starts_with("Invalid inference configuration.\n") && e.lines().count() == 4, "{e}");
    let e = parse("{\"entryScript\": \"a.py\" \"x\": 1}").unwrap_err().to_string();
    assert!(
        e.starts_with("Error parsing --inference-config-file. Must be valid JSON or YAML file. not"),
        "{e}"
    );
    let secret = "entryScript: s.py\nenvironment: {environmentVariables: {KEY: [s3cret]}, python: \
                  {condaDependencies: {dependencies: [{pip: [{s3cret: s3cret}]}]}}}";
    assert!(!parse(secret).unwrap_err().to_string().contains("s3cret"));
}

#[test]
fn what_has_no_effect_here_is_said_once() {
    for (inner, key) in [
        ("{docker: {baseDockerfile: \"FROM x\\nRUN y\"}}", "environment.docker.baseDockerfile"),
        ("{docker: {buildContext: {location: x}}}", "environment.docker.buildContext"),
        ("{docker: {arguments: [--rm]}}", "environment.docker.arguments"),
        ("{docker: {shmSize: 8g}}", "environment.docker.shmSize"),
        ("{docker: {gpuSupport: true}}", "environment.docker.gpuSupport"),
        ("{docker: {platform: {os: Windows}}}", "environment.docker.platform"),
        ("{docker: {baseImageRegistry: {username: u, password: p}}}", "environment.docker.baseImageRegistry"),
        ("{inferencingStackVersion: latest}", "environment.inferencingStackVersion"),
        ("{spark: {packages: [{group: a}]}}", "environment.spark"),
        ("{databricks: {jarLibraries: [x]}}", "environment.databricks"),
        ("{r: {rVersion: '3'}}", "environment.r"),
        ("{python: {baseCondaEnvironment: b}}", "environment.python.baseCondaEnvironment"),
        ("{python: {interpreterPath: /usr/bin/python3}}", "environment.python.interpreterPath"),
        (
            "{python: {userManagedDependencies: true, condaDependencies: {}}}",
            "environment.python.condaDependencies",
        ),
        (
            "{environmentVariables: {AZUREML_MODEL_DIR: x}}",
            "environment.environmentVariables.AZUREML_MODEL_DIR",
        ),
        (
            "{environmentVariables: {TRISCORE_WORKER_FD: '3'}}",
            "environment.environmentVariables.TRISCORE_WORKER_FD",
        ),
    ] {
        let config = good(&format!("entryScript: s.py\nenvironment: {inner}"));
        assert_eq!(notes(&config), [key], "{inner}");
        assert!(config.environment.variables.is_empty(), "{inner}");
    }
    // What Azure's SDK writes into every file is no reason to speak.
    let quiet = good(
        "entryScript: s.py\nenvironment: {docker: {shmSize: 2g, sharedVolumes: true, platform: {os: Linux, \
         architecture: amd64}, baseImageRegistry: {address: null, password: null}}, spark: {repositories: [x], \
         packages: [], precachePackages: true}, databricks: {eggLibraries: []}, r: null, python: \
         {condaDependencies: {dependencies: [{pip: ['azureml-defaults>=1.0.45']}]}}}",
    );
    assert_eq!((notes(&quiet), &quiet.warnings), (vec![], &vec![]));
    let odd = good("entryScript: s.py\nentryscripts: x\nenvironment: {python: {}, colour: 1}");
    let keys = odd.warnings.iter().map(|w| w.key.as_str()).collect::<Vec<_>>();
    assert_eq!(keys, ["entryscripts", "environment.colour", "environment.python.condaDependencies"]);
    assert!(odd.warnings[0].message.contains("did you mean 'entryScript'"));
    assert!(odd.warnings[2].message.contains("azureml-defaults"));
}

#[test]
fn the_keys_of_old_still_work() {
    let old = "entryScript: score.py\nsourceDirectory: source_dir\nruntime: Python\ncondaFile: env.yml\n\
               extraDockerfileSteps: steps\nenableGpu: true\ncudaVersion: '10.0'\nbaseImage: img:1\n\
               baseImageRegistry: reg.io/\n";
    for text in [old.to_owned(), old.replace("extraDockerfileSteps", "extraDockerFileSteps")] {
        let (dir, file) = project(&text);
        fs::write(dir.path().join("source_dir/env.yml"), "dependencies: [python=3.8, {pip: [six]}]").unwrap();
        fs::write(dir.path().join("source_dir/steps"), "RUN true\n").unwrap();
        let config = InferenceConfig::read(&file).unwrap();
        assert_eq!(managed(&config).pip, ["six"]);
        let image = &config.environment.image;
        assert_eq!(image.base.as_deref(), Some("reg.io/img:1"));
        assert_eq!(image.extra_steps.as_deref(), Some("RUN true\n"));
        assert!(image.gpu);
        assert_eq!(notes(&config), ["enableGpu", "baseImage", "extraDockerfileSteps"]);
        fs::remove_file(dir.path().join("source_dir/env.yml")).unwrap();
        let e = InferenceConfig::read(&file).unwrap_err().to_string();
        assert!(e.contains("condaFile: expected a file that exists, got '") && e.contains("env.yml"), "{e}");
    }
    let plain = good("entryScript: s.py");
    assert_eq!(managed(&plain).pip, ["azureml-defaults"]);
    assert_eq!(plain.warnings[0].key, "environment");
    assert_eq!(notes(&good("entryScript: s.py\nruntime: spark-py")), ["runtime"]);
}

#[test]
fn paths_are_looked_for_and_found_beside_the_file() {
    let (dir, file) = project("entryScript: score.py\nsourceDirectory: ./source_dir\nruntime: python");
    let config = InferenceConfig::read(&file).unwrap();
    assert_eq!(config.source_directory.as_deref(), Some(&*dir.path().join("source_dir")));
    assert_eq!(config.script, dir.path().join("source_dir/score.py"));
    assert_eq!(config.warnings[0].key, "sourceDirectory");
    assert!(config.warnings[0].message.contains("beside the file"), "{:?}", config.warnings);

    let (dir, file) = project("entryScript: alone.py\nruntime: python");
    let config = InferenceConfig::read(&file).unwrap();
    assert_eq!(
        (config.azureml_entry_script().as_str(), &config.script),
        ("alone.py", &dir.path().join("alone.py"))
    );
    assert_eq!(good(&config.to_json().to_string()).script, config.script);

    fs::write(dir.path().join("outside.py"), "").unwrap();
    std::os::unix::fs::symlink(dir.path().join("outside.py"), dir.path().join("source_dir/link.py")).unwrap();
    for (text, words) in [
        ("entryScript: none.py", "entryScript: expected a file that exists"),
        ("entryScript: score.py\nsourceDirectory: gone", "sourceDirectory: expected a folder that exists"),
        ("entryScript: none.py\nsourceDirectory: source_dir", "none.py', which does not exist"),
        ("entryScript: source_dir/score.py\nsourceDirectory: source_dir", "did you mean 'score.py'?"),
        ("entryScript: link.py\nsourceDirectory: source_dir", "got a link to '"),
        (
            "entryScript: alone.py\nextraDockerfileSteps: gone",
            "extraDockerfileSteps: expected a file that exists",
        ),
    ] {
        fs::write(&file, text).unwrap();
        let e = InferenceConfig::read(&file).expect_err(text).to_string();
        assert!(e.contains(words) && e.contains("inferenceconfig.json: "), "{text}: {e}");
    }
    let gone = InferenceConfig::read(dir.path().join("gone.json")).unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
}

#[test]
fn flags_win_over_the_file_but_not_over_its_environment() {
    let (dir, file) =
        project("entryScript: wrong.txt\nsourceDirectory: wrong\nruntime: ruby\nenableGpu: true");
    let root = dir.path();
    let text = |path: &str| root.join(path).to_str().unwrap().to_owned();
    fs::write(root.join("conda.yml"), "dependencies: [{pip: [six]}]").unwrap();
    let flags = InferenceOverrides {
        entry_script: Some("score.py".into()),
        source_directory: Some(text("source_dir")),
        conda_file: Some(text("conda.yml")),
        runtime: Some("python".into()),
        enable_gpu: Some(false),
        base_image: Some("img".into()),
        base_image_registry: Some("reg.io".into()),
        ..Default::default()
    };
    for file in [Some(file.as_path()), None] {
        let config = InferenceConfig::resolve(file, &flags).unwrap();
        assert_eq!(config.azureml_entry_script(), "source_dir/score.py");
        assert_eq!(
            (managed(&config).pip.as_slice(), config.environment.image.gpu),
            (&["six".to_owned()][..], false)
        );
        assert_eq!(config.environment.image.base.as_deref(), Some("reg.io/img"));
    }

    let script = InferenceOverrides { entry_script: Some(text("alone.py")), ..Default::default() };
    let registered = InferenceOverrides {
        environment_name: Some("env".into()),
        environment_version: Some("1".into()),
        ..script.clone()
    };
    let e = InferenceConfig::resolve(None, &registered).unwrap_err().to_string();
    assert!(e.contains("--environment-name") && e.contains("--environment-directory"), "{e}");
    fs::write(&file, json!({ "environment": { "name": "mine", "python": {} } }).to_string()).unwrap();
    let config = InferenceConfig::resolve(Some(&file), &registered).unwrap();
    assert_eq!(config.environment.name.as_deref(), Some("mine"));
    assert!(config.warnings.iter().any(|w| w.message.contains("wins")), "{:?}", config.warnings);
}

#[test]
fn an_environment_folder_is_read() {
    let (dir, _) = project("{}");
    let folder = dir.path().join("env");
    fs::create_dir(&folder).unwrap();
    let flags = InferenceOverrides {
        entry_script: Some(dir.path().join("alone.py").to_str().unwrap().to_owned()),
        environment_directory: Some(folder.clone()),
        ..Default::default()
    };
    let resolve = || InferenceConfig::resolve(None, &flags);
    let e = resolve().unwrap_err().to_string();
    assert!(e.contains("a folder with azureml_environment.json or conda_dependencies.yml"), "{e}");

    fs::write(folder.join("conda_dependencies.yml"), "dependencies: [{pip: [azureml-defaults, six]}]")
        .unwrap();
    assert_eq!(managed(&resolve().unwrap()).pip, ["azureml-defaults", "six"]);
    let object =
        json!({ "name": "e", "version": "2", "python": { "condaDependenciesFile": "elsewhere.yml" } });
    fs::write(folder.join("azureml_environment.json"), object.to_string()).unwrap();
    let config = resolve().unwrap();
    assert_eq!((config.environment.name.as_deref(), managed(&config).pip.len()), (Some("e"), 2));
    fs::write(folder.join("conda_dependencies.yml"), "dependencies: [").unwrap();
    let e = resolve().unwrap_err().to_string();
    assert!(e.contains("conda_dependencies.yml: not valid YAML"), "{e}");
    fs::write(folder.join("azureml_environment.json"), "{").unwrap();
    assert!(resolve().unwrap_err().to_string().contains("azureml_environment.json: not valid"));
}
