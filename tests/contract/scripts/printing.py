"""print() in all its forms; none may reach the answer."""

import contextlib
import io
import os
import sys


def init():
    print("from init")


def run(data):
    print("two", "words", sep="-", end="!")
    print("to stderr", file=sys.stderr)
    print("lines\nof text", flush=True)
    sys.stdout.write("without print\n")
    sys.stdout.buffer.write(b"\xff\xfe binary\n")
    os.write(1, b"descriptor 1\n")
    text = io.StringIO()
    print("kept", file=text)
    redirected = io.StringIO()
    with contextlib.redirect_stdout(redirected):
        print("redirected")
    return [text.getvalue(), redirected.getvalue()]
