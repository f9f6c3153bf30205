//! What quantising cost: the quantised model against the float one, layer by layer.

use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

use super::Progress;
use super::calibrate::Tapped;
use super::insert::Plan;
use crate::error::Result;
use crate::graph::{Graph, ValueId};
use crate::scoring::Backend;
use crate::tensor::{Difference, Tensor};

/// The report of a quantisation.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Every quantised layer, the worst first.
    pub layers: Vec<Layer>,
    /// Every output of the model, in its order: its name and how it differs.
    pub outputs: Vec<(String, Difference)>,
    /// How often the largest element of a row of the first output is the same one, of how many rows; where its rows look like
    /// classes (more than one element).
    pub same_top: Option<(usize, usize)>,
    /// How many samples both models were run on.
    pub samples: usize,
}

/// A layer of the quantised model.
#[derive(Debug, Clone, PartialEq)]
pub struct Layer {
    /// What it makes.
    pub value: String,
    /// The operator that makes it; `input` for a model's input.
    pub operator: String,
    /// How that differs from the float model's.
    pub difference: Difference,
}

/// Both graphs on samples.
pub(super) fn compare(
    float: &Graph,
    quantised: &Graph,
    plan: &Plan,
    samples: &[Vec<Tensor>],
    runtime: &dyn Backend,
    progress: Progress<'_>,
) -> Result<Report> {
    // As many as tell; every one takes two runs.
    const MOST_SAMPLES: usize = 64;
    let samples = samples.get(..samples.len().min(MOST_SAMPLES)).unwrap_or_default();
    let made = |v: &ValueId| !float.inputs().contains(v);
    let values =
        plan.values.iter().copied().filter(made).chain(float.outputs().iter().copied()).collect::<Vec<_>>();
    let layers = values.len() - float.outputs().len();
    let (before, after) = (Tapped::new(float, &values, runtime)?, Tapped::new(quantised, &values, runtime)?);
    let done = AtomicUsize::new(0);
    let one = |sample: &Vec<Tensor>| -> Result<Seen> {
        let mut expected = Vec::with_capacity(values.len());
        before.each(sample, |_, tensor| {
            expected.push(tensor.clone());
            Ok(())
        })?;
        let mut seen = Seen { differences: vec![Difference::default(); values.len()], same: 0, rows: 0 };
        after.each(sample, |at, tensor| {
            let (Some(expected), Some(difference)) = (expected.get(at), seen.differences.get_mut(at)) else {
                return Ok(());
            };
            let (Ok(e), Ok(g)) = (expected.as_slice::<f32>(), tensor.as_slice::<f32>()) else {
                return Ok(());
            };
            difference.add(e, g);
            if at == layers {
                let classes = tensor.shape().last().copied().unwrap_or(1);
                let rows = e.chunks(classes.max(1)).zip(g.chunks(classes.max(1)));
                seen.rows += rows.clone().filter(|_| classes > 1).count();
                seen.same += rows.filter(|(e, g)| classes > 1 && largest(e) == largest(g)).count();
            }
            Ok(())
        })?;
        progress("comparing", done.fetch_add(1, Ordering::Relaxed) + 1, samples.len());
        Ok(seen)
    };
    let none = || Ok(Seen { differences: vec![Difference::default(); values.len()], same: 0, rows: 0 });
    let merge = |a: Result<Seen>, b: Result<Seen>| {
        let (mut a, b) = (a?, b?);
        a.differences.iter_mut().zip(&b.differences).for_each(|(a, b)| a.merge(b));
        (a.same, a.rows) = (a.same + b.same, a.rows + b.rows);
        Ok(a)
    };
    let seen = samples.par_iter().map(one).reduce(none, merge)?;
    let operator = |value: ValueId| {
        let maker = float.nodes().iter().find(|n| n.makes().any(|m| m == value));
        maker.map_or_else(|| "input".to_owned(), |n| n.op.to_string())
    };
    let both = values.iter().zip(&seen.differences);
    let mut report = both
        .clone()
        .take(layers)
        .map(|(v, d)| Layer { value: float.value(*v).name.clone(), operator: operator(*v), difference: *d })
        .collect::<Vec<_>>();
    report.sort_by(|a, b| a.difference.sqnr_db().total_cmp(&b.difference.sqnr_db()));
    Ok(Report {
        layers: report,
        outputs: both.skip(layers).map(|(v, d)| (float.value(*v).name.clone(), *d)).collect(),
        same_top: (seen.rows > 0).then_some((seen.same, seen.rows)),
        samples: samples.len(),
    })
}

struct Seen {
    differences: Vec<Difference>,
    same: usize,
    rows: usize,
}

fn largest(row: &[f32]) -> Option<usize> {
    row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map(|(at, _)| at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_what_the_formulas_say() {
        let mut all = Difference::default();
        all.add(&[3.0, -4.0], &[3.0, -4.5]);
        assert_eq!((all.max_abs(), all.mean_abs()), (0.5, 0.25));
        assert!((all.sqnr_db() - 20.0).abs() < 1e-9, "25 over 0.25");
        assert!((all.cosine() - 27.0 / (25.0f64 * 29.25).sqrt()).abs() < 1e-12);
        let mut parts = Difference::default();
        for (e, g) in [(3.0, 3.0), (-4.0, -4.5)] {
            let mut one = Difference::default();
            one.add(&[e], &[g]);
            parts.merge(&one);
        }
        assert_eq!(parts, all);
        let mut same = Difference::default();
        same.add(&[1.0], &[1.0]);
        assert!(same.sqnr_db().is_infinite());
        assert_eq!(Difference::default().cosine(), 1.0);
    }
}
