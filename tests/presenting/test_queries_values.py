"""Known values: what saved queries answer, computed a second time from the same rows without SQL."""

import functools
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterator

import numpy as np
import polars as pl
import pytest
from hand_made_lake import OTHER, RUN, connection_to, frames

from tracelake.lake.sql.duck import Connection
from tracelake.queries.saved_query import find


@pytest.fixture(scope="module")
def connection() -> Iterator[Connection]:
    with connection_to(frames()) as connection:
        yield connection


@functools.cache
def of_run(table: str, run: str = RUN) -> list[dict]:
    return frames()[table].filter(pl.col("run_id") == run).to_dicts()


@functools.cache
def sequences() -> dict[int, dict]:
    return {row["sequence_id"]: row for row in of_run("sequences")}


@functools.cache
def generated() -> list[dict]:
    return [row for row in of_run("token_steps") if row["step"] is not None]


def outcome(sequence: dict) -> str:
    return "correct" if sequence["correct"] else "wrong"


def test_run_overview(connection: Connection) -> None:
    row = find("run_overview").run(connection).row(0, named=True)
    all_sequences = list(sequences().values())
    assert row["sequences"] == 128 and row["prompts"] == 32
    assert row["generated_tokens"] == sum(s["n_generated_tokens"] for s in all_sequences)
    assert row["accuracy"] == pytest.approx(np.mean([s["correct"] for s in all_sequences]))
    assert row["mean_generated_surprisal_bits"] == pytest.approx(np.mean([t["surprisal_bits"] for t in generated()]))


def test_entropy_by_step(connection: Connection) -> None:
    values = defaultdict(list)
    for token in generated():
        values[token["step"], outcome(sequences()[token["sequence_id"]])].append(token["entropy_bits"])
    rows = find("entropy_by_step").run(connection, min_sequences=10)
    assert rows.height == sum(len(v) >= 10 for v in values.values())
    for row in rows.iter_rows(named=True):
        sample = np.array(values[row["step"], row["outcome"]], dtype=float)
        half = 1.96 * sample.std(ddof=1) / math.sqrt(len(sample))
        assert row["sequences"] == len(sample)
        assert row["mean_entropy_bits"] == pytest.approx(sample.mean(), rel=1e-5)
        assert row["entropy_high"] - row["mean_entropy_bits"] == pytest.approx(half, rel=1e-4)


def wilson(p: float, n: int) -> tuple[float, float]:
    z = 1.96
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)


def test_accuracy_by_level_and_method(connection: Connection) -> None:
    groups = defaultdict(list)
    for sequence in sequences().values():
        level = str(json.loads(sequence["metadata"])["level"])
        groups[level, sequence["solution_method"]].append(sequence["correct"])
    rows = find("accuracy_by_level_and_method").run(connection)
    assert rows.height == len(groups) == 6
    for row in rows.iter_rows(named=True):
        answers = groups[row["level"], row["method"]]
        low, high = wilson(np.mean(answers), len(answers))
        assert (row["answers"], row["accuracy"]) == (len(answers), pytest.approx(np.mean(answers)))
        assert (row["accuracy_low"], row["accuracy_high"]) == (pytest.approx(low), pytest.approx(high))


def test_confidence_calibration(connection: Connection) -> None:
    logprobs = defaultdict(list)
    for token in generated():
        logprobs[token["sequence_id"]].append(token["logprob"])
    ranked = sorted((math.exp(np.mean(v)), s) for s, v in logprobs.items())
    rows = find("confidence_calibration").run(connection, groups=4)
    for index, row in enumerate(rows.iter_rows(named=True)):
        group = ranked[32 * index : 32 * (index + 1)]
        assert row["confidence"] == pytest.approx(np.mean([c for c, _ in group]), rel=1e-5)
        assert row["accuracy"] == pytest.approx(np.mean([sequences()[s]["correct"] for _, s in group]))


def test_layer_norms(connection: Connection) -> None:
    norms = defaultdict(list)
    for row in of_run("layer_summaries"):
        if row["site"] == "resid_post":
            prompt = row["position"] < sequences()[row["sequence_id"]]["n_prompt_tokens"]
            part = "first token" if row["position"] == 0 else "prompt" if prompt else "generated"
            norms[row["layer"], part].append(row["l2_norm"])
    rows = find("layer_norms").run(connection)
    assert rows.height == len(norms) == 18
    for row in rows.iter_rows(named=True):
        sample = norms[row["layer"], row["part"]]
        assert row["tokens"] == len(sample)
        logs = np.log(sample)
        assert row["geometric_mean_l2_norm"] == pytest.approx(np.exp(logs.mean()), rel=1e-5)
        assert row["l2_norm_high"] == pytest.approx(np.exp(logs.mean() + logs.std(ddof=1)), rel=1e-4)


def test_attention_sinks(connection: Connection) -> None:
    hits = defaultdict(list)
    for row in of_run("head_summaries"):
        if row["n_keys"] >= 8:
            hits[row["layer"], row["head"]].append(row["max_key"] == 0)
    rows = find("attention_sinks").run(connection)
    found = {(r["layer"], r["head"]): r["share_on_first_token"] for r in rows.iter_rows(named=True)}
    assert found == pytest.approx({key: np.mean(value) for key, value in hits.items()})


def test_heads_vs_surprisal_pairs_a_head_with_the_token_it_predicts(connection: Connection) -> None:
    after = {(t["sequence_id"], t["position"] - 1): t["surprisal_bits"] for t in generated()}
    pairs = defaultdict(list)
    for row in of_run("head_summaries"):
        key = (row["sequence_id"], row["position"])
        if key in after:
            group = (row["layer"], row["head"], outcome(sequences()[row["sequence_id"]]))
            pairs[group].append((row["entropy_bits"], after[key]))
    rows = find("heads_vs_surprisal").run(connection)
    assert rows.height == len(pairs) == 48
    for row in rows.iter_rows(named=True):
        sample = np.array(pairs[row["layer"], row["head"], row["outcome"]], dtype=float)
        assert row["tokens"] == len(sample)
        assert row["correlation"] == pytest.approx(np.corrcoef(sample.T)[0, 1], abs=1e-5)
    # The rows were made so that one head follows the next token; a join on the same position would not see it.
    assert rows.filter(pl.col("correlation") > 0.9)["layer"].to_list() == [2, 2]


def test_state_before_error(connection: Connection) -> None:
    peak: dict[int, tuple[float, int]] = {}
    for token in generated():
        best = peak.get(token["sequence_id"], (-1.0, 0))
        peak[token["sequence_id"]] = max(best, (token["surprisal_bits"], token["position"]), key=lambda pair: pair[0])
    values = defaultdict(list)
    for row in of_run("layer_summaries"):
        if row["site"] == "resid_post" and row["position"] == peak[row["sequence_id"]][1] - 1:
            values[row["layer"], outcome(sequences()[row["sequence_id"]])].append(row["delta_norm"] / row["l2_norm"])
    rows = find("state_before_error").run(connection)
    found = {(r["layer"], r["outcome"]): r["mean_relative_update"] for r in rows.iter_rows(named=True)}
    assert found == pytest.approx({key: np.mean(value) for key, value in values.items()}, rel=1e-5)


def test_token_frequency(connection: Connection) -> None:
    counts = Counter(token["token_id"] for token in generated())
    rows = find("token_frequency").run(connection, limit=5)
    assert rows.select("token_id", "count").rows() == sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:5]
    assert rows["share"][0] == pytest.approx(counts.most_common(1)[0][1] / counts.total())


def test_head_targets(connection: Connection) -> None:
    tokens = {(t["sequence_id"], t["position"]): t["token"] for t in of_run("token_steps")}
    counts = Counter(
        tokens[row["sequence_id"], row["max_key"]]
        for row in of_run("head_summaries")
        if (row["layer"], row["head"]) == (1, 2)
        and row["position"] >= sequences()[row["sequence_id"]]["n_prompt_tokens"]
    )
    rows = find("head_targets").run(connection, layer=1, head=2, limit=100)
    assert dict(rows.select("key_token", "times").rows()) == dict(counts)


def test_embedding_path(connection: Connection) -> None:
    path = [np.array(r["vector"]) for r in of_run("step_embeddings") if r["scope"] == "completion"]
    rows = find("embedding_path").run(connection, scope="completion")
    first = rows.filter(pl.col("compared_with") == "first step")["cosine"].to_list()
    before = rows.filter(pl.col("compared_with") == "step before")["cosine"].to_list()
    # The embeddings are of unit length, so a product is a cosine.
    assert first == pytest.approx([v @ path[0] for v in path], abs=1e-5)
    assert before == pytest.approx([b @ a for a, b in zip(path, path[1:], strict=False)], abs=1e-5)


def test_two_run_comparison(connection: Connection) -> None:
    rows = find("two_run_comparison").run(connection)
    assert rows.height == 32 and set(rows["other_run_id"]) == {OTHER}
    row = rows.row(0, named=True)
    for run, prefix in ((RUN, ""), (OTHER, "other_")):
        mine = [s for s in of_run("sequences", run) if s["prompt_id"] == row["prompt_id"]]
        tokens = [t for t in of_run("token_steps", run) if t["step"] is not None]
        means = [np.mean([t["surprisal_bits"] for t in tokens if t["sequence_id"] == s["sequence_id"]]) for s in mine]
        assert row[f"{prefix}samples"] == len(mine)
        assert row[f"{prefix}accuracy"] == pytest.approx(np.mean([s["correct"] for s in mine]))
        assert row[f"{prefix}mean_surprisal_bits"] == pytest.approx(np.mean(means), rel=1e-5)


def test_nan_report_finds_what_is_not_finite() -> None:
    tables = dict(frames())
    hit = (pl.col("run_id") == RUN) & (pl.col("sequence_id") == 9) & (pl.col("position") >= 50) & (pl.col("layer") == 4)
    tables["layer_summaries"] = tables["layer_summaries"].with_columns(
        n_nan=pl.when(hit).then(3).otherwise("n_nan").cast(pl.Int32),
        l2_norm=pl.when(hit).then(float("nan")).otherwise("l2_norm"),
    )
    length = next(s for s in of_run("sequences") if s["sequence_id"] == 9)
    tokens = length["n_prompt_tokens"] + length["n_generated_tokens"] - 50
    with connection_to(tables) as connection:
        row = find("nan_report").run(connection).row(0, named=True)
        norms = find("layer_norms").run(connection)
    assert (row["layer"], row["site"], row["nan_elements"], row["tokens"]) == (4, "resid_post", 3 * tokens, tokens)
    assert (row["first_sequence_id"], row["first_position"]) == (9, 50)
    assert not norms["mean_l2_norm"].is_nan().any()
