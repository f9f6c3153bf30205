"""The worker as a process: its stream, what scripts do to it, its log, and the packages it offers."""

import json
import os
import re
import signal
import time
import unittest

from case import ECHO, SCRIPT_FAILED, WorkerTest
from worker import RUN_FAILED, WORKER_ENDS, Worker, head, request


class Stream(WorkerTest):
    def test_pipelined(self) -> None:
        worker = self.ready(ECHO)
        # Sizes on both sides of the worker's buffers, and frames that lie across their ends.
        sizes = [
            0,
            1,
            7,
            1000,
            65_535,
            65_536,
            65_537,
            262_100,
            262_123,
            262_124,
            262_144,
            262_145,
            300_000,
        ] * 4
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

    def test_large_requests_leave_nothing_behind(self) -> None:
        worker = self.ready(ECHO)
        worker.ask(b"x")
        before = self.resident_bytes(worker)
        worker.ask(b"x" * (64 << 20))
        deadline = time.monotonic() + 10
        while self.resident_bytes(worker) > before + (8 << 20):
            self.assertLess(time.monotonic(), deadline, "the request is still held")
            time.sleep(0.05)

    @staticmethod
    def resident_bytes(worker: Worker) -> int:
        with open(f"/proc/{worker.process.pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def test_the_host_closes(self) -> None:
        worker = self.ready(ECHO)
        worker.socket.sendall(request(1, b"a") + request(2, b"b") + request(3, b"cut short")[:-1])
        worker.socket.shutdown(1)
        self.assertEqual([worker.answer().id for _ in range(2)], [1, 2])
        self.assertEqual(worker.process.wait(10), 0)

    def test_the_host_is_gone(self) -> None:
        worker = self.ready(
            "import time\ndef init(): pass\ndef run(data): time.sleep(0.3); return 'x' * 10**7"
        )
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

    def test_threads_do_not_hold_the_connection(self) -> None:
        worker = self.ready("""
            import sys, threading, time
            def init(): threading.Thread(target=time.sleep, args=(3,)).start()
            def run(data): sys.exit()
        """)
        begin = time.monotonic()
        self.assertTrue(worker.ask(b"").flags & WORKER_ENDS)
        with self.assertRaises(EOFError):
            worker.answer()
        self.assertLess(time.monotonic() - begin, 2)

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
                "class": "azureml_inference_server_http.log_config.AMLLogFormatter",
                "format": "OWN %(message)s",
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
    MODEL = (
        "from azureml.core.model import Model\nimport os\ndef init(): pass\ndef run(data): return eval(data)"
    )

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
                services_are_real = hasattr(azureml.contrib.services, "REAL")
                core_is_ours = "_offline" in azureml.core.__file__
                return [azureml.train.REAL, azureml.contrib.other.REAL, services_are_real, core_is_ours]
        """
        shims = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../src/script/python/shims")
        environment = {"PYTHONPATH": os.pathsep.join((shims, os.path.join(self.root, "site")))}
        expected = [True, True, False, True]
        self.assertEqual(json.loads(self.ready(script, environment).ask(b"", head()).body), expected)
        # With azureml-core in the environment, that is what azureml.core is.
        self.write("site/azureml/core/__init__.py", "REAL = True")
        script = "import azureml.core\ndef init(): pass\ndef run(data): return azureml.core.REAL"
        self.assertEqual(self.ready(script, environment).ask(b"").body, b"true")


if __name__ == "__main__":
    unittest.main()
