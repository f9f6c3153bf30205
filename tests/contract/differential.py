#!/usr/bin/env python3
"""Compares triscore with the Azure ML inference server: the same entry scripts, the same requests.

    scripts/setup-python.sh contract
    .venv/bin/python tests/contract/differential.py \\
        --triscore 'target/debug/triscore serve --ic {ic} --dc {dc} --port {port}'

Status, headers and body have to be equal, byte for byte; what belongs to one server or one moment is left out
(see IGNORED). Prints a line a request and exits 1 if there is a difference that cases.py does not explain.

The command is started once a script, in a folder that holds inferenceconfig.json ({ic}),
deploymentconfig.json ({dc}) and scripts/; {port} and {timeout_ms} are there too. The program's own path is
relative to where you are.
"""

import argparse
import http.client
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from cases import SCRIPTS, Adds, Instead, Row, Script

HERE = os.path.dirname(os.path.abspath(__file__))
START_SECONDS = 120
ANSWER_SECONDS = 30

# Whose server it is, when it answered, how the connection is kept, and how the body is framed on it.
IGNORED = {
    "connection", "content-length", "date", "keep-alive", "server", "transfer-encoding",
    "x-ms-server-version", "x-triscore-device",
}  # fmt: skip
# Fresh ids differ; that they are there and what they look like does not. An id is fresh when none of these
# is sent.
FRESH = {
    "x-request-id": {"x-request-id"},
    "x-ms-request-id": {"x-request-id", "x-ms-request-id", "x-ms-client-request-id"},
}
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
EXEC_MS = re.compile(r"\d+\.\d{3}")

Headers = Dict[str, List[str]]


class Reply(NamedTuple):
    """What a server answered."""

    status: int
    headers: Headers
    body: bytes


class Server:
    """A server process, from its start to its end; what it writes goes to a file."""

    def __init__(self, name: str, command: List[str], folder: str, port: int, environment: Dict[str, str]):
        self.name, self.port = name, port
        self._log_path = os.path.join(folder, f"{name}.log")
        with open(self._log_path, "wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_reason: Any) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    @property
    def log(self) -> str:
        with open(self._log_path, encoding="utf-8", errors="replace") as file:
            return file.read()

    def wait(self) -> None:
        """Waits until it is healthy."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise SystemExit(f"{self.name} ended with {self._process.returncode}:\n{self.log}")
            try:
                if self.ask(Row("", b"", "GET", "/", ())).status == 200:
                    return
            except OSError:
                pass
            time.sleep(0.05)
        raise SystemExit(f"{self.name} is not ready after {START_SECONDS} s:\n{self.log}")

    def ask(self, row: Row) -> Reply:
        """Sends the request as the row has it, adding Host, Accept-Encoding and a length."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=ANSWER_SECONDS)
        try:
            connection.putrequest(row.method, row.path)
            for name, value in row.headers:
                connection.putheader(name, value.encode("latin-1"))
            if row.chunked:
                connection.putheader("Transfer-Encoding", "chunked")
                parts = [row.body[at : at + 30_000] for at in range(0, len(row.body), 30_000)]
                connection.endheaders(iter(parts), encode_chunked=True)
            else:
                if row.body or row.method == "POST":
                    connection.putheader("Content-Length", str(len(row.body)))
                connection.endheaders(row.body or None)
            response = connection.getresponse()
            headers: Headers = {}
            for name, value in response.getheaders():
                headers.setdefault(name.lower(), []).append(value)
            return Reply(response.status, headers, response.read())
        finally:
            connection.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def comparable(reply: Reply, row: Row) -> Reply:
    """The reply without what may differ."""
    sent = {name.lower(): value for name, value in row.headers}
    headers = {}
    for name, values in reply.headers.items():
        if name in IGNORED:
            continue
        if name in FRESH and not sent.keys() & FRESH[name]:
            values = ["<fresh>" if UUID.fullmatch(value) else value for value in values]
        if name == "x-ms-run-fn-exec-ms":
            values = ["<ms>" if EXEC_MS.fullmatch(value) else value for value in values]
        if name == "allow":
            values = [", ".join(sorted(re.split(r",\s*", ",".join(values))))]
        headers[name] = values
    return Reply(reply.status, headers, reply.body)


def differences(reference: Reply, ours: Reply) -> List[str]:
    """What differs, in words."""
    found = []
    if reference.status != ours.status:
        found.append(f"status {ours.status}, expected {reference.status}")
    for name in sorted(reference.headers.keys() | ours.headers.keys()):
        expected, got = reference.headers.get(name), ours.headers.get(name)
        if expected != got:
            found.append(f"header {name} {got}, expected {expected}")
    if reference.body != ours.body:
        found.append(f"body {_shown(ours.body)}, expected {_shown(reference.body)}")
    return found


def _shown(body: bytes) -> str:
    return repr(body if len(body) <= 300 else body[:300] + b"...") + f" ({len(body)} bytes)"


def verdict(row: Row, reference: Reply, ours: Reply) -> Tuple[str, List[str]]:
    """ "equal", "intended" or "DIFFERS", and the differences."""
    expected, got = comparable(reference, row), comparable(ours, row)
    found = differences(expected, got)
    if row.differs is None:
        return ("DIFFERS", found) if found else ("equal", [])
    if isinstance(row.differs, Adds):
        wrong = []
        for name, pattern in row.differs.headers.items():
            values = got.headers.pop(name, None)
            if name in expected.headers or values is None or not re.fullmatch(pattern, ", ".join(values)):
                wrong.append(f"header {name} {values}, expected it here alone and to be like {pattern}")
        wrong += differences(expected, got)
    else:
        wrong = _compared_instead(row.differs, found, ours)
    return ("DIFFERS", wrong) if wrong else ("intended", [row.differs.reason])


def _compared_instead(instead: Instead, found: List[str], ours: Reply) -> List[str]:
    wrong = []
    if not found:
        wrong.append("no difference where one is intended: is the row out of date?")
    if ours.status != instead.status:
        wrong.append(f"status {ours.status}, expected {instead.status}")
    if ours.body != instead.body:
        wrong.append(f"body {_shown(ours.body)}, expected {_shown(instead.body)}")
    for name, value in instead.headers.items():
        got = ours.headers.get(name)
        if got != (None if value is None else [value]):
            wrong.append(f"header {name} {got}, expected {value}")
    return wrong


def laid_out(folder: str, script: Script, python: str) -> Tuple[str, str]:
    """The folder of one deployment: scripts and the two files that describe it."""
    shutil.copytree(os.path.join(HERE, "scripts"), os.path.join(folder, "scripts"))
    ic, dc = os.path.join(folder, "inferenceconfig.json"), os.path.join(folder, "deploymentconfig.json")
    environment = {
        "name": "contract",
        "python": {"userManagedDependencies": True, "interpreterPath": python},
        "environmentVariables": {"SCORING_TIMEOUT_MS": str(script.timeout_ms)},
    }
    with open(ic, "w") as file:
        about = {
            "entryScript": f"{script.name}.py",
            "sourceDirectory": "./scripts",
            "environment": environment,
        }
        json.dump(about, file)
    with open(dc, "w") as file:
        json.dump({"computeType": "local"}, file)
    return ic, dc


def compare(script: Script, template: str, python: str, only: Optional[str]) -> List[Dict[str, Any]]:
    """Starts both servers and asks them; a record a row."""
    rows = [row for row in script.rows if only is None or only in row.name]
    if not rows:
        return []
    with tempfile.TemporaryDirectory(prefix="contract-") as top:
        ours_at, reference_at = os.path.join(top, "triscore"), os.path.join(top, "reference")
        os.mkdir(ours_at)
        os.mkdir(reference_at)
        ic, dc = laid_out(ours_at, script, python)
        laid_out(reference_at, script, python)
        port, reference_port = free_port(), free_port()
        values = {"ic": ic, "dc": dc, "port": port, "timeout_ms": script.timeout_ms}
        command = [part.format(**values) for part in shlex.split(template)]
        if os.path.exists(command[0]):
            command[0] = os.path.abspath(command[0])
        with Server("triscore", command, ours_at, port, {}) as ours:
            ours.wait()
            # Names are the deployment's to choose: the reference takes over what triscore calls the service.
            swagger = json.loads(ours.ask(Row("", b"", "GET", "/swagger.json?version=3.1", ())).body)
            environment = {
                "AML_APP_ROOT": reference_at,
                "AZUREML_SOURCE_DIRECTORY": "scripts",
                "SCORING_TIMEOUT_MS": str(script.timeout_ms),
                "SERVICE_NAME": swagger["info"]["title"],
                "SERVICE_VERSION": swagger["info"]["version"],
                "PYTHONIOENCODING": "utf-8",
            }
            prefix = next(path for path in swagger["paths"] if path.endswith("/score"))[: -len("/score")]
            if prefix:
                environment["SERVICE_PATH_PREFIX"] = prefix
            entry = os.path.join(reference_at, "scripts", f"{script.name}.py")
            azmlinfsrv = [python, "-m", "azureml_inference_server_http"]
            azmlinfsrv += ["--entry_script", entry, "--port", str(reference_port)]
            with Server("reference", azmlinfsrv, reference_at, reference_port, environment) as reference:
                reference.wait()
                return [_record(script, row, reference, ours) for row in rows]


def _record(script: Script, row: Row, reference: Server, ours: Server) -> Dict[str, Any]:
    expected = reference.ask(row)
    try:
        word, found = verdict(row, expected, ours.ask(row))
    except (OSError, http.client.HTTPException) as error:
        word, found = "DIFFERS", [f"no answer from triscore: {error!r}"]
    return {"script": script.name, "request": row.name, "verdict": word, "differences": found}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--triscore", required=True, metavar="COMMAND", help="how triscore is started")
    parser.add_argument(
        "--python", default=sys.executable, help="the interpreter of both (default: this one)"
    )
    parser.add_argument("--script", action="append", help="only this script; may be given more than once")
    parser.add_argument("--request", help="only requests with this in their name")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()
    unknown = set(arguments.script or ()) - {script.name for script in SCRIPTS}
    if unknown:
        parser.error(f"there is no script {', '.join(sorted(unknown))}")

    records: List[Dict[str, Any]] = []
    for script in SCRIPTS:
        if arguments.script and script.name not in arguments.script:
            continue
        found = compare(script, arguments.triscore, arguments.python, arguments.request)
        records += found
        if not arguments.json:
            for record in found:
                print(f"{record['script']:16} {record['request']:26} {record['verdict']}", flush=True)
                for line in record["differences"]:
                    print(f"{'':20}{line}", flush=True)
    counts = {word: sum(r["verdict"] == word for r in records) for word in ("equal", "intended", "DIFFERS")}
    if arguments.json:
        json.dump({"counts": counts, "requests": records}, sys.stdout, indent=2)
        print()
    else:
        print(f"{len(records)} requests: " + ", ".join(f"{count} {word}" for word, count in counts.items()))
    if not records:
        print("nothing was compared", file=sys.stderr)
        return 1
    return 1 if counts["DIFFERS"] else 0


if __name__ == "__main__":
    sys.exit(main())
