//! Scales and zero points that make no sense, told before anything is made of them.
//!
//! A runtime that divides by a scale of zero, or reads a zero point that is not there, computes something; nobody meant it.

use crate::error::{Result, ScoreError};
use crate::graph::{Graph, Node, ValueId};
use crate::tensor::DType;

/// A scale, a zero point, the tensor that they are about, and its axis along which several of them run.
struct Parameters {
    scale: Option<ValueId>,
    zero: Option<ValueId>,
    about: Option<ValueId>,
    axis: i64,
}

/// The parameters of an operator, by the places that ONNX and ONNX Runtime give them.
fn parameters(node: &Node) -> Vec<Parameters> {
    let (x, w, y) = (node.input(0), node.input(3), node.output(0));
    // The scale's place; the zero point stands behind it.
    let at = |scale: usize, about, axis| Parameters {
        scale: node.input(scale),
        zero: node.input(scale + 1),
        about,
        axis,
    };
    let axis = node.op.attributes.int("axis").unwrap_or(1);
    match node.op.name.as_str() {
        // In blocks there are as many scales as blocks, which is its own rule.
        "QuantizeLinear" | "DequantizeLinear" if node.op.attributes.int("block_size").unwrap_or(0) != 0 => {
            vec![]
        }
        "QuantizeLinear" => vec![at(1, y, axis)],
        "DequantizeLinear" => vec![at(1, x, axis)],
        "QLinearConv" => vec![at(1, x, 1), at(4, w, 0), at(6, y, 1)],
        "QLinearMatMul" => vec![at(1, x, -2), at(4, w, -1), at(6, y, -2)],
        "QGemm" => {
            let columns = if node.op.attributes.flag("transB") { 0 } else { 1 };
            vec![at(1, x, 1), at(4, w, columns), at(7, y, 1)]
        }
        "QLinearAdd" | "QLinearMul" => vec![at(1, x, 1), at(4, w, 1), at(6, y, 1)],
        "QLinearSigmoid"
        | "QLinearLeakyRelu"
        | "QLinearSoftmax"
        | "QLinearGlobalAveragePool"
        | "QLinearAveragePool" => vec![at(1, x, 1), at(3, y, 1)],
        _ => Vec::new(),
    }
}

/// Looks at every scale and zero point that is constant.
///
/// # Errors
/// `BadModel` for a scale that is not a normal number above zero, for zero points of another type or number than what they belong to, and for
/// a number of scales that is not the axis's length, naming the node and the values.
pub fn check_parameters(graph: &Graph) -> Result<()> {
    for node in &graph.nodes {
        for parameters in parameters(node) {
            check(graph, &parameters).map_err(|e| e.with_at(graph.place(node)))?;
        }
    }
    Ok(())
}

fn check(graph: &Graph, parameters: &Parameters) -> Result<()> {
    let Some(scale) = parameters.scale.and_then(|id| graph.constant(id)).filter(|t| t.dtype() == DType::F32)
    else {
        return Ok(());
    };
    let scales = scale.as_slice::<f32>()?;
    if let Some((place, bad)) = scales.iter().enumerate().find(|(_, s)| !(s.is_normal() && **s > 0.0)) {
        let what = format!("scale {place} is {bad:e}: expected a normal number above zero");
        return Err(ScoreError::bad_model(what));
    }
    let about = parameters.about.map(|id| graph.value(id));
    if let Some(zero) = parameters.zero.and_then(|id| graph.constant(id)) {
        if zero.len() != scales.len() {
            let what =
                format!("{} zero points for {} scales: expected one for each", zero.len(), scales.len());
            return Err(ScoreError::bad_model(what));
        }
        if let Some(dtype) = about.and_then(|v| v.dtype).filter(|d| *d != zero.dtype()) {
            let what = format!("a zero point of type {} for integers of type {dtype}", zero.dtype());
            return Err(ScoreError::bad_model(what));
        }
    }
    let lengths = about.and_then(|v| v.shape.lengths());
    let length = lengths.and_then(|l| {
        let axis = if parameters.axis < 0 { parameters.axis + l.len() as i64 } else { parameters.axis };
        l.get(usize::try_from(axis).ok()?).copied()
    });
    match length {
        Some(length) if scales.len() > 1 && length != scales.len() => Err(ScoreError::bad_model(format!(
            "{} scales along axis {} of length {length}: expected one, or one for each index",
            scales.len(),
            parameters.axis
        ))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::testing::graph_of;

    #[test]
    fn parameters_that_make_no_sense_are_named() {
        let rows = [
            ("s = f32[] 0.5\nz = u8[] 7\ny = QuantizeLinear(x, s, z)", None),
            ("s = f32[3] 0.5\nz = u8[3] 7\ny = QuantizeLinear<axis=1>(x, s, z)", None),
            ("s = f32[] 0\ny = QuantizeLinear(x, s)", Some("scale 0 is 0e0")),
            ("s = f32[] -0.5\ny = QuantizeLinear(x, s)", Some("scale 0 is -5e-1")),
            ("s = f32[] NaN\ny = QuantizeLinear(x, s)", Some("scale 0 is NaN")),
            ("s = f32[] inf\ny = QuantizeLinear(x, s)", Some("scale 0 is inf")),
            ("s = f32[] 1e-40\ny = QuantizeLinear(x, s)", Some("expected a normal number")),
            (
                "s = f32[3] 0.5 0.5 0\nz = u8[3] 7\ny = QuantizeLinear<axis=1>(x, s, z)",
                Some("scale 2 is 0e0"),
            ),
            (
                "s = f32[4] 0.5\nz = u8[4] 7\ny = QuantizeLinear<axis=1>(x, s, z)",
                Some("4 scales along axis 1 of length 3"),
            ),
            (
                "s = f32[3] 0.5\nz = u8[2] 7\ny = QuantizeLinear<axis=1>(x, s, z)",
                Some("2 zero points for 3 scales"),
            ),
            (
                "s = f32[] 0.5\nz = u8[] 7\nw = i8[3] 1\ny = DequantizeLinear(w, s, z)",
                Some("a zero point of type u8 for integers of type i8"),
            ),
            (
                "s = f32[] 0.5\nt = f32[3] 0.5\nz = u8[] 7\nn = i8[3] 0\nw = i8[5, 3, 1, 1] 1\nq = u8[1, 3, 4, 4] 1\n\
                 y = QLinearConv(q, s, z, w, t, n, s, z)",
                Some("3 scales along axis 0 of length 5"),
            ),
        ];
        for (text, expected) in rows {
            let graph = graph_of(&format!("x: f32[2, 3]\n{text}\n-> y: u8[?]"));
            match (check_parameters(&graph), expected) {
                (Ok(()), None) => {}
                (Err(e), Some(expected)) => {
                    assert_eq!(e.kind(), crate::ErrorKind::BadModel);
                    assert!(e.to_string().contains(expected) && e.to_string().contains("'y'"), "{e}");
                }
                (got, expected) => panic!("{text}: {got:?}, expected {expected:?}"),
            }
        }
    }
}
