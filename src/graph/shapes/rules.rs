//! Which rule of `rten-shape-inference` an operator follows. Nodes are in the form of [`OPSET`](crate::graph::OPSET), so there is
//! one form of each.

mod floats;
mod windows;

use rten_shape_inference::ops as rule;
use rten_shape_inference::{
    BinaryOp, InferShapes, InferShapesContext, ReductionOp, SymExpr, SymTensor, SymbolGen, UnaryOp,
    VariadicOp,
};

use floats::{range, resize};
use windows::{conv, conv_transpose, pool};

use crate::error::ScoreError;
use crate::graph::{Graph, Node, functions};

/// Why there are no shapes.
#[derive(Debug)]
pub(super) enum Missing {
    /// No rule is known for the operator.
    Rule,
    /// The rule found that the inputs do not fit, or what is wrong with the attributes.
    Shape(String),
}

impl From<ScoreError> for Missing {
    fn from(error: ScoreError) -> Self {
        Self::Shape(error.message().to_owned())
    }
}

type Inputs = Vec<Option<SymTensor>>;
type Found = Result<Vec<SymTensor>, Missing>;

/// The shapes of what a node makes.
pub(super) fn outputs(graph: &Graph, node: &Node, mut inputs: Inputs, symbols: &mut SymbolGen) -> Found {
    let attributes = &node.op.attributes;
    let int = |name: &str, default: i64| narrow(attributes.int(name).unwrap_or(default));
    let mut run = |rule: &dyn Rule, inputs: Inputs| rule.run(inputs, symbols);
    if node.op.domain == functions::DOMAIN && matches!(node.op.name.as_str(), "Attention" | "MaskedAttention")
    {
        return attention(&pick(inputs, &[0, 2]));
    }
    let is_quantised = node.op.domain == functions::DOMAIN || node.op.domain == "com.microsoft";
    if is_quantised && let Some(found) = quantised(node, &mut inputs, &mut run, int("axis", 0)?) {
        return found;
    }
    if !node.op.domain.is_empty() {
        const ML: [&str; 5] = ["Binarizer", "Imputer", "Normalizer", "Scaler", "LabelEncoder"];
        let is_unary = node.op.domain == "ai.onnx.ml" && ML.contains(&node.op.name.as_str());
        return if is_unary { run(&UnaryOp, inputs) } else { Err(Missing::Rule) };
    }
    match node.op.name.as_str() {
        "Abs"
        | "Acos"
        | "Acosh"
        | "Asin"
        | "Asinh"
        | "Atan"
        | "Atanh"
        | "BatchNormalization"
        | "BitwiseNot"
        | "CastLike"
        | "Ceil"
        | "Celu"
        | "Clip"
        | "Cos"
        | "Cosh"
        | "CumSum"
        | "DequantizeLinear"
        | "Elu"
        | "Erf"
        | "Exp"
        | "EyeLike"
        | "Floor"
        | "Gelu"
        | "GroupNormalization"
        | "HardSigmoid"
        | "HardSwish"
        | "Hardmax"
        | "InstanceNormalization"
        | "IsInf"
        | "IsNaN"
        | "LRN"
        | "LeakyRelu"
        | "Log"
        | "LogSoftmax"
        | "LpNormalization"
        | "MeanVarianceNormalization"
        | "Mish"
        | "Not"
        | "QuantizeLinear"
        | "RMSNormalization"
        | "Reciprocal"
        | "Relu"
        | "RotaryEmbedding"
        | "Round"
        | "Selu"
        | "Shrink"
        | "Sigmoid"
        | "Sign"
        | "Sin"
        | "Sinh"
        | "Softmax"
        | "Softplus"
        | "Softsign"
        | "Sqrt"
        | "Swish"
        | "Tan"
        | "Tanh"
        | "ThresholdedRelu"
        | "Trilu" => run(&UnaryOp, inputs),
        "LayerNormalization" => layer_norm(inputs, int("axis", -1)?),
        // Casting keeps a shape's values, which `Identity` follows.
        "Identity" | "Cast" => run(&rule::Identity, inputs),
        "Dropout" => run(&rule::Dropout, inputs),
        "Neg" => run(&rule::Neg, inputs),
        "Add" => run(&rule::Add, inputs),
        "Sub" => run(&rule::Sub, inputs),
        "Mul" => run(&rule::Mul, inputs),
        "Div" => run(&rule::Div, inputs),
        "Equal" => run(&rule::Equal, inputs),
        "And" | "BitShift" | "BitwiseAnd" | "BitwiseOr" | "BitwiseXor" | "Greater" | "GreaterOrEqual"
        | "Less" | "LessOrEqual" | "Mod" | "Or" | "PRelu" | "Pow" | "Xor" => run(&BinaryOp, inputs),
        "Max" | "Mean" | "Min" | "Sum" => run(&VariadicOp, inputs),
        "Where" => run(&rule::Where, inputs),
        "Conv" => conv(node, inputs, &mut run),
        "ConvInteger" => {
            inputs.truncate(2);
            conv(node, inputs, &mut run)
        }
        "QLinearConv" => conv(node, pick(inputs, &[0, 3]), &mut run),
        "ConvTranspose" => conv_transpose(node, inputs, &mut run),
        "AveragePool" | "LpPool" | "MaxPool" => pool(node, inputs, &mut run),
        "GlobalAveragePool" | "GlobalLpPool" | "GlobalMaxPool" => run(&rule::GlobalPool, inputs),
        "MatMul" | "MatMulInteger" => {
            inputs.truncate(2);
            matmul(inputs, &mut run)
        }
        "QLinearMatMul" => run(&rule::MatMul, pick(inputs, &[0, 3])),
        "Gemm" => {
            let (a, b) = (attributes.flag("transA"), attributes.flag("transB"));
            run(&rule::Gemm { transpose_a: a, transpose_b: b }, inputs)
        }
        "Einsum" => run(&rule::Einsum { equation: attributes.text("equation").unwrap_or_default() }, inputs),
        "Concat" => run(&rule::Concat { axis: int("axis", 0)? }, inputs),
        "Split" => split(node, inputs, &mut run),
        "Slice" => run(&rule::Slice, inputs),
        "Gather" => run(&rule::Gather { axis: int("axis", 0)? }, inputs),
        "GatherElements" => run(&rule::GatherElements, inputs),
        "GatherND" => {
            let batch_dims = attributes.int("batch_dims").and_then(|i| usize::try_from(i).ok()).unwrap_or(0);
            run(&rule::GatherND { batch_dims }, inputs)
        }
        "Reshape" => run(&rule::Reshape { allow_zero: attributes.flag("allowzero") }, inputs),
        "Flatten" => run(&rule::Flatten { axis: int("axis", 1)? }, inputs),
        "Squeeze" => run(&rule::Squeeze, inputs),
        "Unsqueeze" => run(&rule::Unsqueeze, inputs),
        "Transpose" => run(&rule::Transpose { perm: attributes.lengths("perm")?.as_deref() }, inputs),
        "Expand" => run(&rule::Expand, inputs),
        "Tile" => tile(inputs, &mut run),
        "Pad" => run(&rule::Pad, inputs),
        "Shape" => {
            let bound = |name| attributes.int(name).map(narrow).transpose();
            run(&rule::Shape { start: bound("start")?, end: bound("end")? }, inputs)
        }
        "Size" => run(&rule::Size, inputs),
        "Range" => range(graph, node, inputs, &mut run),
        "OneHot" => run(&rule::OneHot { axis: int("axis", -1)? }, inputs),
        "ConstantOfShape" => constant_of_shape(node, inputs, &mut run),
        "ReduceL1" | "ReduceL2" | "ReduceLogSum" | "ReduceLogSumExp" | "ReduceMax" | "ReduceMean"
        | "ReduceMin" | "ReduceProd" | "ReduceSum" | "ReduceSumSquare" => reduce(node, inputs, &mut run),
        "ArgMax" | "ArgMin" => {
            let keep_dims = int("keepdims", 1)? != 0;
            run(&ReductionOp { axes: Some(&[int("axis", 0)?]), keep_dims }, inputs)
        }
        "TopK" => run(&rule::TopK { axis: Some(int("axis", -1)?) }, inputs),
        "Resize" => resize(graph, node, inputs, &mut run),
        "DepthToSpace" => {
            let block_size = u32::try_from(int("blocksize", 1)?).unwrap_or(1);
            run(&rule::DepthToSpace { block_size }, inputs)
        }
        "SpaceToDepth" => space_to_depth(inputs, int("blocksize", 1)?),
        "ScatterElements" | "ScatterND" => {
            inputs.truncate(1);
            run(&UnaryOp, inputs)
        }
        "Attention" => onnx_attention(node, &inputs),
        "DynamicQuantizeLinear" => run(&rule::DynamicQuantizeLinear, inputs),
        _ => Err(Missing::Rule),
    }
}

/// As it was; and a mean and a factor for each row, whose axes are one long.
fn layer_norm(inputs: Inputs, axis: i32) -> Found {
    let data = inputs.into_iter().next().flatten().ok_or(Missing::Rule)?;
    let Some(mut lengths) = data.shape().map(Iterator::collect::<Vec<_>>) else { return Ok(vec![data]) };
    let rank = lengths.len() as i32;
    let first = if axis < 0 { axis.saturating_add(rank) } else { axis };
    let first = usize::try_from(first).map_err(|_| Missing::Shape(format!("axis {axis} of {rank}")))?;
    lengths.iter_mut().skip(first).for_each(|length| *length = SymExpr::Value(1));
    let of_rows = SymTensor::from_shape(lengths);
    Ok(vec![SymTensor::from_shape(data.shape().into_iter().flatten().collect()), of_rows.clone(), of_rows])
}

/// As long as the queries, as wide as the values.
fn attention(inputs: &[Option<SymTensor>]) -> Found {
    let shape = |at: usize| {
        let tensor = inputs.get(at).and_then(Option::as_ref);
        tensor.and_then(|t| Some(t.shape()?.collect::<Vec<_>>()))
    };
    let (Some(mut shape), Some(values)) = (shape(0), shape(1)) else {
        return Err(Missing::Shape("the shapes of what it reads are not known".to_owned()));
    };
    if let (Some(last), Some(width)) = (shape.last_mut(), values.last()) {
        *last = width.clone();
    }
    Ok(vec![SymTensor::from_shape(shape)])
}

/// ONNX's own: heads apart or as one axis with their elements, and what is new behind what is past. It also makes the keys and values that are looked
/// at, and the scores.
fn onnx_attention(node: &Node, inputs: &[Option<SymTensor>]) -> Found {
    let unknown = || Missing::Shape("the shapes of what it reads are not known".to_owned());
    let shape = |at: usize| {
        let tensor = inputs.get(at).and_then(Option::as_ref);
        tensor.and_then(|t| Some(t.shape()?.collect::<Vec<_>>())).ok_or_else(unknown)
    };
    let heads = |name: &str| match node.op.attributes.int(name) {
        Some(n) if n > 0 => narrow(n).map(SymExpr::Value),
        other => Err(Missing::Shape(format!("{name} is {other:?}: expected a number of heads"))),
    };
    // As [batch, heads, rows, columns].
    let apart = |shape: &[SymExpr], name: &str| match shape {
        [batch, heads, rows, columns] => Ok([batch.clone(), heads.clone(), rows.clone(), columns.clone()]),
        [batch, rows, all] => {
            let heads = heads(name)?;
            Ok([batch.clone(), heads.clone(), rows.clone(), all.clone() / heads])
        }
        _ => Err(Missing::Shape(format!("its input has {} axes, expected 3 or 4", shape.len()))),
    };
    let of_q = shape(0)?;
    let [batch, q_heads, rows, _] = apart(&of_q, "q_num_heads")?;
    let [_, kv_heads, keys, width] = apart(&shape(1)?, "kv_num_heads")?;
    let [_, _, _, columns] = apart(&shape(2)?, "kv_num_heads")?;
    let keys = match shape(4) {
        Ok(past) => past.get(2).cloned().ok_or_else(unknown)? + keys,
        Err(_) if node.input(4).is_some() => return Err(unknown()),
        Err(_) => keys,
    };
    let y = match of_q.len() {
        3 => vec![batch.clone(), rows.clone(), q_heads.clone() * columns.clone()],
        _ => vec![batch.clone(), q_heads.clone(), rows.clone(), columns.clone()],
    };
    let present = |columns| vec![batch.clone(), kv_heads.clone(), keys.clone(), columns];
    let (key, value) = (present(width), present(columns));
    let scores = vec![batch.clone(), q_heads, rows, keys.clone()];
    Ok([y, key, value, scores].map(SymTensor::from_shape).into())
}

/// The operators of ONNX Runtime, and our own, that quantised models are made of; `None` for another one.
fn quantised(
    node: &Node,
    inputs: &mut Inputs,
    run: &mut dyn FnMut(&dyn Rule, Inputs) -> Found,
    axis: i32,
) -> Option<Found> {
    let mut take = |places: &[usize]| pick(std::mem::take(inputs), places);
    Some(match node.op.name.as_str() {
        "QLinearAdd" | "QLinearMul" => run(&BinaryOp, take(&[0, 3])),
        "BiasGelu"
        | "FastGelu"
        | "Gelu"
        | "QLinearLayerNormalization"
        | "QLinearLeakyRelu"
        | "QLinearSigmoid"
        | "QLinearSoftmax"
        | "QuickGelu"
        | "Table" => run(&UnaryOp, take(&[0])),
        "QLinearConcat" => {
            let tensors = std::mem::take(inputs).into_iter().skip(2).step_by(3).collect();
            run(&rule::Concat { axis }, tensors)
        }
        "ConvFloat8" => conv(node, take(&[0, 1]), run),
        "MatMulFloat8" => matmul(take(&[0, 1]), run),
        "QLinearConv" => conv(node, take(&[0, 3]), run),
        "QLinearMatMul" => run(&rule::MatMul, take(&[0, 3])),
        "QGemm" => {
            let flag = |name: &str| node.op.attributes.flag(name);
            run(&rule::Gemm { transpose_a: flag("transA"), transpose_b: flag("transB") }, take(&[0, 3]))
        }
        "QLinearAveragePool" => pool(node, take(&[0]), run),
        "QLinearGlobalAveragePool" => run(&rule::GlobalPool, take(&[0])),
        _ => return None,
    })
}

/// A rule as a trait object: [`InferShapes`] is one, called through this.
trait Rule {
    fn run(&self, inputs: Inputs, symbols: &mut SymbolGen) -> Found;
}

impl<R: InferShapes> Rule for R {
    fn run(&self, inputs: Inputs, symbols: &mut SymbolGen) -> Found {
        let found = self.infer_shapes(InferShapesContext::from(inputs), symbols);
        found.map_err(|e| Missing::Shape(e.to_string()))
    }
}

type Run<'a> = &'a mut dyn FnMut(&dyn Rule, Inputs) -> Found;

fn pick(mut inputs: Inputs, places: &[usize]) -> Inputs {
    places.iter().map(|p| inputs.get_mut(*p).and_then(Option::take)).collect()
}

fn narrow(value: i64) -> Result<i32, Missing> {
    i32::try_from(value).map_err(|_| Missing::Shape(format!("{value} is out of range")))
}

/// The rule knows matrices; a vector is one of a single row or column, which the result has not.
fn matmul(mut inputs: Inputs, run: Run<'_>) -> Found {
    let lengths = |input: Option<&Option<SymTensor>>| {
        let shape = input.and_then(Option::as_ref).and_then(SymTensor::shape);
        shape.map(Iterator::collect::<Vec<_>>)
    };
    let (Some(mut a), Some(mut b)) = (lengths(inputs.first()), lengths(inputs.get(1))) else {
        return run(&rule::MatMul, inputs);
    };
    let (is_row, is_column) = (a.len() == 1, b.len() == 1);
    if !is_row && !is_column {
        return run(&rule::MatMul, inputs);
    }
    if is_row {
        a.insert(0, SymExpr::Value(1));
    }
    if is_column {
        b.push(SymExpr::Value(1));
    }
    inputs = vec![Some(SymTensor::from_shape(a)), Some(SymTensor::from_shape(b))];
    let made = run(&rule::MatMul, inputs)?;
    let mut shape = lengths(Some(&made.into_iter().next())).unwrap_or_default();
    if is_column {
        shape.pop();
    }
    if is_row && shape.len() + usize::from(is_column) >= 2 {
        shape.remove(shape.len() + usize::from(is_column) - 2);
    }
    Ok(vec![SymTensor::from_shape(shape)])
}

fn reduce(node: &Node, mut inputs: Inputs, run: Run<'_>) -> Found {
    let axes = inputs.get(1).and_then(Option::as_ref).map(|axes| match axes.values() {
        Some(values) => values.iter().map(number).collect::<Option<Vec<i32>>>(),
        None => None,
    });
    let axes = match axes {
        Some(None) => return Err(Missing::Shape("the axes to reduce are not known".to_owned())),
        Some(Some(axes)) => Some(axes).filter(|axes| !axes.is_empty()),
        None => None,
    };
    inputs.truncate(1);
    if axes.is_none() && node.op.attributes.flag("noop_with_empty_axes") {
        return run(&UnaryOp, inputs);
    }
    let keep_dims = node.op.attributes.int("keepdims").unwrap_or(1) != 0;
    run(&ReductionOp { axes: axes.as_deref(), keep_dims }, inputs)
}

fn number(e: &SymExpr) -> Option<i32> {
    match e.simplify() {
        SymExpr::Value(v) => Some(v),
        _ => None,
    }
}

/// Without lengths the parts are equal, the last one shorter.
fn split(node: &Node, mut inputs: Inputs, run: Run<'_>) -> Found {
    let axis = narrow(node.op.attributes.int("axis").unwrap_or(0))?;
    let parts = node.outputs.len();
    if inputs.get(1).is_none_or(Option::is_none) {
        let data = inputs.first().and_then(Option::as_ref);
        let rank = data.and_then(SymTensor::ndim).unwrap_or(0);
        let at = usize::try_from(if axis < 0 { i64::from(axis) + rank as i64 } else { axis.into() });
        let length = at.ok().and_then(|at| data?.size(at)).and_then(|e| number(&e));
        if let (Some(length), Ok(count)) = (length, i32::try_from(parts)) {
            let part = length.max(0).div_euclid(count.max(1)) + i32::from(length % count.max(1) != 0);
            let lengths = (0..count).map(|i| SymExpr::Value((length - part * i).clamp(0, part))).collect();
            inputs.truncate(1);
            inputs.push(Some(SymTensor::from_vec(lengths)));
        }
    }
    run(&rule::Split { axis, num_outputs: u32::try_from(parts).ok() }, inputs)
}

fn constant_of_shape(node: &Node, inputs: Inputs, run: Run<'_>) -> Found {
    // A vector of integers is followed by value only where it is short: its length is a stranger's word.
    let long =
        inputs.first().and_then(Option::as_ref).and_then(|s| s.values()).is_some_and(|v| {
            v.first().and_then(number).is_some_and(|n| !(0..=super::FEW as i32).contains(&n))
        });
    let value = node.op.attributes.tensor("value").filter(|t| !long && t.data_type() == 7);
    let value = value.and_then(|t| match (t.int64_data.as_slice(), t.raw_data.as_deref()) {
        ([v], _) => i32::try_from(*v).ok(),
        (_, Some(raw)) => raw.first_chunk().and_then(|b| i32::try_from(i64::from_le_bytes(*b)).ok()),
        _ => None,
    });
    run(&rule::ConstantOfShape { value }, inputs)
}

/// The rule multiplies in 32 bits, and how often a tensor is repeated is a stranger's word.
fn tile(inputs: Inputs, run: Run<'_>) -> Found {
    let data = inputs.first().and_then(Option::as_ref).and_then(SymTensor::shape);
    let repeats = inputs.get(1).and_then(Option::as_ref).and_then(SymTensor::values);
    for (length, times) in data.into_iter().flatten().zip(repeats.unwrap_or_default()) {
        if let (Some(n), Some(times)) = (number(&length), number(times))
            && n.checked_mul(times).is_none()
        {
            return Err(Missing::Shape(format!("{n} × {times} elements")));
        }
    }
    run(&rule::Tile, inputs)
}

fn space_to_depth(inputs: Inputs, block: i32) -> Found {
    let shape = inputs.first().and_then(Option::as_ref).and_then(SymTensor::shape);
    let lengths = shape.map(Iterator::collect::<Vec<_>>).unwrap_or_default();
    let [n, c, h, w] = lengths.as_slice() else {
        return Err(Missing::Shape(format!("its input has {} axes, expected 4", lengths.len())));
    };
    let by = |e: &SymExpr| e.clone() / SymExpr::Value(block.max(1));
    let depth = c.clone() * SymExpr::Value(block) * SymExpr::Value(block);
    Ok(vec![SymTensor::from_shape(vec![n.clone(), depth, by(h), by(w)])])
}
