"""Before a model is collected: does it compute in our batches what it computes in one plain pass over a sequence?

A short probe goes through the model as collected sequences do: left-padded, in chunks, through a cache, one sequence
ending before the other. Where that is not what the model computes alone, stricter readings are tried.
"""

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ....lake.errors import ConfigError
from ....lake.values import Json
from ...models.cache import can_join
from ...models.model import LoadedModel
from ...models.text_pass import FAILURES
from ..batch import Batch
from ..sequence import Sequence
from ..waiting import Waiting
from .reading import Reading
from .replay import encode

LENGTHS = (7, 1, 7)
"""Tokens of the probe's prompts. Beside the first, the second begins behind the first chunk; a prompt of one token
looks like a step of generation."""
N_GENERATED = (1, 2, 2)
"""Tokens that follow them, so that the first sequence leaves before the other; then the third joins, if it may."""
CHUNK = 4
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""Largest relative error of a token's state or logits (definitions A17), by the model's number format."""
NOISE_FACTOR, MOST_NOISE = 10.0, 1e-2
"""Where plain passes differ from each other by less than the second, ours may differ by that many times as much."""
READINGS = (
    Reading(),
    Reading(whole_prompts=True),
    Reading(equal_lengths=True),
    Reading(whole_prompts=True, equal_lengths=True),
    Reading(whole_prompts=True, alone=True),
    Reading(whole_prompts=True, uncached=True),
    Reading(whole_prompts=True, uncached=True, equal_lengths=True),
    Reading(whole_prompts=True, uncached=True, alone=True),
)
"""From the cheapest to the dearest."""


@dataclass(frozen=True)
class Plain:
    """What one plain pass computes: one sequence alone, no cache, no padding, no chunks."""

    states: Float[Tensor, "token d_model"]
    logits: Float[Tensor, "token d_vocab"]


def choose_reading(loaded: LoadedModel) -> Reading:
    """The freest reading under which the model computes what it computes alone; ConfigError if there is none."""
    switch = loaded.decoder.switch
    fixed = Reading(
        switch=switch.length if switch is not None and switch.length < loaded.context_length else None,
        column_scale=_column_scale(loaded.config),
    )
    with torch.inference_mode():
        return _Check(loaded, fixed).choose()


def reading_notice(loaded: LoadedModel, reading: Reading) -> str | None:
    """What to tell whoever collects with a model that cannot be read freely; None if it can."""
    if not reading.limits:
        return None
    if reading.limits == Reading(separate=True).limits:
        return (
            f"{type(loaded.model).__name__} does not compute the same where a sequence takes the place of one that has "
            f"ended. So {reading.limits[0]}: right, but slower."
        )
    return (
        f"{type(loaded.model).__name__} does not compute the same in a padded batch, in chunks or through a cache as "
        f"alone. So {' and '.join(reading.limits)}: right, but slower."
    )


@dataclass
class _Check:
    """The probe of one model, with what plain passes give for it."""

    loaded: LoadedModel
    fixed: Reading
    tolerance: float = field(init=False)

    def __post_init__(self) -> None:
        self.name = type(self.loaded.model).__name__
        self.tolerance = TOLERANCE.get(self.loaded.model.dtype, TOLERANCE[torch.bfloat16])
        self.sequences = _probe(self.loaded)
        self.passes: dict[int, Plain] = {}

    def choose(self) -> Reading:
        """Try one reading after the other."""
        self._check_head()
        reasons: list[str] = []
        uncached = self.loaded.decoder.cache_name is None or _clamps_time_steps(self.loaded.decoder.module)
        for reading in self._readings():
            if uncached and not reading.uncached:
                continue
            limited = replace(reading, switch=self.fixed.switch, column_scale=self.fixed.column_scale)
            reason = self._difference(limited)
            if reason and not reasons:
                self._check_plain_passes()
                reason = self._difference(limited)
            if not reason:
                return limited
            reasons.append(reason)
        raise ConfigError(
            f"{self.name} cannot be collected: however it is read, in a batch or alone, token by token or again from "
            f"the start, it does not compute what it computes in one plain pass over the sequence ({reasons[-1]})."
        )

    def _readings(self) -> Iterator[Reading]:
        """From the cheapest to the dearest; who remembers what cannot be put together takes no others in."""
        joins = (cache := self.loaded.cache()) is not None and can_join(cache)
        for reading in READINGS:
            if not reading.may_join:
                yield reading
                continue
            if joins and self.fixed.may_join:
                yield reading
            yield replace(reading, separate=True)

    def _check_head(self) -> None:
        """ConfigError unless the logits are those of the final states."""
        plain = self.plain(0)
        error = self._error(self.loaded.unembed(plain.states), plain.logits)
        if error > self.tolerance:
            raise ConfigError(
                f"{self.name} cannot be collected: its logits cannot be computed from the states of "
                f"{type(self.loaded.decoder.module).__name__} (relative error {error:.2g}): its head reads something "
                "else."
            )

    def _check_plain_passes(self) -> None:
        """ConfigError if a token's states depend on later tokens or on chance; else find how exact the model is."""
        sequence, plain = self.sequences[0], self.plain(0)
        n = sequence.n_opening
        before = self._plain_pass(sequence.prompt_ids, []).states
        again = self._plain_pass(sequence.prompt_ids, []).states
        if self._error(again, before) > max(MOST_NOISE, self.tolerance):
            raise ConfigError(f"{self.name} cannot be collected: two equal passes over the same tokens differ.")
        noise = self._error(before, plain.states[:n])
        if noise > max(MOST_NOISE, self.tolerance):
            raise ConfigError(
                f"{self.name} cannot be collected: the states of a token depend on the tokens behind it (relative "
                f"difference {noise:.2g}), so that it does not predict them. If it can be a decoder, say so in its "
                "config.json (is_decoder, causal)."
            )
        self.tolerance = max(self.tolerance, min(NOISE_FACTOR * noise, MOST_NOISE))

    def plain(self, index: int) -> Plain:
        """What a plain pass over one of the sequences gives, made once."""
        sequence = self.sequences[index]
        if index not in self.passes:
            try:
                self.passes[index] = self._plain_pass(sequence.prompt_ids, sequence.generated)
            except FAILURES as error:
                said = f"{self.name} cannot be collected: a plain pass of it fails: {_words(error)}"
                raise ConfigError(said) from error
        return self.passes[index]

    def _plain_pass(self, prompt_ids: np.ndarray, generated: list[int]) -> Plain:
        ids = torch.from_numpy(np.concatenate((prompt_ids, np.array(generated, dtype=np.int64)))).unsqueeze(0)
        n_encoded = self.sequences[0].n_encoded and len(prompt_ids) - 1
        ids = ids.to(self.loaded.device)
        read = ids[:, n_encoded:]
        inputs: Json = {"use_cache": False, "input_ids": read}
        if n_encoded:
            inputs |= {"input_ids": ids[:, :n_encoded], "decoder_input_ids": read}
        seen: list[Tensor] = []
        module = self.loaded.decoder.module
        hook = module.register_forward_hook(lambda m, args, output: seen.append(output.last_hidden_state[0]))
        try:
            logits = self.loaded.model(**inputs).logits[0]
            if not seen:
                module(input_ids=read, use_cache=False)
        finally:
            hook.remove()
        return Plain(seen[0], logits)

    def _difference(self, reading: Reading) -> str:
        """How what we compute under a reading differs from plain passes; empty if it does not."""
        members = (0, 2, 1) if reading.equal_lengths or reading.alone else (0, 1, 2) if reading.may_join else (0, 1)
        groups: dict[Hashable, list[int]] = {}
        for index in members:
            sequence = self.sequences[index]
            key = index if reading.alone else reading.group(sequence.n_encoded, sequence.n_opening, N_GENERATED[index])
            groups.setdefault(key, []).append(index)
        try:
            for group in groups.values():
                for index, states in zip(group, self._ours(reading, group), strict=True):
                    error = self._largest_error(index, states)
                    if error > self.tolerance:
                        return f"relative error {error:.2g}"
        except FAILURES as error:
            return _words(error)
        return ""

    def _ours(self, reading: Reading, group: list[int]) -> list[Tensor]:
        """States of every token that the decoder reads of some of the probe's sequences, in one batch.

        Where sequences may join, the third waits until the first has ended.
        """
        sequences = [self.sequences[index] for index in group]
        found: list[list[Tensor]] = [[] for _ in sequences]
        waiting = Waiting(len(sequences), 2 if reading.may_join else len(sequences))
        batch = self._opened(reading, sequences, waiting.take(0), found)
        while True:
            stay = [row for row, i in enumerate(batch.alive) if len(found[i]) <= len(sequences[i].generated)]
            if len(stay) < len(batch.alive):
                batch.take(batch.index(np.array(stay, np.int64)))
            if len(stay) == 0:
                return [torch.cat(states) for states in found]
            if len(joining := waiting.take(len(stay))):
                batch.join(self._opened(reading, sequences, joining, found))
            tokens = [sequences[i].generated[len(found[i]) - 1] for i in batch.alive]
            batch.append(batch.index(np.array(tokens)), CHUNK)
            for i, states in zip(batch.alive, batch.read(batch.end - 1, batch.end), strict=True):
                found[i].append(states)

    def _opened(
        self, reading: Reading, sequences: list[Sequence], members: np.ndarray, found: list[list[Tensor]]
    ) -> Batch:
        """A batch of some sequences whose prompts are read; their states are added to what was `found`."""
        batch = Batch(self.loaded, sequences, reading, room=max(N_GENERATED), members=members)
        batch.encoded = encode(self.loaded, [sequences[i] for i in members])
        prompts = torch.cat([batch.read(start, end) for start, end in batch.spans(0, batch.width, CHUNK)], dim=1)
        for i, states, pad in zip(members, prompts, batch.pads, strict=True):
            found[i].append(states[pad:])
        return batch

    def _largest_error(self, index: int, states: Tensor) -> float:
        """Of the prompt's and the generated tokens' states and logits."""
        plain, n = self.plain(index), self.sequences[index].n_opening
        logits = self.loaded.unembed(states)
        pairs = ((states[:n], plain.states[:n]), (states[n:], plain.states[n:]), (logits, plain.logits))
        return max(self._error(ours, theirs) for ours, theirs in pairs)

    def _error(self, ours: Tensor, plain: Tensor) -> float:
        """Relative error of vectors, by norm: the largest, but the median in half precision.

        There a router that is nearly undecided sends a token to another expert, which is no fault of ours.
        """
        theirs = plain.double()
        known = theirs.isfinite().all(-1)
        if ours.shape != plain.shape or not known.any():
            return 0.0 if ours.shape == plain.shape else float("inf")
        errors = (ours.double() - theirs)[known].norm(dim=-1) / theirs[known].norm(dim=-1).clamp_min(1e-30)
        errors = errors.nan_to_num(nan=float("inf"))
        exact = self.loaded.model.dtype in (torch.float32, torch.float64)
        return float(errors.max() if exact else errors.median())


def _probe(loaded: LoadedModel) -> list[Sequence]:
    """Short sequences of unequal length, of ordinary tokens that are all different."""
    values = vars(loaded.config).items()
    named = [value for name, value in values if name.endswith(("_token_id", "_token_index"))]
    # A model may have several end tokens.
    special = {one for value in named for one in (value if isinstance(value, list | tuple) else (value,))}
    ids = [i for i in range(loaded.d_vocab) if i not in special]
    step = max(1, min(len(ids) // 40, 5))
    ordinary = iter(ids[3::step] * 2)
    found = []
    for number, (n, n_generated) in enumerate(zip(LENGTHS, N_GENERATED, strict=True)):
        prompt = [next(ordinary) for _ in range(n)]
        n_encoded = n if loaded.encoder is not None else 0
        sequence = Sequence(number, number, 0, np.array([*prompt, *loaded.start_ids], np.int64), n_encoded=n_encoded)
        sequence.generated = [next(ordinary) for _ in range(n_generated)]
        found.append(sequence)
    return found


def _column_scale(config: Any) -> int | None:
    """Where a model begins to scale its attention by the column of a query (Llama 4), not by its position."""
    if getattr(config, "attn_temperature_tuning", False) and not all(getattr(config, "no_rope_layers", None) or [1]):
        return int(config.floor_scale)
    floor = getattr(config, "log_scaling_n_floor", None)
    return None if floor is None else int(floor)


def _clamps_time_steps(stack: nn.Module) -> bool:
    """Whether state-space layers keep their time steps above a limit when they read many tokens.

    When they go on by one token they do not (Zamba 2, Nemotron-H), and the tokens of a short probe may not show it.
    """
    limits = (getattr(module, "time_step_limit", None) for module in stack.modules())
    return any(limit is not None and limit[0] > 0 for limit in limits)


def _words(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
