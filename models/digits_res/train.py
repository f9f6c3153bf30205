"""Trains the residual digits CNN: a stem, two residual blocks (the second strided), an average pool, one dense layer.

The batch normalisations stay nodes of their own in the exported file: folding them into the convolutions, and fusing
the additions, is what this model gives a graph compiler to do.

Run from the repository root: `python -m models.digits_res.train`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from models.training import digits, layers
from models.training.fit import Schedule

SEED = 0
SCHEDULE = Schedule(epochs=25)


def conv_norm(
    name: str, channels_in: int, channels_out: int, rng: np.random.Generator, **options: int
) -> list[layers.Layer]:
    """A convolution whose bias is left to the batch normalisation after it."""
    return [
        layers.Conv2d(f"{name}.conv", channels_in, channels_out, rng, bias=False, **options),
        layers.BatchNorm2d(f"{name}.norm", channels_out),
    ]


def block(name: str, channels_in: int, channels_out: int, stride: int, rng: np.random.Generator) -> list[layers.Layer]:
    """Two 3x3 convolutions and a way around them; a 1x1 convolution fits the way where shapes change."""
    body = layers.Sequential(
        [
            *conv_norm(f"{name}.first", channels_in, channels_out, rng, stride=stride),
            layers.Relu(f"{name}.first.relu"),
            *conv_norm(f"{name}.second", channels_out, channels_out, rng),
        ]
    )
    shortcut = None
    if stride != 1 or channels_in != channels_out:
        shortcut = layers.Sequential(
            conv_norm(f"{name}.shortcut", channels_in, channels_out, rng, kernel=1, stride=stride)
        )
    return [layers.Residual(f"{name}.add", body, shortcut), layers.Relu(f"{name}.relu")]


def network(rng: np.random.Generator) -> layers.Layer:
    """19,706 parameters."""
    return layers.Sequential(
        [
            *conv_norm("stem", 1, 16, rng),
            layers.Relu("stem.relu"),
            *block("block1", 16, 16, 1, rng),
            *block("block2", 16, 32, 2, rng),
            layers.GlobalAveragePool("pool"),
            layers.Flatten("flatten"),
            layers.Dense("dense", 32, 10, rng),
        ]
    )


if __name__ == "__main__":
    digits.train_and_publish(Path(__file__).parent, network, SCHEDULE, SEED)
