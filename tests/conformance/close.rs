//! Whether a tensor is what was expected, as `numpy.allclose` has it for floats; the rest must be equal.

use triscore::{DType, F8E4M3, F8E5M2, Tensor};

const RELATIVE: f64 = 1e-3;
const ABSOLUTE: f64 = 1e-7;

/// What is wrong with it, if anything is.
pub(super) fn difference(got: &Tensor, expected: &Tensor) -> Option<String> {
    if (got.dtype(), got.shape()) != (expected.dtype(), expected.shape()) {
        return Some(format!("it is {got:?}, expected {expected:?}"));
    }
    if !got.dtype().is_float() {
        return (got != expected).then(|| format!("its elements differ from those of {expected:?}"));
    }
    let (got, expected) = (floats(got), floats(expected));
    let wrong = || got.iter().zip(&expected).enumerate().filter(|(_, (g, e))| !is_close(**g, **e));
    let (place, (first, wanted)) = wrong().next()?;
    let (count, total) = (wrong().count(), got.len());
    Some(format!("{count} of {total} elements differ: [{place}] is {first}, expected {wanted}"))
}

/// Not a number is close to itself, and to nothing else.
fn is_close(got: f64, expected: f64) -> bool {
    if got.is_nan() || expected.is_nan() || got.is_infinite() || expected.is_infinite() {
        return got == expected || got.is_nan() && expected.is_nan();
    }
    (got - expected).abs() <= ABSOLUTE + RELATIVE * expected.abs()
}

fn floats(tensor: &Tensor) -> Vec<f64> {
    match tensor.dtype() {
        DType::F32 => tensor.as_slice::<f32>().unwrap().iter().map(|v| f64::from(*v)).collect(),
        DType::F64 => tensor.as_slice::<f64>().unwrap().to_vec(),
        DType::F16 => tensor.as_slice::<half::f16>().unwrap().iter().map(|v| v.to_f64()).collect(),
        DType::F8E4M3 => tensor.as_slice::<F8E4M3>().unwrap().iter().map(|v| v.to_f32().into()).collect(),
        DType::F8E5M2 => tensor.as_slice::<F8E5M2>().unwrap().iter().map(|v| v.to_f32().into()).collect(),
        _ => tensor.as_slice::<half::bf16>().unwrap().iter().map(|v| v.to_f64()).collect(),
    }
}

#[test]
fn numbers_are_close_as_numpy_has_it() {
    const INF: f64 = f64::INFINITY;
    let table = [
        (1.0, 1.0009, true),
        (1.0, 1.0012, false),
        (-1.0, 1.0, false),
        (9e-8, 0.0, true),
        (0.0, 9e-8, true),
        (2e-7, 0.0, false),
        (INF, INF, true),
        (INF, -INF, false),
        (1.0, INF, false),
        (INF, 1.0, false),
        (f64::NAN, f64::NAN, true),
        (f64::NAN, 1.0, false),
        (1.0, f64::NAN, false),
    ];
    for (got, expected, close) in table {
        assert_eq!(is_close(got, expected), close, "{got} {expected}");
    }
}

#[test]
fn what_differs_is_said() {
    let floats = |v: &[f32]| Tensor::from_slice(&[v.len()], v).unwrap();
    let integers = |v: &[i64]| Tensor::from_slice(&[v.len()], v).unwrap();
    assert_eq!(difference(&floats(&[1., 2.]), &floats(&[1., 2.])), None);
    assert_eq!(difference(&integers(&[1, 2]), &integers(&[1, 2])), None);
    let said = difference(&floats(&[1., 2., 3.]), &floats(&[1., 4., 5.])).unwrap();
    assert!(said.contains("2 of 3 elements differ: [1] is 2, expected 4"), "{said}");
    let said = difference(&floats(&[1.]), &integers(&[1])).unwrap();
    assert!(said.contains("Tensor(f32[1]), expected Tensor(i64[1])"), "{said}");
    assert!(difference(&integers(&[1]), &integers(&[2])).is_some());
    assert!(difference(&floats(&[1.]), &floats(&[1.]).reshape(&[1, 1]).unwrap()).is_some());
}
