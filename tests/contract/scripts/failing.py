"""Exceptions of every sort."""

import asyncio


class OwnError(Exception):
    def __str__(self):
        raise RuntimeError("not even a message")


def init():
    pass


def run(data):
    if data == "value":
        raise ValueError("secret detail")
    if data == "key":
        return {}["missing"]
    if data == "own":
        raise OwnError
    if data == "deep":
        return run(data)
    if data == "timeout":
        raise TimeoutError("of the script's own")
    if data == "async":
        return asyncio.run(asyncio.sleep(0, "slept"))
    if data == "coroutine":
        return asyncio.sleep(0)
    if data == "stop":
        raise StopIteration
    if data == "group":
        try:
            raise ValueError("first")
        except ValueError as error:
            raise KeyError("second") from error
    return "fine"
