"""Flask for the scripts that use it: raw HTTP requests, flask responses, and the application context.

Imported only when a script has imported flask itself; the standard path never touches it. The Azure ML
inference server runs scripts inside a Flask application, so flask.request, flask.jsonify and the like work
there, and here.
"""

import io
import json
import re
import sys
from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, Tuple
from urllib.parse import unquote_to_bytes

import flask
from azureml_inference_server_http.api.aml_request import AMLRequest

from . import wire

RUN_FAILED_HEADER = "x-ms-run-function-failed"

# What belongs to the connection or to the server is the host's to say, whatever a script sets.
_HOST_HEADERS = frozenset(
    "connection keep-alive proxy-authenticate proxy-authorization te trailers transfer-encoding upgrade "
    "server date content-length".split()
)
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[ \t\x21-\x7e\x80-\xff]*")


class Bridge:
    """A Flask application with one route and no server."""

    def __init__(self) -> None:
        self._app = flask.Flask(__name__, static_folder=None)
        self._app.request_class = AMLRequest
        self._app.add_url_rule(
            "/score", "main.handle_score", methods=["GET", "POST", "OPTIONS"], provide_automatic_options=False
        )

    @contextmanager
    def context(self, head: Dict[str, Any], body: wire.Bytes) -> Iterator[Any]:
        """The request, as `flask.request` too for as long as the context lasts."""
        with self._app.request_context(_environ(head, body)) as context:
            yield context.request

    def finished(self, response: Any, method: str) -> Tuple[int, int, bytes, bytes]:
        """A flask response as an answer's status, flags, head and body.

        Raises ValueError for a response that HTTP cannot carry, and whatever its body raises.
        """
        if response.status_code >= 500:
            response.headers[RUN_FAILED_HEADER] = "True"
        if flask.has_request_context():
            response = self._app.process_response(response)
        # The host leaves the body of a HEAD request's answer away, and needs to know how long it would be.
        environ = _environ({"method": "GET" if method == "HEAD" else method}, b"")
        content, _, headers = response.get_wsgi_response(environ)
        try:
            body = b"".join(content)
        finally:
            if hasattr(content, "close"):
                content.close()
        if not 200 <= response.status_code <= 599:
            raise ValueError(f"the status of the response is {response.status_code}: expected 200 to 599")
        flags, kept = _judged(headers)
        return response.status_code, flags, json.dumps(kept).encode(), body


def _judged(headers: List[Tuple[str, str]]) -> Tuple[int, List[Tuple[str, str]]]:
    """The flags that say what the response says of run(), and the headers that go out besides."""
    kept = []
    for name, value in headers:
        if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            raise ValueError(f"the response's header {name!r} has characters that HTTP does not allow")
        if name.lower() not in _HOST_HEADERS:
            kept.append((name, value.strip(" \t")))
    judgements = [value for name, value in kept if name.lower() == RUN_FAILED_HEADER]
    if judgements in (["True"], ["False"]):
        flags = wire.RUN_FAILED if judgements == ["True"] else 0
        return flags, [pair for pair in kept if pair[0].lower() != RUN_FAILED_HEADER]
    # None, several, or a word of the script's own: it goes out as the script has it.
    return wire.NO_RUN_FAILED, kept


def _environ(head: Dict[str, Any], body: wire.Bytes) -> Dict[str, Any]:
    """The WSGI environment of a request."""
    path, query = head.get("path", "/score"), head.get("query") or ""
    environ: Dict[str, Any] = {
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(body),
        "wsgi.input_terminated": True,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": False,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        "REQUEST_METHOD": head.get("method", "POST"),
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
        "QUERY_STRING": query.encode().decode("latin-1"),
        "RAW_URI": f"{path}?{query}" if query else path,
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": head.get("remote", ""),
    }
    for name, value in head.get("headers", ()):
        if "_" in name:  # as in inputs.headers
            continue
        key = name.upper().replace("-", "_")
        if key in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            environ[key] = value
        else:
            key = f"HTTP_{key}"
            environ[key] = f"{environ[key]},{value}" if key in environ else value
    return environ
