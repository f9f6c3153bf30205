//! The models that scripts opened: compiled once a service, whichever of its workers asks first.
//!
//! A model is known by the file that it came from as it was then (a file that was replaced is another model), or
//! by its content when a script gave bytes. It is kept while the service lives: workers come and go, and a
//! new one must not wait for a compile that was done before.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::{self, File, Metadata};
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{SealFlags, fcntl_get_seals};
use sha2::{Digest, Sha256};

use super::OpenModel;
use crate::error::{ErrorKind, Result, ScoreError};
use crate::scoring::{Health, Scorer};

/// How many models a service keeps ready for its scripts.
const MAX_MODELS: usize = 64;

/// Every model of a service.
pub(super) struct Models {
    open: Arc<OpenModel>,
    root: PathBuf,
    slots: Mutex<HashMap<Key, Arc<Slot>>>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum Key {
    File { path: PathBuf, stamp: Stamp },
    Bytes(String),
}

/// What tells a file from the one that stood there before.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Stamp {
    fn of(found: &Metadata) -> Self {
        Self {
            device: found.dev(),
            inode: found.ino(),
            size: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
        }
    }
}

/// A model that is being made ready (its lock is held then), is ready, or could not be.
#[derive(Default)]
struct Slot(Mutex<Option<Made>>);

type Made = std::result::Result<Arc<dyn Scorer>, (ErrorKind, String)>;

impl Models {
    pub(super) fn new(open: Arc<OpenModel>, root: PathBuf) -> Self {
        Self { open, root, slots: Mutex::default() }
    }

    /// The model in a file; relative paths are below `folder`.
    ///
    /// # Errors
    /// `NotFound`; `BadModel` for anything but a file; what making it ready gives.
    pub(super) fn open_file(&self, path: &Path, folder: Option<&Path>) -> Result<Arc<dyn Scorer>> {
        let given = folder.unwrap_or(&self.root).join(path);
        let path = fs::canonicalize(&given).map_err(|e| ScoreError::io("open the model", &given, e))?;
        let found = fs::metadata(&path).map_err(|e| ScoreError::io("open the model", &path, e))?;
        if !found.is_file() {
            let what = if found.is_dir() { "a folder" } else { "a pipe, a socket or a device" };
            let what = format!("{what}: expected the model's file");
            return Err(ScoreError::bad_model(what).with_at(path.display().to_string()));
        }
        let key = Key::File { path: path.clone(), stamp: Stamp::of(&found) };
        self.ready(key, || (self.open)(&path))
    }

    /// The model in a memory file that is sealed for good.
    ///
    /// # Errors
    /// `BadInput` when it is not sealed; what making it ready gives.
    pub(super) fn open_bytes(&self, file: OwnedFd) -> Result<Arc<dyn Scorer>> {
        let needed = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
        if !fcntl_get_seals(&file).unwrap_or(SealFlags::empty()).contains(needed) {
            let what = "the bytes of a model must come in a memory file that is sealed against every change";
            return Err(ScoreError::bad_input(what));
        }
        // The file has no name of its own that the backend could open.
        let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        let failed = |e| ScoreError::io("read the model's bytes", &path, e);
        let mut hash = Sha256::new();
        let mut source = File::open(&path).map_err(failed)?;
        let mut block = vec![0; 1 << 16];
        loop {
            match source.read(&mut block).map_err(failed)? {
                0 => break,
                n => hash.update(block.get(..n).unwrap_or_default()),
            }
        }
        let mut name = String::new();
        for byte in hash.finalize() {
            let _ = write!(name, "{byte:02x}");
        }
        let shown = path.display().to_string();
        self.ready(Key::Bytes(name), || (self.open)(&path)).map_err(|e| {
            // The number of a descriptor of this process tells a script's author nothing.
            ScoreError::new(e.kind(), e.to_string().replace(&shown, "the model's bytes"))
        })
    }

    /// The models that are ready.
    pub(super) fn scorers(&self) -> Vec<Arc<dyn Scorer>> {
        let slots = lock(&self.slots).values().cloned().collect::<Vec<_>>();
        // One whose lock is held is being made ready: not to be waited for here.
        let made = slots.iter().filter_map(|slot| slot.0.try_lock().ok()?.clone()?.ok());
        made.collect()
    }

    /// The model of that key: there already, or made ready now while whoever else wants it waits.
    fn ready(&self, key: Key, open: impl FnOnce() -> Result<Arc<dyn Scorer>>) -> Result<Arc<dyn Scorer>> {
        let slot = self.slot(&key)?;
        let mut made = lock(&slot.0);
        match &*made {
            Some(Ok(scorer)) if !matches!(scorer.health(), Health::Lost { .. }) => return Ok(scorer.clone()),
            // Who waited for a compile that failed gets its error, not another try.
            Some(Err((kind, message))) => return Err(ScoreError::new(*kind, message.clone())),
            // A device that was lost may be there again.
            Some(Ok(_)) | None => {}
        }
        // A panic here must not leave the others waiting for a model that nobody makes.
        let result = catch_unwind(AssertUnwindSafe(open))
            .unwrap_or_else(|_| Err(ScoreError::internal("making the model ready panicked")));
        let result = result.map_err(|e| (e.kind(), e.to_string()));
        *made = Some(result.clone());
        drop(made);
        result.map_err(|(kind, message)| {
            // The next to ask tries again.
            let mut slots = lock(&self.slots);
            if slots.get(&key).is_some_and(|kept| Arc::ptr_eq(kept, &slot)) {
                slots.remove(&key);
            }
            ScoreError::new(kind, message)
        })
    }

    fn slot(&self, key: &Key) -> Result<Arc<Slot>> {
        let mut slots = lock(&self.slots);
        if let Some(slot) = slots.get(key) {
            return Ok(Arc::clone(slot));
        }
        // A file that was replaced: sessions that have the old model keep it, nobody can open it any more.
        if let Key::File { path, .. } = key {
            slots.retain(|kept, _| !matches!(kept, Key::File { path: p, .. } if p == path));
        }
        if slots.len() >= MAX_MODELS {
            let what = format!("a service keeps at most {MAX_MODELS} models ready for its scripts");
            return Err(ScoreError::new(ErrorKind::TooLarge, what));
        }
        let slot = Arc::new(Slot::default());
        slots.insert(key.clone(), Arc::clone(&slot));
        Ok(slot)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scoring::{Call, Fault, FaultScorer};
    use crate::signature::{Dim, Port, Signature};
    use crate::tensor::{DType, Tensor};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    fn scorer() -> Arc<FaultScorer> {
        let port = |name: &str| Port::tensor(name, DType::F32, vec![Dim::named("n")]);
        Arc::new(FaultScorer::new(Signature::new(vec![port("x")], vec![port("y")]).unwrap(), 1).unwrap())
    }

    #[test]
    fn a_model_is_made_ready_once_and_again_when_its_device_was_lost() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("m.onnx"), "model").unwrap();
        std::os::unix::fs::symlink("m.onnx", folder.path().join("link")).unwrap();
        let calls = Arc::new(AtomicUsize::new(0));
        let (first, counted) = (scorer(), Arc::clone(&calls));
        first.then(Fault::DeviceLost);
        let dying = Arc::clone(&first);
        let open = move |_: &Path| -> Result<Arc<dyn Scorer>> {
            std::thread::sleep(Duration::from_millis(20));
            match counted.fetch_add(1, Ordering::SeqCst) {
                0 => Ok(Arc::clone(&dying) as _),
                _ => Ok(scorer() as _),
            }
        };
        let models = Models::new(Arc::new(open), folder.path().to_owned());
        std::thread::scope(|s| {
            for name in ["m.onnx", "link", "./m.onnx", "m.onnx"] {
                let models = &models;
                s.spawn(move || models.open_file(Path::new(name), None).unwrap());
            }
        });
        assert_eq!(calls.load(Ordering::SeqCst), 1);
        let x = Tensor::zeros(DType::F32, &[1]).unwrap();
        first.score(&[x], &Call::new()).unwrap_err();
        assert!(matches!(first.health(), Health::Lost { .. }));
        let again = models.open_file(Path::new("m.onnx"), None).unwrap();
        assert_eq!((calls.load(Ordering::SeqCst), again.health()), (2, Health::Ready));
        // Another file in its place is another model.
        fs::write(folder.path().join("new"), "another model").unwrap();
        fs::rename(folder.path().join("new"), folder.path().join("m.onnx")).unwrap();
        models.open_file(Path::new("m.onnx"), None).unwrap();
        assert_eq!((calls.load(Ordering::SeqCst), models.scorers().len()), (3, 1));
    }

    #[test]
    fn failures_are_told_to_all_who_wait_and_tried_again_later() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("m.onnx"), "model").unwrap();
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&calls);
        let open = move |_: &Path| -> Result<Arc<dyn Scorer>> {
            match counted.fetch_add(1, Ordering::SeqCst) {
                0 => Err(ScoreError::bad_model("no graph")),
                1 => panic!("a bug"),
                _ => Ok(scorer() as _),
            }
        };
        let models = Models::new(Arc::new(open), folder.path().to_owned());
        let open = || models.open_file(Path::new("m.onnx"), None).map(|_| ()).map_err(|e| e.kind());
        assert_eq!(open(), Err(ErrorKind::BadModel));
        assert_eq!(open(), Err(ErrorKind::Internal));
        assert_eq!(open(), Ok(()));
        for (path, kind) in [("gone.onnx", ErrorKind::NotFound), (".", ErrorKind::BadModel)] {
            assert_eq!(models.open_file(Path::new(path), None).map(|_| ()).unwrap_err().kind(), kind);
        }
    }

    #[test]
    fn a_service_keeps_so_many_models_and_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let models = Models::new(Arc::new(|_: &Path| Ok(scorer() as _)), folder.path().to_owned());
        for i in 0..=MAX_MODELS {
            let name = format!("{i}.onnx");
            fs::write(folder.path().join(&name), "model").unwrap();
            let opened = models.open_file(Path::new(&name), None);
            assert_eq!(opened.is_ok(), i < MAX_MODELS, "{i}");
        }
        models.open_file(Path::new("0.onnx"), None).unwrap();
    }
}
