//! What is made for inputs of certain shapes: kept for the next ones of the same shapes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::Result;
use crate::tensor::Tensor;

/// The shapes of all inputs.
pub(crate) type Shapes = Vec<Vec<usize>>;

/// By the inputs' shapes; what was used last stands last.
pub(crate) struct ByShape<T>(Mutex<Vec<(Shapes, Arc<Slot<T>>)>>);

/// What was made, or will be: held by whoever makes it.
type Slot<T> = Mutex<Option<Arc<T>>>;

/// The shapes of these inputs; with so many rows, if it is said.
pub(crate) fn shapes_of(inputs: &[Tensor], rows: Option<usize>) -> Shapes {
    let mut shapes = inputs.iter().map(|t| t.shape().to_vec()).collect::<Shapes>();
    if let Some(rows) = rows {
        shapes.iter_mut().filter_map(|shape| shape.first_mut()).for_each(|first| *first = rows);
    }
    shapes
}

impl<T> Default for ByShape<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> ByShape<T> {
    /// So many are kept; the one that was not used for longest goes.
    pub(crate) const MOST: usize = 64;

    /// What there is for inputs of these shapes, made now if there is none; who makes it may look at what was used last. While it is made, callers
    /// with the same shapes wait for it, and others go on.
    ///
    /// # Errors
    /// What making it says; the next caller tries again.
    pub(crate) fn of(
        &self,
        shapes: &Shapes,
        make: impl FnOnce(&Shapes, Option<&Arc<T>>) -> Result<T>,
    ) -> Result<Arc<T>> {
        let slot = self.slot(shapes);
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(made) = &*slot {
            return Ok(made.clone());
        }
        let made = Arc::new(make(shapes, self.last().as_ref())?);
        *slot = Some(made.clone());
        Ok(made)
    }

    /// The place of what is made for these shapes, which are now those that were used last.
    fn slot(&self, shapes: &Shapes) -> Arc<Slot<T>> {
        let mut known = self.known();
        let slot = match known.iter().position(|(s, _)| s == shapes) {
            Some(at) => known.remove(at).1,
            None => Arc::default(),
        };
        if known.len() == Self::MOST {
            known.remove(0);
        }
        known.push((shapes.clone(), slot.clone()));
        slot
    }

    /// What was used last of what is there; a place whose thing is being made has none.
    fn last(&self) -> Option<Arc<T>> {
        self.known().iter().rev().find_map(|(_, slot)| slot.try_lock().ok()?.clone())
    }

    fn known(&self) -> MutexGuard<'_, Vec<(Shapes, Arc<Slot<T>>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ScoreError;

    fn shape(rows: usize) -> Shapes {
        vec![vec![rows, 3]]
    }

    #[test]
    fn what_is_made_is_kept_and_what_failed_is_tried_again() {
        let kept = ByShape::<usize>::default();
        assert!(kept.of(&shape(1), |_, _| Err(ScoreError::internal("no"))).is_err());
        for _ in 0..2 {
            assert_eq!(*kept.of(&shape(1), |s, last| Ok(s[0][0] + usize::from(last.is_some()))).unwrap(), 1);
        }
        // Who makes another one sees the first; the one that was not used for longest goes.
        assert_eq!(*kept.of(&shape(2), |_, last| Ok(10 + **last.unwrap())).unwrap(), 11);
        for rows in 3..ByShape::<usize>::MOST + 2 {
            kept.of(&shape(rows), |_, _| Ok(rows)).unwrap();
        }
        assert_eq!(*kept.of(&shape(2), |_, _| Ok(0)).unwrap(), 11);
        assert_eq!(*kept.of(&shape(1), |_, _| Ok(99)).unwrap(), 99);
    }

    #[test]
    fn nobody_waits_for_what_is_made_for_other_shapes() {
        let kept = ByShape::<usize>::default();
        let inner = kept.of(&shape(1), |_, _| {
            std::thread::scope(|s| s.spawn(|| kept.of(&shape(2), |_, _| Ok(2))).join().unwrap())
                .map(|two| *two)
        });
        assert_eq!(*inner.unwrap(), 2);
    }
}
