"""What driver.py drives."""

STATE = []


def init():
    STATE.append("initialised")


def run(data):
    return [*STATE, data]
