use super::*;
use crate::error::ErrorKind;
use std::fs;

/// Folders with these files, and a link for each `name -> target`.
fn folder(root: &Path, name: &str, files: &[&str]) -> PathBuf {
    let folder = root.join(name);
    fs::create_dir_all(&folder).unwrap();
    for file in files {
        match file.split_once(" -> ") {
            #[cfg(unix)]
            Some((link, target)) => std::os::unix::fs::symlink(target, folder.join(link)).unwrap(),
            _ => fs::write(folder.join(file), "no library").unwrap(),
        }
    }
    folder
}

#[test]
#[cfg(unix)]
fn libraries_are_found_with_the_version_that_files_tell() {
    let dir = tempfile::tempdir().unwrap();
    let wheel = folder(
        dir.path(),
        "wheel",
        &[
            "libnvrtc.so.13",
            "libnvrtc-builtins.so.13.0",
            "libnvrtc-builtins.alt.so.13.0",
            "libcublasLt.so.13",
            "libcudnn.so.9",
        ],
    );
    let old =
        folder(dir.path(), "old", &["libnvrtc.so.12", "libnvrtc-builtins.so.12.9", "libcublasLt.so.12"]);
    let toolkit = folder(
        dir.path(),
        "toolkit",
        &["libnvrtc.so.13.0.88", "libnvrtc.so.13 -> libnvrtc.so.13.0.88", "libcublasLt.so.13 -> gone"],
    );
    let empty = folder(dir.path(), "empty", &["libnvrtc.so", "libcudnn.so.8"]);
    let rows = [
        (Library::Nvrtc, None, vec![&empty, &wheel, &old], "wheel/libnvrtc.so.13", "13.0"),
        (Library::Nvrtc, None, vec![&old, &wheel], "old/libnvrtc.so.12", "12.9"),
        (Library::Nvrtc, Some(12), vec![&wheel, &old], "old/libnvrtc.so.12", "12.9"),
        (Library::Nvrtc, Some(14), vec![&toolkit, &wheel], "toolkit/libnvrtc.so.13", "13.0.88"),
        (Library::CublasLt, Some(13), vec![&toolkit, &wheel], "wheel/libcublasLt.so.13", "13"),
        (Library::Cudnn, Some(12), vec![&old, &wheel], "wheel/libcudnn.so.9", "9"),
    ];
    for (library, driver, folders, path, version) in rows {
        let folders: Vec<PathBuf> = folders.into_iter().cloned().collect();
        let found = Search::new(library, driver, &folders).first().unwrap();
        let expected = Found { path: dir.path().join(path), version: version.to_owned() };
        assert_eq!(found, expected, "{library:?} {driver:?}");
    }
}

#[test]
fn what_is_missing_says_what_it_costs_and_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let new = folder(dir.path(), "new", &["libnvrtc.so.13"]);
    let rows = [
        (
            Library::Nvrtc,
            Some(13),
            "without NVRTC kernels cannot be compiled here: only those of the kernel cache run; install it with \
             `pip install nvidia-cuda-nvrtc`, or name its folder in TRISCORE_CUDA_LIBRARIES",
        ),
        (
            Library::CublasLt,
            Some(13),
            "products run on triscore's own kernels; install it with `pip install nvidia-cublas`",
        ),
        (Library::CublasLt, Some(12), "`pip install nvidia-cublas-cu12`"),
        (Library::Cudnn, None, "`pip install nvidia-cudnn-cu13`"),
        (Library::Cudnn, Some(12), "`pip install nvidia-cudnn-cu12`"),
    ];
    for (library, driver, expected) in rows {
        let e = Search::new(library, driver, &[]).first().unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Unavailable);
        assert!(e.to_string().contains(expected), "{library:?}: {e}");
    }
    let e =
        Search::new(Library::Nvrtc, Some(12), std::slice::from_ref(&new)).first().unwrap_err().to_string();
    assert!(e.contains("libnvrtc.so.13 needs a newer driver than one of CUDA 12: without NVRTC"), "{e}");
    assert!(e.contains("nvidia-cuda-nvrtc-cu12"), "{e}");
}

/// A library that the loader takes, with one function; `None` where there is no compiler.
fn library(folder: &Path, name: &str, answer: i32) -> Option<()> {
    fs::create_dir_all(folder).unwrap();
    let source = folder.join("stub.c");
    fs::write(&source, format!("int triscore_test_answer(void) {{ return {answer}; }}\n")).unwrap();
    let mut cc = std::process::Command::new("cc");
    let Ok(status) = cc.args(["-shared", "-fPIC", "-o"]).arg(folder.join(name)).arg(source).status() else {
        eprintln!("skipped: there is no C compiler");
        return None;
    };
    assert!(status.success(), "the stub does not compile");
    Some(())
}

#[test]
fn the_first_that_loads_is_taken_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let broken = folder(dir.path(), "broken", &["libcublasLt.so.13"]);
    let good = dir.path().join("good");
    let Some(()) = library(&good, "libcublasLt.so.13", 42) else { return };
    let folders = [broken.clone(), good.clone()];
    for _ in 0..2 {
        let loaded = Search::new(Library::CublasLt, None, &folders).load().unwrap();
        assert_eq!(loaded.found.path, good.join("libcublasLt.so.13"));
        // SAFETY: the type is that of the function above.
        let answer: extern "C" fn() -> i32 = unsafe { loaded.function("triscore_test_answer") }.unwrap();
        assert_eq!(answer(), 42);
        // SAFETY: as above; there is none.
        let none = unsafe { loaded.function::<extern "C" fn() -> i32>("triscore_test_none") };
        assert!(
            none.unwrap_err().to_string().ends_with("libcublasLt.so.13 has no function triscore_test_none")
        );
    }
    // Only a library of another name shows that the loader is not asked for what nobody has.
    let cudnn = folder(dir.path(), "broken", &["libcudnn.so.9"]);
    match Search::new(Library::Cudnn, None, &[cudnn]).load() {
        Ok(loaded) => assert_eq!(loaded.found.path, Path::new("libcudnn.so.9"), "this machine has its own"),
        Err(e) => {
            let e = e.to_string();
            assert!(e.contains("libcudnn.so.9 cannot be loaded: ") && e.contains(": without cuDNN"), "{e}");
        }
    }
}

#[test]
fn an_absence_is_not_remembered() {
    let dir = tempfile::tempdir().unwrap();
    let folders = [dir.path().to_owned()];
    let search = || Search::new(Library::Cudnn, None, &folders);
    assert!(search().first().is_err());
    let Some(()) = library(dir.path(), "libcudnn.so.9", 1) else { return };
    assert_eq!(search().load().unwrap().found.path, dir.path().join("libcudnn.so.9"));
}

#[test]
fn what_is_here_loads_by_path_and_then_by_name() {
    for (library, version) in
        Library::ALL.into_iter().zip([None, Some("cublasLtGetVersion"), Some("cudnnGetVersion")])
    {
        let found = match find(library, None) {
            Ok(found) => found,
            Err(e) => {
                eprintln!("skipped: {e}");
                continue;
            }
        };
        let loaded = load(library, None).unwrap();
        assert_eq!(loaded.found, found);
        let name = found.path.file_name().unwrap();
        // SAFETY: it is loaded already, and this is only another count of it.
        assert!(unsafe { libloading::Library::new(name) }.is_ok(), "{found:?}");
        if let Some(version) = version {
            // SAFETY: both have this type in NVIDIA's headers.
            let version: extern "C" fn() -> usize = unsafe { loaded.function(version) }.unwrap();
            assert!(version() > 9000, "{found:?}: {}", version());
        }
    }
    let said = facts(99);
    assert_eq!(said.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["nvrtc", "cublaslt", "cudnn"]);
    let Ok(found) = find(Library::Nvrtc, None) else { return };
    assert_eq!(said[0].1, format!("{} ({})", found.version, found.path.display()));
    // SAFETY: it loads and unloads a library that is loaded already.
    assert!(unsafe { cudarc::nvrtc::sys::is_culib_present() }, "{found:?}");
}
