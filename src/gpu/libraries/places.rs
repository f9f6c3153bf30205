//! The folders in which CUDA's optional libraries may lie.
//!
//! There are as many ways to install them as there are installers: the distribution's packages, NVIDIA's toolkit, conda,
//! and the wheels of pip, which put each library into a folder that no loader knows. All of these are looked at, and
//! nothing is started for it: neither a Python that would say where its packages are, nor the loader, which would load
//! a hundred megabytes to say that they are there.
//!
//! Everything of the machine comes in through [`Places`], so that a test can lay out a machine in a folder.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

/// What is looked at to know the folders.
pub(super) struct Places<'a> {
    /// The environment's variables; an empty one is none.
    pub(super) variable: &'a dyn Fn(&str) -> Option<OsString>,
    /// `/`, unless a test lays out another machine.
    pub(super) root: &'a Path,
    /// The folder that the process works in.
    pub(super) current: Option<&'a Path>,
}

/// The folders of this process on this machine, the preferred first.
pub(super) fn here() -> Vec<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let current = std::env::current_dir().ok();
    Places { variable: &variable, root: Path::new("/"), current: current.as_deref() }.folders()
}

impl Places<'_> {
    /// The folders that there are, the preferred first: the one that was named, the loader's, the toolkit's, conda's,
    /// Python's.
    pub(super) fn folders(&self) -> Vec<PathBuf> {
        let named = |name: &str| (self.variable)(name).map(PathBuf::from);
        let mut all = self.listed(super::FOLDER_VARIABLE);
        all.extend(self.loader());
        for home in
            ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(named).chain([self.at("usr/local/cuda")])
        {
            // Without the toolkit's own link, its libraries lie only in the folder of their target.
            let target = format!("targets/{}-linux/lib", target());
            all.extend([home.join("lib64"), home.join(target)]);
        }
        all.extend(named("CONDA_PREFIX").map(|prefix| prefix.join("lib")));
        all.extend(self.packages().iter().flat_map(|packages| wheels(packages)));
        let mut folders: Vec<PathBuf> = Vec::new();
        for folder in all {
            if !folders.contains(&folder) && folder.is_dir() {
                folders.push(folder);
            }
        }
        folders
    }

    /// The folders that a variable lists; those that depend on the current folder are passed over.
    fn listed(&self, name: &str) -> Vec<PathBuf> {
        let value = (self.variable)(name).unwrap_or_default();
        std::env::split_paths(&value).filter(|path| path.is_absolute()).collect()
    }

    /// Where the loader looks.
    fn loader(&self) -> Vec<PathBuf> {
        let mut all = self.listed("LD_LIBRARY_PATH");
        let more = children(&self.at("etc/ld.so.conf.d"), |name| name.ends_with(".conf"));
        for file in [self.at("etc/ld.so.conf")].into_iter().chain(more) {
            // A file that cannot be read names no folders.
            let text = fs::read_to_string(file).unwrap_or_default();
            let lines = text.lines().map(str::trim).filter_map(|line| line.strip_prefix('/'));
            all.extend(lines.map(|folder| self.at(folder)));
        }
        let of_machine = format!("{}-linux-gnu", std::env::consts::ARCH);
        for folder in ["lib", "usr/lib"] {
            all.extend([self.at(folder).join(&of_machine), self.at(&format!("{folder}64")), self.at(folder)]);
        }
        all
    }

    /// Where Pythons keep their packages. The one below the current folder comes last: it is the one that others may
    /// have laid there.
    fn packages(&self) -> Vec<PathBuf> {
        let named = |name: &str| (self.variable)(name).map(PathBuf::from);
        let prefixes = [
            named("VIRTUAL_ENV"),
            named("CONDA_PREFIX"),
            named("HOME").map(|home| home.join(".local")),
            Some(self.at("usr/local")),
            Some(self.at("usr")),
            self.current.map(|current| current.join(".venv")),
        ];
        let mut all = Vec::new();
        for prefix in prefixes.into_iter().flatten() {
            let mut pythons = children(&prefix.join("lib"), |name| name.starts_with("python3"));
            pythons.sort_by_key(|python| std::cmp::Reverse(minor(python)));
            all.extend(
                pythons.iter().flat_map(|p| ["site-packages", "dist-packages"].map(|name| p.join(name))),
            );
        }
        all
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }
}

/// The folders of libraries of NVIDIA's wheels: `nvidia/cu13/lib` since CUDA 13, `nvidia/cuda_nvrtc/lib` and its like before.
fn wheels(packages: &Path) -> Vec<PathBuf> {
    children(&packages.join("nvidia"), |_| true).into_iter().map(|wheel| wheel.join("lib")).collect()
}

/// What lies in a folder under such names, sorted; nothing where it cannot be read.
pub(in crate::gpu) fn children(folder: &Path, fits: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let named = entries.filter(|entry| entry.file_name().to_str().is_some_and(&fits));
    let mut paths: Vec<PathBuf> = named.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

/// `python3.12` is 12; `python3`, which Debian shares among all of them, comes after those.
fn minor(python: &Path) -> u32 {
    let name = python.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.strip_prefix("python3.").and_then(|minor| minor.parse().ok()).unwrap_or(0)
}

/// What NVIDIA calls this machine.
fn target() -> &'static str {
    match std::env::consts::ARCH {
        "aarch64" => "sbsa",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine in a folder: its folders, and files with a text.
    fn machine(root: &Path, folders: &[&str], files: &[(&str, &str)]) {
        for folder in folders {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        for (path, text) in files {
            fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
            fs::write(root.join(path), text).unwrap();
        }
    }

    #[test]
    fn every_way_to_install_them_is_looked_at_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let expected = [
            "named",
            "named-too",
            "by-variable",
            "opt/cuda-13/lib64",
            "usr/lib",
            "home-of-cuda/lib64",
            "usr/local/cuda/lib64",
            "conda/lib",
            "venv/lib/python3.12/site-packages/nvidia/cu13/lib",
            "venv/lib/python3.12/site-packages/nvidia/cudnn/lib",
            "venv/lib/python3.9/site-packages/nvidia/cuda_nvrtc/lib",
            "conda/lib/python3.11/site-packages/nvidia/cublas/lib",
            "home/.local/lib/python3.12/site-packages/nvidia/cu13/lib",
            "usr/local/lib/python3.11/dist-packages/nvidia/cu13/lib",
            "usr/lib/python3/dist-packages/nvidia/cu13/lib",
            "work/.venv/lib/python3.11/site-packages/nvidia/cu13/lib",
        ];
        machine(
            root,
            &expected,
            &[("etc/ld.so.conf.d/cuda.conf", "# ours\n /opt/cuda-13/lib64 \n/opt/gone\n")],
        );
        machine(
            root,
            &["venv/lib/python3.12/site-packages/nvidia/cu13/include"],
            &[("conda/lib/python3x", "")],
        );
        let variable = |name: &str| match name {
            super::super::FOLDER_VARIABLE => {
                std::env::join_paths([root.join("named"), root.join("named-too")]).ok()
            }
            "LD_LIBRARY_PATH" => {
                let twice = [root.join("by-variable"), root.join("gone"), root.join("by-variable")];
                std::env::join_paths([Path::new("relative"), &twice[0], &twice[1], &twice[2]]).ok()
            }
            "CUDA_HOME" => Some(root.join("home-of-cuda").into()),
            "VIRTUAL_ENV" => Some(root.join("venv").into()),
            "CONDA_PREFIX" => Some(root.join("conda").into()),
            "HOME" => Some(root.join("home").into()),
            _ => None,
        };
        let work = root.join("work");
        let found = Places { variable: &variable, root, current: Some(&work) }.folders();
        let found: Vec<_> = found.iter().map(|p| p.strip_prefix(root).unwrap().to_str().unwrap()).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_bare_machine_has_no_folders_and_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        let none = Places { variable: &|_| None, root: dir.path(), current: None };
        assert!(none.folders().is_empty());
        let wrong =
            Places { variable: &|_| Some("\0".into()), root: dir.path(), current: Some(Path::new("\0")) };
        assert!(wrong.folders().is_empty(), "what is no path names no folder");
    }
}
