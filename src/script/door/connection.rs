//! One worker's socket, and the thread that serves it.
//!
//! A worker has one session exchange under way at a time, so one thread serves it, and blocks: on the
//! socket, or in the scorer. Whatever a worker sends is answered, with an error where it makes no sense;
//! only a message without a number, or one too long to be a message, ends the connection.

use std::fmt;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendFlags, Shutdown,
    SocketFlags, SocketType, recvmsg, send, shutdown, socketpair,
};
use serde_json::{Value as Json, json};

use super::arena::Arenas;
use super::models::Models;
use super::system;
use super::values::{self, Answer};
use super::wire::{self, MAX_MESSAGE_BYTES, OpenPath, Place, Request, Run, Status};
use crate::error::{ErrorKind, Result, ScoreError};
use crate::scoring::{Call, CancelToken, Scorer};
use crate::signature::{Dim, Port, PortKind, Signature};

/// The most sessions of one worker; opening a model again is no new one.
const MAX_SESSIONS: usize = 256;
/// Answers up to this many bytes travel in the message: a copy is cheaper than keeping account of memory.
const MAX_HERE_BYTES: usize = 32 << 10;
/// The longest message of an error, in bytes.
const MAX_ERROR_BYTES: usize = 16 << 10;
/// How long a worker may leave answers unread before it is given up.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// The host's side of one worker's door. Dropped, it ends what the worker has running and closes the door.
pub struct Connection {
    socket: Arc<OwnedFd>,
    cancel: CancelToken,
    mapped: Arc<AtomicU64>,
}

impl Connection {
    pub(super) fn open(models: Arc<Models>) -> Result<(OwnedFd, Self)> {
        let failed = |e| system("make the socket of a worker", e);
        let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::CLOEXEC);
        let (ours, theirs) = socketpair(AddressFamily::UNIX, kind, flags, None).map_err(failed)?;
        set_socket_timeout(&ours, Timeout::Send, Some(SEND_TIMEOUT)).map_err(failed)?;
        let (socket, cancel, mapped) = (Arc::new(ours), CancelToken::new(), Arc::new(AtomicU64::new(0)));
        let mut served = Served {
            socket: Arc::clone(&socket),
            cancel: cancel.clone(),
            mapped: Arc::clone(&mapped),
            models,
            arenas: Arenas::default(),
            sessions: Vec::new(),
            kept: None,
        };
        std::thread::Builder::new().name("triscore-door".to_owned()).spawn(move || served.serve()).map_err(
            |e| ScoreError::new(ErrorKind::Io, format!("cannot start a thread: {e}")).with_source(e),
        )?;
        Ok((theirs, Self { socket, cancel, mapped }))
    }

    /// How many arenas the worker has had mapped so far. It stands still once a script does the same
    /// thing again and again.
    pub fn arenas_mapped(&self) -> u64 {
        self.mapped.load(Ordering::Relaxed)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.cancel.cancel();
        // Wakes the thread, and the worker; either may have closed it already.
        let _ = shutdown(&*self.socket, Shutdown::Both);
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connection({} arenas mapped so far)", self.arenas_mapped())
    }
}

/// What the thread of a connection works on.
struct Served {
    socket: Arc<OwnedFd>,
    cancel: CancelToken,
    mapped: Arc<AtomicU64>,
    models: Arc<Models>,
    arenas: Arenas,
    sessions: Vec<Arc<dyn Scorer>>,
    /// The answer of the last run, if it did not fit where the worker wanted it.
    kept: Option<Answer>,
}

impl Served {
    fn serve(&mut self) {
        // One byte more than a message may have, so that a longer one shows.
        let mut buffer = vec![0; MAX_MESSAGE_BYTES + 1];
        let ended = loop {
            match self.receive(&mut buffer) {
                Ok(None) => break Ok(()),
                Ok(Some((len, file))) => {
                    let message = buffer.get(..len).unwrap_or_default();
                    let Some(number) = wire::number(message) else {
                        break Err(ScoreError::bad_input("a message without a number"));
                    };
                    let reply = self.answer(message, number, file).unwrap_or_else(|e| failed(number, &e));
                    match send(&*self.socket, &reply, SendFlags::NOSIGNAL) {
                        Ok(_) => {}
                        // The worker is gone: what it asked for is nobody's any more.
                        Err(rustix::io::Errno::PIPE | rustix::io::Errno::CONNRESET) => break Ok(()),
                        Err(e) => break Err(system("answer a worker", e)),
                    }
                }
                Err(e) => break Err(e),
            }
        };
        if let Err(e) = ended {
            tracing::warn!("the accelerated door of a worker is closed: {e}");
        }
        // The worker must see the end even while the connection is kept.
        let _ = shutdown(&*self.socket, Shutdown::Both);
    }

    /// The next message, with the file that came with it; `None` when the worker has closed its end.
    fn receive(&self, buffer: &mut [u8]) -> Result<Option<(usize, Option<OwnedFd>)>> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            match recvmsg(
                &*self.socket,
                &mut [IoSliceMut::new(buffer)],
                &mut control,
                RecvFlags::CMSG_CLOEXEC,
            ) {
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::CONNRESET) => return Ok(None),
                other => break other.map_err(|e| system("read from a worker", e))?,
            }
        };
        let mut files = control.drain().filter_map(|m| match m {
            RecvAncillaryMessage::ScmRights(files) => Some(files),
            _ => None,
        });
        let file = files.by_ref().flatten().next();
        if received.bytes == 0 {
            // A packet of no bytes looks the same, and is no message either.
            return Ok(None);
        }
        if received.bytes > MAX_MESSAGE_BYTES || received.flags.contains(ReturnFlags::TRUNC) {
            let what = format!("a message of more than {MAX_MESSAGE_BYTES} bytes");
            return Err(ScoreError::new(ErrorKind::TooLarge, what));
        }
        Ok(Some((received.bytes, file)))
    }

    fn answer(&mut self, message: &[u8], number: u32, file: Option<OwnedFd>) -> Result<Vec<u8>> {
        let no_file =
            || ScoreError::bad_input("the memory file that belongs to the message did not come with it");
        match wire::decode(message)? {
            Request::Open(path) => {
                let scorer = match path {
                    Some(OpenPath { path, cwd }) => self.models.open_file(&path, cwd.as_deref())?,
                    None => self.models.open_bytes(file.ok_or_else(no_file)?)?,
                };
                let session = self.session(scorer)?;
                done(number, &session)
            }
            Request::Arena { id, size } => {
                self.arenas.map(id, &file.ok_or_else(no_file)?, size)?;
                self.mapped.fetch_add(1, Ordering::Relaxed);
                Ok(wire::reply(Status::Done, number))
            }
            Request::Release { id } => {
                self.arenas.release(id)?;
                Ok(wire::reply(Status::Done, number))
            }
            Request::Run(run) => {
                self.kept = None;
                let answer = self.run(&run)?;
                self.deliver(answer, run.answer, number)
            }
            Request::Fetch(place) => {
                let nothing = || ScoreError::not_found("there is no answer to be fetched");
                let kept = self.kept.take().ok_or_else(nothing)?;
                self.deliver(kept, place, number)
            }
        }
    }

    /// The number of the session on that scorer, and what a script wants to know of it.
    fn session(&mut self, scorer: Arc<dyn Scorer>) -> Result<Json> {
        let known = self.sessions.iter().position(|s| Arc::ptr_eq(s, &scorer));
        let id = match known {
            Some(id) => id,
            None if self.sessions.len() >= MAX_SESSIONS => {
                let what = format!("a worker may have at most {MAX_SESSIONS} sessions");
                return Err(ScoreError::new(ErrorKind::TooLarge, what));
            }
            None => {
                self.sessions.push(Arc::clone(&scorer));
                self.sessions.len() - 1
            }
        };
        let devices = scorer.devices();
        let names = devices.iter().map(ToString::to_string).collect::<Vec<_>>();
        let ports = |ports: &[Port]| ports.iter().map(port).collect::<Vec<_>>();
        Ok(json!({
            "session": id,
            "backend": devices.first().map(|d| d.backend.to_string()),
            "device": names.join(", "),
            "inputs": ports(scorer.signature().inputs()),
            "outputs": ports(scorer.signature().outputs()),
        }))
    }

    fn run(&self, run: &Run) -> Result<Answer> {
        let index = usize::try_from(run.session).ok();
        let scorer = index.and_then(|i| self.sessions.get(i));
        let none = || ScoreError::not_found(format!("there is no session {}", run.session));
        let scorer = scorer.ok_or_else(none)?;
        let signature = scorer.signature();
        let outputs = signature.outputs();
        for wanted in &run.outputs {
            if usize::from(*wanted) >= outputs.len() {
                let what = format!("there is no output {wanted}: the model has {}", outputs.len());
                return Err(ScoreError::bad_input(what));
            }
        }
        let inputs = self.inputs(run, signature)?;
        signature.check(&inputs)?;
        let mut call = Call::new().with_cancel(self.cancel.clone());
        if let Some(timeout) = run.timeout {
            call = call.with_timeout(timeout);
        }
        call.check()?;
        let scored = scorer.score(&inputs, &call)?;
        let values = run.outputs.iter().map(|i| scored.outputs.get(usize::from(*i)));
        if values.clone().any(|v| v.is_none()) {
            return Err(ScoreError::internal("the backend gave fewer outputs than the model has"));
        }
        Answer::new(values.flatten())
    }

    /// The inputs in the order of the signature.
    fn inputs(&self, run: &Run, signature: &Signature) -> Result<Vec<crate::tensor::Tensor>> {
        let ports = signature.inputs();
        let mut given = vec![None; ports.len()];
        for input in &run.inputs {
            let index = usize::from(input.port);
            let (Some(port), Some(slot)) = (ports.get(index), given.get_mut(index)) else {
                let what = format!("there is no input {index}: the model has {}", ports.len());
                return Err(ScoreError::bad_input(what));
            };
            let at = || format!("input '{}'", port.name);
            if slot.is_some() {
                return Err(ScoreError::bad_input("given twice").with_at(at()));
            }
            // What is written while it is read by the scorer would be a wrong answer that looks right.
            let (a, b) = (run.answer, input.place);
            let apart =
                a.offset.saturating_add(a.len) <= b.offset || b.offset.saturating_add(b.len) <= a.offset;
            if a.arena == b.arena && a.len > 0 && !apart {
                return Err(ScoreError::bad_input("lies where the answer is to be written").with_at(at()));
            }
            *slot = Some(values::input(input, &self.arenas).map_err(|e| e.with_at(at()))?);
        }
        let missing = ports.iter().zip(&given).filter(|(_, t)| t.is_none());
        let missing = missing.map(|(p, _)| p.name.as_str()).collect::<Vec<_>>();
        if !missing.is_empty() {
            let what = format!("the inputs '{}' are missing", missing.join("', '"));
            return Err(ScoreError::bad_input(what));
        }
        Ok(given.into_iter().flatten().collect())
    }

    /// Writes an answer into the message or to its place; keeps it when it does not fit there.
    fn deliver(&mut self, answer: Answer, place: Place, number: u32) -> Result<Vec<u8>> {
        let len = answer.len();
        if len <= MAX_HERE_BYTES {
            let mut message = wire::reply(Status::Here, number);
            let start = message.len();
            message.resize(start + len, 0);
            answer.write(|at, bytes| {
                let to = message.get_mut(start + at..).and_then(|rest| rest.get_mut(..bytes.len()));
                let to = to.ok_or_else(|| ScoreError::internal("an answer that is longer than it said"))?;
                to.copy_from_slice(bytes);
                Ok(())
            })?;
            return Ok(message);
        }
        let status = if len as u64 > place.len { Status::TooSmall } else { Status::InPlace };
        if status == Status::InPlace {
            let mapping = self.arenas.find(place.arena)?;
            let range = mapping.range(place.offset, place.len)?;
            answer.write(|at, bytes| mapping.write(range.start.saturating_add(at), bytes))?;
        } else {
            self.kept = Some(answer);
        }
        let mut message = wire::reply(status, number);
        message.extend_from_slice(&(len as u64).to_le_bytes());
        Ok(message)
    }
}

fn done(number: u32, session: &Json) -> Result<Vec<u8>> {
    let mut message = wire::reply(Status::Done, number);
    message.extend_from_slice(session.to_string().as_bytes());
    if message.len() > MAX_MESSAGE_BYTES {
        let what = "the model has more inputs and outputs than fit into a message of the accelerated door";
        return Err(ScoreError::unsupported(what));
    }
    Ok(message)
}

fn failed(number: u32, error: &ScoreError) -> Vec<u8> {
    let mut text = error.to_string();
    if text.len() > MAX_ERROR_BYTES {
        let end = text.floor_char_boundary(MAX_ERROR_BYTES);
        text.truncate(end);
        text.push('…');
    }
    let mut message = wire::reply(Status::Failed, number);
    message.extend_from_slice(json!({"kind": error.row().name, "message": text}).to_string().as_bytes());
    message
}

/// A port as the Python side wants it: `dims` of lengths, names and nulls; null when any shape will do.
fn port(port: &Port) -> Json {
    let kind = kind(&port.kind);
    let dims = port.dims().map(|dims| {
        let dims = dims.iter().map(|d| match d {
            Dim::Fixed(n) => json!(n),
            Dim::Free(name) => json!(name),
        });
        dims.collect::<Vec<_>>()
    });
    let code = port.dtype().map(|d| d.onnx_code());
    json!({"name": port.name, "type": kind, "dims": dims, "code": code})
}

/// A type as ONNX Runtime spells it: `tensor(float)`, `seq(map(int64,tensor(float)))`.
fn kind(of: &PortKind) -> String {
    match of {
        PortKind::Tensor { dtype, .. } => format!("tensor({})", element(*dtype)),
        PortKind::Sequence(of) => format!("seq({})", kind(of)),
        PortKind::Map { key, value } => format!("map({},tensor({}))", element(*key), element(*value)),
    }
}

fn element(dtype: crate::tensor::DType) -> &'static str {
    use crate::tensor::DType;
    match dtype {
        DType::Bool => "bool",
        DType::Bf16 => "bfloat16",
        DType::F16 => "float16",
        DType::F32 => "float",
        DType::F64 => "double",
        DType::F8E4M3 => "float8e4m3fn",
        DType::F8E5M2 => "float8e5m2",
        DType::I8 => "int8",
        DType::I16 => "int16",
        DType::I32 => "int32",
        DType::I64 => "int64",
        DType::String => "string",
        DType::U8 => "uint8",
        DType::U16 => "uint16",
        DType::U32 => "uint32",
        DType::U64 => "uint64",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::DType;

    #[test]
    fn types_are_spelt_as_onnx_runtime_spells_them() {
        let map = PortKind::Map { key: DType::I64, value: DType::F32 };
        assert_eq!(kind(&PortKind::Sequence(Box::new(map))), "seq(map(int64,tensor(float)))");
        let dims = vec![Dim::named("batch"), Dim::Fixed(3), Dim::Free(None)];
        let shown = port(&Port::tensor("x", DType::Bf16, dims));
        let expected =
            json!({"name": "x", "type": "tensor(bfloat16)", "dims": ["batch", 3, null], "code": 16});
        assert_eq!(shown, expected);
    }

    #[test]
    fn a_long_error_is_cut_between_characters() {
        let message = failed(7, &ScoreError::bad_input("ü".repeat(MAX_ERROR_BYTES)));
        assert!(message.len() < MAX_MESSAGE_BYTES && wire::number(&message) == Some(7));
        let json: Json = serde_json::from_slice(&message[8..]).unwrap();
        assert_eq!(json["kind"], "bad_input");
    }
}
