//! Inputs that are made up: the same for the same seed.

use triscore::{DType, Dim, Port, Tensor};

/// Inputs of that many rows for a signature whose only free dimension is the batch: floats in 0..1, different for every seed, and ones for whole numbers, which are
/// token ids, types and a mask that hides nothing.
pub(crate) fn rows(ports: &[Port], rows: usize, seed: u64) -> Vec<Tensor> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u32 << 24) as f32
    };
    let tensor = |port: &Port| {
        let dims = port.dims().unwrap().iter();
        let shape = dims.map(|d| if let Dim::Fixed(n) = d { *n } else { rows }).collect::<Vec<_>>();
        let count = shape.iter().product::<usize>();
        match port.dtype() {
            Some(DType::F32) => {
                Tensor::from_slice(&shape, &(0..count).map(|_| next()).collect::<Vec<_>>()).unwrap()
            }
            Some(DType::I64) => Tensor::from_slice(&shape, &vec![1i64; count]).unwrap(),
            other => panic!("{}: nothing is made up for {other:?}", port.name),
        }
    };
    ports.iter().map(tensor).collect()
}
