//! What a model is made from: one file, or a folder with all that is below it.
//!
//! Only regular files are taken. A link is refused rather than followed, because what it leads to may
//! lie outside what the user meant to give away; so is everything that is no file. All of it is
//! found out, and said at once, before the first byte is copied.

use std::path::{Path, PathBuf};

use crate::error::{ErrorKind, Result, ScoreError};

/// How much one model may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceLimits {
    /// The most files.
    pub max_files: usize,
    /// The most bytes, all files together.
    pub max_bytes: u64,
    /// The most folders inside each other.
    pub max_depth: usize,
}

impl Default for SourceLimits {
    fn default() -> Self {
        Self { max_files: 100_000, max_bytes: 1 << 40, max_depth: 64 }
    }
}

/// The files of a model to be.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SourceTree {
    pub(super) files: Vec<SourceFile>,
    pub(super) total_bytes: u64,
}

/// One of them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SourceFile {
    /// Where it is.
    pub(super) path: PathBuf,
    /// Its name in the model, with `/` between parts; the first part is the base name of what was given.
    pub(super) name: String,
    pub(super) size_bytes: u64,
}

/// Finds the files of a model, sorted by name. `top` replaces the base name of the path; nothing at or
/// below the `own` paths may be part of it.
pub(super) fn walk(
    path: &Path,
    top: Option<&str>,
    limits: &SourceLimits,
    own: &[PathBuf],
) -> Result<SourceTree> {
    let at = |e: ScoreError| e.with_at(path.display().to_string());
    // Without a slash at its end, which would follow a link.
    let given: PathBuf = path.components().collect();
    let meta = given.symlink_metadata().map_err(|e| ScoreError::io("find the model", path, e))?;
    if meta.is_symlink() {
        return Err(at(ScoreError::bad_input("is a symbolic link; give the path that it leads to")));
    }
    let root = given.canonicalize().map_err(|e| ScoreError::io("find the model", path, e))?;
    // `.` and `..` have no base name of their own.
    let base = given.file_name().or_else(|| root.file_name());
    let top = match (top, base.map(|name| name.to_str())) {
        (Some(top), _) => top.to_owned(),
        (None, Some(Some(name))) => name.to_owned(),
        (None, Some(None)) => return Err(at(ScoreError::bad_input("the name is not UTF-8; rename it"))),
        (None, None) => return Err(at(ScoreError::bad_input("has no name; give a file or folder below it"))),
    };

    let mut walk =
        Walk { limits, own, tree: SourceTree { files: Vec::new(), total_bytes: 0 }, faults: Vec::new() };
    walk.entry(root, top, 0).map_err(at)?;
    if !walk.faults.is_empty() {
        walk.faults.sort();
        let more = if walk.faults.len() > 10 {
            format!("\n  … and {} more", walk.faults.len() - 10)
        } else {
            String::new()
        };
        let list = walk.faults.iter().take(10).map(|f| format!("\n  {f}")).collect::<String>();
        return Err(at(ScoreError::bad_input(format!(
            "a model holds regular files only; these are not, and links are not followed:{list}{more}"
        ))));
    }
    if walk.tree.files.is_empty() {
        return Err(at(ScoreError::bad_input("the folder holds no file; a model needs at least one")));
    }
    walk.tree.files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(walk.tree)
}

struct Walk<'a> {
    limits: &'a SourceLimits,
    own: &'a [PathBuf],
    tree: SourceTree,
    faults: Vec<String>,
}

impl Walk<'_> {
    /// Takes in one entry, and what is below it; `max_depth` bounds the recursion.
    fn entry(&mut self, path: PathBuf, name: String, depth: usize) -> Result<()> {
        // The path is canonical, since the walk began at a canonical one and follows no link.
        if self.own.iter().any(|own| path.starts_with(own)) {
            return Err(ScoreError::bad_input(format!(
                "'{}' belongs to the workspace itself; register a folder without it",
                path.display()
            )));
        }
        let meta = path.symlink_metadata().map_err(|e| ScoreError::io("look at the file", &path, e))?;
        let kind = meta.file_type();
        if kind.is_dir() {
            return self.folder(&path, &name, depth);
        }
        if !kind.is_file() {
            let what = if kind.is_symlink() { "symbolic link" } else { "not a regular file" };
            self.faults.push(format!("'{name}' ({what})"));
            return Ok(());
        }
        self.tree.total_bytes = self.tree.total_bytes.saturating_add(meta.len());
        self.tree.files.push(SourceFile { path, name, size_bytes: meta.len() });
        let limits = self.limits;
        let over = |what: String| Err(ScoreError::new(ErrorKind::TooLarge, what));
        if self.tree.files.len() > limits.max_files {
            return over(format!("holds more than {} files, the limit for one model", limits.max_files));
        }
        if self.tree.total_bytes > limits.max_bytes {
            return over(format!("holds more than {} bytes, the limit for one model", limits.max_bytes));
        }
        Ok(())
    }

    fn folder(&mut self, path: &Path, name: &str, depth: usize) -> Result<()> {
        if depth >= self.limits.max_depth {
            return Err(ScoreError::new(
                ErrorKind::TooLarge,
                format!("folders lie more than {} deep, the limit for one model", self.limits.max_depth),
            ));
        }
        let read = |e| ScoreError::io("read the folder", path, e);
        for entry in std::fs::read_dir(path).map_err(read)? {
            let entry = entry.map_err(read)?;
            match entry.file_name().to_str() {
                Some(part) => self.entry(entry.path(), format!("{name}/{part}"), depth + 1)?,
                None => {
                    self.faults.push(format!("'{name}/{}' (name is not UTF-8)", entry.file_name().display()))
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("m/sub/empty")).unwrap();
        for (name, text) in [("m/model.onnx", "abc"), ("m/sub/weights.bin", "defgh"), ("m/.hidden", "")] {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    fn names(path: &Path) -> Vec<String> {
        let tree = walk(path, None, &SourceLimits::default(), &[]).unwrap();
        tree.files.into_iter().map(|f| f.name).collect()
    }

    #[test]
    fn names_are_relative_to_the_parent() {
        let dir = tree();
        let m = dir.path().join("m");
        let all = ["m/.hidden", "m/model.onnx", "m/sub/weights.bin"];
        assert_eq!(names(&m), all);
        assert_eq!(names(&m.join(".")), all);
        assert_eq!(names(&m.join("sub/..")), all);
        assert_eq!(names(&m.join("model.onnx")), ["model.onnx"]);
        let renamed = walk(&m.join("sub"), Some("outputs"), &SourceLimits::default(), &[]).unwrap();
        assert_eq!(renamed.files[0].name, "outputs/weights.bin");
        assert_eq!(renamed.total_bytes, 5);
    }

    #[test]
    fn what_is_no_regular_file_is_named() {
        let dir = tree();
        let m = dir.path().join("m");
        symlink("/etc/passwd", m.join("sub/passwd")).unwrap();
        symlink("sub", m.join("loop")).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(m.join("pipe")).status().unwrap().success());
        let _socket = std::os::unix::net::UnixListener::bind(m.join("socket")).unwrap();
        let e = walk(&m, None, &SourceLimits::default(), &[]).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::BadInput);
        for part in ["'m/sub/passwd' (symbolic link)", "'m/loop'", "'m/pipe' (not a regular", "'m/socket'"] {
            assert!(e.message().contains(part), "{e} lacks {part}");
        }
    }

    #[test]
    fn refused_as_a_whole() {
        let dir = tree();
        let at = |name: &str| dir.path().join(name);
        symlink(at("m"), at("link")).unwrap();
        let limits = SourceLimits { max_files: 3, max_bytes: 8, max_depth: 3 };
        assert!(walk(&at("m"), None, &limits, &[]).is_ok());
        let none: &[PathBuf] = &[];
        let own = [at("m/sub").canonicalize().unwrap()];
        for (path, limits, own, kind, word) in [
            (at("gone"), limits, none, ErrorKind::NotFound, "find the model"),
            (at("link"), limits, none, ErrorKind::BadInput, "symbolic link"),
            (at("link/"), limits, none, ErrorKind::BadInput, "symbolic link"),
            (at("m/sub/empty"), limits, none, ErrorKind::BadInput, "no file"),
            (at("m"), SourceLimits { max_files: 2, ..limits }, none, ErrorKind::TooLarge, "2 files"),
            (at("m"), SourceLimits { max_bytes: 7, ..limits }, none, ErrorKind::TooLarge, "7 bytes"),
            (at("m"), SourceLimits { max_depth: 1, ..limits }, none, ErrorKind::TooLarge, "1 deep"),
            (at("m"), limits, &own, ErrorKind::BadInput, "belongs to the workspace"),
            (PathBuf::from("/"), limits, none, ErrorKind::BadInput, "has no name"),
        ] {
            let e = walk(&path, None, &limits, own).unwrap_err();
            assert_eq!(e.kind(), kind, "{e}");
            assert!(e.message().contains(word), "{e}");
        }
    }
}
