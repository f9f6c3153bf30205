"""What the worker writes: lines on stdout, as the Azure ML inference server formats them.

`<UTC date and time,ms> <level letter> [pid] <logger> - message`. print() goes there too, as logger
"azmlinfsrv.print". A logging.json beside the application or its entry script replaces the configuration, with
Python's logging.config.dictConfig.
"""

import builtins
import functools
import json
import logging
import logging.config
import os
import sys
import time
from typing import Any, Iterator

from .wire import high_copy

LOGGER = logging.getLogger("azmlinfsrv")
_PRINT_LOGGER = logging.getLogger("azmlinfsrv.print")
_TREE_LINES = 200

_builtin_print = builtins.print


class Formatter(logging.Formatter):
    """The line format above; times are UTC."""

    converter = time.gmtime  # type: ignore[assignment]

    def __init__(
        self,
        fmt: str = "%(asctime)s %(levelname).1s [%(process)d] %(name)s - %(message)s",
        datefmt: Any = None,
        style: Any = "%",
    ):
        super().__init__(fmt, datefmt, style)


class _Handler(logging.StreamHandler):
    """Writes to a copy of stdout: scripts replace and close sys.stdout."""

    def handleError(self, record: logging.LogRecord) -> None:
        """The host no longer reads, or the message cannot be formatted: no reason to fail a request."""


def set_up() -> None:
    """Sets up the logger "azmlinfsrv", print(), and what the script itself writes."""
    for stream in (sys.stdout, sys.stderr):
        # Whatever the locale is: the log is UTF-8, and no text fails to be written.
        stream.reconfigure(encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr]
    out = open(high_copy(1), "w", encoding="utf-8", errors="backslashreplace")
    handler = _Handler(out)
    handler.setFormatter(Formatter())
    LOGGER.setLevel(logging.INFO)
    LOGGER.handlers = [handler]
    LOGGER.propagate = False
    builtins.print = _print


def load_configuration(*folders: str) -> None:
    """Applies the first logging.json in `folders`. Raises ValueError for one that cannot be applied."""
    for folder in folders:
        path = os.path.join(folder, "logging.json")
        if os.path.isfile(path):
            try:
                with open(path, encoding="utf-8") as file:
                    logging.config.dictConfig(json.load(file))
            except Exception as error:
                raise ValueError(f"{path} is no logging configuration: {error}") from error
            LOGGER.info("Logging as %s says", path)
            return


def flush() -> None:
    """Writes out what is still held back."""
    for handler in LOGGER.handlers:
        handler.flush()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):
            pass  # the script closed or replaced it


def log_tree(root: str) -> None:
    """Logs what is in the folder, indented; at most 200 lines."""
    LOGGER.info("Model Directory Contents:")
    for number, line in enumerate(_tree(os.path.normpath(root), "")):
        if number == _TREE_LINES:
            LOGGER.info("Output Truncated. First %d lines shown.", _TREE_LINES)
            return
        LOGGER.info("%s", line)


def _tree(path: str, indent: str) -> Iterator[str]:
    name = indent + os.path.basename(path)
    if not os.path.isdir(path):
        yield name
        return
    yield name + os.sep
    for child in sorted(os.listdir(path)):
        yield from _tree(os.path.join(path, child), indent + "    ")


@functools.wraps(_builtin_print)
def _print(*objects: Any, sep: Any = " ", end: Any = "\n", file: Any = None, flush: bool = False) -> None:
    if file is None or file is sys.stdout:
        # One call is one line of the log, whatever `end` says: requests of several workers mix there.
        _PRINT_LOGGER.info("%s", (" " if sep is None else sep).join(map(str, objects)))
    else:
        _builtin_print(*objects, sep=sep, end=end, file=file, flush=flush)
