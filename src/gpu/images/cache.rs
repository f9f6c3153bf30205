//! Images of kernels, kept on disk.
//!
//! Any number of processes share the folder, and any of them may die at any moment, so nothing is ever changed in place: an
//! image is written beside and renamed, and carries a checksum of its name and its bytes. What does not fit its checksum is
//! not there. Nothing here can fail a model: a cache that cannot be used costs the time of compiling, and a line in the log.
//!
//! The name of a file is what it is made of, in the order of asking: source and architecture (as one hash), then the compiler,
//! then triscore. A machine without a compiler takes the first part alone, so a folder can be filled on one machine and
//! carried to another.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};

use super::super::libraries::children;

/// The environment variable that names the folder.
pub(super) const FOLDER_VARIABLE: &str = "TRISCORE_KERNEL_CACHE";

const MAGIC: &[u8; 16] = b"triscore image 1";
const HEADER: usize = MAGIC.len() + 32;
const ENDING: &str = ".image";
const UNFINISHED: &str = ".tmp";

/// No image is larger.
const MOST_BYTES: u64 = 64 << 20;

/// All of them together; a model has a few megabytes.
const BOUND: u64 = 256 << 20;

/// What is unfinished for so long was left by a process that died.
const ABANDONED: Duration = Duration::from_secs(600);

/// A source and an architecture.
#[derive(Debug)]
pub(super) struct Key(String);

impl Key {
    pub(super) fn new(source: &str, architecture: &str) -> Self {
        let mut hash = Sha256::new();
        hash.update(architecture);
        hash.update([0]);
        hash.update(source);
        let mut text = String::new();
        for byte in hash.finalize() {
            // Writing to a text does not fail.
            let _ = write!(text, "{byte:02x}");
        }
        Self(text)
    }

    /// The name of what this version of triscore made with that compiler.
    fn file(&self, (major, minor): (i32, i32)) -> String {
        format!("{}-{major}.{minor}-{}{ENDING}", self.0, env!("CARGO_PKG_VERSION"))
    }

    /// The compiler of one of this key's files.
    fn compiler(&self, name: &str) -> Option<(i32, i32)> {
        let (version, _) = name.strip_prefix(&self.0)?.strip_prefix('-')?.split_once('-')?;
        let (major, minor) = version.split_once('.')?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    }
}

/// A folder of images.
#[derive(Debug)]
pub(super) struct Cache {
    folder: PathBuf,
    bound: u64,
}

impl Cache {
    /// The folder that the environment names, or the user's.
    pub(super) fn of_process() -> Option<Self> {
        let folder =
            folder(|name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from));
        if folder.is_none() {
            tracing::debug!("no kernel cache: neither {FOLDER_VARIABLE} nor XDG_CACHE_HOME nor HOME is set");
        }
        folder.map(Self::in_folder)
    }

    pub(super) fn in_folder(folder: PathBuf) -> Self {
        Self { folder, bound: BOUND }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// What this compiler made before.
    pub(super) fn read(&self, key: &Key, compiler: (i32, i32)) -> Option<Arc<[u8]>> {
        self.read_file(&key.file(compiler))
    }

    /// What any compiler made, the newest first; but none that the driver is older than, as it would refuse that.
    pub(super) fn any(&self, key: &Key, driver: Option<i32>) -> Option<Arc<[u8]>> {
        let files = children(&self.folder, |name| name.starts_with(&key.0) && name.ends_with(ENDING));
        let names = files.iter().filter_map(|file| file.file_name()?.to_str());
        let mut made: Vec<_> = names.filter_map(|name| Some((key.compiler(name)?, name))).collect();
        made.retain(|((major, _), _)| driver.is_none_or(|driver| *major <= driver));
        made.sort();
        made.iter().rev().find_map(|(_, name)| self.read_file(name))
    }

    fn read_file(&self, name: &str) -> Option<Arc<[u8]>> {
        let path = self.folder.join(name);
        match read(&path, name) {
            Ok(image) => {
                // When it was used last is the time of the file; a folder that others own stays as it is.
                let now = |file: fs::File| file.set_modified(SystemTime::now());
                if let Err(e) = fs::File::options().append(true).open(&path).and_then(now) {
                    tracing::debug!("{}: {e}", path.display());
                }
                Some(image)
            }
            Err(e) => {
                if e.kind() != io::ErrorKind::NotFound {
                    tracing::debug!("{} is not used: {e}", path.display());
                }
                None
            }
        }
    }

    /// Keeps an image, and forgets those that were not used for longest where it gets too much.
    pub(super) fn write(&self, key: &Key, compiler: (i32, i32), image: &[u8]) {
        if let Err(e) = self.try_write(&key.file(compiler), image) {
            tracing::debug!("kernels are not kept in {}: {e}", self.folder.display());
        }
    }

    fn try_write(&self, name: &str, image: &[u8]) -> io::Result<()> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        if image.len() as u64 > MOST_BYTES {
            return Err(io::Error::other(format!("an image of {} bytes is too large", image.len())));
        }
        fs::create_dir_all(&self.folder)?;
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let unfinished = self.folder.join(format!("{}.{count}{UNFINISHED}", std::process::id()));
        let written = fs::File::create_new(&unfinished).and_then(|mut file| {
            file.write_all(MAGIC)?;
            file.write_all(&checksum(name, image))?;
            file.write_all(image)
        });
        let renamed = written.and_then(|()| fs::rename(&unfinished, self.folder.join(name)));
        if renamed.is_err() {
            // What cannot be removed either is removed when it is old.
            let _ = fs::remove_file(&unfinished);
        }
        renamed.map(|()| self.trim(SystemTime::now()))
    }

    /// Removes what is too much, and what was abandoned. Others may do the same: what is gone already is fine.
    fn trim(&self, now: SystemTime) {
        let mut kept = Vec::new();
        for path in children(&self.folder, |name| name.ends_with(ENDING) || name.ends_with(UNFINISHED)) {
            let Ok(data) = fs::symlink_metadata(&path) else { continue };
            let used = data.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            let is_unfinished = path.extension().is_some_and(|ending| ending == "tmp");
            match is_unfinished && now.duration_since(used).is_ok_and(|age| age > ABANDONED) {
                true => remove(&path),
                false => kept.push((used, data.len(), path)),
            }
        }
        kept.sort();
        let mut total: u64 = kept.iter().map(|(_, bytes, _)| bytes).sum();
        for (_, bytes, path) in kept {
            if total <= self.bound {
                break;
            }
            remove(&path);
            total -= bytes;
        }
    }
}

fn remove(path: &Path) {
    if let Err(e) = fs::remove_file(path) {
        tracing::debug!("{} cannot be removed: {e}", path.display());
    }
}

fn read(path: &Path, name: &str) -> io::Result<Arc<[u8]>> {
    let damaged = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let file = fs::File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(damaged("it is no file"));
    }
    let mut bytes = Vec::new();
    file.take(MOST_BYTES + HEADER as u64).read_to_end(&mut bytes)?;
    let (header, image) = bytes.split_at_checked(HEADER).ok_or_else(|| damaged("it is cut off"))?;
    let sum = header.strip_prefix(MAGIC).ok_or_else(|| damaged("it is of another format"))?;
    match sum == checksum(name, image) {
        true => Ok(image.into()),
        false => Err(damaged("it is damaged")),
    }
}

/// The name is part of it: a file that was renamed is not what it says.
fn checksum(name: &str, image: &[u8]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(name);
    hash.update([0]);
    hash.update(image);
    hash.finalize().into()
}

/// As the XDG base directories have it.
fn folder(variable: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    let below = |folder: PathBuf| folder.is_absolute().then(|| folder.join("triscore/kernels"));
    variable(FOLDER_VARIABLE)
        .or_else(|| variable("XDG_CACHE_HOME").and_then(below))
        .or_else(|| variable("HOME").map(|home| home.join(".cache")).and_then(below))
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMPILER: (i32, i32) = (13, 0);

    fn cache() -> (tempfile::TempDir, Cache) {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::in_folder(dir.path().join("a/b"));
        (dir, cache)
    }

    #[test]
    fn the_environment_names_the_folder() {
        let named =
            |kernels, xdg, home| [(FOLDER_VARIABLE, kernels), ("XDG_CACHE_HOME", xdg), ("HOME", home)];
        let rows = [
            (named("/k", "/x", "/h"), Some("/k")),
            (named("k", "", ""), Some("k")),
            (named("", "/x", "/h"), Some("/x/triscore/kernels")),
            (named("", "relative", "/h"), Some("/h/.cache/triscore/kernels")),
            (named("", "", "/h"), Some("/h/.cache/triscore/kernels")),
            (named("", "", "relative"), None),
            (named("", "", ""), None),
        ];
        for (set, expected) in rows {
            let value =
                |name: &str| set.iter().find(|(n, v)| *n == name && !v.is_empty()).map(|(_, v)| v.into());
            assert_eq!(folder(value).as_deref(), expected.map(Path::new), "{set:?}");
        }
    }

    #[test]
    fn an_image_comes_back_for_its_key_alone() {
        let (_dir, cache) = cache();
        let key = Key::new("source", "sm_90a");
        assert!(cache.read(&key, COMPILER).is_none() && cache.any(&key, None).is_none());
        cache.write(&key, COMPILER, b"image");
        cache.write(&key, COMPILER, b"image of 13.0");
        cache.write(&key, (12, 9), b"image of 12.9");
        assert_eq!(cache.read(&key, COMPILER).as_deref(), Some(b"image of 13.0".as_slice()));
        assert_eq!(cache.any(&key, None).as_deref(), Some(b"image of 13.0".as_slice()));
        assert_eq!(cache.any(&key, Some(12)).as_deref(), Some(b"image of 12.9".as_slice()));
        assert!(cache.any(&key, Some(11)).is_none() && cache.read(&key, (13, 1)).is_none());
        for other in
            [Key::new("source", "sm_80"), Key::new("source ", "sm_90a"), Key::new("asource", "sm_90")]
        {
            assert!(cache.read(&other, COMPILER).is_none() && cache.any(&other, None).is_none());
        }
        assert_eq!(children(cache.folder(), |_| true).len(), 2, "nothing unfinished is left");
    }

    #[test]
    fn a_damaged_image_is_not_there_and_is_made_anew() {
        let (_dir, cache) = cache();
        let key = Key::new("source", "sm_90a");
        let path = cache.folder().join(key.file(COMPILER));
        cache.write(&key, COMPILER, b"image");
        let good = fs::read(&path).unwrap();
        let mut rows =
            vec![Vec::new(), b"text".to_vec(), good[..good.len() - 1].to_vec(), good[..HEADER].to_vec()];
        rows.extend((0..good.len()).map(|at| {
            let mut bytes = good.clone();
            bytes[at] ^= 1;
            bytes
        }));
        rows.push([good.as_slice(), b"more"].concat());
        for bytes in rows {
            fs::write(&path, &bytes).unwrap();
            assert!(cache.read(&key, COMPILER).is_none(), "{bytes:?}");
            assert!(cache.any(&key, None).is_none());
        }
        // An older one serves where the newest is damaged, and one of another name is none.
        cache.write(&key, (12, 9), b"older");
        fs::write(cache.folder().join(key.file((13, 1))), &good).unwrap();
        assert_eq!(cache.any(&key, None).as_deref(), Some(b"older".as_slice()));
        cache.write(&key, COMPILER, b"image");
        assert_eq!(cache.read(&key, COMPILER).as_deref(), Some(b"image".as_slice()));
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(cache.read(&key, COMPILER).is_none(), "a folder is no image");
        cache.write(&key, COMPILER, b"image");
    }

    #[test]
    fn what_was_not_used_for_longest_goes_first() {
        let (_dir, mut cache) = cache();
        let keys: Vec<Key> = (0..4).map(|i| Key::new(&i.to_string(), "sm_90a")).collect();
        let age = |path: &Path, seconds| {
            let then = SystemTime::now() - Duration::from_secs(seconds);
            fs::File::options().append(true).open(path).unwrap().set_modified(then).unwrap();
        };
        cache.bound = 3 * (HEADER as u64 + 100);
        for (key, seconds) in keys.iter().zip([400, 300, 200]) {
            cache.write(key, COMPILER, &[0; 100]);
            age(&cache.folder().join(key.file(COMPILER)), seconds);
        }
        for (name, seconds) in [("1.0.tmp", 10_000), ("2.0.tmp", 1), ("not-ours", 99_999)] {
            fs::write(cache.folder().join(name), "").unwrap();
            age(&cache.folder().join(name), seconds);
        }
        assert!(cache.read(&keys[0], COMPILER).is_some(), "used just now");
        cache.write(&keys[3], COMPILER, &[0; 100]);
        let there = keys.iter().map(|key| cache.read(key, COMPILER).is_some()).collect::<Vec<_>>();
        assert_eq!(there, [true, false, true, true]);
        let left = ["1.0.tmp", "2.0.tmp", "not-ours"].map(|name| cache.folder().join(name).exists());
        assert_eq!(left, [false, true, true]);
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        let key = Key::new("source", "sm_90a");
        for folder in [dir.path().join("file"), dir.path().join("file/below"), PathBuf::from("\0")] {
            let cache = Cache::in_folder(folder);
            cache.write(&key, COMPILER, b"image");
            assert!(cache.read(&key, COMPILER).is_none() && cache.any(&key, None).is_none());
        }
        let (_dir, cache) = cache();
        cache.write(&key, COMPILER, &vec![0; MOST_BYTES as usize + 1]);
        assert!(cache.read(&key, COMPILER).is_none());
    }

    #[test]
    fn many_writers_and_readers_meet_whole_images_only() {
        let (_dir, cache) = cache();
        let key = Key::new("source", "sm_90a");
        std::thread::scope(|scope| {
            for i in 0..4u8 {
                let (cache, key) = (&cache, &key);
                scope.spawn(move || {
                    for _ in 0..20 {
                        cache.write(key, COMPILER, &[i; 5000]);
                        let image = cache.read(key, COMPILER).unwrap();
                        assert!(image.len() == 5000 && image.iter().all(|byte| *byte == image[0]));
                    }
                });
            }
        });
    }
}
