//! Operators that only move elements: on the device most of them are views, which must be right wherever they end.

use triscore::{Backend, Call, CompileOptions, DType, Model, Tensor};

use super::model::{Builder, int, ints};
use super::{FpgaBackend, devices, expected_of_all};

/// A tensor of [2, 6, 5], moved as `make` says between its pairs; what it names is given out.
fn moved(make: impl Fn(&mut Builder, &str) -> Vec<String>) -> Model {
    let mut b = Builder::default();
    b.input("x", DType::F32, &[2, 6, 5]);
    b.constant("s", &Tensor::from_slice(&[], &[1f32]).unwrap());
    b.constant("z", &Tensor::from_slice(&[], &[3u8]).unwrap());
    let x = pair(&mut b, "x");
    for made in make(&mut b, &x) {
        let y = pair(&mut b, &made);
        b.output(&y, DType::F32);
    }
    b.build()
}

fn pair(b: &mut Builder, from: &str) -> String {
    let q = b.node("QuantizeLinear", &[from, "s", "z"], &format!("{from}_q"), vec![]);
    b.node("DequantizeLinear", &[&q, "s", "z"], &format!("{from}_f"), vec![])
}

fn list(b: &mut Builder, name: &str, values: &[i64]) -> String {
    b.constant(name, &Tensor::from_slice(&[values.len()], values).unwrap())
}

/// The axis backwards.
fn reversed(b: &mut Builder, x: &str, axis: i64) -> String {
    let (begin, end) = (list(b, &format!("b{axis}"), &[-1]), list(b, &format!("e{axis}"), &[i64::MIN + 1]));
    let (at, step) = (list(b, &format!("a{axis}"), &[axis]), list(b, &format!("n{axis}"), &[-1]));
    b.node("Slice", &[x, &begin, &end, &at, &step], &format!("r{axis}"), vec![])
}

fn split(b: &mut Builder, x: &str, lengths: &[i64]) -> Vec<String> {
    let at = list(b, "lengths", lengths);
    let names = (0..lengths.len()).map(|part| format!("part{part}")).collect::<Vec<_>>();
    b.node_of_several("Split", &[x, &at], &names, vec![int("axis", 1)]);
    names
}

#[test]
fn what_is_moved_comes_out_where_it_belongs() {
    let rows: [(&str, Model); 7] = [
        ("backwards", moved(|b, x| vec![reversed(b, x, 1)])),
        ("backwards twice", {
            moved(|b, x| {
                let r = reversed(b, x, 1);
                let r = pair(b, &r);
                vec![reversed(b, &r, 2)]
            })
        }),
        ("split", moved(|b, x| split(b, x, &[1, 2, 3]))),
        ("backwards, then split", {
            moved(|b, x| {
                let r = reversed(b, x, 1);
                let r = pair(b, &r);
                split(b, &r, &[1, 2, 3])
            })
        }),
        ("transposed, backwards", {
            moved(|b, x| {
                let t = b.node("Transpose", &[x], "t", vec![ints("perm", &[2, 1, 0])]);
                let t = pair(b, &t);
                vec![reversed(b, &t, 1)]
            })
        }),
        ("transposed", moved(|b, x| vec![b.node("Transpose", &[x], "t", vec![ints("perm", &[1, 2, 0])])])),
        ("expanded", {
            moved(|b, x| {
                let shape = list(b, "shape", &[3, 2, 6, 5]);
                vec![b.node("Expand", &[x, &shape], "w", vec![])]
            })
        }),
    ];
    let values = (0..60).map(|v| v as f32).collect::<Vec<_>>();
    let inputs = [Tensor::from_slice(&[2, 6, 5], &values).unwrap()];
    for device in devices() {
        for (what, model) in &rows {
            let one = std::slice::from_ref(&device);
            let scorer =
                FpgaBackend::new().guarded().compile(model, one, &CompileOptions::default()).unwrap();
            assert!(scorer.placement().is_all_on_device(), "{what}: {}", scorer.placement().summary());
            let scored = scorer.score(&inputs, &Call::new()).unwrap();
            for (output, right) in expected_of_all(model, &inputs).iter().enumerate() {
                let got = scored.tensor(output).unwrap();
                assert_eq!(
                    (got.shape(), got.as_bytes()),
                    (right.shape(), right.as_bytes()),
                    "{what}: {output}"
                );
            }
        }
    }
}
