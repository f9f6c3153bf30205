//! Building, using again, refusing.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::json;
use triscore::environment::{self, Requirements};
use triscore::scoring::CancelToken;
use triscore::{Call, ErrorKind};

use super::home::{config, ensure, environments, python, spec, spec_of};

#[test]
fn packages_are_installed_once_and_found_again() {
    let home = tempfile::tempdir().unwrap();
    let spec = spec(&["six==1.16.0"]);
    assert!(environment::find(&spec, home.path()).unwrap().is_none());
    let (first, said) = ensure(&spec, home.path());
    let first = first.unwrap();
    assert!(first.built && first.notes.is_empty(), "{first:?}");
    assert_eq!(python(&first.python, "import six; print(six.__version__)"), "1.16.0");
    assert!(said.iter().any(|s| s.starts_with("collecting six")), "{said:?}");
    assert!(said.iter().any(|s| s == "installing 1 packages"), "{said:?}");
    assert_eq!(first.freeze().unwrap(), ["six==1.16.0"]);
    let log = environments(home.path()).join(format!("{}.log", first.hash));
    assert!(fs::read_to_string(&log).unwrap().contains("Successfully installed six-1.16.0"));

    fs::remove_file(&log).unwrap();
    let (again, said) = ensure(&spec, home.path());
    let again = again.unwrap();
    assert!(!again.built && said.is_empty() && !log.exists(), "{said:?}");
    assert_eq!((&again.hash, &again.python), (&first.hash, &first.python));
    let found = environment::find(&spec, home.path()).unwrap().unwrap();
    assert_eq!(found.hash, first.hash);

    // In use; then not.
    assert_eq!(environment::remove_unused(home.path(), &[]).unwrap(), [""; 0]);
    drop((first, again));
    assert_eq!(environment::remove_unused(home.path(), std::slice::from_ref(&found.hash)).unwrap(), [""; 0]);
    let hash = found.hash.clone();
    drop(found);
    assert_eq!(environment::list(home.path()).unwrap()[0].hash, hash);
    assert_eq!(environment::remove_unused(home.path(), &[]).unwrap(), [hash]);
    assert!(environment::find(&spec, home.path()).unwrap().is_none());
}

#[test]
fn what_azureml_defaults_brought_is_there() {
    let home = tempfile::tempdir().unwrap();
    let (built, _) = ensure(
        &spec_of(json!(["python=3.6.2", { "pip": ["azureml-contrib-services", "inference-schema"] }])),
        home.path(),
    );
    let built = built.unwrap();
    python(&built.python, "import flask, inference_schema.schema_decorators");
    let notes = built.notes.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert!(notes.iter().any(|n| n.contains("azureml-contrib-services: not installed")), "{notes:?}");
    let instead =
        format!("python=3.6.2 is too old, entry scripts need 3.8: Python {} is used", built.python_version);
    assert!(notes.iter().any(|n| n.contains(&instead)), "{notes:?}");
}

#[test]
fn an_environment_that_broke_is_built_again() {
    let home = tempfile::tempdir().unwrap();
    let spec = spec(&[]);
    let first = ensure(&spec, home.path()).0.unwrap();
    let folder = first.folder.clone().unwrap();
    assert!(first.built && first.freeze().unwrap().is_empty());
    drop(first);
    // Its Python is gone.
    fs::remove_file(folder.join("bin/python")).unwrap();
    assert!(environment::find(&spec, home.path()).unwrap().is_none());
    let second = ensure(&spec, home.path()).0.unwrap();
    assert!(second.built);
    drop(second);
    // Never finished.
    fs::remove_file(folder.join("triscore.json")).unwrap();
    fs::write(folder.join("half"), "").unwrap();
    let third = ensure(&spec, home.path()).0.unwrap();
    assert!(third.built && !folder.join("half").exists());
}

#[test]
fn what_pip_refuses_is_said_in_its_words() {
    let home = tempfile::tempdir().unwrap();
    for (packages, kind, words) in [
        (
            &["six==99.0"][..],
            ErrorKind::BadConfig,
            &["No matching distribution found for six==99.0", "1.16.0"][..],
        ),
        (&["six=="], ErrorKind::BadConfig, &["ERROR", "six=="]),
        (&["six==1.15.0", "six==1.16.0"], ErrorKind::BadConfig, &["six==1.15.0"]),
        (&["six", "--no-such-option"], ErrorKind::BadConfig, &["ERROR", "--no-such-option"]),
        (
            &["six", "--no-index", "--index-url http://user:s3cret@127.0.0.1:9/simple"],
            ErrorKind::BadConfig,
            &["No matching distribution"],
        ),
    ] {
        let (refused, _) = ensure(&spec(packages), home.path());
        let e = refused.expect_err("refused");
        assert_eq!(e.kind(), kind, "{packages:?}: {e}");
        for word in words {
            assert!(e.message().contains(word), "expected {word} in {e}");
        }
        assert!(!e.message().contains("s3cret"), "{e}");
        let log = e.message().lines().last().unwrap().strip_prefix("The whole log: ").unwrap().to_owned();
        assert!(!fs::read_to_string(&log).unwrap().contains("s3cret"));
    }
    assert_eq!(environment::list(home.path()).unwrap(), [], "a failed build leaves nothing");
}

#[test]
fn an_index_that_cannot_be_reached_is_not_the_requirements_fault() {
    let home = tempfile::tempdir().unwrap();
    // Nobody listens on port 9 of this machine; what the machine's own configuration finds is left out.
    let out = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "build::unreachable", "--include-ignored", "--nocapture"])
        .env("TRISCORE_TEST_HOME", home.path())
        .env("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
        .env("PIP_EXTRA_INDEX_URL", "")
        .env("PIP_FIND_LINKS", "")
        .env("PIP_RETRIES", "1")
        .env("PIP_NO_CACHE_DIR", "1")
        .output()
        .unwrap();
    assert!(out.status.success(), "{out:?}");
}

#[test]
#[ignore = "run by the test above, with another configuration of pip's"]
fn unreachable() {
    let Some(home) = std::env::var_os("TRISCORE_TEST_HOME") else { return };
    let (refused, _) = ensure(&spec(&["six==1.16.0"]), home.as_ref());
    let e = refused.expect_err("nobody listens there");
    assert_eq!(e.kind(), ErrorKind::Unavailable, "{e}");
    assert!(e.message().contains("cannot be reached"), "{e}");
}

#[test]
fn a_build_ends_when_it_is_cancelled_or_too_slow() {
    let home = tempfile::tempdir().unwrap();
    let spec = spec(&["six"]);
    let token = CancelToken::new();
    let call = Call::new().with_cancel(token.clone());
    let cancelled = environment::ensure_within(&spec, home.path(), &call, &mut |_| token.cancel());
    assert_eq!(cancelled.unwrap_err().kind(), ErrorKind::Cancelled);
    let call = Call::new().with_timeout(Duration::from_millis(300));
    let since = Instant::now();
    let late = environment::ensure_within(&spec, home.path(), &call, &mut |_| {});
    assert_eq!(late.unwrap_err().kind(), ErrorKind::DeadlineExceeded);
    assert!(since.elapsed() < Duration::from_secs(20));
    assert_eq!(environment::list(home.path()).unwrap(), []);
}

#[test]
fn an_interpreter_that_the_user_looks_after_is_taken_as_it_is() {
    let home = tempfile::tempdir().unwrap();
    let managed = |path: &str| {
        config(json!({ "python": { "userManagedDependencies": true, "interpreterPath": path } }))
    };
    let built = ensure(&spec(&["six==1.16.0"]), home.path()).0.unwrap();
    let path = built.python.to_str().unwrap();
    let (taken, said) = ensure(&managed(path), home.path());
    let taken = taken.unwrap();
    assert!(!taken.built && taken.folder.is_none() && said.is_empty());
    assert_eq!(python(&taken.python, "import six; print(six.__version__)"), "1.16.0");
    assert_eq!(taken.freeze().unwrap(), ["six==1.16.0"]);
    let default = ensure(&managed("python"), home.path()).0.unwrap();
    assert_ne!(default.hash, taken.hash);
    assert_eq!(environment::list(home.path()).unwrap().len(), 1);
    let e = ensure(&managed("/nonexistent/python"), home.path()).0.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Unavailable);
    assert!(e.to_string().contains("/nonexistent/python"), "{e}");
}

#[test]
fn requirements_keep_their_pins() {
    let spec = spec_of(json!(["numpy=1.19.2", { "pip": ["six==1.16.0", "azureml-defaults"] }]));
    let triscore::deploy::PythonSpec::Managed(list) = &spec.python else { panic!("{spec:?}") };
    let expected = "numpy==1.19.2\nsix==1.16.0\ninference-schema[numpy-support]\nflask>=2\n";
    assert_eq!(Requirements::of(list).unwrap().text(), expected);
}
