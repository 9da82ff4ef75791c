"""Golden values of the health rules, through rows that the lake's own writer wrote."""

import math
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hand_made_lake import connection_to, run_row, typed, without, write_lake

from tracelake.lake.errors import UsageError
from tracelake.lake.schema import TABLES
from tracelake.lake.sql.duck import Connection
from tracelake.queries.derived_views import view_definitions
from tracelake.queries.saved_query import find

RUN, LAYERS, HEADS = "rules-01", 6, 2
HIGH, LOW = 0.9999, 0.9
Row = dict[str, Any]
QUERIES = (
    "health",
    "health_steps",
    "layer_blame",
    "fingerprint",
    "prompt_health",
    "health_overview",
    "risk_by_outcome",
)


class Sequence:
    """Rows of one calm sequence with a prompt of `prompt` tokens and `steps` generated ones; tests change them."""

    def __init__(self, sequence_id: int = 0, prompt: int = 4, steps: int = 6, n_layers: int = LAYERS) -> None:
        key = {"run_id": RUN, "sequence_id": sequence_id}
        self.prompt, self.n_layers = prompt, n_layers
        self.row: Row = key | {"n_prompt_tokens": prompt, "n_generated_tokens": steps, "finish_reason": "length"}
        self.tokens, self.layers, self.heads = [], [], []
        for position in range(prompt + steps):
            at = key | {"position": position, "stack": "decoder"}
            step = position - prompt if position >= prompt else None
            token = at | {"step": step, "is_prompt": step is None, "token": "x", "token_id": 1}
            known = {"entropy_bits": 0.0, "surprisal_bits": 0.0, "margin": 0.9, "top10_mass": 1.0}
            self.tokens.append(token | known if position else token)
            sites = [*((layer, "resid_post") for layer in range(n_layers)), (n_layers - 1, "final_norm")]
            cosines = {"cos_prev_position": LOW, "cos_prev_layer": 0.5, "n_nan": 0, "n_inf": 0}
            self.layers += [at | {"layer": i, "site": site, "l2_norm": 10.0} | cosines for i, site in sites]
            seen = {"kind": "self", "n_keys": position + 1, "entropy_bits": 1.0, "max_weight": 0.5}
            self.heads += [at | seen | {"layer": i, "head": h} for i in range(n_layers) for h in range(HEADS)]

    def states(self, step: int, site: str, layers: range | None = None) -> list[Row]:
        """States that led to the token of a step."""
        at = self.prompt + step - 1
        return [
            r
            for r in self.layers
            if r["position"] == at and r["site"] == site and (layers is None or r["layer"] in layers)
        ]

    def pairs(self, *cosines: float) -> "Sequence":
        """Cosines of consecutive final-normed states: the first one between steps 0 and 1."""
        for step, cosine in enumerate(cosines, start=1):
            self.states(step, "final_norm")[0]["cos_prev_position"] = cosine
        return self

    def attend(self, step: int, **values: float) -> "Sequence":
        """Head (0, 0) when it led to the token of a step."""
        row = next(r for r in self.heads if r["position"] == self.prompt + step - 1)
        row.update(values)
        return self


def tables_of(*sequences: Sequence) -> dict[str, pl.DataFrame]:
    rows = {
        "runs": [run_row(RUN, 1, n_layers=sequences[0].n_layers, n_heads=HEADS)],
        "sequences": [s.row for s in sequences],
        "token_steps": [r for s in sequences for r in s.tokens],
        "layer_summaries": [r for s in sequences for r in s.layers],
        "head_summaries": [r for s in sequences for r in s.heads],
    }
    return {name: typed(name, rows.get(name, [])) for name in TABLES}


def lake_of(*sequences: Sequence) -> AbstractContextManager[Connection]:
    return connection_to(tables_of(*sequences))


def health(sequence: Sequence, profile: str = "default") -> Row:
    [row] = healths(sequence, profiles=[profile])[profile]
    return row


def healths(*sequences: Sequence, profiles: Iterable[str]) -> dict[str, list[Row]]:
    """What each profile says of each sequence, all of one run."""
    for sequence_id, sequence in enumerate(sequences):
        for row in (sequence.row, *sequence.tokens, *sequence.layers, *sequence.heads):
            row["sequence_id"] = sequence_id
    with lake_of(*sequences) as connection:
        said = {profile: find("health").run(connection, profile=profile).sort("sequence_id") for profile in profiles}
    return {profile: rows.to_dicts() for profile, rows in said.items()}


def test_a_calm_sequence_has_no_flag() -> None:
    for [row] in healths(Sequence(), profiles=("default", "v0.3", "v0.5")).values():
        flags = ("is_broken", "has_nan", "has_inf", "attention_collapse", "repetition_loop", "mid_layer_anomaly")
        assert [row[flag] for flag in flags] == [False] * 6
        assert (row["risk_v04"], row["high_entropy_steps"], row["reason"]) == (0.0, 0, None)
        assert (row["repetition_first_position"], row["mid_layer_first_position"]) == (None, None)


def test_attention_row_of_99_and_1_is_collapsed_in_bits_only() -> None:
    bits = -(0.99 * math.log2(0.99) + 0.01 * math.log2(0.01))
    assert bits * math.log(2) == pytest.approx(0.0560, abs=1e-4) and bits == pytest.approx(0.0808, abs=1e-4)
    sequence = Sequence().attend(2, n_keys=2, entropy_bits=bits, max_weight=0.99)
    with lake_of(sequence) as connection:
        step = find("health_steps").run(connection).row(2, named=True)
        older = find("health").run(connection, profile="v0.3").row(0, named=True)
        newer = find("health").run(connection, profile="v0.5").row(0, named=True)
    assert (step["n_collapsed_bits"], step["n_collapsed_normalised"], step["n_focused"]) == (1, 0, 1)
    assert (older["attention_collapse"], newer["attention_collapse"]) == (True, False)


def test_heads_with_one_key_are_not_judged() -> None:
    sequence = Sequence(prompt=1, steps=1)
    for row in sequence.heads:
        row["entropy_bits"] = 0.0
    row = health(sequence, "v0.3")
    assert (row["attention_collapse"], row["collapsed_rate"]) == (False, None)


REPEATED: list[tuple[list[float], int | None]] = [
    ([HIGH, LOW, HIGH, HIGH], None),
    ([HIGH, HIGH, HIGH], 4),
    ([LOW, HIGH, HIGH, HIGH], 5),
    ([HIGH, HIGH], None),
    ([0.9995, 0.9995, 0.9995], None),
    ([math.nan, HIGH, HIGH, math.nan, HIGH], None),
]
"""Cosines of consecutive states; position of the first that repeats the one before it: step 1's is at position 4."""


def test_repetition_needs_three_pairs_in_a_row() -> None:
    sequences = [Sequence(steps=len(cosines) + 1).pairs(*cosines) for cosines, _ in REPEATED]
    expected = [(first is not None, first) for _, first in REPEATED]
    for profile, rows in healths(*sequences, profiles=("default", "v0.5")).items():
        said = [(row["repetition_loop"], row["repetition_first_position"]) for row in rows]
        judged = len(expected) if profile == "default" else 5  # v0.5 looks at five steps only
        assert said[:judged] == expected[:judged], profile


def test_repetition_over_the_whole_sequence_or_the_last_five_steps() -> None:
    early = Sequence(steps=8).pairs(HIGH, HIGH, HIGH, LOW, LOW, LOW, LOW)
    late = Sequence(steps=8).pairs(LOW, LOW, LOW, LOW, HIGH, HIGH, HIGH)
    across = Sequence(steps=8).pairs(LOW, HIGH, HIGH, HIGH, HIGH, LOW, LOW)
    ended = Sequence(steps=8).pairs(LOW, LOW, LOW, HIGH, HIGH, HIGH, LOW)
    said = healths(early, late, across, ended, profiles=("default", "v0.5"))
    first = {profile: [row["repetition_first_position"] for row in rows] for profile, rows in said.items()}
    assert first == {"default": [4, 8, 5, 7], "v0.5": [None, 8, None, 7]}


def test_the_state_of_the_last_token_leads_to_nothing() -> None:
    sequence = Sequence(steps=4).pairs(LOW, HIGH, HIGH)
    sequence.states(4, "final_norm")[0]["cos_prev_position"] = HIGH
    assert health(sequence)["repetition_loop"] is False


def test_middle_norm_of_92_over_early_mean_of_14() -> None:
    sequence = Sequence()
    for state, norm in zip(sequence.states(3, "resid_post", range(2)), (13.0, 15.0), strict=True):
        state["l2_norm"] = norm
    sequence.states(3, "resid_post", range(2, 3))[0]["l2_norm"] = 92.0
    with lake_of(sequence) as connection:
        older, newer = (find("health").run(connection, profile=p).row(0, named=True) for p in ("v0.3", "default"))
        assert (older["mid_layer_anomaly"], older["mid_layer_first_position"], older["mid_layer_steps"]) == (True, 7, 1)
        assert newer["mid_layer_anomaly"] is False
        steps = {p: find("health_steps").run(connection, profile=p).row(3, named=True) for p in ("v0.3", "default")}
    assert (steps["v0.3"]["mid_layer_threshold"], steps["default"]["mid_layer_threshold"]) == (70.0, 112.0)


def test_median_and_mean_baselines_differ() -> None:
    """Early norms 10, 10, 100 of nine layers: median 10 (8x: 80), mean 40 (5x: 200); a middle norm of 150."""
    sequence = Sequence(n_layers=9)
    sequence.states(1, "resid_post", range(2, 3))[0]["l2_norm"] = 100.0
    sequence.states(1, "resid_post", range(3, 4))[0]["l2_norm"] = 150.0
    said = healths(sequence, profiles=("default", "v0.3"))
    assert [row["mid_layer_anomaly"] for [row] in said.values()] == [True, False]


def test_fallback_norm_without_early_norms() -> None:
    sequences = Sequence(), Sequence()
    for sequence, norm in zip(sequences, (1001.0, 999.0), strict=True):
        for state in sequence.states(1, "resid_post", range(2)):
            state["l2_norm"] = None
        sequence.states(1, "resid_post", range(3, 4))[0]["l2_norm"] = norm
    said = healths(*sequences, profiles=["default"])
    assert [row["mid_layer_anomaly"] for row in said["default"]] == [True, False]


def test_legacy_risk_of_collapse_and_2_of_160() -> None:
    sequence = Sequence(prompt=150, steps=10).attend(1, n_keys=151, entropy_bits=0.01)
    for step in (2, 5):
        sequence.tokens[150 + step]["entropy_bits"] = 4.5
    sequence.tokens[156]["entropy_bits"] = 4.0  # not above 4
    said = healths(sequence, profiles=("v0.3", "gpt2"))
    [row], [gpt2] = said["v0.3"], said["gpt2"]
    assert row["risk_v04"] == pytest.approx(0.30625)
    assert row["risk_v04_factors"] == "attention_collapse, high_entropy_steps"
    assert (row["high_entropy_steps"], row["high_entropy_fraction"]) == (2, 0.2)
    assert gpt2["high_entropy_steps"] == 0


@pytest.mark.parametrize(("shares", "severity"), [((0, 0, 0, 2), 0.2), ((0, 0, 0, 6), 0.4), ((12, 12, 12, 0), 0.8)])
def test_collapse_by_rates(shares: tuple[int, ...], severity: float) -> None:
    """Collapsed heads of twelve at each of four steps."""
    sequence = Sequence(steps=4)
    for step, count in enumerate(shares):
        for row in [r for r in sequence.heads if r["position"] == sequence.prompt + step - 1][:count]:
            row["entropy_bits"] = 0.001
    three = Sequence(steps=3)
    three.heads = [r | {"entropy_bits": 0.001} if r["position"] == 5 else r for r in three.heads]
    first, second = healths(sequence, three, profiles=["default"])["default"]
    assert first["attention_collapse_severity"] == severity
    assert second["attention_collapse_trend"] is False


def test_broken_or_not_finite_is_risk_1_and_layers_are_blamed() -> None:
    sequence = Sequence(steps=2)
    sequence.layers[3]["n_nan"] = 5
    broken = Sequence(1, steps=0)
    broken.row["finish_reason"] = "broken"
    with lake_of(sequence, broken) as connection:
        first, second = find("health").run(connection).sort("sequence_id").iter_rows(named=True)
        worst = find("layer_blame").run(connection).row(0, named=True)
    assert (first["has_nan"], first["has_inf"], first["risk_v05"], first["risk_v04"]) == (True, False, 1.0, 1.0)
    assert (second["is_broken"], second["risk_v05_factors"]) == (True, "nan_or_inf")
    assert (second["repetition_loop"], second["high_entropy_steps"]) == (None, None)
    assert second["reason"] == "nothing was generated"
    assert (worst["layer"], worst["reasons"], worst["severity"], worst["n_nan"]) == (3, "nan_or_inf", 1.0, 5)


def test_fewer_than_three_layers_have_no_middle() -> None:
    row = health(Sequence(n_layers=2))
    assert row["mid_layer_anomaly"] is None and "fewer than 3 layers" in row["reason"] and row["risk_v05"] is not None


def test_fingerprint_by_hand() -> None:
    sequence = Sequence(steps=8)
    for step, token in enumerate(sequence.tokens[4:]):
        token.update(entropy_bits=float(step), surprisal_bits=2.0 * step, margin=0.9 - 0.1 * step)
    with lake_of(sequence) as connection:
        row = find("fingerprint").run(connection).row(0, named=True)
    expected = {"v1_00_entropy_mean": 3.5, "v1_01_entropy_max": 7.0, "v1_02_high_entropy_fraction": 3 / 12}
    expected |= {"v2_01_entropy_sd": math.sqrt(6), "v2_04_entropy_slope": 1.0, "v2_10_surprisal_slope": 2.0}
    expected |= {"v2_20_entropy_margin_correlation": -1.0, "v2_21_entropy_variation": math.sqrt(6) / 3.5}
    expected |= {"v2_22_entropy_first_quarter": 0.5, "v2_23_entropy_last_quarter": 6.5, "v2_24_reserved": 0}
    assert {name: row[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    assert sum(name.startswith("v1_") for name in row) == 9 and sum(name.startswith("v2_") for name in row) == 25


def test_an_empty_lake_gives_typed_columns_and_no_rows() -> None:
    with connection_to(without(*TABLES)) as connection:
        for query in QUERIES:
            rows = find(query).run(connection)
            assert rows.height == 0 and pl.Null not in rows.dtypes, query


def test_an_unknown_profile_is_an_error_that_names_the_others() -> None:
    with lake_of(Sequence()) as connection:
        with pytest.raises(UsageError, match="no health profile 'lama'. Did you mean 'llama'"):
            find("health").run(connection, profile="lama")


def test_thresholds_of_ones_own(tmp_path: Path) -> None:
    """As docs/health.md shows: on a connection that is not locked, the view of profiles can be replaced."""
    lake = write_lake(tmp_path, tables_of(Sequence().pairs(0.99, 0.99, 0.99)))
    with lake.connect(extra_views=view_definitions()) as connection:
        connection.execute(
            "CREATE TEMP TABLE mine AS SELECT * REPLACE ('mine' AS profile, 0.98::DOUBLE AS repetition_cosine) "
            "FROM health_profiles WHERE profile = 'default'"
        )
        connection.execute("CREATE OR REPLACE VIEW health_profiles AS FROM mine")
        assert find("health").run(connection, profile="mine")["repetition_loop"].to_list() == [True]


def test_profiles_are_data() -> None:
    with lake_of(Sequence()) as connection:
        rows = connection.sql("SELECT * FROM health_profiles ORDER BY profile")
    by_name = {row["profile"]: row for row in rows.iter_rows(named=True)}
    assert list(by_name) == ["default", "gpt2", "llama", "mistral", "mixtral", "phi3", "qwen2", "v0.3", "v0.5"]
    assert (by_name["phi3"]["mid_layer_multiplier"], by_name["phi3"]["high_entropy_bits"]) == (7.0, 3.8)
    assert by_name["default"]["collapsed_bits"] == pytest.approx(0.1443, abs=1e-4)
    assert (by_name["v0.3"]["mid_layer_baseline"], by_name["default"]["mid_layer_baseline"]) == ("mean", "median")
    assert (by_name["v0.3"]["repetition_last_steps"], by_name["default"]["repetition_last_steps"]) == (5, None)
