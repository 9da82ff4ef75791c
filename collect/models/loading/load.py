"""Loads a language model with its tokenizer from a folder, the hub or the package."""

import logging
from pathlib import Path
from typing import Any

import torch
from transformers.models.auto.configuration_auto import AutoConfig
from transformers.models.auto.modeling_auto import AutoModelForCausalLM, AutoModelForSeq2SeqLM
from transformers.models.auto.tokenization_auto import AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from ....lake.errors import ConfigError
from ....lake.values import Json
from ...tinymath import WEIGHTS
from ..fingerprints import folder_digest
from ..model import DTYPES, LoadedModel
from ..weights import WeightGaps
from .hub import out_of_reach
from .load_errors import FIRST_PASS, check_counts, check_files, loading

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
    allow_missing: bool = False,
) -> LoadedModel:
    """Load a language model by Hugging Face id, folder, or the bundled name `tinymath`.

    Errors: NotFoundError for an unknown model, DamageError for torn weights, ConfigError for one that cannot be
    observed or, unless `allow_missing`, whose checkpoint does not hold exactly the model's weights.
    """
    source = str(WEIGHTS) if name == BUNDLED else name
    folder = Path(source)
    where = choose_device(device)
    options: Json = {"revision": revision, "trust_remote_code": trust_remote_code}
    config, tokenizer = open_config(name, **options)
    # Weights that the checkpoint lacks are drawn at random: the same ones each time, so that a run can be resumed.
    with loading(name, "weights"), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, info = model_class(config).from_pretrained(
            source,
            dtype="auto" if dtype == "auto" else DTYPES[dtype],
            use_safetensors=True,
            attn_implementation=attn_implementation,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported with the rest
            local_files_only=out_of_reach(source),
            **options,
        )
    _compute_caps(name, model, attn_implementation)
    gaps = WeightGaps.of(info)
    if gaps and not allow_missing:
        raise gaps.refuse(name, model)
    model.eval().requires_grad_(False)
    if getattr(model.config, "quantization_config", None) is None:
        model.to(where)  # type: ignore[arg-type]
    with loading(name, FIRST_PASS):
        return LoadedModel(
            name=name,
            model=model,
            tokenizer=tokenizer,
            device=model.device,
            revision=getattr(config, "_commit_hash", None),
            weights_sha256=folder_digest(folder) if folder.is_dir() else None,
            gaps=gaps,
        )


def _compute_caps(name: str, model: Any, asked: str | None) -> None:
    """Capped attention (Gemma-2) is computed eagerly where torch's fused kernel, which has no cap, was chosen.

    transformers 5.17 takes that kernel by default and leaves the cap out without a word; 5.23 refuses it.
    """
    config = model.config.get_text_config(decoder=True)
    caps = [key for key, cap in vars(config).items() if "softcap" in key and "att" in key and cap]
    if not caps or "sdpa" not in str(config._attn_implementation):
        return
    if asked is not None:
        raise ConfigError(
            f"{name}: --attn-implementation {asked} leaves out {caps[0]}, the cap of this model's attention scores. "
            "Use eager or flex_attention, or leave it to the model."
        )
    model.set_attn_implementation("eager")


def open_config(name: str, *, revision: str | None = None, trust_remote_code: bool = False) -> tuple[Any, Any]:
    """Configuration and tokenizer of a model, without its weights; NotFoundError for an unknown model."""
    source = str(WEIGHTS) if name == BUNDLED else name
    options: Json = {"revision": revision, "trust_remote_code": trust_remote_code}
    options["local_files_only"] = out_of_reach(source)
    _quiet_transformers()
    check_files(name, Path(source))
    with loading(name, "configuration"):
        config = AutoConfig.from_pretrained(source, **options)
    # Not `get_text_config`: a model of several parts (text encoder and decoder) has no single one.
    for part in (config, *(getattr(config, part, None) for part in config.sub_configs)):
        if part is not None:
            check_counts(f"model {name!r}", part.to_dict())
    with loading(name, "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
        tokenizer("a")  # a setting of the wrong kind shows when it is used
    return config, tokenizer


def model_class(config: Any) -> Any:
    """The automatic class that makes a model of this configuration."""
    return AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM


def _quiet_transformers() -> None:
    # Its notices about optional packages concern models that nobody asked for, and its bar is not ours.
    logging.getLogger("transformers").setLevel(logging.ERROR)
    disable_progress_bar()
