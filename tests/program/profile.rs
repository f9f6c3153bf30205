//! `triscore model profile`: measured, recommended, and honest about what could not be measured.

use serde_json::Value;

use super::home::{Home, json_file, models};

fn sample() -> String {
    format!("@{}", models("digits_cnn/request.json"))
}

#[test]
fn a_profile_measures_and_recommends_what_a_deployment_can_ask_for() {
    let home = Home::with_digits();
    let file = home.path("profile.json");
    let file = file.to_str().unwrap();
    let args =
        ["model", "profile", "-n", "p", "-m", "digits:1", "-d", &sample(), "--seconds", "0.2", "-t", file];
    let profile = home.json(&args);
    assert_eq!(profile, json_file(file));
    assert_eq!((&profile["name"], &profile["state"]), (&"p".into(), &"Succeeded".into()));
    let points = profile["points"].as_array().unwrap();
    assert!(
        points.iter().any(|p| p["backend"] == "cpu" && p["busy"]["ok"].as_u64() > Some(0)),
        "{profile:#}"
    );
    for p in points.iter().filter(|p| p["backend"] == "cpu") {
        assert_eq!((&p["alone"]["failed"], &p["alone"]["callers"]), (&0.into(), &1.into()), "{p:#}");
        assert!(p["alone"]["p50Ms"].as_f64() <= p["alone"]["p99Ms"].as_f64());
        // The runtime's library alone is larger than 20 MB, and no digit needs a gigabyte.
        assert!((0.02..1.0).contains(&p["peakMemoryInGB"].as_f64().unwrap()), "{p:#}");
    }
    assert_eq!(profile["successRate"], 100.0);
    // What is recommended is a deployment file that deploys.
    let (cpu, memory) = (&profile["recommendedCpu"], &profile["recommendedMemoryInGB"]);
    let config = format!(
        r#"{{"computeType": "aci", "containerResourceRequirements": {{"cpu": {cpu}, "memoryInGB": {memory}}}}}"#
    );
    home.ok(&["model", "deploy", "-n", "digits", "-m", "digits:1", "--dc", &home.file("dc.json", config)]);
    assert_eq!(home.show("digits")["state"], "Healthy");
}

#[test]
fn what_cannot_be_measured_says_why() {
    let home = Home::with_digits();
    let sample = sample();
    let base = ["model", "profile", "-n", "p", "--seconds", "0.1"];
    let rows: [(&[&str], i32, &[&str]); 5] = [
        (&["-m", "digits:1", "-d", "{}"], 69, &["the sample is not scored", "400"]),
        (&["-m", "absent:1", "-d", &sample], 69, &["could not be served", "absent"]),
        (&["-d", &sample], 65, &["need to specify either --model"]),
        (&["-m", "digits:1", "-d", "@/nowhere.json"], 66, &["/nowhere.json"]),
        (&["-m", "digits:1", "-d", "{}", "--cc", "0"], 65, &["--cc"]),
    ];
    for (rest, code, words) in rows {
        home.fails(&[&base[..], rest].concat(), code, words);
    }
    let shown = home.fails(&[&base[..], &["-m", "digits:1", "-d", "{}", "--json"]].concat(), 69, &[]);
    let json: Value = serde_json::from_str(&shown.out).unwrap();
    assert_eq!((&json["state"], &json["recommendedCpu"]), (&"Failed".into(), &Value::Null));
}
