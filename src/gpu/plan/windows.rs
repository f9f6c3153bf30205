//! Convolutions and poolings: operators whose results each look through a window.
//!
//! Images lie with their channels last: neighbouring threads then read neighbouring channels, and a convolution is a product of matrices that are read
//! in whole lines. So what a convolution makes lies like that, what follows keeps the order, and only at the ends of a chain of convolutions is
//! anything turned around.

use super::program::{Array, Program, Register, stored_name};
use super::rows::unsigned;
use super::sources::Source;
use super::text::{Access, Struct, divide};
use super::{Argument, BLOCK, Base, Deferred, Operator, Planner, Value};
use crate::error::{Result, ScoreError};
use crate::graph::{Node, Window, functions};
use crate::layout::view::channels_last;
use crate::tensor::{DType, Tensor};

/// Places and channels of the result that one block of conv.cu computes.
const TILE: usize = 64;

/// Groups of fewer outputs leave most of a tile empty.
pub(super) const FEW_OUTPUTS: usize = 16;

/// Images of up to three spatial axes, as kernels take them.
pub(super) struct Images {
    pub(super) array: Array,
    /// Lengths of three spatial axes.
    pub(super) lengths: [usize; 3],
    pub(super) channels: usize,
}

/// What a convolution is of: an input of its node, or what became of one.
pub(super) enum Operand {
    Input(usize),
    Memory(Array),
    Constant(Tensor),
}

/// A convolution, apart from what it reads.
pub(super) struct ConvForm {
    /// Of the result.
    pub(super) shape: Vec<usize>,
    pub(super) window: Window,
    pub(super) groups: usize,
    /// Channels of a group that are read, and that are made.
    pub(super) inputs: usize,
    pub(super) outputs: usize,
}

/// Three spatial axes: the last ones, and axes of one element before them.
pub(super) fn three<T: Copy>(own: &[T], default: T) -> [T; 3] {
    let mut all = [default; 3];
    for (slot, value) in all.iter_mut().rev().zip(own.iter().rev()) {
        *slot = *value;
    }
    all
}

impl Planner<'_> {
    /// Takes a convolution or a pooling; `false` for another operator.
    pub(super) fn windows(&mut self, node: &Node) -> Result<bool> {
        match (node.op.domain.as_str(), node.op.name.as_str()) {
            ("", "Conv") | (functions::DOMAIN, "ConvFloat8") => self.conv(node)?,
            ("", "ConvTranspose") => self.conv_transposed(node)?,
            ("", "MaxPool") => self.max_pool(node)?,
            ("", name @ ("AveragePool" | "LpPool")) => self.mean_pool(node, name == "LpPool")?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// An input as images: where it lies, if its channels are closest together, else a copy that has them so.
    fn images(&mut self, node: &Node) -> Result<Images> {
        let array = self.memory(node, 0)?;
        self.images_of(array, &node.origins)
    }

    /// A tensor as images.
    pub(super) fn images_of(&mut self, array: Array, origins: &[usize]) -> Result<Images> {
        let shape = array.view.shape.clone();
        let Some(axes @ 1..=3) = shape.len().checked_sub(2) else {
            return Err(ScoreError::unsupported(format!("images of {} axes: expected 3 to 5", shape.len())));
        };
        let channels = shape.get(1).copied().unwrap_or(1);
        let is_together = channels == 1 || array.view.stride(1) == array.view.size as isize;
        let (order, dtype) = (channels_last(shape.len()), array.dtype);
        let array = if is_together { array } else { self.ordered(array, &order, dtype, origins)? };
        let lengths = three(shape.get(2..2 + axes).unwrap_or_default(), 1);
        Ok(Images { array, lengths, channels })
    }

    /// `Window` of window.cu, in words.
    pub(super) fn window_words(
        &self,
        images: &Images,
        window: &Window,
        shape: &[usize],
        groups: (usize, usize),
        taps: [usize; 3],
    ) -> Vec<u32> {
        let view = &images.array.view;
        let rank = view.shape.len();
        let axes = rank.saturating_sub(2);
        let size = view.size.max(1) as isize;
        let spatial = (2..rank).map(|a| view.stride(a) / size).collect::<Vec<_>>();
        let strides = three(&spatial, 0);
        let word = |v: isize| i32::try_from(v).unwrap_or(i32::MAX) as u32;
        let mut words = vec![word(view.stride(0) / size)];
        words.extend(strides.map(word));
        words.push(word(view.stride(1) / size));
        let number = |v: usize| i32::try_from(v).unwrap_or(i32::MAX) as u32;
        let kernel = three(&window.kernel, 1);
        let pads = (0..axes).map(|a| {
            let own = window.kernel.get(a).copied().unwrap_or(1);
            window.padding(a, view.length(2 + a), own)
        });
        let (pads, end_pads): (Vec<_>, Vec<_>) = pads.unzip();
        let (strides, dilations) = (three(&window.strides, 1), three(&window.dilations, 1));
        for list in [images.lengths, kernel, strides, dilations, three(&pads, 0), three(&end_pads, 0)] {
            words.extend(list.map(number));
        }
        let spatial = three(shape.get(2..).unwrap_or_default(), 1);
        let rows = shape.first().copied().unwrap_or(1) * spatial.iter().product::<usize>();
        let outputs = shape.get(1).copied().unwrap_or(1);
        words.extend([rows, outputs, groups.0, groups.1].map(number));
        for by in spatial.into_iter().chain(taps) {
            words.extend(divide(by));
        }
        words
    }

    fn conv(&mut self, node: &Node) -> Result<()> {
        let y = self.conv_of(node, &Operand::Input(0), &Operand::Input(1))?;
        let (shape, register) = (self.shape_of(node, 0)?, y.register());
        let y = self.biased(node, 2, y, &shape, register)?;
        self.defer(node, 0, y)
    }

    /// A convolution with the attributes of a node, without its bias.
    pub(super) fn conv_of(&mut self, node: &Node, of: &Operand, by: &Operand) -> Result<Deferred> {
        let form = self.conv_form(node, of, by)?;
        match self.conv_on_tensor_cores(node, &form, of, by, None)? {
            Some(y) => Ok(y),
            None => self.conv_anyhow(node, &form, of, by, None),
        }
    }

    /// What a node's convolution is like.
    pub(super) fn conv_form(&self, node: &Node, of: &Operand, by: &Operand) -> Result<ConvForm> {
        let shape = self.shape_of(node, 0)?;
        let channels = self.operand_shape(node, of)?.get(1).copied().unwrap_or(1);
        let weights = self.operand_shape(node, by)?;
        let groups = node.op.attributes.int("group").map_or(Ok(1), |g| usize::try_from(g).map_err(|_| g));
        let groups = groups.ok().filter(|g| *g > 0 && channels % g == 0);
        let groups = groups.ok_or_else(|| ScoreError::bad_model(format!("{channels} channels in groups")))?;
        let (inputs, outputs) = (channels / groups, shape.get(1).copied().unwrap_or(1));
        if weights.get(1) != Some(&inputs) || outputs % groups != 0 {
            return Err(ScoreError::bad_model(format!(
                "weights of {weights:?} for {channels} channels in {groups} groups"
            )));
        }
        let mut window = Window::of_conv(&node.op.attributes, shape.len().saturating_sub(2))?;
        window.kernel = weights.get(2..).unwrap_or_default().to_vec();
        Ok(ConvForm { shape, window, groups, inputs, outputs: outputs / groups })
    }

    fn operand_shape(&self, node: &Node, operand: &Operand) -> Result<Vec<usize>> {
        match operand {
            Operand::Input(input) => self.input_shape(node, *input),
            Operand::Memory(array) => Ok(array.view.shape.clone()),
            Operand::Constant(tensor) => Ok(tensor.shape().to_vec()),
        }
    }

    pub(super) fn operand_dtype(&self, node: &Node, operand: &Operand) -> Result<DType> {
        match operand {
            Operand::Input(input) => self.input_dtype(node, *input),
            Operand::Memory(array) => Ok(array.dtype),
            Operand::Constant(tensor) => Ok(tensor.dtype()),
        }
    }

    /// In memory, wherever it lies.
    pub(super) fn operand_array(&mut self, node: &Node, operand: &Operand) -> Result<Array> {
        match operand {
            Operand::Input(input) => self.memory(node, *input),
            Operand::Memory(array) => Ok(array.clone()),
            Operand::Constant(tensor) => {
                let order = (0..tensor.shape().len()).collect::<Vec<_>>();
                self.constant_array(tensor.clone(), &order, tensor.dtype())
            }
        }
    }

    /// In memory, its axes in exactly that order and without gaps, stored as that type.
    pub(super) fn operand_dense(
        &mut self,
        node: &Node,
        operand: &Operand,
        order: &[usize],
        dtype: DType,
    ) -> Result<Array> {
        match operand {
            Operand::Input(input) => self.dense(node, *input, order, dtype),
            Operand::Memory(array) => self.ordered(array.clone(), order, dtype, &node.origins),
            Operand::Constant(tensor) => self.constant_array(tensor.clone(), order, dtype),
        }
    }

    /// A convolution with the kernels that take any of them. Where `zero` is given, elements of what it is of count from the first one of that.
    pub(super) fn conv_anyhow(
        &mut self,
        node: &Node,
        form: &ConvForm,
        of: &Operand,
        by: &Operand,
        zero: Option<&Array>,
    ) -> Result<Deferred> {
        let ConvForm { shape, window, groups, inputs, outputs: per_group } = form;
        let (rank, outputs) = (shape.len(), groups * per_group);
        let images = self.operand_array(node, of)?;
        let images = self.images_of(images, &node.origins)?;
        // Spatial axes, inputs, outputs.
        let order = (2..rank).chain([1, 0]).collect::<Vec<_>>();
        let sum = Register::of(images.array.dtype)?;
        // Floats are stored as the images are; integers, and what of 8 bits would lose by it, as they are themselves.
        let own = self.operand_dtype(node, by)?;
        let stored = if sum.is_float() && !own.is_float8() { images.array.dtype } else { own };
        let weights = self.operand_dense(node, by, &order, stored)?;
        let kernel = three(&window.kernel, 1);
        let [depth, height, width] = three(shape.get(2..).unwrap_or_default(), 1);
        let rows = shape.first().copied().unwrap_or(1) * depth * height * width;
        let is_direct = *per_group < FEW_OUTPUTS;
        let taps = match is_direct {
            true => [outputs, *per_group, 1],
            false => [*inputs, kernel[2], kernel[1]],
        };
        let words = self.window_words(&images, window, shape, (*inputs, *per_group), taps);
        let (family, name) = if is_direct { ("conv_direct", "conv_direct") } else { ("conv", "conv") };
        let mut arguments = vec![
            Argument::Result,
            Argument::at(&images.array.view),
            Argument::at(&weights.view),
            Argument::Struct(Struct { pointers: Vec::new(), words }),
        ];
        let grid = match is_direct {
            true => {
                arguments.push(unsigned(rows * outputs));
                [(rows * outputs).div_ceil(BLOCK), 1, 1]
            }
            false => [per_group.div_ceil(TILE), rows.div_ceil(TILE), *groups],
        };
        arguments.push(Argument::Pointer(zero.map(|zero| (zero.view.storage, zero.view.offset))));
        let mut y =
            self.window_base(family, name, &images.array, weights.dtype, sum, grid, arguments, shape)?;
        if let (Some(base), Some(_)) = (y.base.as_mut(), zero) {
            base.operator.source = base.operator.source.clone().define("CENTRED", 1);
        }
        match zero {
            Some(_) => Ok(y),
            None => self.offered(y, node, by, (&images.array, window), shape),
        }
    }

    /// With a bias for each channel, where there is one.
    pub(super) fn biased(
        &mut self,
        node: &Node,
        input: usize,
        mut y: Deferred,
        shape: &[usize],
        register: Register,
    ) -> Result<Deferred> {
        if node.input(input).is_some() {
            let bias = self.deferred(node, input)?;
            let bias = if bias.base.is_some() { self.settled(bias)? } else { bias };
            let along = std::iter::once(bias.program.shape.iter().product::<usize>());
            let along =
                along.chain(std::iter::repeat_n(1, shape.len().saturating_sub(2))).collect::<Vec<_>>();
            let program = bias.program.viewed(&along, |view| view.reshaped(&along));
            let program = program.ok_or_else(|| ScoreError::bad_model("a bias with gaps"))?.cast(register);
            y = self.call("add", register, vec![y, Deferred { program, ..bias }], shape)?;
        }
        Ok(y)
    }

    /// A kernel over windows, which writes by place and channel.
    #[allow(clippy::too_many_arguments, reason = "each is a part of the launch")]
    pub(super) fn window_base(
        &self,
        family: &'static str,
        kernel: &'static str,
        x: &Array,
        weights: DType,
        sum: Register,
        grid: [usize; 3],
        arguments: Vec<Argument>,
        shape: &[usize],
    ) -> Result<Deferred> {
        let (least, _) = super::rows::bounds(sum, x.dtype);
        let source = Source::new(family, kernel, &["window"])
            .define("LEFT", stored_name(x.dtype)?)
            .define("RIGHT", stored_name(weights)?)
            .define("SUM", sum.name())
            .define("REGISTER", sum.name())
            .define("LOWEST", least);
        let operator =
            Operator { source, grid, block: BLOCK, shared_bytes: 0, arguments, writes: Vec::new() };
        let places = std::iter::once(0).chain(2..shape.len()).collect();
        let access = Access::Blocks(vec![places, vec![1]]);
        let base = Base { operator, access, order: channels_last(shape.len()), library: None };
        let program = Program::given(sum, shape);
        Ok(Deferred { program, base: Some(Box::new(base)), origins: Vec::new() })
    }

    fn conv_transposed(&mut self, node: &Node) -> Result<()> {
        let shape = self.shape_of(node, 0)?;
        let rank = shape.len();
        let images = self.images(node)?;
        let weights = self.input_shape(node, 1)?;
        let groups = node.op.attributes.int("group").unwrap_or(1);
        let groups = usize::try_from(groups).ok().filter(|g| *g > 0 && images.channels % g == 0);
        let groups =
            groups.ok_or_else(|| ScoreError::bad_model(format!("{} channels in groups", images.channels)))?;
        let (inputs, per_group) = (images.channels / groups, weights.get(1).copied().unwrap_or(1));
        let outputs = per_group * groups;
        if weights.first() != Some(&images.channels) || shape.get(1) != Some(&outputs) {
            return Err(ScoreError::bad_model(format!(
                "weights of {weights:?} for {} channels",
                images.channels
            )));
        }
        let mut window = Window::of_conv(&node.op.attributes, rank.saturating_sub(2))?;
        window.kernel = weights.get(2..).unwrap_or_default().to_vec();
        // The padding that leaves the result as long as it is said to be.
        for axis in 0..rank.saturating_sub(2) {
            let at = |list: &[usize]| list.get(axis).copied().unwrap_or(1);
            let span = (at(&window.kernel).max(1) - 1) * at(&window.dilations) + 1;
            let extra =
                node.op.attributes.lengths("output_padding")?.and_then(|p| p.get(axis).copied()).unwrap_or(0);
            let length = images.array.view.length(2 + axis);
            let whole = length.saturating_sub(1) * at(&window.strides) + span + extra;
            let made = shape.get(2 + axis).copied().unwrap_or(0);
            let cut = whole.saturating_sub(made);
            let is_automatic =
                window.auto_pad != crate::graph::AutoPad::None || node.op.attributes.has("output_shape");
            if is_automatic {
                let before =
                    if window.auto_pad == crate::graph::AutoPad::SameUpper { cut / 2 } else { cut - cut / 2 };
                if let Some(slot) = window.pads.get_mut(axis) {
                    *slot = before;
                }
            }
        }
        window.auto_pad = crate::graph::AutoPad::None;
        let order = (2..rank).chain([0, 1]).collect::<Vec<_>>();
        let stored = images.array.dtype;
        let weights = self.dense(node, 1, &order, stored)?;
        let sum = Register::of(stored)?;
        let [depth, height, width] = three(shape.get(2..).unwrap_or_default(), 1);
        let count = shape.first().copied().unwrap_or(1) * depth * height * width * outputs;
        let words = self.window_words(&images, &window, &shape, (inputs, per_group), [outputs, per_group, 1]);
        let arguments = vec![
            Argument::Result,
            Argument::at(&images.array.view),
            Argument::at(&weights.view),
            Argument::Struct(Struct { pointers: Vec::new(), words }),
            unsigned(count),
        ];
        let grid = [count.div_ceil(BLOCK), 1, 1];
        let y = self.window_base(
            "conv_direct",
            "conv_transposed",
            &images.array,
            stored,
            sum,
            grid,
            arguments,
            &shape,
        )?;
        let y = self.biased(node, 2, y, &shape, sum)?;
        self.defer(node, 0, y)
    }

    fn max_pool(&mut self, node: &Node) -> Result<()> {
        let shape = self.shape_of(node, 0)?;
        let images = self.images(node)?;
        let window = Window::of_pool(&node.op.attributes, shape.len().saturating_sub(2))?;
        let words = self.window_words(&images, &window, &shape, (1, 1), [images.channels, 1, 1]);
        let count = shape.iter().product::<usize>();
        let mut writes = Vec::new();
        let places = match node.output(1) {
            Some(_) => {
                let array = self.allocate(&shape, DType::I64, None)?;
                writes.push(array.view.storage);
                self.put(node, 1, Value::Memory(array.clone()));
                Argument::at(&array.view)
            }
            None => Argument::Pointer(None),
        };
        let by_columns = node.op.attributes.flag("storage_order");
        let arguments = vec![
            Argument::Result,
            places,
            Argument::at(&images.array.view),
            Argument::Struct(Struct { pointers: Vec::new(), words }),
            Argument::Int(by_columns.into()),
            unsigned(count),
        ];
        let register = Register::of(images.array.dtype)?;
        let grid = [count.div_ceil(BLOCK), 1, 1];
        let dtype = images.array.dtype;
        let mut y =
            self.window_base("pool", "max_pool", &images.array, dtype, register, grid, arguments, &shape)?;
        if let Some(base) = y.base.as_mut() {
            base.operator.writes = writes;
        }
        // Places are there when values are: nobody may wait for who reads these.
        let y = if node.output(1).is_some() { self.settled(y)? } else { y };
        self.defer(node, 0, y)
    }

    fn mean_pool(&mut self, node: &Node, is_norm: bool) -> Result<()> {
        let shape = self.shape_of(node, 0)?;
        let images = self.images(node)?;
        let window = Window::of_pool(&node.op.attributes, shape.len().saturating_sub(2))?;
        let words = self.window_words(&images, &window, &shape, (1, 1), [images.channels, 1, 1]);
        let count = shape.iter().product::<usize>();
        let how = match is_norm {
            true => Argument::Float(node.op.attributes.int("p").unwrap_or(2) as f32),
            false => Argument::Int(node.op.attributes.flag("count_include_pad").into()),
        };
        let arguments = vec![
            Argument::Result,
            Argument::at(&images.array.view),
            Argument::Struct(Struct { pointers: Vec::new(), words }),
            how,
            unsigned(count),
        ];
        let register = Register::of(images.array.dtype)?;
        if !register.is_float() {
            return Err(ScoreError::unsupported("averages of integers"));
        }
        let grid = [count.div_ceil(BLOCK), 1, 1];
        let kernel = if is_norm { "lp_pool" } else { "average_pool" };
        let dtype = images.array.dtype;
        let y = self.window_base("pool", kernel, &images.array, dtype, register, grid, arguments, &shape)?;
        self.defer(node, 0, y)
    }
}
