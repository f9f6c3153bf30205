//! QONNX: quantisation as one operator on floats, brought into Q/DQ pairs.
//!
//! Brevitas, QKeras and HAWQ export models in which `IntQuant` (`Quant`, as it was called before) rounds a float to what an integer of so
//! many bits stands for, and gives a float again:
//!
//! ```text
//! y = (round(clamp(x / scale + zero_point, least, most)) - zero_point) · scale
//! ```
//!
//! (Project QONNX, `docs/qonnx-custom-ops/intquant_v1.md`.) That is what `QuantizeLinear` and `DequantizeLinear` say in two operators, with the
//! range of an 8- or 16-bit type; a narrower one is a `Clip` before them. A constant is rounded here, once. The two differ where a number lies
//! exactly in the middle of two steps and the zero point is odd: ONNX rounds to the even step before it adds the zero point, QONNX after.

use super::Graph;
use super::attributes::Attributes;
use super::node::{Node, Op};
use super::shapes::Shape;
use super::value::ValueId;
use crate::error::{Result, ScoreError};
use crate::int8::{Ints, QType};
use crate::model::Model;
use crate::tensor::{DType, Tensor};

/// The domains in which exporters write it, the newest first.
const DOMAINS: [&str; 3] = ["qonnx.custom_op.general", "finn.custom_op.general", "onnx.brevitas"];

/// How many such operators a model has; with any, it is QONNX, and quantised already.
pub fn count(model: &Model) -> usize {
    let nodes = model.proto().graph.iter().flat_map(|g| &g.node);
    nodes.filter(|n| is_quant(n.domain(), n.op_type())).count()
}

/// Whether an operator of a model is such a one.
pub(super) fn is_quant(domain: &str, name: &str) -> bool {
    DOMAINS.contains(&domain) && matches!(name, "IntQuant" | "Quant")
}

/// Adds what such a node means.
///
/// # Errors
/// `Unsupported` where parameters are not constant or have no form in Q/DQ pairs; `BadModel` where they make no sense.
pub(super) fn push(graph: &mut Graph, node: &Node) -> Result<()> {
    let missing = |what: &str| ScoreError::bad_model(format!("it has no {what}"));
    let x = node.input(0).ok_or_else(|| missing("input"))?;
    let output = node.output(0).ok_or_else(|| missing("output"))?;
    let quant = Quant::of(graph, node)?;
    match graph.constant(x).cloned() {
        Some(tensor) => quant.push_constant(graph, node, &tensor, output),
        None => quant.push_pair(graph, node, x, output),
    }
}

/// The parameters of one node.
struct Quant {
    scales: Vec<f32>,
    zeros: Vec<i32>,
    /// Along which axis several of them run, counted from the last one (-1).
    axis: Option<i64>,
    /// The integers' type, and how far they go in it.
    dtype: DType,
    least: f32,
    most: f32,
    rounding: String,
}

impl Quant {
    fn of(graph: &Graph, node: &Node) -> Result<Self> {
        let (scale, scale_axis) = parameter(graph, node, 1, "scale")?;
        let (zero, zero_axis) = parameter(graph, node, 2, "zero point")?;
        let (bits, _) = parameter(graph, node, 3, "bit width")?;
        let attributes = &node.op.attributes;
        let (signed, narrow) = (attributes.int("signed").unwrap_or(1) != 0, attributes.flag("narrow"));
        let bits = match bits.as_slice() {
            [bits] if (1.0..=32.0).contains(bits) && bits.fract() == 0.0 => *bits as i32,
            other => {
                let what = format!("bit widths of {other:?}: expected one whole number from 1 to 32");
                return Err(ScoreError::unsupported(what));
            }
        };
        let dtype = match (bits, signed) {
            (..=8, true) => DType::I8,
            (..=8, false) => DType::U8,
            (..=16, true) => DType::I16,
            (..=16, false) => DType::U16,
            (_, true) => DType::I32,
            (_, false) => {
                let what = format!("{bits} bits without a sign: ONNX's integers of that size have one");
                return Err(ScoreError::unsupported(what));
            }
        };
        let (scales, zeros) = (scale.len(), zero.len());
        if scales != zeros && scales != 1 && zeros != 1 {
            let what = format!("{scales} scales and {zeros} zero points: expected as many of both");
            return Err(ScoreError::bad_model(what));
        }
        if let Some(scale) = scale.iter().find(|s| !(s.is_normal() && **s > 0.0)) {
            let what = format!("a scale is {scale:e}: expected a positive number");
            return Err(ScoreError::bad_model(what));
        }
        let half = 2f32.powi(bits - i32::from(signed));
        let least = if signed { -half + f32::from(u8::from(narrow)) } else { 0.0 };
        let most = half - 1.0 - f32::from(u8::from(narrow && !signed));
        if let Some(zero) = zero.iter().find(|z| z.fract() != 0.0 || !(least..=most).contains(*z)) {
            let what = format!("a zero point is {zero}: expected a whole number from {least} to {most}");
            return Err(ScoreError::unsupported(what));
        }
        let count = scales.max(zeros);
        let all = |list: Vec<f32>| if list.len() == 1 { list.repeat(count) } else { list };
        Ok(Self {
            scales: all(scale),
            zeros: all(zero).iter().map(|z| *z as i32).collect(),
            axis: scale_axis.or(zero_axis),
            dtype,
            least,
            most,
            rounding: attributes.text("rounding_mode").unwrap_or("ROUND").to_ascii_uppercase(),
        })
    }

    fn round(&self, x: f32) -> Result<f32> {
        Ok(match self.rounding.as_str() {
            "ROUND" | "HALF_EVEN" => x.round_ties_even(),
            "CEIL" => x.ceil(),
            "FLOOR" => x.floor(),
            "UP" => x.abs().ceil().copysign(x),
            "DOWN" | "ROUND_TO_ZERO" => x.trunc(),
            "HALF_UP" => x.round(),
            "HALF_DOWN" => (x.abs() - 0.5).ceil().copysign(x),
            other => {
                return Err(ScoreError::unsupported(format!("the rounding mode '{other}' is not known")));
            }
        })
    }

    /// A constant in integers, dequantised.
    fn push_constant(self, graph: &mut Graph, node: &Node, x: &Tensor, output: ValueId) -> Result<()> {
        let values = x.as_slice::<f32>()?;
        let (channels, inner) = match self.axis {
            None => (1, 1),
            Some(axis) => {
                let at = usize::try_from(axis + x.shape().len() as i64).unwrap_or(usize::MAX);
                let inner = x.shape().get(at + 1..).map_or(1, |rest| rest.iter().product());
                (x.shape().get(at).copied().unwrap_or(0), inner)
            }
        };
        if channels != self.scales.len() {
            let what = format!("{} scales for {channels} channels of {:?}", self.scales.len(), x.shape());
            return Err(ScoreError::bad_model(what));
        }
        let integer = |(i, x): (usize, &f32)| {
            let channel = i / inner.max(1) % channels.max(1);
            let scale = self.scales.get(channel).copied().unwrap_or(1.0);
            let zero = self.zeros.get(channel).copied().unwrap_or(0);
            let steps = x / scale + zero as f32;
            if steps.is_nan() {
                return Err(ScoreError::bad_model("a constant that is no number"));
            }
            Ok(self.round(steps.clamp(self.least, self.most))? as i32)
        };
        let integers = values.iter().enumerate().map(integer).collect::<Result<Vec<_>>>()?;
        let integers = self.integers(x.shape(), integers)?;
        let name = graph.value(output).name.clone();
        let integers = graph.add_constant(&format!("{name}/quantized"), integers);
        self.push_dequantize(graph, node, integers, output)
    }

    /// `Clip` where the range is narrower than the type's, `QuantizeLinear`, `DequantizeLinear`.
    fn push_pair(self, graph: &mut Graph, node: &Node, x: ValueId, output: ValueId) -> Result<()> {
        let Ok(qtype) = QType::try_from(self.dtype) else {
            return Err(ScoreError::unsupported("an activation of more than 16 bits"));
        };
        if !matches!(self.rounding.as_str(), "ROUND" | "HALF_EVEN") {
            let what = format!(
                "an activation that is rounded by '{}': QuantizeLinear knows ROUND alone",
                self.rounding
            );
            return Err(ScoreError::unsupported(what));
        }
        let name = graph.value(output).name.clone();
        let mut x = x;
        if self.least > qtype.min() as f32 || self.most < qtype.max() as f32 {
            let ([scale], [zero]) = (self.scales.as_slice(), self.zeros.as_slice()) else {
                let what = "a range narrower than its type's for each channel by itself";
                return Err(ScoreError::unsupported(what));
            };
            let bound = |steps: f32| Tensor::from_slice(&[], &[(steps - *zero as f32) * scale]);
            let (low, high) = (bound(self.least)?, bound(self.most)?);
            let low = graph.add_constant(&format!("{name}/least"), low);
            let high = graph.add_constant(&format!("{name}/most"), high);
            let clipped = graph.add_value(&format!("{name}/clipped"), None, Shape::UNKNOWN);
            x = graph.push_node(Op::onnx("Clip", Attributes::new()), &[x, low, high], clipped, &node.origins);
        }
        let [scale, zero] = self.parameters(graph, &name)?;
        let integers = graph.add_value(&format!("{name}/quantized"), None, Shape::UNKNOWN);
        let quantize = Op::onnx("QuantizeLinear", self.attributes());
        graph.push_node(quantize, &[x, scale, zero], integers, &node.origins);
        self.push_dequantize(graph, node, integers, output)
    }

    fn push_dequantize(
        &self,
        graph: &mut Graph,
        node: &Node,
        integers: ValueId,
        output: ValueId,
    ) -> Result<()> {
        let name = graph.value(output).name.clone();
        let [scale, zero] = self.parameters(graph, &name)?;
        let dequantize = Op::onnx("DequantizeLinear", self.attributes());
        graph.push_node(dequantize, &[integers, scale, zero], output, &node.origins);
        Ok(())
    }

    fn attributes(&self) -> Attributes {
        self.axis.map_or(Attributes::new(), |axis| Attributes::new().with_int("axis", axis))
    }

    /// Scale and zero point as ONNX wants them: a scalar each, or a list each.
    fn parameters(&self, graph: &mut Graph, name: &str) -> Result<[ValueId; 2]> {
        let shape = self.axis.map_or(vec![], |_| vec![self.scales.len()]);
        let scale = Tensor::from_slice(&shape, &self.scales)?;
        let zero = self.integers(&shape, self.zeros.clone())?;
        Ok([
            graph.add_constant(&format!("{name}/scale"), scale),
            graph.add_constant(&format!("{name}/zero_point"), zero),
        ])
    }

    fn integers(&self, shape: &[usize], values: Vec<i32>) -> Result<Tensor> {
        match QType::try_from(self.dtype) {
            Ok(qtype) => Ints::new(shape, values)?.to_tensor(qtype),
            Err(_) => Tensor::from_slice(shape, &values),
        }
    }
}

/// A constant parameter, and the one axis, counted from the last, along which it has several values.
fn parameter(graph: &Graph, node: &Node, input: usize, what: &str) -> Result<(Vec<f32>, Option<i64>)> {
    let missing = || ScoreError::bad_model(format!("it has no {what}"));
    let id = node.input(input).ok_or_else(missing)?;
    let computed = || {
        ScoreError::unsupported(format!(
            "its {what} '{}' is computed by the model: expected a constant (qonnx-cleanup folds it)",
            graph.value(id).name
        ))
    };
    let tensor = graph.constant(id).ok_or_else(computed)?;
    let mut long = tensor.shape().iter().enumerate().filter(|(_, n)| **n != 1);
    let axis = match (long.next(), long.next()) {
        (None, _) => None,
        (Some((axis, _)), None) => Some(axis as i64 - tensor.shape().len() as i64),
        _ => {
            let what = format!("its {what} of {:?} differs along more than one axis", tensor.shape());
            return Err(ScoreError::unsupported(what));
        }
    };
    Ok((tensor.as_slice::<f32>()?.to_vec(), axis))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::testing::{graph_of, model_of, read};

    const ONE: &str = "s = f32[] 0.5\nz = f32[] 0\nb = f32[] 8";

    fn shown(quant: &str) -> Vec<String> {
        let graph = graph_of(&format!("x: f32[N, 2]\nw = f32[2, 2] 0.6 -70 0.25 1\n{ONE}\n{quant}\n-> y"));
        graph.to_string().lines().filter(|l| l.contains(" = ")).map(str::to_owned).collect()
    }

    #[test]
    fn an_activation_becomes_a_pair() {
        let quant =
            |attributes: &str| format!("y = qonnx.custom_op.general.IntQuant{attributes}(x, s, z, b)");
        assert_eq!(
            shown(&quant("")),
            [
                "y/quantized: i8[N, 2] = QuantizeLinear(x, [0.5], i8[])",
                "y: f32[N, 2] = DequantizeLinear(y/quantized, [0.5], i8[])",
            ]
        );
        assert!(shown(&quant("<signed=0>"))[0].starts_with("y/quantized: u8[N, 2]"));
        // Narrow: without the last integer, which a Clip keeps away.
        let narrow = shown(&quant("<narrow=1>"));
        assert_eq!(narrow[0], "y/clipped: f32[N, 2] = Clip(x, [-63.5], [63.5])");
        assert!(shown(&quant("<signed=0, narrow=1>"))[0].contains("Clip(x, [0.0], [127.0])"));
        assert_eq!(shown("y = onnx.brevitas.Quant(x, s, z, b)").len(), 2, "as it was called before");
    }

    #[test]
    fn a_constant_becomes_integers() {
        let graph = graph_of(&format!(
            "w = f32[2, 2] 0.6 -70 0.25 1\n{ONE}\nc = f32[2, 1] 0.5 0.25
             v = qonnx.custom_op.general.Quant<narrow=1, rounding_mode=CEIL>(w, c, z, b)
             y = Neg(v)\n-> y"
        ));
        let integers = graph.constant(graph.find("v/quantized").unwrap()).unwrap();
        assert_eq!(integers.as_slice::<i8>().unwrap(), [2, -127, 1, 4]);
        let node = &graph.nodes()[0];
        assert_eq!((node.op.attributes.int("axis"), &node.origins), (Some(-2), &vec![0]));
        assert_eq!(graph.constant(node.input(1).unwrap()).unwrap().shape(), [2]);
    }

    #[test]
    fn every_rounding_mode_rounds_as_it_is_called() {
        let rows = [
            ("ROUND", [0.0, 2.0, -0.0, -2.0, 1.0]),
            ("CEIL", [1.0, 2.0, -0.0, -1.0, 2.0]),
            ("FLOOR", [0.0, 1.0, -1.0, -2.0, 1.0]),
            ("UP", [1.0, 2.0, -1.0, -2.0, 2.0]),
            ("DOWN", [0.0, 1.0, -0.0, -1.0, 1.0]),
            ("HALF_UP", [1.0, 2.0, -1.0, -2.0, 1.0]),
            ("HALF_DOWN", [0.0, 1.0, -0.0, -1.0, 1.0]),
        ];
        for (rounding, expected) in rows {
            let quant = Quant {
                scales: vec![1.0],
                zeros: vec![0],
                axis: None,
                dtype: DType::I8,
                least: -128.0,
                most: 127.0,
                rounding: rounding.to_owned(),
            };
            let rounded = [0.5, 1.5, -0.5, -1.5, 1.2].map(|x| quant.round(x).unwrap());
            assert_eq!(rounded, expected, "{rounding}");
        }
    }

    #[test]
    fn what_has_no_such_form_is_refused_with_the_reason() {
        let rows = [
            ("", "Quant(x, s, z, x)", "computed by the model"),
            ("", "Quant<rounding_mode=FLOOR>(x, s, z, b)", "rounded by 'FLOOR'"),
            ("", "Quant<rounding_mode=ODD>(w, s, z, b)", "'ODD' is not known"),
            ("h = f32[] 8.5", "Quant(x, s, z, h)", "from 1 to 32"),
            ("h = f32[] 20", "Quant(x, s, z, h)", "more than 16 bits"),
            ("h = f32[] 20", "Quant<signed=0>(x, s, z, h)", "without a sign"),
            ("h = f32[] 0", "Quant(x, h, z, b)", "a scale is 0e0"),
            ("h = f32[] nan", "Quant(x, h, z, b)", "a scale is NaN"),
            ("h = f32[] 0.5", "Quant(x, s, h, b)", "a zero point is 0.5"),
            ("h = f32[] 300", "Quant(x, s, h, b)", "a zero point is 300"),
            ("h = f32[2, 2] 1", "Quant(x, h, z, b)", "more than one axis"),
            ("h = f32[3] 1", "Quant(w, h, z, b)", "3 scales for 2 channels"),
            ("h = f32[2] 1\nk = f32[3] 0", "Quant(w, h, k, b)", "2 scales and 3 zero points"),
            ("h = f32[2] 1", "Quant<narrow=1>(x, h, z, b)", "for each channel by itself"),
            ("h = f32[2] nan", "Quant(h, s, z, b)", "no number"),
        ];
        for (more, quant, reason) in rows {
            let text = format!(
                "x: f32[N, 2]\nw = f32[2, 2] 1\n{ONE}\n{more}\ny = qonnx.custom_op.general.{quant}\n-> y"
            );
            let error = Graph::of(&read(&model_of(&text))).unwrap_err().to_string();
            assert!(error.contains(reason) && error.contains("Quant"), "{quant}: {error}");
        }
    }
}
