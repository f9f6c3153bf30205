//! Whole networks with seeded weights, made in memory: SqueezeNet 1.1, ResNet and BERT, as exporters write them.
//!
//! The ONNX project's own test models have constant weights, so every output is one number; these have weights that keep activations in range through
//! the depth (He et al. 2015), so that what is computed wrongly is seen.

#![allow(dead_code, reason = "not every test that has this file needs all of them")]

use triscore::graph::encode;
use triscore::model::onnx::attribute_proto::AttributeType;
use triscore::model::onnx::tensor_shape_proto::{Dimension, dimension};
use triscore::model::onnx::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto,
    TypeProto, ValueInfoProto, type_proto,
};

/// A network that is being put together; every method adds a layer and returns its output's name.
struct Network {
    graph: GraphProto,
    state: u64,
}

impl Network {
    fn new(shape: &[i64]) -> Self {
        Self::of(vec![port("x", shape)])
    }

    fn of(input: Vec<ValueInfoProto>) -> Self {
        let graph = GraphProto { name: Some("network".to_owned()), input, ..Default::default() };
        Self { graph, state: 0x5eed_5eed_5eed_5eed }
    }

    /// About normally distributed, of variance one: the sum of twelve even ones.
    fn normal(&mut self) -> f32 {
        let mut sum = -6.0;
        for _ in 0..12 {
            self.state ^= self.state << 13;
            self.state ^= self.state >> 7;
            self.state ^= self.state << 17;
            sum += (self.state >> 40) as f32 / (1u32 << 24) as f32;
        }
        sum
    }

    fn tensor(&mut self, name: &str, dims: &[i64], mut value: impl FnMut(&mut Self) -> f32) -> String {
        let count = dims.iter().product::<i64>();
        let values = (0..count).flat_map(|_| value(self).to_le_bytes()).collect::<Vec<u8>>();
        self.graph.initializer.push(TensorProto {
            name: Some(name.to_owned()),
            data_type: Some(1),
            dims: dims.to_vec(),
            raw_data: Some(values.into()),
            ..Default::default()
        });
        name.to_owned()
    }

    fn node(&mut self, op: &str, inputs: &[&str], attributes: Vec<AttributeProto>) -> String {
        let output = format!("{}_{}", op.to_lowercase(), self.graph.node.len());
        self.graph.node.push(NodeProto {
            name: Some(output.clone()),
            op_type: Some(op.to_owned()),
            input: inputs.iter().map(|n| (*n).to_owned()).collect(),
            output: vec![output.clone()],
            attribute: attributes,
            ..Default::default()
        });
        output
    }

    /// A convolution with He-scaled weights, and a bias where nothing else shifts what it makes.
    fn conv(
        &mut self,
        x: &str,
        channels: [i64; 2],
        kernel: i64,
        stride: i64,
        pad: i64,
        with_bias: bool,
    ) -> String {
        let [inputs, outputs] = channels;
        let name = format!("w{}", self.graph.node.len());
        let scale = (2.0 / (inputs * kernel * kernel) as f32).sqrt();
        let w = self.tensor(&name, &[outputs, inputs, kernel, kernel], |n| n.normal() * scale);
        let mut read = vec![x.to_owned(), w];
        if with_bias {
            read.push(self.tensor(&format!("{name}_bias"), &[outputs], |n| n.normal() * 0.1));
        }
        let read = read.iter().map(String::as_str).collect::<Vec<_>>();
        let attributes =
            vec![ints("kernel_shape", &[kernel; 2]), ints("strides", &[stride; 2]), ints("pads", &[pad; 4])];
        self.node("Conv", &read, attributes)
    }

    /// Batch normalisation with statistics of about what comes in; `gain` is what it multiplies with.
    fn batch_norm(&mut self, x: &str, channels: i64, gain: f32) -> String {
        let name = format!("bn{}", self.graph.node.len());
        let parts = [
            self.tensor(&format!("{name}_scale"), &[channels], |n| gain * (1.0 + 0.1 * n.normal())),
            self.tensor(&format!("{name}_shift"), &[channels], |n| 0.1 * n.normal()),
            self.tensor(&format!("{name}_mean"), &[channels], |n| 0.1 * n.normal()),
            self.tensor(&format!("{name}_variance"), &[channels], |n| 1.0 + 0.1 * n.normal().abs()),
        ];
        let read = std::iter::once(x).chain(parts.iter().map(String::as_str)).collect::<Vec<_>>();
        self.node("BatchNormalization", &read, vec![])
    }

    /// Whole numbers, as shapes and axes are given.
    fn whole(&mut self, name: &str, dims: &[i64], values: &[i64]) -> String {
        self.graph.initializer.push(TensorProto {
            name: Some(name.to_owned()),
            data_type: Some(INT64),
            dims: dims.to_vec(),
            raw_data: Some(values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>().into()),
            ..Default::default()
        });
        name.to_owned()
    }

    /// One number, with a name that no other has.
    fn number(&mut self, value: f32) -> String {
        let name = format!("number{}", self.graph.initializer.len());
        self.tensor(&name, &[], |_| value)
    }

    /// A linear layer as exporters of transformers write it: a product, and its bias as an operator of its own.
    fn linear(&mut self, x: &str, [inputs, outputs]: [i64; 2]) -> String {
        let name = format!("w{}", self.graph.node.len());
        let scale = (1.0 / inputs as f32).sqrt();
        let w = self.tensor(&name, &[inputs, outputs], |n| n.normal() * scale);
        let b = self.tensor(&format!("{name}_bias"), &[outputs], |n| n.normal() * 0.1);
        let product = self.node("MatMul", &[x, &w], vec![]);
        self.node("Add", &[&b, &product], vec![])
    }

    /// A linear layer of vectors, as one operator.
    fn head(&mut self, x: &str, [inputs, outputs]: [i64; 2]) -> String {
        let name = format!("head{}", self.graph.node.len());
        let scale = (1.0 / inputs as f32).sqrt();
        let w = self.tensor(&name, &[outputs, inputs], |n| n.normal() * scale);
        let b = self.tensor(&format!("{name}_bias"), &[outputs], |n| n.normal() * 0.1);
        self.node("Gemm", &[x, &w, &b], vec![int("transB", 1)])
    }

    /// Gelu by the error function, in the five operators of exporters.
    fn gelu(&mut self, x: &str) -> String {
        let [root, one, half] = [2f32.sqrt(), 1.0, 0.5].map(|v| self.number(v));
        let scaled = self.node("Div", &[x, &root], vec![]);
        let error = self.node("Erf", &[&scaled], vec![]);
        let raised = self.node("Add", &[&error, &one], vec![]);
        let product = self.node("Mul", &[x, &raised], vec![]);
        self.node("Mul", &[&product, &half], vec![])
    }

    fn layer_norm(&mut self, x: &str, width: i64) -> String {
        let name = format!("ln{}", self.graph.node.len());
        let scale = self.tensor(&format!("{name}_scale"), &[width], |n| 1.0 + 0.1 * n.normal());
        let shift = self.tensor(&format!("{name}_shift"), &[width], |n| 0.1 * n.normal());
        self.node("LayerNormalization", &[x, &scale, &shift], vec![int("axis", -1)])
    }

    fn relu(&mut self, x: &str) -> String {
        self.node("Relu", &[x], vec![])
    }

    fn max_pool(&mut self, x: &str, kernel: i64, stride: i64, pad: i64) -> String {
        let attributes =
            vec![ints("kernel_shape", &[kernel; 2]), ints("strides", &[stride; 2]), ints("pads", &[pad; 4])];
        self.node("MaxPool", &[x], attributes)
    }

    fn finish(mut self, output: &str, classes: i64) -> Vec<u8> {
        let last = self.graph.node.last_mut().unwrap();
        assert_eq!(last.output, [output]);
        last.output = vec!["logits".to_owned()];
        self.graph.output.push(port("logits", &[-1, classes]));
        let model = ModelProto {
            ir_version: Some(8),
            opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(17) }],
            graph: Some(self.graph),
            ..Default::default()
        };
        encode(&model).unwrap().to_vec()
    }
}

/// ResNet with bottleneck blocks (He et al. 2016): 3, 4, 6 and 3 of them, 64 channels wide, of 224 × 224 pixels is ResNet-50.
pub(crate) fn resnet(depths: &[usize], width: i64, image: i64, classes: i64) -> Vec<u8> {
    let mut n = Network::new(&[-1, 3, image, image]);
    let stem = n.conv("x", [3, width], 7, 2, 3, false);
    let stem = n.batch_norm(&stem, width, 1.0);
    let stem = n.relu(&stem);
    let mut x = n.max_pool(&stem, 3, 2, 1);
    let mut channels = width;
    for (stage, depth) in depths.iter().enumerate() {
        let inner = width << stage;
        for block in 0..*depth {
            let stride = if block == 0 && stage > 0 { 2 } else { 1 };
            let shortcut = match block {
                0 => {
                    let projected = n.conv(&x, [channels, 4 * inner], 1, stride, 0, false);
                    n.batch_norm(&projected, 4 * inner, 0.7)
                }
                _ => x.clone(),
            };
            let a = n.conv(&x, [channels, inner], 1, 1, 0, false);
            let a = n.batch_norm(&a, inner, 1.0);
            let a = n.relu(&a);
            let b = n.conv(&a, [inner, inner], 3, stride, 1, false);
            let b = n.batch_norm(&b, inner, 1.0);
            let b = n.relu(&b);
            let c = n.conv(&b, [inner, 4 * inner], 1, 1, 0, false);
            let c = n.batch_norm(&c, 4 * inner, 0.4);
            let sum = n.node("Add", &[&c, &shortcut], vec![]);
            x = n.relu(&sum);
            channels = 4 * inner;
        }
    }
    let pooled = n.node("GlobalAveragePool", &[&x], vec![]);
    let flat = n.node("Flatten", &[&pooled], vec![]);
    let out = n.head(&flat, [channels, classes]);
    n.finish(&out, classes)
}

/// BERT (Devlin et al. 2019) with a classifier of two classes: 12 layers, 768 wide, 12 heads is BERT-base; 24, 1024 and 16 is BERT-large. It
/// takes token ids, a mask and token types, of `length` tokens each.
pub(crate) fn bert(layers: usize, width: i64, heads: i64, length: i64, words: i64) -> Vec<u8> {
    let ids = ["input_ids", "attention_mask", "token_type_ids"];
    let mut n = Network::of(ids.iter().map(|name| typed(name, INT64, &[-1, length])).collect());
    let table = |n: &mut Network, name: &str, rows| n.tensor(name, &[rows, width], |n| n.normal() * 0.5);
    let (word, kind) = (table(&mut n, "words", words), table(&mut n, "kinds", 2));
    let word = n.node("Gather", &[&word, ids[0]], vec![]);
    let kind = n.node("Gather", &[&kind, ids[2]], vec![]);
    let sum = n.node("Add", &[&word, &kind], vec![]);
    let place = n.tensor("places", &[1, length, width], |n| n.normal() * 0.5);
    let sum = n.node("Add", &[&sum, &place], vec![]);
    let mut x = n.layer_norm(&sum, width);
    // What is masked is as good as minus infinity.
    let axes = n.whole("mask_axes", &[2], &[1, 2]);
    let mask = n.node("Unsqueeze", &[ids[1], &axes], vec![]);
    let mask = n.node("Cast", &[&mask], vec![int("to", 1)]);
    let (one, lowest) = (n.number(1.0), n.number(-10_000.0));
    let mask = n.node("Sub", &[&one, &mask], vec![]);
    let mask = n.node("Mul", &[&mask, &lowest], vec![]);
    let split = n.whole("split", &[4], &[-1, length, heads, width / heads]);
    let joined = n.whole("joined", &[3], &[-1, length, width]);
    for _ in 0..layers {
        let [q, k, v] = [[0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]].map(|order| {
            let made = n.linear(&x, [width, width]);
            let made = n.node("Reshape", &[&made, &split], vec![]);
            n.node("Transpose", &[&made], vec![ints("perm", &order)])
        });
        let scores = n.node("MatMul", &[&q, &k], vec![]);
        let root = n.number(((width / heads) as f32).sqrt());
        let scores = n.node("Div", &[&scores, &root], vec![]);
        let scores = n.node("Add", &[&scores, &mask], vec![]);
        let weights = n.node("Softmax", &[&scores], vec![int("axis", -1)]);
        let mixed = n.node("MatMul", &[&weights, &v], vec![]);
        let mixed = n.node("Transpose", &[&mixed], vec![ints("perm", &[0, 2, 1, 3])]);
        let mixed = n.node("Reshape", &[&mixed, &joined], vec![]);
        let mixed = n.linear(&mixed, [width, width]);
        let sum = n.node("Add", &[&mixed, &x], vec![]);
        x = n.layer_norm(&sum, width);
        let inner = n.linear(&x, [width, 4 * width]);
        let inner = n.gelu(&inner);
        let outer = n.linear(&inner, [4 * width, width]);
        let sum = n.node("Add", &[&outer, &x], vec![]);
        x = n.layer_norm(&sum, width);
    }
    let first = n.whole("first", &[], &[0]);
    let first = n.node("Gather", &[&x, &first], vec![int("axis", 1)]);
    let pooled = n.head(&first, [width, width]);
    let pooled = n.node("Tanh", &[&pooled], vec![]);
    let out = n.head(&pooled, [width, 2]);
    n.finish(&out, 2)
}

/// One that takes long for its size: a few wide convolutions of a large image.
pub(crate) fn slow() -> Vec<u8> {
    let (channels, image) = (96, 320);
    let mut n = Network::new(&[-1, 3, image, image]);
    let mut x = n.conv("x", [3, channels], 3, 1, 1, true);
    for _ in 0..4 {
        x = n.relu(&x);
        x = n.conv(&x, [channels, channels], 3, 1, 1, true);
    }
    let x = n.node("GlobalAveragePool", &[&x], vec![]);
    let x = n.node("Flatten", &[&x], vec![int("axis", 1)]);
    n.finish(&x, channels)
}

/// Many small layers: work that can be left at any time.
pub(crate) fn deep() -> Vec<u8> {
    let (channels, image) = (32, 32);
    let mut n = Network::new(&[-1, 3, image, image]);
    let mut x = n.conv("x", [3, channels], 3, 1, 1, true);
    for _ in 0..100 {
        x = n.relu(&x);
        x = n.conv(&x, [channels, channels], 3, 1, 1, true);
    }
    let x = n.node("GlobalAveragePool", &[&x], vec![]);
    let x = n.node("Flatten", &[&x], vec![int("axis", 1)]);
    n.finish(&x, channels)
}

/// SqueezeNet 1.1 (Iandola et al. 2016).
pub(crate) fn squeezenet(image: i64, classes: i64) -> Vec<u8> {
    let mut n = Network::new(&[-1, 3, image, image]);
    let stem = n.conv("x", [3, 64], 3, 2, 0, true);
    let stem = n.relu(&stem);
    let mut x = n.max_pool(&stem, 3, 2, 0);
    let mut channels = 64;
    for (place, (squeeze, expand)) in
        [(16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256)]
            .into_iter()
            .enumerate()
    {
        if place == 2 || place == 4 {
            x = n.max_pool(&x, 3, 2, 0);
        }
        let s = n.conv(&x, [channels, squeeze], 1, 1, 0, true);
        let s = n.relu(&s);
        let narrow = n.conv(&s, [squeeze, expand], 1, 1, 0, true);
        let narrow = n.relu(&narrow);
        let wide = n.conv(&s, [squeeze, expand], 3, 1, 1, true);
        let wide = n.relu(&wide);
        x = n.node("Concat", &[&narrow, &wide], vec![int("axis", 1)]);
        channels = 2 * expand;
    }
    let last = n.conv(&x, [channels, classes], 1, 1, 0, true);
    let last = n.relu(&last);
    let pooled = n.node("GlobalAveragePool", &[&last], vec![]);
    let out = n.node("Flatten", &[&pooled], vec![]);
    n.finish(&out, classes)
}

/// ONNX's number for integers of 64 bits.
const INT64: i32 = 7;

fn port(name: &str, shape: &[i64]) -> ValueInfoProto {
    typed(name, 1, shape)
}

fn typed(name: &str, elem_type: i32, shape: &[i64]) -> ValueInfoProto {
    let dim = |n: &i64| Dimension {
        value: Some(match n {
            -1 => dimension::Value::DimParam("N".to_owned()),
            n => dimension::Value::DimValue(*n),
        }),
        ..Default::default()
    };
    let shape = TensorShapeProto { dim: shape.iter().map(dim).collect() };
    let tensor = type_proto::Tensor { elem_type: Some(elem_type), shape: Some(shape) };
    ValueInfoProto {
        name: Some(name.to_owned()),
        r#type: Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() }),
        ..Default::default()
    }
}

fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        r#type: Some(AttributeType::Int.into()),
        i: Some(value),
        ..Default::default()
    }
}

fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        r#type: Some(AttributeType::Ints.into()),
        ints: values.to_vec(),
        ..Default::default()
    }
}
