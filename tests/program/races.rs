//! Commands that are at work at once, that are killed in the middle, or that find the workspace held.

use std::path::Path;
use std::time::{Duration, Instant};

use triscore::registry::{Keys, ServiceSpec, Workspace};

use super::home::{Home, Running, models, until};
use super::http::{digit, knows_the_digit, request};

fn deploy_args(config: &str) -> Vec<String> {
    let args = ["model", "deploy", "-n", "digits", "-m", "digits", "--dc", config, "--port", "0"];
    args.map(str::to_owned).to_vec()
}

#[test]
fn one_command_at_a_time_works_on_a_service() {
    let home = Home::with_digits();
    let port = home.deploy_local("digits");
    let workspace = Workspace::open(home.root()).unwrap();
    let operation = workspace.begin_operation("digits", "deploying").unwrap();
    let words = [&*format!("process {}", std::process::id()), "deploying", "try again"];
    home.deploy("digits", &models("digits_cnn/deploymentconfig.json")).failed(73, &words);
    for command in ["start", "stop", "delete"] {
        home.fails(&["service", command, "-n", "digits"], 73, &words);
    }
    // Looking and calling are free.
    assert_eq!(home.show("digits")["state"], "running");
    knows_the_digit(port);
    drop(operation);
    home.ok(&["service", "delete", "-n", "digits"]);
}

/// Whoever comes second is told, before it begins or when it finds itself replaced; one of them wins, and
/// no process stays that belongs to none.
#[test]
fn two_deployments_at_once_leave_one_service() {
    let home = Home::with_digits();
    let config = models("digits_cnn/deploymentconfig.json");
    let args = deploy_args(&config);
    let args = args.iter().map(String::as_str).collect::<Vec<_>>();
    let ran = std::thread::scope(|scope| {
        let start = || scope.spawn(|| home.run(&args));
        [start(), start(), start()].map(|thread| thread.join().unwrap())
    });
    let words = ["another operation is in progress", "was deployed anew meanwhile", "has been deployed anew"];
    for ran in &ran {
        let told = words.iter().any(|w| ran.err.contains(w));
        assert!(ran.code == 0 || (ran.code == 73 && told), "{ran:#?}");
    }
    assert!(ran.iter().any(|r| r.code == 0), "{ran:#?}");
    assert_eq!(home.show("digits")["state"], "running");
    assert_eq!(home.processes().len(), 2, "{:?}", home.processes());
    knows_the_digit(home.port("digits"));
}

/// A deploy command that is killed leaves a service that tells how it stands, and that can be deployed
/// again; and no process that nobody knows.
#[test]
fn a_deployment_may_be_killed_at_any_moment() {
    let home = Home::with_digits();
    let config = models("digits_cnn/deploymentconfig.json");
    let args = deploy_args(&config);
    let args = args.iter().map(String::as_str).collect::<Vec<_>>();
    // How long one takes here, from its start to a healthy service.
    let whole = home.run(&args).took;
    for step in 0..12u32 {
        let mut command = home.command(&args);
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        let mut deploying = Running(command.spawn().unwrap());
        let until_then = Instant::now() + whole * step / 12;
        while Instant::now() < until_then {
            std::thread::yield_now();
        }
        let _ = deploying.0.kill();
        deploying.0.wait().unwrap();

        // Running, and then it answers; or failed, and then it says what to do. Between the two there may be
        // a service that was told to stop for the new one, and is about to.
        until("a settled service", || {
            let shown = home.show("digits");
            match shown["state"].as_str().unwrap() {
                "running" => {
                    let (body, _) = digit();
                    let reply = request(home.port("digits"), "POST", "/score", "", &body).ok()?;
                    (reply.status == 200).then_some(())
                }
                "failed" => {
                    let reason = shown["error"].as_str().unwrap();
                    assert!(reason.contains("interrupted") || reason.contains("service start"), "{reason}");
                    Some(())
                }
                _ => None,
            }
        });
    }
    let ran = home.run(&args);
    assert_eq!(ran.code, 0, "{ran:#?}");
    knows_the_digit(home.port("digits"));
    // A supervisor whose deployment was replaced before it began ends by itself.
    until("two processes", || (home.processes().len() == 2).then_some(()));
    home.ok(&["service", "delete", "-n", "digits"]);
    assert_eq!(home.processes(), []);
}

/// Killed after the service was written down and before its files were: that cannot be started, only deployed.
#[test]
fn half_a_deployment_says_what_to_do() {
    let home = Home::with_digits();
    let workspace = Workspace::open(home.root()).unwrap();
    let mut spec = ServiceSpec::new("digits", "local", workspace.service_dir("digits").unwrap());
    spec.model_ids = vec!["digits:1".to_owned()];
    workspace.insert_service(&spec, Keys::default()).unwrap();
    // As long as the command is at work, the service is on its way.
    let operation = workspace.begin_operation("digits", "deploying").unwrap();
    assert_eq!(home.show("digits")["state"], "deploying");
    drop(operation);
    let shown = home.show("digits");
    assert_eq!(shown["state"], "failed", "{shown:#}");
    assert!(shown["error"].as_str().unwrap().contains("interrupted: deploy it again"), "{shown:#}");
    home.fails(&["service", "start", "-n", "digits"], 66, &["interrupted", "deploy it again"]);
    home.fails(&["service", "get-logs", "-n", "digits"], 66, &["has no log"]);
    knows_the_digit(home.deploy_local("digits"));
}

#[test]
fn a_workspace_that_is_held_is_waited_for_and_then_named() {
    let home = Home::with_digits();
    home.deploy_local("digits");
    let database = home.root().join("registry.sqlite");
    let held = hold(&database);
    let since = Instant::now();
    let config = models("digits_cnn/deploymentconfig.json");
    let ran = std::thread::scope(|scope| {
        let run = |args: &'static [&'static str]| {
            let home = &home;
            scope.spawn(move || home.run(args))
        };
        let mut running = vec![
            run(&["model", "list"]),
            run(&["service", "show", "-n", "digits"]),
            run(&["model", "delete", "-i", "digits:1"]),
        ];
        running.push(scope.spawn(|| home.deploy("other", &config)));
        running.into_iter().map(|r| r.join().unwrap()).collect::<Vec<_>>()
    });
    for ran in ran {
        ran.failed(
            73,
            &["another process holds the workspace", home.root().to_str().unwrap(), "waited 5.0 s"],
        );
    }
    assert!(since.elapsed() < Duration::from_secs(30), "{:?}", since.elapsed());
    drop(held);
    assert_eq!(home.show("digits")["state"], "running");
    home.ok(&["model", "list"]);
}

/// Takes SQLite's lock on a database for this process, as a writer that does not come to its end.
fn hold(database: &Path) -> rusqlite::Connection {
    let held = rusqlite::Connection::open(database).unwrap();
    held.execute_batch("BEGIN EXCLUSIVE").unwrap();
    held
}
