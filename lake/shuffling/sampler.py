"""Committed vectors in shuffled batches, for training: every row once per epoch, in an order that can be repeated.

Row groups come in an order drawn from (seed, epoch); those of a window are read together, by threads, while the window
before is used, and their rows are permuted. So a place in the order is (epoch, batch), and costs no state to keep.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from threading import current_thread

import numpy as np

from ..errors import ConfigError, DamageError, NotFoundError, UsageError, did_you_mean
from ..lake import Lake
from ..snapshot import RunLog, Snapshot, take_snapshot
from .row_groups import VectorReader, first_not_finite
from .sampled_rows import EXCLUSIONS, Group, RowChoice, SiteGroups, aligned_groups

WINDOW = 131_072
THREADS = 2
THREAD_NAME = "lake-sampler"
Commits = Mapping[str, Mapping[str, int]]
"""By run and writer the number of the last commit that is read."""


@dataclass(frozen=True)
class Window:
    """Row groups whose kept rows are permuted together, and how many rows these are."""

    number: int
    groups: tuple[Group, ...]

    @property
    def rows(self) -> int:
        """Kept rows."""
        return sum(group.kept for group in self.groups)


class Sampler:
    """Shuffled batches of one layer and site over runs; with `to`, of two sites whose rows are the same tokens.

    The runs are read as of the moment this is made, or of `commits` (what an earlier sampler's `commits` was).
    `exclude`: `first` leaves out the first token of each sequence, the attention sink; `special` also tokens that the
    tokenizer calls special; `none` nothing. `split`: only sequences of this split.
    """

    def __init__(
        self,
        lake: Lake,
        run_ids: Sequence[str],
        layer: int,
        site: str,
        batch: int,
        window: int = WINDOW,
        *,
        seed: int,
        exclude: str = "first",
        split: str | None = None,
        to: tuple[int, str] | None = None,
        commits: Commits | None = None,
        threads: int = THREADS,
    ) -> None:
        _check_call(run_ids, batch, window, seed, exclude, threads)
        self.batch, self.window, self.seed = batch, window, seed
        self._threads = threads
        logs = [_log(lake, run, commits) for run in dict.fromkeys(lake.resolve_run(run) for run in run_ids)]
        _check_one_model(logs)
        self.run_ids = [log.run_id for log in logs]
        self.commits = {log.run_id: {w: chain[-1].seq for w, chain in log.chains.items() if chain} for log in logs}
        self._reader = VectorReader(lake.store)
        choice = RowChoice(exclude, split)
        snapshots = [Snapshot(lake.store, {log.run_id: log}) for log in logs]
        sites = [aligned_groups(self._reader, snapshot, (layer, site), to, choice) for snapshot in snapshots]
        self.width, self.dtype = _one_format([pair[0] for pair in sites])
        self.to_width, self.to_dtype = _one_format([pair[1] for pair in sites if pair[1]]) if to else (None, None)
        self._groups = [group for pair in sites for group in pair[0].groups if group.kept]
        self.rows = sum(group.kept for group in self._groups)
        if self.rows == 0:
            raise NotFoundError(choice.nothing_left(snapshots))

    @property
    def n_batches(self) -> int:
        """Batches of one epoch; the last one may be smaller."""
        return -(-self.rows // self.batch)

    def batches(self, epoch: int, start: int = 0) -> Iterator[np.ndarray]:
        """Batches [rows, width] in the stored format (bfloat16 as uint16 bits), beginning with number `start`."""
        for matrices in self._batches(epoch, start, pairs=False):
            yield matrices[0]

    def pairs(self, epoch: int, start: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Batches of both sites: row r of the first and of the second are of the same token."""
        if self.to_width is None:
            raise UsageError("This sampler reads one site: give `to=(layer, site)` for aligned rows of two.")
        for matrices in self._batches(epoch, start, pairs=True):
            yield matrices[0], matrices[1]

    def windows(self, epoch: int) -> list[Window]:
        """The windows of an epoch in order: row groups as drawn, at least `window` rows each but for the last."""
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self._groups))
        windows: list[Window] = []
        waiting: list[Group] = []
        n_waiting = 0
        for place in order:
            waiting.append(self._groups[place])
            n_waiting += waiting[-1].kept
            if n_waiting >= self.window:
                windows.append(Window(len(windows), tuple(waiting)))
                waiting, n_waiting = [], 0
        return [*windows, Window(len(windows), tuple(waiting))] if waiting else windows

    def _batches(self, epoch: int, start: int, *, pairs: bool) -> Iterator[list[np.ndarray]]:
        if epoch < 0 or not 0 <= start <= self.n_batches:
            raise UsageError(
                f"Epoch {epoch}, batch {start} cannot be: an epoch has the batches 0 to {self.n_batches - 1}."
            )
        skip, windows = start * self.batch, self.windows(epoch)
        while windows and skip >= windows[0].rows:
            skip -= windows.pop(0).rows
        rest: list[np.ndarray] = []
        for matrices in self._read_ahead(windows, epoch, pairs):
            matrices, skip = [matrix[skip:] for matrix in matrices], 0
            if rest:
                missing = self.batch - len(rest[0])
                if len(matrices[0]) >= missing:
                    joined = zip(rest, matrices, strict=True)
                    yield [np.concatenate((before, matrix[:missing])) for before, matrix in joined]
                    matrices, rest = [matrix[missing:] for matrix in matrices], []
                else:
                    matrices = [np.concatenate(pair) for pair in zip(rest, matrices, strict=True)]
            whole = len(matrices[0]) // self.batch * self.batch
            for row in range(0, whole, self.batch):
                yield [matrix[row : row + self.batch] for matrix in matrices]
            rest = [matrix[whole:].copy() for matrix in matrices] if whole < len(matrices[0]) else []
        if rest:
            yield rest

    def _read_ahead(self, windows: list[Window], epoch: int, pairs: bool) -> Iterator[list[np.ndarray]]:
        """The permuted rows of each window; the next one is read while the caller uses this one."""
        pool = ThreadPoolExecutor(self._threads, THREAD_NAME)
        try:
            coming = self._submit(pool, windows[0], epoch, pairs) if windows else None
            for number in range(len(windows)):
                assert coming is not None
                matrices, reading = coming
                for future in reading:
                    future.result()
                last = number + 1 == len(windows)
                coming = None if last else self._submit(pool, windows[number + 1], epoch, pairs)
                yield matrices
        finally:
            # A loop that was left may be cleared away in one of the pool's own threads, which cannot wait for itself.
            pool.shutdown(wait=not current_thread().name.startswith(THREAD_NAME), cancel_futures=True)

    def _submit(
        self, pool: ThreadPoolExecutor, window: Window, epoch: int, pairs: bool
    ) -> tuple[list[np.ndarray], list[Future[None]]]:
        """Start to read a window: each group puts its rows where the permutation wants them."""
        places = np.random.default_rng([self.seed, epoch, 1 + window.number]).permutation(window.rows)
        matrices = [np.empty((window.rows, self.width), _numpy(self.dtype))]
        if pairs and self.to_width is not None and self.to_dtype is not None:
            matrices.append(np.empty((window.rows, self.to_width), _numpy(self.to_dtype)))
        reading, first = [], 0
        for group in window.groups:
            reading.append(pool.submit(self._place, group, places[first : first + group.kept], matrices))
            first += group.kept
        return matrices, reading

    def _place(self, group: Group, places: np.ndarray, matrices: list[np.ndarray]) -> None:
        readings: list[Callable[[VectorReader], np.ndarray]] = [group.vectors, group.partners]
        for matrix, read, dtype in zip(matrices, readings, (self.dtype, self.to_dtype), strict=False):
            rows = read(self._reader)
            if (bad := first_not_finite(rows, str(dtype))) is not None:
                raise DamageError(group.not_finite(self._reader, bad))
            _as_wholes(matrix)[places] = _as_wholes(rows)


def _as_wholes(matrix: np.ndarray) -> np.ndarray:
    """Each row as one value of its bytes: moving rows is then one copy each, half the time of moving numbers."""
    return matrix.view(f"V{matrix.shape[1] * matrix.itemsize}")[:, 0]


def _numpy(dtype: str) -> np.dtype:
    return np.dtype({"bfloat16": "<u2", "float16": "<f2"}.get(dtype, "<f4"))


def _log(lake: Lake, run_id: str, commits: Commits | None) -> RunLog:
    """What is committed of a run now, or what was when `commits` was noted."""
    log = take_snapshot(lake.store, run_id).runs[run_id]
    if commits is None:
        return log
    if run_id not in commits:
        raise UsageError(f"Run {run_id} is not among those whose commits are given ({', '.join(commits) or 'none'}).")
    known = commits[run_id]
    for writer, last in known.items():
        if len(log.chains.get(writer, ())) <= last:
            raise DamageError(f"Run {run_id} has lost commits of the writer {writer}: {last + 1} were read before.")
    return replace(log, chains={writer: log.chains[writer][: last + 1] for writer, last in known.items()})


def _check_call(run_ids: Sequence[str], batch: int, window: int, seed: int, exclude: str, threads: int) -> None:
    if isinstance(run_ids, str) or not run_ids:
        raise UsageError("Give the runs to read as a list of at least one.")
    for name, value, least in (("batch", batch, 1), ("window", window, 1), ("seed", seed, 0), ("threads", threads, 1)):
        if value < least:
            raise UsageError(f"{name} must be at least {least}, not {value}.")
    if exclude not in EXCLUSIONS:
        raise UsageError(f"exclude {exclude!r} is unknown.{did_you_mean(exclude, EXCLUSIONS)}")


def _check_one_model(logs: Sequence[RunLog]) -> None:
    models = {log.run_id: log.run_json.get("model") or {} for log in logs}
    known = {run: model.get("weights_sha256") for run, model in models.items() if model.get("weights_sha256")}
    if len(set(known.values())) > 1:
        named = ", ".join(f"{run} ({models[run].get('name')})" for run in known)
        raise ConfigError(f"The runs are of models with different weights: {named}. Choose runs of one model.")


def _one_format(sites: Sequence[SiteGroups]) -> tuple[int, str]:
    formats = {(site.width, site.dtype): site.run_id for site in sites}
    if len(formats) > 1:
        named = ", ".join(f"{width} x {dtype} (run {run})" for (width, dtype), run in formats.items())
        raise ConfigError(
            f"The vectors of layer {sites[0].layer}, site {sites[0].site} are of several formats: {named}. "
            "Choose runs that were stored alike."
        )
    return next(iter(formats))
