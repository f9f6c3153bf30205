"""inference-schema in the shape that Power BI asks for: Inputs, GlobalParameters, Results."""

import numpy as np
import pandas as pd
from inference_schema.parameter_types.numpy_parameter_type import NumpyParameterType
from inference_schema.parameter_types.pandas_parameter_type import PandasParameterType
from inference_schema.parameter_types.standard_py_parameter_type import StandardPythonParameterType
from inference_schema.schema_decorators import input_schema, output_schema

TABLE = StandardPythonParameterType({"input1": PandasParameterType(pd.DataFrame({"x": [1], "y": [2.5]}))})


def init():
    pass


@input_schema("GlobalParameters", StandardPythonParameterType(1.0))
@input_schema("Inputs", TABLE)
@output_schema(StandardPythonParameterType({"Results": NumpyParameterType(np.array([1.0]))}))
def run(Inputs, GlobalParameters):
    table = Inputs["input1"]
    return {"Results": (table["x"] * GlobalParameters + table["y"]).tolist()}
