use super::*;
use crate::graph::rewrite::remove_identities;
use crate::graph::testing::graph_of;

/// The nodes that a graph has after the rewrite, without their types and names of parameters.
fn after(text: &str) -> (usize, Vec<String>) {
    after_of(to_integers, text)
}

fn after_of(rewrite: fn(&mut Graph) -> Result<usize>, text: &str) -> (usize, Vec<String>) {
    let mut graph = graph_of(&format!("{CONSTANTS}\n{text}"));
    let count = rewrite(&mut graph).unwrap();
    graph.tidy().unwrap();
    remove_identities(&mut graph).unwrap();
    graph.tidy().unwrap();
    let line = |line: &str| {
        let (made, node) = line.split_once(" = ")?;
        Some(format!("{} = {node}", made.split(": ").next()?))
    };
    (count, graph.to_string().lines().filter_map(line).collect())
}

const CONSTANTS: &str = "s = f32[] 0.5
t = f32[] 0.25
z = u8[] 128
zero = u8[] 0
w8 = i8[2, 3, 1, 1] 1 2 3 4 5 6
m8 = i8[3, 2] 1 2 3 4 5 6
ws = f32[2] 0.5 0.25
wz = i8[2] 0
b32 = i32[2] 7 8
bs = f32[2] 0.25 0.125
bz = i32[2] 0";

#[test]
fn groups_become_integer_operators() {
    let image = "x: u8[N, 3, 4, 4]\nf = DequantizeLinear(x, s, z)";
    let conv = "w = DequantizeLinear<axis=0>(w8, ws, wz)\nb = DequantizeLinear<axis=0>(b32, bs, bz)";
    let rows = "x: u8[N, 3]\nf = DequantizeLinear(x, s, z)";
    let cases = [
        (
            format!("{image}\n{conv}\nc = Conv<strides=[2 2]>(f, w, b)\ny = QuantizeLinear(c, t, z)"),
            "y = QLinearConv<strides=[2, 2]>(x, [0.5], u8[], i8[2, 3, 1, 1], [0.5, 0.25], i8[2], [0.25], u8[], i32[2])",
        ),
        // The zero point is the least integer: the Relu is the saturation.
        (
            format!("{image}\n{conv}\nc = Conv(f, w, b)\nr = Relu(c)\ny = QuantizeLinear(r, t, zero)"),
            "y = QLinearConv(x, [0.5], u8[], i8[2, 3, 1, 1], [0.5, 0.25], i8[2], [0.25], u8[], i32[2])",
        ),
        (
            format!(
                "{rows}\nw = DequantizeLinear<axis=1>(m8, ws, wz)\nc = MatMul(f, w)\ny = QuantizeLinear(c, t, z)"
            ),
            "y = QLinearMatMul(x, [0.5], u8[], i8[3, 2], [0.5, 0.25], i8[2], [0.25], u8[])",
        ),
        (
            format!(
                "{rows}\nw = DequantizeLinear<axis=1>(m8, ws, wz)\nb = DequantizeLinear<axis=0>(b32, bs, bz)\ny = Gemm(f, w, b)"
            ),
            "y = com.microsoft.QGemm<transB=0>(x, [0.5], u8[], i8[3, 2], [0.5, 0.25], i8[2], i32[2])",
        ),
        // A bias of 8 bits with a scale of its own is rounded to the steps of the sums, as one in floats is.
        (
            format!(
                "{rows}\nw = DequantizeLinear<axis=1>(m8, ws, wz)\nb8 = i8[2] 3 4\nb = DequantizeLinear(b8, s, _)\ny = Gemm(f, w, b)"
            ),
            "y = com.microsoft.QGemm<transB=0>(x, [0.5], u8[], i8[3, 2], [0.5, 0.25], i8[2], i32[2])",
        ),
        (
            format!("{rows}\nc = Add(f, f)\ny = QuantizeLinear(c, t, z)"),
            "y = com.microsoft.QLinearAdd(x, [0.5], u8[], x, [0.5], u8[], [0.25], u8[])",
        ),
        (
            format!("{rows}\nc = Concat<axis=1>(f, f)\ny = QuantizeLinear(c, t, z)"),
            "y = com.microsoft.QLinearConcat<axis=1>([0.25], u8[], x, [0.5], u8[], x, [0.5], u8[])",
        ),
        (
            format!("{image}\nc = GlobalAveragePool(f)\ny = QuantizeLinear(c, t, z)"),
            "y = com.microsoft.QLinearGlobalAveragePool(x, [0.5], u8[], [0.25], u8[])",
        ),
        (
            format!("{rows}\nc = Softmax(f)\ny = QuantizeLinear(c, t, z)"),
            "y = com.microsoft.QLinearSoftmax<axis=-1, opset=21>(x, [0.5], u8[], [0.25], u8[])",
        ),
        // The same parameters on both sides: only the move is left.
        (format!("{image}\nc = Flatten(f)\ny = QuantizeLinear(c, s, z)"), "y = Flatten(x)"),
        (
            format!("{rows}\nc = Sigmoid(f)\ny = QuantizeLinear(c, t, z)"),
            "y = triscore.Table<first=0>(x, u8[256])",
        ),
        (format!("{rows}\ny = QuantizeLinear(f, t, z)"), "y = triscore.Table<first=0>(x, u8[256])"),
        (
            format!("{rows}\nh = HardSigmoid(f)\nc = Mul(f, h)\ny = QuantizeLinear(c, t, z)"),
            "y = triscore.Table<first=0>(x, u8[256])",
        ),
        (
            format!(
                "{rows}\ng = f32[3] 1\nc = LayerNormalization<axis=-1>(f, g, g)\ny = QuantizeLinear(c, t, z)"
            ),
            "y = triscore.QLinearLayerNormalization<epsilon=0.00001>(x, [0.5], u8[], [1.0, 1.0, 1.0], [1.0, 1.0, 1.0], [0.25], u8[])",
        ),
    ];
    for (text, expected) in cases {
        let (count, nodes) = after(&format!("{text}\n-> y"));
        assert_eq!(count, 1, "{text}");
        assert_eq!(nodes.first().map(String::as_str), Some(expected), "{text}");
        assert_eq!(nodes.len(), 1, "{nodes:?}");
    }
}

#[test]
fn a_clamp_that_saturation_does_not_do_is_a_clip_of_integers() {
    let text = "x: u8[N, 3]\nsix = f32[] 6\nf = DequantizeLinear(x, s, z)\nc = Add(f, f)\nl = Clip(c, _, six)\nr = Relu(l)\ny = QuantizeLinear(r, s, z)\n-> y";
    let mut graph = graph_of(&format!("{CONSTANTS}\n{text}"));
    to_integers(&mut graph).unwrap();
    graph.tidy().unwrap();
    let clip = graph.nodes().iter().find(|n| n.is("Clip")).unwrap();
    let bound = |i| integers(graph.constant(clip.input(i).unwrap()).unwrap()).unwrap();
    // 128 is 0.0 and 140 is 6.0.
    assert_eq!((bound(1), bound(2)), (vec![128], vec![140]));
    assert_eq!(graph.nodes().len(), 2);
}

#[test]
fn a_table_has_what_the_float_model_would_compute() {
    let text = "x: i8[N, 3]\nq = f32[] 0.1\nnone = i8[] -3\nf = DequantizeLinear(x, q, none)\nc = Tanh(f)\ny = QuantizeLinear(c, q, none)\n-> y";
    let mut graph = graph_of(text);
    assert_eq!(to_integers(&mut graph).unwrap(), 1);
    graph.tidy().unwrap();
    let table = graph.nodes()[0].input(1).unwrap();
    let table = graph.constant(table).unwrap().as_slice::<i8>().unwrap();
    for (i, entry) in table.iter().enumerate() {
        let x = (i as f32 - 128.0 + 3.0) * 0.1f32;
        let expected = (f64::from(x).tanh() as f32 / 0.1f32).round_ties_even() - 3.0;
        assert_eq!(f32::from(*entry), expected, "entry {i}");
    }
}

#[test]
fn what_is_no_group_stays_as_it_is() {
    let rows = "x: u8[N, 3]\nf = DequantizeLinear(x, s, z)";
    let cases = [
        // Somebody else reads the float; the model's output is a float.
        format!(
            "{rows}\no: u8[N, 3]\ng = DequantizeLinear(o, s, z)\nc = Add(f, g)\ny = QuantizeLinear(c, t, z)\nd = Neg(c)\n-> y, d"
        ),
        format!("{rows}\ny = Sigmoid(f)\n-> y"),
        // Two tensors, of which one is a float.
        format!("{rows}\ng: f32[N, 3]\nc = Add(f, g)\ny = QuantizeLinear(c, t, z)\n-> y"),
        // Scales that run along another axis than the channels.
        format!(
            "{rows}\nm: u8[N, 2]\nw = DequantizeLinear<axis=0>(m, ws, _)\ny = QuantizeLinear(w, t, z)\n-> y"
        ),
        // A bias whose scale is not the product.
        "x: u8[N, 3, 4, 4]\nf = DequantizeLinear(x, s, z)\nw = DequantizeLinear<axis=0>(w8, ws, wz)\nb = DequantizeLinear<axis=0>(b32, ws, bz)\nc = Conv(f, w, b)\ny = QuantizeLinear(c, t, z)\n-> y".to_owned(),
        // Sums of integers along an axis are no function of one element.
        format!("{rows}\none = i64[1] 1\nc = ReduceSum(f, one)\ny = QuantizeLinear(c, t, z)\n-> y"),
    ];
    for text in cases {
        assert_eq!(after(&text).0, 0, "{text}");
    }
}

#[test]
fn parts_of_a_split_are_moved_once() {
    let text = "x: u8[N, 4]\nf = DequantizeLinear(x, s, z)\na, b = Split<num_outputs=2, axis=1>(f)
        y = QuantizeLinear(a, s, z)\nv = QuantizeLinear(b, t, z)\n-> y, v";
    let (count, nodes) = after(text);
    assert_eq!(count, 2);
    assert_eq!(nodes.iter().filter(|n| n.contains("Split")).count(), 1, "{nodes:?}");
    assert_eq!(nodes.iter().filter(|n| n.contains("Table")).count(), 1, "{nodes:?}");
}

#[test]
fn products_go_on_as_floats_where_nobody_requantises_them() {
    let image = "x: u8[N, 3, 4, 4]\nf = DequantizeLinear(x, s, z)\nw = DequantizeLinear<axis=0>(w8, ws, wz)";
    let rows = "x: u8[N, 3]\nf = DequantizeLinear(x, s, z)\nw = DequantizeLinear<axis=1>(m8, ws, wz)";
    let whole = "b = DequantizeLinear<axis=0>(b32, bs, bz)";
    let cases = [
        (
            format!("{image}\n{whole}\nc = Conv<strides=[2 2]>(f, w, b)\ny = QuantizeLinear(c, t, z)"),
            vec![
                "y = QLinearConv<strides=[2, 2]>(x, [0.5], u8[], i8[2, 3, 1, 1], [0.5, 0.25], i8[2], [0.25], u8[], i32[2])",
            ],
        ),
        (
            format!("{image}\n{whole}\nc = Conv(f, w, b)\ny = Sigmoid(c)"),
            vec![
                "c/sum = ConvInteger(x, i8[2, 3, 1, 1], u8[], _)",
                "c/biased = Add(c/sum, i32[2, 1, 1])",
                "c/float = Cast<to=1>(c/biased)",
                "c = Mul(c/float, [0.25, 0.125])",
                "y = Sigmoid(c)",
            ],
        ),
        // A bias in floats is no integer of the sums' scale, and 16 bits have no operator elsewhere.
        (
            format!("{image}\nb = f32[2] 1 2\no = u16[] 7\nc = Conv(f, w, b)\ny = QuantizeLinear(c, t, o)"),
            vec![
                "c/sum = ConvInteger(x, i8[2, 3, 1, 1], u8[], _)",
                "c/float = Cast<to=1>(c/sum)",
                "c/scaled = Mul(c/float, [0.25, 0.125])",
                "c = Add(c/scaled, [1.0, 2.0])",
                "y = QuantizeLinear(c, [0.25], u16[])",
            ],
        ),
        (
            format!("{rows}\nc = MatMul(f, w)\ny = Gelu(c)"),
            vec![
                "c/sum = MatMulInteger(x, i8[3, 2], u8[], _)",
                "c/float = Cast<to=1>(c/sum)",
                "c = Mul(c/float, [0.25, 0.125])",
                "y = Gelu(c)",
            ],
        ),
        (
            format!("{rows}\n{whole}\ny = Gemm(f, w, b)"),
            vec!["y = com.microsoft.QGemm<transB=0>(x, [0.5], u8[], i8[3, 2], [0.5, 0.25], i8[2], i32[2])"],
        ),
        // What else there is stays floats, and what only moves quantised values moves integers.
        (
            format!("{rows}\nc = Sub(f, f)\ny = QuantizeLinear(c, t, z)"),
            vec![
                "f = DequantizeLinear(x, [0.5], u8[])",
                "c = Sub(f, f)",
                "y = QuantizeLinear(c, [0.25], u8[])",
            ],
        ),
        (
            format!("{rows}\nc = Add(f, f)\ny = QuantizeLinear(c, t, z)"),
            vec!["y = com.microsoft.QLinearAdd(x, [0.5], u8[], x, [0.5], u8[], [0.25], u8[])"],
        ),
        (format!("{rows}\nc = Flatten(f)\ny = QuantizeLinear(c, s, z)"), vec!["y = Flatten(x)"]),
        (
            format!("{rows}\nd = f32[3] 1 2 3\ng = DequantizeLinear<axis=0>(m8, d, _)\ny = MatMul(f, g)"),
            vec![
                "f = DequantizeLinear(x, [0.5], u8[])",
                "g = DequantizeLinear<axis=0>(i8[3, 2], [1.0, 2.0, 3.0], _)",
                "y = MatMul(f, g)",
            ],
        ),
        (
            format!("{rows}\n{whole}\ny = Gemm<alpha=0.5>(f, w, b)"),
            vec![
                "f = DequantizeLinear(x, [0.5], u8[])",
                "w = DequantizeLinear<axis=1>(i8[3, 2], [0.5, 0.25], i8[2])",
                "b = DequantizeLinear<axis=0>(i32[2], [0.25, 0.125], i32[2])",
                "y = Gemm<alpha=0.5>(f, w, b)",
            ],
        ),
    ];
    for (text, expected) in cases {
        let (_, nodes) = after_of(to_integer_products, &format!("{text}\n-> y"));
        assert_eq!(nodes, expected, "{text}");
    }
}
