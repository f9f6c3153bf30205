"""Neural-network layers in numpy: forward, backward, and the ONNX nodes each one becomes.

A layer remembers in `forward` what its `backward` needs, so the two are called in turns. Images are NCHW, like ONNX.
All arithmetic is float32, like the exported model's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from models.training.graph import GraphBuilder

Array = NDArray[np.float32]


class Layer:
    """One step of a network. `parameters` and `gradients` have the same keys; layers without weights have none."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.parameters: dict[str, Array] = {}
        self.gradients: dict[str, Array] = {}

    def forward(self, x: Array, training: bool) -> Array:
        """The layer's output for a batch; `training` matters to layers that act differently then (BatchNorm)."""
        raise NotImplementedError

    def backward(self, gradient: Array) -> Array:
        """Turns the loss's gradient at the output of the last `forward` into the one at its input."""
        raise NotImplementedError

    def export(self, graph: GraphBuilder, x: str) -> str:
        """Adds the layer's nodes after the value named `x`; returns the name of its output."""
        raise NotImplementedError

    def trainable(self) -> Iterator[Layer]:
        """Every layer in here that owns weights."""
        if self.parameters:
            yield self


def he_normal(rng: np.random.Generator, shape: Sequence[int], fan_in: int) -> Array:
    """He's initialisation: keeps the variance of activations steady through ReLU layers."""
    return (rng.standard_normal(tuple(shape)) * np.sqrt(2.0 / fan_in)).astype(np.float32)


class Relu(Layer):
    """max(x, 0)."""

    def forward(self, x: Array, training: bool) -> Array:
        self._positive = x > 0
        return np.maximum(x, np.float32(0))

    def backward(self, gradient: Array) -> Array:
        return gradient * self._positive

    def export(self, graph: GraphBuilder, x: str) -> str:
        return graph.node("Relu", [x], self.name)


class Flatten(Layer):
    """[batch, ...] to [batch, features]."""

    def forward(self, x: Array, training: bool) -> Array:
        self._shape = x.shape
        return x.reshape(len(x), -1)

    def backward(self, gradient: Array) -> Array:
        return gradient.reshape(self._shape)

    def export(self, graph: GraphBuilder, x: str) -> str:
        return graph.node("Flatten", [x], self.name, axis=1)


class Dense(Layer):
    """x @ weight.T + bias, the weight stored [out, in] like ONNX's Gemm with transB=1."""

    def __init__(self, name: str, inputs: int, outputs: int, rng: np.random.Generator) -> None:
        super().__init__(name)
        self.parameters["weight"] = he_normal(rng, (outputs, inputs), inputs)
        self.parameters["bias"] = np.zeros(outputs, np.float32)

    def forward(self, x: Array, training: bool) -> Array:
        self._x = x
        return x @ self.parameters["weight"].T + self.parameters["bias"]

    def backward(self, gradient: Array) -> Array:
        self.gradients["weight"] = gradient.T @ self._x
        self.gradients["bias"] = gradient.sum(axis=0)
        return gradient @ self.parameters["weight"]

    def export(self, graph: GraphBuilder, x: str) -> str:
        weight = graph.constant(f"{self.name}.weight", self.parameters["weight"])
        bias = graph.constant(f"{self.name}.bias", self.parameters["bias"])
        return graph.node("Gemm", [x, weight, bias], self.name, transB=1)


class Conv2d(Layer):
    """A square convolution by im2col: every window becomes a row, so the work is one matrix product."""

    def __init__(
        self,
        name: str,
        channels_in: int,
        channels_out: int,
        rng: np.random.Generator,
        *,
        kernel: int = 3,
        stride: int = 1,
        padding: int | None = None,
        bias: bool = True,
    ) -> None:
        """Without `padding` the image is padded so that an odd kernel at stride 1 keeps its size."""
        super().__init__(name)
        self.kernel = kernel
        self.stride = stride
        self.padding = kernel // 2 if padding is None else padding
        fan_in = channels_in * kernel * kernel
        self.parameters["weight"] = he_normal(rng, (channels_out, channels_in, kernel, kernel), fan_in)
        if bias:
            self.parameters["bias"] = np.zeros(channels_out, np.float32)

    def _weight_matrix(self) -> Array:
        weight = self.parameters["weight"]
        return weight.reshape(len(weight), -1)

    def forward(self, x: Array, training: bool) -> Array:
        pad = self.padding
        padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
        windows = sliding_window_view(padded, (self.kernel, self.kernel), axis=(2, 3))
        windows = windows[:, :, :: self.stride, :: self.stride]
        batch, _, height, width = windows.shape[:4]
        self._padded_shape = padded.shape
        self._columns = windows.transpose(0, 2, 3, 1, 4, 5).reshape(batch * height * width, -1)
        y = self._columns @ self._weight_matrix().T
        if "bias" in self.parameters:
            y += self.parameters["bias"]
        return np.ascontiguousarray(y.reshape(batch, height, width, -1).transpose(0, 3, 1, 2))

    def backward(self, gradient: Array) -> Array:
        batch, channels_out, height, width = gradient.shape
        rows = gradient.transpose(0, 2, 3, 1).reshape(-1, channels_out)
        self.gradients["weight"] = (rows.T @ self._columns).reshape(self.parameters["weight"].shape)
        if "bias" in self.parameters:
            self.gradients["bias"] = rows.sum(axis=0)
        columns = (rows @ self._weight_matrix()).reshape(batch, height, width, -1, self.kernel, self.kernel)
        columns = columns.transpose(0, 3, 1, 2, 4, 5)
        padded = np.zeros(self._padded_shape, np.float32)
        for i in range(self.kernel):
            for j in range(self.kernel):
                rows_hit = slice(i, i + self.stride * height, self.stride)
                columns_hit = slice(j, j + self.stride * width, self.stride)
                padded[:, :, rows_hit, columns_hit] += columns[..., i, j]
        pad = self.padding
        return padded[:, :, pad : padded.shape[2] - pad, pad : padded.shape[3] - pad]

    def export(self, graph: GraphBuilder, x: str) -> str:
        inputs = [x, graph.constant(f"{self.name}.weight", self.parameters["weight"])]
        if "bias" in self.parameters:
            inputs.append(graph.constant(f"{self.name}.bias", self.parameters["bias"]))
        return graph.node(
            "Conv",
            inputs,
            self.name,
            kernel_shape=[self.kernel, self.kernel],
            strides=[self.stride, self.stride],
            pads=[self.padding] * 4,
        )


class BatchNorm2d(Layer):
    """Batch normalisation over N, H and W; exported unfolded, so that graph compilers have something to fold."""

    EPSILON = 1e-5
    MOMENTUM = 0.9

    def __init__(self, name: str, channels: int) -> None:
        super().__init__(name)
        self.parameters["scale"] = np.ones(channels, np.float32)
        self.parameters["bias"] = np.zeros(channels, np.float32)
        self.running_mean = np.zeros(channels, np.float32)
        self.running_variance = np.ones(channels, np.float32)

    @staticmethod
    def _per_channel(values: Array) -> Array:
        return values[None, :, None, None]

    def forward(self, x: Array, training: bool) -> Array:
        if training:
            mean = x.mean(axis=(0, 2, 3))
            variance = x.var(axis=(0, 2, 3))
            keep, add = np.float32(self.MOMENTUM), np.float32(1 - self.MOMENTUM)
            self.running_mean = keep * self.running_mean + add * mean
            self.running_variance = keep * self.running_variance + add * variance
        else:
            mean, variance = self.running_mean, self.running_variance
        self._inverse_deviation = 1 / np.sqrt(variance + np.float32(self.EPSILON))
        self._normalised = (x - self._per_channel(mean)) * self._per_channel(self._inverse_deviation)
        scaled = self._normalised * self._per_channel(self.parameters["scale"])
        return scaled + self._per_channel(self.parameters["bias"])

    def backward(self, gradient: Array) -> Array:
        axes = (0, 2, 3)
        self.gradients["bias"] = gradient.sum(axis=axes)
        self.gradients["scale"] = (gradient * self._normalised).sum(axis=axes)
        count = np.float32(gradient.size // gradient.shape[1])
        centred = gradient - self._per_channel(self.gradients["bias"] / count)
        centred -= self._normalised * self._per_channel(self.gradients["scale"] / count)
        return centred * self._per_channel(self.parameters["scale"] * self._inverse_deviation)

    def export(self, graph: GraphBuilder, x: str) -> str:
        constants = {
            "scale": self.parameters["scale"],
            "bias": self.parameters["bias"],
            "mean": self.running_mean,
            "variance": self.running_variance,
        }
        names = [graph.constant(f"{self.name}.{key}", value) for key, value in constants.items()]
        return graph.node("BatchNormalization", [x, *names], self.name, epsilon=self.EPSILON)


class MaxPool2d(Layer):
    """The largest of every 2x2 square."""

    def forward(self, x: Array, training: bool) -> Array:
        batch, channels, height, width = x.shape
        squares = x.reshape(batch, channels, height // 2, 2, width // 2, 2).transpose(0, 1, 2, 4, 3, 5)
        squares = squares.reshape(batch, channels, height // 2, width // 2, 4)
        self._winner = squares.argmax(axis=-1)
        return squares.max(axis=-1)

    def backward(self, gradient: Array) -> Array:
        batch, channels, height, width = gradient.shape
        squares = np.zeros((batch, channels, height, width, 4), np.float32)
        np.put_along_axis(squares, self._winner[..., None], gradient[..., None], axis=-1)
        squares = squares.reshape(batch, channels, height, width, 2, 2).transpose(0, 1, 2, 4, 3, 5)
        return squares.reshape(batch, channels, height * 2, width * 2)

    def export(self, graph: GraphBuilder, x: str) -> str:
        return graph.node("MaxPool", [x], self.name, kernel_shape=[2, 2], strides=[2, 2])


class GlobalAveragePool(Layer):
    """The mean of every channel: [batch, channels, height, width] to [batch, channels, 1, 1]."""

    def forward(self, x: Array, training: bool) -> Array:
        self._shape = x.shape
        return x.mean(axis=(2, 3), keepdims=True)

    def backward(self, gradient: Array) -> Array:
        area = np.float32(self._shape[2] * self._shape[3])
        return np.broadcast_to(gradient / area, self._shape)

    def export(self, graph: GraphBuilder, x: str) -> str:
        return graph.node("GlobalAveragePool", [x], self.name)


class Sequential(Layer):
    """Layers one after another."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        super().__init__("sequential")
        self.layers = list(layers)

    def forward(self, x: Array, training: bool) -> Array:
        for layer in self.layers:
            x = layer.forward(x, training)
        return x

    def backward(self, gradient: Array) -> Array:
        for layer in reversed(self.layers):
            gradient = layer.backward(gradient)
        return gradient

    def export(self, graph: GraphBuilder, x: str) -> str:
        for layer in self.layers:
            x = layer.export(graph, x)
        return x

    def trainable(self) -> Iterator[Layer]:
        for layer in self.layers:
            yield from layer.trainable()


class Residual(Layer):
    """body(x) + shortcut(x); no shortcut means x itself."""

    def __init__(self, name: str, body: Layer, shortcut: Layer | None = None) -> None:
        super().__init__(name)
        self.body = body
        self.shortcut = shortcut

    def forward(self, x: Array, training: bool) -> Array:
        around = x if self.shortcut is None else self.shortcut.forward(x, training)
        return self.body.forward(x, training) + around

    def backward(self, gradient: Array) -> Array:
        around = gradient if self.shortcut is None else self.shortcut.backward(gradient)
        return self.body.backward(gradient) + around

    def export(self, graph: GraphBuilder, x: str) -> str:
        around = x if self.shortcut is None else self.shortcut.export(graph, x)
        return graph.node("Add", [self.body.export(graph, x), around], self.name)

    def trainable(self) -> Iterator[Layer]:
        yield from self.body.trainable()
        if self.shortcut is not None:
            yield from self.shortcut.trainable()
