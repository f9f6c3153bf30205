//! The GPU backend: CUDA through cudarc.
