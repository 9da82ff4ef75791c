"""Loads a causal language model with its tokenizer, and says what it is; knows nothing of runs or tables."""

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
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, DynamicCache
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions
from transformers.utils.logging import disable_progress_bar

from ..lake.errors import ConfigError, NotFoundError
from .cache import growing_cache
from .sites import Anatomy, dissect, find_blocks
from .tinymath import WEIGHTS

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

    @property
    def base(self) -> nn.Module:
        """The model without its unembedding; returns the final-normed state."""
        return self.model.base_model

    @property
    def n_layers(self) -> int:
        return int(self.config.num_hidden_layers)

    @property
    def n_heads(self) -> int:
        return int(self.config.num_attention_heads)

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

    @cached_property
    def blocks(self) -> nn.ModuleList:
        """The transformer blocks in order."""
        return find_blocks(self.base, self.n_layers)

    @cached_property
    def anatomy(self) -> Anatomy:
        """The modules of the sites, found by one probing forward pass."""
        return dissect(self.model, self.blocks, self.probe)

    def probe(self) -> object:
        """Run the model on a few tokens."""
        ids = torch.arange(4, device=self.device).remainder(self.d_vocab).unsqueeze(0)
        with torch.no_grad():
            return self.base(input_ids=ids, use_cache=False)

    def cache(self) -> DynamicCache:
        """An empty key-value cache that keeps sliding windows short."""
        return growing_cache(self.config)

    @cached_property
    def end_ids(self) -> frozenset[int]:
        """Token ids that end a sequence."""
        generation = getattr(self.model, "generation_config", None)
        ids = getattr(generation, "eos_token_id", None)
        if ids is None:
            ids = self.config.eos_token_id if self.config.eos_token_id is not None else self.tokenizer.eos_token_id
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
            "d_model": self.d_model,
            "d_vocab": self.d_vocab,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "device": str(self.device),
        }


class GivenStates(BaseModelOutputWithPastAndCrossAttentions):
    """Final-normed states as a base model returns them; whatever else its output holds (router logits...) is None."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)
        return None


class Unembedding:
    """Final-normed states to logits, by the model's own forward (soft caps and scales included).

    The base model is replaced for the call by one that returns the given states, so nothing of an architecture is
    written down here a second time.
    """

    def __init__(self, model: Any) -> None:
        self._model = model

    @contextmanager
    def _given(self, states: Tensor) -> Iterator[None]:
        base = self._model.base_model

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
        with self._given(states.unsqueeze(0)):
            return self._model(input_ids=ids, use_cache=False).logits[0]


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
    """Load a causal language model by Hugging Face id, folder, or the bundled name `tinymath`.

    Errors: NotFoundError for an unknown model, ConfigError for one that cannot be observed.
    """
    source = str(WEIGHTS) if name == BUNDLED else name
    where = choose_device(device)
    options: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    _quiet_transformers()
    try:
        config = AutoConfig.from_pretrained(source, **options)
        if config.is_encoder_decoder:
            raise ConfigError(
                f"{name} is an encoder-decoder model ({type(config).__name__}); "
                "this version collects decoder-only models."
            )
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
        model = AutoModelForCausalLM.from_pretrained(
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
