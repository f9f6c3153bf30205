"""Reverse-mode differentiation over numpy arrays: just what a network of attention and convolutions needs.

Every operation computes its value at once and notes on a tape how a gradient at its result becomes gradients at its
inputs; `backward` reads the tape from the end. Everything is float32, like the exported model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Indices = NDArray[np.int64]

# What stands in place of a score that may not be chosen: small enough to vanish after exp, large enough to stay finite.
NEVER = np.float32(-1e9)


class Value:
    """An array on the tape with the gradient of the loss at it, once `backward` has come by."""

    __slots__ = ("array", "gradient")

    def __init__(self, array: Array) -> None:
        self.array = array
        self.gradient: Array | None = None

    def receive(self, gradient: Array) -> None:
        """Adds a gradient, summed over the axes along which this value was broadcast."""
        shape = self.array.shape
        if gradient.shape != shape:
            extra = gradient.ndim - len(shape)
            axes = (
                *range(extra),
                *(i + extra for i, n in enumerate(shape) if n == 1 and gradient.shape[i + extra] != 1),
            )
            gradient = gradient.sum(axis=axes).reshape(shape)
        self.gradient = gradient if self.gradient is None else self.gradient + gradient


class Tape:
    """The operations, in the order in which they ran."""

    def __init__(self) -> None:
        self._steps: list[tuple[Value, Callable[[Array], None]]] = []

    def _note(self, array: Array, backward: Callable[[Array], None]) -> Value:
        value = Value(array)
        self._steps.append((value, backward))
        return value

    def backward(self) -> None:
        """Fills in the gradients of everything that the last value, the loss, depends on."""
        loss, _ = self._steps[-1]
        loss.gradient = np.ones_like(loss.array)
        for value, backward in reversed(self._steps):
            if value.gradient is not None:
                backward(value.gradient)

    def add(self, a: Value, b: Value) -> Value:
        """a + b, broadcast."""

        def backward(g: Array) -> None:
            a.receive(g)
            b.receive(g)

        return self._note(a.array + b.array, backward)

    def mul(self, a: Value, b: Value) -> Value:
        """a * b, broadcast."""

        def backward(g: Array) -> None:
            a.receive(g * b.array)
            b.receive(g * a.array)

        return self._note(a.array * b.array, backward)

    def matmul(self, a: Value, b: Value) -> Value:
        """a @ b: a batch of matrices each, or any number of rows times one matrix."""

        def backward(g: Array) -> None:
            a.receive(g @ b.array.swapaxes(-1, -2))
            if b.array.ndim == 2:
                b.receive(a.array.reshape(-1, a.array.shape[-1]).T @ g.reshape(-1, g.shape[-1]))
            else:
                b.receive(a.array.swapaxes(-1, -2) @ g)

        return self._note(a.array @ b.array, backward)

    def relu(self, a: Value) -> Value:
        """max(a, 0)."""
        return self._note(np.maximum(a.array, np.float32(0)), lambda g: a.receive(g * (a.array > 0)))

    def turn(self, a: Value) -> Value:
        """The last two axes exchanged."""
        return self._note(a.array.swapaxes(-1, -2), lambda g: a.receive(g.swapaxes(-1, -2)))

    def concat(self, parts: Sequence[Value]) -> Value:
        """Joined along the last axis."""
        ends = np.cumsum([part.array.shape[-1] for part in parts])

        def backward(g: Array) -> None:
            for part, piece in zip(parts, np.split(g, ends[:-1], axis=-1), strict=True):
                part.receive(piece)

        return self._note(np.concatenate([part.array for part in parts], axis=-1), backward)

    def gather(self, table: Value, rows: Indices) -> Value:
        """The table's rows of these numbers."""

        def backward(g: Array) -> None:
            # A product with a matrix of ones and zeros: much faster than adding row by row, and in a fixed order.
            chosen = np.zeros((rows.size, len(table.array)), np.float32)
            chosen[np.arange(rows.size), rows.ravel()] = 1
            table.receive(chosen.T @ g.reshape(rows.size, -1))

        return self._note(table.array[rows], backward)

    def windows(self, a: Value, width: int, dilation: int = 1) -> Value:
        """[…, n, d] to […, n, width * d]: every position beside its neighbours, zeros past the ends."""
        n, d = a.array.shape[-2:]
        shifts = [(k - width // 2) * dilation for k in range(width)]
        joined = np.zeros((*a.array.shape[:-1], width * d), np.float32)
        places = []
        for k, shift in enumerate(shifts):
            length = max(n - abs(shift), 0)
            source, target = slice(max(shift, 0), max(shift, 0) + length), slice(
                max(-shift, 0), max(-shift, 0) + length
            )
            columns = slice(k * d, (k + 1) * d)
            joined[..., target, columns] = a.array[..., source, :]
            places.append((source, target, columns))

        def backward(g: Array) -> None:
            back = np.zeros_like(a.array)
            for source, target, columns in places:
                back[..., source, :] += g[..., target, columns]
            a.receive(back)

        return self._note(joined, backward)

    def largest(self, a: Value, axis: int) -> Value:
        """The maximum along an axis, which stays with length 1."""
        at = np.expand_dims(a.array.argmax(axis=axis), axis)

        def backward(g: Array) -> None:
            back = np.zeros_like(a.array)
            np.put_along_axis(back, at, g, axis)
            a.receive(back)

        return self._note(np.take_along_axis(a.array, at, axis), backward)

    def reshape(self, a: Value, shape: tuple[int, ...]) -> Value:
        """The same numbers in another shape."""
        return self._note(a.array.reshape(shape), lambda g: a.receive(g.reshape(a.array.shape)))

    def softmax(self, a: Value, allowed: NDArray[np.bool_]) -> Value:
        """Softmax over the last axis, among the allowed entries."""
        scores = np.where(allowed, a.array, NEVER)
        result = np.exp(scores - scores.max(axis=-1, keepdims=True))
        result /= result.sum(axis=-1, keepdims=True)
        return self._note(result, lambda g: a.receive(result * (g - (g * result).sum(axis=-1, keepdims=True))))

    def cross_entropy(self, scores: Value, allowed: NDArray[np.bool_], labels: Indices) -> Value:
        """The mean over rows of -log of the label's softmax among the allowed entries."""
        masked = np.where(allowed, scores.array, NEVER)
        result = np.exp(masked - masked.max(axis=-1, keepdims=True))
        result /= result.sum(axis=-1, keepdims=True)
        rows = np.arange(len(labels))
        loss = -np.log(np.maximum(result[rows, labels], np.float32(1e-30))).mean(dtype=np.float32)

        def backward(g: Array) -> None:
            back = result.copy()
            back[rows, labels] -= 1
            scores.receive((back * (g / np.float32(len(labels)))).astype(np.float32))

        return self._note(np.asarray(loss, np.float32), backward)
