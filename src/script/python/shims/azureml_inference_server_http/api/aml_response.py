"""Raw HTTP responses: run() says status, headers and body itself."""

import json
from typing import Any, Mapping

try:
    from flask import Response
except ModuleNotFoundError as error:
    raise ImportError("AMLResponse needs flask: add it to the environment's pip dependencies") from error


class AMLResponse(Response):
    """An HTTP response: `message` is its body, as it is or, with `json_str`, as JSON.

    Commas in the value of a header separate values, each of which becomes a header of its own.
    """

    def __init__(
        self,
        message: Any,
        status_code: Any,
        response_headers: Mapping[str, str] = {},
        json_str: bool = False,
        run_function_failed: bool = False,
    ):
        if message is None:
            super().__init__("{}", status=status_code, mimetype="application/json")
        elif json_str:
            super().__init__(json.dumps(message), status=status_code, mimetype="application/json")
        else:
            super().__init__(message, status=status_code)
            if "Content-Type" in response_headers:
                self.headers.remove("Content-Type")
        self.headers["x-ms-run-function-failed"] = str(run_function_failed)
        for name, values in response_headers.items():
            for value in values.split(","):
                self.headers.add(name, value.strip())
