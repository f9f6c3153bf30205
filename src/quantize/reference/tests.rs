use super::*;
use crate::graph::rewrite::to_integers;
use crate::graph::testing::graph_of;

#[test]
fn a_graph_is_computed_operator_by_operator() {
    let mut graph = graph_of(
        "x: f32[2, 3]
         s = f32[] 0.5
         z = u8[] 10
         q = QuantizeLinear(x, s, z)
         f = DequantizeLinear(q, s, z)
         t = Transpose<perm=[1 0]>(f)
         r = Relu(t)
         u = QuantizeLinear(r, s, z)
         y = DequantizeLinear(u, s, z)
         -> y",
    );
    assert!(to_integers(&mut graph).unwrap() > 0);
    graph.tidy().unwrap();
    let x = Tensor::from_slice(&[2, 3], &[-1f32, 0.3, 0.5, 100.0, 1000.0, 2.2]).unwrap();
    let values = run(&graph, &[x]).unwrap();
    let y = values[graph.outputs()[0].index()].as_ref().unwrap();
    assert_eq!(
        (y.shape(), y.as_slice::<f32>().unwrap()),
        (&[3, 2][..], &[0.0, 100.0, 0.5, 122.5, 0.5, 2.0][..])
    );
    assert!(run(&graph, &[]).unwrap_err().to_string().contains("0 tensors for 1 inputs"));
}

#[test]
fn what_has_no_integer_form_is_named() {
    let graph = graph_of("x: f32[2]\ny = Sqrt(x)\n-> y");
    let x = Tensor::from_slice(&[2], &[1f32, 4.0]).unwrap();
    assert!(run(&graph, &[x]).unwrap_err().to_string().contains("no 'Sqrt'"));
}
