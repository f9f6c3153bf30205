"""The network as an ONNX model with the inputs and outputs of the ONNX model zoo's bidaf-9.

Like that one it is opset 9 with ai.onnx.ml 1, and takes strings: CategoryMapper nodes turn words and letters into
numbers inside the model, so a caller needs no vocabulary. The text and the question have free lengths of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from models.bidaf.network import (
    DILATIONS,
    LETTER,
    LETTER_IDS,
    LETTER_WINDOW,
    LETTERS_A_WORD,
    LONGEST_ANSWER,
    OTHER_LETTER,
    SPAN_WINDOW,
    TOKEN_WINDOW,
    WORD_IDS,
)
from models.bidaf.tape import Array
from models.training.graph import GraphBuilder, tensor

OPSETS = {"": 9, "ai.onnx.ml": 1}
IR_VERSION = 4


def feeds(context: Sequence[str], query: Sequence[str]) -> dict[str, NDArray]:
    """Tokens as the model's inputs."""

    def words(tokens: Sequence[str]) -> NDArray:
        return np.array([token.lower() for token in tokens], dtype=object).reshape(-1, 1)

    def letters(tokens: Sequence[str]) -> NDArray:
        filled = [[*token[:LETTERS_A_WORD], *[""] * (LETTERS_A_WORD - len(token))] for token in tokens]
        return np.array(filled, dtype=object).reshape(-1, 1, 1, LETTERS_A_WORD)

    return {
        "context_word": words(context),
        "context_char": letters(context),
        "query_word": words(query),
        "query_char": letters(query),
    }


class _Exporter:
    """Adds the network's nodes. Rows of tokens are [tokens, width]; a convolution wants [1, width, tokens]."""

    def __init__(self, weights: dict[str, Array]) -> None:
        self.graph = GraphBuilder()
        windows = {"letter.conv": LETTER_WINDOW, "encode.conv": TOKEN_WINDOW}
        windows |= {f"span.conv{i}": SPAN_WINDOW for i in range(len(DILATIONS))}
        for name, value in weights.items():
            if name in windows:
                # From [window * width in, width out] to ONNX's [width out, width in, window].
                window = windows[name]
                value = value.reshape(window, -1, value.shape[1]).transpose(2, 1, 0)
            self.graph.constant(name, value)

    def convolution(self, x: str, name: str, output: str, window: int, dilation: int = 1) -> str:
        """A convolution of [n, width in, length]; zeros past the ends."""
        return self.graph.node(
            "Conv",
            [x, name, f"{name}.bias"],
            output,
            kernel_shape=[window],
            pads=[window // 2 * dilation] * 2,
            dilations=[dilation],
        )

    def along_tokens(self, x: str, name: str, output: str, window: int, dilation: int = 1) -> str:
        """x + relu(convolution of x) for rows of tokens."""
        g = self.graph
        columns = g.node(
            "Unsqueeze", [g.node("Transpose", [x], f"{output}.columns", perm=[1, 0])], f"{output}.in", axes=[0]
        )
        made = self.convolution(columns, name, f"{output}.conv", window, dilation)
        rows = g.node(
            "Transpose", [g.node("Squeeze", [made], f"{output}.out", axes=[0])], f"{output}.rows", perm=[1, 0]
        )
        return g.node("Add", [x, g.node("Relu", [rows], f"{output}.relu")], output)

    def dense(self, x: str, name: str, output: str) -> str:
        """x @ weight + bias."""
        return self.graph.node(
            "Add", [self.graph.node("MatMul", [x, name], f"{output}.product"), f"{name}.bias"], output
        )

    def mapped(self, x: str, ids: dict[str, int], other: int) -> str:
        """Strings as numbers; `other` for all that are not listed."""
        return self.graph.node(
            "CategoryMapper",
            [x],
            f"{x}.ids",
            domain="ai.onnx.ml",
            cats_strings=list(ids),
            cats_int64s=list(ids.values()),
            default_int64=other,
        )

    def encoded(self, side: str) -> tuple[str, str]:
        """The tokens of one side, "context" or "query", as vectors: alone, and with their neighbours."""
        g = self.graph
        letters = g.node(
            "Gather", ["letter.vectors", self.mapped(f"{side}_char", LETTER_IDS, OTHER_LETTER)], f"{side}.spelt"
        )
        shape = g.constant(f"{side}.letters.shape", np.array([-1, LETTERS_A_WORD, LETTER], np.int64))
        letters = g.node("Reshape", [letters, shape], f"{side}.letters")
        letters = g.node("Transpose", [letters], f"{side}.letters.columns", perm=[0, 2, 1])
        features = self.convolution(letters, "letter.conv", f"{side}.letters.conv", LETTER_WINDOW)
        features = g.node("Relu", [features], f"{side}.letters.relu")
        spelling = g.node("ReduceMax", [features], f"{side}.spelling", axes=[2], keepdims=0)
        words = g.node("Gather", ["word.vectors", self.mapped(f"{side}_word", WORD_IDS, 0)], f"{side}.meant")
        meaning = g.node("Squeeze", [words], f"{side}.meaning", axes=[1])
        both = g.node("Concat", [meaning, spelling], f"{side}.both", axis=1)
        token = g.node("Relu", [self.dense(both, "token.dense", f"{side}.dense")], f"{side}.token")
        return token, self.along_tokens(token, "encode.conv", f"{side}.encoded", TOKEN_WINDOW)

    def span(self, both: str) -> None:
        """From the scores [text, 2] to the best span's first and last token."""
        g = self.graph
        start = g.node("Slice", [both], "start", axes=[1], starts=[0], ends=[1])
        end = g.node(
            "Transpose", [g.node("Slice", [both], "end.column", axes=[1], starts=[1], ends=[2])], "end", perm=[1, 0]
        )
        total = g.node("Add", [start, end], "span.total")
        # 0, 1, 2 …: where a vector of ones is not zero. Opset 9 has no Range.
        length = g.node("Slice", [g.node("Shape", [both], "span.shape")], "span.length", axes=[0], starts=[0], ends=[1])
        ones = g.node("ConstantOfShape", [length], "span.ones", value=g.scalar_tensor(1.0))
        place = g.node("Cast", [g.node("NonZero", [ones], "span.index")], "span.place", to=TensorProto.FLOAT)
        distance = g.node("Sub", [place, g.node("Transpose", [place], "span.first", perm=[1, 0])], "span.distance")
        low = g.constant("span.low", np.array(-0.5, np.float32))
        high = g.constant("span.high", np.array(LONGEST_ANSWER - 0.5, np.float32))
        forward = g.node("Greater", [distance, low], "span.forward")
        short = g.node("Less", [distance, high], "span.short")
        allowed = g.node("And", [forward, short], "span.allowed")
        never = g.node(
            "ConstantOfShape", [g.node("Shape", [total], "span.square")], "span.never", value=g.scalar_tensor(-1e9)
        )
        chosen = g.node("Where", [allowed, total, never], "span.scores")
        flat = g.node("Reshape", [chosen, g.constant("span.flat.shape", np.array([-1], np.int64))], "span.flat")
        best = g.node("ArgMax", [flat], "span.best", axis=0, keepdims=1)
        first = g.node("Div", [best, length], "span.start")
        last = g.node("Sub", [best, g.node("Mul", [first, length], "span.row")], "span.end")
        g.node("Cast", [first], "start_pos", to=TensorProto.INT32)
        g.node("Cast", [last], "end_pos", to=TensorProto.INT32)

    def network(self) -> GraphBuilder:
        """All nodes; the counterpart of `network.scores` for one text and one question."""
        g = self.graph
        text_tokens, text = self.encoded("context")
        query_tokens, query = self.encoded("query")

        across = g.node("Transpose", [query_tokens], "query.across", perm=[1, 0])
        match = g.node("MatMul", [g.node("MatMul", [text_tokens, "match.text"], "match.projected"), across], "match")
        attended = g.node("MatMul", [g.node("Softmax", [match], "attention", axis=1), query], "attended")
        best = g.node("ReduceMax", [match], "match.best", axes=[1], keepdims=1)
        weight = g.node("Softmax", [g.node("Transpose", [best], "match.row", perm=[1, 0])], "match.weight", axis=1)
        matched = g.node("MatMul", [weight, text], "matched")
        focus = g.node("Transpose", [g.node("MatMul", [query, "focus"], "focus.column")], "focus.row", perm=[1, 0])
        question = g.node("MatMul", [g.node("Softmax", [focus], "focus.weight", axis=1), query], "question")

        products = [g.node("Mul", [text, other], f"text.{other}") for other in (attended, matched, question)]
        joined = g.node("Concat", [text, attended, *products, best], "joined", axis=1)
        hidden = self.dense(joined, "join.dense", "hidden.text")
        asked = g.node("MatMul", [question, "join.question"], "hidden.question")
        hidden = g.node("Relu", [g.node("Add", [hidden, asked], "hidden.sum")], "hidden")
        for i, dilation in enumerate(DILATIONS):
            hidden = self.along_tokens(hidden, f"span.conv{i}", f"hidden{i}", SPAN_WINDOW, dilation)
        self.span(g.node("MatMul", [hidden, "score"], "scores"))
        return g


def export(weights: dict[str, Array], path: Path) -> None:
    """Writes the model, if ONNX's own checker accepts it."""
    inputs = [
        tensor(f"{side}_{what}", [length, 1, *more], TensorProto.STRING)
        for side, length in (("context", "c"), ("query", "q"))
        for what, more in (("word", []), ("char", [1, LETTERS_A_WORD]))
    ]
    outputs = [tensor(name, [1], TensorProto.INT32) for name in ("start_pos", "end_pos")]
    _Exporter(weights).network().save(path, "bidaf", inputs, outputs, opsets=OPSETS, ir_version=IR_VERSION)
