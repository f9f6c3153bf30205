//! Where the elements of a tensor with strides lie, in as few and as long runs as there are.

use super::extent_bytes;

/// The axes of a tensor, those that follow each other without a gap taken as one.
pub(super) struct Runs {
    outer: Vec<(usize, usize)>,
    length: usize,
    stride: usize,
}

impl Runs {
    /// Of a shape with strides in bytes, none of them negative.
    pub(super) fn of(shape: &[usize], strides: &[isize]) -> Self {
        let mut axes: Vec<(usize, usize)> = Vec::new();
        let own = shape.iter().zip(strides).filter(|(n, _)| **n != 1);
        for (length, stride) in own.map(|(n, s)| (*n, s.unsigned_abs())) {
            match axes.last_mut() {
                Some(last) if last.1 == stride * length => *last = (last.0 * length, stride),
                _ => axes.push((length, stride)),
            }
        }
        let (length, stride) = axes.pop().unwrap_or((1, 0));
        Self { outer: axes, length, stride }
    }

    /// Calls `each` for every run in row-major order, with the number of its first element and that element's place.
    fn each(&self, mut each: impl FnMut(usize, usize)) {
        let count = self.outer.iter().map(|(n, _)| n).product::<usize>();
        let mut index = vec![0usize; self.outer.len()];
        let mut place = 0;
        for run in 0..if self.length == 0 { 0 } else { count } {
            each(run * self.length, place);
            for (i, (length, stride)) in index.iter_mut().zip(&self.outer).rev() {
                *i += 1;
                place += stride;
                if *i < *length {
                    break;
                }
                place -= length * stride;
                *i = 0;
            }
        }
    }

    /// Puts elements of so many bytes, which come one after the other, where they belong.
    pub(super) fn scatter<const SIZE: usize>(&self, from: &[u8], to: &mut [u8]) {
        self.each(|number, place| {
            let from = from.get(number * SIZE..(number + self.length) * SIZE).unwrap_or_default();
            let to = to.get_mut(place..).unwrap_or_default();
            match to.get_mut(..from.len()).filter(|_| self.stride == SIZE) {
                Some(to) => to.copy_from_slice(from),
                None => {
                    for (element, to) in from.chunks_exact(SIZE).zip(to.chunks_mut(self.stride.max(SIZE))) {
                        if let Some(to) = to.get_mut(..SIZE) {
                            to.copy_from_slice(element);
                        }
                    }
                }
            }
        });
    }

    /// Takes elements of so many bytes from where they lie, one after the other.
    pub(super) fn gather<const SIZE: usize>(&self, from: &[u8], to: &mut [u8]) {
        self.each(|number, place| {
            let to = to.get_mut(number * SIZE..(number + self.length) * SIZE).unwrap_or_default();
            let from = from.get(place..).unwrap_or_default();
            match from.get(..to.len()).filter(|_| self.stride == SIZE) {
                Some(from) => to.copy_from_slice(from),
                // The same element again and again.
                None if self.stride == 0 => {
                    let element = from.get(..SIZE).unwrap_or_default();
                    to.chunks_exact_mut(element.len().max(1)).for_each(|to| to.copy_from_slice(element));
                }
                None => {
                    for (to, element) in to.chunks_exact_mut(SIZE).zip(from.chunks(self.stride)) {
                        to.copy_from_slice(element.get(..SIZE).unwrap_or(&[0; SIZE]));
                    }
                }
            }
        });
    }

    /// Whether the elements lie one after the other already.
    pub(super) fn is_one(&self, size: usize) -> bool {
        self.outer.is_empty() && (self.length <= 1 || self.stride == size)
    }
}

/// [`Runs::scatter`] or [`Runs::gather`], for elements of that size.
pub(super) fn moved(
    is_scatter: bool,
    (shape, strides, size): (&[usize], &[isize], usize),
    from: &[u8],
    to: &mut [u8],
) {
    let runs = Runs::of(shape, strides);
    debug_assert!(if is_scatter { to.len() } else { from.len() } >= extent_bytes(shape, strides, size));
    match (is_scatter, size) {
        (true, 1) => runs.scatter::<1>(from, to),
        (true, 2) => runs.scatter::<2>(from, to),
        (true, 4) => runs.scatter::<4>(from, to),
        (true, _) => runs.scatter::<8>(from, to),
        (false, 1) => runs.gather::<1>(from, to),
        (false, 2) => runs.gather::<2>(from, to),
        (false, 4) => runs.gather::<4>(from, to),
        (false, _) => runs.gather::<8>(from, to),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_without_gaps_are_one_run() {
        type Row<'a> = (&'a [usize], &'a [isize], usize, (usize, usize));
        let rows: [Row<'_>; 7] = [
            (&[2, 3, 4], &[12, 4, 1], 0, (24, 1)),
            (&[2, 3, 4], &[48, 16, 4], 0, (24, 4)),
            // Channels last: the pixels of a channel are one run, the images are not.
            (&[2, 3, 4, 5], &[60, 1, 15, 3], 2, (20, 3)),
            (&[1, 3, 4, 5], &[60, 1, 15, 3], 1, (20, 3)),
            (&[2, 3], &[8, 1], 1, (3, 1)),
            (&[], &[], 0, (1, 0)),
            (&[3, 2], &[0, 0], 0, (6, 0)),
        ];
        for (shape, strides, outer, run) in rows {
            let runs = Runs::of(shape, strides);
            assert_eq!((runs.outer.len(), (runs.length, runs.stride)), (outer, run), "{shape:?} {strides:?}");
        }
    }

    #[test]
    fn elements_go_and_come_back() {
        for (shape, strides, bytes) in
            [(&[2, 3, 2][..], &[20, 2, 6][..], 40), (&[3, 0], &[2, 2], 8), (&[], &[], 2), (&[5], &[6], 30)]
        {
            let count = shape.iter().product::<usize>();
            let elements = (0..2 * count as u8).collect::<Vec<_>>();
            let (mut there, mut back) = (vec![0xff; bytes], vec![0; 2 * count]);
            moved(true, (shape, strides, 2), &elements, &mut there);
            moved(false, (shape, strides, 2), &there, &mut back);
            assert_eq!(back, elements, "{shape:?}");
        }
        let mut there = [0xff; 9];
        moved(true, (&[2, 2], &[1, 4], 1), &[1, 2, 3, 4], &mut there);
        assert_eq!(there, [1, 3, 255, 255, 2, 4, 255, 255, 255]);
        let mut all = [0; 4];
        moved(false, (&[2, 2], &[0, 1], 1), &[5, 6], &mut all);
        assert_eq!(all, [5, 6, 5, 6]);
    }
}
