"""A folder of Llama Scope: transposed weights for vectors scaled to a mean length of sqrt(d), one threshold for all."""

from pathlib import Path

import numpy as np

from ...errors import ConfigError
from ..json_file import read_json_object
from ..sae_weights import SaeWeights, checked
from ..safetensors_file import read_safetensors

CONFIG, WEIGHTS = "hyperparams.json", "checkpoints/final.safetensors"
NAMES = {"W_enc": "encoder.weight", "b_enc": "encoder.bias", "W_dec": "decoder.weight", "b_dec": "decoder.bias"}


def read_llama_scope(folder: Path) -> SaeWeights:
    """The JumpReLU autoencoder of a folder, with the scale of its input folded into its weights."""
    config = read_json_object(folder / CONFIG)
    try:
        d_in, threshold = int(config["d_model"]), float(config["jump_relu_threshold"])
        mean_norm = float(config["dataset_average_activation_norm"]["in"])
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{folder / CONFIG} lacks d_model, jump_relu_threshold or dataset_average_activation_norm ({error})."
        ) from error
    stored = read_safetensors(folder / WEIGHTS)
    if missing := [name for name in NAMES.values() if name not in stored]:
        raise ConfigError(
            f"{folder / WEIGHTS} lacks {', '.join(missing)}; it has {', '.join(sorted(stored)) or 'none'}."
        )
    weights = {ours: stored[theirs].T if ours.startswith("W") else stored[theirs] for ours, theirs in NAMES.items()}
    scale = d_in**0.5 / mean_norm
    # The threshold is written for vectors in the model's units, the weights for scaled ones.
    weights["threshold"] = np.full(weights["W_enc"].shape[1], threshold * scale, np.float32)
    hooks = {"hook_name": config.get("hook_point_in"), "model_name": "meta-llama/Llama-3.1-8B", "prepend_bos": True}
    metadata = {name: value for name, value in hooks.items() if value is not None}
    if config.get("hook_point_out", config.get("hook_point_in")) != config.get("hook_point_in"):
        raise ConfigError(f"{folder} is a transcoder; only the autoencoders of Llama Scope are read.")
    sae = SaeWeights(folder.name, "llama_scope", "jumprelu", weights, False, norm="scale", metadata=metadata)
    return checked(sae).scaled(scale)
