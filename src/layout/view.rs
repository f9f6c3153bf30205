//! Where a tensor lies in the arena: a shape and strides over a piece of storage.
//!
//! A transpose, a slice, a split or a broadcast changes how a tensor is looked at and not where its bytes lie, so it costs nothing on a
//! device whose kernels take strides. Only what a kernel cannot step through is copied.

/// A piece of the arena that is planned as one: tensors of the same bytes share it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Storage(pub(crate) usize);

/// A tensor as strides over storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct View {
    pub(crate) storage: Storage,
    /// Bytes from the storage's start to the first element.
    pub(crate) offset: usize,
    /// Elements along each axis.
    pub(crate) shape: Vec<usize>,
    /// Bytes between two elements along each axis; zero repeats, a negative one steps back.
    pub(crate) strides: Vec<isize>,
    /// Bytes of an element.
    pub(crate) size: usize,
}

impl View {
    /// A tensor whose axes lie in that order, the last one closest together.
    pub(crate) fn ordered(storage: Storage, shape: &[usize], order: &[usize], size: usize) -> Self {
        let mut strides = vec![0; shape.len()];
        let mut stride = size;
        for axis in order.iter().rev() {
            if let (Some(slot), Some(length)) = (strides.get_mut(*axis), shape.get(*axis)) {
                *slot = stride as isize;
                stride *= length;
            }
        }
        Self { storage, offset: 0, shape: shape.to_vec(), strides, size }
    }

    /// A tensor in row-major order.
    pub(crate) fn row_major(storage: Storage, shape: &[usize], size: usize) -> Self {
        Self::ordered(storage, shape, &(0..shape.len()).collect::<Vec<_>>(), size)
    }

    /// The axes by how far apart their elements lie, the farthest first; axes of one element or repeated ones last.
    pub(crate) fn order(&self) -> Vec<usize> {
        let mut axes = (0..self.shape.len()).collect::<Vec<_>>();
        axes.sort_by_key(|a| std::cmp::Reverse(self.strides.get(*a).map_or(0, |s| s.unsigned_abs())));
        axes
    }

    /// How many elements there are.
    pub(crate) fn count(&self) -> usize {
        self.shape.iter().product()
    }

    pub(crate) fn length(&self, axis: usize) -> usize {
        self.shape.get(axis).copied().unwrap_or(1)
    }

    pub(crate) fn stride(&self, axis: usize) -> isize {
        self.strides.get(axis).copied().unwrap_or(0)
    }

    /// The same tensor with its axes in another order.
    pub(crate) fn transposed(&self, order: &[usize]) -> Self {
        Self {
            shape: order.iter().map(|a| self.length(*a)).collect(),
            strides: order.iter().map(|a| self.stride(*a)).collect(),
            ..self.clone()
        }
    }

    /// Whether its elements lie without gaps, the axes in that order; of an axis of one element the stride says nothing.
    #[cfg(feature = "cuda")]
    pub(crate) fn is_dense(&self, order: &[usize]) -> bool {
        let dense = Self::ordered(self.storage, &self.shape, order, self.size);
        (0..self.shape.len()).all(|a| self.length(a) == 1 || self.stride(a) == dense.stride(a))
    }

    /// So many elements along an axis, from that one on.
    pub(crate) fn part(&self, axis: usize, first: usize, length: usize) -> Self {
        let mut part = self.clone();
        part.offset = part.offset.saturating_add_signed(first as isize * self.stride(axis));
        if let Some(slot) = part.shape.get_mut(axis) {
            *slot = length;
        }
        part
    }

    /// Cut to a shape as ONNX's `Slice` cuts: along each of these axes from a start on, which may be counted from behind, by a step, which may be
    /// negative. `None` where that would begin before the storage.
    pub(crate) fn sliced(&self, shape: &[usize], cuts: &[(usize, i64, i64)]) -> Option<Self> {
        let mut cut = Self { shape: shape.to_vec(), ..self.clone() };
        for (axis, start, step) in cuts {
            let length = i64::try_from(self.length(*axis)).unwrap_or(i64::MAX);
            let start = if *start < 0 { start.saturating_add(length) } else { *start };
            let last = if *step < 0 { length - 1 } else { length };
            let start = isize::try_from(start.clamp(0, last.max(0))).unwrap_or(0);
            cut.offset = cut.offset.checked_add_signed(self.stride(*axis) * start)?;
            if let Some(stride) = cut.strides.get_mut(*axis) {
                *stride *= isize::try_from(*step).unwrap_or(1);
            }
        }
        Some(cut)
    }

    /// The same bytes in another shape, if strides can say it: as NumPy reshapes without a copy.
    pub(crate) fn reshaped(&self, shape: &[usize]) -> Option<Self> {
        if self.count() != shape.iter().product::<usize>() {
            return None;
        }
        let old = (0..self.shape.len()).filter(|a| self.length(*a) != 1).collect::<Vec<_>>();
        let mut strides = vec![0; shape.len()];
        if self.count() == 0 {
            return Some(Self { shape: shape.to_vec(), strides, ..self.clone() });
        }
        let (mut i, mut j) = (0, 0);
        while i < old.len() && j < shape.len() {
            let (first_old, first_new) = (i, j);
            let (mut covered_old, mut covered_new) = (self.length(*old.get(i)?), *shape.get(j)?);
            while covered_old != covered_new {
                if covered_new < covered_old {
                    j += 1;
                    covered_new *= shape.get(j)?;
                } else {
                    i += 1;
                    covered_old *= self.length(*old.get(i)?);
                }
            }
            // The old axes that are covered together must follow each other without a gap.
            for pair in old.get(first_old..=i)?.windows(2) {
                let [outer, inner] = pair else { continue };
                if self.stride(*outer) != self.stride(*inner) * self.length(*inner) as isize {
                    return None;
                }
            }
            let mut stride = self.stride(*old.get(i)?);
            for axis in (first_new..=j).rev() {
                *strides.get_mut(axis)? = stride;
                stride *= *shape.get(axis)? as isize;
            }
            (i, j) = (i + 1, j + 1);
        }
        // What is left are axes of one element.
        Some(Self { shape: shape.to_vec(), strides, ..self.clone() })
    }
}

/// The order of axes that has the channels, the second axis, closest together.
pub(crate) fn channels_last(rank: usize) -> Vec<usize> {
    match rank {
        0 | 1 => (0..rank).collect(),
        _ => std::iter::once(0).chain(2..rank).chain(std::iter::once(1)).collect(),
    }
}

/// Axes that several views step through alike, as few as can say it. Each is a length and a stride for each view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Loops {
    pub(crate) lengths: Vec<usize>,
    /// For each view, its strides.
    pub(crate) strides: Vec<Vec<isize>>,
}

impl Loops {
    /// The loops over views of one shape, in the order in which the first one's elements lie; axes that follow each other without a gap
    /// in all of them are one.
    pub(crate) fn over(views: &[&View]) -> Self {
        let Some(first) = views.first() else { return Self { lengths: Vec::new(), strides: Vec::new() } };
        let order = first.order().into_iter().filter(|a| first.length(*a) != 1).collect::<Vec<_>>();
        let mut loops = Self { lengths: Vec::new(), strides: vec![Vec::new(); views.len()] };
        for axis in order {
            let length = first.length(axis);
            let follows = views
                .iter()
                .zip(&loops.strides)
                .all(|(view, strides)| strides.last() == Some(&(view.stride(axis) * length as isize)));
            match loops.lengths.last_mut().filter(|_| follows) {
                Some(last) => *last *= length,
                None => loops.lengths.push(length),
            }
            for (view, strides) in views.iter().zip(&mut loops.strides) {
                if follows {
                    strides.pop();
                }
                strides.push(view.stride(axis));
            }
        }
        loops
    }

    /// The same loops as exactly so many, with axes of one element in front; `None` where there are more.
    #[cfg(any(test, feature = "opencl"))]
    pub(crate) fn padded(mut self, count: usize) -> Option<Self> {
        let missing = count.checked_sub(self.lengths.len())?;
        self.lengths.splice(0..0, std::iter::repeat_n(1, missing));
        for strides in &mut self.strides {
            strides.splice(0..0, std::iter::repeat_n(0, missing));
        }
        Some(self)
    }

    /// Splits a long innermost loop in two where nothing else could be shared out among compute units: the outer one gets its largest divisor
    /// that leaves rows of about that length.
    #[cfg(any(test, feature = "opencl"))]
    pub(crate) fn split_innermost(mut self, row: usize) -> Self {
        let Some(last) = self.lengths.last().copied() else { return self };
        if self.lengths.len() > 1 || last < 2 * row {
            return self;
        }
        let Some(inner) = (1..=row).rev().find(|n| last % n == 0).filter(|n| *n >= row / 8) else {
            return self;
        };
        self.lengths = vec![last / inner, inner];
        for strides in &mut self.strides {
            let stride = strides.last().copied().unwrap_or(0);
            *strides = vec![stride * inner as isize, stride];
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(shape: &[usize], order: &[usize]) -> View {
        View::ordered(Storage(0), shape, order, 1)
    }

    #[test]
    fn axes_lie_in_the_order_that_is_asked_for() {
        let channels_last = view(&[2, 3, 4, 5], &[0, 2, 3, 1]);
        assert_eq!(channels_last.strides, [60, 1, 15, 3]);
        assert_eq!(channels_last.order(), [0, 2, 3, 1]);
        assert_eq!(channels_last.transposed(&[0, 2, 3, 1]), View::row_major(Storage(0), &[2, 4, 5, 3], 1));
    }

    #[test]
    fn slices_and_parts_are_other_beginnings_and_steps() {
        let x = view(&[5, 6], &[0, 1]);
        let cut = x.sliced(&[4, 3], &[(0, 4, -1), (1, 1, 2)]).unwrap();
        assert_eq!((cut.offset, cut.strides, cut.shape), (25, vec![-6, 2], vec![4, 3]));
        assert_eq!(x.sliced(&[1, 6], &[(0, -1, 1)]).unwrap().offset, 24);
        assert_eq!(x.sliced(&[0, 6], &[(0, 9, 1)]).unwrap().offset, 30);
        let part = x.part(1, 2, 3);
        assert_eq!((part.offset, part.shape), (2, vec![5, 3]));
    }

    #[test]
    fn reshapes_are_free_where_strides_can_say_them() {
        type Row<'a> = (View, &'a [usize], Option<&'a [isize]>);
        let rows: [Row<'_>; 8] = [
            (view(&[2, 12], &[0, 1]), &[2, 3, 4], Some(&[12, 4, 1])),
            (view(&[2, 3, 4], &[0, 1, 2]), &[6, 4], Some(&[4, 1])),
            (view(&[2, 3, 4], &[0, 2, 1]), &[6, 4], None),
            (view(&[2, 3, 4], &[0, 2, 1]), &[2, 1, 3, 2, 2], Some(&[12, 3, 1, 6, 3])),
            // What a global pool leaves: channels last and row-major are the same.
            (view(&[2, 3, 1, 1], &[0, 2, 3, 1]), &[2, 3], Some(&[3, 1])),
            (view(&[1, 1], &[0, 1]), &[1], Some(&[0])),
            (view(&[2, 3], &[0, 1]), &[7], None),
            (view(&[0, 3], &[0, 1]), &[3, 0], Some(&[0, 0])),
        ];
        for (from, shape, expected) in rows {
            assert_eq!(from.reshaped(shape).map(|v| v.strides).as_deref(), expected, "{from:?} as {shape:?}");
        }
    }

    #[test]
    fn loops_are_as_few_as_can_be() {
        let a = view(&[2, 3, 4, 5], &[0, 2, 3, 1]);
        let same = Loops::over(&[&a, &a]);
        assert_eq!(same, Loops { lengths: vec![120], strides: vec![vec![1], vec![1]] });
        // A bias along the channels repeats over the rest.
        let mut bias = view(&[1, 3, 1, 1], &[0, 1, 2, 3]);
        bias.shape = vec![2, 3, 4, 5];
        bias.strides = vec![0, 1, 0, 0];
        let loops = Loops::over(&[&a, &bias]);
        assert_eq!(loops, Loops { lengths: vec![40, 3], strides: vec![vec![3, 1], vec![0, 1]] });
        assert_eq!(loops.padded(3).unwrap().lengths, [1, 40, 3]);
        assert!(Loops::over(&[&view(&[2, 3], &[0, 1]), &view(&[2, 3], &[1, 0])]).padded(1).is_none());
        assert_eq!(same.split_innermost(32).lengths, [4, 30]);
    }
}
