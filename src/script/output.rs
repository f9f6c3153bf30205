//! What a worker prints: read as it comes, cut into lines, the last of them kept for messages.

use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Child;
use std::time::Duration;

use super::lines::{Lines, Tail};
use super::pool::Shared;
use super::process::process_fd;

/// A worker's output: its pipes, its lines, the last of them.
pub(super) struct Output<'a> {
    shared: &'a Shared,
    pipes: [(Option<Box<dyn ReadPipe>>, Lines); 2],
    pub(super) tail: Tail,
    /// Readable once the process has ended: its pipes may live on in processes that it started.
    process: Option<OwnedFd>,
}

trait ReadPipe: Read + AsRawFd {}
impl<T: Read + AsRawFd> ReadPipe for T {}

impl<'a> Output<'a> {
    pub(super) fn new(shared: &'a Shared, child: &mut Child) -> Self {
        let out = child.stdout.take().map(|p| Box::new(p) as Box<dyn ReadPipe>);
        let err = child.stderr.take().map(|p| Box::new(p) as Box<dyn ReadPipe>);
        let pipes = [(out, Lines::default()), (err, Lines::default())];
        Self { shared, pipes, tail: Tail::default(), process: process_fd(child) }
    }

    pub(super) fn print(&self, lines: &str) {
        self.tail.push(lines);
        (self.shared.options.log)(lines);
    }

    /// Waits for output, or for the end of the process, for at most that long, and takes what is there: one
    /// read a pipe.
    pub(super) fn read(&mut self, wait: Duration) {
        let fd = |(pipe, _): &(Option<Box<dyn ReadPipe>>, Lines)| libc::pollfd {
            fd: pipe.as_ref().map_or(-1, |p| p.as_raw_fd()),
            events: libc::POLLIN,
            revents: 0,
        };
        let [out, err] = self.pipes.each_ref().map(fd);
        let process = self.process.as_ref().map_or(-1, |p| p.as_raw_fd());
        let mut polled = [out, err, libc::pollfd { fd: process, events: libc::POLLIN, revents: 0 }];
        let ms = i32::try_from(wait.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: the array is valid for its three elements while the call takes.
        let there = unsafe { libc::poll(polled.as_mut_ptr(), 3, ms) };
        if there <= 0 {
            return;
        }
        let mut text = String::new();
        let mut buffer = [0; 32 << 10];
        for ((pipe, lines), polled) in self.pipes.iter_mut().zip(polled) {
            if polled.revents == 0 {
                continue;
            }
            match pipe.as_mut().map(|p| p.read(&mut buffer)) {
                Some(Ok(0)) | Some(Err(_)) => *pipe = None,
                Some(Ok(n)) => lines.feed(buffer.get(..n).unwrap_or_default(), &mut text),
                None => {}
            }
        }
        if !text.is_empty() {
            self.print(&text);
        }
    }

    pub(super) fn finish(&mut self) {
        for _ in 0..8 {
            self.read(Duration::ZERO); // a pipe holds 64 KiB
        }
        let mut text = String::new();
        self.pipes.iter_mut().for_each(|(_, lines)| lines.finish(&mut text));
        if !text.is_empty() {
            self.print(&text);
        }
    }
}
