"""One autoencoder in training: its parameters, Adam, what is dead, and the state that resumes it bit for bit."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ....lake.errors import FailedError
from ....lake.values import Columns
from .. import architecture
from ..architecture import SPARSE, Losses, Parameters
from ..sae import Sae, fold
from .options import SaeSpec, TrainOptions, learning_rate, sparsity_share
from .training_rows import Pair, Scaling

BATCH_THRESHOLD = ("batchtopk", "matryoshka")
"""Architectures whose threshold for single rows comes from a pass over data."""
RISE, RISING_AFTER = 0.01, 0.4
"""What b_enc of a silent feature gains in every step (scaled units), and from which share of --dead-after on."""
REVIVED_LENGTH = 0.2
"""Length of a resampled feature's encoder column, over the mean of the living ones."""


@dataclass
class Meter:
    """Sums over the batches since the last row of `sae_training`."""

    rows: int = 0
    sums: Tensor | None = None
    """loss, term, aux (times rows), active features, squared error, squared target."""
    target: Tensor | None = None

    @torch.no_grad()
    def add(self, found: Losses, target: Tensor) -> None:
        """Count one batch."""
        n = len(target)
        error = (found.reconstruction - target).square().sum(dtype=torch.float64)
        parts = [(found.loss * n).double(), (found.term * n).double(), (found.aux * n).double(), error]
        sums = torch.stack([*parts, target.square().sum(dtype=torch.float64)])
        active = torch.tensor([float(len(found.active.features))], dtype=torch.float64, device=sums.device)
        sums, total = torch.cat([sums, active]), target.sum(0, dtype=torch.float64)
        self.sums = sums if self.sums is None else self.sums + sums
        self.target = total if self.target is None else self.target + total
        self.rows += n

    def take(self) -> dict[str, float]:
        """Means since the last call, and FVU about the mean of the stretch."""
        assert self.sums is not None and self.target is not None
        loss, term, aux, error, squared, active = self.sums.tolist()
        variance = squared - float(self.target.square().sum()) / self.rows
        n = self.rows
        self.rows, self.sums, self.target = 0, None, None
        means = {"loss": loss / n, "mse": error / n, "term": term / n, "aux": aux / n, "l0": active / n}
        return means | {"fvu": error / variance if variance > 0 else float("nan")}


class Learner:
    """One autoencoder in training. Nothing in it depends on which others are trained beside it."""

    def __init__(self, spec: SaeSpec, sae_id: str, options: TrainOptions, scaling: Scaling, n_steps: int) -> None:
        self.spec, self.sae_id, self.shape = spec, sae_id, spec.shape
        self._options, self._n_steps = options, n_steps
        # The source of threshold-relu knows no scale: its threshold is one of the model's own units.
        one = spec.shape.arch == "threshold-relu"
        self.scale, self.out_scale = (1.0, 1.0) if one else (scaling.scale, scaling.out_scale)
        centre = scaling.centre / scaling.out_scale if one else scaling.centre
        generator = torch.Generator().manual_seed(spec.seed)
        dtype = getattr(torch, options.dtype)
        first = architecture.first_parameters(spec.shape, centre, generator, dtype, scaling.directions)
        self.parameters: Parameters = {n: v.to(options.device).requires_grad_() for n, v in first.items()}
        fused = torch.device(options.device).type in ("cpu", "cuda", "mps")
        self._adam = torch.optim.Adam(self.parameters.values(), lr=1.0, fused=fused)
        self._silent = torch.zeros(spec.shape.d_sae, dtype=torch.int64, device=options.device)
        self._threshold = 0.0
        self.best_fvu = float("inf")
        self.best: Parameters = {}
        self.best_step = 0
        self.rate = 0.0
        self.meter = Meter()

    @property
    def dead(self) -> Tensor:
        """Features that were silent for longer than --dead-after rows."""
        assert self._options.dead_after is not None
        return self._silent > self._options.dead_after

    def step(self, number: int, x: Tensor, target: Tensor) -> None:
        """One step of Adam on a batch in model units; `number` counts from 0."""
        options, shape = self._options, self.shape
        x, target = self._scaled(x, target)
        self.rate = learning_rate(options, shape, number, self._n_steps)
        self._adam.param_groups[0]["lr"] = self.rate
        found = architecture.losses(
            shape, self.parameters, x, target,
            dead=self.dead if shape.arch in SPARSE else None,
            last_threshold=self._threshold,
            sparsity_share=sparsity_share(options, number, self._n_steps),
            select=getattr(torch, options.select) if options.select else None,
        )  # fmt: skip
        self._adam.zero_grad(set_to_none=True)
        found.loss.backward()
        architecture.before_step(shape, self.parameters)
        torch.nn.utils.clip_grad_norm_(self.parameters.values(), options.clip)
        self._adam.step()
        architecture.after_step(shape, self.parameters, number)
        self._threshold = found.threshold
        before = self.dead
        self._silent += len(x)
        self._silent[found.active.features] = 0
        if shape.arch in SPARSE:
            self._forget_moments(self.dead & ~before)
            self._raise_silent()
        elif options.revive is not None:
            self._resample(number, x, target, found.reconstruction)
        self.meter.add(found, target)

    @torch.no_grad()
    def _forget_moments(self, features: Tensor) -> None:
        """Adam starts anew for features that have just died.

        The second moments of when they lived are a thousand times those of the AuxK term, and last for a thousand
        steps: nothing that it says would move them.
        """
        if not bool(features.any()):
            return
        for name, parameter in self.parameters.items():
            if name in ("W_enc", "W_dec", "b_enc"):
                for key in ("exp_avg", "exp_avg_sq"):
                    moments = self._adam.state[parameter][key]
                    (moments.T if name == "W_enc" else moments)[features] = 0

    @torch.no_grad()
    def _raise_silent(self) -> None:
        """Features that were silent for long come closer to the top k in every step, until they are among them."""
        assert self._options.dead_after is not None
        silent = self._silent > RISING_AFTER * self._options.dead_after
        self.parameters["b_enc"].add_(silent.to(self.parameters["b_enc"].dtype), alpha=RISE)

    @torch.no_grad()
    def _resample(self, number: int, x: Tensor, target: Tensor, reconstruction: Tensor) -> None:
        """Dead features start anew at rows drawn by their squared error squared, as in Towards Monosemanticity.

        The decoder row is the row's direction, the encoder column the same at a fifth of the living ones' mean length.
        """
        dead = self.dead.nonzero().squeeze(1)
        weights = (target - reconstruction).double().square().sum(1).square().cpu()
        if not len(dead) or not float(weights.sum()) > 0:
            return
        draws = torch.Generator().manual_seed(self.spec.seed * 1_000_003 + number)
        rows = torch.multinomial(weights, len(dead), replacement=True, generator=draws).to(x.device)
        parameters, tiny = self.parameters, torch.finfo(x.dtype).tiny
        centre = parameters["b_dec"] if self.shape.centred else 0.0
        read, written = x[rows] - centre, target[rows] - parameters["b_dec"]
        lengths = parameters["W_enc"].norm(dim=0)
        living = lengths[~self.dead]
        length = REVIVED_LENGTH * (living if len(living) else lengths).mean()
        parameters["W_dec"][dead] = written / written.norm(dim=1, keepdim=True).clamp_min(tiny)
        parameters["W_enc"][:, dead] = (length * read / read.norm(dim=1, keepdim=True).clamp_min(tiny)).T
        parameters["b_enc"][dead] = 0.0
        self._forget_moments(self.dead)
        self._silent[dead] = 0

    def _scaled(self, x: Tensor, target: Tensor) -> Pair:
        scaled = x * self.scale
        return scaled, scaled if target is x else target * self.out_scale

    def sae(self, parameters: Parameters, rows: Callable[[], Iterable[Pair]]) -> Sae:
        """These parameters in model units; the threshold of batchtopk is the one that leaves k per row of `rows`."""
        threshold = self._exact_threshold(parameters, rows) if self.shape.arch in BATCH_THRESHOLD else 0.0
        return fold(self.shape, parameters, self.scale, self.out_scale, threshold, self.sae_id)

    @torch.no_grad()
    def _exact_threshold(self, parameters: Parameters, rows: Callable[[], Iterable[Pair]]) -> float:
        """The value above which n rows have n x k activations between them."""
        shape = self.shape
        assert shape.k is not None
        most = 4 * shape.k
        while True:
            most = min(most, shape.d_sae)
            kept = torch.cat([self._largest(parameters, x, most) for x, _ in rows()])
            place = len(kept) * shape.k
            values = kept.flatten().sort(descending=True).values
            threshold = float((values[place - 1] + values[place]) / 2) if place < len(values) else 0.0
            # Of a row whose last kept value is above the threshold others may be too: look at more of each row.
            if most == shape.d_sae or float(kept[:, -1].max()) <= threshold:
                return max(0.0, threshold)
            most *= 4

    def _largest(self, parameters: Parameters, x: Tensor, most: int) -> Tensor:
        scaled = x * self.scale
        centred = scaled - parameters["b_dec"] if self.shape.centred else scaled
        return (centred @ parameters["W_enc"] + parameters["b_enc"]).topk(most).values

    @torch.no_grad()
    def validate(self, sae: Sae, rows: Iterable[Pair]) -> float:
        """FVU of the folded autoencoder in model units, as whoever loads it will find it."""
        sae = sae.to(self._options.device)
        error = squared = 0.0
        total, n = None, 0
        for x, target in rows:
            reconstruction = sae.reconstruct(x.float())
            error += float((reconstruction - target).double().square().sum())
            squared += float(target.double().square().sum())
            total = target.double().sum(0) + (0 if total is None else total)
            n += len(x)
        assert total is not None
        variance = squared - float(total.square().sum()) / n
        if not variance > 0 or error != error:
            raise FailedError(
                f"{self.sae_id} has no finite FVU on the validation rows (error {error}, variance {variance}). "
                "Try a lower --lr."
            )
        return error / variance

    def remember_if_best(self, fvu: float, step: int) -> bool:
        """Keep a copy of the parameters if none before explained as much."""
        if fvu >= self.best_fvu:
            return False
        self.best_fvu, self.best_step = fvu, step
        self.best = {name: value.detach().clone() for name, value in self.parameters.items()}
        return True

    def state(self) -> dict[str, Tensor]:
        """Everything that the next step depends on, and the best parameters so far."""
        found = {f"now.{name}": value.detach() for name, value in self.parameters.items()}
        for name, parameter in self.parameters.items():
            moments = self._adam.state[parameter]
            found |= {f"adam.{key}.{name}": value for key, value in moments.items()}
        found |= {f"best.{name}": value for name, value in self.best.items()}
        numbers = torch.tensor([self._threshold, self.best_fvu, self.best_step], dtype=torch.float64)
        return {name: value.cpu() for name, value in {**found, "silent": self._silent, "numbers": numbers}.items()}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from a state."""
        device = self._options.device
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(tensors[f"now.{name}"])
        for name, parameter in self.parameters.items():
            moments: Columns = {}
            for key in ("step", "exp_avg", "exp_avg_sq"):
                moments[key] = tensors[f"adam.{key}.{name}"].to(device)
            self._adam.state[parameter] = moments
        self.best = {key[5:]: value.to(device) for key, value in tensors.items() if key.startswith("best.")}
        self._silent.copy_(tensors["silent"])
        self._threshold, self.best_fvu, best_step = tensors["numbers"].tolist()
        self.best_step = int(best_step)


def parameter_bytes(spec: SaeSpec, dtype: str) -> tuple[int, int]:
    """Parameters of an autoencoder, and the bytes of memory that training it takes (weights, gradient, Adam, best)."""
    shape = spec.shape
    count = shape.d_sae * (shape.d_in + shape.d_out) + shape.d_out
    count += shape.d_sae * {"gated": 3, "jumprelu": 2}.get(shape.arch, 1)
    count += shape.d_in * shape.d_out if shape.skip else 0
    return count, count * 5 * (8 if dtype == "float64" else 4)
