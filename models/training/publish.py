"""Writing what is committed beside a model: the file itself, held-out data, a request to try, and measured figures."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from models.training.fit import predict
from models.training.graph import GraphBuilder, tensor
from models.training.layers import Array, Layer

# float32 sums in another order differ in the last bits; more than this means that the export is wrong.
MAX_DIFFERENCE = 1e-4


def session(path: Path) -> onnxruntime.InferenceSession:
    """Opens a model in ONNX Runtime on one CPU thread, so that checking stays modest and repeatable."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def write_json(path: Path, value: object, *, indent: int | None = 2) -> None:
    """Writes JSON with a final newline."""
    path.write_text(json.dumps(value, indent=indent, ensure_ascii=False) + "\n", encoding="utf-8")


def write_examples(path: Path, examples: Mapping[str, object]) -> None:
    """Writes examples by model name, one a line: they are read by tests, and by people one at a time."""
    lines = (f"  {json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}" for name, value in examples.items())
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def file_facts(path: Path) -> dict[str, object]:
    """Size and checksum of a model file."""
    content = path.read_bytes()
    return {"file": path.name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def publish_classifier(
    folder: Path,
    name: str,
    net: Layer,
    x: Array,
    y: NDArray[np.int64],
    *,
    training: dict[str, object],
) -> None:
    """Exports a trained classifier, checks the file against numpy on the held-out set, and writes its companions.

    `heldout.npz` carries `x`, `y` and numpy's `logits`: an oracle that owes nothing to any ONNX engine.
    """
    graph = GraphBuilder()
    graph.rename_output(net.export(graph, "x"), "logits")
    path = folder / "model.onnx"
    graph.save(path, name, [tensor("x", ["batch", *x.shape[1:]])], [tensor("logits", ["batch", 10])])

    expected = predict(net, x)
    (logits,) = session(path).run(["logits"], {"x": x})
    difference = float(np.abs(logits - expected).max())
    if difference > MAX_DIFFERENCE:
        sys.exit(f"{path}: ONNX Runtime and numpy differ by {difference:g}, more than {MAX_DIFFERENCE:g}")
    accuracy = float((logits.argmax(axis=1) == y).mean())

    np.savez(folder / "heldout.npz", x=x, y=y, logits=expected)
    write_json(folder / "request.json", {"x": x[:1].tolist()}, indent=None)
    write_json(
        folder / "metrics.json",
        {
            "model": name,
            **file_facts(path),
            "parameters": sum(v.size for layer in net.trainable() for v in layer.parameters.values()),
            "data": "UCI Optical Recognition of Handwritten Digits (scikit-learn's copy), CC BY 4.0",
            "training": training,
            "held_out": {"samples": len(y), "correct": int((logits.argmax(axis=1) == y).sum()), "accuracy": accuracy},
            "onnxruntime_vs_numpy_max_abs_difference": difference,
            "first_held_out_label": int(y[0]),
        },
    )
    print(
        f"{name}: {path.stat().st_size} bytes, held-out accuracy {accuracy:.4f} ({len(y)} digits), "
        f"ONNX Runtime vs numpy {difference:.1e}"
    )
