//! The element types of values: what each operator makes of what it reads.

use super::node::Node;
use super::{Graph, functions};
use crate::error::Result;
use crate::tensor::DType;

/// Fills in the element types that follow from the inputs'. What an unknown operator makes keeps what the model
/// declares, if it does.
pub(super) fn infer(graph: &mut Graph) -> Result<()> {
    for place in 0..graph.nodes.len() {
        let Some(node) = graph.nodes.get(place) else { continue };
        let types = outputs(graph, node);
        let found = node.outputs.clone().into_iter().zip(types).collect::<Vec<_>>();
        for (output, dtype) in found {
            if let (Some(value), Some(dtype)) = (output.and_then(|id| graph.value_mut(id)), dtype) {
                value.dtype = Some(dtype);
            }
        }
    }
    Ok(())
}

/// The types of a node's outputs, as many as are known.
fn outputs(graph: &Graph, node: &Node) -> Vec<Option<DType>> {
    let input = |i: usize| node.input(i).and_then(|id| graph.value(id).dtype);
    let attributes = &node.op.attributes;
    let code = |name: &str| attributes.int(name).and_then(|c| DType::from_onnx(i32::try_from(c).ok()?));
    let same = || vec![input(0); node.outputs.len()];
    let domain = node.op.domain.as_str();
    if domain == "ai.onnx.ml" && matches!(node.op.name.as_str(), "Normalizer" | "Scaler") {
        return vec![Some(DType::F32)];
    }
    if !matches!(domain, "" | "com.microsoft" | functions::DOMAIN) {
        return Vec::new();
    }
    match node.op.name.as_str() {
        "And" | "Or" | "Not" | "Xor" | "Equal" | "Greater" | "GreaterOrEqual" | "Less" | "LessOrEqual"
        | "IsNaN" | "IsInf" => vec![Some(DType::Bool)],
        // With the keys and values that it looked at, and the scores.
        "Attention" if domain.is_empty() => vec![input(0), input(1), input(2), input(0)],
        "ArgMax" | "ArgMin" | "NonZero" | "Shape" | "Size" => vec![Some(DType::I64)],
        "Cast" => vec![code("to")],
        "CastLike" => vec![input(1)],
        "ConstantOfShape" => {
            let value = attributes.tensor("value").map(|t| DType::from_onnx(t.data_type()));
            vec![value.unwrap_or(Some(DType::F32))]
        }
        "ConvFloat8" | "MatMulFloat8" => vec![Some(DType::F32)],
        "ConvInteger" | "MatMulInteger" => vec![Some(DType::I32)],
        "DequantizeLinear" => vec![code("output_dtype").or(input(1))],
        "Dropout" => vec![input(0), Some(DType::Bool)],
        "DynamicQuantizeLinear" => vec![Some(DType::U8), Some(DType::F32), Some(DType::U8)],
        "EyeLike" | "RandomNormalLike" | "RandomUniformLike" => vec![code("dtype").or(input(0))],
        "OneHot" => vec![input(2)],
        "LayerNormalization" => vec![input(0), Some(DType::F32), Some(DType::F32)],
        "MaxPool" | "TopK" => vec![input(0), Some(DType::I64)],
        // For QGemm the zero point of y is the ninth input; without one its result is f32.
        "QGemm" => vec![input(8).or(Some(DType::F32))],
        "QLinearConv" | "QLinearMatMul" => vec![input(7)],
        "QuantizeLinear" => vec![input(2).or(code("output_dtype")).or(Some(DType::U8))],
        "QLinearConcat" | "Table" => vec![input(1)],
        "QLinearLayerNormalization" => vec![input(6)],
        "Where" => vec![input(1)],
        // What comes out of these is not said by what goes in.
        "If" | "Loop" | "Scan" | "SequenceAt" | "SequenceConstruct" | "SequenceEmpty" | "SplitToSequence"
        | "Optional" | "OptionalGetElement" | "OptionalHasElement" | "RandomNormal" | "RandomUniform"
        | "StringNormalizer" | "Unique" => Vec::new(),
        _ if KNOWN.contains(&node.op.name.as_str()) => same(),
        _ => Vec::new(),
    }
}

/// Operators that make what they read.
const KNOWN: &[&str] = &[
    "Abs",
    "Acos",
    "Acosh",
    "Add",
    "Asin",
    "Asinh",
    "Atan",
    "Atanh",
    "Attention",
    "AveragePool",
    "BatchNormalization",
    "BiasGelu",
    "BitShift",
    "BitwiseAnd",
    "BitwiseNot",
    "BitwiseOr",
    "BitwiseXor",
    "Ceil",
    "Celu",
    "Clip",
    "Concat",
    "Conv",
    "ConvTranspose",
    "Cos",
    "Cosh",
    "CumSum",
    "DepthToSpace",
    "Div",
    "Einsum",
    "Elu",
    "Erf",
    "Exp",
    "Expand",
    "FastGelu",
    "Flatten",
    "Floor",
    "FusedConv",
    "FusedGemm",
    "FusedMatMul",
    "Gather",
    "GatherElements",
    "GatherND",
    "Gelu",
    "Gemm",
    "GlobalAveragePool",
    "GlobalLpPool",
    "GlobalMaxPool",
    "GroupNormalization",
    "HardSigmoid",
    "HardSwish",
    "Hardmax",
    "Identity",
    "InstanceNormalization",
    "LRN",
    "LeakyRelu",
    "Log",
    "LogSoftmax",
    "LpNormalization",
    "LpPool",
    "MaskedAttention",
    "MatMul",
    "Max",
    "Mean",
    "MeanVarianceNormalization",
    "Min",
    "Mish",
    "Mod",
    "Mul",
    "Neg",
    "PRelu",
    "Pad",
    "Pow",
    "QLinearAdd",
    "QLinearAveragePool",
    "QLinearGlobalAveragePool",
    "QLinearLeakyRelu",
    "QLinearMul",
    "QLinearSigmoid",
    "QLinearSoftmax",
    "QuickGelu",
    "RMSNormalization",
    "Range",
    "Reciprocal",
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
    "ReduceSumSquare",
    "Relu",
    "Reshape",
    "Resize",
    "RotaryEmbedding",
    "Round",
    "ScatterElements",
    "ScatterND",
    "Selu",
    "Shrink",
    "Sigmoid",
    "Sign",
    "Sin",
    "Sinh",
    "SkipLayerNormalization",
    "Slice",
    "Softmax",
    "Softplus",
    "Softsign",
    "SpaceToDepth",
    "Split",
    "Sqrt",
    "Squeeze",
    "Sub",
    "Sum",
    "Swish",
    "Tan",
    "Tanh",
    "ThresholdedRelu",
    "Tile",
    "Transpose",
    "Trilu",
    "Unsqueeze",
];

#[cfg(test)]
mod tests {
    use crate::graph::testing::graph_of;
    use crate::tensor::DType;

    #[test]
    fn types_follow_from_operators() {
        let rows = [
            ("Relu(x)", DType::F32),
            ("Cast<to=7>(x)", DType::I64),
            ("Shape(x)", DType::I64),
            ("Greater(x, x)", DType::Bool),
            ("QuantizeLinear(x, s)", DType::U8),
            ("QuantizeLinear(x, s, z)", DType::I8),
            ("ArgMax(x)", DType::I64),
            ("OneHot(i, d, z)", DType::I8),
            ("EyeLike<dtype=11>(x)", DType::F64),
            ("Hardmax(x)", DType::F32),
            ("BitwiseNot(i)", DType::I64),
        ];
        for (op, dtype) in rows {
            let graph = graph_of(&format!(
                "x: f32[2, 3]\ns = f32[] 0.5\nz = i8[] 0\ni: i64[2]\nd = i64[] 3\ny = {op}\n-> y"
            ));
            assert_eq!(graph.value(graph.outputs()[0]).dtype, Some(dtype), "{op}");
        }
    }
}
