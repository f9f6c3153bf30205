"""sys.exit() in run()."""

import sys


def init():
    pass


def run(data):
    if data.startswith("exit"):
        sys.exit(data[4:] or None)
    return "still here"
