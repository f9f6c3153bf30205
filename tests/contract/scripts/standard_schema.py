"""inference-schema: nested standard types, one optional parameter, one default, and the headers."""

from inference_schema.parameter_types.standard_py_parameter_type import (
    StandardPythonParameterType as Standard,
)
from inference_schema.schema_decorators import input_schema, output_schema


def init():
    pass


@input_schema("name", Standard("someone"))
@input_schema("scores", Standard([1.0]))
@input_schema("nested", Standard({"a": Standard(1), "b": Standard([Standard("x")])}))
@input_schema("limit", Standard(3), optional=True)
@output_schema(Standard({"said": "text"}))
def run(name, scores, nested, request_headers, limit=None, factor=2):
    return {
        "name": name,
        "scores": scores,
        "nested": nested,
        "limit": limit,
        "factor": factor,
        "agent": request_headers.get("X-Agent"),
    }
