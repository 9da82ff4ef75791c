"""How one CoreVital report is to be understood: which state an entry is of, which distribution, which rule.

The files do not say it: it follows from the version, from fields that only later programs write, and from numbers.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite, log

from .report import Attention, FirstLayer, Generation, Layer, Report

COLLAPSED_NATS = 0.1

ENCODER_DECODER = (
    "T5", "MT5", "UMT5", "LongT5", "Switch", "Bart", "MBart", "Pegasus", "BigBirdPegasus", "Marian", "LED",
    "Blenderbot", "ProphetNet", "M2M100", "EncoderDecoder", "FSMT", "NllbMoe",
)  # fmt: skip
POST_NORM = ("Bart", "Marian", "LED", "BlenderbotSmall", "FSMT")
"""Architectures without a norm behind the last block: their last hidden state is that block's output."""

NEUTRAL = {
    "repetition_penalty": 1.0, "encoder_repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "typical_p": 1.0,
    "min_p": 0.0, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0, "num_beams": 1, "presence_penalty": 0.0,
    "frequency_penalty": 0.0, "diversity_penalty": 0.0,
}  # fmt: skip


@dataclass(frozen=True)
class Conventions:
    """One report's conventions, in our words."""

    is_encoder_decoder: bool
    n_text: int
    """Tokens of the prompt's text."""
    n_prompt: int
    """Positions before the first generated token: the text's, and a start token in encoder-decoder models."""
    n_layers: int
    from_embeddings: bool
    """Whether entry 0 of a step's layers is the embeddings, entry i the output of block i - 1."""
    last_is_normed: bool
    """Whether the entry of the last block is the final-normed state."""
    whole_prompt_attention: bool
    """Whether attention at step 0 is over all queries of the prompt, not the last one's."""
    normalised_counts: bool
    """Whether collapsed heads are those below 0.03 of the largest possible entropy; otherwise below 0.1 nats."""
    sampled: bool
    raw: bool
    """Whether the numbers about distributions are those of the model's raw logits."""

    def site(self, entry: int) -> tuple[str, int]:
        """Site and layer of the hidden state in entry `entry`."""
        if self.from_embeddings:
            return ("resid_post", entry - 1) if entry else ("resid_pre", 0)
        if entry == self.n_layers - 1 and self.last_is_normed:
            return "final_norm", entry
        return "resid_post", entry

    def position(self, step: int) -> int:
        """Position of the state that led to the token of `step`."""
        return self.n_prompt + step - 1

    def n_keys(self, step: int) -> int:
        """Keys that the query of `step` can see, if no window cuts them."""
        return step + 1 if self.is_encoder_decoder else self.n_text + step

    def averages_states(self, step: int) -> bool:
        """Whether the state numbers of this step are averages over the prompt."""
        return step == 0 and not self.is_encoder_decoder and self.n_text > 1

    def averages_attention(self, step: int) -> bool:
        """Whether the attention numbers of this step are over all queries of the prompt."""
        return self.averages_states(step) and self.whole_prompt_attention


def read_conventions(report: Report, first_layer: FirstLayer = "auto") -> Conventions:
    """The conventions of one report; `first_layer` decides what the first entry is where numbers cannot."""
    architecture = report.model.architecture
    steps = [layer for _, step in report.steps for layer in step.layers or []]
    two_stacks = bool(report.encoder_layers) or any(layer.cross_attention for layer in steps)
    two_stacks = two_stacks or architecture.startswith(ENCODER_DECODER)
    n_text = len(report.prompt.token_ids)
    old = _is_old(report)
    embeddings = {"auto": old, "embeddings": True, "block": False}[first_layer]
    generation = report.run_config.generation
    sampled = is_sampled(generation)
    return Conventions(
        is_encoder_decoder=two_stacks,
        n_text=n_text,
        n_prompt=n_text + two_stacks,
        n_layers=report.model.num_layers,
        from_embeddings=embeddings and not two_stacks,
        last_is_normed=not (two_stacks and architecture.startswith(POST_NORM)),
        whole_prompt_attention=old and not two_stacks,
        normalised_counts=_has_normalised_counts(report, two_stacks, n_text),
        sampled=sampled,
        raw=_is_raw(generation, two_stacks, old, sampled),
    )


def is_sampled(generation: Generation) -> bool:
    """Whether tokens were drawn rather than the best ones taken."""
    if generation.do_sample is not None:
        return generation.do_sample
    return generation.temperature != 0


def warps(generation: Generation) -> bool:
    """Whether temperature, top-k or top-p change the distribution."""
    unit = generation.temperature == 1.0
    return not (unit and generation.top_k in (0, None) and (generation.top_p is None or generation.top_p >= 1))


def penalises(generation: Generation) -> bool:
    """Whether a penalty or filter besides temperature, top-k and top-p was on."""
    given = generation.model_extra or {}
    return any(given.get(name) not in (None, neutral) for name, neutral in NEUTRAL.items())


def _is_raw(generation: Generation, two_stacks: bool, old: bool, sampled: bool) -> bool:
    if two_stacks:
        # Its own loop keeps raw logits, but older ones masked them in place when the temperature was exactly 1.
        return not (old and sampled and generation.temperature == 1.0 and warps(generation))
    return not penalises(generation) and not (sampled and warps(generation))


def _is_old(report: Report) -> bool:
    """Whether the program before the 0.4 rewrite wrote the report: embeddings first, whole-prompt attention."""
    if report.version in ("0.2", "0.3"):
        return True
    if report.version == "0.5":
        return False
    for _, step in report.steps:
        logits = step.logits_summary
        if logits and (logits.topk_mass is not None or logits.topk_probs is not None):
            return False
    attention = [summary for _, summary in _attentions(report)]
    if any(summary.collapsed_head_rate is not None for summary in attention):
        return False
    first = [summary.concentration_max for step, summary in _attentions(report) if step == 0]
    # Over all queries the first token attends to itself alone: some weight is exactly 1 in every layer.
    known = [weight for weight in first if weight is not None]
    return not known or all(weight > 1 - 1e-3 for weight in known)


def _has_normalised_counts(report: Report, two_stacks: bool, n_text: int) -> bool:
    if report.version in ("0.2", "0.3"):
        return False
    if report.version == "0.5":
        return True
    for _, summary in _attentions(report):
        if summary.collapsed_head_rate is not None:
            return True
        count, least = summary.collapsed_head_count, summary.entropy_min
        # Under the rule of nats a count above 0 and a smallest entropy below 0.1 nats go together.
        if count is not None and least is not None and isfinite(least) and (count > 0) != (least < COLLAPSED_NATS):
            return True
    return False


def _attentions(report: Report) -> Iterator[tuple[int, Attention]]:
    for step, entry in report.steps:
        for layer in entry.layers or []:
            if layer.attention_summary is not None:
                yield step, layer.attention_summary


def bits(nats: float | None) -> float | None:
    """An entropy in bits."""
    return None if nats is None else nats / log(2)


def entries(layers: list[Layer] | None) -> Iterator[tuple[int, Layer]]:
    """A step's layers with their indexes."""
    return ((layer.layer_index, layer) for layer in layers or [])
