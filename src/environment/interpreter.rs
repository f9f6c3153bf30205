//! Finding a Python interpreter on this machine: the version that was asked for, or, with a word about it,
//! another.
//!
//! A name on `PATH` says little (it may be a shim, a store's placeholder, or a Python without `venv`), so
//! every candidate is run and asked. Files of 2021 ask for versions that are past their end of life and that
//! nobody has any more; refusing them would refuse the very files that are to work.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde::Deserialize;

use crate::child;
use crate::deploy::Warning;
use crate::error::{Result, ScoreError};

/// The oldest Python that runs entry scripts.
pub const MIN_PYTHON: (u32, u32) = (3, 8);

/// The variable that names an interpreter, wherever it is.
pub const PYTHON_VARIABLE: &str = "TRISCORE_PYTHON";

/// An interpreter that was asked for its version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Interpreter {
    pub(super) path: PathBuf,
    pub(super) version: [u32; 3],
}

impl Interpreter {
    /// `3.11.7`.
    pub(super) fn version_text(&self) -> String {
        self.version.map(|n| n.to_string()).join(".")
    }
}

/// What an interpreter says of itself.
#[derive(Deserialize)]
struct Said {
    version: [u32; 3],
    is_final: bool,
    executable: PathBuf,
    has_venv: bool,
}

/// Runs an interpreter and asks it. With `venv`, it must be able to make environments.
fn ask(path: &Path, venv: bool) -> std::result::Result<Interpreter, String> {
    const TIMEOUT: Duration = Duration::from_secs(20);
    const ASK: &str = "import importlib.util, json, sys\n\
        print(json.dumps({'version': list(sys.version_info[:3]), \
        'is_final': sys.version_info[3] == 'final', 'executable': sys.executable, \
        'has_venv': all(importlib.util.find_spec(m) for m in ('venv', 'ensurepip'))}))";
    let mut command = Command::new(path);
    command.args(["-I", "-c", ASK]);
    let ended = child::run(&mut command, TIMEOUT, 16 << 10).map_err(|e| e.to_string())?;
    if ended.status.is_none() {
        return Err(format!("does not answer within {} s", TIMEOUT.as_secs()));
    }
    let last =
        |text: &str| text.lines().last().unwrap_or("it says nothing").chars().take(200).collect::<String>();
    if !ended.is_good() {
        return Err(format!("does not run: {}", last(&ended.err)));
    }
    let said: Said =
        serde_json::from_str(&ended.out).map_err(|_| format!("is no Python: {}", last(&ended.out)))?;
    let found = Interpreter { path: said.executable, version: said.version };
    let [major, minor, _] = said.version;
    if (major, minor) < MIN_PYTHON || major != 3 {
        return Err(format!("is Python {}, and 3.8 or newer is needed", found.version_text()));
    }
    if venv && !said.has_venv {
        return Err("has no modules venv and ensurepip: install python3-venv".to_owned());
    }
    if venv && !said.is_final {
        return Err(format!("is a preview of Python {}", found.version_text()));
    }
    Ok(found)
}

/// What is asked of a version: `=3.8.5`, `>=3.8,<3.11`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted(Vec<(String, Vec<u32>)>);

impl Wanted {
    fn parse(text: &str) -> Result<Self> {
        let bad = || {
            let expected = "expected a version of Python, such as '=3.8' or '>=3.8,<3.11'";
            ScoreError::bad_config(format!("{expected}, got '{text}'")).with_at("python")
        };
        let clause = |clause: &str| {
            let clause = clause.trim();
            let version = clause.trim_start_matches(['<', '>', '=', '!', '~']);
            let operator = clause.strip_suffix(version)?;
            // What follows the version is conda's build.
            let version = version.trim().split(['=', ' ']).next()?.trim_end_matches(".*");
            let parts = version.split('.').map(|n| n.parse().ok()).collect::<Option<Vec<u32>>>()?;
            let known = ["=", "==", "!=", "<", "<=", ">", ">=", "~="];
            (known.contains(&operator) && parts.len() <= 3).then(|| (operator.to_owned(), parts))
        };
        text.split(',').map(clause).collect::<Option<Vec<_>>>().map(Self).ok_or_else(bad)
    }

    /// Whether a version is what was asked for. The third number of an exact version does not count: nobody
    /// keeps more than one of a kind, and they differ in repairs alone.
    fn is_met_by(&self, version: [u32; 3]) -> bool {
        self.0.iter().all(|(operator, parts)| {
            let same = |count: usize| parts.iter().zip(version).take(count).all(|(a, b)| *a == b);
            let order = version.iter().take(parts.len()).cmp(parts.iter());
            match operator.as_str() {
                "=" | "==" => same(2),
                "!=" => !same(3),
                "<" => order.is_lt(),
                "<=" => order.is_le(),
                ">" => order.is_gt(),
                ">=" => order.is_ge(),
                _ => order.is_ge() && same(parts.len().saturating_sub(1)),
            }
        })
    }
}

/// `3.9` for `=3.9.1`: the minor version, if exactly one is asked for that runs entry scripts.
pub(super) fn pinned(wanted: &str) -> Option<String> {
    match Wanted::parse(wanted).ok()?.0.as_slice() {
        [(operator, parts)] if matches!(operator.as_str(), "=" | "==") => match parts.as_slice() {
            [major, minor, ..] if (*major, *minor) >= MIN_PYTHON => Some(format!("{major}.{minor}")),
            _ => None,
        },
        _ => None,
    }
}

/// Where to look.
#[derive(Debug, Clone, Default)]
pub(super) struct Search {
    named: Option<PathBuf>,
    path: Vec<PathBuf>,
    pyenv: Option<PathBuf>,
}

/// A file that may be an interpreter, and the minor version that its name claims.
type Candidate = (PathBuf, Option<u32>);

impl Search {
    /// Where this process's user would look.
    pub(super) fn of_this_process() -> Self {
        let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty());
        let path = set("PATH").map(|p| std::env::split_paths(&p).collect::<Vec<_>>()).unwrap_or_default();
        let usual = ["/usr/local/bin", "/usr/bin"].map(PathBuf::from);
        let home = set("HOME").map(|home| PathBuf::from(home).join(".pyenv"));
        Self {
            named: set(PYTHON_VARIABLE).map(PathBuf::from),
            path: path.into_iter().filter(|p| p.is_absolute()).chain(usual).collect(),
            pyenv: set("PYENV_ROOT").map(PathBuf::from).or(home),
        }
    }

    /// The interpreter for an environment, and a word where it is not the version that was asked for.
    ///
    /// # Errors
    /// `BadConfig`: what was asked for is no version. `Unavailable`: there is no interpreter that can be used, with
    /// every one that was looked at.
    pub(super) fn find(&self, wanted: Option<&str>) -> Result<(Interpreter, Option<Warning>)> {
        let wanted = wanted.map(Wanted::parse).transpose()?;
        let named = match &self.named {
            // What somebody named is not passed over in silence.
            Some(path) => Some(ask(path, true).map_err(|why| {
                ScoreError::unavailable(format!("{}: {why}", path.display())).with_at(PYTHON_VARIABLE)
            })?),
            None => None,
        };
        let fits = |found: &Interpreter| wanted.as_ref().is_none_or(|w| w.is_met_by(found.version));
        if let Some(found) = named.clone().filter(&fits) {
            return Ok((found, None));
        }
        // Whether any Python that runs entry scripts can be what was asked for.
        let may_fit = |wanted: &Wanted, minor: u32| (0..100).any(|micro| wanted.is_met_by([3, minor, micro]));
        let is_possible = wanted.as_ref().is_none_or(|w| (MIN_PYTHON.1..100).any(|minor| may_fit(w, minor)));
        let mut looked_at = Vec::new();
        let mut first = |candidates: Vec<Candidate>, fits: &dyn Fn(&Interpreter) -> bool| {
            candidates.into_iter().find_map(|(path, _)| match ask(&path, true) {
                Ok(found) => fits(&found).then_some(found),
                Err(why) => {
                    looked_at.push(format!("{} {why}", path.display()));
                    None
                }
            })
        };
        if let Some(wanted) = wanted.as_ref().filter(|_| is_possible) {
            // Only names that may be meant are run: the search is part of every deployment.
            let mut likely = self.candidates();
            likely.retain(|(_, claim)| claim.is_none_or(|m| m >= MIN_PYTHON.1 && may_fit(wanted, m)));
            if let Some(found) = first(likely, &fits) {
                return Ok((found, None));
            }
        } else if wanted.is_none() {
            // The user's own `python3` first.
            let own = self
                .path
                .iter()
                .map(|dir| (dir.join("python3"), None))
                .filter(|(p, _)| p.is_file())
                .collect();
            if let Some(found) = first(own, &fits) {
                return Ok((found, None));
            }
        }
        let any = named.or_else(|| first(self.candidates(), &|_| true)).ok_or_else(|| {
            looked_at.sort();
            looked_at.dedup();
            let list = if looked_at.is_empty() { "none is on PATH".to_owned() } else { looked_at.join("; ") };
            ScoreError::unavailable(format!(
                "no Python 3.8 or newer that can make environments: {list}. Install python3 and python3-venv, or \
                 name an interpreter in {PYTHON_VARIABLE}"
            ))
        })?;
        let warning = wanted.map(|wanted| {
            let (version, wanted) = (any.version_text(), wanted.to_string());
            let why =
                if is_possible { "is not on this machine" } else { "is too old, entry scripts need 3.8" };
            let message = format!("python{wanted} {why}: Python {version} is used instead");
            Warning { key: "python".to_owned(), message }
        });
        Ok((any, warning))
    }

    /// Every file that may be an interpreter: the newest by its name first, those without a claim last.
    fn candidates(&self) -> Vec<Candidate> {
        let mut found: Vec<Candidate> = Vec::new();
        for dir in &self.path {
            for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
                let name = entry.file_name();
                let Some(rest) = name.to_str().and_then(|n| n.strip_prefix("python")) else { continue };
                let claim = rest.strip_prefix("3.").and_then(|minor| minor.parse().ok());
                if claim.is_some() || rest.is_empty() || rest == "3" {
                    found.push((entry.path(), claim));
                }
            }
        }
        let versions = self.pyenv.as_ref().map(|root| root.join("versions"));
        for entry in versions.and_then(|dir| std::fs::read_dir(dir).ok()).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let claim = name.strip_prefix("3.").and_then(|rest| rest.split('.').next()?.parse().ok());
            found.push((entry.path().join("bin/python3"), claim));
        }
        found.retain(|(path, _)| path.is_file());
        // pyenv's shims are slow to say that they stand for nothing; what they stand for is in the list too.
        let is_shim = |path: &Path| path.parent().is_some_and(|p| p.ends_with("shims"));
        found.sort_by_key(|(path, claim)| (claim.is_none(), std::cmp::Reverse(*claim), is_shim(path)));
        found
    }

    /// An interpreter that the user looks after: a path, or a name on `PATH`.
    ///
    /// # Errors
    /// `Unavailable` when it is not there or cannot be used.
    pub(super) fn user_managed(&self, name: &str) -> Result<Interpreter> {
        let unavailable = |why: String| {
            ScoreError::unavailable(format!("the interpreter '{name}' {why}")).with_at("interpreterPath")
        };
        if name.contains('/') {
            return ask(Path::new(name), false).map_err(unavailable);
        }
        let mut why = "is not on PATH".to_owned();
        // "python" is what stands in every file; many machines have `python3` alone.
        let names = if name == "python" { vec![name, "python3"] } else { vec![name] };
        for path in names.iter().flat_map(|name| self.path.iter().map(move |dir| dir.join(name))) {
            if path.is_file() {
                match ask(&path, false) {
                    Ok(found) => return Ok(found),
                    Err(e) => why = e,
                }
            }
        }
        Err(unavailable(why))
    }
}

impl std::fmt::Display for Wanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, (operator, parts)) in self.0.iter().enumerate() {
            let version = parts.iter().map(u32::to_string).collect::<Vec<_>>().join(".");
            write!(f, "{}{operator}{version}", if i > 0 { "," } else { "" })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// A program that says it is a Python of that version.
    fn fake(dir: &Path, name: &str, version: &str, has_venv: bool) {
        let (path, list) = (dir.join(name), version.replace('.', ","));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let said = format!(
            "{{\"version\":[{list}],\"is_final\":true,\"executable\":\"{}\",\"has_venv\":{has_venv}}}",
            path.display()
        );
        write(&path, &format!("#!/bin/sh\necho '{said}'\n"));
    }

    fn write(path: &Path, text: &str) {
        std::fs::write(path, text).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn versions_are_met() {
        for (wanted, version, met) in [
            ("=3.8", [3, 8, 5], true),
            ("=3.8.2", [3, 8, 5], true),
            ("=3.8.2=h123_0", [3, 8, 5], true),
            ("==3.8.*", [3, 8, 5], true),
            ("=3", [3, 12, 0], true),
            ("=3.8", [3, 9, 0], false),
            (">=3.8,<3.11", [3, 10, 9], true),
            (">=3.8,<3.11", [3, 11, 0], false),
            ("<=3.10", [3, 10, 4], true),
            (">3.10", [3, 10, 4], false),
            ("!=3.10", [3, 10, 4], false),
            ("~=3.9", [3, 12, 0], true),
            ("~=3.9.1", [3, 10, 0], false),
        ] {
            assert_eq!(Wanted::parse(wanted).unwrap().is_met_by(version), met, "{wanted} {version:?}");
        }
        for (wanted, minor) in [("=3.9.1", Some("3.9")), ("=3.6.2", None), ("=3", None), (">=3.9", None)] {
            assert_eq!(pinned(wanted).as_deref(), minor, "{wanted}");
        }
        for bad in ["3.8", "=", "=three", ">=3.8|<3", "=3.8.1.2", ""] {
            let e = Wanted::parse(bad).unwrap_err();
            assert!(e.kind() == crate::ErrorKind::BadConfig && e.to_string().contains(bad), "{e}");
        }
    }

    #[test]
    fn the_version_that_was_asked_for_is_found_wherever_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two, pyenv) = (dir.path().join("one"), dir.path().join("two"), dir.path().join("pyenv"));
        fake(&one, "python3", "3.11.2", true);
        fake(&two, "python3.9", "3.9.7", true);
        fake(&two, "python3.12", "3.12.1", false);
        fake(&two, "python3.7", "3.7.1", true);
        fake(&pyenv, "versions/3.10.4/bin/python3", "3.10.4", true);
        write(&two.join("python3.8"), "#!/bin/sh\necho 'command not found' >&2\nexit 127\n");
        let search = Search { named: None, path: vec![one.clone(), two], pyenv: Some(pyenv) };
        for (wanted, version, instead) in [
            (None, "3.11.2", false),
            (Some("=3.9.1"), "3.9.7", false),
            (Some("=3.10"), "3.10.4", false),
            (Some("=3.11"), "3.11.2", false),
            (Some(">=3.9,<3.11"), "3.10.4", false),
            // Not there, too old to serve, without venv, not what its name says.
            (Some("=3.13"), "3.10.4", true),
            (Some("=3.6.2"), "3.10.4", true),
            (Some("=3.7"), "3.10.4", true),
            (Some("=3.12"), "3.10.4", true),
            (Some("=3.8.5"), "3.10.4", true),
        ] {
            let (found, warning) = search.find(wanted).unwrap();
            assert_eq!((found.version_text().as_str(), warning.is_some()), (version, instead), "{wanted:?}");
            if let Some(warning) = warning {
                let wanted = wanted.unwrap();
                let old = ["=3.6.2", "=3.7"].contains(&wanted);
                let why = if old { "is too old, entry scripts need 3.8" } else { "is not on this machine" };
                let text = format!("python{wanted} {why}: Python 3.10.4 is used instead");
                assert!(warning.message.starts_with(&text), "{warning}");
            }
        }

        let named = Search { named: Some(one.join("python3")), ..search.clone() };
        assert_eq!(named.find(Some("=3.9")).unwrap().0.version_text(), "3.9.7");
        assert_eq!(named.find(Some("=3.6")).unwrap().0.version_text(), "3.11.2");
        let wrong = Search { named: Some(dir.path().join("gone")), ..search };
        let e = wrong.find(None).unwrap_err().to_string();
        assert!(e.starts_with("TRISCORE_PYTHON: ") && e.contains("gone"), "{e}");
    }

    #[test]
    fn what_is_missing_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let search = Search { path: vec![dir.path().to_owned()], ..Search::default() };
        let e = search.find(None).unwrap_err();
        assert!(e.kind() == crate::ErrorKind::Unavailable && e.message().contains("none is on PATH"), "{e}");
        fake(dir.path(), "python3.12", "3.12.1", false);
        fake(dir.path(), "python3", "3.7.1", true);
        let e = search.find(Some("=3.9")).unwrap_err().to_string();
        for words in
            ["python3.12 has no modules venv", "python3 is Python 3.7.1", "python3-venv", PYTHON_VARIABLE]
        {
            assert!(e.contains(words), "{e}");
        }

        fake(dir.path(), "python3.12", "3.12.1", false);
        assert_eq!(search.user_managed("python3.12").unwrap().version, [3, 12, 1]);
        fake(dir.path(), "python3", "3.9.1", false);
        assert_eq!(search.user_managed("python").unwrap().version, [3, 9, 1]);
        let path = dir.path().join("python3");
        assert_eq!(search.user_managed(path.to_str().unwrap()).unwrap().path, path);
        for (name, words) in [("ruby", "is not on PATH"), ("/nonexistent/python", "No such file")] {
            let e = search.user_managed(name).unwrap_err();
            assert!(e.kind() == crate::ErrorKind::Unavailable && e.to_string().contains(words), "{e}");
        }
    }
}
