"""A SAELens folder of an autoencoder; its every file as bytes, so that a lake can hold them as they are."""

import hashlib
import json
from collections.abc import Mapping

import numpy as np
from safetensors.numpy import save

from ...errors import ConfigError
from ...values import Json
from ..sae_weights import PER_TOKEN, SaeWeights
from .reading import CONFIG, WEIGHTS

VERSION = "6.54.12"
"""Version of SAELens whose folders these are; without it in the metadata SAELens drops the rest of them."""
PROVENANCE = "provenance.json"


def saelens_files(sae: SaeWeights, provenance: Mapping[str, object], *, hook_shape: bool = False) -> dict[str, bytes]:
    """The files of the folder by name. `hook_shape`: vectors are given as hooks have them, z by heads."""
    weights = save({name: np.ascontiguousarray(array, np.float32) for name, array in sae.weights.items()})
    about = {**provenance, "source": sae.source, "weights_sha256": hashlib.sha256(weights).hexdigest()}
    config = saelens_config(sae, hook_shape=hook_shape)
    return {CONFIG: _json(config), WEIGHTS: weights, PROVENANCE: _json(about)}


def saelens_config(sae: SaeWeights, *, hook_shape: bool = False) -> Json:
    """cfg.json; ConfigError for what SAELens has no class for."""
    if sae.norm not in ("none", *PER_TOKEN):
        raise ConfigError(f"{sae.name} still needs the scale of its input: fold it into the weights first.")
    name = {"relu": "standard"}.get(sae.activation, sae.activation)
    if sae.transcodes:
        if sae.activation not in ("relu", "jumprelu"):
            raise ConfigError(f"SAELens has no transcoder of the kind {sae.activation}: {sae.name} cannot be written.")
        parts = ("jumprelu" if sae.activation == "jumprelu" else "", "skip" if "W_skip" in sae.weights else "")
        name = "_".join([*filter(None, parts), "transcoder"])
    by_heads = hook_shape and "hook_z" in str(sae.metadata.get("hook_name"))
    config: Json = {
        "architecture": name, "d_in": sae.d_in, "d_sae": sae.d_sae, "dtype": "float32", "device": "cpu",
        "apply_b_dec_to_input": sae.centred, "normalize_activations": sae.norm,
        "reshape_activations": "hook_z" if by_heads else "none",
        "metadata": {"sae_lens_training_version": None, **sae.metadata, "sae_lens_version": VERSION},
    }  # fmt: skip
    if sae.transcodes:
        config["d_out"] = sae.d_out
    if sae.activation == "topk":
        config |= {"k": sae.k, "rescale_acts_by_decoder_norm": False}
    return config


def _json(value: Mapping[str, object]) -> bytes:
    return (json.dumps(value, ensure_ascii=False, indent=1) + "\n").encode()
