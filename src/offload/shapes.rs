//! What is made for inputs of certain shapes: kept for the next ones of the same shapes.

use std::sync::{Arc, Mutex, PoisonError};

use crate::error::Result;
use crate::tensor::Tensor;

/// The shapes of all inputs.
pub(crate) type Shapes = Vec<Vec<usize>>;

/// By the inputs' shapes; what was used last stands last.
pub(crate) struct ByShape<T>(Mutex<Vec<(Shapes, Arc<T>)>>);

/// So many are kept; the one that was not used for longest goes.
const MOST: usize = 16;

impl<T> Default for ByShape<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> ByShape<T> {
    /// What there is for inputs of these shapes, made now if there is none; who makes it may look at what was used last.
    ///
    /// # Errors
    /// What making it says.
    pub(crate) fn of(
        &self,
        inputs: &[Tensor],
        make: impl FnOnce(&Shapes, Option<&Arc<T>>) -> Result<T>,
    ) -> Result<Arc<T>> {
        let shapes = inputs.iter().map(|t| t.shape().to_vec()).collect::<Vec<_>>();
        // Held while it is made: callers that want the same would all make it.
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = known.iter().position(|(s, _)| *s == shapes) {
            let found = known.remove(at);
            known.push(found.clone());
            return Ok(found.1);
        }
        let made = Arc::new(make(&shapes, known.last().map(|(_, last)| last))?);
        if known.len() == MOST {
            known.remove(0);
        }
        known.push((shapes, made.clone()));
        Ok(made)
    }
}
