"""A SAELens folder: cfg.json and sae_weights.safetensors, of version 6 or before."""

from pathlib import Path

import numpy as np

from ...errors import ConfigError, did_you_mean
from ...values import JsonView
from ..json_file import read_json_object
from ..sae_weights import PER_TOKEN, Activation, SaeWeights, checked
from ..safetensors_file import read_safetensors

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
ACTIVATIONS: dict[str, Activation] = {
    "standard": "relu",
    "gated": "gated",
    "topk": "topk",
    "jumprelu": "jumprelu",
    "transcoder": "relu",
    "skip_transcoder": "relu",
    "jumprelu_transcoder": "jumprelu",
    "jumprelu_skip_transcoder": "jumprelu",
}
NORMS = {"none": "none", "expected_average_only_in": "scale"}
WHITENING, WHITENING_FILE = "covariance_whitening", "activation_whitening.safetensors"
OLD_NAMES = {
    "hook_point": "hook_name",
    "hook_point_head_index": "hook_head_index",
    "activation_fn_str": "activation_fn",
}
IN_METADATA = (
    "model_name", "hook_name", "hook_head_index", "hook_name_out", "model_class_name", "model_from_pretrained_kwargs",
    "prepend_bos", "context_size", "dataset_path", "neuronpedia_id", "exclude_special_tokens", "sae_lens_version",
)  # fmt: skip


def read_saelens(folder: Path) -> SaeWeights:
    """The autoencoder in a folder; ConfigError for what would be computed wrongly."""
    given = read_json_object(folder / CONFIG)
    config = {OLD_NAMES.get(key, key): value for key, value in given.items()}
    architecture = _architecture(config, folder)
    metadata = dict(config.get("metadata") or {})
    metadata = {key: config[key] for key in IN_METADATA if config.get(key) is not None} | metadata
    if config.get("finetuning_scaling_factor"):
        raise ConfigError(f"{folder}: a finetuning scaling factor is not read.")
    if metadata.get("hook_head_index") is not None:
        raise ConfigError(
            f"{folder} is of one attention head ({metadata['hook_head_index']}), which the lake has no site for."
        )
    weights = read_safetensors(folder / WEIGHTS)
    if "log_threshold" in weights and "threshold" not in weights:
        weights["threshold"] = np.exp(weights.pop("log_threshold"))
    used = {name: array for name, array in weights.items() if name in _known(architecture)}
    k = config.get("k") or (config.get("activation_fn_kwargs") or {}).get("k")
    sae = SaeWeights(
        folder.name,
        "saelens",
        ACTIVATIONS[architecture],
        used,
        bool(config.get("apply_b_dec_to_input", "transcoder" not in architecture)),
        int(k) if architecture == "topk" and k else None,
        _norm(config, folder),
        metadata,
    )
    sae = checked(sae)
    if sae.norm == WHITENING:
        sae = _unwhitened(sae, folder)
    if architecture == "topk" and config.get("rescale_acts_by_decoder_norm"):
        return sae.with_unit_decoder()
    return sae


def _unwhitened(sae: SaeWeights, folder: Path) -> SaeWeights:
    """With the whitening of a checkpoint's vectors in its weights."""
    arrays = read_safetensors(folder / WHITENING_FILE)
    wanted = {"mean": (sae.d_in,), "matrix": (sae.d_in, sae.d_in), "inverse_matrix": (sae.d_in, sae.d_in)}
    for name, shape in wanted.items():
        if name not in arrays or arrays[name].shape != shape:
            there = {key: array.shape for key, array in arrays.items()}
            raise ConfigError(f"{folder / WHITENING_FILE}: {name} of the shape {shape} is wanted; there are {there}.")
    if sae.transcodes:
        raise ConfigError(f"{folder} is a transcoder of whitened vectors, which is not read.")
    return checked(sae.unwhitened(arrays["mean"], arrays["matrix"], arrays["inverse_matrix"]))


def _architecture(config: JsonView, folder: Path) -> str:
    name = str(config.get("architecture") or "standard")
    if name == "standard" and config.get("activation_fn") in ("topk", "topk-signed"):
        name = "topk"
    if name == "topk" and (config.get("activation_fn_kwargs") or {}).get("signed"):
        raise ConfigError(f"{folder} keeps the largest absolute values (signed top k), which is not computed here.")
    if name not in ACTIVATIONS:
        raise ConfigError(f"{folder} is of the architecture {name!r}.{did_you_mean(name, ACTIVATIONS)}")
    if name == "standard" and config.get("activation_fn", "relu") != "relu":
        raise ConfigError(f"{folder} has the activation {config['activation_fn']!r}; relu, topk and jumprelu are read.")
    return name


def _known(architecture: str) -> tuple[str, ...]:
    skip = ("W_skip",) if "skip" in architecture else ()
    return ("W_enc", "W_dec", "b_dec", "b_enc", "threshold", "b_gate", "b_mag", "r_mag", *skip)


def _norm(config: JsonView, folder: Path) -> str:
    given = config.get("normalize_activations", "none")
    name = {True: "expected_average_only_in", False: "none", None: "none"}.get(given, given)
    if name in PER_TOKEN or (name == WHITENING and (folder / WHITENING_FILE).is_file()):
        return name
    if name not in NORMS:
        raise ConfigError(
            f"{folder} normalises its input by {name!r}, and its folder does not hold the numbers for it."
        )
    return NORMS[name]
