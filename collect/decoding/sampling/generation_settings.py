"""What a model's generation_config asks of decoding beyond its end: which of it can be applied, and how.

`generate` applies these settings silently; here they are applied where `--generation-config` asks for it, by the same
processors, to each sequence as if it were alone: what they count and compare is never padding.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.generation.logits_process import (
    EncoderNoRepeatNGramLogitsProcessor,
    EncoderRepetitionPenaltyLogitsProcessor,
    ExponentialDecayLengthPenalty,
    LogitsProcessorList,
    MinLengthLogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    SuppressTokensAtBeginLogitsProcessor,
    SuppressTokensLogitsProcessor,
)

from ....lake.values import Json
from ..sequence import Limits, Sequence
from .choice import Processors, Sampling

OFF: Json = {
    "sequence_bias": (), "encoder_repetition_penalty": (1.0,), "repetition_penalty": (1.0,),
    "no_repeat_ngram_size": (0,), "encoder_no_repeat_ngram_size": (0,), "bad_words_ids": (), "min_length": (0,),
    "min_new_tokens": (0,), "exponential_decay_length_penalty": (), "suppress_tokens": (),
    "begin_suppress_tokens": (), "stop_strings": (),
}  # fmt: skip
"""Settings that can be applied, with the values that switch them off, besides null and nothing."""
SAMPLING = ("do_sample", "temperature", "top_p", "top_k", "min_p", "typical_p", "top_h", "epsilon_cutoff", "eta_cutoff")
"""Settings of sampling, where `do_sample` is on: options of their own, or not known here."""
OTHER_METHODS: Json = {
    "num_beams": (1,), "num_beam_groups": (1,), "diversity_penalty": (0.0,), "constraints": (), "force_words_ids": (),
    "penalty_alpha": (0.0,), "dola_layers": (), "guidance_scale": (1.0,), "watermarking_config": (),
    "token_healing": (False,), "remove_invalid_values": (False,),
}  # fmt: skip
"""Settings of other ways to decode than a token at a time, with the values that switch them off."""
ELSEWHERE = (
    "bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "forced_bos_token_id",
    "forced_eos_token_id",  # always obeyed
    "max_length", "max_new_tokens", "max_time", "num_return_sequences",  # options of their own
    "early_stopping", "length_penalty", "low_memory", "renormalize_logits",  # of beams
    "use_cache", "cache_implementation", "cache_config", "max_cache_len", "prefill_chunk_size", "compile_config",
    "disable_compile", "continuous_batching_config", "use_mtp", "is_assistant", "num_assistant_tokens",
    "num_assistant_tokens_schedule", "assistant_confidence_threshold", "prompt_lookup_num_tokens",
    "max_matching_ngram_size", "assistant_early_exit", "assistant_lookbehind", "target_lookbehind",
    "assistant_ensemble_weight", "speculation_type",  # of speed
    "output_attentions", "output_hidden_states", "output_scores", "output_logits", "return_dict_in_generate",
    "transformers_version",
)  # fmt: skip
"""Settings that are no matter of which token is chosen, or are taken in any case."""


@dataclass(frozen=True)
class GenerationSettings:
    """The settings of one model's generation_config that change which tokens are chosen."""

    applicable: Json = field(default_factory=dict)
    sampling: Json = field(default_factory=dict)
    other: Json = field(default_factory=dict)

    @classmethod
    def of(cls, generation_config: Any) -> "GenerationSettings":
        """Read a generation_config; one that is None has no settings."""
        values = {} if generation_config is None else generation_config.to_dict()
        sampling = {name: values[name] for name in SAMPLING if values.get(name) is not None}
        return cls(
            _switched_on(values, OFF), sampling if values.get("do_sample") else {}, _switched_on(values, OTHER_METHODS)
        )

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """Texts that end a sequence."""
        texts = self.applicable.get("stop_strings", ())
        return (texts,) if isinstance(texts, str) else tuple(texts)

    def record(self, *, applied: bool) -> dict[str, Json]:
        """For run.json: what was applied and what was not."""
        ignored = {**({} if applied else self.applicable), **self.sampling, **self.other}
        return {"applied": self.applicable if applied else {}, "ignored": ignored}

    def notices(self, name: str, *, applied: bool) -> list[str]:
        """What to say at the start of a run."""
        found = []
        if self.applicable:
            what = "is applied" if applied else "is not applied; `generate` would. Add --generation-config to apply it"
            found.append(f"{name}: of its generation_config, {_words(self.applicable)} {what}.")
        if self.sampling:
            found.append(
                f"{name}: its generation_config samples ({_words(self.sampling)}), as `generate` would. Here that is "
                "yours to say: greedy without --temperature, and --top-p, --top-k, --min-p only as given."
            )
        if self.other:
            found.append(
                f"{name}: its generation_config asks for {_words(self.other)}, which is not done here: tokens are "
                "chosen one at a time. Compare with `generate` without it."
            )
        return found

    def processors(
        self, n_read: int, encoder_ids: Any, end_ids: list[int], *, penalty: float | None, forces: bool
    ) -> LogitsProcessorList:
        """The library's own processors of one sequence, in the order of `generate`.

        `n_read`: tokens that its decoder has read before it chooses one; `encoder_ids`: those of the encoder, or of the
        prompt; `penalty`: a repetition penalty that was given; `forces`: whether the first chosen token is forced.
        """
        chain, on, device = LogitsProcessorList(), dict(self.applicable), str(encoder_ids.device)
        if penalty is not None:
            on["repetition_penalty"] = penalty
        ends = torch.tensor(end_ids, device=encoder_ids.device) if end_ids else None
        if "sequence_bias" in on:
            chain.append(SequenceBiasLogitsProcessor(on["sequence_bias"]))
        if "encoder_repetition_penalty" in on:
            chain.append(EncoderRepetitionPenaltyLogitsProcessor(on["encoder_repetition_penalty"], encoder_ids))
        if on.get("repetition_penalty", 1.0) != 1.0:
            chain.append(RepetitionPenaltyLogitsProcessor(on["repetition_penalty"]))
        if "no_repeat_ngram_size" in on:
            chain.append(NoRepeatNGramLogitsProcessor(on["no_repeat_ngram_size"]))
        if "encoder_no_repeat_ngram_size" in on:
            chain.append(EncoderNoRepeatNGramLogitsProcessor(on["encoder_no_repeat_ngram_size"], encoder_ids))
        if "bad_words_ids" in on:
            chain.append(NoBadWordsLogitsProcessor(on["bad_words_ids"], ends))
        chain.extend(_of_length(on, ends, n_read, device))
        if "suppress_tokens" in on:
            chain.append(SuppressTokensLogitsProcessor(on["suppress_tokens"], device=device))
        if "begin_suppress_tokens" in on:
            first = n_read + (1 if forces and n_read <= 1 else 0)
            chain.append(SuppressTokensAtBeginLogitsProcessor(on["begin_suppress_tokens"], first, device=device))
        return chain


def _of_length(on: Json, ends: Tensor | None, n_read: int, device: str) -> list[Any]:
    """Processors that keep a sequence from ending, or make it end; none without an end token."""
    if ends is None:
        return []
    chain: list[Any] = []
    if "min_length" in on:
        chain.append(MinLengthLogitsProcessor(on["min_length"], ends, device=device))
    if "min_new_tokens" in on:
        chain.append(MinNewTokensLengthLogitsProcessor(n_read, on["min_new_tokens"], ends, device=device))
    if "exponential_decay_length_penalty" in on:
        decay = tuple(on["exponential_decay_length_penalty"])
        chain.append(ExponentialDecayLengthPenalty(decay, ends, n_read))
    return chain


@dataclass(frozen=True)
class RowProcessors:
    """The processors of a batch, sequence by sequence: each sees its own tokens without the padding before them."""

    chains: list[LogitsProcessorList]
    warpers: LogitsProcessorList
    """What follows for all sequences alike: temperature and filters."""

    def of(self, alive: np.ndarray, pads: np.ndarray) -> Processors:
        """Those of the sequences `alive`, whose rows begin with `pads` columns of padding."""

        def processed(context: Tensor, scores: Tensor) -> Tensor:
            rows = [
                self.chains[index](context[row : row + 1, pads[row] :], scores[row : row + 1])  # type: ignore[arg-type]
                for row, index in enumerate(alive)
            ]
            return self.warpers(context, torch.cat(rows))  # type: ignore[arg-type,return-value]

        return processed


def row_processors(
    settings: GenerationSettings, sampling: Sampling, batch: list[Sequence], limits: Limits, device: torch.device
) -> RowProcessors:
    """The processors of a batch of sequences; a repetition penalty that was given takes the place of the model's."""
    chains = []
    for sequence in batch:
        encoder_ids = torch.from_numpy(sequence.prompt_ids[: sequence.n_surveyed]).to(device).unsqueeze(0)
        chain = settings.processors(
            sequence.n_read,
            encoder_ids,
            sorted(limits.end_ids),
            penalty=sampling.repetition_penalty,
            forces=limits.forced_first is not None,
        )
        chains.append(chain)
    return RowProcessors(chains, replace(sampling, repetition_penalty=None).processors())


def _switched_on(values: Json, off: Json) -> Json:
    """Of the settings in `off`, those with a value that does something."""
    return {name: values[name] for name, silent in off.items() if values.get(name) and values[name] not in silent}


def _words(settings: Json) -> str:
    """Names and values; long lists are counted."""
    parts = []
    for name, value in settings.items():
        text = str(value)
        shown = text if len(text) <= 40 else f"({len(value)} entries)" if isinstance(value, list | dict) else "(long)"
        parts.append(f"{name} {shown}")
    return ", ".join(parts)
