"""Trains the digits CNN: three 3x3 convolutions, two max-pools, two dense layers, all ReLU.

Run from the repository root: `python -m models.digits_cnn.train`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from models.training import digits, layers
from models.training.fit import Schedule

SEED = 0
SCHEDULE = Schedule(epochs=20)


def network(rng: np.random.Generator) -> layers.Layer:
    """31,674 parameters; the first pooling comes after two convolutions because the images are only 8x8."""
    return layers.Sequential(
        [
            layers.Conv2d("conv1", 1, 16, rng),
            layers.Relu("relu1"),
            layers.Conv2d("conv2", 16, 32, rng),
            layers.Relu("relu2"),
            layers.MaxPool2d("pool2"),
            layers.Conv2d("conv3", 32, 48, rng),
            layers.Relu("relu3"),
            layers.MaxPool2d("pool3"),
            layers.Flatten("flatten"),
            layers.Dense("dense1", 48 * 2 * 2, 64, rng),
            layers.Relu("relu4"),
            layers.Dense("dense2", 64, 10, rng),
        ]
    )


if __name__ == "__main__":
    digits.train_and_publish(Path(__file__).parent, network, SCHEDULE, SEED)
