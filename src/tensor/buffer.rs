//! The bytes behind a tensor: aligned, shared, and never allocated on a stranger's word.
//!
//! Vector loads and DMA engines want 64-byte alignment; `Vec<u8>` promises 1. A buffer is therefore
//! either our own aligned allocation, or somebody else's memory (an output that ONNX Runtime
//! allocated, a mapped file) that we keep alive and read where it lies.

use std::alloc::{Layout, alloc, alloc_zeroed, dealloc};
use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;

use crate::error::{Result, ScoreError};

/// What the start of every buffer is aligned to, in bytes: a cache line, an AVX-512 register, and
/// the burst of the DMA engines that we know of.
pub const ALIGN_BYTES: usize = 64;

/// An owned allocation of bytes, aligned to [`ALIGN_BYTES`].
pub struct AlignedBytes {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the allocation is owned, and reached only through `&self` (shared) or `&mut self` (unique).
unsafe impl Send for AlignedBytes {}
// SAFETY: as above; there is no interior mutability.
unsafe impl Sync for AlignedBytes {}

impl AlignedBytes {
    /// `len` zero bytes. Fails with `OutOfMemory` rather than aborting the process.
    pub fn zeroed(len: usize) -> Result<Self> {
        Self::allocate(len, alloc_zeroed)
    }

    /// A copy of `bytes`. Fails with `OutOfMemory` rather than aborting the process.
    pub fn copy_of(bytes: &[u8]) -> Result<Self> {
        let mut out = Self::allocate(bytes.len(), alloc)?;
        // Raw copy: the fresh memory is uninitialised, so no `&mut [u8]` to it may exist yet.
        // SAFETY: both ranges are `bytes.len()` long, and a fresh allocation cannot overlap `bytes`.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), out.start.as_mut(), bytes.len()) };
        Ok(out)
    }

    fn allocate(len: usize, allocate: unsafe fn(Layout) -> *mut u8) -> Result<Self> {
        if len == 0 {
            return Ok(Self { start: NonNull::<Aligned>::dangling().cast(), len });
        }
        let refused = || ScoreError::out_of_memory(format!("cannot allocate a tensor of {len} bytes"));
        let layout = Layout::from_size_align(len, ALIGN_BYTES).map_err(|_| refused())?;
        // SAFETY: the layout has a non-zero size.
        let start = NonNull::new(unsafe { allocate(layout) }).ok_or_else(refused)?;
        Ok(Self { start, len })
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: `start` is valid for `len` initialised bytes for as long as `self` lives.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// The bytes, to be written.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `&mut self` makes this the only view.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

/// Gives an empty buffer an address that is aligned as promised.
#[repr(align(64))]
struct Aligned;

impl Drop for AlignedBytes {
    fn drop(&mut self) {
        if self.len > 0 {
            // SAFETY: allocated in `allocate` with the global allocator and exactly this layout.
            unsafe {
                dealloc(self.start.as_ptr(), Layout::from_size_align_unchecked(self.len, ALIGN_BYTES));
            }
        }
    }
}

/// Memory that somebody else owns and that stays where it is and unchanged for as long as it is held.
pub trait Memory: Send + Sync {
    /// The bytes: the same address, length and content at every call.
    fn bytes(&self) -> &[u8];
}

/// The bytes of one or more tensors: shared, read-only, aligned to [`ALIGN_BYTES`] at their start.
#[derive(Clone)]
pub struct Buffer(Inner);

#[derive(Clone)]
enum Inner {
    Owned(Arc<AlignedBytes>),
    Foreign(Arc<dyn Memory>),
}

impl Buffer {
    /// Memory that is owned elsewhere, read in place if it is aligned and copied if it is not.
    pub fn from_memory(memory: impl Memory + 'static) -> Result<Self> {
        let bytes = memory.bytes();
        if bytes.as_ptr().addr().is_multiple_of(ALIGN_BYTES) {
            return Ok(Self(Inner::Foreign(Arc::new(memory))));
        }
        Self::copy_of(bytes)
    }

    /// A copy of `bytes`.
    pub fn copy_of(bytes: &[u8]) -> Result<Self> {
        AlignedBytes::copy_of(bytes).map(Self::from)
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        match &self.0 {
            Inner::Owned(bytes) => bytes.as_slice(),
            Inner::Foreign(memory) => memory.bytes(),
        }
    }
}

impl From<AlignedBytes> for Buffer {
    fn from(bytes: AlignedBytes) -> Self {
        Self(Inner::Owned(Arc::new(bytes)))
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} bytes)", self.as_slice().len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_empty_ones_too() {
        for len in [0, 1, 63, 64, 65, 4096, 1_000_003] {
            let zeroed = AlignedBytes::zeroed(len).unwrap();
            assert_eq!(zeroed.as_slice().len(), len);
            assert!(zeroed.as_slice().iter().all(|b| *b == 0));
            assert!(zeroed.as_slice().as_ptr().addr().is_multiple_of(ALIGN_BYTES));
        }
        let mut copy = AlignedBytes::copy_of(b"triscore").unwrap();
        copy.as_mut_slice()[0] = b'T';
        assert_eq!(copy.as_slice(), b"Triscore");
    }

    #[test]
    fn an_impossible_size_is_an_error_and_no_abort() {
        for len in [usize::MAX, isize::MAX as usize, 1 << 60] {
            let refused = AlignedBytes::zeroed(len).map(|_| ()).unwrap_err();
            assert_eq!(refused.kind(), crate::ErrorKind::OutOfMemory);
        }
    }

    struct At(AlignedBytes, usize);
    impl Memory for At {
        fn bytes(&self) -> &[u8] {
            &self.0.as_slice()[self.1..]
        }
    }

    #[test]
    fn foreign_memory_is_read_in_place_only_if_aligned() {
        for (offset, in_place) in [(0, true), (64, true), (1, false), (32, false)] {
            let bytes = AlignedBytes::copy_of(&[7; 128]).unwrap();
            let address = bytes.as_slice().as_ptr().addr() + offset;
            let buffer = Buffer::from_memory(At(bytes, offset)).unwrap();
            assert_eq!(buffer.as_slice(), vec![7; 128 - offset]);
            assert_eq!(buffer.as_slice().as_ptr().addr() == address, in_place, "offset {offset}");
        }
    }
}
