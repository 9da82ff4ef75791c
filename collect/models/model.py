"""Loads a language model with its tokenizer, and says what it is; knows nothing of runs or tables."""

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer, Cache
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPastAndCrossAttentions
from transformers.utils.logging import disable_progress_bar

from ...lake.errors import ConfigError, NotFoundError
from ..tinymath import WEIGHTS
from .cache import encoder_decoder_cache, growing_cache
from .stack import Stack, encoder_and_decoder, only_stack

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
BUNDLED = "tinymath"


@dataclass
class LoadedModel:
    """A model ready to be observed: its parts, its device and the facts that `runs` records."""

    name: str
    model: Any
    tokenizer: Any
    device: torch.device
    revision: str | None = None
    weights_sha256: str | None = None
    unembed: "Unembedding" = field(init=False)

    def __post_init__(self) -> None:
        self.unembed = Unembedding(self.model)

    @property
    def config(self) -> Any:
        """The text part of the model's configuration."""
        return self.model.config.get_text_config()

    @cached_property
    def _stacks(self) -> tuple[Stack | None, Stack]:
        if self.model.config.is_encoder_decoder:
            return encoder_and_decoder(self.model, self.config, self.probe)
        return None, only_stack(self.model, self.config, self.probe)

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
    def context_length(self) -> int:
        """Most positions that the model was made for."""
        return int(getattr(self.config, "max_position_embeddings", None) or 1_000_000)

    def longest_prompt(self, *, generates: bool) -> int:
        """Most tokens of a prompt: an encoder's positions are its own, a decoder must leave one to generate."""
        return self.context_length - (1 if generates and self.encoder is None else 0)

    def probe(self) -> object:
        """Run the model on a few tokens; an encoder on more than the decoder, so that no state fits both."""
        ids = torch.arange(5, device=self.device).remainder(self.d_vocab).unsqueeze(0)
        with torch.no_grad():
            if self.encoder is None:
                return self.decoder.module(input_ids=ids[:, :4], use_cache=False)
            return self.model(input_ids=ids, decoder_input_ids=ids[:, :3], use_cache=False)

    def cache(self) -> Cache:
        """An empty key-value cache of the decoder that keeps sliding windows short."""
        if self.encoder is None:
            return growing_cache(self.config)
        return encoder_decoder_cache(self.n_layers)

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

    def describe(self) -> dict[str, Any]:
        """The facts for run.json, named as in the `runs` table."""
        quantization = getattr(self.model.config, "quantization_config", None)
        method = getattr(quantization, "quant_method", None)
        return {
            "name": self.name,
            "revision": self.revision,
            "weights_sha256": self.weights_sha256,
            "tokenizer_sha256": tokenizer_digest(self.tokenizer),
            "chat_template_sha256": _digest(self.tokenizer.chat_template) if self.tokenizer.chat_template else None,
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


class _StatesOnly:
    """Whatever else an output of this kind may hold (router logits...) is None."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)
        return None


class GivenStates(_StatesOnly, BaseModelOutputWithPastAndCrossAttentions):
    """Final-normed states as a base model or a decoder returns them."""


class GivenEncoding(_StatesOnly, BaseModelOutput):
    """States as an encoder returns them."""


class Unembedding:
    """Final-normed states to logits, by the model's own forward (soft caps and scales included).

    The stack in front of it (the base model, or the decoder of two stacks) is replaced for the call by one that returns
    the given states, so nothing of an architecture is written down here a second time.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._two_stacks = bool(model.config.is_encoder_decoder)

    @contextmanager
    def _given(self, states: Tensor) -> Iterator[None]:
        base = self._model.get_decoder() if self._two_stacks else self._model.base_model

        def forward(*args: Any, **kwargs: Any) -> GivenStates:
            return GivenStates(last_hidden_state=states)

        had_own = "forward" in vars(base)
        before = base.forward
        base.forward = forward
        try:
            yield
        finally:
            if had_own:
                base.forward = before
            else:
                del base.forward

    def __call__(self, states: Float[Tensor, "n d_model"]) -> Float[Tensor, "n d_vocab"]:
        """Raw logits of each state."""
        ids = torch.zeros(1, 1, dtype=torch.long, device=states.device)
        inputs: dict[str, Any] = {"input_ids": ids}
        if self._two_stacks:
            encoded = GivenEncoding(last_hidden_state=states[:1].unsqueeze(0))  # type: ignore[arg-type]
            inputs = {"decoder_input_ids": ids, "encoder_outputs": encoded}
        with self._given(states.unsqueeze(0)):
            return self._model(**inputs, use_cache=False).logits[0]


def choose_device(device: str) -> torch.device:
    """The device for `auto`, or the one named; ConfigError if this machine does not have it."""
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        return torch.device("cuda" if available["cuda"] else "mps" if available["mps"] else "cpu")
    if not available.get(device.split(":")[0], False):
        have = ", ".join(name for name, there in available.items() if there)
        raise ConfigError(f"Device {device!r} is not available here. Available: {have}. Use --device auto.")
    return torch.device(device)


def load_model(
    name: str,
    *,
    revision: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    attn_implementation: str | None = None,
    trust_remote_code: bool = False,
) -> LoadedModel:
    """Load a language model by Hugging Face id, folder, or the bundled name `tinymath`.

    Errors: NotFoundError for an unknown model, ConfigError for one that cannot be observed.
    """
    source = str(WEIGHTS) if name == BUNDLED else name
    where = choose_device(device)
    options: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    _quiet_transformers()
    try:
        config = AutoConfig.from_pretrained(source, **options)
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
        model = (AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM).from_pretrained(
            source,
            dtype="auto" if dtype == "auto" else DTYPES[dtype],
            use_safetensors=True,
            attn_implementation=attn_implementation,
            **options,
        )
    except (OSError, ValueError) as error:
        raise _not_loaded(name, error) from error
    model.eval().requires_grad_(False)
    if getattr(model.config, "quantization_config", None) is None:
        model.to(where)  # type: ignore[arg-type]
    folder = Path(source)
    return LoadedModel(
        name=name,
        model=model,
        tokenizer=tokenizer,
        device=model.device,
        revision=getattr(config, "_commit_hash", None),
        weights_sha256=folder_digest(folder) if folder.is_dir() else None,
    )


def _quiet_transformers() -> None:
    # Its notices about optional packages concern models that nobody asked for, and its bar is not ours.
    logging.getLogger("transformers").setLevel(logging.ERROR)
    disable_progress_bar()


def _not_loaded(name: str, error: Exception) -> Exception:
    first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return NotFoundError(
        f"Model {name!r} could not be loaded: {first_line} Give `tinymath`, a folder with config.json, "
        "model.safetensors and a tokenizer, or a Hugging Face id (which needs network or a filled cache)."
    )


def folder_digest(folder: Path) -> str | None:
    """SHA-256 over the names and contents of a folder's safetensors files; None if it has none."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        return None
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode())
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def tokenizer_digest(tokenizer: Any) -> str:
    """SHA-256 of the serialised tokenizer, or of its vocabulary where it has no fast form."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        return _digest(backend.to_str())
    return _digest("\n".join(f"{token}\t{i}" for token, i in sorted(tokenizer.get_vocab().items())))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
