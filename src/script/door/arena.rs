//! A worker's memory, mapped into this process.
//!
//! The one thing that could kill the host here is a signal: a page of a mapping that the file behind it cannot
//! give raises SIGBUS. A file that another process holds may be cut at any time, so only memory files are taken
//! that are *sealed* against it, of ordinary pages (huge ones come from a pool that may be empty).

use std::collections::HashMap;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::Arc;

use rustix::fs::{SealFlags, fcntl_get_seals, fstat, fstatfs};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::system;
use crate::error::{ErrorKind, Result, ScoreError};
use crate::tensor::Memory;

/// The largest arena, in bytes: 16 GiB. Addresses only; memory is taken when it is touched.
const MAX_ARENA_BYTES: u64 = 1 << 34;
/// The most that one worker may have mapped, in bytes: 64 GiB.
const MAX_MAPPED_BYTES: u64 = 1 << 36;
/// The most arenas of one worker.
const MAX_ARENAS: usize = 4096;
/// The file system of ordinary memory files, as `statfs` numbers it.
const TMPFS_MAGIC: i64 = 0x0102_1994;

/// A memory file that is mapped for as long as this lives.
pub(super) struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping is owned and stays where it is until it is dropped. Reads and writes of its bytes race only
// with the worker, which may write at any time: see `Mapping::bytes`.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps a memory file of that many bytes, if it can never become shorter.
    fn of(file: &OwnedFd, size: u64) -> Result<Self> {
        let refused = |what: String| Err(ScoreError::bad_input(what));
        // Only memory files have seals: this refuses files on disks, devices and pipes too.
        let seals = fcntl_get_seals(file).unwrap_or(SealFlags::empty());
        if !seals.contains(SealFlags::SHRINK) {
            return refused("an arena must be a memory file that is sealed with F_SEAL_SHRINK".to_owned());
        }
        let kind = fstatfs(file).map_err(|e| system("look at an arena", e))?.f_type;
        #[allow(clippy::useless_conversion, reason = "the type of the field differs among architectures")]
        if i64::try_from(kind).ok() != Some(TMPFS_MAGIC) {
            return refused("an arena must be of ordinary pages, not of huge ones".to_owned());
        }
        let found = fstat(file).map_err(|e| system("look at an arena", e))?.st_size;
        if u64::try_from(found).ok() != Some(size) || size == 0 {
            return refused(format!("an arena was said to hold {size} bytes, it holds {found}"));
        }
        let len = usize::try_from(size).map_err(|_| ScoreError::out_of_memory("an arena past all memory"))?;
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours. The pages are
        // there for as long as it is mapped: the file cannot shrink.
        let start = unsafe {
            let (prot, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
            mmap(std::ptr::null_mut(), len, prot, flags, file, 0)
        };
        let start = start.map_err(|e| system("map an arena", e))?;
        let start = NonNull::new(start.cast()).ok_or_else(|| ScoreError::internal("a mapping at null"))?;
        Ok(Self { start, len })
    }

    /// The place of `len` bytes from `offset`, if they are within.
    pub(super) fn range(&self, offset: u64, len: u64) -> Result<Range<usize>> {
        let end = offset.checked_add(len).filter(|end| *end <= self.len as u64);
        match (usize::try_from(offset), end.map(usize::try_from)) {
            (Ok(start), Some(Ok(end))) => Ok(start..end),
            _ => Err(ScoreError::bad_input(format!(
                "{len} bytes at {offset} are not within an arena of {} bytes",
                self.len
            ))),
        }
    }

    /// The bytes of a range that [`range`](Self::range) gave.
    ///
    /// The worker may write them while they are read. Whoever draws a conclusion from a value and relies on it
    /// later (an index, a length, text) must do so on a copy; arithmetic on them is merely wrong.
    pub(super) fn bytes(&self, range: &Range<usize>) -> &[u8] {
        if range.start > range.end || range.end > self.len {
            return &[];
        }
        // SAFETY: within the mapping, which lives as long as `self`; pages that nobody wrote are zero.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().add(range.start), range.len()) }
    }

    /// Writes `bytes` at `offset`; nothing where they do not fit.
    pub(super) fn write(&self, offset: usize, bytes: &[u8]) -> Result<()> {
        let place = self.range(offset as u64, bytes.len() as u64)?;
        // SAFETY: within the mapping. A raw copy that allows overlap: the bytes may be an input that the
        // scorer handed through, in this very arena.
        unsafe { std::ptr::copy(bytes.as_ptr(), self.start.as_ptr().add(place.start), bytes.len()) };
        Ok(())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped in `of` with this length; whoever reads it holds an `Arc` of it.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// Bytes of an arena as the memory of a tensor, which keeps the arena mapped.
pub(super) struct Window {
    pub(super) mapping: Arc<Mapping>,
    pub(super) range: Range<usize>,
}

impl Memory for Window {
    fn bytes(&self) -> &[u8] {
        self.mapping.bytes(&self.range)
    }
}

/// The arenas of one worker, by the numbers that it gave them.
#[derive(Default)]
pub(super) struct Arenas {
    mapped: HashMap<u32, Arc<Mapping>>,
    bytes: u64,
}

impl Arenas {
    /// Maps one more.
    pub(super) fn map(&mut self, id: u32, file: &OwnedFd, size: u64) -> Result<()> {
        if self.mapped.contains_key(&id) {
            return Err(ScoreError::conflict(format!("there is an arena {id} already")));
        }
        let total = self.bytes.saturating_add(size);
        if size > MAX_ARENA_BYTES || total > MAX_MAPPED_BYTES || self.mapped.len() >= MAX_ARENAS {
            return Err(ScoreError::new(
                ErrorKind::TooLarge,
                format!(
                    "an arena of {size} bytes beside {} others of {} bytes: a worker may share {MAX_ARENAS} of \
                     at most {MAX_ARENA_BYTES} bytes, {MAX_MAPPED_BYTES} in all; let go of arrays that are \
                     no longer needed",
                    self.mapped.len(),
                    self.bytes
                ),
            ));
        }
        self.mapped.insert(id, Arc::new(Mapping::of(file, size)?));
        self.bytes = total;
        Ok(())
    }

    /// Forgets one; it is unmapped once no call uses it any more.
    pub(super) fn release(&mut self, id: u32) -> Result<()> {
        let mapping = self.mapped.remove(&id).ok_or_else(|| unknown(id))?;
        self.bytes = self.bytes.saturating_sub(mapping.len as u64);
        Ok(())
    }

    /// The arena of that number.
    pub(super) fn find(&self, id: u32) -> Result<&Arc<Mapping>> {
        self.mapped.get(&id).ok_or_else(|| unknown(id))
    }
}

fn unknown(id: u32) -> ScoreError {
    ScoreError::not_found(format!("there is no arena {id}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{MemfdFlags, fcntl_add_seals, ftruncate, memfd_create};

    fn file(size: u64, seals: SealFlags) -> OwnedFd {
        let fd = memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        ftruncate(&fd, size).unwrap();
        fcntl_add_seals(&fd, seals).unwrap();
        fd
    }

    #[test]
    fn only_memory_that_cannot_shrink_is_mapped() {
        let mut arenas = Arenas::default();
        let disk = OwnedFd::from(tempfile::tempfile().unwrap());
        let pipe = OwnedFd::from(std::io::pipe().unwrap().0);
        ftruncate(&disk, 4096).unwrap();
        let shrink = SealFlags::SHRINK;
        // (file, size as said, what the message says; empty = mapped)
        let cases = [
            (file(4096, shrink), 4096, ""),
            (file(4096, SealFlags::empty()), 4096, "F_SEAL_SHRINK"),
            (file(4096, SealFlags::GROW), 4096, "F_SEAL_SHRINK"),
            (file(4096, shrink), 8192, "said to hold 8192 bytes, it holds 4096"),
            (file(0, shrink), 0, "said to hold 0 bytes"),
            (file(4096, shrink | SealFlags::WRITE), 4096, "cannot map an arena"),
            (file(1 << 35, shrink), 1 << 35, "let go of arrays"),
            (disk, 4096, "F_SEAL_SHRINK"),
            (pipe, 4096, "F_SEAL_SHRINK"),
        ];
        for (id, (file, size, message)) in cases.into_iter().enumerate() {
            let got = arenas.map(id as u32, &file, size).err().map(|e| e.to_string()).unwrap_or_default();
            assert!(got.contains(message) && got.is_empty() == message.is_empty(), "{id}: {got}");
        }
        assert_eq!(arenas.bytes, 4096);
        assert!(arenas.map(0, &file(4096, shrink), 4096).is_err(), "the number is taken");
        arenas.release(0).unwrap();
        assert!(arenas.release(0).is_err());
        assert_eq!(arenas.bytes, 0);
    }

    #[test]
    fn ranges_are_checked_and_bytes_written_are_read() {
        let mut arenas = Arenas::default();
        arenas.map(7, &file(4096, SealFlags::SHRINK), 4096).unwrap();
        let mapping = arenas.find(7).unwrap();
        for (offset, len, fits) in [
            (0, 4096, true),
            (4096, 0, true),
            (4096, 1, false),
            (1, 4096, false),
            (u64::MAX, 1, false),
            (1, u64::MAX, false),
        ] {
            assert_eq!(mapping.range(offset, len).is_ok(), fits, "{offset} {len}");
        }
        mapping.write(4090, b"sealed").unwrap();
        assert!(mapping.write(4091, b"sealed").is_err());
        assert_eq!(mapping.bytes(&(4088..4096)), b"\0\0sealed");
        assert_eq!(mapping.bytes(&(4095..4097)), b"", "a range of another arena");
    }
}
