//! Choices between ways of computing products or convolutions, kept on disk, so that a machine measures each once.
//!
//! One text file for each kind of work, device, driver, library and triscore, beside the kernels' images: a line that says what it is, a line for each
//! choice, a checksum at the end. As with the images, nothing is changed in place: whoever has something new reads what is there, adds it, writes
//! all of it beside, and renames. Of two processes that do so at once one may lose its lines, which are measured again when they are missed; a
//! file that is damaged is not there. Nothing here can fail a model.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest, Sha256};

/// In the first line, behind the kind of work.
const FORMAT: &str = "choices 1";
/// Before the checksum in the last line.
const SUM: &str = "sha256 ";
/// No file is larger.
const MOST_BYTES: u64 = 4 << 20;

/// What was chosen: nothing is a kernel of triscore's own, else the word that the library's proposal is known by.
pub(super) type Entry = Option<String>;

/// What a file says instead of such a word.
const OWN: &str = "own";

/// A file of choices.
#[derive(Debug)]
pub(super) struct Kept {
    path: PathBuf,
    /// The kind of work.
    kind: &'static str,
}

impl Kept {
    /// In that folder, of that kind of work, device, driver, library and version of triscore.
    pub(super) fn new(
        folder: &Path,
        kind: &'static str,
        device: &str,
        driver: i32,
        library: usize,
        version: &str,
    ) -> Self {
        let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
        let device = device.chars().map(plain).take(64).collect::<String>();
        let path = folder.join(format!("{kind}s-{device}-{driver}-{library}-{version}.choices"));
        Self { path, kind }
    }

    /// All that is known; nothing where the file is missing or damaged.
    pub(super) fn read(&self) -> BTreeMap<String, Entry> {
        match self.try_read() {
            Ok(entries) => entries,
            Err(e) => {
                if e.kind() != io::ErrorKind::NotFound {
                    tracing::debug!("{} is not used: {e}", self.path.display());
                }
                BTreeMap::new()
            }
        }
    }

    fn try_read(&self) -> io::Result<BTreeMap<String, Entry>> {
        let file = fs::File::open(&self.path)?;
        let mut text = String::new();
        file.take(MOST_BYTES).read_to_string(&mut text)?;
        parse(self.kind, &text).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "it is damaged"))
    }

    /// Adds choices to those that are there.
    pub(super) fn add(&self, new: &BTreeMap<String, Entry>) {
        let mut entries = self.read();
        entries.extend(new.iter().map(|(key, entry)| (key.clone(), entry.clone())));
        if let Err(e) = self.write(&text(self.kind, &entries)) {
            tracing::debug!("choices are not kept in {}: {e}", self.path.display());
        }
    }

    fn write(&self, text: &str) -> io::Result<()> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let folder = self.path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder)?;
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        // The kernel cache removes what is left of it by a process that died.
        let unfinished = folder.join(format!("{}s-{}.{count}.tmp", self.kind, std::process::id()));
        let written = fs::write(&unfinished, text).and_then(|()| fs::rename(&unfinished, &self.path));
        if written.is_err() {
            let _ = fs::remove_file(&unfinished);
        }
        written
    }
}

fn text(kind: &str, entries: &BTreeMap<String, Entry>) -> String {
    let mut text = format!("triscore {kind} {FORMAT}\n");
    for (key, entry) in entries {
        let chosen = entry.as_deref().unwrap_or(OWN);
        // Writing to a text does not fail.
        let _ = writeln!(text, "{chosen} {key}");
    }
    let sum = checksum(&text);
    text + SUM + &sum + "\n"
}

fn parse(kind: &str, text: &str) -> Option<BTreeMap<String, Entry>> {
    let (body, sum) = text.strip_suffix('\n')?.rsplit_once('\n')?;
    let body = text.get(..=body.len())?;
    if sum.strip_prefix(SUM)? != checksum(body) {
        return None;
    }
    let mut lines = body.lines();
    if lines.next()? != format!("triscore {kind} {FORMAT}") {
        return None;
    }
    let entry = |line: &str| {
        let (chosen, key) = line.split_once(' ')?;
        Some((key.to_owned(), (chosen != OWN).then(|| chosen.to_owned())))
    };
    lines.map(entry).collect()
}

fn checksum(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(names: &[(&str, Entry)]) -> BTreeMap<String, Entry> {
        names.iter().map(|(name, entry)| ((*name).to_owned(), entry.clone())).collect()
    }

    fn kept(folder: &Path) -> Kept {
        Kept::new(folder, "product", "NVIDIA H100 80GB HBM3", 13000, 130_100, "0.1.0")
    }

    fn word(word: &str) -> Entry {
        Some(word.to_owned())
    }

    #[test]
    fn what_was_chosen_is_there_again_and_is_added_to() {
        let dir = tempfile::tempdir().unwrap();
        let kept = kept(&dir.path().join("below"));
        assert_eq!(kept.read(), BTreeMap::new());
        kept.add(&entries(&[("m1 n2", None)]));
        kept.add(&entries(&[("m3 n4 gemm", word("10.2=5.13=-1"))]));
        let all = entries(&[("m1 n2", None), ("m3 n4 gemm", word("10.2=5.13=-1"))]);
        assert_eq!(kept.read(), all);
        let names = fs::read_dir(dir.path().join("below")).unwrap().map(|e| e.unwrap().file_name());
        let names = names.map(|name| name.into_string().unwrap()).collect::<Vec<_>>();
        assert_eq!(names, ["products-NVIDIA_H100_80GB_HBM3-13000-130100-0.1.0.choices"]);
    }

    #[test]
    fn what_another_device_driver_library_or_version_chose_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        kept(dir.path()).add(&entries(&[("m1", None)]));
        for (kind, device, driver, library, version) in [
            ("convolution", "NVIDIA H100 80GB HBM3", 13000, 130_100, "0.1.0"),
            ("product", "NVIDIA H200", 13000, 130_100, "0.1.0"),
            ("product", "NVIDIA H100 80GB HBM3", 12080, 130_100, "0.1.0"),
            ("product", "NVIDIA H100 80GB HBM3", 13000, 130_200, "0.1.0"),
            ("product", "NVIDIA H100 80GB HBM3", 13000, 130_100, "0.1.1"),
        ] {
            let other = Kept::new(dir.path(), kind, device, driver, library, version);
            assert_eq!(other.read(), BTreeMap::new());
        }
    }

    #[test]
    fn a_damaged_file_is_not_there_and_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let kept = kept(dir.path());
        let all = entries(&[("m1 n2", None), ("m3", word("9.1=2"))]);
        kept.add(&all);
        let good = fs::read(&kept.path).unwrap();
        let mut rows = (0..good.len()).map(|at| good[..at].to_vec()).collect::<Vec<_>>();
        rows.extend((0..good.len()).map(|at| {
            let mut bytes = good.clone();
            bytes[at] ^= 1;
            bytes
        }));
        rows.push([good.as_slice(), b"own m5\n"].concat());
        rows.push(vec![0xff; 100]);
        for bytes in rows {
            fs::write(&kept.path, &bytes).unwrap();
            assert_eq!(kept.read(), BTreeMap::new(), "{}", String::from_utf8_lossy(&bytes));
        }
        kept.add(&all);
        assert_eq!(kept.read(), all);
        // A whole file that is none of ours.
        for other in ["triscore product choices 2\nown m1\n", "triscore convolution choices 1\nown m1\n"] {
            fs::write(&kept.path, format!("{other}{SUM}{}\n", checksum(other))).unwrap();
            assert_eq!(kept.read(), BTreeMap::new());
        }
        fs::remove_file(&kept.path).unwrap();
        fs::create_dir(&kept.path).unwrap();
        kept.add(&all);
        assert_eq!(kept.read(), BTreeMap::new(), "a folder is no file");
    }

    #[test]
    fn many_writers_and_readers_meet_whole_files_only() {
        let dir = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for writer in 0..4u64 {
                let kept = kept(dir.path());
                scope.spawn(move || {
                    for turn in 0..20 {
                        kept.add(&entries(&[(&format!("m{writer} n{turn}"), word(&writer.to_string()))]));
                        let read = kept.read();
                        assert!(!read.is_empty(), "a file that is there is whole");
                        let is_whole = |(key, entry): (&String, &Entry)| {
                            key.starts_with(&format!("m{}", entry.as_ref().unwrap()))
                        };
                        assert!(read.iter().all(is_whole));
                    }
                });
            }
        });
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing unfinished is left");
    }
}
