"""inference-schema with a list of several types, which OpenAPI 2.0 and 3.0 cannot say."""

from inference_schema.parameter_types.standard_py_parameter_type import (
    StandardPythonParameterType as Standard,
)
from inference_schema.schema_decorators import input_schema


def init():
    pass


@input_schema("data", Standard([Standard("text"), Standard(1)]))
def run(data):
    return data
