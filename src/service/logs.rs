//! What a service's log says: its end, the last start, and first of all why a start failed.
//!
//! A log may be long, and a person wants its end: it is read from the back, in blocks, and no more of it
//! than is asked for. One old log stands beside it (`service.log.1`), where it goes on.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::layout::{self, START_MARK};
use crate::error::{Result, ScoreError};
use crate::registry::{ServiceState, Workspace};

/// How much is read at a time.
const BLOCK_BYTES: u64 = 64 << 10;
/// So much at most, whatever the number of lines: a line may be very long.
const MOST_BYTES: usize = 64 << 20;
/// How an entry script's failed start is told; what follows is its traceback.
const INIT_FAILED: &str = "User's init function failed";
/// So many lines at least are looked at for one.
const LOOKED_AT: usize = 5000;
/// The longest traceback that is shown first.
const TRACEBACK_LINES: usize = 200;

/// The last lines of a service's log; with `init`, the first ones from its last start on. Where the service has
/// failed because its script's init() did, the traceback comes first.
///
/// # Errors
/// `NotFound` when there is no such service or it has no log yet; `Io`.
pub fn logs(workspace: &Workspace, name: &str, lines: usize, init: bool) -> Result<String> {
    let record = workspace.show_service(name)?;
    let path = layout::log_path(workspace, name)?;
    if !path.exists() {
        let text = "it has no log: no process of it has begun yet";
        return Err(ScoreError::not_found(text).with_at(format!("service '{name}'")));
    }
    let io = |e| ScoreError::io("read the log", &path, e);
    let shown = match init {
        true => last_start(&path, lines).map_err(io)?,
        false => tail(&path, lines).map_err(io)?,
    };
    let failed = record.status.state == ServiceState::Failed || record.failed_update.is_some();
    let mut text = String::new();
    // It is looked for where it may be, however few lines are asked for.
    if failed && let Some(traceback) = traceback(&tail(&path, lines.max(LOOKED_AT)).map_err(io)?) {
        text.push_str(&traceback.join("\n"));
        text.push_str("\n\n---- the log:\n");
    }
    text.push_str(&shown.join("\n"));
    Ok(text)
}

/// The first lines of the last start, as far as the log goes back; the last lines where that is not told.
fn last_start(path: &Path, lines: usize) -> std::io::Result<Vec<String>> {
    let mut all = last_lines(path, usize::MAX)?;
    if !all.iter().any(|line| line.starts_with(START_MARK)) {
        all = tail(path, usize::MAX)?;
    }
    match all.iter().rposition(|line| line.starts_with(START_MARK)) {
        Some(start) => Ok(all.split_off(start).into_iter().take(lines).collect()),
        None => tail(path, lines),
    }
}

/// The last lines of a log and of the one before it, in order.
fn tail(path: &Path, lines: usize) -> std::io::Result<Vec<String>> {
    let mut found = last_lines(path, lines)?;
    if found.len() < lines {
        let mut before = match last_lines(&path.with_extension("log.1"), lines - found.len()) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            read => read?,
        };
        before.append(&mut found);
        found = before;
    }
    Ok(found)
}

/// The last lines of a file, read from its end.
fn last_lines(path: &Path, lines: usize) -> std::io::Result<Vec<String>> {
    let file = File::open(path)?;
    let mut from = file.metadata()?.len();
    // Blocks from the back; put in order at the end.
    let mut blocks = Vec::new();
    let (mut breaks, mut bytes) = (0, 0);
    // One line break more than lines: the one before the first of them.
    while from > 0 && breaks <= lines && bytes < MOST_BYTES {
        let length = BLOCK_BYTES.min(from);
        from -= length;
        let mut block = vec![0; usize::try_from(length).unwrap_or_default()];
        file.read_exact_at(&mut block, from)?;
        breaks += block.iter().filter(|byte| **byte == b'\n').count();
        bytes += block.len();
        blocks.push(block);
    }
    blocks.reverse();
    let text = blocks.concat();
    let text = String::from_utf8_lossy(&text);
    let all = text.lines().collect::<Vec<_>>();
    let kept = all.get(all.len().saturating_sub(lines)..).unwrap_or_default();
    Ok(kept.iter().map(|line| (*line).to_owned()).collect())
}

/// The lines of the last failed init() of the last start: from where it is told to the end of its traceback.
fn traceback(lines: &[String]) -> Option<&[String]> {
    let begin = lines.iter().rposition(|line| line.starts_with(START_MARK)).unwrap_or(0);
    let at = begin + lines.get(begin..)?.iter().rposition(|line| line.contains(INIT_FAILED))?;
    let rest = lines.get(at..)?;
    // Its lines are indented, but for the heads of tracebacks and what was raised: the last of those is the
    // first line after an indented one that is followed by no other traceback.
    let mut end = 1;
    let mut within = false;
    for (place, line) in rest.iter().enumerate().skip(1).take(TRACEBACK_LINES) {
        if line.starts_with("Traceback (") {
            within = true;
        } else if within && !line.is_empty() && !line.starts_with(char::is_whitespace) {
            end = place + 1;
            let mut next = rest.iter().skip(place + 1).take(4);
            within = false;
            if !next.any(|line| line.starts_with("Traceback (")) {
                break;
            }
        }
    }
    rest.get(..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_long_log_is_read_from_the_back_and_goes_on_in_the_old_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("service.log");
        let numbered = |range: std::ops::Range<u32>| range.map(|n| format!("line {n}\n")).collect::<String>();
        std::fs::write(&path, numbered(0..50_000)).unwrap();
        for (lines, first, count) in
            [(0, None, 0), (1, Some("line 49999"), 1), (20_000, Some("line 30000"), 20_000)]
        {
            let found = tail(&path, lines).unwrap();
            assert_eq!((found.first().map(String::as_str), found.len()), (first, count));
        }
        assert_eq!(tail(&path, 60_000).unwrap().len(), 50_000);
        std::fs::write(dir.path().join("service.log.1"), numbered(100..200)).unwrap();
        let found = tail(&path, 50_050).unwrap();
        assert_eq!((found.len(), &*found[0], &*found[50]), (50_050, "line 150", "line 0"));
        // What is no text, and a line without an end.
        std::fs::write(&path, b"a\n\xff\nlast").unwrap();
        assert_eq!(tail(&path, 2).unwrap(), ["\u{fffd}", "last"]);
        std::fs::write(&path, "").unwrap();
        assert_eq!(tail(&path, 1).unwrap(), ["line 199"]);
        assert!(tail(&dir.path().join("none"), 1).is_err());
    }

    #[test]
    fn the_last_start_is_found_however_long_ago() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("service.log");
        let many = "line\n".repeat(30_000);
        std::fs::write(&path, format!("{START_MARK}1\nold\n{START_MARK}2\nnew\n{many}")).unwrap();
        assert_eq!(last_start(&path, 2).unwrap(), [format!("{START_MARK}2"), "new".to_owned()]);
        assert_eq!(last_start(&path, usize::MAX).unwrap().len(), 30_002);
        std::fs::rename(&path, dir.path().join("service.log.1")).unwrap();
        std::fs::write(&path, "after\n").unwrap();
        let found = last_start(&path, usize::MAX).unwrap();
        assert_eq!((found.len(), &*found[1], &**found.last().unwrap()), (30_003, "new", "after"));
        std::fs::remove_file(dir.path().join("service.log.1")).unwrap();
        assert_eq!(last_start(&path, 5).unwrap(), ["after"]);
    }

    #[test]
    fn the_traceback_of_the_last_start_is_found_whole() {
        let log = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        let old =
            "User's init function failed\nTraceback (most recent call last):\n  File x\nOldError: gone\n";
        let chained = "starting\nUser's init function failed\nTraceback (most recent call last):\n  File a\nKeyError: 1\n\n\
             During handling of the above exception, another exception occurred:\n\n\
             Traceback (most recent call last):\n  File b\n    raise\nValueError: no\nmodel directory:\n  a\n";
        let lines = log(&format!("{START_MARK}x\n{old}{START_MARK}y\n{chained}"));
        let found = traceback(&lines).unwrap();
        assert_eq!(found[0], "User's init function failed");
        assert_eq!(found.last().unwrap(), "ValueError: no");
        assert!(!found.iter().any(|line| line.contains("Old")));
        assert_eq!(traceback(&log(&format!("{START_MARK}x\n{old}{START_MARK}y\nfine\n"))), None);
        assert_eq!(traceback(&log("User's init function failed")).unwrap().len(), 1);
        assert_eq!(traceback(&[]), None);
    }
}
