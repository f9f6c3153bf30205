#!/usr/bin/env python3
"""Runs a walk-through as a reader would, and compares what is printed with what the document says.

Every ```console block is run, in order, in one shell: lines that begin with `$ ` are commands, the lines below are
the output to expect, standard error included. `…` in them stands for anything, of any length. A command must succeed
unless its expected output holds `error:`, and then it must fail. A block marked `unless=PATH` is left out where PATH
exists.

    python3 tests/tutorial.py           # models/tutorial.md, with `triscore` from the PATH
    python3 tests/tutorial.py --triscore target/debug/triscore
    python3 tests/tutorial.py --list    # only shows what would be run

Services and models live in a temporary home, and what was started is deleted, whatever happens. Needs nothing but Python.
"""

from __future__ import annotations

import argparse
import os
import queue
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass
class Step:
    """A command with the place where it stands and the output to expect."""

    line: int
    command: str
    expected: list[str] = field(default_factory=list)


class TutorialError(Exception):
    """The document or the program is wrong; the message says what."""


def steps_of(text: str) -> list[Step]:
    """The commands of a document, in order."""
    steps: list[Step] = []
    inside = skipping = False
    first_of_block = 0
    for number, line in enumerate(text.splitlines(), 1):
        fence = re.fullmatch(r"```(\S*)(?: unless=(\S+))?", line)
        if fence and not inside:
            inside = True
            skipping = fence[1] != "console" or bool(fence[2] and Path(fence[2]).exists())
            first_of_block = len(steps)
        elif fence:
            inside = False
        elif inside and not skipping:
            if line.startswith("$ "):
                steps.append(Step(number, line[2:]))
            elif len(steps) == first_of_block:
                raise TutorialError(f"line {number}: a console block begins with output: expected a line '$ command'")
            else:
                steps[-1].expected.append(line)
    if inside:
        raise TutorialError("the last block is not closed")
    if not steps:
        raise TutorialError("there is no console block in it")
    return steps


def normal(text: str) -> str:
    """Without blanks at the ends of lines and of the text."""
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def matches(expected: str, got: str) -> bool:
    """Whether an output is the expected one; `…` is anything, and alone in a line any lines or none."""
    pattern = ""
    for i, line in enumerate(normal(expected).split("\n")):
        if line == "…":
            pattern += r"(?:\n.*)?" if i else r"(?:.*(?:\n|$))?"
            continue
        if i and not pattern.endswith(r"\n|$))?"):
            pattern += r"\n"
        pattern += ".*".join(re.escape(piece) for piece in line.split("…"))
    return re.fullmatch(pattern, normal(got), re.DOTALL) is not None


class Shell:
    """One bash that keeps its folder and its variables from command to command."""

    def __init__(self, environment: dict[str, str], limit_s: float) -> None:
        self.limit_s = limit_s
        self._process = subprocess.Popen(
            ["bash", "--norc", "--noprofile"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
        # Lines come over a thread, because a read from a pipe has no time limit.
        self._lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def run(self, command: str) -> tuple[str, int]:
        """A command's output and exit status."""
        assert self._process.stdin
        mark = f"end-{secrets.token_hex(8)}"
        # The command reads nothing of what is written for the shell.
        self._process.stdin.write(f"{{ {command}\n}} </dev/null\nprintf '\\n%s %s\\n' {mark} $?\n")
        self._process.stdin.flush()
        output: list[str] = []
        until = time.monotonic() + self.limit_s
        while True:
            try:
                line = self._lines.get(timeout=max(until - time.monotonic(), 0.01))
            except queue.Empty:
                raise TutorialError(f"no end after {self.limit_s:g} s; so far:\n{''.join(output)}") from None
            if line is None:
                raise TutorialError(f"the shell ended; its last words:\n{''.join(output)}")
            if line.startswith(mark):
                return "".join(output), int(line.split()[1])
            output.append(line)

    def close(self) -> None:
        """Ends the shell and a command that it may be at."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def clean_up(triscore: Path, environment: dict[str, str]) -> None:
    """Deletes every service that is left, so that none outlives its home."""
    services = Path(environment["TRISCORE_HOME"]) / "services"
    for folder in sorted(services.iterdir()) if services.is_dir() else []:
        command = [str(triscore), "service", "delete", "-n", folder.name]
        subprocess.run(command, env=environment, capture_output=True, timeout=120, check=False)


def check(step: Step, got: str, status: int) -> None:
    """Complains if a command did not do what the document says."""
    expected = "\n".join(step.expected)
    should_fail = "error:" in expected
    if (status != 0) != should_fail:
        wanted = "failure" if should_fail else "success"
        raise TutorialError(f"exit status {status}, expected {wanted}; it printed:\n{got}")
    if not matches(expected, got):
        raise TutorialError(f"expected:\n{expected}\n\ngot:\n{normal(got)}")


def main() -> None:
    """Runs the document; exits with 1 at the first step that disagrees."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("document", nargs="?", type=Path, default=ROOT / "models" / "tutorial.md")
    parser.add_argument("--triscore", type=Path, help="the program; default: the one on the PATH")
    parser.add_argument("--limit", type=float, default=600, metavar="SECONDS", help="for one command (default: 600)")
    parser.add_argument("--list", action="store_true", help="show the commands and run none")
    arguments = parser.parse_args()
    try:
        steps = steps_of(arguments.document.read_text(encoding="utf-8"))
    except (OSError, TutorialError) as error:
        sys.exit(f"{arguments.document}: {error}")
    if arguments.list:
        print("\n".join(f"{step.line}: {step.command}" for step in steps))
        return
    found = arguments.triscore or shutil.which("triscore")
    if not found or not Path(found).is_file():
        sys.exit("tutorial: triscore is not on the PATH: build it with `make build`, or name it with --triscore")
    triscore = Path(found).resolve()

    with tempfile.TemporaryDirectory(prefix="tutorial-") as home:
        environment = os.environ | {"TRISCORE_HOME": home, "PATH": f"{triscore.parent}:{os.environ['PATH']}"}
        environment.pop("TRISCORE_LOG", None)
        shell = Shell(environment, arguments.limit)
        try:
            for step in steps:
                print(f"{step.line}: {step.command}", flush=True)
                try:
                    check(step, *shell.run(step.command))
                except TutorialError as error:
                    sys.exit(f"\n{arguments.document}:{step.line}: {step.command}\n{error}")
        finally:
            shell.close()
            clean_up(triscore, environment)
    print(f"{len(steps)} commands did what {arguments.document.name} says")


if __name__ == "__main__":
    main()
