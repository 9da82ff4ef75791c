"""Loads a language model with its tokenizer from a folder, the hub or the package."""

import logging
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from ...lake.errors import ConfigError, NotFoundError
from ..tinymath import WEIGHTS
from .fingerprints import folder_digest
from .model import DTYPES, LoadedModel

BUNDLED = "tinymath"


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
