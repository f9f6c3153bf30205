"""AMLResponse and flask responses from a run() that takes a string."""

import json

import flask
from azureml.contrib.services.aml_response import AMLResponse


def init():
    pass


def run(data):
    what = json.loads(data)
    kind = what.pop("kind", "aml")
    if kind == "aml":
        return AMLResponse(**what)
    if kind == "bytes":
        return AMLResponse(bytes(range(256)), 200, {"Content-Type": "application/octet-stream"})
    if kind == "flask":
        return flask.Response(**what)
    if kind == "jsonify":
        return flask.jsonify(what)
    if kind == "make_response":
        return flask.make_response((what, 202, {"X-Made": "yes"}))
    if kind == "context":
        return [
            flask.request.method,
            flask.request.headers.get("X-Who"),
            flask.request.get_data(as_text=True),
        ]
    if kind == "later":
        flask.after_this_request(_mark)
        return flask.Response("later")
    if kind == "stream":
        return flask.Response((f"line {n}\n" for n in range(3)), mimetype="text/plain")
    if kind == "cookies":
        response = AMLResponse("cookies", 200)
        response.set_cookie("a", "1")
        response.set_cookie("b", "2")
        return response
    if kind == "redirect":
        return flask.redirect("/elsewhere?ü=1")
    raise ValueError(kind)


def _mark(response):
    response.headers["X-Later"] = "yes"
    return response
