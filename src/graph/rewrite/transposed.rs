//! A quantised weight that is transposed before it is used: its integers are, once.
//!
//! PyTorch keeps a linear layer's weight as `[outputs, inputs]` and exports `DequantizeLinear → Transpose → MatMul`. Operators on integers want
//! the weight itself behind the `DequantizeLinear`; transposing moves its elements and its axis of scales, and rounds nothing.

use crate::error::Result;
use crate::graph::edit::Uses;
use crate::graph::node::{Node, Op};
use crate::graph::{Attributes, Graph};
use crate::tensor::{DType, F8E4M3, F8E5M2, Tensor};

/// Transposes the constants behind every `DequantizeLinear` that only a `Transpose` stands between and its reader.
pub fn transpose_weights(graph: &mut Graph) -> Result<usize> {
    let uses = graph.uses();
    let mut found = Vec::new();
    for (place, node) in graph.nodes.iter().enumerate().filter(|(_, n)| n.is("Transpose")) {
        found.extend(transposed(graph, &uses, node).map(|new| (place, new)));
    }
    let count = found.len();
    for (place, (weight, dequantize, axis)) in found {
        let integers = dequantize.input(0).map_or_else(String::new, |id| graph.value(id).name.clone());
        let id = graph.add_constant(&format!("{integers}/transposed"), weight?);
        let mut inputs = dequantize.inputs;
        if let Some(first) = inputs.first_mut() {
            *first = Some(id);
        }
        let attributes = axis.map_or(Attributes::new(), |axis| Attributes::new().with_int("axis", axis));
        if let Some(node) = graph.node_mut(place) {
            node.op = Op::onnx("DequantizeLinear", attributes);
            node.inputs = inputs;
            node.origins.extend(dequantize.origins);
        }
    }
    Ok(count)
}

/// The transposed integers, the node that dequantises them, and the axis along which its scales then run.
fn transposed(graph: &Graph, uses: &Uses, node: &Node) -> Option<(Result<Tensor>, Node, Option<i64>)> {
    let dequantize = graph.node(uses.maker(node.input(0)?)?).filter(|n| n.is("DequantizeLinear"))?;
    let tensor = graph.constant(dequantize.input(0)?)?;
    let rank = tensor.shape().len();
    let order = match node.op.attributes.lengths("perm").ok()? {
        Some(order) => order,
        None => (0..rank).rev().collect(),
    };
    let mut seen = order.clone();
    seen.sort_unstable();
    if !seen.iter().copied().eq(0..rank) || dequantize.op.attributes.int("block_size").unwrap_or(0) != 0 {
        return None;
    }
    let scales = graph.constant(dequantize.input(1)?)?;
    let axis = match scales.len() {
        1 => None,
        _ => {
            let axis = dequantize.op.attributes.int("axis").unwrap_or(1);
            let axis = usize::try_from(if axis < 0 { axis + rank as i64 } else { axis }).ok()?;
            Some(order.iter().position(|from| *from == axis)? as i64)
        }
    };
    Some((permuted(tensor, order)?, dequantize.clone(), axis))
}

/// Elements of a byte with their axes in another order; `None` for others.
pub(super) fn permuted(tensor: &Tensor, order: Vec<usize>) -> Option<Result<Tensor>> {
    fn of<T: crate::tensor::Element>(tensor: &Tensor, order: Vec<usize>) -> Result<Tensor> {
        Tensor::from_array(tensor.view::<T>()?.permuted_axes(order))
    }
    Some(match tensor.dtype() {
        DType::U8 => of::<u8>(tensor, order),
        DType::I8 => of::<i8>(tensor, order),
        DType::F8E4M3 => of::<F8E4M3>(tensor, order),
        DType::F8E5M2 => of::<F8E5M2>(tensor, order),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::rewrite::testing::after;
    use crate::graph::testing::graph_of;

    const WEIGHT: &str =
        "x: f32[N, 3]\nw = i8[2, 3] 1 2 3 4 5 6\ns = f32[2] 0.5 0.25\nz = i8[2] 0\none = f32[] 0.5";

    #[test]
    fn a_weight_is_transposed_with_its_scales() {
        let text = format!(
            "{WEIGHT}\nf = DequantizeLinear<axis=0>(w, s, z)\nt = Transpose(f)\ny = MatMul(x, t)\n-> y"
        );
        let expected = ["t = DequantizeLinear<axis=1>(i8[3, 2], [0.5, 0.25], i8[2])", "y = MatMul(x, t)"];
        assert_eq!(after(transpose_weights, &text), (1, expected.map(str::to_owned).to_vec()));
        let mut graph = graph_of(&text);
        transpose_weights(&mut graph).unwrap();
        let weight = graph.constant(graph.find("w/transposed").unwrap()).unwrap();
        assert_eq!(weight.as_slice::<i8>().unwrap(), [1, 4, 2, 5, 3, 6]);
        // Of one scale there is no axis.
        let text = format!(
            "{WEIGHT}\nf = DequantizeLinear(w, one, _)\nt = Transpose<perm=[1 0]>(f)\ny = MatMul(x, t)\n-> y"
        );
        assert_eq!(after(transpose_weights, &text).1[0], "t = DequantizeLinear(i8[3, 2], [0.5], _)");
    }

    #[test]
    fn what_is_no_weight_stays() {
        for (weight, perm) in [("DequantizeLinear(x8, one, _)", "[1 0]"), ("Neg(x)", "[1 0]")] {
            let text = format!("{WEIGHT}\nx8: i8[3, 2]\nf = {weight}\ny = Transpose<perm={perm}>(f)\n-> y");
            assert_eq!(after(transpose_weights, &text).0, 0, "{weight}");
        }
    }
}
