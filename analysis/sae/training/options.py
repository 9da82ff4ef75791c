"""What a training is asked to do, and the autoencoders that the product of its lists names."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from itertools import product
from typing import Any, Literal, get_args

from ....lake.derived import digest
from ....lake.errors import UsageError, did_you_mean
from ....lake.values import Json, JsonView
from ..architecture import ARCHS, SPARSE, TRANSCODING, Dictionary

Decay = Literal["cosine", "linear", "constant"]
Center = Literal["mean", "median"]
SOURCE_SPARSITY, SOURCE_LR = 0.01, 1e-4
"""Penalty and learning rate of threshold-relu's source."""
DEFAULT_SPARSITY = {"relu": 0.5, "gated": 0.5, "jumprelu": 0.02, "threshold-relu": SOURCE_SPARSITY}
LAST_SHARE = 0.2
"""Share of the steps over which `linear` takes the learning rate to 0."""


@dataclass(frozen=True)
class TrainOptions:
    """Options of `lake sae train`; None is resolved from the data or the architecture when the run starts."""

    site: str = "resid_post"
    layers: tuple[int, ...] = ()
    """Blocks; empty for all that are stored."""
    to_site: str | None = None
    """Site that transcoders write to, of the same block."""
    skip: bool = False
    archs: tuple[str, ...] = ("topk",)
    widths: tuple[str, ...] = ("8x",)
    """Features, as a number or as a multiple of the width of what is read."""
    ks: tuple[int, ...] = (32,)
    nested: tuple[int, ...] = ()
    sparsities: tuple[float, ...] = ()
    target_l0: float | None = None
    seeds: tuple[int, ...] = (0,)
    tokens: int | None = None
    """Rows to train on; None for one epoch."""
    batch_size: int = 4096
    lr: float | None = None
    warmup: int | None = None
    """Steps over which the learning rate rises from 0."""
    decay: Decay = "linear"
    clip: float = 1.0
    """Longest gradient, over all parameters of one autoencoder."""
    sparsity_warmup: int | None = None
    """Steps over which the penalty rises from 0."""
    dead_after: int | None = None
    """Rows after which a silent feature is dead."""
    revive: str | None = None
    """`resample`: dead features of relu start anew in the directions of badly explained rows."""
    center: Center = "mean"
    scale: bool = True
    exclude: str = "first"
    validation_runs: tuple[str, ...] = ()
    """Runs whose rows validate; without any, the sequences of the split `validation` of the runs trained on."""
    window: int = 131_072
    shuffle_seed: int = 0
    commits: int = 10
    device: str = "cpu"
    dtype: str = "float32"
    select: str | None = None
    tag: str | None = None

    def __post_init__(self) -> None:
        for name, possible in (("decay", get_args(Decay)), ("center", get_args(Center))):
            if (given := getattr(self, name)) not in possible:
                raise UsageError(f"There is no --{name} {given!r}.{did_you_mean(given, possible)}")
        for arch in self.archs:
            if arch not in ARCHS:
                raise UsageError(f"There is no --arch {arch!r}.{did_you_mean(arch, ARCHS)}")
        for name in ("archs", "widths", "ks", "seeds"):
            if not getattr(self, name):
                raise UsageError(f"--{name.removesuffix('s')} needs at least one value.")
        for name in ("tokens", "batch_size", "dead_after", "window", "commits", "clip", "lr", "target_l0"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UsageError(f"--{name.replace('_', '-')} must be above 0, not {value}.")
        for name in ("warmup", "sparsity_warmup", "shuffle_seed"):
            if (getattr(self, name) or 0) < 0:
                raise UsageError(f"--{name.replace('_', '-')} must be 0 or more, not {getattr(self, name)}.")
        if any(not 0 <= weight < float("inf") for weight in self.sparsities):
            raise UsageError("--sparsity must be 0 or more.")
        if self.dtype not in ("float32", "float64") or self.select not in (None, "bfloat16", "float16"):
            raise UsageError("--dtype is float32 or float64, --select bfloat16 or float16.")
        if self.revive not in (None, "resample"):
            raise UsageError(f"There is no --revive {self.revive!r}. Possible: resample.")
        if self.revive is not None and set(self.archs) != {"relu"}:
            raise UsageError("--revive resample is for relu: topk, batchtopk and matryoshka have the AuxK term.")
        if self.skip and self.to_site is None:
            raise UsageError("--skip is a path of transcoders: give --to-site too.")

    @classmethod
    def named(cls, given: JsonView) -> "TrainOptions":
        """Options by name; a single value may stand for a list of one. UsageError for an unknown name."""
        known = {field.name for field in fields(cls)}
        if unknown := [name for name in given if name not in known]:
            raise UsageError(f"A training has no option {unknown[0]!r}.{did_you_mean(unknown[0], known, show=40)}")
        lists = {field.name for field in fields(cls) if isinstance(field.default, tuple)}
        values: Json = {}
        for name, value in given.items():
            several = isinstance(value, list | tuple | range)
            values[name] = value if name not in lists else tuple(value) if several else (value,)
        if "widths" in values:
            values["widths"] = tuple(map(str, values["widths"]))
        return cls(**values)

    def as_json(self) -> Json:
        """Plain values."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def from_json(cls, given: JsonView) -> "TrainOptions":
        """The options that `as_json` wrote."""
        lists = {name: tuple(value) for name, value in given.items() if isinstance(value, list)}
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in {**given, **lists}.items() if name in known})


@dataclass(frozen=True)
class SaeSpec:
    """One autoencoder to be trained."""

    shape: Dictionary
    layer: int
    site: str
    to_site: str | None
    seed: int

    def sae_id(self, model: str, run_id: str) -> str:
        """model-site-layer-arch-width-hash: unique, and safe as the name of a folder."""
        name = "".join(c if c.isalnum() else "_" for c in model.rstrip("/").rpartition("/")[2])[:12].strip("_")
        head = name if name[:1].isalpha() else f"m{name}"
        code = digest([asdict(self.shape), self.layer, self.site, self.to_site, self.seed, run_id])[:8]
        place = self.site if self.to_site is None else f"{self.site}_to_{self.to_site}"
        return (
            f"{head}-{place[:20]}-{self.layer}-{_SHORT.get(self.shape.arch, self.shape.arch)}-{self.shape.d_sae}-{code}"
        )


_SHORT = {"threshold-relu": "thrrelu", "matryoshka": "matryo"}


def specs_of(options: TrainOptions, layers: Sequence[int], d_in: int, d_out: int | None = None) -> list[SaeSpec]:
    """The product of layers, architectures, widths, k or penalties, and seeds; `d_out` is given for transcoders."""
    found: list[SaeSpec] = []
    for layer, arch, width, seed in product(layers, options.archs, options.widths, options.seeds):
        if d_out is not None and arch not in TRANSCODING:
            raise UsageError(f"--to-site goes with {', '.join(TRANSCODING)}, not with {arch}.")
        for shape in _shapes(options, arch, _width(width, d_in), d_in, d_out):
            found.append(SaeSpec(shape, layer, options.site, options.to_site, seed))
    unique = list(dict.fromkeys(found))
    if len(unique) < len(found):
        raise UsageError(
            "The lists name an autoencoder twice: give each architecture, width, k, penalty and seed once."
        )
    return unique


def _shapes(options: TrainOptions, arch: Any, d_sae: int, d_in: int, d_out: int | None) -> list[Dictionary]:
    common = {
        "d_in": d_in,
        "d_out": d_out or d_in,
        "d_sae": d_sae,
        "transcoder": d_out is not None,
        "skip": options.skip,
    }
    if arch in SPARSE:
        for k in options.ks:
            if not 0 < k < d_sae:
                raise UsageError(f"k {k} cannot be: it must be at least 1 and below the width, {d_sae}.")
        nested = _nested(options, d_sae) if arch == "matryoshka" else ()
        return [Dictionary(arch, **common, k=k, nested=nested) for k in options.ks]
    weights = options.sparsities or (DEFAULT_SPARSITY[arch],)
    aim = options.target_l0 if arch == "jumprelu" else None
    return [Dictionary(arch, **common, sparsity=weight, target_l0=aim) for weight in weights]


def _nested(options: TrainOptions, d_sae: int) -> tuple[int, ...]:
    nested = options.nested or tuple(width for width in (d_sae // 16, d_sae // 4, d_sae) if width)
    if list(nested) != sorted(set(nested)) or nested[0] < 1 or nested[-1] != d_sae:
        raise UsageError(f"--nested {','.join(map(str, nested))} must rise and end with the width, {d_sae}.")
    return nested


def _width(text: str, d_in: int) -> int:
    """`1024`, or `8x` for eight times the width of what is read."""
    try:
        width = int(text[:-1]) * d_in if text.endswith("x") else int(text)
    except ValueError:
        width = 0
    if width < 2:
        raise UsageError(f"--width {text!r} cannot be: give a number of features like 1024, or a multiple like 8x.")
    return width


def learning_rate(options: TrainOptions, shape: Dictionary, step: int, n_steps: int) -> float:
    """The rate of step `step` (from 0): warmed up, then as --decay says."""
    base = options.lr or (SOURCE_LR if shape.arch == "threshold-relu" else 2e-4 * (2**14 / shape.d_sae) ** 0.5)
    warmup = min(1000, n_steps // 20) if options.warmup is None else options.warmup
    rising = min(1.0, (step + 1) / warmup) if warmup else 1.0
    if options.decay == "constant":
        return base * rising
    if options.decay == "cosine":
        return base * rising * 0.5 * (1 + math.cos(math.pi * step / n_steps))
    last = max(1, round(LAST_SHARE * n_steps))
    return base * rising * min(1.0, (n_steps - step) / last)


def sparsity_share(options: TrainOptions, step: int, n_steps: int) -> float:
    """How much of the penalty counts at step `step`."""
    warmup = n_steps // 10 if options.sparsity_warmup is None else options.sparsity_warmup
    return min(1.0, (step + 1) / warmup) if warmup else 1.0
