"""What following features through the layers costs: sequences against the double loop, tokens from stored features."""

from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from benchmarks.measurement import Quiet, Result, arguments, interleave, ratio_range, speed_ratio, timed
from benchmarks.report import finish
from tracelake.analysis.tracks.association import LayerFeatures, Rules, follow
from tracelake.analysis.tracks.dictionaries import Dictionaries
from tracelake.analysis.tracks.metrics import metrics
from tracelake.analysis.tracks.tracks import points_frame, tracks_frame

N_LAYERS, D_SAE, DIM = 6, 1024, 128


def made_layers(rng: np.random.Generator, n_units: int, n_features: int) -> list[LayerFeatures]:
    """Units with `n_features` random features in each layer."""
    layers = []
    for _ in range(N_LAYERS):
        feature = np.sort(rng.permuted(np.tile(np.arange(D_SAE), (n_units, 1)), axis=1)[:, :n_features], axis=1)
        layers.append(LayerFeatures(feature, rng.gamma(2, 0.5, feature.shape), np.zeros(feature.shape)))
    return layers


def double_loop(layers: list[LayerFeatures], decoders: list[np.ndarray], units: range, rules: Rules) -> None:
    """As the source does it: for each sequence and layer a cost matrix filled cell by cell, then the assignment."""
    for unit in units:
        alive: list[tuple[np.ndarray, float]] = []
        for layer, decoder in zip(layers, decoders, strict=True):
            offered = [(decoder[f], float(a)) for f, a in zip(layer.feature[unit], layer.activation[unit], strict=True)]
            cost = np.zeros((len(alive), len(offered)))
            for i, (u, a) in enumerate(alive):
                for j, (v, b) in enumerate(offered):
                    cosine = np.dot(u, v) / (np.linalg.norm(u) * np.linalg.norm(v) + 1e-8)
                    cost[i, j] = rules.weights[0] * (1 - cosine) + rules.weights[1] * abs(a - b) / (a + b)
            rows, columns = linear_sum_assignment(cost)
            pairs = {int(j): int(i) for i, j in zip(rows, columns, strict=True) if cost[i, j] < rules.match}
            alive = [one for j, one in enumerate(offered) if j in pairs or one[1] > rules.birth]


def ours(layers: list[LayerFeatures], dictionaries: Dictionaries, rules: Rules) -> None:
    """Tracks and the 26 numbers of all units."""
    points = points_frame(follow(layers, dictionaries, rules), range(N_LAYERS))
    metrics(points, tracks_frame(points, N_LAYERS, rules.gap), len(layers[0].feature), N_LAYERS)


def measure(result: Result, options: Any) -> None:
    """Both promises."""
    rng, rules = np.random.default_rng(0), Rules()
    decoders = [rng.normal(size=(D_SAE, DIM)) for _ in range(N_LAYERS)]
    n_sequences, n_tokens, sample = (20, 200, 1) if options.quick else (1_000, 20_000, 10)
    sequences, tokens = made_layers(rng, n_sequences, 50), made_layers(rng, n_tokens, 16)
    dictionaries = Dictionaries(decoders)
    cases = {
        "ours, sequences": timed(lambda: ours(sequences, dictionaries, rules)),
        "double loop, some of them": timed(lambda: double_loop(sequences, decoders, range(sample), rules)),
        "ours, tokens": timed(lambda: ours(tokens, dictionaries, rules)),
    }
    found = interleave(cases, options.repeats or (1 if options.quick else 3), quiet=Quiet(options.patience))
    title = f"Following features through {N_LAYERS} layers, numbers included"
    table = result.table(title, "case", "units", "seconds", "rounds")
    for (name, one), n in zip(found.items(), (n_sequences, sample, n_tokens), strict=True):
        table.add(name, n, round(one.median, 3), one.spread)
    batch, loop = found["ours, sequences"], found["double loop, some of them"]
    scale = n_sequences / sample
    result.promise(
        f"Tracks of {n_sequences:,} sequences x {N_LAYERS} layers x 50 features over the double loop", 80,
        scale * speed_ratio(batch, loop),
    )  # fmt: skip
    result.notes.append(f"The loop ran over {sample} sequences; rounds: {ratio_range(batch, loop)} times {scale:g}.")
    per_token = 1e3 * found["ours, tokens"].median / n_tokens
    result.promise("Tracks of one token (16 features per layer)", 1, per_token, unit="ms", at_most=True)


def main() -> None:
    """Measure and store."""
    options = arguments(__doc__).parse_args()
    result = Result("tracks", "Tracks", {"layers": N_LAYERS, "d_sae": D_SAE, "dim": DIM})
    measure(result, options)
    finish(result, options)


if __name__ == "__main__":
    main()
