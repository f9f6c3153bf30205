"""A generated driver: it writes swagger.json in init() and wraps another module's run()."""

import json
import os

import driven as driver_module


def init():
    driver_module.init()
    with open(os.path.join(os.environ["AML_APP_ROOT"], "swagger.json"), "w") as file:
        json.dump({"swagger": "2.0", "info": {"title": "the driver's"}, "ü": 1.50}, file)


def run(data):
    raise AssertionError("the driven module's run() is to be called")
