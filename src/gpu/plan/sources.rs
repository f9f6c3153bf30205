//! A kernel's source: the families that it needs, and what is generated for it between them.

/// The kernels' files, built in; `TRISCORE_CUDA_KERNELS` names a folder whose files are read instead, for those who work on them.
macro_rules! families {
    ($($name:literal),* $(,)?) => {
        const FAMILIES: &[(&str, &str)] = &[$(($name, include_str!(concat!("../../../kernels/cuda/", $name, ".cu")))),*];
    };
}

families!(
    "ahead",
    "arg",
    "attention",
    "attention_row",
    "attention_scores",
    "attention_tensor",
    "block",
    "common",
    "conv",
    "conv_direct",
    "conv_float",
    "conv_tensor",
    "conv_tiles",
    "conv_wgmma",
    "cumulate",
    "float_tiles",
    "fours",
    "gather",
    "gemm",
    "gemm_float",
    "gemm_tensor",
    "gemm_wgmma",
    "hopper",
    "map",
    "normalise",
    "normalise_held",
    "parts",
    "picked",
    "pointwise",
    "pool",
    "reduce",
    "resize",
    "scatter",
    "scatter_joined",
    "tensor_core",
    "tensor_tiles",
    "tiles",
    "top",
    "wgmma_tiles",
    "window"
);

/// The environment variable that names another folder of kernels.
pub(in super::super) const KERNELS_VARIABLE: &str = "TRISCORE_CUDA_KERNELS";

/// A source and which of its kernels is meant.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Source {
    /// The file that the kernel is in.
    pub(super) family: &'static str,
    pub(super) kernel: &'static str,
    /// Files that come before what is generated, besides those that all have.
    pub(super) needs: &'static [&'static str],
    /// Definitions and functions that the family wants.
    pub(super) generated: String,
}

impl Source {
    pub(super) fn new(family: &'static str, kernel: &'static str, needs: &'static [&'static str]) -> Self {
        Self { family, kernel, needs, generated: String::new() }
    }

    /// With a definition that the family reads.
    #[must_use]
    pub(super) fn define(mut self, name: &str, value: impl std::fmt::Display) -> Self {
        self.generated.push_str(&format!("#define {name} {value}\n"));
        self
    }

    /// What its text is made of: the kernels of equal parts are in one text.
    pub(super) fn parts(&self) -> (&'static str, &'static [&'static str], &str) {
        (self.family, self.needs, &self.generated)
    }

    /// The whole text, for a compiler.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        for name in ["common", "pointwise"].iter().chain(self.needs) {
            text.push_str(&file(name));
        }
        text.push_str(&self.generated);
        text.push_str(&file(self.family));
        text
    }
}

fn file(name: &str) -> std::borrow::Cow<'static, str> {
    if let Some(folder) = std::env::var_os(KERNELS_VARIABLE).filter(|f| !f.is_empty()) {
        let path = std::path::Path::new(&folder).join(format!("{name}.cu"));
        match std::fs::read_to_string(&path) {
            Ok(text) => return text.into(),
            Err(e) => tracing::warn!("{} cannot be read, the built-in file is used: {e}", path.display()),
        }
    }
    FAMILIES.iter().find(|(n, _)| *n == name).map_or("", |(_, text)| text).into()
}
