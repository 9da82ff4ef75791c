"""`trajectories` and `trajectory_summaries`: the path of every sequence, in the vectors' own space and as a picture."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import ClassVar, Literal, Self

import numpy as np
import pyarrow as pa

from ...lake import Lake
from ...lake.errors import NotFoundError
from ...lake.snapshot import Snapshot
from ..option import option
from ..question import Evidence, Rows
from . import geometry
from .planes import SEED, planes, shared_plane
from .stored_paths import PathQuestion, Paths, read_paths, read_sequences

VERSION = 1
"""Part of every analysis' identity: raised when the numbers change."""
UMAP_UP_TO = 20
"""Sequences up to which pictures are made without being asked for."""

Umap = Literal["auto", "none", "sequence", "shared", "both"]


@dataclass(frozen=True)
class Trajectory(PathQuestion):
    """The path of each text through meaning: velocity, curvature, cosines, length, half-life, UMAP."""

    name: ClassVar[str] = "trajectory"
    umap: Umap = option("auto", f"Pictures; auto makes both for {UMAP_UP_TO} sequences at most.")
    declined: bool = field(default=False, repr=False)
    """Whether `auto` found too many sequences for pictures; set when the question is resolved."""

    def resolve(self, snapshot: Snapshot) -> Self:
        """Which paths there are, and whether there are few enough to draw."""
        resolved = super().resolve(snapshot)
        if self.umap != "auto":
            return resolved
        [log] = snapshot.runs.values()
        n_sequences = len(self.sequences) if self.sequences else log.counters.get("n_sequences", 0)
        many = n_sequences > UMAP_UP_TO
        return replace(resolved, umap="none" if many else "both", declined=many)

    def parameters(self, run_ids: Sequence[str]) -> dict[str, object]:
        """The paths that are read, and what is drawn of them."""
        return {**self.path_parameters(), "umap": self.umap, "seed": SEED, "version": VERSION}

    def compute(self, lake: Lake, runs: Sequence[Evidence]) -> Rows:
        """The rows of `trajectories` and `trajectory_summaries`."""
        notices = []
        if self.declined:
            notices.append(f"No UMAP pictures: more than {UMAP_UP_TO} sequences; ask for them with --umap both.")
        return _compute(runs[0].snapshot, self, notices)


@dataclass
class _Block:
    """One piece of paths and what was computed of it."""

    paths: Paths
    steps: geometry.Steps
    shape: geometry.Shape
    half_life: np.ndarray
    flat: np.ndarray
    no_plane: np.ndarray


def _compute(snapshot: Snapshot, question: Trajectory, notices: list[str]) -> Rows:
    source, umap = question.source, question.umap
    sequences = read_sequences(snapshot, question.sequences)
    own = umap in ("sequence", "both")
    blocks = [
        _block(piece, own)
        for paths in read_paths(snapshot, source, sequences, include_prompt=question.include_prompt)
        for piece in paths.chunks()
    ]
    if not blocks:
        raise NotFoundError(f"The run has no path of {source.text} for these sequences.")
    shared = _shared([block.paths for block in blocks]) if umap in ("shared", "both") else None
    n_paths = sum(len(block.paths) for block in blocks)
    notices = [*notices, *_notices(blocks, sequences.height - n_paths)]
    tables = {
        "trajectories": asdict(source) | _step_columns(blocks, shared, own),
        "trajectory_summaries": asdict(source) | _path_columns(blocks, own),
    }
    return Rows(tables, n_paths, notices)


def _block(paths: Paths, own_plane: bool) -> _Block:
    steps = geometry.steps_of(paths.vectors, paths.starts, paths.prompt)
    shape = geometry.shape_of(paths.vectors, paths.starts, steps)
    life = geometry.half_life(steps.cos_to_prompt, paths.step, paths.starts)
    flat, missing = np.full((len(paths.step), 2), np.nan), []
    if own_plane:
        flat, missing = planes(paths.vectors, paths.starts)
    no_plane = np.zeros(len(paths), bool)
    no_plane[missing] = True
    return _Block(paths, steps, shape, life, flat, no_plane)


def _shared(pieces: Sequence[Paths]) -> np.ndarray:
    vectors = np.concatenate([paths.vectors for paths in pieces])
    found = shared_plane(vectors)
    return np.full((len(vectors), 2), np.nan) if found is None else found


def _notices(blocks: Iterable[_Block], n_without: int) -> list[str]:
    blocks, found = list(blocks), []
    cut = sum(int(b.paths.truncated.sum()) for b in blocks if b.paths.truncated is not None)
    if cut:
        n = sum(len(b.paths.step) for b in blocks)
        found.append(f"{cut:,} of {n:,} texts were cut by the embedder: beyond that the path stands still.")
    lacking = sum(int(np.isnan(b.paths.prompt).any(axis=1).sum()) for b in blocks)
    if lacking:
        found.append(
            f"{lacking:,} sequences have no vector of the prompt: cos_to_prompt and half-life are null "
            "(`lake analyze embed --scope prompt`; for states keep the prompt's positions)."
        )
    if n_without:
        found.append(f"{n_without:,} sequences have no such vectors and are left out.")
    return found


_ROW_REASONS = (
    "cos_to_prompt: the prompt's vector is not stored",
    "curvature: zero step",
    "vector is not finite",
    "umap: fewer than 4 points, or all of them equal",
    "z-scores: fewer than two different values",
)


def _step_columns(blocks: Sequence[_Block], shared: np.ndarray | None, own: bool) -> dict[str, object]:
    columns: dict[str, object] = {
        "sequence_id": _joined(b.paths.sequence_id for b in blocks),
        "position": _joined(b.paths.position for b in blocks).astype(np.int32),
    }
    step = _joined(b.paths.step for b in blocks).astype(np.int32)
    columns["step"] = pa.array(step, mask=step < 0)
    if all(b.paths.truncated is not None for b in blocks):
        columns["truncated"] = pa.array(_joined(b.paths.truncated for b in blocks if b.paths.truncated is not None))
    for name in ("cos_to_prompt", "cos_prev_step", "velocity", "curvature_rad", "path_length", "velocity_z",
                 "curvature_z"):  # fmt: skip
        columns[name] = nullable(_joined(getattr(b.steps, name) for b in blocks))
    if own:
        columns |= _plane_columns(blocks)
    if shared is not None:
        columns["shared_umap_x"], columns["shared_umap_y"] = nullable(shared[:, 0]), nullable(shared[:, 1])
    flags = np.concatenate([_row_flags(block) for block in blocks])
    return columns | {"reason": reasons(flags, _ROW_REASONS)}


def _plane_columns(blocks: Sequence[_Block]) -> dict[str, object]:
    steps = [geometry.steps_of(b.flat, b.paths.starts) for b in blocks]
    flat = np.concatenate([b.flat for b in blocks])
    return {
        "umap_x": nullable(flat[:, 0]),
        "umap_y": nullable(flat[:, 1]),
        "umap_velocity": nullable(_joined(s.velocity for s in steps)),
        "umap_curvature_rad": nullable(_joined(s.curvature_rad for s in steps)),
    }


def _row_flags(block: _Block) -> np.ndarray:
    steps, starts = block.steps, block.paths.starts
    path = geometry.path_of(starts, len(block.paths.step))
    place = np.arange(len(path)) - starts[path]
    no_prompt = np.isnan(steps.cos_to_prompt)
    no_turn = np.isnan(steps.curvature_rad) & (place >= 2) & ~steps.not_finite
    flat = (np.isnan(steps.velocity_z) & np.isfinite(steps.velocity)) | (
        np.isnan(steps.curvature_z) & np.isfinite(steps.curvature_rad)
    )
    return np.stack([no_prompt, no_turn, steps.not_finite, block.no_plane[path], flat], axis=1)


_PATH_REASONS = (
    "1 step: no velocity, length or curvature",
    "2 steps: no curvature",
    "tortuosity: the path ends where it began",
    "half-life: the prompt's vector is not stored",
    "half-life: the first cosine is not positive",
    "umap: fewer than 4 points, or all of them equal",
    "curvature: all steps but one are zero",
)


def _path_columns(blocks: Sequence[_Block], own: bool) -> dict[str, object]:
    n_steps = _joined(b.paths.lengths for b in blocks)
    columns: dict[str, object] = {
        "sequence_id": _joined(b.paths.sequence_id[b.paths.starts] for b in blocks),
        "n_steps": n_steps.astype(np.int32),
        "min_cos_to_prompt": nullable(
            _joined(-geometry.largest(-b.steps.cos_to_prompt, b.paths.starts) for b in blocks)
        ),
        "half_life_step": _whole(_joined(b.half_life for b in blocks)),
    }
    cut = [b.paths.truncated for b in blocks if b.paths.truncated is not None]
    if len(cut) == len(blocks):
        counts = (np.add.reduceat(c.astype(np.int32), b.paths.starts) for c, b in zip(cut, blocks, strict=True))
        columns["n_truncated"] = _joined(counts)
    for measure in fields(geometry.Shape):
        columns[measure.name] = nullable(_joined(getattr(b.shape, measure.name) for b in blocks))
    if own:
        columns |= _plane_summary(blocks)
    flags = np.concatenate([_path_flags(block) for block in blocks])
    return columns | {"reason": reasons(flags, _PATH_REASONS)}


def _plane_summary(blocks: Sequence[_Block]) -> dict[str, object]:
    shapes = [geometry.shape_of(b.flat, b.paths.starts, geometry.steps_of(b.flat, b.paths.starts)) for b in blocks]
    names = ("mean_velocity", "max_velocity", "path_length", "mean_curvature_rad", "max_curvature_rad")
    found = {}
    for name in names:
        values = _joined(getattr(s, name) for s in shapes)
        found[f"umap_{name}"] = nullable(np.where(np.concatenate([b.no_plane for b in blocks]), np.nan, values))
    return found


def _path_flags(block: _Block) -> np.ndarray:
    n, shape = block.paths.lengths, block.shape
    starts = block.paths.starts
    no_prompt = np.isnan(block.paths.prompt).any(axis=1)
    still = np.isnan(shape.tortuosity) & (n > 1)
    negative = ~no_prompt & ~(block.steps.cos_to_prompt[starts] > 0)
    no_turn = np.isnan(shape.mean_curvature_rad) & (n > 2)
    return np.stack([n == 1, n == 2, still, no_prompt, negative, block.no_plane, no_turn], axis=1)


def nullable(values: np.ndarray) -> pa.Array:
    """A float column in which NaN is null."""
    return pa.array(np.asarray(values, np.float32), from_pandas=True)


def _whole(values: np.ndarray) -> pa.Array:
    return pa.array(np.nan_to_num(values).astype(np.int32), mask=np.isnan(values))


def _joined(arrays: Iterable[np.ndarray]) -> np.ndarray:
    return np.concatenate(list(arrays))


def reasons(flags: np.ndarray, texts: Sequence[str]) -> pa.Array:
    """One text per row: those whose flag is set, joined; null where none is. Each combination is built once."""
    codes = flags.astype(np.int64) @ (1 << np.arange(len(texts)))
    distinct, place = np.unique(codes, return_inverse=True)
    words = ["; ".join(t for bit, t in enumerate(texts) if code >> bit & 1) or None for code in distinct.tolist()]
    return pa.array(words, pa.string()).take(pa.array(place))
