//! The names of operators that are a linear layer and what is done to its result.
//!
//! `Conv`, `Gemm` and `MatMul` write a tensor that the next nodes read only to add a bias, to add a residual, or to apply an activation. A device does
//! that while it still holds the result. The operator's name is the chain: `triscore.ConvAddRelu` is `Relu(Conv(…) + residual)`,
//! `triscore.MatMulBiasGelu` is `Gelu(MatMul(…) + bias)`; its inputs are the layer's, then the bias, then the residual; its attributes are the layer's
//! and the activation's. As with every operator of ours there is an ONNX function that says so
//! ([`functions`](super::functions)), made from the name.

/// The layers that take one.
pub(super) const LAYERS: [&str; 3] = ["Conv", "Gemm", "MatMul"];

/// Activations of one element. `Silu` is `x · sigmoid(x)`.
pub(super) const ACTIVATIONS: [&str; 8] =
    ["Relu", "LeakyRelu", "Sigmoid", "Tanh", "Gelu", "HardSwish", "HardSigmoid", "Silu"];

/// What a fused operator's name says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Epilogue {
    /// `Conv`, `Gemm` or `MatMul`.
    pub layer: &'static str,
    /// Whether a bias, one number a column, is added (`MatMul` alone; the others have one as an input).
    pub bias: bool,
    /// Whether a tensor of the result's shape is added.
    pub residual: bool,
    /// The activation at the end.
    pub activation: Option<&'static str>,
}

impl Epilogue {
    /// What that operator of our domain does; `None` where it is no fused layer.
    pub fn named(name: &str) -> Option<Self> {
        let layer = LAYERS.into_iter().find(|l| name.starts_with(l))?;
        let rest = name.strip_prefix(layer)?;
        let (bias, rest) = rest.strip_prefix("Bias").map_or((false, rest), |rest| (true, rest));
        let (residual, rest) = rest.strip_prefix("Add").map_or((false, rest), |rest| (true, rest));
        let activation = ACTIVATIONS.into_iter().find(|a| *a == rest);
        let is_known = rest.is_empty() || activation.is_some();
        let does = bias || residual || activation.is_some();
        (is_known && does).then_some(Self { layer, bias, residual, activation })
    }

    /// The operator's name.
    pub fn name(&self) -> String {
        let bias = if self.bias { "Bias" } else { "" };
        let residual = if self.residual { "Add" } else { "" };
        format!("{}{bias}{residual}{}", self.layer, self.activation.unwrap_or(""))
    }

    /// How many inputs the layer itself has, those that are left out counted.
    pub fn layer_inputs(&self) -> usize {
        if self.layer == "MatMul" { 2 } else { 3 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_is_done() {
        for layer in LAYERS {
            for activation in ACTIVATIONS.into_iter().map(Some).chain([None]) {
                for (bias, residual) in [(false, false), (true, false), (false, true), (true, true)] {
                    let epilogue = Epilogue { layer, bias, residual, activation };
                    let does = bias || residual || activation.is_some();
                    assert_eq!(Epilogue::named(&epilogue.name()), does.then_some(epilogue));
                }
            }
        }
        assert_eq!(Epilogue::named("ConvSelu"), None);
        assert_eq!(Epilogue::named("ConvTranspose"), None);
    }
}
