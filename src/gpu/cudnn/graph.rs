//! A convolution as a graph of cuDNN's operations: the convolution, and behind it what is added and cut, through tensors that exist nowhere.
//!
//! What is between two operations is a *virtual* tensor of floats of 32 bits, so sums are rounded once, at the end. Bias comes first, as engines that are
//! compiled already know convolution, bias and ReLU in this order; with a residual between them cuDNN compiles one at run time.

use std::sync::Arc;

use cudarc::cudnn::sys::{
    cudnnBackendAttributeName_t as Name, cudnnBackendAttributeType_t as Type,
    cudnnBackendDescriptorType_t as Kind, cudnnConvolutionMode_t as ConvolutionMode,
    cudnnDataType_t as DataType, cudnnNanPropagation_t as Nan, cudnnPointwiseMode_t as Pointwise,
};

use super::descriptor::{Descriptor, Functions};
use super::{Target, uid};
use crate::error::{Result, ScoreError};
use crate::gpu::plan::{ConvShape, Strided};
use crate::tensor::DType;

/// `cudnnDataType_t`.
fn type_code(dtype: DType) -> Result<DataType> {
    match dtype {
        DType::F32 => Ok(DataType::CUDNN_DATA_FLOAT),
        DType::F16 => Ok(DataType::CUDNN_DATA_HALF),
        DType::Bf16 => Ok(DataType::CUDNN_DATA_BFLOAT16),
        other => Err(ScoreError::internal(format!("a convolution of {} in cuDNN", other.name()))),
    }
}

/// What makes the graph's descriptors.
struct Maker<'a>(&'a Arc<Functions>);

impl Maker<'_> {
    fn begin(&self, kind: Kind) -> Result<Descriptor> {
        Descriptor::new(self.0, kind)
    }

    fn tensor(&self, uid: i64, lies: &Strided, is_virtual: bool) -> Result<Arc<Descriptor>> {
        let dtype = if is_virtual { DType::F32 } else { lies.dtype };
        let tensor = self
            .begin(Kind::CUDNN_BACKEND_TENSOR_DESCRIPTOR)?
            .with_choice(
                Name::CUDNN_ATTR_TENSOR_DATA_TYPE,
                Type::CUDNN_TYPE_DATA_TYPE,
                type_code(dtype)? as u32,
            )?
            .with_lengths(Name::CUDNN_ATTR_TENSOR_DIMENSIONS, &lies.lengths)?
            .with_lengths(Name::CUDNN_ATTR_TENSOR_STRIDES, &lies.strides)?
            .with(Name::CUDNN_ATTR_TENSOR_UNIQUE_ID, Type::CUDNN_TYPE_INT64, &[uid])?
            .with_lengths(Name::CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, &[lies.align])?;
        // `bool` of C++ is a byte.
        let tensor =
            tensor.with(Name::CUDNN_ATTR_TENSOR_IS_VIRTUAL, Type::CUDNN_TYPE_BOOLEAN, &[is_virtual])?;
        tensor.finalised()
    }

    /// The convolution itself: correlation, as everybody means it; sums are floats of 32 bits.
    fn convolution(&self, shape: &ConvShape) -> Result<Arc<Descriptor>> {
        let before = shape.pads.iter().map(|p| p[0]).collect::<Vec<_>>();
        let after = shape.pads.iter().map(|p| p[1]).collect::<Vec<_>>();
        self.begin(Kind::CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR)?
            .with_lengths(Name::CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, &[shape.strides.len()])?
            .with_choice(
                Name::CUDNN_ATTR_CONVOLUTION_COMP_TYPE,
                Type::CUDNN_TYPE_DATA_TYPE,
                DataType::CUDNN_DATA_FLOAT as u32,
            )?
            .with_choice(
                Name::CUDNN_ATTR_CONVOLUTION_CONV_MODE,
                Type::CUDNN_TYPE_CONVOLUTION_MODE,
                ConvolutionMode::CUDNN_CROSS_CORRELATION as u32,
            )?
            .with_lengths(Name::CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, &before)?
            .with_lengths(Name::CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, &after)?
            .with_lengths(Name::CUDNN_ATTR_CONVOLUTION_DILATIONS, &shape.dilations)?
            .with_lengths(Name::CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, &shape.strides)?
            .finalised()
    }

    /// One step behind the convolution: a sum with another tensor, or a ReLU, which leaves NaN what it is.
    fn pointwise(
        &self,
        x: &Arc<Descriptor>,
        added: Option<&Arc<Descriptor>>,
        y: &Arc<Descriptor>,
    ) -> Result<Arc<Descriptor>> {
        let mode = if added.is_some() {
            Pointwise::CUDNN_POINTWISE_ADD
        } else {
            Pointwise::CUDNN_POINTWISE_RELU_FWD
        };
        let what = self
            .begin(Kind::CUDNN_BACKEND_POINTWISE_DESCRIPTOR)?
            .with_choice(Name::CUDNN_ATTR_POINTWISE_MODE, Type::CUDNN_TYPE_POINTWISE_MODE, mode as u32)?
            .with_choice(
                Name::CUDNN_ATTR_POINTWISE_MATH_PREC,
                Type::CUDNN_TYPE_DATA_TYPE,
                DataType::CUDNN_DATA_FLOAT as u32,
            )?;
        let what = match added {
            Some(_) => what,
            None => what.with_choice(
                Name::CUDNN_ATTR_POINTWISE_NAN_PROPAGATION,
                Type::CUDNN_TYPE_NAN_PROPOGATION,
                Nan::CUDNN_PROPAGATE_NAN as u32,
            )?,
        };
        let operation = self
            .begin(Kind::CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR)?
            .with_named(Name::CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, &[&what.finalised()?])?
            .with_named(Name::CUDNN_ATTR_OPERATION_POINTWISE_XDESC, &[x])?;
        let operation = match added {
            Some(added) => operation.with_named(Name::CUDNN_ATTR_OPERATION_POINTWISE_BDESC, &[added])?,
            None => operation,
        };
        operation.with_named(Name::CUDNN_ATTR_OPERATION_POINTWISE_YDESC, &[y])?.finalised()
    }
}

/// The bias as a tensor: one element along each axis but the channels.
fn bias_of(shape: &ConvShape, align: usize) -> Strided {
    let channels = shape.result.lengths.get(1).copied().unwrap_or(1);
    let along = |of_channels: usize, others: usize| {
        (0..shape.result.lengths.len()).map(|axis| if axis == 1 { of_channels } else { others }).collect()
    };
    Strided { dtype: shape.images.dtype, lengths: along(channels, 1), strides: along(1, channels), align }
}

/// The graph, finalised for a GPU.
pub(super) fn graph(
    functions: &Arc<Functions>,
    shape: &ConvShape,
    target: &Target,
) -> Result<Arc<Descriptor>> {
    let make = Maker(functions);
    // What is added after the convolution; nothing is the ReLU.
    let mut steps = Vec::new();
    if let Some(align) = shape.bias_align {
        steps.push(Some(make.tensor(uid::BIAS, &bias_of(shape, align), false)?));
    }
    if let Some(residual) = &shape.residual {
        steps.push(Some(make.tensor(uid::RESIDUAL, residual, false)?));
    }
    if shape.has_relu {
        steps.push(None);
    }
    // The tensor behind so many of the steps.
    let after = |done: usize| match done == steps.len() {
        true => make.tensor(uid::RESULT, &shape.result, false),
        false => make.tensor(uid::FIRST_VIRTUAL + done as i64, &shape.result, true),
    };
    let mut y = after(0)?;
    let convolution = make
        .begin(Kind::CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR)?
        .with_named(Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC, &[&make.convolution(shape)?])?
        .with_named(
            Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X,
            &[&make.tensor(uid::IMAGES, &shape.images, false)?],
        )?
        .with_named(
            Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W,
            &[&make.tensor(uid::WEIGHTS, &shape.weights, false)?],
        )?
        .with_named(Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y, &[&y])?
        .with(Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA, Type::CUDNN_TYPE_FLOAT, &[1f32])?
        .with(Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA, Type::CUDNN_TYPE_FLOAT, &[0f32])?;
    let mut operations = vec![convolution.finalised()?];
    for (done, added) in steps.iter().enumerate() {
        let next = after(done + 1)?;
        operations.push(make.pointwise(&y, added.as_ref(), &next)?);
        y = next;
    }
    let graph = make.begin(Kind::CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR)?;
    let operations = operations.iter().collect::<Vec<_>>();
    let graph = graph.with_named(Name::CUDNN_ATTR_OPERATIONGRAPH_OPS, &operations)?;
    match target {
        Target::Handle(handle) => graph.with_handle(Name::CUDNN_ATTR_OPERATIONGRAPH_HANDLE, handle)?,
        Target::Described(_) => graph,
    }
    .finalised()
}
