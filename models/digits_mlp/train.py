"""Trains the digits MLP: 64-128-64-10 with ReLU, exported as three Gemm nodes.

Run from the repository root: `python -m models.digits_mlp.train`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from models.training import digits, layers
from models.training.fit import Schedule

SEED = 0
SCHEDULE = Schedule(epochs=60)


def network(rng: np.random.Generator) -> layers.Layer:
    """17,226 parameters: small enough that a server's own overhead is most of a request's time."""
    return layers.Sequential(
        [
            layers.Dense("dense1", 64, 128, rng),
            layers.Relu("relu1"),
            layers.Dense("dense2", 128, 64, rng),
            layers.Relu("relu2"),
            layers.Dense("dense3", 64, 10, rng),
        ]
    )


if __name__ == "__main__":
    digits.train_and_publish(Path(__file__).parent, network, SCHEDULE, SEED, flat=True)
