"""Speaks the worker protocol with one worker process, as the host does."""

import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

RUNTIME = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "src", "script", "python")

READY, FAILED, ANSWER = 1, 2, 3
RUN_FAILED, HAS_EXEC_MS, WORKER_ENDS, TIMED_OUT, NO_RUN_FAILED = 1, 2, 4, 8, 16


class Answer(NamedTuple):
    """An answer frame."""

    id: int
    status: int
    flags: int
    exec_ms: float
    headers: List[Tuple[str, str]]
    body: bytes

    @property
    def message(self) -> Any:
        """The message of an error."""
        return json.loads(self.body)["message"]


def head(method: str = "POST", query: str = "", headers: Any = (), path: str = "/score") -> Dict[str, Any]:
    """A request's head."""
    return {
        "method": method,
        "path": path,
        "query": query,
        "headers": [[name, value] for name, value in headers],
        "remote": "127.0.0.1",
    }


def request(
    request_id: int, body: bytes, about: Optional[Dict[str, Any]] = None, timeout_ms: int = 0
) -> bytes:
    """A request frame."""
    about_bytes = json.dumps(about).encode() if about else b""
    rest = struct.pack("<BQII", 1, request_id, timeout_ms, len(about_bytes)) + about_bytes + body
    return struct.pack("<I", len(rest)) + rest


class Worker:
    """A worker process; stdout and stderr go to one file, which `log` reads."""

    def __init__(
        self,
        app_root: str,
        entry_script: Optional[str],
        environment: Optional[Dict[str, str]] = None,
        python: str = sys.executable,
    ):
        self.socket, theirs = socket.socketpair()
        self.socket.settimeout(60)
        self._log = tempfile.TemporaryFile()
        variables = {
            **os.environ,
            "AML_APP_ROOT": app_root,
            "TRISCORE_WORKER_FD": str(theirs.fileno()),
            "PYTHONPATH": os.path.join(RUNTIME, "shims"),
            **(environment or {}),
        }
        if entry_script:
            variables["AZUREML_ENTRY_SCRIPT"] = entry_script
        with theirs:
            self.process = subprocess.Popen(
                [python, "-u", os.path.join(RUNTIME, "triscore_worker.py")],
                cwd=app_root,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                pass_fds=(theirs.fileno(),),
            )

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_reason: Any) -> None:
        self.socket.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._log.close()

    @property
    def log(self) -> str:
        """All that the worker has written."""
        self._log.seek(0)
        return self._log.read().decode()

    def frame(self) -> Tuple[int, bytes]:
        """The next frame's kind and the rest of it."""
        (length,) = struct.unpack("<I", self._exactly(4))
        frame = self._exactly(length)
        return frame[0], frame[1:]

    def message(self, kind: int) -> Any:
        """The next frame, which must be of that kind, as JSON."""
        got, rest = self.frame()
        if got != kind:
            raise AssertionError(f"expected a frame of kind {kind}, got {got}: {rest!r}")
        return json.loads(rest)

    def answer(self) -> Answer:
        """The next frame, which must be an answer."""
        kind, rest = self.frame()
        if kind != ANSWER:
            raise AssertionError(f"expected an answer, got a frame of kind {kind}: {rest!r}")
        request_id, status, flags, exec_ms, head_bytes = struct.unpack_from("<QHBdI", rest)
        at = struct.calcsize("<QHBdI")
        headers = (
            json.loads(rest[at : at + head_bytes]) if head_bytes else [["Content-Type", "application/json"]]
        )
        return Answer(
            request_id, status, flags, exec_ms, [tuple(h) for h in headers], rest[at + head_bytes :]
        )

    def ask(self, body: bytes, about: Optional[Dict[str, Any]] = None, timeout_ms: int = 0) -> Answer:
        """One request, one answer."""
        self.socket.sendall(request(7, body, about, timeout_ms))
        return self.answer()

    def _exactly(self, count: int) -> bytes:
        parts = bytearray(count)
        view = memoryview(parts)
        while view:
            received = self.socket.recv_into(view)
            if received == 0:
                raise EOFError(f"the worker closed its end; its log:\n{self.log}")
            view = view[received:]
        return bytes(parts)
