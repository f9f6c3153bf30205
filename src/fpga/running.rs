//! Commands that a device is at: waited for with a bound, and asked afterwards how long each took.
//!
//! Nothing here waits without an end. The last command tells when it is done (a callback, so that a caller is woken at once), and meanwhile the
//! caller looks now and then: whether its own time is up, and whether the device still gets on. A device on which nothing has ended for
//! [`HANG`] hangs.

use std::ffi::c_void;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use opencl3::event::{CL_COMPLETE, Event};
use opencl3::types::{cl_event, cl_int};

use super::engine::failed;
use crate::error::{Result, ScoreError};
use crate::offload::hang_limit;
use crate::scoring::Call;

/// The environment variable that says for how many seconds a device may get on with nothing before it counts as hanging.
pub const HANG_VARIABLE: &str = "TRISCORE_FPGA_HANG_S";

/// One kernel takes milliseconds; an emulator at a large batch, seconds.
const HANG: Duration = Duration::from_secs(30);

/// How often a waiting caller looks.
const LOOK: Duration = Duration::from_millis(200);
/// How often one looks that may be cancelled.
const LOOK_FOR_CANCEL: Duration = Duration::from_millis(5);

/// Commands in the order in which they were given; none of them waits for one that came later.
#[derive(Default)]
pub(super) struct Running {
    events: Vec<Event>,
    done: Option<Arc<Done>>,
    hangs: bool,
}

/// What the last command says when it ends.
#[derive(Default)]
struct Done {
    status: Mutex<Option<cl_int>>,
    told: Condvar,
}

extern "C" fn on_done(_: cl_event, status: cl_int, done: *mut c_void) {
    // SAFETY: the pointer is the one that `arm` gave away, once; the driver calls back once.
    let done = unsafe { Arc::from_raw(done.cast_const().cast::<Done>()) };
    *done.status.lock().unwrap_or_else(PoisonError::into_inner) = Some(status);
    done.told.notify_all();
}

impl Running {
    /// Whether the device was seen to hang: then nothing that it may touch can be given back.
    pub(super) fn hangs(&self) -> bool {
        self.hangs
    }

    /// Notes a command, and gives its handle for others to wait for.
    pub(super) fn push(&mut self, event: Event) -> cl_event {
        let handle = event.get();
        self.events.push(event);
        handle
    }

    /// When each command, from one place to before another, began and ended on the device, in nanoseconds of its clock.
    pub(super) fn times(&self, range: std::ops::Range<usize>) -> Vec<(u64, u64)> {
        let events = self.events.get(range).unwrap_or_default();
        let time = |e: &Event| Some((e.profiling_command_start().ok()?, e.profiling_command_end().ok()?));
        events.iter().map_while(time).collect()
    }

    /// How many commands there are.
    pub(super) fn len(&self) -> usize {
        self.events.len()
    }

    /// Forgets what has ended.
    pub(super) fn clear(&mut self) {
        self.events.clear();
        self.done = None;
    }

    /// Lets a device that runs commands only while somebody waits run them.
    pub(super) fn run_now(&self) -> Result<()> {
        self.events.iter().try_for_each(|e| e.wait().map_err(|e| failed("computing", e)))
    }

    /// Has the last command tell when it ends. Queues must be flushed.
    fn arm(&mut self) -> Result<Option<Arc<Done>>> {
        let Some(last) = self.events.last() else { return Ok(None) };
        if self.done.is_none() {
            let done = Arc::new(Done::default());
            let given = Arc::into_raw(done.clone());
            if let Err(e) = last.set_callback(CL_COMPLETE, on_done, given.cast_mut().cast()) {
                // SAFETY: the driver did not take it.
                drop(unsafe { Arc::from_raw(given) });
                return Err(failed("asking to be told of an end", e));
            }
            self.done = Some(done);
        }
        Ok(self.done.clone())
    }

    /// Waits for the last command, until the call's time is up or the device hangs. What ran stays noted until [`clear`](Self::clear).
    ///
    /// # Errors
    /// `DeadlineExceeded`, `Cancelled`: the commands go on; `DeviceLost`: it hangs, or a command failed.
    pub(super) fn wait(&mut self, call: &Call) -> Result<()> {
        // Done already: some drivers tell nobody then.
        if let Some(code) = self.last_status() {
            return ended_with(code);
        }
        let Some(done) = self.arm()? else { return Ok(()) };
        let hang = hang_limit(HANG_VARIABLE, HANG);
        let (mut ended, mut since) = (0, Instant::now());
        let mut status = done.status.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(code) = *status {
                return ended_with(code);
            }
            let look = if call.cancel_token().is_some() { LOOK_FOR_CANCEL } else { LOOK };
            let left = call.deadline().map(|d| d.saturating_duration_since(Instant::now()));
            let pause = left.map_or(look, |left| left.min(look)).min(hang);
            (status, _) = done.told.wait_timeout(status, pause).unwrap_or_else(PoisonError::into_inner);
            if status.is_some() {
                continue;
            }
            if let Some(code) = self.last_status() {
                return ended_with(code);
            }
            let now_ended = self.ended();
            if now_ended > ended {
                (ended, since) = (now_ended, Instant::now());
            }
            if since.elapsed() >= hang {
                self.hangs = true;
                return Err(ScoreError::device_lost(format!(
                    "command {ended} of {} has not come back after {:.1} s: the device hangs ({HANG_VARIABLE} says how long it may)",
                    self.events.len(),
                    hang.as_secs_f64()
                )));
            }
            call.check()?;
        }
    }

    /// How the last command ended; `None` while it is on its way.
    fn last_status(&self) -> Option<cl_int> {
        let status = self.events.last()?.command_execution_status().ok()?.0;
        (status <= CL_COMPLETE).then_some(status)
    }

    /// How many commands have ended, from the first on.
    fn ended(&self) -> usize {
        let is_ended = |e: &&Event| e.command_execution_status().is_ok_and(|s| s.0 <= CL_COMPLETE);
        self.events.iter().take_while(is_ended).count()
    }
}

/// Zero is complete, below is an error.
fn ended_with(code: cl_int) -> Result<()> {
    match code {
        CL_COMPLETE => Ok(()),
        code => Err(failed("computing", opencl3::error_codes::ClError(code))),
    }
}
