//! Nodes and their attributes: everything used is defined before, everything made is made once.

use std::collections::HashSet;

use super::{Checker, Opsets, Scope, bad, domain, operator};
use crate::error::{Result, ScoreError};
use crate::model::onnx::attribute_proto::AttributeType;
use crate::model::onnx::{AttributeProto, NodeProto};
use crate::model::shown::shown;
use crate::model::tensors;

impl<'a> Checker<'a, '_> {
    pub(super) fn nodes(
        &mut self,
        nodes: &'a [NodeProto],
        scope: &mut Scope<'a, '_>,
        opsets: &Opsets<'_>,
    ) -> Result<()> {
        let mut names = HashSet::new();
        for (index, node) in nodes.iter().enumerate() {
            let place = |e: ScoreError| e.with_at(place_of(node, index));
            self.node(node, nodes.get(index..).unwrap_or_default(), scope, opsets).map_err(place)?;
            if !node.name().is_empty() && !names.insert(node.name()) {
                return bad("two nodes have this name").map_err(place);
            }
            for output in node.output.iter().filter(|name| !name.is_empty()) {
                if !scope.names.insert(output) {
                    let what = format!("it makes '{}', which is defined already", shown(output));
                    return bad(what).map_err(place);
                }
            }
        }
        Ok(())
    }

    /// Checks one node; `from_here` are it and those after it.
    fn node(
        &mut self,
        node: &'a NodeProto,
        from_here: &[NodeProto],
        scope: &Scope<'a, '_>,
        opsets: &Opsets<'_>,
    ) -> Result<()> {
        if node.op_type().is_empty() {
            return bad("it has no operator");
        }
        let domain = domain(node.domain());
        if !opsets.contains_key(domain) {
            let of = if domain.is_empty() { "ai.onnx" } else { domain };
            let own = if self.own.contains(domain) { " (which holds functions of this model)" } else { "" };
            return bad(format!("the operator set '{}'{own} is not imported", shown(of)));
        }
        // Its attributes name files, which a runtime would open.
        if node.op_type() == "EPContext" {
            let what = "it holds what another runtime compiled for one device: export the model without it";
            return Err(ScoreError::unsupported(what));
        }
        if node.output.iter().all(String::is_empty) && node.input.is_empty() {
            return bad("it has neither inputs nor outputs");
        }
        for input in node.input.iter().filter(|name| !name.is_empty()) {
            if !scope.knows(input) {
                let later = from_here.iter().any(|node| node.output.contains(input));
                let why = match later {
                    true => "which is made only here or later: nodes are out of order, or form a cycle",
                    false => "which nothing defines",
                };
                return bad(format!("it uses '{}', {why}", shown(input)));
            }
        }
        let mut names = HashSet::new();
        for attribute in &node.attribute {
            let place = |e: ScoreError| e.with_at(format!("attribute '{}'", shown(attribute.name())));
            if !names.insert(attribute.name()) {
                return bad("two attributes have this name").map_err(place);
            }
            self.attribute(attribute, Some((scope, opsets))).map_err(place)?;
        }
        *self.findings.operators.entry(operator(node)).or_default() += 1;
        Ok(())
    }

    /// Checks an attribute; without a scope it is the default of a function's parameter.
    pub(super) fn attribute(
        &mut self,
        attribute: &'a AttributeProto,
        within: Option<(&Scope<'a, '_>, &Opsets<'_>)>,
    ) -> Result<()> {
        if attribute.name().is_empty() {
            return bad("it has no name");
        }
        let held = held_types(attribute);
        if held.len() > 1 {
            return bad("it holds values of several types");
        }
        let kind = match attribute.r#type.map(AttributeType::try_from) {
            None | Some(Ok(AttributeType::Undefined)) => None,
            Some(Ok(kind)) => Some(kind),
            Some(Err(other)) => return bad(format!("attribute type {} is none of ONNX's", other.0)),
        };
        if !attribute.ref_attr_name().is_empty() {
            let known = self.parameters.as_ref().map(|p| p.contains(attribute.ref_attr_name()));
            let what = match known {
                None => "it refers to a function's attribute, and stands in no function",
                Some(_) if !held.is_empty() => "it refers to the function's attribute and has a value too",
                Some(false) => "it refers to an attribute that the function does not have",
                Some(true) => return Ok(()),
            };
            return bad(what);
        }
        let kind = match (kind, held.first()) {
            (Some(kind), Some(held)) if kind != *held => {
                let what = format!("it says that it is {}, and holds", kind.as_str_name());
                return bad(format!("{what} {}", held.as_str_name()));
            }
            (None, None) => return bad("it has neither a type nor a value"),
            // Before IR version 2, attributes had no type.
            (None, Some(held)) => *held,
            (Some(kind), _) => kind,
        };
        use AttributeType::{Graph, SparseTensor, Tensor, TypeProto};
        if held.is_empty() && matches!(kind, Graph | SparseTensor | Tensor | TypeProto) {
            return bad(format!("it says that it is {}, and holds nothing", kind.as_str_name()));
        }
        for tensor in attribute.t.iter().chain(&attribute.tensors) {
            if tensors::check(tensor, self.limits)?.external.is_some() {
                let what =
                    "external data is taken for initialisers only: save the model with this tensor inside";
                return Err(ScoreError::unsupported(what));
            }
        }
        for sparse in attribute.sparse_tensor.iter().chain(&attribute.sparse_tensors) {
            tensors::check_sparse(sparse, self.limits, &mut self.findings.dense_bytes)?;
        }
        for kind in attribute.tp.iter().chain(&attribute.type_protos) {
            self.kind(kind)?;
        }
        for graph in attribute.g.iter().chain(&attribute.graphs) {
            let Some((scope, opsets)) = within else {
                return Err(ScoreError::unsupported("a graph as the default of a function's attribute"));
            };
            self.graph(graph, Some(scope), opsets)?;
        }
        Ok(())
    }
}

/// Which types of value an attribute holds: one, in a sound model.
fn held_types(a: &AttributeProto) -> Vec<AttributeType> {
    use AttributeType as T;
    let held = [
        (a.f.is_some(), T::Float),
        (a.i.is_some(), T::Int),
        (a.s.is_some(), T::String),
        (a.t.is_some(), T::Tensor),
        (a.g.is_some(), T::Graph),
        (a.sparse_tensor.is_some(), T::SparseTensor),
        (a.tp.is_some(), T::TypeProto),
        (!a.floats.is_empty(), T::Floats),
        (!a.ints.is_empty(), T::Ints),
        (!a.strings.is_empty(), T::Strings),
        (!a.tensors.is_empty(), T::Tensors),
        (!a.graphs.is_empty(), T::Graphs),
        (!a.sparse_tensors.is_empty(), T::SparseTensors),
        (!a.type_protos.is_empty(), T::TypeProtos),
    ];
    held.into_iter().filter(|(held, _)| *held).map(|(_, kind)| kind).collect()
}

/// How messages name a node.
fn place_of(node: &NodeProto, index: usize) -> String {
    match node.name() {
        "" => format!("node {index} ({})", shown(&operator(node))),
        name => format!("node '{}' ({})", shown(name), shown(&operator(node))),
    }
}
