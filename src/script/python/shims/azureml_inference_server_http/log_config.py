"""The names that a logging.json written for the Azure ML inference server refers to."""

import logging

from triscore_runtime.logs import Formatter as AMLLogFormatter

__all__ = ["AMLLogFormatter", "RootAccessFilter"]


class RootAccessFilter(logging.Filter):
    """Keeps health checks out of the log."""

    def filter(self, record: logging.LogRecord) -> bool:
        return "GET / HTTP/1.1" not in record.getMessage()
