//! Making an environment, and what to say when that fails.

use std::process::Command;

use super::run::{Log, run};
use super::store::{Mark, Place};
use super::{Plan, Progress, redact};
use crate::error::{ErrorKind, Result, ScoreError};
use crate::scoring::Call;

/// Builds an environment in its place, which the caller holds alone. Where that fails, the folder is gone and
/// the log is there.
pub(super) fn build(
    place: &Place,
    plan: &Plan,
    call: &Call,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<()> {
    place.clear()?;
    let mut log = Log::create(&place.log())?;
    let done = steps(place, plan, &mut log, call, progress);
    if done.is_err() {
        // What stays behind is without its mark, and is thrown away by the next build.
        let _ = place.clear();
    }
    done
}

fn steps(
    place: &Place,
    plan: &Plan,
    log: &mut Log,
    call: &Call,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<()> {
    let python_version = plan.interpreter.version_text();
    progress(Progress::Creating { python_version: &python_version });
    log.line(&format!("# {} -m venv", plan.interpreter.path.display()));
    let mut venv = Command::new(&plan.interpreter.path);
    venv.args(["-I", "-m", "venv"]).arg(place.folder());
    if !run(venv, log, call, &mut |_| {})?.success() {
        return Err(failed(log, plan, "Python cannot make an environment", ErrorKind::Unavailable));
    }
    let list = place.folder().join("requirements.txt");
    place.write(&list, plan.requirements.text().as_bytes())?;
    if !plan.requirements.lines.is_empty() {
        log.line("# pip install");
        let mut pip = Command::new(place.python());
        pip.args(["-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--no-color"])
            .args(["--progress-bar", "off", "-r"])
            .arg(&list)
            // The user's configuration says where packages come from, but not where they go.
            .env("PIP_USER", "0")
            .env("PYTHONUNBUFFERED", "1");
        for name in ["PYTHONPATH", "PYTHONHOME", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_DRY_RUN"] {
            pip.env_remove(name);
        }
        if !run(pip, log, call, &mut |line| tell(line, progress))?.success() {
            return Err(failed(log, plan, "pip cannot install the packages", ErrorKind::BadConfig));
        }
    }
    place.set_mark(&Mark {
        hash: plan.hash.clone(),
        interpreter: plan.interpreter.path.clone(),
        python_version,
    })
}

/// The few lines of pip that somebody who waits wants to see.
fn tell(line: &str, progress: &mut dyn FnMut(Progress<'_>)) {
    let line = redact(line);
    let line = line.trim();
    let first = |rest: &str| rest.split(" (").next().unwrap_or_default().to_owned();
    if let Some(rest) = line.strip_prefix("Collecting ") {
        progress(Progress::Collecting(&first(rest)));
    } else if let Some(rest) = line.strip_prefix("Downloading ") {
        progress(Progress::Downloading(&first(rest)));
    } else if let Some(rest) = line.strip_prefix("Building wheel for ") {
        progress(Progress::Compiling(&first(rest)));
    } else if let Some(rest) = line.strip_prefix("Installing collected packages: ") {
        progress(Progress::Installing { packages: rest.split(',').count() });
    }
}

/// What pip prints when no index answers; with it, the requirements are not to blame.
const UNREACHABLE: &[&str] = &[
    "NewConnectionError",
    "ConnectTimeoutError",
    "ReadTimeoutError",
    "ProxyError",
    "CERTIFICATE_VERIFY_FAILED",
    "Connection refused",
    "Network is unreachable",
    "Temporary failure in name resolution",
    "Name or service not known",
    "Connection aborted",
];

fn failed(log: &Log, plan: &Plan, what: &str, kind: ErrorKind) -> ScoreError {
    let lines = log.tail().collect::<Vec<_>>();
    let has = |words: &[&str]| lines.iter().any(|line| words.iter().any(|word| line.contains(word)));
    let kind = if has(&["No space left on device"]) {
        ErrorKind::Io
    } else if has(UNREACHABLE) {
        ErrorKind::Unavailable
    } else {
        kind
    };
    let mut message = format!("{what}:\n{}", said(&lines).join("\n"));
    if kind == ErrorKind::Unavailable && has(UNREACHABLE) {
        message.push_str(
            "\nThe package index cannot be reached: look at the network, and at pip's configuration.",
        );
    } else if has(&["(from versions: none)"]) {
        message.push_str(
            "\nNo version of it is offered at all: look at its name, and at the index in pip's configuration.",
        );
    } else if has(&["No matching distribution", "Requires-Python", "requires a different Python"]) {
        let version = plan.interpreter.version_text();
        message.push_str(&format!(
            "\nThe interpreter is Python {version}: a version that was made for another one is not offered to it. \
             Install that Python, or ask for a version that is offered."
        ));
    } else if has(&["Failed building wheel", "subprocess-exited-with-error", "error: command"]) {
        let version = plan.interpreter.version_text();
        message.push_str(&format!(
            "\nThere is no ready-made package for Python {version}, and building it from its source failed."
        ));
    }
    for note in plan.notes.iter().filter(|note| note.key == "python") {
        message.push_str(&format!("\n{}.", note.message));
    }
    message.push_str(&format!("\nThe whole log: {}", log.path().display()));
    ScoreError::new(kind, message)
}

/// What stands for the whole log in a message: its errors, or else its last lines.
fn said(lines: &[&str]) -> Vec<String> {
    const MOST: usize = 12;
    const LONGEST: usize = 600;
    let shorten = |line: &&str| {
        let mut out = line.chars().filter(|c| !c.is_control()).take(LONGEST).collect::<String>();
        if line.chars().nth(LONGEST).is_some() {
            out.push('…');
        }
        format!("  {}", out.trim_end())
    };
    // pip's own, and those of the Python programs that it runs: `ModuleNotFoundError: …`.
    let is_error = |line: &&&str| {
        let first = line.trim_start().split([':', ' ']).next().unwrap_or_default();
        first.eq_ignore_ascii_case("error") || first.ends_with("Error")
    };
    let mut errors = lines.iter().filter(is_error).map(shorten).collect::<Vec<_>>();
    errors.dedup();
    if errors.is_empty() {
        let full = lines.iter().filter(|line| !line.trim().is_empty()).collect::<Vec<_>>();
        return full.into_iter().rev().take(5).rev().map(shorten).collect();
    }
    errors.split_off(errors.len().saturating_sub(MOST))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment::interpreter::Interpreter;
    use crate::environment::requirements::Requirements;

    fn error(lines: &[&str]) -> ScoreError {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Log::create(&dir.path().join("x.log")).unwrap();
        lines.iter().for_each(|line| log.line(line));
        let interpreter = Interpreter { path: "/usr/bin/python3".into(), version: [3, 11, 7] };
        let instead = "python=3.6 is not on this machine: Python 3.11.7 is used instead".to_owned();
        let notes = vec![crate::deploy::Warning { key: "python".to_owned(), message: instead }];
        let plan = Plan { interpreter, requirements: Requirements::default(), notes, hash: String::new() };
        failed(&log, &plan, "pip cannot install the packages", ErrorKind::BadConfig)
    }

    #[test]
    fn failures_say_what_pip_said_and_what_to_do() {
        let none = "ERROR: No matching distribution found for numpy==1.16";
        let refused =
            "WARNING: Retrying (Retry(total=4)) after connection broken by 'NewConnectionError(...)'";
        let rows: [(&[&str], ErrorKind, &[&str]); 6] = [
            (
                &["Collecting numpy==1.16", none],
                ErrorKind::BadConfig,
                &[none, "Python 3.11.7", "x.log", "python=3.6"],
            ),
            (&[refused, none], ErrorKind::Unavailable, &[none, "cannot be reached"]),
            (&["OSError: [Errno 28] No space left on device"], ErrorKind::Io, &["No space left"]),
            (
                &[
                    "      ModuleNotFoundError: No module named 'distutils'",
                    "ERROR: Failed building wheel for x",
                ],
                ErrorKind::BadConfig,
                &["No module named 'distutils'", "from its source failed"],
            ),
            (&["ERROR: … x (from versions: none)", none], ErrorKind::BadConfig, &["look at its name"]),
            (&["", "something odd"], ErrorKind::BadConfig, &["something odd"]),
        ];
        for (lines, kind, words) in rows {
            let e = error(lines);
            assert_eq!(e.kind(), kind, "{e}");
            for word in words {
                assert!(e.message().contains(word), "expected {word} in {e}");
            }
        }
        let many =
            (0..100).map(|i| format!("ERROR: {i} http://u:p@h/ {}", "x".repeat(5000))).collect::<Vec<_>>();
        let e = error(&many.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(
            e.message().len() < 10_000 && e.message().contains("ERROR: 99") && !e.message().contains("u:p")
        );
    }

    #[test]
    fn progress_is_read_from_pips_lines() {
        let mut seen = Vec::new();
        for line in [
            "Looking in links: /x",
            "Collecting pytz>=2017.2 (from inference-schema)",
            "  Downloading pytz-2026.6-py2.py3-none-any.whl (506 kB)",
            "  Building wheel for old (setup.py): started",
            "Collecting x@ https://u:p@h/x.whl",
            "Installing collected packages: pytz, wrapt, tzdata",
        ] {
            tell(line, &mut |p| seen.push(p.to_string()));
        }
        let expected = [
            "collecting pytz>=2017.2",
            "downloading pytz-2026.6-py2.py3-none-any.whl",
            "building old from its source",
            "collecting x@ https://****@h/x.whl",
            "installing 3 packages",
        ];
        assert_eq!(seen, expected);
    }
}
