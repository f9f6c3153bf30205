//! Attention: each row of queries looks at all keys, and gets the values' mean weighted by the softmax of what it sees.
//!
//! One kernel does it all, so that the product of all with all is never in memory (kernels/cuda/attention.cu, attention_row.cu, attention_tensor.cu); it reads heads where they lie, so the
//! transpositions around an attention cost nothing. The result lies as `[batch][row][head][column]`, because models join the heads next. Only heads
//! that are wider than the kernel's tiles go through the two products and the softmax between them.

use super::product::int;
use super::program::{Array, Program, Register, broadcast, stored_name};
use super::sources::Source;
use super::tensor_product::lies_in_pieces;
use super::text::{Access, Struct};
use super::{Argument, Base, Deferred, Operator, Planner, Value, pointwise};
use crate::error::{Result, ScoreError};
use crate::graph::{Node, functions};
use crate::layout::view::View;
use crate::tensor::DType;

/// Rows that a block of the tiled kernel takes, its threads, and the columns of the result that the threads beside each other take.
const TILE: usize = 64;
const TILE_THREADS: usize = 256;
const TILE_COLUMNS: usize = 16;
/// Of more columns, a thread's sums do not fit its registers.
const MOST_TILED: usize = 256;
/// Fewer rows leave most of a tile empty.
const FEW_ROWS: usize = 16;
/// Widths of heads that tensor cores take, and the threads of a block then.
const TENSOR_WIDTHS: [usize; 4] = [32, 64, 96, 128];
const TENSOR_THREADS: usize = 128;
/// Threads that share a row, and the columns that they take at most.
const ROW_THREADS: usize = 128;
const MOST_COLUMNS: usize = 2048;

/// The order of `[batch, head, row, column]` in which the result lies.
const HEADS_TOGETHER: [usize; 4] = [0, 2, 1, 3];

/// An attention; tensors have the axes `[batch, head, row, column]`.
struct Attention {
    q: Array,
    k: Array,
    v: Array,
    mask: Option<Array>,
    /// The keys of each batch that there are, the rows being the last ones of them.
    lengths: Option<Array>,
    scale: f32,
    /// Scores are bent to stay within this; zero: they are not.
    cap: f32,
    /// How far a row looks back and ahead from where it is, and where the first row is.
    before: Option<usize>,
    after: Option<usize>,
    offset: usize,
    /// What a row that looks at nothing is multiplied with: zero, or not a number.
    empty: f32,
}

impl Attention {
    fn is_bounded(&self) -> bool {
        self.before.is_some() || self.after.is_some() || self.lengths.is_some()
    }

    /// Batch, heads, rows, keys, width of the scores' products, columns of the result.
    fn sizes(&self) -> Result<[usize; 6]> {
        let (q, k, v) = (&self.q.view.shape, &self.k.view.shape, &self.v.view.shape);
        let wrong = || ScoreError::bad_model(format!("queries of {q:?}, keys of {k:?}, values of {v:?}"));
        let ([batch, heads, rows, width], [kb, kh, keys, kw], [vb, vh, vk, columns]) =
            (as_four(q)?, as_four(k)?, as_four(v)?);
        let is_shared = kh > 0 && heads % kh == 0 && vh == kh;
        match kb == batch && vb == batch && kw == width && vk == keys && is_shared {
            true => Ok([batch, heads, rows, keys, width, columns]),
            false => Err(wrong()),
        }
    }
}

fn as_four(shape: &[usize]) -> Result<[usize; 4]> {
    let wrong = |_| ScoreError::bad_model(format!("attention over {shape:?}: expected 4 axes"));
    <[usize; 4]>::try_from(shape).map_err(wrong)
}

impl Planner<'_> {
    /// Takes an attention; `false` for another operator.
    pub(super) fn attention(&mut self, node: &Node) -> Result<bool> {
        match (node.op.domain.as_str(), node.op.name.as_str()) {
            (functions::DOMAIN, "Attention" | "MaskedAttention") => self.found_attention(node)?,
            ("", "Attention") => self.onnx_attention(node)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// What a rewrite has found in the model: without a key to look at, a softmax is not a number.
    fn found_attention(&mut self, node: &Node) -> Result<()> {
        let (q, k, v) = (self.memory(node, 0)?, self.memory(node, 1)?, self.memory(node, 2)?);
        let mut found = Attention {
            mask: None,
            lengths: None,
            scale: node.op.attributes.float("scale").unwrap_or(1.0),
            cap: 0.0,
            before: None,
            after: None,
            offset: 0,
            empty: f32::NAN,
            q,
            k,
            v,
        };
        // Products repeat one batch or head for many.
        let [batch, heads, rows, _] = as_four(&found.q.view.shape)?;
        for side in [&mut found.k, &mut found.v] {
            let [_, own, keys, columns] = as_four(&side.view.shape)?;
            let heads = if own == 1 { 1 } else { heads };
            let wrong = || ScoreError::unsupported(format!("keys of {:?}", side.view.shape));
            side.view = broadcast(&side.view, &[batch, heads, keys, columns]).ok_or_else(wrong)?;
        }
        if node.input(3).is_some() {
            let mask = self.memory(node, 3)?;
            let shape = [batch, heads, rows, found.k.view.length(2)];
            let wrong = || ScoreError::bad_model(format!("a mask of {:?} for {shape:?}", mask.view.shape));
            let view = broadcast(&mask.view, &shape).ok_or_else(wrong)?;
            found.mask = Some(Array { view, dtype: mask.dtype });
        }
        let (width, columns) = (found.q.view.length(3), found.v.view.length(3));
        let y = match width.max(columns) > MOST_TILED && rows >= FEW_ROWS {
            true => self.attention_in_products(&found)?,
            false => self.attended(node, found, None)?,
        };
        self.defer(node, 0, y)
    }

    /// The two products and the softmax between them, for heads of one size.
    fn attention_in_products(&mut self, of: &Attention) -> Result<Deferred> {
        let [batch, heads, rows, keys, _, columns] = of.sizes()?;
        let transposed = Array { view: of.k.view.transposed(&[0, 1, 3, 2]), dtype: of.k.dtype };
        let shape = [batch, heads, rows, keys];
        let mut scores = self.matmul(&of.q, &transposed, &shape)?;
        let register = scores.program.register();
        let scale = pointwise::literal(register, of.scale.into(), &[]);
        scores = self.call("multiply", register, vec![scores, scale], &shape)?;
        if let Some(mask) = &of.mask {
            let program = Program::of(mask.clone())?.cast(register);
            let mask = Deferred { program, base: None, origins: Vec::new() };
            scores = self.call("add", register, vec![scores, mask], &shape)?;
        }
        let weights = self.softmax_of(scores, 3, false)?;
        let weights = self.settled(weights)?;
        let weights = weights.program.arrays().next().cloned();
        let weights = weights.ok_or_else(|| ScoreError::internal("weights that are not in memory"))?;
        self.matmul(&weights, &of.v, &[batch, heads, rows, columns])
    }

    /// ONNX's own operator, of sets 23 to 25.
    fn onnx_attention(&mut self, node: &Node) -> Result<()> {
        let attributes = &node.op.attributes;
        let is_flat = self.input_shape(node, 0)?.len() == 3;
        let (q, mut k, mut v) = match is_flat {
            true => (
                self.split_heads(node, 0, "q_num_heads")?,
                self.split_heads(node, 1, "kv_num_heads")?,
                self.split_heads(node, 2, "kv_num_heads")?,
            ),
            false => (self.memory(node, 0)?, self.memory(node, 1)?, self.memory(node, 2)?),
        };
        let mut offset = 0;
        if node.input(4).is_some() && node.input(5).is_some() {
            offset = self.input_shape(node, 4)?.get(2).copied().unwrap_or(0);
            k = self.behind(node, 4, &k)?;
            v = self.behind(node, 5, &v)?;
        }
        for (output, present) in [(1, &k), (2, &v)] {
            if node.output(output).is_some() {
                let program = Program::of(present.clone())?;
                self.defer(node, output, Deferred { program, base: None, origins: Vec::new() })?;
            }
        }
        let [batch, heads, rows, width] = as_four(&q.view.shape)?;
        let mask = match node.input(3) {
            Some(_) => {
                let mask = self.memory(node, 3)?;
                // Keys behind the mask's are not looked at.
                let keys = mask.view.shape.last().copied().unwrap_or(0);
                let shape = [batch, heads, rows, keys];
                let wrong =
                    || ScoreError::bad_model(format!("a mask of {:?} for {shape:?}", mask.view.shape));
                let view = broadcast(&mask.view, &shape).ok_or_else(wrong)?;
                Some(Array { view, dtype: mask.dtype })
            }
            None => None,
        };
        let lengths = match node.input(6) {
            Some(_) => Some(self.dense(node, 6, &[0], DType::I64)?),
            None => None,
        };
        let window = |name: &str| attributes.int(name).and_then(|n| usize::try_from(n).ok());
        let (after, is_causal) = (window("right_window_size"), attributes.flag("is_causal"));
        let scale = attributes.float("scale").unwrap_or_else(|| (1.0 / (width as f64).sqrt()) as f32);
        let found = Attention {
            mask,
            lengths,
            scale,
            cap: attributes.float("softcap").unwrap_or(0.0),
            before: window("left_window_size"),
            after: if is_causal { Some(0) } else { after },
            offset,
            empty: 0.0,
            q,
            k,
            v,
        };
        let keys = found.k.view.length(2);
        let scores = match node.output(3) {
            Some(_) => {
                let array = self.allocate(&[batch, heads, rows, keys], found.q.dtype, None)?;
                self.put(node, 3, Value::Memory(array.clone()));
                Some((array, attributes.int("qk_matmul_output_mode").unwrap_or(0)))
            }
            None => None,
        };
        let mut y = self.attended(node, found, scores)?;
        if is_flat {
            y.origins.extend(&node.origins);
            let shape = self.shape_of(node, 0)?;
            let joined = self.settled(y)?;
            let program = joined
                .program
                .viewed(&shape, |view| view.transposed(&HEADS_TOGETHER).reshaped(&shape))
                .ok_or_else(|| ScoreError::internal("heads that do not lie together"))?;
            y = Deferred { program, ..joined };
        }
        self.defer(node, 0, y)
    }

    /// `[batch, row, heads · column]` as `[batch, head, row, column]`.
    fn split_heads(&mut self, node: &Node, input: usize, name: &str) -> Result<Array> {
        let shape = self.input_shape(node, input)?;
        let heads = self.lengths_attribute(node, name)?;
        let wrong = || ScoreError::bad_model(format!("{shape:?} in {heads} heads"));
        let [batch, rows, all] = <[usize; 3]>::try_from(shape.as_slice()).map_err(|_| wrong())?;
        if heads == 0 || all % heads != 0 {
            return Err(wrong());
        }
        let apart = [batch, rows, heads, all / heads];
        let array = self.memory(node, input)?;
        let (view, dtype) = match array.view.reshaped(&apart) {
            Some(view) => (view, array.dtype),
            None => {
                let dense = self.dense(node, input, &[0, 1, 2], array.dtype)?;
                (dense.view.reshaped(&apart).ok_or_else(wrong)?, dense.dtype)
            }
        };
        Ok(Array { view: view.transposed(&HEADS_TOGETHER), dtype })
    }

    /// An input, and behind it along the rows what is new.
    fn behind(&mut self, node: &Node, input: usize, new: &Array) -> Result<Array> {
        let past = self.memory(node, input)?;
        let mut shape = new.view.shape.clone();
        let first = past.view.length(2);
        if let Some(rows) = shape.get_mut(2) {
            *rows += first;
        }
        let whole = self.allocate(&shape, new.dtype, None)?;
        for (part, from) in [(&past, 0), (new, first)] {
            let mut view = View { shape: part.view.shape.clone(), ..whole.view.clone() };
            view.offset = view.offset.checked_add_signed(view.stride(2) * from as isize).unwrap_or(0);
            self.map(&Program::of(part.clone())?, &Array { view, dtype: new.dtype }, &node.origins)?;
        }
        Ok(whole)
    }

    /// The kernel; `scores` is where it writes them, if it does, and which.
    fn attended(&mut self, node: &Node, mut of: Attention, scores: Option<(Array, i64)>) -> Result<Deferred> {
        let [batch, heads, rows, keys, width, columns] = of.sizes()?;
        let tensor = self
            .tensor_types(of.q.dtype, of.k.dtype)
            .map(|[t, _]| t)
            .filter(|t| matches!(t, DType::F16 | DType::Bf16));
        let is_for_tensors =
            width == columns && TENSOR_WIDTHS.contains(&width) && rows >= FEW_ROWS && scores.is_none();
        let tensor = tensor.filter(|_| is_for_tensors);
        let dtype = tensor.unwrap_or(of.q.dtype);
        let register = Register::of(dtype)?;
        if !register.is_float() {
            return Err(ScoreError::unsupported(format!("attention over {}", dtype.name())));
        }
        for side in [&mut of.q, &mut of.k, &mut of.v] {
            let is_together = match tensor {
                Some(_) => lies_in_pieces(&side.view, 3),
                None => side.view.length(3) == 1 || side.view.stride(3) == side.view.size as isize,
            };
            if side.dtype != dtype || !is_together {
                let copy = self.allocate(&side.view.shape, dtype, Some(&HEADS_TOGETHER))?;
                self.map(&Program::of(side.clone())?, &copy, &node.origins)?;
                *side = copy;
            }
        }
        let is_tiled =
            register == Register::F32 && columns <= MOST_TILED && rows >= FEW_ROWS && scores.is_none();
        let (kernel, grid, block, each) = match (tensor, is_tiled) {
            (Some(_), _) => ("attention_tensor", rows.div_ceil(TILE), TENSOR_THREADS, 0),
            (None, true) => ("attention", rows.div_ceil(TILE), TILE_THREADS, columns.div_ceil(TILE_COLUMNS)),
            (None, false) => ("attention_row", rows, ROW_THREADS, columns.div_ceil(ROW_THREADS)),
        };
        // Tiles of keys and of values.
        let shared_bytes = tensor.map_or(0, |_| 2 * TILE * width * of.q.view.size);
        if columns > MOST_COLUMNS {
            return Err(ScoreError::unsupported(format!(
                "heads of {columns} columns: expected no more than {MOST_COLUMNS}"
            )));
        }
        let mask_kind = of.mask.as_ref().map_or(0, |m| if m.dtype == DType::Bool { 2 } else { 1 });
        let source = match tensor {
            Some(_) => Source::new(kernel, kernel, &["block", "attention_scores", "tensor_core", "fours"])
                .define("WIDTH", width),
            None => Source::new(kernel, kernel, &["block", "attention_scores"]).define("EACH", each.max(1)),
        };
        let source = source
            .define("ELEMENT", stored_name(dtype)?)
            .define("REGISTER", register.name())
            .define("MASK", stored_name(of.mask.as_ref().map_or(DType::F32, |m| m.dtype))?)
            .define("MASKED", mask_kind)
            .define("CAPPED", i32::from(of.cap > 0.0))
            .define("BOUNDED", i32::from(of.is_bounded()))
            .define("SCORES", i32::from(scores.is_some()));
        let start = |of: Option<&Array>| match of {
            Some(array) => Argument::at(&array.view),
            None => Argument::Pointer(None),
        };
        let mut arguments = vec![
            Argument::Result,
            Argument::at(&of.q.view),
            Argument::at(&of.k.view),
            Argument::at(&of.v.view),
            start(of.mask.as_ref()),
            start(of.lengths.as_ref()),
        ];
        arguments.extend([&of.q, &of.k, &of.v].map(|side| words(&side.view, 3, &[])));
        arguments.push(match &of.mask {
            Some(mask) => words(&mask.view, 4, &[mask.view.length(3).min(keys)]),
            None => integers(&[0; 5])?,
        });
        let bound = |bound: Option<usize>| bound.map_or(-1, |n| i64::try_from(n.min(1 << 30)).unwrap_or(0));
        let bounds = [bound(of.before), bound(of.after), bound(Some(of.offset))];
        let words_of = |list: &[i64]| Struct {
            pointers: Vec::new(),
            words: list.iter().map(|v| *v as i32 as u32).collect(),
        };
        arguments.push(Argument::Struct(words_of(&bounds)));
        let group = heads / of.k.view.length(1).max(1);
        arguments.push(integers(&[heads, group, rows, keys, width, columns])?);
        arguments.extend([of.scale, of.cap, of.empty].map(Argument::Float));
        let mut writes = Vec::new();
        if let Some((array, what)) = &scores {
            arguments.push(Argument::at(&array.view));
            arguments.push(Argument::Int(i32::try_from(*what).unwrap_or(0)));
            writes.push(array.view.storage);
        } else if !is_tiled {
            arguments.extend([Argument::Pointer(None), Argument::Int(0)]);
        }
        let operator =
            Operator { source, grid: [grid, heads, batch], block, shared_bytes, arguments, writes };
        let axes = (0..4).map(|axis| vec![axis]).collect();
        let access =
            if tensor.is_some() { Access::Fours { groups: axes, first: 4 } } else { Access::Blocks(axes) };
        let base = Base { operator, access, order: HEADS_TOGETHER.to_vec(), library: None };
        let program = Program::given(register, &[batch, heads, rows, columns]);
        Ok(Deferred { program, base: Some(Box::new(base)), origins: Vec::new() })
    }
}

/// The strides of a view's first axes, in elements, and what follows them.
fn words(view: &View, axes: usize, behind: &[usize]) -> Argument {
    let size = view.size.max(1) as isize;
    let strides = (0..axes).map(|axis| i32::try_from(view.stride(axis) / size).unwrap_or(0) as u32);
    let behind = behind.iter().map(|n| u32::try_from(*n).unwrap_or(u32::MAX));
    Argument::Struct(Struct { pointers: Vec::new(), words: strides.chain(behind).collect() })
}

/// Lengths as a struct of integers.
fn integers(lengths: &[usize]) -> Result<Argument> {
    let word = |length: &usize| match int(*length)? {
        Argument::Int(value) => Ok(value as u32),
        _ => Err(ScoreError::internal("a length that is no integer")),
    };
    let words = lengths.iter().map(word).collect::<Result<Vec<_>>>()?;
    Ok(Argument::Struct(Struct { pointers: Vec::new(), words }))
}
