//! Operators that are made of others' kernels: normalisations over channels and over images, rotary embeddings.

use super::pointwise::{axis_of, literal};
use super::program::{Array, broadcast};
use super::rows::unsigned;
use super::text::Struct;
use super::{Argument, BLOCK, Deferred, Planner};
use crate::error::{Result, ScoreError};
use crate::graph::{AutoPad, Node, Window};
use crate::layout::view::View;

impl Planner<'_> {
    /// Takes one of these operators; `false` for another one.
    pub(super) fn composed(&mut self, node: &Node) -> Result<bool> {
        match node.op.onnx_name() {
            Some("LRN") => self.over_channels(node)?,
            Some("MeanVarianceNormalization") => {
                let rank = self.input_shape(node, 0)?.len();
                let axes = node.op.attributes.ints("axes").unwrap_or(&[0, 2, 3]);
                let axes = axes.iter().map(|a| axis_of(*a, rank)).collect::<Result<Vec<_>>>()?;
                let x = self.deferred(node, 0)?;
                let rows = self.as_rows(x, &axes)?;
                // ONNX adds 1e-9 to the root; what is under it has 1e-18, which is the same wherever it counts.
                let arguments = vec![
                    Argument::Result,
                    Argument::Pointer(None),
                    Argument::Pointer(None),
                    unsigned(rows.columns),
                    Argument::Float(1e-18),
                    Argument::Int(1),
                ];
                let y = self.normalised(rows, "normalise", arguments)?;
                self.defer(node, 0, y)?;
            }
            Some("RotaryEmbedding") => self.rotary(node)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// x / (bias + alpha · mean of the squares of neighbouring channels)^beta: the mean is a pooling of images whose rows are channels.
    fn over_channels(&mut self, node: &Node) -> Result<()> {
        let shape = self.input_shape(node, 0)?;
        let [images, channels, spatial @ ..] = shape.as_slice() else {
            return Err(ScoreError::bad_model(format!(
                "its input has {} axes, expected 3 or more",
                shape.len()
            )));
        };
        let size = self.lengths_attribute(node, "size")?;
        if size == 0 {
            return Err(ScoreError::bad_model("its size is 0: expected a number of channels"));
        }
        let float = |name: &str, default: f32| f64::from(node.op.attributes.float(name).unwrap_or(default));
        let (alpha, beta, bias) = (float("alpha", 1e-4), float("beta", 0.75), float("bias", 1.0));
        let x = Deferred::of(self.memory(node, 0)?)?;
        let register = x.register();
        let squares = self.call("squared", register, vec![x.clone()], &shape)?;
        let planes = [*images, 1, *channels, spatial.iter().product::<usize>()];
        let squares = self.settled(squares)?;
        let squares = self.reshaped(squares, &planes)?;
        let squares = self.in_memory(squares)?;
        let squares = self.images_of(squares, &node.origins)?;
        let before = (size - 1) / 2;
        let window = Window {
            kernel: vec![size, 1],
            strides: vec![1, 1],
            dilations: vec![1, 1],
            pads: vec![before, 0, size - 1 - before, 0],
            auto_pad: AutoPad::None,
        };
        let words = self.window_words(&squares, &window, &planes, (1, 1), [squares.channels, 1, 1]);
        let count = planes.iter().product::<usize>();
        let arguments = vec![
            Argument::Result,
            Argument::at(&squares.array.view),
            Argument::Struct(Struct { pointers: Vec::new(), words }),
            // Channels that are not there count.
            Argument::Int(1),
            unsigned(count),
        ];
        let grid = [count.div_ceil(BLOCK), 1, 1];
        let array = &squares.array;
        let mean =
            self.window_base("pool", "average_pool", array, array.dtype, register, grid, arguments, &planes)?;
        let number = |value: f64| literal(register, value, &[]);
        let by = self.call("multiply_add", register, vec![mean, number(alpha), number(bias)], &planes)?;
        let by = self.call("power", register, vec![by, number(beta)], &planes)?;
        let x = self.reshaped(x, &planes)?;
        let y = self.call("divide", register, vec![x, by], &planes)?;
        let y = self.reshaped(y, &shape)?;
        self.defer(node, 0, y)
    }

    /// Pairs of each head's elements, turned by an angle of their position: halves of the head, or neighbours where `interleaved`.
    fn rotary(&mut self, node: &Node) -> Result<()> {
        let attributes = &node.op.attributes;
        let x = self.memory(node, 0)?;
        let whole = self.allocate_result(node, 0)?;
        let heads = match x.view.shape.as_slice() {
            [_, _, _] => Some(self.lengths_attribute(node, "num_heads")?),
            _ => None,
        };
        let dtype = x.dtype;
        let (x, heads) = match (self.by_heads(&x.view, heads), self.by_heads(&whole.view, heads)) {
            (Some(x), Some(heads)) => (x, heads),
            (None, Some(heads)) => {
                let copy = self.row_major(Deferred::of(x)?)?;
                let wrong = || ScoreError::bad_model("heads that its input does not have");
                (self.by_heads(&copy.view, self.head_count(node)?).ok_or_else(wrong)?, heads)
            }
            _ => {
                let what =
                    format!("an input of {:?}: expected 3 axes that fall into heads, or 4", x.view.shape);
                return Err(ScoreError::bad_model(what));
            }
        };
        let [images, _, steps, width] = x.shape.as_slice() else {
            return Err(ScoreError::internal("heads have four axes"));
        };
        let turned = match attributes.int("rotary_embedding_dim").unwrap_or(0) {
            0 => *width,
            n => usize::try_from(n).ok().filter(|n| n <= width && n % 2 == 0).ok_or_else(|| {
                ScoreError::bad_model(format!(
                    "rotary_embedding_dim is {n}: expected an even number up to {width}"
                ))
            })?,
        };
        let half = turned / 2;
        let shape = [*images, x.length(1), *steps, half];
        let register = super::Register::of(dtype)?;
        let mut angle = |input: usize| {
            let table = self.memory(node, input)?;
            let table = match node.input(3) {
                Some(_) => {
                    let positions = self.deferred(node, 3)?;
                    self.gathered(&table, 0, positions, &node.origins)?
                }
                None => table,
            };
            let along = [*images, 1, *steps, half];
            let wrong = || ScoreError::bad_model(format!("angles of {:?} for {along:?}", table.view.shape));
            let view =
                table.view.reshaped(&along).and_then(|view| broadcast(&view, &shape)).ok_or_else(wrong)?;
            Ok::<_, ScoreError>(Deferred::of(Array { view, dtype: table.dtype })?.cast(register))
        };
        let (cosine, sine) = (angle(1)?, angle(2)?);
        // The first or the second of each pair.
        let is_interleaved = attributes.flag("interleaved");
        let part = |view: &View, second: usize| {
            let (first, step) = if is_interleaved { (second, 2) } else { (second * half, 1) };
            last_axis(view, first, step, half)
        };
        let of = |view: View| Deferred::of(Array { view, dtype });
        let (first, second) = (of(part(&x, 0)?)?, of(part(&x, 1)?)?);
        for (at, function, [left, right]) in [(0, "subtract", [&cosine, &sine]), (1, "add", [&sine, &cosine])]
        {
            let left = self.call("multiply", register, vec![first.clone(), left.clone()], &shape)?;
            let right = self.call("multiply", register, vec![second.clone(), right.clone()], &shape)?;
            let y = self.call(function, register, vec![left, right], &shape)?;
            let into = Array { view: part(&heads, at)?, dtype: whole.dtype };
            self.launch(y, whole.dtype, None, Some(&into))?;
        }
        if turned < *width {
            let rest = |view: &View| last_axis(view, turned, 1, *width - turned);
            let into = Array { view: rest(&heads)?, dtype: whole.dtype };
            self.launch(of(rest(&x)?)?, whole.dtype, None, Some(&into))?;
        }
        self.put_memory(node, 0, whole);
        Ok(())
    }

    fn head_count(&self, node: &Node) -> Result<Option<usize>> {
        match self.input_shape(node, 0)?.len() {
            3 => self.lengths_attribute(node, "num_heads").map(Some),
            _ => Ok(None),
        }
    }

    /// As image, head, step, element; given a number of heads where they are one axis with the elements.
    fn by_heads(&self, view: &View, heads: Option<usize>) -> Option<View> {
        match (view.shape.as_slice(), heads) {
            ([_, _, _, _], _) => Some(view.clone()),
            ([images, steps, all], Some(heads)) if heads > 0 && all % heads == 0 => {
                Some(view.reshaped(&[*images, *steps, heads, all / heads])?.transposed(&[0, 2, 1, 3]))
            }
            _ => None,
        }
    }
}

/// Some elements of the last axis.
fn last_axis(view: &View, first: usize, step: isize, count: usize) -> Result<View> {
    let outside = || ScoreError::internal("a part of a head");
    let axis = view.shape.len().checked_sub(1).ok_or_else(outside)?;
    let mut part = view.clone();
    part.offset = view.offset.checked_add_signed(view.stride(axis) * first as isize).ok_or_else(outside)?;
    *part.shape.get_mut(axis).ok_or_else(outside)? = count;
    *part.strides.get_mut(axis).ok_or_else(outside)? *= step;
    Ok(part)
}
