//! A graph cut into parts, each of which one side runs whole: a device what it takes, the host the rest.
//!
//! Parts run one after the other, and what passes between them passes through the host's memory; so the fewer, the better. Every node gets
//! the earliest turn in which its side may run it: turns alternate between the device (even) and the host (odd), and a node that reads what
//! the other side makes waits for the next one. All nodes of a turn are one part. No part waits for itself, whatever the graph looks like.

use std::collections::{HashMap, HashSet};

use super::Graph;
use super::node::Node;
use super::value::ValueId;

/// Who runs a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The device.
    Device,
    /// The host.
    Host,
    /// Whoever needs it: it computes on shapes, which are known wherever the tensors are, so that no part has to wait for it.
    Any,
}

/// Nodes that one side runs in one go.
#[derive(Debug, Clone)]
pub struct Part {
    /// Whether the device runs it.
    pub on_device: bool,
    /// Its nodes between what it needs and what others need of it. Its values are those of the whole graph, by the same numbers.
    pub graph: Graph,
}

impl Graph {
    /// These nodes, in an order in which they can run, between these values.
    #[must_use]
    pub fn part(&self, nodes: Vec<Node>, inputs: Vec<ValueId>, outputs: Vec<ValueId>) -> Self {
        Self { nodes, inputs, outputs, ..self.without_nodes() }
    }

    fn without_nodes(&self) -> Self {
        Self {
            values: self.values.clone(),
            nodes: Vec::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            opsets: self.opsets.clone(),
            functions: self.functions.clone(),
            model_nodes: self.model_nodes,
        }
    }

    /// The parts in which a graph runs, in their order, when every node runs on the side that is named for it.
    pub fn partition(&self, side: impl Fn(&Node) -> Side) -> Vec<Part> {
        let sides = self.nodes.iter().map(side).collect::<Vec<_>>();
        let turns = self.turns(&sides);
        let last = turns.iter().max().copied().unwrap_or(0);
        let mut members = vec![Vec::new(); last + 1];
        for (place, (turn, side)) in turns.iter().zip(&sides).enumerate() {
            if let (Side::Device | Side::Host, Some(list)) = (side, members.get_mut(*turn)) {
                list.push(place);
            }
        }
        let members = members.into_iter().enumerate().filter(|(_, places)| !places.is_empty());
        let members = members.map(|(turn, own)| (turn, self.with_shapes(&own, &sides))).collect::<Vec<_>>();
        let uses = members.iter().map(|(_, places)| self.needed_by(places)).collect::<Vec<_>>();
        let mut parts = Vec::new();
        for (number, (turn, places)) in members.iter().enumerate() {
            let nodes = places.iter().filter_map(|p| self.nodes.get(*p).cloned()).collect::<Vec<_>>();
            let later = uses.get(number + 1..).unwrap_or_default();
            let wanted = |id: &ValueId| self.outputs.contains(id) || later.iter().any(|r| r.contains(id));
            let outputs = nodes.iter().flat_map(Node::makes).filter(wanted).collect();
            let inputs = uses.get(number).cloned().unwrap_or_default();
            parts.push(Part { on_device: turn % 2 == 0, graph: self.part(nodes, inputs, outputs) });
        }
        parts
    }

    /// The turn of each node: even for the device, odd for the host.
    fn turns(&self, sides: &[Side]) -> Vec<usize> {
        let mut made: HashMap<ValueId, usize> = HashMap::new();
        let mut turns = Vec::with_capacity(self.nodes.len());
        for (node, side) in self.nodes.iter().zip(sides) {
            let earliest = node.reads().filter_map(|id| made.get(&id)).max().copied().unwrap_or(0);
            let turn = match side {
                Side::Any => earliest,
                Side::Device => earliest.next_multiple_of(2),
                Side::Host => earliest | 1,
            };
            made.extend(node.makes().map(|id| (id, turn)));
            turns.push(turn);
        }
        turns
    }

    /// These nodes and those on shapes that they read, in order.
    fn with_shapes(&self, own: &[usize], sides: &[Side]) -> Vec<usize> {
        let uses = self.uses();
        let mut all = own.iter().copied().collect::<HashSet<_>>();
        let mut open = own.to_vec();
        while let Some(node) = open.pop().and_then(|p| self.nodes.get(p)) {
            for maker in node.reads().filter_map(|id| uses.maker(id)) {
                if sides.get(maker) == Some(&Side::Any) && all.insert(maker) {
                    open.push(maker);
                }
            }
        }
        let mut all = all.into_iter().collect::<Vec<_>>();
        all.sort_unstable();
        all
    }

    /// What these nodes read and do not make, each once, in the order in which it is read first.
    fn needed_by(&self, places: &[usize]) -> Vec<ValueId> {
        let nodes = places.iter().filter_map(|p| self.nodes.get(*p)).collect::<Vec<_>>();
        let made = nodes.iter().flat_map(|n| n.makes()).collect::<HashSet<_>>();
        let mut seen = HashSet::new();
        let reads = nodes.iter().flat_map(|n| n.reads());
        reads.filter(|id| !made.contains(id) && self.constant(*id).is_none() && seen.insert(*id)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::testing::graph_of;

    /// Whether it is the device's, what goes in, what its nodes make, what comes out.
    type Row = (bool, Vec<String>, Vec<String>, Vec<String>);

    /// `Neg` is the device's, nodes on shapes are anyone's, all else is the host's.
    fn parts(text: &str) -> Vec<Row> {
        let graph = graph_of(text);
        let side = |n: &Node| match n.op.name.as_str() {
            "Neg" => Side::Device,
            "Shape" | "Gather" => Side::Any,
            _ => Side::Host,
        };
        let name =
            |g: &Graph, ids: &[ValueId]| ids.iter().map(|i| g.value(*i).name.clone()).collect::<Vec<_>>();
        let shown = |p: &Part| {
            let nodes = p.graph.nodes().iter().filter_map(Node::first_output).collect::<Vec<_>>();
            let g = &p.graph;
            (p.on_device, name(g, g.inputs()), name(g, &nodes), name(g, g.outputs()))
        };
        graph.partition(side).iter().map(shown).collect()
    }

    fn row(on_device: bool, inputs: &str, nodes: &str, outputs: &str) -> Row {
        let list = |text: &str| text.split_whitespace().map(str::to_owned).collect();
        (on_device, list(inputs), list(nodes), list(outputs))
    }

    #[test]
    fn nodes_of_one_side_run_together_as_early_as_they_can() {
        assert_eq!(parts("x: f32[2]\na = Neg(x)\nb = Neg(a)\n-> b"), [row(true, "x", "a b", "b")]);
        // Two branches: the host's work of both is one part, although the list has it apart.
        let text = "x: f32[2]
             a = Neg(x)
             b = Abs(a)
             c = Neg(b)
             d = Neg(x)
             e = Exp(d)
             y = Add(c, e)
             -> y, d";
        assert_eq!(
            parts(text),
            [
                row(true, "x", "a d", "a d"),
                row(false, "a d", "b e", "b e"),
                row(true, "b", "c", "c"),
                row(false, "c e", "y", "y"),
            ]
        );
        // The host begins, and a graph of which nothing is left.
        assert_eq!(
            parts("x: f32[2]\na = Abs(x)\ny = Neg(a)\n-> y"),
            [row(false, "x", "a", "a"), row(true, "a", "y", "y")]
        );
        assert_eq!(parts("x: f32[2]\n-> x"), []);
    }

    #[test]
    fn what_follows_from_shapes_is_computed_wherever_it_is_read() {
        let text = "x: f32[N, 4]
             k = i64[1] 0
             s = Shape(x)
             n = Gather(s, k)
             a = Neg(x)
             b = Reshape(a, n)
             c = Neg(b)
             y = Expand(c, n)
             -> y";
        assert_eq!(
            parts(text),
            [
                row(true, "x", "a", "a"),
                row(false, "x a", "s n b", "b"),
                row(true, "b", "c", "c"),
                row(false, "x c", "s n y", "y"),
            ]
        );
    }
}
