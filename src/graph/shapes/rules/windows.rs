//! Convolutions and poolings.

use rten_shape_inference::ops::{self as rule, Padding};
use rten_shape_inference::{SymExpr, SymTensor};

use super::{Found, Inputs, Missing, Run, narrow, number};
use crate::graph::Node;
use crate::graph::window::{AutoPad, Window};

/// Axes beside batch and channels, of an input or of the kernel.
fn spatial_rank(input: Option<&Option<SymTensor>>) -> Result<usize, Missing> {
    let rank = input.and_then(Option::as_ref).and_then(SymTensor::ndim);
    let rank = rank.ok_or_else(|| Missing::Shape("the rank of its input is not known".to_owned()))?;
    rank.checked_sub(2).ok_or_else(|| Missing::Shape(format!("its input has {rank} axes")))
}

fn padding(window: &Window) -> Padding<'_> {
    match window.auto_pad {
        AutoPad::SameUpper | AutoPad::SameLower => Padding::Same,
        AutoPad::None => Padding::Fixed(&window.pads),
    }
}

/// The rules know images of two axes; those of volumes are computed here, where their lengths are numbers.
const MOST_SPATIAL: usize = 2;

/// Batch, channels, and as many places as the window has along each axis.
fn volumes(data: Option<&SymTensor>, channels: Option<SymExpr>, window: &Window, ceil: bool) -> Found {
    let unknown = || Missing::Shape("the lengths of its input are not known".to_owned());
    let lengths = data.and_then(SymTensor::shape).ok_or_else(unknown)?.collect::<Vec<_>>();
    let mut made = lengths.iter().take(1).cloned().collect::<Vec<_>>();
    made.push(channels.or_else(|| lengths.get(1).cloned()).ok_or_else(unknown)?);
    for (axis, length) in lengths.iter().skip(2).enumerate() {
        let length = number(length).and_then(|n| usize::try_from(n).ok()).ok_or_else(unknown)?;
        let kernel = window.kernel.get(axis).copied().unwrap_or(1);
        made.push(SymExpr::Value(narrow(window.outputs(axis, length, kernel, ceil) as i64)?));
    }
    Ok(vec![SymTensor::from_shape(made)])
}

pub(super) fn conv(node: &Node, inputs: Inputs, run: Run<'_>) -> Found {
    let mut window = Window::of_conv(&node.op.attributes, spatial_rank(inputs.first())?)?;
    if window.strides.len() > MOST_SPATIAL {
        let weights = inputs.get(1).and_then(Option::as_ref).and_then(SymTensor::shape);
        let weights = weights.map(Iterator::collect::<Vec<_>>).unwrap_or_default();
        let kernel = weights.iter().skip(2).map(|e| number(e).and_then(|n| usize::try_from(n).ok()));
        window.kernel = kernel.collect::<Option<Vec<_>>>().unwrap_or_default();
        let data = inputs.first().and_then(Option::as_ref);
        return volumes(data, weights.first().cloned(), &window, false);
    }
    run(
        &rule::Conv { dilations: &window.dilations, padding: padding(&window), strides: &window.strides },
        inputs,
    )
}

pub(super) fn conv_transpose(node: &Node, inputs: Inputs, run: Run<'_>) -> Found {
    let attributes = &node.op.attributes;
    if let Some(spatial) = attributes.lengths("output_shape")? {
        // The padding follows from it, not the other way round.
        let length = |input: usize, axis: usize| {
            let tensor = inputs.get(input).and_then(Option::as_ref);
            tensor
                .and_then(|t| t.size(axis))
                .ok_or_else(|| Missing::Shape("the shapes of what it reads are not known".to_owned()))
        };
        let groups = narrow(attributes.int("group").unwrap_or(1))?;
        let spatial = spatial.into_iter().map(|n| narrow(n as i64).map(SymExpr::Value));
        let spatial = spatial.collect::<Result<Vec<_>, _>>()?;
        let channels = length(1, 1)? * SymExpr::Value(groups);
        return Ok(vec![SymTensor::from_shape([vec![length(0, 0)?, channels], spatial].concat())]);
    }
    let window = Window::of_conv(attributes, spatial_rank(inputs.first())?)?;
    let output_padding = attributes.lengths("output_padding")?;
    let rule = rule::ConvTranspose {
        groups: attributes.int("group").and_then(|g| usize::try_from(g).ok()).unwrap_or(1),
        padding: padding(&window),
        strides: &window.strides,
        dilations: &window.dilations,
        output_padding: output_padding.as_deref(),
    };
    run(&rule, inputs)
}

pub(super) fn pool(node: &Node, inputs: Inputs, run: Run<'_>) -> Found {
    let attributes = &node.op.attributes;
    let window = Window::of_pool(attributes, spatial_rank(inputs.first())?)?;
    if window.strides.len() > MOST_SPATIAL {
        let data = inputs.first().and_then(Option::as_ref);
        let mut found = volumes(data, None, &window, attributes.flag("ceil_mode"))?;
        found.extend(found.first().cloned());
        return Ok(found);
    }
    let rule = rule::Pool {
        dilations: &window.dilations,
        kernel_size: &window.kernel,
        padding: padding(&window),
        strides: &window.strides,
        ceil_mode: attributes.flag("ceil_mode"),
    };
    let lengths = inputs.first().and_then(Option::as_ref).and_then(SymTensor::shape);
    let lengths = lengths.map(Iterator::collect::<Vec<_>>).unwrap_or_default();
    let mut found = run(&rule, inputs)?;
    // The rule knows two spatial axes.
    if let Some(first) = found.first_mut()
        && let Some(known) = first.shape().map(Iterator::collect::<Vec<_>>)
        && known.len() < lengths.len()
    {
        let made = |(axis, length): (usize, &SymExpr)| {
            let length = usize::try_from(number(length)?).ok()?;
            let kernel = window.kernel.get(axis).copied()?;
            let outputs = window.outputs(axis, length, kernel, attributes.flag("ceil_mode"));
            Some(SymExpr::Value(i32::try_from(outputs).ok()?))
        };
        let rest = lengths.iter().skip(2).enumerate().skip(known.len().saturating_sub(2));
        let rest = rest.map(made).collect::<Option<Vec<_>>>().ok_or(Missing::Rule)?;
        *first = SymTensor::from_shape([known, rest].concat());
    }
    // `MaxPool`'s second output has the places of the maxima.
    found.extend(found.first().cloned());
    Ok(found)
}
