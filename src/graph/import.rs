//! From ONNX's messages to a graph.
//!
//! The model was checked when it was read: names are defined once and before they are used, tensors hold what they
//! say. What is left to refuse here is what cannot be brought into the one form.

use std::collections::{HashMap, HashSet};

use super::attributes::Attributes;
use super::node::{Node, Op};
use super::shapes::Shape;
use super::value::{Value, ValueId};
use super::{Graph, OLDEST_OPSET, OPSET, qonnx, upgrade};
use crate::error::{Result, ScoreError};
use crate::model::Model;
use crate::model::onnx::{GraphProto, NodeProto, TypeProto, type_proto};
use crate::tensor::{DType, Tensor};

/// The graph of a model, types and shapes not yet inferred.
pub(super) fn import(model: &Model) -> Result<Graph> {
    let proto = model.proto();
    let source = proto.graph.as_ref().ok_or_else(|| ScoreError::internal("a model without a graph"))?;
    let opset = model.opset("").unwrap_or(OPSET);
    if opset < OLDEST_OPSET {
        return Err(ScoreError::unsupported(format!(
            "the model is of ONNX operator set {opset}, expected {OLDEST_OPSET} or newer: convert it \
             (onnx.version_converter) or export it anew"
        )));
    }
    let mut opsets = vec![(String::new(), opset.max(OPSET))];
    opsets.extend(model.opsets().iter().filter(|(domain, _)| !domain.is_empty()).cloned());
    let mut import = Import {
        graph: Graph {
            values: Vec::new(),
            nodes: Vec::with_capacity(source.node.len()),
            inputs: Vec::new(),
            outputs: Vec::new(),
            opsets,
            functions: proto.functions.clone(),
            model_nodes: source.node.len(),
        },
        names: HashMap::new(),
        model,
        opset,
    };
    import.read(source)?;
    Ok(import.graph)
}

struct Import<'a> {
    graph: Graph,
    names: HashMap<&'a str, ValueId>,
    model: &'a Model,
    opset: i64,
}

impl<'a> Import<'a> {
    fn read(&mut self, source: &'a GraphProto) -> Result<()> {
        if let Some(sparse) = source.sparse_initializer.first() {
            let name = sparse.values.as_ref().map_or("", |v| v.name());
            let what = format!("initialiser '{name}' is sparse: write it as a dense one");
            return Err(ScoreError::unsupported(what));
        }
        for tensor in &source.initializer {
            let value = Value::constant(tensor.name(), self.model.tensor(tensor)?);
            self.define(tensor.name(), value);
        }
        // An input that is an initialiser too is a weight: callers do not give it.
        for input in &source.input {
            if self.names.contains_key(input.name()) {
                continue;
            }
            let id = self.define(input.name(), declared(input.name(), input.r#type.as_ref()));
            self.graph.inputs.push(id);
        }
        // What the model says of values in between helps where an operator is not known here.
        let said: HashMap<&str, &TypeProto> = source
            .value_info
            .iter()
            .chain(&source.output)
            .filter_map(|info| Some((info.name(), info.r#type.as_ref()?)))
            .collect();
        for (index, node) in source.node.iter().enumerate() {
            if !self.constant(node)? {
                self.node(index, node, &said)?;
            }
        }
        for output in &source.output {
            let id = self.look_up(output.name())?;
            self.graph.outputs.push(id);
        }
        Ok(())
    }

    fn define(&mut self, name: &'a str, value: Value) -> ValueId {
        let id = self.graph.add(value);
        self.names.insert(name, id);
        id
    }

    fn look_up(&self, name: &str) -> Result<ValueId> {
        let unknown = || ScoreError::internal(format!("'{name}' is read and nowhere defined"));
        self.names.get(name).copied().ok_or_else(unknown)
    }

    /// Takes a `Constant` as a constant, if it is one that a tensor can hold.
    fn constant(&mut self, node: &'a NodeProto) -> Result<bool> {
        if node.op_type() != "Constant" || !is_onnx(node.domain()) {
            return Ok(false);
        }
        let [output] = node.output.as_slice() else { return Ok(false) };
        let Some(attribute) = node.attribute.first() else { return Ok(false) };
        let tensor = match attribute.name() {
            "value" => attribute.t.as_ref().map(|t| self.model.tensor(t)),
            "value_float" => attribute.f.map(|f| Tensor::from_slice(&[], &[f])),
            "value_floats" => Some(Tensor::from_slice(&[attribute.floats.len()], &attribute.floats)),
            "value_int" => attribute.i.map(|i| Tensor::from_slice(&[], &[i])),
            "value_ints" => Some(Tensor::from_slice(&[attribute.ints.len()], &attribute.ints)),
            _ => None,
        };
        let Some(tensor) = tensor else { return Ok(false) };
        let tensor = tensor.map_err(|e| e.with_at(format!("Constant that makes '{output}'")))?;
        self.define(output, Value::constant(output, tensor));
        Ok(true)
    }

    fn node(&mut self, index: usize, node: &'a NodeProto, said: &HashMap<&str, &TypeProto>) -> Result<()> {
        let id = |name: &String| match name.as_str() {
            "" => Ok(None),
            name => self.look_up(name).map(Some),
        };
        let inputs = node.input.iter().map(id).collect::<Result<Vec<_>>>()?;
        let captures =
            captures(node).into_iter().map(|name| self.look_up(name)).collect::<Result<Vec<_>>>()?;
        let outputs = node.output.iter().map(|name| match name.as_str() {
            "" => None,
            name => Some(self.define(name, declared(name, said.get(name).copied()))),
        });
        let outputs = outputs.collect();
        let domain = if is_onnx(node.domain()) { "" } else { node.domain() };
        let op = Op {
            domain: domain.to_owned(),
            name: node.op_type().to_owned(),
            attributes: Attributes::of(&node.attribute),
        };
        let node = Node { name: node.name().to_owned(), op, inputs, outputs, captures, origins: vec![index] };
        if qonnx::is_quant(&node.op.domain, &node.op.name) {
            let place = self.graph.place(&node);
            return qonnx::push(&mut self.graph, &node).map_err(|e| e.with_at(place));
        }
        if self.opset == OPSET || !node.op.domain.is_empty() {
            self.graph.nodes.push(node);
            return Ok(());
        }
        let place = self.graph.place(&node);
        upgrade::push(&mut self.graph, node, self.opset).map_err(|e| e.with_at(place))
    }
}

fn is_onnx(domain: &str) -> bool {
    matches!(domain, "" | "ai.onnx")
}

/// A value as the model declares it.
fn declared(name: &str, kind: Option<&TypeProto>) -> Value {
    let mut value = Value::named(name);
    if let Some(type_proto::Value::TensorType(tensor)) = kind.and_then(|k| k.value.as_ref()) {
        value.dtype = DType::from_onnx(tensor.elem_type());
        value.shape = Shape::declared(name, tensor.shape.as_ref());
    }
    value
}

/// The names that the graphs in a node's attributes read from around them, in order, each once.
fn captures(node: &NodeProto) -> Vec<&str> {
    let mut found = Vec::new();
    let mut seen = HashSet::new();
    for graph in node.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs)) {
        free_names(graph, &mut Vec::new(), &mut |name| {
            if seen.insert(name) {
                found.push(name);
            }
        });
    }
    found
}

/// Calls `found` with every name that a graph reads and neither it nor one of `around` defines.
fn free_names<'a>(
    graph: &'a GraphProto,
    around: &mut Vec<HashSet<&'a str>>,
    found: &mut impl FnMut(&'a str),
) {
    let inputs = graph.input.iter().map(|i| i.name());
    let weights = graph.initializer.iter().map(|t| t.name());
    let made = graph.node.iter().flat_map(|n| n.output.iter().map(String::as_str));
    around.push(inputs.chain(weights).chain(made).collect());
    let outputs = graph.output.iter().map(|o| o.name());
    let read = graph.node.iter().flat_map(|n| n.input.iter().map(String::as_str));
    for name in read.chain(outputs).filter(|name| !name.is_empty()) {
        if !around.iter().any(|names| names.contains(name)) {
            found(name);
        }
    }
    for inner in graph.node.iter().flat_map(|n| &n.attribute).flat_map(|a| a.g.iter().chain(&a.graphs)) {
        free_names(inner, around, found);
    }
    around.pop();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::testing::{graph_of, model_of};
    use crate::model::testing::{branches, read};

    #[test]
    fn a_model_becomes_values_and_nodes() {
        let graph = graph_of(
            "x: f32[N, 3]
             w = f32[3, 2] 1 2 3 4 5 6
             h = MatMul(x, w)
             y = Relu(h)
             -> y",
        );
        assert_eq!(graph.inputs().len(), 1);
        assert_eq!(graph.nodes().iter().map(|n| n.op.to_string()).collect::<Vec<_>>(), ["MatMul", "Relu"]);
        let weight = graph.find("w").unwrap();
        assert_eq!(graph.constant(weight).unwrap().as_slice::<f32>().unwrap()[5], 6.0);
        assert_eq!(graph.value(graph.outputs()[0]).name, "y");
        assert_eq!(graph.nodes()[1].origins, [1]);
    }

    #[test]
    fn what_branches_read_from_outside_is_known() {
        let graph = import(&read(&branches()).unwrap()).unwrap();
        let choose = graph.nodes().iter().find(|n| n.is("If")).unwrap();
        let captured = choose.captures.iter().map(|id| graph.value(*id).name.as_str()).collect::<Vec<_>>();
        assert!(!captured.is_empty(), "the branches read x");
        assert!(graph.inputs().iter().any(|i| captured.contains(&graph.value(*i).name.as_str())));
    }

    #[test]
    fn old_operator_sets_are_refused_with_what_to_do() {
        let mut proto = model_of("x: f32[N]\ny = Relu(x)\n-> y");
        proto.opset_import[0].version = Some(5);
        let error = import(&read(&proto).unwrap()).unwrap_err().to_string();
        assert!(error.contains("operator set 5, expected 6 or newer: convert"), "{error}");
    }
}
