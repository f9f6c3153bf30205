"""The handwritten digits that come with scikit-learn, and the one split that every digits model here uses.

The data are the test set of the UCI "Optical Recognition of Handwritten Digits" (1797 images of 8x8, values 0 to 16),
licensed CC BY 4.0: Alpaydin, E. and Kaynak, C. (1998), UCI Machine Learning Repository, doi:10.24432/C50P49.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from models.training.fit import Schedule, fit
from models.training.layers import Array, Layer
from models.training.publish import publish_classifier


@dataclass(frozen=True)
class Digits:
    """Images as [n, 1, 8, 8] float32 scaled to 0..1, and their labels."""

    x_train: Array
    y_train: NDArray[np.int64]
    x_heldout: Array
    y_heldout: NDArray[np.int64]


def held_out_rows(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Every fourth image of every class.

    The rule needs no random numbers, so that anyone gets the same split from any language; it goes class by class
    because the digits come in a repeating order, of which every fourth would miss whole classes.
    """
    return np.sort(np.concatenate([np.flatnonzero(labels == digit)[3::4] for digit in range(10)]))


def load() -> Digits:
    """Reads the bundled data and splits them."""
    bunch = load_digits()
    x = (bunch.images[:, None] / 16).astype(np.float32)
    y = bunch.target.astype(np.int64)
    held_out = np.zeros(len(y), dtype=bool)
    held_out[held_out_rows(y)] = True
    return Digits(x[~held_out], y[~held_out], x[held_out], y[held_out])


def train_and_publish(
    folder: Path,
    network: Callable[[np.random.Generator], Layer],
    schedule: Schedule,
    seed: int,
    *,
    flat: bool = False,
) -> None:
    """Trains on three quarters of the digits, measures on the rest, and writes the results into `folder`.

    `flat` feeds each image as one row of 64 numbers, for networks without convolutions.
    """
    data = load()
    x_train, x_heldout = data.x_train, data.x_heldout
    if flat:
        x_train, x_heldout = x_train.reshape(-1, 64), x_heldout.reshape(-1, 64)
    rng = np.random.default_rng(seed)
    net = network(rng)
    fit(net, x_train, data.y_train, schedule, rng)
    training = {"script": "train.py", "seed": seed, "epochs": schedule.epochs, "samples": len(x_train)}
    publish_classifier(folder, folder.name, net, x_heldout, data.y_heldout, training=training)
