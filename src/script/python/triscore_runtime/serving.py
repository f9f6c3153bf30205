"""Requests in, answers out: what a status, a header and a body are for everything that run() may do."""

import json
import os
import sys
import time
from contextlib import ExitStack
from typing import Any, Dict, NamedTuple

from . import inputs, logs, wire
from .alarm import Alarm, ScoringTimeout
from .inputs import Refused
from .script import RAW_HTTP, SCHEMA, STRING, Script, user_traceback

_SCRIPT_FAILED = "An unexpected error occurred in scoring script. Check the logs for more info."
_INTERNAL_ERROR = "An unexpected internal error occurred. Check the logs for more info."
_DEFAULT_TIMEOUT_MS = "3600000"

# What an answer to OPTIONS carries: an empty page.
_HTML_HEAD = b'[["Content-Type", "text/html; charset=utf-8"]]'
# The host leaves the head of a POST out unless it was asked for.
_PLAIN_POST: Dict[str, Any] = {"method": "POST"}


class Answer(NamedTuple):
    """An answer to be: see wire.Channel.answer."""

    status: int
    flags: int
    exec_ms: float
    body: bytes
    head: bytes = b""


class Server:
    """Answers the host's requests with one script."""

    def __init__(self, channel: wire.Channel, script: Script, swagger: Dict[str, str]):
        self._channel = channel
        self._script = script
        self._swagger = swagger
        self._alarm = Alarm()
        self._first = script.parameters[0].name
        self._bridge: Any = self._new_bridge() if "flask" in sys.modules else None
        #: What this process ends with, once it has to.
        self._exit_code: Any = None

    def run(self) -> Any:
        """Answers until the host closes its end, or the script ends the process; what to exit with."""
        script = self._script
        needs_head = script.mode != STRING or script.wants_headers or self._bridge is not None
        logs.LOGGER.info("Worker with pid %d is ready", os.getpid())
        send = self._channel.answer
        try:
            self._channel.ready(
                {
                    "pid": os.getpid(),
                    "mode": script.mode,
                    "needs_head": needs_head,
                    "has_schema": script.has_schema,
                    "python": ".".join(map(str, sys.version_info[:3])),
                    "swagger": self._swagger,
                }
            )
            for request in self._channel.requests():
                status, flags, exec_ms, body, head = self._answered(request)
                try:
                    send(request.id, status, flags, exec_ms, body, head)
                except ValueError as error:
                    status, flags, exec_ms, body, head = self._internal_error(error)
                    send(request.id, status, flags, exec_ms, body, head)
                if flags & wire.WORKER_ENDS:
                    return self._exit_code
                # They may be large, and the next request may be long in coming.
                del request, body, head
        except ConnectionError:
            pass  # the host has left and needs no answers
        finally:
            self._channel.close()
        return 0

    def _answered(self, request: wire.Request) -> Answer:
        try:
            if not request.head:
                if self._bridge is None:
                    return self._called(
                        {self._first: inputs.text_of(request.body)}, request.timeout_ms, "POST"
                    )
                return self._with_head(_PLAIN_POST, request)
            return self._with_head(json.loads(bytes(request.head)), request)
        except Refused as refusal:
            return _error(refusal.status, refusal.message)
        except Exception as error:
            return self._internal_error(error)

    def _with_head(self, head: Dict[str, Any], request: wire.Request) -> Answer:
        script, method = self._script, head["method"]
        with ExitStack() as context:
            flask_request = None
            if self._bridge is not None:
                flask_request = context.enter_context(self._bridge.context(head, request.body))
            if script.mode == RAW_HTTP:
                values = {self._first: flask_request}
            elif method == "GET":
                values = inputs.query_values(head)
                if script.mode == SCHEMA:
                    values = inputs.arguments(script.parameters, values)
                else:
                    values = {self._first: json.dumps(values)}
            elif method == "OPTIONS":
                return Answer(200, 0, 0.0, b"", _HTML_HEAD)
            elif method != "POST":
                return _error(405, "Method not allowed")
            elif script.mode == SCHEMA:
                values = inputs.arguments(script.parameters, inputs.json_object(head, request.body))
            else:
                values = {self._first: inputs.text_of(request.body)}
            if script.wants_headers:
                values["request_headers"] = inputs.headers(head)
            return self._called(values, request.timeout_ms, method)

    def _called(self, arguments: Dict[str, Any], timeout_ms: int, method: str) -> Answer:
        """Calls run(), in time, and makes an answer of what it returns or raises."""
        run, alarm = self._script.run, self._alarm
        begin = time.perf_counter()
        try:
            if timeout_ms:
                try:
                    alarm.arm(timeout_ms)
                    result = run(**arguments)
                finally:
                    alarm.disarm()
            else:
                result = run(**arguments)
            exec_ms = (time.perf_counter() - begin) * 1e3
        except ScoringTimeout as error:
            logs.LOGGER.error("run() took longer than it may. %s", user_traceback(error))
            return _error(504, self._timeout_message(), wire.RUN_FAILED | wire.TIMED_OUT)
        except TimeoutError as error:
            # The script's own: told from the server's neither there nor, therefore, here.
            logs.LOGGER.error("Encountered Exception: %s", user_traceback(error))
            return _error(500, self._timeout_message(), wire.RUN_FAILED)
        except Exception as error:
            logs.LOGGER.error("Encountered Exception: %s", user_traceback(error))
            return _error(500, _SCRIPT_FAILED, wire.RUN_FAILED)
        except BaseException as error:
            logs.LOGGER.error("run() ended its process. %s", user_traceback(error))
            self._exit_code = error.code if isinstance(error, SystemExit) else 1
            return _error(500, _SCRIPT_FAILED, wire.RUN_FAILED | wire.WORKER_ENDS)

        flask: Any = sys.modules.get("flask")
        if flask is not None and isinstance(result, flask.Response):
            bridge = self._bridge or self._new_bridge()
            status, flags, head, body = bridge.finished(result, method)
            return Answer(status, flags | wire.HAS_EXEC_MS, exec_ms, body, head)
        body = b"{}" if result is None else json.dumps(result).encode()
        return Answer(200, wire.HAS_EXEC_MS, exec_ms, body)

    @staticmethod
    def _new_bridge() -> Any:
        from . import flask_bridge

        return flask_bridge.Bridge()

    @staticmethod
    def _timeout_message() -> str:
        return f"Scoring timeout after {os.environ.get('SCORING_TIMEOUT_MS', _DEFAULT_TIMEOUT_MS)} ms"

    @staticmethod
    def _internal_error(error: Exception) -> Answer:
        logs.LOGGER.error("Encountered Exception: %s", user_traceback(error))
        return _error(500, _INTERNAL_ERROR)


def _error(status: int, message: str, flags: int = 0) -> Answer:
    return Answer(status, flags, 0.0, json.dumps({"message": message}).encode())
