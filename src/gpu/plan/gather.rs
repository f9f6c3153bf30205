//! Operators that pick elements by indices.
//!
//! All of them are one kernel: a place that steps along the axes that are not indexed, and for each axis that is, an index times a stride. Which
//! axis is which is a matter of views: an axis of the result that data does not have repeats it, and indices repeat along the axes that they say
//! nothing of. So mirrors, wraps and nearest neighbours are gathers, too, by indices that the planner computes (`remapped`), and a scatter is
//! the same the other way round (`scatter`).

use super::pieces::padded;
use super::pointwise::MOST_BLOCKS;
use super::program::{Array, Program, Register};
use super::rows::unsigned;
use super::sources::Source;
use super::text::{Struct, offsets, reader};
use super::{Argument, BLOCK, Deferred, MOST_ELEMENTS, Operator, Planner};
use crate::error::{Result, ScoreError};
use crate::graph::Node;
use crate::layout::view::View;

/// An axis that indices pick from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Picked {
    length: usize,
    /// Bytes between two of its elements.
    stride: isize,
}

impl Picked {
    pub(super) fn of(view: &View, axis: usize) -> Self {
        Self { length: view.length(axis), stride: view.stride(axis) }
    }
}

/// The most bytes that are moved at once.
const WIDEST: usize = 16;

impl Planner<'_> {
    /// Takes an operator that picks elements by indices; `false` for another one.
    pub(super) fn gathers(&mut self, node: &Node) -> Result<bool> {
        match node.op.onnx_name() {
            Some("Gather") => self.gather(node)?,
            Some("GatherElements") => self.gather_elements(node)?,
            Some("GatherND") => self.gather_nd(node)?,
            Some(name @ ("Compress" | "NonZero" | "Unique")) => {
                let what =
                    format!("how much {name} makes depends on what it reads, and a plan has fixed shapes");
                return Err(ScoreError::unsupported(what));
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn gather(&mut self, node: &Node) -> Result<()> {
        let (from, picked) = (self.input_shape(node, 0)?, self.input_shape(node, 1)?);
        let axis = self.axis(node, "axis", 0, from.len())?;
        if picked.len() < 2
            && let Ok(Some(indices)) = self.integers(node, 1)
            && let Some((first, step)) = progression(&indices, from.get(axis).copied().unwrap_or(0))
        {
            // Every so many-th element from one on is a view.
            return self.look(node, 0, |view| stepped(view, axis, first, step, picked.first().copied()));
        }
        let data = self.memory(node, 0)?;
        let indices = self.deferred(node, 1)?;
        let array = self.gathered(&data, axis, indices, &node.origins)?;
        self.put_memory(node, 0, array);
        Ok(())
    }

    /// Along an axis, the elements that indices say: their axes are where that one was.
    pub(super) fn gathered(
        &mut self,
        data: &Array,
        axis: usize,
        indices: Deferred,
        origins: &[usize],
    ) -> Result<Array> {
        let own = indices.shape().to_vec();
        let behind = data.view.shape.len().saturating_sub(axis + 1);
        let mut place = data.view.clone();
        place.shape.splice(axis..=axis, own.iter().copied());
        place.strides.splice(axis..=axis, own.iter().map(|_| 0));
        let indices = self.indices(indices, &padded(axis + 1, &own, behind))?;
        self.picked(data, &place, indices, &[Picked::of(&data.view, axis)], behind > 0, origins)
    }

    fn gather_elements(&mut self, node: &Node) -> Result<()> {
        let (data, shape) = (self.memory(node, 0)?, self.input_shape(node, 1)?);
        let axis = self.axis(node, "axis", 0, shape.len())?;
        let place = without(&data.view, axis, &shape)?;
        let indices = self.deferred(node, 1)?;
        let indices = self.indices(indices, &padded(1, &shape, 0))?;
        let array =
            self.picked(&data, &place, indices, &[Picked::of(&data.view, axis)], false, &node.origins)?;
        self.put_memory(node, 0, array);
        Ok(())
    }

    fn gather_nd(&mut self, node: &Node) -> Result<()> {
        let (data, shape) = (self.memory(node, 0)?, self.input_shape(node, 1)?);
        let batch = node.op.attributes.int("batch_dims").unwrap_or(0);
        let batch = usize::try_from(batch).map_err(|_| {
            ScoreError::bad_model(format!("batch_dims is {batch}: expected no negative number"))
        })?;
        let (count, outer) = indexed(&shape, data.view.shape.len(), batch)?;
        let kept = batch + count..data.view.shape.len();
        let place = View {
            shape: outer.iter().copied().chain(kept.clone().map(|a| data.view.length(a))).collect(),
            strides: (0..outer.len())
                .map(|a| if a < batch { data.view.stride(a) } else { 0 })
                .chain(kept.clone().map(|a| data.view.stride(a)))
                .collect(),
            ..data.view.clone()
        };
        let indices = self.deferred(node, 1)?;
        let indices = self.coordinates(indices, count, &outer, kept.len())?;
        let axes = (batch..batch + count).map(|a| Picked::of(&data.view, a)).collect::<Vec<_>>();
        let array = self.picked(&data, &place, indices, &axes, !kept.is_empty(), &node.origins)?;
        self.put_memory(node, 0, array);
        Ok(())
    }

    /// Each axis of the result is one of data: along some of them elements stand in another order, given as where each comes from; no
    /// list is an axis as it was.
    pub(super) fn remapped(
        &mut self,
        data: &Array,
        from: &[Option<Vec<i64>>],
        origins: &[usize],
    ) -> Result<Array> {
        // What is picked from is the whole tensor, as one axis: places along several axes add up.
        let order = (0..data.view.shape.len()).collect::<Vec<_>>();
        let dense = View::ordered(data.view.storage, &data.view.shape, &order, 1);
        let is_dense = order.iter().all(|a| {
            data.view.length(*a) == 1 || data.view.stride(*a) == dense.stride(*a) * data.view.size as isize
        });
        let data = match is_dense {
            true => data.clone(),
            false => self.row_major(Deferred::of(data.clone())?)?,
        };
        let mut place = data.view.clone();
        let mut indices: Option<Deferred> = None;
        let length =
            |axis: usize| from.get(axis).and_then(Option::as_ref).map_or(data.view.length(axis), Vec::len);
        let shape = order.iter().map(|a| length(*a)).collect::<Vec<_>>();
        let full = padded(1, &shape, 0);
        for (axis, list) in from.iter().enumerate() {
            let Some(list) = list else { continue };
            let step = dense.stride(axis) as i64;
            let along = padded(axis + 1, &[list.len()], order.len().saturating_sub(axis + 1));
            let own = self.whole_numbers(&list.iter().map(|i| i * step).collect::<Vec<_>>(), &along)?;
            indices = Some(match indices {
                Some(others) => self.call("add", Register::I64, vec![others, own], &full)?,
                None => own,
            });
            if let (Some(n), Some(stride)) = (place.shape.get_mut(axis), place.strides.get_mut(axis)) {
                (*n, *stride) = (list.len(), 0);
            }
        }
        let Some(indices) = indices else { return Ok(data) };
        let whole = Picked { length: data.view.count(), stride: data.view.size as isize };
        self.picked(
            &data,
            &place,
            indices.program,
            &[whole],
            from.last().is_some_and(Option::is_none),
            origins,
        )
    }

    /// Indices as the kernel reads them, under that shape: an axis of how many there are for an element, then those of the result, which they repeat
    /// along where they are one long.
    pub(super) fn indices(&mut self, indices: Deferred, shape: &[usize]) -> Result<Program> {
        let indices = self.reshaped(indices, shape)?;
        Ok(indices.program.cast(Register::I64))
    }

    /// Indices whose last axis has one for each axis that is picked from; the kernel wants that one first.
    pub(super) fn coordinates(
        &mut self,
        indices: Deferred,
        count: usize,
        outer: &[usize],
        kept: usize,
    ) -> Result<Program> {
        let first = std::iter::once(outer.len()).chain(0..outer.len()).collect::<Vec<_>>();
        let shape = std::iter::once(count).chain(outer.iter().copied()).collect::<Vec<_>>();
        let turned = self.looked(indices, &shape, |view| Some(view.transposed(&first)))?;
        let full = padded(0, &shape, kept);
        // Axes of one element more are a view of whatever it is.
        self.indices(turned, &full)
    }

    /// A gather into new memory, in row-major order. `place` is data under the result's shape, without the axes that are picked from;
    /// `as_rows` says that indices are the same along the last axis, so that its elements are picked together.
    fn picked(
        &mut self,
        data: &Array,
        place: &View,
        indices: Program,
        axes: &[Picked],
        as_rows: bool,
        origins: &[usize],
    ) -> Result<Array> {
        let array = self.allocate(&place.shape, data.dtype, None)?;
        if array.view.count() > 0 && data.view.count() == 0 {
            return Err(ScoreError::bad_model("indices into a tensor without elements"));
        }
        let unit = if as_rows { unit_bytes(place, axes) } else { place.size };
        // The last axis in units.
        let mut place = place.clone();
        let last = place.shape.len().saturating_sub(1);
        if unit != place.size {
            if let (Some(n), Some(stride)) = (place.shape.get_mut(last), place.strides.get_mut(last)) {
                *n = *n * place.size / unit;
                *stride = unit as isize;
            }
            place.size = unit;
        }
        let source = Source::new("gather", "gather", &["picked"]).define("UNIT", unit_name(unit)?);
        let (source, mut arguments, count) = indexing(source, &place, data, indices, axes)?;
        arguments.splice(0..0, [Argument::at(&array.view), Argument::at(&data.view)]);
        arguments.push(unsigned(count));
        let writes = vec![array.view.storage];
        self.push(over_elements(source, arguments, count, writes), origins);
        Ok(array)
    }
}

/// The functions and arguments with which a kernel finds a place: `Indices`, `Places`, `Axes`; and for how many.
pub(super) fn indexing(
    mut source: Source,
    place: &View,
    data: &Array,
    indices: Program,
    axes: &[Picked],
) -> Result<(Source, Vec<Argument>, usize)> {
    let count = place.count();
    let full = std::iter::once(axes.len()).chain(place.shape.iter().copied()).collect::<Vec<_>>();
    if count.saturating_mul(axes.len()) > MOST_ELEMENTS {
        return Err(ScoreError::unsupported(format!("more than {MOST_ELEMENTS} indices")));
    }
    let wrong = || ScoreError::bad_model(format!("indices of {:?} for {:?}", indices.shape, place.shape));
    let indices = indices.broadcast(&full).ok_or_else(wrong)?;
    let index = reader(&indices, &(0..full.len()).collect::<Vec<_>>(), "index", "Indices")?;
    let stepped = Array { view: place.clone(), dtype: data.dtype };
    let places = offsets(&[("place", &stepped)], &place.shape, "Places")?;
    source = source.define("PICKED", axes.len());
    source.generated.push_str(&index.text);
    source.generated.push_str(&places.text);
    let size = place.size.max(1) as isize;
    let word = |n: isize| i32::try_from(n).unwrap_or(i32::MAX) as u32;
    let words = axes.iter().map(|a| word(a.length as isize));
    let words = words.chain(axes.iter().map(|a| word(a.stride / size))).collect();
    let axes = Struct { pointers: Vec::new(), words };
    let arguments = [index.argument, places.argument, axes].map(Argument::Struct).to_vec();
    Ok((source, arguments, count))
}

pub(super) fn over_elements(
    source: Source,
    arguments: Vec<Argument>,
    count: usize,
    writes: Vec<crate::layout::view::Storage>,
) -> Operator {
    let grid = [count.div_ceil(BLOCK).min(MOST_BLOCKS), 1, 1];
    Operator { source, grid, block: BLOCK, shared_bytes: 0, arguments, writes }
}

/// A tensor under another shape of as many axes, at most as long as its own, one of them without a step: who picks along it adds that.
pub(super) fn without(view: &View, axis: usize, shape: &[usize]) -> Result<View> {
    let fits = view.shape.len() == shape.len()
        && shape.iter().enumerate().all(|(a, n)| a == axis || *n <= view.length(a));
    if !fits {
        return Err(ScoreError::bad_model(format!(
            "indices of {shape:?} into {:?} along axis {axis}",
            view.shape
        )));
    }
    let mut place = View { shape: shape.to_vec(), ..view.clone() };
    if let Some(stride) = place.strides.get_mut(axis) {
        *stride = 0;
    }
    Ok(place)
}

/// How many indices there are for an element, the last axis of indices, and its other axes.
pub(super) fn indexed(shape: &[usize], rank: usize, batch: usize) -> Result<(usize, Vec<usize>)> {
    match shape.split_last() {
        Some((count, outer)) if *count > 0 && batch + count <= rank && batch <= outer.len() => {
            Ok((*count, outer.to_vec()))
        }
        _ => Err(ScoreError::bad_model(format!(
            "indices of {shape:?} into {rank} axes, the first {batch} of them common to both"
        ))),
    }
}

/// Where indices begin and how far they step, if they step evenly and are all inside.
fn progression(indices: &[i64], length: usize) -> Option<(i64, i64)> {
    let inside = |i: &i64| {
        let from_start = if *i < 0 { i.checked_add(length as i64)? } else { *i };
        (0..length as i64).contains(&from_start).then_some(from_start)
    };
    let indices = indices.iter().map(inside).collect::<Option<Vec<_>>>()?;
    let first = *indices.first()?;
    let step = indices.get(1).map_or(1, |second| second - first);
    indices.windows(2).all(|pair| matches!(pair, [a, b] if b - a == step)).then_some((first, step))
}

/// So many elements of an axis in even steps; without a number, one of them, and the axis is gone.
fn stepped(view: &View, axis: usize, first: i64, step: i64, count: Option<usize>) -> Option<View> {
    let (first, step) = (isize::try_from(first).ok()?, isize::try_from(step).ok()?);
    let mut made = view.clone();
    made.offset = made.offset.checked_add_signed(view.stride(axis) * first)?;
    match count {
        Some(count) => {
            *made.shape.get_mut(axis)? = count;
            *made.strides.get_mut(axis)? *= step;
        }
        None => {
            made.shape.remove(axis);
            made.strides.remove(axis);
        }
    }
    Some(made)
}

/// How many bytes of the last axis may be moved at once: everything else must step in whole units.
fn unit_bytes(place: &View, axes: &[Picked]) -> usize {
    let Some((last, outer)) = place.strides.split_last() else { return place.size };
    let row = place.shape.last().map_or(0, |n| n * place.size);
    let fits = |unit: &usize| {
        let step = *unit as isize;
        *unit >= place.size
            && row.is_multiple_of(*unit)
            && place.offset.is_multiple_of(*unit)
            && outer.iter().all(|s| s % step == 0)
            && axes.iter().all(|a| a.stride % step == 0)
    };
    match *last == place.size as isize {
        true => [WIDEST, 8, 4, 2].into_iter().find(fits).unwrap_or(place.size),
        false => place.size,
    }
}

fn unit_name(bytes: usize) -> Result<&'static str> {
    Ok(match bytes {
        1 => "u8",
        2 => "u16",
        4 => "unsigned",
        8 => "u64",
        WIDEST => "Vector<unsigned, 4>",
        other => return Err(ScoreError::internal(format!("no kernel moves {other} bytes at once"))),
    })
}
