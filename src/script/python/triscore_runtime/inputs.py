"""From a request to the arguments of run().

What is wrong with a request is said in the words of the Azure ML inference server.

A head is what the host knows of a request: method, path, query and headers. Header values are Latin-1, as in
WSGI: one character a byte.
"""

import codecs
import inspect
import json
from typing import Any, Dict, List
from urllib.parse import parse_qsl, quote

from .wire import Bytes


class Refused(Exception):
    """The request is answered with this status and message; run() never sees it."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status
        self.message = message


def headers(head: Dict[str, Any]) -> Dict[str, str]:
    """The headers as a WSGI application sees them: capitalised, repeated ones joined."""
    found: Dict[str, str] = {}
    for name, value in head.get("headers", ()):
        if "_" in name:
            # WSGI could not tell it from the same name with dashes, which a proxy may vouch for.
            continue
        name = name.title()
        if name in ("Content-Type", "Content-Length"):
            found[name] = value
        else:
            found[name] = f"{found[name]},{value}" if name in found else value
    return {name: value for name, value in found.items() if value or not name.startswith("Content-")}


def text_of(body: Bytes) -> str:
    """The body as text."""
    try:
        return str(body, "utf-8")
    except UnicodeDecodeError as error:
        raise Refused(400, f"Input cannot be decoded as UTF-8: {error}") from None


def query_values(head: Dict[str, Any]) -> Dict[str, Any]:
    """The query's values, each read as JSON where it is JSON; those of one name as a list."""
    lists: Dict[str, List[Any]] = {}
    for name, text in parse_qsl(head.get("query", ""), keep_blank_values=True, errors="triscore.url_quote"):
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        lists.setdefault(name, []).append(value)
    return {name: values[0] if len(values) == 1 else values for name, values in lists.items()}


def json_object(head: Dict[str, Any], body: Bytes) -> Dict[str, Any]:
    """The JSON object that the body is."""
    media_type = _media_type(head)
    if media_type != "application/json" and not (
        media_type.startswith("application/") and media_type.endswith("+json")
    ):
        raise Refused(415, "Expects Content-Type to be application/json")
    content = bytes(body)
    try:
        found = json.loads(content)
    except json.JSONDecodeError as error:
        if content:
            raise Refused(400, f"POST body could not be decoded as JSON: {error}") from None
        raise Refused(400, "POST body is empty. Expecting a JSON dictionary.") from None
    if not isinstance(found, dict):
        raise Refused(400, "POST body should be a JSON dictionary.")
    return found


def arguments(parameters: List[inspect.Parameter], values: Dict[str, Any]) -> Dict[str, Any]:
    """The values for the parameters, by name; defaults fill gaps, and other values are left out."""
    found = {}
    for parameter in parameters:
        value = values.get(parameter.name, parameter.default)
        if value is inspect.Parameter.empty:
            raise Refused(400, f"A value is not provided for the {parameter.name!r} parameter.")
        found[parameter.name] = value
    return found


def _media_type(head: Dict[str, Any]) -> str:
    content_type = ""
    for name, value in head.get("headers", ()):
        if name.lower() == "content-type":
            content_type = value
    return content_type.partition(";")[0].strip().lower()


def _quoted_again(error: UnicodeError) -> Any:
    # Bytes of a query that are no UTF-8 stay percent-encoded.
    assert isinstance(error, UnicodeDecodeError)
    return quote(error.object[error.start : error.end], safe=""), error.end


codecs.register_error("triscore.url_quote", _quoted_again)
