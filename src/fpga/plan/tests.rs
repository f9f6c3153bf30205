use super::*;
use crate::graph::rewrite::{remove_identities, to_integers};
use crate::graph::testing::graph_of;

const CONSTANTS: &str = "s = f32[] 0.5\nt = f32[] 0.25\nz = u8[] 128";

fn planned(text: &str) -> Result<Plan> {
    let mut graph = graph_of(&format!("{CONSTANTS}\n{text}"));
    to_integers(&mut graph).unwrap();
    graph.tidy().unwrap();
    remove_identities(&mut graph).unwrap();
    graph.tidy().unwrap();
    plan(&graph, Tile::default(), false)
}

fn kernels(plan: &Plan) -> Vec<Kernel> {
    plan.launches.iter().map(|l| l.kernel).collect()
}

#[test]
fn quantising_and_dequantising_at_the_edges_is_staging() {
    let plan = planned(
        "x: f32[2, 3]\nq = QuantizeLinear(x, s, z)\nf = DequantizeLinear(q, s, z)\nr = Sigmoid(f)\nu = QuantizeLinear(r, t, z)\ny = DequantizeLinear(u, t, z)\n-> y",
    )
    .unwrap();
    assert_eq!(kernels(&plan), [Kernel::Move]);
    assert!(matches!(plan.inputs[0].staging, Staging::Quantize(p) if p.scale() == 0.5));
    assert!(matches!(plan.outputs[0].staging, Staging::Dequantize(p) if p.scale() == 0.25));
    assert!(plan.arena_bytes >= 2 * 64 + SLACK_BYTES);
}

#[test]
fn moves_that_strides_can_say_launch_nothing() {
    let plan = planned(
        "x: u8[2, 3, 4]
         f = DequantizeLinear(x, s, z)
         a = Transpose<perm=[0 2 1]>(f)
         qa = QuantizeLinear(a, s, z)
         fa = DequantizeLinear(qa, s, z)
         one = i64[1] 1
         two = i64[1] 3
         c = Slice(fa, one, two, one)
         qc = QuantizeLinear(c, s, z)
         y = DequantizeLinear(qc, s, z)
         -> y",
    )
    .unwrap();
    assert_eq!(kernels(&plan), []);
    assert_eq!(
        (plan.outputs[0].shape.clone(), plan.outputs[0].strides.clone()),
        (vec![2, 2, 3], vec![12, 1, 4])
    );
    assert_eq!(plan.outputs[0].offset - plan.inputs[0].offset, 1);
}

#[test]
fn an_addition_behind_a_product_is_done_with_it() {
    let text = |end: &str| {
        format!(
            "x: u8[2, 3]
             w = i8[3, 3] 1
             n = i8[] 0
             f = DequantizeLinear(x, s, z)
             v = DequantizeLinear(w, s, n)
             m = MatMul(f, v)
             q = QuantizeLinear(m, t, z)
             d = DequantizeLinear(q, t, z)
             {end}"
        )
    };
    let rows = [
        (
            "r = Add(f, d)\ny = QuantizeLinear(r, s, z)\n-> y",
            &[Kernel::Matrix][..],
            "the other operand is there",
        ),
        (
            "r = Add(d, d)\ny = QuantizeLinear(r, s, z)\n-> y",
            &[Kernel::Matrix, Kernel::Elementwise],
            "there is no other operand",
        ),
        (
            "r = Add(f, d)\ny = QuantizeLinear(r, s, z)\n-> y, q",
            &[Kernel::Matrix, Kernel::Elementwise],
            "callers get the product, too",
        ),
        (
            "b: u8[3]\ng = DequantizeLinear(b, s, z)\nr = Add(g, d)\ny = QuantizeLinear(r, s, z)\n-> y",
            &[Kernel::Matrix, Kernel::Elementwise],
            "the other operand repeats",
        ),
    ];
    for (end, expected, why) in rows {
        let plan = planned(&text(end)).unwrap();
        assert_eq!(kernels(&plan), expected, "{why}");
    }
}

#[test]
fn what_the_engine_does_not_take_is_named_with_the_reason() {
    let rows = [
        ("x: f32[2, 3]\ny = Relu(x)\n-> y", "Relu that makes 'y'", "no kernel"),
        (
            "x: f32[2, 3]\nh = Relu(x)\nq = QuantizeLinear(h, s, z)\ny = DequantizeLinear(q, s, z)\n-> y",
            "Relu",
            "no kernel",
        ),
        (
            "x: u8[2, 3]\nf = DequantizeLinear(x, s, z)\ny = Neg(f)\n-> y",
            "DequantizeLinear",
            "floats are computed with after it",
        ),
        (
            "x: f32[N, 3]\nq = QuantizeLinear(x, s, z)\ny = DequantizeLinear(q, s, z)\n-> y",
            "QuantizeLinear",
            "a length is not known",
        ),
    ];
    for (text, node, reason) in rows {
        let error = planned(text).unwrap_err().to_string();
        assert!(error.contains(node) && error.contains(reason), "{error}");
    }
}

#[test]
fn a_refusal_is_about_its_own_nodes() {
    let mut graph = graph_of(&format!(
        "{CONSTANTS}
         x: u8[2, 3]
         f = DequantizeLinear(x, s, z)
         c = Softmax<axis=0>(f)
         q = QuantizeLinear(c, t, z)
         d = DequantizeLinear(q, t, z)
         e = Sigmoid(d)
         y = QuantizeLinear(e, t, z)
         -> y"
    ));
    to_integers(&mut graph).unwrap();
    graph.tidy().unwrap();
    let refused = refusals(&graph).unwrap();
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert_eq!(graph.node(refused[0].place).unwrap().origins, [1, 2], "the softmax and its QuantizeLinear");
    assert!(!refused[0].is_misplaced);
    assert!(refused[0].error.to_string().contains("along axis 0"), "{}", refused[0].error);
}
