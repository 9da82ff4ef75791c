"""`persistence_pairs` and `persistence_summaries`: components and loops of every path, and what chance would give."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import ClassVar

import numpy as np
import pyarrow as pa

from ...lake import Lake
from ...lake.errors import NotFoundError, UsageError
from ...lake.snapshot import Snapshot
from ...lake.values import Row
from ..option import option
from ..question import Evidence, Rows
from .persistence import Diagram, Numbers, chance, diagram, numbers
from .planes import SEED, reduced
from .stored_paths import LEAST_PERSISTENCE, LEAST_PERSISTENCE_MEANS, PathQuestion, Paths, read_paths, read_sequences
from .trajectory import VERSION, nullable

SPACES = ("pca", "raw")


@dataclass(frozen=True)
class Topology(PathQuestion):
    """Persistent homology of each path: components, loops, and the loops that chance would give."""

    name: ClassVar[str] = "topology"
    min_persistence: float = option(LEAST_PERSISTENCE, LEAST_PERSISTENCE_MEANS)
    null_paths: int = option(39, "Paths of the null (the same steps in random order) per sequence.", flag="--null")
    max_points: int = option(300, "Longer paths are represented by this many landmarks.")

    def check(self, run_ids: Sequence[str]) -> None:
        """UsageError for numbers that cannot be."""
        super().check(run_ids)
        if self.min_persistence < 0 or self.null_paths < 0 or self.max_points < 3:
            raise UsageError("--min-persistence and --null must be 0 or more, --max-points 3 or more.")

    def parameters(self, run_ids: Sequence[str]) -> dict[str, object]:
        """The paths that are read, and what counts as a loop."""
        return self.path_parameters() | {
            "min_persistence": self.min_persistence,
            "null_paths": self.null_paths,
            "max_points": self.max_points,
            "seed": SEED,
            "version": VERSION,
        }

    def compute(self, lake: Lake, runs: Sequence[Evidence]) -> Rows:
        """The rows of `persistence_pairs` and `persistence_summaries`."""
        return _compute(runs[0].snapshot, self)


def _compute(snapshot: Snapshot, question: Topology) -> Rows:
    source = question.source
    sequences = read_sequences(snapshot, question.sequences)
    pairs, summaries, n_paths = _Pairs(), [], 0
    for paths in read_paths(snapshot, source, sequences, include_prompt=question.include_prompt):
        for i in range(len(paths)):
            summaries += _one_path(paths.part(i, i + 1), question, pairs)
            n_paths += 1
    if not n_paths:
        raise NotFoundError(f"The run has no path of {source.text} for these sequences.")
    tables = {
        "persistence_pairs": pairs.columns(),
        "persistence_summaries": asdict(source) | _summary_columns(summaries),
    }
    return Rows(tables, n_paths, _notices(summaries))


@dataclass
class _Pairs:
    """Rows of `persistence_pairs`, collected diagram by diagram."""

    blocks: list[tuple[int, str, int, np.ndarray]] = field(default_factory=list)

    def add(self, sequence: int, space: str, found: Diagram) -> None:
        for dimension in (0, 1):
            self.blocks.append((sequence, space, dimension, found.pairs(dimension)))

    def columns(self) -> dict[str, object]:
        lengths = [len(block[3]) for block in self.blocks]
        both = np.concatenate([block[3] for block in self.blocks])
        forever = ~np.isfinite(both[:, 1])
        return {
            "sequence_id": np.repeat(np.array([b[0] for b in self.blocks], np.int64), lengths),
            "space": np.repeat(np.array([b[1] for b in self.blocks]), lengths).tolist(),
            "dimension": np.repeat(np.array([b[2] for b in self.blocks], np.int16), lengths),
            "pair": np.concatenate([np.arange(n, dtype=np.int32) for n in lengths]),
            "birth": nullable(both[:, 0]),
            "death": pa.array(both[:, 1].astype(np.float32), mask=forever),
            "persistence": pa.array((both[:, 1] - both[:, 0]).astype(np.float32), mask=forever),
            "reason": pa.array(["never dies" if never else None for never in forever.tolist()], pa.string()),
        }


def _one_path(path: Paths, options: Topology, pairs: _Pairs) -> list[Row]:
    """The summary rows of one path, in both spaces and dimensions; its pairs are added to `pairs`."""
    sequence, points = int(path.sequence_id[0]), path.vectors
    key = {"sequence_id": sequence, "n_points": len(points)}
    if not np.isfinite(points).all():
        reason = "the path holds a vector that is not finite"
        return [key | {"space": s, "dimension": d, "reason": reason} for s in SPACES for d in (0, 1)]
    scale = float(np.linalg.norm(points.astype(np.float64), axis=1).max())
    least = options.min_persistence * scale
    rows = []
    for space in SPACES:
        points_here = reduced(points) if space == "pca" else points
        found = diagram(points_here, options.max_points)
        pairs.add(sequence, space, found)
        base = key | {"space": space, "n_landmarks": found.n_landmarks, "cover_radius": found.cover_radius}
        for dimension in (0, 1):
            sums = numbers(found.pairs(dimension), least)
            row = base | {"dimension": dimension, "min_persistence": least} | _sums(sums, dimension)
            if dimension == 1 and options.null_paths and len(points) > 3:
                row |= _null(points_here, sums, least, options, sequence)
            rows.append(row)
    return rows


def _sums(sums: Numbers, dimension: int) -> Row:
    what = "loops" if dimension else "finite components: the path has one point"
    return {
        "n_pairs": sums.n_pairs,
        "n_loops": sums.n_long if dimension else None,
        "max_persistence": sums.max_persistence,
        "total_persistence": sums.total_persistence,
        "persistence_entropy_bits": sums.entropy_bits,
        "reason": None if sums.n_pairs else f"there are no {what}",
    }


def _null(points: np.ndarray, sums: Numbers, least: float, options: Topology, sequence: int) -> Row:
    found = chance(
        np.asarray(points, np.float64), sums, n_paths=options.null_paths, min_persistence=least,
        max_points=options.max_points, seed=SEED + sequence,
    )  # fmt: skip
    return {
        "null_paths": options.null_paths,
        "null_mean_loops": found.mean_loops,
        "null_mean_max_persistence": found.mean_max_persistence,
        "p_loops": found.p_loops,
        "p_max_persistence": found.p_max_persistence,
    }


_WHOLE = ("n_points", "n_landmarks", "n_pairs", "n_loops", "null_paths")
_NUMBERS = (
    "cover_radius", "min_persistence", "max_persistence", "total_persistence", "persistence_entropy_bits",
    "null_mean_loops", "null_mean_max_persistence", "p_loops", "p_max_persistence",
)  # fmt: skip


def _summary_columns(rows: Sequence[Row]) -> dict[str, object]:
    columns: dict[str, object] = {
        "sequence_id": np.array([row["sequence_id"] for row in rows], np.int64),
        "space": [row["space"] for row in rows],
        "dimension": np.array([row["dimension"] for row in rows], np.int16),
        "reason": [row["reason"] for row in rows],
    }
    columns |= {name: pa.array([row.get(name) for row in rows], pa.int32()) for name in _WHOLE}
    return columns | {
        name: pa.array([row.get(name) for row in rows], pa.float32(), from_pandas=True) for name in _NUMBERS
    }


def _notices(rows: Sequence[Row]) -> list[str]:
    sparse = {row["sequence_id"] for row in rows if row.get("n_landmarks", 0) < row["n_points"] and "n_pairs" in row}
    if not sparse:
        return []
    return [f"{len(sparse):,} long paths stand on landmarks (n_landmarks); cover_radius bounds the error of a pair."]
