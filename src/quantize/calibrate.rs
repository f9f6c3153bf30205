//! Running a float graph on samples and observing its values.

use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

use super::Progress;
use super::range::Observed;
use crate::error::Result;
use crate::graph::{Graph, ValueId, encode};
use crate::model::{Model, ReadLimits};
use crate::scoring::{Backend, Call, CompileOptions, Scorer};
use crate::tensor::Tensor;

/// What was seen of each of these values over all samples. Samples run in parallel; the result does not depend on their order.
///
/// # Errors
/// What the runtime says.
pub fn observe(
    graph: &Graph,
    values: &[ValueId],
    samples: &[Vec<Tensor>],
    runtime: &dyn Backend,
    progress: Progress<'_>,
) -> Result<Vec<(ValueId, Observed)>> {
    let tapped = Tapped::new(graph, values, runtime)?;
    let done = AtomicUsize::new(0);
    let observe = |sample: &Vec<Tensor>| -> Result<Vec<Observed>> {
        let mut seen = vec![Observed::default(); values.len()];
        tapped.each(sample, |at, tensor| {
            if let Some(seen) = seen.get_mut(at) {
                seen.add(tensor.as_slice()?);
            }
            Ok(())
        })?;
        progress("calibrating", done.fetch_add(1, Ordering::Relaxed) + 1, samples.len());
        Ok(seen)
    };
    let none = || Ok(vec![Observed::default(); values.len()]);
    let merge = |a: Result<Vec<Observed>>, b: Result<Vec<Observed>>| {
        let (mut a, b) = (a?, b?);
        a.iter_mut().zip(&b).for_each(|(a, b)| a.merge(b));
        Ok(a)
    };
    let seen = samples.par_iter().map(observe).reduce(none, merge)?;
    Ok(values.iter().copied().zip(seen).collect())
}

/// A graph whose values in between can be looked at.
pub(super) struct Tapped {
    scorer: std::sync::Arc<dyn Scorer>,
    /// For each value: the place of the input that it is, or of the output.
    places: Vec<Place>,
}

enum Place {
    Input(usize),
    Output(usize),
}

impl Tapped {
    pub(super) fn new(graph: &Graph, values: &[ValueId], runtime: &dyn Backend) -> Result<Self> {
        let mut outputs = Vec::new();
        let mut places = Vec::new();
        for value in values {
            places.push(match graph.inputs().iter().position(|i| i == value) {
                Some(at) => Place::Input(at),
                // A value may be asked for twice, as a layer's and as the model's; an output has one name.
                None => match outputs.iter().position(|o| o == value) {
                    Some(at) => Place::Output(at),
                    None => {
                        outputs.push(*value);
                        Place::Output(outputs.len() - 1)
                    }
                },
            });
        }
        if outputs.is_empty() {
            outputs.extend(graph.outputs().first());
        }
        let nodes = graph.nodes().iter().collect::<Vec<_>>();
        let model = graph.part_to_model(&nodes, graph.inputs(), &outputs)?;
        let model = Model::from_bytes(encode(&model)?, &ReadLimits::default())?;
        let options = CompileOptions { skip_tuning: true, ..CompileOptions::default() };
        Ok(Self { scorer: runtime.compile(&model, &runtime.probe()?, &options)?, places })
    }

    /// Runs a sample and shows each value, by its place in the list that was asked for.
    pub(super) fn each(
        &self,
        sample: &[Tensor],
        mut look: impl FnMut(usize, &Tensor) -> Result<()>,
    ) -> Result<()> {
        let scored = self.scorer.score(sample, &Call::new())?;
        for (at, place) in self.places.iter().enumerate() {
            match place {
                Place::Input(input) => {
                    if let Some(tensor) = sample.get(*input) {
                        look(at, tensor)?;
                    }
                }
                Place::Output(output) => look(at, scored.tensor(*output)?)?,
            }
        }
        Ok(())
    }
}
