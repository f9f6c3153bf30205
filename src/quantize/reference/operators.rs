//! The dispatch: one arm an operator, each a call of a function of [`int8`](crate::int8).

use super::{Run, moving};
use crate::error::{Result, ScoreError};
use crate::graph::{AutoPad, Node, Window, functions};
use crate::int8::{self, ConvShape, Ints, LayerNorm, Pool, QParams, QType};
use crate::tensor::{DType, Tensor};

/// What a node makes.
pub(super) fn compute(run: &Run<'_>, node: &Node) -> Result<Vec<Tensor>> {
    let attributes = &node.op.attributes;
    let one = |ints: Ints, params: &QParams| Ok(vec![ints.to_tensor(params.qtype())?]);
    match node.op.name.as_str() {
        "QuantizeLinear" => quantize(run, node),
        "DequantizeLinear" => dequantize(run, node),
        "QLinearConv" => {
            let ((x, from), w, to) = (run.quantised(node, 0)?, run.ints(node, 3)?, run.made_params(node, 6)?);
            let weights = run.weight_params(node, 4, QType::try_from(run.input(node, 3)?.dtype())?)?;
            let bias = run.optional(node, 8)?.map(|b| b.as_slice::<i32>()).transpose()?;
            let shape = conv_shape(node, &x, &w)?;
            one(int8::conv((&x, &from), (&w, &weights), bias, &shape, &to)?, &to)
        }
        "QLinearMatMul" => {
            let ((a, from), b, to) = (run.quantised(node, 0)?, run.ints(node, 3)?, run.made_params(node, 6)?);
            let weights = run.weight_params(node, 4, QType::try_from(run.input(node, 3)?.dtype())?)?;
            one(int8::matmul((&a, &from), (&b, &weights), None, &to)?, &to)
        }
        "QGemm" => gemm(run, node),
        "QLinearAdd" | "QLinearMul" => {
            let ((a, a_params), (b, b_params)) = (run.quantised(node, 0)?, run.quantised(node, 3)?);
            let to = run.made_params(node, 6)?;
            let f = if node.op.name == "QLinearAdd" { int8::add } else { int8::mul };
            one(f((&a, &a_params), (&b, &b_params), &to)?, &to)
        }
        "QLinearConcat" => {
            let to = run.made_params(node, 0)?;
            let places = (2..node.inputs.len()).step_by(3);
            let parts = places.map(|place| run.quantised(node, place)).collect::<Result<Vec<_>>>()?;
            let parts = parts.iter().map(|(x, p)| (x, p)).collect::<Vec<_>>();
            let rank = parts.first().map_or(0, |(x, _)| x.shape().len());
            one(int8::concat(&parts, moving::axis(attributes.int("axis").unwrap_or(0), rank)?, &to)?, &to)
        }
        "QLinearGlobalAveragePool" => {
            let ((x, from), to) = (run.quantised(node, 0)?, run.made_params(node, 3)?);
            one(int8::global_average_pool(&x, &from, &to)?, &to)
        }
        "QLinearAveragePool" => {
            let ((x, from), to) = (run.quantised(node, 0)?, run.made_params(node, 3)?);
            one(int8::average_pool(&x, &from, &pool(node, &x)?, &to)?, &to)
        }
        "QLinearSoftmax" => softmax(run, node),
        "QLinearLayerNormalization" => {
            let ((x, from), to) = (run.quantised(node, 0)?, run.made_params(node, 5)?);
            let (scale, bias) =
                (run.input(node, 3)?.as_slice::<f32>()?, run.input(node, 4)?.as_slice::<f32>()?);
            let epsilon = attributes.float("epsilon").unwrap_or(1e-5);
            let norm = LayerNorm::new(&from, scale, bias, epsilon, &to)?;
            one(int8::layer_norm(&x, &from, &norm, &to)?, &to)
        }
        "Table" if node.op.domain == functions::DOMAIN => {
            let (x, table) = (run.input(node, 0)?, run.input(node, 1)?);
            let from = QParams::new(1.0, 0, QType::try_from(x.dtype())?)?;
            let entries = Ints::of(table)?;
            let looked_up = int8::lookup(&Ints::of(x)?, &from, entries.values())?;
            Ok(vec![looked_up.to_tensor(QType::try_from(table.dtype())?)?])
        }
        "MaxPool" => {
            let x = run.ints(node, 0)?;
            let made = int8::max_pool(&x, &pool(node, &x)?)?;
            Ok(vec![made.to_tensor(QType::try_from(run.input(node, 0)?.dtype())?)?])
        }
        "Clip" => {
            let (x, low, high) = (run.ints(node, 0)?, run.ints(node, 1)?, run.ints(node, 2)?);
            let (low, high) = (low.values().first().copied(), high.values().first().copied());
            let clamp = |v: &i32| (*v).max(low.unwrap_or(i32::MIN)).min(high.unwrap_or(i32::MAX));
            let clamped = Ints::new(x.shape(), x.values().iter().map(clamp).collect())?;
            Ok(vec![clamped.to_tensor(QType::try_from(run.input(node, 0)?.dtype())?)?])
        }
        "ConvInteger" => {
            let (x, w) = (run.ints(node, 0)?, run.ints(node, 1)?);
            let x_zero = run.zero_points(node, 2, 1)?.first().copied().unwrap_or(0);
            let zeros = run.zero_points(node, 3, 1)?;
            let weights = int8::WeightParams::new(
                vec![1.0; zeros.len()],
                zeros,
                QType::try_from(run.input(node, 1)?.dtype())?,
            )?;
            let sums = int8::conv_integer(&x, x_zero, &w, &weights, None, &conv_shape(node, &x, &w)?)?;
            Ok(vec![Tensor::from_slice(
                &sums.shape,
                &sums.values.iter().map(|v| *v as i32).collect::<Vec<_>>(),
            )?])
        }
        "MatMulInteger" => {
            let (a, b) = (run.ints(node, 0)?, run.ints(node, 1)?);
            let a_zero = run.zero_points(node, 2, 1)?.first().copied().unwrap_or(0);
            let zeros = run.zero_points(node, 3, 1)?;
            let weights = int8::WeightParams::new(
                vec![1.0; zeros.len()],
                zeros,
                QType::try_from(run.input(node, 1)?.dtype())?,
            )?;
            let sums = int8::matmul_integer(&a, a_zero, &b, &weights, None)?;
            Ok(vec![Tensor::from_slice(
                &sums.shape,
                &sums.values.iter().map(|v| *v as i32).collect::<Vec<_>>(),
            )?])
        }
        "DynamicQuantizeLinear" => {
            let x = run.input(node, 0)?;
            let (q, p) = int8::dynamic_quantize(x.shape(), x.as_slice::<f32>()?)?;
            let zero = Tensor::from_slice(&[], &[p.zero_point() as u8])?;
            Ok(vec![q.to_tensor(QType::U8)?, Tensor::from_slice(&[], &[p.scale()])?, zero])
        }
        _ => moving::compute(run, node),
    }
}

/// `QuantizeLinear`, with one scale or one for each element of an axis.
fn quantize(run: &Run<'_>, node: &Node) -> Result<Vec<Tensor>> {
    let x = run.input(node, 0)?;
    let dtype = run.optional(node, 2)?.map_or(DType::U8, Tensor::dtype);
    let qtype = QType::try_from(dtype)?;
    let params = run.weight_params(node, 1, qtype)?;
    let channel = channel_of(node, x.shape(), run.input(node, 1)?)?;
    let each = |(i, v): (usize, &f32)| {
        let (scale, zero) = params.channel(channel(i));
        Ok(QParams::new(scale, zero, qtype)?.quantize(*v))
    };
    let values = x.as_slice::<f32>()?.iter().enumerate().map(each).collect::<Result<Vec<_>>>()?;
    Ok(vec![Ints::new(x.shape(), values)?.to_tensor(qtype)?])
}

fn dequantize(run: &Run<'_>, node: &Node) -> Result<Vec<Tensor>> {
    let x = run.input(node, 0)?;
    let scales = run.input(node, 1)?.as_slice::<f32>()?;
    let zeros = run.zero_points(node, 2, scales.len())?;
    let channel = channel_of(node, x.shape(), run.input(node, 1)?)?;
    let each = |(i, q): (usize, &i32)| {
        let at = channel(i);
        (q - zeros.get(at).copied().unwrap_or(0)) as f32 * scales.get(at).copied().unwrap_or(1.0)
    };
    let values = Ints::of(x)?.values().iter().enumerate().map(each).collect::<Vec<_>>();
    Ok(vec![Tensor::from_slice(x.shape(), &values)?])
}

/// Which of several scales an element has: one for all, one for each index of an axis, or one for each block along it.
fn channel_of(node: &Node, shape: &[usize], scale: &Tensor) -> Result<Box<dyn Fn(usize) -> usize>> {
    let scales = scale.len();
    if scales == 1 {
        return Ok(Box::new(|_| 0));
    }
    let axis = moving::axis(node.op.attributes.int("axis").unwrap_or(1), shape.len())?;
    let length = shape.get(axis).copied().unwrap_or(0);
    let inner = shape.iter().skip(axis + 1).product::<usize>().max(1);
    let block = node.op.attributes.int("block_size").and_then(|b| usize::try_from(b).ok()).unwrap_or(0);
    let blocks = length.checked_div(block).unwrap_or(length);
    let (expected, wrong) = match block {
        0 => (length, scale.shape().len() != 1),
        _ => (shape.iter().product::<usize>() / block.max(1), !length.is_multiple_of(block)),
    };
    if scales != expected || wrong {
        return Err(ScoreError::bad_model(format!(
            "{:?} scales along axis {axis} of {shape:?}",
            scale.shape()
        )));
    }
    Ok(Box::new(move |i: usize| match block {
        0 => i / inner % length.max(1),
        _ => (i / inner / length.max(1) * blocks + i / inner % length.max(1) / block) * inner + i % inner,
    }))
}

fn gemm(run: &Run<'_>, node: &Node) -> Result<Vec<Tensor>> {
    let ((a, from), b) = (run.quantised(node, 0)?, run.ints(node, 3)?);
    let weights = run.weight_params(node, 4, QType::try_from(run.input(node, 3)?.dtype())?)?;
    let flag = |name: &str| node.op.attributes.flag(name);
    let a = if flag("transA") { moving::transpose(&a, &[1, 0])? } else { a };
    let b = if flag("transB") { moving::transpose(&b, &[1, 0])? } else { b };
    let bias = run.optional(node, 6)?.map(|t| t.as_slice::<i32>()).transpose()?;
    if node.input(7).is_none() {
        let (shape, values) = int8::gemm_to_f32((&a, &from), (&b, &weights), bias)?;
        return Ok(vec![Tensor::from_slice(&shape, &values)?]);
    }
    let to = run.made_params(node, 7)?;
    Ok(vec![int8::matmul((&a, &from), (&b, &weights), bias, &to)?.to_tensor(to.qtype())?])
}

/// Over an axis, which is moved to be the last one and back.
fn softmax(run: &Run<'_>, node: &Node) -> Result<Vec<Tensor>> {
    let ((x, from), to) = (run.quantised(node, 0)?, run.made_params(node, 3)?);
    let rank = x.shape().len();
    let axis = moving::axis(node.op.attributes.int("axis").unwrap_or(-1), rank)?;
    let mut order = (0..rank).filter(|a| *a != axis).collect::<Vec<_>>();
    order.push(axis);
    let moved = int8::softmax(&moving::transpose(&x, &order)?, &from, &to)?;
    let mut back = vec![0; rank];
    for (at, axis) in order.iter().enumerate() {
        if let Some(place) = back.get_mut(*axis) {
            *place = at;
        }
    }
    Ok(vec![moving::transpose(&moved, &back)?.to_tensor(to.qtype())?])
}

fn conv_shape(node: &Node, x: &Ints, w: &Ints) -> Result<ConvShape> {
    let axes = x.shape().len().saturating_sub(2);
    let window = Window::of_conv(&node.op.attributes, axes)?;
    let groups = node.op.attributes.int("group").unwrap_or(1);
    let groups = usize::try_from(groups).map_err(|_| ScoreError::bad_model(format!("{groups} groups")))?;
    let kernel = |a: usize| w.shape().get(a + 2).copied().unwrap_or(1);
    let pads = pads(&window, x, kernel);
    Ok(ConvShape { strides: window.strides, dilations: window.dilations, pads, groups })
}

fn pads(window: &Window, x: &Ints, kernel: impl Fn(usize) -> usize) -> Vec<usize> {
    if window.auto_pad == AutoPad::None {
        return window.pads.clone();
    }
    let both = |a: usize| window.padding(a, x.shape().get(a + 2).copied().unwrap_or(0), kernel(a));
    let (before, after): (Vec<_>, Vec<_>) = (0..window.strides.len()).map(both).unzip();
    [before, after].concat()
}

fn pool(node: &Node, x: &Ints) -> Result<Pool> {
    let attributes = &node.op.attributes;
    let window = Window::of_pool(attributes, x.shape().len().saturating_sub(2))?;
    let kernel = |a: usize| window.kernel.get(a).copied().unwrap_or(1);
    let ceil = attributes.flag("ceil_mode");
    let length = |a: usize| x.shape().get(a + 2).copied().unwrap_or(0);
    let outputs = (0..window.kernel.len()).map(|a| window.outputs(a, length(a), kernel(a), ceil)).collect();
    Ok(Pool {
        pads: pads(&window, x, kernel),
        outputs,
        count_include_pad: attributes.flag("count_include_pad"),
        kernel: window.kernel,
        strides: window.strides,
        dilations: window.dilations,
    })
}
