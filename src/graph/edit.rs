//! Changing a graph: what rewrites are written with.
//!
//! A rewrite looks at the graph through [`Uses`] (who makes a value, who reads it), pushes new nodes behind the
//! old ones, points readers at new values, and leaves the rest to [`Graph::tidy`]: nodes that nobody reads go, and the
//! others are put into an order in which they can run. So no rewrite has to care where in the list it inserts.

use std::collections::{HashMap, HashSet};

use super::Graph;
use super::node::{Node, Op};
use super::shapes::Shape;
use super::value::{Value, ValueId};
use crate::error::{Result, ScoreError};
use crate::tensor::{DType, Tensor};

/// Who makes and who reads each value of a graph, as of one moment.
#[derive(Debug)]
pub struct Uses {
    maker: Vec<Option<usize>>,
    readers: Vec<Vec<usize>>,
    outputs: HashSet<ValueId>,
}

impl Uses {
    /// The place of the node that makes it; `None` for inputs and constants.
    pub fn maker(&self, value: ValueId) -> Option<usize> {
        self.maker.get(value.index()).copied().flatten()
    }

    /// The places of the nodes that read it, each once.
    pub fn readers(&self, value: ValueId) -> &[usize] {
        self.readers.get(value.index()).map_or(&[], Vec::as_slice)
    }

    /// Whether callers get it.
    pub fn is_output(&self, value: ValueId) -> bool {
        self.outputs.contains(&value)
    }

    /// The one node that reads it, if it is one and callers do not get it.
    pub fn only_reader(&self, value: ValueId) -> Option<usize> {
        match self.readers(value) {
            [only] if !self.is_output(value) => Some(*only),
            _ => None,
        }
    }
}

impl Graph {
    /// Who makes and who reads each value.
    pub fn uses(&self) -> Uses {
        let mut uses = Uses {
            maker: vec![None; self.values.len()],
            readers: vec![Vec::new(); self.values.len()],
            outputs: self.outputs.iter().copied().collect(),
        };
        for (place, node) in self.nodes.iter().enumerate() {
            for made in node.makes() {
                if let Some(maker) = uses.maker.get_mut(made.index()) {
                    *maker = Some(place);
                }
            }
            for read in node.reads() {
                match uses.readers.get_mut(read.index()) {
                    Some(readers) if readers.last() != Some(&place) => readers.push(place),
                    _ => {}
                }
            }
        }
        uses
    }

    /// The node at that place.
    pub fn node(&self, place: usize) -> Option<&Node> {
        self.nodes.get(place)
    }

    /// Adds a value.
    pub(super) fn add(&mut self, value: Value) -> ValueId {
        let id = ValueId::new(self.values.len());
        self.values.push(value);
        id
    }

    /// Adds a value whose name begins so and is not taken.
    pub fn add_value(&mut self, hint: &str, dtype: Option<DType>, shape: Shape) -> ValueId {
        let name = self.fresh_name(hint);
        self.add(Value { dtype, shape, ..Value::named(name) })
    }

    /// Adds a constant whose name begins so and is not taken.
    pub fn add_constant(&mut self, hint: &str, tensor: Tensor) -> ValueId {
        let name = self.fresh_name(hint);
        self.add(Value::constant(name, tensor))
    }

    fn fresh_name(&self, hint: &str) -> String {
        let taken = |name: &str| self.values.iter().any(|v| v.name == name);
        if !taken(hint) {
            return hint.to_owned();
        }
        // The number of values makes the first try the right one, but for names that look like ours.
        let first = self.values.len();
        let mut names = (first..).map(|n| format!("{hint}_{n}"));
        names.find(|name| !taken(name)).unwrap_or_default()
    }

    /// Nobody makes the value any more: another node is going to, or it is a constant from now on.
    pub(super) fn drop_maker(&mut self, value: ValueId) {
        let made = self.nodes.iter_mut().flat_map(|n| &mut n.outputs);
        made.filter(|id| **id == Some(value)).for_each(|id| *id = None);
    }

    /// Notes that there are operators of that domain.
    pub(super) fn add_domain(&mut self, domain: &str) {
        if !self.opsets.iter().any(|(known, _)| known == domain) {
            self.opsets.push((domain.to_owned(), 1));
        }
    }

    /// Adds a node of one output behind all others, and returns the output.
    pub fn push_node(&mut self, op: Op, inputs: &[ValueId], output: ValueId, origins: &[usize]) -> ValueId {
        self.nodes.push(Node {
            name: String::new(),
            op,
            inputs: inputs.iter().copied().map(Some).collect(),
            outputs: vec![Some(output)],
            captures: Vec::new(),
            origins: origins.to_vec(),
        });
        output
    }

    /// Lets everybody who reads `old` read `new`; what callers get keeps its name and is made from `new`.
    pub fn replace_reads(&mut self, old: ValueId, new: ValueId) {
        for node in &mut self.nodes {
            let inputs = node.inputs.iter_mut().flatten().chain(&mut node.captures);
            inputs.filter(|id| **id == old).for_each(|id| *id = new);
        }
    }

    /// Lets the node that makes `old` make `new` instead; who reads `old` still does.
    pub fn replace_maker(&mut self, old: ValueId, new: ValueId) {
        let made = self.nodes.iter_mut().flat_map(|n| n.outputs.iter_mut().flatten());
        made.filter(|id| **id == old).for_each(|id| *id = new);
    }

    /// The node at that place, to be changed.
    pub fn node_mut(&mut self, place: usize) -> Option<&mut Node> {
        self.nodes.get_mut(place)
    }

    /// Removes the nodes that nobody needs and orders the rest so that they can run.
    ///
    /// # Errors
    /// `Internal` when the nodes go in a circle, which only a mistaken rewrite makes.
    pub fn tidy(&mut self) -> Result<()> {
        let uses = self.uses();
        let mut needed = vec![false; self.nodes.len()];
        let mut open = self.outputs.iter().filter_map(|o| uses.maker(*o)).collect::<Vec<_>>();
        while let Some(place) = open.pop() {
            let (Some(seen), Some(node)) = (needed.get_mut(place), self.nodes.get(place)) else { continue };
            if !std::mem::replace(seen, true) {
                open.extend(node.reads().filter_map(|read| uses.maker(read)));
            }
        }
        let kept = self.nodes.iter().zip(&needed).filter(|(_, needed)| **needed).count();
        let mut ordered = Vec::with_capacity(kept);
        let mut made: HashSet<ValueId> = HashSet::new();
        let mut waiting: HashMap<ValueId, Vec<usize>> = HashMap::new();
        // In the old order where that can run, which it mostly can; a node that comes too early waits for
        // what it reads.
        let mut next =
            (0..self.nodes.len()).filter(|p| needed.get(*p) == Some(&true)).rev().collect::<Vec<_>>();
        while let Some(place) = next.pop() {
            let Some(node) = self.nodes.get(place) else { continue };
            let missing = node.reads().find(|read| uses.maker(*read).is_some() && !made.contains(read));
            if let Some(missing) = missing {
                waiting.entry(missing).or_default().push(place);
                continue;
            }
            ordered.push(place);
            for value in node.makes() {
                made.insert(value);
                next.extend(waiting.remove(&value).into_iter().flatten().rev());
            }
        }
        if ordered.len() != kept {
            return Err(ScoreError::internal("a rewrite made the graph's nodes go in a circle"));
        }
        let mut nodes = std::mem::take(&mut self.nodes).into_iter().map(Some).collect::<Vec<_>>();
        self.nodes = ordered.iter().filter_map(|p| nodes.get_mut(*p).and_then(Option::take)).collect();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::attributes::Attributes;
    use crate::graph::testing::graph_of;

    #[test]
    fn who_makes_and_who_reads() {
        let graph = graph_of("x: f32[N]\na = Relu(x)\nb = Add(a, a)\nc = Neg(a)\n-> b, c");
        let uses = graph.uses();
        let id = |name| graph.find(name).unwrap();
        assert_eq!((uses.maker(id("x")), uses.maker(id("b"))), (None, Some(1)));
        assert_eq!(uses.readers(id("a")), [1, 2]);
        assert_eq!((uses.only_reader(id("x")), uses.only_reader(id("a"))), (Some(0), None));
        assert_eq!(uses.only_reader(id("b")), None, "callers get it");
    }

    #[test]
    fn tidying_drops_what_nobody_reads_and_orders_the_rest() {
        let mut graph = graph_of("x: f32[N]\na = Relu(x)\ndead = Neg(x)\ny = Abs(a)\n-> y");
        // A node between x and a, pushed behind all of them.
        let (x, a) = (graph.find("x").unwrap(), graph.find("a").unwrap());
        let new = graph.add_value("a", None, Shape::UNKNOWN);
        assert_ne!(graph.value(new).name, "a", "the name is taken");
        graph.push_node(Op::onnx("Exp", Attributes::new()), &[x], new, &[0]);
        graph.replace_reads(a, new);
        graph.tidy().unwrap();
        let names = graph.nodes().iter().map(|n| n.op.name.as_str()).collect::<Vec<_>>();
        assert_eq!(names, ["Exp", "Abs"]);

        let mut circle = graph_of("x: f32[N]\na = Relu(x)\ny = Abs(a)\n-> y");
        let (x, y) = (circle.find("x").unwrap(), circle.find("y").unwrap());
        circle.replace_reads(x, y);
        assert!(circle.tidy().unwrap_err().to_string().contains("circle"));
    }
}
