"""Training a network of `layers` to classify: cross-entropy, Adam, a cosine schedule."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from models.training.layers import Array, Layer


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train."""

    epochs: int
    batch_size: int = 64
    learning_rate: float = 2e-3
    noise: float = 0.03
    """Standard deviation of the noise added to every training image: on data this small it is the cheapest cure
    against overfitting."""


class Adam:
    """The Adam optimiser over every weight of a network."""

    BETA1, BETA2, EPSILON = np.float32(0.9), np.float32(0.999), np.float32(1e-8)

    def __init__(self, net: Layer) -> None:
        self._slots = [
            (layer, key, np.zeros_like(value), np.zeros_like(value))
            for layer in net.trainable()
            for key, value in layer.parameters.items()
        ]
        self._steps = 0

    def step(self, learning_rate: float) -> None:
        """Moves every weight along the gradient that the last `backward` left beside it."""
        self._steps += 1
        mean_correction = 1 - self.BETA1**self._steps
        square_correction = 1 - self.BETA2**self._steps
        for layer, key, mean, square in self._slots:
            gradient = layer.gradients[key]
            mean += (1 - self.BETA1) * (gradient - mean)
            square += (1 - self.BETA2) * (gradient * gradient - square)
            direction = (mean / mean_correction) / (np.sqrt(square / square_correction) + self.EPSILON)
            layer.parameters[key] -= np.float32(learning_rate) * direction


def cross_entropy_gradient(logits: Array, labels: NDArray[np.int64]) -> Array:
    """The gradient of the batch's mean cross-entropy after softmax, at the logits."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    gradient = shifted / shifted.sum(axis=1, keepdims=True)
    gradient[np.arange(len(labels)), labels] -= 1
    return (gradient / len(labels)).astype(np.float32)


def fit(net: Layer, x: Array, y: NDArray[np.int64], schedule: Schedule, rng: np.random.Generator) -> None:
    """Trains `net` in place. The same seed, packages and processor give the same weights, bit for bit."""
    optimiser = Adam(net)
    # One thread: the result must not depend on how many cores there are, and the matrices are too small for more.
    with threadpool_limits(limits=1):
        for epoch in range(schedule.epochs):
            learning_rate = schedule.learning_rate * 0.5 * (1 + np.cos(np.pi * epoch / schedule.epochs))
            order = rng.permutation(len(x))
            for start in range(0, len(order), schedule.batch_size):
                chosen = order[start : start + schedule.batch_size]
                noise = rng.standard_normal(x[chosen].shape) * schedule.noise
                logits = net.forward((x[chosen] + noise).astype(np.float32), training=True)
                net.backward(cross_entropy_gradient(logits, y[chosen]))
                optimiser.step(learning_rate)


def predict(net: Layer, x: Array) -> Array:
    """The logits of a whole set."""
    with threadpool_limits(limits=1):
        return net.forward(x, training=False)
