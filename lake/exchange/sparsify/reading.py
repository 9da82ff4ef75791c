"""A folder of sparsify: the encoder transposed, the decoder not; b_dec is subtracted unless it transcodes."""

import re
from pathlib import Path

import numpy as np

from ...errors import ConfigError
from ...values import Json
from ..json_file import read_json_object
from ..sae_weights import SaeWeights, checked, hook_of
from ..safetensors_file import read_safetensors

CONFIG, WEIGHTS = "cfg.json", "sae.safetensors"
MODULES = (
    (r"(?:layers|h)\.(\d+)\.mlp", "mlp_out"),
    (r"(?:layers|h)\.(\d+)\.(?:self_attn|attn|attention)", "attn_out"),
    (r"(?:layers|h)\.(\d+)", "resid_post"),
)
"""Names of folders, and what a module of that name returns."""


def read_sparsify(folder: Path) -> SaeWeights:
    """The top-k coder of a folder."""
    config = read_json_object(folder / CONFIG)
    if config.get("activation", "topk") != "topk":
        raise ConfigError(f"{folder} has the activation {config['activation']!r}; topk is read.")
    if config.get("signed"):
        raise ConfigError(f"{folder} keeps the largest absolute values (signed top k), which is not computed here.")
    stored = read_safetensors(folder / WEIGHTS)
    if missing := [name for name in ("encoder.weight", "encoder.bias", "W_dec", "b_dec") if name not in stored]:
        raise ConfigError(
            f"{folder / WEIGHTS} lacks {', '.join(missing)}; it has {', '.join(sorted(stored)) or 'none'}."
        )
    weights: dict[str, np.ndarray] = {
        "W_enc": stored["encoder.weight"].T, "b_enc": stored["encoder.bias"], "W_dec": stored["W_dec"],
        "b_dec": stored["b_dec"],
    }  # fmt: skip
    if config.get("skip_connection"):
        weights["W_skip"] = stored["W_skip"]
    metadata: Json = {"prepend_bos": True}
    for pattern, site in MODULES:
        if match := re.fullmatch(pattern, folder.name):
            metadata["hook_name"] = hook_of(int(match[1]), site)
            break
    transcodes = bool(config.get("transcode"))
    if transcodes:
        metadata |= {"hook_name_out": metadata.pop("hook_name", "unknown")}  # what goes in is the module's input
    sae = SaeWeights(folder.name, "sparsify", "topk", weights, not transcodes, int(config["k"]), metadata=metadata)
    return checked(sae)
