//! Nodes that pass on what they read: `Identity`, `Dropout` at inference, a `Cast` to the type that is there, a sum or a
//! concatenation of one.

use crate::error::Result;
use crate::graph::Graph;
use crate::graph::node::Node;
use crate::graph::value::ValueId;

/// Lets readers of such a node read what it reads. Where callers get its output, the node before it makes that instead;
/// where there is none (an input is an output, too), it is kept.
pub fn remove_identities(graph: &mut Graph) -> Result<usize> {
    let mut count = 0;
    // One at a time where outputs are concerned: what makes a value changes with each.
    while let Some((maker, read, made)) = before_output(graph) {
        graph.replace_reads(read, made);
        let silenced = graph.nodes.iter_mut().filter(|n| n.outputs.contains(&Some(made)));
        silenced.for_each(|n| n.outputs = vec![None]);
        let outputs = graph.nodes.get_mut(maker).map(|n| n.outputs.iter_mut());
        outputs.into_iter().flatten().filter(|o| **o == Some(read)).for_each(|o| *o = Some(made));
        count += 1;
    }
    let uses = graph.uses();
    let passes = |n: &Node| Some((passed_on(graph, n)?, n.first_output()?));
    let found = graph.nodes.iter().filter_map(passes).filter(|(_, out)| !uses.is_output(*out));
    let mut found = found.collect::<Vec<_>>();
    count += found.len();
    // From the last to the first, so that chains end at what the first one reads.
    while let Some((read, made)) = found.pop() {
        graph.replace_reads(made, read);
    }
    Ok(count)
}

/// A node whose output is passed on to callers: its place, its output, and what callers get.
fn before_output(graph: &Graph) -> Option<(usize, ValueId, ValueId)> {
    let uses = graph.uses();
    graph.nodes.iter().find_map(|node| {
        let (read, made) = (passed_on(graph, node)?, node.first_output()?);
        let maker = uses.maker(read).filter(|_| uses.is_output(made) && !uses.is_output(read))?;
        Some((maker, read, made))
    })
}

/// What a node passes on unchanged.
fn passed_on(graph: &Graph, node: &Node) -> Option<ValueId> {
    let input = node.input(0)?;
    let only = node.inputs.iter().flatten().count() == 1 && node.outputs.iter().flatten().count() == 1;
    let value = graph.value(input);
    let is_identity = match node.op.onnx_name()? {
        "Identity" => true,
        "Dropout" => node.outputs.iter().skip(1).all(Option::is_none),
        "Cast" => {
            value.dtype.is_some() && node.first_output().map(|o| graph.value(o).dtype) == Some(value.dtype)
        }
        "Sum" | "Concat" | "Max" | "Min" | "Mean" => only,
        "Transpose" => {
            node.op.attributes.ints("perm").is_some_and(|p| p.iter().copied().eq(0..p.len() as i64))
        }
        _ => false,
    };
    is_identity.then_some(input)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::rewrite::testing::after;

    #[test]
    fn what_passes_on_goes() {
        let text = "x: f32[N, 4]
             a = Identity(x)
             b = Dropout(a)
             c = Cast<to=1>(b)
             d = Sum(c)
             t = Transpose<perm=[0 1]>(d)
             y = Relu(t)
             -> y";
        assert_eq!(after(remove_identities, text), (5, vec!["y = Relu(x)".to_owned()]));
    }

    #[test]
    fn an_output_is_made_by_the_node_before() {
        let text = "x: f32[N]\nh = Relu(x)\nz = Neg(h)\na = Identity(h)\ny = Dropout(a)\n-> y, z";
        let expected = vec!["y = Relu(x)".to_owned(), "z = Neg(y)".to_owned()];
        assert_eq!(after(remove_identities, text), (2, expected));
        for node in ["Identity(x)", "Dropout(x)"] {
            let (count, nodes) = after(remove_identities, &format!("x: f32[N]\ny = {node}\n-> y"));
            assert_eq!((count, nodes.len()), (0, 1), "{node} of an input makes an output");
        }
    }

    #[test]
    fn what_does_something_stays() {
        let rows =
            ["h = Cast<to=7>(x)", "h = Sum(x, x)", "h = Transpose<perm=[1 0]>(x)", "h, m = Dropout(x)"];
        for row in rows {
            let read = if row.contains('m') && row.contains("Dropout") { "Where(m, h, h)" } else { "Neg(h)" };
            let (count, _) = after(remove_identities, &format!("x: f32[N, M]\n{row}\ny = {read}\n-> y"));
            assert_eq!(count, 0, "{row}");
        }
    }
}
