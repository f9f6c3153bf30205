//! The CPU backend: ONNX Runtime sessions, and rayon to split a batch over them.
