//! `triscore model`: registering, listing, changing, copying out, deleting.

use std::fs;

use super::home::{Home, json_file, models};
use super::http::{digit, digit_of};

#[test]
fn a_file_is_registered_shown_changed_copied_and_deleted() {
    let home = Home::new();
    let file = models("digits_cnn/model.onnx");
    let register = ["model", "register", "-n", "digits", "-p", &file];
    for version in 1..=3 {
        let with = ["--tag", "stage=dev", "--property", "by=me", "--model-framework", "Onnx", "--cc", "0.5"];
        let model = home.json(&[&register[..], &with].concat());
        assert_eq!((&model["name"], &model["version"]), (&"digits".into(), &version.into()), "{model}");
        assert_eq!(model["id"], format!("digits:{version}"), "{model}");
    }
    let list = home.json(&["model", "list"]);
    assert_eq!(list.as_array().unwrap().len(), 3, "{list}");
    let latest = home.json(&["model", "list", "--latest", "--tag", "stage=dev", "-n", "digits"]);
    assert_eq!(latest[0]["id"], "digits:3", "{latest}");
    assert_eq!(home.json(&["model", "list", "--tag", "none"]), serde_json::json!([]));
    assert!(home.ok(&["model", "list"]).out.contains("digits:2"));

    assert_eq!(home.json(&["model", "show", "-n", "digits"])["version"], 3);
    assert_eq!(home.json(&["model", "show", "-n", "digits", "--version", "1"])["id"], "digits:1");
    assert_eq!(home.json(&["model", "show", "-i", "digits:2"])["properties"]["by"], "me");
    let text = home.ok(&["model", "show", "-i", "digits:2"]).out;
    assert!(text.contains("digits:2") && text.contains("model.onnx (127.9 kB)"), "{text}");

    let change = ["model", "update", "-i", "digits:2", "--add-tag", "stage=prod", "--description", "good"];
    let changed = home.json(&[&change[..], &["--remove-tag", "none", "--add-property", "seen=1"]].concat());
    assert_eq!((&changed["tags"]["stage"], &changed["description"]), (&"prod".into(), &"good".into()));
    let immutable = ["model", "update", "-i", "digits:2", "--add-property", "by=you"];
    home.fails(&immutable, 73, &["immutable", "by"]);
    home.fails(&["model", "update", "-i", "digits:2"], 65, &["No parameters"]);
    assert_eq!(home.json(&["model", "show", "-i", "digits:2"])["properties"]["by"], "me");

    let out = home.path("out");
    let download = ["model", "download", "-i", "digits:2", "-t", out.to_str().unwrap()];
    let copied = home.json(&download);
    assert_eq!(copied["path"], out.join("model.onnx").to_str().unwrap());
    assert_eq!(fs::read(out.join("model.onnx")).unwrap(), fs::read(&file).unwrap());
    home.fails(&download, 73, &["model.onnx", "exists already"]);
    fs::write(out.join("model.onnx"), "changed").unwrap();
    home.ok(&[&download[..], &["--overwrite"]].concat());
    assert_eq!(fs::read(out.join("model.onnx")).unwrap(), fs::read(&file).unwrap());

    assert_eq!(home.json(&["model", "delete", "-i", "digits:3"])["id"], "digits:3");
    home.fails(&["model", "show", "-i", "digits:3"], 66, &["digits:3", "version 2, 1"]);
    assert_eq!(home.json(&register)["version"], 4, "a number is not given twice");
}

#[test]
fn a_folder_with_data_beside_the_model_is_deployed_whole() {
    let home = Home::new();
    fs::create_dir(home.path("net")).unwrap();
    for file in ["matmul_external.onnx", "matmul_external.data"] {
        fs::copy(models(&format!("tiny/{file}")), home.path("net").join(file)).unwrap();
    }
    let (net, meta) = (home.path("net"), home.path("meta.json"));
    let register =
        ["model", "register", "-n", "net", "-p", net.to_str().unwrap(), "-t", meta.to_str().unwrap()];
    home.ok(&register);
    assert_eq!(json_file(&meta)["modelId"], "net:1", "{}", json_file(&meta));

    let config = home.file("dc.yml", "computeType: LOCAL\n");
    let deploy = ["model", "deploy", "-n", "net", "-f", meta.to_str().unwrap(), "--dc", &config];
    let service = home.json(&deploy);
    assert_eq!((&service["state"], &service["models"][0]), (&"running".into(), &"net:1".into()));
    let example = &json_file(models("tiny/examples.json"))["matmul_external"];
    let answer = home.json(&["service", "run", "-n", "net", "-d", &example["request"].to_string()]);
    assert_eq!(answer, example["response"]);

    home.fails(&["model", "delete", "-i", "net:1"], 73, &["net:1", "used by", "'net'"]);
    home.ok(&["service", "delete", "-n", "net"]);
    home.ok(&["model", "delete", "-i", "net:1"]);
}

#[test]
fn the_best_run_of_an_experiment_is_registered() {
    let home = Home::new();
    home.file("mlruns/7/meta.yaml", "name: digits\n");
    for (run, accuracy, loss) in [("aa", "0.91", "0.2"), ("bb", "0.99", "0.3")] {
        let put = |name: &str, content: &str| home.file(&format!("mlruns/7/{run}/{name}"), content);
        put("meta.yaml", "start_time: 5\n");
        put("metrics/accuracy", &format!("1 0.5 0\n2 {accuracy} 1\n"));
        put("metrics/loss", &format!("1 {loss} 0\n"));
        fs::create_dir_all(home.path(&format!("mlruns/7/{run}/artifacts"))).unwrap();
        let to = home.path(&format!("mlruns/7/{run}/artifacts/model.onnx"));
        fs::copy(models("digits_cnn/model.onnx"), to).unwrap();
    }
    let runs = home.path("mlruns");
    let from = |more: &[&str]| {
        let all = ["model", "register", "-n", "digits", "--asset-path", "outputs/model.onnx"];
        let all = [&all[..], &["--runs-root", runs.to_str().unwrap(), "--experiment-name", "digits"], more]
            .concat();
        all.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    for (more, run) in [
        (&["--best-metric", "accuracy"][..], "bb"),
        (&["--best-metric", "loss", "--lowest"], "aa"),
        (&["-r", "aa"], "aa"),
    ] {
        let args = from(more);
        let model = home.json(&args.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!((&model["runId"], &model["experimentName"]), (&run.into(), &"digits".into()), "{model}");
    }
    for (more, code, word) in [(&["--best-metric", "f1"][..], 66, "f1"), (&["-r", "cc"], 66, "cc")] {
        let args = from(more);
        home.fails(&args.iter().map(String::as_str).collect::<Vec<_>>(), code, &[word]);
    }
    assert_eq!(home.json(&["model", "list", "--run-id", "aa"]).as_array().unwrap().len(), 2);
}

#[test]
fn what_cannot_be_registered_says_why() {
    let home = Home::new();
    let file = models("digits_cnn/model.onnx");
    let link = home.path("link.onnx");
    std::os::unix::fs::symlink(&file, &link).unwrap();
    fs::create_dir(home.path("empty")).unwrap();
    let (link, empty) = (link.to_str().unwrap(), home.path("empty"));
    for (args, code, words) in [
        (&["-n", "bad name", "-p", &file][..], 65, &["'bad name' is not a model name"][..]),
        (&["-n", "m", "-p", "/nonexistent.onnx"], 66, &["/nonexistent.onnx"]),
        (&["-n", "m", "-p", link], 65, &["link.onnx", "symbolic link"]),
        (&["-n", "m", "-p", empty.to_str().unwrap()], 65, &["holds no file"]),
        (&["-n", "m", "-p", &file, "--tag", "stage"], 65, &["--tag", "KEY=VALUE", "'stage'"]),
        (&["-n", "m", "-p", &file, "--tag", "a=1", "--tag", "a=2"], 65, &["twice"]),
        (&["-n", "m", "-p", &file, "--model-framework-version", "1"], 65, &["needs a framework"]),
        (&["-n", "m", "-p", &file, "--model-framework", "Onyx"], 65, &["Onyx", "Onnx", "PyTorch"]),
        (&["-n", "m", "-p", &file, "--cc", "-1"], 2, &[]),
        (&["-n", "m", "-p", &file, "--cc=-1"], 65, &["cpu"]),
        (&["-n", "m"], 2, &["--model-path", "--asset-path"]),
        (&["-n", "m", "-p", &file, "--asset-path", "x"], 2, &["--asset-path"]),
    ] {
        home.fails(&[&["model", "register"], args].concat(), code, words);
        // For programs, the same.
        let ran = home.run(&[&["model", "register"], args, &["--json"]].concat());
        let error: serde_json::Value = serde_json::from_str(&ran.err).unwrap();
        assert_eq!((ran.code, &error["error"]["exitCode"]), (code, &code.into()), "{ran:#?}");
    }
    assert_eq!(home.json(&["model", "list"]), serde_json::json!([]));
    for args in [&["show", "-i", "m:x"][..], &["delete", "-i", "m"], &["download", "-i", ":1", "-t", "/tmp"]]
    {
        home.fails(&[&["model"], args].concat(), 65, &[]);
    }
    home.fails(&["model", "show", "-n", "m"], 66, &["'m' is not registered"]);
}

#[test]
fn a_registered_model_comes_out_able_to_score() {
    let home = Home::with_digits();
    let out = home.path("out");
    home.ok(&["model", "download", "-i", "digits", "-t", out.to_str().unwrap()]);
    let answer = home.path("answer.json");
    let score = ["score", out.to_str().unwrap(), "--input", &models("digits_cnn/request.json"), "--output"];
    home.ok(&[&score[..], &[answer.to_str().unwrap()]].concat());
    let outputs = &json_file(&answer)["outputs"][0];
    assert_eq!((&outputs["name"], &outputs["shape"]), (&"logits".into(), &serde_json::json!([1, 10])));
    let logits = serde_json::json!({ "logits": [outputs["data"]] });
    assert_eq!(digit_of(&logits), digit().1);
}
