"""A folder of Gemma Scope: `layer_20/width_16k/average_l0_71/params.npz`, no configuration beside it."""

import re
import zipfile
from pathlib import Path

import numpy as np

from ...errors import ConfigError, NotFoundError
from ..sae_weights import SaeWeights, checked, hook_of

PARAMS = "params.npz"
KINDS = {"res": "resid_post", "mlp": "mlp_out", "att": "z"}


def read_gemma_scope(folder: Path) -> SaeWeights:
    """The JumpReLU autoencoder of a folder: it subtracts no b_dec from its input."""
    try:
        with (folder / PARAMS).open("rb") as file, np.load(file, allow_pickle=False) as data:
            weights = {("W_" + name[2:] if name.startswith("w_") else name): data[name] for name in data.files}
    except OSError as error:
        raise NotFoundError(f"{folder / PARAMS} cannot be read: {error.strerror or error}.") from error
    except (ValueError, zipfile.BadZipFile) as error:
        raise ConfigError(f"{folder / PARAMS} is no whole .npz file of plain arrays: {error}.") from error
    if "scaling_factor" in weights and not np.allclose(weights.pop("scaling_factor"), 1):
        raise ConfigError(f"{folder}: a finetuning scaling factor is not read.")
    path = folder.resolve().as_posix()
    if "embedding" in path.rsplit("/", 3)[-3:] or "/embedding/" in f"{path}/":
        raise ConfigError(
            f"{folder} reads embeddings before Gemma multiplies them by the root of their width: the lake has no site "
            "for that."
        )
    layer = re.search(r"layer_(\d+)", path)
    kind = re.search(r"gemma-scope-[0-9a-z]+-(?:pt|it)-(res|mlp|att)", path)
    metadata: dict[str, object] = {"prepend_bos": True, "context_size": 1024}
    if layer and kind:
        metadata["hook_name"] = hook_of(int(layer[1]), KINDS[kind[1]])
    if model := re.search(r"gemma-scope-([0-9]+b)-(pt|it)", path):
        metadata["model_name"] = f"google/gemma-2-{model[1]}" + ("-it" if model[2] == "it" else "")
    return checked(SaeWeights(folder.name, "gemma_scope", "jumprelu", weights, False, metadata=metadata))
