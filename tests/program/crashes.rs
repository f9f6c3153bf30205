//! What is left when processes die, and that it comes back.

use std::net::TcpListener;

use super::home::{Home, Ran, is_alive, models, signal, until};
use super::http::{connect, digit, digit_of, get, knows_the_digit, read, request};

/// The next caller is answered: refusals until the new host listens, 503 until it is ready.
fn comes_back(port: u16) {
    let (body, label) = digit();
    let answer = until("an answer", || {
        request(port, "POST", "/score", "", &body).ok().filter(|reply| reply.status == 200)
    });
    assert_eq!(digit_of(&answer.json()), label);
}

#[test]
fn a_killed_host_is_started_again_on_its_port() {
    let home = Home::with_digits();
    let port = home.deploy_local("digits");
    let supervisor = home.supervisor("digits");
    for times in 1..=2 {
        let host = home.host("digits");
        signal(host, libc::SIGKILL);
        until("the end of the host", || (!is_alive(host)).then_some(()));
        comes_back(port);
        assert_ne!(home.host("digits"), host);
        let shown = until("a running service", || {
            Some(home.show("digits")).filter(|shown| shown["state"] == "running")
        });
        assert_eq!((home.port("digits"), home.supervisor("digits")), (port, supervisor), "{shown:#}");
        let logs = home.ok(&["service", "get-logs", "-n", "digits"]).out;
        assert_eq!(logs.matches("starting it again").count(), times, "{logs}");
        assert!(logs.contains("ended unexpectedly (signal: 9 (SIGKILL))"), "{logs}");
    }
}

#[test]
fn a_host_that_keeps_crashing_is_given_up() {
    let home = Home::with_digits();
    let port = home.deploy_local("digits");
    let supervisor = home.supervisor("digits");
    let failed = until("the end of the supervisor", || {
        home.processes().iter().filter(|(_, args)| args.contains("host digits ")).for_each(|(pid, _)| {
            signal(*pid, libc::SIGKILL);
        });
        (!is_alive(supervisor)).then(|| home.show("digits"))
    });
    assert_eq!(failed["state"], "failed", "{failed:#}");
    assert!(failed["error"].as_str().unwrap().contains("6 times in a row"), "{failed:#}");
    home.ok(&["service", "start", "-n", "digits"]);
    assert_eq!(home.port("digits"), port);
    knows_the_digit(port);
}

#[test]
fn a_killed_supervisor_takes_its_host_along_and_says_how_to_go_on() {
    let home = Home::with_digits();
    let port = home.deploy_local("digits");
    let (supervisor, host) = (home.supervisor("digits"), home.host("digits"));
    signal(supervisor, libc::SIGKILL);
    until("the end of the supervisor", || (!is_alive(supervisor)).then_some(()));
    let shown = home.show("digits");
    assert_eq!(shown["state"], "failed", "{shown:#}");
    let reason = shown["error"].as_str().unwrap();
    let words = [&*format!("process {supervisor} is gone"), "`triscore service start -n digits`", "log ends"];
    assert!(words.iter().all(|w| reason.contains(w)), "{reason}");
    let run = ["service", "run", "-n", "digits", "-d", "{}"];
    home.fails(&run, 75, &["is gone", "service start -n digits"]);

    // At once, while the old host may still be ending: it does not lose its port to itself.
    home.ok(&["service", "start", "-n", "digits"]);
    assert_eq!(home.port("digits"), port);
    knows_the_digit(port);
    until("the end of the old host", || (!is_alive(host)).then_some(()));
    knows_the_digit(port);
    assert_eq!(home.processes().len(), 2);
}

/// An upgrade replaces the program's file under a running service.
#[test]
fn a_service_outlives_the_file_of_its_program() {
    let mut home = Home::with_digits();
    let copy = home.path("triscore");
    std::fs::copy(env!("CARGO_BIN_EXE_triscore"), &copy).unwrap();
    let original = std::mem::replace(home.program_mut(), copy.clone());
    let runtime = runtime_of(&original, &home);
    let config = home.file("dc.json", r#"{"computeType": "local"}"#);
    let deploy = ["model", "deploy", "-n", "digits", "-m", "digits", "--dc", &config];
    home.ok(&[&deploy[..], &["--onnxruntime", &runtime]].concat());
    std::fs::remove_file(&copy).unwrap();
    *home.program_mut() = original;
    let port = home.port("digits");
    signal(home.host("digits"), libc::SIGKILL);
    comes_back(port);
}

/// Where the program, in its own place, finds ONNX Runtime.
fn runtime_of(program: &std::path::Path, home: &Home) -> String {
    let mut command = std::process::Command::new(program);
    command.args(["devices", "--json"]).env("OCL_ICD_VENDORS", home.path("icd"));
    let ran = home.finish(command);
    ran.json()[0]["devices"][0]["facts"]["library"].as_str().unwrap_or_else(|| panic!("{ran:#?}")).to_owned()
}

#[test]
fn a_port_that_somebody_holds_is_named() {
    let home = Home::with_digits();
    let foreign = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = foreign.local_addr().unwrap().port();
    let text = port.to_string();
    let model = models("digits_cnn/model.onnx");
    let words = [&*format!("port {port} is in use"), "another port"];
    home.fails(&["serve", &model, "--port", &text], 73, &words);
    let config = models("digits_cnn/deploymentconfig.json");
    let deploy = ["model", "deploy", "-n", "digits", "-m", "digits", "--dc", &config, "--port", &text];
    home.fails(&deploy, 73, &words);
    assert_eq!(home.show("digits")["state"], "failed");
    assert_eq!(home.processes(), []);
    // The one who holds it is not harmed, and once it is gone the service starts.
    let _ = connect(port).unwrap();
    foreign.accept().unwrap();
    drop(foreign);
    home.ok(&["service", "start", "-n", "digits"]);
    assert_eq!(home.port("digits"), port);
    knows_the_digit(port);

    // Two services that want one port: the second says who has it.
    let second: Ran =
        home.run(&["model", "deploy", "-n", "second", "-m", "digits", "--dc", &config, "--port", &text]);
    second.failed(73, &words);
    knows_the_digit(port);
}

/// A request that is being scored when the service is stopped is answered, and so is one that is half sent.
#[test]
fn stopping_a_service_loses_no_answer() {
    let home = Home::new();
    home.ok(&["model", "register", "-n", "slow", "-p", &models("tiny/slow.onnx")]);
    let config = home.file("dc.json", r#"{"computeType": "local", "containerResourceRequirements": {"cpu": 1}, "triscore": {"warmUp": false}}"#);
    home.ok(&["model", "deploy", "-n", "slow", "-m", "slow", "--dc", &config]);
    let port = home.port("slow");
    let mut stream = connect(port).unwrap();
    let body = r#"{"x": [[1.0, 2.0, 3.0, 4.0]]}"#;
    let head = format!("POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len());
    std::io::Write::write_all(&mut stream, format!("{head}{body}").as_bytes()).unwrap();
    until("the request's arrival", || {
        let metrics = get(port, "/metrics").body;
        metrics
            .lines()
            .any(|l| l.contains("in_flight") && !l.starts_with('#') && l.ends_with(" 1"))
            .then_some(())
    });
    home.ok(&["service", "delete", "-n", "slow"]);
    let reply = read(&mut stream).unwrap();
    assert_eq!((reply.status, &*reply.body), (200, r#"{"y":[[1.0,2.0,3.0,4.0]]}"#));
    assert_eq!(home.processes(), []);
}
