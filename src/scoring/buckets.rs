//! Few lengths instead of any: inputs are padded up to one of a few lengths of an axis, and outputs cut back.
//!
//! A device plans for every shape that it meets, and captures a graph of it. Rows of a batch it pads by itself, as it finds out that rows are independent.
//! With a sequence of tokens it cannot: whether a model heeds what is padded is a matter of its masks, and no file says it. So who deploys a model names
//! the dimension and its lengths, and a scorer in front of the device's does the rest. It pads with zeros, which is what tokenizers give to
//! padding, as token and in the mask. That the model's answers stay what they are is not believed but measured, when the scorer is made.

use std::sync::Arc;
use std::time::Instant;

use super::close::{Tolerance, close};
use super::inputs::inputs_of;
use super::{Call, Device, Health, Limits, Placement, Precision, Scored, Scorer};
use crate::error::{Result, ScoreError};
use crate::signature::{Dim, Port, PortKind, Signature};
use crate::tensor::{DType, Tensor, Value};

/// The lengths that free dimensions are padded up to, by the dimensions' names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Buckets(Vec<(String, Vec<usize>)>);

impl Buckets {
    /// With these lengths of a dimension, besides those that it has; a longer input stays as it is.
    #[must_use]
    pub fn with(mut self, dimension: impl Into<String>, lengths: impl IntoIterator<Item = usize>) -> Self {
        let dimension = dimension.into();
        let known = self.0.iter().position(|(name, _)| *name == dimension);
        let mut all = known.map(|at| self.0.remove(at).1).unwrap_or_default();
        all.extend(lengths.into_iter().filter(|length| *length > 0));
        all.sort_unstable();
        all.dedup();
        self.0.push((dimension, all));
        self
    }

    /// Whether nothing is padded.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Those of dimensions that a model of that signature has: for a service whose script opens several models.
    #[must_use]
    pub fn of(&self, signature: &Signature) -> Self {
        Self(self.0.iter().filter(|(name, _)| is_of_input(signature, name)).cloned().collect())
    }

    fn lengths(&self, dimension: &str) -> Option<&[usize]> {
        self.0.iter().find(|(name, _)| name == dimension).map(|(_, lengths)| lengths.as_slice())
    }

    /// What that length of a dimension is padded up to, if it is.
    fn padded(&self, dimension: &str, length: usize) -> Option<usize> {
        // Padding alone is nothing that a model could heed.
        let longer = self.lengths(dimension)?.iter().find(|bucket| **bucket >= length && length > 0)?;
        Some(*longer).filter(|longer| *longer != length)
    }
}

/// A scorer whose inputs are padded up to few lengths.
#[derive(Debug)]
pub struct Bucketed {
    inner: Arc<dyn Scorer>,
    buckets: Buckets,
}

/// A dimension of a call: its name, its length, and what it is padded up to.
struct Padded<'a> {
    dimension: &'a str,
    length: usize,
    longer: usize,
}

impl Bucketed {
    /// Puts it in front of a scorer that computes in this precision, and checks that the model's answers stay what they are: an input of half the smallest
    /// length is scored as it is, and padded up to the largest. With each length it is scored once, so that the device is ready for all of them.
    ///
    /// # Errors
    /// `BadConfig` for a dimension that no input has, for an output of which the model does not say whether it has the dimension, and where padding changes
    /// an answer; what scoring says.
    pub fn new(inner: Arc<dyn Scorer>, buckets: Buckets, precision: Precision) -> Result<Self> {
        let scorer = Self { inner, buckets };
        for (name, _) in &scorer.buckets.0 {
            check_ports(scorer.signature(), name)?;
        }
        for (name, lengths) in &scorer.buckets.0 {
            scorer.check(name, lengths, Tolerance::of(precision)).map_err(|e| e.with_at(at(name)))?;
        }
        Ok(scorer)
    }

    /// Inputs whose dimension of that name has that length, and the others the smallest that they are padded up to.
    fn sample(&self, name: &str, length: usize) -> Result<Vec<Tensor>> {
        let length = |_: usize, dim: &Dim| match dim {
            Dim::Fixed(n) => *n,
            Dim::Free(Some(own)) if own == name => length,
            Dim::Free(Some(own)) => self.buckets.lengths(own).and_then(|l| l.first()).copied().unwrap_or(1),
            Dim::Free(None) => 1,
        };
        // Ones: tokens that are none of padding, and masks that let them through.
        inputs_of(self.signature(), 1, length)
    }

    fn check(&self, name: &str, lengths: &[usize], tolerance: Tolerance) -> Result<()> {
        let call = Call::new();
        // Much padding shows what little of it would hide behind rounding.
        if let (Some(shortest), Some(longest @ 2..)) = (lengths.first(), lengths.last().copied()) {
            let length = (shortest / 2).max(1);
            let inputs = self.sample(name, length)?;
            let all = [Padded { dimension: name, length, longer: longest }];
            let as_it_is = self.inner.score(&inputs, &call)?;
            let padded = self.score_padded(&inputs, &all, &call)?;
            let both = as_it_is.outputs.iter().zip(&padded.outputs).zip(self.signature().outputs());
            for ((one, other), port) in both {
                if !close(one, other, tolerance) {
                    return Err(ScoreError::bad_config(format!(
                        "padding {length} up to {longest} with zeros changes output '{}': expected a model that masks what is padded; leave the dimension out",
                        port.name
                    )));
                }
            }
        }
        lengths.iter().try_for_each(|length| self.inner.score(&self.sample(name, *length)?, &call).map(drop))
    }

    fn score_padded(&self, inputs: &[Tensor], all: &[Padded<'_>], call: &Call) -> Result<Scored> {
        let begin = Instant::now();
        let longer = self.signature().inputs().iter().zip(inputs);
        let longer = longer.map(|(port, tensor)| pad(port, tensor, all)).collect::<Result<Vec<_>>>()?;
        let padding = begin.elapsed();
        let mut scored = self.inner.score(&longer, call)?;
        let begin = Instant::now();
        for (port, value) in self.signature().outputs().iter().zip(&mut scored.outputs) {
            *value = cut(port, value, all)?;
        }
        scored.timing.upload += padding;
        scored.timing.download += begin.elapsed();
        Ok(scored)
    }

    /// The dimensions of a call that are padded; the inputs fit the signature.
    fn padded<'a>(&'a self, inputs: &[Tensor]) -> Vec<Padded<'a>> {
        let mut all: Vec<Padded<'a>> = Vec::new();
        for (port, tensor) in self.signature().inputs().iter().zip(inputs) {
            for (dim, length) in port.dims().unwrap_or_default().iter().zip(tensor.shape()) {
                let Dim::Free(Some(dimension)) = dim else { continue };
                let Some(longer) = self.buckets.padded(dimension, *length) else { continue };
                if all.iter().all(|known| known.dimension != dimension) {
                    all.push(Padded { dimension, length: *length, longer });
                }
            }
        }
        all
    }
}

impl Scorer for Bucketed {
    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn limits(&self) -> &Limits {
        self.inner.limits()
    }

    fn placement(&self) -> &Placement {
        self.inner.placement()
    }

    fn devices(&self) -> &[Device] {
        self.inner.devices()
    }

    fn score(&self, inputs: &[Tensor], call: &Call) -> Result<Scored> {
        self.signature().check(inputs)?;
        let all = self.padded(inputs);
        if all.is_empty() {
            return self.inner.score(inputs, call);
        }
        self.score_padded(inputs, &all, call)
    }

    fn health(&self) -> Health {
        self.inner.health()
    }
}

fn at(dimension: &str) -> String {
    format!("buckets of '{dimension}'")
}

fn has(port: &Port, dimension: &str) -> bool {
    axes(port, dimension).next().is_some()
}

fn is_of_input(signature: &Signature, dimension: &str) -> bool {
    signature.inputs().iter().any(|port| has(port, dimension))
}

/// The axes of a port that are the dimension.
fn axes<'a>(port: &'a Port, dimension: &'a str) -> impl Iterator<Item = usize> + 'a {
    let dims = port.dims().unwrap_or_default().iter().enumerate();
    dims.filter(move |(_, dim)| matches!(dim, Dim::Free(Some(own)) if own == dimension)).map(|(axis, _)| axis)
}

/// Refuses a dimension that cannot be padded.
fn check_ports(signature: &Signature, dimension: &str) -> Result<()> {
    let refused = |what: String| Err(ScoreError::bad_config(what).with_at(at(dimension)));
    if !is_of_input(signature, dimension) {
        let mut names = Vec::new();
        for dim in signature.inputs().iter().flat_map(|port| port.dims().unwrap_or_default()) {
            if let Dim::Free(Some(name)) = dim
                && !names.contains(&name.as_str())
            {
                names.push(name.as_str());
            }
        }
        let there = if names.is_empty() { "none that has a name".to_owned() } else { names.join(", ") };
        return refused(format!(
            "no input has it: expected a free dimension of the model, which has {there}"
        ));
    }
    let batch = signature.batch_axis();
    if signature.inputs().iter().any(|port| axes(port, dimension).any(|axis| Some(axis) == batch)) {
        return refused("it is the batch axis, whose rows devices pad by themselves".to_owned());
    }
    for port in signature.inputs() {
        if port.dims().is_none() || (has(port, dimension) && port.dtype() == Some(DType::String)) {
            return refused(format!(
                "input '{}' is text, or of any number of axes, and is not padded",
                port.name
            ));
        }
    }
    for port in signature.outputs() {
        let PortKind::Tensor { dims: Some(dims), .. } = &port.kind else {
            return refused(format!("output '{}' does not say which axes it has", port.name));
        };
        // An axis of its own name may be as long as the dimension, or not.
        let is_known = |dim: &Dim| match dim {
            Dim::Fixed(_) => true,
            Dim::Free(name) => name.as_deref().is_some_and(|name| is_of_input(signature, name)),
        };
        let rest = dims.iter().skip(usize::from(batch.is_some()));
        if let Some(dim) = rest.into_iter().find(|dim| !is_known(dim)) {
            return refused(format!(
                "output '{}' has an axis '{dim}' that no input has: whether it is to be cut is not known",
                port.name
            ));
        }
    }
    Ok(())
}

/// The tensor with zeros behind it.
fn pad(port: &Port, tensor: &Tensor, all: &[Padded<'_>]) -> Result<Tensor> {
    let mut tensor = tensor.clone();
    for Padded { dimension, length, longer } in all {
        for axis in axes(port, dimension) {
            let mut shape = tensor.shape().to_vec();
            if let Some(own) = shape.get_mut(axis) {
                *own = longer - length;
            }
            tensor = Tensor::concat(axis, &[&tensor, &Tensor::zeros(tensor.dtype(), &shape)?])?;
        }
    }
    Ok(tensor)
}

/// The value without what was made of padding.
fn cut(port: &Port, value: &Value, all: &[Padded<'_>]) -> Result<Value> {
    let mut value = value.clone();
    for Padded { dimension, length, .. } in all {
        for axis in axes(port, dimension) {
            value = value.rows(axis, 0..*length)?;
        }
    }
    Ok(value)
}

#[cfg(test)]
mod tests;
