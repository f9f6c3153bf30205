//! Reads a worker's answers: small ones several a call, large ones straight into a buffer of their size.

use std::sync::Arc;

use axum::body::Bytes;
use bytes::BufMut;
use tokio::io::AsyncReadExt;
use tokio::net::unix::OwnedReadHalf;

use super::pool::Shared;
use super::protocol::{ANSWER_PREFIX, AnswerPrefix};

/// What is read at once; an answer is copied when it fits, and only then.
const BUFFER_BYTES: usize = 16 << 10;

/// Tells the pool that the worker is gone, also when the event loop ends around the reader.
struct Reading {
    shared: Arc<Shared>,
    slot: usize,
    number: u64,
    wrong: Option<String>,
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.shared.disconnected(self.slot, self.number, self.wrong.take());
    }
}

/// Reads until the worker's end, which it notes.
pub(super) async fn read_answers(shared: Arc<Shared>, slot: usize, number: u64, half: OwnedReadHalf) {
    let mut reading = Reading { shared, slot, number, wrong: None };
    reading.wrong = read_all(&reading.shared, slot, half).await.err();
}

async fn read_all(shared: &Shared, slot: usize, mut half: OwnedReadHalf) -> Result<(), String> {
    let max_bytes = shared.options.max_answer_bytes;
    let mut buffer: Vec<u8> = Vec::with_capacity(BUFFER_BYTES);
    loop {
        let mut used = 0;
        while let Some(answer) = AnswerPrefix::parse(buffer.get(used..).unwrap_or_default(), max_bytes)? {
            let rest = buffer.get(used + ANSWER_PREFIX..).unwrap_or_default();
            let mut all = match rest.get(..answer.rest_len) {
                Some(all) => {
                    used += ANSWER_PREFIX + answer.rest_len;
                    Bytes::copy_from_slice(all)
                }
                // It will fit: wait for it.
                None if ANSWER_PREFIX + answer.rest_len <= BUFFER_BYTES => break,
                None => {
                    let mut large = Vec::with_capacity(answer.rest_len);
                    large.extend_from_slice(rest);
                    used = buffer.len();
                    while large.len() < answer.rest_len {
                        let missing = answer.rest_len - large.len();
                        match half.read_buf(&mut (&mut large).limit(missing)).await {
                            Ok(0) | Err(_) => return Ok(()),
                            Ok(_) => {}
                        }
                    }
                    Bytes::from(large)
                }
            };
            let head = all.split_to(answer.head_len);
            shared.answered(slot, &answer, &head, all)?;
        }
        buffer.drain(..used);
        let room = BUFFER_BYTES - buffer.len();
        match half.read_buf(&mut (&mut buffer).limit(room)).await {
            Ok(0) | Err(_) => return Ok(()),
            Ok(_) => {}
        }
    }
}
