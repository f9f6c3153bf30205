//! Host memory that a device reads and writes by itself.
//!
//! Its pages are whole: boards transfer such memory where it lies (64 bytes suffice for Intel's DMA, AMD's wants 4 KiB), and copy anything
//! else once more. It is kept from call to call, so that in the long run nothing is allocated.

use bytemuck::{Pod, Zeroable};

use crate::error::{Result, ScoreError};

/// A page.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(4096))]
struct Page([u8; 4096]);

/// Bytes that begin at a page and share their pages with nobody.
#[derive(Default)]
pub(in super::super) struct Pages {
    pages: Vec<Page>,
    bytes: usize,
}

impl Pages {
    /// Makes it so many bytes; what they are is not defined.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub(in super::super) fn resize(&mut self, bytes: usize) -> Result<()> {
        let pages = bytes.div_ceil(size_of::<Page>());
        if let Some(more) = pages.checked_sub(self.pages.len()) {
            let refused = |_| ScoreError::out_of_memory(format!("cannot allocate {bytes} bytes to transfer"));
            self.pages.try_reserve_exact(more).map_err(refused)?;
            self.pages.resize(pages, Page::zeroed());
        }
        self.bytes = bytes;
        Ok(())
    }

    pub(in super::super) fn as_slice(&self) -> &[u8] {
        bytemuck::cast_slice(&self.pages).get(..self.bytes).unwrap_or_default()
    }

    pub(in super::super) fn as_mut_slice(&mut self) -> &mut [u8] {
        bytemuck::cast_slice_mut(&mut self.pages).get_mut(..self.bytes).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_whole_and_stay() {
        let mut pages = Pages::default();
        assert!(pages.as_slice().is_empty());
        pages.resize(5000).unwrap();
        pages.as_mut_slice().fill(7);
        let at = pages.as_slice().as_ptr();
        assert!((at as usize).is_multiple_of(4096));
        for bytes in [1, 4096, 0, 8192, 5000] {
            pages.resize(bytes).unwrap();
            assert_eq!((pages.as_slice().len(), pages.as_slice().as_ptr()), (bytes, at), "{bytes}");
        }
        pages.resize(5001 << 10).unwrap();
        assert!((pages.as_slice().as_ptr() as usize).is_multiple_of(4096));
        assert!(pages.resize(usize::MAX / 2).is_err());
        assert_eq!(pages.as_slice().len(), 5001 << 10, "as it was");
    }
}
