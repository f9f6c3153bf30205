//! `triscore serve`: a model in the foreground.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use super::home::{Home, Running, is_alive, models, signal, until};
use super::http::{connect, digit, digit_of, get, knows_the_digit, post, read, request};

/// Starts it; gives the process once it serves, and its port.
pub(crate) fn serve(home: &Home, args: &[&str]) -> (Running, u16) {
    start(home.command(&[&["serve"], args].concat()))
}

/// As `serve`, with a command whose output is still to be caught.
pub(crate) fn start(mut command: Command) -> (Running, u16) {
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    let mut running = Running(command.spawn().unwrap());
    let said = BufReader::new(running.0.stdout.take().unwrap()).lines().map_while(Result::ok);
    let port = |line: String| line.split_once("://127.0.0.1:")?.1.split_once('/')?.0.parse().ok();
    let found = { said }.find_map(port);
    (running, found.unwrap_or_else(|| panic!("it ended without a URI")))
}

#[test]
fn a_file_is_served_until_it_is_told_to_stop() {
    let home = Home::new();
    let (mut running, port) = serve(&home, &[&models("digits_cnn/model.onnx"), "--port", "0"]);
    knows_the_digit(port);
    assert_eq!(get(port, "/").body, "Healthy");
    signal(running.0.id(), libc::SIGTERM);
    assert_eq!(running.end(), 0);
    assert!(request(port, "GET", "/", "", b"").is_err());
    assert!(!home.root().exists(), "a model from a file needs no workspace");
}

#[test]
fn a_registered_model_is_served_and_leaves_no_copy_behind() {
    let home = Home::with_digits();
    home.ok(&["model", "register", "-n", "digits", "-p", &models("digits_res/model.onnx")]);
    for (id, version) in [("digits:1", "1"), ("digits", "2")] {
        let (mut running, port) = serve(&home, &[id, "--port", "0", "--json"]);
        knows_the_digit(port);
        let (body, _) = digit();
        let text = String::from_utf8(body).unwrap();
        let x = text.split_once(':').unwrap().1.trim_end().trim_end_matches('}');
        let v2 = format!(
            r#"{{"inputs": [{{"name": "x", "shape": [1, 1, 8, 8], "datatype": "FP32", "data": {x}}}]}}"#
        );
        let answer = post(port, v2.as_bytes()).json();
        assert_eq!((&answer["model_name"], &answer["model_version"]), (&"digits".into(), &version.into()));
        assert_eq!(std::fs::read_dir(home.root().join("serving")).unwrap().count(), 0, "it is loaded");
        knows_the_digit(port);
        signal(running.0.id(), libc::SIGINT);
        assert_eq!(running.end(), 0);
        assert_eq!(std::fs::read_dir(home.root().join("serving")).unwrap().count(), 0);
    }
}

#[test]
fn a_deployment_file_is_honoured() {
    let home = Home::new();
    let model = models("digits_cnn/model.onnx");
    let config = home.file(
        "dc.yml",
        "computeType: aci\nauthEnabled: true\nkeys:\n  primaryKey: first-secret-0123456789abcdef\n",
    );
    let (_running, port) = serve(&home, &[&model, "--dc", &config, "--port", "0", "--name", "mine"]);
    let (body, label) = digit();
    assert_eq!(request(port, "POST", "/score", "", &body).unwrap().status, 401);
    let header = "Authorization: Bearer first-secret-0123456789abcdef\r\n";
    assert_eq!(digit_of(&request(port, "POST", "/score", header, &body).unwrap().json()), label);
    assert_eq!(request(port, "POST", "/api/v1/service/mine/score", header, &body).unwrap().status, 200);
}

/// Requests that are half there when the signal comes are read to their end and answered.
#[test]
fn a_signal_in_the_middle_of_requests_loses_none() {
    let home = Home::new();
    let (mut running, port) = serve(&home, &[&models("digits_cnn/model.onnx"), "--port", "0"]);
    let (body, label) = digit();
    let head = format!("POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len());
    let (now, later) = body.split_at(body.len() / 2);
    let mut open = Vec::new();
    for _ in 0..16 {
        let mut stream = connect(port).unwrap();
        stream.write_all(&[head.as_bytes(), now].concat()).unwrap();
        open.push(stream);
    }
    signal(running.0.id(), libc::SIGTERM);
    until("the end of listening", || connect(port).is_err().then_some(()));
    assert!(is_alive(running.0.id()), "it has answers to give");
    for mut stream in open {
        stream.write_all(later).unwrap();
        let reply = read(&mut stream).unwrap();
        assert_eq!((reply.status, digit_of(&reply.json())), (200, label));
    }
    assert_eq!(running.end(), 0);
}

#[test]
fn a_second_signal_ends_it_at_once_and_a_load_is_not_waited_for() {
    let home = Home::new();
    let (mut running, port) = serve(&home, &[&models("digits_cnn/model.onnx"), "--port", "0"]);
    let mut stream = connect(port).unwrap();
    stream.write_all(b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{").unwrap();
    signal(running.0.id(), libc::SIGTERM);
    until("the end of listening", || connect(port).is_err().then_some(()));
    signal(running.0.id(), libc::SIGTERM);
    assert_eq!(running.end(), 0);

    // A model that takes some seconds to load; it listens before it has begun.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut command = home.command(&["serve", &models("tiny/slow.onnx"), "--port", &port.to_string()]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut running = Running(command.spawn().unwrap());
    let loading = until("an answer", || request(port, "POST", "/score", "", b"{}").ok());
    assert_eq!(loading.status, 503, "{loading:?}");
    let told = std::time::Instant::now();
    signal(running.0.id(), libc::SIGTERM);
    assert_eq!(running.end(), 0);
    assert!(told.elapsed().as_secs() < 4, "waited for the load: {:?}", told.elapsed());
}

#[test]
fn what_cannot_be_served_says_why() {
    let home = Home::with_digits();
    let page = home.file("page.onnx", "<!DOCTYPE html><html>no such page</html>");
    let model = models("digits_cnn/model.onnx");
    let two = home.path("two");
    std::fs::create_dir(&two).unwrap();
    for name in ["a.onnx", "b.onnx"] {
        std::fs::copy(&model, two.join(name)).unwrap();
    }
    let gpu = home.file("gpu.json", r#"{"computeType": "aks", "gpuCores": 1, "authEnabled": false}"#);
    for (args, code, words) in [
        (&["missing.onnx"][..], 66, &["missing.onnx", "neither a file nor a registered model"][..]),
        (&["/nonexistent/model.onnx"], 66, &["/nonexistent/model.onnx", "neither a file nor"]),
        (&["digit:1"], 66, &["did you mean 'digits'"]),
        (&["digits:7"], 66, &["digits:7", "version 1"]),
        (&[&page], 65, &["page.onnx", "HTML"]),
        (&[two.to_str().unwrap()], 65, &["a.onnx", "b.onnx"]),
        (&[home.root().to_str().unwrap()], 66, &["no .onnx file"]),
        (&["/dev/null"], 65, &["/dev/null"]),
        (&[&model, "--dc", "/nonexistent"], 66, &["/nonexistent"]),
        (&[&model, "--dc", &model], 78, &["model.onnx"]),
        (&[&model, "--dc", &gpu], 69, &["asks for 1 GPU", "has none"]),
        (&[&model, "--dc", &models("digits_cnn/deploymentconfig.aci.json")], 78, &["keys.primaryKey"]),
        (&[&model, &model], 65, &["exactly one model", "got 2"]),
        (&[&model, "--port", "http"], 2, &["--port"]),
        (&[], 65, &["exactly one model", "--ic"]),
    ] {
        home.fails(
            &[&["serve"], args, &["--port", "0"][..if code == 2 { 0 } else { 2 }]].concat(),
            code,
            words,
        );
    }
}
