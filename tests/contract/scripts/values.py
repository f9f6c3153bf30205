"""Answers whatever Python value the request names."""

import datetime
import decimal
import json


def init():
    global VALUES
    circle = []
    circle.append(circle)
    VALUES = {
        "none": None,
        "true": True,
        "false": False,
        "int": 2**80,
        "float": 0.1 + 0.2,
        "tiny": 5e-324,
        "nan": float("nan"),
        "inf": [float("inf"), -float("inf")],
        "empty_str": "",
        "str": 'a "quoted" text\n',
        "unicode": "größer – 日本 🦊 \u2028",
        "surrogate": "\ud800",
        "dict": {"b": [1, 2.0, None], "a": {"ü": ()}},
        "keys": {2: "int", None: "none", True: "bool", 1.5: "float"},
        "tuple": (1, (2,)),
        "list": [],
        "bytes": b"abc",
        "set": {1},
        "decimal": decimal.Decimal("1.5"),
        "datetime": datetime.datetime(2020, 1, 1),
        "object": object(),
        "tuple_key": {(1, 2): 3},
        "circle": circle,
        "generator": (n for n in range(3)),
        "big": [0.5] * 20000,
    }


def run(data):
    asked = json.loads(data)
    return VALUES[asked["value"]] if isinstance(asked, dict) else asked
