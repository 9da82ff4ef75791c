"""Does the model hesitate before it goes wrong? Collects, joins three tables on the one key, draws.

Run it with `python examples/hesitation.py [FOLDER]`; it writes FOLDER/lakehouse and FOLDER/hesitation.png.
The cells (`# %%`) open as a notebook in most editors.
"""

# %%
import sys
from pathlib import Path

import altair as alt
import polars as pl

import tracelake

QUESTION = """
    select
        s.correct,
        n.next_step as step,
        avg(n.next_entropy_bits) as entropy_bits,                -- how open the next token is
        avg(l.cos_prev_layer) as cos_last_layer,                 -- how little the last layer still turns the state
        count(*) as tokens
    from layer_summaries as l                                    -- the state when the token at `position` was read
    join next_tokens as n using (run_id, sequence_id, position)  -- the token that this state predicts
    join sequences as s using (run_id, sequence_id)              -- how the sequence ended
    where l.run_id = $run and l.site = 'resid_post' and n.next_step is not null and s.correct is not null
      and l.layer = (select n_layers - 1 from runs where run_id = $run)
    group by all
    order by all
"""


# %%
def collect(folder: Path, problems: int, samples: int) -> str:
    """Solve problems of the bundled set with the bundled model and keep tokens and layer summaries."""
    return tracelake.collect(
        folder / "lakehouse",
        dataset="tinymath:test",
        limit=problems,
        samples=samples,
        keep=["tokens", "layers"],
        tag="hesitation",
    ).run_id


def ask(folder: Path, run_id: str) -> pl.DataFrame:
    """Mean entropy and last-layer turn by step, for right and wrong completions apart."""
    return tracelake.open(folder / "lakehouse").sql(QUESTION, {"run": run_id})


def draw(rows: pl.DataFrame) -> alt.Chart:
    """Entropy by step, one line for right and one for wrong completions."""
    return (
        alt.Chart(rows, title="Entropy of the next token, by step")
        .mark_line(point=True)
        .encode(
            x=alt.X("step:Q", title="step (tokens)"),
            y=alt.Y("entropy_bits:Q", title="mean entropy (bits)"),
            color=alt.Color("correct:N", scale=alt.Scale(range=["#d55e00", "#0072b2"])),
            tooltip=["step", "entropy_bits", "cos_last_layer", "tokens"],
        )
        .properties(width=600, height=300)
    )


# %%
def main(folder: Path, problems: int = 16, samples: int = 4) -> pl.DataFrame:
    """The whole study; returns the rows that are drawn."""
    rows = ask(folder, collect(folder, problems, samples))
    draw(rows).save(folder / "hesitation.png", scale_factor=2)
    return rows


if __name__ == "__main__":
    print(main(Path(sys.argv[1] if len(sys.argv) > 1 else ".")))
