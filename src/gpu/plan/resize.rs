//! Resizing: a gather where nearest elements are taken, weighted sums along one axis or two at a time elsewhere.
//!
//! Coordinates, modes and edges are the planner's affair ([`taps`]): the kernel sees tables. Axes are independent of each other, so however many change,
//! each launch does the next two.

mod taps;

use super::pointwise::{MOST_BLOCKS, axis_of, literal};
use super::program::{Array, Program, Register, stored_name};
use super::rows::unsigned;
use super::sources::Source;
use super::text::{Access, Struct, offsets};
use super::{Argument, BLOCK, Base, Deferred, Operator, Planner};
use crate::error::{Result, ScoreError};
use crate::graph::Node;
use crate::layout::view::View;
use crate::tensor::{DType, Tensor};
use taps::{Axis, Mode, Taps};

impl Planner<'_> {
    /// Takes a `Resize`; `false` for another operator.
    pub(super) fn resizes(&mut self, node: &Node) -> Result<bool> {
        if !node.is("Resize") {
            return Ok(false);
        }
        let mode = Mode::of(&node.op.attributes)?;
        let axes = self.resized_axes(node, &mode)?;
        let tables = axes.iter().map(|axis| (!mode.keeps(axis)).then(|| mode.taps(axis))).collect::<Vec<_>>();
        if axes.iter().any(|a| a.length == 0 && a.made > 0) {
            return Err(ScoreError::bad_model("a tensor without elements becomes one with some"));
        }
        let mut y = match mode.is_nearest() {
            true => {
                let data = self.memory(node, 0)?;
                let from = tables.iter().map(|t| t.as_ref().map(|t| t.from.clone())).collect::<Vec<_>>();
                Deferred::of(self.remapped(&data, &from, &node.origins)?)?
            }
            false => self.interpolated(node, &tables)?,
        };
        let shape = self.shape_of(node, 0)?;
        let register = y.register();
        for (axis, table) in tables.iter().enumerate() {
            let Some(table) = table.as_ref().filter(|t| t.outside.contains(&true)) else { continue };
            let along = (0..shape.len()).map(|a| if a == axis { table.outside.len() } else { 1 });
            let along = along.collect::<Vec<_>>();
            let mask = Tensor::from_slice(&along, &table.outside)?;
            let order = (0..shape.len()).collect::<Vec<_>>();
            let mask = Deferred::of(self.constant_array(mask, &order, DType::Bool)?)?;
            let value = f64::from(node.op.attributes.float("extrapolation_value").unwrap_or(0.0));
            y = self.call("choose", register, vec![mask, literal(register, value, &[]), y], &shape)?;
        }
        self.defer(node, 0, y)?;
        Ok(true)
    }

    /// How each axis of the tensor changes.
    fn resized_axes(&self, node: &Node, mode: &Mode) -> Result<Vec<Axis>> {
        let (from, made) = (self.input_shape(node, 0)?, self.shape_of(node, 0)?);
        let axes = match node.op.attributes.ints("axes") {
            Some(axes) => axes.iter().map(|a| axis_of(*a, from.len())).collect::<Result<Vec<_>>>()?,
            None => (0..from.len()).collect(),
        };
        let per_axis = |list: Option<Vec<f64>>, what: &str, each: usize| match list.filter(|l| !l.is_empty())
        {
            Some(list) if list.len() == each * axes.len() => Ok(Some(list)),
            Some(list) => {
                let what = format!("{} {what} for {} axes", list.len(), axes.len());
                Err(ScoreError::bad_model(what))
            }
            None => Ok(None),
        };
        let mut all = from.iter().zip(&made);
        let mut all = all
            .by_ref()
            .map(|(length, made)| Axis { length: *length, made: *made, scale: 1.0, region: (0.0, 1.0) })
            .collect::<Vec<_>>();
        let scales = per_axis(self.numbers(node, 2)?, "scales", 1)?;
        let sizes = per_axis(self.numbers(node, 3)?, "sizes", 1)?;
        let own = |axis: &usize, size: f64| size / from.get(*axis).map_or(1.0, |n| (*n).max(1) as f64);
        let scales = match (scales, sizes) {
            (Some(scales), _) => scales,
            (None, Some(sizes)) => {
                let each = axes.iter().zip(&sizes).map(|(axis, size)| own(axis, *size)).collect::<Vec<_>>();
                let one = match node.op.attributes.text("keep_aspect_ratio_policy").unwrap_or("stretch") {
                    "stretch" => None,
                    "not_larger" => each.iter().copied().reduce(f64::min),
                    "not_smaller" => each.iter().copied().reduce(f64::max),
                    other => {
                        return Err(ScoreError::bad_model(format!("keep_aspect_ratio_policy is '{other}'")));
                    }
                };
                one.map_or(each, |scale| vec![scale; axes.len()])
            }
            (None, None) => return Err(ScoreError::bad_model("it has neither scales nor sizes")),
        };
        let region = if mode.is_crop() { per_axis(self.numbers(node, 1)?, "bounds", 2)? } else { None };
        for (at, (axis, scale)) in axes.iter().zip(&scales).enumerate() {
            let Some(slot) = all.get_mut(*axis) else { continue };
            slot.scale = *scale;
            if let Some(region) = &region {
                let bound = |at: usize| region.get(at).copied().unwrap_or(0.0);
                slot.region = (bound(at), bound(at + axes.len()));
            }
        }
        Ok(all)
    }

    /// Weighted sums along every axis that has a table.
    fn interpolated(&mut self, node: &Node, tables: &[Option<Taps>]) -> Result<Deferred> {
        let changed =
            tables.iter().enumerate().filter_map(|(a, t)| Some((a, t.as_ref()?))).collect::<Vec<_>>();
        let mut y = self.deferred(node, 0)?;
        if !y.register().is_float() {
            return Err(ScoreError::unsupported(format!("no kernel interpolates {}", y.register().name())));
        }
        for pair in changed.chunks(2) {
            let array = self.in_memory(y)?;
            y = self.resized(&array, pair)?;
        }
        Ok(y)
    }

    /// One launch: along one axis, or two.
    fn resized(&mut self, x: &Array, along: &[(usize, &Taps)]) -> Result<Deferred> {
        let register = Register::of(x.dtype)?;
        let mut place = x.view.clone();
        let whole = Taps { each: 1, from: vec![0], weights: vec![1.0], outside: Vec::new() };
        let (mut arguments, mut steps, mut each) =
            (vec![Argument::Result, Argument::at(&x.view)], Vec::new(), Vec::new());
        for at in 0..2 {
            // An axis that is not there has one element, which counts once.
            let (axis, taps) = along.get(at).map_or((None, &whole), |(axis, taps)| (Some(*axis), *taps));
            let stride = axis.map_or(0, |a| x.view.stride(a)) / x.view.size.max(1) as isize;
            let from = taps.from.iter().map(|f| i32::try_from(*f as isize * stride).unwrap_or(0));
            let from = Tensor::from_slice(&[taps.from.len()], &from.collect::<Vec<_>>())?;
            let weights = match register {
                Register::F64 => Tensor::from_slice(&[taps.weights.len()], &taps.weights)?,
                _ => {
                    let weights = taps.weights.iter().map(|w| *w as f32).collect::<Vec<_>>();
                    Tensor::from_slice(&[weights.len()], &weights)?
                }
            };
            for tensor in [from, weights] {
                let dtype = tensor.dtype();
                arguments.push(Argument::at(&self.constant_array(tensor, &[0], dtype)?.view));
            }
            each.push(u32::try_from(taps.each).unwrap_or(u32::MAX));
            steps.push(axis);
            if let Some(axis) = axis
                && let (Some(n), Some(stride)) = (place.shape.get_mut(axis), place.strides.get_mut(axis))
            {
                (*n, *stride) = (taps.from.len() / taps.each.max(1), 0);
            }
        }
        // Results are counted, and lie, in the order of the input.
        let order = x.view.order();
        let shape = place.shape.clone();
        let step = |axis: &Option<usize>| {
            let strides = (0..shape.len()).map(|a| isize::from(Some(a) == *axis)).collect();
            let view = View { offset: 0, strides, size: 1, ..place.clone() };
            Array { view: view.transposed(&order), dtype: DType::U8 }
        };
        let stepped = steps.iter().map(step).collect::<Vec<_>>();
        let [outer, inner] = stepped.as_slice() else { return Err(ScoreError::internal("two axes")) };
        let begin = Array { view: place.transposed(&order), dtype: x.dtype };
        let named = [("place", &begin), ("outer", outer), ("inner", inner)];
        let places = offsets(&named, &begin.view.shape, "Places")?;
        let mut source = Source::new("resize", "resize", &[])
            .define("STORED", stored_name(x.dtype)?)
            .define("REGISTER", register.name());
        source.generated.push_str(&places.text);
        let count = shape.iter().product::<usize>();
        arguments.extend([
            Argument::Struct(places.argument),
            Argument::Struct(Struct { pointers: Vec::new(), words: each }),
            unsigned(count),
        ]);
        let grid = [count.div_ceil(BLOCK).min(MOST_BLOCKS), 1, 1];
        let operator =
            Operator { source, grid, block: BLOCK, shared_bytes: 0, arguments, writes: Vec::new() };
        let base = Base { operator, access: Access::Flat(order.clone()), order, library: None };
        let program = Program::given(register, &shape);
        Ok(Deferred { program, base: Some(Box::new(base)), origins: Vec::new() })
    }
}
