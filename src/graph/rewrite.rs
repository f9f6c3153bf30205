//! Rewrites: the same computation in fewer or better nodes.
//!
//! Each is in a file of its own: what it looks for, why the result is the same, and a test with a graph before and after.
//! A rewrite is a function from a graph to how often it did something; it leaves the order of nodes and the removal of
//! what is dead to [`Graph::tidy`]. All of them together are held against ONNX Runtime on whole models
//! (`tests/graph.rs`).

mod attention;
mod batch_norm;
mod bias;
mod float8;
mod gelu;
mod identity;
mod integer;
mod joined;
mod layer_norm;
mod mean;
mod transposed;
mod zero_point;

use super::Graph;
use super::node::Node;
use super::value::ValueId;
use crate::error::Result;
use crate::tensor::Tensor;

pub use attention::find_attention;
pub use batch_norm::fold_batch_norm;
pub use bias::absorb_bias;
pub use float8::to_float8_products;
pub use gelu::find_gelu;
pub use identity::remove_identities;
pub use integer::{check_parameters, is_function_of_one, moves_integers, to_integer_products, to_integers};
pub use joined::join_products;
pub use layer_norm::find_layer_norm;
pub use mean::pool_means;
pub use transposed::transpose_weights;
pub use zero_point::free_zero_points;

/// A rewrite: returns how often it did something.
pub type Rewrite = fn(&mut Graph) -> Result<usize>;

/// The rewrites that both backends want, in the order in which they help each other.
pub const COMMON: &[(&str, Rewrite)] = &[
    ("identities", remove_identities),
    ("transposed weights", transpose_weights),
    ("layer norm", find_layer_norm),
    ("means", pool_means),
    ("gelu", find_gelu),
    ("batch norm", fold_batch_norm),
    ("bias", absorb_bias),
];

/// Applies the common rewrites. Returns how often each did something.
///
/// # Errors
/// `Internal` for a mistake in one of them; `OutOfMemory`.
pub fn simplify(graph: &mut Graph) -> Result<Vec<(&'static str, usize)>> {
    let mut done = Vec::new();
    for (name, rewrite) in COMMON {
        let count = rewrite(graph)?;
        if count > 0 {
            graph.tidy()?;
        }
        done.push((*name, count));
    }
    Ok(done)
}

impl Graph {
    /// A constant of one element, as f32.
    fn scalar(&self, id: Option<ValueId>) -> Option<f32> {
        match self.constant(id?)?.as_slice::<f32>().ok()? {
            [one] => Some(*one),
            _ => None,
        }
    }

    /// A constant of f32, with its shape.
    fn floats(&self, id: Option<ValueId>) -> Option<(&[usize], &[f32])> {
        let tensor: &Tensor = self.constant(id?)?;
        Some((tensor.shape(), tensor.as_slice::<f32>().ok()?))
    }

    /// A node's two inputs as one that is constant and one that is not, in whichever order they stand.
    fn constant_and_other(&self, node: &Node) -> Option<(ValueId, ValueId)> {
        let (a, b) = (node.input(0)?, node.input(1)?);
        match (self.constant(a).is_some(), self.constant(b).is_some()) {
            (true, false) => Some((a, b)),
            (false, true) => Some((b, a)),
            _ => None,
        }
    }
}

#[cfg(test)]
pub(super) mod testing {
    use super::Rewrite;
    use crate::graph::testing::graph_of;

    /// What a rewrite makes of a graph: how often it did something, and the nodes without their types.
    pub(crate) fn after(rewrite: Rewrite, text: &str) -> (usize, Vec<String>) {
        let mut graph = graph_of(text);
        let count = rewrite(&mut graph).unwrap();
        graph.tidy().unwrap();
        let line = |line: &str| {
            let (made, node) = line.split_once(" = ")?;
            let names = made.split(", ").filter_map(|m| m.split_once(": ")).map(|(name, _)| name);
            Some(format!("{} = {node}", names.collect::<Vec<_>>().join(", ")))
        };
        (count, graph.to_string().lines().filter_map(line).collect())
    }
}
