//! What a service can be besides healthy, and that it says why.

use super::home::{Home, models};
use super::http::{digit, digit_of, knows_the_digit, request};

#[test]
fn what_this_machine_lacks_is_named() {
    let home = Home::with_digits();
    let huge = home.file(
        "huge.json",
        r#"{"computeType": "aks", "authEnabled": false,
            "containerResourceRequirements": {"cpu": 4096, "memoryInGB": 1000000}}"#,
    );
    for (name, config, words) in [
        ("gpu", models("digits_cnn/deploymentconfig.gpu.json"), &["asks for 1 GPU", "has none"][..]),
        ("fpga", models("digits_cnn/deploymentconfig.fpga.json"), &["asks for 2 FPGAs", "has none"]),
        ("huge", huge, &["insufficient cpu: asks for 4096", "insufficient memory: asks for 1000000 GB"]),
    ] {
        home.deploy(name, &config).failed(69, words);
        let shown = home.show(name);
        assert_eq!(shown["state"], "Unschedulable", "{shown:#}");
        assert!(words.iter().all(|w| shown["error"].as_str().unwrap().contains(w)), "{shown:#}");
        assert_eq!((&shown["scoringUri"], &shown["pid"]), (&().into(), &().into()), "{shown:#}");
        let logs = home.ok(&["service", "get-logs", "-n", name]).out;
        assert!(words.iter().all(|w| logs.contains(w)), "{logs}");
        let at = format!("@{}", models("digits_cnn/request.json"));
        home.fails(&["service", "run", "-n", name, "-d", &at], 75, &["Unschedulable", words[0]]);
        home.fails(&["service", "start", "-n", name], 69, words);
    }
    assert_eq!(home.processes(), []);
}

#[test]
fn a_fall_back_that_is_allowed_is_told() {
    let home = Home::with_digits();
    let config = home.file(
        "prefer.json",
        r#"{"computeType": "aks", "gpuCores": 1, "authEnabled": false, "triscore": {"policy": "prefer"}}"#,
    );
    assert_eq!(home.deploy("prefer", &config).code, 0);
    let shown = home.show("prefer");
    assert_eq!(shown["state"], "Healthy");
    assert!(shown["device"].as_str().unwrap().starts_with("cpu:0"), "{shown:#}");
    assert!(shown["error"].as_str().unwrap().contains("asks for 1 GPU; this machine has none"), "{shown:#}");
    let port = home.port("prefer");
    knows_the_digit(port);
    let (body, label) = digit();
    let by_path = request(port, "POST", "/api/v1/service/prefer/score", "", &body).unwrap();
    assert_eq!(digit_of(&by_path.json()), label, "as a cluster routes it");
    let logs = home.ok(&["service", "get-logs", "-n", "prefer"]).out;
    assert!(logs.contains("not on the device that was asked for first"), "{logs}");
}

#[test]
fn a_model_that_is_none_fails_with_the_reason() {
    let home = Home::new();
    let onnx = std::fs::read(models("digits_cnn/model.onnx")).unwrap();
    let config = models("digits_cnn/deploymentconfig.json");
    for (name, content, words) in [
        ("page", &b"<!DOCTYPE html><html>no such page</html>"[..], &["page.onnx", "HTML"][..]),
        ("cut", &onnx[..onnx.len() / 2], &["cut.onnx"]),
        ("empty", b"", &["empty.onnx"]),
    ] {
        let file = home.file(&format!("{name}.onnx"), content);
        home.ok(&["model", "register", "-n", name, "-p", &file]);
        let deploy = ["model", "deploy", "-n", name, "-m", name, "--dc", &config, "--port", "0"];
        home.fails(&deploy, 65, &[words, &["Failed"]].concat());
        let shown = home.show(name);
        assert_eq!(shown["state"], "failed", "{shown:#}");
        assert!(words.iter().all(|w| shown["error"].as_str().unwrap().contains(w)), "{shown:#}");
    }
    assert_eq!(home.processes(), []);
    let logs = |args: &[&str]| home.ok(&[&["service", "get-logs", "-n", "page"], args].concat()).out;
    home.fails(&["service", "start", "-n", "page"], 65, &["HTML"]);
    assert_eq!(logs(&[]).matches("---- triscore: starting service 'page'").count(), 2);
    assert_eq!(logs(&["-i"]).matches("---- triscore: starting service 'page'").count(), 1);
    assert!(logs(&["--init"]).contains("HTML") && logs(&["-l", "1"]).lines().count() == 1);
    // A good version over the broken one mends it.
    home.ok(&["model", "register", "-n", "page", "-p", &models("digits_cnn/model.onnx")]);
    home.ok(&["model", "deploy", "-n", "page", "-m", "page", "--dc", &config, "--port", "0"]);
    knows_the_digit(home.port("page"));
}

#[test]
fn keys_are_asked_for_and_shown_to_nobody() {
    let home = Home::with_digits();
    let own = home.file(
        "own.json",
        r#"{"computeType": "aci", "authEnabled": true,
            "keys": {"primaryKey": "first-secret-0123456789abcdef", "secondaryKey": "other-secret-0123456789abcdef"}}"#,
    );
    for (name, config) in [("made", models("digits_cnn/deploymentconfig.aci.json")), ("own", own)] {
        let deployed = home.deploy(name, &config);
        assert_eq!(deployed.code, 0, "{deployed:#?}");
        let (port, (body, label)) = (home.port(name), digit());
        let with = |header: &str| request(port, "POST", "/score", header, &body).unwrap();
        let keys = home.json(&["service", "get-keys", "-n", name]);
        let keys = [&keys["primaryKey"], &keys["secondaryKey"]].map(|k| k.as_str().unwrap().to_owned());
        assert_eq!(keys[0] == "first-secret-0123456789abcdef", name == "own");
        for header in ["", "Authorization: Bearer wrong\r\n", "Authorization: Bearer \r\n"] {
            assert_eq!(with(header).status, 401, "{header:?}");
        }
        for key in &keys {
            assert_eq!(with(&format!("Authorization: Basic {key}\r\n")).status, 401);
            let reply = with(&format!("Authorization: Bearer {key}\r\n"));
            assert_eq!((reply.status, digit_of(&reply.json())), (200, label));
        }
        assert_eq!(request(port, "GET", "/", "", b"").unwrap().body, "Healthy", "health is for everybody");
        let at = format!("@{}", models("digits_cnn/request.json"));
        assert_eq!(digit_of(&home.json(&["service", "run", "-n", name, "-d", &at])), label);

        let told = [
            deployed.out,
            deployed.err,
            home.show(name).to_string(),
            home.ok(&["service", "show", "-n", name]).out,
            home.ok(&["service", "list"]).out,
            home.json(&["service", "list"]).to_string(),
            home.ok(&["service", "get-logs", "-n", name]).out,
        ];
        for key in &keys {
            assert!(told.iter().all(|t| !t.contains(key)), "a key is told: {told:#?}");
        }
    }
}

#[test]
fn a_missing_onnx_runtime_is_named_with_the_command_that_installs_it() {
    let home = Home::with_digits();
    let config = models("digits_cnn/deploymentconfig.json");
    let words = ["/nonexistent", "pip install onnxruntime"];
    let deploy = ["model", "deploy", "-n", "digits", "-m", "digits", "--dc", &config, "--port", "0"];
    let model = models("digits_cnn/model.onnx");
    let input = models("digits_cnn/request.json");
    let output = home.path("out.json");
    let score = ["score", &model, "--input", &input, "--output", output.to_str().unwrap()];
    for args in [&deploy[..], &score, &["serve", &model, "--port", "0"]] {
        let mut by_variable = home.command(args);
        by_variable.env("ORT_DYLIB_PATH", "/nonexistent").env_remove("TRISCORE_ONNXRUNTIME");
        home.finish(by_variable).failed(69, &[&words[..], &["ORT_DYLIB_PATH"]].concat());
        home.fails(&[args, &["--onnxruntime", "/nonexistent"]].concat(), 69, &words);
        // A file that is no library.
        home.fails(&[args, &["--onnxruntime", &input]].concat(), 69, &["request.json", "pip install"]);
    }
    assert!(!output.exists());
    let shown = home.show("digits");
    assert_eq!(shown["state"], "unschedulable", "{shown:#}");
    // Looking is no error: it says what is there and what is not.
    let devices = home.json(&["devices", "--onnxruntime", "/nonexistent"]);
    let cpu = devices.as_array().unwrap().iter().find(|b| b["backend"] == "cpu").unwrap();
    assert!(words.iter().all(|w| cpu["reason"].as_str().unwrap().contains(w)), "{cpu:#}");
    let inspected = home.ok(&["inspect", &model, "--onnxruntime", "/nonexistent"]).out;
    assert!(inspected.contains("pip install onnxruntime"), "{inspected}");
}
