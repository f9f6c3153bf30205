"""The first entry script of the walk-through: sends back what came in."""

import json


def init():
    """Called once in every worker; there is nothing to load."""
    print("This is init")


def run(data):
    """Called for every request with the body's text."""
    return f"test is {json.loads(data)}"
