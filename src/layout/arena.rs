//! Who lies where in an arena: storage that is alive at different times shares bytes.

/// From when to when a storage is alive, both included; `None` for one that nobody uses.
pub(crate) type Life = Option<(usize, usize)>;

/// Lets a storage be alive at that time, too.
pub(crate) fn lives_at(lives: &mut [Life], storage: usize, time: usize) {
    if let Some(life) = lives.get_mut(storage) {
        let (first, last) = life.unwrap_or((time, time));
        *life = Some((first.min(time), last.max(time)));
    }
}

/// Places every storage at a multiple of `align` bytes, the largest first, each as low as it fits beside those that live with it. Gives where each
/// begins, and how large the arena is.
pub(crate) fn fit(sizes: &[usize], lives: &[Life], align: usize) -> (Vec<usize>, usize) {
    let mut order = (0..sizes.len()).collect::<Vec<_>>();
    order.sort_by_key(|i| std::cmp::Reverse(sizes.get(*i).copied()));
    let mut offsets = vec![0; sizes.len()];
    // What is placed already: from, to, life.
    let mut placed: Vec<(usize, usize, (usize, usize))> = Vec::new();
    let mut bytes = 0;
    for index in order {
        let (Some(size), Some(Some(life))) = (sizes.get(index), lives.get(index)) else { continue };
        let size = size.next_multiple_of(align);
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
    (offsets, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_never_lives_together_shares_bytes() {
        let lives = [Some((0, 1)), Some((1, 2)), Some((2, 3)), None, Some((0, 3))];
        let (offsets, bytes) = fit(&[100, 200, 100, 50, 64], &lives, 64);
        assert_eq!(offsets[0], offsets[2], "first and third");
        assert_eq!(bytes, 256 + 128 + 64);
        for (a, b) in [(0, 1), (1, 2), (0, 4), (1, 4), (2, 4)] {
            assert_ne!(offsets[a], offsets[b], "{a} and {b} live together");
        }
        assert!(offsets.iter().all(|o| o % 64 == 0));
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
            let mut lives = vec![None; count];
            for storage in 0..count {
                let first = next(20);
                lives_at(&mut lives, storage, first + next(6));
                lives_at(&mut lives, storage, first);
            }
            let (offsets, bytes) = fit(&sizes, &lives, 64);
            for a in 0..count {
                for b in 0..a {
                    let ((a0, a1), (b0, b1)) = (lives[a].unwrap(), lives[b].unwrap());
                    let together = a0 <= b1 && b0 <= a1;
                    let (x, y) = (offsets[a], offsets[b]);
                    assert!(!together || x + sizes[a] <= y || y + sizes[b] <= x, "{a} and {b}");
                }
                assert!(offsets[a] + sizes[a] <= bytes);
            }
        }
    }
}
