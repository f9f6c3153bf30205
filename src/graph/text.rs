//! A graph as text, one line a node: for people, and for tests that compare graphs.

use std::fmt;

use super::Graph;
use super::value::ValueId;
use crate::model::onnx::AttributeProto;

impl fmt::Display for Graph {
    /// As `y: f32[N, 10] = Gemm<transB=1>(x, w, b)`, between `inputs ->` and `-> outputs`. A constant is told by its type
    /// and shape, or its elements where it has few.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for input in &self.inputs {
            writeln!(f, "{}", self.typed(*input))?;
        }
        for node in &self.nodes {
            let outputs = node.outputs.iter().map(|o| o.map_or("_".to_owned(), |id| self.typed(id)));
            let inputs = node.inputs.iter().map(|i| i.map_or("_".to_owned(), |id| self.short(id)));
            let attributes = node.op.attributes.iter().map(attribute).collect::<Vec<_>>();
            let attributes =
                if attributes.is_empty() { String::new() } else { format!("<{}>", attributes.join(", ")) };
            writeln!(f, "{} = {}{attributes}({})", list(outputs), node.op, list(inputs))?;
        }
        writeln!(f, "-> {}", list(self.outputs.iter().map(|o| self.value(*o).name.clone())))
    }
}

impl Graph {
    fn typed(&self, id: ValueId) -> String {
        let value = self.value(id);
        let dtype = value.dtype.map_or("?", |d| d.name());
        format!("{}: {dtype}{}", value.name, value.shape)
    }

    /// A name; for a small constant its elements.
    fn short(&self, id: ValueId) -> String {
        const FEW: usize = 8;
        let value = self.value(id);
        match &value.constant {
            Some(t) if t.len() <= FEW => match (t.as_slice::<f32>(), t.as_slice::<i64>()) {
                (Ok(floats), _) => format!("{floats:?}"),
                (_, Ok(ints)) => format!("{ints:?}"),
                _ => format!("{}{:?}", t.dtype(), t.shape()),
            },
            Some(t) => format!("{}{:?}", t.dtype(), t.shape()),
            None => value.name.clone(),
        }
    }
}

fn list(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join(", ")
}

fn attribute(a: &AttributeProto) -> String {
    let text = |s: &[u8]| String::from_utf8_lossy(s).into_owned();
    let value = match (a.i, a.f, a.s.as_deref()) {
        (Some(i), ..) => i.to_string(),
        (_, Some(x), _) => x.to_string(),
        (.., Some(s)) => text(s),
        _ if !a.ints.is_empty() => format!("{:?}", a.ints),
        _ if !a.floats.is_empty() => format!("{:?}", a.floats),
        _ => "…".to_owned(),
    };
    format!("{}={value}", a.name())
}

#[cfg(test)]
mod tests {
    use crate::graph::testing::graph_of;

    #[test]
    fn a_graph_reads_as_it_is_written() {
        let graph = graph_of(
            "x: f32[N, 4]\nw = f32[4, 2] 1 2 3 4 5 6 7 8\ny = Gemm<alpha=0.5, transB=0>(x, w)\n-> y",
        );
        let text = "x: f32[N, 4]
y: f32[N, 2] = Gemm<alpha=0.5, transB=0>(x, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0])
-> y
";
        assert_eq!(graph.to_string(), text);
    }
}
