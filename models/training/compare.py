"""Says whether retrained models are the committed ones: bit for bit, or at least as good.

Another processor's matrix kernels add in another order, so training there ends in slightly other weights; then the
held-out data must still be the same and the measured figures close.

Run by scripts/train-models.sh: `python -m models.training.compare COMMITTED RETRAINED`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

PRODUCTS = ("*.onnx", "*.data", "*.npz", "*.json", "*.tab", "*.txt")

# How far a retrained model's held-out figure may lie from the committed one's.
TOLERANCE = {"accuracy": 0.015, "r2": 0.08, "exact_match": 0.05}


def products(folder: Path) -> set[Path]:
    """Every file that a training script writes, relative to the models folder."""
    found = {path.relative_to(folder) for pattern in PRODUCTS for path in folder.rglob(pattern)}
    return {path for path in found if not path.match("*config*.json")}


def figures(metrics: dict[str, Any], place: str) -> Iterator[tuple[str, str, float]]:
    """The held-out figures of a metrics file, which describes one model or several by name."""
    if "held_out" not in metrics:
        for name, entry in metrics.items():
            yield from figures(entry, f"{place}/{name}")
        return
    for kind in TOLERANCE:
        if kind in metrics["held_out"]:
            yield place, kind, metrics["held_out"][kind]


def compare_metrics(committed: Path, retrained: Path) -> Iterator[tuple[bool, str]]:
    """One verdict for every figure."""
    pair = [figures(json.loads(path.read_text(encoding="utf-8")), path.parent.name) for path in (committed, retrained)]
    for (place, kind, before), (_, _, now) in zip(*pair, strict=True):
        close = abs(now - before) <= TOLERANCE[kind]
        yield close, f"{place}: {kind} {now:.4f}, committed {before:.4f}" + ("" if close else ": TOO FAR")


def same_data(committed: Path, retrained: Path) -> bool:
    """Whether two held-out files hold the same images and labels."""
    with np.load(committed) as before, np.load(retrained) as now:
        return all(np.array_equal(before[key], now[key]) for key in ("x", "y"))


def main() -> None:
    """Prints what is the same, then judges what is not."""
    committed, retrained = (Path(argument) for argument in sys.argv[1:3])
    before, now = products(committed), products(retrained)
    good = before == now
    for path in sorted(before ^ now):
        print(f"{path}: only {'committed' if path in before else 'retrained'}")
    different = [p for p in sorted(before & now) if (committed / p).read_bytes() != (retrained / p).read_bytes()]
    print(f"{len(before & now) - len(different)} of {len(before)} files reproduced bit for bit")

    for path in different:
        if path.name == "metrics.json":
            for close, verdict in compare_metrics(committed / path, retrained / path):
                good &= close
                print(f"  {verdict}")
        elif path.suffix == ".npz" and not same_data(committed / path, retrained / path):
            good = False
            print(f"  {path}: the held-out data are OTHER ONES")
        elif path.parts[0] == "tiny" or path.name == "request.json" or "nltk_data" in path.parts:
            good = False
            print(f"  {path}: DIFFERENT, though no matrix product is in it")
        else:
            print(f"  {path}: other bits")
    if different and good:
        print("not the same bits, but the same data and figures within", TOLERANCE)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
