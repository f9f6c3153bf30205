//! Where the elements of a tensor with strides lie, in as few and as long runs as there are.

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
    pub(super) fn scatter(&self, size: usize, from: &[u8], to: &mut [u8]) {
        match size {
            1 => self.scatter_each::<1>(from, to),
            2 => self.scatter_each::<2>(from, to),
            4 => self.scatter_each::<4>(from, to),
            _ => self.scatter_each::<8>(from, to),
        }
    }

    /// Takes elements of so many bytes from where they lie, one after the other.
    pub(super) fn gather(&self, size: usize, from: &[u8], to: &mut [u8]) {
        match size {
            1 => self.gather_each::<1>(from, to),
            2 => self.gather_each::<2>(from, to),
            4 => self.gather_each::<4>(from, to),
            _ => self.gather_each::<8>(from, to),
        }
    }

    fn scatter_each<const SIZE: usize>(&self, from: &[u8], to: &mut [u8]) {
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

    fn gather_each<const SIZE: usize>(&self, from: &[u8], to: &mut [u8]) {
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
            let runs = Runs::of(shape, strides);
            runs.scatter(2, &elements, &mut there);
            runs.gather(2, &there, &mut back);
            assert_eq!(back, elements, "{shape:?}");
        }
        let mut there = [0xff; 9];
        Runs::of(&[2, 2], &[1, 4]).scatter(1, &[1, 2, 3, 4], &mut there);
        assert_eq!(there, [1, 3, 255, 255, 2, 4, 255, 255, 255]);
        let mut all = [0; 4];
        Runs::of(&[2, 2], &[0, 1]).gather(1, &[5, 6], &mut all);
        assert_eq!(all, [5, 6, 5, 6]);
    }
}
