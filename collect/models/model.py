"""What a loaded language model is: its parts, its device and its facts; knows nothing of runs or tables."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from weakref import WeakMethod

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from ...lake.errors import ConfigError
from ...lake.values import Json
from .cache import encoder_decoder_cache, growing_cache, in_full_layers
from .fingerprints import fingerprints
from .sites.anatomy import block_lists
from .sites.attention_inputs import AttentionInputs, attention_inputs
from .stack import SELF, Stack, encoder_and_decoder, only_stack
from .text_pass import TextPass, assumed_text, run_shapes, run_text, text_inputs
from .unembedding import Unembedding
from .weights import WeightGaps

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

POSITIONS = ("max_position_embeddings", "max_target_positions")
"""What a configuration calls the most positions of a decoder; less than 1 says that there is no limit (XLNet)."""
UNLIMITED = 1_000_000


@dataclass
class LoadedModel:
    """A model ready to be observed: its parts, its device and the facts that `runs` records."""

    name: str
    model: Any
    tokenizer: Any
    device: torch.device
    revision: str | None = None
    weights_sha256: str | None = None
    gaps: WeightGaps = WeightGaps()
    """Weights that the checkpoint lacks or has beyond the model's."""
    text: TextPass = field(init=False)
    unembed: Unembedding = field(init=False)

    def __post_init__(self) -> None:
        inputs = text_inputs(self.model, self._probe_ids())
        self.text = self._text_of_shell(inputs) if self.is_shell else run_text(self.model, inputs)
        self.unembed = Unembedding(self.model, self.text.base)
        self._fingerprints = fingerprints(self.model, self.tokenizer, self.revision)

    def _text_of_shell(self, inputs: dict[str, Tensor]) -> TextPass:
        """By the names of its parts; where these leave open which read text (beside images, say), by a trial."""
        text = assumed_text(self.model)
        stacks = [text.base, *([self.model.get_encoder()] if self.model.config.is_encoder_decoder else [])]
        if all(len(block_lists(stack, text.called)) == 1 for stack in stacks):
            return text
        return run_shapes(self.model, inputs)

    @cached_property
    def is_shell(self) -> bool:
        """Whether the weights were left out (see `outline`): there are shapes, nothing can be computed."""
        # Not the device of the model, which is that of its first weight: XLNet makes that one by hand.
        return any(weight.device.type == "meta" for weight in self.model.parameters())

    @property
    def config(self) -> Any:
        """The text part of the model's configuration."""
        return self.model.config.get_text_config()

    @cached_property
    def _stacks(self) -> tuple[Stack | None, Stack]:
        method = WeakMethod(self.probe)

        def probe() -> object:
            """A stack keeps no model alive: freed with its last user, not when Python next looks for circles."""
            bound = method()
            assert bound is not None, "a stack outlives its model"
            return bound()

        if self.model.config.is_encoder_decoder:
            return encoder_and_decoder(self.model, self.text, self.config, probe)
        return None, only_stack(self.text, self.config, probe)

    @property
    def encoder(self) -> Stack | None:
        """The stack that reads the prompt of an encoder-decoder model; None in the others."""
        return self._stacks[0]

    @property
    def decoder(self) -> Stack:
        """The stack that predicts tokens."""
        return self._stacks[1]

    @property
    def stacks(self) -> tuple[Stack, ...]:
        """The stacks in the order in which they read."""
        return (self.decoder,) if self.encoder is None else (self.encoder, self.decoder)

    @property
    def n_layers(self) -> int:
        return self.decoder.n_layers

    @property
    def n_heads(self) -> int:
        return self.decoder.n_heads

    @property
    def d_model(self) -> int:
        return int(self.config.hidden_size)

    @property
    def d_vocab(self) -> int:
        embeddings = self.model.get_output_embeddings()
        return int(embeddings.weight.shape[0] if embeddings is not None else self.config.vocab_size)

    @property
    def n_embeddings(self) -> int | None:
        """How many token ids the model can read; None where they are not rows of one matrix."""
        weight = getattr(self.model.get_input_embeddings(), "weight", None)
        return None if weight is None else int(weight.shape[0])

    @property
    def context_length(self) -> int:
        """Most positions that the model was made for."""
        named = (getattr(self.config, name, None) or 0 for name in POSITIONS)
        n_positions = next((int(value) for value in named if value > 0), UNLIMITED)
        padding = self.decoder.padding_id
        # Where positions count from behind the padding token's id, those up to it are never used.
        return n_positions if padding is None else n_positions - padding - 1

    def longest_prompt(self, *, generates: bool) -> int:
        """Most tokens of a prompt: an encoder's positions are its own, a decoder must leave one to generate."""
        return self.context_length - (1 if generates and self.encoder is None else 0)

    def _probe_ids(self) -> Tensor:
        """A few tokens for a pass that only shows how the model is made."""
        return torch.arange(5, device=self.device).remainder(self.d_vocab).unsqueeze(0)

    def probe(self) -> object:
        """Run the model on a few tokens; an encoder on more than the decoder, so that no state fits both."""
        ids = self._probe_ids()
        with torch.no_grad():
            if self.encoder is None:
                return self.decoder.module(input_ids=ids[:, :4], use_cache=False)
            return self.model(**text_inputs(self.model, ids), use_cache=False)

    def _probe_with_cache(self) -> object:
        """The same, through an empty cache of the decoder's."""
        ids = self._probe_ids()
        with torch.no_grad():
            if self.encoder is None:
                given = {str(self.decoder.cache_name): self.cache()}
                return self.decoder.module(input_ids=ids[:, :4], use_cache=True, **given)
            return self.model(**text_inputs(self.model, ids), past_key_values=self.cache(), use_cache=True)

    @cached_property
    def attention_inputs(self) -> dict[str, AttentionInputs]:
        """By stack, what can be changed of the queries, keys and values of its self-attention."""
        seen = {}
        for stack in self.stacks:
            modules = {m: layer for m, (kind, layer) in stack.attention_modules().items() if kind == SELF}
            caches = stack is self.decoder and stack.cache_name is not None
            passes = (self.probe, self._probe_with_cache if caches else None)
            seen[stack.name] = attention_inputs(self.model, stack.blocks, modules, passes)
        return seen

    def cache(self) -> Cache:
        """An empty key-value cache of the decoder that keeps sliding windows short."""
        if self.encoder is None:
            return growing_cache(self.config, self.decoder.module)
        return encoder_decoder_cache(self.n_layers)

    def whole_cache(self) -> Cache | None:
        """An empty cache that forgets no position; None where the model remembers more than keys and values."""
        return None if self.decoder.cache_name is None else in_full_layers(self.cache())

    @property
    def start_ids(self) -> list[int]:
        """What the decoder reads before anything is generated, besides a prompt of its own."""
        if self.encoder is None:
            return []
        found = (self._generation(name) for name in ("decoder_start_token_id", "bos_token_id"))
        start = next((token_id for token_id in found if token_id is not None), None)
        if start is None:
            raise ConfigError(
                f"{self.name}: neither generation_config.json nor config.json names a decoder_start_token_id; add it."
            )
        return [int(start[0] if isinstance(start, list) else start)]

    @property
    def forced_ids(self) -> tuple[int | None, int | None]:
        """Ids that the model's generation_config forces: the second token of the decoder, and the last."""
        generation = getattr(self.model, "generation_config", None)
        found = (getattr(generation, f"forced_{name}_token_id", None) for name in ("bos", "eos"))
        first, last = (min(value) if isinstance(value, list) else value for value in found)
        return first, last

    def _generation(self, name: str) -> Any:
        """An id of the generation_config, or of the configuration where that is silent."""
        value = getattr(getattr(self.model, "generation_config", None), name, None)
        return getattr(self.config, name, None) if value is None else value

    @cached_property
    def end_ids(self) -> frozenset[int]:
        """Token ids that end a sequence."""
        ids = self._generation("eos_token_id")
        if ids is None:
            ids = self.tokenizer.eos_token_id
        return frozenset([ids] if isinstance(ids, int) else (ids or []))

    @property
    def pad_id(self) -> int:
        """A valid id for padded columns; their content is never seen."""
        return 0

    def describe(self) -> Json:
        """The facts for run.json, named as in the `runs` table."""
        quantization = getattr(self.model.config, "quantization_config", None)
        method = getattr(quantization, "quant_method", None)
        return {
            "name": self.name,
            "revision": self.revision,
            "weights_sha256": self.weights_sha256,
            **self.gaps.describe(),
            **self._fingerprints,
            "architecture": type(self.model).__name__,
            "attn_implementation": self.model.config._attn_implementation,
            "quantization": None if method is None else str(getattr(method, "value", method)),
            "is_encoder_decoder": bool(self.model.config.is_encoder_decoder),
            "n_layers": self.n_layers,
            "n_heads": self.n_heads,
            **({} if self.encoder is None else {"n_encoder_layers": self.encoder.n_layers}),
            "d_model": self.d_model,
            "d_vocab": self.d_vocab,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "device": str(self.device),
        }
