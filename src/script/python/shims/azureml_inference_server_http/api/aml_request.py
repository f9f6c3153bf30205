"""Raw HTTP requests: `@rawhttp` on run() gives it the request itself instead of its body."""

from typing import Any, Callable, TypeVar

try:
    from flask import Request
except ModuleNotFoundError as error:
    raise ImportError("rawhttp needs flask: add it to the environment's pip dependencies") from error

_Function = TypeVar("_Function", bound=Callable[..., Any])

# The worker reads it when the script has been imported.
_rawHttpRequested = False


def rawhttp(func: _Function) -> _Function:
    """Asks for the raw HTTP request. Its answer may be an AMLResponse, or anything that JSON can say."""
    global _rawHttpRequested
    _rawHttpRequested = True
    return func


class AMLRequest(Request):
    """The HTTP request given to run(): method, headers, args, full_path, get_data(), form, files, json…"""
