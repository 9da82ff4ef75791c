"""How well an autoencoder reconstructs a run's vectors: sums over rows, from which SQL computes every metric."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ...lake import Lake
from ...lake.errors import ConfigError, NotFoundError
from ...lake.reading.batches import keeps_vectors
from ...lake.shuffling.sampler import Sampler
from ...lake.values import Columns, Json, JsonView
from .kernels import Code
from .sae import Sae

BATCH = 8192
DENSE = 0.1
"""Share of the rows from which a feature is called dense."""
BINS_PER_DECADE, DECADES = 10, 6
ALL = "all"
"""Name of the split where none was chosen."""


@dataclass
class RowSums:
    """Sums over rows of what is reconstructed, x, and its reconstruction; float64 throughout."""

    d_sae: int
    n: int = 0
    sum_x: Tensor | None = None
    sum_x_sq: float = 0.0
    sum_error_sq: float = 0.0
    sum_reconstruction_sq: float = 0.0
    sum_inner: float = 0.0
    sum_cosine: float = 0.0
    sum_norm_ratio: float = 0.0
    n_ratio: int = 0
    sum_l0: int = 0
    sum_l1: float = 0.0
    fired: Tensor | None = None
    """Rows on which each feature was active."""

    def add(self, x: Float[Tensor, "rows d"], code: Code, reconstruction: Float[Tensor, "rows d"]) -> None:
        """Count a batch."""
        x, reconstruction = x.double(), reconstruction.double()
        squares, made = x.square().sum(1), reconstruction.square().sum(1)
        inner = (x * reconstruction).sum(1)
        lengths, made_lengths = squares.sqrt(), made.sqrt()
        fine = (lengths > 0) & (made_lengths > 0)
        self.n += len(x)
        self.sum_x = x.sum(0) if self.sum_x is None else self.sum_x + x.sum(0)
        self.sum_x_sq += float(squares.sum())
        self.sum_error_sq += float((x - reconstruction).square().sum())
        self.sum_reconstruction_sq += float(made.sum())
        self.sum_inner += float(inner.sum())
        self.sum_cosine += float((inner[fine] / (lengths[fine] * made_lengths[fine])).sum())
        self.sum_norm_ratio += float((made_lengths[fine] / lengths[fine]).sum())
        self.n_ratio += int(fine.sum())
        self.sum_l0 += len(code.features)
        self.sum_l1 += float(code.values.double().sum())
        fired = torch.bincount(code.features, minlength=self.d_sae)
        self.fired = fired if self.fired is None else self.fired + fired

    @property
    def mean(self) -> Float[Tensor, " d"]:
        """Mean of x."""
        assert self.sum_x is not None
        return self.sum_x / self.n

    def columns(self) -> Columns:
        """Columns of `sae_evaluations`."""
        assert self.sum_x is not None and self.fired is not None
        density = self.fired.cpu().numpy() / self.n
        names = (
            "n", "d_sae", "sum_x_sq", "sum_error_sq", "sum_reconstruction_sq", "sum_inner", "sum_cosine",
            "sum_norm_ratio", "n_ratio", "sum_l0", "sum_l1",
        )  # fmt: skip
        return {name: getattr(self, name) for name in names} | {
            "sq_of_sum_x": float(self.sum_x.square().sum()),
            "n_dead": int((density == 0).sum()),
            "n_dense": int((density > DENSE).sum()),
            "density_histogram": [density_histogram(density)],
        }


def density_histogram(density: np.ndarray) -> list[int]:
    """Features that are dead, below 1e-6, and in each tenth of a factor of ten from 1e-6 up to 1, 1 included."""
    n_bins = BINS_PER_DECADE * DECADES
    alive = density[density > 0]
    bins = np.floor((np.log10(alive) + DECADES) * BINS_PER_DECADE).astype(int)
    counts = np.bincount(np.clip(bins, -1, n_bins - 1) + 1, minlength=n_bins + 1)
    return [int((density == 0).sum()), *counts.tolist()]


def row_sums(lake: Lake, sae: Sae, run_id: str, split: str | None, exclude: str) -> RowSums:
    """The sums over all rows of a run at the autoencoder's site."""
    layer, site, to = place_of(sae)
    sampler = Sampler(lake, [run_id], layer, site, BATCH, seed=0, exclude=exclude, split=split, to=to)
    check_width(sae, run_id, sampler.width)
    sums = RowSums(sae.d_sae)
    pairs = sampler.pairs(0) if to is not None else ((batch, batch) for batch in sampler.batches(0))
    for read, written in pairs:
        x = tensor_of(read, sampler.dtype)
        y = x if to is None else tensor_of(written, str(sampler.to_dtype))
        code = sae.encode(x)
        sums.add(y, code, sae.decode(code, x))
    return sums


def place_of(sae: Sae) -> tuple[int, str, tuple[int, str] | None]:
    """Layer and site that are read, and those that are written if they are others."""
    about = sae.about or {}
    layer, site, to_site = about.get("layer"), about.get("site"), about.get("to_site")
    if layer is None or site is None:
        raise ConfigError(f"{sae.sae_id} does not say which site of which layer it reads. Import it with both named.")
    to_layer = about.get("to_layer")
    return (
        int(layer),
        str(site),
        None if to_site is None else (int(layer if to_layer is None else to_layer), str(to_site)),
    )


def run_to_read(lake: Lake, sae: Sae, run: str) -> str:
    """The run that is meant for an autoencoder: `latest` is the newest with vectors of its site, of its model.

    A training holds no vectors: ConfigError that names the runs it was trained on.
    """
    layer, site, _ = place_of(sae)
    if run == "latest":
        snapshot = lake.snapshot()
        model = (snapshot.runs[sae.run_id].run_json.get("model") or {}) if sae.run_id in snapshot.runs else {}
        kept = [row["run_id"] for row in lake.runs() if keeps_vectors(snapshot, row["run_id"], layer, site)]
        same = [one for one in kept if not _differs(model, snapshot.runs[one].run_json.get("model") or {})]
        if not same:
            raise NotFoundError(
                f"No run keeps {site} of layer {layer}, which {sae.sae_id} reads, of the model {model.get('name')}. "
                f"Collect one with --keep activations:{site}@{layer}."
            )
        return same[-1]
    run_id = lake.resolve_run(run)
    about = lake.run_json(run_id)
    if about.get("kind") == "sae":
        read = ", ".join((about.get("config") or {}).get("runs") or [])
        raise ConfigError(f"Run {run_id} is a training and holds no vectors. It was trained on {read}: --run {read}.")
    return run_id


def check_width(sae: Sae, run_id: str, width: int) -> None:
    """ConfigError if the run's vectors have another width than the autoencoder reads."""
    if width != sae.d_in:
        raise ConfigError(f"{sae.sae_id} reads vectors of width {sae.d_in}; those of run {run_id} have {width}.")


def check_model(lake: Lake, sae: Sae, run_id: str) -> None:
    """ConfigError if the run is of another model than the one that the autoencoder was trained on."""
    theirs = lake.run_json(run_id).get("model") or {}
    ours = lake.run_json(sae.run_id).get("model") or {}
    if words := _differs(ours, theirs):
        raise ConfigError(
            f"{sae.sae_id} was trained on {ours.get('name')}; run {run_id} is of another model "
            f"({theirs.get('name')}; the {words} differ). Name a run of the same model."
        )


def _differs(ours: JsonView, theirs: JsonView) -> str | None:
    """What two models differ in, by the weights' hash or else by name; None if nothing is known to differ."""
    for name, words in (("weights_sha256", "weights"), ("name", "name")):
        a, b = ours.get(name), theirs.get(name)
        if a and b:
            return words if a != b else None
    return None


def tensor_of(batch: np.ndarray, stored: str) -> Float[Tensor, "rows d"]:
    """A batch in its stored format as float32."""
    tensor = torch.from_numpy(np.ascontiguousarray(batch))
    return (tensor.view(torch.bfloat16) if stored == "bfloat16" else tensor).float()


def trained_exclusion(lake: Lake, sae: Sae) -> str:
    """Which tokens were left out in training; `first` where nothing is known."""
    if not sae.run_id:
        return "first"
    options = ((lake.run_json(sae.run_id).get("config") or {}).get("options")) or {}
    return str(options.get("exclude", "first"))


@dataclass(frozen=True)
class Overlap:
    """How alike two dictionaries are: shares of features with a decoder row of cosine >= 0.9 in the other."""

    a: str
    b: str
    share_of_a: float
    share_of_b: float
    mean_max_cos_a: float
    mean_max_cos_b: float

    def as_dict(self) -> Json:
        """Plain values for JSON."""
        return dict(vars(self))


SAME = 0.9


def compare(a: Sae, b: Sae) -> Overlap:
    """For every feature of either the largest cosine of its decoder row with one of the other."""
    rows, others = (sae.weights["W_dec"].double() for sae in (a, b))
    if rows.shape[1] != others.shape[1]:
        raise ConfigError(f"{a.sae_id} writes vectors of width {rows.shape[1]}, {b.sae_id} of {others.shape[1]}.")
    cosines = normed(rows) @ normed(others).T
    best_a, best_b = cosines.amax(1), cosines.amax(0)
    shares = [float((best >= SAME).double().mean()) for best in (best_a, best_b)]
    return Overlap(a.sae_id, b.sae_id, shares[0], shares[1], float(best_a.mean()), float(best_b.mean()))


def normed(rows: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Rows of unit length; zero rows stay zero."""
    return rows / rows.norm(dim=1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)
