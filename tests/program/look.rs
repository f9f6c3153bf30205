//! `triscore inspect` and `triscore devices`, the help, and files that are no models.

use std::time::Duration;

use serde_json::{Value, json};

use super::home::{Home, models};

#[test]
fn a_model_is_described() {
    let home = Home::new();
    let model = models("digits_cnn/model.onnx");
    let told = home.json(&["inspect", &model]);
    for (key, value) in [
        ("path", json!(model)),
        ("sizeBytes", json!(127_864)),
        ("parameters", json!(31_674)),
        ("batchAxis", json!(0)),
        ("inputs", json!([{ "name": "x", "type": "f32[batch, 1, 8, 8]", "optional": false }])),
        ("outputs", json!([{ "name": "logits", "type": "f32[batch, 10]", "optional": false }])),
        ("operators", json!({ "Conv": 3, "Flatten": 1, "Gemm": 2, "MaxPool": 2, "Relu": 4 })),
        ("opsets", json!({ "ai.onnx": 17 })),
    ] {
        assert_eq!(told[key], value, "{key}");
    }
    let places = told["placement"].as_array().unwrap();
    assert_eq!(places[0]["summary"], "cpu 12/12");
    assert!(places.iter().all(|p| p["backend"] == "cpu" || p["reason"].is_string()), "{places:#?}");
    let text = home.ok(&["inspect", &models("digits_cnn")]).out;
    for word in ["f32[batch, 1, 8, 8]", "31674 parameters", "Conv", "cpu 12/12", "batch axis 0"] {
        assert!(text.contains(word), "no '{word}' in: {text}");
    }
    // Every committed model can be looked at.
    let folders = ["tiny", "sklearn"].map(|f| std::fs::read_dir(models(f)).unwrap());
    let files = folders.into_iter().flatten().map(|e| e.unwrap().path());
    for file in files.filter(|f| f.extension().is_some_and(|e| e == "onnx")) {
        let told = home.json(&["inspect", file.to_str().unwrap()]);
        assert!(!told["inputs"].as_array().unwrap().is_empty(), "{told:#}");
    }
    assert!(!home.root().exists(), "looking leaves nothing behind");
}

#[test]
fn every_backend_tells_its_devices_or_why_it_has_none() {
    let home = Home::new();
    let told = home.json(&["devices"]);
    let backends = told.as_array().unwrap();
    let names = backends.iter().map(|b| b["backend"].as_str().unwrap()).collect::<Vec<_>>();
    assert_eq!(names.first(), Some(&"cpu"), "{told:#}");
    for backend in backends {
        let has = !backend["devices"].as_array().unwrap().is_empty();
        assert_eq!(has, backend["backend"] == "cpu", "{backend:#}");
        assert_eq!(has, backend["reason"] == Value::Null, "{backend:#}");
    }
    let text = home.ok(&["devices"]).out;
    assert!(text.contains("cpu:0"), "{text}");
    for name in names.into_iter().filter(|n| *n != "cpu") {
        assert!(text.contains(&format!("{name}: none: ")), "{text}");
    }
}

#[test]
fn what_is_no_model_is_refused_quickly() {
    let home = Home::new();
    let onnx = std::fs::read(models("digits_cnn/model.onnx")).unwrap();
    // Groups inside each other, and a length beyond any file.
    let nested = [0x3b].repeat(100_000);
    let lying = [&[0x3a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f][..], &onnx[..50]].concat();
    let fifo = home.path("fifo.onnx");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    for (name, content) in [
        ("empty.onnx", &b""[..]),
        ("page.onnx", b"<!DOCTYPE html><html>no such page</html>"),
        ("pickle.onnx", b"\x80\x04\x95\x10\x00\x00\x00sklearn.svm"),
        ("archive.onnx", b"PK\x03\x04\x14\x00 a TorchScript archive"),
        ("pointer.onnx", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
        ("cut.onnx", &onnx[..onnx.len() - 1000]),
        ("nested.onnx", &nested),
        ("lying.onnx", &lying),
        ("fifo.onnx", b""),
    ] {
        let file = match name {
            "fifo.onnx" => fifo.to_str().unwrap().to_owned(),
            _ => home.file(name, content),
        };
        for args in [&["inspect", &file][..], &["inspect", &file, "--json"], &["serve", &file, "--port", "0"]]
        {
            let ran = home.fails(args, 65, &[name]);
            assert!(ran.took < Duration::from_secs(20), "{ran:#?}");
            assert!(ran.err.len() < 2000 && ran.out.is_empty(), "{ran:#?}");
        }
    }
    // The data of a model that has some beside it may not be missing, nor lie elsewhere.
    let alone = home.path("alone.onnx");
    std::fs::copy(models("tiny/matmul_external.onnx"), &alone).unwrap();
    home.fails(&["inspect", alone.to_str().unwrap()], 66, &["alone.onnx", "matmul_external.data"]);
    std::os::unix::fs::symlink(models("tiny/matmul_external.data"), home.path("matmul_external.data"))
        .unwrap();
    home.fails(&["inspect", alone.to_str().unwrap()], 65, &["matmul_external.data", "link"]);
}

#[test]
fn every_command_helps() {
    let home = Home::new();
    let mut commands = vec![vec![]];
    for parent in [&[][..], &["model"], &["service"]] {
        let help = home.ok(&[parent, &["--help"]].concat()).out;
        let (_, list) = help.split_once("Commands:\n").unwrap();
        let (list, _) = list.split_once("\nOptions:").unwrap();
        for line in list.lines().filter(|l| l.starts_with("  ") && !l.starts_with("   ")) {
            let name = line.split_whitespace().next().unwrap().to_owned();
            commands.push([parent.iter().map(|p| (*p).to_owned()).collect(), vec![name]].concat());
        }
    }
    assert!(commands.len() > 20, "{commands:?}");
    for command in commands.iter().filter(|c| c.last().is_none_or(|name| name != "help")) {
        let args = command.iter().map(String::as_str).chain(["--help"]).collect::<Vec<_>>();
        let help = home.ok(&args);
        assert!(help.out.contains("Usage: triscore") && help.err.is_empty(), "{help:#?}");
    }
    // What the help says of exit codes is what the table says.
    let help = home.ok(&["--help"]).out;
    let (_, codes) = help.split_once("Exit codes:\n").unwrap();
    let told = codes.lines().filter_map(|l| l.split_whitespace().next()?.parse().ok()).collect::<Vec<u8>>();
    for kind in triscore::ErrorKind::ALL.iter().filter(|k| **k != triscore::ErrorKind::Cancelled) {
        assert!(told.contains(&kind.row().exit_code), "{kind}: {told:?}");
    }
    assert!(home.ok(&["--version"]).out.starts_with("triscore "));
    for args in [&[][..], &["model"], &["service"], &["nonsense"], &["inspect"], &["--home"]] {
        let ran = home.fails(args, 2, &["--help"]);
        assert!(ran.out.is_empty() && !ran.err.contains("supervise"), "{ran:#?}");
    }
    let ran = home.fails(&["nonsense", "--json"], 2, &[]);
    let error: Value = serde_json::from_str(&ran.err).unwrap();
    assert_eq!((&error["error"]["kind"], &error["error"]["exitCode"]), (&json!("usage"), &json!(2)));
}

/// Nobody reads to the end, nobody reads at all: no panic, and no trace.
#[test]
fn a_reader_that_goes_away_is_no_error() {
    let home = Home::new();
    let mut command = home.command(&["inspect", &models("digits_cnn")]);
    command.stdout(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().code() == Some(0));
    let full = || std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    for args in [&["inspect", "/nonexistent"][..], &["nonsense"], &[]] {
        let mut command = home.command(args);
        let status = command.stdout(full()).stderr(full()).status().unwrap();
        assert!([2, 66].contains(&status.code().unwrap()), "{args:?}: {status}");
    }
}

/// What scripts for `az ml` pass everywhere.
#[test]
fn the_flags_of_az_are_taken_and_told() {
    let home = Home::new();
    let args = ["-g", "group", "-w", "space", "--subscription-id", "id", "--path", ".", "-v", "--query", "x"];
    let ran = home.ok(&[&["model", "list"][..], &args].concat());
    assert_eq!(ran.err.lines().count(), 1, "{ran:#?}");
    assert!(
        ran.err.contains("--resource-group, --workspace-name") && ran.err.contains("no meaning"),
        "{ran:#?}"
    );
    for form in ["json", "jsonc"] {
        assert_eq!(home.ok(&["service", "list", "-o", form]).json(), serde_json::json!([]));
    }
    assert!(home.ok(&["service", "list", "-o", "table"]).out.contains("no services"));
    home.fails(&["service", "list", "-o", "tsv"], 65, &["--output", "jq"]);
    home.fails(&["service", "list", "--image-digest", "x"], 69, &["--image-digest", "--model-id"]);
    home.fails(&["service", "list", "-o", "xml"], 2, &["json", "table"]);
    let help = home.ok(&["model", "deploy", "--help"]).out;
    for words in ["--cpu-cores", "[alias: --cc]", "--location", "No effect: there is no Azure region here"] {
        assert!(help.contains(words), "{words}: {help}");
    }
}
