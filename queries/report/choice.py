"""Which sequences of a run a report shows in full, and why."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...lake.errors import NotFoundError

if TYPE_CHECKING:
    import polars

    from ...lake.sql.duck import Connection

RISKY = 3
"""Sequences shown for their risk, or for their surprisal where no risk is known."""

LOOKED_AT = 200
"""Sequences, from the riskiest on, among which different prompts are looked for."""

_PROMPTS = (
    "SELECT sequence_id, prompt_id FROM sequences WHERE run_id = $run AND list_contains($ids::BIGINT[], sequence_id)"
)
_MOST_SURPRISING = f"""
    SELECT sequence_id, avg(surprisal_bits) AS bits
    FROM token_steps
    WHERE run_id = $run AND isfinite(surprisal_bits)
    GROUP BY sequence_id
    ORDER BY bits DESC, sequence_id
    LIMIT {RISKY}
"""
_LONGEST = """
    SELECT sequence_id, n_prompt_tokens + n_generated_tokens AS tokens
    FROM sequences
    WHERE run_id = $run
    ORDER BY tokens DESC, sequence_id
    LIMIT 1
"""
_FIRST = "SELECT min(sequence_id) FROM sequences WHERE run_id = $run HAVING count(*) > 0"


@dataclass(frozen=True)
class Chosen:
    """One sequence of the report and the reason it was chosen, in words."""

    sequence_id: int
    why: str


def choose(
    connection: "Connection", run_id: str, verdicts: "polars.DataFrame", asked: Iterable[int] = ()
) -> list[Chosen]:
    """The sequences asked for; otherwise the riskiest of different prompts, the longest and the first.

    `verdicts` are the rows of saved query `health`, riskiest first.
    NotFoundError for a sequence that the run does not have.
    """
    wanted = list(dict.fromkeys(asked))
    if wanted:
        return [Chosen(_existing(connection, run_id, sequence), "asked for") for sequence in wanted]
    reasons: dict[int, list[str]] = {}
    for sequence, why in _candidates(connection, run_id, verdicts):
        reasons.setdefault(sequence, []).append(why)
    return [Chosen(sequence, "; ".join(words)) for sequence, words in reasons.items()]


def _candidates(connection: "Connection", run_id: str, verdicts: "polars.DataFrame") -> list[tuple[int, str]]:
    import polars as pl

    run = {"run": run_id}
    risky = verdicts.filter(pl.col("risk_v05") > 0).head(LOOKED_AT)
    prompts = dict(connection.execute(_PROMPTS, run | {"ids": risky["sequence_id"].to_list()}).fetchall())
    # Samples of one prompt tend to fail alike: one of each says more.
    risky = risky.with_columns(prompt_id=pl.col("sequence_id").replace_strict(prompts, default=None)).unique(
        "prompt_id", keep="first", maintain_order=True
    )
    found = [(row["sequence_id"], f"risk {row['risk_v05']:.2f}") for row in risky.head(RISKY).iter_rows(named=True)]
    if verdicts["risk_v05"].null_count() == verdicts.height:
        rows = connection.execute(_MOST_SURPRISING, run).fetchall()
        found += [(sequence, f"{bits:.2f} bits per token") for sequence, bits in rows]
    found += [
        (sequence, f"the longest, {tokens:,} tokens")
        for sequence, tokens in connection.execute(_LONGEST, run).fetchall()
    ]
    return [*found, *((sequence, "the first") for (sequence,) in connection.execute(_FIRST, run).fetchall())]


def _existing(connection: "Connection", run_id: str, sequence: int) -> int:
    statement = "SELECT count(*) FROM sequences WHERE run_id = $run AND sequence_id = $sequence"
    if not connection.execute(statement, {"run": run_id, "sequence": sequence}).fetchall()[0][0]:
        span = "SELECT min(sequence_id), max(sequence_id) FROM sequences WHERE run_id = $run"
        low, high = connection.execute(span, {"run": run_id}).fetchall()[0]
        possible = "It has none." if low is None else f"Its sequences are between {low} and {high}."
        raise NotFoundError(f"Run {run_id} has no sequence {sequence}. {possible}")
    return sequence
