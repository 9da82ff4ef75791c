"""Geometry of paths: velocity, turning angle, cosines, length, half-life; all paths of a block at once.

Definitions: velocity is the Euclidean length of a step, curvature the angle between a step and the one before it, both
null where a step is shorter than 1e-9 of the path's scale (its longest vector). Half-life is the first step whose
cosine to the prompt is at most 0.95 of the first step's. Missing is NaN in here and null in the tables.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

ZERO_STEP = 1e-9
HALF_LIFE = 0.95
PerRow = Float[np.ndarray, " row"]
PerPath = Float[np.ndarray, " path"]


@dataclass(frozen=True)
class Steps:
    """What is known of every row of a block of paths."""

    cos_to_prompt: PerRow
    cos_prev_step: PerRow
    velocity: PerRow
    curvature_rad: PerRow
    path_length: PerRow
    velocity_z: PerRow
    curvature_z: PerRow
    zero_step: Bool[np.ndarray, " row"]
    not_finite: Bool[np.ndarray, " row"]


@dataclass(frozen=True)
class Shape:
    """What is known of every path of a block."""

    mean_velocity: PerPath
    max_velocity: PerPath
    path_length: PerPath
    end_to_end: PerPath
    tortuosity: PerPath
    mean_curvature_rad: PerPath
    max_curvature_rad: PerPath


def steps_of(
    points: Float[np.ndarray, "row dim"],
    starts: Int[np.ndarray, " path"],
    prompt: Float[np.ndarray, "path dim"] | None = None,
) -> Steps:
    """Every quantity of every step. The paths lie one after the other; path i begins at row `starts[i]`."""
    x = np.asarray(points, np.float64)
    n_rows = len(x)
    path = path_of(starts, n_rows)
    first = np.zeros(n_rows, bool)
    first[starts] = True
    norm = np.sqrt(np.einsum("ij,ij->i", x, x))
    step = np.empty_like(x)
    step[:1] = 0
    np.subtract(x[1:], x[:-1], out=step[1:])
    velocity = np.sqrt(np.einsum("ij,ij->i", step, step))
    velocity[first] = np.nan
    zero = velocity <= ZERO_STEP * largest(norm, starts)[path]
    before = np.concatenate([[0.0], np.einsum("ij,ij->i", x[1:], x[:-1])])
    with np.errstate(divide="ignore", invalid="ignore"):
        cos_prev = before / (norm * np.roll(norm, 1))
        cos_prev[first] = np.nan
        step /= velocity[:, None]
        curvature = _turns(step)
        cos_prompt = _cosine(x, norm, prompt[path]) if prompt is not None else np.full(n_rows, np.nan)
    curvature[first | zero | np.roll(first | zero, 1)] = np.nan
    return Steps(
        cos_to_prompt=cos_prompt,
        cos_prev_step=cos_prev,
        velocity=velocity,
        curvature_rad=curvature,
        path_length=_running(velocity, starts, path),
        velocity_z=z_scores(velocity, starts),
        curvature_z=z_scores(curvature, starts),
        zero_step=zero,
        not_finite=~np.isfinite(norm),
    )


def shape_of(points: Float[np.ndarray, "row dim"], starts: Int[np.ndarray, " path"], steps: Steps) -> Shape:
    """Every quantity of every path."""
    last = np.append(starts[1:], len(points)) - 1
    gap = np.asarray(points[last], np.float64) - points[starts]
    end_to_end = np.sqrt(np.einsum("ij,ij->i", gap, gap))
    length = total(steps.velocity, starts)
    one = last == starts
    end_to_end[one] = np.nan
    length[one] = np.nan
    with np.errstate(divide="ignore", invalid="ignore"):
        tortuosity = np.where(end_to_end > ZERO_STEP * length, length / end_to_end, np.nan)
    return Shape(
        mean_velocity=mean(steps.velocity, starts),
        max_velocity=largest(steps.velocity, starts),
        path_length=length,
        end_to_end=end_to_end,
        tortuosity=tortuosity,
        mean_curvature_rad=mean(steps.curvature_rad, starts),
        max_curvature_rad=largest(steps.curvature_rad, starts),
    )


def half_life(cosine: PerRow, step: Int[np.ndarray, " row"], starts: Int[np.ndarray, " path"]) -> PerPath:
    """The first step whose cosine is at most 0.95 of the first one's; NaN if there is none or that is not positive."""
    path, row = path_of(starts, len(cosine)), np.arange(len(cosine))
    usable = np.isfinite(cosine) & (step >= 0)
    none = len(cosine)
    first = np.minimum.reduceat(np.where(usable, row, none), starts)
    start = np.where(first < none, cosine[np.minimum(first, none - 1)], np.nan)
    below = usable & (cosine <= HALF_LIFE * start[path]) & (start[path] > 0)
    hit = np.minimum.reduceat(np.where(below, row, none), starts)
    return np.where(hit < none, step[np.minimum(hit, none - 1)], np.nan)


def _turns(units: Float[np.ndarray, "row dim"]) -> PerRow:
    """Angle between each unit vector and the one before; exact at both ends of 0..pi, where arccos is not."""
    angle = np.full(len(units), np.nan)
    if len(units) > 1:
        apart, together = units[1:] - units[:-1], units[1:] + units[:-1]
        lengths = (np.sqrt(np.einsum("ij,ij->i", v, v)) for v in (apart, together))
        angle[1:] = 2 * np.arctan2(*lengths)
    return angle


def _cosine(x: np.ndarray, norm: PerRow, other: np.ndarray) -> PerRow:
    inner = np.einsum("ij,ij->i", x, other)
    return inner / (norm * np.sqrt(np.einsum("ij,ij->i", other, other)))


def path_of(starts: Int[np.ndarray, " path"], n_rows: int) -> Int[np.ndarray, " row"]:
    """Which path each row belongs to."""
    return np.repeat(np.arange(len(starts)), np.diff(starts, append=n_rows))


def _running(values: PerRow, starts: Int[np.ndarray, " path"], path: Int[np.ndarray, " row"]) -> PerRow:
    """Running sum within each path."""
    summed = np.cumsum(np.nan_to_num(values))
    return summed - summed[starts][path]


def total(values: PerRow, starts: Int[np.ndarray, " path"]) -> PerPath:
    """Sum within each path, NaN left out."""
    return np.add.reduceat(np.nan_to_num(values), starts)


def count(values: PerRow, starts: Int[np.ndarray, " path"]) -> PerPath:
    """Values within each path, NaN left out."""
    return np.add.reduceat(np.isfinite(values).astype(np.float64), starts)


def mean(values: PerRow, starts: Int[np.ndarray, " path"]) -> PerPath:
    """Mean within each path; NaN where there is no value."""
    n = count(values, starts)
    return np.divide(total(values, starts), n, out=np.full(len(starts), np.nan), where=n > 0)


def largest(values: PerRow, starts: Int[np.ndarray, " path"]) -> PerPath:
    """Largest value within each path; NaN where there is none."""
    top = np.maximum.reduceat(np.where(np.isfinite(values), values, -np.inf), starts)
    return np.where(np.isfinite(top), top, np.nan)


def smallest(values: PerRow, starts: Int[np.ndarray, " path"]) -> PerPath:
    """Smallest value within each path; NaN where there is none."""
    return -largest(-values, starts)


def z_scores(values: PerRow, starts: Int[np.ndarray, " path"]) -> PerRow:
    """(value - mean) / standard deviation (n-1) within each path; NaN where fewer than two values differ."""
    path = path_of(starts, len(values))
    off = values - mean(values, starts)[path]
    n = count(values, starts)
    variance = np.divide(total(off**2, starts), n - 1, out=np.full(len(starts), np.nan), where=n > 1)
    sd = np.sqrt(variance)
    flat = ~(sd > ZERO_STEP * largest(np.abs(values), starts))
    return off / np.where(flat, np.nan, sd)[path]
