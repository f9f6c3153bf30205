"""The worker, spoken to over its protocol as the host does.

    .venv/bin/python -m unittest discover -s tests/contract

Tests of flask and inference-schema need `scripts/setup-python.sh contract`; all others run on any Python from 3.8.
"""

import importlib.util
import json
import os
import re
import signal
import tempfile
import textwrap
import time
import unittest
from typing import Any, Dict, Optional

from worker import (
    FAILED,
    HAS_EXEC_MS,
    NO_RUN_FAILED,
    READY,
    RUN_FAILED,
    TIMED_OUT,
    WORKER_ENDS,
    Worker,
    head,
    request,
)

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


class Ready(WorkerTest):
    def test_modes(self) -> None:
        raw = "from azureml.contrib.services.aml_request import rawhttp\n"
        schema = """
            from inference_schema.schema_decorators import input_schema
            from inference_schema.parameter_types.standard_py_parameter_type import StandardPythonParameterType
            def init(): pass
            @input_schema("data", StandardPythonParameterType("x"))
            def run(data): return data
        """
        rows = [
            (ECHO, "string", False, False),
            ("def init(): pass\ndef run(data, request_headers): pass", "string", True, False),
        ]
        if HAS_FLASK:
            rows.append((raw + "def init(): pass\n@rawhttp\ndef run(r): pass", "rawhttp", True, False))
            # flask.request and the like have to work, so the head is wanted.
            rows.append(("import flask\n" + ECHO, "string", True, False))
        if HAS_SCHEMA:
            rows.append((schema, "schema", True, True))
        for script, mode, needs_head, has_schema in rows:
            with self.subTest(script=script):
                worker = self.ready(script)
                about = worker.about
                self.assertEqual(about["mode"], mode)
                self.assertEqual((about["needs_head"], about["has_schema"]), (needs_head, has_schema))
                self.assertEqual(about["pid"], worker.process.pid)
                self.assertRegex(about["python"], r"^3\.\d+\.\d+$")
                self.assertEqual(json.loads(about["swagger"]["2"])["swagger"], "2.0")

    def test_swagger_names_and_overrides(self) -> None:
        self.write("swagger3.json", '{"openapi": "own"}')
        self.write("swagger.json", "{}")  # empty: as if it were not there
        names = {"SERVICE_NAME": 'a "b"', "SERVICE_VERSION": "7", "SERVICE_PATH_PREFIX": "/api/v1/"}
        swagger = {v: json.loads(d) for v, d in self.ready(ECHO, names).about["swagger"].items()}
        self.assertEqual(swagger["3"], {"openapi": "own"})
        self.assertEqual(swagger["3.1"]["openapi"], "3.1.0")
        self.assertEqual(swagger["2"]["info"]["title"], 'a "b"')
        self.assertEqual(swagger["2"]["info"]["version"], "7")
        self.assertEqual(list(swagger["2"]["paths"]), [f"/api/v1/{p}" for p in ("", "score", "swagger.json")])

    def test_source_folder(self) -> None:
        self.write("source_dir/helper.py", "NAME = 'helped'")
        self.write("source_dir/deep/score.py", "import helper\ndef init(): pass\ndef run(data): return helper.NAME")
        environment = {"AZUREML_SOURCE_DIRECTORY": "source_dir"}
        with Worker(self.root, "source_dir/deep/score.py", environment) as worker:
            worker.message(READY)
            self.assertEqual(worker.ask(b"").body, b'"helped"')

    def test_main_without_entry_script(self) -> None:
        self.write("main.py", ECHO)
        with Worker(self.root, None) as worker:
            worker.message(READY)
            self.assertEqual(worker.ask(b"x").body, b'"x"')

    def test_dataclasses(self) -> None:
        # They look their module up by name.
        script = """
            from __future__ import annotations
            import dataclasses, pickle
            @dataclasses.dataclass
            class Point:
                x: int
            def init(): pass
            def run(data): return pickle.loads(pickle.dumps(Point(3))).x
        """
        self.assertEqual(self.ready(script).ask(b"").body, b"3")


class NotReady(WorkerTest):
    def test_reasons(self) -> None:
        raw = "from azureml.contrib.services.aml_request import rawhttp\n"
        rows = [
            ("def init(: pass", "import", "SyntaxError"),
            ("import no_such_package", "import", "add what provides 'no_such_package'"),
            ("raise ValueError('while\\nimporting')", "import", r"ValueError: while \(score.py, line 1\)"),
            ("import sys; sys.exit('no')", "import", "SystemExit: no"),
            ("def run(data): pass", "check", r"does not have a init\(\) function defined"),
            ("def init(): pass", "check", r"does not have a run\(\) function defined"),
            ("def init(): pass\ndef run(*a): pass", "check", "cannot accept positional-only"),
            ("def init(): pass\ndef run(d, /): pass", "check", "cannot accept positional-only"),
            ("def init(): pass\ndef run(d, **k): pass", "check", "cannot accept positional-only"),
            ("def init(): pass\ndef run(): pass", "check", "needs to accept an argument for input data"),
            ("def init(): pass\ndef run(request_headers): pass", "check", 'other than "request_headers"'),
            ("def init(): 1 / 0\ndef run(data): pass", "init", "ZeroDivisionError: division by zero"),
            ("def init(): exit(4)\ndef run(data): pass", "init", "SystemExit: 4"),
            ("def init(): raise KeyboardInterrupt\ndef run(data): pass", "init", "KeyboardInterrupt"),
        ]
        if HAS_FLASK and HAS_SCHEMA:
            both = """
                from azureml.contrib.services.aml_request import rawhttp
                from inference_schema.schema_decorators import input_schema
                from inference_schema.parameter_types.standard_py_parameter_type import StandardPythonParameterType
                def init(): pass
                @rawhttp
                @input_schema("data", StandardPythonParameterType("x"))
                def run(data): return data
            """
            rows.append((both, "check", "cannot be decorated with both"))
        rows.append((raw, "check", "does not have a init") if HAS_FLASK else (raw, "import", "rawhttp needs flask"))
        for script, stage, message in rows:
            with self.subTest(script=script):
                about = self.failed(script)
                self.assertEqual(about["stage"], stage)
                self.assertRegex(about["message"], message)
                self.assertNotIn("\n", about["message"])
                if stage != "check":
                    self.assertIn("score.py", about["traceback"])
                    self.assertNotIn("triscore_runtime", about["traceback"])

    def test_threads_do_not_keep_it_alive(self) -> None:
        self.failed("""
            import threading, time
            def init():
                threading.Thread(target=time.sleep, args=(60,)).start()
                raise ValueError
            def run(data): pass
        """)

    def test_missing_script(self) -> None:
        self.write("other.py", "")
        with Worker(self.root, "score.py") as worker:
            about = worker.message(FAILED)
            self.assertRegex(about["message"], "there is no entry script .*score.py; in its folder: other.py")

    def test_unusable_files(self) -> None:
        for name, message in [("swagger.json", "cannot be served"), ("logging.json", "no logging configuration")]:
            with self.subTest(name=name):
                path = self.write(name, "{'")
                self.assertRegex(self.failed(ECHO)["message"], f"{name} .*{message}|{name} is {message}")
                os.remove(path)

    def test_missing_flask(self) -> None:
        self.write("flask.py", "raise ModuleNotFoundError(\"No module named 'flask'\", name='flask')")
        for module, words in [
            ("aml_request", "rawhttp needs flask: add it to the environment's pip dependencies"),
            ("aml_response", "AMLResponse needs flask: add it to the environment's pip dependencies"),
        ]:
            about = self.failed(f"from azureml.contrib.services.{module} import *\n" + ECHO)
            self.assertIn(words, about["message"])

    def test_model_directory_is_logged(self) -> None:
        for number in range(3):
            self.write(f"models/m/1/part{number}.bin", "")
        script = "def init(): raise ValueError('broken')\ndef run(data): pass"
        log = self.failed(script, {"AZUREML_MODEL_DIR": os.path.join(self.root, "models")})["log"]
        tree = "Model Directory Contents:|models/|    m/|        1/|            part0.bin".split("|")
        at = 0
        for text in ["User's init function failed", "ValueError: broken", *tree]:
            at = log.index(f" - {text}\n" if text in tree else text, at)
        self.assertNotIn("Truncated", log)

        for number in range(300):
            self.write(f"models/m/2/{number:03}.bin", "")
        log = self.failed(script, {"AZUREML_MODEL_DIR": os.path.join(self.root, "models")})["log"]
        listed = log[log.index("Contents:\n") :].splitlines()[1:]
        self.assertEqual(len(listed), 201)
        self.assertIn("Output Truncated. First 200 lines shown.", listed[-1])


class Answers(WorkerTest):
    def test_strings(self) -> None:
        worker = self.ready(ECHO)
        rows = [
            ("größer 🦊".encode(), None, 200, b'"gr\\u00f6\\u00dfer \\ud83e\\udd8a"'),
            (b"", None, 200, b'""'),
            (b"", head("GET", "a=1&b=[2]&b=x&c"), 200, b'"{\\"a\\": 1, \\"b\\": [[2], \\"x\\"], \\"c\\": \\"\\"}"'),
            (b"", head("OPTIONS"), 200, b""),
            (b"", head("PUT"), 405, b'{"message": "Method not allowed"}'),
        ]
        for body, about, status, expected in rows:
            with self.subTest(body=body, about=about):
                answer = worker.ask(body, about)
                self.assertEqual((answer.status, answer.body), (status, expected))
                ran = status == 200 and bool(expected)
                self.assertEqual(answer.flags, HAS_EXEC_MS if ran else 0)
        bad = worker.ask(b"ab\xff")
        self.assertEqual((bad.status, bad.flags), (400, 0))
        self.assertRegex(bad.message, "^Input cannot be decoded as UTF-8: .* byte 0xff in position 2")

    def test_values(self) -> None:
        worker = self.ready("""
            import json, math
            def init(): pass
            def run(data): return eval(data)
        """)
        rows = [
            (b"None", b"{}"),
            (b"[math.nan, math.inf, 1.0, 2]", b"[NaN, Infinity, 1.0, 2]"),
            (b"json.dumps({'a': 1})", b'"{\\"a\\": 1}"'),
        ]
        for body, expected in rows:
            self.assertEqual(worker.ask(body).body, expected)
        for body in (b"b''", b"{1}", b"object()", b"(lambda l: l.append(l) or l)([])", b"(1 for _ in [])"):
            with self.subTest(body=body):
                answer = worker.ask(body)
                self.assertEqual((answer.status, answer.flags, answer.message), (500, 0, INTERNAL))

    def test_exceptions(self) -> None:
        worker = self.ready("def init(): pass\ndef run(data): raise eval(data)")
        for body in (b"ValueError('secret')", b"StopIteration", b"MemoryError", b"RecursionError", b"1"):
            with self.subTest(body=body):
                answer = worker.ask(body)
                self.assertEqual((answer.status, answer.flags, answer.message), (500, RUN_FAILED, SCRIPT_FAILED))
        self.assertIn("ValueError: secret", worker.log)
        self.assertIn('score.py", line 2, in run', worker.log)
        self.assertNotIn("triscore_runtime", worker.log)

    def test_headers(self) -> None:
        worker = self.ready("def init(): pass\ndef run(data, request_headers): return request_headers")
        headers = [("x-ONE2b", "1"), ("X-Two", "a"), ("X-Two", "b"), ("X_Three", "no"), JSON, ("X-L", "ö")]
        expected = {"X-One2B": "1", "X-Two": "a,b", "Content-Type": "application/json", "X-L": "ö"}
        self.assertEqual(json.loads(worker.ask(b"", head(headers=headers)).body), expected)

    @unittest.skipUnless(HAS_SCHEMA, "inference-schema is not installed")
    def test_schema(self) -> None:
        worker = self.ready("""
            from inference_schema.schema_decorators import input_schema
            from inference_schema.parameter_types.standard_py_parameter_type import StandardPythonParameterType
            def init(): pass
            @input_schema("data", StandardPythonParameterType([1]))
            def run(data, other=5): return [data, other]
        """)
        rows = [
            (b'{"data": [3]}', [JSON], 200, [[3], 5]),
            (b'{"data": [3], "other": 6}', [("Content-Type", "application/x+json")], 200, [[3], 6]),
            (b"{}", [], 415, "Expects Content-Type to be application/json"),
            (b"", [JSON], 400, "POST body is empty. Expecting a JSON dictionary."),
            (b"[]", [JSON], 400, "POST body should be a JSON dictionary."),
            (b"{}", [JSON], 400, "A value is not provided for the 'data' parameter."),
            (b'{"data": 3}', [JSON], 500, SCRIPT_FAILED),
            (b'{"data": "\xff"}', [JSON], 500, INTERNAL),
        ]
        for body, headers, status, expected in rows:
            with self.subTest(body=body):
                answer = worker.ask(body, head(headers=headers))
                got = json.loads(answer.body)
                self.assertEqual((answer.status, got if status == 200 else got["message"]), (status, expected))

    @unittest.skipUnless(HAS_FLASK, "flask is not installed")
    def test_responses(self) -> None:
        worker = self.ready("""
            from azureml.contrib.services.aml_request import AMLRequest, rawhttp
            from azureml.contrib.services.aml_response import AMLResponse
            import azureml_inference_server_http.api.aml_response as other_name
            import flask
            def init(): assert other_name.AMLResponse is AMLResponse
            @rawhttp
            def run(request):
                assert request.__class__ is AMLRequest and flask.request.path == "/score"
                return eval(request.get_data(as_text=True))
        """)
        html = ("Content-Type", "text/html; charset=utf-8")
        rows = [
            (b"AMLResponse('x', 200)", 200, HAS_EXEC_MS, [html], b"x"),
            (b"AMLResponse('x', 503)", 503, HAS_EXEC_MS | RUN_FAILED, [html], b"x"),
            (b"AMLResponse(None, 200)", 200, HAS_EXEC_MS, [JSON], b"{}"),
            (b"AMLResponse('x', 200, {'A': 'b, c'})", 200, HAS_EXEC_MS, [html, ("A", "b"), ("A", "c")], b"x"),
            (b"flask.Response('x')", 200, HAS_EXEC_MS | NO_RUN_FAILED, [html], b"x"),
            (b"flask.Response('x', 500)", 500, HAS_EXEC_MS | RUN_FAILED, [html], b"x"),
            (b"flask.Response(iter(['a', 'b']), headers={'Connection': 'close'})",
             200, HAS_EXEC_MS | NO_RUN_FAILED, [html], b"ab"),
            (b"AMLResponse(bytes(range(256)), 200, {'Content-Type': 'a/b'})",
             200, HAS_EXEC_MS, [("Content-Type", "a/b")], bytes(range(256))),
        ]  # fmt: skip
        for body, status, flags, headers, expected in rows:
            with self.subTest(body=body):
                answer = worker.ask(body, head())
                self.assertEqual((answer.status, answer.flags, answer.body), (status, flags, expected))
                self.assertEqual(sorted(answer.headers), sorted(headers))
        for body in (b"AMLResponse('x', 99)", b"AMLResponse('x', 200, {'A': '\xe6\x97\xa5'})", b"AMLResponse(5, 200)"):
            answer = worker.ask(body, head())
            self.assertEqual((answer.status, answer.flags, answer.message), (500, 0, INTERNAL))
        failing = b"flask.Response((1 / 0 for _ in [1]))"
        self.assertEqual(worker.ask(failing, head()).message, INTERNAL)


class Timeouts(WorkerTest):
    SCRIPT = """
        import time
        def init(): pass
        def run(data):
            if data == "swallow":
                try:
                    time.sleep(30)
                except Exception:
                    return "swallowed"
            if data == "own":
                raise TimeoutError
            time.sleep(float(data))
            return "in time"
    """

    def test_it_strikes_and_lets_go(self) -> None:
        worker = self.ready(self.SCRIPT, {"SCORING_TIMEOUT_MS": "200"})
        begin = time.monotonic()
        answer = worker.ask(b"30", timeout_ms=200)
        self.assertEqual((answer.status, answer.flags), (504, RUN_FAILED | TIMED_OUT))
        self.assertEqual(answer.message, "Scoring timeout after 200 ms")
        self.assertGreaterEqual(time.monotonic() - begin, 0.2)
        self.assertLess(time.monotonic() - begin, 10)
        # The next one has its whole time, and one without a timeout has all the time there is.
        self.assertEqual(worker.ask(b"0.15", timeout_ms=2000).body, b'"in time"')
        self.assertEqual(worker.ask(b"0.3").body, b'"in time"')
        self.assertIn("time.sleep(float(data))", worker.log)

    def test_the_scripts_own(self) -> None:
        worker = self.ready(self.SCRIPT, {"SCORING_TIMEOUT_MS": "60000"})
        self.assertEqual(worker.ask(b"swallow", timeout_ms=100).body, b'"swallowed"')
        answer = worker.ask(b"own", timeout_ms=60000)
        self.assertEqual((answer.status, answer.flags), (500, RUN_FAILED))
        self.assertEqual(answer.message, "Scoring timeout after 60000 ms")

    def test_a_handler_of_the_scripts_own(self) -> None:
        worker = self.ready("""
            import signal, time
            def init(): pass
            def run(data):
                if data == "steal":
                    signal.signal(signal.SIGALRM, signal.SIG_DFL)
                    return "stolen"
                time.sleep(30)
        """)
        self.assertEqual(worker.ask(b"steal", timeout_ms=300).body, b'"stolen"')
        self.assertEqual(worker.ask(b"", timeout_ms=300).flags, RUN_FAILED | TIMED_OUT)

    def test_many_close_calls(self) -> None:
        # The alarm comes about when run() returns: each answer is one or the other, and none is lost.
        worker = self.ready("""
            import time
            def init(): pass
            def run(data):
                end = time.perf_counter() + float(data) / 1e6
                while time.perf_counter() < end:
                    pass
        """)
        for number in range(300):
            answer = worker.ask(str(900 + number).encode(), timeout_ms=1)
            self.assertIn(answer.flags, (HAS_EXEC_MS, RUN_FAILED | TIMED_OUT))


class Stream(WorkerTest):
    def test_pipelined(self) -> None:
        worker = self.ready(ECHO)
        # Sizes on both sides of the worker's buffers, and frames that lie across their ends.
        sizes = [0, 1, 7, 1000, 65_535, 65_536, 65_537, 262_100, 262_123, 262_124, 262_144, 262_145, 300_000] * 4
        worker.socket.setblocking(True)
        stream = b"".join(request(n, b"x" * size) for n, size in enumerate(sizes))
        if os.fork() == 0:  # writes while we read, or both sides would wait for each other
            worker.socket.sendall(stream)
            os._exit(0)
        for number, size in enumerate(sizes):
            answer = worker.answer()
            self.assertEqual((answer.id, len(answer.body)), (number, size + 2))
        os.wait()

    def test_byte_by_byte(self) -> None:
        worker = self.ready(ECHO)
        for byte in request(5, b"abc", head()) + request(6, b"def"):
            worker.socket.sendall(bytes((byte,)))
        self.assertEqual([worker.answer().body for _ in range(2)], [b'"abc"', b'"def"'])

    def test_many_small_ones(self) -> None:
        worker = self.ready(ECHO)
        for _ in range(20):
            worker.socket.sendall(b"".join(request(n, b"%d" % n) for n in range(500)))
            for number in range(500):
                answer = worker.answer()
                self.assertEqual((answer.id, answer.body), (number, b'"%d"' % number))

    def test_64_megabytes(self) -> None:
        worker = self.ready("def init(): pass\ndef run(data): return 'y' * len(data)")
        for size in (64 << 20, 3):
            self.assertEqual(worker.ask(b"x" * size).body, b'"' + b"y" * size + b'"')

    def test_the_host_closes(self) -> None:
        worker = self.ready(ECHO)
        worker.socket.sendall(request(1, b"a") + request(2, b"b") + request(3, b"cut short")[:-1])
        worker.socket.shutdown(1)
        self.assertEqual([worker.answer().id for _ in range(2)], [1, 2])
        self.assertEqual(worker.process.wait(10), 0)

    def test_the_host_is_gone(self) -> None:
        worker = self.ready("import time\ndef init(): pass\ndef run(data): time.sleep(0.3); return 'x' * 10**7")
        worker.socket.sendall(request(1, b"a") * 3)
        worker.socket.close()
        self.assertEqual(worker.process.wait(10), 0)

    def test_no_frame(self) -> None:
        worker = self.ready(ECHO)
        worker.socket.sendall(b"\x20\0\0\0\x09" + b"x" * 100)
        self.assertEqual(worker.process.wait(10), 1)
        self.assertIn("ProtocolError: kind 9", worker.log)


class Hostile(WorkerTest):
    def test_sys_exit(self) -> None:
        for code, expected in [("3", 3), ("", 0), ("'words'", 1)]:
            with self.subTest(code=code):
                worker = self.ready(f"import sys\ndef init(): pass\ndef run(data): sys.exit({code})")
                worker.socket.sendall(request(1, b"") + request(2, b""))
                answer = worker.answer()
                self.assertEqual((answer.id, answer.status), (1, 500))
                self.assertEqual((answer.flags, answer.message), (RUN_FAILED | WORKER_ENDS, SCRIPT_FAILED))
                self.assertEqual(worker.process.wait(10), expected)
                with self.assertRaises((EOFError, ConnectionError)):
                    worker.answer()

    def test_what_scripts_do(self) -> None:
        # Each line runs in run(); the next request must be answered as if nothing had been.
        lines = [
            "os.closerange(3, 256)",
            "os.close(0), os.close(1), os.close(2)",
            "sys.stdout.close(), sys.stderr.close()",
            "setattr(sys, 'stdout', None)",
            "os.chdir('/')",
            "os.environ.clear()",
            "os.write(1, bytes(range(256)))",
            "print(chr(0xd800), b'\\xff', 'ü')",
            "threading.Thread(target=time.sleep, args=(0.5,)).start()",
            "signal.signal(signal.SIGINT, signal.SIG_DFL)",
            "os.kill(os.getpid(), signal.SIGINT)",
            "sys.modules.clear()",
            "socket.setdefaulttimeout(0.001)",
            "logging.disable()",
            "setattr(json, 'loads', None)",
            "gc.disable()",
            "subprocess.Popen(['sleep', '20'])",
        ]
        script = """
            import gc, json, logging, os, signal, socket, subprocess, sys, threading, time
            def init(): pass
            def run(data):
                eval(data)
                return "done"
        """
        for line in lines:
            with self.subTest(line=line):
                worker = self.ready(script)
                answers = [worker.ask(body, timeout_ms=60_000) for body in (line.encode(), b"1", b"\xff")]
                if line != "os.kill(os.getpid(), signal.SIGINT)":
                    self.assertEqual(answers[0].body, b'"done"')
                self.assertEqual((answers[1].body, answers[2].status), (b'"done"', 400))
                worker.socket.shutdown(1)
                self.assertEqual(worker.process.wait(10), 0)

    def test_fork(self) -> None:
        worker = self.ready("""
            import os
            def init(): pass
            def run(data):
                child = os.fork()  # the child comes back from run() as well
                return "child" if child == 0 else "parent"
        """)
        for number in range(3):
            self.assertEqual(worker.ask(b"").body, b'"parent"')
        worker.socket.shutdown(1)
        self.assertEqual(worker.process.wait(10), 0)
        with self.assertRaises(EOFError):
            worker.answer()

    def test_a_forked_child_does_not_hold_the_connection(self) -> None:
        worker = self.ready("""
            import os, time
            def init():
                if os.fork() == 0:
                    time.sleep(20)
                    os._exit(0)
            def run(data): os._exit(9)
        """)
        begin = time.monotonic()
        worker.socket.sendall(request(1, b""))
        with self.assertRaises(EOFError):
            worker.answer()
        self.assertLess(time.monotonic() - begin, 10)

    def test_interrupts_are_the_hosts(self) -> None:
        worker = self.ready("import time\ndef init(): pass\ndef run(data): time.sleep(0.5); return 'slept'")
        worker.socket.sendall(request(1, b""))
        time.sleep(0.2)
        worker.process.send_signal(signal.SIGINT)
        self.assertEqual(worker.answer().body, b'"slept"')


class Log(WorkerTest):
    def test_print(self) -> None:
        worker = self.ready("""
            import sys
            def init(): print("one", 2, sep="-", end="!", flush=True)
            def run(data):
                print("in run")
                print("elsewhere", file=sys.stderr)
                print("two\\nlines")
        """)
        worker.ask(b"")
        line = r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} I \[%d\] azmlinfsrv\.print - " % worker.process.pid
        for text in ("one-2$", "in run$", "two\nlines$"):
            self.assertRegex(worker.log, re.compile(line + text, re.MULTILINE))
        self.assertRegex(worker.log, re.compile("^elsewhere$", re.MULTILINE))

    def test_logging_json(self) -> None:
        self.write("logging.json", json.dumps({
            "version": 1,
            "formatters": {"own": {
                "class": "azureml_inference_server_http.log_config.AMLLogFormatter", "format": "OWN %(message)s",
            }},
            "filters": {"root": {"()": "azureml_inference_server_http.log_config.RootAccessFilter"}},
            "handlers": {"out": {
                "class": "logging.StreamHandler", "stream": "ext://sys.stdout", "formatter": "own",
                "filters": ["root"],
            }},
            "loggers": {"azmlinfsrv": {"level": "INFO", "handlers": ["out"], "propagate": False}},
        }))  # fmt: skip
        worker = self.ready("def init(): pass\ndef run(data): print('said')")
        worker.ask(b"")
        self.assertIn("OWN said\n", worker.log)


class Shims(WorkerTest):
    MODEL = "from azureml.core.model import Model\nimport os\ndef init(): pass\ndef run(data): return eval(data)"

    def test_get_model_path(self) -> None:
        self.write("azureml-models/m/2/old.bin", "")
        self.write("azureml-models/m/10/new/part.bin", "")
        self.write("azureml-models/many/1/a", "")
        self.write("azureml-models/many/1/b", "")
        self.write("local/x", "")
        worker = self.ready(self.MODEL)
        rows = [
            ("'m'", "azureml-models/m/10/new"),
            ("'m', 2", "azureml-models/m/2/old.bin"),
            ("model_name='m', version=2, _workspace=None", "azureml-models/m/2/old.bin"),
            ("'local'", "local"),
        ]
        for arguments, expected in rows:
            answer = worker.ask(f"Model.get_model_path({arguments})".encode())
            path = os.path.join(self.root, json.loads(answer.body))
            self.assertEqual(os.path.relpath(path, self.root), expected)
        for arguments, words in [
            ("'none'", "looked for .*azureml-models/none/<any> and for .*/none. Deployed are: m, many"),
            ("'m', 3", "looked for .*azureml-models/m/3"),
            ("'many'", r"exactly one file or folder to be a model's path; it holds \['a', 'b'\]"),
            ("'m', '2'", "version is '2': expected a whole number"),
        ]:
            self.assertEqual(worker.ask(f"Model.get_model_path({arguments})".encode()).flags, RUN_FAILED)
            self.assertRegex(worker.log, words)

    def test_no_workspace(self) -> None:
        for line in (
            "from azureml.core import Workspace",
            "import azureml.core; azureml.core.Workspace",
            "from azureml.core.model import Model; Model.list",
            "from azureml.core import Model; Model(None, 'm')",
        ):
            with self.subTest(line=line):
                self.assertIn("triscore has no cloud workspace", self.failed(line)["message"])

    def test_real_packages_beside(self) -> None:
        # An environment with packages of the Azure ML SDK, which declare `azureml` a pkgutil-style namespace.
        namespace = "__path__ = __import__('pkgutil').extend_path(__path__, __name__)"
        for folder in ("azureml", "azureml/contrib"):
            self.write(f"site/{folder}/__init__.py", namespace)
        for package in ("train", "contrib/other", "contrib/services"):
            self.write(f"site/azureml/{package}/__init__.py", "REAL = True")
        script = """
            import azureml.train, azureml.contrib.other, azureml.contrib.services
            def init(): pass
            def run(data):
                import azureml.core
                return [azureml.train.REAL, azureml.contrib.other.REAL, hasattr(azureml.contrib.services, "REAL"),
                        getattr(azureml.core, "__file__").count("_offline")]
        """
        if not HAS_FLASK:
            script = script.replace(", azureml.contrib.services", "").replace("services", "other")
        shims = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../src/script/python/shims")
        environment = {"PYTHONPATH": os.pathsep.join((shims, os.path.join(self.root, "site")))}
        expected = [True, True, not HAS_FLASK, 1]
        self.assertEqual(json.loads(self.ready(script, environment).ask(b"", head()).body), expected)
        # With azureml-core in the environment, that is what azureml.core is.
        self.write("site/azureml/core/__init__.py", "REAL = True")
        script = "import azureml.core\ndef init(): pass\ndef run(data): return azureml.core.REAL"
        self.assertEqual(self.ready(script, environment).ask(b"").body, b"true")


if __name__ == "__main__":
    unittest.main()
