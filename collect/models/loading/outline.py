"""A model without its weights: what a plan needs to know of it, from its configuration and tokenizer alone."""

import json
from pathlib import Path
from typing import Any

import torch

from ...tinymath import WEIGHTS
from ..model import DTYPES, LoadedModel
from .load import BUNDLED, choose_device, model_class, open_config
from .load_errors import loading

STORED_FORMATS = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""Number formats as safetensors headers name them."""


def outline(
    name: str,
    *,
    revision: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    attn_implementation: str | None = None,
    trust_remote_code: bool = False,
) -> LoadedModel:
    """The model of `load_model` as a shell: its modules have shapes and no values, so it can be counted, not run."""
    config, tokenizer = open_config(name, revision=revision, trust_remote_code=trust_remote_code)
    known = _checkpoint_dtype(name, config) if dtype == "auto" else dtype
    with loading(name, "configuration"), torch.device("meta"):
        shell = model_class(config).from_config(
            config,
            dtype=DTYPES[known],
            attn_implementation=attn_implementation,
            trust_remote_code=trust_remote_code,
        )
    return LoadedModel(name=name, model=shell.eval(), tokenizer=tokenizer, device=choose_device(device))


def _checkpoint_dtype(name: str, config: Any) -> str:
    """The number format that loading would choose: the configuration's, else that of the first weight on disk."""
    named = getattr(config, "dtype", None)
    if named is not None:
        return str(named).removeprefix("torch.") if str(named).removeprefix("torch.") in DTYPES else "float32"
    folder = WEIGHTS if name == BUNDLED else Path(name)
    for file in sorted(folder.glob("*.safetensors")) if folder.is_dir() else []:
        with file.open("rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        formats = [entry["dtype"] for key, entry in header.items() if key != "__metadata__"]
        return next((STORED_FORMATS[name] for name in formats if name in STORED_FORMATS), "float32")
    return "float32"
