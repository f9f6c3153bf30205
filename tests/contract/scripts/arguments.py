"""A run() with a default, a keyword-only parameter and the headers between them."""


def init():
    pass


def run(data="nothing", request_headers=None, *, factor=3):
    return [data, factor, sorted(request_headers)[:1] == ["Accept-Encoding"]]
