//! A conda specification: `{name, channels, dependencies: [text, …, {pip: [text, …]}]}`.

use serde_json::Value;

use super::ManagedPython;
use super::section::Section;
use crate::deploy::report::{Report, describe, short};

const KEYS: &[&str] = &["name", "channels", "dependencies", "prefix", "variables"];

/// Reads a specification: an object in the file, or a file of its own.
pub(super) fn managed(at: &str, value: &Value, report: &mut Report) -> ManagedPython {
    let spec = Section::new(at, value, KEYS, report);
    let mut python = ManagedPython { channels: spec.lines("channels", report), ..Default::default() };
    if spec.says("variables") {
        report.warning(&spec.at("variables"), "ignored; put them into environmentVariables");
    }
    let dependencies = spec.value("dependencies");
    let Some(list) = dependencies.and_then(Value::as_array) else {
        if let Some(other) = dependencies {
            report.violation(&spec.at("dependencies"), "a list", describe(other, true));
        }
        return python;
    };
    for (i, item) in list.iter().enumerate() {
        let at = format!("{}[{i}]", spec.at("dependencies"));
        match item {
            Value::String(text) if !text.trim().is_empty() && !text.contains(char::is_control) => {
                package(&at, text.trim(), &mut python, report);
            }
            Value::Object(_) => {
                let inner = Section::new(&at, item, &["pip"], report);
                for line in inner.lines("pip", report) {
                    pip(&inner.at("pip"), line, &mut python, report);
                }
            }
            other => {
                let expected = "a package as a text of one line, or an object with the list 'pip'";
                report.violation(&at, expected, describe(other, true));
            }
        }
    }
    python
}

/// A package of conda's; `python` says which interpreter.
fn package(at: &str, text: &str, python: &mut ManagedPython, report: &mut Report) {
    let plain = text.rsplit("::").next().unwrap_or(text);
    let end = plain.find(|c: char| !(c.is_alphanumeric() || "-_.".contains(c))).unwrap_or(plain.len());
    let (name, rest) = plain.split_at(end);
    if !name.eq_ignore_ascii_case("python") {
        python.conda.push(text.to_owned());
        return;
    }
    let rest = rest.trim();
    if python.python_version.is_some() {
        report.violation(at, "python once", format!("'{}' as well", short(text)));
    } else if !rest.is_empty() {
        // `python 3.8` is the same as `python=3.8`.
        let bare = rest.starts_with(|c: char| c.is_alphanumeric() || "-_.".contains(c));
        let operator = if bare { "=" } else { "" };
        python.python_version = Some(format!("{operator}{rest}"));
    }
}

/// A line of pip's requirements: a package, or an option for all of them.
fn pip(at: &str, line: String, python: &mut ManagedPython, report: &mut Report) {
    if !line.starts_with('-') {
        // Comments are allowed there.
        if !line.starts_with('#') {
            python.pip.push(line);
        }
        return;
    }
    let option = line.split([' ', '=']).next().unwrap_or(&line);
    // What names another file: an environment travels without it.
    let file = ["-r", "--requirement", "-c", "--constraint", "-e", "--editable"];
    if file.contains(&option) || ["-r", "-c", "-e"].iter().any(|o| is_short(option, o)) {
        report.violation(
            at,
            "requirements themselves, as no other file comes along",
            format!("the option {option}"),
        );
    } else {
        python.pip_options.push(line);
    }
}

/// `-rfile`: a short option with its value.
fn is_short(text: &str, option: &str) -> bool {
    text.starts_with(option) && !text.starts_with("--")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(value: &Value) -> crate::Result<ManagedPython> {
        let mut report = Report::default();
        let python = managed("conda", value, &mut report);
        report.close().map(|_| python)
    }

    #[test]
    fn packages_options_and_the_interpreter_are_told_apart() {
        let python = read(&json!({
            "name": "x",
            "channels": ["conda-forge"],
            "dependencies": [
                "python=3.6.2", "conda-forge::numpy=1.19", "pip",
                {"pip": ["# why", "azureml-defaults", "--extra-index-url https://a/b", " six == 1.16 "]},
            ],
        }))
        .unwrap();
        assert_eq!(python.python_version.as_deref(), Some("=3.6.2"));
        assert_eq!(python.conda, ["conda-forge::numpy=1.19", "pip"]);
        assert_eq!(python.pip, ["azureml-defaults", "six == 1.16"]);
        assert_eq!(python.pip_options, ["--extra-index-url https://a/b"]);
        for (text, version) in [
            ("python", None),
            ("python 3.8", Some("=3.8")),
            ("python three", Some("=three")),
            ("python>=3.8,<3.11", Some(">=3.8,<3.11")),
            ("conda-forge::python ==3.9", Some("==3.9")),
        ] {
            let python = read(&json!({ "dependencies": [text] })).unwrap();
            assert_eq!(python.python_version.as_deref(), version, "{text}");
        }
        assert_eq!(read(&json!({})).unwrap(), ManagedPython::default());
        assert_eq!(read(&json!({ "dependencies": ["python-dateutil"] })).unwrap().conda, ["python-dateutil"]);
    }

    #[test]
    fn what_cannot_be_is_named() {
        for (value, words) in [
            (json!([]), "conda: expected an object, got a list"),
            (json!({ "dependencies": "six" }), "conda.dependencies: expected a list, got a text"),
            (json!({ "dependencies": [7] }), "conda.dependencies[0]: expected a package as a text"),
            (json!({ "dependencies": ["a\nb"] }), "conda.dependencies[0]"),
            (json!({ "dependencies": ["python=3.8", "python=3.9"] }), "python once"),
            (json!({ "dependencies": [{ "pip": "six" }] }), "conda.dependencies[0].pip: expected a list"),
            (json!({ "dependencies": [{ "pip": ["six", 1] }] }), "conda.dependencies[0].pip[1]"),
            (json!({ "dependencies": [{ "pip": ["six\n--pre"] }] }), "a text of one line"),
            (json!({ "dependencies": [{ "pip": ["six\u{2028}--pre"] }] }), "a text of one line"),
            (json!({ "dependencies": [{ "pip": ["-r requirements.txt"] }] }), "the option -r"),
            (json!({ "dependencies": [{ "pip": ["--constraint=c.txt"] }] }), "the option --constraint"),
            (json!({ "dependencies": [{ "pip": ["-e."] }] }), "the option -e."),
            (json!({ "channels": "x" }), "conda.channels: expected a list"),
        ] {
            let e = read(&value).unwrap_err().to_string();
            assert!(e.contains(words), "{value}: {e}");
        }
    }
}
