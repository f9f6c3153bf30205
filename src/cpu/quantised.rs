//! Which types a model is quantised to: ONNX Runtime rewrites quantised models, and some of its rewrites are wrong for some types.
//!
//! What is wrong is left out for the models that it is wrong for, and for no others: fast kernels for 8-bit integers rest on the same rewrites. Seen in
//! ONNX Runtime 1.32; a test holds each to what the standard says.

use std::collections::HashMap;

use crate::model::Model;
use crate::model::onnx::{NodeProto, TensorProto};
use crate::tensor::DType;

/// The types, as ONNX numbers them.
pub(super) struct Types {
    quantised: Vec<i32>,
    dequantised: Vec<i32>,
}

impl Types {
    /// Of what the graph itself quantises and dequantises.
    pub(super) fn of(model: &Model) -> Self {
        let mut types = Self { quantised: Vec::new(), dequantised: Vec::new() };
        let Some(graph) = &model.proto().graph else { return types };
        let mut known = HashMap::new();
        let mut held = |name: Option<&String>, tensor: &TensorProto| {
            known.extend(name.cloned().zip(tensor.data_type));
        };
        for tensor in &graph.initializer {
            held(tensor.name.as_ref(), tensor);
        }
        for node in graph.node.iter().filter(|n| n.op_type.as_deref() == Some("Constant")) {
            let value = node.attribute.iter().find_map(|a| a.t.as_ref());
            if let Some(tensor) = value {
                held(node.output.first(), tensor);
            }
        }
        let given = model.signature().inputs().iter();
        known.extend(given.filter_map(|port| Some((port.name.clone(), port.dtype()?.onnx_code()))));
        for node in &graph.node {
            let of = |input: usize| node.input.get(input).and_then(|name| known.get(name)).copied();
            match node.op_type.as_deref() {
                Some("QuantizeLinear") => types.quantised.extend(of(2).or(output_type(node))),
                Some("DequantizeLinear") => types.dequantised.extend(of(0).or(of(2))),
                _ => {}
            }
        }
        types
    }

    /// Whether something is quantised to 16 bits, or dequantised from them: ONNX Runtime multiplies 8-bit weights with activations that it rounds to 8
    /// bits, unless it is told not to, and the other 8 were for nothing.
    pub(super) fn has_16_bits(&self) -> bool {
        let wide = [DType::U16, DType::I16].map(DType::onnx_code);
        self.quantised.iter().chain(&self.dequantised).any(|code| wide.contains(code))
    }

    /// Whether something is quantised to a type of which ONNX Runtime takes the least number for its zero point, whatever it is: a `Relu` before it is
    /// dropped then (its `ReluQuantRewrite` looks at four types of integers alone), and negative numbers come out.
    pub(super) fn loses_relu(&self) -> bool {
        let known = [DType::U8, DType::I8, DType::U16, DType::I16].map(DType::onnx_code);
        self.quantised.iter().any(|code| !known.contains(code))
    }
}

fn output_type(node: &NodeProto) -> Option<i32> {
    let code = node.attribute.iter().find(|a| a.name.as_deref() == Some("output_dtype"))?.i?;
    i32::try_from(code).ok()
}

#[cfg(all(test, any(feature = "cuda", feature = "opencl")))]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::cpu::CpuBackend;
    use crate::graph::testing::{model_of, read};
    use crate::scoring::{Backend, Call, CompileOptions};
    use crate::tensor::Tensor;

    const PAIR: &str = "q = QuantizeLinear(x, s, z)\ny = DequantizeLinear(q, s, z)\n-> y";

    #[test]
    fn types_are_seen_wherever_they_come_from() {
        let told = "x: f32[2, 3]\ns = f32[] 0.1\nq = QuantizeLinear<output_dtype=4>(x, s)\ny = DequantizeLinear(q, s)\n-> y";
        let of = |zero: &str| format!("x: f32[2, 3]\ns = f32[] 0.1\nz = {zero}[] 0\n{PAIR}");
        // (model, has 16 bits, loses a Relu)
        let cases = [
            ("s = f32[] 0.1\nf: u16[2, 3]\ny = DequantizeLinear(f, s, _)\n-> y".to_owned(), true, false),
            ("s = f32[] 0.1\nf: u8[2, 3]\ny = DequantizeLinear(f, s, _)\n-> y".to_owned(), false, false),
            (of("i16"), true, false),
            (of("i8"), false, false),
            (of("f8e4m3"), false, true),
            (told.to_owned(), true, false),
            (told.replace("=4", "=2"), false, false),
            (told.replace("=4", "=19"), false, true),
            (told.replace("=4", "=22"), false, true),
        ];
        for (text, has_16_bits, loses_relu) in cases {
            let types = Types::of(&read(&model_of(&text)));
            assert_eq!((types.has_16_bits(), types.loses_relu()), (has_16_bits, loses_relu), "{text}");
        }
    }

    #[test]
    fn a_relu_stays_before_any_type() {
        let cpu = CpuBackend::new();
        let options = CompileOptions { lanes: Some(1), skip_tuning: true, ..CompileOptions::default() };
        for zero in ["u8[] 0", "u8[] 7", "i8[] -128", "i8[] 0", "i16[] 0", "f8e4m3[] 0", "f8e5m2[] 0"] {
            let text = format!("v: f32[4]\ns = f32[] 0.25\nz = {zero}\nx = Relu(v)\n{PAIR}");
            let scorer = cpu.compile(&read(&model_of(&text)), &cpu.probe().unwrap(), &options).unwrap();
            let x = Tensor::from_slice(&[4], &[-3f32, -0.5, 0.5, 3.0]).unwrap();
            let scored = scorer.score(&[x], &Call::new()).unwrap();
            let y = scored.tensor(0).unwrap();
            assert_eq!(y.as_slice::<f32>().unwrap(), [0.0, 0.0, 0.5, 3.0], "{zero}");
        }
    }
}
