//! ONNX's pointwise operators, and what kernels call them (kernels/cuda/pointwise.cu).

use super::program::Register;
use crate::error::{Result, ScoreError};
use crate::graph::Attributes;

/// What an operator of one tensor is: a function, and numbers that it takes besides.
pub(super) struct Call {
    pub(super) function: &'static str,
    pub(super) numbers: Vec<f64>,
    pub(super) types: Types,
}

/// Which types an operator takes and gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Types {
    /// Any number, and gives the same.
    Same,
    /// Floats, and gives the same.
    Floats,
    /// Truth values.
    Truth,
    /// Any number, and gives a truth value.
    Test,
}

impl Types {
    /// Whether elements of that type are taken.
    ///
    /// # Errors
    /// `Unsupported` where they are not.
    pub(super) fn check(self, register: Register) -> Result<()> {
        let is_taken = match self {
            Self::Same => register != Register::Bool,
            Self::Floats => register.is_float(),
            Self::Truth => register == Register::Bool,
            Self::Test => true,
        };
        match is_taken {
            true => Ok(()),
            false => Err(ScoreError::unsupported(format!("no kernel does this to {}", register.name()))),
        }
    }
}

/// An operator of one tensor; `None` for another one.
pub(super) fn of_one(name: &str, attributes: &Attributes) -> Option<Call> {
    use Types::{Floats, Same, Test, Truth};
    let float = |name: &str, default: f32| f64::from(attributes.float(name).unwrap_or(default));
    let flag = |name: &str| attributes.int(name).map_or(1.0, |v| if v == 0 { 0.0 } else { 1.0 });
    let (function, types, numbers) = match name {
        "Abs" => ("absolute", Same, vec![]),
        "Neg" => ("negative", Same, vec![]),
        "Sign" => ("sign", Same, vec![]),
        "Relu" => ("relu", Same, vec![]),
        "BitwiseNot" => ("bitwise_not", Same, vec![]),
        "Not" => ("logical_not", Truth, vec![]),
        "IsNaN" => ("is_nan", Test, vec![]),
        "IsInf" => ("is_infinite", Test, vec![flag("detect_negative"), flag("detect_positive")]),
        "Acos" => ("arc_cosine", Floats, vec![]),
        "Acosh" => ("arc_hyperbolic_cosine", Floats, vec![]),
        "Asin" => ("arc_sine", Floats, vec![]),
        "Asinh" => ("arc_hyperbolic_sine", Floats, vec![]),
        "Atan" => ("arc_tangent", Floats, vec![]),
        "Atanh" => ("arc_hyperbolic_tangent", Floats, vec![]),
        "Ceil" => ("ceil_of", Floats, vec![]),
        "Cos" => ("cosine", Floats, vec![]),
        "Cosh" => ("hyperbolic_cosine", Floats, vec![]),
        "Erf" => ("error_function", Floats, vec![]),
        "Exp" => ("exponential", Floats, vec![]),
        "Floor" => ("floor_of", Floats, vec![]),
        "Gelu" if attributes.text("approximate") == Some("tanh") => ("gelu_tanh", Floats, vec![]),
        "Gelu" => ("gelu", Floats, vec![]),
        "HardSwish" => ("hard_swish", Floats, vec![]),
        "Log" => ("logarithm", Floats, vec![]),
        "Mish" => ("mish", Floats, vec![]),
        "Reciprocal" => ("reciprocal", Floats, vec![]),
        "Round" => ("to_even", Floats, vec![]),
        "Sigmoid" => ("sigmoid", Floats, vec![]),
        "Sin" => ("sine", Floats, vec![]),
        "Sinh" => ("hyperbolic_sine", Floats, vec![]),
        "Softplus" => ("softplus", Floats, vec![]),
        "Softsign" => ("softsign", Floats, vec![]),
        "Sqrt" => ("square_root", Floats, vec![]),
        "Tan" => ("tangent", Floats, vec![]),
        "Tanh" => ("hyperbolic_tangent", Floats, vec![]),
        "Celu" => ("celu", Floats, vec![float("alpha", 1.0)]),
        "Elu" => ("elu", Floats, vec![float("alpha", 1.0)]),
        "HardSigmoid" => ("hard_sigmoid", Floats, vec![float("alpha", 0.2), float("beta", 0.5)]),
        "LeakyRelu" => ("leaky_relu", Floats, vec![float("alpha", 0.01)]),
        "Selu" => ("selu", Floats, vec![float("alpha", 1.673_263_2), float("gamma", 1.050_701)]),
        "Shrink" => ("shrink", Floats, vec![float("bias", 0.0), float("lambd", 0.5)]),
        "Swish" => ("swish", Floats, vec![float("alpha", 1.0)]),
        "ThresholdedRelu" => ("thresholded_relu", Floats, vec![float("alpha", 1.0)]),
        _ => return None,
    };
    Some(Call { function, numbers, types })
}

/// An operator of two tensors; `None` for another one.
pub(super) fn of_two(name: &str, attributes: &Attributes, is_float: bool) -> Option<(&'static str, Types)> {
    use Types::{Floats, Same, Test, Truth};
    Some(match name {
        "Add" | "Sum" => ("add", Same),
        "Sub" => ("subtract", Same),
        "Mul" => ("multiply", Same),
        "Div" => ("divide", Same),
        "Pow" => ("power", Same),
        "Min" => ("smaller", Same),
        "Max" => ("larger", Same),
        "Mod" if attributes.flag("fmod") || is_float => ("c_modulo", Same),
        "Mod" => ("modulo", Same),
        "PRelu" => ("leaky_relu", Floats),
        "And" => ("logical_and", Truth),
        "Or" => ("logical_or", Truth),
        "Xor" => ("logical_xor", Truth),
        "BitwiseAnd" => ("bitwise_and", Same),
        "BitwiseOr" => ("bitwise_or", Same),
        "BitwiseXor" => ("bitwise_xor", Same),
        "BitShift" if attributes.text("direction") == Some("LEFT") => ("shift_left", Same),
        "BitShift" => ("shift_right", Same),
        "Equal" => ("equal", Test),
        "Greater" => ("greater", Test),
        "GreaterOrEqual" => ("greater_or_equal", Test),
        "Less" => ("less", Test),
        "LessOrEqual" => ("less_or_equal", Test),
        _ => return None,
    })
}
