//! Functions that a model brings along: bodies of nodes that runtimes put in the place of each call.
//!
//! A function that calls itself never ends, and twenty functions that each call the next twice are a
//! million nodes: so the calls are followed, without recursion of our own, and what they would expand to
//! is counted before any runtime does it.

use std::collections::{HashMap, HashSet};

use super::{Checker, Scope, bad, domain, opsets};
use crate::error::{Result, ScoreError};
use crate::model::limits::over;
use crate::model::onnx::{FunctionProto, ModelProto, NodeProto};
use crate::model::shown::shown;

/// What tells functions apart: domain, name, overload.
type Id<'a> = (&'a str, &'a str, &'a str);

fn id(function: &FunctionProto) -> Id<'_> {
    (domain(function.domain()), function.name(), function.overload())
}

fn called(node: &NodeProto) -> Id<'_> {
    (domain(node.domain()), node.op_type(), node.overload())
}

/// Checks all functions of a model, and what the calls of them would expand to.
pub(super) fn check<'a>(checker: &mut Checker<'a, '_>, model: &'a ModelProto) -> Result<()> {
    let mut by_id = HashMap::new();
    for (index, function) in model.functions.iter().enumerate() {
        let place = |e: ScoreError| e.with_at(format!("function '{}'", shown(function.name())));
        if function.name().is_empty() {
            return bad(format!("function {index} has no name"));
        }
        if by_id.insert(id(function), index).is_some() {
            return bad("two functions have this name, domain and overload").map_err(place);
        }
        checker.own.insert(domain(function.domain()));
    }
    for function in &model.functions {
        let place = |e: ScoreError| e.with_at(format!("function '{}'", shown(function.name())));
        body(checker, function).map_err(place)?;
    }
    expanded(checker, model, &by_id)
}

/// Checks the body of one function: its names are its own, and nothing around it is seen.
fn body<'a>(checker: &mut Checker<'a, '_>, function: &'a FunctionProto) -> Result<()> {
    let opsets = opsets(&function.opset_import)?;
    let mut parameters = HashSet::new();
    let defaults = function.attribute_proto.iter();
    for name in function.attribute.iter().map(String::as_str).chain(defaults.clone().map(|a| a.name())) {
        if name.is_empty() || !parameters.insert(name) {
            return bad(format!("attribute '{}' stands twice or has no name", shown(name)));
        }
    }
    for attribute in defaults {
        let place = |e: ScoreError| e.with_at(format!("attribute '{}'", shown(attribute.name())));
        checker.attribute(attribute, None).map_err(place)?;
    }
    let mut scope = Scope { names: HashSet::new(), around: None };
    for input in &function.input {
        if input.is_empty() || !scope.names.insert(input) {
            return bad(format!("input '{}' stands twice or has no name", shown(input)));
        }
    }
    for info in &function.value_info {
        let place = |e: ScoreError| e.with_at(format!("value '{}'", shown(info.name())));
        checker.value(info).map_err(place)?;
    }
    checker.parameters = Some(parameters);
    let result = checker.nodes(&function.node, &mut scope, &opsets);
    checker.parameters = None;
    result?;
    match function.output.iter().find(|output| !scope.knows(output)) {
        Some(output) => bad(format!("nothing in it makes its output '{}'", shown(output))),
        None => Ok(()),
    }
}

/// What a list of nodes is once functions are replaced: nodes of its own, and calls.
#[derive(Default)]
struct Body {
    nodes: usize,
    calls: Vec<usize>,
}

impl Body {
    /// Reads off a list of nodes and the graphs in their attributes, which nest only so deep by now.
    fn add(&mut self, nodes: &[NodeProto], by_id: &HashMap<Id<'_>, usize>) {
        for node in nodes {
            match by_id.get(&called(node)) {
                Some(function) => self.calls.push(*function),
                None => self.nodes += 1,
            }
            for graph in node.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs)) {
                self.add(&graph.node, by_id);
            }
        }
    }
}

/// What a function has been found to expand to.
#[derive(Clone, Copy)]
enum Seen {
    Never,
    /// Being followed: whoever meets it again has found a cycle.
    Open,
    Done {
        nodes: usize,
        depth: usize,
    },
}

/// Follows all calls and bounds what they expand to.
fn expanded(checker: &Checker<'_, '_>, model: &ModelProto, by_id: &HashMap<Id<'_>, usize>) -> Result<()> {
    let limits = checker.limits;
    let bodies = model.functions.iter().map(|function| {
        let mut body = Body::default();
        body.add(&function.node, by_id);
        body
    });
    let mut bodies: Vec<Body> = bodies.collect();
    // The main graph, as one function more that nobody calls.
    let main = bodies.len();
    let mut body = Body::default();
    body.add(model.graph.as_ref().map_or(&[], |graph| graph.node.as_slice()), by_id);
    bodies.push(body);

    let mut seen = vec![Seen::Never; bodies.len()];
    // Functions that are being followed, each with how many of its calls are done.
    let mut stack: Vec<(usize, usize)> = Vec::new();
    for start in 0..bodies.len() {
        if matches!(seen.get(start), Some(Seen::Never)) {
            stack.push((start, 0));
        }
        while let Some((function, done)) = stack.pop() {
            let (Some(body), Some(state)) = (bodies.get(function), seen.get_mut(function)) else { break };
            *state = Seen::Open;
            if let Some(call) = body.calls.get(done) {
                stack.push((function, done + 1));
                match seen.get(*call) {
                    Some(Seen::Open) => {
                        let name = model.functions.get(*call).map_or("", |f| f.name());
                        let what = "it calls itself, directly or through others";
                        return bad(what).map_err(|e| e.with_at(format!("function '{}'", shown(name))));
                    }
                    Some(Seen::Never) => stack.push((*call, 0)),
                    _ => {}
                }
                continue;
            }
            let (mut nodes, mut depth) = (body.nodes, 0);
            for call in &body.calls {
                if let Some(Seen::Done { nodes: n, depth: d }) = seen.get(*call) {
                    nodes = nodes.saturating_add(*n);
                    depth = depth.max(d + 1);
                }
            }
            if nodes > limits.max_nodes {
                return Err(over(
                    "too many nodes once functions are expanded",
                    limits.max_nodes,
                    "max_nodes",
                ));
            }
            if depth > limits.max_function_depth {
                let limit = limits.max_function_depth;
                return Err(over("functions call functions too deep", limit, "max_function_depth"));
            }
            if let Some(state) = seen.get_mut(function) {
                *state = Seen::Done { nodes, depth };
            }
        }
    }
    debug_assert!(matches!(seen.get(main), Some(Seen::Done { .. })));
    Ok(())
}
