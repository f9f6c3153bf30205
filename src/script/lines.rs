//! What workers print, cut into lines that can be kept: bounded, valid UTF-8, the last of them at hand.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

/// The longest line that is written out, in bytes.
const LINE_BYTES: usize = 64 << 10;
/// Lines at hand for messages, and how much of each.
const TAIL_LINES: usize = 50;
const TAIL_LINE_CHARS: usize = 1024;

/// Cuts one stream of bytes into lines.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// The line that has no end yet, at most `LINE_BYTES` of it.
    partial: Vec<u8>,
    /// Bytes of it that were left out.
    cut: usize,
}

impl Lines {
    /// Takes bytes in; whole lines are added to `out`, each with its line end.
    pub(super) fn feed(&mut self, bytes: &[u8], out: &mut String) {
        for piece in bytes.split_inclusive(|b| *b == b'\n') {
            let (text, ends) = match piece.split_last() {
                Some((b'\n', text)) => (text, true),
                _ => (piece, false),
            };
            let room = LINE_BYTES - self.partial.len();
            let (kept, left_out) = text.split_at_checked(room).unwrap_or((text, &[]));
            self.cut += left_out.len();
            if ends && self.partial.is_empty() && self.cut == 0 {
                // The common case, without a copy.
                push(kept, 0, out);
                continue;
            }
            self.partial.extend_from_slice(kept);
            if ends {
                self.finish(out);
            }
        }
    }

    /// Ends the line that has no end: nothing comes after it.
    pub(super) fn finish(&mut self, out: &mut String) {
        if !self.partial.is_empty() || self.cut > 0 {
            push(&self.partial, self.cut, out);
            self.cut = 0;
            // One long line must not keep its memory for good.
            self.partial = Vec::new();
        }
    }
}

fn push(line: &[u8], cut: usize, out: &mut String) {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    out.push_str(&String::from_utf8_lossy(line));
    if cut > 0 {
        out.push_str(&format!(" … [{cut} bytes of this line were left out]"));
    }
    out.push('\n');
}

/// The last lines of one worker.
#[derive(Debug, Default)]
pub(super) struct Tail(Mutex<VecDeque<String>>);

impl Tail {
    /// Takes in whole lines.
    pub(super) fn push(&self, lines: &str) {
        // From the end: of a flood only the last lines stay.
        let last = lines.lines().rev().take(TAIL_LINES).collect::<Vec<_>>();
        let mut tail = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for line in last.into_iter().rev() {
            if tail.len() == TAIL_LINES {
                tail.pop_front();
            }
            tail.push_back(line.chars().take(TAIL_LINE_CHARS).collect());
        }
    }

    /// The last `most` of them, oldest first.
    pub(super) fn last(&self, most: usize) -> Vec<String> {
        let tail = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tail.iter().skip(tail.len().saturating_sub(most)).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_out_whole_however_they_come_in() {
        let text = b"one\ntwo\r\n\nfo\xffur\nlast".as_slice();
        let expected = "one\ntwo\n\nfo\u{fffd}ur\nlast\n";
        for size in 1..=text.len() {
            let (mut lines, mut out) = (Lines::default(), String::new());
            text.chunks(size).for_each(|chunk| lines.feed(chunk, &mut out));
            lines.finish(&mut out);
            lines.finish(&mut out);
            assert_eq!(out, expected, "chunks of {size}");
        }
    }

    #[test]
    fn a_line_is_bounded() {
        let (mut lines, mut out) = (Lines::default(), String::new());
        for _ in 0..100 {
            lines.feed(&[b'x'; 10_000], &mut out);
            assert!(lines.partial.len() <= LINE_BYTES && out.is_empty());
        }
        lines.feed(b"\nnext\n", &mut out);
        let cut = 1_000_000 - LINE_BYTES;
        assert_eq!(
            out,
            format!("{} … [{cut} bytes of this line were left out]\nnext\n", "x".repeat(LINE_BYTES))
        );
        // And when it comes in one piece.
        let (mut whole, mut again) = (Lines::default(), String::new());
        whole.feed(&[&[b'x'; 1_000_000][..], b"\nnext\n"].concat(), &mut again);
        assert!(again == out);
    }

    #[test]
    fn the_tail_keeps_the_last_ones() {
        let tail = Tail::default();
        tail.push("a\nb\n");
        assert_eq!(tail.last(1), ["b"]);
        let many = (0..200).map(|i| format!("{i}\n")).collect::<String>();
        tail.push(&many);
        tail.push(&"é".repeat(5000));
        let last = tail.last(usize::MAX);
        assert_eq!((last.len(), &*last[0], &*last[48]), (50, "151", "199"));
        assert_eq!(last[49].chars().count(), TAIL_LINE_CHARS);
    }
}
