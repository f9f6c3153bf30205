//! A mean over some axes as a global pool, which has a form on integers.
//!
//! Transformers average over tokens with `ReduceMean`, convolutional nets over pixels with either operator. With the axes that stay in front, the
//! two are the same; where the order changes, a `Transpose` says so, which costs a device with strides nothing.

use crate::error::Result;
use crate::graph::Graph;
use crate::graph::attributes::Attributes;
use crate::graph::node::{Node, Op};
use crate::graph::value::ValueId;
use crate::tensor::{DType, Tensor};

struct Mean {
    input: ValueId,
    output: ValueId,
    /// The axes that stay, then those that are averaged.
    order: Vec<i64>,
    keeps: bool,
    reduced: usize,
    origins: Vec<usize>,
}

/// Makes global pools of means that leave two axes.
pub fn pool_means(graph: &mut Graph) -> Result<usize> {
    let found = graph.nodes.iter().filter_map(|n| mean(graph, n)).collect::<Vec<_>>();
    let count = found.len();
    for one in found {
        graph.drop_maker(one.output);
        push(graph, &one)?;
    }
    Ok(count)
}

fn mean(graph: &Graph, node: &Node) -> Option<Mean> {
    let (input, output) = (node.input(0).filter(|_| node.is("ReduceMean"))?, node.output(0)?);
    let value = graph.value(input);
    let rank = i64::try_from(value.shape.rank()?).ok()?;
    let axes = graph.value(node.input(1)?).shape.integers()?;
    let mut axes = axes.into_iter().map(|a| if a < 0 { a + rank } else { a }).collect::<Vec<_>>();
    axes.sort_unstable();
    axes.dedup();
    let stays = (0..rank).filter(|a| !axes.contains(a)).collect::<Vec<_>>();
    let fits = stays.len() == 2 && !axes.is_empty() && axes.iter().all(|a| (0..rank).contains(a));
    (fits && value.dtype == Some(DType::F32)).then(|| Mean {
        input,
        output,
        reduced: axes.len(),
        order: stays.into_iter().chain(axes).collect(),
        keeps: node.op.attributes.int("keepdims").unwrap_or(1) != 0,
        origins: node.origins.clone(),
    })
}

fn push(graph: &mut Graph, mean: &Mean) -> Result<()> {
    let name = graph.value(mean.output).name.clone();
    let extents = graph.value(mean.input).shape.permuted(&mean.order);
    let is_moved = !mean.order.iter().copied().eq(0..mean.order.len() as i64);
    let transpose = |order: &[i64]| Op::onnx("Transpose", Attributes::new().with_ints("perm", order));
    let input = match is_moved {
        true => {
            let moved = graph.add_value(&format!("{name}/moved"), Some(DType::F32), extents.clone());
            graph.push_node(transpose(&mean.order), &[mean.input], moved, &mean.origins)
        }
        false => mean.input,
    };
    let pool = Op::onnx("GlobalAveragePool", Attributes::new());
    if mean.keeps && !is_moved {
        graph.push_node(pool, &[input], mean.output, &mean.origins);
        return Ok(());
    }
    let pooled = graph.add_value(&format!("{name}/pooled"), Some(DType::F32), extents.pooled());
    graph.push_node(pool, &[input], pooled, &mean.origins);
    if mean.keeps {
        // Back to where the axes were.
        let back = (0..mean.order.len() as i64)
            .filter_map(|a| mean.order.iter().position(|o| *o == a))
            .map(|p| p as i64);
        graph.push_node(transpose(&back.collect::<Vec<_>>()), &[pooled], mean.output, &mean.origins);
        return Ok(());
    }
    let axes = (2..2 + mean.reduced as i64).collect::<Vec<_>>();
    let axes = graph.add_constant(&format!("{name}/axes"), Tensor::from_slice(&[axes.len()], &axes)?);
    graph.push_node(Op::onnx("Squeeze", Attributes::new()), &[pooled, axes], mean.output, &mean.origins);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::rewrite::testing::after;

    #[test]
    fn means_that_leave_two_axes_are_pools() {
        let rows = [
            ("x: f32[N, 3, 4, 4]", "2 3", 1, vec!["y = GlobalAveragePool(x)"]),
            (
                "x: f32[N, 3, 4, 4]",
                "-1 2",
                0,
                vec!["y/pooled = GlobalAveragePool(x)", "y = Squeeze(y/pooled, [2, 3])"],
            ),
            (
                "x: f32[N, 5, 8]",
                "1",
                0,
                vec![
                    "y/moved = Transpose<perm=[0, 2, 1]>(x)",
                    "y/pooled = GlobalAveragePool(y/moved)",
                    "y = Squeeze(y/pooled, [2])",
                ],
            ),
            (
                "x: f32[N, 5, 8]",
                "1",
                1,
                vec![
                    "y/moved = Transpose<perm=[0, 2, 1]>(x)",
                    "y/pooled = GlobalAveragePool(y/moved)",
                    "y = Transpose<perm=[0, 2, 1]>(y/pooled)",
                ],
            ),
        ];
        for (input, axes, keeps, expected) in rows {
            let count = axes.split(' ').count();
            let text = format!(
                "{input}\naxes = i64[{count}] {axes}\ny = ReduceMean<keepdims={keeps}>(x, axes)\n-> y"
            );
            let expected = expected.into_iter().map(str::to_owned).collect();
            assert_eq!(after(pool_means, &text), (1, expected), "{axes} of {input}");
        }
    }

    #[test]
    fn other_means_stay() {
        for (input, axes) in [
            ("x: f32[N, 3, 4, 4]", "i64[1] 1"),
            ("x: f32[N, 3]", "i64[1] 1"),
            ("x: f64[N, 3, 4]", "i64[1] 2"),
        ] {
            let text = format!("{input}\naxes = {axes}\ny = ReduceMean(x, axes)\n-> y");
            assert_eq!(after(pool_means, &text).0, 0, "{axes} of {input}");
        }
    }
}
