"""Published autoencoders into a lake: read by the format they are in, tried on the lake's own vectors, kept as a run.

The run is of the kind `import`; its one commit holds a row of `saes` and the folder as SAELens has it.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..derived import digest
from ..errors import ConfigError, NotFoundError, UsageError, did_you_mean
from ..lake import Lake
from ..reading.batches import keeps_vectors
from ..records.run_id import new_run_id
from ..shuffling.sampler import Sampler
from ..values import Json, JsonView
from ..vectors import to_float32
from .dictionary_learning.reading import WEIGHTS as PT_FILE
from .dictionary_learning.reading import read_dictionary_learning
from .gemma_scope.reading import PARAMS, read_gemma_scope
from .llama_scope.reading import CONFIG as HYPERPARAMS
from .llama_scope.reading import read_llama_scope
from .sae_weights import SaeWeights, checked, fvu, hook_of, place_of
from .saelens.reading import WEIGHTS, read_saelens
from .saelens.writing import saelens_files
from .sparsify.reading import WEIGHTS as SPARSIFY_WEIGHTS
from .sparsify.reading import read_sparsify

FORMATS: dict[str, str] = {
    "saelens": WEIGHTS,
    "sparsify": SPARSIFY_WEIGHTS,
    "gemma_scope": PARAMS,
    "llama_scope": HYPERPARAMS,
    "dictionary_learning": PT_FILE,
}
"""Formats by the file that a folder of each holds and no other does."""
TRIED_ROWS = 4096
"""Vectors on which an import is tried."""
ReadArrays = Callable[[Path], Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class SaeImport:
    """How a folder is to be read, where the folder does not say it or says it wrongly."""

    form: str | None = None
    layer: int | None = None
    site: str | None = None
    to_site: str | None = None
    run: str | None = None
    """Run whose vectors the autoencoder is tried on, and whose model it is of."""
    force: bool = False
    """Keep it although it cannot be tried, or reconstructs worse than the mean."""
    as_jumprelu: bool = False
    """Give a top-k transcoder a threshold that keeps as many features on average."""
    tag: str | None = None


@dataclass(frozen=True)
class ImportedSae:
    """What an import left."""

    run_id: str
    sae_id: str
    source: str
    arch: str
    layer: int
    site: str
    d_in: int
    d_sae: int
    fvu: float | None
    l0: float | None
    notices: tuple[str, ...]

    def as_dict(self) -> Json:
        """Plain values for JSON."""
        return dict(vars(self)) | {"notices": list(self.notices)}


@dataclass(frozen=True)
class Tried:
    """Vectors of a run on which an autoencoder was tried: what it reads, what it should write."""

    run_id: str
    x: np.ndarray
    y: np.ndarray


def read_sae(folder: Path, form: str | None, read_arrays: ReadArrays | None) -> SaeWeights:
    """The autoencoder in a folder of any of the formats; `read_arrays` reads .pt files, if that is wanted."""
    if not folder.is_dir():
        raise NotFoundError(f"There is no folder {folder}. Give the folder that holds the weights.")
    if form is None:
        form = next((name for name, file in FORMATS.items() if (folder / file).is_file()), None)
        if form is None:
            wanted = ", ".join(f"{file} ({name})" for name, file in FORMATS.items())
            raise UsageError(f"{folder} is in no known format: one of these files is looked for: {wanted}.")
    if form not in FORMATS:
        raise UsageError(f"There is no format {form!r}.{did_you_mean(form, FORMATS)}")
    if form == "dictionary_learning":
        if read_arrays is None:
            raise UsageError(
                f"{folder / PT_FILE} is a pickle. Only arrays are read of it; say that it may be: --allow-pt."
            )
        return read_dictionary_learning(folder, read_arrays(folder / PT_FILE))
    readers = {
        "saelens": read_saelens, "sparsify": read_sparsify, "gemma_scope": read_gemma_scope,
        "llama_scope": read_llama_scope,
    }  # fmt: skip
    return readers[form](folder)


def import_sae(lake: Lake, folder: Path, how: SaeImport, *, read_arrays: ReadArrays | None = None) -> ImportedSae:
    """Read a folder, try it, and keep it; a folder that fails leaves the lake as it was."""
    sae = read_sae(folder, how.form, read_arrays)
    layer, site, to_site = _places(sae, how)
    tried = _vectors(lake, sae, how, layer, site, to_site)
    notices: list[str] = []
    if sae.norm == "scale":
        sae = _folded(sae, tried, notices)
    if sae.activation == "topk" and sae.transcodes:
        sae = _thresholded(sae, how, tried)
    quality = None if tried is None else fvu(sae, tried.x, tried.y)
    if quality is not None and not quality < 1 and not how.force:
        raise ConfigError(
            f"{sae.name} reconstructs the vectors of run {tried.run_id if tried else ''} worse than their mean does "
            f"(FVU {quality:.2f}): it is of another model, layer or site, or was read wrongly. "
            "Say --layer and --site, or keep it with --force."
        )
    l0 = None if tried is None else float((sae.encode(tried.x) > 0).sum(axis=1).mean())
    metadata = {**sae.metadata, "hook_name": hook_of(layer, site)}
    if to_site is not None:
        metadata["hook_name_out"] = hook_of(layer, to_site)
    kept = replace(sae, metadata=metadata)
    run_id, sae_id = _keep(lake, kept, folder, how, tried, (layer, site, to_site), {"fvu": quality, "l0": l0})
    return ImportedSae(
        run_id, sae_id, sae.source, sae.activation, layer, site, sae.d_in, sae.d_sae, quality, l0, tuple(notices)
    )


def _places(sae: SaeWeights, how: SaeImport) -> tuple[int, str, str | None]:
    """Layer, site and, of a transcoder, the site that it writes; UsageError where nobody says them."""
    own = place_of(str(sae.metadata.get("hook_name") or ""))
    layer = how.layer if how.layer is not None else own[0] if own else None
    site = how.site or (own[1] if own else None)
    if layer is None or site is None:
        given = sae.metadata.get("hook_name")
        said = f"it is of {given!r}, which is no site of a lake" if given else "its folder does not say where it reads"
        raise UsageError(f"{sae.name}: {said}. Say --layer N --site NAME.")
    if not sae.transcodes and how.to_site is None:
        return layer, site, None
    out = place_of(str(sae.metadata.get("hook_name_out") or ""))
    to_site = how.to_site or (out[1] if out else None)
    if to_site is None or (out is not None and how.to_site is None and out[0] != layer):
        raise UsageError(f"{sae.name} transcodes; say which site of layer {layer} it writes: --to-site NAME.")
    return layer, site, to_site


def _vectors(lake: Lake, sae: SaeWeights, how: SaeImport, layer: int, site: str, to_site: str | None) -> Tried | None:
    """Some of the lake's own vectors of that place; None if there are none and --force was given."""
    to = None if to_site is None else (layer, to_site)
    try:
        run_id = lake.resolve_run(how.run or _newest(lake, layer, site))
        sampler = Sampler(lake, [run_id], layer, site, TRIED_ROWS, TRIED_ROWS, seed=0, to=to)
        pair = next(sampler.pairs(0)) if to else (next(sampler.batches(0)),) * 2
    except NotFoundError as error:
        if how.force:
            return None
        raise NotFoundError(
            f"{sae.name} cannot be tried, because there are no vectors of {site}@{layer} to try it on ({error}) "
            f"Collect some (--keep activations:{site}@{layer}) and name the run with --run, or keep it with --force."
        ) from error
    x, y = to_float32(pair[0], sampler.dtype), to_float32(pair[1], sampler.to_dtype or sampler.dtype)
    if (x.shape[1], y.shape[1]) != (sae.d_in, sae.d_out):
        raise ConfigError(
            f"{sae.name} reads vectors of {sae.d_in} and writes {sae.d_out}; those of run {run_id} have {x.shape[1]} "
            f"and {y.shape[1]}: it is of another model or site."
        )
    return Tried(run_id, x, y)


def _newest(lake: Lake, layer: int, site: str) -> str:
    """The newest run with vectors of that place: imports and trainings have none."""
    snapshot = lake.snapshot()
    kept = [row["run_id"] for row in lake.runs() if keeps_vectors(snapshot, row["run_id"], layer, site)]
    return kept[-1] if kept else "latest"


def _folded(sae: SaeWeights, tried: Tried | None, notices: list[str]) -> SaeWeights:
    """With the scale of its training data in the weights, as the lake's vectors tell it."""
    if tried is None:
        raise ConfigError(
            f"{sae.name} is for vectors scaled to a mean length of the root of their width, and only vectors tell the "
            "factor. Name a run that has some with --run."
        )
    scale = sae.d_in**0.5 / float(np.linalg.norm(tried.x.astype(np.float64), axis=1).mean())
    notices.append(f"{sae.name}: the scale of its input, {scale:.4g} by {len(tried.x):,} vectors, is folded into it.")
    return sae.scaled(scale)


def _thresholded(sae: SaeWeights, how: SaeImport, tried: Tried | None) -> SaeWeights:
    """A top-k transcoder as one with a threshold, if that was asked for: SAELens has no class for the former."""
    if not how.as_jumprelu or tried is None:
        raise ConfigError(
            f"{sae.name} is a top-k transcoder, for which SAELens has no class. --as-jumprelu gives it the threshold "
            "that keeps as many features on average over a run's vectors (--run)."
        )
    w = dict(sae.weights)
    pre = np.sort((tried.x @ w["W_enc"] + w["b_enc"]).ravel())
    least = max(0.0, float(pre[-int(sae.k or 1) * len(tried.x)]))
    w["threshold"] = np.full(sae.d_sae, np.nextafter(np.float32(least), np.float32(-np.inf)), np.float32)
    return checked(replace(sae, activation="jumprelu", k=None, weights=w))


def _keep(
    lake: Lake,
    sae: SaeWeights,
    folder: Path,
    how: SaeImport,
    tried: Tried | None,
    place: tuple[int, str, str | None],
    quality: JsonView,
) -> tuple[str, str]:
    layer, site, to_site = place
    model = {} if tried is None else dict(lake.run_json(tried.run_id).get("model") or {})
    model = model or {"name": sae.metadata.get("model_name")}
    sae_id = _sae_id(sae, str(model.get("name") or "model"), place)
    _check_new(lake, sae_id, folder)
    run_id = new_run_id(how.tag or "import")
    about = {"folder": str(folder.resolve()), "format": sae.source, "tried_on": tried and tried.run_id, **quality}
    files = saelens_files(sae, {"sae_id": sae_id, "run_id": run_id, **about})
    row = {
        "sae_id": sae_id, "arch": sae.activation, "layer": layer, "site": site,
        "to_layer": None if to_site is None else layer, "to_site": to_site, "d_in": sae.d_in, "d_out": sae.d_out,
        "d_sae": sae.d_sae, "k": sae.k, "source": sae.source, "config": _as_text(about),
        "weights_sha256": hashlib.sha256(files[WEIGHTS]).hexdigest(),
    }  # fmt: skip
    with lake.start_run(run_id, {"kind": "import", "tag": how.tag, "model": model, "source": about}) as run:
        with run.segment(0, (0, 1)) as segment:
            for name, data in files.items():
                segment.add_blob(f"{sae_id}/{name}", data)
            segment.append("saes", row)
        run.finish()
    return run_id, sae_id


def _check_new(lake: Lake, sae_id: str, folder: Path) -> None:
    """UsageError if the lake has it: two of one name could not be told apart."""
    same = [row["run_id"] for row in lake.scan("saes").collect().to_dicts() if row["sae_id"] == sae_id]
    if same:
        raise UsageError(f"{folder} is imported already, as {sae_id} of run {same[0]}.")


def _as_text(about: JsonView) -> str:
    """What an import was made from, as JSON text."""
    return json.dumps(about, ensure_ascii=False, sort_keys=True)


def _sae_id(sae: SaeWeights, model: str, place: tuple[int, str, str | None]) -> str:
    """model-site-layer-arch-width-hash: unique, and safe as the name of a folder."""
    name = "".join(c if c.isalnum() else "_" for c in model.rstrip("/").rpartition("/")[2])[:12].strip("_")
    head = name if name[:1].isalpha() else f"m{name}"
    layer, site, to_site = place
    where = site if to_site is None else f"{site}_to_{to_site}"
    code = digest(
        [sae.source, sae.name, [hashlib.sha256(w.tobytes()).hexdigest() for _, w in sorted(sae.weights.items())]]
    )
    return f"{head}-{where[:20]}-{layer}-{sae.activation}-{sae.d_sae}-{code[:8]}"
