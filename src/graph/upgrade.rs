//! Bringing a node of an older operator set into the form of [`OPSET`](super::OPSET).
//!
//! One row an operator whose form has changed since set 6; an operator that is not in the table has kept its form, or
//! was only given new types and new optional attributes. The changes are those of ONNX's own change log
//! (`docs/Changelog.md` of the `onnx` project).

use super::Graph;
use super::attributes::Attributes;
use super::node::{Node, Op};
use super::shapes::Shape;
use super::value::ValueId;
use crate::error::{Result, ScoreError};
use crate::tensor::{DType, Tensor};

type Upgrade = fn(&mut Graph, Node) -> Result<()>;

/// An operator, the set since which it has today's form, and how it gets there.
const TABLE: &[(&str, i64, Upgrade)] = &[
    ("Add", 7, |g, n| broadcasting(g, n)),
    ("And", 7, |g, n| broadcasting(g, n)),
    ("BatchNormalization", 9, |g, n| batch_norm(g, n)),
    ("Clip", 11, |g, n| floats_to_inputs(g, n, &["min", "max"])),
    ("Div", 7, |g, n| broadcasting(g, n)),
    ("Dropout", 12, |g, n| dropout(g, n)),
    ("Equal", 7, |g, n| broadcasting(g, n)),
    ("Gemm", 7, |g, n| broadcasting(g, n)),
    ("Greater", 7, |g, n| broadcasting(g, n)),
    ("GroupNormalization", 21, |_, n| {
        refuse(&n, "its scale and bias were one a group: export the model anew")
    }),
    ("Less", 7, |g, n| broadcasting(g, n)),
    ("LogSoftmax", 13, |g, n| softmax(g, n)),
    ("Mul", 7, |g, n| broadcasting(g, n)),
    ("Or", 7, |g, n| broadcasting(g, n)),
    ("PRelu", 7, |g, n| slope(g, n)),
    ("Pad", 11, |g, n| pad(g, n)),
    ("Pow", 7, |g, n| broadcasting(g, n)),
    ("ReduceL1", 18, |g, n| ints_to_input(g, n, "axes", 1)),
    ("ReduceL2", 18, |g, n| ints_to_input(g, n, "axes", 1)),
    ("ReduceLogSum", 18, |g, n| ints_to_input(g, n, "axes", 1)),
    ("ReduceLogSumExp", 18, |g, n| ints_to_input(g, n, "axes", 1)),
    ("ReduceMax", 18, |g, n| ints_to_input(g, n, "axes", 1)),
    ("ReduceMean", 18, |g, n| ints_to_input(g, n, "axes", 1)),
    ("ReduceMin", 18, |g, n| ints_to_input(g, n, "axes", 1)),
    ("ReduceProd", 18, |g, n| ints_to_input(g, n, "axes", 1)),
    ("ReduceSum", 13, |g, n| ints_to_input(g, n, "axes", 1)),
    ("ReduceSumSquare", 18, |g, n| ints_to_input(g, n, "axes", 1)),
    ("Resize", 11, |g, n| resize(g, n)),
    ("Scatter", 11, |g, n| scatter(g, n)),
    ("Slice", 10, |g, n| slice(g, n)),
    ("Softmax", 13, |g, n| softmax(g, n)),
    ("Split", 18, |g, n| split(g, n)),
    ("Squeeze", 13, |g, n| ints_to_input(g, n, "axes", 1)),
    ("Sub", 7, |g, n| broadcasting(g, n)),
    ("TopK", 10, |g, n| top_k(g, n)),
    ("Unsqueeze", 13, |g, n| ints_to_input(g, n, "axes", 1)),
    ("Upsample", 10, |g, n| resize(g, n)),
    ("Xor", 7, |g, n| broadcasting(g, n)),
];

/// Adds a node of that operator set in today's form.
///
/// # Errors
/// `Unsupported` or `BadModel` where it has no such form.
pub(super) fn push(graph: &mut Graph, node: Node, opset: i64) -> Result<()> {
    match TABLE.iter().find(|(name, since, _)| node.is(name) && opset < *since) {
        Some((_, _, upgrade)) => upgrade(graph, node),
        None => {
            graph.nodes.push(node);
            Ok(())
        }
    }
}

fn keep(graph: &mut Graph, node: Node) -> Result<()> {
    graph.nodes.push(node);
    Ok(())
}

fn refuse(node: &Node, what: &str) -> Result<()> {
    Err(ScoreError::unsupported(format!("{} of this operator set is not supported: {what}", node.op)))
}

/// Puts a constant where an optional input is.
fn set_input(graph: &mut Graph, node: &mut Node, at: usize, name: &str, tensor: Tensor) {
    let id = constant(graph, node, name, tensor);
    if node.inputs.len() <= at {
        node.inputs.resize(at + 1, None);
    }
    if let Some(input) = node.inputs.get_mut(at) {
        *input = Some(id);
    }
}

/// A constant named after what the node makes.
fn constant(graph: &mut Graph, node: &Node, name: &str, tensor: Tensor) -> ValueId {
    let of = node.first_output().map_or_else(String::new, |o| graph.value(o).name.clone());
    graph.add_constant(&format!("{of}/{name}"), tensor)
}

fn ints(values: &[i64]) -> Result<Tensor> {
    Tensor::from_slice(&[values.len()], values)
}

/// An attribute of integers becomes an input.
fn ints_to_input(graph: &mut Graph, mut node: Node, name: &str, at: usize) -> Result<()> {
    if let Some(attribute) = node.op.attributes.take(name)
        && node.input(at).is_none()
    {
        set_input(graph, &mut node, at, name, ints(&attribute.ints)?);
    }
    keep(graph, node)
}

/// Attributes of floats become inputs, behind the first.
fn floats_to_inputs(graph: &mut Graph, mut node: Node, names: &[&str]) -> Result<()> {
    for (i, name) in names.iter().enumerate() {
        if let Some(value) = node.op.attributes.take(name).and_then(|a| a.f) {
            set_input(graph, &mut node, i + 1, name, Tensor::from_slice(&[], &[value])?);
        }
    }
    keep(graph, node)
}

/// Until set 7 the second tensor was repeated only where that was said, its axes matched from a named one on. `None` was the last ones, as today.
fn broadcasting(graph: &mut Graph, mut node: Node) -> Result<()> {
    node.op.attributes.take("broadcast");
    match node.op.attributes.take("axis").and_then(|a| a.i) {
        Some(axis) => align(graph, node, axis),
        None => keep(graph, node),
    }
}

/// One slope a channel, which is the second axis.
fn slope(graph: &mut Graph, node: Node) -> Result<()> {
    let is_one = node.input(1).is_some_and(|id| graph.value(id).shape.element_count() == Some(1));
    if is_one { keep(graph, node) } else { align(graph, node, 1) }
}

/// Gives the second tensor axes of one element behind its own, so that its first one stands at that axis.
fn align(graph: &mut Graph, mut node: Node, axis: i64) -> Result<()> {
    let rank = |at: usize| node.input(at).and_then(|id| graph.value(id).shape.rank()).map(|r| r as i64);
    let (Some(of), Some(own), Some(second)) = (rank(0), rank(1), node.input(1)) else {
        return refuse(&node, "it matches axes of tensors whose shapes are not declared");
    };
    let missing = of - if axis < 0 { axis + of } else { axis } - own;
    if missing > 0 {
        let axes = (own..own + missing).collect::<Vec<_>>();
        let axes = constant(graph, &node, "axes", ints(&axes)?);
        let (name, dtype) = (graph.value(second).name.clone(), graph.value(second).dtype);
        let aligned = graph.add_value(&format!("{name}/aligned"), dtype, Shape::UNKNOWN);
        let unsqueeze = Op::onnx("Unsqueeze", Attributes::new());
        graph.push_node(unsqueeze, &[second, axes], aligned, &node.origins);
        if let Some(input) = node.inputs.get_mut(1) {
            *input = Some(aligned);
        }
    }
    keep(graph, node)
}

fn batch_norm(graph: &mut Graph, mut node: Node) -> Result<()> {
    // Before set 7 it trained unless it was told that it is tested.
    node.op.attributes.take("is_test");
    if node.op.attributes.take("spatial").is_some_and(|a| a.i == Some(0)) {
        return refuse(&node, "spatial=0 (statistics for every pixel)");
    }
    keep(graph, node)
}

/// At inference it passes its input on; the ratio says nothing.
fn dropout(graph: &mut Graph, mut node: Node) -> Result<()> {
    node.op.attributes.take("ratio");
    node.op.attributes.take("is_test");
    keep(graph, node)
}

fn pad(graph: &mut Graph, mut node: Node) -> Result<()> {
    let Some(pads) = node.op.attributes.take("pads") else {
        return Err(ScoreError::bad_model("it has no pads"));
    };
    set_input(graph, &mut node, 1, "pads", ints(&pads.ints)?);
    if let Some(value) = node.op.attributes.take("value").and_then(|a| a.f).filter(|v| *v != 0.0) {
        set_input(graph, &mut node, 2, "value", Tensor::from_slice(&[], &[value])?);
    }
    keep(graph, node)
}

/// `Upsample` and the first `Resize` took input and scales, and rounded down from unshifted coordinates.
fn resize(graph: &mut Graph, mut node: Node) -> Result<()> {
    let scales = match (node.input(1), node.op.attributes.take("scales")) {
        (Some(scales), _) => scales,
        (None, Some(a)) => {
            let tensor = Tensor::from_slice(&[a.floats.len()], &a.floats)?;
            constant(graph, &node, "scales", tensor)
        }
        (None, None) => return Err(ScoreError::bad_model("it has no scales")),
    };
    let mode = match node.op.attributes.text("mode") {
        Some("linear" | "bilinear") => "linear",
        _ => "nearest",
    };
    let attributes = Attributes::new()
        .with_text("mode", mode)
        .with_text("coordinate_transformation_mode", "asymmetric")
        .with_text("nearest_mode", "floor");
    node.op = Op::onnx("Resize", attributes);
    node.inputs = vec![node.input(0), None, Some(scales)];
    keep(graph, node)
}

fn scatter(graph: &mut Graph, mut node: Node) -> Result<()> {
    node.op.name = "ScatterElements".to_owned();
    keep(graph, node)
}

fn slice(graph: &mut Graph, mut node: Node) -> Result<()> {
    let (Some(starts), Some(ends)) = (node.op.attributes.take("starts"), node.op.attributes.take("ends"))
    else {
        return Err(ScoreError::bad_model("it has no starts or no ends"));
    };
    set_input(graph, &mut node, 1, "starts", ints(&starts.ints)?);
    set_input(graph, &mut node, 2, "ends", ints(&ends.ints)?);
    if let Some(axes) = node.op.attributes.take("axes") {
        set_input(graph, &mut node, 3, "axes", ints(&axes.ints)?);
    }
    keep(graph, node)
}

/// Before set 13 the axes from `axis` on were one: flattened, normalised, and given their shape again. Where `axis` is the
/// last one that changes nothing.
fn softmax(graph: &mut Graph, mut node: Node) -> Result<()> {
    let (Some(input), Some(output)) = (node.input(0), node.output(0)) else {
        return Err(ScoreError::bad_model("it has no input or no output"));
    };
    let axis = node.op.attributes.int("axis").unwrap_or(1);
    let rank = graph.value(input).shape.rank().and_then(|r| i64::try_from(r).ok());
    if axis == -1 || rank.is_some_and(|r| axis == r - 1) {
        node.op.attributes = Attributes::new().with_int("axis", -1);
        return keep(graph, node);
    }
    let (name, dtype) = (graph.value(output).name.clone(), graph.value(output).dtype);
    let shape = graph.add_value(&format!("{name}/shape"), Some(DType::I64), Shape::UNKNOWN);
    let flat = graph.add_value(&format!("{name}/flat"), dtype, Shape::UNKNOWN);
    let soft = graph.add_value(&format!("{name}/soft"), dtype, Shape::UNKNOWN);
    let onnx = |name: &str| Op::onnx(name, Attributes::new());
    let flatten = Op::onnx("Flatten", Attributes::new().with_int("axis", axis));
    let normalise = Op::onnx(&node.op.name, Attributes::new().with_int("axis", -1));
    graph.push_node(onnx("Shape"), &[input], shape, &node.origins);
    graph.push_node(flatten, &[input], flat, &node.origins);
    graph.push_node(normalise, &[flat], soft, &node.origins);
    graph.push_node(onnx("Reshape"), &[soft, shape], output, &node.origins);
    Ok(())
}

/// Lengths become an input (13); without lengths the number of parts is said (18).
fn split(graph: &mut Graph, mut node: Node) -> Result<()> {
    if let Some(lengths) = node.op.attributes.take("split")
        && node.input(1).is_none()
    {
        set_input(graph, &mut node, 1, "split", ints(&lengths.ints)?);
    }
    if node.input(1).is_none() {
        let parts = i64::try_from(node.outputs.len()).unwrap_or(i64::MAX);
        node.op.attributes = std::mem::take(&mut node.op.attributes).with_int("num_outputs", parts);
    }
    keep(graph, node)
}

fn top_k(graph: &mut Graph, mut node: Node) -> Result<()> {
    let Some(k) = node.op.attributes.take("k").and_then(|a| a.i) else {
        return Err(ScoreError::bad_model("it has no k"));
    };
    set_input(graph, &mut node, 1, "k", ints(&[k])?);
    keep(graph, node)
}

#[cfg(test)]
mod tests {
    use crate::graph::testing::{graph_of_opset, model_of, read};
    use crate::graph::{Graph, OPSET};

    /// The nodes of a graph, without their types.
    fn nodes(graph: &Graph) -> Vec<String> {
        let text = graph.to_string();
        let right = |line: &str| line.split_once(" = ").map(|(_, right)| right.to_owned());
        text.lines().filter_map(right).collect()
    }

    #[test]
    fn every_old_form_has_todays() {
        // Operator set, the node as it was, and as it is.
        let rows = [
            (10, "Clip<min=0.5, max=2.5>(x)", "Clip(x, [0.5], [2.5])"),
            (10, "Clip<max=6.5>(x)", "Clip(x, _, [6.5])"),
            (9, "Dropout<ratio=0.5>(x)", "Dropout(x)"),
            (
                10,
                "Pad<mode=constant, pads=[0, 1, 0, 1], value=1.5>(x)",
                "Pad<mode=constant>(x, [0, 1, 0, 1], [1.5])",
            ),
            (9, "Slice<axes=[1], ends=[3], starts=[1]>(x)", "Slice(x, [1], [3], [1])"),
            (12, "Squeeze<axes=[0]>(x)", "Squeeze(x, [0])"),
            (12, "Unsqueeze<axes=[0, 3]>(x)", "Unsqueeze(x, [0, 3])"),
            (17, "ReduceMean<axes=[1], keepdims=0>(x)", "ReduceMean<keepdims=0>(x, [1])"),
            (12, "ReduceSum<axes=[1]>(x)", "ReduceSum(x, [1])"),
            (12, "Softmax<axis=1>(x)", "Softmax<axis=-1>(x)"),
            (
                9,
                "Upsample<mode=nearest>(x, s)",
                "Resize<mode=nearest, coordinate_transformation_mode=asymmetric, nearest_mode=floor>(x, _, [2.0, 2.0])",
            ),
            (6, "Add<broadcast=1>(x, s)", "Add(x, [2.0, 2.0])"),
            (6, "Mul<axis=1, broadcast=1>(x, s)", "Mul(x, [2.0, 2.0])"),
            // Newer ones pass through.
            (13, "Softmax<axis=0>(x)", "Softmax<axis=0>(x)"),
            (11, "Clip(x, s)", "Clip(x, [2.0, 2.0])"),
        ];
        for (opset, old, new) in rows {
            let graph = graph_of_opset(opset, &format!("x: f32[1, 4]\ns = f32[2] 2\ny = {old}\n-> y"));
            assert_eq!(nodes(&graph), [new], "set {opset}: {old}");
            assert_eq!(graph.opsets()[0].1, OPSET);
        }
    }

    #[test]
    fn a_softmax_over_several_axes_is_flattened() {
        let graph = graph_of_opset(11, "x: f32[N, 3, 5]\ny = Softmax(x)\n-> y");
        assert_eq!(
            nodes(&graph),
            ["Shape(x)", "Flatten<axis=1>(x)", "Softmax<axis=-1>(y/flat)", "Reshape(y/soft, y/shape)"]
        );
        assert_eq!(graph.value(graph.outputs()[0]).shape.to_string(), "[N, 3, 5]");
    }

    #[test]
    fn tensors_that_were_matched_from_an_axis_on_get_the_axes_behind() {
        let text = "x: f32[N, 3, 5]\ns = f32[3] 1 2 3\na = Mul<axis=1, broadcast=1>(x, s)\ny = PRelu(x, s)\nz = Add(a, y)\n-> z";
        let graph = graph_of_opset(6, text);
        let aligned = "Unsqueeze([1.0, 2.0, 3.0], [1])";
        let lines = nodes(&graph);
        assert_eq!(lines[..2], [aligned, "Mul(x, s/aligned)"]);
        assert_eq!(graph.value(graph.outputs()[0]).shape.to_string(), "[N, 3, 5]");
    }

    #[test]
    fn split_says_how_many_parts() {
        let graph = graph_of_opset(12, "x: f32[4]\na, b = Split<split=[1, 3]>(x)\n-> a, b");
        assert_eq!(nodes(&graph), ["Split(x, [1, 3])"]);
        let graph = graph_of_opset(13, "x: f32[4]\na, b = Split(x)\n-> a, b");
        assert_eq!(nodes(&graph), ["Split<num_outputs=2>(x)"]);
    }

    #[test]
    fn what_has_no_form_today_is_refused_by_name() {
        let mut proto =
            model_of("x: f32[1, 4, 2]\ns = f32[2] 1\ny = GroupNormalization<num_groups=2>(x, s, s)\n-> y");
        proto.opset_import[0].version = Some(18);
        let error = Graph::of(&read(&proto)).unwrap_err().to_string();
        assert!(error.contains("GroupNormalization") && error.contains("'y'"), "{error}");
    }
}
