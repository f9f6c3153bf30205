//! The header of a NumPy array, looked at before it is believed.
//!
//! It is a Python expression from a stranger's file. The parser that `npyz` hands it to recurses, makes room
//! for as many bytes as the file announces, and multiplies the shape without looking; so what would
//! hurt it is refused here first.

use std::io::{Chain, Cursor, Read};

use npyz::NpyFile;
use triscore::{Result, ScoreError};

/// NumPy's own headers have 64 to 128 bytes; its reader takes 10,000.
const MOST_BYTES: usize = 10_000;
/// The header of an array that can be scored has a tuple in a dictionary.
const MOST_NESTING: usize = 4;

/// An array whose header has been read: the bytes that were looked at, and the rest.
pub(super) type Array<R> = NpyFile<Chain<Cursor<Vec<u8>>, R>>;

/// Reads the header of an array.
///
/// # Errors
/// `BadInput` with what is wrong with it.
pub(super) fn array<R: Read>(mut file: R) -> Result<Array<R>> {
    // Magic, version and length have 10 bytes, or 12 from version 2 on.
    let mut head = take(&mut file, 10)?;
    if head.get(6).is_some_and(|major| *major > 1) {
        head.extend(take(&mut file, 2)?);
    }
    if head.starts_with(b"\x93NUMPY") {
        let length = head.get(8..).unwrap_or_default().iter().rev();
        let length = length.fold(0, |length, byte| length << 8 | usize::from(*byte));
        if length > MOST_BYTES {
            return Err(not_numpy(format!("its header has {length} bytes, more than {MOST_BYTES}")));
        }
        let text = take(&mut file, length)?;
        check(&text)?;
        head.extend(text);
    }
    NpyFile::new(Cursor::new(head).chain(file)).map_err(not_numpy)
}

/// So many bytes, or as many as there are.
fn take(file: impl Read, bytes: usize) -> Result<Vec<u8>> {
    let mut taken = Vec::new();
    file.take(bytes as u64).read_to_end(&mut taken).map_err(not_numpy)?;
    Ok(taken)
}

fn check(text: &[u8]) -> Result<()> {
    let mut depth = 0usize;
    for byte in text {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MOST_NESTING {
            return Err(not_numpy("its header nests deeper than that of any array that can be scored"));
        }
    }
    // Every number in it, whatever it stands for: a shape whose product is too large has too large ones.
    let numbers = text.split(|b| !b.is_ascii_digit()).filter(|digits| !digits.is_empty());
    let mut product = 1u64;
    for digits in numbers {
        let number = std::str::from_utf8(digits).ok().and_then(|n| n.parse::<u64>().ok());
        match number.and_then(|n| product.checked_mul(n.max(1))) {
            Some(larger) => product = larger,
            None => return Err(ScoreError::bad_input("the shape says more elements than the file holds")),
        }
    }
    Ok(())
}

/// The error for a file that is not what its name says.
pub(super) fn not_numpy(why: impl std::fmt::Display) -> ScoreError {
    ScoreError::bad_input(format!("not a NumPy file: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str) -> Vec<u8> {
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend([0; 8]);
        bytes
    }

    #[test]
    fn headers_are_read_or_refused() {
        let plain = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 1), }\n";
        assert_eq!(array(&*file(plain)).unwrap().shape(), [2, 1]);
        let mut second = b"\x93NUMPY\x02\x00".to_vec();
        second.extend((plain.len() as u32).to_le_bytes());
        second.extend(plain.as_bytes());
        assert_eq!(array(&*second).unwrap().shape(), [2, 1]);

        let with = |shape: &str| file(&plain.replace("(2, 1)", shape));
        let mut announced = b"\x93NUMPY\x02\x00\xff\xff\xff\xff".to_vec();
        announced.extend(plain.as_bytes());
        for (bytes, message) in [
            (with("(4294967296, 4294967296, 2)"), "more elements"),
            (with("(4294967296, 4294967296, 0)"), "more elements"),
            (with("(99999999999999999999999,)"), "more elements"),
            (with("(-1, 2)"), "negative"),
            (with(&"(".repeat(5000)), "nests deeper"),
            (with(&" ".repeat(20_000)), "20054 bytes"),
            (announced, "4294967295 bytes"),
            (file("{'descr': '<f4'}"), "missing key"),
            (file(plain)[..40].to_vec(), "not a NumPy file"),
            (b"\x93NUM".to_vec(), "not a NumPy file"),
            (b"<html> no array".to_vec(), "magic"),
            (Vec::new(), "not a NumPy file"),
        ] {
            let e = array(&*bytes).err().map(|e| e.to_string()).unwrap_or_default();
            assert!(e.contains(message), "expected '{message}', got '{e}'");
        }
    }
}
