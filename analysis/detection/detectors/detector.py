"""A detector that is fitted: named arrays and a few words, from which it predicts. Stored as rows and JSON."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from jaxtyping import Float

from ....lake.values import JsonView

Kind = Literal["constant", "linear", "forest", "boosting", "perceptron"]
LEAF = -1


@dataclass(frozen=True)
class Detector:
    """What predicts the probability that a label is true from the columns of one block."""

    kind: Kind
    columns: tuple[str, ...]
    """Names of the columns that it reads, in order."""
    arrays: Mapping[str, Float[np.ndarray, "..."]]
    """`fill` (for unknown values) and what the kind needs."""
    about: JsonView
    """What was chosen in the training folds: block, strength, columns that were left out."""

    def predict(self, values: Float[np.ndarray, "sequence column"]) -> Float[np.ndarray, " sequence"]:
        """The probability of each row; unknown values (NaN) are taken as the training mean."""
        arrays = self.arrays
        if self.kind == "constant":
            return np.full(len(values), float(arrays["share"][0]))
        filled = np.where(np.isfinite(values), values, arrays["fill"])
        if self.kind == "forest":
            return _of_trees(filled, arrays).mean(axis=1)
        if self.kind == "boosting":
            return _sigmoid(
                float(arrays["start"][0]) + float(arrays["rate"][0]) * _of_trees(filled, arrays).sum(axis=1)
            )
        hidden = (filled - arrays["mean"]) / arrays["scale"]
        if self.kind == "linear":
            return _sigmoid(hidden @ arrays["coefficient"] + arrays["intercept"][0])
        n_layers = sum(name.startswith("weight_") for name in arrays)
        for layer in range(n_layers):
            hidden = hidden @ arrays[f"weight_{layer}"] + arrays[f"bias_{layer}"]
            hidden = np.maximum(hidden, 0) if layer < n_layers - 1 else hidden
        return _sigmoid(hidden[:, 0])

    def terms(self) -> dict[str, list[Any]]:
        """All numbers as columns part, row, column, value."""
        parts: dict[str, list[Any]] = {"part": [], "row": [], "column": [], "value": []}
        for name, array in self.arrays.items():
            matrix = np.asarray(array, np.float64)
            matrix = matrix[:, None] if matrix.ndim == 1 else matrix
            rows, columns = np.indices(matrix.shape)
            parts["part"] += [name] * matrix.size
            parts["row"] += rows.ravel().tolist()
            parts["column"] += columns.ravel().tolist()
            parts["value"] += matrix.ravel().tolist()
        return parts

    def description(self) -> str:
        """Everything but the numbers, as JSON."""
        shapes = {name: list(np.shape(array)) for name, array in self.arrays.items()}
        about = {"kind": self.kind, "columns": list(self.columns), "shapes": shapes, "about": dict(self.about)}
        return json.dumps(about, ensure_ascii=False, sort_keys=True)

    @classmethod
    def from_terms(cls, description: str, terms: Mapping[str, np.ndarray]) -> Self:
        """The detector of `description` and `terms`."""
        held = json.loads(description)
        arrays = {}
        for name, shape in held["shapes"].items():
            mine = terms["part"] == name
            array = np.zeros(shape if len(shape) == 2 else (shape[0], 1))
            array[terms["row"][mine], terms["column"][mine]] = terms["value"][mine]
            arrays[name] = array if len(shape) == 2 else array[:, 0]
        return cls(held["kind"], tuple(held["columns"]), arrays, held["about"])


def _of_trees(
    values: Float[np.ndarray, "sequence column"], arrays: Mapping[str, np.ndarray]
) -> Float[np.ndarray, "sequence tree"]:
    """What each tree says; scikit-learn compares values as float32."""
    small = values.astype(np.float32)
    feature, left, right = (arrays[name].astype(np.int64) for name in ("feature", "left", "right"))
    starts = arrays["first_node"].astype(np.int64)
    out = np.empty((len(values), len(starts)))
    rows = np.arange(len(values))
    for tree, start in enumerate(starts):
        node = np.full(len(values), start)
        while (inner := feature[node] != LEAF).any():
            low = small[rows, np.maximum(feature[node], 0)] <= arrays["threshold"][node]
            node = np.where(inner, start + np.where(low, left[node], right[node]), node)
        out[:, tree] = arrays["value"][node]
    return out


def _sigmoid(margin: np.ndarray) -> np.ndarray:
    from scipy.special import expit

    return expit(margin)
