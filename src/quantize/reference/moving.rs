//! Operators that only move elements, whatever their type: each says for every element of the result which element of the input it is.

use super::Run;
use crate::error::{Result, ScoreError};
use crate::graph::Node;
use crate::int8::Ints;
use crate::tensor::{DType, Tensor, element_count};

/// What a moving node makes.
pub(super) fn compute(run: &Run<'_>, node: &Node) -> Result<Vec<Tensor>> {
    let x = run.input(node, 0)?;
    // Shapes were inferred, and the reference runs bound graphs: what is made has the shape that is known.
    let shapes = node.outputs.iter().map(|o| match o {
        Some(id) => run.graph.value(*id).shape.require_lengths(),
        None => Ok(Vec::new()),
    });
    let shapes = shapes.collect::<Result<Vec<_>>>()?;
    let shape = shapes.first().cloned().unwrap_or_default();
    let attributes = &node.op.attributes;
    let ints = |place: usize| -> Result<Option<Vec<i64>>> {
        run.optional(node, place)?.map(|t| t.as_slice::<i64>().map(<[i64]>::to_vec)).transpose()
    };
    let places = match node.op.onnx_name().unwrap_or_default() {
        "Identity" => return Ok(vec![x.clone()]),
        "Flatten" | "Reshape" | "Squeeze" | "Unsqueeze" => return Ok(vec![x.reshape(&shape)?]),
        "Transpose" => {
            let rank = x.shape().len();
            let order = attributes.lengths("perm")?.unwrap_or_else(|| (0..rank).rev().collect());
            transposed(x.shape(), &order)?
        }
        "Slice" => slice(x.shape(), &shape, ints(1)?, ints(2)?, ints(3)?, ints(4)?)?,
        "Split" => return split(x, &shapes, axis(attributes.int("axis").unwrap_or(0), x.shape().len())?),
        "Gather" => gather(run, node, x, &shape)?,
        "Expand" => strided(&shape, &expand_strides(x.shape(), shape.len())),
        "Pad" => return pad(run, node, x, &shape),
        other => return Err(ScoreError::unsupported(format!("the reference has no '{other}'"))),
    };
    Ok(vec![pick(x, &shape, &places)?])
}

/// An axis counted from the end if it is negative.
pub(super) fn axis(axis: i64, rank: usize) -> Result<usize> {
    let signed = i64::try_from(rank).unwrap_or(i64::MAX);
    let from_start = if axis < 0 { axis + signed } else { axis };
    match usize::try_from(from_start) {
        Ok(at) if at < rank => Ok(at),
        _ => Err(ScoreError::bad_model(format!("axis {axis} of {rank}"))),
    }
}

/// The integers with their axes in another order.
pub(super) fn transpose(x: &Ints, order: &[usize]) -> Result<Ints> {
    let places = transposed(x.shape(), order)?;
    let shape = order.iter().filter_map(|a| x.shape().get(*a).copied()).collect::<Vec<_>>();
    Ints::new(&shape, places.iter().filter_map(|p| x.values().get(*p).copied()).collect())
}

fn transposed(shape: &[usize], order: &[usize]) -> Result<Vec<usize>> {
    let strides = strides(shape);
    let mut sorted = order.to_vec();
    sorted.sort_unstable();
    if !sorted.into_iter().eq(0..shape.len()) {
        return Err(ScoreError::bad_model(format!("{order:?} is no order of the axes of {shape:?}")));
    }
    let take = |list: &[usize]| order.iter().filter_map(|a| list.get(*a).copied()).collect::<Vec<_>>();
    Ok(strided(&take(shape), &take(&strides)))
}

/// Row-major strides, in elements.
fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        let inner = strides.get(axis).copied().unwrap_or(1) * shape.get(axis).copied().unwrap_or(1);
        if let Some(stride) = strides.get_mut(axis - 1) {
            *stride = inner;
        }
    }
    strides
}

/// The place of every element of a view of that shape with these strides.
fn strided(shape: &[usize], strides: &[usize]) -> Vec<usize> {
    let place = |mut i: usize| {
        let mut place = 0;
        for (length, stride) in shape.iter().zip(strides).rev() {
            place += i % length.max(&1) * stride;
            i /= length.max(&1);
        }
        place
    };
    (0..shape.iter().product()).map(place).collect()
}

fn expand_strides(from: &[usize], rank: usize) -> Vec<usize> {
    let own = strides(from);
    let axes = from.iter().zip(own).map(|(length, stride)| if *length == 1 { 0 } else { stride });
    std::iter::repeat_n(0, rank - from.len().min(rank)).chain(axes).collect()
}

fn slice(
    from: &[usize],
    to: &[usize],
    starts: Option<Vec<i64>>,
    ends: Option<Vec<i64>>,
    axes: Option<Vec<i64>>,
    steps: Option<Vec<i64>>,
) -> Result<Vec<usize>> {
    let starts = starts.unwrap_or_default();
    let _ = ends; // The lengths of the result are known; its ends follow.
    let axes = axes.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let mut first = vec![0i64; from.len()];
    let mut step = vec![1i64; from.len()];
    for (i, (start, a)) in starts.iter().zip(&axes).enumerate() {
        let at = axis(*a, from.len())?;
        let length = from.get(at).copied().unwrap_or(0) as i64;
        let by = steps.as_ref().and_then(|s| s.get(i)).copied().unwrap_or(1);
        let start = if *start < 0 { start.saturating_add(length) } else { *start };
        let limit = if by < 0 { length - 1 } else { length };
        if let (Some(f), Some(s)) = (first.get_mut(at), step.get_mut(at)) {
            *f = start.clamp(0, limit.max(0));
            *s = by;
        }
    }
    let own = strides(from);
    let place = |mut i: usize| {
        let mut place = 0i64;
        for (axis, length) in to.iter().enumerate().rev() {
            let at = |list: &[i64]| list.get(axis).copied().unwrap_or(0);
            let index = at(&first) + (i % length.max(&1)) as i64 * at(&step);
            place += index * own.get(axis).copied().unwrap_or(0) as i64;
            i /= length.max(&1);
        }
        usize::try_from(place).unwrap_or(usize::MAX)
    };
    Ok((0..element_count(to)?).map(place).collect())
}

fn split(x: &Tensor, shapes: &[Vec<usize>], axis: usize) -> Result<Vec<Tensor>> {
    let mut first = 0;
    let mut parts = Vec::new();
    for shape in shapes {
        let offset = first * strides(x.shape()).get(axis).copied().unwrap_or(1);
        let places = strided(shape, &strides(x.shape())).into_iter().map(|p| p + offset).collect::<Vec<_>>();
        parts.push(pick(x, shape, &places)?);
        first += shape.get(axis).copied().unwrap_or(0);
    }
    Ok(parts)
}

fn gather(run: &Run<'_>, node: &Node, x: &Tensor, shape: &[usize]) -> Result<Vec<usize>> {
    let at = axis(node.op.attributes.int("axis").unwrap_or(0), x.shape().len())?;
    let tensor = run.input(node, 1)?;
    let indices = match tensor.dtype() {
        DType::I32 => tensor.as_slice::<i32>()?.iter().map(|i| i64::from(*i)).collect(),
        _ => tensor.as_slice::<i64>()?.to_vec(),
    };
    let length = x.shape().get(at).copied().unwrap_or(0);
    let mut chosen = Vec::new();
    for index in &indices {
        let from_start = if *index < 0 { index + length as i64 } else { *index };
        let is_inside = usize::try_from(from_start).ok().filter(|i| *i < length);
        let outside = || ScoreError::bad_input(format!("index {index} of an axis of {length}"));
        chosen.push(is_inside.ok_or_else(outside)?);
    }
    let inner = x.shape().iter().skip(at + 1).product::<usize>();
    let outer = x.shape().iter().take(at).product::<usize>();
    let mut places = Vec::with_capacity(element_count(shape)?);
    for block in 0..outer {
        for index in &chosen {
            places.extend((0..inner).map(|i| (block * length + index) * inner + i));
        }
    }
    Ok(places)
}

/// Constant padding; what is filled in is the third input.
fn pad(run: &Run<'_>, node: &Node, x: &Tensor, shape: &[usize]) -> Result<Vec<Tensor>> {
    if node.op.attributes.text("mode").unwrap_or("constant") != "constant" || node.input(3).is_some() {
        return Err(ScoreError::unsupported("the reference pads with a constant, along all axes"));
    }
    let pads = run.input(node, 1)?.as_slice::<i64>()?;
    let fill = Ints::of(run.input(node, 2)?)?.values().first().copied().unwrap_or(0);
    let (values, own) = (Ints::of(x)?, strides(x.shape()));
    let value = |mut i: usize| {
        let mut place = 0;
        for (axis, length) in shape.iter().enumerate().rev() {
            let index = (i % length.max(&1)) as i64 - pads.get(axis).copied().unwrap_or(0);
            i /= length.max(&1);
            match usize::try_from(index) {
                Ok(index) if index < x.shape().get(axis).copied().unwrap_or(0) => {
                    place += index * own.get(axis).copied().unwrap_or(0);
                }
                _ => return fill,
            }
        }
        values.values().get(place).copied().unwrap_or(fill)
    };
    let padded = (0..element_count(shape)?).map(value).collect();
    Ok(vec![Ints::new(shape, padded)?.to_tensor(x.dtype().try_into()?)?])
}

/// The elements at these places.
fn pick(x: &Tensor, shape: &[usize], places: &[usize]) -> Result<Tensor> {
    let size = x.dtype().size_bytes().ok_or_else(|| ScoreError::unsupported("text is not moved"))?;
    let bytes = x.as_bytes();
    let mut out = Vec::with_capacity(places.len() * size);
    for place in places {
        let element = place.checked_mul(size).and_then(|at| bytes.get(at..at + size));
        out.extend_from_slice(element.ok_or_else(|| ScoreError::bad_model("an element outside the tensor"))?);
    }
    Tensor::new(x.dtype(), shape, crate::tensor::AlignedBytes::copy_of(&out)?)
}
