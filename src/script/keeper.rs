//! One thread a worker: starts its process, reads what it prints, and starts the next when it ends.
//!
//! The thread lives as long as its worker: the system kills a child when the *thread* that started it ends.

use std::io::{ErrorKind as Io, Read};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::process::Child;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Sender;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::output::Output;
use super::pool::{Conn, Shared};
use super::process::{exit_words, has_ended, kill_group, resident_bytes, spawn, wait_for_exit};
use super::protocol;
use super::reader::read_answers;
use crate::error::{Result, ScoreError};
use crate::server::Outcome;

/// How often a worker is looked at when it says nothing.
const LOOK: Duration = Duration::from_millis(50);
/// A worker that lived for less died quickly. The first replacement of a healthy one does not wait; the next
/// ones do, twice as long each time.
const QUICK: Duration = Duration::from_secs(5);
/// How often a worker's size is looked at.
const MEMORY_LOOK: Duration = Duration::from_secs(1);
/// For a worker to end by itself.
const PATIENCE: Duration = Duration::from_secs(2);
const FIRST_FRAME_BYTES: usize = 16 << 20;

/// Starts the thread that keeps slot number `slot` filled. `started` hears what became of the first start.
///
/// # Errors
/// `Internal` when the system refuses a thread.
pub(super) fn start(shared: &Arc<Shared>, slot: usize, started: Option<Sender<Result<()>>>) -> Result<()> {
    let keeping = shared.clone();
    let thread = std::thread::Builder::new().name(format!("triscore-worker-{slot}"));
    let thread = thread.spawn(move || keep(&keeping, slot, started.as_ref()));
    let thread = thread
        .map_err(|e| ScoreError::internal(format!("cannot start a worker's thread: {e}")).with_source(e))?;
    let mut keepers = shared.keepers.lock().unwrap_or_else(PoisonError::into_inner);
    // Those that have handed over are done.
    keepers.retain(|keeper| !keeper.is_finished());
    keepers.push(thread);
    Ok(())
}

/// Keeps a slot filled until the pool closes, or until another thread has taken the place over.
fn keep(shared: &Arc<Shared>, slot: usize, started: Option<&Sender<Result<()>>>) {
    let mut quick = 0u32;
    let mut first = started;
    let mut is_succeeded = false;
    while !shared.is_closed() && !is_succeeded {
        let born = Instant::now();
        let number = shared.next_number.fetch_add(1, Ordering::Relaxed);
        match live(shared, slot, number, &mut first, &mut is_succeeded) {
            Ok(()) => {}
            Err(_) if is_succeeded => return,
            Err(e) => {
                shared.lock().why_down = format!("A worker is being replaced: {}", first_line(&e));
                if let Some(first) = first.take() {
                    let _ = first.send(Err(e));
                    return;
                }
            }
        }
        quick = if born.elapsed() < QUICK { quick + 1 } else { 0 };
        let pause = match quick {
            0 | 1 => Duration::ZERO,
            n => Duration::from_millis(100 << (n - 2).min(7)).min(Duration::from_secs(10)),
        };
        if !pause.is_zero() && !shared.is_closed() {
            let service = &shared.options.service_name;
            let ms = pause.as_millis();
            tracing::warn!(service, slot, "{quick} workers in a row died soon: the next start waits {ms} ms");
        }
        let until = Instant::now() + pause;
        while Instant::now() < until && !shared.is_closed() {
            std::thread::sleep(LOOK.min(pause));
        }
    }
}

/// Takes one worker from its start to its end.
fn live(
    shared: &Arc<Shared>,
    slot: usize,
    number: u64,
    first: &mut Option<&Sender<Result<()>>>,
    is_succeeded: &mut bool,
) -> Result<()> {
    let failed = |what: &str, e: std::io::Error| ScoreError::internal(format!("cannot {what}: {e}"));
    let (mine, theirs) = UnixStream::pair().map_err(|e| failed("make a socket pair", e))?;
    let door = shared.options.door.as_ref().map(|d| d.open(number)).transpose()?;
    let mut fds = vec![theirs.as_raw_fd()];
    fds.extend(door.as_ref().map(|d| d.descriptor.as_raw_fd()));
    let mut child = spawn(shared, &fds)?;
    drop(theirs);
    let guard = door.map(|d| d.guard);
    let mut output = Output::new(shared, &mut child);
    let control = mine.try_clone().map_err(|e| failed("copy a socket", e));
    let ended = match control {
        Ok(control) => {
            let ended =
                attend(shared, slot, number, &mut child, &mut output, mine, &control, first, is_succeeded);
            let _ = control.shutdown(Shutdown::Both);
            ended
        }
        Err(e) => Err(e),
    };
    kill_group(&child);
    let status = wait_for_exit(&mut child);
    output.read(Duration::ZERO);
    output.finish();
    drop(guard);
    // The reader takes what is left in the socket; it, or the end of its loop, lets go of the worker.
    let until = Instant::now() + PATIENCE;
    while shared.lock().conn(slot, number).is_some() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(1));
    }
    shared.disconnected(slot, number, None);
    let place = shared.lock().slots.get_mut(slot).map(|s| (s.begun.take(), s.wrong.take(), s.parked.take()));
    let (begun, wrong) = place.map_or((None, None), |(begun, wrong, _)| (begun, wrong));
    let exit = status.map_or_else(|e| format!("was lost: {e}"), exit_words);
    // A client hears how the process ended; what it printed is for the log alone.
    let why = wrong
        .map_or_else(|| format!("The worker {exit}"), |w| format!("The worker was replaced, because {w},"));
    if let Some(job) = begun {
        job.exchange.answer(Outcome::Died(format!("{why} while it ran this request.")));
    }
    let why = why.trim_end_matches(',').to_owned();
    if shared.is_closed() {
        return Ok(());
    }
    let last = output.tail.last(5).join("\n");
    if first.is_none() {
        // It was ready once: what the log needs to say is why, what it said last, and what is done.
        let service = &shared.options.service_name;
        let why = ended.as_ref().map_or_else(|e| e.message().to_owned(), |()| why);
        tracing::error!(service, slot, last_lines = last, "{why}; another worker is started");
        return ended.and_then(|()| Err(ScoreError::internal(why)));
    }
    // The first line is for everybody. What follows it is what the script printed.
    ended.and_then(|()| Err(ScoreError::internal(why))).map_err(|e| match e.kind() {
        crate::ErrorKind::Internal => {
            ScoreError::bad_config(with_lines(&format!("The worker {exit} before it was ready."), &last))
        }
        _ => e,
    })
}

fn first_line(e: &ScoreError) -> &str {
    e.message().lines().next().unwrap_or_default()
}

fn with_lines(what: &str, last: &str) -> String {
    match last.is_empty() {
        true => what.to_owned(),
        false => format!("{what}\nIts last lines:\n{last}"),
    }
}

/// From the start to the end of a process, which it may not have reached yet when this comes back.
#[allow(clippy::too_many_arguments, reason = "one caller")]
fn attend(
    shared: &Arc<Shared>,
    slot: usize,
    number: u64,
    child: &mut Child,
    output: &mut Output<'_>,
    mine: UnixStream,
    control: &UnixStream,
    first: &mut Option<&Sender<Result<()>>>,
    is_succeeded: &mut bool,
) -> Result<()> {
    let refuse = |what: String| Err(ScoreError::bad_config(what));
    let limit = Duration::from_millis(shared.options.init_timeout_ms);
    let born = Instant::now();
    let mut frame = Vec::new();
    let _ = mine.set_nonblocking(true);
    let ready = loop {
        output.read(Duration::from_millis(5));
        let end = match fill(&mine, &mut frame) {
            Ok(Some(())) => match protocol::first_frame(frame.get(4..).unwrap_or_default()) {
                Ok(Ok(ready)) => break ready,
                Ok(Err(failed)) => {
                    output.print(&format!("{}\n", failed.traceback.trim_end()));
                    // One line, for clients too; the traceback is in the log.
                    return refuse(failed.message.lines().next().unwrap_or("the script failed").to_owned());
                }
                Err(wrong) => return refuse(format!("the worker does not speak the protocol: {wrong}")),
            },
            Ok(None) => false,
            Err(wrong) if wrong.is_empty() => true,
            Err(wrong) => return refuse(wrong),
        };
        if end || has_ended(child) || shared.is_closed() {
            return Err(ScoreError::internal("the worker process ended"));
        }
        if born.elapsed() > limit {
            let what = format!("init() did not return within {} ms.", limit.as_millis());
            return refuse(with_lines(&what, &output.tail.last(5).join("\n")));
        }
    };
    let _ = shared.facts.set(ready);
    // Before its first request: what is too large by then is no leak, and the next would be as large.
    let limit = shared.options.memory_limit_bytes;
    let large_at_once =
        limit.zip(resident_bytes(child.id())).is_some_and(|(limit, resident)| resident > limit);
    if large_at_once {
        let service = &shared.options.service_name;
        tracing::warn!(service, slot, limit, "a worker is above its memory limit from its start: kept");
    }
    if let Some(place) = shared.lock().slots.get_mut(slot) {
        place.parked = Some((number, mine));
    }
    attach(shared)?;
    if let Some(first) = first.take() {
        let _ = first.send(Ok(()));
    }
    let mut looked = Instant::now();
    let mut leave: Option<Instant> = None;
    loop {
        output.read(LOOK);
        if has_ended(child) {
            return Ok(());
        }
        let now = Instant::now();
        let doomed = {
            let mut state = shared.lock();
            let parked = state.slots.get(slot).is_some_and(|s| s.parked.is_some());
            match state.conn(slot, number) {
                Some(conn) => {
                    if conn.is_done() && leave.is_none() {
                        let _ = control.shutdown(Shutdown::Write);
                        leave = Some(now + PATIENCE);
                    }
                    conn.doomed.is_some()
                }
                None => !parked, // its socket has ended
            }
        };
        if doomed || leave.is_some_and(|until| now >= until) {
            return Ok(());
        }
        if shared.is_closed() && leave.is_none() {
            let _ = control.shutdown(Shutdown::Write);
            leave = Some(now + PATIENCE);
        }
        if let Some(limit) = limit
            && !large_at_once
            && now.saturating_duration_since(looked) >= MEMORY_LOOK
        {
            looked = now;
            let resident = resident_bytes(child.id()).unwrap_or(0);
            if resident > limit {
                replace(shared, slot, number, (resident, limit), is_succeeded);
            }
        }
    }
}

/// A worker leaks: the next one is started beside it, in the other slot of this place, and it retires once that
/// one is ready. So nobody waits for a start.
fn replace(
    shared: &Arc<Shared>,
    slot: usize,
    number: u64,
    (resident, limit): (u64, u64),
    is_succeeded: &mut bool,
) {
    let service = &shared.options.service_name;
    let other = (slot + shared.options.workers) % (2 * shared.options.workers);
    if !*is_succeeded {
        tracing::warn!(service, slot, resident, limit, "a worker is above its memory limit: replaced");
        match start(shared, other, None) {
            Ok(()) => *is_succeeded = true,
            Err(e) => tracing::error!(service, slot, "it is replaced after its end: {e}"),
        }
    }
    let mut state = shared.lock();
    let is_next_ready = state.slots.get(other).is_some_and(|s| s.conn.is_some());
    // Twice the limit is not waited for: the system might end more than this worker.
    if (is_next_ready || !*is_succeeded || resident / 2 > limit)
        && let Some(conn) = state.conn(slot, number)
    {
        conn.retiring = true;
    }
}

/// Moves every worker that is ready onto its event loop, once there are any.
pub(super) fn attach(shared: &Arc<Shared>) -> Result<()> {
    let Some(loops) = shared.loops.get() else { return Ok(()) };
    for slot in 0..2 * shared.options.workers {
        let Some(parked) = shared.lock().slots.get_mut(slot).and_then(|s| s.parked.take()) else { continue };
        let Some(on) = loops.get(slot % loops.len().max(1)) else { continue };
        let (number, stream) = parked;
        let _entered = on.enter();
        let stream = tokio::net::UnixStream::from_std(stream)
            .map_err(|e| ScoreError::internal(format!("cannot watch a worker's socket: {e}")))?;
        let (read, write) = stream.into_split();
        shared.attached(slot, Conn::new(number, write));
        on.spawn(read_answers(shared.clone(), slot, number, read));
        on.spawn(shared.clone().write_on(slot, number));
    }
    Ok(())
}

/// Reads on in the first frame, never past it; an error without words is the end of the stream.
fn fill(stream: &UnixStream, frame: &mut Vec<u8>) -> Result<Option<()>, String> {
    loop {
        let want = match frame.first_chunk::<4>() {
            None => 4,
            Some(length) => 4 + usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX - 4),
        };
        if want > FIRST_FRAME_BYTES {
            return Err(format!("the worker announced a first frame of {want} bytes"));
        }
        if frame.len() >= want && want > 4 {
            return Ok(Some(()));
        }
        if frame.len() >= 4 && want == 4 {
            return Err("the worker sent an empty frame".to_owned());
        }
        let mut rest = stream;
        match (&mut rest).take((want - frame.len()) as u64).read_to_end(frame) {
            Ok(0) => return Err(String::new()),
            Ok(_) => {}
            Err(e) if e.kind() == Io::WouldBlock => {
                let whole = frame.first_chunk::<4>().map(|l| 4 + u32::from_le_bytes(*l) as usize);
                if whole != Some(frame.len()) {
                    return Ok(None);
                }
            }
            Err(_) => return Err(String::new()),
        }
    }
}
