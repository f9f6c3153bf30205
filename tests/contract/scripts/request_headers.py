"""run() that takes the headers; answers those that the request names."""

import json


def init():
    pass


def run(text, request_headers):
    wanted = json.loads(text) if text else []
    return {
        "type": type(request_headers).__name__,
        "values": {name: request_headers.get(name) for name in wanted},
        "names": sorted(name for name in request_headers if name.startswith(("X-", "Content-"))),
    }
