"""Trains the scikit-learn models and converts them with skl2onnx: what users of such deployments bring.

Beside the models it writes `metrics.json` (measured on held-out rows, in ONNX Runtime) and `examples.json`: for each
model a request of five held-out rows, and scikit-learn's own answer.

Run from the repository root: `python -m models.sklearn.train`.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skl2onnx import convert_sklearn
from skl2onnx.common.data_types import FloatTensorType, StringTensorType
from sklearn.base import BaseEstimator, is_classifier
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_diabetes, load_digits, load_iris, load_wine
from sklearn.ensemble import GradientBoostingRegressor, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import r2_score
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from threadpoolctl import threadpool_limits

from models.training.publish import file_facts, session, write_examples, write_json

FOLDER = Path(__file__).parent
SEED = 0
OPSETS = {"": 17, "ai.onnx.ml": 3}
EXAMPLE_ROWS = 5

# skl2onnx's names for the predicted class, without and with ZipMap.
LABEL_OUTPUTS = {"label", "output_label"}

# Scikit-learn computes in float64 and the converted models in float32.
MAX_DIFFERENCE = 1e-3


@dataclass(frozen=True)
class Table:
    """Rows to learn from. `inputs` names the model's inputs in column order, each with its number of columns."""

    source: str
    rows: NDArray
    targets: NDArray
    inputs: dict[str, int] = field(default_factory=dict)

    def held_out(self) -> NDArray[np.bool_]:
        """Every fourth row (of every class, where there are classes): a split that needs no random numbers."""
        chosen = np.zeros(len(self.rows), dtype=bool)
        if self.targets.dtype.kind == "f":
            chosen[3::4] = True
        else:
            for label in np.unique(self.targets):
                chosen[np.flatnonzero(self.targets == label)[3::4]] = True
        return chosen


@dataclass(frozen=True)
class Recipe:
    """A model to make. `zip_map` leaves skl2onnx's default in: probabilities as a sequence of maps."""

    data: Callable[[], Table]
    estimator: Callable[[], BaseEstimator]
    zip_map: bool = False


def bundled(load: Callable[..., tuple[NDArray, NDArray]], source: str, scale: float = 1.0) -> Callable[[], Table]:
    """One of scikit-learn's own data sets, as one float32 input `x`."""

    def read() -> Table:
        rows, targets = load(return_X_y=True)
        return Table(source, (rows * scale).astype(np.float32), targets, {"x": rows.shape[1]})

    return read


def fruit() -> Table:
    """The hand-written table of fruit: two columns of words and one number, each an input of its own."""
    with open(FOLDER / "fruit.csv", newline="", encoding="utf-8") as lines:
        records = list(csv.DictReader(lines))
    rows = np.array([[r["colour"], r["shape"], float(r["weight_g"])] for r in records], dtype=object)
    targets = np.array([r["fruit"] for r in records])
    return Table("fruit.csv, made up for this project", rows, targets, {"colour": 1, "shape": 1, "weight": 1})


def fruit_classifier() -> BaseEstimator:
    """Words to one-hot columns (unknown words to zeros), the number scaled, then a logistic regression."""
    columns = ColumnTransformer(
        [
            ("words", OneHotEncoder(handle_unknown="ignore", sparse_output=False), [0, 1]),
            ("number", StandardScaler(), [2]),
        ]
    )
    return make_pipeline(columns, LogisticRegression(C=10, max_iter=1000))


def iris_classifier() -> BaseEstimator:
    """The pipeline that every tutorial starts with."""
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))


IRIS = bundled(load_iris, "Iris, R. A. Fisher (1936), UCI doi:10.24432/C56C76, CC BY 4.0")
WINE = bundled(load_wine, "Wine, S. Aeberhard and M. Forina (1992), UCI doi:10.24432/C5PC7J, CC BY 4.0")
DIGITS = bundled(load_digits, "Optical Recognition of Handwritten Digits, UCI doi:10.24432/C50P49, CC BY 4.0", 1 / 16)
DIABETES = bundled(
    load_diabetes,
    "Diabetes, B. Efron et al., Least Angle Regression (2004); no licence stated, not copied here beyond the example",
)

RECIPES = {
    "iris_logreg": Recipe(IRIS, iris_classifier),
    "iris_logreg_zipmap": Recipe(IRIS, iris_classifier, zip_map=True),
    "wine_forest": Recipe(WINE, lambda: RandomForestClassifier(n_estimators=20, max_depth=6, random_state=SEED)),
    "diabetes_boosting": Recipe(
        DIABETES, lambda: GradientBoostingRegressor(n_estimators=60, learning_rate=0.07, max_depth=2, random_state=SEED)
    ),
    "diabetes_mlp": Recipe(
        DIABETES,
        lambda: make_pipeline(
            StandardScaler(),
            MLPRegressor(
                hidden_layer_sizes=(32, 16),
                alpha=10.0,
                learning_rate_init=0.01,
                max_iter=2000,
                early_stopping=True,
                n_iter_no_change=30,
                random_state=SEED,
            ),
        ),
    ),
    "digits_mlp": Recipe(
        DIGITS, lambda: MLPClassifier(hidden_layer_sizes=(128, 64), max_iter=500, alpha=1e-3, random_state=SEED)
    ),
    # For benchmarks: a model whose time is all in one tree node. Small trees keep the file committable.
    "rf200": Recipe(
        DIGITS, lambda: RandomForestClassifier(n_estimators=200, max_leaf_nodes=40, random_state=SEED, n_jobs=1)
    ),
    "fruit": Recipe(fruit, fruit_classifier),
    "fruit_zipmap": Recipe(fruit, fruit_classifier, zip_map=True),
}


def ports_of(table: Table) -> dict[str, NDArray]:
    """A table's columns as the model's named inputs."""
    ports, start = {}, 0
    for name, width in table.inputs.items():
        columns = table.rows[:, start : start + width]
        is_text = columns.dtype == object and isinstance(columns[0, 0], str)
        ports[name] = columns if is_text else columns.astype(np.float32)
        start += width
    return ports


def convert(name: str, recipe: Recipe, estimator: BaseEstimator, ports: dict[str, NDArray]) -> Path:
    """Writes the fitted estimator as ONNX. The graph gets a name because skl2onnx would make up a random one."""
    types = [
        (port, (StringTensorType if values.dtype == object else FloatTensorType)([None, values.shape[1]]))
        for port, values in ports.items()
    ]
    options = {id(estimator): {"zipmap": recipe.zip_map}} if is_classifier(estimator) else None
    model = convert_sklearn(estimator, name, types, target_opset=OPSETS, options=options)
    # skl2onnx lists operator sets in the order of a Python set, which changes from run to run. Its repetitions stay:
    # real files have them, so readers must take them.
    operator_sets = sorted(model.opset_import, key=lambda entry: (entry.domain, entry.version))
    del model.opset_import[:]
    model.opset_import.extend(operator_sets)
    path = FOLDER / f"{name}.onnx"
    path.write_bytes(model.SerializeToString(deterministic=True))
    return path


def sklearn_answer(estimator: BaseEstimator, rows: NDArray, zip_map: bool) -> dict[str, Any]:
    """What scikit-learn says, under the names and in the forms that the ONNX model answers with."""
    if not is_classifier(estimator):
        return {"variable": estimator.predict(rows)[:, None]}
    labels, probabilities = estimator.predict(rows), estimator.predict_proba(rows)
    if not zip_map:
        return {"label": labels, "probabilities": probabilities}
    classes = estimator.classes_.tolist()
    maps = [dict(zip(classes, row, strict=True)) for row in probabilities.tolist()]
    return {"output_label": labels, "output_probability": maps}


def largest_difference(answers: dict[str, Any], expected: dict[str, Any]) -> float:
    """The largest difference between the numbers of two answers (labels are compared by what is measured)."""

    def numbers(value: object) -> NDArray:
        if isinstance(value, list):
            value = [[row[key] for key in sorted(row)] for row in value]
        return np.asarray(value, dtype=np.float64)

    differences = [
        np.abs(numbers(answers[name]) - numbers(value)).max()
        for name, value in expected.items()
        if name not in LABEL_OUTPUTS
    ]
    return float(max(differences))


def readable(values: NDArray) -> list[Any]:
    """Nested lists with the shortest decimals that still mean the same float32."""
    if values.dtype == np.float32:
        values = values.astype(str).astype(np.float64)
    return values.tolist()


def make(name: str, recipe: Recipe) -> tuple[dict[str, Any], dict[str, Any]]:
    """Trains, converts and measures one model; returns its metrics and its example."""
    table = recipe.data()
    held_out = table.held_out()
    rows, targets = table.rows[held_out], table.targets[held_out]
    estimator = recipe.estimator()
    with threadpool_limits(limits=1):
        estimator.fit(table.rows[~held_out], table.targets[~held_out])
        expected = sklearn_answer(estimator, rows, recipe.zip_map)

    ports = {port: values[held_out] for port, values in ports_of(table).items()}
    path = convert(name, recipe, estimator, ports)
    names = list(expected)
    answers = dict(zip(names, session(path).run(names, ports), strict=True))
    difference = largest_difference(answers, expected)
    scale = 1.0 if is_classifier(estimator) else float(np.abs(targets).max())
    if difference > MAX_DIFFERENCE * scale:
        sys.exit(f"{name}: ONNX Runtime and scikit-learn differ by {difference:g}")

    if is_classifier(estimator):
        (label_output,) = LABEL_OUTPUTS.intersection(expected)
        labels = answers[label_output]
        if not (labels == expected[label_output]).all():
            sys.exit(f"{name}: ONNX Runtime and scikit-learn disagree about labels")
        score = {"accuracy": float((labels == targets).mean()), "correct": int((labels == targets).sum())}
    else:
        score = {"r2": float(r2_score(targets, answers["variable"][:, 0]))}
    metrics = {
        **file_facts(path),
        "data": table.source,
        "training": {"script": "train.py", "seed": SEED, "samples": int((~held_out).sum())},
        "held_out": {"samples": len(rows), **score},
        "onnxruntime_vs_sklearn_max_abs_difference": difference,
    }
    example = {
        "request": {port: readable(values[:EXAMPLE_ROWS]) for port, values in ports.items()},
        "response": {
            key: value[:EXAMPLE_ROWS] if isinstance(value, list) else value[:EXAMPLE_ROWS].tolist()
            for key, value in expected.items()
        },
    }
    print(f"{name}: {metrics['bytes']} bytes, held-out {score} of {len(rows)}, difference {difference:.1e}")
    return metrics, example


def main() -> None:
    """Makes every model."""
    made = {name: make(name, recipe) for name, recipe in RECIPES.items()}
    write_json(FOLDER / "metrics.json", {name: metrics for name, (metrics, _) in made.items()})
    write_examples(FOLDER / "examples.json", {name: example for name, (_, example) in made.items()})


if __name__ == "__main__":
    main()
