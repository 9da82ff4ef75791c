"""Stored sequences as prompts: branches that leave them at some step, or that go on from their end.

A source like any other: read again, it gives the same branches in the same order, those of one parent together.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...lake import Lake
from ...lake.errors import ConfigError, NotFoundError, UsageError
from ...lake.values import Json, Row
from .beginnings import Beginning, Parent, StoredPrompt
from .fields import Prompt

if TYPE_CHECKING:
    import polars as pl

GROUP = 64
"""Parents whose tokens are read at once."""
OVER = ("eos", "stop_string", "stopped", "broken")
"""Reasons of sequences that have said what they had to say: nothing follows them."""
TOKENS = ("sequence_id", "position", "stack", "is_prompt", "token_id", "char_end", "topk_ids", "topk_logprobs")


@dataclass(frozen=True)
class BranchRequest:
    """Which sequences of which run, and where they are left: `at` is empty where their end is meant."""

    run: str
    sequences: tuple[int, ...] = ()
    at: tuple[str, ...] = ()
    force: str | None = None
    reads_only: bool = False
    """Whether nothing is to be generated behind the end."""

    def steps(self, sequence_id: int, n_generated: int) -> list[int]:
        """The steps at which a sequence of so many completion tokens is left; UsageError for one beyond them."""
        found: set[int] = set()
        for text in self.at:
            every = re.fullmatch(r"every:([1-9]\d*)", text)
            if every is not None:
                found.update(range(0, n_generated, int(every[1])))
            elif int(text) < n_generated:
                found.add(int(text))
            else:
                raise UsageError(
                    f"--at {text}: sequence {sequence_id} of run {self.run} has {n_generated} completion tokens, steps "
                    f"0 to {n_generated - 1}. Choose sequences with --sequence, an earlier step, or --at every:K."
                )
        return sorted(found)


class BranchSource:
    """The branches that a request asks for, with the tokens of their parents."""

    def __init__(self, lake: Lake, request: BranchRequest) -> None:
        self.lake = lake
        self.request = request
        self.run_id = lake.resolve_run(request.run)
        about = lake.run_json(self.run_id)
        self.model: Json = about.get("model") or {}
        """What the parents' run.json says about their model."""
        self.edits: list[Json] = about.get("edits", [])
        if (status := lake.run_status(self.run_id)) != "complete":
            raise ConfigError(
                f"Run {self.run_id} is {status}: only complete runs have branches. lake collect --resume {self.run_id}"
            )
        if about.get("kind") == "import" or not self.model:
            raise ConfigError(f"Run {self.run_id} was not collected with a model, so that nothing can go on from it.")
        self.parents = self._parents()

    @property
    def dataset(self) -> str | None:
        return self.parents["dataset"][0]

    @property
    def split(self) -> str | None:
        return self.parents["split"][0]

    def describe(self) -> Json:
        ends = self.parents.select("sequence_id", "n_generated_tokens").rows()
        request = self.request
        return {
            "kind": "branches",
            "run": self.run_id,
            "sequences": list(request.sequences),
            "at": list(request.at),
            "force": request.force,
            "digest": hashlib.sha256(json.dumps(ends).encode()).hexdigest(),
        }

    def __iter__(self) -> Iterator[Prompt]:
        import polars as pl

        for rows in self.parents.iter_slices(GROUP):
            ids = rows["sequence_id"].to_list()
            tokens = self.lake.scan("token_steps", run=self.run_id).select(TOKENS)
            frame = tokens.filter(pl.col("sequence_id").is_in(ids)).sort("sequence_id", "position").collect()
            by_sequence = frame.partition_by("sequence_id", as_dict=True)
            for row in rows.iter_rows(named=True):
                yield from self._branches(row, by_sequence[(row["sequence_id"],)])

    def _parents(self) -> "pl.DataFrame":
        """The rows of the sequences that are meant; NotFoundError if one is not there, UsageError if none is left."""
        import polars as pl

        frame = self.lake.scan("sequences", run=self.run_id).sort("sequence_id").collect()
        wanted = self.request.sequences
        if wanted:
            known = set(frame["sequence_id"].to_list())
            missing = [number for number in wanted if number not in known]
            if missing:
                raise NotFoundError(
                    f"Run {self.run_id} has no sequence {missing[0]}; its {len(known)} sequences are "
                    f"{min(known)} to {max(known)}."
                )
            frame = frame.filter(pl.col("sequence_id").is_in(wanted))
        if self.request.at:
            frame = frame.filter(pl.col("n_generated_tokens") > 0)
        elif not self.request.reads_only:
            frame = frame.filter(~pl.col("finish_reason").is_in(OVER))
        if frame.height == 0:
            why = (
                "none of its sequences has a completion to leave" if self.request.at else "all of its sequences "
                "have ended by themselves; --max-new-tokens 0 reads them again"
            )  # fmt: skip
            raise UsageError(f"Run {self.run_id}: {why}.")
        return frame

    def _branches(self, row: Row, tokens: "pl.DataFrame") -> Iterator[Prompt]:
        import polars as pl

        n_prompt, n = int(tokens["is_prompt"].sum()), row["n_generated_tokens"]
        prompt = tokens.filter(pl.col("is_prompt"))
        if self.model.get("is_encoder_decoder"):
            prompt = prompt.filter(pl.col("stack") == "encoder")
        ends = prompt["char_end"]
        stored = StoredPrompt(
            prompt["token_id"].to_numpy().astype(np.int64),
            None if ends.null_count() else ends.to_numpy().astype(np.int32),
            row["rendered_prompt"], row["item_offset"], row["prompt_id"],
        )  # fmt: skip
        completion = tuple(tokens["token_id"].to_list()[n_prompt:])
        common = {
            "item_id": row["item_id"],
            # The options of a choice are not stored: such an answer cannot be graded again.
            "answer": None if (row["grader"] or "").startswith("choice") else row["answer"],
            "metadata": json.loads(row["metadata"]) if row["metadata"] else None,
            "stored": stored,
        }
        if not self.request.at:
            parent = Parent(self.run_id, row["sequence_id"], n_prompt + n)
            yield Prompt(row["prompt"], beginning=Beginning(completion, parent=parent), **common)
        for step in self.request.steps(row["sequence_id"], n):
            parent = Parent(self.run_id, row["sequence_id"], n_prompt + step)
            forced, text = self._forced(tokens.row(n_prompt + step, named=True), parent)
            beginning = Beginning(
                completion[:step] + forced, text, one_token=True, parent=parent, observed_from=parent.position,
                origin=None if self.request.force is None else "forced",
            )  # fmt: skip
            yield Prompt(row["prompt"], beginning=beginning, **common)

    def _forced(self, token: Row, parent: Parent) -> tuple[tuple[int, ...], str | None]:
        """The id that a branch begins with, or the text that must be one token; neither where it chooses itself."""
        force = self.request.force
        if force is None:
            return (), None
        if force == "second":
            return (self._second(token, parent),), None
        kind, _, value = force.partition(":")
        if force.isdecimal() or (kind == "id" and value.isdecimal()):
            return (int(value or force),), None
        return (), value if kind == "text" and value else force

    def _second(self, token: Row, parent: Parent) -> int:
        """The best raw token beside the parent's own; of equally good ones the one with the lower id."""
        pairs = zip(token["topk_ids"] or (), token["topk_logprobs"] or (), strict=True)
        others = [(-logprob, token_id) for token_id, logprob in pairs if token_id != token["token_id"]]
        if not others:
            raise ConfigError(
                f"--force second: run {self.run_id} does not hold the best tokens at position {parent.position} of "
                f"sequence {parent.sequence_id}. Keep them first: lake collect --continue {self.run_id} "
                "--max-new-tokens 0 --keep tokens --topk 10"
            )
        return min(others)[1]
