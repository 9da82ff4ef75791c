"""Health views against a plain implementation: 200 generated sequences, and the same with faults put in."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pytest
from hand_made_lake import connection_to, typed, write_lake
from health_by_hand import PROFILES, Trace, blame, collapsed, judge, step_heads
from polars.testing import assert_frame_equal

import tracelake
from tracelake.lake.schema import TABLES
from tracelake.lake.sql.duck import Connection
from tracelake.queries.derived_views import view_definitions
from tracelake.queries.saved_query import find

REAL, FAULTY = "real-01", "faulty-01"
TABLES_USED = ("sequences", "token_steps", "layer_summaries", "head_summaries")
JUDGED = ("default", "llama", "v0.3")
Tables = dict[str, pl.DataFrame]

STEP = pl.col("position") - pl.col("n_prompt_tokens")
"""Step of the token read: its states lead to the token of step STEP + 1."""
POST, FINAL = pl.col("site") == "resid_post", pl.col("site") == "final_norm"
MIDDLE = POST & pl.col("layer").is_between(2, 3)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    """What `collect` wrote for 50 problems, 4 samples each."""
    lake = tmp_path_factory.mktemp("health") / "lake"
    tracelake.collect(
        lake,
        dataset="tinymath:test",
        limit=50,
        samples=4,
        max_new_tokens=32,
        temperature=1.2,
        keep=["tokens", "layers", "heads"],
        batch_size=50,
        segment_items=50,
    )
    opened = tracelake.open(lake)
    tables = {name: opened.scan(name).collect() for name in ("runs", *TABLES_USED)}
    return {name: frame.with_columns(run_id=pl.lit(REAL)) for name, frame in tables.items()}


def changed(frame: pl.DataFrame, kind: int, where: pl.Expr, **values: pl.Expr) -> pl.DataFrame:
    """New values in sequences of one kind, of twelve."""
    where = (pl.col("sequence_id") % 12 == kind) & where
    return frame.with_columns(
        pl.when(where).then(value).otherwise(pl.col(name)).cast(frame.schema[name]).alias(name)
        for name, value in values.items()
    )


def calmed(tables: Tables) -> Tables:
    """The same run without collapse, spikes and high basins, so that faults put in afterwards show."""
    counts = tables["sequences"].select("sequence_id", "n_prompt_tokens", "n_generated_tokens")
    frames = {name: tables[name].join(counts, on="sequence_id") for name in TABLES_USED if name != "sequences"}
    early = (pl.col("l2_norm").filter(POST & (pl.col("layer") < 2)).min()).over("sequence_id", "position")
    frames["layer_summaries"] = frames["layer_summaries"].with_columns(
        l2_norm=pl.when(MIDDLE).then(pl.min_horizontal("l2_norm", 2 * early)).otherwise("l2_norm")
    )
    # 0.13 bits and more: below 0.1 nats for some heads, never below 0.03 of the largest possible.
    frames["head_summaries"] = frames["head_summaries"].with_columns(
        entropy_bits=pl.max_horizontal("entropy_bits", 0.04 * pl.col("n_keys").log(2)).cast(pl.Float32)
    )
    return {"sequences": tables["sequences"], "runs": tables["runs"], **frames}


def faulty(tables: Tables) -> Tables:
    """Twelve kinds of sequences, by id modulo 12; kind 0 is left calm."""
    found = calmed(tables)
    layers, heads, tokens = found["layer_summaries"], found["head_summaries"], found["token_steps"]
    layers = changed(layers, 1, MIDDLE & (STEP == 4), n_nan=pl.lit(3), l2_norm=pl.lit(None))
    layers = changed(layers, 2, FINAL & (pl.col("position") == 3), n_inf=pl.lit(1))
    layers = changed(layers, 1, POST & (pl.col("layer") == 0) & (STEP == 6), n_nan=pl.lit(1), l2_norm=pl.lit(math.nan))
    near, same = pl.lit(0.9997), pl.lit(0.99999)
    layers = changed(layers, 3, FINAL & STEP.is_between(2, 5), cos_prev_position=near)
    layers = changed(layers, 4, FINAL & (STEP >= pl.col("n_generated_tokens") - 4), cos_prev_position=same)
    layers = changed(layers, 5, FINAL & STEP.is_in([3, 4, 6, 7]), cos_prev_position=same)
    early = pl.col("l2_norm").filter(POST & (pl.col("layer") < 2)).mean().over("sequence_id", "position")
    layers = changed(layers, 6, MIDDLE & (STEP == 2), l2_norm=6.5 * early)
    layers = changed(layers, 7, MIDDLE & (STEP >= 5), l2_norm=20 * early)
    late = STEP > pl.col("n_generated_tokens") / 2
    heads = changed(heads, 8, late & (STEP >= 0), entropy_bits=pl.lit(0.001), max_weight=pl.lit(0.999))
    heads = changed(heads, 9, STEP >= -1, entropy_bits=pl.lit(0.01))
    variant = pl.col("sequence_id") // 12 % 3
    falling = pl.max_horizontal(0.6 - 0.02 * STEP, pl.lit(0.12))
    margin = pl.when(variant == 0).then(0.05).when(variant == 1).then(0.4).otherwise(falling)
    raised = {"entropy_bits": 5 + 0.1 * STEP, "margin": margin, "surprisal_bits": 1 + 0.2 * STEP}
    tokens = changed(tokens, 10, STEP >= 0, **raised, top10_mass=pl.lit(0.5))
    heads = changed(heads, 10, variant == 1, entropy_bits=pl.lit(0.001))
    heads = changed(heads, 10, pl.col("basin_ratio").is_not_null(), basin_ratio=pl.lit(0.1))
    # Kind 5 also has a step without an entropy and a margin, and one where they are no numbers.
    unknown = pl.when(STEP == 5).then(None).otherwise(pl.lit(math.nan))
    tokens = changed(tokens, 5, STEP.is_in([5, 7]), entropy_bits=unknown, margin=unknown)
    heads = changed(heads, 6, pl.lit(True), entropy_bits=pl.max_horizontal("entropy_bits", pl.lit(0.5)))
    sequences = changed(found["sequences"], 11, pl.lit(True), finish_reason=pl.lit("broken"))
    tables = {"runs": found["runs"], "sequences": sequences, "token_steps": tokens}
    tables |= {"layer_summaries": layers, "head_summaries": heads}
    return {name: frame.with_columns(run_id=pl.lit(FAULTY)) for name, frame in tables.items()}


@pytest.fixture(scope="module")
def tables(real: Tables) -> Tables:
    """Both runs in one set of tables."""
    both = {name: [real[name], frame.select(real[name].columns)] for name, frame in faulty(real).items()}
    return {name: typed(name, pl.concat(both[name])) if name in both else typed(name, []) for name in TABLES}


@pytest.fixture(scope="module")
def connection(tables: Tables) -> Iterator[Connection]:
    with connection_to(tables) as connection:
        yield connection


@pytest.fixture(scope="module")
def traces(tables: Tables) -> dict[tuple[str, int], Trace]:
    """The rows of every sequence, taken apart without SQL; heads only where they led to a generated token."""
    found: dict[tuple[str, int], Trace] = {}
    for sequence in tables["sequences"].iter_rows(named=True):
        found[sequence["run_id"], sequence["sequence_id"]] = Trace(sequence, [], {}, {}, 6)
    for row in tables["token_steps"].sort("position").iter_rows(named=True):
        found[row["run_id"], row["sequence_id"]].tokens.append(row)
    for row in tables["layer_summaries"].iter_rows(named=True):
        found[row["run_id"], row["sequence_id"]].layers.setdefault(row["position"], []).append(row)
    for row in tables["head_summaries"].iter_rows(named=True):
        trace = found[row["run_id"], row["sequence_id"]]
        if row["position"] >= trace.sequence["n_prompt_tokens"] - 1:
            trace.heads.setdefault(row["position"], []).append(row)
    return found


Traces = dict[tuple[str, int], Trace]


@pytest.mark.parametrize("profile", JUDGED)
@pytest.mark.parametrize("run", [REAL, FAULTY])
def test_health_is_what_plain_python_says(run: str, profile: str, connection: Connection, traces: Traces) -> None:
    rows = find("health").run(connection, run=run, profile=profile)
    assert rows.height == 200
    for row in rows.iter_rows(named=True):
        expected = judge(traces[run, row["sequence_id"]], profile)
        found = {name: row[name] for name in expected}
        assert found == pytest.approx(expected, nan_ok=False), f"{run} {row['sequence_id']} {profile}"


@pytest.mark.parametrize("profile", JUDGED)
def test_head_counts_of_every_step(profile: str, connection: Connection, traces: Traces) -> None:
    rule = "n_collapsed_bits" if PROFILES[profile]["any"] else "n_collapsed_normalised"
    found = connection.sql(
        f"SELECT run_id, sequence_id, list((n_heads, {rule}, n_focused) ORDER BY step) FROM health_steps "
        f"WHERE profile = '{profile}' GROUP BY ALL"
    )
    assert found.height == 400
    for run, sequence, counts in found.iter_rows():
        expected = step_heads(traces[run, sequence], PROFILES[profile])
        assert [tuple(count.values()) for count in counts] == expected


@pytest.mark.parametrize("profile", JUDGED)
def test_layer_blame_is_what_plain_python_says(profile: str, connection: Connection, traces: Traces) -> None:
    rows = find("layer_blame").run(connection, run=FAULTY, profile=profile)
    assert rows.height == 1200
    for row in rows.iter_rows(named=True):
        expected = blame(traces[FAULTY, row["sequence_id"]], profile, row["layer"])
        assert {name: row[name] for name in expected} == pytest.approx(expected), (row["sequence_id"], row["layer"])
    assert {"nan_or_inf", "collapsed_heads", "unsteady_norm"} <= set(", ".join(rows["reasons"]).split(", "))


def test_every_verdict_fires_somewhere_and_not_everywhere(connection: Connection) -> None:
    rows = pl.concat(
        [find("health").run(connection, run=run, profile=profile) for run in (REAL, FAULTY) for profile in JUDGED]
    )
    for flag in ("is_broken", "has_nan", "has_inf", "attention_collapse", "attention_collapse_any"):
        assert 0 < rows[flag].sum() < rows.height, flag
    for flag in ("attention_collapse_trend", "repetition_loop", "mid_layer_anomaly"):
        assert 0 < rows[flag].sum() < rows.height, flag
    assert 0 < (rows["high_entropy_steps"] > 0).sum() < rows.height
    assert set(rows["attention_collapse_severity"]) == {None, 0.2, 0.4, 0.8}
    named = {word for column in ("risk_v05_factors", "early_warning_v05_signals") for word in _words(rows[column])}
    assert named >= {
        *("nan_or_inf", "repetition_loop", "mid_layer_anomaly", "attention_collapse"),
        *("elevated_entropy", "entropy_rising", "low_confidence_margin", "low_topk_mass", "elevated_surprisal"),
        *("entropy_accelerating", "margin_collapsed", "margin_declining", "surprisal_volatile"),
        *("entropy_margin_divergence", "compound:context_loss", "compound:confident_confusion"),
        *("compound:degenerating_generation", "compound:attention_bottleneck", "compound:confident_repetition_risk"),
    }
    assert set(rows["early_warning_v04"]) == {0.3, 0.6, 0.9}


def _words(column: pl.Series) -> set[str]:
    return {word for text in column for word in text.split(", ") if word}


def test_another_profile_is_another_verdict(connection: Connection) -> None:
    """Cosines of 0.9997 are a loop for `default` and none for `llama`; v0.3 looks at the last five steps only."""
    loops = {p: _fired(connection, p, "repetition_loop") for p in JUDGED}
    assert {s % 12 for s in loops["default"]} >= {3, 4} and 3 not in {s % 12 for s in loops["llama"]}
    assert not any(s % 12 == 5 for s in loops["default"])
    early = {s for s in loops["default"] if s % 12 == 3}
    assert early - set(loops["v0.3"])
    assert {s % 12 for s in _fired(connection, "v0.3", "mid_layer_anomaly")} >= {6, 7}
    assert 6 not in {s % 12 for s in _fired(connection, "default", "mid_layer_anomaly")}


def _fired(connection: Connection, profile: str, flag: str) -> list[int]:
    rows = find("health").run(connection, run=FAULTY, profile=profile)
    return rows.filter(pl.col(flag))["sequence_id"].to_list()


def test_charts_have_rows(connection: Connection) -> None:
    overview = find("health_overview").run(connection, run=FAULTY)
    health = find("health").run(connection, run=FAULTY)
    shares = dict(overview.select("flag", "share").iter_rows())
    assert shares["repetition loop"] == pytest.approx(health["repetition_loop"].mean())
    assert shares["broken"] == pytest.approx(health["is_broken"].mean()) and len(shares) == 8
    binned = find("risk_by_outcome").run(connection, run=FAULTY)
    assert binned["answers"].sum() == 200 and binned["risk"].is_between(0, 1).all()


@pytest.mark.parametrize("absent", TABLES_USED[1:])
def test_what_was_not_kept_is_null_with_a_reason(absent: str, tables: Tables) -> None:
    fewer = {
        name: frame.filter(pl.col("run_id") == REAL) if "run_id" in frame.columns else frame
        for name, frame in tables.items()
    }
    if absent == "token_steps":  # the key and the token are always written
        unkept = ["logprob", "surprisal_bits", "entropy_bits", "rank", "top1_prob", "margin", "top10_mass"]
        fewer[absent] = fewer[absent].with_columns(pl.lit(None).alias(name) for name in unkept)
        fewer[absent] = typed(absent, fewer[absent])
    else:
        fewer[absent] = fewer[absent].clear()
    gone: dict[str, list[str]] = {
        "token_steps": ["high_entropy_steps", "high_entropy_fraction", "compound_signals"],
        "layer_summaries": ["has_nan", "has_inf", "repetition_loop", "repetition_longest", "mid_layer_anomaly"],
        "head_summaries": [
            "attention_collapse",
            "attention_collapse_any",
            "collapsed_rate",
            "focused_rate",
            "compound_signals",
        ],
    }
    with connection_to(fewer) as connection:
        rows = find("health").run(connection)
        for name in [*gone[absent], "risk_v04", "risk_v05", "early_warning_v05"]:
            assert rows[name].null_count() == rows.height == 200, name
        kept = [
            name for other, names in gone.items() if other != absent for name in names if name != "compound_signals"
        ]
        assert all(rows[name].null_count() == 0 for name in kept)
        assert rows["reason"].null_count() == 0
        layers, prompts = find("layer_blame").run(connection), find("prompt_health").run(connection)
        assert layers.height == 1200 and prompts.height == 1400
        if absent != "token_steps":
            assert layers["severity"].null_count() == 1200 == layers.height - layers["reason"].null_count()
        assert prompts["reason"].null_count() == 0 or absent == "head_summaries"


def test_prompt_health(connection: Connection, tables: Tables) -> None:
    rows = find("prompt_health").run(connection, run=REAL, sequence=17)
    sequence = tables["sequences"].filter((pl.col("run_id") == REAL) & (pl.col("sequence_id") == 17))
    n = sequence["n_prompt_tokens"].item()
    mine: Callable[[str], pl.DataFrame] = lambda name: tables[name].filter(  # noqa: E731
        (pl.col("run_id") == REAL) & (pl.col("sequence_id") == 17) & (pl.col("position") < n)
    )
    assert rows.select("layer", "site").rows() == [*((i, "resid_post") for i in range(6)), (5, "final_norm")]
    for row in rows.iter_rows(named=True):
        states = mine("layer_summaries").filter(pl.col("layer") == row["layer"], pl.col("site") == row["site"])
        assert row["transformation"] == pytest.approx(1 - states["cos_prev_layer"].mean(), abs=1e-6)
        if row["site"] == "resid_post":
            heads = mine("head_summaries").filter(pl.col("layer") == row["layer"], pl.col("basin_ratio").is_not_null())
            assert row["basin_ratios"] == heads.sort("head")["basin_ratio"].to_list() and len(row["basin_ratios"]) == 4
            assert row["basin_ratios_to_uniform"] == heads.sort("head")["basin_ratio_to_uniform"].to_list()
    surprisal = mine("token_steps")["surprisal_bits"]
    assert rows["prompt_surprisal_bits_mean"][0] == pytest.approx(surprisal.mean(), rel=1e-6)
    assert surprisal.null_count() == 1


def test_the_normalised_cut_in_nats() -> None:
    """0.03 of ln K: what the normalised rule means in nats; it equals the 0.1-nat rule near 28 keys."""
    for keys, nats in ((5, 0.048), (15, 0.081), (28, 0.100), (100, 0.138), (1000, 0.207)):
        below, above = ({"n_keys": keys, "entropy_bits": (nats + sign * 0.001) / math.log(2)} for sign in (-1, 1))
        assert collapsed(below, PROFILES["v0.5"]) and not collapsed(above, PROFILES["v0.5"])


CUTS = "0.4 AS collapsed_bits, 0.2 AS collapsed_normalised, 0.5 AS focused_weight, 6 AS min_keys"
"""By which heads are not counted when they are written."""


def test_what_segments_stored_is_judged_as_what_the_rows_say(tables: Tables, tmp_path: Path) -> None:
    """Lakes written before `generation_series` have none: every number is the same, by profiles of one's own too."""
    lake = write_lake(tmp_path, tables)
    assert lake.scan("generation_series").collect().height == 400
    judged = {}
    for source in ("generation_series", "(FROM generation_series LIMIT 0)"):
        with lake.connect(extra_views=view_definitions()) as connection:
            connection.execute(f"CREATE TABLE stored AS FROM {source}")
            connection.execute("CREATE OR REPLACE VIEW generation_series AS FROM stored")
            connection.execute(
                "CREATE TABLE profiles AS FROM health_profiles WHERE profile IN ('gpt2', 'v0.3') "
                f"UNION ALL SELECT * REPLACE (profile || ' mine' AS profile, {CUTS}) FROM health_profiles "
                "WHERE profile IN ('llama', 'v0.3')"
            )
            connection.execute("CREATE OR REPLACE VIEW health_profiles AS FROM profiles")
            judged[source] = connection.sql("FROM health_verdicts ORDER BY profile, run_id, sequence_id")
    stored, computed = judged.values()
    assert stored.height == 4 * 400
    assert_frame_equal(stored, computed, rel_tol=1e-9, abs_tol=1e-12)
    for name in ("collapsed_rate", "focused_rate", "mid_layer_steps", "entropy_slope", "mean_basin_ratio"):
        assert stored[name].n_unique() > 2, name
