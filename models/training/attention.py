"""Transformer layers in numpy: forward, backward, and the ONNX nodes each one becomes.

Tokens are [batch, tokens, width]. What ONNX had no operator for when transformers came up is exported as exporters
write it, in small steps (GELU through Erf, attention through MatMul and Softmax): a graph compiler has to find the
whole again.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.special import erf

from models.training.graph import GraphBuilder
from models.training.layers import Array, Layer


class Tokens(Layer):
    """[batch, width, height, columns] to [batch, height * columns, width]: every place of an image is a token."""

    def forward(self, x: Array, training: bool) -> Array:
        self._shape = x.shape
        return np.ascontiguousarray(x.reshape(*x.shape[:2], -1).transpose(0, 2, 1))

    def backward(self, gradient: Array) -> Array:
        return gradient.transpose(0, 2, 1).reshape(self._shape)

    def export(self, graph: GraphBuilder, x: str) -> str:
        # 0 keeps a dimension as it is, -1 is what is left: the batch stays free.
        shape = graph.constant(f"{self.name}.shape", np.array([0, 0, -1], np.int64))
        rows = graph.node("Reshape", [x, shape], f"{self.name}.rows")
        return graph.node("Transpose", [rows], self.name, perm=[0, 2, 1])


class Positions(Layer):
    """Adds a learned vector to every place, so that attention, which sees a set, can tell places apart."""

    def __init__(self, name: str, tokens: int, width: int, rng: np.random.Generator) -> None:
        super().__init__(name)
        self.parameters["table"] = (rng.standard_normal((1, tokens, width)) * 0.1).astype(np.float32)

    def forward(self, x: Array, training: bool) -> Array:
        return x + self.parameters["table"]

    def backward(self, gradient: Array) -> Array:
        self.gradients["table"] = gradient.sum(axis=0, keepdims=True)
        return gradient

    def export(self, graph: GraphBuilder, x: str) -> str:
        return graph.node("Add", [x, graph.constant(f"{self.name}.table", self.parameters["table"])], self.name)


class Linear(Layer):
    """x @ weight + bias on every token, the weight stored [in, out] as ONNX's MatMul takes it."""

    def __init__(self, name: str, inputs: int, outputs: int, rng: np.random.Generator) -> None:
        super().__init__(name)
        # Glorot's initialisation: there is no ReLU that would halve the variance.
        deviation = np.sqrt(2.0 / (inputs + outputs))
        self.parameters["weight"] = (rng.standard_normal((inputs, outputs)) * deviation).astype(np.float32)
        self.parameters["bias"] = np.zeros(outputs, np.float32)

    def forward(self, x: Array, training: bool) -> Array:
        self._x = x
        return x @ self.parameters["weight"] + self.parameters["bias"]

    def backward(self, gradient: Array) -> Array:
        rows = gradient.reshape(-1, gradient.shape[-1])
        self.gradients["weight"] = self._x.reshape(-1, self._x.shape[-1]).T @ rows
        self.gradients["bias"] = rows.sum(axis=0)
        return gradient @ self.parameters["weight"].T

    def export(self, graph: GraphBuilder, x: str) -> str:
        weight = graph.constant(f"{self.name}.weight", self.parameters["weight"])
        bias = graph.constant(f"{self.name}.bias", self.parameters["bias"])
        return graph.node("Add", [graph.node("MatMul", [x, weight], f"{self.name}.product"), bias], self.name)


class LayerNorm(Layer):
    """Every token brought to mean 0 and variance 1, then scaled and shifted; one node since operator set 17."""

    EPSILON = 1e-5

    def __init__(self, name: str, width: int) -> None:
        super().__init__(name)
        self.parameters["scale"] = np.ones(width, np.float32)
        self.parameters["bias"] = np.zeros(width, np.float32)

    def forward(self, x: Array, training: bool) -> Array:
        centred = x - x.mean(axis=-1, keepdims=True)
        variance = (centred * centred).mean(axis=-1, keepdims=True)
        self._inverse_deviation = 1 / np.sqrt(variance + np.float32(self.EPSILON))
        self._normalised = centred * self._inverse_deviation
        return self._normalised * self.parameters["scale"] + self.parameters["bias"]

    def backward(self, gradient: Array) -> Array:
        width = gradient.shape[-1]
        self.gradients["scale"] = (gradient * self._normalised).reshape(-1, width).sum(axis=0)
        self.gradients["bias"] = gradient.reshape(-1, width).sum(axis=0)
        inner = gradient * self.parameters["scale"]
        along = (inner * self._normalised).mean(axis=-1, keepdims=True)
        return (inner - inner.mean(axis=-1, keepdims=True) - self._normalised * along) * self._inverse_deviation

    def export(self, graph: GraphBuilder, x: str) -> str:
        names = [graph.constant(f"{self.name}.{key}", self.parameters[key]) for key in ("scale", "bias")]
        return graph.node("LayerNormalization", [x, *names], self.name, axis=-1, epsilon=self.EPSILON)


class Gelu(Layer):
    """x times the share of a normal distribution that lies below x (Hendrycks and Gimpel, 2016), not its tanh form."""

    def forward(self, x: Array, training: bool) -> Array:
        self._x = x
        self._below = np.float32(0.5) * (1 + erf(x / np.float32(np.sqrt(2))))
        return x * self._below

    def backward(self, gradient: Array) -> Array:
        density = np.exp(np.float32(-0.5) * self._x * self._x) * np.float32(1 / np.sqrt(2 * np.pi))
        return gradient * (self._below + self._x * density)

    def export(self, graph: GraphBuilder, x: str) -> str:
        def scalar(key: str, value: float) -> str:
            return graph.constant(f"{self.name}.{key}", np.array(value, np.float32))

        scaled = graph.node("Div", [x, scalar("sqrt2", np.sqrt(2))], f"{self.name}.scaled")
        error = graph.node("Erf", [scaled], f"{self.name}.erf")
        share = graph.node("Add", [error, scalar("one", 1)], f"{self.name}.share")
        double = graph.node("Mul", [x, share], f"{self.name}.double")
        return graph.node("Mul", [double, scalar("half", 0.5)], self.name)


class SelfAttention(Layer):
    """Every token looks at all tokens: softmax(q kᵀ / √d) v in several heads, then a linear layer."""

    def __init__(self, name: str, width: int, heads: int, rng: np.random.Generator) -> None:
        super().__init__(name)
        self.heads = heads
        self.query, self.key, self.value, self.out = (
            Linear(f"{name}.{part}", width, width, rng) for part in ("query", "key", "value", "out")
        )
        self._scale = np.float32(1 / np.sqrt(width // heads))

    def _split(self, x: Array) -> Array:
        """[batch, tokens, width] to [batch, heads, tokens, width / heads]."""
        return x.reshape(*x.shape[:2], self.heads, -1).transpose(0, 2, 1, 3)

    @staticmethod
    def _join(x: Array) -> Array:
        """What `_split` did, undone."""
        batch, _, tokens, _ = x.shape
        return x.transpose(0, 2, 1, 3).reshape(batch, tokens, -1)

    def forward(self, x: Array, training: bool) -> Array:
        self._q, self._k, self._v = (
            self._split(layer.forward(x, training)) for layer in (self.query, self.key, self.value)
        )
        scores = (self._q @ self._k.swapaxes(-1, -2)) * self._scale
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        self._weights = weights / weights.sum(axis=-1, keepdims=True)
        return self.out.forward(self._join(self._weights @ self._v), training)

    def backward(self, gradient: Array) -> Array:
        seen = self._split(self.out.backward(gradient))
        at_weights = seen @ self._v.swapaxes(-1, -2)
        along = (at_weights * self._weights).sum(axis=-1, keepdims=True)
        at_scores = self._weights * (at_weights - along) * self._scale
        return (
            self.query.backward(self._join(at_scores @ self._k))
            + self.key.backward(self._join(at_scores.swapaxes(-1, -2) @ self._q))
            + self.value.backward(self._join(self._weights.swapaxes(-1, -2) @ seen))
        )

    def export(self, graph: GraphBuilder, x: str) -> str:
        def named(op: str, inputs: list[str], part: str, **attributes: int | list[int]) -> str:
            return graph.node(op, inputs, f"{self.name}.{part}", **attributes)

        # 0 keeps a dimension as it is, -1 is what is left: the batch stays free.
        split = graph.constant(f"{self.name}.split", np.array([0, 0, self.heads, -1], np.int64))
        join = graph.constant(f"{self.name}.join", np.array([0, 0, -1], np.int64))
        scale = graph.constant(f"{self.name}.scale", np.array(self._scale, np.float32))

        def heads(layer: Linear, perm: list[int]) -> str:
            rows = graph.node("Reshape", [layer.export(graph, x), split], f"{layer.name}.rows")
            return graph.node("Transpose", [rows], f"{layer.name}.heads", perm=perm)

        q, v = heads(self.query, [0, 2, 1, 3]), heads(self.value, [0, 2, 1, 3])
        k = heads(self.key, [0, 2, 3, 1])
        scores = named("Mul", [named("MatMul", [q, k], "product"), scale], "scores")
        weights = named("Softmax", [scores], "weights", axis=-1)
        seen = named("Transpose", [named("MatMul", [weights, v], "seen")], "rows", perm=[0, 2, 1, 3])
        return self.out.export(graph, named("Reshape", [seen, join], "joined"))

    def trainable(self) -> Iterator[Layer]:
        for layer in (self.query, self.key, self.value, self.out):
            yield from layer.trainable()


class MeanOfTokens(Layer):
    """[batch, tokens, width] to [batch, width]."""

    def forward(self, x: Array, training: bool) -> Array:
        self._shape = x.shape
        return x.mean(axis=1)

    def backward(self, gradient: Array) -> Array:
        return np.broadcast_to(gradient[:, None] / np.float32(self._shape[1]), self._shape)

    def export(self, graph: GraphBuilder, x: str) -> str:
        return graph.node("ReduceMean", [x], self.name, axes=[1], keepdims=0)
