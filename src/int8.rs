//! The arithmetic of quantised operators, to the bit: the definition that every device is held to.
//!
//! An integer `q` stands for the number `(q - zero_point) · scale`. What an operator on integers *should* give follows from that
//! only up to rounding, and implementations differ in when they round, so a model answers differently on every machine. Here
//! each operator is written once, as plain Rust without a trick, in exactly the order of roundings that ONNX Runtime uses on an
//! x86 processor with FMA. Kernels for devices are fast and hard to read; they are right when they equal these functions
//! in every bit.
//!
//! - Sums of products are exact ([`Accumulators`], 64 bits here; devices are held to 32 by [`accumulator_bound`]).
//! - A result is rounded once, half to even, and saturates ([`Rescale`]).
//! - Functions of one element are tables.
//! - Where a formula is our own (layer normalisation, 16-bit activations, the parts of ONNX Runtime that are floats), its function
//!   says so.
//!
//! ```
//! use triscore::int8::{QParams, QType};
//!
//! let half_steps = QParams::new(0.5, 128, QType::U8)?;
//! assert_eq!(half_steps.quantize(1.25), 130); // 2.5 rounds to 2, the even one
//! assert_eq!(half_steps.dequantize(130), 1.0);
//! assert_eq!(half_steps.quantize(1e9), 255);
//! # Ok::<(), triscore::ScoreError>(())
//! ```

mod conv;
mod dynamic;
mod elementwise;
mod ints;
mod layer_norm;
mod matmul;
mod params;
mod pool;
mod rescale;
mod softmax;

pub use conv::{ConvShape, conv, conv_integer};
pub use dynamic::dynamic_quantize;
pub use elementwise::{AddFactors, add, concat, lookup, mul, mul_factor, requantize_table};
pub use ints::{Accumulators, Ints};
pub use layer_norm::{LayerNorm, layer_norm};
pub use matmul::{gemm_to_f32, matmul, matmul_integer};
pub use params::{QParams, QType, WeightParams};
pub use pool::{Pool, average_pool, global_average_pool, max_pool};
pub use rescale::{Rescale, accumulator_bound, integer_rescale};
pub use softmax::{SoftmaxTable, softmax};
