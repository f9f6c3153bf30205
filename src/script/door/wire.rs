//! The messages of the door: one a packet, little-endian, answered one by one and in order.
//!
//! A request is `u8 kind, 3 bytes of nothing, u32 number`, then what its kind says:
//!
//! | kind | rest | the answer's rest |
//! |---|---|---|
//! | 1 open | JSON `{"path", "cwd"}`; or nothing, and a sealed memory file with the model | JSON: the session |
//! | 2 arena | `u32 arena, u64 size`, and the memory file | |
//! | 3 release | `u32 arena` | |
//! | 4 run | [`Run`], below | an answer |
//! | 5 fetch | a place, for the answer of the last run that did not fit | an answer |
//!
//! A reply is `u8 status, 3 bytes of nothing, u32 number of the request`, then: status 0 (done) what the table says;
//! 1 (failed) JSON `{"kind", "message"}`. An answer is status 3 (here) with the answer itself, if it is
//! small; 4 (in its place) `u64 length` when it was written where the request said; 2 (too small) `u64 length` when it
//! did not fit there: it is kept until it is fetched, or until the next run.
//!
//! A place is `u32 arena, u64 offset, u64 length`. A run is `u32 session, u64 timeout in µs (0: none), place of
//! the answer, u16 outputs, u16 inputs`, for each output its `u16 number`, for each input `u16 number, u8 element type
//! (ONNX's number), u8 rank, its place, u64 a dimension`. What an answer looks like is said in `values`.
//!
//! The numbers of the requests are there for a worker that was interrupted while it waited: it can tell the
//! reply that it missed from the one that it waits for.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use crate::error::{Result, ScoreError};
use crate::tensor::DType;

/// The largest message, in bytes; what a socket's buffer takes as it comes is a bit more.
pub(super) const MAX_MESSAGE_BYTES: usize = 128 << 10;
/// The length of what every message begins with, in bytes.
pub(super) const HEAD_BYTES: usize = 8;

/// How a reply begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Status {
    Done = 0,
    Failed = 1,
    TooSmall = 2,
    Here = 3,
    InPlace = 4,
}

/// What a worker asks.
#[derive(Debug, PartialEq)]
pub(super) enum Request {
    Open(Option<OpenPath>),
    Arena { id: u32, size: u64 },
    Release { id: u32 },
    Run(Run),
    Fetch(Place),
}

/// Which file a worker means.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OpenPath {
    pub(super) path: PathBuf,
    pub(super) cwd: Option<PathBuf>,
}

/// Bytes in an arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) arena: u32,
    pub(super) offset: u64,
    pub(super) len: u64,
}

/// A call of a session's `run`.
#[derive(Debug, PartialEq)]
pub(super) struct Run {
    pub(super) session: u32,
    pub(super) timeout: Option<Duration>,
    /// Where the answer may be written; of no length when there is no room for it yet.
    pub(super) answer: Place,
    /// The outputs that are wanted, by their place in the signature; in that order, and maybe more than once.
    pub(super) outputs: Vec<u16>,
    pub(super) inputs: Vec<Input>,
}

/// One input of a run.
#[derive(Debug, PartialEq)]
pub(super) struct Input {
    pub(super) port: u16,
    pub(super) dtype: DType,
    pub(super) place: Place,
    pub(super) shape: Vec<usize>,
}

/// The number of a message, where it is long enough to have one.
pub(super) fn number(message: &[u8]) -> Option<u32> {
    Reader(message.get(4..HEAD_BYTES)?).u32().ok()
}

/// The beginning of a reply.
pub(super) fn reply(status: Status, number: u32) -> Vec<u8> {
    let mut message = vec![status as u8, 0, 0, 0];
    message.extend_from_slice(&number.to_le_bytes());
    message
}

/// Reads a message whose head is complete.
///
/// # Errors
/// `BadInput` for everything that is not a request.
pub(super) fn decode(message: &[u8]) -> Result<Request> {
    let kind = message.first().copied().unwrap_or(0);
    let mut rest = Reader(message.get(HEAD_BYTES..).unwrap_or_default());
    let request = match kind {
        1 => {
            let json = std::mem::take(&mut rest.0);
            let path = (!json.is_empty()).then(|| serde_json::from_slice(json)).transpose();
            Request::Open(
                path.map_err(|e| ScoreError::bad_input(format!("a path that cannot be read: {e}")))?,
            )
        }
        2 => Request::Arena { id: rest.u32()?, size: rest.u64()? },
        3 => Request::Release { id: rest.u32()? },
        4 => Request::Run(rest.run()?),
        5 => Request::Fetch(rest.place()?),
        _ => return Err(ScoreError::bad_input(format!("there is no message of kind {kind}"))),
    };
    match rest.0.len() {
        0 => Ok(request),
        n => Err(ScoreError::bad_input(format!("{n} bytes too many in a message of kind {kind}"))),
    }
}

/// What is left of a message.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (first, rest) =
            self.0.split_first_chunk().ok_or_else(|| ScoreError::bad_input("a message that is too short"))?;
        self.0 = rest;
        Ok(*first)
    }
    fn u8(&mut self) -> Result<u8> {
        self.take().map(u8::from_le_bytes)
    }
    fn u16(&mut self) -> Result<u16> {
        self.take().map(u16::from_le_bytes)
    }
    fn u32(&mut self) -> Result<u32> {
        self.take().map(u32::from_le_bytes)
    }
    fn u64(&mut self) -> Result<u64> {
        self.take().map(u64::from_le_bytes)
    }
    fn place(&mut self) -> Result<Place> {
        Ok(Place { arena: self.u32()?, offset: self.u64()?, len: self.u64()? })
    }

    fn run(&mut self) -> Result<Run> {
        let session = self.u32()?;
        let timeout = Some(self.u64()?).filter(|us| *us > 0).map(Duration::from_micros);
        let answer = self.place()?;
        let (outputs, inputs) = (self.u16()?, self.u16()?);
        // The counts are a stranger's: nothing is reserved for them, and the message ends soon enough.
        let outputs = (0..outputs).map(|_| self.u16()).collect::<Result<_>>()?;
        let inputs = (0..inputs).map(|_| self.input()).collect::<Result<_>>()?;
        Ok(Run { session, timeout, answer, outputs, inputs })
    }

    fn input(&mut self) -> Result<Input> {
        let (port, code, rank) = (self.u16()?, self.u8()?, self.u8()?);
        let dtype = DType::from_onnx(i32::from(code));
        let dtype = dtype.ok_or_else(|| ScoreError::bad_input(format!("there is no element type {code}")))?;
        let place = self.place()?;
        let too_long = |_| ScoreError::bad_input("a dimension past all memory");
        let shape =
            (0..rank).map(|_| usize::try_from(self.u64()?).map_err(too_long)).collect::<Result<_>>()?;
        Ok(Input { port, dtype, place, shape })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u8, rest: &[u8]) -> Vec<u8> {
        [&[kind, 0, 0, 0, 9, 0, 0, 0][..], rest].concat()
    }

    /// One output, one input `f32[3]` of 12 bytes at 64 in arena 1; the answer to the second half of arena 2.
    fn run() -> Vec<u8> {
        let mut m = Vec::new();
        m.extend(5u32.to_le_bytes());
        m.extend(1500u64.to_le_bytes());
        m.extend(2u32.to_le_bytes());
        m.extend([2048u64, 2048].map(u64::to_le_bytes).concat());
        m.extend([1, 0, 1, 0, 0, 0]);
        m.extend([0, 0, 1, 1]);
        m.extend(1u32.to_le_bytes());
        m.extend([64u64, 12, 3].map(u64::to_le_bytes).concat());
        message(4, &m)
    }

    #[test]
    fn a_run_is_read_and_every_part_of_it_alone_is_not() {
        let expected = Run {
            session: 5,
            timeout: Some(Duration::from_micros(1500)),
            answer: Place { arena: 2, offset: 2048, len: 2048 },
            outputs: vec![0],
            inputs: vec![Input {
                port: 0,
                dtype: DType::F32,
                place: Place { arena: 1, offset: 64, len: 12 },
                shape: vec![3],
            }],
        };
        assert_eq!(decode(&run()).unwrap(), Request::Run(expected));
        assert_eq!(number(&run()), Some(9));
        for cut in HEAD_BYTES..run().len() {
            let e = decode(&run()[..cut]).unwrap_err();
            assert_eq!(e.message(), "a message that is too short", "{cut}");
        }
        assert!(decode(&[run(), vec![0]].concat()).unwrap_err().message().contains("1 bytes too many"));
    }

    #[test]
    fn what_is_no_request_is_refused() {
        let mut no_type = run();
        no_type[8 + 4 + 8 + 20 + 4 + 2 + 2] = 200;
        let mut endless = run();
        endless[8 + 4 + 8 + 20..][..4].fill(0xff);
        let cases: [(Vec<u8>, &str); 8] = [
            (vec![], "no message of kind 0"),
            (message(99, &[]), "no message of kind 99"),
            (message(1, b"{\"path\": 3}"), "a path that cannot be read"),
            (message(1, b"{\"path\": \"m\", \"mode\": 1}"), "a path that cannot be read"),
            (message(2, &[1, 0, 0, 0]), "too short"),
            (message(3, &[1, 0, 0, 0, 0]), "1 bytes too many"),
            (no_type, "no element type 200"),
            (endless, "too short"),
        ];
        for (bytes, expected) in cases {
            let e = decode(&bytes).unwrap_err();
            assert!(e.message().contains(expected), "{e}, expected {expected}");
        }
        assert_eq!(number(&[1, 2, 3]), None);
        assert_eq!(decode(&message(1, b"")).unwrap(), Request::Open(None));
    }
}
