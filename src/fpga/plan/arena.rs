//! Who lies where in the arena: storage that is alive at different times shares bytes.

use super::super::view::Storage;
use super::Operator;
use super::ports::{PlannedInput, PlannedOutput};

/// Places in the arena.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Places {
    /// Where each storage begins.
    pub(super) offsets: Vec<usize>,
    /// How large the arena is.
    pub(super) bytes: usize,
    /// What lies between storages and belongs to nobody: from, to. Empty unless it was asked for.
    pub(super) guards: Vec<(usize, usize)>,
}

/// What transfers and vector loads like tensors to begin at a multiple of.
const ALIGN_BYTES: usize = 64;

/// Places every storage. Operators run one after another, in their order; inputs are there before the first one, outputs are read after
/// the last, residents are always there.
pub(super) fn place(
    storages: &[usize],
    operators: &[Operator],
    residents: &[(Storage, Vec<u8>)],
    inputs: &[PlannedInput],
    outputs: &[PlannedOutput],
    guarded: bool,
) -> Places {
    let mut lives: Vec<Option<(usize, usize)>> = vec![None; storages.len()];
    let mut lives_at = |storage: Storage, time: usize| {
        if let Some(life) = lives.get_mut(storage.0) {
            let (first, last) = life.unwrap_or((time, time));
            *life = Some((first.min(time), last.max(time)));
        }
    };
    let end = operators.len() + 1;
    for (time, operator) in operators.iter().enumerate() {
        operator.reads.iter().for_each(|s| lives_at(*s, time + 1));
        lives_at(operator.writes, time + 1);
    }
    inputs.iter().for_each(|i| lives_at(i.view.storage, 0));
    outputs.iter().for_each(|o| lives_at(o.view.storage, end));
    for (storage, _) in residents {
        lives_at(*storage, 0);
        lives_at(*storage, end);
    }
    match guarded {
        true => apart(storages),
        false => fit(storages, &lives),
    }
}

/// One behind the other, nothing shared, and bytes between them that nobody may write to.
fn apart(storages: &[usize]) -> Places {
    let (mut offsets, mut guards) = (Vec::with_capacity(storages.len()), vec![(0, ALIGN_BYTES)]);
    let mut bytes = ALIGN_BYTES;
    for size in storages {
        offsets.push(bytes);
        let (from, to) = (bytes + size, (bytes + size).next_multiple_of(ALIGN_BYTES) + ALIGN_BYTES);
        guards.push((from, to));
        bytes = to;
    }
    Places { offsets, bytes, guards }
}

/// The largest first, each as low as it fits beside those that live with it.
fn fit(storages: &[usize], lives: &[Option<(usize, usize)>]) -> Places {
    let mut order = (0..storages.len()).collect::<Vec<_>>();
    order.sort_by_key(|i| std::cmp::Reverse(storages.get(*i).copied()));
    let mut offsets = vec![0; storages.len()];
    // What is placed already: from, to, life.
    let mut placed: Vec<(usize, usize, (usize, usize))> = Vec::new();
    let mut bytes = 0;
    for index in order {
        let (Some(size), Some(Some(life))) = (storages.get(index), lives.get(index)) else { continue };
        let size = size.next_multiple_of(ALIGN_BYTES);
        let mut beside = placed
            .iter()
            .filter(|(.., other)| life.0 <= other.1 && other.0 <= life.1)
            .map(|(from, to, _)| (*from, *to))
            .collect::<Vec<_>>();
        beside.sort_unstable();
        let mut at = 0;
        for (from, to) in beside {
            if at + size <= from {
                break;
            }
            at = at.max(to);
        }
        if let Some(offset) = offsets.get_mut(index) {
            *offset = at;
        }
        placed.push((at, at + size, *life));
        bytes = bytes.max(at + size);
    }
    Places { offsets, bytes, guards: Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_never_lives_together_shares_bytes() {
        let lives = [Some((0, 1)), Some((1, 2)), Some((2, 3)), None, Some((0, 3))];
        let places = fit(&[100, 200, 100, 50, 64], &lives);
        assert_eq!(places.offsets[0], places.offsets[2], "first and third");
        assert_eq!(places.bytes, 256 + 128 + 64);
        for (a, b) in [(0, 1), (1, 2), (0, 4), (1, 4), (2, 4)] {
            assert_ne!(places.offsets[a], places.offsets[b], "{a} and {b} live together");
        }
        assert!(places.offsets.iter().all(|o| o % ALIGN_BYTES == 0));
    }

    #[test]
    fn guards_fill_what_belongs_to_nobody() {
        let places = apart(&[100, 64, 1]);
        assert_eq!(places.offsets, [64, 256, 384]);
        assert_eq!(places.guards, [(0, 64), (164, 256), (320, 384), (385, 512)]);
        assert_eq!(places.bytes, 512);
    }

    #[test]
    fn nothing_overlaps_what_lives_at_the_same_time() {
        let mut state = 9u64;
        let mut next = |n: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % n
        };
        for _ in 0..200 {
            let count = 2 + next(30);
            let sizes = (0..count).map(|_| 1 + next(1000)).collect::<Vec<_>>();
            let lives = (0..count).map(|_| {
                let first = next(20);
                Some((first, first + next(6)))
            });
            let lives = lives.collect::<Vec<_>>();
            let places = fit(&sizes, &lives);
            for a in 0..count {
                for b in 0..a {
                    let ((a0, a1), (b0, b1)) = (lives[a].unwrap(), lives[b].unwrap());
                    let together = a0 <= b1 && b0 <= a1;
                    let (x, y) = (places.offsets[a], places.offsets[b]);
                    assert!(!together || x + sizes[a] <= y || y + sizes[b] <= x, "{a} and {b}");
                }
                assert!(places.offsets[a] + sizes[a] <= places.bytes);
            }
        }
    }
}
