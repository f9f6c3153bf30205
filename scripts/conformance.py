#!/usr/bin/env python3
"""Writes ONNX's own backend tests as files, for tests/conformance.rs.

The wheels of `onnx` ship the data of some cases; most are made by the package's code (scripts/requirements-conformance.txt
pins it, for its data must be the same everywhere). Two runs write the same bytes. A list has a name a line, with the
package's folder before it (`pytorch-operator/test_operator_add_broadcast`) or `node/`, or nothing, for cases that code
makes. A case is a folder: model.onnx, input_0.pb …, output_0.pb ….

    python3 scripts/conformance.py hardware-tests/conformance/int8.txt hardware-tests/conformance/int8
    python3 scripts/conformance.py hardware-tests/conformance/float.txt target/conformance/float
"""

import pathlib
import shutil
import sys
import tempfile
import warnings

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.backend.test.loader import load_node_model_tests


def main() -> None:
    names, target = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    wanted = [line.strip() for line in names.read_text().splitlines() if line.strip() and not line.startswith("#")]
    # Cases divide by zero on purpose.
    warnings.simplefilter("ignore", RuntimeWarning)
    made = {case.name: case for case in load_node_model_tests()}
    # Written aside and renamed, so that a folder of that name is a whole one.
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as aside:
        new, old = pathlib.Path(aside, "new"), pathlib.Path(aside, "old")
        for name in wanted:
            folder = new / name
            folder.mkdir(parents=True)
            source, _, case = name.rpartition("/")
            if source in ("", "node"):
                make(made[case], folder)
            else:
                copy(pathlib.Path(onnx.__file__).parent / "backend/test/data" / name, folder)
        if target.exists():
            target.rename(old)
        new.rename(target)


def copy(case: pathlib.Path, folder: pathlib.Path) -> None:
    """A case whose data lies in the package."""
    for file in (case / "model.onnx", *(case / "test_data_set_0").glob("*.pb")):
        shutil.copyfile(file, folder / file.name)


def make(case, folder: pathlib.Path) -> None:
    """A case that the package's code makes."""
    (folder / "model.onnx").write_bytes(case.model.SerializeToString(deterministic=True))
    inputs, outputs = case.data_sets[0]
    graph = case.model.graph
    for kind, values, infos in (("input", inputs, graph.input), ("output", outputs, graph.output)):
        # What an optional input or output leaves out is no input or output of the graph.
        for index, (value, info) in enumerate(zip(values, infos, strict=True)):
            if info.type.WhichOneof("value") != "tensor_type":
                sys.exit(f"conformance: {case.name}: '{info.name}' is no tensor, and nobody here compares what is none")
            if not isinstance(value, onnx.TensorProto):
                value = numpy_helper.from_array(np.asarray(value), info.name)
            (folder / f"{kind}_{index}.pb").write_bytes(value.SerializeToString(deterministic=True))


if __name__ == "__main__":
    main()
