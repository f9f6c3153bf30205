"""The entry script that the Azure ML inference server runs in the comparison: any ONNX model, named inputs as JSON.

It is what such a service's author would write: parse, make arrays, run, return lists. The environment names the model
(BENCH_MODEL) and, if anything other than ONNX Runtime's default is wanted, its threads (BENCH_THREADS).
"""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np
import onnxruntime

NUMPY_TYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int8)": np.int8,
    "tensor(int16)": np.int16,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(uint8)": np.uint8,
    "tensor(uint16)": np.uint16,
    "tensor(uint32)": np.uint32,
    "tensor(uint64)": np.uint64,
    "tensor(bool)": np.bool_,
    "tensor(string)": np.object_,
}


def init() -> None:
    """Called once by the server, in each of its workers."""
    global session, input_types, output_names
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(os.environ.get("BENCH_THREADS", "0"))
    session = onnxruntime.InferenceSession(os.environ["BENCH_MODEL"], options, providers=["CPUExecutionProvider"])
    input_types = {port.name: NUMPY_TYPES[port.type] for port in session.get_inputs()}
    output_names = [port.name for port in session.get_outputs()]


def run(raw_data: str) -> dict[str, Any]:
    """Called for every request with the body's text."""
    body = json.loads(raw_data)
    feeds = {name: np.asarray(body[name], dtype=kind) for name, kind in input_types.items()}
    outputs = session.run(output_names, feeds)
    return {
        name: value.tolist() if isinstance(value, np.ndarray) else value
        for name, value in zip(output_names, outputs, strict=True)
    }
