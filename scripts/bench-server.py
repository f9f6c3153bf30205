#!/usr/bin/env python3
"""Compares scoring servers on this machine: the Azure ML inference server, and any other started by a command.

Every server gets the same model and the same JSON request. Rounds are interleaved (each round visits every server at
every number of connections), so that a busy moment of the machine hits all of them. Reported are requests per second,
latency, CPU time per request of the server's whole process tree, memory, and the time from start to the first score.

    scripts/setup-python.sh bench
    scripts/bench-server.py                                          # the Azure ML server alone
    scripts/bench-server.py --server 'triscore=target/release/triscore serve {model} --port {port}'
    scripts/bench-server.py --url 'mine=http://127.0.0.1:8080/score' --pid mine=4711

In a command, {port}, {model} and {model_dir} are filled in. Only loopback addresses are measured. The load generator
is wrk (closed loop: each connection sends its next request when it has its answer); it runs on the same cores as the
server, so ratios between very fast servers are smaller than they would be on two machines. CPU time per request does
not have that flaw.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench import processes
from bench.report import report
from bench.servers import BenchError, Running, Server, started

ROOT = Path(__file__).resolve().parent.parent
HELPERS = ROOT / "scripts" / "bench"
VENV_PYTHON = ROOT / ".venv" / "bin" / "python"
LONGEST_RUN_SECONDS = 3600

# How far the numbers in two servers' answers may lie apart before the comparison is called unfair.
ANSWER_TOLERANCE = 1e-3


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    summary, _, details = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", type=Path, default=ROOT / "models/digits_mlp/model.onnx", help="the ONNX file to serve")
    add(
        "--body",
        action="append",
        default=[],
        metavar="[NAME=]FILE",
        help="request body; default: request.json beside the model",
    )
    add("--server", action="append", default=[], metavar="NAME=COMMAND", help="a server to start (repeatable)")
    add("--url", action="append", default=[], metavar="NAME=URL", help="a server that already runs (repeatable)")
    add(
        "--pid",
        action="append",
        default=[],
        metavar="NAME=PID",
        help="the process of a --url server, for CPU and memory",
    )
    add("--path", action="append", default=[], metavar="[NAME=]PATH", help="where to POST; default: /score")
    add("--header", action="append", default=[], metavar="[NAME=]HEADER: VALUE", help="a header to send, such as a key")
    add("--env", action="append", default=[], metavar="NAME=VARIABLE=VALUE", help="an environment variable of a server")
    add("--no-azureml", action="store_true", help="leave the Azure ML server out")
    add("--azureml-workers", type=int, default=1, help="its worker processes (default: 1, as it ships)")
    add(
        "--azureml-threads",
        type=int,
        default=0,
        help="ONNX Runtime threads in each worker (default: 0, its own choice)",
    )
    add("--connections", default="1,8,64", help="numbers of connections (default: 1,8,64)")
    add("--rounds", type=int, default=3, help="rounds of measuring (default: 3)")
    add("--seconds", type=int, default=5, help="length of each measurement (default: 5)")
    add("--warmup", type=int, default=1, help="seconds of load on each server before the first round (default: 1)")
    add("--starts", type=int, default=3, help="times that each server is started to measure that (default: 3)")
    add("--start-limit", type=float, default=60, help="seconds that a start may take (default: 60)")
    add("--json", type=Path, metavar="FILE", help="write every measurement there")
    return parser.parse_args()


def named(options: list[str], what: str) -> dict[str, str]:
    """NAME=VALUE options as a table."""
    table = {}
    for option in options:
        name, equals, value = option.partition("=")
        if not (name and equals and value):
            raise BenchError(f"{what} {option!r}: expected NAME=...")
        if name in table:
            raise BenchError(f"{what}: the name {name!r} is used twice")
        table[name] = value
    return table


def chosen(options: list[str], name: str, names: set[str], default: str | None) -> str | None:
    """The value meant for one server among [NAME=]VALUE options: its own first, then the common one."""
    common = default
    for option in options:
        prefix, equals, value = option.partition("=")
        if equals and prefix == name:
            return value
        if not (equals and prefix in names):
            common = option
    return common


def servers_of(arguments: argparse.Namespace) -> list[Server]:
    """The servers to compare; the first one is what the others are measured against."""
    commands, urls = named(arguments.server, "--server"), named(arguments.url, "--url")
    pids = named(arguments.pid, "--pid")
    environments: dict[str, dict[str, str]] = {}
    for option in arguments.env:
        name, _, assignment = option.partition("=")
        variable, equals, value = assignment.partition("=")
        if not equals:
            raise BenchError(f"--env {option!r}: expected NAME=VARIABLE=VALUE")
        environments.setdefault(name, {})[variable] = value
    if not arguments.no_azureml:
        commands = {"azureml": azureml_command(arguments), **commands}
        fixed = {"BENCH_MODEL": str(arguments.model), "BENCH_THREADS": str(arguments.azureml_threads)}
        environments["azureml"] = {**fixed, **environments.get("azureml", {})}
    names = set(commands) | set(urls)
    if len(names) < len(commands) + len(urls):
        raise BenchError("--server and --url: two servers have the same name")
    if unknown := (set(pids) | set(environments)) - names:
        raise BenchError(f"no server is called {', '.join(sorted(unknown))}")

    def path_of(name: str) -> str | None:
        # The Azure ML server has only this path; a path for all is meant for the others.
        return None if name == "azureml" else chosen(arguments.path, name, names, None)

    def describe(name: str) -> Server:
        body_file = Path(chosen(arguments.body, name, names, str(arguments.model.parent / "request.json")) or "")
        try:
            body = body_file.read_bytes()
        except OSError as error:
            raise BenchError(f"cannot read the request body {body_file}: {error.strerror} (see --body)") from error
        headers = {}
        for option in arguments.header:
            if text := chosen([option], name, names, None):
                key, _, value = text.partition(":")
                headers[key.strip()] = value.strip()
        return Server(
            name=name,
            path=path_of(name) or "/score",
            body=body,
            headers=headers,
            command=commands.get(name),
            environment=environments.get(name, {}),
            url=urls.get(name),
            pid=int(pids[name]) if name in pids else None,
        )

    servers = [describe(name) for name in [*commands, *urls]]
    if not servers:
        raise BenchError("nothing to measure: give --server or --url, or leave --no-azureml out")
    return servers


def azureml_command(arguments: argparse.Namespace) -> str:
    """How the Azure ML inference server is started."""
    check = [str(VENV_PYTHON), "-c", "import azureml_inference_server_http"]
    if not VENV_PYTHON.exists() or subprocess.run(check, capture_output=True, check=False).returncode != 0:
        raise BenchError("the Azure ML inference server is not installed: run scripts/setup-python.sh bench")
    words = [VENV_PYTHON, HELPERS / "azureml_server.py", "--entry_script", HELPERS / "score.py"]
    return shlex.join(map(str, words)) + f" --port {{port}} --worker_count {arguments.azureml_workers}"


def generate_load(running: Running, body_file: Path, connections: int, seconds: int) -> dict[str, Any]:
    """One run of wrk against one server, with the CPU time that the server spent meanwhile."""
    command = ["wrk", "--threads", "1", "--connections", str(connections), "--duration", f"{seconds}s"]
    for key, value in running.server.headers.items():
        command += ["--header", f"{key}: {value}"]
    command += ["--timeout", "10s", "--script", str(HELPERS / "post.lua"), running.url, "--", str(body_file)]
    before = processes.cpu_seconds(running.pid) if running.pid else None
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60, check=False)
    results = [line.removeprefix("RESULT ") for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if done.returncode != 0 or not results:
        raise BenchError(f"wrk failed on {running.server.name}: {done.stderr.strip() or done.stdout.strip()}")
    result = json.loads(results[0])
    result["requests_per_second"] = result["requests"] / result["seconds"]
    if running.pid and before is not None:
        spent = processes.cpu_seconds(running.pid) - before
        result["cpu_us_per_request"] = spent * 1e6 / max(result["requests"], 1)
    return result


def numbers(answer: bytes) -> list[float]:
    """Every number of a JSON answer, in order: answers of different shape can still be compared."""
    found: list[float] = []

    def walk(value: object) -> None:
        if isinstance(value, dict):
            for item in value.values():
                walk(item)
        elif isinstance(value, list):
            for item in value:
                walk(item)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found.append(float(value))

    walk(json.loads(answer))
    return found


def disagreement(first: Running, other: Running) -> str | None:
    """Why two servers' answers to the request are not the same, or None."""
    try:
        expected, got = numbers(first.answer), numbers(other.answer)
    except ValueError:
        return f"{other.server.name} or {first.server.name} does not answer with JSON"
    if len(expected) != len(got):
        return f"{other.server.name} answers with {len(got)} numbers, {first.server.name} with {len(expected)}"
    far = max((abs(a - b) / max(abs(a), 1) for a, b in zip(expected, got, strict=True)), default=0.0)
    return None if far <= ANSWER_TOLERANCE else f"{other.server.name} answers other numbers than {first.server.name}"


def first_line(command: list[str]) -> str:
    """The first line that a program prints, for the record."""
    with contextlib.suppress(OSError):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return (done.stdout + done.stderr).strip().partition("\n")[0]
    return ""


def processor() -> str:
    """The processor's name."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def measure(servers: list[Server], arguments: argparse.Namespace, connections: list[int]) -> dict[str, Any]:
    """Starts, warms, measures: the whole comparison as one record."""
    values = {"model": str(arguments.model), "model_dir": str(arguments.model.parent)}
    limit = arguments.start_limit
    record: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": {"processor": processor(), "cores": os.cpu_count(), "kernel": platform.release()},
        "load_average_before": os.getloadavg()[0],
        "wrk": first_line(["wrk", "--version"]),
        "model": str(arguments.model),
        "settings": {"rounds": arguments.rounds, "seconds": arguments.seconds, "connections": connections},
        "azureml": None
        if arguments.no_azureml
        else {"workers": arguments.azureml_workers, "threads": arguments.azureml_threads},
        "warnings": [],
        "servers": {
            server.name: {"command": server.command or server.url, "starts": [], "load": []} for server in servers
        },
    }
    if record["load_average_before"] > 0.25 * (os.cpu_count() or 1):
        record["warnings"].append("the machine was busy with other work before this began: trust ratios, not rates")
    entries = record["servers"]
    for _ in range(arguments.starts - 1):
        for server in servers:
            if server.command:
                with started(server, values, limit) as running:
                    entries[server.name]["starts"].append(running.startup_seconds)

    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        all_running = [stack.enter_context(started(server, values, limit)) for server in servers]
        body_files = {}
        for running in all_running:
            name = running.server.name
            entries[name]["body_bytes"] = len(running.server.body)
            if running.startup_seconds is not None:
                entries[name]["starts"].append(running.startup_seconds)
            if running.pid:
                entries[name]["memory_idle"] = asdict(processes.memory(running.pid))
            body_files[name] = folder / name
            body_files[name].write_bytes(running.server.body)
            if reason := disagreement(all_running[0], running):
                record["warnings"].append(reason)
        if arguments.warmup:
            for running in all_running:
                generate_load(running, body_files[running.server.name], 8, arguments.warmup)
        for number in range(arguments.rounds):
            for count in connections:
                for running in all_running:
                    name = running.server.name
                    progress(f"round {number + 1} of {arguments.rounds}, {count} connections: {name}")
                    result = generate_load(running, body_files[name], count, arguments.seconds)
                    entries[name]["load"].append({"round": number, "connections": count, **result})
        progress("")
        for running in all_running:
            if running.pid:
                entries[running.server.name]["memory_after"] = asdict(processes.memory(running.pid))
    record["load_average_after"] = os.getloadavg()[0]
    return record


def progress(text: str) -> None:
    """A line that is written over by the next, for a person who waits."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def main() -> None:
    """Checks what is asked for, measures, reports."""
    arguments = parse_arguments()
    try:
        connections = [int(text) for text in arguments.connections.split(",")]
        if min(connections) < 1 or arguments.rounds < 1 or arguments.seconds < 1 or arguments.starts < 1:
            raise ValueError
    except ValueError:
        sys.exit("bench-server: --connections, --rounds, --seconds and --starts take whole numbers above 0")
    arguments.model = arguments.model.resolve()
    # So that a time limit from outside unwinds this program, and with it every server that it started.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        if not arguments.model.is_file():
            raise BenchError(f"there is no model file {arguments.model}")
        if shutil.which("wrk") is None:
            raise BenchError("wrk is not installed (Debian, Ubuntu: apt-get install wrk)")
        servers = servers_of(arguments)
        expected = len(servers) * (len(connections) * arguments.rounds * arguments.seconds + arguments.warmup)
        if expected > LONGEST_RUN_SECONDS:
            raise BenchError(f"that would take {expected} s of load, more than {LONGEST_RUN_SECONDS}")
        print(f"about {expected} s of load", file=sys.stderr)
        record = measure(servers, arguments, connections)
    except BenchError as error:
        sys.exit(f"bench-server: {error}")
    print(report(record, connections))
    if arguments.json:
        arguments.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    failed = any(run["non_2xx"] for entry in record["servers"].values() for run in entry["load"])
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
