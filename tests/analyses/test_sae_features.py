"""Evaluation and feature tables of an autoencoder of tinymath, every number again from stored vectors in numpy."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from sae_lakes import lake_of, tinymath_lake

from tracelake.analysis.sae import encode, evaluation
from tracelake.analysis.sae.features import feature_tables
from tracelake.analysis.sae.folder import load_sae
from tracelake.analysis.sae.training.options import TrainOptions
from tracelake.analysis.sae.training.trainer import start_training
from tracelake.facade.sae_evaluation import EvaluationOptions, evaluate
from tracelake.lake import Lake
from tracelake.lake.analyses import commit_analysis
from tracelake.lake.derived import Analysis
from tracelake.lake.errors import ConfigError, StoppedError

SAE = "tinymath-resid_post-2"


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    made = tinymath_lake(tmp_path_factory.mktemp("lake"))
    options = TrainOptions(
        layers=(2,), archs=("batchtopk",), widths=("96",), ks=(6,), tokens=16_000, batch_size=512, lr=4e-3,
        validation_runs=("check",), commits=2,
    )  # fmt: skip
    start_training(made, ["read"], options)
    feature_tables(made, SAE, "read")
    return made


def _vectors(lake: Lake, run: str) -> tuple[pl.DataFrame, np.ndarray]:
    """Keys and vectors of layer 2 without the first tokens, in the order of keys."""
    pieces = list(lake.vectors(2, "resid_post", run))
    keys = pl.concat([pl.from_arrow(k).select("sequence_id", "position") for k, _ in pieces])  # type: ignore[union-attr]
    vectors = np.concatenate([v for _, v in pieces])
    kept = keys.with_row_index("row").filter(pl.col("position") > 0).sort("sequence_id", "position")
    return kept, vectors[kept["row"].to_numpy()]


def _activations(lake: Lake, vectors: np.ndarray) -> np.ndarray:
    w = {name: value.numpy() for name, value in load_sae(lake, SAE).weights.items()}
    pre = (vectors - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
    return pre * (pre > w["threshold"])


def test_features_are_those_of_the_vectors(lake: Lake) -> None:
    keys, vectors = _vectors(lake, "read")
    wanted = _activations(lake, vectors)
    rows = lake.scan("sae_features", "read").collect().sort("sequence_id", "position", "feature")
    where, feature = np.nonzero(wanted)
    assert rows.height == len(where) > 1000
    assert np.array_equal(rows["feature"], feature)
    assert np.array_equal(rows["sequence_id"], keys["sequence_id"].to_numpy()[where])
    assert np.array_equal(rows["position"], keys["position"].to_numpy()[where])
    assert np.allclose(rows["activation"], wanted[where, feature], atol=1e-4)
    by_feature = lake.scan("feature_activations", "read").collect()
    names = ["feature", "sequence_id", "position", "activation"]
    assert by_feature.select(names).equals(rows.select(names).sort("feature", "sequence_id", "position"))
    assert lake.verify("deep").ok


def test_stats_again_in_numpy(lake: Lake) -> None:
    keys, vectors = _vectors(lake, "read")
    wanted = _activations(lake, vectors)
    stats = lake.scan("feature_stats", "read").collect().sort("feature")
    assert stats["feature"].to_list() == list(range(96))
    assert np.array_equal(stats["n_active"], (wanted > 0).sum(0))
    assert np.allclose(stats["sum"], wanted.sum(0), rtol=1e-4) and np.allclose(
        stats["sum_sq"], (wanted**2).sum(0), rtol=1e-4
    )
    sequences = keys["sequence_id"].to_numpy()
    for row in stats.iter_rows(named=True):
        values = wanted[:, row["feature"]]
        on = values > 0
        assert row["n_sequences"] == len(np.unique(sequences[on]))
        if not on.any():
            assert row["max"] is None and row["label"] is None and row["reason"] == "never active"
            continue
        assert row["max"] == pytest.approx(values.max(), rel=1e-4)
        assert row["q90"] == pytest.approx(np.quantile(values[on], 0.9), rel=1e-3)
        assert row["top_token_counts"][0] == max(row["top_token_counts"]) > 0
    rows = load_sae(lake, SAE).weights["W_dec"].double().numpy()
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = rows @ rows.T - 3 * np.eye(96)
    assert np.allclose(stats["max_cos_other"], cosines.max(1), atol=1e-5)


def test_rule_labels_again_in_plain_python(lake: Lake) -> None:
    """The best rule by F1 on four fifths of the documents, and its precision and recall on the others."""
    from hashlib import sha256

    sequences = lake.scan("sequences", "read").collect()
    documents = {r["sequence_id"]: r["item_id"] or r["prompt_id"] for r in sequences.iter_rows(named=True)}
    held = {i: int(sha256(name.encode()).hexdigest()[:8], 16) % 5 == 0 for i, name in documents.items()}
    tokens = lake.scan("token_steps", "read").collect()
    token = {(r["sequence_id"], r["position"]): (r["token_id"], r["token"]) for r in tokens.iter_rows(named=True)}
    rules: dict[Any, tuple[set, set]] = {}
    for (sequence, position), (token_id, _) in token.items():
        if position == 0:
            continue
        before = token[sequence, position - 1][0]
        for rule in ((0, token_id, -1), (1, before, -1), (2, token_id, before)):
            rules.setdefault(rule, (set(), set()))[held[sequence]].add((sequence, position))
    active = lake.scan("feature_activations", "read").collect()
    stats = {r["feature"]: r for r in lake.scan("feature_stats", "read").collect().iter_rows(named=True)}
    n_labels = 0
    for [feature], rows in active.group_by("feature"):
        on: tuple[set, set] = (set(), set())
        for sequence, position in rows.select("sequence_id", "position").iter_rows():
            on[held[sequence]].add((sequence, position))
        if not on[0]:
            continue
        f1 = {rule: 2 * len(on[0] & r[0]) / (len(on[0]) + len(r[0])) for rule, r in rules.items()}
        best = max(f1, key=lambda rule: (f1[rule], -rule[0], -rule[1], -rule[2]))
        row = stats[feature]
        if f1[best] < 0.5:
            assert row["label"] is None and "F1" in row["reason"]
            continue
        n_labels += 1
        named, fired = rules[best][1], on[1]
        assert row["precision"] == (len(named & fired) / len(named) if named else None), (best, row)
        assert row["recall"] == (len(named & fired) / len(fired) if fired else None)
        if best[0] == 0:
            assert row["label"] == repr(next(t for i, t in token.values() if i == best[1])) or '"' in row["label"]
    assert n_labels > 5


def test_examples_point_at_their_tokens(lake: Lake) -> None:
    examples = lake.scan("feature_examples", "read").collect()
    active = lake.scan("feature_activations", "read").collect()
    tokens = lake.scan("token_steps", "read").collect().select("sequence_id", "position", "token")
    joined = examples.join(tokens, on=["sequence_id", "position"], how="left")
    for row in joined.sample(400, seed=0).iter_rows(named=True):
        assert row["text"][row["peak_start"] : row["peak_end"]] == row["token"], row
    for [feature], rows in active.group_by("feature"):
        mine = examples.filter(pl.col("feature") == feature)
        top = mine.filter(pl.col("kind") == "top").sort("place")
        assert top["activation"].to_list() == rows["activation"].sort(descending=True)[:20].to_list()
        silent = mine.filter(pl.col("kind") == "silent")
        assert silent.join(rows, on=["sequence_id", "position"], how="semi").height == 0
        tenths = mine.filter(pl.col("kind") == "quantile")
        assert tenths.height == min(rows.height, 50) or rows.height < 60
        assert tenths.join(rows, on=["sequence_id", "position", "activation"], how="semi").height == tenths.height


def test_what_is_stored_is_found(lake: Lake) -> None:
    before = len(lake.analyses("read"))
    found = feature_tables(lake, SAE, "read")
    assert not found.computed and found.n_rows["feature_stats"] == 96
    assert len(lake.analyses("read")) == before


def test_an_interrupted_pass_goes_on(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode, "CHUNK_ROWS", 100)
    monkeypatch.setattr(encode, "FILE_ROWS", 300)
    monkeypatch.setattr(encode, "BATCH_ROWS", 64)

    def stop_after(n: int) -> Any:
        calls = iter(range(10**6))

        def stop() -> None:
            if next(calls) >= n:
                raise StoppedError("stopped")

        return stop

    for n in (1, 2, 4):  # in the encoding, then in the sorting
        with pytest.raises(StoppedError):
            feature_tables(lake, SAE, "check", should_stop=stop_after(n))
    done = feature_tables(lake, SAE, "check")
    keys, vectors = _vectors(lake, "check")
    wanted = _activations(lake, vectors)
    rows = lake.scan("feature_activations", "check").collect()
    assert rows.height == (wanted > 0).sum() == lake.scan("sae_features", "check").collect().height
    assert rows["feature"].is_sorted() and done.n_rows["feature_stats"] == 96
    assert len([f for f in lake.snapshot("check").files("feature_activations")]) > 1
    assert lake.verify("deep").ok


def test_sums_again_in_numpy(lake: Lake) -> None:
    sae = load_sae(lake, SAE)
    _, x = _vectors(lake, "check")
    a = _activations(lake, x).astype(np.float64)
    x = x.astype(np.float64)
    y = a @ sae.weights["W_dec"].double().numpy() + sae.weights["b_dec"].double().numpy()
    row = evaluation.row_sums(lake, sae, lake.resolve_run("check"), None, "first").columns()
    n = len(x)
    assert row["n"] == n and row["sum_l0"] == (a > 0).sum() and row["n_dead"] == ((a > 0).sum(0) == 0).sum()
    assert row["n_dense"] == ((a > 0).mean(0) > 0.1).sum()
    lengths = np.linalg.norm(x, axis=1)
    wanted = {
        "sum_x_sq": (x**2).sum(), "sq_of_sum_x": (x.sum(0) ** 2).sum(), "sum_error_sq": ((x - y) ** 2).sum(),
        "sum_inner": (x * y).sum(), "sum_l1": a.sum(), "sum_norm_ratio": (np.linalg.norm(y, axis=1) / lengths).sum(),
        "sum_cosine": ((x * y).sum(1) / (lengths * np.linalg.norm(y, axis=1))).sum(),
        "sum_reconstruction_sq": (y**2).sum(),
    }  # fmt: skip
    for name, value in wanted.items():
        assert row[name] == pytest.approx(value, rel=1e-5), name
    [histogram] = row["density_histogram"]
    assert sum(histogram) == 96 and histogram[0] == row["n_dead"]
    assert sum(histogram[-10:]) == ((a > 0).mean(0) >= 0.1).sum()


def test_density_bins() -> None:
    histogram = evaluation.density_histogram(np.array([0.0, 1e-7, 1.0, 0.99, 0.1, 0.0999]))
    assert len(histogram) == 62 and histogram[:2] == [1, 1] and histogram[61] == 2
    assert histogram[52] == 1 and histogram[51] == 1


def test_two_dictionaries_compared() -> None:
    rows = torch.eye(8)[:4]
    from tracelake.analysis.sae.sae import Sae

    def sae(decoder: torch.Tensor) -> Sae:
        return Sae("s", "relu", {"W_enc": decoder.T, "W_dec": decoder, "b_dec": torch.zeros(8)}, True)

    half = torch.stack([rows[0] * 3, rows[1] + 0.2 * rows[2], torch.eye(8)[6]])
    found = evaluation.compare(sae(rows), sae(half))
    assert found.share_of_a == 0.5 and found.share_of_b == pytest.approx(2 / 3)


def test_another_models_run_is_refused(lake: Lake, tmp_path: Path) -> None:
    other = lake_of(tmp_path)
    options = TrainOptions(ks=(3,), widths=("32",), tokens=500, batch_size=256, commits=1)
    trained = start_training(other, ["read-0"], options)
    lake_of(tmp_path, model="n")
    with pytest.raises(ConfigError, match="another model"):
        feature_tables(other, trained.sae_ids[0], "read-2")
    with pytest.raises(ConfigError, match="another model"):
        evaluate(other, trained.sae_ids[0], "read-2", EvaluationOptions(with_model=False))


@pytest.mark.slow
def test_one_feature_is_a_small_part_of_the_bytes(tmp_path: Path) -> None:
    """2 million activations of 1,024 features: the row groups that may hold one feature, footers counted."""
    import pyarrow.parquet as pq

    lake = lake_of(tmp_path, n=6)
    rng = np.random.default_rng(0)
    n, name = 2_000_000, "sae-1"
    keys = np.unique(rng.integers(0, 1024 * 4_000_000, n))  # a feature and one of four million tokens
    n = len(keys)
    token = keys % 4_000_000
    columns = {
        "feature": (keys // 4_000_000).astype(np.int32), "sequence_id": token // 500,
        "position": (token % 500).astype(np.int32), "activation": rng.gamma(2, size=n).astype(np.float32),
        "sae_id": name,
    }  # fmt: skip
    analysis = Analysis("read-0", "sae-features", {"sae_id": name}, "x")
    commit_analysis(lake, analysis, {"feature_activations": columns | {"analysis_id": analysis.analysis_id}})
    [entry] = lake.snapshot("read-0").files("feature_activations")
    assert entry.partition == {"sae_id": name} and entry.rows == n
    path = lake.path / entry.path
    footer = pq.read_metadata(path)
    place = footer.schema.names.index("feature")
    read = 0
    for group in (footer.row_group(i) for i in range(footer.num_row_groups)):
        bounds = group.column(place).statistics
        if bounds.min <= 500 <= bounds.max:
            read += sum(group.column(c).total_compressed_size for c in range(group.num_columns))
    assert 0 < read + footer.serialized_size < 0.05 * entry.size
    rows = lake.sql("SELECT count(*) AS n FROM feature_activations WHERE sae_id = 'sae-1' AND feature = 500")
    assert rows["n"][0] == (columns["feature"] == 500).sum()
