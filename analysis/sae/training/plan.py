"""What a training will do: which autoencoders, from which commits, in how many steps. All that run.json must say."""

import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version

import torch

from ....lake import Lake
from ....lake.derived import digest
from ....lake.errors import ConfigError, NotFoundError
from ....lake.values import Json, JsonView
from .learner import parameter_bytes
from .options import SaeSpec, TrainOptions, specs_of
from .training_rows import TrainingRows

PACKAGES = ("tracelake", "torch", "numpy", "pyarrow", "safetensors")


@dataclass(frozen=True)
class TrainingPlan:
    """What will be trained, from what, in how many steps and commits: all that run.json says and resuming needs."""

    options: TrainOptions
    runs: tuple[str, ...]
    commits: Mapping[str, Mapping[str, int]]
    model: JsonView
    specs: tuple[SaeSpec, ...]
    n_steps: int
    n_rows: int
    """Rows of one epoch of the first layer."""

    @property
    def snapshot(self) -> str:
        """Digest of the commits that are read."""
        return digest({run: dict(writers) for run, writers in self.commits.items()})[:16]

    @property
    def segments(self) -> list[list[int]]:
        """Half-open ranges of steps between two commits."""
        n = min(self.options.commits, self.n_steps)
        edges = [round(i * self.n_steps / n) for i in range(n + 1)]
        return [[a, b] for a, b in zip(edges, edges[1:], strict=False)]

    def sizes(self) -> Json:
        """Parameters, memory and steps, before anything runs."""
        counts = [parameter_bytes(spec, self.options.dtype) for spec in self.specs]
        widths = {(spec.layer, spec.shape.d_in, spec.shape.d_out if spec.to_site else 0) for spec in self.specs}
        windows = 2 * sum(4 * self.options.window * (d_in + d_out) for _, d_in, d_out in widths)
        widest = max(spec.shape.d_sae for spec in self.specs)
        return {
            "n_saes": len(self.specs),
            "n_parameters": sum(count for count, _ in counts),
            "memory_bytes": sum(size for _, size in counts) + windows + 12 * self.options.batch_size * widest,
            "n_steps": self.n_steps,
            "n_tokens": self.n_steps * self.options.batch_size,
            "epochs": round(self.n_steps * self.options.batch_size / self.n_rows, 3),
            "n_commits": len(self.segments),
        }


def make_plan(lake: Lake, runs: Sequence[str], options: TrainOptions) -> TrainingPlan:
    """Look at what is stored: layers, widths, rows, and the commits that are read from now on."""
    run_ids = tuple(dict.fromkeys(lake.resolve_run(run) for run in runs))
    others = tuple(lake.resolve_run(run) for run in options.validation_runs)
    if shared := sorted(set(run_ids) & set(others)):
        raise ConfigError(f"Run {shared[0]} would be both trained on and validated on. Name another --validation-run.")
    options = replace(options, layers=_layers(lake, run_ids, options), validation_runs=others)
    commits: dict[str, Mapping[str, int]] = {}
    specs: list[SaeSpec] = []
    rows = None
    for layer in options.layers:
        rows = TrainingRows(lake, run_ids, layer, options, commits or None)
        commits = {**commits, **rows.commits}
        specs += specs_of(options, [layer], rows.width, rows.to_width)
    assert rows is not None
    tokens = options.tokens or rows.rows
    n_steps = math.ceil(tokens / options.batch_size)
    dead_after = options.dead_after or max(50_000, min(10_000_000, tokens // 20))
    options = replace(options, tokens=tokens, dead_after=dead_after)
    model = _one_model(lake, (*run_ids, *others))
    return TrainingPlan(options, run_ids, commits, model, tuple(specs), n_steps, rows.rows)


def _one_model(lake: Lake, runs: Sequence[str]) -> JsonView:
    """The model of the runs; ConfigError if they are of several."""
    models = {run: lake.run_json(run).get("model") or {} for run in runs}
    hashes = {model.get("weights_sha256") or model.get("name") for model in models.values()}
    if len(hashes) > 1:
        named = ", ".join(f"{run} ({model.get('name')})" for run, model in models.items())
        raise ConfigError(f"The runs are of several models: {named}. Choose runs of one model.")
    return models[runs[0]]


def _layers(lake: Lake, runs: Sequence[str], options: TrainOptions) -> tuple[int, ...]:
    """The layers asked for, or all whose site every run keeps; NotFoundError if there are none."""
    stored = []
    for run in runs:
        entries = lake.snapshot(run).files("activations")
        stored.append({int(e.partition["layer"]) for e in entries if e.partition["site"] == options.site})
    common = sorted(set.intersection(*stored))
    n_layers = (lake.run_json(runs[0]).get("model") or {}).get("n_layers") or 0
    wanted = [layer + n_layers if layer < 0 else layer for layer in options.layers] or common
    if missing := [layer for layer in wanted if layer not in common]:
        kept = ", ".join(map(str, common)) or "none"
        raise NotFoundError(f"{options.site} of layer {missing[0]} is not stored. Layers of {options.site}: {kept}.")
    if not wanted:
        names = sorted({str(e.partition["site"]) for run in runs for e in lake.snapshot(run).files("activations")})
        raise NotFoundError(f"No run keeps the site {options.site!r}. Possible: {', '.join(names) or 'none'}.")
    return tuple(dict.fromkeys(wanted))


def make_plan_again(lake: Lake, config: JsonView) -> TrainingPlan:
    """The plan in a training's run.json; ConfigError if the vectors it read are not there any more."""
    options = TrainOptions.from_json(config["options"])
    specs: list[SaeSpec] = []
    rows = None
    try:
        for layer in options.layers:
            rows = TrainingRows(lake, config["runs"], layer, options, config["commits"])
            specs += specs_of(options, [layer], rows.width, rows.to_width)
    except NotFoundError as error:
        raise ConfigError(
            f"The training cannot go on: {error} The vectors it reads must be where they were."
        ) from error
    assert rows is not None
    model = _one_model(lake, config["runs"])
    return TrainingPlan(
        options, tuple(config["runs"]), config["commits"], model, tuple(specs), config["n_steps"], rows.rows
    )  # fmt: skip


def training_run_json(run_id: str, plan: TrainingPlan) -> Json:
    """The immutable description of the run."""
    ids = [spec.sae_id(str(plan.model.get("name")), run_id) for spec in plan.specs]
    return {
        "kind": "sae",
        "tag": plan.options.tag,
        "seed": plan.options.shuffle_seed,
        "model": {name: value for name, value in plan.model.items() if name != "special_ids"},
        "config": {
            "options": plan.options.as_json(),
            "runs": list(plan.runs),
            "commits": {run: dict(writers) for run, writers in plan.commits.items()},
            "n_steps": plan.n_steps,
            "saes": ids,
        },
        "plan": {"segments": plan.segments},
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "threads": torch.get_num_threads(),
    }
