//! What the driver's numbers are called, and what to do about them.
//!
//! The driver has the names itself (`cuGetErrorName`), unless it is too broken to be asked.

/// An error code of the driver in words: its name, and what to do.
pub(super) fn explain(code: i32, name: Option<String>) -> String {
    let (known, advice) = match code {
        2 => ("CUDA_ERROR_OUT_OF_MEMORY", "the GPU's memory is full: see nvidia-smi for who holds it"),
        3 => ("CUDA_ERROR_NOT_INITIALIZED", ""),
        34 => (
            "CUDA_ERROR_STUB_LIBRARY",
            "this is the toolkit's stub, made for linking: put the driver's own library before it",
        ),
        46 => ("CUDA_ERROR_DEVICE_UNAVAILABLE", "another process holds the GPU alone"),
        100 => (
            "CUDA_ERROR_NO_DEVICE",
            "no GPU is visible: see nvidia-smi, CUDA_VISIBLE_DEVICES and how the container was started",
        ),
        101 => ("CUDA_ERROR_INVALID_DEVICE", "see CUDA_VISIBLE_DEVICES"),
        304 => ("CUDA_ERROR_OPERATING_SYSTEM", "may this user open /dev/nvidia*?"),
        802 => ("CUDA_ERROR_SYSTEM_NOT_READY", "is nvidia-fabricmanager running?"),
        803 => (
            "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH",
            "library and kernel module differ: restart the machine after the driver's update",
        ),
        804 => (
            "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE",
            "forward compatibility is for data-centre GPUs: remove the compat folder from LD_LIBRARY_PATH",
        ),
        999 => (
            "CUDA_ERROR_UNKNOWN",
            "see nvidia-smi and the kernel's log; loading the module nvidia_uvm often helps",
        ),
        _ => ("", ""),
    };
    let name = name.unwrap_or_else(|| known.to_owned());
    let mut out = format!("error {code}");
    for (before, text) in [(" ", name.as_str()), (": ", advice)] {
        if !text.is_empty() {
            out.push_str(before);
            out.push_str(text);
        }
    }
    out
}

/// `12040` is 12.4.
pub(super) fn version(number: i32) -> String {
    format!("{}.{}", number / 1000, number % 1000 / 10)
}

/// As nvidia-smi prints it.
pub(super) fn uuid(bytes: &[u8; 16]) -> String {
    let mut out = "GPU".to_owned();
    for (i, byte) in bytes.iter().enumerate() {
        let dash = if matches!(i, 0 | 4 | 6 | 8 | 10) { "-" } else { "" };
        out.push_str(&format!("{dash}{byte:02x}"));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_become_words() {
        assert!(explain(100, None).starts_with("error 100 CUDA_ERROR_NO_DEVICE: no GPU is visible"));
        assert_eq!(explain(7, Some("CUDA_ERROR_X".into())), "error 7 CUDA_ERROR_X");
        assert_eq!(explain(-5, None), "error -5");
        assert_eq!(
            (version(13000), version(12040), version(0)),
            ("13.0".into(), "12.4".into(), "0.0".into())
        );
        let bytes = std::array::from_fn(|i| i as u8 * 17);
        assert_eq!(uuid(&bytes), "GPU-00112233-4455-6677-8899-aabbccddeeff");
    }
}
