"""Detectors fitted to columns and labels; scaling, block and strength are chosen inside what they are fitted to."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from ....lake.errors import ConfigError
from ....lake.values import Columns
from ..signals.signal import Block
from .detector import LEAF, Detector
from .splits import grouped_folds

STRENGTHS = (0.01, 0.1, 1.0)
"""Values of C (inverse strength of the penalty, on scaled columns) that linear models choose from."""
INNER_FOLDS = 3
SEED = 42
N_TREES, BOOSTING_RATE, BOOSTING_DEPTH = 100, 0.1, 3
HIDDEN = (64, 32, 16)
NEWTON_UP_TO = 300
"""Columns up to which logistic regressions are fitted by Newton's method."""
ITERATIONS = 1_000

Values = Float[np.ndarray, "sequence column"]
Labels = Bool[np.ndarray, " sequence"]


@dataclass(frozen=True)
class Training:
    """The rows that a detector may see."""

    labels: Labels
    prompt: Int[np.ndarray, " sequence"]
    strengths: Sequence[float] = STRENGTHS


def fit(model: str, blocks: Sequence[Block], rows: np.ndarray, training: Training) -> tuple[Detector, int]:
    """The detector of one kind on the rows of the best block, and which one that is.

    Of several blocks the one with the smallest log loss in inner folds is taken, told by logistic regression.
    """
    if model == "majority":
        share = np.array([training.labels.mean()])
        return Detector("constant", (), {"share": share}, {}), 0
    chosen = _best_block(model, blocks, rows, training) if len(blocks) > 1 else 0
    block = blocks[chosen]
    values, fill, kept = _usable(block.values[rows])
    names = tuple(name for name, one in zip(block.columns, kept, strict=True) if one)
    about: Columns = {"block": block.name, "left_out": [n for n in block.columns if n not in names]}
    if not names:
        return Detector("constant", (), {"share": np.array([training.labels.mean()])}, about), chosen
    made = FITTERS[model](values, training)
    return replace(made, columns=names, arrays={"fill": fill, **made.arrays}, about={**about, **made.about}), chosen


def predict(detector: Detector, block: Block, rows: np.ndarray) -> Float[np.ndarray, " sequence"]:
    """What the detector says of the rows of a block."""
    place = {name: n for n, name in enumerate(block.columns)}
    missing = [name for name in detector.columns if name not in place]
    if missing and block.lacking is None:
        raise ConfigError(
            f"The detector reads {', '.join(missing[:5])}, which this run does not have. Store "
            "the same there: the same layers, autoencoders and analyses."
        )
    values = np.full((len(rows), len(detector.columns)), np.nan if block.lacking is None else block.lacking)
    for column, name in enumerate(detector.columns):
        if name in place:
            values[:, column] = block.values[rows, place[name]]
    return detector.predict(values)


def _usable(values: Values) -> tuple[Values, Float[np.ndarray, " column"], Bool[np.ndarray, " column"]]:
    """Columns that are not constant among the known values, unknown ones as the mean; the means; which they are."""
    known = np.isfinite(values)
    count = known.sum(axis=0)
    mean = np.where(known, values, 0).sum(axis=0) / np.maximum(count, 1)
    filled = np.where(known, values, mean)
    spread = np.abs(filled - mean).max(axis=0, initial=0)
    # What is left of rounding is no variation: a column of one value has a spread of some 1e-16 of it.
    kept = spread > 1e-12 * np.maximum(1.0, np.abs(mean))
    return filled[:, kept], mean[kept], kept


def _best_block(model: str, blocks: Sequence[Block], rows: np.ndarray, training: Training) -> int:
    inner = grouped_folds(training.prompt, INNER_FOLDS, SEED)
    middle = training.strengths[len(training.strengths) // 2]
    fitter = _lasso if model == "lasso" else _mean_difference if model == "mean-difference" else _logistic
    losses = []
    for block in blocks:
        values = _usable(block.values[rows])[0]
        fixed = replace(training, strengths=(middle,))
        losses.append(_held_out_loss(values, fixed, inner, fitter) if values.shape[1] else np.inf)
    return int(np.argmin(losses))


def _held_out_loss(
    values: Values, training: Training, inner: np.ndarray, fitter: "Callable[[Values, Training], Detector]"
) -> float:
    """Mean log loss of inner folds; infinite if none can be fitted."""
    total, n = 0.0, 0
    for held in range(INNER_FOLDS):
        inside, outside = inner != held, inner == held
        labels = training.labels[inside]
        if labels.all() or not labels.any() or not outside.any():
            continue
        part = replace(training, labels=labels, prompt=training.prompt[inside])
        told = np.clip(_told(fitter(values[inside], part), values[outside]), 1e-6, 1 - 1e-6)
        total -= np.log(np.where(training.labels[outside], told, 1 - told)).sum()
        n += int(outside.sum())
    return total / n if n else np.inf


def _told(made: Detector, values: Values) -> np.ndarray:
    """What a detector without filling says of whole values."""
    return replace(made, arrays={"fill": np.zeros(values.shape[1]), **made.arrays}).predict(values)


def _scaling(values: Values) -> tuple[np.ndarray, np.ndarray]:
    scale = values.std(axis=0)
    return values.mean(axis=0), np.where(scale > 0, scale, 1)


def _linear(values: Values, training: Training, **options: Any) -> Detector:
    """Logistic regression on scaled columns, C chosen in inner folds."""
    from sklearn.linear_model import LogisticRegression

    def at(strength: float) -> Callable[[Values, Training], Detector]:
        def fitter(part: Values, inside: Training) -> Detector:
            mean, scale = _scaling(part)
            model = LogisticRegression(C=strength, max_iter=ITERATIONS, random_state=SEED, **options)
            model.fit((part - mean) / scale, inside.labels)
            arrays = {"mean": mean, "scale": scale, "coefficient": model.coef_[0], "intercept": model.intercept_}
            return Detector("linear", (), arrays, {"strength": strength})

        return fitter

    strengths = training.strengths
    best = 0
    if len(strengths) > 1:
        inner = grouped_folds(training.prompt, INNER_FOLDS, SEED)
        best = int(np.argmin([_held_out_loss(values, training, inner, at(one)) for one in strengths]))
    return at(strengths[best])(values, training)


def _logistic(values: Values, training: Training) -> Detector:
    # Newton's method needs few steps where columns go together, as lengths and sums do, but squares of their number.
    return _linear(values, training, solver="newton-cholesky" if values.shape[1] <= NEWTON_UP_TO else "lbfgs")


def _lasso(values: Values, training: Training) -> Detector:
    return _linear(values, training, l1_ratio=1.0, solver="liblinear", tol=1e-3)


def _mean_difference(values: Values, training: Training) -> Detector:
    """The difference of class means as a direction, and a logistic curve over the projections on it."""
    mean, scale = _scaling(values)
    scaled, labels = (values - mean) / scale, training.labels
    direction = scaled[labels].mean(axis=0) - scaled[~labels].mean(axis=0)
    curve = _linear((scaled @ direction)[:, None], replace(training, strengths=(1.0,)))
    along = direction * float(curve.arrays["coefficient"][0] / curve.arrays["scale"][0])
    shift = curve.arrays["intercept"] - curve.arrays["mean"] * curve.arrays["coefficient"] / curve.arrays["scale"]
    return Detector("linear", (), {"mean": mean, "scale": scale, "coefficient": along, "intercept": shift}, {})


def _forest(values: Values, training: Training) -> Detector:
    from sklearn.ensemble import RandomForestClassifier

    model = RandomForestClassifier(N_TREES, random_state=SEED).fit(values, training.labels)
    trees = [tree.tree_ for tree in model.estimators_]
    # The share of true labels among the rows of a leaf, as predict_proba has it.
    shares = [tree.value[:, 0, -1] / tree.value[:, 0].sum(axis=1) for tree in trees]
    if len(model.classes_) == 1:
        shares = [np.full(len(share), float(model.classes_[0])) for share in shares]
    return Detector("forest", (), _nodes(trees, shares), {"trees": N_TREES, "seed": SEED})


def _boosting(values: Values, training: Training) -> Detector:
    from sklearn.ensemble import GradientBoostingClassifier

    model = GradientBoostingClassifier(
        n_estimators=N_TREES, learning_rate=BOOSTING_RATE, max_depth=BOOSTING_DEPTH, random_state=SEED
    ).fit(values, training.labels)
    trees = [tree.tree_ for tree in model.estimators_[:, 0]]
    share = training.labels.mean()
    arrays = _nodes(trees, [tree.value[:, 0, 0] for tree in trees])
    arrays |= {"start": np.array([np.log(share / (1 - share))]), "rate": np.array([BOOSTING_RATE])}
    return Detector("boosting", (), arrays, {"trees": N_TREES, "depth": BOOSTING_DEPTH, "seed": SEED})


def _nodes(trees: Sequence[Any], values: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """The nodes of all trees one after the other."""
    starts = np.cumsum([0, *(tree.node_count for tree in trees[:-1])])
    feature = np.concatenate([np.where(tree.children_left < 0, LEAF, tree.feature) for tree in trees])
    return {
        "first_node": starts.astype(np.float64),
        "feature": feature.astype(np.float64),
        "threshold": np.concatenate([tree.threshold for tree in trees]),
        "left": np.concatenate([tree.children_left for tree in trees]).astype(np.float64),
        "right": np.concatenate([tree.children_right for tree in trees]).astype(np.float64),
        "value": np.concatenate(values),
    }


def _perceptron(values: Values, training: Training) -> Detector:
    """Three hidden layers, stopped early on a tenth of the rows."""
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    mean, scale = _scaling(values)
    model = MLPClassifier(HIDDEN, max_iter=60, early_stopping=True, alpha=1e-2, random_state=SEED)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # stopping at 60 rounds is what is wanted
        model.fit((values - mean) / scale, training.labels)
    arrays: dict[str, np.ndarray] = {"mean": mean, "scale": scale}
    for layer, (weight, bias) in enumerate(zip(model.coefs_, model.intercepts_, strict=True)):
        arrays |= {f"weight_{layer}": weight, f"bias_{layer}": bias}
    return Detector("perceptron", (), arrays, {"hidden": list(HIDDEN), "seed": SEED})


FITTERS: dict[str, Callable[[Values, Training], Detector]] = {
    "logistic": _logistic, "forest": _forest, "boosting": _boosting, "lasso": _lasso,
    "mean-difference": _mean_difference, "perceptron": _perceptron,
}  # fmt: skip
ASKED = ("logistic", "forest", "boosting")
"""Models that a user chooses from; the others belong to one signal."""
