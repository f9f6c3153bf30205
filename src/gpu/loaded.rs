//! A plan whose kernels and constants are on the device: what lanes run.

use std::sync::Arc;

use super::chosen::Selection;
use super::machine::{Function, Stored};
use super::plan::{Launch, Plan, PlannedArgument};

/// A plan whose kernels and constants are on the device.
pub(super) struct Loaded {
    /// A number that no other one has.
    pub(super) number: u64,
    pub(super) plan: Plan,
    /// Of each preparation, then of each launch.
    pub(super) functions: Vec<Function>,
    /// Nothing for those that nobody reads.
    pub(super) constants: Vec<Option<Arc<Stored>>>,
    /// What is run instead of a function, in the functions' order.
    pub(super) chosen: Selection,
}

impl Loaded {
    /// What is launched for every run, each with the place of its function.
    pub(super) fn launches(&self) -> impl Iterator<Item = (usize, &Launch)> {
        (self.plan.preparations.len()..).zip(&self.plan.launches)
    }

    /// Lets go of the constants that only what was not chosen would read: a kernel and a library may want the same weights in different orders.
    pub(super) fn drop_unused(&mut self) {
        let mut used = vec![false; self.constants.len()];
        let mut note = |value: &PlannedArgument| {
            if let Some(used) = value.constant().and_then(|at| used.get_mut(at)) {
                *used = true;
            }
        };
        for (at, launch) in self.plan.preparations.iter().chain(&self.plan.launches).enumerate() {
            match (self.chosen.at(at), &launch.library) {
                (Some(_), Some(instead)) => instead.places().for_each(&mut note),
                _ => launch.arguments.iter().flatten().for_each(&mut note),
            }
        }
        for (constant, _) in self.constants.iter_mut().zip(used).filter(|(_, used)| !used) {
            *constant = None;
        }
    }
}
