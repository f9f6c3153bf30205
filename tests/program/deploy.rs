//! The walk-through: deploy, call, look, stop, start, delete.

use serde_json::json;

use super::home::{Home, is_alive, models, until};
use super::http::{digit, digit_of, get, knows_the_digit, request};

#[test]
fn a_local_service_from_its_deployment_to_its_end() {
    let home = Home::with_digits();
    let port = home.deploy_local("digits");
    assert_ne!(port, 32267, "--port 0 asks for a free one, whatever the file says");
    assert_eq!(get(port, "/").body, "Healthy");
    knows_the_digit(port);
    let swagger = get(port, "/swagger.json").json();
    let input = &swagger["definitions"]["ServiceInput"];
    assert!(input.to_string().contains("\"x\""), "{swagger:#}");

    let shown = home.show("digits");
    for (key, value) in [
        ("state", json!("running")),
        ("computeType", json!("local")),
        ("scoringUri", json!(format!("http://localhost:{port}/score"))),
        ("swaggerUri", json!(format!("http://localhost:{port}/swagger.json"))),
        ("models", json!(["digits:1"])),
        ("error", json!(null)),
    ] {
        assert_eq!(shown[key], value, "{key} of {shown:#}");
    }
    assert!(shown["device"].as_str().unwrap().starts_with("cpu:0"), "{shown:#}");
    let text = home.ok(&["service", "show", "-n", "digits"]).out;
    assert!(text.contains(&format!("http://localhost:{port}/score")), "{text}");

    for (filter, count) in [
        (&[][..], 1),
        (&["-c", "local"], 1),
        (&["-c", "ACI"], 0),
        (&["--model-id", "digits:1"], 1),
        (&["--model-name", "other"], 0),
    ] {
        let list = home.json(&[&["service", "list"], filter].concat());
        assert_eq!(list.as_array().unwrap().len(), count, "{filter:?}: {list}");
    }
    home.fails(&["service", "list", "-c", "cloud"], 65, &["--compute-type", "local, aci, aks", "'cloud'"]);
    assert!(home.ok(&["service", "list"]).out.contains("digits:1"));

    let at = format!("@{}", models("digits_cnn/request.json"));
    let answer = home.json(&["service", "run", "-n", "digits", "-d", &at]);
    assert_eq!(digit_of(&answer), digit().1);
    let logs = home.json(&["service", "get-logs", "-n", "digits"]);
    assert!(logs[0].as_str().unwrap().contains("serving"), "{logs}");
    assert_eq!(home.ok(&["service", "get-logs", "-n", "digits", "--num_lines", "1"]).out.lines().count(), 1);
    let keys = home.json(&["service", "get-keys", "-n", "digits"]);
    assert!(keys["primaryKey"].as_str().unwrap().len() >= 32 && keys["primaryKey"] != keys["secondaryKey"]);

    // What the service refuses, the command refuses, with a code that says whose fault it is.
    for (data, code, words) in [
        ("{", 65, &["answered 400", "JSON"][..]),
        (r#"{"x": [1, 2]}"#, 65, &["answered 400", "x[0]"]),
        ("@/nonexistent", 66, &["/nonexistent"]),
    ] {
        home.fails(&["service", "run", "-n", "digits", "-d", data], code, words);
    }

    let (supervisor, host) = (home.supervisor("digits"), home.host("digits"));
    home.ok(&["service", "stop", "-n", "digits"]);
    assert!(!is_alive(supervisor) && !is_alive(host));
    home.fails(&["service", "run", "-n", "digits", "-d", &at], 75, &["it was stopped", "service start"]);
    home.fails(&["model", "delete", "-i", "digits:1"], 73, &["used by"]);
    home.ok(&["service", "start", "-n", "digits"]);
    assert_eq!(home.port("digits"), port, "a service keeps the port that it was given");
    knows_the_digit(port);
    home.fails(&["service", "start", "-n", "digits"], 73, &["runs already"]);

    let (supervisor, host) = (home.supervisor("digits"), home.host("digits"));
    assert_eq!(home.json(&["service", "delete", "-n", "digits"]), json!({"name": "digits"}));
    assert!(!is_alive(supervisor) && !is_alive(host));
    assert!(request(port, "GET", "/", "", b"").is_err());
    assert_eq!(home.processes(), []);
    assert!(!home.root().join("services/digits").exists());
    for command in ["show", "delete", "start", "stop", "get-logs", "get-keys"] {
        home.fails(&["service", command, "-n", "digits"], 66, &["no service 'digits'"]);
    }
    home.ok(&["model", "delete", "-i", "digits:1"]);
}

#[test]
fn deploying_again_replaces_a_local_service_and_no_other_unless_told_to() {
    let home = Home::with_digits();
    let first = home.deploy_local("digits");
    let old = home.supervisor("digits");
    home.ok(&["model", "register", "-n", "digits", "-p", &models("digits_res/model.onnx")]);
    let second = home.deploy_local("digits");
    assert!(!is_alive(old) && (first == second || request(first, "GET", "/", "", b"").is_err()));
    assert_eq!(home.show("digits")["models"], json!(["digits:2"]));
    knows_the_digit(second);
    assert_eq!(home.processes().len(), 2, "{:?}", home.processes());

    let aci = models("digits_cnn/deploymentconfig.aci.json");
    assert_eq!(home.deploy("cloud", &aci).code, 0);
    let running = home.supervisor("cloud");
    home.deploy("cloud", &aci).failed(73, &["'cloud' exists", "--overwrite"]);
    assert!(is_alive(running));
    let key = home.json(&["service", "get-keys", "-n", "cloud"]);
    let again = ["model", "deploy", "-n", "cloud", "-m", "digits:1", "--dc", &aci, "--overwrite"];
    home.ok(&again);
    assert_eq!(home.show("cloud")["models"], json!(["digits:1"]));
    assert_eq!(home.json(&["service", "get-keys", "-n", "cloud"]), key, "callers keep their keys");
    assert!(!is_alive(running));
}

#[test]
fn what_cannot_be_deployed_leaves_what_runs_alone() {
    let home = Home::with_digits();
    let port = home.deploy_local("digits");
    let local = models("digits_cnn/deploymentconfig.json");
    let bad = home.file(
        "bad.json",
        r#"{"computeType": "local", "port": 99999, "containerResourceRequirements": {"cpu": "two"}}"#,
    );
    let html = home.file("page.json", "<html>no such page</html>");
    let tls = home.file("tls.json", TLS);
    home.file("cert.pem", "");
    home.file("key.pem", "");
    let keys = home.file(
        "keys.json",
        r#"{"computeType": "aci", "authEnabled": true, "keys": {"primaryKey": "a\u0000b"}}"#,
    );
    for (name, args, code, words) in [
        ("digits", &["-m", "digits", "--dc", &bad][..], 78, &["port", "99999", "cpu", "'two'"][..]),
        ("digits", &["-m", "digits", "--dc", &html], 78, &["page.json"]),
        ("digits", &["-m", "digits", "--dc", &keys, "--overwrite"], 78, &["keys.primaryKey"]),
        ("digits", &["-m", "digits", "--dc", "/nonexistent"], 66, &["/nonexistent"]),
        ("digits", &["-m", "digit", "--dc", &local], 66, &["did you mean 'digits'"]),
        ("digits", &["-m", "digits:9", "--dc", &local], 66, &["digits:9"]),
        ("digits", &["-m", "digits", "-m", "digits", "--dc", &local], 69, &["2 models"]),
        ("digits", &["--dc", &local], 65, &["--model", "--model-metadata-file"]),
        ("digits", &["-f", &local, "--dc", &local], 78, &["deploymentconfig.json", "modelId"]),
        ("digits", &["-m", "digits", "--dc", &local, "--tag", "=x"], 65, &["--tag"]),
        ("digits", &["-m", "digits", "--dc", &local, "--port", "65536"], 2, &["--port"]),
        ("digits", &["-m", "digits", "--dc", &tls], 69, &["sslEnabled", "proxy"]),
        ("Digits", &["-m", "digits", "--dc", &local], 65, &["'Digits' is not a service name"]),
        ("../digits", &["-m", "digits", "--dc", &local], 65, &["is not a service name"]),
    ] {
        let mut command = home.command(&[&["model", "deploy", "-n", name], args].concat());
        command.current_dir(home.path(""));
        home.finish(command).failed(code, words);
    }
    knows_the_digit(port);
    assert_eq!(home.json(&["service", "list"]).as_array().unwrap().len(), 1);
}

const TLS: &str = r#"{"computeType": "aci", "sslEnabled": true, "sslCertificate": "cert.pem",
    "sslKey": "key.pem", "cname": "digits.example"}"#;

#[test]
fn no_wait_comes_back_at_once_and_the_service_comes_up() {
    let home = Home::with_digits();
    let config = home.file("dc.json", r#"{"computeType": "local"}"#);
    let deployed =
        home.json(&["model", "deploy", "-n", "digits", "-m", "digits", "--dc", &config, "--no-wait"]);
    assert!(["deploying", "running"].contains(&deployed["state"].as_str().unwrap()), "{deployed:#}");
    until("a running service", || (home.show("digits")["state"] == "running").then_some(()));
    knows_the_digit(home.port("digits"));
}

/// A service on one address of the machine is looked after, and called, at that address.
#[test]
fn a_service_listens_where_it_is_told_to() {
    let home = Home::with_digits();
    let config = home.file("dc.json", r#"{"computeType": "local"}"#);
    let deploy = ["model", "deploy", "-n", "digits", "-m", "digits", "--dc", &config, "--address"];
    for (address, host) in [("127.0.0.9", "127.0.0.9"), ("0.0.0.0", "127.0.0.1")] {
        home.ok(&[&deploy[..], &[address]].concat());
        let at = format!("@{}", models("digits_cnn/request.json"));
        assert_eq!(digit_of(&home.json(&["service", "run", "-n", "digits", "-d", &at])), digit().1);
        assert_eq!(home.show("digits")["state"], "running");
        let stream = std::net::TcpStream::connect((host, home.port("digits")));
        assert!(stream.is_ok(), "{address}: {stream:?}");
    }
    home.run(&[&deploy[..], &["192.0.2.99"]].concat()).failed(78, &["192.0.2.99", "no address of this"]);
    home.fails(&[&deploy[..], &["localhost"]].concat(), 2, &["--address"]);
}
