"""An autoencoder's folder: cfg.json, sae_weights.safetensors, provenance.json. It is a SAELens folder as it is."""

import json
from collections.abc import Mapping
from dataclasses import replace

import torch
from safetensors import SafetensorError
from safetensors.torch import load

from ...lake import Lake
from ...lake.errors import ConfigError, DamageError, NotFoundError, UsageError, did_you_mean
from ...lake.exchange.sae_weights import PER_TOKEN, SaeWeights
from ...lake.exchange.saelens.reading import CONFIG, WEIGHTS
from ...lake.exchange.saelens.writing import saelens_files
from ...lake.values import JsonView, Row
from .sae import Activation, Sae

_ACTIVATIONS: dict[str, Activation] = {
    "standard": "relu", "topk": "topk", "jumprelu": "jumprelu", "gated": "gated", "transcoder": "relu",
    "skip_transcoder": "relu", "jumprelu_transcoder": "jumprelu", "jumprelu_skip_transcoder": "jumprelu",
}  # fmt: skip
_NAMES = {
    "relu": ("b_enc",), "topk": ("b_enc",), "jumprelu": ("b_enc", "threshold"), "gated": ("b_gate", "b_mag", "r_mag"),
}  # fmt: skip


def folder_blobs(sae: Sae, metadata: JsonView, provenance: JsonView) -> dict[str, bytes]:
    """The files of the folder by name. `metadata` is what SAELens calls so: model, hook, context."""
    arrays = {name: tensor.detach().cpu().numpy() for name, tensor in sae.weights.items()}
    written = SaeWeights(
        sae.sae_id, "trained", sae.activation, arrays, sae.centred, k=sae.k, norm=sae.norm, metadata=metadata
    )
    return {f"{sae.sae_id}/{name}": content for name, content in saelens_files(written, provenance).items()}


def hook_name(layer: int, site: str) -> str:
    """TransformerLens's name of a site."""
    inside = {"z": "attn.hook_z", "mlp_post": "mlp.hook_post", "v": "attn.hook_v", "rot_q": "attn.hook_rot_q",
              "rot_k": "attn.hook_rot_k"}  # fmt: skip
    return "ln_final.hook_normalized" if site == "final_norm" else f"blocks.{layer}.{inside.get(site, f'hook_{site}')}"


def parse_folder(sae_id: str, config: JsonView, weights: bytes) -> Sae:
    """The autoencoder in a folder; ConfigError for what would be computed wrongly, DamageError for what is none."""
    name = str(config.get("architecture"))
    if name not in _ACTIVATIONS:
        raise ConfigError(f"{sae_id} is of the architecture {name!r}.{did_you_mean(name, _ACTIVATIONS)}")
    norm = str(config.get("normalize_activations", "none"))
    wanted = {
        "normalize_activations": norm if norm in PER_TOKEN else "none",
        "reshape_activations": "none",
        "rescale_acts_by_decoder_norm": False,
    }
    for key, value in wanted.items():
        if config.get(key, value) != value:
            raise ConfigError(
                f"{sae_id} has {key} {config[key]!r}, which is not folded into its weights. Import it again."
            )
    try:
        tensors = {key: value.float() for key, value in load(weights).items()}
    except SafetensorError as error:
        raise DamageError(f"The weights of {sae_id} cannot be read: {error}. Run `lake verify`.") from error
    activation = _ACTIVATIONS[name]
    _check_shapes(sae_id, tensors, activation, skip="skip" in name)
    centred = bool(config.get("apply_b_dec_to_input", "transcoder" not in name))
    return Sae(sae_id, activation, tensors, centred, int(config["k"]) if activation == "topk" else None, norm)


def _check_shapes(sae_id: str, tensors: Mapping[str, torch.Tensor], activation: Activation, *, skip: bool) -> None:
    names = ["W_enc", "W_dec", "b_dec", *_NAMES[activation], *(["W_skip"] if skip else [])]
    if missing := [name for name in names if name not in tensors]:
        raise DamageError(f"The weights of {sae_id} lack {', '.join(missing)}; there are {', '.join(sorted(tensors))}.")
    if tensors["W_enc"].ndim != 2 or tensors["W_dec"].ndim != 2:
        raise DamageError(f"The weights of {sae_id} are no matrices.")
    d_in, d_sae = tensors["W_enc"].shape
    d_out = tensors["W_dec"].shape[1]
    shapes = {"W_dec": (d_sae, d_out), "b_dec": (d_out,), "W_skip": (d_out, d_in)}
    for name in names[1:]:
        shape = shapes.get(name, (d_sae,))
        if tuple(tensors[name].shape) != shape:
            raise DamageError(f"{name} of {sae_id} has the shape {tuple(tensors[name].shape)}, not {shape}.")


def load_sae(lake: Lake, name: str) -> Sae:
    """The autoencoder that `name` means: its id or a unique beginning of it, trained or imported."""
    rows = [row for row in sae_rows(lake) if str(row["sae_id"]).startswith(name)]
    exact = [row for row in rows if row["sae_id"] == name] or rows
    ids = dict.fromkeys(str(row["sae_id"]) for row in sae_rows(lake))
    if not exact:
        raise NotFoundError(f"There is no autoencoder {name!r}.{did_you_mean(name, ids)}")
    if len(exact) > 1:
        raise UsageError(f"{name!r} is ambiguous: {', '.join(str(row['sae_id']) for row in exact)}.")
    row = exact[0]
    run_id, sae_id = str(row["run_id"]), str(row["sae_id"])
    config = json.loads(lake.blob(run_id, f"{sae_id}/{CONFIG}"))
    sae = parse_folder(sae_id, config, lake.blob(run_id, f"{sae_id}/{WEIGHTS}"))
    return replace(sae, run_id=run_id, about=row)


def sae_rows(lake: Lake) -> list[Row]:
    """The rows of `saes`, oldest run first."""
    return lake.scan("saes").collect().sort("run_id", "layer", "sae_id").to_dicts()
