"""The worker, spoken to over its protocol as the host does.

    .venv/bin/python -m unittest discover -s tests/contract

Tests of flask and inference-schema need `scripts/setup-python.sh contract`; all others run on any Python from
3.8 on.
"""

import json
import os
import time
import unittest

from case import ECHO, HAS_FLASK, HAS_SCHEMA, INTERNAL, JSON, SCRIPT_FAILED, WorkerTest
from worker import RUNTIME, FAILED, HAS_EXEC_MS, NO_RUN_FAILED, READY, RUN_FAILED, TIMED_OUT, Worker, head


class Ready(WorkerTest):
    def test_modes(self) -> None:
        raw = "from azureml.contrib.services.aml_request import rawhttp\n"
        schema = """
            from inference_schema.schema_decorators import input_schema
            from inference_schema.parameter_types.standard_py_parameter_type import (
                StandardPythonParameterType as Std,
            )
            def init(): pass
            @input_schema("data", Std("x"))
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

    def test_swagger_too_large(self) -> None:
        self.write("swagger.json", json.dumps({"swagger": "x" * (2 << 20)}))
        worker = self.ready(ECHO)
        self.assertEqual(sorted(worker.about["swagger"]), ["3", "3.1"])
        self.assertIn("No swagger of version 2: it has 20971", worker.log)

    def test_source_folder(self) -> None:
        self.write("source_dir/helper.py", "NAME = 'helped'")
        self.write(
            "source_dir/deep/score.py", "import helper\ndef init(): pass\ndef run(data): return helper.NAME"
        )
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
                from inference_schema.parameter_types.standard_py_parameter_type import (
                    StandardPythonParameterType as Std,
                )
                def init(): pass
                @rawhttp
                @input_schema("data", Std("x"))
                def run(data): return data
            """
            rows.append((both, "check", "cannot be decorated with both"))
        rows.append(
            (raw, "check", "does not have a init") if HAS_FLASK else (raw, "import", "rawhttp needs flask")
        )
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

    def test_old_pythons(self) -> None:
        # The version is all that is old here: what an old Python would fail to import comes after.
        self.write("score.py", ECHO)
        self.write("site/sitecustomize.py", "import sys; sys.version_info = (3, 6, 2, 'final', 0)")
        shims = os.path.join(RUNTIME, "shims")
        environment = {"PYTHONPATH": os.pathsep.join((shims, os.path.join(self.root, "site")))}
        with Worker(self.root, "score.py", environment) as worker:
            about = worker.message(FAILED)
            self.assertEqual(
                about["message"], "the environment's Python is 3.6.2: entry scripts need 3.8 or newer"
            )
            self.assertEqual(worker.process.wait(10), 3)

    def test_missing_script(self) -> None:
        self.write("other.py", "")
        with Worker(self.root, "score.py") as worker:
            about = worker.message(FAILED)
            self.assertRegex(about["message"], "there is no entry script .*score.py; in its folder: other.py")

    def test_unusable_files(self) -> None:
        for name, message in [
            ("swagger.json", "cannot be served"),
            ("logging.json", "no logging configuration"),
        ]:
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
            (
                b"",
                head("GET", "a=1&b=[2]&b=x&c"),
                200,
                b'"{\\"a\\": 1, \\"b\\": [[2], \\"x\\"], \\"c\\": \\"\\"}"',
            ),
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
                self.assertEqual(
                    (answer.status, answer.flags, answer.message), (500, RUN_FAILED, SCRIPT_FAILED)
                )
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
            from inference_schema.parameter_types.standard_py_parameter_type import (
                StandardPythonParameterType as Std,
            )
            def init(): pass
            @input_schema("data", Std([1]))
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
                self.assertEqual(
                    (answer.status, got if status == 200 else got["message"]), (status, expected)
                )

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
        for body in (
            b"AMLResponse('x', 99)",
            b"AMLResponse('x', 200, {'A': '\xe6\x97\xa5'})",
            b"AMLResponse(5, 200)",
        ):
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


if __name__ == "__main__":
    unittest.main()
