//! Whether this processor can hold anybody to ONNX Runtime's integers.

/// Why ONNX Runtime on this processor is no oracle; nothing if it is.
pub(crate) fn no_oracle() -> Option<&'static str> {
    #[cfg(target_arch = "x86_64")]
    {
        let why =
            "ONNX Runtime is no oracle on a processor without FMA: it rounds between multiplying and adding";
        (!is_x86_feature_detected!("fma")).then_some(why)
    }
    #[cfg(not(target_arch = "x86_64"))]
    Some("ONNX Runtime is an oracle on x86-64 alone: on other processors its kernels round otherwise")
}
