"""An autoencoder of the lake as a SAELens folder on disk."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import NotFoundError, UsageError, did_you_mean
from ..output.files import replace_file
from .saelens.reading import CONFIG, WEIGHTS
from .saelens.writing import PROVENANCE

if TYPE_CHECKING:
    from ..lake import Lake


def export_sae(lake: "Lake", name: str, folder: Path) -> list[str]:
    """Write its three files; z is given by heads there, as SAELens's hooks have it."""
    run_id, sae_id = _named(lake, name)
    config = json.loads(lake.blob(run_id, f"{sae_id}/{CONFIG}"))
    if "hook_z" in str((config.get("metadata") or {}).get("hook_name")):
        config["reshape_activations"] = "hook_z"
    files = {
        CONFIG: (json.dumps(config, ensure_ascii=False, indent=1) + "\n").encode(),
        WEIGHTS: lake.blob(run_id, f"{sae_id}/{WEIGHTS}"),
        PROVENANCE: lake.blob(run_id, f"{sae_id}/{PROVENANCE}"),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for file, data in files.items():
        replace_file(folder / file, data)
    return list(files)


def _named(lake: "Lake", name: str) -> tuple[str, str]:
    """Run and id of the autoencoder that `name` means: its id, or a unique beginning of it."""
    ids = {str(row["sae_id"]): str(row["run_id"]) for row in lake.scan("saes").collect().to_dicts()}
    found = [name] if name in ids else [sae_id for sae_id in ids if sae_id.startswith(name)]
    if not found:
        raise NotFoundError(f"There is no autoencoder {name!r}.{did_you_mean(name, ids)}")
    if len(found) > 1:
        raise UsageError(f"{name!r} is ambiguous: {', '.join(found)}.")
    return ids[found[0]], found[0]
