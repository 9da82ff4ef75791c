"""The vectors that autoencoders of one layer are trained on: batches as tensors, their scale and centre."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ....lake import Lake
from ....lake.errors import NotFoundError
from ....lake.shuffling.sampler import Sampler
from ....lake.values import JsonView
from .options import TrainOptions

SCALE_ROWS = 100_000
"""Rows from which mean norm and centre are estimated."""
VALIDATION_ROWS = 16_384
"""Rows on which the validation FVU is measured, at most."""
DIRECTION_ROWS = 16_384
"""Rows from which the first decoder rows are drawn."""
MEDIAN_STEPS = 30
Pair = tuple[Float[Tensor, "rows d_in"], Float[Tensor, "rows d_out"]]


@dataclass(frozen=True)
class Scaling:
    """Factors that bring vectors to a mean norm of sqrt(d), and the centre of what is reconstructed, in those units."""

    scale: float
    out_scale: float
    centre: Float[Tensor, " d_out"]
    directions: Float[Tensor, "rows d_out"] | None = None
    """Unit directions from the centre to rows of the sample, for the first decoder rows."""


class TrainingRows:
    """Rows of one layer; with `to_site` pairs of rows of two sites, of the same tokens."""

    def __init__(
        self, lake: Lake, runs: Sequence[str], layer: int, options: TrainOptions, commits: JsonView | None
    ) -> None:
        self.layer, self._options = layer, options
        self.waited_s = 0.0
        """Seconds that `batches` waited for vectors so far."""
        inside = options.validation_runs
        split = None if inside else "train"
        self._train = self._sampler(lake, runs, split, commits)
        self._validation = self._sampler(lake, inside or runs, None if inside else "validation", commits)
        self.commits = {**self._train.commits, **self._validation.commits}

    def _sampler(self, lake: Lake, runs: Sequence[str], split: str | None, commits: JsonView | None) -> Sampler:
        options = self._options
        to = None if options.to_site is None else (self.layer, options.to_site)
        chosen = None if commits is None else {run: commits[run] for run in runs if run in commits}
        try:
            return Sampler(
                lake, runs, self.layer, options.site, options.batch_size, options.window, seed=options.shuffle_seed,
                exclude=options.exclude, split=split, to=to, commits=chosen or None,
            )  # fmt: skip
        except NotFoundError as error:
            if split is None or "split" not in str(error):
                raise
            raise NotFoundError(
                f"{error} An autoencoder needs rows to train on and others to be validated on: collect with "
                "`--corpus ... --validation 0.05`, or name runs to validate on with --validation-run."
            ) from error

    @property
    def width(self) -> int:
        """Width of what is read."""
        return self._train.width

    @property
    def to_width(self) -> int | None:
        """Width of what is written, if it is another site."""
        return self._train.to_width

    @property
    def rows(self) -> int:
        """Rows of one epoch."""
        return self._train.rows

    def batches(self, step: int) -> Iterator[Pair]:
        """Batches without end, from step number `step`; every epoch has an order of its own."""
        epoch, start = divmod(step, self._train.n_batches)
        while True:
            yield from self._waited(self._tensors(self._train, epoch, start))
            epoch, start = epoch + 1, 0

    def validation(self) -> Iterator[Pair]:
        """The same rows at every call."""
        return self._first(self._validation, VALIDATION_ROWS)

    def sample(self) -> Iterator[Pair]:
        """The rows of training that scale, centre and thresholds are taken from."""
        return self._first(self._train, SCALE_ROWS)

    def scaling(self) -> Scaling:
        """Scale and centre of the sample."""
        dim = self.to_width or self.width
        if self._options.scale:
            norms = np.zeros(2)
            n = 0
            for x, y in self.sample():
                norms += (float(x.double().norm(dim=1).sum()), float(y.double().norm(dim=1).sum()))
                n += len(x)
            mean_norm, out_norm = norms / n
            if not (mean_norm > 0 and out_norm > 0):
                raise NotFoundError(f"All vectors of layer {self.layer}, site {self._options.site} are zero.")
            scale, out_scale = self.width**0.5 / mean_norm, dim**0.5 / out_norm
        else:
            scale = out_scale = 1.0
        centre = self._centre()
        rows = torch.cat([y for _, y in self._first(self._train, DIRECTION_ROWS)]).double() - centre
        directions = rows / rows.norm(dim=1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)
        return Scaling(float(scale), float(out_scale), centre * out_scale, directions.float())

    def _centre(self) -> Float[Tensor, " d_out"]:
        """Mean of what is reconstructed, or its geometric median (Weiszfeld's steps from the mean)."""
        total, n = 0.0, 0
        for _, y in self.sample():
            total, n = total + y.double().sum(0), n + len(y)
        centre = total / n
        assert isinstance(centre, Tensor)
        if self._options.center == "mean":
            return centre
        rows = torch.cat([y for _, y in self.sample()]).double()
        for _ in range(MEDIAN_STEPS):
            weights = 1 / (rows - centre).norm(dim=1).clamp_min(1e-12)
            centre = (weights @ rows) / weights.sum()
        return centre

    def _first(self, sampler: Sampler, n_rows: int) -> Iterator[Pair]:
        for x, y in self._tensors(sampler, 0, 0):
            yield x[:n_rows], y[:n_rows]
            n_rows -= len(x)
            if n_rows <= 0:
                return

    def _tensors(self, sampler: Sampler, epoch: int, start: int) -> Iterator[Pair]:
        if sampler.to_width is None:
            for batch in sampler.batches(epoch, start):
                x = self._tensor(batch, sampler.dtype)
                yield x, x
            return
        for batch, target in sampler.pairs(epoch, start):
            yield self._tensor(batch, sampler.dtype), self._tensor(target, str(sampler.to_dtype))

    def _tensor(self, batch: np.ndarray, stored: str) -> Tensor:
        """In the stored format until it is on the device."""
        tensor = torch.from_numpy(batch)
        tensor = tensor.view(torch.bfloat16) if stored == "bfloat16" else tensor
        return tensor.to(self._options.device).to(getattr(torch, self._options.dtype))

    def _waited(self, batches: Iterator[Pair]) -> Iterator[Pair]:
        while True:
            began = time.perf_counter()
            batch = next(batches, None)
            self.waited_s += time.perf_counter() - began
            if batch is None:
                return
            yield batch
