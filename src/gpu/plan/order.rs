//! Operators that ask how a row's elements are ordered: the place of the largest, the first few, sums up to each.

use super::pointwise::literal;
use super::program::{Program, Register};
use super::rows::{Rows, block_for, unsigned};
use super::sources::Source;
use super::text::{Access, reader};
use super::{Argument, BLOCK, Base, Deferred, Operator, Planner};
use crate::error::{Result, ScoreError};
use crate::graph::Node;
use crate::tensor::DType;

/// Which of a row's elements come first; what is no number comes before or behind all that are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum First {
    /// As NumPy's `argmax`.
    Largest,
    /// As NumPy's `argmin`.
    Smallest,
    /// As NumPy sorts.
    Ascending,
}

impl First {
    /// As ahead.cu calls it.
    fn name(self) -> &'static str {
        match self {
            Self::Largest => "LargestFirst",
            Self::Smallest => "SmallestFirst",
            Self::Ascending => "Ascending",
        }
    }
}

impl Planner<'_> {
    /// Takes an operator over ordered rows; `false` for another one.
    pub(super) fn ordered_rows(&mut self, node: &Node) -> Result<bool> {
        match node.op.onnx_name() {
            Some(name @ ("ArgMax" | "ArgMin")) => {
                let rank = self.input_shape(node, 0)?.len();
                let axis = self.axis(node, "axis", 0, rank)?;
                let x = self.deferred(node, 0)?;
                let first = if name == "ArgMax" { First::Largest } else { First::Smallest };
                let y = self.arg(x, axis, first, node.op.attributes.flag("select_last_index"))?;
                self.shaped(node, 0, y)?;
            }
            Some("TopK") => self.top_k(node)?,
            Some("CumSum") => self.cum_sum(node)?,
            Some("Hardmax") => self.hardmax(node)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Where in each row along an axis its first element is; the axis is one long.
    fn arg(&mut self, x: Deferred, axis: usize, first: First, last: bool) -> Result<Deferred> {
        let rows = self.as_rows(x, &[axis])?;
        if rows.columns == 0 {
            return Err(ScoreError::bad_model("the place of the largest of no elements"));
        }
        let mut shape = rows.input.shape.clone();
        if let Some(length) = shape.get_mut(axis) {
            *length = 1;
        }
        let is_beside = rows.are_beside(&[axis]);
        let kernel = if is_beside { "arg_columns" } else { "arg_rows" };
        let (source, input) = ordering(&rows, "arg", kernel, Some(first))?;
        let operator = Operator {
            source,
            grid: [if is_beside { rows.rows.div_ceil(BLOCK) } else { rows.rows }, 1, 1],
            block: if is_beside { BLOCK } else { block_for(rows.columns) },
            shared_bytes: 0,
            arguments: vec![
                input,
                Argument::Result,
                unsigned(rows.rows),
                unsigned(rows.columns),
                Argument::Int(last.into()),
            ],
            writes: Vec::new(),
        };
        let order = (0..shape.len()).collect::<Vec<_>>();
        Ok(by_one_number(operator, Register::I64, &shape, order, rows.origins))
    }

    fn top_k(&mut self, node: &Node) -> Result<()> {
        let from = self.input_shape(node, 0)?;
        let axis = self.axis(node, "axis", -1, from.len())?;
        let k = self.integers(node, 1)?.and_then(|k| k.first().copied());
        let columns = from.get(axis).copied().unwrap_or(1);
        let k = k.and_then(|k| usize::try_from(k).ok()).filter(|k| *k <= columns);
        let k = k.ok_or_else(|| ScoreError::bad_model(format!("its k is no number up to {columns}")))?;
        let mut shape = from;
        if let Some(length) = shape.get_mut(axis) {
            *length = k;
        }
        let x = self.deferred(node, 0)?;
        let rows = self.as_rows(x, &[axis])?;
        let is_largest = node.op.attributes.int("largest").unwrap_or(1) != 0;
        let first = if is_largest { First::Largest } else { First::Ascending };
        // About what a turn costs beside looking at the columns is what threads tell each other.
        let by_turn = k * (columns + 64 * BLOCK) < columns * columns;
        let kernel = if by_turn { "top_by_turn" } else { "top_by_rank" };
        let (source, input) = ordering(&rows, "top", kernel, Some(first))?;
        let mut writes = Vec::new();
        let places = match node.output(1) {
            Some(_) => {
                let array = self.allocate(&shape, DType::I64, Some(&rows.order))?;
                writes.push(array.view.storage);
                let argument = Argument::at(&array.view);
                self.put_memory(node, 1, array);
                argument
            }
            None => Argument::Pointer(None),
        };
        let operator = Operator {
            source,
            grid: [if k == 0 { 0 } else { rows.rows }, 1, 1],
            block: block_for(columns),
            shared_bytes: 0,
            arguments: vec![input, Argument::Result, places, unsigned(columns), unsigned(k)],
            writes,
        };
        let register = rows.input.register();
        let mut origins = rows.origins;
        origins.extend(&node.origins);
        let y = by_one_number(operator, register, &shape, rows.order, origins);
        // Places are there when values are: nobody may wait for who reads these.
        let y = if node.output(1).is_some() { self.settled(y)? } else { y };
        self.defer(node, 0, y)
    }

    fn cum_sum(&mut self, node: &Node) -> Result<()> {
        let rank = self.input_shape(node, 0)?.len();
        let axis = self.integers(node, 1)?.and_then(|a| a.first().copied());
        let axis = axis.ok_or_else(|| ScoreError::bad_model("it has no axis"))?;
        let axis = super::pointwise::axis_of(axis, rank)?;
        let x = self.deferred(node, 0)?;
        let rows = self.as_rows(x, &[axis])?;
        let register = rows.input.register();
        super::functions::Types::Same.check(register)?;
        let (source, input) = ordering(&rows, "cumulate", "cumulate", None)?;
        let flag = |name: &str| Argument::Int(node.op.attributes.flag(name).into());
        let operator = Operator {
            source,
            grid: [rows.rows, 1, 1],
            block: block_for(rows.columns),
            shared_bytes: 0,
            arguments: vec![
                input,
                Argument::Result,
                unsigned(rows.columns),
                flag("exclusive"),
                flag("reverse"),
            ],
            writes: Vec::new(),
        };
        let shape = rows.input.shape.clone();
        let y = by_one_number(operator, register, &shape, rows.order, rows.origins);
        self.defer(node, 0, y)
    }

    /// One where a row's first largest element is, else zero.
    fn hardmax(&mut self, node: &Node) -> Result<()> {
        let shape = self.input_shape(node, 0)?;
        let axis = self.axis(node, "axis", -1, shape.len())?;
        let x = self.deferred(node, 0)?;
        let register = x.register();
        let place = self.arg(x, axis, First::Largest, false)?;
        let place = self.settled(place)?;
        let own = self.positions(axis, &shape)?;
        let is_first = self.call("equal", Register::Bool, vec![own, place], &shape)?;
        let (one, zero) = (literal(register, 1.0, &[]), literal(register, 0.0, &[]));
        let y = self.call("choose", register, vec![is_first, one, zero], &shape)?;
        self.defer(node, 0, y)
    }
}

/// A source over these rows, and the argument that they are.
fn ordering(
    rows: &Rows,
    family: &'static str,
    kernel: &'static str,
    first: Option<First>,
) -> Result<(Source, Argument)> {
    let mut source =
        Source::new(family, kernel, &["block", "ahead"]).define("REGISTER", rows.input.register().name());
    if let Some(first) = first {
        source = source.define("ORDER", first.name());
    }
    let generated = reader(&rows.input, &rows.order, "input", "Input")?;
    source.generated.push_str(&generated.text);
    Ok((source, Argument::Struct(generated.argument)))
}

/// What a kernel computes that counts its results by one number, the axes in that order.
fn by_one_number(
    operator: Operator,
    register: Register,
    shape: &[usize],
    order: Vec<usize>,
    origins: Vec<usize>,
) -> Deferred {
    let base = Base { operator, access: Access::Flat(order.clone()), order, library: None };
    Deferred { program: Program::given(register, shape), base: Some(Box::new(base)), origins }
}
