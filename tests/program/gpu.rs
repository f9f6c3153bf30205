//! A GPU that is asked for, on the emulated one: found, taken only where emulation is allowed, named in every answer.

use serde_json::{Value, json};

use super::emulated;
use super::home::{Home, json_file, models};
use super::http::{digit, digit_of, post};

/// A home on whose machine there is the emulated GPU; `None`, said, where nothing can build its driver.
fn home() -> Option<Home> {
    Some(Home::new().with_cuda(emulated::driver()?))
}

/// Scores a digit on the GPU; gives what the command said.
fn score(home: &Home, options: &[&str]) -> Value {
    let (body, label) = digit();
    let (input, out) = (home.file("in.json", &body), home.path("out.json"));
    let model = models("digits_cnn/model.onnx");
    let args = ["score", &model, "--backend", "gpu", "--input", &input, "--output", out.to_str().unwrap()];
    let ran = home.json(&[&args, options].concat());
    let answer = json_file(&out);
    assert_eq!(digit_of(&json!({ "logits": [answer["outputs"][0]["data"]] })), label, "{answer:#}");
    ran
}

#[test]
fn the_gpu_is_listed_with_what_is_known_of_it() {
    let Some(home) = home() else { return };
    let devices = home.json(&["devices"]);
    let gpu = devices.as_array().unwrap().iter().find(|b| b["backend"] == "gpu").unwrap();
    let device = &gpu["devices"][0];
    assert_eq!(device["emulated"], true, "{gpu:#}");
    for fact in ["driver", "compute capability", "multiprocessors", "uuid", "pci", "clock"] {
        assert!(device.to_string().contains(fact), "{fact}: {device:#}");
    }
}

#[test]
fn scores_run_on_the_gpu_in_the_precision_that_is_asked_for() {
    let Some(home) = home() else { return };
    let (input, out) = (home.file("in.json", digit().0), home.path("out.json"));
    let model = models("digits_cnn/model.onnx");
    let args = ["score", &model, "--backend", "gpu", "--input", &input, "--output", out.to_str().unwrap()];
    home.fails(&args, 69, &["emulated", "--allow-emulation"]);

    let exact = score(&home, &["--allow-emulation", "--profile"]);
    assert!(exact["device"].as_str().unwrap().starts_with("gpu:0") && exact["emulated"] == true, "{exact:#}");
    let kernels = exact["launches"].as_array().unwrap().iter().map(|l| l["kernel"].as_str().unwrap());
    assert!(kernels.clone().any(|k| k.starts_with("conv")) && kernels.count() < 12, "{exact:#}");

    for precision in ["bf16", "f16", "tf32"] {
        let ran = score(&home, &["--allow-emulation", "--precision", precision, "--compare"]);
        let against = &ran["againstF32"][0];
        let db = against["sqnrDb"].as_f64().unwrap();
        assert!((25.0..150.0).contains(&db), "{precision}: {against}");
    }
    home.fails(&[&args[..], &["--precision", "f12"]].concat(), 2, &["f12", "bf16"]);
}

#[test]
fn a_deployment_gets_the_gpu_that_it_asks_for_and_its_answers_say_so() {
    let Some(home) = home() else { return };
    home.ok(&["model", "register", "-n", "digits", "-p", &models("digits_cnn/model.onnx")]);
    let config = |more: &str| {
        format!(r#"{{"computeType": "aks", "gpuCores": 1, "authEnabled": false, "triscore": {{{more}}}}}"#)
    };
    let strict = home.file("strict.json", config(""));
    home.deploy("strict", &strict).failed(69, &["asks for 1 GPU", "emulated"]);

    let allowed = home.file("allowed.json", config(r#""allowEmulation": true, "precision": "bf16""#));
    let ran = home.deploy("digits", &allowed);
    assert_eq!(ran.code, 0, "{ran:#?}");
    let (body, label) = digit();
    let answer = post(home.port("digits"), &body);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(digit_of(&answer.json()), label);
    let shown = home.show("digits");
    assert!(shown.to_string().contains("gpu:0") && shown.to_string().contains("emulated"), "{shown:#}");
    home.ok(&["service", "delete", "-n", "digits"]);
}

#[test]
fn lengths_that_vary_are_padded_to_those_that_the_deployment_names() {
    let Some(home) = home() else { return };
    home.ok(&["model", "register", "-n", "mean", "-p", &models("tiny/masked_mean.onnx")]);
    let config = |buckets: &str| {
        let ours = format!(r#""allowEmulation": true, "buckets": {{{buckets}}}"#);
        format!(r#"{{"computeType": "local", "gpuCores": 1, "triscore": {{{ours}}}}}"#)
    };
    let deploy = |config: &str| {
        home.run(&["model", "deploy", "-n", "mean", "-m", "mean:1", "--dc", config, "--port", "0"])
    };
    let wrong = home.file("wrong.json", config(r#""width": [4, 8]"#));
    deploy(&wrong).failed(78, &["buckets of 'width'", "batch, length"]);

    let right = home.file("right.json", config(r#""length": [4, 8]"#));
    let ran = deploy(&right);
    assert_eq!(ran.code, 0, "{ran:#?}");
    let port = home.port("mean");
    for length in [1, 3, 4, 7, 9] {
        let tokens = (1..=length).collect::<Vec<i32>>();
        let body = json!({"tokens": [tokens], "mask": [vec![1; tokens.len()]]}).to_string();
        let answer = post(port, body.as_bytes()).json();
        let (kept, mean) = (&answer["kept"][0], answer["mean"][0].as_f64().unwrap());
        assert_eq!(kept.as_array().unwrap().len(), tokens.len(), "{answer}");
        assert!((mean - f64::from(length + 1) / 2.0).abs() < 1e-6, "{answer}");
    }
    home.ok(&["service", "delete", "-n", "mean"]);
}
