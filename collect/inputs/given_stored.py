"""Given completions that need no file: published solutions, those that a service wrote, those that a run has."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from ...lake import Lake
from ...lake.errors import ConfigError, NotFoundError, UsageError, did_you_mean
from ...lake.values import Json
from ..configuration.given_form import FORM
from .beginnings import Beginning
from .fields import Prompt
from .source import PromptSource, SourceOverAnother

ORACLE = "oracle"


def open_stored(source: PromptSource, given: str, lake: Lake | None) -> PromptSource:
    """The source with the completions that a value of `given` names; errors say what is there."""
    match = FORM.fullmatch(given)
    assert match is not None
    if match["run"] is None and match["written"] is None:
        return DatasetSolutions(source, match["key"])
    if lake is None:
        raise UsageError(f"--given {given} needs the lake that holds the run.")
    if match["written"] is not None:
        return WrittenSolutions(source, lake, lake.resolve_run(match["written"]))
    try:
        share = float(match["share"])
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise UsageError(f"--given {given}: the share lies between 0 and 1.")
    return StoredBeginnings(source, lake, lake.resolve_run(match["run"]), share)


@dataclass(frozen=True)
class DatasetSolutions(SourceOverAnother):
    """Each problem with the solution that it was published with, as an oracle; `key` says which of several."""

    key: str | None

    def describe(self) -> Json:
        return {**self.source.describe(), "given": {"kind": "dataset", "key": self.key}}

    def __iter__(self) -> Iterator[Prompt]:
        n = 0
        for prompt in self.source:
            text = self._solution(prompt)
            if text is not None:
                n += 1
                yield replace(prompt, beginning=Beginning(text=text, joined=True, origin=ORACLE))
        if n == 0:
            raise ConfigError(
                "No problem of the dataset comes with a solution. Write one per problem into a JSONL file of `id` and "
                '`given` ("origin": "oracle"), or let a service write them (oracle: api).'
            )

    def _solution(self, prompt: Prompt) -> str | None:
        known: Mapping[str, str] = (prompt.metadata or {}).get(ORACLE) or {}
        if self.key is not None and known and self.key not in known:
            raise UsageError(f"Item {prompt.item_id} has no solution {self.key!r}.{did_you_mean(self.key, known)}")
        return known.get(self.key) if self.key is not None else next(iter(known.values()), None)


@dataclass(frozen=True)
class _ByPrompt(SourceOverAnother):
    """Problems with completions that a run of the lake holds for them, by the hash of the problem."""

    lake: Lake = field(repr=False)
    run_id: str

    @cached_property
    def completions(self) -> dict[str, list[Beginning]]:
        """Of each problem, in the order of the run."""
        raise NotImplementedError

    @property
    def about(self) -> Json:
        """What it is, for run.json."""
        raise NotImplementedError

    def describe(self) -> Json:
        said = [[key, one.ids, one.text] for key, several in self.completions.items() for one in several]
        digest = hashlib.sha256(json.dumps(said).encode("utf-8", "surrogatepass")).hexdigest()
        return {**self.source.describe(), "given": {**self.about, "run": self.run_id, "sha256": digest}}

    def __iter__(self) -> Iterator[Prompt]:
        n = 0
        for prompt in self.source:
            for beginning in self.completions.get(prompt.prompt_id, ()):
                n += 1
                yield replace(prompt, beginning=beginning)
        if n == 0:
            raise ConfigError(f"Run {self.run_id} has no completion of any of these prompts.")


@dataclass(frozen=True)
class WrittenSolutions(_ByPrompt):
    """Each problem with the solution that a service wrote, as an oracle; wrong ones are none."""

    @property
    def about(self) -> Json:
        return {"kind": "solutions"}

    @cached_property
    def completions(self) -> dict[str, list[Beginning]]:
        import polars as pl

        rows = (
            self.lake.scan("oracle_solutions", run=self.run_id)
            .filter(pl.col("solution").is_not_null() & pl.col("correct").fill_null(True))
            .sort("prompt_id", "writer")
            .collect()
        )
        if not rows.height:
            raise NotFoundError(
                f"Run {self.run_id} has no right solutions in `oracle_solutions`: `lake experiment oracle` with "
                "oracle: api lets a service write them."
            )
        found: dict[str, list[Beginning]] = {}
        for prompt_id, text in rows.select("prompt_id", "solution").iter_rows():
            found.setdefault(prompt_id, []).append(Beginning(text=text, joined=True, origin=ORACLE))
        return found


@dataclass(frozen=True)
class StoredBeginnings(_ByPrompt):
    """Each problem with the first share of the tokens of its completions in a run: at least one token."""

    share: float

    @property
    def about(self) -> Json:
        return {"kind": "run", "share": self.share}

    @cached_property
    def completions(self) -> dict[str, list[Beginning]]:
        import polars as pl

        sequences = self.lake.scan("sequences", run=self.run_id).select("sequence_id", "prompt_id").collect()
        prompt_of = dict(sequences.iter_rows())
        tokens = (
            self.lake.scan("token_steps", run=self.run_id)
            .filter(pl.col("step") >= 0)
            .sort("sequence_id", "position")
            .group_by("sequence_id", maintain_order=True)
            .agg("token_id")
            .collect()
        )
        found: dict[str, list[Beginning]] = {}
        for sequence_id, ids in tokens.iter_rows():
            n = max(1, int(self.share * len(ids) + 1e-9))
            beginning = Beginning(ids=tuple(ids[:n]), origin="forced")
            found.setdefault(prompt_of[sequence_id], []).append(beginning)
        return found
