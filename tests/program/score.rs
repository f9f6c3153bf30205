//! `triscore score`: files in, files out.

use serde_json::{Value, json};

use super::home::{Home, json_file, models};
use super::http::{digit, digit_of};
use super::numpy::{f32s, npy, npz};

/// Scores a file; gives what was written.
fn score(home: &Home, model: &str, input: &str, output: &str) -> std::path::PathBuf {
    let out = home.path(output);
    let ran = home.json(&["score", &models(model), "--input", input, "--output", out.to_str().unwrap()]);
    assert!(ran["device"].as_str().unwrap().starts_with("cpu:0"), "{ran:#}");
    assert_eq!((&ran["fellBack"], &ran["output"]), (&Value::Null, &out.to_str().unwrap().into()));
    out
}

/// The outputs of an answer by name, whatever their form.
fn outputs(answer: &Value) -> Value {
    let Some(outputs) = answer["outputs"].as_array() else { return answer.clone() };
    outputs.iter().map(|o| (o["name"].as_str().unwrap().to_owned(), o["data"].clone())).collect()
}

fn flat(value: &Value) -> Vec<Value> {
    match value {
        Value::Array(items) => items.iter().flat_map(flat).collect(),
        other => vec![other.clone()],
    }
}

#[test]
fn every_form_of_json_is_understood() {
    let home = Home::new();
    let (body, label) = digit();
    let request: Value = serde_json::from_slice(&body).unwrap();
    let v2 = json!({ "id": "7", "inputs": [
        { "name": "x", "shape": [1, 1, 8, 8], "datatype": "FP32", "data": flat(&request["x"]) }
    ]});
    for form in [request.clone(), json!({ "data": request["x"] }), request["x"].clone(), v2] {
        let input = home.file("in.json", form.to_string());
        let answer = json_file(score(&home, "digits_cnn/model.onnx", &input, "out.json"));
        let logits = json!({ "logits": [outputs(&answer)["logits"]] });
        assert_eq!(digit_of(&logits), label, "{answer:#}");
        assert_eq!(answer["id"] == "7", form.get("id").is_some());
    }
}

/// Every model that comes with an example answers it, from JSON to JSON: all types, text, sequences, maps.
#[test]
fn every_example_is_answered() {
    let home = Home::new();
    for folder in ["tiny", "sklearn"] {
        for (name, example) in json_file(models(&format!("{folder}/examples.json"))).as_object().unwrap() {
            // It takes seconds, and has a test of its own elsewhere.
            if name == "slow" {
                continue;
            }
            let input = home.file("in.json", example["request"].to_string());
            let answer = json_file(score(&home, &format!("{folder}/{name}.onnx"), &input, "out.json"));
            let got = outputs(&answer);
            for (output, expected) in example["response"].as_object().unwrap() {
                let (got, expected) = (leaves(&got[output]), leaves(expected));
                assert_eq!(got.len(), expected.len(), "{name}: {output}");
                for ((got_at, got), (at, expected)) in got.iter().zip(&expected) {
                    let near = match (got.as_f64(), expected.as_f64()) {
                        (Some(got), Some(expected)) => (got - expected).abs() <= 1e-5 + 1e-5 * expected.abs(),
                        _ => got == expected,
                    };
                    assert!(near && got_at == at, "{name}: {output}: {got_at}={got}, {at}={expected}");
                }
            }
        }
    }
}

/// What is in a value, with the keys that lead there; arrays are flat, as one form writes them.
fn leaves(value: &Value) -> Vec<(String, Value)> {
    match value {
        Value::Array(items) => items.iter().flat_map(leaves).collect(),
        Value::Object(map) => {
            let below = |(key, v): (&String, &Value)| {
                leaves(v).into_iter().map(|(at, leaf)| (format!("{key}.{at}"), leaf)).collect::<Vec<_>>()
            };
            map.iter().flat_map(below).collect()
        }
        leaf => vec![(String::new(), leaf.clone())],
    }
}

#[test]
fn numpy_files_go_in_and_come_out() {
    let home = Home::new();
    let heldout = models("digits_mlp/heldout.npz");
    let model = "digits_mlp/model.onnx";
    // The archive holds more than the inputs; the output of one form is the input of the other.
    let logits = std::fs::File::open(score(&home, model, &heldout, "out.npy")).unwrap();
    let logits = npyz::NpyFile::new(logits).unwrap();
    assert_eq!(logits.shape(), [445, 10]);
    let archive = score(&home, model, &heldout, "out.npz");
    let mut archive = npyz::npz::NpzArchive::open(archive).unwrap();
    assert_eq!(archive.array_names().collect::<Vec<_>>(), ["logits"]);
    let same = archive.by_name("logits").unwrap().unwrap();
    let logits = logits.into_vec::<f32>().unwrap();
    assert_eq!(same.into_vec::<f32>().unwrap(), logits);
    let oracle = std::fs::File::open(&heldout).unwrap();
    let mut oracle = npyz::npz::NpzArchive::new(std::io::BufReader::new(oracle)).unwrap();
    let oracle = oracle.by_name("logits").unwrap().unwrap().into_vec::<f32>().unwrap();
    assert!(logits.iter().zip(&oracle).all(|(a, b)| (a - b).abs() < 1e-3));

    // What this test writes by hand is what NumPy writes.
    let (body, label) = digit();
    let request: Value = serde_json::from_slice(&body).unwrap();
    let pixels = flat(&request["x"]).iter().map(|v| v.as_f64().unwrap() as f32).collect::<Vec<_>>();
    let array = npy("<f4", false, "(1, 64)", &f32s(&pixels));
    let swapped = pixels.iter().flat_map(|v| v.to_be_bytes()).collect::<Vec<_>>();
    for (name, bytes) in [
        ("in.npy", array.clone()),
        ("in.npz", npz(&[("y", array.clone()), ("x", array)])),
        ("big.npy", npy(">f4", false, "(1, 64)", &swapped)),
    ] {
        let answer = json_file(score(&home, model, &home.file(name, bytes), "out.json"));
        assert_eq!(digit_of(&json!({ "logits": [outputs(&answer)["logits"]] })), label, "{name}");
    }

    let text = "zwölfeins\0zwei\0".chars().flat_map(|c| u32::from(c).to_le_bytes()).collect::<Vec<_>>();
    let words = home.file("words.npy", npy("<U5", false, "(1, 3)", &text));
    let answer = json_file(score(&home, "tiny/identity_string.onnx", &words, "out.json"));
    assert_eq!(outputs(&answer)["y"], json!(["zwölf", "eins", "zwei"]));
    let back = std::fs::read(score(&home, "tiny/identity_string.onnx", &words, "out.npy")).unwrap();
    assert!(back.ends_with(&text));
}

#[test]
fn wrong_files_are_refused_and_the_tensor_is_named() {
    let home = Home::new();
    let good = npy("<f4", false, "(1, 64)", &[0; 256]);
    let archive = npz(&[("x", good.clone())]);
    let array = |descr, fortran, shape| npy(descr, fortran, shape, &[0; 256]);
    let mut announced = b"\x93NUMPY\x02\x00\xff\xff\xff\xff".to_vec();
    announced.extend(&good);
    for (name, content, words) in [
        ("cut.npz", archive[..archive.len() - 40].to_vec(), &["not a NumPy file"][..]),
        ("hollow.npz", archive[200..].to_vec(), &["not a NumPy file"]),
        ("other.npz", npz(&[("y", good.clone()), ("z", good.clone())]), &["input 'x'", "'y', 'z'"]),
        ("none.npz", npz(&[]), &["input 'x'"]),
        (
            "lying.npz",
            npz(&[("x", array("<f4", false, "(1000000, 1000000)"))]),
            &["input 'x'", "more elements"],
        ),
        ("lying.npy", array("<f4", false, "(1000000, 1000000)"), &["input 'x'", "more elements"]),
        ("huge.npy", array("<f4", false, "(4294967296, 4294967296, 2)"), &["input 'x'", "more elements"]),
        ("none.npy", array("<f4", false, "(4294967296, 4294967296, 0)"), &["input 'x'", "more elements"]),
        ("deep.npy", array("<f4", false, &"(".repeat(5000)), &["input 'x'", "nests"]),
        ("announced.npy", announced, &["input 'x'", "4294967295 bytes"]),
        ("cut.npy", good[..200].to_vec(), &["input 'x'", "more elements"]),
        ("page.npy", b"<html>".to_vec(), &["input 'x'", "not a NumPy file"]),
        ("double.npy", npy("<f8", false, "(1, 64)", &[0; 512]), &["input 'x'", "expected f32, got f64"]),
        ("fortran.npy", array("<f4", true, "(2, 32)"), &["input 'x'", "Fortran", "ascontiguousarray"]),
        ("shape.npy", array("<f4", false, "(2, 32)"), &["input 'x'", "[batch, 64]", "[2, 32]"]),
        ("object.npy", array("|O", false, "(1, 64)"), &["input 'x'", "|O"]),
        ("complex.npy", array("<c8", false, "(1, 32)"), &["input 'x'", "<c8"]),
        ("empty.npy", Vec::new(), &["not a NumPy file"]),
        ("empty.npz", Vec::new(), &["not a NumPy file"]),
        ("empty.json", Vec::new(), &["empty.json", "empty"]),
        ("bad.json", b"{\"x\": [[1, 2".to_vec(), &["bad.json", "JSON"]),
        ("type.json", b"{\"x\": [[\"a\"]]}".to_vec(), &["type.json", "x[0][0]"]),
        ("name.json", b"{\"y\": [[1]]}".to_vec(), &["'x'", "'y'"]),
        ("image.png", good.clone(), &["image.png", ".json, .npz or .npy"]),
        ("image", good.clone(), &[".json, .npz or .npy"]),
    ] {
        let (input, output) = (home.file(name, content), home.path("out.json"));
        let model = models("digits_mlp/model.onnx");
        let args = ["score", &model, "--input", &input, "--output", output.to_str().unwrap()];
        let ran = home.fails(&args, 65, words);
        assert!(!output.exists(), "{ran:#?}");
    }
}

#[test]
fn what_cannot_be_done_says_why_before_it_is_begun() {
    let home = Home::new();
    let (model, request) = (models("digits_cnn/model.onnx"), models("digits_cnn/request.json"));
    let (two, zipmap) = (models("tiny/two_inputs.onnx"), models("sklearn/iris_logreg_zipmap.onnx"));
    let examples = |folder: &str, name: &str| {
        let example = &json_file(models(&format!("{folder}/examples.json")))[name]["request"];
        home.file(&format!("{name}.json"), example.to_string())
    };
    let (of_two, of_iris) = (examples("tiny", "two_inputs"), examples("sklearn", "iris_logreg_zipmap"));
    let array = home.file("in.npy", npy("<f4", false, "(1, 3)", &[0; 12]));
    let page = home.file("page.onnx", "<html>");
    let path = |name: &str| home.path(name).to_str().unwrap().to_owned();
    let (json, npy, txt, deep) = (path("o.json"), path("o.npy"), path("o.txt"), path("none/o.json"));
    for (args, code, words) in [
        (&[&model, "--input", &request, "--output", &txt][..], 65, &["o.txt", ".json, .npz or .npy"][..]),
        (&[&model, "--input", &request, "--output", &deep], 66, &["none/o.json"]),
        (&[&model, "--input", "/nonexistent.json", "--output", &json], 66, &["/nonexistent.json"]),
        (&["/nonexistent.onnx", "--input", &request, "--output", &json], 66, &["/nonexistent.onnx"]),
        (&[&page, "--input", &request, "--output", &json], 65, &["page.onnx", "HTML"]),
        (&[&two, "--input", &array, "--output", &json], 65, &["one array", "2 inputs", ".npz"]),
        (&[&two, "--input", &of_two, "--output", &npy], 69, &["one array", "2 outputs", ".npz"]),
        (&[&zipmap, "--input", &of_iris, "--output", &path("o.npz")], 69, &["output_probability", ".json"]),
        (&[&model, "--input", &request, "--output", &json, "--backend", "tpu"], 78, &["tpu", "cpu, gpu"]),
        (
            &[&model, "--input", &request, "--output", &json, "--backend", "gpu"],
            69,
            &["asks for 1 GPU", "none"],
        ),
        (&[&model, "--input", &request, "--output", &json, "--backend", "FPGA"], 69, &["asks for 1 FPGA"]),
        (&[&model, "--input", &request], 2, &["--output"]),
    ] {
        home.fails(&[&["score"], args].concat(), code, words);
    }
    assert!(!home.path("o.json").exists() && !home.path("o.npy").exists());

    let prefer = ["score", &model, "--input", &request, "--output", &json, "--backend", "gpu", "--prefer"];
    let ran = home.ok(&prefer);
    assert!(
        ran.err.contains("asks for 1 GPU; this machine has none") && ran.out.contains("cpu:0"),
        "{ran:#?}"
    );
    let ran = home.json(&prefer);
    assert!(ran["fellBack"].as_str().unwrap().contains("asks for 1 GPU"), "{ran:#}");
    let outputs = outputs(&json_file(home.path("o.json")));
    assert_eq!(digit_of(&json!({ "logits": [outputs["logits"]] })), digit().1);
}
