//! Which values are quantised, and which share their parameters.

use std::collections::{HashMap, HashSet};

use super::Scheme;
use crate::graph::rewrite::{is_function_of_one, moves_integers};
use crate::graph::{Graph, Node, Uses, ValueId};
use crate::tensor::DType;

/// What is to be quantised in a graph.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// The values that get a Q/DQ pair, in the order in which they are made.
    pub values: Vec<ValueId>,
    /// Whose parameters a value takes, where those are not its own.
    pub shared: HashMap<ValueId, ValueId>,
    /// The places of the nodes that become integer operators.
    pub nodes: Vec<usize>,
}

impl Plan {
    /// The values whose ranges have to be observed.
    pub fn observed(&self) -> Vec<ValueId> {
        self.values.iter().copied().filter(|v| !self.shared.contains_key(v)).collect()
    }

    /// The value whose parameters this one takes: its own, mostly.
    pub fn owner(&self, mut value: ValueId) -> ValueId {
        // A chain is as long as there are values, at most.
        for _ in 0..=self.shared.len() {
            match self.shared.get(&value) {
                Some(owner) => value = *owner,
                None => break,
            }
        }
        value
    }
}

/// Chooses what to quantise in a graph that was [simplified](crate::graph::rewrite::simplify).
pub fn choose(graph: &Graph, scheme: &Scheme) -> Plan {
    let uses = graph.uses();
    let nodes = graph.nodes();
    let places =
        (0..nodes.len()).filter(|p| graph.node(*p).is_some_and(|n| is_quantisable(graph, n, scheme)));
    let places = places.collect::<Vec<_>>();
    let chosen = places.iter().copied().collect::<HashSet<_>>();
    let roots = roots(graph, &places);
    let mut plan = Plan { nodes: places.clone(), ..Plan::default() };
    let mut seen = HashSet::new();
    for node in places.iter().filter_map(|p| graph.node(*p)) {
        for value in data_inputs(node).chain(node.makes()) {
            let is_float = graph.value(value).dtype == Some(DType::F32) && graph.constant(value).is_none();
            if is_float && seen.insert(value) && !stays_float(graph, &uses, &chosen, &roots, value) {
                plan.values.push(value);
            }
        }
    }
    let quantised = plan.values.iter().copied().collect::<HashSet<_>>();
    for value in &plan.values {
        let maker = uses.maker(*value).filter(|at| chosen.contains(at)).and_then(|at| graph.node(at));
        let from = maker.filter(|n| moves_integers(n)).and_then(|n| n.input(0));
        if let Some(from) = from.filter(|f| quantised.contains(f)) {
            plan.shared.insert(*value, from);
        }
    }
    plan
}

/// Whether an operator has an integer form as it is configured here.
fn is_quantisable(graph: &Graph, node: &Node, scheme: &Scheme) -> bool {
    if scheme.excludes(node) {
        return false;
    }
    let attributes = &node.op.attributes;
    let is_constant = |i: usize| node.input(i).is_none_or(|id| graph.constant(id).is_some());
    let is_float = |id: ValueId| graph.value(id).dtype == Some(DType::F32);
    let one = |name: &str| attributes.float(name).is_none_or(|v| v == 1.0);
    let is_configured = match node.op.onnx_name() {
        Some("Conv") => node.input(1).is_some() && is_constant(1) && is_constant(2),
        Some("Gemm") => {
            let has_bias = node.input(2).is_some();
            // Its bias has one number a column, or there is none.
            let fits = node.input(2).and_then(|id| graph.constant(id)).is_none_or(|b| b.shape().len() == 1);
            is_constant(1)
                && is_constant(2)
                && fits
                && one("alpha")
                && (!has_bias || one("beta"))
                && !attributes.flag("transA")
        }
        Some("MatMul" | "Add" | "Mul" | "Concat" | "GlobalAveragePool" | "Softmax") => true,
        Some("AveragePool") => {
            let is_dilated = attributes.ints("dilations").is_some_and(|d| d.iter().any(|n| *n != 1));
            let counts_beyond = attributes.flag("ceil_mode") && attributes.flag("count_include_pad");
            !(is_dilated || counts_beyond)
        }
        Some("LayerNormalization") => {
            let rank = node.input(0).and_then(|x| graph.value(x).shape.rank());
            let axis = attributes.int("axis").unwrap_or(-1);
            let is_last = axis == -1 || rank.is_some_and(|r| usize::try_from(axis + 1) == Ok(r));
            is_last && node.input(2).is_some() && is_constant(1) && is_constant(2)
        }
        _ => moves_integers(node) || is_function_of_one(graph, node),
    };
    is_configured && data_inputs(node).all(is_float) && node.makes().all(is_float)
}

/// What a node computes on, rather than is told by.
fn data_inputs(node: &Node) -> impl Iterator<Item = ValueId> {
    let count = match node.op.onnx_name() {
        Some("Conv" | "Gemm" | "LayerNormalization") => 1,
        _ if moves_integers(node) => 1,
        Some("Clip") => 1,
        _ => usize::MAX,
    };
    node.inputs.iter().take(count).flatten().copied()
}

/// For what functions of one element make: the value that everything in the chain before is a function of.
fn roots(graph: &Graph, places: &[usize]) -> HashMap<ValueId, ValueId> {
    let mut roots: HashMap<ValueId, ValueId> = HashMap::new();
    for node in places.iter().filter_map(|p| graph.node(*p)) {
        if let (Some(root), Some(made)) = (root_of(graph, &roots, node), node.output(0)) {
            roots.insert(made, root);
        }
    }
    roots
}

fn root_of(graph: &Graph, roots: &HashMap<ValueId, ValueId>, node: &Node) -> Option<ValueId> {
    let elementwise = is_function_of_one(graph, node) || node.is("Mul") || node.is("Add");
    let mut found = None;
    for input in node.inputs.iter().flatten().filter(|id| graph.constant(**id).is_none()) {
        let root = roots.get(input).copied().unwrap_or(*input);
        match found {
            None => found = Some(root),
            Some(same) if same == root => {}
            Some(_) => return None,
        }
    }
    // A sum or a product with a constant of several elements is no function of one.
    let has_wide_constant =
        node.inputs.iter().flatten().any(|id| graph.constant(*id).is_some_and(|t| t.len() != 1));
    found.filter(|_| elementwise && !has_wide_constant)
}

/// Whether a value between quantised nodes needs no pair.
fn stays_float(
    graph: &Graph,
    uses: &Uses,
    chosen: &HashSet<usize>,
    roots: &HashMap<ValueId, ValueId>,
    value: ValueId,
) -> bool {
    let maker = uses.maker(value).and_then(|at| graph.node(at).filter(|_| chosen.contains(&at)));
    let Some(maker) = maker else { return false };
    if uses.is_output(value) {
        // The sums of the last linear layer become floats directly.
        return maker.is("Gemm") && uses.readers(value).is_empty();
    }
    let readers = uses.readers(value).iter().map(|at| graph.node(*at).filter(|_| chosen.contains(at)));
    let Some(readers) = readers.collect::<Option<Vec<_>>>() else { return false };
    let is_clamp = |n: &Node| {
        n.is("Relu")
            || (n.is("Clip") && n.inputs.iter().skip(1).flatten().all(|id| graph.constant(*id).is_some()))
    };
    let folds = |n: &Node| !is_function_of_one(graph, n) || n.is("Relu") || n.is("Clip");
    if let [only] = readers.as_slice()
        && is_clamp(only)
        && folds(maker)
    {
        return true;
    }
    // In a chain of functions of the same element only the end is quantised.
    let root = roots.get(&value);
    let goes_on = |n: &&Node| n.output(0).and_then(|made| roots.get(&made)) == root;
    root.is_some() && !readers.is_empty() && readers.iter().all(goes_on)
}
