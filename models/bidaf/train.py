"""Trains the question-answering model of the walk-through, exports it, and measures the file.

Run from the repository root: `python -m models.bidaf.train` (about two minutes).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from models.bidaf import corpus, network
from models.bidaf.corpus import Example, Kind
from models.bidaf.export import export, feeds
from models.bidaf.tape import Array, Tape, Value
from models.training.publish import file_facts, session, write_json

SEED = 0
STEPS = 2400
BATCH = 64
# Batches are cut from texts of like length, so that little is padding.
BATCHES_A_POOL = 16
LEARNING_RATE = 3e-3
HELD_OUT = 500
"""Examples of every kind that is measured."""

FOLDER = Path(__file__).parent
REQUEST = {"query": "What color is the fox", "context": "The quick brown fox jumped over the lazy dog."}


class Adam:
    """The Adam optimiser, with the gradient's length bounded."""

    BETA1, BETA2, EPSILON, LONGEST = 0.9, 0.999, 1e-8, 1.0

    def __init__(self, weights: dict[str, Array]) -> None:
        self._slots = {name: (np.zeros_like(value), np.zeros_like(value)) for name, value in weights.items()}
        self._steps = 0

    def step(self, weights: dict[str, Array], gradients: dict[str, Array], learning_rate: float) -> None:
        """Moves every weight along its gradient."""
        self._steps += 1
        length = np.sqrt(sum(float((gradient * gradient).sum()) for gradient in gradients.values()))
        scale = np.float32(min(1.0, self.LONGEST / max(length, 1e-12)))
        mean_correction = np.float32(1 - self.BETA1**self._steps)
        square_correction = np.float32(1 - self.BETA2**self._steps)
        for name, (mean, square) in self._slots.items():
            gradient = gradients[name] * scale
            mean += np.float32(1 - self.BETA1) * (gradient - mean)
            square += np.float32(1 - self.BETA2) * (gradient * gradient - square)
            direction = (mean / mean_correction) / (np.sqrt(square / square_correction) + np.float32(self.EPSILON))
            weights[name] -= np.float32(learning_rate) * direction


def train() -> dict[str, Array]:
    """The trained weights: with the same packages and processor the same ones, bit for bit."""
    rng = np.random.default_rng(SEED)
    weights = network.initial_weights(rng)
    optimiser = Adam(weights)
    pool: list[list[Example]] = []
    running = 0.0
    for step in range(STEPS):
        if not pool:
            made = corpus.examples(SEED + 1 + step, BATCH * BATCHES_A_POOL, Kind.TRAINING)
            made.sort(key=lambda example: len(example.context))
            pool = [made[i : i + BATCH] for i in range(0, len(made), BATCH)]
            pool = [pool[i] for i in rng.permutation(len(pool))]
        batch = network.make_batch(pool.pop(), rng)
        tape = Tape()
        values = {name: Value(array) for name, array in weights.items()}
        both = network.scores(tape, values, batch)
        # Row by row: first all starts, then all ends.
        stacked = tape.reshape(tape.turn(both), (2 * len(batch.start), -1))
        labels = np.stack([batch.start, batch.end], axis=1).ravel()
        loss = tape.cross_entropy(stacked, np.repeat(batch.text_there, 2, axis=0), labels)
        tape.backward()
        gradients = {name: value.gradient for name, value in values.items() if value.gradient is not None}
        warm_up = min(1.0, (step + 1) / 100)
        learning_rate = LEARNING_RATE * warm_up * 0.5 * (1 + np.cos(np.pi * step / STEPS))
        optimiser.step(weights, gradients, learning_rate)
        running += (float(loss.array) - running) * (0.02 if step else 1.0)
        if step % 200 == 199:
            print(f"bidaf: step {step + 1} of {STEPS}, loss {running:.4f}", file=sys.stderr)
    return weights


def numpy_spans(weights: dict[str, Array], examples: list[Example]) -> list[tuple[int, int]]:
    """The answers that the numpy network gives."""
    values = {name: Value(array) for name, array in weights.items()}
    spans = []
    for example in examples:
        (both,) = network.scores(Tape(), values, network.make_batch([example])).array
        spans.append(network.best_span(both[:, 0], both[:, 1]))
    return spans


def main() -> None:
    """Trains, writes the model, and measures what ONNX Runtime makes of it."""
    with threadpool_limits(limits=1):
        weights = train()
        path = FOLDER / "model.onnx"
        export(weights, path)
        engine = session(path)
        held_out: dict[str, dict[str, float]] = {}
        correct_of_all, differing = 0, 0
        kinds = (Kind.SENTENCES, Kind.WORDS, Kind.WORDINGS)
        for kind in kinds:
            examples = corpus.examples(SEED, HELD_OUT, kind)
            spans = [
                (int(start[0]), int(end[0]))
                for start, end in (engine.run(["start_pos", "end_pos"], feeds(x.context, x.query)) for x in examples)
            ]
            differing += sum(a != b for a, b in zip(spans, numpy_spans(weights, examples), strict=True))
            correct = sum(span == (x.start, x.end) for span, x in zip(spans, examples, strict=True))
            correct_of_all += correct
            held_out[kind.value] = {"samples": HELD_OUT, "correct": correct, "exact_match": correct / HELD_OUT}
    # Sums in another order can tip a span that is as good as another; more than one in a hundred is a wrong export.
    if differing > len(kinds) * HELD_OUT * 0.01:
        sys.exit(f"{path}: ONNX Runtime and numpy answer {differing} questions differently")

    (FOLDER / "request.json").write_text(json.dumps(REQUEST), encoding="utf-8")
    samples = len(kinds) * HELD_OUT
    write_json(
        FOLDER / "metrics.json",
        {
            "model": "bidaf",
            **file_facts(path),
            "parameters": sum(value.size for value in weights.values()),
            "data": "made up by corpus.py",
            "training": {"script": "train.py", "seed": SEED, "steps": STEPS, "samples": STEPS * BATCH},
            "held_out": {
                "samples": samples,
                "correct": correct_of_all,
                "exact_match": correct_of_all / samples,
                "by_kind": held_out,
            },
            "onnxruntime_and_numpy_differ_on": differing,
        },
    )
    parts = ", ".join(f"{kind.value} {held_out[kind.value]['exact_match']:.3f}" for kind in kinds)
    print(f"bidaf: {path.stat().st_size} bytes, held-out exact match: {parts}")


if __name__ == "__main__":
    main()
