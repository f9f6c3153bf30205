"""What is asked of both servers, script by script.

A row whose `differs` is set is an intended difference: the reason in words, and what triscore has to answer
instead of what the reference answers, or besides. Everything else has to be equal, byte for byte.
"""

import json
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

Header = Tuple[str, str]

JSON = ("Content-Type", "application/json")


class Instead(NamedTuple):
    """What triscore answers where the reference answers something else."""

    reason: str
    status: int
    body: bytes
    #: Headers that must be there, or must not be when the value is None.
    headers: Dict[str, Optional[str]]


class Adds(NamedTuple):
    """Headers that triscore's answer has besides; everything else is equal."""

    reason: str
    #: What each of them looks like, as a regular expression.
    headers: Dict[str, str]


class Row(NamedTuple):
    """One request."""

    name: str
    body: bytes = b""
    method: str = "POST"
    path: str = "/score"
    headers: Sequence[Header] = (JSON,)
    differs: Union[Instead, Adds, None] = None
    #: The body is sent in chunks, without its length.
    chunked: bool = False


class Script(NamedTuple):
    """One entry script and what is asked of it."""

    name: str
    rows: List[Row]
    timeout_ms: int = 60_000


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _post(name: str, value: Any, **more: Any) -> Row:
    return Row(name, value if isinstance(value, bytes) else _json(value), **more)


def _get(name: str, query: str = "", path: str = "/score", **more: Any) -> Row:
    return Row(name, b"", "GET", f"{path}?{query}" if query else path, (), **more)


def _message(status: int, message: str, reason: str, failed: Union[str, None] = "False") -> Instead:
    headers = {"content-type": "application/json", "x-ms-run-function-failed": failed}
    return Instead(reason, status, _json({"message": message}), headers)


TIMED_OUT = _message(
    504,
    "Scoring timeout after 500 ms",
    "The front end of AKS and ACI answers 504 for a scoring timeout, and triscore is front end and worker in "
    "one; the worker alone says 500.",
    "True",
)
EXITED = _message(
    500,
    "An unexpected error occurred in scoring script. Check the logs for more info.",
    "sys.exit() in run() gets gunicorn's own HTML page there, without any of the service's headers. triscore "
    "answers like any failure of the script, in JSON, and replaces the worker.",
    "True",
)
_ALLOW = "HTTP requires the header Allow of an answer 405 (RFC 9110, 15.5.6)."
READ_ONLY = Adds(_ALLOW, {"allow": r"GET, HEAD(, OPTIONS)?"})
SCORED = Adds(_ALLOW, {"allow": r"GET, (HEAD, )?OPTIONS, POST"})
INTERNAL = "An unexpected internal error occurred. Check the logs for more info."

#: Of scripts that take a string.
FORM = (
    "curl -d says that what it sends is a form. Flask reads forms for itself, so over there the script gets an empty "
    "string; here it gets what was sent."
)
_FORM = "application/x-www-form-urlencoded"
_MULTIPART = "multipart/form-data; boundary=XX"
_PARTS = (
    b'--XX\r\nContent-Disposition: form-data; name="word"\r\n\r\nvalue\r\n'
    b'--XX\r\nContent-Disposition: form-data; name="word"\r\n\r\nother\r\n'
    b'--XX\r\nContent-Disposition: form-data; name="upload"; filename="a.bin"\r\n'
    b"Content-Type: application/octet-stream\r\n\r\n\x00\xff\r\n--XX--\r\n"
)

SURFACE = [
    _get("health", path="/"),
    Row("health HEAD", b"", "HEAD", "/", ()),
    Row("health POST", b"", "POST", "/", (), READ_ONLY),
    _get("unknown path", path="/nowhere"),
    _get("score with a slash", path="/score/"),
    Row("PUT score", b"{}", "PUT", differs=SCORED),
    Row("DELETE score", b"", "DELETE", differs=SCORED),
    Row("PATCH score", b"", "PATCH", differs=SCORED),
    Row("HEAD score", b"", "HEAD", "/score", (), SCORED),
    Row("OPTIONS score", b"", "OPTIONS", "/score", ()),
    _get("swagger", path="/swagger.json"),
    _get("swagger 2", "version=2", "/swagger.json"),
    _get("swagger 2.0", "version=2.0", "/swagger.json"),
    _get("swagger 3", "version=3", "/swagger.json"),
    _get("swagger 3.0", "version=3.0", "/swagger.json"),
    _get("swagger 3.1", "version=3.1", "/swagger.json"),
    _get("swagger 9", "version=9", "/swagger.json"),
    Row("ids sent", b"x", headers=(JSON, ("x-request-id", "r"), ("x-ms-client-request-id", "c"))),
    Row("old id sent", b"x", headers=(JSON, ("x-ms-request-id", "m"))),
    Row("client id sent", b"x", headers=(JSON, ("x-ms-client-request-id", "c"))),
    Row("TraceId sent", b"x", headers=(JSON, ("TraceId", "t"))),
    Row("id too long", b"x", headers=(JSON, ("x-request-id", "r" * 101))),
    Row("old id too long", b"x", headers=(JSON, ("x-ms-request-id", "r" * 101))),
    Row("client id too long", b"x", headers=(JSON, ("x-ms-client-request-id", "r" * 101))),
]

ECHO = [
    _post("JSON text", b'{"query": "What color is the fox"}'),
    _post("empty body", b""),
    _post("no content type", b"plain", headers=()),
    _post("text/plain", b"plain", headers=(("Content-Type", "text/plain; charset=latin-1"),)),
    _post("UTF-8", "größer 日本 🦊".encode()),
    _post("UTF-8 with a mark", b"\xef\xbb\xbfx"),
    _post("Latin-1", "größer".encode("latin-1")),
    _post("not UTF-8", b"\xff\xfe"),
    _post("cut short UTF-8", "日".encode()[:2]),
    _post("zero bytes", b"a\x00b"),
    _post("one megabyte", b"x" * (1 << 20)),
    _post("in chunks", b"x" * 100_000, chunked=True),
    _post("empty in chunks", b"", chunked=True),
    _post("a form's body", b"a=1&b=2", headers=(("Content-Type", _FORM),), differs=Instead(
        FORM, 200, b'"a=1&b=2"', {"content-type": "application/json", "x-ms-run-function-failed": "False"}
    )),
    _post("a form of parts", _PARTS, headers=(("Content-Type", _MULTIPART),), differs=_message(
        400, "Input cannot be decoded as UTF-8: 'utf-8' codec can't decode byte 0xff in position 234: "
        "invalid start byte", FORM,
    )),
    _post("a form without boundary", b"abc", headers=(("Content-Type", "multipart/form-data"),)),
    _get("GET without query"),
    _get("GET values", "a=1&b=[1,2]&c=text&d=null&e=%22quoted%22"),
    _get("GET repeated", "foo=bar1&foo=2&x=y"),
    _get("GET blank", "a=&b&=c"),
    _get("GET escapes", "a=%E6%97%A5+%2B&b=%FF%41"),
    _get("GET numbers", "a=1e400&b=-0&c=NaN&d=01"),
    _get("GET semicolon", "a=1;b=2"),
]

VALUES = [_post(name, {"value": name}) for name in (
    "none", "true", "false", "int", "float", "tiny", "nan", "inf", "empty_str", "str", "unicode", "surrogate",
    "dict", "keys", "tuple", "list", "bytes", "set", "decimal", "datetime", "object", "tuple_key", "circle",
    "generator", "big",
)] + [
    _post("missing", {"value": "there is none"}),
    _post("not JSON", b"{"),
    _post("NaN through", b"[NaN, Infinity, 1e999, 12345678901234567890]"),
]  # fmt: skip

REQUEST_HEADERS = [
    _post("capitals", ["Content-Type", "X-Some-Header2A"], headers=(JSON, ("x-SOME-header2a", "v"))),
    _post("repeated", ["X-Twice"], headers=(("X-Twice", "a"), ("x-twice", "b, c"))),
    _post("underscore", ["X-Under", "X_Under"], headers=(("x_under", "hidden"),)),
    _post("Latin-1", ["X-Latin"], headers=(("X-Latin", "gr\u00f6\u00dfer"),)),
    _post("empty", ["X-Empty"], headers=(("X-Empty", ""),)),
    _post("in chunks", ["Content-Length", "Transfer-Encoding"], chunked=True),
    _post("not UTF-8", b"\xff"),
    Row("GET", b"", "GET", "/score?a=1", (("X-A", "1"),)),
    Row("OPTIONS", b"", "OPTIONS", "/score", ()),
    Row("HEAD", b"", "HEAD", "/score", (), SCORED),
]

_TABLE = [[1, 2, 3], [4, 5, 6]]
SCHEMA = [
    _post("text", b"{}", headers=(("Content-Type", "text/plain"),)),
    _post("no type", b"{}", headers=()),
    _post("charset", {"data": _TABLE}, headers=(("Content-Type", "Application/JSON; charset=utf-8"),)),
    _post("in chunks", {"data": _TABLE}, chunked=True),
    _post("+json", {"data": _TABLE}, headers=(("Content-Type", "application/x.y+json"),)),
    _post("empty", b""),
    _post("not JSON", b"{'data': 1}"),
    _post("cut short", b'{"data": [1,'),
    _post("not UTF-8", b'{"data": "\xff"}'),
    _post("UTF-16", '{"data": [[1, 2, 3]]}'.encode("utf-16")),
    _post("a list", _TABLE),
    _post("null", None),
    _post("missing", {"other": 1}),
    _post("besides", {"data": _TABLE, "other": 1}),
    _post("too deep", b'{"data": ' + b"[" * 200_000),
    Row("OPTIONS", b"", "OPTIONS", "/score", ()),
    Row("HEAD", b"", "HEAD", "/score", (), SCORED),
]

NUMPY = [
    *SCHEMA,
    _post("floats", {"data": [[0.1, 0.2, 0.30000000000000004]]}),
    _post("wrong shape", {"data": [[1, 2]]}),
    _post("wrong rank", {"data": [1, 2, 3]}),
    _post("text inside", {"data": [["a", "b", "c"]]}),
    _post("ragged", {"data": [[1, 2, 3], [4]]}),
    _post("nan", b'{"data": [[NaN, 1, 2]]}'),
    _post("no rows", {"data": []}),
    _get("GET", "data=[[1,2,3]]"),
    _get("GET nothing"),
    _get("swagger 2", path="/swagger.json"),
    _get("swagger 3", "version=3", "/swagger.json"),
    _get("swagger 3.1", "version=3.1", "/swagger.json"),
]

_RECORD = {"name": "b", "size": 2, "price": 2.5, "day": "2021-02-03"}
PANDAS = [
    _post("records", {"data": [_RECORD, _RECORD]}),
    _post("order", {"data": [dict(reversed(list(_RECORD.items())))]}),
    _post("missing column", {"data": [{"name": "b"}]}),
    _post("wrong type", {"data": [{**_RECORD, "size": "many"}]}),
    _post("an array out", {"data": []}),
    _get("GET", "data=[]"),
    _get("swagger 2", path="/swagger.json"),
    _get("swagger 3", "version=3", "/swagger.json"),
]

_STANDARD = {"name": "n", "scores": [1, 2.5], "nested": {"a": 1, "b": ["x"]}}
STANDARD = [
    _post("all but the optional", _STANDARD, headers=(JSON, ("X-Agent", "me"))),
    _post("optional and default", {**_STANDARD, "limit": 5, "factor": 7}),
    _post("optional null", {**_STANDARD, "limit": None}),
    _post("missing", {"name": "n", "scores": []}),
    _post("wrong type", {**_STANDARD, "name": 3}),
    _post("nested wrong", {**_STANDARD, "nested": [1]}),
    _post("headers as a value", {**_STANDARD, "request_headers": {"X-Agent": "forged"}}),
    _get("GET", "name=n&scores=[1.0]&nested={%22a%22:1,%22b%22:[]}&limit=2"),
    _get("swagger 2", path="/swagger.json"),
    _get("swagger 3.1", "version=3.1", "/swagger.json"),
]

POWER_BI = [
    _post("both", {"Inputs": {"input1": [{"x": 1, "y": 0.5}, {"x": 2, "y": 1.5}]}, "GlobalParameters": 2.0}),
    _post("no global parameters", {"Inputs": {"input1": []}}),
    _post("wrong input", {"Inputs": [1], "GlobalParameters": 2.0}),
    _get("swagger 2", path="/swagger.json"),
]

MIXED = [
    _post("texts", {"data": ["a", "b"]}),
    _get("swagger 2", path="/swagger.json"),
    _get("swagger 3", "version=3", "/swagger.json"),
    _get("swagger 3.1", "version=3.1", "/swagger.json"),
    _get("swagger 4", "version=4", "/swagger.json"),
]

_RAW = "/score?show="
RAW_HTTP = [
    _post("POST", b"abc"),
    _get("GET"),
    Row("OPTIONS", b"", "OPTIONS", "/score", ()),
    Row("PUT", b"", "PUT", "/score", (), SCORED),
    Row("body", bytes(range(256)), path=_RAW + "body", headers=(("Content-Type", "image/jpeg"),)),
    Row("body without type", b"\x00", path=_RAW + "body", headers=()),
    Row("text", "ü".encode(), path=_RAW + "text"),
    Row("text not UTF-8", b"\xff", path=_RAW + "text"),
    Row("json", b'{"a": NaN}', path=_RAW + "json"),
    Row("json broken", b"{", path=_RAW + "json"),
    Row("json of another type", b"{}", path=_RAW + "json", headers=(("Content-Type", "text/plain"),)),
    Row("form", b"a=1&a=2&b=%FC", path=_RAW + "form", headers=(("Content-Type", _FORM),)),
    Row("form of parts", _PARTS, path=_RAW + "form", headers=(("Content-Type", _MULTIPART),)),
    Row("headers", path=_RAW + "headers", headers=(("x-b", "1"), ("X-A", "2"), ("x-b", "3"))),
    _get("address", "show=address&a=1&b=%20x&a="),
    _get("abort", "show=abort"),
    _get("status 299", "show=status&status=299"),
    _get("status 404", "show=status&status=404"),
    _get("status 503", "show=status&status=503"),
    _get("swagger", path="/swagger.json"),
]


def _answer(name: str, **what: Any) -> Row:
    return _post(name, what)


def _aml(name: str, headers: Dict[str, Any], message: Any = "x", **more: Any) -> Row:
    return _answer(name, message=message, status_code=200, response_headers=headers, **more)


RESPONSES = [
    _answer("text", message="hi", status_code=200),
    _answer("JSON", message={"a": [1, "ü"]}, status_code=201, json_str=True),
    _answer("none", message=None, status_code=200),
    _answer("none 404", message=None, status_code=404, response_headers={"X-A": "b"}),
    _answer("empty 204", message="", status_code=204),
    _answer("not modified", message="x", status_code=304),
    _answer("a status with words", message="x", status_code="418 I'm a teapot"),
    _answer("500", message="broken", status_code=500),
    _answer("said to have failed", message="x", status_code=200, run_function_failed=True),
    _answer("failed in other words", message="x", status_code=200, run_function_failed="perhaps"),
    _aml("own failed header", {"x-ms-run-function-failed": "True"}),
    _aml("commas", {"X-List": "a, b,c", "X-One": "d"}),
    _aml("content type", {"Content-Type": "text/csv"}),
    _aml("lower content type", {"content-type": "text/csv"}),
    _aml("type and JSON", {"Content-Type": "a/b"}, message=1, json_str=True),
    _aml("a date, cut at its comma", {"Expires": "Wed, 21 Oct 2015 07:28:00 GMT"}),
    _aml("own ids", {"x-request-id": "mine", "X-Ms-Request-Id": "m"}),
    _aml("Latin-1 header", {"X-L": "größer"}),
    _aml("header that is no text", {"X-N": 1}),
    _answer("a dict for a message", message={"a": 1}, status_code=200),
    _answer("a number for a message", message=5, status_code=200)._replace(differs=_message(
        500, INTERNAL,
        "A body that is no text, bytes or iterable gets gunicorn's own HTML page there; here it is the "
        "internal error in JSON.",
    )),
    _answer("bytes", kind="bytes"),
    _answer("flask", kind="flask", response="plain", status=200),
    _answer("flask 500", kind="flask", response="plain", status=500),
    _answer("flask typed", kind="flask", response="<a/>", status=200, mimetype="application/xml"),
    _answer("jsonify", kind="jsonify", z=1, a="ü"),
    _answer("make_response", kind="make_response", x=1),
    _answer("stream", kind="stream"),
    _answer("cookies", kind="cookies"),
    _answer("redirect", kind="redirect"),
    _answer("after_this_request", kind="later"),
    _post("context", {"kind": "context"}, headers=(JSON, ("X-Who", "me"))),
    _answer("unknown", kind="?"),
    _aml("header beyond Latin-1", {"X-U": "日"})._replace(differs=_message(
        500, INTERNAL,
        "A header that HTTP cannot carry gets gunicorn's own HTML page there; here it is the internal error "
        "in JSON.",
    )),
    _answer("status 999", message="x", status_code=999)._replace(differs=_message(
        500, INTERNAL,
        "HTTP knows no status above 599, and front ends refuse it; the worker alone sends it on.",
    )),
]  # fmt: skip

FAILING = [_post(name, name.encode()) for name in (
    "value", "key", "own", "deep", "timeout", "async", "coroutine", "stop", "group", "fine",
)]  # fmt: skip

SLOW = [
    _post("sleeps", b"sleep", differs=TIMED_OUT),
    _post("in time", b""),
    _post("spins", b"spin", differs=TIMED_OUT),
    _post("just in time", b"late"),
]

SCRIPTS = [
    Script("echo", SURFACE + ECHO),
    Script("values", VALUES),
    Script("request_headers", REQUEST_HEADERS),
    Script("arguments", [_post("POST", b"x"), _get("GET", "data=5&factor=7"), _post("empty", b"")]),
    Script("two_arguments", [_post("POST", b"x"), _get("GET", "data=1&other=2")]),
    Script("numpy_schema", NUMPY),
    Script("pandas_schema", PANDAS),
    Script("standard_schema", STANDARD),
    Script("power_bi", POWER_BI),
    Script("mixed_schema", MIXED),
    Script("rawhttp", RAW_HTTP),
    Script("responses", RESPONSES),
    Script("failing", FAILING),
    Script("slow", SLOW, timeout_ms=500),
    Script("printing", [_post("POST", b"x")]),
    Script("exits", [
        _post("an exit code", b"exit3", differs=EXITED),
        _post("afterwards", b"x"),
        _post("no exit code", b"exit", differs=EXITED),
        _post("afterwards again", b"x"),
    ]),
    Script("driver", [_post("POST", b"x"), _get("swagger", path="/swagger.json"),
                      _get("swagger 3", "version=3", "/swagger.json")]),
]  # fmt: skip
