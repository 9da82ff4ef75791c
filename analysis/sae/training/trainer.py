"""A training is a run of kind `sae`: committed stretch by stretch, resumed where it was, like any other run."""

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save

from ....lake import Lake
from ....lake.errors import ConfigError, LakeError, StoppedError
from ....lake.records.run_id import new_run_id
from ....lake.values import Json, Row
from ....lake.writing.segments import SegmentWriter
from ....lake.writing.writer import RunWriter
from .. import folder
from ..sae import Sae
from .learner import Learner
from .options import TrainOptions
from .plan import TrainingPlan, make_plan, make_plan_again, training_run_json
from .training_rows import Pair, TrainingRows

STATE = "state.safetensors"
ROWS_PER_TRAINING = 100
"""Rows of sae_training per autoencoder, about."""
RESUMABLE = (7, 8)
"""Exit codes of errors that leave a run interrupted, not failed."""


@dataclass(frozen=True)
class Trained:
    """What a finished training leaves."""

    run_id: str
    sae_ids: tuple[str, ...]
    validation_fvu: tuple[float, ...]
    n_tokens: int
    seconds: float

    def as_dict(self) -> Json:
        """Plain values for JSON."""
        return asdict(self)


def start_training(
    lake: Lake,
    runs: Sequence[str],
    options: TrainOptions,
    *,
    should_stop: Callable[[], bool] = lambda: False,
    on_progress: Callable[[int, int, float], None] = lambda step, n_steps, fvu: None,
) -> Trained:
    """Train everything that the lists of the options name, in one pass over the vectors."""
    plan = make_plan(lake, runs, options)
    run_id = new_run_id(options.tag or "sae")
    lake.check_writable()
    run = lake.start_run(run_id, training_run_json(run_id, plan))
    return _train(lake, run, plan, should_stop, on_progress)


def resume_training(
    lake: Lake,
    run: str,
    *,
    should_stop: Callable[[], bool] = lambda: False,
    on_progress: Callable[[int, int, float], None] = lambda step, n_steps, fvu: None,
) -> Trained | None:
    """Complete an interrupted training; None if it is complete already."""
    run_id = lake.resolve_run(run)
    about = lake.run_json(run_id)
    if about.get("kind") != "sae":
        raise ConfigError(f"Run {run_id} is of kind {about.get('kind')}, no training. `lake sae list` shows trainings.")
    if lake.run_status(run_id) == "complete":
        return None
    plan = make_plan_again(lake, about.get("config") or {})
    return _train(lake, lake.resume_run(run_id), plan, should_stop, on_progress)


def _train(
    lake: Lake, run: RunWriter, plan: TrainingPlan, should_stop: Callable[[], bool], on_progress: Callable[..., None]
) -> Trained:
    began = time.perf_counter()
    with run:
        try:
            training = _Training(lake, run, plan)
            for index, (start, end) in enumerate(plan.segments):
                if index not in run.committed:
                    training.stretch(index, start, end, should_stop, on_progress)
        except LakeError as error:
            if error.exit_code not in RESUMABLE:
                run.finish("failed", error=" ".join(str(error).split())[:500])
            raise
        found = training.learners
        run.finish(extra={"validation_fvu": {one.sae_id: one.best_fvu for one in found}})
    ids, best = tuple(one.sae_id for one in found), tuple(one.best_fvu for one in found)
    return Trained(run.run_id, ids, best, run.counters.get("n_tokens", 0), time.perf_counter() - began)


class _Training:
    """The learners of a run, and the vectors of each layer, read once for all of them."""

    def __init__(self, lake: Lake, run: RunWriter, plan: TrainingPlan) -> None:
        self._run, self._plan = run, plan
        options = plan.options
        self._rows = {layer: TrainingRows(lake, plan.runs, layer, options, plan.commits) for layer in options.layers}
        scaling = {layer: rows.scaling() for layer, rows in self._rows.items()}
        name = str(plan.model.get("name"))
        self.learners = [
            Learner(spec, spec.sae_id(name, run.run_id), options, scaling[spec.layer], plan.n_steps)
            for spec in plan.specs
        ]
        self._batches: dict[int, Iterator[Pair]] = {}
        self._next = -1
        self._n_tokens = 0
        if run.committed:
            self._load(load(lake.blob(run.run_id, STATE)))

    def _load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        for place, learner in enumerate(self.learners):
            head = f"{place}/"
            learner.load_state({n[len(head) :]: value for n, value in tensors.items() if n.startswith(head)})
        self._n_tokens = int(tensors["n_tokens"])

    def stretch(
        self, index: int, start: int, end: int, should_stop: Callable[[], bool], on_progress: Callable[..., None]
    ) -> None:
        """Train the steps between two commits, and commit them."""
        before = self._n_tokens
        every = max(1, self._plan.n_steps // ROWS_PER_TRAINING)
        if self._next != start:
            self._batches = {layer: rows.batches(start) for layer, rows in self._rows.items()}
        with self._run.segment(index, (start, end)) as segment:
            clock = _Clock(self._rows.values(), self._n_tokens)
            for number in range(start, end):
                if should_stop():
                    raise StoppedError(
                        f"Stopped at step {number:,} of {self._plan.n_steps:,}; the steps from {start:,} on are not "
                        f"committed. `lake sae train --resume {self._run.run_id}` goes on there."
                    )
                self._step(number)
                if (number + 1) % every == 0 and number + 1 < end:
                    self._append(segment, number + 1, clock, {})
            is_last = end == self._plan.n_steps
            fvu = self._validate(end)
            self._append(segment, end, clock, fvu)
            self._save(segment, is_last=is_last)
            segment.count(n_tokens=self._n_tokens - before)
        self._next = end
        on_progress(end, self._plan.n_steps, min(fvu.values()))

    def _step(self, number: int) -> None:
        n_rows = 0
        for layer, batches in self._batches.items():
            x, target = next(batches)
            n_rows = len(x)
            for learner in self.learners:
                if learner.spec.layer == layer:
                    learner.step(number, x, target)
        self._n_tokens += n_rows

    def _append(self, segment: SegmentWriter, step: int, clock: "_Clock", fvu: Mapping[str, float]) -> None:
        speed, share = clock.read(self._n_tokens)
        for learner in self.learners:
            means = learner.meter.take()
            if not math.isfinite(means["loss"]):
                raise ConfigError(
                    f"The loss of {learner.sae_id} is not finite at step {step:,}. Start again with a lower --lr."
                )
            row = {
                "sae_id": learner.sae_id, "step": step, "n_tokens": self._n_tokens,
                **{name: float(np.float32(value)) for name, value in means.items()},
                "dead": int(learner.dead.sum()), "lr": learner.rate, "validation_fvu": fvu.get(learner.sae_id),
                "tokens_per_s": speed, "wait_share": share,
            }  # fmt: skip
            segment.append("sae_training", row)

    def _validate(self, step: int) -> dict[str, float]:
        found = {}
        for learner in self.learners:
            rows = self._rows[learner.spec.layer]
            sae = learner.sae(learner.parameters, rows.validation)
            found[learner.sae_id] = learner.validate(sae, rows.validation())
            learner.remember_if_best(found[learner.sae_id], step)
        return found

    def _save(self, segment: SegmentWriter, *, is_last: bool) -> None:
        """The state that resumes, the folder of the best so far; at the end also the last and the rows of `saes`."""
        tensors = {f"{place}/{n}": v for place, one in enumerate(self.learners) for n, v in one.state().items()}
        tensors["n_tokens"] = torch.tensor(self._n_tokens)
        segment.add_blob(STATE, save({name: value.contiguous() for name, value in tensors.items()}))
        for learner in self.learners:
            rows = self._rows[learner.spec.layer]
            if is_last:
                last = learner.sae(learner.parameters, rows.sample)
                self._add_folder(segment, learner, replace(last, sae_id=f"{learner.sae_id}.last"), self._plan.n_steps)
            best = learner.sae(learner.best, rows.sample if is_last else rows.validation)
            blobs = self._add_folder(segment, learner, best, learner.best_step)
            if is_last:
                segment.append("saes", self._row(learner, blobs))

    def _add_folder(self, segment: SegmentWriter, learner: Learner, sae: Sae, step: int) -> dict[str, bytes]:
        spec, model = learner.spec, self._plan.model
        metadata = {"model_name": model.get("name"), "hook_name": folder.hook_name(spec.layer, spec.site),
                    "prepend_bos": True, "neuronpedia_id": None}  # fmt: skip
        if spec.to_site is not None:
            metadata |= {"hook_name_out": folder.hook_name(spec.layer, spec.to_site), "hook_layer_out": spec.layer}
        about = {
            "sae_id": learner.sae_id, "run_id": self._run.run_id, "step": step, "spec": asdict(spec),
            "scale": learner.scale, "out_scale": learner.out_scale, "options": self._plan.options.as_json(),
            "runs": list(self._plan.runs), "snapshot": self._plan.snapshot,
            "weights_sha256_of_model": model.get("weights_sha256"), "versions": self._run.run_json.get("versions"),
        }  # fmt: skip
        blobs = folder.folder_blobs(sae, metadata, about)
        for name, data in blobs.items():
            segment.add_blob(name, data)
        return blobs

    def _row(self, learner: Learner, blobs: Mapping[str, bytes]) -> Row:
        spec, shape = learner.spec, learner.shape
        return {
            "sae_id": learner.sae_id, "arch": shape.arch, "layer": spec.layer, "site": spec.site,
            "to_layer": None if spec.to_site is None else spec.layer, "to_site": spec.to_site,
            "d_in": shape.d_in, "d_out": shape.d_out, "d_sae": shape.d_sae, "k": shape.k, "scale": learner.scale,
            "n_tokens": self._n_tokens, "seed": spec.seed, "source": "trained",
            "weights_sha256": hashlib.sha256(blobs[f"{learner.sae_id}/{folder.WEIGHTS}"]).hexdigest(),
            "snapshot": self._plan.snapshot,
            "config": json.dumps({"shape": asdict(shape), "validation_fvu": learner.best_fvu,
                                  "best_step": learner.best_step}, sort_keys=True),
        }  # fmt: skip


class _Clock:
    """Rows per second and the share of waiting since it was last read."""

    def __init__(self, rows: Any, n_tokens: int) -> None:
        self._rows = list(rows)
        self._began, self._tokens, self._waited = time.perf_counter(), n_tokens, self._all_waited()

    def _all_waited(self) -> float:
        return sum(rows.waited_s for rows in self._rows)

    def read(self, n_tokens: int) -> tuple[float, float]:
        """Since the last time."""
        now, waited = time.perf_counter(), self._all_waited()
        seconds = max(now - self._began, 1e-9)
        found = (n_tokens - self._tokens) / seconds, (waited - self._waited) / seconds
        self._began, self._tokens, self._waited = now, n_tokens, waited
        return found
