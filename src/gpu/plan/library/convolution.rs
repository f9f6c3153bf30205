//! A convolution that a library can compute instead of a kernel.
//!
//! A library convolves images whose channels are closest together with weights that lie likewise, in groups, with gaps, steps and padding of its own
//! at each side; it adds a number for each channel and a tensor of the result's shape, and cuts what is negative. One axis is two to it, of which the
//! first has one element. Kernels on tensor cores have their weights so; the others have theirs in another order, so where the weights are constant
//! they are uploaded in both, and who loads the plan drops those that are not used. A convolution of one pixel on tensor cores is a product, here too.

use super::super::program::{Array, End, Program};
use super::super::windows::Operand;
use super::super::{Deferred, Planner};
use super::{Alternative, Form, Place, Work, align_of, place};
use crate::error::Result;
use crate::graph::{Node, Window};
use crate::layout::view::{View, channels_last};
use crate::scoring::Precision;
use crate::tensor::DType;

/// How a tensor of images, weights or results lies: axes as ONNX has them, channels second and closest together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(in crate::gpu) struct Strided {
    pub(in crate::gpu) dtype: DType,
    /// Elements along each axis: images or outputs, channels, two or three spatial axes.
    pub(in crate::gpu) lengths: Vec<usize>,
    /// Elements from one to the next along each axis.
    pub(in crate::gpu) strides: Vec<usize>,
    /// What its address is a multiple of, in bytes.
    pub(in crate::gpu) align: usize,
}

/// Everything that decides how fast a convolution is: two that have the same shape are one to a library.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(in crate::gpu) struct ConvShape {
    pub(in crate::gpu) images: Strided,
    /// Of so many channels as one group of the images has.
    pub(in crate::gpu) weights: Strided,
    pub(in crate::gpu) result: Strided,
    /// For each spatial axis.
    pub(in crate::gpu) strides: Vec<usize>,
    pub(in crate::gpu) dilations: Vec<usize>,
    /// Zeros before and after.
    pub(in crate::gpu) pads: Vec<[usize; 2]>,
    /// Floats of 32 bits may be multiplied as TF32.
    pub(in crate::gpu) is_tf32: bool,
    /// A number for each channel is added; what its address is a multiple of.
    pub(in crate::gpu) bias_align: Option<usize>,
    /// A tensor of the result's shape and type is added.
    pub(in crate::gpu) residual: Option<Strided>,
    pub(in crate::gpu) has_relu: bool,
}

/// A convolution whose end is not known yet: its shape without one, the result where the kernel would put it.
#[derive(Debug, Clone)]
pub(in crate::gpu::plan) struct ConvForm {
    images: (Strided, Place),
    weights: (Strided, Place),
    /// The result's shape as the graph has it.
    shape: Vec<usize>,
    strides: Vec<usize>,
    dilations: Vec<usize>,
    pads: Vec<[usize; 2]>,
    is_tf32: bool,
}

/// How a tensor lies; `None` where its channels are not closest together, or elements lie on top of each other.
fn strided(array: &Array) -> Option<Strided> {
    let View { shape, size, offset, .. } = &array.view;
    if !(3..=5).contains(&shape.len()) {
        return None;
    }
    let mut strides = vec![0; shape.len()];
    let mut dense = 1;
    for axis in channels_last(shape.len()).into_iter().rev() {
        let length = array.view.length(axis);
        if length == 0 || i32::try_from(length).is_err() {
            return None;
        }
        // Of an axis of one element a stride says nothing, and libraries like the one without gaps.
        let stride = match length {
            1 => dense,
            _ => usize::try_from(array.view.stride(axis)).ok()? / (*size).max(1),
        };
        // Channels first, each axis then beyond the ones before it.
        if stride < dense || (axis == 1 && stride != 1) {
            return None;
        }
        *strides.get_mut(axis)? = stride;
        dense = stride.checked_mul(length)?;
    }
    let mut lengths = shape.clone();
    if let ([_, _, _], Some(stride)) = (shape.as_slice(), strides.get(2).copied()) {
        let length = array.view.length(2);
        lengths.insert(2, 1);
        strides.insert(2, stride * length);
    }
    Some(Strided { dtype: array.dtype, lengths, strides, align: align_of(*offset) })
}

/// Values of spatial axes as a library counts them.
fn spatial<T: Copy>(own: &[T], default: T) -> Vec<T> {
    let missing = usize::from(own.len() == 1);
    std::iter::repeat_n(default, missing).chain(own.iter().copied()).collect()
}

impl Planner<'_> {
    /// The convolution of these images with these weights, into that shape, where a library takes such.
    pub(in crate::gpu::plan) fn library_conv(
        &self,
        images: &Array,
        weights: &Array,
        window: &Window,
        shape: &[usize],
    ) -> Option<Box<Form>> {
        let is_float = matches!(images.dtype, DType::F32 | DType::F16 | DType::Bf16);
        if !self.settings.has_convolutions || !is_float || weights.dtype != images.dtype {
            return None;
        }
        let axes = shape.len().checked_sub(2)?;
        let pads = (0..axes).map(|axis| {
            let kernel = weights.view.length(2 + axis);
            window.padding(axis, images.view.length(2 + axis), kernel).into()
        });
        let form = ConvForm {
            images: (strided(images)?, place(&images.view)),
            weights: (strided(weights)?, place(&weights.view)),
            shape: shape.to_vec(),
            strides: spatial(&window.strides, 1),
            dilations: spatial(&window.dilations, 1),
            pads: spatial(&pads.collect::<Vec<_>>(), [0, 0]),
            is_tf32: self.settings.precision == Precision::Tf32 && images.dtype == DType::F32,
        };
        Some(Box::new(Form::Convolution(form)))
    }

    /// A convolution by a kernel that has its weights in another order than a library wants: with what a library could do instead.
    pub(in crate::gpu::plan) fn offered(
        &mut self,
        mut y: Deferred,
        node: &Node,
        by: &Operand,
        (images, window): (&Array, &Window),
        shape: &[usize],
    ) -> Result<Deferred> {
        let constant = match by {
            Operand::Input(input) => node.input(*input).and_then(|id| self.graph.constant(id)),
            Operand::Constant(tensor) => Some(tensor),
            Operand::Memory(_) => None,
        };
        // No library takes floats of 8 bits as the kernels do.
        let is_asked = self.settings.has_convolutions && !images.dtype.is_float8();
        if let (true, Some(weights), Some(base)) = (is_asked, constant, &mut y.base) {
            let order = channels_last(shape.len());
            let weights = self.constant_array(weights.clone(), &order, images.dtype)?;
            base.library = self.library_conv(images, &weights, window, shape);
        }
        Ok(y)
    }

    /// The convolution with that end, where a library can compute it.
    pub(super) fn convolution_in_library(
        &mut self,
        form: &ConvForm,
        program: &Program,
        array: &Array,
    ) -> Result<Option<Alternative<Place>>> {
        let (Some(End { factor, addends, has_relu }), Some(result)) = (program.end(), strided(array)) else {
            return Ok(None);
        };
        if factor != 1.0 {
            return Ok(None);
        }
        let dtype = form.images.0.dtype;
        let is_taken = result.dtype == dtype || (result.dtype == DType::F32 && dtype != DType::F32);
        if array.view.shape != form.shape || !is_taken {
            return Ok(None);
        }
        let (mut bias, mut residual) = (None, None);
        for addend in addends {
            if is_along_channels(&addend.view)
                && bias.is_none()
                && let Some(vector) = self.vector_as(addend, dtype)?
            {
                bias = Some(vector);
            } else if residual.is_none()
                && addend.dtype == result.dtype
                && let Some(own) = strided(addend)
            {
                residual = Some((own, place(&addend.view)));
            } else {
                return Ok(None);
            }
        }
        let shape = ConvShape {
            images: form.images.0.clone(),
            weights: form.weights.0.clone(),
            result,
            strides: form.strides.clone(),
            dilations: form.dilations.clone(),
            pads: form.pads.clone(),
            is_tf32: form.is_tf32,
            bias_align: bias.map(|(_, offset)| align_of(offset)),
            residual: residual.as_ref().map(|(own, _)| own.clone()),
            has_relu,
        };
        let (left, right, work) = (form.images.1, form.weights.1, Work::Convolution(shape));
        let residual = residual.map(|(_, place)| place);
        Ok(Some(Alternative { work, left, right, bias, residual, result: place(&array.view), factor }))
    }
}

/// Whether a tensor repeats one number for each channel, those close together.
fn is_along_channels(view: &View) -> bool {
    (0..view.shape.len()).all(|axis| {
        let wanted = if axis == 1 { view.size as isize } else { 0 };
        view.length(axis) == 1 || view.stride(axis) == wanted
    })
}

#[cfg(test)]
mod tests {
    use super::super::super::{Settings, TensorCores, plan};
    use super::*;
    use crate::gpu::plan::PlannedArgument;
    use crate::graph::fold;
    use crate::graph::testing::graph_of;

    fn convolutions(text: &str, precision: Precision) -> Vec<(ConvShape, Alternative<PlannedArgument>)> {
        let mut graph = graph_of(text);
        fold::fold(&mut graph, None).unwrap();
        let settings = Settings {
            precision,
            tensor_cores: TensorCores::Mma { has_float8: true, multiprocessors: 1 },
            has_convolutions: true,
            ..Settings::default()
        };
        let plan = plan(&graph, settings).unwrap();
        let shape = |a: Alternative<_>| match a.work.clone() {
            Work::Convolution(shape) => (shape, a),
            Work::Product(shape) => panic!("{shape:?}"),
        };
        plan.launches.into_iter().filter_map(|l| l.library).map(shape).collect()
    }

    const WHOLE: &str = "x: f32[2, 16, 9, 10]\nw = f32[24, 16, 3, 2] 0.1 -0.2\nb = f32[24] 1 2\na = Conv<pads=[1, 0, 2, 1], strides=[2, 1]>(x, w, b)\nr = Conv<pads=[1, 0, 2, 1], strides=[2, 1]>(x, w)\nc = Add(a, r)\nd = Relu(c)\ny = GlobalAveragePool(d)\n-> y";

    #[test]
    fn a_convolution_with_bias_residual_and_relu_is_one_of_a_library() {
        for (precision, dtype) in
            [(Precision::F32, DType::F32), (Precision::Tf32, DType::F32), (Precision::Bf16, DType::Bf16)]
        {
            let all = convolutions(WHOLE, precision);
            let ended = all.iter().filter(|(s, _)| s.has_relu).collect::<Vec<_>>();
            let ([(shape, places)], 2) = (ended.as_slice(), all.len()) else { panic!("{all:?}") };
            assert_eq!((shape.images.dtype, shape.is_tf32), (dtype, precision == Precision::Tf32));
            assert_eq!(shape.images.lengths, [2, 16, 9, 10]);
            assert_eq!(shape.images.strides, [1440, 1, 160, 16]);
            assert_eq!(
                (shape.weights.lengths.clone(), shape.weights.strides.clone()),
                (vec![24, 16, 3, 2], vec![96, 1, 32, 16])
            );
            assert_eq!(shape.result.lengths, [2, 24, 5, 10]);
            assert_eq!((shape.strides.clone(), shape.pads.clone()), (vec![2, 1], vec![[1, 2], [0, 1]]));
            assert_eq!((shape.bias_align, shape.residual.as_ref()), (Some(256), Some(&shape.result)));
            assert!(places.bias.is_some() && places.residual.is_some());
        }
    }

    #[test]
    fn one_axis_is_two_to_a_library_and_groups_are_in_the_weights() {
        let text = "x: f32[2, 4, 9]\nw = f32[20, 2, 3] 1 2\ny = Conv<group=2, auto_pad=SAME_UPPER, strides=[2]>(x, w)\nz = GlobalMaxPool(y)\n-> z";
        let all = convolutions(text, Precision::F32);
        let [(shape, _)] = all.as_slice() else { panic!("{all:?}") };
        assert_eq!(
            (shape.images.lengths.clone(), shape.images.strides.clone()),
            (vec![2, 4, 1, 9], vec![36, 1, 36, 4])
        );
        assert_eq!((shape.weights.lengths.clone(), shape.strides.clone()), (vec![20, 2, 1, 3], vec![1, 2]));
        assert_eq!((shape.pads.clone(), shape.dilations.clone()), (vec![[0, 0], [1, 1]], vec![1, 1]));
    }

    #[test]
    fn what_is_more_than_that_is_the_kernels() {
        for text in [
            // Another end, few channels whose weights are computed, numbers that are no floats of these.
            "x: f32[2, 16, 9, 9]\nw = f32[24, 16, 3, 3] 0.1\na = Conv(x, w)\nb = Sigmoid(a)\ny = GlobalAveragePool(b)\n-> y",
            "x: f32[2, 3, 9, 9]\nw: f32[24, 3, 3, 3]\na = Conv(x, w)\ny = GlobalAveragePool(a)\n-> y",
            "x: f64[2, 16, 9, 9]\nw = f64[24, 16, 3, 3] 0.1\na = Conv(x, w)\ny = GlobalAveragePool(a)\n-> y",
        ] {
            assert_eq!(convolutions(text, Precision::F32), [], "{text}");
        }
        // An end in another order is the kernel's; the convolution that is added has none.
        let text = WHOLE.replace("Add(a, r)", "Relu(a)").replace("Relu(c)", "Add(c, r)");
        let all = convolutions(&text, Precision::F32);
        assert!(all.len() == 1 && all.iter().all(|(s, _)| !s.has_relu && s.bias_align.is_none()), "{all:?}");
    }
}
