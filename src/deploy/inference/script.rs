//! The entry script and its folder: where they are, and whether a service can import them.

use std::path::{Component, Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::child;
use crate::deploy::report::{Report, short};
use crate::error::{ErrorKind, Result, ScoreError};

/// Where an entry script is.
#[derive(Debug, Default)]
pub(super) struct Script {
    /// Relative to the folder, or the file's name alone where there is none.
    pub(super) entry: PathBuf,
    pub(super) folder: Option<PathBuf>,
    pub(super) file: PathBuf,
}

/// Where a file that a configuration names is looked for; `None` looks for none.
#[derive(Debug, Clone, Copy)]
pub(super) struct Places<'a> {
    /// The folder of the configuration file, for a second try.
    pub(super) beside: Option<&'a Path>,
}

impl Places<'_> {
    /// Finds what `text` names: from the working directory (or `base`), as Azure's tools did, else, with
    /// a warning, from the configuration file's own folder.
    pub(super) fn find(
        &self,
        key: &str,
        text: &str,
        base: Option<&Path>,
        folder: bool,
        report: &mut Report,
    ) -> Option<PathBuf> {
        let there = |path: &Path| if folder { path.is_dir() } else { path.is_file() };
        let wanted = Path::new(text);
        let first = base.map_or_else(|| wanted.to_owned(), |base| base.join(wanted));
        if there(&first) {
            return Some(found(&first));
        }
        if let Some(second) = self.beside.map(|dir| dir.join(wanted)).filter(|p| there(p)) {
            let path = found(&second);
            report.warning(
                key,
                format!("not found from the working directory; {}, beside the file, is used", path.display()),
            );
            return Some(path);
        }
        let what = if folder { "a folder that exists" } else { "a file that exists" };
        report.violation(key, what, format!("'{}'", short(&absolute(&first).to_string_lossy())));
        None
    }
}

/// The script as a configuration names it. With places to look in, it must be there.
pub(super) fn script(
    entry: Option<&str>,
    folder: Option<&str>,
    places: Option<Places<'_>>,
    report: &mut Report,
) -> Script {
    let folder = folder.and_then(|text| match places {
        Some(places) => places.find("sourceDirectory", text, None, true, report),
        None => Some(absolute(Path::new(text))),
    });
    if let Some(folder) = folder.as_deref().filter(|f| f.file_name().is_none()) {
        let got = format!("'{}'", folder.display());
        report.violation("sourceDirectory", "a folder with a name", got);
    }
    let Some(text) = entry else {
        report.fault("entryScript: need to specify entry_script");
        return Script { folder, ..Script::default() };
    };
    check_name(text, report);
    let Some(root) = &folder else {
        let file = match places {
            Some(places) => places.find("entryScript", text, None, false, report),
            None => Some(absolute(Path::new(text))),
        };
        let file = file.unwrap_or_default();
        let entry = file.file_name().map(PathBuf::from).unwrap_or_default();
        return Script { entry, folder: None, file };
    };
    let Some(entry) = within(Path::new(text)) else {
        let got = format!("'{}'", short(text));
        report.violation("entryScript", "a path inside sourceDirectory", got);
        return Script { folder, ..Script::default() };
    };
    let file = root.join(&entry);
    if places.is_some() {
        look(text, root, &file, report);
    }
    Script { entry, file, folder }
}

/// Whether the file is there, and truly in its folder.
fn look(text: &str, folder: &Path, file: &Path, report: &mut Report) {
    if !file.is_file() {
        let mut got = format!("'{}', which does not exist", short(&file.to_string_lossy()));
        // The commonest slip: the folder is said twice.
        let named = folder.file_name().map(Path::new);
        if let Some(inner) =
            named.and_then(|name| within(Path::new(text))?.strip_prefix(name).ok().map(Path::to_owned))
            && folder.join(&inner).is_file()
        {
            got.push_str(&format!(": did you mean '{}'? it is relative to sourceDirectory", inner.display()));
        }
        report.violation("entryScript", "a file in sourceDirectory", got);
    } else if let (Ok(folder), Ok(real)) = (folder.canonicalize(), file.canonicalize())
        && !real.starts_with(&folder)
    {
        let got = format!("a link to '{}'", short(&real.to_string_lossy()));
        report.violation("entryScript", "a file in sourceDirectory", got);
    }
}

/// The script is imported as a module, so it must be named as one.
fn check_name(text: &str, report: &mut Report) {
    let path = Path::new(text);
    if path.extension().is_none_or(|e| e != "py") {
        report.violation(
            "entryScript",
            "a Python script with the extension .py",
            format!("'{}'", short(text)),
        );
        return;
    }
    let name = path.file_stem().map(|s| s.to_string_lossy()).unwrap_or_default();
    if !is_identifier(&name) {
        let expected = "a name that Python can import (letters, digits and _, no digit first)";
        report.violation("entryScript", expected, format!("'{}'", short(&name)));
    } else if KEYWORDS.contains(&name.as_ref()) {
        report.violation("entryScript", "a name that is no keyword of Python", format!("'{name}'"));
    }
}

const KEYWORDS: [&str; 35] = [
    "False", "None", "True", "and", "as", "assert", "async", "await", "break", "class", "continue", "def",
    "del", "elif", "else", "except", "finally", "for", "from", "global", "if", "import", "in", "is",
    "lambda", "nonlocal", "not", "or", "pass", "raise", "return", "try", "while", "with", "yield",
];

fn is_identifier(name: &str) -> bool {
    let mut letters = name.chars();
    letters.next().is_some_and(|c| c.is_alphabetic() || c == '_')
        && letters.all(|c| c.is_alphanumeric() || c == '_')
}

/// A path without `.` and `..`, if it stays inside of where it begins.
fn within(path: &Path) -> Option<PathBuf> {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => out.push(name),
            Component::CurDir => {}
            Component::ParentDir if out.pop() => {}
            _ => return None,
        }
    }
    Some(out).filter(|p| !p.as_os_str().is_empty())
}

/// The path of what is there, from the root. A link at its end keeps its name: services are given the name of
/// the folder.
fn found(path: &Path) -> PathBuf {
    match path.components().all(|c| c != Component::ParentDir) {
        true => absolute(path),
        false => path.canonicalize().unwrap_or_else(|_| absolute(path)),
    }
}

/// The path from the root, by its text alone.
pub(super) fn absolute(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            // The root is its own parent.
            Component::ParentDir => drop(out.pop()),
            Component::CurDir => {}
            part => out.push(part),
        }
    }
    out
}

/// Whether a script is Python, as far as one interpreter can tell without running it.
///
/// # Errors
/// `BadConfig` with file, line and Python's own words when it is not; `Unavailable` when the interpreter
/// does not run; `NotFound` or `Io` for the file.
pub fn check_syntax(python: &Path, script: &Path) -> Result<()> {
    const TIMEOUT: Duration = Duration::from_secs(60);
    const OUTPUT_BYTES: usize = 16 << 10;
    /// Far more than anybody writes, and less than makes a parser suffer.
    const SCRIPT_BYTES: u64 = 16 << 20;
    /// Says what is wrong in one line, as `line TAB message`, and exits with 3.
    const CHECK: &str = r#"
import ast, sys
try:
    with open(sys.argv[1], "rb") as file:
        ast.parse(file.read(), sys.argv[1])
except SyntaxError as e:
    text = f": {e.text.strip()}" if e.text and e.text.strip() else ""
    said = f"{e.lineno or 0}\t{type(e).__name__}: {e.msg}{text}"
except (ValueError, RecursionError, MemoryError) as e:
    said = f"0\t{type(e).__name__}: {e}"
else:
    sys.exit(0)
sys.stdout.buffer.write(said.replace("\n", " ").encode("utf-8", "backslashreplace"))
sys.exit(3)
"#;
    let shown = script.display().to_string();
    let size = script.metadata().map_err(|e| ScoreError::io("read the entry script", script, e))?.len();
    if size > SCRIPT_BYTES {
        let text = format!("expected a script of at most {SCRIPT_BYTES} bytes, got {size}");
        return Err(ScoreError::bad_config(text).with_at(shown));
    }
    let cannot = |why: String| {
        ScoreError::unavailable(format!("the interpreter cannot check the entry script: {why}"))
            .with_at(python.display().to_string())
    };
    let mut command = Command::new(python);
    // Isolated: neither the script's folder nor the user's packages may get in the way of `ast`.
    command.args(["-I", "-c", CHECK]).arg(script);
    let ended = child::run(&mut command, TIMEOUT, OUTPUT_BYTES).map_err(|e| cannot(e.to_string()))?;
    if ended.is_good() {
        return Ok(());
    }
    match ended.status.map(|s| s.code()) {
        Some(Some(3)) => {
            let (line, message) = ended.out.split_once('\t').unwrap_or(("0", &ended.out));
            let at = if line == "0" { shown } else { format!("{shown}, line {line}") };
            Err(ScoreError::bad_config(short_line(message)).with_at(at))
        }
        Some(_) => Err(cannot(short_line(ended.err.lines().last().unwrap_or("it crashed")))),
        None => Err(ScoreError::new(
            ErrorKind::DeadlineExceeded,
            format!("checking the entry script took longer than {} s", TIMEOUT.as_secs()),
        )
        .with_at(shown)),
    }
}

fn short_line(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_modules() {
        for (name, good) in [
            ("score.py", true),
            ("sub/_x1.py", true),
            ("größe.py", true),
            ("score.txt", false),
            ("score", false),
            ("my-score.py", false),
            ("1score.py", false),
            ("my score.py", false),
            ("class.py", false),
            (".py", false),
        ] {
            let mut report = Report::default();
            check_name(name, &mut report);
            assert_eq!(report.close().is_ok(), good, "{name}");
        }
    }

    #[test]
    fn paths_stay_inside() {
        for (path, inside) in [
            ("score.py", Some("score.py")),
            ("./a/./b.py", Some("a/b.py")),
            ("a/../b.py", Some("b.py")),
            ("../b.py", None),
            ("a/../../b.py", None),
            ("/b.py", None),
            (".", None),
        ] {
            assert_eq!(within(Path::new(path)), inside.map(PathBuf::from), "{path}");
        }
    }

    #[test]
    fn python_says_what_is_wrong_and_where() {
        let dir = tempfile::tempdir().unwrap();
        let python = Path::new("python3");
        let check = |text: &[u8]| {
            let script = dir.path().join("score.py");
            std::fs::write(&script, text).unwrap();
            check_syntax(python, &script)
        };
        check(b"def init():\n    pass\n").unwrap();
        check(b"raise SystemExit('is not run')\n").unwrap();
        for (text, at, words) in [
            (&b"def init():\n    x = = 1\n"[..], "score.py, line 2", "SyntaxError: invalid syntax"),
            (b"def run(a)\n    return a\n", "score.py, line 1", "SyntaxError"),
            (b"def run(a):\nreturn a\n", "score.py, line 2", "IndentationError"),
            (b"x = '\xff'\n", "score.py", "SyntaxError"),
            (b"x = 1\0\n", "score.py", "null bytes"),
        ] {
            let e = check(text).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::BadConfig, "{e}");
            assert!(e.at().unwrap().contains(at) && e.message().contains(words), "{e}");
        }
        let script = dir.path().join("score.py");
        for python in ["/nonexistent/python", "false"] {
            assert_eq!(check_syntax(Path::new(python), &script).unwrap_err().kind(), ErrorKind::Unavailable);
        }
        let gone = check_syntax(python, &dir.path().join("gone.py")).unwrap_err();
        assert_eq!(gone.kind(), ErrorKind::NotFound);
    }
}
