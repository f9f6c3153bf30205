//! Operators that put elements where indices say, each into a copy of its data.

use super::gather::{Picked, indexed, indexing, over_elements, without};
use super::pieces::padded;
use super::program::{Array, Program, Register, stored_name};
use super::rows::unsigned;
use super::sources::Source;
use super::text::reader;
use super::{Argument, Planner};
use crate::error::{Result, ScoreError};
use crate::graph::Node;
use crate::layout::view::View;

impl Planner<'_> {
    /// Takes an operator that places elements by indices; `false` for another one.
    pub(super) fn scatters(&mut self, node: &Node) -> Result<bool> {
        match node.op.onnx_name() {
            Some("ScatterElements") => self.scatter_elements(node)?,
            Some("ScatterND") => self.scatter_nd(node)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn scatter_elements(&mut self, node: &Node) -> Result<()> {
        let shape = self.input_shape(node, 1)?;
        let axis = self.axis(node, "axis", 0, shape.len())?;
        let whole = self.copy_of_data(node)?;
        let place = without(&whole.view, axis, &shape)?;
        let indices = self.deferred(node, 1)?;
        let indices = self.indices(indices, &padded(1, &shape, 0))?;
        let axes = [Picked::of(&whole.view, axis)];
        self.placed(node, whole, &place, indices, &axes)
    }

    fn scatter_nd(&mut self, node: &Node) -> Result<()> {
        let shape = self.input_shape(node, 1)?;
        let whole = self.copy_of_data(node)?;
        let (count, outer) = indexed(&shape, whole.view.shape.len(), 0)?;
        let kept = count..whole.view.shape.len();
        let place = View {
            shape: outer.iter().copied().chain(kept.clone().map(|a| whole.view.length(a))).collect(),
            strides: outer.iter().map(|_| 0).chain(kept.clone().map(|a| whole.view.stride(a))).collect(),
            ..whole.view.clone()
        };
        let indices = self.deferred(node, 1)?;
        let indices = self.coordinates(indices, count, &outer, kept.len())?;
        let axes = (0..count).map(|a| Picked::of(&whole.view, a)).collect::<Vec<_>>();
        self.placed(node, whole, &place, indices, &axes)
    }

    /// A copy of data for others to write into.
    fn copy_of_data(&mut self, node: &Node) -> Result<Array> {
        let x = self.deferred(node, 0)?;
        let whole = self.allocate_result(node, 0)?;
        // Atomics take whole words.
        if let Some(held) = self.held.get_mut(whole.view.storage.0) {
            held.bytes = held.bytes.next_multiple_of(4);
        }
        if whole.view.count() > 0 {
            self.launch(x, whole.dtype, None, Some(&whole))?;
        }
        Ok(whole)
    }

    /// Updates go where indices say.
    fn placed(
        &mut self,
        node: &Node,
        whole: Array,
        place: &View,
        indices: Program,
        axes: &[Picked],
    ) -> Result<()> {
        let updates = self.deferred(node, 2)?;
        let updates = self.unbound(updates)?;
        if updates.shape() != place.shape {
            let what = format!("updates of {:?}: expected {:?}", updates.shape(), place.shape);
            return Err(ScoreError::bad_model(what));
        }
        let register = Register::of(whole.dtype)?;
        let join = match node.op.attributes.text("reduction").unwrap_or("none") {
            "none" => None,
            "add" => Some("add"),
            "mul" => Some("multiply"),
            "max" => Some("larger"),
            "min" => Some("smaller"),
            other => return Err(ScoreError::bad_model(format!("reduction is '{other}'"))),
        };
        let kernel = if join.is_some() { "scatter_joined" } else { "scatter" };
        let mut source = Source::new(kernel, kernel, &["picked"])
            .define("STORED", stored_name(whole.dtype)?)
            .define("REGISTER", register.name());
        if let Some(join) = join {
            source = source.define("JOIN", join);
        }
        let order = (0..place.shape.len()).collect::<Vec<_>>();
        let update = reader(&updates.program.cast(register), &order, "update", "Updates")?;
        source.generated.push_str(&update.text);
        let (source, mut arguments, count) = indexing(source, place, &whole, indices, axes)?;
        arguments.insert(0, Argument::at(&whole.view));
        arguments.extend([Argument::Struct(update.argument), unsigned(count)]);
        self.push(over_elements(source, arguments, count, vec![whole.view.storage]), &node.origins);
        self.put_memory(node, 0, whole);
        Ok(())
    }
}
