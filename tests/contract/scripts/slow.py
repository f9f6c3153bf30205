"""Longer than the scoring timeout, which is 500 ms for this script."""

import time


def init():
    pass


def run(data):
    if data == "sleep":
        time.sleep(30)
    if data == "spin":
        while True:
            pass
    if data == "late":
        time.sleep(0.2)
    return "in time"
