//! Matrix products.
//!
//! Matrices are read where they lie, transposed or not, by strides; only a matrix with gaps in both directions is copied first. What is done to the
//! result (a bias, a residual, an activation) is the end of the kernel.

use super::library::{Form, ProductForm};
use super::program::{Array, Program, Register};
use super::sources::Source;
use super::text::{Access, Generated, Struct, offsets};
use super::{Argument, Base, Deferred, Operator, Planner, pointwise};
use crate::error::{Result, ScoreError};
use crate::graph::{Node, functions};
use crate::layout::view::View;

/// Rows and columns of the result that one block computes, and its threads.
const TILE: usize = 64;
const THREADS: usize = 256;

impl Planner<'_> {
    /// Takes a matrix product; `false` for another operator.
    pub(super) fn product(&mut self, node: &Node) -> Result<bool> {
        match (node.op.domain.as_str(), node.op.name.as_str()) {
            ("", "MatMul") | (functions::DOMAIN, "MatMulFloat8") => {
                let (a, b) = (self.memory(node, 0)?, self.memory(node, 1)?);
                let shape = self.shape_of(node, 0)?;
                let y = self.matmul(&a, &b, &shape)?;
                self.defer(node, 0, y)?;
            }
            ("", "Gemm") => self.gemm(node)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// a · b over the last two axes, the others as ONNX broadcasts them; a tensor of one axis is a row on the left and a column on the right.
    pub(super) fn matmul(&mut self, a: &Array, b: &Array, shape: &[usize]) -> Result<Deferred> {
        let wrong = || ScoreError::bad_model(format!("{:?} times {:?}", a.view.shape, b.view.shape));
        let sides = self.for_tensor_cores(a, b)?;
        let (a, b) = sides.as_ref().map_or((a, b), |sides| (&sides.left, &sides.right));
        let (mut left, mut right) = (a.view.clone(), b.view.clone());
        let (is_row, is_column) = (left.shape.len() == 1, right.shape.len() == 1);
        if is_row {
            left.shape.insert(0, 1);
            left.strides.insert(0, 0);
        }
        if is_column {
            right.shape.push(1);
            right.strides.push(0);
        }
        let (ra, rb) = (left.shape.len(), right.shape.len());
        if ra < 2 || rb < 2 {
            return Err(wrong());
        }
        let (m, k, n) = (left.length(ra - 2), left.length(ra - 1), right.length(rb - 1));
        if k != right.length(rb - 2) {
            return Err(wrong());
        }
        // The batch, as both have it.
        let dropped = usize::from(is_row) + usize::from(is_column);
        let batch = shape.get(..(shape.len() + dropped).saturating_sub(2)).unwrap_or_default().to_vec();
        let batched = |view: &View| {
            let rank = view.shape.len();
            let outer = View {
                shape: view.shape.get(..rank - 2).unwrap_or_default().to_vec(),
                strides: view.strides.get(..rank - 2).unwrap_or_default().to_vec(),
                ..view.clone()
            };
            super::program::broadcast(&outer, &batch)
        };
        let (left_batch, right_batch) =
            (batched(&left).ok_or_else(wrong)?, batched(&right).ok_or_else(wrong)?);
        let full = batch.iter().copied().chain([m, n]).collect::<Vec<_>>();
        // A batch that only the left matrix has is more rows of it.
        let strides = |view: &View| (view.stride(view.shape.len() - 2), view.stride(view.shape.len() - 1));
        let is_shared = right_batch.strides.iter().zip(&batch).all(|(s, n)| *s == 0 || *n == 1);
        let rows = View {
            shape: batch.iter().copied().chain([m]).collect(),
            strides: left_batch.strides.iter().copied().chain([strides(&left).0]).collect(),
            ..left.clone()
        };
        let joined = if is_shared { rows.reshaped(&[batch.iter().product::<usize>() * m]) } else { None };
        let outer = (0..batch.len()).collect::<Vec<_>>();
        let (matrices, left_rows, m, access): (usize, _, _, _) = match joined {
            Some(rows) => {
                let all = outer.iter().copied().chain([batch.len()]).collect();
                (1, rows.stride(0), rows.count(), Access::Blocks(vec![vec![], all, vec![batch.len() + 1]]))
            }
            None => {
                let groups = vec![outer.clone(), vec![batch.len()], vec![batch.len() + 1]];
                (batch.iter().product(), strides(&left).0, m, Access::Blocks(groups))
            }
        };
        let sum = Register::of(a.dtype)?;
        let (left_begin, right_begin) =
            (Array { view: left_batch, dtype: a.dtype }, Array { view: right_batch, dtype: b.dtype });
        let batches = match matrices {
            1 => one_matrix(),
            _ => offsets(&[("left_begin", &left_begin), ("right_begin", &right_begin)], &batch, "Batches")?,
        };
        let order = (0..full.len()).collect::<Vec<_>>();
        let program = Program::given(sum, &full);
        let library = match self.settings.has_library {
            true => ProductForm::of(
                [matrices, m, n, k],
                (&left_begin, [left_rows, strides(&left).1]),
                (&right_begin, [strides(&right).0, strides(&right).1]),
                self.settings.precision,
            ),
            false => None,
        };
        let library = library.map(|form| Box::new(Form::Product(form)));
        if let Some(sides) = &sides {
            let (row_stride, shape) = ((left_rows / left.size.max(1) as isize) as usize, [matrices, m, n, k]);
            let firsts = (&left_begin.view, &right_begin.view);
            let operator = match sides.on_wgmma(self, firsts, left_rows, shape)? {
                Some(operator) => operator,
                None => sides.operator(self, batches, row_stride, shape)?,
            };
            let access = match access {
                Access::Blocks(groups) => Access::Fours { groups, first: 4 },
                other => other,
            };
            let base = Base { operator, access, order, library };
            return Ok(Deferred { program, base: Some(Box::new(base)), origins: Vec::new() });
        }
        let mut source = Source::new("gemm", "gemm", &[])
            .define("LEFT", super::program::stored_name(a.dtype)?)
            .define("RIGHT", super::program::stored_name(b.dtype)?)
            .define("SUM", sum.name());
        source.generated.push_str(&batches.text);
        let matrix = |rows: isize, columns: isize, size: usize| {
            let words = [rows, columns].map(|s| (s / size.max(1) as isize) as i32 as u32).to_vec();
            Argument::Struct(Struct { pointers: Vec::new(), words })
        };
        let operator = Operator {
            source,
            grid: [n.div_ceil(TILE), m.div_ceil(TILE), matrices],
            block: THREADS,
            shared_bytes: 0,
            arguments: vec![
                Argument::Result,
                Argument::at(&left),
                Argument::at(&right),
                Argument::Struct(batches.argument),
                matrix(left_rows, strides(&left).1, left.size),
                matrix(strides(&right).0, strides(&right).1, right.size),
                int(m)?,
                int(n)?,
                int(k)?,
            ],
            writes: Vec::new(),
        };
        let base = Base { operator, access, order, library };
        let deferred = Deferred { program, base: Some(Box::new(base)), origins: Vec::new() };
        match dropped {
            0 => Ok(deferred),
            _ => {
                let settled = self.settled(deferred)?;
                let program = settled.program.viewed(shape, |view| view.reshaped(shape));
                let program = program.ok_or_else(|| ScoreError::internal("a product of a vector"))?;
                Ok(Deferred { program, ..settled })
            }
        }
    }

    /// alpha · a · b + beta · c, either matrix transposed.
    fn gemm(&mut self, node: &Node) -> Result<()> {
        let attributes = &node.op.attributes;
        let mut sides = Vec::new();
        for (input, flag) in [(0, "transA"), (1, "transB")] {
            let array = self.memory(node, input)?;
            let view = if attributes.flag(flag) { array.view.transposed(&[1, 0]) } else { array.view };
            if view.shape.len() != 2 {
                return Err(ScoreError::bad_model(format!(
                    "input {input} has {} axes, expected 2",
                    view.shape.len()
                )));
            }
            sides.push(Array { view, dtype: array.dtype });
        }
        let [a, b] = sides.as_slice() else { return Err(ScoreError::internal("a product of two")) };
        let shape = self.shape_of(node, 0)?;
        let mut y = self.matmul(a, b, &shape)?;
        let register = y.program.register();
        let alpha = f64::from(attributes.float("alpha").unwrap_or(1.0));
        if alpha != 1.0 {
            y = self.call("multiply", register, vec![y, pointwise::literal(register, alpha, &[])], &shape)?;
        }
        let beta = f64::from(attributes.float("beta").unwrap_or(1.0));
        if node.input(2).is_some() && beta != 0.0 {
            let mut c = self.deferred(node, 2)?;
            c.program = c.program.cast(register);
            if beta != 1.0 {
                let own = c.program.shape.clone();
                c =
                    self.call("multiply", register, vec![c, pointwise::literal(register, beta, &[])], &own)?;
            }
            y = self.call("add", register, vec![y, c], &shape)?;
        }
        self.defer(node, 0, y)
    }
}

pub(super) fn int(value: usize) -> Result<Argument> {
    let too_large = |_| ScoreError::unsupported(format!("a length of {value} is more than a kernel takes"));
    i32::try_from(value).map(Argument::Int).map_err(too_large)
}

/// One matrix begins where it lies.
fn one_matrix() -> Generated {
    let begin = |side: &str| {
        format!("__device__ __forceinline__ i64 {side}_begin(const Batches &, unsigned) {{ return 0; }}\n")
    };
    let text = format!("struct Batches {{\n    int nothing;\n}};\n{}{}", begin("left"), begin("right"));
    Generated { text, argument: Struct { pointers: Vec::new(), words: vec![0] } }
}
