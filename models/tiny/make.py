"""Makes the tiny models that tests load: one idea each, a few hundred bytes each, answers known without any engine.

Beside the models it writes `examples.json`: for each model one request (named inputs as nested lists) and the answer to
expect, and makes sure that ONNX Runtime gives that answer.

Run from the repository root: `python -m models.tiny.make`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper

from models.training.graph import GraphBuilder, tensor
from models.training.publish import session, write_examples

FOLDER = Path(__file__).parent

INT64 = np.iinfo(np.int64)

# Two rows of three for every element type: extremes, and values that a detour over another type would spoil.
IDENTITY_ROWS: dict[str, tuple[type, list[list[Any]]]] = {
    "float": (np.float32, [[0.1, -1.5, 3.4028234663852886e38], [1e-45, 16777215.0, 2.0]]),
    "double": (np.float64, [[0.1, -1.5, 1.7976931348623157e308], [5e-324, 9007199254740991.0, 2.0]]),
    "float16": (np.float16, [[0.1, -1.5, 65504.0], [6e-08, 2047.0, 2.0]]),
    "bfloat16": (ml_dtypes.bfloat16, [[0.1, -1.5, 3.3895313892515355e38], [1e-38, 255.0, 2.0]]),
    "float8e4m3fn": (ml_dtypes.float8_e4m3fn, [[0.1015625, -1.5, 448.0], [0.001953125, 15.0, 2.0]]),
    "float8e5m2": (ml_dtypes.float8_e5m2, [[0.109375, -1.5, 57344.0], [1.52587890625e-05, 7.0, 2.0]]),
    "int8": (np.int8, [[-128, 127, 0], [-1, 1, 2]]),
    "int16": (np.int16, [[-32768, 32767, 0], [-1, 1, 2]]),
    "int32": (np.int32, [[-(2**31), 2**31 - 1, 0], [-1, 16777217, 2]]),
    "int64": (np.int64, [[INT64.min, INT64.max, 0], [-1, 2**53 + 1, 2]]),
    "uint8": (np.uint8, [[0, 255, 128], [1, 2, 3]]),
    "uint16": (np.uint16, [[0, 65535, 32768], [1, 2, 3]]),
    "uint32": (np.uint32, [[0, 2**32 - 1, 2**31], [16777217, 2, 3]]),
    "uint64": (np.uint64, [[0, 2**64 - 1, 2**63], [2**53 + 1, 2, 3]]),
    "bool": (np.bool_, [[True, False, True], [False, False, True]]),
    "string": (np.object_, [["", "digit", "zwölf"], ["数字", "line\nbreak", 'quote " and \\']]),
}

# What NumPy has no type for, and what its bits are taken as.
BITS = {"bfloat16": np.uint16, "float8e4m3fn": np.uint8, "float8e5m2": np.uint8}

Values = Mapping[str, NDArray | list[NDArray]]


@dataclass(frozen=True)
class Case:
    """A model with one request and the answer to expect."""

    name: str
    inputs: dict[str, NDArray]
    outputs: Values


def rows(*values: list[float]) -> NDArray[np.float32]:
    """A small float32 matrix."""
    return np.array(values, dtype=np.float32)


def model_path(name: str) -> Path:
    """Where the model of that name lies."""
    return FOLDER / f"{name}.onnx"


def identity(type_name: str) -> Case:
    """y = x for one element type."""
    numpy_type, values = IDENTITY_ROWS[type_name]
    x = np.array(values, dtype=numpy_type)
    element_type = TensorProto.DataType.Value(type_name.upper())
    graph = GraphBuilder()
    graph.node("Identity", ["x"], "y")
    name = f"identity_{type_name}"
    ports = [tensor(port, ["batch", 3], element_type) for port in "xy"]
    # ONNX has floats of 8 bits since operator set 19, in files of version 9.
    newer = {"opsets": {"": 19}, "ir_version": 9} if type_name.startswith("float8") else {}
    graph.save(model_path(name), name, ports[:1], ports[1:], **newer)
    return Case(name, {"x": x}, {"y": x})


def two_inputs() -> Case:
    """Two inputs and two outputs that share one batch dimension."""
    graph = GraphBuilder()
    graph.node("Add", ["a", "b"], "sum")
    graph.node("Mul", ["a", "b"], "product")
    ports = [tensor(name, ["batch", 3]) for name in ("a", "b", "sum", "product")]
    graph.save(model_path("two_inputs"), "two_inputs", ports[:2], ports[2:])
    a, b = rows([1, 2, 3], [4, 5, 6]), rows([10, 20, 30], [40, 50, 60])
    return Case("two_inputs", {"a": a, "b": b}, {"sum": a + b, "product": a * b})


def matmul_external() -> Case:
    """y = x @ weight + bias, both constants in a second file, the second one at an aligned offset."""
    weight = np.arange(12, dtype=np.float32).reshape(4, 3)
    bias = np.array([0.5, -0.5, 1], dtype=np.float32)
    data_name = "matmul_external.data"
    graph = GraphBuilder()
    graph.node("MatMul", ["x", "weight"], "product")
    graph.node("Add", ["product", "bias"], "y")
    content = bytearray()
    for name, value in (("weight", weight), ("bias", bias)):
        content.extend(b"\0" * (-len(content) % 64))
        constant = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=value.shape)
        constant.data_location = TensorProto.EXTERNAL
        place = {"location": data_name, "offset": len(content), "length": value.nbytes}
        for key, text in place.items():
            constant.external_data.add(key=key, value=str(text))
        graph.constants.append(constant)
        content.extend(value.astype("<f4").tobytes())
    (FOLDER / data_name).write_bytes(content)
    graph.save(
        model_path("matmul_external"), "matmul_external", [tensor("x", ["batch", 4])], [tensor("y", ["batch", 3])]
    )
    x = rows([1, 2, 3, 4], [-1, 0, 0.5, 0])
    return Case("matmul_external", {"x": x}, {"y": x @ weight + bias})


def seq_out() -> Case:
    """An output that is a sequence of tensors, as some converters produce."""
    graph = GraphBuilder()
    graph.node("Neg", ["x"], "negated")
    graph.node("SequenceConstruct", ["x", "negated"], "seq")
    output = helper.make_tensor_sequence_value_info("seq", TensorProto.FLOAT, ["batch", 2])
    graph.save(model_path("seq_out"), "seq_out", [tensor("x", ["batch", 2])], [output])
    x = rows([1, 2], [3, 4])
    return Case("seq_out", {"x": x}, {"seq": [x, -x]})


def not_batchable() -> Case:
    """Softmax over the batch axis: rows influence each other, so requests must not be joined."""
    graph = GraphBuilder()
    graph.node("Softmax", ["x"], "y", axis=0)
    graph.save(model_path("not_batchable"), "not_batchable", [tensor("x", ["batch", 4])], [tensor("y", ["batch", 4])])
    x = rows([1, 2, 3, 4], [4, 3, 2, 1])
    exponentials = np.exp(x.astype(np.float64))
    return Case("not_batchable", {"x": x}, {"y": (exponentials / exponentials.sum(axis=0)).astype(np.float32)})


def dynamic_two() -> Case:
    """Two inputs with free dimensions of their own: there is no common batch axis."""
    graph = GraphBuilder()
    graph.node("Transpose", ["b"], "b_row", perm=[1, 0])
    graph.node("MatMul", ["a", "b_row"], "outer")
    inputs = [tensor("a", ["seq_a", 1]), tensor("b", ["seq_b", 1])]
    graph.save(model_path("dynamic_two"), "dynamic_two", inputs, [tensor("outer", ["seq_a", "seq_b"])])
    a, b = rows([1], [2], [3]), rows([10], [20])
    return Case("dynamic_two", {"a": a, "b": b}, {"outer": a @ b.T})


def masked_mean() -> Case:
    """The mean of those of a row's tokens that a mask lets through, and these: what is padded and masked changes nothing."""
    graph = GraphBuilder()
    graph.node("Cast", ["tokens"], "values", to=TensorProto.FLOAT)
    graph.node("Cast", ["mask"], "weights", to=TensorProto.FLOAT)
    graph.node("Mul", ["values", "weights"], "kept")
    axis = graph.constant("axis", np.array([1], dtype=np.int64))
    graph.node("ReduceSum", ["kept", axis], "sum", keepdims=0)
    graph.node("ReduceSum", ["weights", axis], "count", keepdims=0)
    graph.node("Div", ["sum", "count"], "mean")
    inputs = [tensor(name, ["batch", "length"], TensorProto.INT64) for name in ("tokens", "mask")]
    outputs = [tensor("kept", ["batch", "length"]), tensor("mean", ["batch"])]
    graph.save(model_path("masked_mean"), "masked_mean", inputs, outputs)
    tokens, mask = np.array([[3, 5, 7], [2, 9, 4]]), np.array([[1, 1, 1], [1, 0, 1]])
    kept = (tokens * mask).astype(np.float32)
    return Case(
        "masked_mean", {"tokens": tokens, "mask": mask}, {"kept": kept, "mean": np.array([5, 3], dtype=np.float32)}
    )


SLOW_ITERATIONS = 120_000
SLOW_SIDE = 128


def slow() -> Case:
    """y = x, but only after a loop of matrix products that takes seconds: for deadlines, cancelling and draining.

    The matrix is the average of everything, which leaves a state of ones as it is, so the answer is known; the file
    stays tiny because ConstantOfShape makes the matrices. Engines notice a cancellation between nodes: each product is
    well under a millisecond.
    """
    state = tensor("state", [SLOW_SIDE, SLOW_SIDE])
    state_next = tensor("state_next", [SLOW_SIDE, SLOW_SIDE])
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go_on"], ["go_on_next"]),
            helper.make_node("MatMul", ["state", "averager"], ["state_next"]),
        ],
        "body",
        [tensor("iteration", [], TensorProto.INT64), tensor("go_on", [], TensorProto.BOOL), state],
        [tensor("go_on_next", [], TensorProto.BOOL), state_next],
    )
    graph = GraphBuilder()
    shape = graph.constant("shape", np.array([SLOW_SIDE, SLOW_SIDE], dtype=np.int64))
    for name, value in (("averager", 1 / SLOW_SIDE), ("ones", 1.0)):
        filler = helper.make_tensor(f"{name}_value", TensorProto.FLOAT, [1], [value])
        graph.nodes.append(helper.make_node("ConstantOfShape", [shape], [name], name=name, value=filler))
    iterations = graph.constant("iterations", np.array(SLOW_ITERATIONS, dtype=np.int64))
    always = graph.constant("always", np.array(True))
    graph.nodes.append(helper.make_node("Loop", [iterations, always, "ones"], ["last"], name="loop", body=body))
    graph.node("ReduceMean", ["last"], "one", keepdims=0)
    graph.node("Mul", ["x", "one"], "y")
    graph.save(model_path("slow"), "slow", [tensor("x", ["batch", 4])], [tensor("y", ["batch", 4])])
    x = rows([1, 2, 3, 4])
    return Case("slow", {"x": x}, {"y": x})


def run(case: Case) -> dict[str, Any]:
    """What ONNX Runtime answers."""
    opened = session(model_path(case.name))
    names = [port.name for port in opened.get_outputs()]
    type_name = case.name.removeprefix("identity_")
    if type_name not in BITS:
        return dict(zip(names, opened.run(names, case.inputs), strict=True))
    # ONNX Runtime's Python face knows no such arrays; tensors bound to the bits do the same.
    element_type = TensorProto.DataType.Value(type_name.upper())
    bits = case.inputs["x"].view(BITS[type_name])
    answer = np.zeros_like(bits)
    binding = opened.io_binding()
    as_tensor = onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type
    binding.bind_ortvalue_input("x", as_tensor(bits, element_type))
    binding.bind_ortvalue_output("y", as_tensor(answer, element_type))
    opened.run_with_iobinding(binding)
    return {"y": answer.view(IDENTITY_ROWS[type_name][0])}


def agree(answer: object, expected: NDArray | list[NDArray]) -> bool:
    """Whether two answers are the same; only computed float32 may differ, in the last bits."""
    if isinstance(expected, list):
        return isinstance(answer, list) and all(agree(*pair) for pair in zip(answer, expected, strict=True))
    answer = np.asarray(answer)
    if answer.dtype != expected.dtype or answer.shape != expected.shape:
        return False
    if expected.dtype == np.float32:
        return bool(np.allclose(answer, expected, rtol=1e-6, atol=0))
    return bool((answer == expected).all())


def plain(values: Values) -> dict[str, Any]:
    """Arrays as nested lists. Floats of fewer bits become the float32 of the same value."""

    def lists(value: NDArray | list[NDArray]) -> list[Any]:
        if isinstance(value, list):
            return [lists(item) for item in value]
        if value.dtype in (np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2):
            value = value.astype(np.float32)
        return value.tolist()

    return {name: lists(value) for name, value in values.items()}


def main() -> None:
    """Writes every model and the examples; stops where ONNX Runtime disagrees."""
    cases = [identity(type_name) for type_name in IDENTITY_ROWS]
    cases += [two_inputs(), matmul_external(), seq_out(), not_batchable(), dynamic_two(), masked_mean(), slow()]
    for case in cases:
        started = time.monotonic()
        answer = run(case)
        seconds = time.monotonic() - started
        for name, expected in case.outputs.items():
            if not agree(answer[name], expected):
                sys.exit(f"{case.name}: ONNX Runtime answers {name} = {answer[name]}, expected {expected}")
        print(f"{case.name}: {model_path(case.name).stat().st_size} bytes, {seconds:.3f} s to load and run")
    examples = {case.name: {"request": plain(case.inputs), "response": plain(case.outputs)} for case in cases}
    write_examples(FOLDER / "examples.json", examples)


if __name__ == "__main__":
    main()
