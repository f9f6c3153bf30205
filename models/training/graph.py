"""A thin builder over `onnx.helper`: nodes are named after the one value they make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

# What ONNX Runtime, the graph compiler and the quantiser all read; newer opsets would add nothing to these nets.
OPSET = 17
IR_VERSION = 8

Dim = int | str | None
Attribute = int | float | str | list[int] | list[str] | onnx.TensorProto


class GraphBuilder:
    """Collects nodes and constants, then writes one checked model file."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def node(
        self, op: str, inputs: Sequence[str], output: str, *, domain: str | None = None, **attributes: Attribute
    ) -> str:
        """Adds a node with one output; returns that output's name. `domain` is the operator's, if not ONNX's own."""
        self.nodes.append(helper.make_node(op, list(inputs), [output], name=output, domain=domain, **attributes))
        return output

    def constant(self, name: str, value: NDArray) -> str:
        """Adds an initialiser; returns its name."""
        self.constants.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
        return name

    @staticmethod
    def scalar_tensor(value: float) -> onnx.TensorProto:
        """A tensor of one float, for attributes that want one."""
        return numpy_helper.from_array(np.array([value], np.float32))

    def rename_output(self, old: str, new: str) -> None:
        """Gives the graph's final value the name that callers see, whatever layer makes it."""
        for node in self.nodes:
            node.output[:] = [new if name == old else name for name in node.output]

    def save(
        self,
        path: Path,
        name: str,
        inputs: Sequence[onnx.ValueInfoProto],
        outputs: Sequence[onnx.ValueInfoProto],
        *,
        opsets: Mapping[str, int] = MappingProxyType({"": OPSET}),
        ir_version: int = IR_VERSION,
    ) -> None:
        """Writes the model, if ONNX's own checker accepts it."""
        graph = helper.make_graph(self.nodes, name, list(inputs), list(outputs), self.constants)
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid(domain, version) for domain, version in opsets.items()],
            ir_version=ir_version,
            producer_name="triscore-models",
        )
        path.write_bytes(model.SerializeToString(deterministic=True))
        # By path, because only then does the checker look into external data files.
        onnx.checker.check_model(str(path), full_check=True)


def tensor(name: str, dims: Sequence[Dim], element_type: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    """An input or output of the graph; a text dimension is a free one of that name."""
    return helper.make_tensor_value_info(name, element_type, list(dims))
