"""Paths: the vectors of each sequence in the order of its tokens, read from step embeddings or from activations."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Self

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int

from ...lake.errors import NotFoundError, UsageError
from ...lake.reading.batches import read_commits
from ...lake.reading.checked_files import checked_paths, committed_files
from ...lake.reading.frames import scan_files
from ...lake.records.layers import layer_number
from ...lake.schema import TABLES
from ...lake.snapshot import Snapshot
from ..option import option
from ..question import Question, Reads

PROMPT_SCOPE = "prompt"


@dataclass(frozen=True)
class Source:
    """What a path is made of: an embedder and a scope, or a site and a layer."""

    embedder: str | None = None
    scope: str | None = None
    site: str | None = None
    layer: int | None = None

    @property
    def table(self) -> str:
        """The table that holds the vectors."""
        return "step_embeddings" if self.site is None else "activations"

    @property
    def only(self) -> dict[str, int | str]:
        """Key columns that pick its rows."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @property
    def text(self) -> str:
        """In words, for messages."""
        return f"{self.embedder}, {self.scope}" if self.site is None else f"{self.site} of layer {self.layer}"


@dataclass(frozen=True)
class Paths:
    """Whole paths, one after the other: rows sorted by (sequence, position)."""

    sequence_id: Int[np.ndarray, " row"]
    position: Int[np.ndarray, " row"]
    step: Int[np.ndarray, " row"]
    """Index among generated tokens; negative in the prompt."""
    truncated: Bool[np.ndarray, " row"] | None
    vectors: Float[np.ndarray, "row dim"]
    starts: Int[np.ndarray, " path"]
    """First row of each path."""
    prompt: Float[np.ndarray, "path dim"]
    """The prompt's own vector; NaN where it is not stored."""

    @property
    def lengths(self) -> Int[np.ndarray, " path"]:
        """Points of each path."""
        return np.diff(self.starts, append=len(self.step))

    def __len__(self) -> int:
        return len(self.starts)

    def part(self, first: int, last: int) -> "Paths":
        """Paths `first` up to, not including, `last`."""
        low = self.starts[first]
        high = self.starts[last] if last < len(self) else len(self.step)
        rows = slice(low, high)
        cut = None if self.truncated is None else self.truncated[rows]
        return Paths(
            self.sequence_id[rows], self.position[rows], self.step[rows], cut, self.vectors[rows],
            self.starts[first:last] - low, self.prompt[first:last],
        )  # fmt: skip

    def chunks(self, rows: int = 8192) -> Iterator["Paths"]:
        """Whole paths in pieces of about `rows` rows, so that what is computed on them stays small."""
        first = 0
        for last in range(1, len(self) + 1):
            high = self.starts[last] if last < len(self) else len(self.step)
            if high - self.starts[first] >= rows or last == len(self):
                yield self.part(first, last)
                first = last


LEAST_PERSISTENCE = 0.02
LEAST_PERSISTENCE_MEANS = "Persistence from which a loop counts, over the path's longest vector."


@dataclass(frozen=True)
class PathChoice(Question):
    """A question about paths: what they are made of."""

    embedder: str | None = option(None, "Embedder of the path; the one that is stored if there is one.")
    scope: str | None = option(None, "Text of the path: completion, prompt+completion or window:N.")
    site: str | None = option(None, "Take states of this site as the path, e.g. resid_post.")
    layer: int | None = option(None, "Layer of those states; the last stored one if not given.")


@dataclass(frozen=True)
class PathQuestion(PathChoice):
    """A question about paths: what they are made of, and of which sequences."""

    include_prompt: bool = option(False, "Let a path of states begin in the prompt.")
    sequences: tuple[int, ...] | None = option(None, "Only this sequence_id.", flag="--sequence")

    def resolve(self, snapshot: Snapshot) -> Self:
        """The same paths by what is stored of them."""
        source = choose_source(
            snapshot, embedder=self.embedder, scope=self.scope, site=self.site, layer=self.layer
        )  # fmt: skip
        return replace(self, **asdict(source))

    @property
    def source(self) -> Source:
        """What the paths of the resolved question are made of."""
        return Source(self.embedder, self.scope, self.site, self.layer)

    def path_parameters(self) -> dict[str, object]:
        """The part of an analysis' parameters that says which paths it reads."""
        chosen = sorted(self.sequences) if self.sequences else None
        return {**asdict(self.source), "include_prompt": self.include_prompt, "sequences": chosen}

    def reads(self) -> Reads:
        """Sequences, and the vectors of their paths."""
        source = self.source
        reads: list[tuple[str, dict[str, int | str]]] = [("sequences", {}), (source.table, source.only)]
        if source.site is None:
            reads.append((source.table, {"embedder": str(source.embedder), "scope": PROMPT_SCOPE}))
        return reads


def choose_source(
    snapshot: Snapshot, *, embedder: str | None, scope: str | None, site: str | None, layer: int | None
) -> Source:
    """The path that the options mean, if its vectors are in the run; otherwise an error that says what is there."""
    if site is not None or layer is not None:
        if embedder is not None or scope is not None:
            raise UsageError("A path is made of embeddings (--embedder, --scope) or of states (--site, --layer).")
        return _states(snapshot, site or "resid_post", layer)
    stored = [(e, s) for e, s in _embeddings(snapshot) if s != PROMPT_SCOPE]
    fitting = [(e, s) for e, s in stored if embedder in (None, e) and scope in (None, s)]
    if not fitting:
        kept = "; ".join(f"{e}, {s}" for e, s in stored) or "none"
        raise NotFoundError(
            f"There are no such step embeddings. Stored: {kept}. "
            "`lake analyze embed` makes them; --site resid_post --layer N takes states instead."
        )
    fitting.sort(key=lambda pair: (pair[1] != "completion", pair))
    return Source(*fitting[0])


def _states(snapshot: Snapshot, site: str, layer: int | None) -> Source:
    places = {(e.partition["site"], e.partition["layer"]) for e in snapshot.files("activations")}
    stored = sorted((str(s), int(n)) for s, n in places)
    layers = [n for s, n in stored if s == site]
    chosen = layers[-1] if layer is None and layers else layer
    if chosen is not None and chosen < 0:
        [run_id, log] = next(iter(snapshot.runs.items()))
        chosen = layer_number(run_id, log.run_json, chosen)
    if chosen not in layers:
        kept = ", ".join(f"{s}@{n}" for s, n in stored) or "none"
        raise NotFoundError(f"No activations of site {site!r}, layer {layer} are stored. Stored: {kept}.")
    return Source(site=site, layer=chosen)


def _embeddings(snapshot: Snapshot) -> list[tuple[str, str]]:
    """Embedder and scope of what is stored, from the files' keys (read only where a file holds several)."""
    found: set[tuple[str, str]] = set()
    mixed = []
    for file in committed_files(snapshot, "step_embeddings"):
        ends = [file.entry.key_range.get(name, ["", ""]) for name in ("embedder", "scope")]
        if all(low == high for low, high in ends):
            found.add((str(ends[0][0]), str(ends[1][0])))
        else:
            mixed.append(file)
    if mixed:
        scan = pl.scan_parquet(checked_paths(snapshot, mixed), hive_partitioning=False, glob=False)
        found |= set(scan.select("embedder", "scope").unique().collect().iter_rows())
    return sorted(found)


def read_sequences(snapshot: Snapshot, only: Sequence[int] | None = None) -> pl.DataFrame:
    """The rows of `sequences`, all or those asked for, sorted by id; NotFoundError for unknown ids."""
    if not snapshot.files("sequences"):
        raise NotFoundError("The run has no committed sequences.")
    frame = scan_files(TABLES["sequences"], snapshot).collect().sort("sequence_id")
    if only is not None:
        if missing := sorted(set(only) - set(frame["sequence_id"].to_list())):
            raise NotFoundError(f"There are no sequences {missing[:5]} in the run; it has {frame.height:,}.")
        frame = frame.filter(pl.col("sequence_id").is_in(list(only)))
    return frame


def read_paths(
    snapshot: Snapshot, source: Source, sequences: pl.DataFrame, *, include_prompt: bool = False
) -> Iterator[Paths]:
    """The paths of `sequences`, one commit's sequences at a time."""
    ids = sequences["sequence_id"].to_numpy()
    # Imported runs may not know their prompts' tokens; their positions count from the first generated one.
    n_prompt = sequences["n_prompt_tokens"].fill_null(0).to_numpy()
    prompts = _prompt_embeddings(snapshot, source, ids) if source.site is None else None
    for rows, vectors in read_commits(snapshot, TABLES[source.table], source.only):
        sequence, position = rows["sequence_id"].to_numpy(), rows["position"].to_numpy()
        place = np.minimum(np.searchsorted(ids, sequence), len(ids) - 1)
        wanted = ids[place] == sequence
        step = position - n_prompt[place]
        order = np.lexsort((position, sequence))
        order = order[(wanted & ((step >= 0) | include_prompt))[order]]
        if len(order):
            truncated = rows["truncated"].to_numpy(zero_copy_only=False).astype(bool) if source.site is None else None
            starts = np.flatnonzero(np.diff(sequence[order], prepend=-1))
            paths = sequence[order][starts]
            known = prompts
            if known is None:  # the state at the prompt's last token
                at = np.flatnonzero(wanted & (step == -1))
                known = (sequence[at], vectors[at])
            in_order = len(order) == len(vectors) and bool((np.diff(order) == 1).all())
            yield Paths(
                sequence[order], position[order], step[order], None if truncated is None else truncated[order],
                vectors if in_order else vectors[order], starts, _looked_up(known, paths, vectors.shape[1]),
            )  # fmt: skip


def _prompt_embeddings(
    snapshot: Snapshot, source: Source, ids: Int[np.ndarray, " sequence"]
) -> tuple[np.ndarray, np.ndarray]:
    """Sequence ids and embeddings of the prompts alone, of the sequences wanted."""
    only = {"embedder": str(source.embedder), "scope": PROMPT_SCOPE}
    keys, vectors = [], []
    for rows, found in read_commits(snapshot, TABLES["step_embeddings"], only):
        sequence = rows["sequence_id"].to_numpy()
        wanted = np.isin(sequence, ids)
        keys.append(sequence[wanted])
        vectors.append(found[wanted])
    if not keys:
        return np.empty(0, np.int64), np.empty((0, 0), np.float32)
    return np.concatenate(keys), np.concatenate(vectors)


def _looked_up(
    known: tuple[np.ndarray, np.ndarray], wanted: Int[np.ndarray, " path"], dim: int
) -> Float[np.ndarray, "path dim"]:
    """The known vector of each wanted sequence; NaN where there is none."""
    out = np.full((len(wanted), dim), np.nan, np.float32)
    ids, vectors = known
    if len(ids):
        order = np.argsort(ids)
        place = np.minimum(np.searchsorted(ids[order], wanted), len(ids) - 1)
        hit = ids[order][place] == wanted
        out[hit] = vectors[order][place[hit]]
    return out
