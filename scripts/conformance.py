#!/usr/bin/env python3
"""Writes ONNX's own backend tests of quantised operators as files.

Since the wheels of `onnx` ship no test data, the cases are made by the package's code (pip install onnx==1.23.2); two
runs write the same bytes. A case is a folder: model.onnx, input_0.pb …, output_0.pb ….

    python3 scripts/conformance.py hardware-tests/conformance/int8.txt hardware-tests/conformance/int8
"""

import pathlib
import sys

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.backend.test.loader import load_node_model_tests


def main() -> None:
    names, target = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    wanted = [line.strip() for line in names.read_text().splitlines() if line.strip() and not line.startswith("#")]
    cases = {case.name: case for case in load_node_model_tests()}
    for name in wanted:
        case = cases[name]
        folder = target / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.onnx").write_bytes(case.model.SerializeToString(deterministic=True))
        inputs, outputs = case.data_sets[0]
        for kind, values, infos in (
            ("input", inputs, case.model.graph.input),
            ("output", outputs, case.model.graph.output),
        ):
            for index, (value, info) in enumerate(zip(values, infos)):
                proto = (
                    value
                    if isinstance(value, onnx.TensorProto)
                    else numpy_helper.from_array(np.asarray(value), info.name)
                )
                (folder / f"{kind}_{index}.pb").write_bytes(proto.SerializeToString(deterministic=True))


if __name__ == "__main__":
    main()
