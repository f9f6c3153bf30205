//! What a library can do instead of a kernel: said beside the kernel's launch, and chosen or not by who loads the plan.
//!
//! A library multiplies matrices of floats that have one dense axis, by a number, too, adds a vector along the columns and a matrix that lies like the
//! result, and cuts what is negative; another one does the same with convolutions ([`convolution`]). Work whose end is that and nothing more has an alternative;
//! whatever else a program does is the kernel's alone. Nothing here depends on a device.

mod convolution;

pub(in super::super) use convolution::{ConvShape, Strided};

use convolution::ConvForm;

use super::program::{Array, End, Program};
use super::text::{Access, block_stride, block_strides};
use super::{Held, Planner};
use crate::error::Result;
use crate::layout::view::{Storage, View};
use crate::scoring::Precision;
use crate::tensor::DType;

/// How a matrix lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in super::super) struct Matrix {
    pub(in super::super) dtype: DType,
    /// Whether the elements of a column lie together, else those of a row.
    pub(in super::super) is_transposed: bool,
    /// Elements from one row to the next; from one column to the next where it is transposed.
    pub(in super::super) stride: usize,
    /// Elements from one matrix to the next.
    pub(in super::super) batch_stride: usize,
    /// What its address is a multiple of, in bytes.
    pub(in super::super) align: usize,
}

/// Everything that decides how fast a product is: two products that have the same shape are one to a library.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(in super::super) struct Shape {
    /// Rows of the result, its columns, and how many numbers each element sums.
    pub(in super::super) m: usize,
    pub(in super::super) n: usize,
    pub(in super::super) k: usize,
    /// How many such products.
    pub(in super::super) batch: usize,
    pub(in super::super) left: Matrix,
    pub(in super::super) right: Matrix,
    pub(in super::super) result: Matrix,
    /// Floats of 32 bits may be multiplied as TF32.
    pub(in super::super) is_tf32: bool,
    /// A vector along the columns is added; what its address is a multiple of.
    pub(in super::super) bias_align: Option<usize>,
    /// A matrix that lies like the result is added; what its address is a multiple of.
    pub(in super::super) residual_align: Option<usize>,
    pub(in super::super) has_relu: bool,
}

/// What a library is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(in super::super) enum Work {
    Product(Shape),
    Convolution(ConvShape),
}

/// What a library can compute instead of a kernel, and where everything lies.
#[derive(Debug, Clone, PartialEq)]
pub(in super::super) struct Alternative<Place> {
    pub(in super::super) work: Work,
    /// The left matrix, or the images.
    pub(in super::super) left: Place,
    /// The right matrix, or the weights.
    pub(in super::super) right: Place,
    /// One for each column, of the result's type; or for each channel, of the images' type.
    pub(in super::super) bias: Option<Place>,
    pub(in super::super) residual: Option<Place>,
    pub(in super::super) result: Place,
    /// What a product is multiplied with before anything is added; one for convolutions.
    pub(in super::super) factor: f32,
}

/// Storage, and bytes from its start.
pub(super) type Place = (Storage, usize);

/// What has an end that is not known yet.
#[derive(Debug, Clone)]
pub(super) enum Form {
    Product(ProductForm),
    Convolution(ConvForm),
}

/// A product whose end is not known yet.
#[derive(Debug, Clone)]
pub(super) struct ProductForm {
    shape: [usize; 4],
    left: (Matrix, Place),
    right: (Matrix, Place),
    is_tf32: bool,
}

/// Addresses are said to be multiples of so much at most: it is what storage begins at.
const MOST_ALIGN: usize = 256;
/// Vectors are read in pieces of so many bytes.
const BIAS_ALIGN: usize = 16;
/// And so are 8-bit floats.
const FLOAT8_PIECE: usize = 16;

impl<P> Alternative<P> {
    /// All places.
    pub(in super::super) fn places(&self) -> impl Iterator<Item = &P> {
        [&self.left, &self.right, &self.result].into_iter().chain(&self.bias).chain(&self.residual)
    }

    /// With its places said otherwise.
    pub(super) fn map<Q>(&self, place: impl Fn(&P) -> Q) -> Alternative<Q> {
        Alternative {
            work: self.work.clone(),
            left: place(&self.left),
            right: place(&self.right),
            bias: self.bias.as_ref().map(&place),
            residual: self.residual.as_ref().map(&place),
            result: place(&self.result),
            factor: self.factor,
        }
    }
}

impl ProductForm {
    /// For so many products of `[m, k]` with `[k, n]`, in this order; the strides are bytes between rows and columns, the views those of the first
    /// elements of the batch's matrices. `None` where no library takes them.
    pub(super) fn of(
        shape: [usize; 4],
        left: (&Array, [isize; 2]),
        right: (&Array, [isize; 2]),
        precision: Precision,
    ) -> Option<Self> {
        let [batch, m, n, k] = shape;
        let is_taken = match (left.0.dtype, right.0.dtype) {
            (DType::F32, DType::F32) | (DType::F16, DType::F16) | (DType::Bf16, DType::Bf16) => true,
            (left, right) => left.is_float8() && right.is_float8() && [left, right] != [DType::F8E5M2; 2],
        };
        let fits = shape.iter().all(|length| *length > 0 && i32::try_from(*length).is_ok());
        if !is_taken || !fits {
            return None;
        }
        let form = Self {
            shape,
            left: (matrix(left.0, left.1, [m, k], batch)?, place(&left.0.view)),
            right: (matrix(right.0, right.1, [k, n], batch)?, place(&right.0.view)),
            is_tf32: precision == Precision::Tf32 && left.0.dtype == DType::F32,
        };
        (!left.0.dtype.is_float8() || form.suits_float8()).then_some(form)
    }

    /// Whether 8-bit floats lie as a library multiplies them: depth together on both sides, everything in pieces of 16 bytes.
    fn suits_float8(&self) -> bool {
        let [_, _, n, k] = self.shape;
        let ((left, _), (right, _)) = (&self.left, &self.right);
        let in_pieces = |side: &Matrix| {
            [side.stride, side.batch_stride, side.align]
                .iter()
                .all(|length| length.is_multiple_of(FLOAT8_PIECE))
        };
        let is_deep = !left.is_transposed && right.is_transposed;
        is_deep
            && [n, k].iter().all(|l| l.is_multiple_of(FLOAT8_PIECE))
            && in_pieces(left)
            && in_pieces(right)
    }
}

fn place(view: &View) -> Place {
    (view.storage, view.offset)
}

fn align_of(offset: usize) -> usize {
    match offset {
        0 => MOST_ALIGN,
        _ => MOST_ALIGN.min(1 << offset.trailing_zeros()),
    }
}

/// How a side of a product lies; `None` where neither its rows nor its columns are dense.
fn matrix(first: &Array, strides: [isize; 2], [rows, columns]: [usize; 2], batch: usize) -> Option<Matrix> {
    let size = first.view.size.max(1);
    let elements = |bytes: isize| usize::try_from(bytes).ok().map(|b| b / size);
    let [row, column] = [elements(strides[0])?, elements(strides[1])?];
    let (is_transposed, stride) = match (columns == 1 || column == 1, rows == 1 || row == 1) {
        (true, _) => (false, if rows == 1 { columns } else { row }),
        (false, true) => (true, if columns == 1 { rows } else { column }),
        (false, false) => return None,
    };
    let dense = if is_transposed { rows } else { columns };
    let outer = (0..first.view.shape.len()).collect::<Vec<_>>();
    let batch_stride = match batch {
        1 => 0,
        _ => elements(block_stride(&first.view, &outer)?)?,
    };
    let align = align_of(first.view.offset);
    (stride >= dense).then_some(Matrix { dtype: first.dtype, is_transposed, stride, batch_stride, align })
}

impl Planner<'_> {
    /// The work with that end, where a library can compute it.
    pub(super) fn in_library(
        &mut self,
        form: &Form,
        program: &Program,
        array: &Array,
        access: &Access,
    ) -> Result<Option<Alternative<Place>>> {
        match form {
            Form::Product(form) => self.product_in_library(form, program, array, access),
            Form::Convolution(form) => self.convolution_in_library(form, program, array),
        }
    }

    fn product_in_library(
        &mut self,
        form: &ProductForm,
        program: &Program,
        array: &Array,
        access: &Access,
    ) -> Result<Option<Alternative<Place>>> {
        let (Access::Blocks(groups) | Access::Fours { groups, .. }) = access else { return Ok(None) };
        let (Some(End { factor, addends, has_relu }), Some(strides)) =
            (program.end(), block_strides(&array.view, groups))
        else {
            return Ok(None);
        };
        let [batch, m, n, k] = form.shape;
        let Some(result) = result(array, &strides, [batch, m, n]) else { return Ok(None) };
        let left = form.left.0.dtype;
        let is_taken = match left.is_float8() {
            true => matches!(result.dtype, DType::F32 | DType::F16 | DType::Bf16),
            false => result.dtype == left || (result.dtype == DType::F32 && left != DType::F32),
        };
        if !is_taken {
            return Ok(None);
        }
        // Of 8-bit floats a bias is of 16 bits, and what is made must be, too.
        let takes_bias = !left.is_float8() || result.dtype != DType::F32;
        let (mut bias, mut residual) = (None, None);
        for addend in addends {
            let Some(own) = block_strides(&addend.view, groups) else { return Ok(None) };
            let along = if n == 1 { 0 } else { addend.view.size as isize };
            let is_vector = own
                .split_last()
                .is_some_and(|(last, others)| *last == along && others.iter().all(|stride| *stride == 0));
            if is_vector
                && takes_bias
                && bias.is_none()
                && let Some(vector) = self.vector_as(addend, result.dtype)?
            {
                bias = Some(vector);
            } else if residual.is_none() && own == strides && addend.dtype == result.dtype {
                residual = Some(place(&addend.view));
            } else {
                return Ok(None);
            }
        }
        let shape = Shape {
            m,
            n,
            k,
            batch,
            left: form.left.0,
            right: form.right.0,
            result,
            is_tf32: form.is_tf32,
            bias_align: bias.map(|(_, offset)| align_of(offset)),
            residual_align: residual.map(|(_, offset)| align_of(offset)),
            has_relu,
        };
        let (left, right, work) = (form.left.1, form.right.1, Work::Product(shape));
        Ok(Some(Alternative { work, left, right, bias, residual, result: place(&array.view), factor }))
    }

    /// A vector as that type: a library wants a bias to be of the result's. A constant is uploaded so, nothing is copied for it.
    fn vector_as(&mut self, vector: &Array, dtype: DType) -> Result<Option<Place>> {
        let (storage, mut offset) = place(&vector.view);
        let mut at = storage;
        if vector.dtype != dtype {
            let held = self.held.get(storage.0).cloned();
            let Some(Held { constant: Some(constant), .. }) = held else { return Ok(None) };
            at = self.constant_array(constant.tensor, &constant.order, dtype)?.view.storage;
            offset = offset / vector.view.size.max(1) * super::element_bytes(dtype)?;
        }
        Ok(offset.is_multiple_of(BIAS_ALIGN).then_some((at, offset)))
    }
}

/// How the result lies; `None` where its rows have gaps.
fn result(array: &Array, strides: &[isize], [batch, m, n]: [usize; 3]) -> Option<Matrix> {
    let size = array.view.size.max(1);
    let elements = |bytes: &isize| usize::try_from(*bytes).ok().map(|b| b / size);
    let [of_batch, row, column] = strides else { return None };
    let is_dense = n == 1 || *column == size as isize;
    let stride = if m == 1 { n } else { elements(row)? };
    let batch_stride = if batch == 1 { 0 } else { elements(of_batch)? };
    let align = align_of(array.view.offset);
    let matrix = Matrix { dtype: array.dtype, is_transposed: false, stride, batch_stride, align };
    (is_dense && stride >= n && (batch == 1 || batch_stride > 0)).then_some(matrix)
}

#[cfg(test)]
mod tests {
    use super::super::{Settings, TensorCores, plan};
    use super::*;
    use crate::gpu::plan::{Plan, PlannedArgument};
    use crate::graph::fold;
    use crate::graph::testing::graph_of;

    fn planned(text: &str, precision: Precision, has_library: bool) -> Plan {
        let mut graph = graph_of(text);
        fold::fold(&mut graph, None).unwrap();
        let settings = Settings {
            precision,
            tensor_cores: TensorCores::Mma { has_float8: true, multiprocessors: 1 },
            has_library,
            ..Settings::default()
        };
        plan(&graph, settings).unwrap()
    }

    fn products(text: &str, precision: Precision) -> Vec<(Shape, Alternative<PlannedArgument>)> {
        let all = planned(text, precision, true).launches.into_iter().filter_map(|l| l.library);
        let shape = |a: Alternative<_>| match a.work.clone() {
            Work::Product(shape) => (shape, a),
            other => panic!("{other:?}"),
        };
        all.map(shape).collect()
    }

    const DENSE: &str = "x: f32[2, 70, 40]\nw = f32[40, 72] 0.1 0.2\nb = f32[72] 1 2\nr: f32[2, 70, 72]\na = MatMul(x, w)\nc = Add(a, b)\nd = Add(r, c)\ny = Relu(d)\n-> y";

    #[test]
    fn a_product_with_bias_residual_and_relu_is_one_of_a_library() {
        let all = products(DENSE, Precision::F32);
        let [(shape, Alternative { bias, residual, .. })] = all.as_slice() else { panic!("{all:?}") };
        assert_eq!((shape.batch, shape.m, shape.n, shape.k), (1, 140, 72, 40));
        assert!(
            shape.bias_align == Some(256)
                && shape.has_relu
                && shape.residual_align == Some(256)
                && !shape.is_tf32
        );
        assert!(bias.is_some() && residual.is_some());
        assert_eq!((shape.left.stride, shape.left.is_transposed), (40, false));
        // In 16 bits the bias is, too; what the model gives is 32 bits wide.
        let all = products(DENSE, Precision::Bf16);
        let shapes = all.iter().map(|(s, _)| (s.left.dtype, s.result.dtype, s.bias_align));
        assert!(shapes.eq([(DType::Bf16, DType::F32, Some(256))]), "{all:?}");
        assert!(products(DENSE, Precision::Tf32).iter().all(|(s, _)| s.is_tf32));
        assert!(planned(DENSE, Precision::F32, false).launches.iter().all(|l| l.library.is_none()));
    }

    #[test]
    fn matrices_are_read_where_they_lie_and_batches_by_a_stride() {
        let text = "x: f32[2, 3, 7, 9]\nw: f32[5, 9]\nt = Transpose<perm=[1, 0]>(w)\nv: f32[2, 3, 5, 4]\na = MatMul(x, t)\ny = MatMul(a, v)\n-> y";
        let all = products(text, Precision::F32);
        let [(one, _), (two, _)] = all.as_slice() else { panic!("{all:?}") };
        assert_eq!((one.batch, one.m, one.right.is_transposed), (1, 42, true));
        assert_eq!((two.batch, two.m, two.right.batch_stride), (6, 7, 20));
        assert_eq!((two.left.batch_stride, two.result.batch_stride), (35, 28));
    }

    #[test]
    fn a_product_may_be_times_a_number() {
        let text = "x: f32[7, 16]\nw: f32[16, 8]\nc: f32[8]\ny = Gemm<alpha=0.5>(x, w, c)\n-> y";
        let all = products(text, Precision::F32);
        let factors = all.iter().map(|(shape, a)| (a.factor, shape.bias_align)).collect::<Vec<_>>();
        assert_eq!(factors, [(0.5, Some(256))]);
    }

    #[test]
    fn floats_of_8_bits_are_a_librarys_where_their_depth_lies_together() {
        let of = |x: &str, w: &str, end: &str| {
            format!(
                "x: {x}\nw = {w} 56 64\ns = f32[] 0.5\na = triscore.MatMulFloat8(x, w)\nb = Mul(a, s)\n{end}\n-> y"
            )
        };
        let plain = "y = Relu(b)";
        // (left, right, end, precision, whether it is taken)
        let cases = [
            ("f8e4m3[5, 32]", "f8e4m3[32, 48]", plain, Precision::F32, true),
            ("f8e5m2[2, 5, 32]", "f8e4m3[32, 48]", plain, Precision::Bf16, true),
            ("f8e5m2[5, 32]", "f8e5m2[32, 48]", plain, Precision::F32, false),
            ("f8e4m3[5, 24]", "f8e4m3[24, 48]", plain, Precision::F32, false),
            ("f8e4m3[5, 32]", "f8e4m3[32, 40]", plain, Precision::F32, false),
            // A bias is of 16 bits, as what is made is in between.
            ("f8e4m3[5, 32]", "f8e4m3[32, 48]", "c = f32[48] 1\ny = Add(b, c)", Precision::F32, false),
            (
                "f8e4m3[5, 32]",
                "f8e4m3[32, 48]",
                "c = f32[48] 1\nd = Add(b, c)\ny = Softmax(d)",
                Precision::Bf16,
                true,
            ),
        ];
        for (x, w, end, precision, is_taken) in cases {
            let all = products(&of(x, w, end), precision);
            assert_eq!(all.len(), usize::from(is_taken), "{x} {w} {end}");
            assert!(all.iter().all(|(shape, a)| shape.right.is_transposed && a.factor == 0.5), "{all:?}");
        }
    }

    #[test]
    fn what_is_more_than_that_is_the_kernels() {
        for text in [
            "x: f32[7, 9]\nw: f32[9, 5]\na = MatMul(x, w)\ny = Gelu(a)\n-> y",
            "x: f32[7, 9]\nw: f32[9, 5]\nb: f32[7, 1]\na = MatMul(x, w)\ny = Add(a, b)\n-> y",
            "x: f32[7, 9]\nw: f32[9, 5]\nr: f32[7, 5]\na = MatMul(x, w)\nb = Relu(a)\ny = Add(b, r)\n-> y",
            "x: f64[7, 9]\nw: f64[9, 5]\ny = MatMul(x, w)\n-> y",
            "x: i32[7, 9]\nw: i32[9, 5]\ny = MatMul(x, w)\n-> y",
            "x: f32[2, 1, 7, 9]\nw: f32[3, 9, 5]\ny = MatMul(x, w)\n-> y",
            "x: f32[7, 9]\nw: f32[9, 5]\ns = f32[5] 1 2\na = MatMul(x, w)\ny = Mul(a, s)\n-> y",
            "x: f32[7, 9]\nw: f32[9, 5]\nr: f32[7, 5]\ns = f32[] 2\na = MatMul(x, w)\nb = Add(a, r)\ny = Mul(b, s)\n-> y",
        ] {
            assert_eq!(products(text, Precision::F32), [], "{text}");
        }
    }
}
