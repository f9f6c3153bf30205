//! Lengths that floats say. Inference follows integers by value and no floats: where these are constant, the lengths are computed here.

use rten_shape_inference::ops as rule;
use rten_shape_inference::{SymExpr, SymTensor};

use super::{Found, Inputs, Missing, Run, narrow, number};
use crate::graph::{Graph, Node};

/// Floats are not followed by value; where they are constant, their number is computed here.
pub(super) fn range(graph: &Graph, node: &Node, inputs: Inputs, run: Run<'_>) -> Found {
    let number = |input: usize| {
        let tensor = node.input(input).and_then(|id| graph.constant(id))?;
        let single = tensor.as_slice::<f32>().ok().and_then(|v| v.first()).map(|v| f64::from(*v));
        single.or_else(|| tensor.as_slice::<f64>().ok()?.first().copied())
    };
    match (number(0), number(1), number(2)) {
        (Some(start), Some(limit), Some(delta)) if delta != 0.0 => {
            let count = ((limit - start) / delta).ceil().max(0.0);
            Ok(vec![SymTensor::from_shape(vec![SymExpr::Value(narrow(count as i64)?)])])
        }
        _ => run(&rule::Range, inputs),
    }
}

/// What is resized, by sizes or by constant scales, along all axes or some of them.
pub(super) fn resize(graph: &Graph, node: &Node, inputs: Inputs, run: Run<'_>) -> Found {
    let attributes = &node.op.attributes;
    let data = inputs.first().and_then(Option::as_ref).and_then(SymTensor::shape);
    let Some(mut lengths) = data.map(Iterator::collect::<Vec<_>>) else { return run(&rule::Resize, inputs) };
    let rank = lengths.len();
    let axes = match attributes.ints("axes") {
        Some(axes) => axes.iter().map(|a| if *a < 0 { *a + rank as i64 } else { *a }).collect(),
        None => (0..rank as i64).collect::<Vec<_>>(),
    };
    let place = |axis: &i64| usize::try_from(*axis).ok().filter(|a| *a < rank);
    let axes = axes.iter().map(place).collect::<Option<Vec<_>>>();
    let axes = axes.ok_or_else(|| Missing::Shape(format!("axes beyond the {rank} of its input")))?;
    let scales = node.input(2).and_then(|id| graph.constant(id)).and_then(|t| t.as_slice::<f32>().ok());
    let sizes = inputs.get(3).and_then(Option::as_ref).and_then(SymTensor::as_vector);
    let made = match (scales.filter(|s| !s.is_empty()), sizes.filter(|s| !s.is_empty())) {
        // Sizes given as scales are floats, which are not followed by value.
        (Some(scales), None) if scales.len() == axes.len() => {
            let scaled = |(axis, scale): (&usize, &f32)| match (lengths.get(*axis)?, *scale) {
                (length, 1.0) => Some(length.clone()),
                (length, scale) => match number(length) {
                    Some(n) => Some(SymExpr::Value((n as f32 * scale).floor() as i32)),
                    None if scale.fract() == 0.0 => Some(SymExpr::Value(scale as i32) * length.clone()),
                    None => None,
                },
            };
            axes.iter().zip(scales).map(scaled).collect::<Option<Vec<_>>>().ok_or(Missing::Rule)?
        }
        (None, Some(sizes)) if sizes.len() == axes.len() => {
            let ratio = |(axis, size): (&usize, &SymExpr)| {
                Some(f64::from(number(size)?) / f64::from(number(lengths.get(*axis)?)?))
            };
            let ratios = axes.iter().zip(sizes).map(ratio).collect::<Option<Vec<_>>>();
            let join = match attributes.text("keep_aspect_ratio_policy") {
                Some("not_larger") => Some(f64::min as fn(f64, f64) -> f64),
                Some("not_smaller") => Some(f64::max as fn(f64, f64) -> f64),
                _ => None,
            };
            match join {
                None => sizes.to_vec(),
                Some(join) => {
                    let scale = ratios.and_then(|r| r.into_iter().reduce(join)).ok_or(Missing::Rule)?;
                    let scaled = |axis: &usize| {
                        let length = number(lengths.get(*axis)?)?;
                        Some(SymExpr::Value((scale * f64::from(length) + 0.5) as i32))
                    };
                    axes.iter().map(scaled).collect::<Option<Vec<_>>>().ok_or(Missing::Rule)?
                }
            }
        }
        (None, None) if !attributes.has("axes") => return run(&rule::Resize, inputs),
        _ => return Err(Missing::Rule),
    };
    for (axis, length) in axes.iter().zip(made) {
        if let Some(slot) = lengths.get_mut(*axis) {
            *slot = length;
        }
    }
    Ok(vec![SymTensor::from_shape(lengths)])
}
