//! Shapes, as far as they follow from the inputs'.
//!
//! Lengths are expressions over the free dimensions (`N`, `12 * N`), so one pass tells what holds for every batch;
//! [`Graph::bind`](super::Graph::bind) puts numbers in and everything is a number. Small integer tensors are followed by
//! value too, because that is how models compute the shapes that they reshape to.
//!
//! The rules are the `rten-shape-inference` crate's, which were held against ONNX Runtime on thousands of tensors;
//! `rules` maps ONNX's operators onto them. The crate computes in 32 bits and trusts its caller, so a hostile model
//! could make it panic or overflow: a panic becomes an unknown shape here, and whoever allocates by a shape checks its size
//! ([`Shape::element_count`]).

mod rules;

use std::borrow::Cow;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use rten_shape_inference::{SymExpr, SymTensor, SymbolGen};

use super::Graph;
use crate::error::{Result, ScoreError};
use crate::model::onnx::TensorShapeProto;
use crate::model::onnx::tensor_shape_proto::dimension;
use crate::tensor::{DType, Tensor};

/// A shape as far as it is known; for a small integer tensor, its elements too.
#[derive(Debug, Clone, PartialEq)]
pub struct Shape(Result<SymTensor, Cow<'static, str>>);

/// A length: a number, or an expression over free dimensions.
#[derive(Debug, Clone, PartialEq)]
pub struct Extent(SymExpr);

/// Integer tensors of at most so many elements are followed by value: a shape has no more axes.
const FEW: usize = 64;

/// Larger tensors have no shape here: the lengths that follow from theirs might not fit 32 bits.
const MAX_ELEMENTS: usize = i32::MAX as usize;

/// Expressions that are deeper are no shape of a real model, and slow to simplify.
const MAX_DEPTH: u32 = 32;

impl Shape {
    /// Nothing is known of it.
    pub const UNKNOWN: Self = Self(Err(Cow::Borrowed("")));

    /// A shape of numbers.
    pub fn fixed(lengths: &[usize]) -> Self {
        let elements = lengths.iter().try_fold(1usize, |product, n| product.checked_mul(*n));
        if elements.is_none_or(|n| n > MAX_ELEMENTS) && !lengths.contains(&0) {
            return Self::unknown(format!("{lengths:?} has more than {MAX_ELEMENTS} elements"));
        }
        match lengths.iter().map(|n| i32::try_from(*n).map(SymExpr::Value)).collect::<Result<_, _>>() {
            Ok(lengths) => Self(Ok(SymTensor::from_shape(lengths))),
            Err(_) => Self::unknown(format!("{lengths:?} has an axis longer than {}", i32::MAX)),
        }
    }

    fn unknown(why: impl Into<Cow<'static, str>>) -> Self {
        Self(Err(why.into()))
    }

    /// As a model declares it; an unnamed free dimension is named after the value and the axis.
    pub(super) fn declared(value: &str, shape: Option<&TensorShapeProto>) -> Self {
        let Some(shape) = shape else { return Self::UNKNOWN };
        let extent = |(axis, dim): (usize, &Option<dimension::Value>)| match dim {
            Some(dimension::Value::DimValue(n)) if *n >= 0 => i32::try_from(*n).ok().map(SymExpr::Value),
            Some(dimension::Value::DimParam(name)) if !name.is_empty() => Some(SymExpr::pos_var(name)),
            _ => Some(SymExpr::pos_var(&format!("{value}.{axis}"))),
        };
        let lengths = shape.dim.iter().map(|d| &d.value).enumerate().map(extent).collect::<Option<Vec<_>>>();
        lengths.map_or(Self::unknown("an axis is too long"), |l| Self(Ok(SymTensor::from_shape(l))))
    }

    /// A tensor's shape; its elements too, if they are few integers.
    pub(super) fn of_tensor(tensor: &Tensor) -> Self {
        if tensor.shape().len() <= 1 && tensor.len() <= FEW {
            let clamped = |v: i64| SymExpr::Value(v.clamp(i32::MIN.into(), i32::MAX.into()) as i32);
            let values: Option<Vec<_>> = match tensor.dtype() {
                DType::I64 => tensor.as_slice::<i64>().ok().map(|s| s.iter().map(|v| clamped(*v)).collect()),
                DType::I32 => {
                    tensor.as_slice::<i32>().ok().map(|s| s.iter().map(|v| clamped((*v).into())).collect())
                }
                _ => None,
            };
            match values {
                Some(mut values) if tensor.shape().is_empty() => {
                    return values.pop().map_or(Self::UNKNOWN, |v| Self(Ok(SymTensor::from_scalar(v))));
                }
                Some(values) => return Self(Ok(SymTensor::from_vec(values))),
                None => {}
            }
        }
        Self::fixed(tensor.shape())
    }

    /// How many axes there are.
    pub fn rank(&self) -> Option<usize> {
        self.0.as_ref().ok().and_then(SymTensor::ndim)
    }

    /// The length of every axis.
    pub fn extents(&self) -> Option<Vec<Extent>> {
        let shape = self.0.as_ref().ok()?.shape()?;
        Some(shape.map(|e| Extent(e.simplify())).collect())
    }

    /// The length of every axis, if all are numbers.
    pub fn lengths(&self) -> Option<Vec<usize>> {
        self.extents()?.iter().map(Extent::length).collect()
    }

    /// The lengths, or an error that says why they are not known.
    ///
    /// # Errors
    /// `Unsupported` where one is free or nothing is known.
    pub fn require_lengths(&self) -> Result<Vec<usize>> {
        self.lengths().ok_or_else(|| {
            ScoreError::unsupported(match &self.0 {
                Err(why) if !why.is_empty() => format!("its shape is not known: {why}"),
                Err(_) => "its shape is not known".to_owned(),
                Ok(_) => format!("its shape is {self}: a length is not known"),
            })
        })
    }

    /// How many elements a tensor of this shape has, if all lengths are numbers and their product is one.
    pub fn element_count(&self) -> Option<usize> {
        self.lengths()?.iter().try_fold(1usize, |product, n| product.checked_mul(*n))
    }

    /// The elements of a small integer tensor, if they are followed and all are numbers.
    pub fn integers(&self) -> Option<Vec<i64>> {
        let values = self.0.as_ref().ok()?.values()?;
        let number = |e: &SymExpr| match e.simplify() {
            SymExpr::Value(v) => Some(i64::from(v)),
            _ => None,
        };
        values.iter().map(number).collect()
    }

    /// The shape with its axes in another order.
    pub(super) fn permuted(&self, order: &[i64]) -> Self {
        let extents = self.extents().unwrap_or_default();
        let taken = order.iter().map(|a| extents.get(usize::try_from(*a).ok()?).map(|e| e.0.clone()));
        taken.collect::<Option<Vec<_>>>().map_or(Self::UNKNOWN, |l| Self(Ok(SymTensor::from_shape(l))))
    }

    /// The shape with every axis behind the first two one long.
    pub(super) fn pooled(&self) -> Self {
        let Some(extents) = self.extents() else { return Self::UNKNOWN };
        let one = |(i, e): (usize, Extent)| if i < 2 { e.0 } else { SymExpr::Value(1) };
        Self(Ok(SymTensor::from_shape(extents.into_iter().enumerate().map(one).collect())))
    }

    /// The shape with another length of its last axis.
    pub(super) fn with_last(&self, length: usize) -> Self {
        let lengths = self.extents().map(|e| e.into_iter().map(|e| e.0).collect::<Vec<_>>());
        let (Some(mut lengths), Ok(length)) = (lengths, i32::try_from(length)) else { return Self::UNKNOWN };
        let Some(last) = lengths.last_mut() else { return Self::UNKNOWN };
        *last = SymExpr::Value(length);
        Self(Ok(SymTensor::from_shape(lengths)))
    }

    /// Whether its elements are followed.
    fn is_followed(&self) -> bool {
        self.0.as_ref().is_ok_and(|t| t.values().is_some())
    }

    fn symbolic(&self) -> SymTensor {
        self.0.clone().unwrap_or_else(|_| SymTensor::unknown("unknown"))
    }
}

impl Extent {
    /// The length, if it is a number.
    pub fn length(&self) -> Option<usize> {
        match self.0 {
            SymExpr::Value(v) => usize::try_from(v).ok(),
            _ => None,
        }
    }
}

impl fmt::Display for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for Shape {
    /// As `[N, 3, 2 * W]`; `[?]` where not even the number of axes is known.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.extents() {
            Some(extents) => {
                let texts = extents.iter().map(Extent::to_string).collect::<Vec<_>>();
                write!(f, "[{}]", texts.join(", "))
            }
            None => f.write_str("[?]"),
        }
    }
}

/// Infers the shape of every value that a node makes. With `inputs`, each input first gets that shape.
///
/// # Errors
/// `BadInput` where `inputs` are not as many as the graph's.
pub(super) fn infer(graph: &mut Graph, inputs: Option<&[&[usize]]>) -> Result<()> {
    if let Some(shapes) = inputs {
        let (expected, got) = (graph.inputs.len(), shapes.len());
        if expected != got {
            return Err(ScoreError::bad_input(format!("{got} shapes for {expected} inputs")));
        }
        for (input, shape) in graph.inputs.clone().into_iter().zip(shapes) {
            if let Some(value) = graph.value_mut(input) {
                value.shape = Shape::fixed(shape);
            }
        }
    }
    let mut symbols = SymbolGen::new();
    for place in 0..graph.nodes.len() {
        let Some(node) = graph.nodes.get(place) else { continue };
        let shape = |id: &Option<_>| id.map(|id| graph.value(id).shape.symbolic());
        let read = node.inputs.iter().map(shape).collect::<Vec<_>>();
        let attempt = catch_unwind(AssertUnwindSafe(|| {
            let shapes = rules::outputs(graph, node, read, &mut symbols)?;
            Ok(shapes.into_iter().map(|s| settle(s, &mut symbols)).collect::<Vec<_>>())
        }));
        let found = match attempt {
            Ok(Ok(shapes)) => shapes,
            // An operator without a rule keeps what the model declares.
            Ok(Err(rules::Missing::Rule)) => continue,
            Ok(Err(rules::Missing::Shape(why))) => {
                vec![Shape::unknown(format!("{}: {why}", graph.place(node))); node.outputs.len()]
            }
            Err(_) => vec![Shape::unknown("its sizes are out of range"); node.outputs.len()],
        };
        for (output, shape) in node.outputs.clone().into_iter().zip(found) {
            if let Some(value) = output.and_then(|id| graph.value_mut(id)) {
                value.shape = shape;
            }
        }
    }
    Ok(())
}

/// Simplifies a shape, and replaces what cannot be told in a short expression by a new free length.
fn settle(tensor: SymTensor, symbols: &mut SymbolGen) -> Shape {
    let mut tensor = tensor;
    tensor.replace_complex_expressions(MAX_DEPTH, symbols);
    let tensor = tensor.simplify();
    if tensor.values().is_some_and(|v| v.len() > FEW) {
        let shape = tensor.shape().map(Iterator::collect);
        return shape.map_or(Shape::UNKNOWN, |s| Shape(Ok(SymTensor::from_shape(s))));
    }
    let shape = match tensor.ndim() {
        Some(_) => Shape(Ok(tensor)),
        None => return Shape::UNKNOWN,
    };
    match shape.lengths() {
        // A number that is too large, or was before it overflowed and is negative now.
        Some(lengths) if !shape.is_followed() => Shape::fixed(&lengths),
        _ => shape,
    }
}

#[cfg(test)]
mod tests {
    use crate::graph::testing::graph_of;

    /// The shape of the output of a graph of one operator.
    fn shape(inputs: &str, op: &str) -> String {
        let graph = graph_of(&format!("{inputs}\ny = {op}\n-> y"));
        graph.value(graph.outputs()[0]).shape.to_string()
    }

    #[test]
    fn shapes_follow_and_the_batch_stays_free() {
        let image = "x: f32[N, 3, 32, 32]\nw = f32[8, 3, 3, 3] 1";
        let rows = [
            (image, "Conv(x, w)", "[N, 8, 30, 30]"),
            (image, "Conv<pads=[1, 1, 1, 1], strides=[2, 2]>(x, w)", "[N, 8, 16, 16]"),
            (image, "Conv<auto_pad=SAME_UPPER, strides=[2, 2]>(x, w)", "[N, 8, 16, 16]"),
            (image, "Conv<auto_pad=VALID, dilations=[2, 2]>(x, w)", "[N, 8, 28, 28]"),
            (image, "MaxPool<kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1>(x)", "[N, 3, 16, 16]"),
            (image, "GlobalAveragePool(x)", "[N, 3, 1, 1]"),
            ("x: f32[N, 2, 5, 6, 7]\nw = f32[17, 2, 2, 3, 2] 1", "Conv(x, w)", "[N, 17, 4, 4, 6]"),
            (
                "x: f32[N, 2, 5, 6, 7]",
                "MaxPool<kernel_shape=[2, 2, 2], strides=[2, 2, 2]>(x)",
                "[N, 2, 2, 3, 3]",
            ),
            (image, "Flatten(x)", "[N, 3072]"),
            (image, "Transpose<perm=[0, 2, 3, 1]>(x)", "[N, 32, 32, 3]"),
            (image, "Softmax(x)", "[N, 3, 32, 32]"),
            (image, "Nonsense(x)", "[?]"),
            ("x: f32[N, 4]\nw = f32[4, 2] 1", "MatMul(x, w)", "[N, 2]"),
            ("x: f32[N, 4]\nw = f32[2, 4] 1", "Gemm<transB=1>(x, w)", "[N, 2]"),
            ("x: f32[N, 4]\nw = f32[4] 1", "MatMul(x, w)", "[N]"),
            ("x: f32[4]\nw: f32[N, 4, 3]", "MatMul(x, w)", "[N, 3]"),
            ("x: f32[4]\nw: f32[4]", "MatMul(x, w)", "[]"),
            ("x: f32[N, 4]\ns = i64[2] -1 2", "Reshape(x, s)", "[2 * N, 2]"),
            ("x: f32[N, 4]\na = i64[1] 1", "ReduceMean(x, a)", "[N, 1]"),
            ("x: f32[N, 4]", "Split<num_outputs=1, axis=1>(x)", "[N, 4]"),
            ("x: f32[N, 4]\nx2: f32[N, 5]", "Concat<axis=1>(x, x2)", "[N, 9]"),
            ("x: f32[N, 4]", "Shape(x)", "[2]"),
            ("x: f32[N, 4]\ns = f32[] 1", "QuantizeLinear(x, s)", "[N, 4]"),
            (
                "x: u8[N, 4]\ns = f32[] 1\nz = u8[] 0\nw = i8[4, 7] 1\nv = i8[] 0",
                "QLinearMatMul(x, s, z, w, s, v, s, z)",
                "[N, 7]",
            ),
        ];
        for (inputs, op, expected) in rows {
            assert_eq!(shape(inputs, op), expected, "{op}");
        }
    }

    #[test]
    fn all_outputs_have_a_shape() {
        let text =
            "x: f32[N, 4, 5]\ns = f32[4, 5] 1\ny, m, f = LayerNormalization<axis=-2>(x, s)\n-> y, m, f";
        let graph = graph_of(text);
        let shapes = graph.outputs().iter().map(|id| graph.value(*id).shape.to_string());
        assert_eq!(shapes.collect::<Vec<_>>(), ["[N, 4, 5]", "[N, 1, 1]", "[N, 1, 1]"]);
    }

    #[test]
    fn shapes_of_operators_with_parameters_follow() {
        let image = "x: f32[N, 3, 5, 8]\nw = f32[3, 4, 3, 3] 1\nsizes = i64[2] 10 8\nscales = f32[2] 2 0.5\nr = f32[0]";
        let rows = [
            (image, "Resize<axes=[2, 3]>(x, _, scales)", "[N, 3, 10, 4]"),
            (image, "Resize<axes=[3, -2]>(x, _, _, sizes)", "[N, 3, 8, 10]"),
            (
                image,
                "Resize<axes=[2, 3], keep_aspect_ratio_policy=not_larger>(x, _, _, sizes)",
                "[N, 3, 5, 8]",
            ),
            (
                image,
                "Resize<axes=[2, 3], keep_aspect_ratio_policy=not_smaller>(x, _, _, sizes)",
                "[N, 3, 10, 16]",
            ),
            (image, "ConvTranspose<output_shape=[11, 17], strides=[2, 2]>(x, w)", "[N, 4, 11, 17]"),
            ("x: f32[N, 3, 9, 8, 7]", "MaxPool<kernel_shape=[2, 2, 2]>(x)", "[N, 3, 8, 7, 6]"),
            ("x: i64[N, 3]\nd = i64[] 7\nv = f32[2] 0 1", "OneHot<axis=1>(x, d, v)", "[N, 7, 3]"),
            ("x: f32[N, 3]\na = i64[] 1", "CumSum(x, a)", "[N, 3]"),
            ("x: f32[N, 4, 8]\nc = f32[9, 4] 1", "RotaryEmbedding<num_heads=1>(x, c, c)", "[N, 4, 8]"),
            ("x: f32[N, 3]", "Hardmax(x)", "[N, 3]"),
            ("x: f32[4, 3]", "EyeLike(x)", "[4, 3]"),
            ("x: f32[N, 3, 2, 2]", "MeanVarianceNormalization(x)", "[N, 3, 2, 2]"),
            ("a = f32[] 1\nb = f32[] 2.2\nc = f32[] 0.5", "Range(a, b, c)", "[3]"),
        ];
        for (inputs, op, expected) in rows {
            assert_eq!(shape(inputs, op), expected, "{op}");
        }
    }

    #[test]
    fn shapes_that_a_model_computes_are_followed() {
        let graph = graph_of(
            "x: f32[N, T, 8]
             zero = i64[] 0
             first = i64[1] 0
             rest = i64[2] -1 4
             s = Shape(x)
             n = Gather(s, zero)
             m = Unsqueeze(n, first)
             to = Concat<axis=0>(m, rest)
             y = Reshape(x, to)
             -> y",
        );
        let y = graph.outputs()[0];
        assert_eq!(graph.value(y).shape.to_string(), "[N, 2 * T, 4]");
        let bound = graph.bind(&[&[2, 5, 8]]).unwrap();
        assert_eq!(bound.value(y).shape.lengths(), Some(vec![2, 10, 4]));
        assert_eq!(bound.value(graph.find("to").unwrap()).shape.integers(), Some(vec![2, -1, 4]));
        assert!(graph.bind(&[]).unwrap_err().to_string().contains("0 shapes for 1 inputs"));
    }

    #[test]
    fn sizes_out_of_range_are_unknown_and_no_panic() {
        let graph = graph_of(
            "x: f32[N, 2147483647, 2147483647]
             s = i64[1] -1
             y = Reshape(x, s)
             z = Flatten<axis=3>(x)
             -> y, z",
        );
        let bound = graph.bind(&[&[3, 2147483647, 2147483647]]).unwrap();
        assert_eq!(bound.value(graph.inputs()[0]).shape.element_count(), None);
        let why = graph.bind(&[&[1 << 40, 1, 1]]).unwrap();
        let why = why.value(graph.inputs()[0]).shape.require_lengths().unwrap_err().to_string();
        assert!(why.contains("more than 2147483647 elements"), "{why}");
    }

    #[test]
    fn what_does_not_fit_says_so() {
        let graph = graph_of("x: f32[N, 4]\nw = f32[5] 1\ny = Add(x, w)\n-> y");
        let why = graph.value(graph.outputs()[0]).shape.require_lengths().unwrap_err().to_string();
        assert!(why.contains("Add that makes 'y'") && why.contains("incompatible"), "{why}");
    }
}
