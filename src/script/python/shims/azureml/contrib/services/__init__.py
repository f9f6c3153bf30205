"""Raw HTTP for entry scripts: see aml_request and aml_response."""

from typing import Any


def __getattr__(name: str) -> Any:
    # Not imported beforehand: who needs aml_response alone is not told what rawhttp lacks.
    if name == "rawhttp":
        from .aml_request import rawhttp

        return rawhttp
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
