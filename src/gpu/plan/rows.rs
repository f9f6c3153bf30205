//! Operators over rows: reductions, and what brings each row to a common measure. A row is all elements along some axes.

use super::program::{Program, Register};
use super::sources::Source;
use super::text::{Access, reader, reader4};
use super::{Argument, BLOCK, Base, Deferred, Operator, Planner, Value};
use crate::error::{Result, ScoreError};
use crate::graph::Node;
use crate::tensor::DType;

/// Threads of a warp, and the longest rows that one keeps in its registers (kernels/cuda/normalise_held.cu).
const WARP: usize = 32;
const HELD: usize = 1024;

/// What is read, as rows: the axes that are kept come before those of a row.
pub(super) struct Rows {
    pub(super) input: Program,
    /// All axes, the kept ones first.
    pub(super) order: Vec<usize>,
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) origins: Vec<usize>,
}

impl Rows {
    /// Whether rows along these axes lie beside each other: neighbouring threads then had better read one each.
    pub(super) fn are_beside(&self, axes: &[usize]) -> bool {
        let first = self.input.arrays().next();
        let innermost = first.and_then(|a| a.view.order().into_iter().find_last_moving(&a.view));
        innermost.is_some_and(|axis| !axes.contains(&axis)) || self.columns == 1
    }
}

/// A reduction as reduce.cu wants it.
pub(super) struct Reduction {
    /// What is done to each element first.
    before: Option<&'static str>,
    /// The type of block.cu or reduce.cu.
    joins: &'static str,
    /// What becomes of the whole.
    after: &'static str,
}

impl Planner<'_> {
    /// Takes an operator over rows; `false` for another one.
    pub(super) fn rows(&mut self, node: &Node) -> Result<bool> {
        let Some(name) = node.op.onnx_name() else { return Ok(false) };
        match name {
            "Softmax" | "LogSoftmax" => {
                let rank = self.input_shape(node, 0)?.len();
                let axis = self.axis(node, "axis", -1, rank)?;
                self.softmax(node, axis, name == "LogSoftmax")?;
            }
            "LayerNormalization" | "RMSNormalization" => {
                self.layer_norm(node, name == "LayerNormalization")?
            }
            "InstanceNormalization" | "GroupNormalization" => self.group_norm(node)?,
            "LpNormalization" => self.lp_norm(node)?,
            "GlobalAveragePool" | "GlobalMaxPool" => {
                let rank = self.input_shape(node, 0)?.len();
                let axes = (2..rank).collect::<Vec<_>>();
                let how = reduction(if name == "GlobalMaxPool" { "ReduceMax" } else { "ReduceMean" });
                let how = how.ok_or_else(|| ScoreError::internal("a reduction without a name"))?;
                self.reduce(node, &axes, &how)?;
            }
            _ => {
                let Some(how) = reduction(name) else { return Ok(false) };
                let rank = self.input_shape(node, 0)?.len();
                let axes = self.integers(node, 1)?.unwrap_or_default();
                let axes = match axes.as_slice() {
                    [] if node.op.attributes.flag("noop_with_empty_axes") => {
                        // Nothing is reduced; what is done to each element still is.
                        let x = self.deferred(node, 0)?;
                        let register = x.program.register();
                        let shape = self.shape_of(node, 0)?;
                        let y = match how.before {
                            Some(function) => self.call(function, register, vec![x], &shape)?,
                            None => x,
                        };
                        let finish = how.after.strip_suffix("(value)").unwrap_or("same");
                        let finish =
                            ["square_root", "logarithm"].into_iter().find(|f| *f == finish).unwrap_or("same");
                        let y = self.call(finish, register, vec![y], &shape)?;
                        self.defer(node, 0, y)?;
                        return Ok(true);
                    }
                    [] => (0..rank).collect(),
                    axes => axes
                        .iter()
                        .map(|a| super::pointwise::axis_of(*a, rank))
                        .collect::<Result<Vec<_>>>()?,
                };
                match name {
                    "ReduceLogSumExp" => self.log_sum_exp(node, &axes)?,
                    _ => self.reduce(node, &axes, &how)?,
                }
            }
        }
        Ok(true)
    }

    /// An input as rows over these axes.
    pub(super) fn as_rows(&mut self, deferred: Deferred, axes: &[usize]) -> Result<Rows> {
        let deferred = match deferred.base {
            Some(_) => self.settled(deferred)?,
            None => deferred,
        };
        let shape = deferred.program.shape.clone();
        let kept = (0..shape.len()).filter(|a| !axes.contains(a)).collect::<Vec<_>>();
        let count =
            |axes: &[usize]| axes.iter().map(|a| shape.get(*a).copied().unwrap_or(1)).product::<usize>();
        let own = (0..shape.len()).filter(|a| axes.contains(a)).collect::<Vec<_>>();
        let (rows, columns) = (count(&kept), count(&own));
        let order = kept.iter().chain(&own).copied().collect();
        Ok(Rows { input: deferred.program, order, rows, columns, origins: deferred.origins })
    }

    fn reduce(&mut self, node: &Node, axes: &[usize], how: &Reduction) -> Result<()> {
        let x = self.deferred(node, 0)?;
        let dtype = self.input_dtype(node, 0)?;
        let x = match how.before {
            Some(function) => {
                let (register, shape) = (x.program.register(), x.program.shape.clone());
                self.call(function, register, vec![x], &shape)?
            }
            None => x,
        };
        let deferred = self.reduced(x, axes, how, dtype)?;
        self.shaped(node, 0, deferred)
    }

    /// A reduction, its axes one long.
    pub(super) fn reduced(
        &mut self,
        x: Deferred,
        axes: &[usize],
        how: &Reduction,
        dtype: DType,
    ) -> Result<Deferred> {
        let rows = self.as_rows(x, axes)?;
        let register = rows.input.register();
        let shape = rows.input.shape.iter().enumerate();
        let shape = shape.map(|(a, n)| if axes.contains(&a) { 1 } else { *n }).collect::<Vec<_>>();
        let (least, most) = bounds(register, dtype);
        let generated = reader(&rows.input, &rows.order, "input", "Input")?;
        let is_beside = rows.are_beside(axes);
        let kernel = if is_beside { "reduce_columns" } else { "reduce_rows" };
        let mut source = Source::new("reduce", kernel, &["block"])
            .define("REGISTER", register.name())
            .define("LOWEST", least)
            .define("HIGHEST", most)
            .define("REDUCTION", how.joins)
            .define("FINISH(value, columns)", how.after);
        source.generated.push_str(&generated.text);
        let grid = if is_beside { rows.rows.div_ceil(BLOCK) } else { rows.rows };
        let operator = Operator {
            source,
            grid: [grid, 1, 1],
            block: if is_beside { BLOCK } else { block_for(rows.columns) },
            shared_bytes: 0,
            arguments: vec![
                Argument::Struct(generated.argument),
                Argument::Result,
                unsigned(rows.rows),
                unsigned(rows.columns),
            ],
            writes: Vec::new(),
        };
        let order = (0..shape.len()).collect::<Vec<_>>();
        let base = Base { operator, access: Access::Flat(order.clone()), order, library: None };
        let program = Program::given(register, &shape);
        Ok(Deferred { program, base: Some(Box::new(base)), origins: rows.origins })
    }

    /// The result of a reduction under the shape that the model wants: its axes are there or gone.
    pub(super) fn shaped(&mut self, node: &Node, output: usize, deferred: Deferred) -> Result<()> {
        let shape = self.shape_of(node, output)?;
        self.defer(node, output, reshaped_base(deferred, &shape))
    }

    /// log(sum(exp(x - max))) + max: without overflow.
    fn log_sum_exp(&mut self, node: &Node, axes: &[usize]) -> Result<()> {
        let dtype = self.input_dtype(node, 0)?;
        let x = self.memory(node, 0)?;
        let shape = x.view.shape.clone();
        let x = || {
            Ok::<_, ScoreError>(Deferred {
                program: Program::of(x.clone())?,
                base: None,
                origins: Vec::new(),
            })
        };
        let unknown = || ScoreError::internal("a reduction without a name");
        let (largest, sum) =
            (reduction("ReduceMax").ok_or_else(unknown)?, reduction("ReduceSum").ok_or_else(unknown)?);
        let most = self.reduced(x()?, axes, &largest, dtype)?;
        let most = self.settled(most)?;
        let register = most.program.register();
        let centred = self.call("subtract", register, vec![x()?, most.clone()], &shape)?;
        let powers = self.call("exponential", register, vec![centred], &shape)?;
        let total = self.reduced(powers, axes, &sum, dtype)?;
        let kept = total.program.shape.clone();
        let logarithm = self.call("logarithm", register, vec![total], &kept)?;
        let y = self.call("add", register, vec![logarithm, most], &kept)?;
        self.shaped(node, 0, y)
    }

    pub(super) fn softmax(&mut self, node: &Node, axis: usize, as_logarithm: bool) -> Result<()> {
        let x = self.deferred(node, 0)?;
        let y = self.softmax_of(x, axis, as_logarithm)?;
        self.defer(node, 0, y)
    }

    /// A softmax along an axis.
    pub(super) fn softmax_of(&mut self, x: Deferred, axis: usize, as_logarithm: bool) -> Result<Deferred> {
        let rows = self.as_rows(x, &[axis])?;
        let arguments = vec![Argument::Result, unsigned(rows.columns), Argument::Int(as_logarithm.into())];
        self.normalised(rows, "softmax", arguments)
    }

    /// A kernel of normalise_held.cu over rows where it takes them, else the same one of normalise.cu; the input is its first argument.
    pub(super) fn normalised(
        &mut self,
        rows: Rows,
        kernel: &'static str,
        arguments: Vec<Argument>,
    ) -> Result<Deferred> {
        let register = rows.input.register();
        if !register.is_float() {
            return Err(ScoreError::unsupported(format!("no kernel does this to {}", register.name())));
        }
        let writes = arguments.iter().filter_map(|a| match a {
            Argument::Pointer(Some((storage, _))) => Some(*storage),
            _ => None,
        });
        let writes = writes.collect();
        let mut all = arguments;
        let held = match register == Register::F32 && rows.columns.is_multiple_of(4) && rows.columns <= HELD {
            true => reader4(&rows.input, &rows.order, "inputs", "Input")?,
            false => None,
        };
        let (mut source, generated, grid, block, access) = match held {
            Some(generated) => {
                // Few rows are spread over all multiprocessors.
                let multiprocessors = self.settings.tensor_cores.multiprocessors().max(1);
                let warps = (rows.rows / multiprocessors).clamp(1, BLOCK / WARP);
                let source = Source::new("normalise_held", kernel, &["block", "fours"])
                    .define("FOURS", rows.columns.div_ceil(4 * WARP).max(1));
                all.push(unsigned(rows.rows));
                let access = Access::FlatFours(rows.order.clone());
                (source, generated, rows.rows.div_ceil(warps), warps * WARP, access)
            }
            None => {
                let generated = reader(&rows.input, &rows.order, "input", "Input")?;
                let source = Source::new("normalise", kernel, &["block"]).define("REGISTER", register.name());
                let access = Access::Flat(rows.order.clone());
                (source, generated, rows.rows, block_for(rows.columns), access)
            }
        };
        source.generated.push_str(&generated.text);
        all.insert(0, Argument::Struct(generated.argument));
        let operator =
            Operator { source, grid: [grid, 1, 1], block, shared_bytes: 0, writes, arguments: all };
        // Of no columns there is nothing to write.
        let operator = Operator { grid: if rows.columns == 0 { [0; 3] } else { operator.grid }, ..operator };
        let base = Base { operator, access, order: rows.order, library: None };
        let program = Program::given(register, &rows.input.shape);
        Ok(Deferred { program, base: Some(Box::new(base)), origins: rows.origins })
    }

    /// Over the axes from one on, times a scale, plus a bias.
    fn layer_norm(&mut self, node: &Node, centred: bool) -> Result<()> {
        let shape = self.input_shape(node, 0)?;
        let first = self.axis(node, "axis", -1, shape.len())?;
        let axes = (first..shape.len()).collect::<Vec<_>>();
        let x = self.deferred(node, 0)?;
        let rows = self.as_rows(x, &axes)?;
        let register = rows.input.register();
        let dtype = if register == Register::F64 { DType::F64 } else { DType::F32 };
        let mut told = Vec::new();
        for output in [1, 2] {
            told.push(match node.output(output) {
                Some(_) => {
                    let shape = self.shape_of(node, output)?;
                    let array = self.allocate(&shape, dtype, None)?;
                    self.put(node, output, Value::Memory(array.clone()));
                    Argument::at(&array.view)
                }
                None => Argument::Pointer(None),
            });
        }
        let mut arguments = vec![Argument::Result];
        arguments.extend(told);
        let epsilon = node.op.attributes.float("epsilon").unwrap_or(1e-5);
        arguments.extend([unsigned(rows.columns), Argument::Float(epsilon), Argument::Int(centred.into())]);
        let mut y = self.normalised(rows, "normalise", arguments)?;
        let scale = self.deferred(node, 1)?;
        y = match node.input(2) {
            Some(_) => {
                let bias = self.deferred(node, 2)?;
                self.call(
                    "multiply_add",
                    register,
                    vec![y, as_register(scale, register), as_register(bias, register)],
                    &shape,
                )?
            }
            None => self.call("multiply", register, vec![y, as_register(scale, register)], &shape)?,
        };
        // What else the kernel tells is there when it has run: that may not wait for who reads the result.
        let tells = node.output(1).is_some() || node.output(2).is_some();
        let y = if tells { self.settled(y)? } else { y };
        self.defer(node, 0, y)
    }

    /// Over each group of channels of each image (an instance is a group of one channel), times a scale and plus a bias a channel.
    fn group_norm(&mut self, node: &Node) -> Result<()> {
        let shape = self.input_shape(node, 0)?;
        let channels = shape.get(1).copied().unwrap_or(1);
        let groups = match node.is("GroupNormalization") {
            true => self.lengths_attribute(node, "num_groups")?,
            false => channels,
        };
        if groups == 0 || channels % groups != 0 {
            return Err(ScoreError::bad_model(format!("{channels} channels in {groups} groups")));
        }
        // The channels are two axes: groups, and channels of a group.
        let split = |view: &crate::layout::view::View| {
            let mut split = view.clone();
            let stride = view.stride(1);
            split.shape.splice(1..2, [groups, channels / groups]);
            split.strides.splice(1..2, [stride * (channels / groups) as isize, stride]);
            Some(split)
        };
        let x = self.deferred(node, 0)?;
        let x = if x.base.is_some() { self.settled(x)? } else { x };
        let mut lengths = shape.clone();
        lengths.splice(1..2, [groups, channels / groups]);
        let program =
            x.program.viewed(&lengths, split).ok_or_else(|| ScoreError::internal("channels in groups"))?;
        let rows = self.as_rows(Deferred { program, ..x }, &(2..lengths.len()).collect::<Vec<_>>())?;
        let register = rows.input.register();
        let epsilon = node.op.attributes.float("epsilon").unwrap_or(1e-5);
        let arguments = vec![
            Argument::Result,
            Argument::Pointer(None),
            Argument::Pointer(None),
            unsigned(rows.columns),
            Argument::Float(epsilon),
            Argument::Int(1),
        ];
        let y = self.normalised(rows, "normalise", arguments)?;
        let mut of = vec![y];
        let along = [groups, channels / groups].into_iter();
        let along = along.chain(std::iter::repeat_n(1, lengths.len().saturating_sub(3))).collect::<Vec<_>>();
        for input in [1, 2] {
            let parameter = self.deferred(node, input)?;
            let parameter = if parameter.base.is_some() { self.settled(parameter)? } else { parameter };
            let program = if parameter.program.shape.iter().product::<usize>() == channels {
                parameter.program.viewed(&along, |view| view.reshaped(&along))
            } else {
                None
            };
            let program =
                program.ok_or_else(|| ScoreError::unsupported("a scale that is not one a channel"))?;
            of.push(as_register(Deferred { program, ..parameter }, register));
        }
        let y = self.call("multiply_add", register, of, &lengths)?;
        let array = self.settled(y)?;
        let program = array.program.viewed(&shape, |view| view.reshaped(&shape));
        let program = program.ok_or_else(|| ScoreError::internal("groups as channels"))?;
        self.defer(node, 0, Deferred { program, ..array })
    }

    fn lp_norm(&mut self, node: &Node) -> Result<()> {
        let shape = self.input_shape(node, 0)?;
        let axis = self.axis(node, "axis", -1, shape.len())?;
        let order = node.op.attributes.int("p").unwrap_or(2);
        let x = self.deferred(node, 0)?;
        let rows = self.as_rows(x, &[axis])?;
        let arguments =
            vec![Argument::Result, unsigned(rows.columns), Argument::Int(i32::try_from(order).unwrap_or(2))];
        let y = self.normalised(rows, "divide_by_norm", arguments)?;
        self.defer(node, 0, y)
    }

    /// An attribute that is a number of something.
    pub(super) fn lengths_attribute(&self, node: &Node, name: &str) -> Result<usize> {
        let value = node.op.attributes.int(name).and_then(|v| usize::try_from(v).ok());
        value.ok_or_else(|| ScoreError::bad_model(format!("it has no {name} that is a number of something")))
    }
}

/// Finds the axis that moves fastest in memory.
trait LastMoving {
    fn find_last_moving(self, view: &crate::layout::view::View) -> Option<usize>;
}

impl<I: Iterator<Item = usize>> LastMoving for I {
    fn find_last_moving(self, view: &crate::layout::view::View) -> Option<usize> {
        self.filter(|a| view.length(*a) > 1 && view.stride(*a) != 0).last()
    }
}

/// The result of a kernel whose elements are counted by one number, under another shape with as many elements in the same order.
fn reshaped_base(mut deferred: Deferred, shape: &[usize]) -> Deferred {
    if deferred.program.shape == shape {
        return deferred;
    }
    let order = (0..shape.len()).collect::<Vec<_>>();
    let dims = shape.to_vec();
    let Some(base) = deferred.base.as_mut() else { return deferred };
    base.access = base.access.over(vec![order.clone()]);
    base.order = order;
    // What else it reads has the axes of length one, too, or is there element by element.
    if let Some(program) = deferred.program.reshaped(&dims) {
        deferred.program = program;
    }
    deferred
}

fn as_register(mut deferred: Deferred, register: Register) -> Deferred {
    deferred.program = deferred.program.cast(register);
    deferred
}

pub(super) fn unsigned(value: usize) -> Argument {
    Argument::Unsigned(u32::try_from(value).unwrap_or(u32::MAX))
}

/// Threads for rows of so many columns: whole warps, not many more than there is to do.
pub(super) fn block_for(columns: usize) -> usize {
    columns.div_ceil(4).next_power_of_two().clamp(32, BLOCK)
}

pub(super) fn reduction(name: &str) -> Option<Reduction> {
    let how = |before, joins, after| Some(Reduction { before, joins, after });
    match name {
        "ReduceSum" => how(None, "Sum<REGISTER>", "value"),
        "ReduceMean" => how(None, "Sum<REGISTER>", "(value / (REGISTER)columns)"),
        "ReduceMax" => how(None, "Largest<REGISTER>", "value"),
        "ReduceMin" => how(None, "Smallest<REGISTER>", "value"),
        "ReduceProd" => how(None, "Product<REGISTER>", "value"),
        "ReduceL1" => how(Some("absolute"), "Sum<REGISTER>", "value"),
        "ReduceL2" => how(Some("squared"), "Sum<REGISTER>", "square_root(value)"),
        "ReduceLogSum" => how(None, "Sum<REGISTER>", "logarithm(value)"),
        "ReduceLogSumExp" => how(None, "Sum<REGISTER>", "logarithm(value)"),
        "ReduceSumSquare" => how(Some("squared"), "Sum<REGISTER>", "value"),
        _ => None,
    }
}

/// The least and the most number of a type, as kernels write them.
pub(super) fn bounds(register: Register, dtype: DType) -> (String, String) {
    let integers = |least: i64, most: i64| {
        (format!("(REGISTER)({}ll - 1)", least.saturating_add(1)), format!("(REGISTER){most}ll"))
    };
    match (register, dtype) {
        (Register::F32 | Register::F64, _) => ("(REGISTER)-INFINITY".into(), "(REGISTER)INFINITY".into()),
        (Register::Bool, _) => ("false".into(), "true".into()),
        (_, DType::I8) => integers(i8::MIN.into(), i8::MAX.into()),
        (_, DType::U8) => integers(0, u8::MAX.into()),
        (_, DType::I16) => integers(i16::MIN.into(), i16::MAX.into()),
        (_, DType::U16) => integers(0, u16::MAX.into()),
        (_, DType::U32) => integers(0, u32::MAX.into()),
        (_, DType::U64) => ("0ull".into(), "0xffffffffffffffffull".into()),
        (_, DType::I64) => integers(i64::MIN, i64::MAX),
        _ => integers(i32::MIN.into(), i32::MAX.into()),
    }
}
