"""What the tests of the worker share: a folder for the application, and workers on it."""

import importlib.util
import os
import tempfile
import textwrap
import unittest
from typing import Any, Dict, Optional

from worker import FAILED, READY, Worker

ECHO = "def init(): pass\ndef run(data): return data"
HAS_FLASK = importlib.util.find_spec("flask") is not None
HAS_SCHEMA = importlib.util.find_spec("inference_schema") is not None
JSON = ("Content-Type", "application/json")
SCRIPT_FAILED = "An unexpected error occurred in scoring script. Check the logs for more info."
INTERNAL = "An unexpected internal error occurred. Check the logs for more info."


class WorkerTest(unittest.TestCase):
    """A folder for the application, and workers on it."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory(prefix="worker-")
        self.addCleanup(folder.cleanup)
        self.root = os.path.realpath(folder.name)

    def write(self, path: str, text: str) -> str:
        path = os.path.join(self.root, path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(textwrap.dedent(text))
        return path

    def start(self, script: str, environment: Optional[Dict[str, str]] = None) -> Worker:
        """A worker on that script, without having heard from it."""
        self.write("score.py", script)
        worker = Worker(self.root, "score.py", environment)
        self.addCleanup(worker.__exit__)
        return worker

    def ready(self, script: str, environment: Optional[Dict[str, str]] = None) -> Worker:
        """A worker that is ready, with `about` of its ready frame."""
        worker = self.start(script, environment)
        worker.about = worker.message(READY)  # type: ignore[attr-defined]
        return worker

    def failed(self, script: str, environment: Optional[Dict[str, str]] = None) -> Any:
        """What a worker says that cannot be ready; its log besides."""
        worker = self.start(script, environment)
        about = worker.message(FAILED)
        self.assertEqual(worker.process.wait(10), 3)
        return {**about, "log": worker.log}
