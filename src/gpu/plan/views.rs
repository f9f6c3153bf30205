//! Operators that only move elements: other views of the same memory where strides can say it, copies where they cannot.

use super::pointwise::axis_of;
use super::program::{Array, Program, broadcast};
use super::{Deferred, Planner, Value};
use crate::error::{Result, ScoreError};
use crate::graph::Node;
use crate::layout::view::View;

impl Planner<'_> {
    /// Takes an operator that moves elements; `false` for another one.
    pub(super) fn viewing(&mut self, node: &Node) -> Result<bool> {
        let Some(name) = node.op.onnx_name() else { return Ok(false) };
        match name {
            "Identity" => self.look(node, 0, |view| Some(view.clone()))?,
            "Dropout" => self.dropout(node)?,
            "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" => self.reshape(node)?,
            "Transpose" => {
                let rank = self.input_shape(node, 0)?.len();
                let order = node.op.attributes.lengths("perm")?.unwrap_or_else(|| (0..rank).rev().collect());
                must_be_an_order(&order, rank)?;
                self.look(node, 0, |view| Some(view.transposed(&order)))?;
            }
            "Slice" => self.slice(node)?,
            "Split" => self.split(node)?,
            "Expand" => {
                let shape = self.shape_of(node, 0)?;
                self.look(node, 0, |view| broadcast(view, &shape))?;
            }
            "Tile" => self.tile(node)?,
            "Concat" => self.concat(node)?,
            "DepthToSpace" | "SpaceToDepth" => self.depth(node)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// An input looked at otherwise: every tensor of its program is, or the result of it in memory.
    pub(super) fn look(
        &mut self,
        node: &Node,
        output: usize,
        look: impl Fn(&View) -> Option<View>,
    ) -> Result<()> {
        let shape = self.shape_of(node, output)?;
        let x = self.deferred(node, 0)?;
        let x = match x.base {
            Some(_) => self.settled_as(node, x)?,
            None => x,
        };
        let program = match x.program.viewed(&shape, &look) {
            Some(program) => program,
            None => {
                let settled = self.settled_as(node, x.clone())?;
                settled.program.viewed(&shape, &look).ok_or_else(|| {
                    ScoreError::bad_model(format!("{:?} cannot become {shape:?}", x.program.shape))
                })?
            }
        };
        // Who computes more than he reads should do it once: what is repeated is looked up, not computed again.
        self.defer(node, output, Deferred { program, base: None, origins: x.origins })
    }

    /// In memory, stored as the model has it or smaller.
    fn settled_as(&mut self, node: &Node, deferred: Deferred) -> Result<Deferred> {
        let dtype = self.input_dtype(node, 0)?;
        let stored = self.stored(dtype);
        let array = self.launch(deferred, stored, None, None)?;
        if let Some(id) = node.input(0) {
            self.values.insert(id, Value::Memory(array.clone()));
        }
        Ok(Deferred { program: Program::of(array)?, base: None, origins: Vec::new() })
    }

    /// The same elements in row-major order under another shape.
    fn reshape(&mut self, node: &Node) -> Result<()> {
        let shape = self.shape_of(node, 0)?;
        let x = self.deferred(node, 0)?;
        if x.base.is_none()
            && let Some(program) = x.program.viewed(&shape, |view| view.reshaped(&shape))
        {
            return self.defer(node, 0, Deferred { program, base: None, origins: x.origins });
        }
        // A copy in row-major order can be said in any shape.
        let dtype = self.input_dtype(node, 0)?;
        let (stored, order) = (self.stored(dtype), (0..x.program.shape.len()).collect::<Vec<_>>());
        let array = self.launch(x, stored, Some(&order), None)?;
        let wrong = || ScoreError::bad_model(format!("{:?} cannot become {shape:?}", array.view.shape));
        let view = array.view.reshaped(&shape).ok_or_else(wrong)?;
        let program = Program::of(Array { view, dtype: array.dtype })?;
        self.defer(node, 0, Deferred { program, base: None, origins: Vec::new() })
    }

    /// At inference it passes its input on, and drops nothing.
    fn dropout(&mut self, node: &Node) -> Result<()> {
        if let Some(training) = self.constant(node, 2)?
            && training.as_bytes().first() == Some(&1)
            && self.numbers(node, 1)?.is_none_or(|r| r.first() != Some(&0.0))
        {
            return Err(ScoreError::unsupported("training_mode: it scores, and does not train"));
        }
        self.look(node, 0, |view| Some(view.clone()))?;
        if node.output(1).is_some() {
            let shape = self.shape_of(node, 1)?;
            let kept = super::pointwise::literal(super::Register::Bool, 1.0, &shape);
            self.defer(node, 1, kept)?;
        }
        Ok(())
    }

    fn slice(&mut self, node: &Node) -> Result<()> {
        let shape = self.shape_of(node, 0)?;
        let from = self.input_shape(node, 0)?;
        let wanted = |list: Option<Vec<i64>>| list.ok_or_else(|| ScoreError::bad_model("it has no starts"));
        let starts = wanted(self.integers(node, 1)?)?;
        let axes = self.integers(node, 3)?.unwrap_or_else(|| (0..starts.len() as i64).collect());
        let steps = self.integers(node, 4)?.unwrap_or_else(|| vec![1; starts.len()]);
        let cuts = starts.iter().zip(&axes).zip(&steps);
        let cuts = cuts.map(|((start, at), step)| Ok((axis_of(*at, from.len())?, *start, *step)));
        let cuts = cuts.collect::<Result<Vec<_>>>()?;
        self.look(node, 0, |view| view.sliced(&shape, &cuts))
    }

    fn split(&mut self, node: &Node) -> Result<()> {
        let from = self.input_shape(node, 0)?;
        let axis = self.axis(node, "axis", 0, from.len())?;
        let count = node.outputs.len();
        let all = from.get(axis).copied().unwrap_or(0);
        let lengths = match self.integers(node, 1)? {
            Some(lengths) => lengths.iter().map(|n| usize::try_from(*n).unwrap_or(0)).collect::<Vec<_>>(),
            None => {
                let part = all.div_ceil(count.max(1));
                (0..count).map(|i| all.saturating_sub(part * i).min(part)).collect()
            }
        };
        // Several read it: it is in memory.
        let array = self.memory(node, 0)?;
        let mut first = 0;
        for (output, length) in lengths.into_iter().enumerate() {
            let view = array.view.part(axis, first, length);
            let program = Program::of(Array { view, dtype: array.dtype })?;
            self.defer(node, output, Deferred { program, base: None, origins: Vec::new() })?;
            first += length;
        }
        Ok(())
    }

    /// Each axis is two, of which the first repeats.
    fn tile(&mut self, node: &Node) -> Result<()> {
        let (from, shape) = (self.input_shape(node, 0)?, self.shape_of(node, 0)?);
        let array = self.memory(node, 0)?;
        let (mut lengths, mut strides) = (Vec::new(), Vec::new());
        for (axis, (own, all)) in from.iter().zip(&shape).enumerate() {
            lengths.extend([all.checked_div(*own).unwrap_or(0), *own]);
            strides.extend([0, array.view.stride(axis)]);
        }
        let view = View { shape: lengths, strides, ..array.view.clone() };
        self.copy_as(node, Array { view, dtype: array.dtype }, &shape)
    }

    /// A copy of elements that lie in that order when they are counted, under the shape of what the node makes.
    fn copy_as(&mut self, node: &Node, from: Array, shape: &[usize]) -> Result<()> {
        let wrong = || ScoreError::bad_model(format!("{:?} cannot become {shape:?}", from.view.shape));
        let view = match from.view.reshaped(shape) {
            Some(view) => view,
            None => {
                let copy = self.allocate(&from.view.shape, from.dtype, None)?;
                self.map(&Program::of(from.clone())?, &copy, &node.origins)?;
                copy.view.reshaped(shape).ok_or_else(wrong)?
            }
        };
        let program = Program::of(Array { view, dtype: from.dtype })?;
        self.defer(node, 0, Deferred { program, base: None, origins: Vec::new() })
    }

    /// Blocks of channels and blocks of pixels are axes of their own that change places.
    fn depth(&mut self, node: &Node) -> Result<()> {
        let shape = self.input_shape(node, 0)?;
        let [n, c, h, w] = shape.as_slice() else {
            return Err(ScoreError::bad_model(format!("its input has {} axes, expected 4", shape.len())));
        };
        let block =
            node.op.attributes.int("blocksize").and_then(|b| usize::try_from(b).ok()).filter(|b| *b > 0);
        let block = block.ok_or_else(|| ScoreError::bad_model("it has no blocksize above zero"))?;
        let (axes, order) = match node.op.attributes.text("mode") {
            Some("CRD") if node.is("SpaceToDepth") => {
                ([*n, *c, h / block, block, w / block, block], [0, 1, 3, 5, 2, 4])
            }
            _ if node.is("SpaceToDepth") => {
                ([*n, *c, h / block, block, w / block, block], [0, 3, 5, 1, 2, 4])
            }
            Some("CRD") => ([*n, c / block / block, block, block, *h, *w], [0, 1, 4, 2, 5, 3]),
            _ => ([*n, block, block, c / block / block, *h, *w], [0, 3, 4, 1, 5, 2]),
        };
        let array = self.memory(node, 0)?;
        let view = match array.view.reshaped(&axes) {
            Some(view) => view,
            None => {
                let dense = self.dense(node, 0, &[0, 1, 2, 3], array.dtype)?;
                let wrong = || ScoreError::bad_model(format!("{shape:?} has no blocks of {block}"));
                dense.view.reshaped(&axes).ok_or_else(wrong)?
            }
        };
        let made = self.shape_of(node, 0)?;
        self.copy_as(node, Array { view: view.transposed(&order), dtype: array.dtype }, &made)
    }

    /// Each part is computed right into its place.
    fn concat(&mut self, node: &Node) -> Result<()> {
        let (shape, dtype) = (self.shape_of(node, 0)?, self.dtype_of(node, 0)?);
        let axis = self.axis(node, "axis", 0, shape.len())?;
        let stored =
            if node.output(0).is_some_and(|id| self.uses.is_output(id)) { dtype } else { self.stored(dtype) };
        let order = self.concat_order(node, &shape, stored == dtype)?;
        let whole = self.allocate(&shape, stored, Some(&order))?;
        let mut first = 0;
        for input in 0..node.inputs.len() {
            let part = self.deferred(node, input)?;
            let length = part.program.shape.get(axis).copied().unwrap_or(0);
            let into = Array { view: whole.view.part(axis, first, length), dtype: stored };
            // Of what is empty there is nothing to compute.
            if into.view.count() > 0 {
                self.launch(part, stored, None, Some(&into))?;
            }
            first += length;
        }
        self.put(node, 0, Value::Memory(whole));
        Ok(())
    }

    /// As the parts lie, if they agree.
    fn concat_order(&self, node: &Node, shape: &[usize], is_output: bool) -> Result<Vec<usize>> {
        let row_major = (0..shape.len()).collect::<Vec<_>>();
        let orders = (0..node.inputs.len()).map(|input| {
            let id = self.input_id(node, input).ok()?;
            match self.values.get(&id)? {
                Value::Memory(array) => Some(array.view.order()),
                Value::Deferred(Deferred { base: Some(base), .. }) => Some(base.order.clone()),
                Value::Deferred(deferred) => Some(super::deferred::natural_order(&deferred.program)),
            }
        });
        let orders = orders.collect::<Option<Vec<_>>>().unwrap_or_default();
        let first = orders.first().filter(|first| orders.iter().all(|o| o == *first));
        let is_wanted = is_output && node.output(0).is_some_and(|id| self.uses.is_output(id));
        Ok(first.filter(|_| !is_wanted).cloned().unwrap_or(row_major))
    }
}

/// Whether these are all axes, each once.
fn must_be_an_order(order: &[usize], rank: usize) -> Result<()> {
    let mut sorted = order.to_vec();
    sorted.sort_unstable();
    match sorted.into_iter().eq(0..rank) {
        true => Ok(()),
        false => Err(ScoreError::bad_model(format!("{order:?} is no order of {rank} axes"))),
    }
}
