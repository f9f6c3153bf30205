//! What of a model runs on the engine, node by node: whatever can be planned.
//!
//! There is no second list of operators that could drift from what the planner does: a node is on the device when the planner takes it.

use crate::error::Result;
use crate::graph::{Graph, fold, rewrite};
use crate::model::Model;
use crate::scoring::{BackendKind, NodePlacement, Placement, Site};
use crate::signature::Dim;
use crate::tensor::{AlignedBytes, Tensor};

use super::plan::refusals;

/// A model as the engine takes it.
#[derive(Debug)]
pub(super) struct Placed {
    /// Operators on integers, the free dimensions free.
    pub(super) graph: Graph,
    pub(super) placement: Placement,
    /// The smallest inputs: every free dimension one.
    pub(super) sample: Vec<Tensor>,
}

/// The integer graph of a model and where its nodes run.
///
/// # Errors
/// `Unsupported` where the model cannot be brought into the form of today's operator set.
pub(super) fn of(model: &Model) -> Result<Placed> {
    let mut graph = Graph::of(model)?;
    rewrite::simplify(&mut graph)?;
    rewrite::to_integers(&mut graph)?;
    graph.tidy()?;
    rewrite::remove_identities(&mut graph)?;
    graph.tidy()?;
    let sample = sample(model)?;
    let shapes = sample.iter().map(Tensor::shape).collect::<Vec<_>>();
    let mut bound = graph.bind(&shapes)?;
    fold::fold(&mut bound, None)?;
    let refusals = refusals(&bound);
    let site = |index: usize| {
        let about = |(origins, _): &&(Vec<usize>, _)| origins.is_empty() || origins.contains(&index);
        match refusals.iter().find(about) {
            None => Site::Device,
            Some((_, e)) => Site::Nowhere { reason: e.to_string() },
        }
    };
    let node = |(index, node): (usize, &crate::model::Node)| NodePlacement {
        node: node.name.clone(),
        operator: node.operator.clone(),
        site: site(index),
    };
    let nodes = model.nodes().iter().enumerate().map(node).collect();
    Ok(Placed { graph, placement: Placement::new(BackendKind::Fpga, nodes), sample })
}

/// Zeros for every input, as small as it may be.
fn sample(model: &Model) -> Result<Vec<Tensor>> {
    let mut sample = Vec::new();
    for port in model.signature().inputs() {
        let length = |d: &Dim| if let Dim::Fixed(n) = d { *n } else { 1 };
        let shape = port.dims().unwrap_or_default().iter().map(length).collect::<Vec<_>>();
        let dtype = port.dtype().unwrap_or(crate::DType::F32);
        let count = crate::tensor::element_count(&shape)?;
        let bytes = dtype.size_bytes().and_then(|size| count.checked_mul(size));
        let none =
            || crate::ScoreError::unsupported(format!("input '{}' is no tensor of numbers", port.name));
        sample.push(Tensor::new(dtype, &shape, AlignedBytes::zeroed(bytes.ok_or_else(none)?)?)?);
    }
    Ok(sample)
}
