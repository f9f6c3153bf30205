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

#[cfg(test)]
mod tests {
    use crate::error::ErrorKind;
    use crate::model::onnx::{AttributeProto, FunctionProto, ModelProto};
    use crate::model::testing::*;

    /// The error that the `calls` model gives with its function changed; empty where it is read.
    fn changed(change: impl Fn(&mut FunctionProto)) -> String {
        let mut model = calls();
        change(&mut model.functions[0]);
        read(&model).err().map(|e| e.to_string()).unwrap_or_default()
    }

    fn refers(name: &str) -> AttributeProto {
        let reference = Some(name.to_owned());
        AttributeProto { i: None, ref_attr_name: reference, ..int("axis", 0) }
    }

    #[test]
    fn bodies_stand_on_their_own() {
        let cases: Vec<(String, &str)> = vec![
            (changed(|_| {}), ""),
            (
                changed(|f| {
                    f.attribute = vec!["k".to_owned()];
                    f.attribute_proto = vec![int("d", 1)];
                    f.node[0].attribute = vec![refers("k")];
                }),
                "",
            ),
            (changed(|f| f.node[0].attribute = vec![refers("k")]), "that the function does not have"),
            (
                changed(|f| {
                    f.attribute = vec!["k".to_owned()];
                    f.node[0].attribute = vec![AttributeProto { i: Some(1), ..refers("k") }];
                }),
                "and has a value too",
            ),
            (
                changed(|f| {
                    f.attribute = vec!["k".to_owned()];
                    f.attribute_proto = vec![int("k", 1)];
                }),
                "attribute 'k' stands twice",
            ),
            (
                changed(|f| f.node[0].input[0] = "x".to_owned()),
                "function 'Twice': node 'make_b' (Add): it uses 'x', which nothing defines",
            ),
            (
                changed(|f| f.output[0] = "c".to_owned()),
                "function 'Twice': nothing in it makes its output 'c'",
            ),
            (changed(|f| f.input.push("a".to_owned())), "input 'a' stands twice"),
            (changed(|f| f.opset_import.clear()), "the operator set 'ai.onnx' is not imported"),
            (changed(|f| f.name = None), "function 0 has no name"),
            (
                changed(|f| f.attribute_proto = vec![subgraph("g", Default::default())]),
                "a graph as the default",
            ),
        ];
        for (i, (got, expected)) in cases.into_iter().enumerate() {
            let fits = got.contains(expected) && got.is_empty() == expected.is_empty();
            assert!(fits, "case {i}: expected '{expected}', got '{got}'");
        }
        let mut twice = calls();
        twice.functions.push(twice.functions[0].clone());
        assert!(read(&twice).unwrap_err().message().contains("two functions"));
        twice.functions[1].overload = Some("other".to_owned());
        read(&twice).unwrap();
    }

    /// `f0` to `f{n-1}`, each calling the next so many times, the last one an `Add`.
    fn chain(length: usize, calls_each: usize) -> ModelProto {
        let mut model = calls();
        let function_of = |i: usize| {
            let next = format!("f{}", i + 1);
            let mut nodes = Vec::new();
            for call in 0..calls_each {
                let (from, to) = (format!("v{call}"), format!("v{}", call + 1));
                nodes.push(match i + 1 == length {
                    true => node("Add", &[&from, &from], &[&to]),
                    false => node(&next, &[&from], &[&to]).of("local"),
                });
            }
            function(&format!("f{i}"), nodes, "v0", &format!("v{calls_each}"))
        };
        model.functions = (0..length).map(function_of).collect();
        for node in &mut model.graph.as_mut().unwrap().node {
            node.op_type = Some("f0".to_owned());
        }
        model
    }

    #[test]
    fn calls_end_and_expand_to_few_nodes() {
        read(&chain(64, 1)).unwrap();
        read(&chain(10, 3)).unwrap();
        let cases = [
            (chain(66, 1), "max_function_depth"),
            (chain(50_000, 1), "max_function_depth"),
            (chain(30, 2), "max_nodes"),
            (chain(64, 100), "max_nodes"),
        ];
        for (model, limit) in cases {
            let error = read(&model).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::TooLarge);
            assert!(error.message().contains(limit), "{error}");
        }
        for cycle_length in [1, 2, 5] {
            let mut model = chain(cycle_length, 1);
            let last = model.functions.last_mut().unwrap();
            // Hidden in a branch, where a call counts as any other.
            let body = graph(vec![node("f0", &["v0"], &["b"]).of("local")], vec![], vec![], vec![]);
            last.node[0] = node("If", &["v0"], &["v1"]).with(subgraph("then_branch", body));
            let error = read(&model).unwrap_err().to_string();
            assert!(error.contains("function 'f0': it calls itself"), "{error}");
        }
    }
}
