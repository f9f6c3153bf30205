//! Computing what is constant, once, instead of at every score.
//!
//! Two kinds of constants hide in models. What follows from shapes ([`shapes`](super::shapes) knows its elements) is
//! written down. What follows from constants is computed by a runtime that has all of ONNX's operators: the nodes
//! are written as a model without inputs and run once. So there are no folding kernels here to keep right, and a
//! weight is folded by the same code that would have computed it.

use std::collections::HashSet;

use super::Graph;
use super::emit;
use super::node::Node;
use super::value::{Value, ValueId};
use crate::error::Result;
use crate::model::{Model, ReadLimits};
use crate::scoring::{Backend, Call, CompileOptions};
use crate::tensor::{DType, Tensor};

/// What is not computed ahead: it would make a model larger than it is.
const MAX_GROWN_BYTES: usize = 1 << 24;

/// Replaces values that are constant by constants and removes the nodes that made them, with a runtime that computes
/// what shapes do not tell. Returns how many nodes went.
///
/// A weight stays quantised: `DequantizeLinear` of a constant is kept, since backends compute on what it reads.
///
/// # Errors
/// What the runtime says of the constant part; `Internal` where it answers otherwise than asked.
pub fn fold(graph: &mut Graph, runtime: Option<&dyn Backend>) -> Result<usize> {
    let before = graph.nodes.len();
    write_down_shapes(graph)?;
    if let Some(runtime) = runtime {
        compute(graph, runtime)?;
    }
    graph.tidy()?;
    Ok(before.saturating_sub(graph.nodes.len()))
}

/// Elements that shape inference knows become constants.
fn write_down_shapes(graph: &mut Graph) -> Result<()> {
    let outputs = graph.outputs.iter().copied().collect::<HashSet<_>>();
    let made = graph.nodes.iter().flat_map(Node::makes).collect::<Vec<_>>();
    for id in made.into_iter().filter(|id| !outputs.contains(id)) {
        let value = graph.value(id);
        let Some(integers) = value.shape.integers() else { continue };
        // Inference computes in 32 bits and holds larger numbers at its limits.
        let at_limit = |v: &i64| !(i64::from(i32::MIN) + 1..i64::from(i32::MAX)).contains(v);
        if integers.iter().any(at_limit) {
            continue;
        }
        let shape = if value.shape.rank() == Some(0) { vec![] } else { vec![integers.len()] };
        let tensor = match value.dtype {
            Some(DType::I64) => Tensor::from_slice(&shape, &integers)?,
            Some(DType::I32) => {
                Tensor::from_slice(&shape, &integers.iter().map(|v| *v as i32).collect::<Vec<_>>())?
            }
            _ => continue,
        };
        make_constant(graph, id, tensor);
    }
    Ok(())
}

/// The value is a constant from now on; the node that made it makes something that nobody reads.
fn make_constant(graph: &mut Graph, id: ValueId, tensor: Tensor) {
    graph.drop_maker(id);
    if let Some(value) = graph.value_mut(id) {
        *value = Value::constant(std::mem::take(&mut value.name), tensor);
    }
}

/// Runs every node that reads constants alone.
fn compute(graph: &mut Graph, runtime: &dyn Backend) -> Result<()> {
    let uses = graph.uses();
    let mut known: HashSet<ValueId> = HashSet::new();
    let mut places = Vec::new();
    for (place, node) in graph.nodes.iter().enumerate() {
        let is_known = |id: ValueId| known.contains(&id) || graph.constant(id).is_some();
        if foldable(graph, node) && node.reads().all(is_known) {
            known.extend(node.makes());
            places.push(place);
        }
    }
    // What others read of it is what has to be computed.
    let inside = places.iter().copied().collect::<HashSet<_>>();
    let wanted = |id: &ValueId| !uses.is_output(*id) && uses.readers(*id).iter().any(|r| !inside.contains(r));
    let nodes = places.iter().filter_map(|p| graph.nodes.get(*p)).collect::<Vec<_>>();
    let outputs = nodes.iter().flat_map(|n| n.makes()).filter(wanted).collect::<Vec<_>>();
    if outputs.is_empty() {
        return Ok(());
    }
    let model = graph.part_to_model(&nodes, &[], &outputs)?;
    for (id, tensor) in outputs.iter().zip(run(runtime, &model, outputs.len())?) {
        make_constant(graph, *id, tensor);
    }
    Ok(())
}

/// Whether a node may be computed ahead of its time.
fn foldable(graph: &Graph, node: &Node) -> bool {
    // A dequantised weight would be a float weight; a random number would be one for ever.
    const KEPT: [&str; 2] = ["DequantizeLinear", "Identity"];
    let random =
        node.op.name.starts_with("Random") || matches!(node.op.name.as_str(), "Bernoulli" | "Multinomial");
    // What made a shape that is written down makes nothing any more, and goes with the next tidying.
    if node.makes().next().is_none() {
        return false;
    }
    if random || KEPT.iter().any(|name| node.is(name)) || !node.captures.is_empty() {
        return false;
    }
    let bytes = |id: ValueId| {
        let value = graph.value(id);
        value.shape.element_count()?.checked_mul(value.dtype?.size_bytes()?)
    };
    let read = node.reads().filter_map(bytes).max().unwrap_or(0);
    node.makes().all(|id| bytes(id).is_some_and(|n| n <= read.max(MAX_GROWN_BYTES)))
}

/// What a model without inputs answers.
fn run(runtime: &dyn Backend, model: &crate::model::onnx::ModelProto, count: usize) -> Result<Vec<Tensor>> {
    let model = Model::from_bytes(emit::encode(model)?, &ReadLimits::default())?;
    let mut devices = runtime.probe()?;
    devices.truncate(1);
    let options = CompileOptions { lanes: Some(1), skip_tuning: true, ..CompileOptions::default() };
    let scored = runtime.compile(&model, &devices, &options)?.score(&[], &Call::new())?;
    (0..count).map(|i| scored.tensor(i).cloned()).collect()
}

#[cfg(test)]
mod tests {
    use crate::graph::testing::graph_of;

    #[test]
    fn what_follows_from_shapes_is_written_down() {
        let text = "x: f32[N, T, 8]
             zero = i64[] 0
             first = i64[1] 0
             rest = i64[2] -1 4
             s = Shape(x)
             n = Gather(s, zero)
             m = Unsqueeze(n, first)
             to = Concat<axis=0>(m, rest)
             y = Reshape(x, to)
             -> y";
        let mut graph = graph_of(text);
        // The batch is free: nothing is constant yet.
        assert_eq!(super::fold(&mut graph, None).unwrap(), 0);
        let mut bound = graph.bind(&[&[2, 5, 8]]).unwrap();
        assert_eq!(super::fold(&mut bound, None).unwrap(), 4);
        assert_eq!(bound.to_string(), "x: f32[2, 5, 8]\ny: f32[2, 10, 4] = Reshape(x, [2, -1, 4])\n-> y\n");
    }

    #[test]
    fn what_callers_get_stays_a_nodes() {
        let mut graph = graph_of("x: f32[2, 3]\ny = Shape(x)\n-> y: i64[2]");
        assert_eq!(super::fold(&mut graph, None).unwrap(), 0);
        assert_eq!(graph.nodes().len(), 1);
    }
}
