//! `triscore quantize`: a model in, a smaller one out, and what that cost; and the way from there to an FPGA.

use triscore::{DType, Tensor};

use super::home::{Home, json_file, models};
use super::http::{digit, digit_of, knows_the_digit};

#[test]
fn a_quantised_model_is_smaller_and_says_what_it_lost() {
    let home = Home::new();
    let (model, plot) = (home.path("q.onnx"), home.path("q.svg"));
    let data = models("digits_cnn/heldout.npz");
    let report = home.json(&[
        "quantize",
        &models("digits_cnn"),
        "--calibrate",
        &data,
        "--samples",
        "64",
        "-o",
        model.to_str().unwrap(),
        "--plot",
        plot.to_str().unwrap(),
    ]);
    assert_eq!(report["samples"]["calibrated"], 64);
    let bytes = |name: &str| report["sizeBytes"][name].as_u64().unwrap();
    assert!(bytes("quantised") * 2 < bytes("float"), "{report:#}");
    assert!(report["outputs"][0]["sqnrDb"].as_f64().unwrap() > 25.0, "{report:#}");
    let ratios = report["layers"].as_array().unwrap().iter().map(|l| l["sqnrDb"].as_f64().unwrap());
    assert!(ratios.is_sorted(), "the worst layer first");
    assert!(std::fs::read_to_string(plot).unwrap().starts_with("<svg"));

    // It is an ordinary model: the CPU scores it.
    let (body, label) = digit();
    let (input, out) = (home.file("in.json", body), home.path("out.json"));
    let out = out.to_str().unwrap();
    home.json(&["score", model.to_str().unwrap(), "--input", &input, "--output", out]);
    let answer = json_file(std::path::PathBuf::from(out));
    assert_eq!(
        digit_of(&serde_json::json!({ "logits": [answer["outputs"][0]["data"]] })),
        label,
        "{answer:#}"
    );
}

#[test]
fn a_quantised_model_is_deployed_on_two_fpgas_by_the_file_that_asks_for_them() {
    let Some(home) = Home::with_fpgas(2) else { return };
    let (model, data) = (home.path("digits.onnx"), models("digits_cnn/heldout.npz"));
    let (float, model) = (models("digits_cnn"), model.to_str().unwrap());
    home.ok(&["quantize", &float, "--calibrate", &data, "--samples", "64", "-o", model]);
    let (body, label) = digit();

    // One score, by hand: emulated devices are taken only where that is said, and named so.
    let (input, out) = (home.file("in.json", &body), home.path("out.json"));
    let score = |model: &str, more: &[&str]| {
        let given =
            ["score", model, "--backend", "fpga", "--input", &input, "--output", out.to_str().unwrap()];
        home.run(&[&given, more, &["--json"]].concat())
    };
    score(model, &[]).failed(69, &["this machine has none but emulated ones", "--allow-emulation"]);
    let ran = score(model, &["--allow-emulation"]);
    assert_eq!(ran.code, 0, "{ran:#?}");
    let device = ran.json()["device"].as_str().unwrap().to_owned();
    assert!(device.starts_with("fpga:0") && device.ends_with("(emulated)"), "{device}");
    let answer = json_file(&out);
    assert_eq!(
        digit_of(&serde_json::json!({ "logits": [answer["outputs"][0]["data"]] })),
        label,
        "{answer:#}"
    );
    // Every launch's time, and the nodes that it computes.
    let ran = score(model, &["--allow-emulation", "--profile"]).json();
    let launches = ran["launches"].as_array().unwrap();
    let kernels = launches.iter().map(|l| l["kernel"].as_str().unwrap()).collect::<Vec<_>>();
    assert!(kernels.contains(&"matrix") && kernels.contains(&"pool"), "{ran:#}");
    assert!(
        launches.iter().all(|l| l["timeUs"].as_f64().unwrap() > 0.0 && l["nodes"][0].is_string()),
        "{ran:#}"
    );
    // The float model is refused with what to do, and not run on something weaker.
    score(&float, &["--allow-emulation"])
        .failed(69, &["none of its", "runs on an FPGA", "triscore quantize"]);

    // The file as it is asks for boards, and gets none.
    home.ok(&["model", "register", "-n", "digits", "-p", model]);
    let mut config = json_file(models("digits_cnn/deploymentconfig.fpga.json"));
    home.deploy("boards", &models("digits_cnn/deploymentconfig.fpga.json"))
        .failed(69, &["asks for 2 FPGAs", "none but emulated ones", "allowEmulation"]);
    assert_eq!(home.show("boards")["state"], "Unschedulable");

    config["triscore"] = serde_json::json!({ "allowEmulation": true });
    config["authEnabled"] = false.into();
    let ran = home.deploy("digits", &home.file("emulated.json", config.to_string()));
    assert_eq!(ran.code, 0, "{ran:#?}");
    let shown = home.show("digits");
    let device = shown["device"].as_str().unwrap();
    assert!(
        device.contains("fpga:0") && device.contains("fpga:1") && device.contains("(emulated)"),
        "{device}"
    );
    assert_eq!(shown["error"], serde_json::Value::Null, "{shown:#}");
    let port = home.port("digits");
    for _ in 0..8 {
        knows_the_digit(port);
    }
}

#[test]
fn dynamic_quantisation_needs_no_ranges() {
    let home = Home::new();
    let (float, data) = (models("digits_vit"), models("digits_vit/heldout.npz"));
    let model = home.path("q.onnx");
    let args = ["quantize", &float, "--calibrate", &data, "--dynamic", "-o", model.to_str().unwrap()];
    let report = home.json(&[&args[..], &["--samples", "32"]].concat());
    let bytes = |name: &str| report["sizeBytes"][name].as_u64().unwrap();
    assert!(bytes("quantised") * 2 < bytes("float"), "{report:#}");
    assert!(report["outputs"][0]["sqnrDb"].as_f64().unwrap() > 35.0, "{report:#}");
    assert_eq!(report["sameTop"]["same"], report["sameTop"]["of"]);
    let inspected = home.json(&["inspect", model.to_str().unwrap()]);
    assert_eq!(inspected["operators"]["MatMulInteger"], 13, "{inspected:#}");
    // Ranges are not chosen, so there is no method to choose them by.
    home.fails(&[&args[..], &["--method", "mse"]].concat(), 2, &["--method"]);
}

#[test]
fn floats_of_8_bits_are_for_products_and_keep_what_matters() {
    let home = Home::new();
    for (name, products) in [("digits_vit", 14), ("digits_cnn", 5)] {
        let (float, data) = (models(name), models(&format!("{name}/heldout.npz")));
        for activations in ["f8e4m3", "f8e5m2"] {
            let model = home.path(&format!("{name}.{activations}.onnx"));
            let args = ["quantize", &float, "--calibrate", &data, "--activations", activations, "-o"];
            let args = [&args[..], &[model.to_str().unwrap(), "--samples", "32"]].concat();
            let report = home.json(&args);
            let bytes = |name: &str| report["sizeBytes"][name].as_u64().unwrap();
            assert!(bytes("quantised") * 2 < bytes("float"), "{name}: {report:#}");
            // Three bits of fraction, or two, of which each is worth 6 dB.
            let least = if activations == "f8e4m3" { 22.0 } else { 17.0 };
            assert!(report["outputs"][0]["sqnrDb"].as_f64().unwrap() > least, "{name}: {report:#}");
            let inspected = home.json(&["inspect", model.to_str().unwrap()]);
            let pairs = &inspected["operators"];
            assert!(pairs["QuantizeLinear"].as_u64().unwrap() <= products, "{inspected:#}");
            assert_eq!(
                pairs["DequantizeLinear"].as_u64().unwrap(),
                pairs["QuantizeLinear"].as_u64().unwrap() + products,
                "{inspected:#}"
            );
        }
    }
}

#[test]
fn a_qonnx_model_is_written_with_pairs_and_runs_everywhere() {
    let home = Home::new();
    let mut b = super::onnx::Builder::default();
    b.input("x", DType::F32, &[1, 2]);
    let one = |v: f32| Tensor::from_slice(&[], &[v]).unwrap();
    b.constant("w", &Tensor::from_slice(&[2, 2], &[0.6f32, -0.4, 0.25, 1.3]).unwrap());
    for (name, value) in [("s", 0.5), ("z", 0.0), ("bits", 8.0)] {
        b.constant(name, &one(value));
    }
    b.node("qonnx.custom_op.general.IntQuant", &["x", "s", "z", "bits"], "q", vec![]);
    b.node("qonnx.custom_op.general.IntQuant", &["w", "s", "z", "bits"], "v", vec![]);
    b.node("MatMul", &["q", "v"], "y", vec![]);
    b.output("y", DType::F32);
    let (model, out) = (home.file("qonnx.onnx", b.build().bytes()), home.path("pairs.onnx"));
    let (out, input) = (out.to_str().unwrap(), home.file("in.json", "{\"x\": [[1.2, -3.3]]}"));
    let done = home.json(&["quantize", &model, "-o", out]);
    assert_eq!(done["rewritten"], 2, "{done:#}");
    let answer = home.path("out.json");
    let score = ["--input", &input, "--output", answer.to_str().unwrap()];
    home.json(&[&["score", out], &score[..]].concat());
    // 1.0 and -3.5 times [[0.5, -0.5], [0, 1.5]] (0.25 is half a step, and 0 the even one).
    let answer = json_file(&answer);
    assert_eq!(answer["outputs"][0]["data"], serde_json::json!([0.5, -5.75]), "{answer:#}");
    // ONNX Runtime does not know the operator; what to do is said.
    home.run(&[&["score", &model], &score[..]].concat()).failed(69, &["IntQuant", "triscore quantize"]);
    let data = models("digits_cnn/heldout.npz");
    home.fails(&["quantize", &model, "--calibrate", &data, "-o", out], 78, &["quantised already", "2 nodes"]);
    home.fails(&["quantize", &models("digits_cnn"), "-o", out], 78, &["--calibrate is missing"]);
}

#[test]
fn what_cannot_be_quantised_is_refused_with_the_reason() {
    let home = Home::new();
    let (digits, data) = (models("digits_cnn"), models("digits_cnn/heldout.npz"));
    let nowhere = home.path("nowhere.npz");
    let rows = home.file("rows.json", "{\"X\": [[1,2,3,4,5,6,7,8,9,10,11,12,13]]}");
    let out = home.path("q.onnx");
    let out = out.to_str().unwrap();
    let empty = home.path("empty");
    std::fs::create_dir(&empty).unwrap();
    let all = ["Conv", "Gemm", "MaxPool", "Relu", "Flatten"].iter().flat_map(|op| ["--exclude", op]);
    let all = [&digits, "--calibrate", &data].into_iter().chain(all).collect::<Vec<_>>();
    let float8 = [&digits, "--calibrate", &data, "--activations", "f8e4m3"];
    let dynamic = [&float8[..], &["--dynamic"]].concat();
    let entropy = [&float8[..], &["--method", "entropy"]].concat();
    let no_product = [&float8[..], &["--exclude", "Conv", "--exclude", "Gemm"]].concat();
    let cases: [(&[&str], i32, &str); 9] = [
        (&[&digits, "--calibrate", nowhere.to_str().unwrap()], 66, "nowhere.npz"),
        (&[&digits, "--calibrate", empty.to_str().unwrap()], 65, "no file in it ends in"),
        (&[&digits, "--calibrate", &rows], 65, "rows.json"),
        (
            &[&digits, "--calibrate", &data, "--activations", "i4"],
            78,
            "expected u8, i8, u16, i16, f8e4m3 or f8e5m2",
        ),
        (&[&digits, "--calibrate", &data, "--percentile", "101"], 78, "expected 0 to 100"),
        (&all, 69, "has an integer form"),
        (&dynamic, 78, "are about integers"),
        (&entropy, 78, "expected min-max or percentile"),
        (&no_product, 69, "has a constant matrix on the right"),
    ];
    for (arguments, code, reason) in cases {
        home.fails(&[&["quantize", "-o", out], arguments].concat(), code, &[reason]);
    }
    assert!(!std::path::Path::new(out).exists(), "nothing is written");
}
