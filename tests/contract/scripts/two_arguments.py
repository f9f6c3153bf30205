"""Undecorated, with a second parameter that nothing fills: every request fails in the script."""


def init():
    pass


def run(data, other):
    return [data, other]
