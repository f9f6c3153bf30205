"""The entry script of a digits service: any ONNX model with named inputs as JSON, so `../request.json` as it is.

It does what scripts/bench/score.py does, and works in its place: the model is BENCH_MODEL where that is set, as in the
comparison of servers, else the registered model's `model.onnx`. BENCH_THREADS sets ONNX Runtime's threads.
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
    model = os.environ.get("BENCH_MODEL") or os.path.join(os.environ["AZUREML_MODEL_DIR"], "model.onnx")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    input_types = {port.name: NUMPY_TYPES[port.type] for port in session.get_inputs()}
    output_names = [port.name for port in session.get_outputs()]


def run(raw_data: str) -> dict[str, Any]:
    """Called for every request with the body's text."""
    body = json.loads(raw_data)
    feeds = {name: np.asarray(body[name], dtype=kind) for name, kind in input_types.items()}
    outputs = session.run(output_names, feeds)
    return {
        name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in zip(output_names, outputs)
    }
