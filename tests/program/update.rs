//! Changing a service that serves: no request is lost, and whoever is killed, a version serves.

use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::json;

use super::home::{Home, is_alive, models, signal, until};
use super::http::{connect, digit, digit_of, knows_the_digit, post, request};

/// A home with two versions of the digits model, and a third that is none.
fn home() -> Home {
    let home = Home::with_digits();
    home.ok(&["model", "register", "-n", "digits", "-p", &models("digits_res/model.onnx")]);
    let page = home.file("page.onnx", "<!DOCTYPE html><html>no such page</html>");
    home.ok(&["model", "register", "-n", "page", "-p", &page]);
    home
}

fn deploy_first(home: &Home, name: &str) -> u16 {
    let config = models("digits_cnn/deploymentconfig.json");
    home.ok(&["model", "deploy", "-n", name, "-m", "digits:1", "--dc", &config, "--port", "0"]);
    home.port(name)
}

/// The folders of a service's generations.
fn generations(home: &Home, name: &str) -> Vec<i64> {
    let entries = std::fs::read_dir(home.root().join("services").join(name)).unwrap().flatten();
    let mut found =
        entries.filter_map(|e| e.file_name().to_str().and_then(|n| n.parse().ok())).collect::<Vec<_>>();
    found.sort_unstable();
    found
}

#[test]
fn a_new_version_takes_over_and_no_request_is_lost() {
    let home = home();
    let port = deploy_first(&home, "digits");
    let (supervisor, first) = (home.supervisor("digits"), home.host("digits"));
    let key = home.json(&["service", "get-keys", "-n", "digits"]);
    let (body, label) = digit();
    let (done, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let reply = request(port, "POST", "/score", "", &body).unwrap();
                    assert_eq!((reply.status, digit_of(&reply.json())), (200, label), "{reply:?}");
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let updated = ["service", "update", "-n", "digits", "-m", "digits:2", "--add-tag", "a=1"];
        let ran = home.run(&[&updated[..], &["--json"]].concat());
        let since = std::time::Instant::now();
        while is_alive(first) && since.elapsed() < super::home::DEADLINE {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        done.store(true, Ordering::Relaxed);
        assert!(!is_alive(first));
        assert_eq!(ran.code, 0, "{ran:#?}");
        let shown = ran.json();
        assert_eq!((&shown["state"], &shown["models"]), (&json!("running"), &json!(["digits:2"])));
    });
    assert!(answered.load(Ordering::Relaxed) > 10);
    let shown = home.show("digits");
    assert_eq!((&shown["tags"], &shown["error"]), (&json!({"a": "1"}), &json!(null)), "{shown:#}");
    assert_eq!((home.port("digits"), home.supervisor("digits")), (port, supervisor));
    assert_eq!(home.json(&["service", "get-keys", "-n", "digits"]), key);
    assert_eq!(home.processes().len(), 2);
    until("one folder", || (generations(&home, "digits").len() == 1).then_some(()));

    // A crash brings back what serves now, and so does a start.
    signal(home.host("digits"), libc::SIGKILL);
    until("an answer", || request(port, "POST", "/score", "", &body).ok().filter(|r| r.status == 200));
    home.ok(&["service", "stop", "-n", "digits"]);
    home.ok(&["service", "start", "-n", "digits"]);
    assert_eq!(home.port("digits"), port);
    assert_eq!(home.show("digits")["models"], json!(["digits:2"]));
}

#[test]
fn a_failed_update_leaves_the_old_version_serving_and_says_why() {
    let home = home();
    let port = deploy_first(&home, "digits");
    let host = home.host("digits");
    let words = ["the update failed and the previous version serves on", "page.onnx", "HTML"];
    home.fails(&["service", "update", "-n", "digits", "-m", "page"], 65, &words);
    let shown = home.show("digits");
    assert_eq!((&shown["state"], &shown["models"]), (&json!("running"), &json!(["digits:1"])), "{shown:#}");
    let error = shown["error"].as_str().unwrap();
    assert!(error.starts_with("the last update failed and the previous version serves on: "), "{error}");
    assert!(error.contains("HTML"), "{error}");
    let gpu = ["service", "update", "-n", "digits", "--gc", "1"];
    home.fails(&gpu, 69, &["asks for 1 GPU", "has none"]);
    assert_eq!(home.host("digits"), host);
    knows_the_digit(port);
    until("one folder", || (generations(&home, "digits").len() == 1).then_some(()));
    home.ok(&["model", "delete", "-i", "page:1"]);

    // What is wrong before anything is started changes nothing either.
    for (args, code, words) in [
        (&[][..], 65, &["No parameters provided to update."][..]),
        (&["-m", "nobody"], 66, &["'nobody'"]),
        (&["-m", "digits", "-m", "digits:1"], 69, &["2 models"]),
        (&["--dc", "/nonexistent"], 66, &["/nonexistent"]),
        (&["--cc", "two"], 78, &["--cpu-cores", "'two'"]),
        (&["--cp", "aci"], 65, &["computeType local", "--overwrite"]),
        (&["--port", "1"], 65, &["--port", "keeps"]),
        (&["--add-tag", "=x"], 65, &["--add-tag"]),
        (&["--ic", "x.json"], 69, &["--inference-config-file"]),
    ] {
        home.fails(&[&["service", "update", "-n", "digits"], args].concat(), code, words);
    }
    home.fails(&["service", "update", "-n", "none", "--cc", "1"], 66, &["no service 'none'"]);
    assert!(home.show("digits")["error"].as_str().unwrap().contains("asks for 1 GPU"), "the last one's");

    // The next good one forgets it.
    home.ok(&["service", "update", "-n", "digits", "-m", "digits:2"]);
    assert_eq!(home.show("digits")["error"], json!(null));
    knows_the_digit(port);
}

#[test]
fn labels_change_without_a_restart_and_the_file_in_parts() {
    let home = home();
    let port = deploy_first(&home, "digits");
    let host = home.host("digits");
    let update = |args: &[&str]| home.json(&[&["service", "update", "-n", "digits"], args].concat());
    let shown = update(&["--add-tag", "a=1", "--add-property", "b=2", "--description", "words"]);
    assert_eq!((&shown["tags"]["a"], &shown["properties"]["b"]), (&json!("1"), &json!("2")), "{shown:#}");
    assert_eq!(shown["description"], "words");
    let refused = ["service", "update", "-n", "digits", "--add-property", "b=3"];
    home.fails(&refused, 73, &["properties are immutable", "b"]);
    assert_eq!(update(&["--remove-tag", "a"])["tags"], json!({}));
    assert_eq!(home.host("digits"), host);

    let shown = update(&["--cc", "1", "--scoring-timeout-ms", "5000"]);
    assert_eq!(shown["deploymentConfig"]["containerResourceRequirements"]["cpu"], json!(1));
    let shown = update(&["--cc", "0.5"]);
    assert_eq!(
        shown["deploymentConfig"]["scoringTimeoutMs"],
        json!(5000),
        "what is not given stays: {shown:#}"
    );
    until("the end of the old host", || (!is_alive(host)).then_some(()));
    knows_the_digit(port);

    // One that is stopped starts as it is then, on its port.
    home.ok(&["service", "stop", "-n", "digits"]);
    let shown = update(&["-m", "digits:2"]);
    assert_eq!((&shown["state"], &shown["models"]), (&json!("running"), &json!(["digits:2"])));
    assert_eq!(home.port("digits"), port);
    knows_the_digit(port);
}

/// Killed at whatever moment, the command, the new host and the supervisor leave one version whole.
#[test]
fn whoever_is_killed_in_an_update_a_version_serves() {
    let home = home();
    let port = deploy_first(&home, "digits");
    let (body, label) = digit();
    let answers =
        || until("an answer", || request(port, "POST", "/score", "", &body).ok().filter(|r| r.status == 200));
    for delay_ms in [0, 5, 15, 30, 60, 120] {
        let mut update = home.command(&["service", "update", "-n", "digits", "-m", "digits:2"]);
        update.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        let mut running = super::home::Running(update.spawn().unwrap());
        std::thread::sleep(std::time::Duration::from_millis(delay_ms));
        running.0.kill().unwrap();
        running.0.wait().unwrap();
        assert_eq!(digit_of(&answers().json()), label);
        until("the end of the update", || (home.show("digits")["updating"] == json!(false)).then_some(()));
        assert_eq!(home.show("digits")["state"], "running");
        until("one folder", || (generations(&home, "digits").len() == 1).then_some(()));
        until("two processes", || (home.processes().len() == 2).then_some(()));
    }
    // The new host, while it loads: the old one serves on, and the command says so.
    home.ok(&["model", "register", "-n", "slow", "-p", &models("tiny/slow.onnx")]);
    let mut update = home.command(&["service", "update", "-n", "digits", "-m", "slow"]);
    let err = std::fs::File::create(home.path("err")).unwrap();
    update.stdout(std::process::Stdio::null()).stderr(err);
    let mut running = super::home::Running(update.spawn().unwrap());
    let old = home.host("digits");
    let loading = |home: &Home| {
        let hosts = home.processes().into_iter().filter(|(_, args)| args.contains("--candidate"));
        hosts.map(|(pid, _)| pid).find(|pid| *pid != old)
    };
    let other = until("the new host", || loading(&home));
    let busy = home.run(&["service", "update", "-n", "digits", "--cc", "1"]);
    busy.failed(73, &["is being updated"]);
    signal(other, libc::SIGKILL);
    assert_eq!(running.end(), 70);
    let said = std::fs::read_to_string(home.path("err")).unwrap();
    assert!(said.contains("previous version serves on") && said.contains("SIGKILL"), "{said}");
    knows_the_digit(port);
    assert_eq!(home.host("digits"), old);

    // The supervisor, while the new host loads: what served can be started again.
    let mut update = home.command(&["service", "update", "-n", "digits", "-m", "slow"]);
    update.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let mut running = super::home::Running(update.spawn().unwrap());
    until("the new host", || loading(&home));
    signal(home.supervisor("digits"), libc::SIGKILL);
    assert_eq!(running.end(), 73);
    assert_eq!(home.show("digits")["state"], "failed");
    until("the end of all hosts", || home.processes().is_empty().then_some(()));
    home.ok(&["service", "start", "-n", "digits"]);
    assert_eq!((home.port("digits"), home.show("digits")["models"][0] != "slow:1"), (port, true));
    knows_the_digit(port);
    assert_eq!(generations(&home, "digits").len(), 1);
}

/// While there is no host, callers wait: the socket is the supervisor's.
#[test]
fn a_crash_of_the_host_refuses_nobody() {
    let home = Home::with_digits();
    let port = home.deploy_local("digits");
    for _ in 0..3 {
        signal(home.host("digits"), libc::SIGKILL);
        // Every one of these is taken, at the latest by the next host, which may say that it loads.
        let mut statuses = Vec::new();
        while statuses.last() != Some(&200) {
            let (body, _) = digit();
            match request(port, "POST", "/score", "", &body) {
                Ok(reply) => statuses.push(reply.status),
                // Taken by the host that was killed.
                Err(e) => assert_ne!(e.kind(), std::io::ErrorKind::ConnectionRefused, "{e}"),
            }
        }
        assert!(statuses.iter().all(|s| [200, 503].contains(s)), "{statuses:?}");
    }
    assert_eq!(post(port, b"{").status, 400);
}

/// A caller that keeps its connection is told to connect anew, and loses no request either; nor does a probe
/// see a service that is unwell.
#[test]
fn a_connection_that_is_kept_loses_nothing_in_an_update() {
    let home = home();
    let port = deploy_first(&home, "digits");
    let old = home.host("digits");
    let (body, label) = digit();
    let done = AtomicBool::new(false);
    let ask = |stream: &mut std::net::TcpStream, head: &str, body: &[u8]| {
        let head = format!("{head} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(&[head.as_bytes(), body].concat()).unwrap();
        let mut bytes = Vec::new();
        loop {
            let mut piece = [0; 4096];
            let count = stream.read(&mut piece).unwrap();
            assert_ne!(count, 0, "closed without an answer: {}", String::from_utf8_lossy(&bytes));
            bytes.extend_from_slice(&piece[..count]);
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let head = head.to_ascii_lowercase();
            let length = head.split("content-length: ").nth(1).unwrap().lines().next().unwrap();
            if body.len() == length.parse::<usize>().unwrap() {
                assert!(head.starts_with("http/1.1 200"), "{text}");
                return (body.to_owned(), head.contains("connection: close"));
            }
        }
    };
    std::thread::scope(|scope| {
        for head in ["POST /score", "GET /"] {
            let (done, body, ask) = (&done, &body, &ask);
            scope.spawn(move || {
                let mut closings = 0;
                while !done.load(Ordering::Relaxed) {
                    let mut stream = connect(port).unwrap();
                    loop {
                        let body = if head.starts_with("POST") { &body[..] } else { b"" };
                        let (answer, closes) = ask(&mut stream, head, body);
                        if head.starts_with("POST") {
                            assert_eq!(digit_of(&serde_json::from_str(&answer).unwrap()), label);
                        }
                        closings += usize::from(closes);
                        if closes || done.load(Ordering::Relaxed) {
                            break;
                        }
                        std::thread::sleep(std::time::Duration::from_millis(10));
                    }
                }
                assert_eq!(closings, 1, "{head}: only the old version hands its callers on");
            });
        }
        let ran = home.run(&["service", "update", "-n", "digits", "-m", "digits:2"]);
        let since = std::time::Instant::now();
        while is_alive(old) && since.elapsed() < super::home::DEADLINE {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        done.store(true, Ordering::Relaxed);
        assert_eq!(ran.code, 0, "{ran:#?}");
    });
}

#[test]
fn a_service_is_stopped_in_the_middle_of_an_update() {
    let home = home();
    let port = deploy_first(&home, "digits");
    home.ok(&["model", "register", "-n", "slow", "-p", &models("tiny/slow.onnx")]);
    let shown = home.json(&["service", "update", "-n", "digits", "-m", "slow", "--no-wait"]);
    assert_eq!((&shown["updating"], &shown["state"]), (&json!(true), &json!("running")), "{shown:#}");
    home.ok(&["service", "stop", "-n", "digits"]);
    assert_eq!(home.processes(), []);
    home.ok(&["service", "start", "-n", "digits"]);
    assert_eq!((home.port("digits"), &home.show("digits")["models"]), (port, &json!(["digits:1"])));
    knows_the_digit(port);
    assert_eq!(generations(&home, "digits").len(), 1);
    home.ok(&["service", "update", "-n", "digits", "-m", "slow", "--no-wait"]);
    home.ok(&["service", "delete", "-n", "digits"]);
    assert_eq!(home.processes(), []);
    home.ok(&["model", "delete", "-i", "slow:1"]);
}
