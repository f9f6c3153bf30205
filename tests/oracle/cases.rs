//! Seeded cases: an operator between Q/DQ pairs, with odd shapes, all attributes and extreme parameters.

use triscore::int8::{QParams, QType};
use triscore::{DType, Model, Tensor};

use crate::model::{Builder, int, ints, text};

/// A generator of numbers (xorshift).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        (0..8).for_each(|_| _ = random.next());
        random
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// From `low` to `high`, both included.
    pub(crate) fn range(&mut self, low: usize, high: usize) -> usize {
        low + (self.next() >> 20) as usize % (high - low + 1)
    }

    fn flag(&mut self) -> bool {
        self.range(0, 1) == 1
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.range(0, from.len() - 1)]
    }

    /// Between 0 and 1.
    fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u32 << 24) as f32
    }

    /// A scale: mostly ordinary, at times one with few bits, at times extreme.
    fn scale(&mut self) -> f32 {
        match self.range(0, 9) {
            0 => 2f32.powi(-(self.range(0, 12) as i32)),
            1 => 1e-6 * (1.0 + self.unit()),
            2 => 300.0 * (1.0 + self.unit()),
            _ => 0.002 + self.unit() * 0.2,
        }
    }

    fn params(&mut self, qtype: QType) -> QParams {
        let zero = match self.range(0, 4) {
            0 => qtype.min(),
            1 => qtype.max(),
            _ => qtype.min() + self.range(0, (qtype.max() - qtype.min()) as usize) as i32,
        };
        QParams::new(self.scale(), zero, qtype).unwrap()
    }

    /// Integers of a type; at times only its ends, so that sums are as large as they get.
    pub(crate) fn integers(&mut self, qtype: QType, shape: &[usize]) -> Tensor {
        let count = shape.iter().product::<usize>();
        let (low, high) = (qtype.min(), qtype.max());
        let kind = self.range(0, 5);
        let mut value = || match kind {
            0 => self.pick(&[low, high]),
            _ => low + self.range(0, (high - low) as usize) as i32,
        };
        let values = (0..count).map(|_| value()).collect::<Vec<_>>();
        tensor(qtype, shape, &values)
    }
}

pub(crate) fn tensor(qtype: QType, shape: &[usize], values: &[i32]) -> Tensor {
    match qtype {
        QType::U8 => Tensor::from_slice(shape, &values.iter().map(|v| *v as u8).collect::<Vec<_>>()),
        QType::I8 => Tensor::from_slice(shape, &values.iter().map(|v| *v as i8).collect::<Vec<_>>()),
        QType::U16 => Tensor::from_slice(shape, &values.iter().map(|v| *v as u16).collect::<Vec<_>>()),
        QType::I16 => Tensor::from_slice(shape, &values.iter().map(|v| *v as i16).collect::<Vec<_>>()),
    }
    .unwrap()
}

/// A model of one quantised operator and what goes in.
pub(crate) struct Case {
    pub(crate) what: String,
    pub(crate) model: Model,
    pub(crate) inputs: Vec<Tensor>,
    /// How many steps of the result sums of floats may be off: they round where large terms cancel, and integers do not.
    #[allow(dead_code, reason = "of the tests that include this, one compares with floats")]
    pub(crate) float_error_steps: f32,
}

/// What is being put together for a case.
struct Making<'r> {
    random: &'r mut Random,
    builder: Builder,
    inputs: Vec<Tensor>,
    activation: QType,
    what: String,
    /// How far off a sum of floats may be.
    float_error: f32,
}

impl Making<'_> {
    /// About how large sums of so many products become.
    fn sums(&mut self, x: &QParams, w: &[f32], depth: usize) -> f32 {
        let largest = w.iter().fold(0f32, |most, w| most.max(*w));
        let term = x.scale() * self.activation.count() as f32 * 128.0 * largest;
        // Roundings go either way: of so many, about the root of their number is left.
        self.float_error += term * (depth as f32).sqrt() * f32::EPSILON;
        x.scale() * w[0] * 5000.0 * (depth as f32).sqrt()
    }

    /// A dequantised input of that shape.
    fn activation(&mut self, shape: &[usize]) -> (String, QParams) {
        let name = format!("x{}", self.inputs.len());
        let params = self.random.params(self.activation);
        let tensor = self.random.integers(self.activation, shape);
        self.builder.input(&name, tensor.dtype(), shape);
        self.inputs.push(tensor);
        self.what += &format!(" {name}{shape:?} {params:?}");
        (self.dequantize(&name, &params), params)
    }

    /// How many times 8 bits an activation's integers cover: a product of two is that much larger than one, and so than its result's steps.
    fn ranges(&self) -> f32 {
        self.activation.count() as f32 / 256.0
    }

    fn params(&mut self, of: &str, scales: &[f32], zeros: &[i32], qtype: QType) -> [String; 2] {
        let shape = if scales.len() == 1 { vec![] } else { vec![scales.len()] };
        let scale =
            self.builder.constant(&format!("{of}_scale"), &Tensor::from_slice(&shape, scales).unwrap());
        let zero = self.builder.constant(&format!("{of}_zero"), &tensor(qtype, &shape, zeros));
        [scale, zero]
    }

    fn dequantize(&mut self, name: &str, params: &QParams) -> String {
        let [scale, zero] = self.params(name, &[params.scale()], &[params.zero_point()], params.qtype());
        self.builder.node("DequantizeLinear", &[name, &scale, &zero], &format!("{name}_f"), vec![])
    }

    /// A float in the middle, quantised and dequantised.
    fn again(&mut self, name: &str, params: &QParams) -> String {
        let quantised = format!("{name}_q");
        let [scale, zero] =
            self.params(&quantised, &[params.scale()], &[params.zero_point()], params.qtype());
        self.builder.node("QuantizeLinear", &[name, &scale, &zero], &quantised, vec![]);
        self.builder.node("DequantizeLinear", &[&quantised, &scale, &zero], &format!("{quantised}_f"), vec![])
    }

    /// A dequantised constant weight whose channels run along an axis, and its scales; of one scale at times unsigned, its zero anywhere.
    fn weight(&mut self, shape: &[usize], axis: usize) -> (String, Vec<f32>) {
        let channels = if self.random.flag() && shape[axis] > 1 { shape[axis] } else { 1 };
        let scales = (0..channels).map(|_| self.random.scale()).collect::<Vec<_>>();
        let (qtype, zero) = match self.random.range(0, 4) {
            // ONNX Runtime multiplies no signed activations with unsigned weights.
            0 if channels == 1 && self.activation != QType::I8 => {
                (QType::U8, self.random.range(0, 255) as i32)
            }
            _ => (QType::I8, 0),
        };
        let values = self.random.integers(qtype, shape);
        let name = self.builder.constant("w", &values);
        let [scale, zero] = self.params("w", &scales, &vec![zero; channels], qtype);
        let output = self.builder.node(
            "DequantizeLinear",
            &[&name, &scale, &zero],
            "w_f",
            vec![int("axis", axis as i64)],
        );
        self.what += &format!(" w{shape:?} {qtype:?} {channels} scales");
        (output, scales)
    }

    /// A dequantised bias in the steps of the sums, at times.
    fn bias(&mut self, channels: usize, x: &QParams, w: &[f32]) -> Option<String> {
        if self.random.range(0, 2) == 0 {
            return None;
        }
        let scales = w.iter().map(|w| x.scale() * w).collect::<Vec<_>>();
        let values =
            (0..channels).map(|_| self.random.range(0, 200_000) as i32 - 100_000).collect::<Vec<_>>();
        let name = self.builder.constant("b", &Tensor::from_slice(&[channels], &values).unwrap());
        let shape = if scales.len() == 1 { vec![] } else { vec![scales.len()] };
        let scale = self.builder.constant("b_scale", &Tensor::from_slice(&shape, &scales).unwrap());
        let zeros = Tensor::from_slice(&shape, &vec![0i32; scales.len()]).unwrap();
        let zero = self.builder.constant("b_zero", &zeros);
        Some(self.builder.node("DequantizeLinear", &[&name, &scale, &zero], "b_f", vec![int("axis", 0)]))
    }

    /// Quantises the result so that most of it does not saturate, if `size` is about how large it becomes.
    fn finish(self, result: &str, size: f32) -> Case {
        let mut to = self.random.params(self.activation);
        // Beyond 31 bits of steps ONNX Runtime wraps; ours saturates.
        let is_extreme = size * 8.0 / to.scale() > 2f32.powi(31);
        if (is_extreme || self.random.range(0, 3) > 0) && (size / 100.0).is_normal() {
            to = QParams::new(size / 100.0, to.zero_point(), to.qtype()).unwrap();
        }
        self.finish_with(result, to)
    }

    fn finish_with(mut self, result: &str, to: QParams) -> Case {
        let [scale, zero] = self.params("y", &[to.scale()], &[to.zero_point()], to.qtype());
        self.builder.node("QuantizeLinear", &[result, &scale, &zero], "y", vec![]);
        self.builder.output("y", DType::from(to.qtype()));
        self.what += &format!(" -> {to:?}");
        let float_error_steps = self.float_error / to.scale();
        Case { what: self.what, model: self.builder.build(), inputs: self.inputs, float_error_steps }
    }
}

/// The names of the operators that cases are made of.
pub(crate) const OPERATORS: &[&str] = &[
    "Conv",
    "MatMul",
    "MatMul2",
    "Gemm",
    "Add",
    "Mul",
    "Concat",
    "GlobalAveragePool",
    "AveragePool",
    "MaxPool",
    "Softmax",
    "Sigmoid",
    "LeakyRelu",
    "Requantize",
    "Clip",
    "Residual",
    "Deep",
];

/// Operators whose arithmetic is our own, and tensors without elements, some of which ONNX Runtime refuses: devices are held to the reference.
#[allow(dead_code, reason = "of the tests that include this, one holds them to ONNX Runtime")]
pub(crate) const OUR_OWN: &[&str] = &["LayerNormalization", "Empty"];

/// One seeded case of an operator.
pub(crate) fn case(operator: &str, activation: QType, seed: u64) -> Case {
    let mut random = Random::new(seed ^ (operator.len() as u64) << 32 ^ operator.as_bytes()[0] as u64);
    let mut making = Making {
        random: &mut random,
        builder: Builder::default(),
        inputs: Vec::new(),
        activation,
        what: format!("{operator} {activation:?} seed {seed}:"),
        float_error: 0.0,
    };
    match operator {
        "Conv" => conv(making),
        "MatMul" => {
            let (rows, depth, columns) = dims3(&mut making);
            let batch = making.random.range(1, 3);
            let shape = if making.random.flag() { vec![rows, depth] } else { vec![batch, rows, depth] };
            let (x, p) = making.activation(&shape);
            let (w, scales) = making.weight(&[depth, columns], 1);
            let size = making.sums(&p, &scales, depth);
            let y = making.builder.node("MatMul", &[&x, &w], "r", vec![]);
            making.finish(&y, size)
        }
        "MatMul2" => {
            let (rows, depth, columns) = dims3(&mut making);
            let batch = making.random.range(1, 3);
            let (a, p) = making.activation(&[batch, rows, depth]);
            let (b, q) = making.activation(&[batch, depth, columns]);
            let size = p.scale() * q.scale() * 5000.0 * making.ranges() * (depth as f32).sqrt();
            let y = making.builder.node("MatMul", &[&a, &b], "r", vec![]);
            making.finish(&y, size)
        }
        "Gemm" => {
            let (rows, depth, columns) = dims3(&mut making);
            let (x, p) = making.activation(&[rows, depth]);
            let transposed = making.random.flag();
            let (shape, axis) = if transposed { ([columns, depth], 0) } else { ([depth, columns], 1) };
            let (w, scales) = making.weight(&shape, axis);
            let size = making.sums(&p, &scales, depth);
            let bias = making.bias(columns, &p, &scales);
            let inputs = [Some(x), Some(w), bias].into_iter().flatten().collect::<Vec<_>>();
            let inputs = inputs.iter().map(String::as_str).collect::<Vec<_>>();
            let y = making.builder.node("Gemm", &inputs, "r", vec![int("transB", transposed.into())]);
            making.finish(&y, size)
        }
        "Add" | "Mul" => {
            let shape = dims(&mut making, 3);
            let other = match making.random.range(0, 3) {
                0 => vec![1, shape[1], 1],
                1 => vec![shape[2]],
                _ => shape.clone(),
            };
            let (a, p) = making.activation(&shape);
            let (b, q) = making.activation(&other);
            let y = making.builder.node(operator, &[&a, &b], "r", vec![]);
            let size = if operator == "Add" {
                (p.scale() + q.scale()) * 128.0
            } else {
                p.scale() * q.scale() * 9000.0 * making.ranges()
            };
            making.finish(&y, size)
        }
        "Concat" => {
            let shape = dims(&mut making, 3);
            let axis = making.random.range(0, 2);
            let count = making.random.range(2, 4);
            let mut parts = Vec::new();
            let mut size = 0f32;
            for _ in 0..count {
                let mut part = shape.clone();
                part[axis] = making.random.range(1, 5);
                let (name, p) = making.activation(&part);
                size = size.max(p.scale() * 128.0);
                parts.push(name);
            }
            let parts = parts.iter().map(String::as_str).collect::<Vec<_>>();
            let y = making.builder.node("Concat", &parts, "r", vec![int("axis", axis as i64)]);
            making.finish(&y, size)
        }
        "GlobalAveragePool" => {
            let shape = dims(&mut making, 4);
            let (x, p) = making.activation(&shape);
            let y = making.builder.node(operator, &[&x], "r", vec![]);
            making.finish(&y, p.scale() * 60.0)
        }
        "AveragePool" | "MaxPool" => pool(making, operator),
        "Softmax" => {
            let shape = dims(&mut making, 3);
            let (x, _) = making.activation(&shape);
            let y = making.builder.node("Softmax", &[&x], "r", vec![int("axis", -1)]);
            let steps = making.random.pick(&[255f32, 256.0, 200.0]);
            let zero = making.activation.min();
            let to = QParams::new(1.0 / steps, zero, making.activation).unwrap();
            making.finish_with(&y, to)
        }
        "Sigmoid" | "LeakyRelu" => {
            let shape = dims(&mut making, 3);
            let (x, p) = making.activation(&shape);
            let y = making.builder.node(operator, &[&x], "r", vec![]);
            if operator == "LeakyRelu" {
                return making.finish(&y, p.scale() * 128.0);
            }
            // Its exponential is an approximation that differs in the last place: not to be seen in steps of a thousandth.
            let zero = making.random.params(making.activation).zero_point();
            let to =
                QParams::new(1.0 / making.random.range(200, 1000) as f32, zero, making.activation).unwrap();
            making.finish_with(&y, to)
        }
        "Requantize" => {
            let shape = dims(&mut making, 3);
            let (x, p) = making.activation(&shape);
            making.finish(&x, p.scale() * 128.0)
        }
        "LayerNormalization" => {
            let (batch, rows) = (making.random.range(1, 3), making.random.range(1, 9));
            let length = making.random.pick(&[1, 2, 7, 16, 17, 48, 64, 193]);
            let (x, _) = making.activation(&[batch, rows, length]);
            let mut parameter = |name: &str, spread: f32| {
                let values = (0..length).map(|_| making.random.unit() * spread - 0.5).collect::<Vec<_>>();
                making.builder.constant(name, &Tensor::from_slice(&[length], &values).unwrap())
            };
            let (scale, bias) = (parameter("scale", 3.0), parameter("bias", 1.0));
            let y =
                making.builder.node("LayerNormalization", &[&x, &scale, &bias], "r", vec![int("axis", -1)]);
            let zero = making.random.params(making.activation).zero_point();
            let to = QParams::new(0.005 + making.random.unit() * 0.05, zero, making.activation).unwrap();
            making.finish_with(&y, to)
        }
        "Clip" => {
            // Behind an addition, with bounds inside the range of the integers or not.
            let shape = dims(&mut making, 3);
            let (a, p) = making.activation(&shape);
            let (b, q) = making.activation(&shape);
            let sum = making.builder.node("Add", &[&a, &b], "s", vec![]);
            let size = (p.scale() + q.scale()) * 128.0;
            let y = making.builder.node("Relu", &[&sum], "r", vec![]);
            let to = QParams::new(size / 100.0, making.activation.min(), making.activation).unwrap();
            making.finish_with(&y, to)
        }
        "Residual" => residual(making),
        "Deep" => deep(making),
        "Empty" => empty(making),
        other => panic!("{other}"),
    }
}

fn dims(making: &mut Making<'_>, rank: usize) -> Vec<usize> {
    (0..rank).map(|_| making.random.pick(&[1, 2, 3, 5, 7, 8, 16, 17])).collect()
}

fn dims3(making: &mut Making<'_>) -> (usize, usize, usize) {
    let d = (0..3).map(|_| making.random.pick(&[1, 2, 3, 7, 16, 17, 33, 64, 129])).collect::<Vec<_>>();
    (d[0], d[1], d[2])
}

fn window(making: &mut Making<'_>, axes: usize, kernel: &[usize]) -> (Vec<usize>, Vec<usize>, Vec<usize>) {
    let strides = (0..axes).map(|_| making.random.range(1, 3)).collect();
    let dilations = (0..axes).map(|_| making.random.pick(&[1, 1, 2])).collect();
    let pads = (0..2 * axes).map(|i| making.random.range(0, kernel[i % axes] - 1)).collect();
    (strides, dilations, pads)
}

fn conv(mut making: Making<'_>) -> Case {
    let axes = making.random.pick(&[1, 2, 2, 2]);
    let kernel = (0..axes).map(|_| making.random.pick(&[1, 2, 3, 3, 5])).collect::<Vec<_>>();
    let (strides, mut dilations, pads) = window(&mut making, axes, &kernel);
    let auto_pad = making.random.pick(&["", "", "", "SAME_UPPER", "SAME_LOWER", "VALID"]);
    if auto_pad.starts_with("SAME") {
        dilations = vec![1; axes];
    }
    let groups = making.random.pick(&[1, 1, 2, 3]);
    let (in_group, out_group) = (making.random.pick(&[1, 2, 3, 8, 17]), making.random.pick(&[1, 2, 5, 16]));
    let batch = making.random.range(1, 2);
    let spatial = kernel.iter().zip(&dilations).map(|(k, d): (&usize, &usize)| (k - 1) * d + 1);
    let spatial = spatial.map(|least| least + making.random.range(0, 9)).collect::<Vec<_>>();
    let (x, p) = making.activation(&[&[batch, in_group * groups][..], &spatial].concat());
    let (w, scales) = making.weight(&[&[out_group * groups, in_group][..], &kernel].concat(), 0);
    let taps = in_group * kernel.iter().product::<usize>();
    let size = making.sums(&p, &scales, taps);
    let bias = making.bias(out_group * groups, &p, &scales);
    let inputs = [Some(x), Some(w), bias].into_iter().flatten().collect::<Vec<_>>();
    let inputs = inputs.iter().map(String::as_str).collect::<Vec<_>>();
    making.what += &format!(
        " kernel {kernel:?} strides {strides:?} dilations {dilations:?} pads {pads:?} {auto_pad} groups {groups}"
    );
    let attributes = vec![
        ints("kernel_shape", &kernel),
        ints("strides", &strides),
        ints("dilations", &dilations),
        if auto_pad.is_empty() { ints("pads", &pads) } else { text("auto_pad", auto_pad) },
        int("group", groups as i64),
    ];
    let y = making.builder.node("Conv", &inputs, "r", attributes);
    making.finish(&y, size)
}

/// Sums of more products than the engine stages at once, by one, and by more than twice as many.
fn deep(mut making: Making<'_>) -> Case {
    let depth = making.random.pick(&[2305, 4609, 4623, 9300]);
    let (rows, columns) = (making.random.range(1, 4), making.random.pick(&[1, 3, 16, 17]));
    let is_conv = making.random.flag();
    let (x_shape, w_shape) = match is_conv {
        // Nine elements of each channel.
        true => (vec![1, depth / 9, 4, 3], vec![columns, depth / 9, 3, 3]),
        false => (vec![rows, depth], vec![depth, columns]),
    };
    let (x, p) = making.activation(&x_shape);
    let (w, scales) = making.weight(&w_shape, if is_conv { 0 } else { 1 });
    let size = making.sums(&p, &scales, depth);
    let pads = if is_conv { vec![ints("pads", &[1, 1, 1, 1])] } else { vec![] };
    let y = making.builder.node(if is_conv { "Conv" } else { "MatMul" }, &[&x, &w], "r", pads);
    making.finish(&y, size)
}

/// A tensor without elements, through one operator after the other.
fn empty(mut making: Making<'_>) -> Case {
    let operators = [
        "Conv",
        "MatMul",
        "Add",
        "Concat",
        "MaxPool",
        "GlobalAveragePool",
        "Softmax",
        "Sigmoid",
        "Transpose",
    ];
    let operator = making.random.pick(&operators);
    let shape = match operator {
        // Without rows, or without images; a sum over nothing is no mean.
        "MatMul" => making.random.pick(&[[0, 2, 3, 5], [2, 0, 3, 5], [2, 3, 0, 5]]),
        _ => [0, 3, 4, 5],
    };
    making.what += operator;
    let (x, _) = making.activation(&shape);
    let y = match operator {
        "Conv" => {
            let (w, _) = making.weight(&[4, 3, 2, 2], 0);
            making.builder.node(operator, &[&x, &w], "r", vec![])
        }
        "MatMul" => {
            let (w, _) = making.weight(&[5, 7], 1);
            making.builder.node(operator, &[&x, &w], "r", vec![])
        }
        "Add" | "Concat" => {
            let (other, _) = making.activation(&shape);
            let axis = if operator == "Concat" { vec![int("axis", 1)] } else { vec![] };
            making.builder.node(operator, &[&x, &other], "r", axis)
        }
        "MaxPool" => making.builder.node(operator, &[&x], "r", vec![ints("kernel_shape", &[2, 2])]),
        "Softmax" => making.builder.node(operator, &[&x], "r", vec![int("axis", -1)]),
        _ => making.builder.node(operator, &[&x], "r", vec![]),
    };
    making.finish(&y, 10.0)
}

/// What a convolution or a product makes, and something else of its shape, added up: on either side, wherever it lies.
fn residual(mut making: Making<'_>) -> Case {
    let is_conv = making.random.flag();
    let (batch, channels, width) =
        (making.random.range(1, 2), making.random.pick(&[1, 3, 16, 17]), making.random.pick(&[1, 5, 7, 16]));
    let outputs = making.random.pick(&[2, 15, 16, 33]);
    let (x_shape, y_shape, w_shape) = match is_conv {
        true => {
            (vec![batch, channels, width, 3], vec![batch, outputs, width, 3], vec![outputs, channels, 1, 1])
        }
        false => (vec![batch, width, channels], vec![batch, width, outputs], vec![channels, outputs]),
    };
    let (x, p) = making.activation(&x_shape);
    let (w, scales) = making.weight(&w_shape, if is_conv { 0 } else { 1 });
    // Of one scale, the other operand was transposed first.
    let is_transposed = making.random.flag();
    let mut other_shape = y_shape;
    let last = other_shape.len() - 1;
    if is_transposed {
        other_shape.swap(last, last - 1);
    }
    let (mut other, q) = making.activation(&other_shape);
    if is_transposed {
        let mut order = (0..=last).collect::<Vec<_>>();
        order.swap(last, last - 1);
        let moved = making.builder.node("Transpose", &[&other], "t", vec![ints("perm", &order)]);
        other = making.again(&moved, &q);
    }
    let size = making.sums(&p, &scales, channels);
    let zero = making.random.params(making.activation).zero_point();
    let middle = QParams::new((size / 100.0).clamp(1e-30, 1e30), zero, making.activation).unwrap();
    making.float_error += middle.scale();
    let made = making.builder.node(if is_conv { "Conv" } else { "MatMul" }, &[&x, &w], "m", vec![]);
    let made = making.again(&made, &middle);
    let (a, b) = if making.random.flag() { (&made, &other) } else { (&other, &made) };
    let y = making.builder.node("Add", &[a, b], "r", vec![]);
    making.finish(&y, (middle.scale() + q.scale()) * 128.0)
}

fn pool(mut making: Making<'_>, operator: &str) -> Case {
    let kernel = (0..2).map(|_| making.random.range(1, 4)).collect::<Vec<_>>();
    let (strides, mut dilations, pads) = window(&mut making, 2, &kernel);
    if operator == "AveragePool" {
        dilations = vec![1, 1];
    }
    let spatial = kernel.iter().zip(&dilations).map(|(k, d)| (k - 1) * d + 1);
    let spatial = spatial.map(|least| least + making.random.range(0, 9)).collect::<Vec<_>>();
    let channels = making.random.range(1, 5);
    let (x, p) = making.activation(&[&[2, channels][..], &spatial].concat());
    let ceil = making.random.flag();
    making.what +=
        &format!(" kernel {kernel:?} strides {strides:?} dilations {dilations:?} pads {pads:?} ceil {ceil}");
    let mut attributes = vec![
        ints("kernel_shape", &kernel),
        ints("strides", &strides),
        ints("pads", &pads),
        int("ceil_mode", ceil.into()),
    ];
    if operator == "AveragePool" {
        // Both together stay floats.
        attributes.push(int("count_include_pad", (!ceil && making.random.flag()).into()));
    } else {
        attributes.push(ints("dilations", &dilations));
    }
    let y = making.builder.node(operator, &[&x], "r", attributes);
    // A maximum keeps its parameters, as quantisers write it.
    match operator {
        "MaxPool" => making.finish_with(&y, p),
        _ => making.finish(&y, p.scale() * 100.0),
    }
}
