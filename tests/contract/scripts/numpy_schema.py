"""inference-schema: a NumPy array in, a NumPy array out."""

import numpy as np
from inference_schema.parameter_types.numpy_parameter_type import NumpyParameterType
from inference_schema.schema_decorators import input_schema, output_schema


def init():
    pass


@input_schema("data", NumpyParameterType(np.array([[1.0, 2.0, 3.0]]), enforce_shape=True))
@output_schema(NumpyParameterType(np.array([6.0])))
def run(data):
    return {"sum": data.sum(axis=1).tolist(), "dtype": str(data.dtype), "shape": list(data.shape)}
