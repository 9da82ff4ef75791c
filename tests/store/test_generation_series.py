"""The series that a segment stores do not depend on how its rows come; imports have none, and given rows stay."""

from pathlib import Path

import polars as pl
import pytest
from hand_made_lake import append, frames
from polars.testing import assert_frame_equal

from tracelake.lake import Lake

TABLES = ("sequences", "token_steps", "layer_summaries", "head_summaries")


def series(folder: Path, *, pieces: int, kind: str = "generate", given: pl.DataFrame | None = None) -> pl.DataFrame:
    """The series of one segment whose rows are appended in so many pieces, each spilled to files of its own."""
    lake = Lake.create(folder / "lake")
    found = {name: frames()[name] for name in TABLES}
    run_id = found["head_summaries"]["run_id"][0]
    with (
        lake.start_run("one", {"kind": kind, "model": {"n_layers": 6}}) as run,
        run.segment(0, (0, 10_000), buffer_bytes=1 if pieces > 1 else 1 << 30) as segment,
    ):
        for name, frame in found.items():
            rows = frame.filter(pl.col("run_id") == run_id)
            for start in range(pieces):
                append(segment, name, rows.gather_every(pieces, start))
        if given is not None:
            append(segment, "generation_series", given)
    assert lake.verify("full").ok
    return lake.scan("generation_series").collect()


def test_rows_in_any_pieces_give_the_same_series(tmp_path: Path) -> None:
    whole = series(tmp_path / "whole", pieces=1)
    assert whole["n_steps"].sum() > 100 and whole["n_heads"].list.len().sum() > 100
    assert_frame_equal(whole, series(tmp_path / "pieces", pieces=7), rel_tol=1e-12, abs_tol=1e-12)


def test_imports_have_none_and_given_rows_stay(tmp_path: Path) -> None:
    assert series(tmp_path / "import", pieces=1, kind="import").is_empty()
    given = series(tmp_path / "whole", pieces=1).with_columns(n_steps=pl.lit(1, pl.Int32))
    assert series(tmp_path / "given", pieces=1, given=given)["n_steps"].unique().to_list() == [1]


@pytest.mark.parametrize("n_tokens", [1, 2])
def test_what_does_not_vary_has_no_correlation(tmp_path: Path, n_tokens: int) -> None:
    lake = Lake.create(tmp_path / "lake")
    position = list(range(1 + n_tokens))
    with lake.start_run("one", {}) as run, run.segment(0, (0, 1)) as segment:
        segment.append("sequences", {"sequence_id": 0, "n_prompt_tokens": 1, "n_generated_tokens": n_tokens})
        columns = {"sequence_id": 0, "position": position, "step": [None, *position[:-1]], "stack": "decoder"}
        segment.append("token_steps", columns | {"entropy_bits": [None] + [0.1] * n_tokens, "margin": 0.3})
    [row] = lake.scan("generation_series").collect().to_dicts()
    assert row["n_steps"] == n_tokens and row["positions"] == position[1:] and row["has_nan"] is None
    assert row["entropy_margin_correlation"] is None and row["state_cosines"] == row["n_heads"] == []
    assert row["entropy_slope"] == (0.0 if n_tokens > 1 else None)
