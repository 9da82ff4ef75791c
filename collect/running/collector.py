"""One run: plan it, collect it segment by segment, resume it; the only file that knows both models and the lake."""

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from ...lake import Lake
from ...lake.errors import ConfigError, StoppedError, UsageError
from ...lake.records.run_id import new_run_id
from ...lake.values import Json
from ...lake.writing.segments import SegmentWriter
from ...lake.writing.writer import RunWriter
from ..configuration.config import CollectConfig
from ..configuration.keep import Keep
from ..decoding.loop import BatchDecoder
from ..decoding.reading.check import choose_reading, reading_notice
from ..decoding.reading.reading import Reading
from ..decoding.reading.replay import replay
from ..decoding.sampling.generation_settings import GenerationSettings
from ..decoding.sequence import Limits
from ..decoding.timings import Timings
from ..embedding.embedder import Embedder
from ..inputs.problem_sets import remarks
from ..inputs.prompts import open_source
from ..inputs.source import PromptSource
from ..inputs.tokenizing.text import TokenText
from ..inputs.tokenizing.tokenized import TokenizedPrompt
from ..models.editing.edit_files import edits_of
from ..models.loading.load import load_model
from ..models.loading.outline import outline
from ..models.model import LoadedModel
from ..models.weights import broken_sentence, broken_weights
from ..observing.observation import ObservedModel
from . import own_runs
from .failure import failing_said
from .planning.consent import check_typed, consented, resume_command
from .planning.context_items import items_of
from .planning.plan import Estimate, Plan, estimate, make_plan
from .planning.provenance import check_parent, check_same, run_json
from .planning.resolved_keep import resolve_keep
from .planning.space import check_space
from .progress import Callbacks, Collected, Progress
from .sealing import Sealing
from .segment import SegmentRunner, operation_columns
from .stopping import Stopping, stop_finder, stopped
from .stored_directions import StoredDirections


class Collection:
    """A configured collection: the model is loaded, the prompts are counted, nothing has been written yet.

    Without `weights` it can only be estimated: the model is a shell made from its configuration. `lake` is the one that
    stored directions and sequences are looked up in, `loaded` the model where it is there already, `experiment` the
    `id` and `step` under which the run is found again.
    """

    def __init__(
        self,
        config: CollectConfig,
        callbacks: Callbacks | None = None,
        *,
        plan: Plan | None = None,
        source: PromptSource | None = None,
        weights: bool = True,
        lake: Lake | None = None,
        loaded: LoadedModel | None = None,
        experiment: Mapping[str, str] | None = None,
    ) -> None:
        self.config = config
        self.experiment = experiment
        self.callbacks = callbacks or Callbacks()
        self.notices: list[str] = []
        self.timings = Timings()
        self.source: PromptSource = source or open_source(config, lake=lake)
        for text in remarks(self.source.describe()):
            self.notice(text)
        with self.timings.measure("load"):
            self.loaded: LoadedModel = loaded or (self._load() if weights else self._outline())
        if self.loaded.gaps:
            self.notice(f"{config.model}: {self.loaded.gaps.sentence()} (--allow-missing).")
        if broken := broken_weights(self.loaded.model):
            self.notice(f"{config.model}: {broken_sentence(broken)}")
        with self.timings.measure("check"):
            # A shell cannot be tried: its plan is that of a model without limits.
            reading = Reading() if self.loaded.is_shell else choose_reading(self.loaded)
            if plan is not None and plan.reading.separate:
                reading = replace(reading, separate=True)
        if (limits := reading_notice(self.loaded, reading)) is not None:
            self.notice(limits)
        self.settings = GenerationSettings.of(self.loaded.model.generation_config)
        if config.max_new_tokens > 0:
            for text in self.settings.notices(config.model, applied=config.generation_config):
                self.notice(text)
        resolved = resolve_keep(Keep.parse(config.keep), config, self.loaded, self.notice)
        self.keep, self.kept, self.unmeasured = resolved.keep, resolved.kept, resolved.unmeasured
        self.edits = edits_of(config.edit_settings, self.loaded, StoredDirections(lake))
        check_parent(self.source, self.loaded, self.edits)
        self.observed: ObservedModel | None = None
        self.items = items_of(self.source, config, self.loaded, self.notice)
        with self.timings.measure("plan"):
            self.plan = plan or make_plan(self.loaded, config, self.keep, self.items.lengths(), reading)
        if self.plan.reading != reading:
            raise ConfigError(
                f"{config.model} must now be read otherwise than when the run was planned. Start a new run."
            )
        if weights:
            self.observed = ObservedModel(self.loaded, self.kept, self.plan.budget)

    def _load(self) -> LoadedModel:
        config = self.config
        return load_model(
            config.model,
            revision=config.revision,
            dtype=config.dtype,
            device=config.device,
            attn_implementation=config.attn_implementation,
            trust_remote_code=config.trust_remote_code,
            allow_missing=config.allow_missing,
        )

    def _outline(self) -> LoadedModel:
        config = self.config
        return outline(
            config.model,
            revision=config.revision,
            dtype=config.dtype,
            device=config.device,
            attn_implementation=config.attn_implementation,
            trust_remote_code=config.trust_remote_code,
        )

    def notice(self, text: str) -> None:
        """Tell the caller something that is no error."""
        self.notices.append(text)
        self.callbacks.on_notice(text)

    def estimate(self) -> Estimate:
        """Tokens, bytes and files of the run."""
        return estimate(self.plan, self.config, self.keep, self.loaded)

    def start(self, lake: Lake | str | Path, *, assume_yes: bool = False) -> Collected:
        """Write run.json and collect everything; a lake that is a path is made, unless the run is refused before."""
        known = lake if isinstance(lake, Lake) else Lake(lake)
        if self.config.max_bytes is None:
            check_space(self.estimate().n_bytes, known.store.free_bytes(), known.path, assume_yes=assume_yes)
        lake = lake if isinstance(lake, Lake) else Lake.create(lake)
        lake.check_writable()
        run_id = new_run_id(self.config.tag or "run")
        run = lake.start_run(run_id, self._about(run_id))
        own_runs.remember(run.run_json)
        return self.collect_into(run)

    def join(self, lake: Lake, run_id: str, rank: int, world: int) -> Collected:
        """Collect this writer's share of a run that `world` writers collect together, whoever of them starts it."""
        if self.config.corpus is not None and world > 1:
            raise UsageError(
                "A corpus is read by one writer: where a segment begins is known when the one before ends."
            )
        lake.check_writable()
        share = self.plan.share(rank, world)
        return self.collect_into(lake.join_run(run_id, self._about(run_id), f"w{rank}"), share)

    def _about(self, run_id: str) -> Json:
        about = run_json(
            run_id, self.loaded, self.config, self.source, self.plan, self.unmeasured, self.notices, self.edits
        )
        part = {} if self.experiment is None else {"experiment": dict(self.experiment)}
        return about | {"generation_config": self.settings.record(applied=self.config.generation_config)} | part

    def collect_into(self, run: RunWriter, share: frozenset[int] | None = None) -> Collected:
        """Collect the segments (of a share) that are not committed yet and record the completion."""
        started = time.perf_counter()
        self.timings.begin()
        progress = Progress(len(self.plan.segments), len(run.committed))
        embedder = None
        if self.keep.embeddings and self.config.completes:
            with self.timings.measure("load"):
                embedder = Embedder(self.config.embedder, str(self.loaded.device))
        pool = pa.default_memory_pool()
        # Arrow's own pool keeps what it once had: over many segments it held 40 MB more, and grew.
        pa.set_memory_pool(pa.system_memory_pool())
        try:
            with failing_said(run, self.plan.batch_size, self._resume_command(run)):
                self._collect_segments(run, progress, embedder, share)
            run.finish(status="complete", extra={"unwritten_ms": self._last_write_ms, **self.items.outcome()})
            if (remark := self.items.remark()) is not None:
                self.notice(remark)
            own_runs.forget(run.run_json)
        finally:
            pa.set_memory_pool(pool)
            run.close()
        counters = run.counters
        return Collected(
            run_id=run.run_id,
            n_sequences=counters.get("n_sequences", 0),
            n_tokens=counters.get("n_tokens", 0),
            n_bytes=run.bytes_committed,
            seconds=time.perf_counter() - started,
            notices=tuple(self.notices),
        )

    def _collect_segments(
        self, run: RunWriter, progress: Progress, embedder: Embedder | None, share: frozenset[int] | None
    ) -> None:
        assert self.observed is not None
        self._last_write_ms = 0.0
        everything = self.plan.share(0, 1)
        waiting = sorted((everything if share is None else share) - run.committed)
        others = everything - set(waiting)
        # The first segment also pays for what is imported and allocated once.
        compared = waiting[min(1, len(waiting) - 1)] if self.config.strict_timings and waiting else None
        with Sealing(run, self.timings) as sealing:
            runner = self._runner(run.run_id, progress, embedder, sealing)
            for index, (start, stop), items in self.items.pending(self.plan.segments, others, run.notes):
                self._check_limits(run, sealing)
                segment = run.segment(index, (start, stop))
                try:
                    self._collect(runner, segment, start, items, compare=index == compared)
                    segment.append("operations", operation_columns(self.timings, run.writer, index))
                    segment.note(self.items.note())
                except BaseException:
                    segment.abandon()
                    raise
                sealing.take(segment)
                self._report(progress, run)
            sealing.wait()
            self._report(progress, run)
        if n_broken := runner.decoder.n_broken:
            self.notice(f"Broken sequences, ended by logits that are NaN or infinite: {n_broken:,}.")
        self._last_write_ms = sealing.waited_ms

    def _report(self, progress: Progress, run: RunWriter) -> None:
        progress.segments_done = len(run.committed)
        progress.n_bytes = run.bytes_committed
        self.callbacks.on_progress(progress)

    def _collect(
        self, runner: SegmentRunner, segment: SegmentWriter, start: int, items: list[TokenizedPrompt], *, compare: bool
    ) -> None:
        """One segment; to compare, its tokens pass through the bare model too."""
        assert self.observed is not None
        began = time.perf_counter()
        with self.observed.attached():
            runner.run(segment, start, items)
        if not compare:
            return
        self.timings.add("instrumented", (time.perf_counter() - began) * 1000, "strict")
        n_rows = self.plan.batch_size
        with self.timings.measure("warm_up"):
            replay(self.loaded, runner.batches[:1], self.plan.reading, chunk=self.plan.chunk, n_rows=n_rows)
        with self.timings.measure("baseline"):
            replay(self.loaded, runner.batches, self.plan.reading, chunk=self.plan.chunk, n_rows=n_rows)

    def _resume_command(self, run: RunWriter) -> str:
        return resume_command(run.run_id, dict(self.config))

    def _check_limits(self, run: RunWriter, sealing: Sealing) -> None:
        if self.callbacks.should_stop():
            raise StoppedError(stopped(self._resume_command(run)))
        limit = self.config.max_bytes
        if limit is not None:
            sealing.wait()  # what counts is what is committed
        if limit is not None and run.bytes_committed >= limit:
            raise StoppedError(
                f"Stopped at {run.bytes_committed:,} bytes (--max-bytes {limit:,}). "
                f"Continue without that limit: {self._resume_command(run)} --max-bytes N"
            )

    def _runner(self, run_id: str, progress: Progress, embedder: Embedder | None, sealing: Sealing) -> SegmentRunner:
        assert self.observed is not None
        text = TokenText(self.loaded.tokenizer)
        stopping = Stopping(self.callbacks.should_stop, resume_command(run_id, dict(self.config)))

        def on_block(n_tokens: int) -> None:
            sealing.check()
            progress.n_tokens += n_tokens
            self.callbacks.on_progress(progress)
            stopping.after_block()

        stops = self.config.stop
        if self.config.generation_config:
            stops = (*stops, *self.settings.stop_strings)
        limits = Limits(
            self.config.max_new_tokens,
            self.loaded.context_length,
            self.loaded.end_ids,
            stop_finder(text, stops) if stops else None,
            self.config.stop_rules,
            *self.loaded.forced_ids,
        )
        decoder = BatchDecoder(
            self.observed, self.config.sampling, limits, self.plan.reading, seed=self.config.seed,
            budget=self.plan.budget, timings=self.timings,
        )  # fmt: skip
        return SegmentRunner(
            self.observed, self.config, self.plan, self.source, decoder, text, self.timings, embedder, edits=self.edits,
            on_block=on_block, on_batch=stopping.after_batch,
        )  # fmt: skip


def resume_run(
    lake: Lake, run: str, *, callbacks: Callbacks | None = None, loaded: LoadedModel | None = None, **typed: Any
) -> Collected | None:
    """Complete an interrupted run; None if it is complete already. ConfigError if its inputs have changed.

    `typed` are settings that reach outside the lake, given again by whoever resumes a run that was not begun on this
    machine (see `consent`), and max_bytes.
    """
    run_id = lake.resolve_run(run)
    about = lake.run_json(run_id)
    if lake.run_status(run_id) == "complete":
        check_typed(run_id, about.get("config"), typed)
        return None
    config = consented(run_id, about.get("config"), typed, own=own_runs.is_remembered(about))
    writer = lake.resume_run(run_id)
    try:
        recorded, plan = about.get("source"), about.get("plan")
        if recorded is None or plan is None:
            raise ConfigError(f"run.json of run {run_id} has no source or plan: it cannot be resumed. Start a new run.")
        source = open_source(config, recorded, lake=lake)
        collection = Collection(config, callbacks, plan=Plan.from_json(plan), source=source, lake=lake, loaded=loaded)
        check_same(dict(about), collection.loaded, collection.source, collection.edits)
        return collection.collect_into(writer)
    finally:
        writer.close()
