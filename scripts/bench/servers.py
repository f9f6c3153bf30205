"""Starting, asking and stopping the servers under comparison; everything stays on the loopback interface."""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import os
import shlex
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

POLL_SECONDS = 0.01


class BenchError(Exception):
    """A reason to stop, worded for the person at the terminal."""


@dataclass
class Server:
    """A server to measure: started by `command`, or already running at `url` (and then perhaps as `pid`)."""

    name: str
    path: str
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    command: str | None = None
    environment: dict[str, str] = field(default_factory=dict)
    url: str | None = None
    pid: int | None = None


@dataclass(frozen=True)
class Running:
    """A server that answers: where, as which process, and how long it took to get there."""

    server: Server
    host: str
    port: int
    path: str
    pid: int | None
    startup_seconds: float | None
    answer: bytes

    @property
    def url(self) -> str:
        """What the load generator is given."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}{self.path}"


def post(host: str, port: int, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
    """One scoring request on a connection of its own."""
    connection = http.client.HTTPConnection(host, port, timeout=30)
    try:
        connection.request("POST", path, body, {"Content-Type": "application/json", **headers})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def free_port() -> int:
    """A port that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def loopback_address(url: str) -> tuple[str, int, str]:
    """Splits a URL, and refuses any that leaves this machine: load belongs only on one's own servers."""
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname or parts.port is None:
        raise BenchError(f"{url}: expected http://127.0.0.1:PORT/PATH")
    host = "127.0.0.1" if parts.hostname == "localhost" else parts.hostname
    try:
        is_loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_loopback = False
    if not is_loopback:
        raise BenchError(f"{url}: only loopback addresses are measured")
    return host, parts.port, parts.path or "/"


def filled(word: str, values: dict[str, str]) -> str:
    """A word of a command with its placeholders filled in; other braces (JSON, say) stay as they are."""
    for name, value in values.items():
        word = word.replace(f"{{{name}}}", value)
    return word


def wait_for_answer(server: Server, port: int, process: subprocess.Popen[bytes], limit: float) -> tuple[float, bytes]:
    """Asks every 10 ms until the first successful score; returns the seconds since now, and the answer."""
    started = time.monotonic()
    last = "no answer"
    while (waited := time.monotonic() - started) < limit:
        if process.poll() is not None:
            raise BenchError(f"{server.name}: ended with status {process.returncode} before it answered")
        try:
            status, answer = post("127.0.0.1", port, server.path, server.body, server.headers)
        except (OSError, http.client.HTTPException) as error:
            last = str(error)
        else:
            if status == 200:
                return time.monotonic() - started, answer
            last = f"status {status}: {answer[:300].decode(errors='replace')}"
        time.sleep(POLL_SECONDS)
    raise BenchError(f"{server.name}: no successful score within {waited:.0f} s ({last})")


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ends a server that this program started, with all it started: asks first, then insists."""
    for number, patience in ((signal.SIGTERM, 5), (signal.SIGKILL, 5)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)
            return


@contextlib.contextmanager
def started(server: Server, values: dict[str, str], limit: float) -> Iterator[Running]:
    """Runs a server for the length of a `with` block, from the first answer on."""
    if server.url is not None:
        host, port, path = loopback_address(server.url)
        try:
            status, answer = post(host, port, path, server.body, server.headers)
        except OSError as error:
            raise BenchError(f"{server.name}: {server.url}: {error}") from error
        if status != 200:
            raise BenchError(f"{server.name}: {server.url} answers {status}: {answer[:300].decode(errors='replace')}")
        yield Running(server, host, port, path, server.pid, None, answer)
        return

    port = free_port()
    words = [filled(word, {**values, "port": str(port)}) for word in shlex.split(server.command or "")]
    # A file, as a container's log is one: a pipe would have to be drained, and that would cost time here.
    with tempfile.TemporaryFile() as log:
        try:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **server.environment},
                start_new_session=True,
            )
        except OSError as error:
            raise BenchError(f"{server.name}: cannot start {words[0]}: {error.strerror}") from error
        try:
            try:
                seconds, answer = wait_for_answer(server, port, process, limit)
            except BenchError as error:
                log.seek(0)
                tail = log.read()[-2000:].decode(errors="replace")
                raise BenchError(f"{error}\n--- the end of its log:\n{tail}") from error
            yield Running(server, "127.0.0.1", port, server.path, process.pid, seconds, answer)
        finally:
            stop(process)
