//! `triscore quantize`: a model in, a smaller one out, and what that cost; and the way from there to an FPGA.

use super::home::{Home, json_file, models};
use super::http::{digit, digit_of};

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

    // And so does an FPGA, or what stands in for one, if there is one.
    let devices = home.json(&["devices"]);
    let fpga = devices.as_array().unwrap().iter().find(|b| b["backend"] == "fpga").cloned();
    if fpga.is_none_or(|b| b["devices"].as_array().is_none_or(Vec::is_empty)) {
        return println!("not scored on an FPGA: {devices:#}");
    }
    let fpga = ["--backend", "fpga", "--allow-emulation", "--input", &input, "--output", out];
    let ran = home.json(&[&["score", model.to_str().unwrap()], &fpga[..]].concat());
    assert!(ran["device"].as_str().unwrap().starts_with("fpga:0"), "{ran:#}");
    let answer = json_file(std::path::PathBuf::from(out));
    assert_eq!(
        digit_of(&serde_json::json!({ "logits": [answer["outputs"][0]["data"]] })),
        label,
        "{answer:#}"
    );
    // The float model is refused with what to do, and not run on something weaker.
    let float = models("digits_cnn");
    home.fails(
        &[&["score", float.as_str()], &fpga[..]].concat(),
        69,
        &["cannot run on an FPGA", "triscore quantize"],
    );
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
    let cases: [(&[&str], i32, &str); 6] = [
        (&[&digits, "--calibrate", nowhere.to_str().unwrap()], 66, "nowhere.npz"),
        (&[&digits, "--calibrate", empty.to_str().unwrap()], 65, "no file in it ends in"),
        (&[&digits, "--calibrate", &rows], 65, "rows.json"),
        (&[&digits, "--calibrate", &data, "--activations", "i4"], 78, "expected u8 or i8"),
        (&[&digits, "--calibrate", &data, "--percentile", "101"], 78, "expected 0 to 100"),
        (&all, 69, "has an integer form"),
    ];
    for (arguments, code, reason) in cases {
        home.fails(&[&["quantize", "-o", out], arguments].concat(), code, &[reason]);
    }
    assert!(!std::path::Path::new(out).exists(), "nothing is written");
}
