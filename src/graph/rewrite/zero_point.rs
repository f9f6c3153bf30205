//! A product of integers less a zero point that is found at run time: the zero point's share is taken off the sums.
//!
//! `Σ (a - z)(b - y) = Σ a (b - y) - z Σ (b - y)`, and the last sum is constant with `b`. What is left of the product depends on nothing but
//! `a`, so that a device can have its weights ready; the rest is one multiplication and one subtraction of small integers, exact as long
//! as the whole fits 32 bits, which it does wherever the product did.

use super::super::{Graph, Node, Op, Shape, ValueId};
use crate::error::Result;
use crate::graph::attributes::Attributes;
use crate::int8::Ints;
use crate::tensor::{DType, Tensor};

/// Frees products from zero points that are not constant. Returns how many.
///
/// # Errors
/// `OutOfMemory`.
pub fn free_zero_points(graph: &mut Graph) -> Result<usize> {
    let mut count = 0;
    for place in 0..graph.nodes.len() {
        let Some(node) = graph.node(place).filter(|n| n.is("MatMulInteger")).cloned() else { continue };
        if free(graph, place, &node)? {
            count += 1;
        }
    }
    if count > 0 {
        graph.tidy()?;
    }
    Ok(count)
}

fn free(graph: &mut Graph, place: usize, node: &Node) -> Result<bool> {
    let Some((zero, made)) = node.input(2).zip(node.output(0)) else { return Ok(false) };
    if graph.constant(zero).is_some() || graph.value(zero).shape.element_count() != Some(1) {
        return Ok(false);
    }
    let Some(sums) = column_sums(graph, node)? else { return Ok(false) };
    let name = graph.value(made).name.clone();
    let (shape, rank) = (graph.value(made).shape.clone(), graph.value(zero).shape.clone());
    let columns = Shape::fixed(&[sums.len()]);
    let sums = graph.add_constant(&format!("{name}/columns"), Tensor::from_slice(&[sums.len()], &sums)?);
    let raw = graph.add_value(&format!("{name}/raw"), Some(DType::I32), shape);
    let wide = graph.add_value(&format!("{name}/zero_point"), Some(DType::I32), rank);
    let share = graph.add_value(&format!("{name}/share"), Some(DType::I32), columns);
    if let Some(node) = graph.node_mut(place) {
        node.outputs = vec![Some(raw)];
        if let Some(slot) = node.inputs.get_mut(2) {
            *slot = None;
        }
    }
    let cast = Attributes::new().with_int("to", DType::I32.onnx_code().into());
    graph.push_node(Op::onnx("Cast", cast), &[zero], wide, &node.origins);
    graph.push_node(Op::onnx("Mul", Attributes::new()), &[wide, sums], share, &node.origins);
    graph.push_node(Op::onnx("Sub", Attributes::new()), &[raw, share], made, &node.origins);
    Ok(true)
}

/// `Σ (b - y)` of each column, for a constant matrix whose zero point is constant, too; `None` where one does not fit 32 bits.
fn column_sums(graph: &Graph, node: &Node) -> Result<Option<Vec<i32>>> {
    let constant = |id: Option<ValueId>| id.and_then(|id| graph.constant(id));
    let Some(b) = constant(node.input(1)) else { return Ok(None) };
    let b = Ints::of(b)?;
    let zeros = match (node.input(3), constant(node.input(3))) {
        (None, _) => vec![0],
        (_, Some(zeros)) => Ints::of(zeros)?.values().to_vec(),
        _ => return Ok(None),
    };
    let [_, columns] = b.shape() else { return Ok(None) };
    let zero = |c: usize| if zeros.len() == 1 { zeros.first() } else { zeros.get(c) }.copied().unwrap_or(0);
    let sum = |c: usize| {
        let column = b.values().iter().skip(c).step_by((*columns).max(1));
        i32::try_from(column.map(|v| i64::from(*v) - i64::from(zero(c))).sum::<i64>()).ok()
    };
    Ok((0..*columns).map(sum).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::testing::graph_of;

    #[test]
    fn the_zero_points_share_is_taken_off_the_sums() {
        let mut graph = graph_of(
            "x: f32[N, 2]
             b = i8[2, 3] 1 2 3 4 5 -6
             q, s, z = DynamicQuantizeLinear(x)
             y = MatMulInteger(q, b, z)
             -> y: i32[?]",
        );
        assert_eq!(free_zero_points(&mut graph).unwrap(), 1);
        let text = graph.to_string();
        for line in [
            "y/raw: i32[N, 3] = MatMulInteger(q, ",
            "y/zero_point: i32[] = Cast<to=6>(z)",
            "y/share: i32[3] = Mul(y/zero_point, i32[3])",
            "y: i32[N, 3] = Sub(y/raw, y/share)",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
        let columns = graph.constant(graph.find("y/columns").unwrap()).unwrap();
        assert_eq!(columns.as_slice::<i32>().unwrap(), [5, 7, -3]);
        assert_eq!(free_zero_points(&mut graph).unwrap(), 0);
        let mut constant =
            graph_of("q: u8[N, 2]\nz = u8[] 3\nb = i8[2, 3] 1\ny = MatMulInteger(q, b, z)\n-> y: i32[?]");
        assert_eq!(free_zero_points(&mut constant).unwrap(), 0);
    }
}
