"""Reads prompts and writes completions, one batch at a time, handing over a block of rows after every pass.

Knows nothing of tables or runs. Sequences that end leave the batch after their last token has been read too; others
that wait take their places.
"""

import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack

import numpy as np
import torch
from torch import Tensor

from ..models.editing.edits import Editing
from ..observing.budget import Budget
from ..observing.observation import ObservedModel
from ..observing.scratch import Scratch
from ..observing.summaries import Distribution, distribution
from ..observing.transfer import to_host
from .batch import Batch
from .blocks import Block, PredictionBlock, StateBlock
from .prefill import Prefill, forward
from .prefix import Prefix
from .reading.reading import Reading
from .sampling.choice import Sampling, choose, uniform_draws
from .sampling.generation_settings import GenerationSettings, RowProcessors, row_processors
from .sampling.stop_rule import StopWatch
from .sequence import Limits, Sequence
from .timings import Timings
from .waiting import Waiting


class BatchDecoder:
    """Runs one batch of sequences through an observed model; iterate `run` to get blocks of rows."""

    def __init__(
        self,
        observed: ObservedModel,
        sampling: Sampling,
        limits: Limits,
        reading: Reading,
        *,
        seed: int,
        budget: Budget,
        timings: Timings,
    ) -> None:
        self.observed = observed
        self.loaded = observed.loaded
        self.sampling = sampling
        self.processors = sampling.processors()
        self.settings = GenerationSettings.of(self.loaded.model.generation_config) if sampling.model_settings else None
        self.limits = limits
        self.reading = reading
        self.seed = seed
        self.budget = budget
        self.timings = timings
        self.prefix: Prefix | None = None
        self.n_broken = 0
        """Sequences so far that ended because the next token had no distribution."""
        self._scratch = Scratch()

    def forget(self) -> None:
        """Let go of what batches have in common: where a run was interrupted must not be seen in its numbers."""
        self.prefix = None

    def run(self, sequences: list[Sequence], n_rows: int | None = None) -> Iterator[Block]:
        """Read the prompts and generate; fills in the outcome of every one of `sequences`.

        At most `n_rows` of them (None: all) run at a time; the others wait for a place, in their order.
        """
        self.started = time.perf_counter()
        self.sequences = sequences
        for sequence in sequences:
            sequence.begin(self.limits)
        self.waiting = Waiting(len(sequences), n_rows or len(sequences))
        self.editings = {s.name: Editing(s, [sequence.edits for sequence in sequences]) for s in self.loaded.stacks}
        self.watch = StopWatch(self.limits.rules, len(sequences))
        self.row_processors: RowProcessors | None = None
        if self.settings is not None:
            parts = (self.settings, self.sampling, sequences, self.limits, self.loaded.device)
            self.row_processors = row_processors(*parts)
        with ExitStack() as entered:
            for editing in self.editings.values():
                if editing:
                    entered.enter_context(editing.attached())
            self.batch = yield from self._opened(self.waiting.take(0))
            if self.limits.max_new_tokens > 0:
                yield from self._generate()
                return
            self._describe_next(np.arange(len(sequences)))
            for sequence in sequences:
                sequence.finish_reason = "none"

    def _opened(self, members: np.ndarray, n_running: int = 0) -> Generator[Block, None, Batch]:
        """A batch of sequences that join `n_running` others, read as far as the first choice."""
        batch = Batch(self.loaded, self.sequences, self.reading, room=self.limits.max_new_tokens, members=members)
        decoder, *encoder = reversed([editing if editing else None for editing in self.editings.values()])
        batch.editing, batch.encoder_editing = decoder, encoder[0] if encoder else None
        self.observed.decoder.begin(batch.axis, batch.encoder_axis())
        prefill = Prefill(
            self.observed, batch, reads_only=self.limits.max_new_tokens == 0, budget=self.budget,
            timings=self.timings,
            prefix=self.prefix,
        )  # fmt: skip
        yield from prefill.run()
        self.last_states, self.prefix = prefill.last_states, prefill.prefix
        for row, index in enumerate(members):
            self.sequences[index].batch_size, self.sequences[index].batch_index = (
                n_running + len(members),
                n_running + row,
            )
        return batch

    def _index(self, values: np.ndarray) -> Tensor:
        return self.batch.index(values)

    def _generate(self) -> Iterator[Block]:
        """Choose, read, let what has ended make room for what waits; until nothing is left."""
        logits = self.loaded.unembed(self.last_states)
        pending: dict[str, Tensor] = {}
        while len(self.batch.alive):
            steps = np.array([len(self.sequences[index].generated) for index in self.batch.alive])
            # The states of the last pass wait for this transfer, so that each step makes one.
            with self.timings.measure("choose"):
                packet = self._choose(logits, steps)
                host = to_host({**packet, **pending})
            if pending:
                yield self._step_states({name: host[name] for name in pending})
            healthy = host["healthy"]
            yield self._step_predictions(host, steps, packet, healthy)
            stopped = self.watch.after_step(self.batch.alive, host)
            ended = self._ended(host["token_id"], healthy, stopped)[healthy]
            self._leave(~healthy)
            pending = {}
            if len(self.batch.alive):
                pending, logits = self._read(host["token_id"][healthy], ended)
            joining = self.waiting.take(len(ended) - int(ended.sum()))
            if pending and (ended.any() or len(joining)):
                yield self._step_states(to_host(pending))
                pending = {}
            if ended.any():
                self._describe_next(np.flatnonzero(ended), logits)
                logits = logits[self._leave(ended)]
            if len(joining):
                logits = yield from self._join(joining, logits)

    def _join(self, members: np.ndarray, logits: Tensor) -> Generator[Block, None, Tensor]:
        """Read what comes before the first choice of sequences that waited; returns the logits of all that run then."""
        decoder, batch = self.observed.decoder, self.batch
        before = decoder.last_states
        joining = yield from self._opened(members, len(batch.alive))
        new = self.loaded.unembed(self.last_states)
        if len(batch.alive) == 0:
            self.batch = joining
            return new
        with self.timings.measure("join"):
            batch.join(joining)
            decoder.join(before, batch.axis, batch.encoder_axis())
            return torch.cat((logits, new))

    def _read(self, token_ids: np.ndarray, ended: np.ndarray) -> tuple[dict[str, Tensor], Tensor]:
        """Feed the chosen tokens; returns their reduced states and the next logits."""
        batch = self.batch
        with self.timings.measure("decode"):
            batch.append(self._index(token_ids).long(), self.budget.chunk)
            self.last_states = forward(self.observed.decoder, batch, batch.end - 1, batch.end, in_prompt=False)[:, -1]
            logits = self.loaded.unembed(self.last_states)
        with self.timings.measure("summaries"):
            return self._reduce_step(ended), logits

    def _choose(self, logits: Tensor, steps: np.ndarray) -> dict[str, Tensor]:
        """The next tokens, with everything about them that goes to the host."""
        draws, batch = None, self.batch
        if not self.sampling.greedy:
            items = np.array([self.sequences[i].item for i in batch.alive])
            samples = np.array([self.sequences[i].sample for i in batch.alive])
            draws = uniform_draws(self.seed, items, samples, steps)
        rows = self.row_processors
        processors = self.processors if rows is None else rows.of(batch.alive, batch.pads)
        choice = choose(logits, batch.ids[:, : batch.end], processors, draws)
        given = [self.sequences[i].given_later.get(int(n), -1) for i, n in zip(batch.alive, steps, strict=True)]
        if max(given) >= 0:
            choice = choice.overruled(self._index(np.array(given)))
        packet = {"token_id": choice.token_ids, "healthy": logits.amax(-1).isfinite()}
        if choice.logprob is not None and choice.entropy_bits is not None:
            packet |= {"sampling_logprob": choice.logprob, "sampling_entropy_bits": choice.entropy_bits}
        if self.observed.kept.tokens:
            found = distribution(logits, choice.token_ids, k=self.observed.kept.topk, scratch=self._scratch)
            packet |= found._asdict()
        return packet

    def _step_predictions(
        self, host: dict[str, np.ndarray], steps: np.ndarray, packet: dict[str, Tensor], healthy: np.ndarray
    ) -> PredictionBlock:
        now = time.perf_counter()
        latency = np.full(int(healthy.sum()), (now - self.started) * 1000, dtype=np.float32)
        self.started = now
        rows = self.batch.alive[healthy]
        values = {name: host[name][healthy] for name in packet if name != "healthy"}
        return PredictionBlock(rows, self.batch.n_prompt[rows] + steps[healthy], {**values, "latency_ms": latency})

    def _ended(self, token_ids: np.ndarray, healthy: np.ndarray, stopped: np.ndarray) -> np.ndarray:
        """Which rows end with this token; sets their reason."""
        ended = np.zeros(len(self.batch.alive), dtype=bool)
        for row, index in enumerate(self.batch.alive):
            sequence = self.sequences[index]
            if not healthy[row]:
                sequence.finish_reason = "broken"
                self.n_broken += 1
                continue
            sequence.generated.append(int(token_ids[row]))
            sequence.finish_reason = self._reason(sequence) or ("stopped" if stopped[row] else None)
            ended[row] = sequence.finish_reason is not None
        return ended

    def _reason(self, sequence: Sequence) -> str | None:
        at_limit = len(sequence.generated) - len(sequence.given) >= self.limits.max_new_tokens
        if at_limit and self.limits.forced_last is not None:
            return "length"
        if sequence.generated[-1] in self.limits.end_ids:
            return "eos"
        if self.limits.has_stop_string is not None and self.limits.has_stop_string(sequence):
            return "stop_string"
        if at_limit:
            return "length"
        if sequence.n_prompt - sequence.n_encoded + len(sequence.generated) >= self.limits.context_length:
            return "context"
        return None

    def _reduce_step(self, ended: np.ndarray) -> dict[str, Tensor]:
        self._last_rows = ended
        scopes: dict[str | None, Tensor | None] = {None: None, "generated": None}
        if ended.any():
            scopes["last"] = self._index(np.flatnonzero(ended))
        return self.observed.decoder.rows(None, scopes)

    def _step_states(self, host: dict[str, np.ndarray]) -> StateBlock:
        rows = self.batch.alive
        positions = self.batch.n_prompt[rows] + np.array([len(self.sequences[i].generated) for i in rows]) - 1
        return StateBlock(rows, positions, host, members={"last": self._last_rows})

    def _describe_next(self, rows: np.ndarray, logits: Tensor | None = None) -> None:
        """Describe the distribution after the last token of rows that end."""
        if not self.observed.kept.tokens:
            return
        index = self._index(rows)
        chosen = self.loaded.unembed(self.last_states[index]) if logits is None else logits[index]
        found = distribution(chosen, chosen.argmax(-1), k=self.observed.kept.topk)
        self._store_next(rows, found)

    def _store_next(self, rows: np.ndarray, found: Distribution) -> None:
        host = to_host({name: getattr(found, name) for name in ("entropy_bits", "topk_ids", "topk_logprobs")})
        for i, row in enumerate(rows):
            sequence = self.sequences[self.batch.alive[row]]
            if not np.isfinite(host["entropy_bits"][i]):
                continue
            sequence.next_entropy_bits = float(host["entropy_bits"][i])
            sequence.next_topk_ids = host["topk_ids"][i].tolist()
            sequence.next_topk_logprobs = host["topk_logprobs"][i].tolist()

    def _leave(self, leaving: np.ndarray) -> Tensor:
        """Take rows out of the batch, its cache and its matrices; returns the indexes of those that stay."""
        stay = np.flatnonzero(~leaving)
        index = self._index(stay)
        if len(stay) < len(self.batch.alive):
            self.batch.take(index)
            self.observed.decoder.keep_rows(index, self.batch.axis, self.batch.encoder_axis())
        return index
