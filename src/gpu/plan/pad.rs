//! Padding: a constant around what is computed right into its place, or elements that the tensor has already, gathered.

use super::pointwise::{axis_of, literal};
use super::program::Array;
use super::{Deferred, Planner};
use crate::error::{Result, ScoreError};
use crate::graph::Node;
use crate::layout::view::View;

/// Elements before and behind an axis; negative ones are cut off.
#[derive(Debug, Clone, Copy, Default)]
struct Ends {
    before: i64,
    behind: i64,
}

impl Planner<'_> {
    /// Takes a padding; `false` for another operator.
    pub(super) fn pads(&mut self, node: &Node) -> Result<bool> {
        if !node.is("Pad") {
            return Ok(false);
        }
        let from = self.input_shape(node, 0)?;
        let ends = self.ends(node, from.len())?;
        match node.op.attributes.text("mode").unwrap_or("constant") {
            "constant" => self.pad_with_constant(node, &from, &ends)?,
            mode @ ("reflect" | "edge" | "wrap") => {
                let list = |(ends, length): (&Ends, &usize)| match (ends.before, ends.behind) {
                    (0, 0) => Ok(None),
                    _ => sources(mode, *ends, *length as i64).map(Some),
                };
                let lists = ends.iter().zip(&from).map(list).collect::<Result<Vec<_>>>()?;
                let data = self.memory(node, 0)?;
                let array = self.remapped(&data, &lists, &node.origins)?;
                self.put_memory(node, 0, array);
            }
            other => return Err(ScoreError::bad_model(format!("mode is '{other}'"))),
        }
        Ok(true)
    }

    fn ends(&self, node: &Node, rank: usize) -> Result<Vec<Ends>> {
        let pads = self.integers(node, 1)?.ok_or_else(|| ScoreError::bad_model("it has no pads"))?;
        let axes = self.integers(node, 3)?.unwrap_or_else(|| (0..rank as i64).collect());
        if pads.len() != 2 * axes.len() {
            let what = format!("pads is {pads:?}: expected {} numbers", 2 * axes.len());
            return Err(ScoreError::bad_model(what));
        }
        let mut ends = vec![Ends::default(); rank];
        let (before, behind) = pads.split_at(axes.len());
        for ((axis, before), behind) in axes.iter().zip(before).zip(behind) {
            if let Some(slot) = ends.get_mut(axis_of(*axis, rank)?) {
                *slot = Ends { before: *before, behind: *behind };
            }
        }
        Ok(ends)
    }

    fn pad_with_constant(&mut self, node: &Node, from: &[usize], ends: &[Ends]) -> Result<()> {
        let x = self.deferred(node, 0)?;
        let register = x.register();
        // What stays of it, and where that goes.
        let cut = |ends: &Ends| ends.before.min(0).unsigned_abs() as usize;
        let kept = |(n, ends): (&usize, &Ends)| {
            n.saturating_sub(cut(ends)).saturating_sub(ends.behind.min(0).unsigned_abs() as usize)
        };
        let kept = from.iter().zip(ends).map(kept).collect::<Vec<_>>();
        let look = |view: &View| {
            let mut inner = View { shape: kept.clone(), ..view.clone() };
            for (axis, ends) in ends.iter().enumerate() {
                let skipped = view.stride(axis).checked_mul(isize::try_from(cut(ends)).ok()?)?;
                inner.offset = inner.offset.checked_add_signed(skipped)?;
            }
            Some(inner)
        };
        let x = if kept == from { x } else { self.looked(x, &kept, look)? };
        if ends.iter().all(|e| e.before <= 0 && e.behind <= 0) {
            return self.defer(node, 0, x);
        }
        let value = match node.input(2) {
            Some(_) => self.deferred(node, 2)?,
            None => literal(register, 0.0, &[]),
        };
        let value = self.unbound(value)?.cast(register);
        let whole = self.allocate_result(node, 0)?;
        let wrong = || ScoreError::bad_model(format!("its value has {:?} elements", value.shape()));
        let program = value.program.broadcast(&whole.view.shape).ok_or_else(wrong)?;
        self.launch(Deferred { program, ..value.clone() }, whole.dtype, None, Some(&whole))?;
        let mut view = View { shape: kept, ..whole.view.clone() };
        for (axis, ends) in ends.iter().enumerate() {
            let skipped = view.stride(axis) * isize::try_from(ends.before.max(0)).unwrap_or(0);
            view.offset = view.offset.checked_add_signed(skipped).unwrap_or(0);
        }
        if view.count() > 0 {
            let dtype = whole.dtype;
            self.launch(x, dtype, None, Some(&Array { view, dtype }))?;
        }
        self.put_memory(node, 0, whole);
        Ok(())
    }
}

/// Where each element of a padded axis comes from.
fn sources(mode: &str, ends: Ends, length: i64) -> Result<Vec<i64>> {
    if length == 0 {
        return Err(ScoreError::bad_model(format!("{mode} of an axis without elements")));
    }
    let source = |place: i64| match mode {
        "edge" => place.clamp(0, length - 1),
        "wrap" => place.rem_euclid(length),
        // There and back, without the first and the last one twice.
        _ => {
            let period = (2 * (length - 1)).max(1);
            let along = place.rem_euclid(period);
            along.min(period - along).min(length - 1)
        }
    };
    Ok((-ends.before..length.saturating_add(ends.behind)).map(source).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_comes_from_where_numpy_takes_it() {
        let of = |mode, before, behind, length| sources(mode, Ends { before, behind }, length).unwrap();
        assert_eq!(of("reflect", 2, 2, 4), [2, 1, 0, 1, 2, 3, 2, 1]);
        assert_eq!(of("reflect", 3, 0, 2), [1, 0, 1, 0, 1]);
        assert_eq!(of("reflect", 1, 1, 1), [0, 0, 0]);
        assert_eq!(of("edge", 2, 1, 3), [0, 0, 0, 1, 2, 2]);
        assert_eq!(of("wrap", 2, 1, 3), [1, 2, 0, 1, 2, 0]);
        assert_eq!(of("edge", -1, 1, 3), [1, 2, 2]);
        assert!(sources("wrap", Ends::default(), 0).is_err());
    }
}
