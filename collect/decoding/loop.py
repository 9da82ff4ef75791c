"""Reads prompts and writes completions, one batch at a time, handing over a block of rows after every pass.

Knows nothing of tables or runs. Sequences that end leave the batch after their last token has been read too.
"""

import time
from collections.abc import Iterator

import numpy as np
from torch import Tensor

from ...lake.errors import ConfigError
from ..observing.observation import ObservedModel, ObservedStack
from ..observing.summaries import Distribution, distribution, distributions
from ..observing.transfer import to_host
from .batch import Batch
from .generation_settings import GenerationSettings, RowProcessors, row_processors
from .reading import Reading
from .sampling import Sampling, choose, uniform_draws
from .sequence import EDGES, PREDICTIONS, STATES, Block, Limits, Sequence, encoder_matrix
from .stop_rule import StopWatch
from .timings import Timings


class BatchDecoder:
    """Runs one batch of sequences through an observed model; iterate `run` to get (kind, Block) pairs."""

    def __init__(
        self,
        observed: ObservedModel,
        sampling: Sampling,
        limits: Limits,
        reading: Reading,
        *,
        seed: int,
        chunk: int,
        logit_rows: int,
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
        self.chunk = chunk
        self.logit_rows = logit_rows
        self.timings = timings

    def run(self, sequences: list[Sequence]) -> Iterator[tuple[str, Block]]:
        """Read the prompts and generate; fills in the outcome of every one of `sequences`."""
        self.started = time.perf_counter()
        self.sequences = sequences
        n_given = [len(sequence.given) for sequence in sequences]
        most = self.limits.max_new_tokens
        if max(n_given) >= max(1, most):
            raise ConfigError(
                f"{max(n_given)} tokens are given, so that --max-new-tokens {most} leaves none to choose."
            )
        for sequence in sequences:
            sequence.begin()
        self.batch = Batch(self.loaded, sequences, self.reading, room=most - min(n_given))
        self.watch = StopWatch(self.limits.rules, len(sequences))
        self.row_processors: RowProcessors | None = None
        if self.settings is not None:
            parts = (self.settings, self.sampling, sequences, self.limits, self.loaded.device)
            self.row_processors = row_processors(*parts)
        self.observed.decoder.begin(self.batch.axis, self.batch.encoder_axis())
        if self.observed.encoder is not None:
            self.observed.encoder.begin(self.batch.encoder_axis())
            yield from self._encode(self.observed.encoder)
        yield from self._prefill()
        if self.limits.max_new_tokens == 0:
            self._describe_next(np.arange(len(sequences)))
            for sequence in sequences:
                sequence.finish_reason = "none"
            return
        yield from self._generate()

    def _encode(self, encoder: ObservedStack) -> Iterator[tuple[str, Block]]:
        """Read the prompts with the encoder, once and whole; the decoder reads its states at every step."""
        matrix, real = encoder_matrix(self.sequences)
        ids = self._index(matrix)
        mask = None if real.all() else self._index(real.astype(np.int64))
        observed = self.observed.wishes.prompt
        with self.timings.measure("encode"):
            if observed:
                states = encoder.forward(0, ids.shape[1], in_prompt=True, input_ids=ids, attention_mask=mask)
            else:
                states = encoder.pass_over(0, ids.shape[1], input_ids=ids, attention_mask=mask)
        self.batch.encoded = {"encoder_hidden_states": states, "encoder_attention_mask": mask}
        if observed:
            select, origin = np.flatnonzero(real), np.zeros_like(self.batch.origin)
            block = self._prompt_states(encoder, select, 0, ids.shape[1], origin=origin)
            self._keep_basin(encoder)
            yield STATES, block
            yield from self._prompt_edges(encoder)
        encoder.forget()

    def _prefill(self) -> Iterator[tuple[str, Block]]:
        """Feed the prompt in chunks; yields the rows of each that is observed."""
        decoder, batch = self.observed.decoder, self.batch
        # Without the prompt, rows are observed from its last token on, which predicts the first of the completion.
        firsts = batch.pads if self.observed.wishes.prompt else batch.width - batch.n_given - 1
        observed_from = 0 if self.observed.wishes.prompt else int(firsts.min())
        for start, end in batch.spans(0, observed_from, self.chunk):
            with self.timings.measure("prefill"):
                self._pass_over(start, end)
        for start, end in batch.spans(observed_from, batch.width, self.chunk):
            with self.timings.measure("prefill"):
                states = self._forward(start, end, in_prompt=True)
            block = self._prompt_states(decoder, _real(firsts, start, end), start, end, origin=batch.origin)
            if end == batch.width:
                self._keep_basin(decoder)
            yield STATES, block
            self.last_states = states[:, -1]
            if self.observed.wishes.tokens:
                yield from self._prompt_predictions(states, start, end, firsts)
        yield from self._prompt_edges(decoder)

    def _forward(self, start: int, end: int, *, in_prompt: bool) -> Tensor:
        """Read columns start..end of the batch, observed; returns their final-normed states."""
        batch = self.batch
        with batch.factors():
            return self.observed.decoder.forward(
                start, end, in_prompt=in_prompt, again=batch.again(start), **batch.inputs(start, end)
            )

    def _pass_over(self, start: int, end: int) -> None:
        batch = self.batch
        with batch.factors():
            self.observed.decoder.pass_over(start, end, again=batch.again(start), **batch.inputs(start, end))

    def _prompt_edges(self, stack: ObservedStack) -> Iterator[tuple[str, Block]]:
        for kind, edges in stack.prompt_edges().items():
            host = to_host(edges)
            yield EDGES, Block(host.pop("row"), host.pop("query"), host, stack.stack.name, kind)

    def _prompt_states(
        self, stack: ObservedStack, select: np.ndarray, start: int, end: int, *, origin: np.ndarray
    ) -> Block:
        """Rows of a pass over prompt columns start..end of one stack; `select`: flat indexes of its real tokens."""
        n_new = end - start
        rows, columns = select // n_new, select % n_new + start
        whole = len(select) == n_new * len(self.sequences)
        index = None if whole else self._index(select)
        positions = columns + origin[rows]
        last = select[positions == self.batch.n_prompt[rows] - 1]
        scopes = {None: index, "prompt": index}
        members: dict[str, np.ndarray] = {}
        if self.batch.n_given.any():
            in_prompt = positions < self.batch.n_prompt[rows]
            members = {"prompt": in_prompt, "generated": ~in_prompt}
            scopes |= {scope: self._index(select[mask]) for scope, mask in members.items()}
        if self.limits.max_new_tokens == 0:
            scopes["last"] = self._index(last)
            members["last"] = np.isin(select, last)
        with self.timings.measure("summaries"):
            values = to_host(stack.rows(index, scopes))
        values = _with_scope_rows(values, members)
        return Block(rows, positions, values, stack.stack.name)

    def _keep_basin(self, stack: ObservedStack) -> None:
        """Give every sequence the basin ratios of its prompt, which has been read to its end."""
        basin = stack.basin_ratio()
        if basin is not None:
            for sequence, ratio in zip(self.sequences, basin.cpu().numpy(), strict=True):
                sequence.basin = ratio

    def _prompt_predictions(
        self, states: Tensor, start: int, end: int, firsts: np.ndarray
    ) -> Iterator[tuple[str, Block]]:
        """The distribution behind every token that the chunk predicts and that is read, a few rows at a time."""
        select = _real(firsts, start, min(end, self.batch.width - 1), n_new=end - start)
        rows, columns = select // (end - start), select % (end - start) + start
        flat = states.flatten(0, 1)
        for first in range(0, len(select), self.logit_rows):
            part = slice(first, first + self.logit_rows)
            with self.timings.measure("prompt_logits"):
                targets = self.batch.ids[self._index(rows[part]), self._index(columns[part] + 1)]
                logits = self.loaded.unembed(flat[self._index(select[part])])
                block_bytes = self.observed.block_bytes
                found = distributions(logits, targets, k=self.observed.wishes.topk, block_bytes=block_bytes)
                host = to_host(found._asdict())
            yield PREDICTIONS, Block(rows[part], columns[part] + 1 + self.batch.origin[rows[part]], host)

    def _index(self, values: np.ndarray) -> Tensor:
        return self.batch.index(values)

    def _generate(self) -> Iterator[tuple[str, Block]]:
        """Choose, read, drop what has ended; until nothing is left."""
        step = 0
        logits = self.loaded.unembed(self.last_states)
        waiting: dict[str, Tensor] = {}
        while len(self.batch.alive):
            steps = step + self.batch.n_given[self.batch.alive]
            # The states of the last pass wait for this transfer, so that each step makes one.
            with self.timings.measure("choose"):
                packet = self._choose(logits, steps)
                host = to_host({**packet, **waiting})
            if waiting:
                yield STATES, self._step_states({name: host[name] for name in waiting})
            healthy = host["healthy"]
            yield PREDICTIONS, self._step_predictions(host, steps, packet, healthy)
            stopped = self.watch.after_step(self.batch.alive, host)
            ended = self._ended(host["token_id"], healthy, stopped)[healthy]
            self._leave(~healthy)
            if len(self.batch.alive) == 0:
                return
            waiting, logits = self._read(host["token_id"][healthy], ended)
            step += 1
            if ended.any():
                yield STATES, self._step_states(to_host(waiting))
                waiting = {}
                self._describe_next(np.flatnonzero(ended), logits)
                logits = logits[self._leave(ended)]

    def _read(self, token_ids: np.ndarray, ended: np.ndarray) -> tuple[dict[str, Tensor], Tensor]:
        """Feed the chosen tokens; returns their reduced states and the next logits."""
        batch = self.batch
        with self.timings.measure("decode"):
            batch.append(self._index(token_ids).long(), self.chunk)
            self.last_states = self._forward(batch.end - 1, batch.end, in_prompt=False)[:, -1]
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
        self.forced = self.limits.forced(batch.end - batch.pads, steps)
        if (self.forced >= 0).any():
            choice = choice.overruled(self._index(self.forced))
        packet = {"token_id": choice.token_ids, "healthy": logits.amax(-1).isfinite()}
        if choice.logprob is not None and choice.entropy_bits is not None:
            packet |= {"sampling_logprob": choice.logprob, "sampling_entropy_bits": choice.entropy_bits}
        if self.observed.wishes.tokens:
            found = distribution(logits, choice.token_ids, k=self.observed.wishes.topk)
            packet |= found._asdict()
        return packet

    def _step_predictions(
        self, host: dict[str, np.ndarray], steps: np.ndarray, packet: dict[str, Tensor], healthy: np.ndarray
    ) -> Block:
        now = time.perf_counter()
        latency = np.full(int(healthy.sum()), (now - self.started) * 1000, dtype=np.float32)
        self.started = now
        rows = self.batch.alive[healthy]
        values = {name: host[name][healthy] for name in packet if name != "healthy"}
        return Block(rows, self.batch.n_prompt[rows] + steps[healthy], {**values, "latency_ms": latency})

    def _ended(self, token_ids: np.ndarray, healthy: np.ndarray, stopped: np.ndarray) -> np.ndarray:
        """Which rows end with this token; sets their reason."""
        ended = np.zeros(len(self.batch.alive), dtype=bool)
        for row, index in enumerate(self.batch.alive):
            sequence = self.sequences[index]
            if not healthy[row]:
                sequence.finish_reason = "broken"
                continue
            sequence.generated.append(int(token_ids[row]))
            if self.forced[row] >= 0:
                sequence.forced_steps.append(len(sequence.generated) - 1)
            sequence.finish_reason = self._reason(sequence) or ("stopped" if stopped[row] else None)
            ended[row] = sequence.finish_reason is not None
        return ended

    def _reason(self, sequence: Sequence) -> str | None:
        at_limit = len(sequence.generated) >= self.limits.max_new_tokens
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

    def _step_states(self, host: dict[str, np.ndarray]) -> Block:
        rows = self.batch.alive
        positions = self.batch.n_prompt[rows] + np.array([len(self.sequences[i].generated) for i in rows]) - 1
        return Block(rows, positions, _with_scope_rows(host, {"last": self._last_rows}))

    def _describe_next(self, rows: np.ndarray, logits: Tensor | None = None) -> None:
        """Describe the distribution after the last token of rows that end."""
        if not self.observed.wishes.tokens:
            return
        index = self._index(rows)
        chosen = self.loaded.unembed(self.last_states[index]) if logits is None else logits[index]
        found = distribution(chosen, chosen.argmax(-1), k=self.observed.wishes.topk)
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
            self.observed.decoder.keep_rows(index)
            self.batch.take(index)
        return index


def _real(pads: np.ndarray, start: int, end: int, n_new: int | None = None) -> np.ndarray:
    """Flat indexes (row x chunk column) of the tokens in columns start..end that are not padding."""
    n_new = end - start if n_new is None else n_new
    columns = np.arange(start, end)
    rows, offsets = np.nonzero(columns[None, :] >= pads[:, None])
    return rows * n_new + offsets


def _with_scope_rows(values: dict[str, np.ndarray], members: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Add which rows of the block the vectors of a narrower scope belong to."""
    return {**values, **{f"rows/{scope}": mask for scope, mask in members.items()}}
