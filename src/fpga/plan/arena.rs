//! Who lies where in the arena: storage that is alive at different times shares bytes.

use super::Operator;
use super::ports::{PlannedInput, PlannedOutput};
use crate::layout::arena;
use crate::layout::view::Storage;

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
    let mut lives = vec![None; storages.len()];
    let mut lives_at = |storage: Storage, time: usize| arena::lives_at(&mut lives, storage.0, time);
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
        false => {
            let (offsets, bytes) = arena::fit(storages, &lives, ALIGN_BYTES);
            Places { offsets, bytes, guards: Vec::new() }
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guards_fill_what_belongs_to_nobody() {
        let places = apart(&[100, 64, 1]);
        assert_eq!(places.offsets, [64, 256, 384]);
        assert_eq!(places.guards, [(0, 64), (164, 256), (320, 384), (385, 512)]);
        assert_eq!(places.bytes, 512);
    }
}
