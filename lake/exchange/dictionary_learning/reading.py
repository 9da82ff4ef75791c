"""An autoencoder of dictionary_learning, from its config.json and the arrays of its ae.pt (read elsewhere)."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ...errors import ConfigError, did_you_mean
from ...values import Json
from ..json_file import read_json_object
from ..sae_weights import Activation, SaeWeights, checked, hook_of

CONFIG, WEIGHTS = "config.json", "ae.pt"
CLASSES: dict[str, tuple[Activation, bool]] = {
    "AutoEncoder": ("relu", True),
    "AutoEncoderNew": ("relu", False),
    "GatedAutoEncoder": ("gated", True),
    "AutoEncoderTopK": ("topk", True),
    "BatchTopKSAE": ("jumprelu", True),
    "MatryoshkaBatchTopKSAE": ("jumprelu", True),
    "JumpReluAutoEncoder": ("jumprelu", False),
}
"""Activation, and whether b_dec is subtracted from the input."""
MATRICES = {"W_enc": "encoder.weight", "W_dec": "decoder.weight"}
VECTORS = {
    "b_dec": ("b_dec", "bias", "decoder_bias", "decoder.bias"),
    "b_enc": ("b_enc", "encoder.bias"),
    "b_gate": ("gate_bias",),
    "b_mag": ("mag_bias",),
    "r_mag": ("r_mag",),
}


def read_dictionary_learning(folder: Path, arrays: Mapping[str, np.ndarray]) -> SaeWeights:
    """The autoencoder whose state `arrays` are."""
    trainer = read_json_object(folder / CONFIG).get("trainer")
    if not isinstance(trainer, dict):
        raise ConfigError(f"{folder / CONFIG} says nothing of a trainer.")
    kind = str(trainer.get("dict_class"))
    if kind not in CLASSES:
        raise ConfigError(f"{folder} is of the class {kind!r}.{did_you_mean(kind, CLASSES)}")
    activation, centred = CLASSES[kind]
    weights: Json = {}
    for ours, theirs in MATRICES.items():
        if ours in arrays:
            weights[ours] = arrays[ours]
        elif theirs in arrays:
            weights[ours] = arrays[theirs].T
    for ours, names in VECTORS.items():
        found = next((arrays[name] for name in names if name in arrays), None)
        if found is not None:
            weights[ours] = found
    if activation == "jumprelu":
        weights["threshold"] = _threshold(arrays, weights, folder)
    metadata: Json = {"prepend_bos": True}
    if trainer.get("lm_name"):
        metadata["model_name"] = trainer["lm_name"]
    if isinstance(trainer.get("layer"), int) and "resid_post" in str(trainer.get("submodule_name") or "resid_post"):
        metadata["hook_name"] = hook_of(trainer["layer"], "resid_post")
    k = trainer.get("k")
    sae = SaeWeights(folder.name, "dictionary_learning", activation, weights, centred, metadata=metadata)
    return checked(SaeWeights(**{**vars(sae), "k": int(k) if activation == "topk" and k else None}))


def _threshold(arrays: Mapping[str, np.ndarray], weights: Mapping[str, np.ndarray], folder: Path) -> np.ndarray:
    threshold = np.asarray(arrays.get("threshold", -1.0), np.float32)
    if threshold.ndim == 0:
        if threshold < 0:
            raise ConfigError(f"{folder} has no threshold yet: it was not trained to where one is estimated.")
        threshold = np.full(weights["W_enc"].shape[1], threshold, np.float32)
    return threshold
