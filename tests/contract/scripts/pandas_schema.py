"""inference-schema: a pandas table in, and a run() that returns an array, which JSON cannot say."""

import pandas as pd
from inference_schema.parameter_types.numpy_parameter_type import NumpyParameterType
from inference_schema.parameter_types.pandas_parameter_type import PandasParameterType
from inference_schema.schema_decorators import input_schema, output_schema

SAMPLE = pd.DataFrame({"name": ["a"], "size": [1], "price": [1.5], "day": pd.to_datetime(["2020-01-01"])})


def init():
    pass


@input_schema("data", PandasParameterType(SAMPLE))
@output_schema(NumpyParameterType(SAMPLE["price"].to_numpy()))
def run(data):
    if len(data) == 0:
        return data.to_numpy()
    return {
        "columns": list(data.columns),
        "price": float(data["price"].sum()),
        "sizes": [int(size) for size in data["size"]],
        "days": [str(day) for day in data["day"]],
    }
