"""Trains the digits vision transformer: 16 patches of 2x2 as tokens, two encoder layers, the mean of the tokens.

    patches ─ conv ─ + positions ─┬─ norm ─ attention ─ + ─┬─ norm ─ dense ─ GELU ─ dense ─ + ─ … ─ norm ─ mean ─ dense
                                  └────────────────────────┘└──────────────────────────────┘
                                           (each twice, one layer after the other)

The normalisation stands before attention and MLP (Vaswani et al., 2017; Dosovitskiy et al., 2020), where training needs
no warm-up. It is what a BERT asks of a graph compiler, at a thousandth of the size.

Run from the repository root: `python -m models.digits_vit.train` (half a minute).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from models.training import attention, digits, layers
from models.training.fit import Schedule

SEED = 0
# Without convolutions little in the network says that neighbouring pixels go together: it needs more noise, and longer.
SCHEDULE = Schedule(epochs=100, noise=0.15)

WIDTH, HEADS, HIDDEN, DEPTH = 48, 4, 192, 2
PATCH = 2
TOKENS = (8 // PATCH) ** 2


def encoder_layer(name: str, rng: np.random.Generator) -> list[layers.Layer]:
    """Attention and an MLP, each normalised before and added to what came in."""
    attend = [
        attention.LayerNorm(f"{name}.norm1", WIDTH),
        attention.SelfAttention(f"{name}.attention", WIDTH, HEADS, rng),
    ]
    think = [
        attention.LayerNorm(f"{name}.norm2", WIDTH),
        attention.Linear(f"{name}.mlp.up", WIDTH, HIDDEN, rng),
        attention.Gelu(f"{name}.mlp.gelu"),
        attention.Linear(f"{name}.mlp.down", HIDDEN, WIDTH, rng),
    ]
    return [
        layers.Residual(f"{name}.attended", layers.Sequential(attend)),
        layers.Residual(f"{name}.thought", layers.Sequential(think)),
    ]


def network(rng: np.random.Generator) -> layers.Layer:
    """58,138 parameters."""
    return layers.Sequential(
        [
            layers.Conv2d("patches", 1, WIDTH, rng, kernel=PATCH, stride=PATCH, padding=0),
            attention.Tokens("tokens"),
            attention.Positions("positions", TOKENS, WIDTH, rng),
            *(layer for i in range(DEPTH) for layer in encoder_layer(f"layer{i + 1}", rng)),
            attention.LayerNorm("norm", WIDTH),
            attention.MeanOfTokens("mean"),
            layers.Dense("head", WIDTH, 10, rng),
        ]
    )


if __name__ == "__main__":
    digits.train_and_publish(Path(__file__).parent, network, SCHEDULE, SEED)
