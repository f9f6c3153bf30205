"""@rawhttp: what the request object says, by the query's `show`."""

import flask
from azureml.contrib.services.aml_request import AMLRequest, rawhttp
from azureml.contrib.services.aml_response import AMLResponse


def init():
    assert issubclass(AMLRequest, flask.Request)


@rawhttp
def run(request):
    show = request.args.get("show")
    if show == "body":
        return AMLResponse(request.get_data(), 200, {"Content-Type": request.content_type or "none/none"})
    if show == "text":
        return request.get_data(as_text=True)
    if show == "json":
        return {"is_json": request.is_json, "json": request.json}
    if show == "form":
        return {
            "form": request.form.to_dict(flat=False),
            "files": {
                name: [file.filename, file.content_type, file.read().decode("latin-1")]
                for name, file in request.files.items()
            },
            "data": request.data.decode(),
        }
    if show == "headers":
        return {name: value for name, value in request.headers.items() if name.startswith("X-")}
    if show == "address":
        return {
            "endpoint": request.endpoint,
            "rule": str(request.url_rule),
            "path": request.path,
            "full_path": request.full_path,
            "remote": request.remote_addr,
            "scheme": request.scheme,
            "query": request.query_string.decode("latin-1"),
            "args": request.args.to_dict(flat=False),
        }
    if show == "abort":
        flask.abort(404)
    if show == "status":
        return AMLResponse("teapot", int(request.args["status"]))
    return AMLResponse(f"{request.method} {isinstance(request, flask.Request)}", 200)
