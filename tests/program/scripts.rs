//! Entry scripts as their authors deploy them: the files of old, this machine's Python.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::home::{Home, is_alive, models, signal, until};
use super::http::{self, Reply};
use super::serve::{serve, start};

const DC: &str = r#"{"computeType": "local"}"#;

/// Says what it was called with, and does as it is told.
const SCRIPT: &str = r#"
import json, os, signal, sys, time
print("imported", flush=True)

def init():
    print("init ran in", os.getcwd())

def run(data):
    what = json.loads(data)
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "exit":
        sys.exit(5)
    if what == "raise":
        raise ValueError("as it was told")
    if what == "flood":
        line = "x" * 1023 + "\n"
        for _ in range(100 * 1024):
            sys.stdout.write(line)
    if what == "pid":
        return os.getpid()
    if what == "sleep":
        time.sleep(60)
    if what == "work":
        time.sleep(0.005)
        return os.getpid()
    if what == "where":
        names = ["AZUREML_MODEL_DIR", "AZUREML_ENTRY_SCRIPT", "AZUREML_SOURCE_DIRECTORY", "AML_APP_ROOT",
                 "SERVICE_NAME", "COLOUR"]
        found = {name: os.environ.get(name) for name in names}
        found["models"] = sorted(
            os.path.relpath(os.path.join(folder, file), found["AZUREML_MODEL_DIR"])
            for folder, _, files in os.walk(found["AZUREML_MODEL_DIR"] or "/nonexistent") for file in files)
        return found
    return {"VERSION": what}
"#;

/// Lays the files out that a team has: `source_dir/score.py` and `inferenceconfig.json`; gives the latter.
fn inference_config(home: &Home, name: &str, script: &str) -> String {
    home.file(&format!("{name}/source_dir/score.py"), script);
    let source = home.path(&format!("{name}/source_dir"));
    let config = json!({
        "entryScript": "score.py", "sourceDirectory": source,
        "environment": {
            "name": "mine", "environmentVariables": {"COLOUR": "brown"},
            "python": {"userManagedDependencies": true, "interpreterPath": "python3"},
        },
    });
    home.file(&format!("{name}/inferenceconfig.json"), config.to_string())
}

fn score(port: u16, body: &Value) -> Reply {
    http::request(port, "POST", "/score", "", body.to_string().as_bytes()).unwrap()
}

fn with_two_models() -> Home {
    let home = Home::with_digits();
    home.ok(&["model", "register", "-n", "other", "-p", &models("digits_mlp/model.onnx")]);
    home
}

#[test]
fn a_script_is_deployed_updated_and_deleted() {
    let home = with_two_models();
    let dc = home.file("dc.json", DC);
    let ic = inference_config(&home, "one", SCRIPT);
    home.ok(&["model", "deploy", "-n", "svc", "-m", "digits:1", "--ic", &ic, "--dc", &dc]);
    let port = home.port("svc");
    assert_eq!(score(port, &json!(1)).json(), json!({"VERSION": 1}));

    // One model: its version's folder.
    let place = score(port, &json!("where")).json();
    let text = |key: &str| place[key].as_str().unwrap().to_owned();
    assert!(text("AZUREML_MODEL_DIR").ends_with("/azureml-models/digits/1"), "{place:#}");
    assert!(text("AZUREML_MODEL_DIR").starts_with(&text("AML_APP_ROOT")));
    assert_eq!(place["models"], json!(["model.onnx"]));
    assert_eq!(text("AZUREML_ENTRY_SCRIPT"), "source_dir/score.py");
    assert_eq!(text("AZUREML_SOURCE_DIRECTORY"), "source_dir");
    assert_eq!((text("SERVICE_NAME"), text("COLOUR")), ("svc".to_owned(), "brown".to_owned()));

    let shown = home.show("svc");
    assert_eq!(shown["properties"]["hasInferenceSchema"], "False");
    let logs = home.ok(&["service", "get-logs", "-n", "svc"]).out;
    assert!(logs.contains("imported") && logs.contains("init ran in"), "{logs}");

    // Another model: the script stays. Several models: the folder that they are all in.
    home.ok(&["service", "update", "-n", "svc", "-m", "digits", "-m", "other"]);
    let place = score(port, &json!("where")).json();
    assert!(place["AZUREML_MODEL_DIR"].as_str().unwrap().ends_with("/azureml-models"), "{place:#}");
    assert_eq!(place["models"], json!(["digits/1/model.onnx", "other/1/model.onnx"]));

    // Another script; what is edited after a deployment is not what serves.
    home.file("one/source_dir/score.py", "broken(");
    assert_eq!(score(port, &json!(1)).json(), json!({"VERSION": 1}));
    let next = inference_config(&home, "two", &SCRIPT.replace("VERSION", "second"));
    home.ok(&["service", "update", "-n", "svc", "--ic", &next]);
    assert_eq!(score(port, &json!(1)).json(), json!({"second": 1}));
    assert_eq!(home.show("svc")["models"], json!(["digits:1", "other:1"]));

    let worker = u32::try_from(score(port, &json!("pid")).json().as_u64().unwrap()).unwrap();
    home.ok(&["service", "delete", "-n", "svc"]);
    until("the worker's end", || (!is_alive(worker)).then_some(()));
    assert_eq!(home.json(&["service", "list"]), json!([]));
}

#[test]
fn a_script_does_without_a_model() {
    let home = Home::new();
    let (dc, ic) = (home.file("dc.json", DC), inference_config(&home, "one", SCRIPT));
    home.ok(&["model", "deploy", "-n", "svc", "--ic", &ic, "--dc", &dc]);
    let place = score(home.port("svc"), &json!("where")).json();
    assert_eq!((&place["AZUREML_MODEL_DIR"], &place["models"]), (&Value::Null, &json!([])));
}

#[test]
fn a_worker_that_goes_wrong_is_replaced_and_told_of() {
    let home = Home::new();
    let (dc, ic) = (home.file("dc.json", DC), inference_config(&home, "one", SCRIPT));
    home.ok(&["model", "deploy", "-n", "svc", "--ic", &ic, "--dc", &dc]);
    let port = home.port("svc");
    for (what, status, words) in [
        ("raise", 500, "An unexpected error occurred in scoring script. Check the logs for more info."),
        ("exit", 500, "An unexpected error occurred in scoring script. Check the logs for more info."),
        ("die", 502, "signal"),
    ] {
        let reply = score(port, &json!(what));
        assert_eq!(reply.status, status, "{what}: {reply:?}");
        assert!(reply.body.contains(words), "{what}: {reply:?}");
        let next = score(port, &json!("after"));
        assert_eq!((next.status, next.json()), (200, json!({"VERSION": "after"})), "after {what}");
    }
    let logs = home.ok(&["service", "get-logs", "-n", "svc"]).out;
    for words in ["ValueError: as it was told", "SIGKILL"] {
        assert!(logs.contains(words), "{words} is not in\n{logs}");
    }
    assert_eq!(home.show("svc")["state"], "running");

    // A hundred megabytes of output: the log stays within its bound, the service answers.
    assert_eq!(score(port, &json!("flood")).status, 200);
    assert_eq!(score(port, &json!(1)).status, 200);
    let folder = home.root().join("services/svc");
    let size = |name: &str| std::fs::metadata(folder.join(name)).map_or(0, |m| m.len());
    assert!(size("service.log") <= 17 << 20 && size("service.log.1") <= 17 << 20);
}

/// The server's own variables, in the file that it took them from; and what a request that takes too long gets.
#[test]
fn config_json_beside_the_script_is_read() {
    let home = Home::new();
    let (dc, ic) = (home.file("dc.json", DC), inference_config(&home, "one", SCRIPT));
    home.file("one/source_dir/config.json", r#"{"SCORING_TIMEOUT_MS": 200, "SERVICE_PATH_PREFIX": "mine"}"#);
    home.ok(&["model", "deploy", "-n", "svc", "--ic", &ic, "--dc", &dc]);
    let port = home.port("svc");
    for path in ["/score", "/mine/score"] {
        let reply = http::request(port, "POST", path, "", br#""sleep""#).unwrap();
        assert_eq!((reply.status, &*reply.body), (504, "{\"message\": \"Scoring timeout after 200 ms\"}"));
    }
    assert_eq!(score(port, &json!(1)).status, 200);
    let bad = home.file("one/source_dir/config.json", "not JSON");
    home.fails(&["service", "update", "-n", "svc", "--ic", &ic], 78, &["config.json", "a JSON object"]);
    assert_eq!(score(port, &json!(1)).status, 200, "{bad}");
}

/// A worker that is killed under load: what it was at is told so, nobody else notices, and another is there soon.
#[test]
fn a_worker_killed_under_load_costs_one_request() {
    const CLIENTS: usize = 8;
    let home = Home::new();
    let ic = inference_config(&home, "one", SCRIPT);
    let dc = home.file(
        "dc.json",
        r#"{"computeType": "aks", "authEnabled": false, "autoscaleEnabled": false, "numReplicas": 2}"#,
    );
    home.ok(&["model", "deploy", "-n", "svc", "--ic", &ic, "--dc", &dc]);
    let port = home.port("svc");
    let since = Instant::now();
    let killed_at = std::sync::OnceLock::new();
    let answers = std::thread::scope(|scope| {
        let client = || {
            let mut seen = Vec::new();
            while since.elapsed() < Duration::from_secs(5) {
                let reply = score(port, &json!("work"));
                seen.push((Instant::now(), reply));
            }
            seen
        };
        let clients = (0..CLIENTS).map(|_| scope.spawn(client)).collect::<Vec<_>>();
        std::thread::sleep(Duration::from_secs(1));
        let worker = u32::try_from(score(port, &json!("work")).json().as_u64().unwrap()).unwrap();
        killed_at.set(Instant::now()).unwrap();
        signal(worker, libc::SIGKILL);
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect::<Vec<_>>()
    });
    let killed_at = *killed_at.get().unwrap();
    let (right, wrong) = answers.iter().partition::<Vec<_>, _>(|(_, reply)| reply.status == 200);
    assert!(wrong.len() <= 1 && right.len() > 100, "{} right; {wrong:#?}", right.len());
    for (_, reply) in &wrong {
        assert!(reply.status == 502 && reply.body.contains("SIGKILL"), "{reply:?}");
    }
    let pids = |from: Instant| {
        let after = right.iter().filter(|(at, _)| *at >= from).map(|(_, reply)| reply.body.clone());
        after.collect::<std::collections::BTreeSet<_>>()
    };
    // Both work again: what both do is what was done before.
    let back = pids(killed_at + Duration::from_secs(2));
    assert_eq!((back.len(), pids(since).len()), (2, 3), "{back:?}");
}

/// Whatever is wrong with a script is said before anything that serves is stopped, or leaves it serving.
#[test]
fn a_bad_script_leaves_what_serves_alone() {
    let home = with_two_models();
    let (dc, good) = (home.file("dc.json", DC), inference_config(&home, "good", SCRIPT));
    home.ok(&["model", "deploy", "-n", "svc", "-m", "digits", "--ic", &good, "--dc", &dc]);
    let port = home.port("svc");
    let clash = json!({
        "entryScript": "score.py", "sourceDirectory": home.path("azureml-models"),
        "environment": {"python": {"userManagedDependencies": true}},
    });
    home.file("azureml-models/score.py", SCRIPT);
    let clash = home.file("clash.json", clash.to_string());
    let no_python = json!({
        "entryScript": "score.py", "sourceDirectory": home.path("good/source_dir"),
        "environment": {"python": {"userManagedDependencies": true, "interpreterPath": "/no/python"}},
    });
    let no_python = home.file("no_python.json", no_python.to_string());
    let no_file = home.file("no_file.json", r#"{"entryScript": "nowhere.py", "environment": {}}"#);
    let bad = |name: &str, script: &str| inference_config(&home, name, script);
    let rows: [(String, i32, &[&str]); 9] = [
        (bad("syntax", "def init():\n    pass\ndef run(data:\n"), 78, &["score.py", "line 3", "SyntaxError"]),
        (bad("no_run", "def init():\n    pass\n"), 78, &["run"]),
        (bad("no_init", "def run(data):\n    return data\n"), 78, &["init"]),
        (bad("import", "import there_is_no_such_module\n"), 78, &["there_is_no_such_module"]),
        (
            bad("raises", "def init():\n    raise OSError('no luck')\ndef run(d):\n    pass\n"),
            78,
            &["no luck"],
        ),
        (bad("exits", "import sys\ndef init():\n    sys.exit(9)\ndef run(d):\n    pass\n"), 78, &["9"]),
        (clash, 78, &["azureml-models", "rename"]),
        (no_python, 69, &["/no/python"]),
        (no_file, 78, &["nowhere.py"]),
    ];
    for (ic, code, words) in &rows {
        home.fails(&["service", "update", "-n", "svc", "--ic", ic], *code, words);
        assert_eq!(score(port, &json!(ic)).json(), json!({"VERSION": ic}), "after {ic}");
        assert_eq!(home.show("svc")["state"], "running");
    }
    // What can be known without running it keeps even a deployment in its place from stopping it.
    for (ic, code, words) in [&rows[0], &rows[6], &rows[7], &rows[8]] {
        let args = ["model", "deploy", "-n", "svc", "-m", "digits", "--ic", ic, "--dc", &dc, "--overwrite"];
        home.fails(&args, *code, words);
        assert_eq!(score(port, &json!(1)).status, 200, "after {ic}");
    }
}

#[test]
fn a_script_that_does_not_start_has_its_traceback_shown_first() {
    let home = Home::with_digits();
    let dc = home.file("dc.json", DC);
    let script = "def init():\n    print('about to')\n    raise OSError('no luck')\ndef run(d):\n    pass\n";
    let ic = inference_config(&home, "raises", script);
    let args = ["model", "deploy", "-n", "svc", "-m", "digits", "--ic", &ic, "--dc", &dc];
    home.fails(&args, 78, &["no luck"]);
    let shown = home.show("svc");
    assert_eq!(shown["state"], "failed", "{shown:#}");
    let logs = home.ok(&["service", "get-logs", "-n", "svc"]).out;
    let head = logs.lines().take(12).collect::<Vec<_>>().join("\n");
    assert!(head.contains("Traceback") && head.contains("OSError: no luck"), "{logs}");
    assert!(logs.contains("about to"), "{logs}");

    // An init() without end is waited for, and can be ended at any time.
    let endless =
        "import time\ndef init():\n    print('waiting')\n    time.sleep(1e6)\ndef run(d):\n    pass\n";
    let ic = inference_config(&home, "endless", endless);
    let limited =
        std::fs::read_to_string(&ic).unwrap().replace("COLOUR", "WORKER_TIMEOUT").replace("brown", "1");
    let limited = home.file("limited.json", limited);
    let args = ["model", "deploy", "-n", "svc3", "--ic", &limited, "--dc", &dc];
    home.fails(&args, 78, &["init() did not return within 1000 ms", "waiting"]);
    home.ok(&["model", "deploy", "-n", "svc2", "--ic", &ic, "--dc", &dc, "--no-wait"]);
    assert_eq!(home.show("svc2")["state"], "deploying");
    home.ok(&["service", "delete", "-n", "svc2"]);
}

#[test]
fn serve_runs_a_script_where_it_lies() {
    let home = Home::new();
    let ic = inference_config(&home, "one", SCRIPT);
    let model = models("digits_cnn/model.onnx");
    let (mut running, port) = serve(&home, &["--ic", &ic, &model, "--name", "digits", "--port", "0"]);
    let place = score(port, &json!("where")).json();
    assert_eq!(place["AML_APP_ROOT"], json!(home.path("one")));
    assert_eq!(place["AZUREML_MODEL_DIR"], json!(models("digits_cnn")));
    assert_eq!(place["SERVICE_NAME"], "digits");
    home.fails(&["serve", "--ic", &ic, &model, &model], 65, &["must be registered", "model.onnx"]);
    let worker = u32::try_from(score(port, &json!("pid")).json().as_u64().unwrap()).unwrap();
    signal(running.0.id(), libc::SIGTERM);
    assert_eq!((running.end(), is_alive(worker)), (0, false));
    assert_eq!(std::fs::read_dir(home.root().join("serving")).unwrap().count(), 0);
}

/// What is packaged for an image serves as it would there: the same files, under another root.
#[test]
fn a_package_serves_what_was_packaged() {
    let home = with_two_models();
    let ic = inference_config(&home, "one", SCRIPT);
    let out = home.path("image");
    let folder = out.to_str().unwrap();
    let models = ["-m", "digits:1", "-m", "other:1"];
    home.ok(&[&["model", "package", "--ic", &ic, "--output-path", folder], &models[..]].concat());
    // As the Dockerfile copies them.
    let root = out.join("app");
    std::fs::rename(out.join("azureml-models"), root.join("azureml-models")).unwrap();
    let config = out.join("config/inferenceconfig.json");
    let text = std::fs::read_to_string(&config).unwrap().replace("/var/azureml-app", root.to_str().unwrap());
    std::fs::write(&config, text).unwrap();
    let (ic, dc) = (config.to_str().unwrap(), out.join("config/deploymentconfig.json"));
    let mut command = home.command(&["serve", "--ic", ic, "--dc", dc.to_str().unwrap(), "--port", "0"]);
    command.env("AML_APP_ROOT", &root).env("AZUREML_MODEL_DIR", root.join("azureml-models"));
    let (_running, port) = start(command);
    let place = score(port, &json!("where")).json();
    assert_eq!(place["models"], json!(["digits/1/model.onnx", "other/1/model.onnx"]), "{place:#}");
    assert_eq!((&place["AML_APP_ROOT"], &place["COLOUR"]), (&json!(root), &json!("brown")));
}

#[test]
fn a_script_is_profiled_as_a_model_is() {
    let home = Home::with_digits();
    let ic = inference_config(&home, "one", SCRIPT);
    let profile = home.json(&[
        "model",
        "profile",
        "-n",
        "p",
        "-m",
        "digits:1",
        "--ic",
        &ic,
        "-d",
        "1",
        "--seconds",
        "0.3",
    ]);
    assert_eq!(
        (&profile["state"], &profile["successRate"]),
        (&json!("Succeeded"), &json!(100.0)),
        "{profile:#}"
    );
    assert!(profile["recommendedMemoryInGB"].as_f64().unwrap() > 0.0);
}

#[test]
fn environments_are_kept_for_as_long_as_a_service_needs_them() {
    let home = Home::new();
    home.file("one/score.py", SCRIPT);
    let config = json!({
        "entryScript": "score.py", "sourceDirectory": home.path("one"),
        "environment": {"python": {"condaDependencies": {"dependencies": ["python", {"pip": []}]}}},
    });
    let (ic, dc) = (home.file("ic.json", config.to_string()), home.file("dc.json", DC));
    let deploy = ["model", "deploy", "-n", "svc", "--ic", &ic, "--dc", &dc];
    let said = home.ok(&deploy).err;
    assert!(said.contains("environment: making an environment"), "{said}");
    let said = home.ok(&deploy).err;
    assert!(!said.contains("environment: making"), "it is there already: {said}");
    home.ok(&["service", "stop", "-n", "svc"]);
    let list = || home.json(&["environment", "list"]);
    assert_eq!((list().as_array().unwrap().len(), &list()[0]["inUse"]), (1, &json!(true)), "{:#}", list());
    assert_eq!(home.json(&["environment", "prune"]), json!({"removed": []}));
    home.ok(&["service", "start", "-n", "svc"]);
    until("a running service", || (home.show("svc")["state"] == "running").then_some(()));
    home.ok(&["service", "delete", "-n", "svc"]);
    let hash = list()[0]["hash"].clone();
    assert_eq!(home.json(&["environment", "prune"]), json!({"removed": [hash]}));
    assert_eq!(list(), json!([]));
}
