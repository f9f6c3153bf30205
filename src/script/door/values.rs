//! Tensors out of a worker's arenas, and answers into them.
//!
//! An answer is one run of bytes, the same whether it travels in a message or lies in an arena: first what there
//! is, value by value, then the contents, each at a multiple of 64 bytes (8 within maps, which become Python
//! objects anyway). A value is `u8 kind, u8 element type, u8 rank, u8 nothing, u32 count`, then
//! - kind 1, a tensor: `u64 offset, u64 length` of its content within the answer, `u64` a dimension;
//! - kind 2, a sequence: `count` values;
//! - kind 3, a map: two tensors, keys and values.
//!
//! The content of a tensor is its elements, row-major. Text, here and in inputs, is for each element
//! `u32 length` and as many bytes of UTF-8.

use super::arena::{Arenas, Window};
use super::wire::Input;
use crate::error::{ErrorKind, Result, ScoreError};
use crate::tensor::{ALIGN_BYTES, Buffer, DType, Tensor, Value, element_count};

/// What contents within maps are aligned to: the largest element.
const MAP_ALIGN_BYTES: usize = 8;
/// How deep sequences may nest; ONNX's own types are two deep.
const MAX_DEPTH: usize = 8;

/// The tensor that an input is, over the worker's memory where that is safe.
///
/// # Errors
/// `NotFound` for an arena that there is not; `BadInput` where place, shape and type do not agree.
pub(super) fn input(input: &Input, arenas: &Arenas) -> Result<Tensor> {
    let place = input.place;
    let mapping = arenas.find(place.arena)?;
    let range = mapping.range(place.offset, place.len)?;
    match input.dtype {
        DType::String => {
            let copy = Buffer::copy_of(mapping.bytes(&range))?;
            Tensor::strings(&input.shape, strings(copy.as_slice(), element_count(&input.shape)?)?)
        }
        // The worker can write while we read. A truth value that is neither is no value in Rust; an index that
        // was checked and then changes would lead a kernel out of its tensor. Both are small: copy them.
        dtype @ (DType::Bool | DType::I32 | DType::I64) => {
            Tensor::new(dtype, &input.shape, Buffer::copy_of(mapping.bytes(&range))?)
        }
        dtype => {
            let window = Window { mapping: mapping.clone(), range };
            Tensor::new(dtype, &input.shape, Buffer::from_memory(window)?)
        }
    }
}

/// Reads that many texts.
fn strings(mut bytes: &[u8], count: usize) -> Result<Vec<String>> {
    let refused = |at: usize, what: &str| ScoreError::bad_input(format!("text element {at} {what}"));
    // Each takes at least its length, so a count that lies reserves no memory.
    if count > bytes.len() / size_of::<u32>() {
        return Err(ScoreError::bad_input(format!("{count} texts do not fit into {} bytes", bytes.len())));
    }
    let mut out = Vec::with_capacity(count);
    for at in 0..count {
        let (len, rest) = bytes.split_first_chunk().ok_or_else(|| refused(at, "is not there"))?;
        let len = u32::from_le_bytes(*len) as usize;
        let (text, rest) = rest.split_at_checked(len).ok_or_else(|| refused(at, "is cut off"))?;
        out.push(String::from_utf8(text.to_vec()).map_err(|_| refused(at, "is not UTF-8"))?);
        bytes = rest;
    }
    match bytes.len() {
        0 => Ok(out),
        n => Err(ScoreError::bad_input(format!("{n} bytes follow the last text"))),
    }
}

/// The outputs of a call that a worker wants, and where each part of them goes.
pub(super) struct Answer {
    head: Vec<u8>,
    contents: Vec<(usize, Tensor)>,
    len: usize,
}

impl Answer {
    /// Lays out these values.
    ///
    /// # Errors
    /// `Unsupported` for what does not fit the format: text of 4 GiB, nesting without end.
    pub(super) fn new<'a>(values: impl Iterator<Item = &'a Value> + Clone) -> Result<Self> {
        let head_len = values.clone().map(|v| described(v, 0)).sum::<Result<usize>>()?;
        let mut answer = Self { head: Vec::with_capacity(head_len), contents: Vec::new(), len: head_len };
        for value in values {
            answer.add(value)?;
        }
        Ok(answer)
    }

    /// How many bytes it takes.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Writes it through `put`, which takes an offset and what goes there.
    ///
    /// # Errors
    /// What `put` gives.
    pub(super) fn write(&self, mut put: impl FnMut(usize, &[u8]) -> Result<()>) -> Result<()> {
        put(0, &self.head)?;
        for (offset, tensor) in &self.contents {
            if tensor.dtype() != DType::String {
                put(*offset, tensor.as_bytes())?;
                continue;
            }
            let mut at = *offset;
            for text in tensor.as_strings()? {
                put(at, &text_len(text)?.to_le_bytes())?;
                put(at + size_of::<u32>(), text.as_bytes())?;
                at += size_of::<u32>() + text.len();
            }
        }
        Ok(())
    }

    fn add(&mut self, value: &Value) -> Result<()> {
        match value {
            Value::Tensor(tensor) => self.add_tensor(tensor, ALIGN_BYTES),
            Value::Sequence(values) => {
                let count = u32::try_from(values.len())
                    .map_err(|_| ScoreError::unsupported("a sequence of more than 2^32 values"))?;
                self.head.extend_from_slice(&[2, 0, 0, 0]);
                self.head.extend_from_slice(&count.to_le_bytes());
                values.iter().try_for_each(|v| self.add(v))
            }
            Value::Map(map) => {
                self.head.extend_from_slice(&[3, 0, 0, 0, 0, 0, 0, 0]);
                self.add_tensor(map.keys(), MAP_ALIGN_BYTES)?;
                self.add_tensor(map.values(), MAP_ALIGN_BYTES)
            }
        }
    }

    fn add_tensor(&mut self, tensor: &Tensor, align: usize) -> Result<()> {
        let offset = self.len.next_multiple_of(align);
        let mut len = tensor.size_bytes();
        if tensor.dtype() == DType::String {
            len += tensor.len() * size_of::<u32>();
        }
        let code = u8::try_from(tensor.dtype().onnx_code());
        let code = code.map_err(|_| ScoreError::internal("an element type past 255"))?;
        self.head.extend_from_slice(&[1, code, rank(tensor)?, 0, 0, 0, 0, 0]);
        let dims = tensor.shape().iter().copied();
        for n in [offset, len].into_iter().chain(dims) {
            self.head.extend_from_slice(&(n as u64).to_le_bytes());
        }
        self.contents.push((offset, tensor.clone()));
        self.len = offset + len;
        Ok(())
    }
}

/// How many bytes say what a value is.
fn described(value: &Value, depth: usize) -> Result<usize> {
    const VALUE: usize = 8;
    let tensor = |t: &Tensor| VALUE + size_of::<u64>() * (2 + t.shape().len());
    match value {
        Value::Tensor(t) => Ok(tensor(t)),
        Value::Map(map) => Ok(VALUE + tensor(map.keys()) + tensor(map.values())),
        Value::Sequence(_) if depth > MAX_DEPTH => {
            Err(ScoreError::unsupported(format!("sequences in sequences, more than {MAX_DEPTH} deep")))
        }
        Value::Sequence(values) => {
            values.iter().map(|v| described(v, depth + 1)).sum::<Result<usize>>().map(|n| VALUE + n)
        }
    }
}

fn rank(tensor: &Tensor) -> Result<u8> {
    let rank = tensor.shape().len();
    u8::try_from(rank).map_err(|_| ScoreError::unsupported(format!("an output of {rank} dimensions")))
}

fn text_len(text: &str) -> Result<u32> {
    u32::try_from(text.len())
        .map_err(|_| ScoreError::new(ErrorKind::Unsupported, "an output text of more than 4 GiB"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::Map;

    #[test]
    fn texts_are_read_within_their_bytes() {
        let cases: [(&[u8], usize, &str); 8] = [
            (b"\x02\0\0\0ab\0\0\0\0", 2, ""),
            (b"", 0, ""),
            (b"\x02\0\0\0ab", 2, "2 texts do not fit into 6 bytes"),
            (b"\x04\0\0\0abcd", 2, "text element 1 is not there"),
            (b"\x03\0\0\0ab", 1, "text element 0 is cut off"),
            (b"\x02\0\0\0\xff\xfe", 1, "text element 0 is not UTF-8"),
            (b"\x01\0\0\0ab", 1, "1 bytes follow"),
            (b"\x01\0\0\0a", usize::MAX, "do not fit into 5 bytes"),
        ];
        for (bytes, count, message) in cases {
            match strings(bytes, count) {
                Ok(texts) => assert!(message.is_empty() && texts.len() == count),
                Err(e) => assert!(!message.is_empty() && e.message().contains(message), "{e}"),
            }
        }
    }

    #[test]
    fn an_answer_says_what_it_holds_and_where() {
        let labels = Tensor::strings(&[2], vec!["fig".to_owned(), "pear".to_owned()]).unwrap();
        let floats = Tensor::from_slice(&[2], &[0.25f32, 0.75]).unwrap();
        let values = [
            Value::Tensor(floats.clone()),
            Value::Sequence(vec![Value::Map(Map::new(labels, floats).unwrap())]),
        ];
        let answer = Answer::new(values.iter()).unwrap();
        let mut bytes = vec![0; answer.len()];
        answer
            .write(|at, part| {
                bytes[at..at + part.len()].copy_from_slice(part);
                Ok(())
            })
            .unwrap();
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
        assert_eq!(&bytes[..8], [1, 1, 1, 0, 0, 0, 0, 0]);
        let at = word(8);
        assert_eq!((at % ALIGN_BYTES, word(16), word(24)), (0, 8, 2));
        assert_eq!(bytes[at..at + 8], [0.25f32, 0.75].map(f32::to_le_bytes).concat());
        assert_eq!(&bytes[32..40], [2, 0, 0, 0, 1, 0, 0, 0], "a sequence of one");
        assert_eq!(bytes[40], 3, "a map");
        assert_eq!(&bytes[48..51], [1, 8, 1], "text in one dimension");
        let at = word(56);
        assert_eq!(&bytes[at..at + word(64)], b"\x03\0\0\0fig\x04\0\0\0pear");
        assert_eq!(answer.head.len(), described(&values[0], 0).unwrap() + described(&values[1], 0).unwrap());
    }

    #[test]
    fn sequences_without_end_are_refused() {
        let deep = (0..20).fold(Value::Sequence(vec![]), |inner, _| Value::Sequence(vec![inner]));
        let e = Answer::new([deep].iter()).map(|_| ()).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Unsupported);
    }
}
