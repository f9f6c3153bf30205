//! The FPGA backend: OpenCL through opencl3.
