"""The accelerated door as scripts use it. Started by tests/door.rs, which opens the door and says where models are."""

import json
import os
import signal
import subprocess
import sys
import threading
import unittest
import warnings

import numpy as np

import triscore
from triscore import _session

MODELS = os.environ["TEST_MODELS"]


def model(name):
    return os.path.join(MODELS, name)


def identity(kind):
    return triscore.InferenceSession(model(f"tiny/identity_{kind}.onnx"))


def echoed(session, value):
    return session.run(None, {"x": value})[0]


class Arrays(unittest.TestCase):
    def test_every_type_comes_back_as_it_went(self):
        kinds = {
            "float": "f4", "double": "f8", "float16": "f2", "int8": "i1", "int16": "i2", "int32": "i4", "int64": "i8",
            "uint8": "u1", "uint16": "u2", "uint32": "u4", "uint64": "u8", "bool": "?",
        }  # fmt: skip
        for kind, dtype in kinds.items():
            with self.subTest(kind):
                session = identity(kind)
                self.assertEqual(session.get_inputs(), [("x", ["batch", 3], f"tensor({kind})")])
                limits = np.array([0, 1, 255, 127, 128, 3], dtype="u1").astype(dtype).reshape(2, 3)
                wide = np.zeros((4, 6), dtype)
                wide[::2, ::2] = limits
                for given in (
                    limits,
                    limits[:0],
                    np.asfortranarray(limits),
                    wide[::2, ::2],
                    limits.astype(np.dtype(dtype).newbyteorder(">")),
                    limits.tolist(),
                    np.tile(limits, (20_000, 1)),
                ):
                    got = echoed(session, given)
                    self.assertEqual(got.dtype, np.dtype(dtype))
                    np.testing.assert_array_equal(got, np.asarray(given))
                    self.assertTrue(got.flags.writeable)

    def test_text(self):
        session = identity("string")
        texts = [["", "a", "größer"], ["日本 🦊", "x" * 70_000, "\n"]]
        for given in (np.array(texts, dtype=object), texts):
            got = echoed(session, given)
            self.assertEqual((got.tolist(), got.dtype), (texts, np.dtype(object)))
        plain = [["a", "b", "c"]]
        for dtype in ("U4", "S4"):
            self.assertEqual(echoed(session, np.array(plain, dtype=dtype)).tolist(), plain)

    def test_bfloat16_travels_as_its_bits(self):
        bits = np.array([[0x3F80, 0xC000, 0x7F80]], dtype=np.uint16)
        np.testing.assert_array_equal(echoed(identity("bfloat16"), bits), bits)

    def test_floats_of_8_bits_travel_as_their_bits(self):
        bits = np.array([[0x38, 0xC0, 0x7F]], dtype=np.uint8)
        for name in ("float8e4m3fn", "float8e5m2"):
            np.testing.assert_array_equal(echoed(identity(name), bits), bits)

    def test_sequences_and_maps(self):
        session = triscore.InferenceSession(model("tiny/seq_out.onnx"))
        (found,) = session.run(None, {"x": np.ones((2, 2), np.float32)})
        self.assertTrue(isinstance(found, list) and all(isinstance(item, np.ndarray) for item in found))
        session = triscore.InferenceSession(model("sklearn/iris_logreg_zipmap.onnx"))
        width = session.get_inputs()[0].shape[1]
        feed = {session.get_inputs()[0].name: np.zeros((2, width), np.float32)}
        label, chances = session.run(None, feed)
        self.assertEqual((len(label), len(chances)), (2, 2))
        self.assertTrue(all(abs(sum(chance.values()) - 1) < 1e-5 for chance in chances))

    def test_answers_equal_those_of_the_backend_itself(self):
        expected = json.loads(os.environ["TEST_EXPECTED"])
        session = triscore.InferenceSession(model("digits_cnn/model.onnx"))
        images = (np.arange(2 * 64, dtype=np.float32) / 128).reshape(2, 1, 8, 8)
        (logits,) = session.run(["logits"], {"x": images})
        self.assertEqual(logits.reshape(-1).astype(float).tolist(), expected)

    def test_a_question_is_answered(self):
        session = triscore.InferenceSession(model("bidaf/model.onnx"))
        names = [port.name for port in session.get_inputs()]
        self.assertEqual(sorted(names), ["context_char", "context_word", "query_char", "query_word"])


class Memory(unittest.TestCase):
    def test_arrays_stay_what_they_were(self):
        session = identity("float")
        first = echoed(session, np.full((50_000, 3), 7, np.float32))
        part = first[10:20, 1:]
        kept = [echoed(session, np.full((50_000, 3), n, np.float32)) for n in range(5)]
        del first
        for n in range(200):
            echoed(session, np.full((50_000, 3), -n, np.float32))
        self.assertTrue((part == 7).all() and all((array == n).all() for n, array in enumerate(kept)))

    def test_what_lies_in_shared_memory_is_not_copied(self):
        session = identity("float")
        own = session.empty("x", (30_000, 3))
        own[:] = 3
        memory = _session._memory
        self.assertIsNotNone(memory.place_of(own))
        first = echoed(session, own)
        self.assertIsNotNone(memory.place_of(first), "an output can be the next input")
        second = echoed(session, first[64:])
        self.assertTrue((second == 3).all() and second.shape == (29_936, 3))
        self.assertIsNone(memory.place_of(np.zeros(3)))
        self.assertIsNone(memory.place_of(own[:, ::2]), "not in one piece")

    def test_a_thousand_calls_take_no_more_memory_than_ten(self):
        session = identity("float")
        x = np.ones((40_000, 3), np.float32)
        for n in range(1010):
            echoed(session, x)
            if n == 10:
                before = _session._memory._next
        self.assertEqual(_session._memory._next, before)


class Calls(unittest.TestCase):
    def test_threads_share_a_session(self):
        session, wrong = identity("int64"), []

        def work(thread):
            for n in range(100):
                size = 3 * (1 + (thread * 977 + n * 131) % 4000)
                x = np.full((size // 3, 3), thread * 1000 + n)
                if not (echoed(session, x) == x).all():
                    wrong.append((thread, n))

        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(wrong, [])

    def test_outputs_by_name_and_order(self):
        session = triscore.InferenceSession(model("tiny/two_inputs.onnx"))
        a, b = np.full((1, 3), 2, np.float32), np.full((1, 3), 5, np.float32)
        product, total = session.run(["product", "sum"], {"b": b, "a": a})
        self.assertEqual((product[0, 0], total[0, 0]), (10, 7))
        self.assertEqual([o.name for o in session.get_outputs()], ["sum", "product"])

    def test_what_is_wrong_with_a_call_is_said(self):
        two = triscore.InferenceSession(model("tiny/two_inputs.onnx"))
        x = np.ones((1, 3), np.float32)
        for names, feeds, words in (
            (None, {"a": x}, ["'b'", "missing"]),
            (None, {"a": x, "b": x, "c": x}, ["no input 'c'", "'a', 'b'"]),
            (["sun"], {"a": x, "b": x}, ["no output 'sun'", "'sum', 'product'"]),
            (None, {"a": x.astype(np.float64), "b": x}, ["input 'a'", "tensor(float)", "float64", "convert"]),
            (None, {"a": x, "b": np.ones((1, 4), np.float32)}, ["b", "3", "4"]),
            (None, {"a": x, "b": [["x", "y", "z"]]}, ["input 'b'", "tensor(float)"]),
            (None, {"a": x, "b": [[1, 2, 3], [4]]}, ["input 'b'"]),
        ):
            with self.subTest(words):
                with self.assertRaises(triscore.ScoreError) as raised:
                    two.run(names, feeds)
                for word in words:
                    self.assertIn(word, str(raised.exception))
                self.assertEqual(raised.exception.kind, "bad_input")
        text = identity("string")
        for value, word in ((np.ones((1, 3)), "tensor(string)"), ([["a", 1, None]], "of type int")):
            with self.assertRaisesRegex(triscore.ScoreError, word.replace("(", r"\(").replace(")", r"\)")):
                echoed(text, value)
        np.testing.assert_array_equal(two.run(["sum"], {"a": x, "b": x})[0], x + x)

    def test_a_call_that_an_alarm_cuts_short_does_not_confuse_the_next(self):
        slow = triscore.InferenceSession(model("tiny/slow.onnx"))
        quick = identity("int32")

        def ring(_signal, _frame):
            raise TimeoutError("rung")

        before = signal.signal(signal.SIGALRM, ring)
        try:
            for n in range(5):
                signal.setitimer(signal.ITIMER_REAL, 0.002)
                try:
                    while True:
                        slow.run(None, {"x": np.ones((64, 4), np.float32)})
                except TimeoutError:
                    pass
                x = np.full((20_000, 3), n, np.int32)
                np.testing.assert_array_equal(echoed(quick, x), x)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    def test_a_fork_is_refused(self):
        session = identity("float")
        child = os.fork()
        if child == 0:
            try:
                echoed(session, np.ones((1, 3), np.float32))
            except triscore.ScoreError as error:
                os._exit(7 if error.kind == "unsupported" else 1)
            os._exit(0)
        self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), 7)
        np.testing.assert_array_equal(echoed(session, np.ones((1, 3), np.float32)), np.ones((1, 3)))


class Sessions(unittest.TestCase):
    def test_from_bytes(self):
        with open(model("tiny/identity_float.onnx"), "rb") as file:
            session = triscore.InferenceSession(file.read())
        np.testing.assert_array_equal(echoed(session, np.ones((1, 3), np.float32)), np.ones((1, 3)))

    def test_what_cannot_be_opened_says_why(self):
        for given, kind, word in (
            (model("nowhere.onnx"), "not_found", "nowhere.onnx"),
            (model("."), "bad_model", "folder"),
            (model("README.md"), "bad_model", "README.md"),
            (b"<html>", "bad_model", "the model's bytes"),
        ):
            with self.subTest(given):
                with self.assertRaises(triscore.ScoreError) as raised:
                    triscore.InferenceSession(given)
                self.assertEqual(raised.exception.kind, kind, raised.exception)
                self.assertIn(word, str(raised.exception))

    def test_options_and_providers_are_taken(self):
        import triscore as onnxruntime

        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.add_session_config_entry("a", "b")
        path = model("tiny/identity_float.onnx")
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
            self.assertEqual(told, [])
            onnxruntime.InferenceSession(path, providers=[("CUDAExecutionProvider", {"device_id": 0})])
        self.assertRegex(str(told[0].message), "have no effect: the deployment runs the model on cpu:0")
        self.assertEqual(session.get_providers(), ["CPUExecutionProvider"])

    def test_without_a_service_it_says_what_to_do(self):
        environment = {name: value for name, value in os.environ.items() if name != "TRISCORE_DOOR_FD"}
        code = "import triscore; triscore.InferenceSession('m.onnx')"
        ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        self.assertEqual(ran.returncode, 1)
        self.assertIn("triscore serve --ic", ran.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
