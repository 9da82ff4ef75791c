"""Stored sequences read by their model again: whole, without a cache, with gradients where they are asked for."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from ..lake import Lake
from ..lake.errors import ConfigError, UsageError
from ..lake.values import JsonView
from .decoding import sequence as decoding
from .decoding.batch import Batch
from .decoding.reading.reading import Reading
from .decoding.reading.replay import encode
from .models.loading.load import BUNDLED, load_model
from .models.loading.partial import load_readout
from .models.model import DTYPES, LoadedModel
from .models.readout import Readout

SAME_MODEL = ("architecture", "weights_sha256", "config_sha256", "tokenizer_sha256", "revision")
"""Facts in which a model must be the one that a run was collected with."""


def stored_sequences(lake: Lake, run_id: str, sequence_ids: Sequence[int]) -> list[decoding.Sequence]:
    """These sequences as the model read them: all of their completion is given."""
    if lake.run_json(run_id).get("edits"):
        raise ConfigError(
            f"Run {run_id} was collected with --edit: a pass of the model alone would compute other states than are "
            f"stored. Read its tokens without edits first: lake collect --continue {run_id} --max-new-tokens 0"
        )
    wanted = pl.col("sequence_id").is_in(list(sequence_ids))
    tokens = (
        lake.scan("token_steps", run_id)
        .filter(wanted)
        .sort("sequence_id", "position")
        .group_by("sequence_id", maintain_order=True)
        .agg("token_id", (pl.col("stack") == "encoder").sum().alias("n_encoded"), pl.col("is_prompt").sum())
        .collect()
    )
    about = lake.scan("sequences", run_id).filter(wanted).select("sequence_id", "sample").collect()
    samples = dict(about.iter_rows())
    found = []
    for sequence_id, ids, n_encoded, n_prompt in tokens.iter_rows():
        prompt = np.array(ids[:n_prompt], dtype=np.int64)
        one = decoding.Sequence(sequence_id, 0, samples.get(sequence_id) or 0, prompt, n_encoded=n_encoded)
        one.given = tuple(ids[n_prompt:])
        one.begin()
        found.append(one)
    return found


def batches_of(
    sequences: Sequence[decoding.Sequence], reading: Reading, batch_size: int
) -> Iterator[list[decoding.Sequence]]:
    """Sequences that may share a pass, the longest first, at most `batch_size` at a time."""
    groups: dict[Any, list[decoding.Sequence]] = {}
    for one in sorted(sequences, key=lambda s: -s.n_opening):
        key = one.sequence_id if reading.alone else reading.group(one.n_encoded, one.n_opening, 0)
        groups.setdefault(key, []).append(one)
    for group in groups.values():
        yield from (group[start : start + batch_size] for start in range(0, len(group), batch_size))


class StoredBatch:
    """Stored sequences laid out for one pass over all of their tokens, left-padded, without a cache."""

    def __init__(self, loaded: LoadedModel, sequences: list[decoding.Sequence], reading: Reading) -> None:
        self.sequences = sequences
        self._batch = Batch(loaded, sequences, replace(reading, uncached=True, whole_prompts=True), room=0)
        self._batch.encoded = encode(loaded, sequences)
        self.width = self._batch.width
        self.pads = self._batch.pads
        """Columns of padding before each row's first token."""
        self.ids = self._batch.ids

    def read(self) -> Float[Tensor, "row column d_model"]:
        """Final-normed states of all columns; hooks that are attached see the whole pass."""
        return self._batch.read(0, self.width)

    def column(self, row: int, position: int) -> int:
        """Where in the row a position of its sequence stands."""
        return position - self.sequences[row].n_encoded + int(self.pads[row])


@contextmanager
def computing(*, gradients: bool = False) -> Iterator[None]:
    """Inside the block nothing is remembered for gradients, or, where they are asked for, everything."""
    with torch.enable_grad() if gradients else torch.inference_mode():
        yield


def model_facts(lake: Lake, run_id: str) -> JsonView:
    """What run.json says of the model; nothing where the run has none."""
    return lake.run_json(run_id).get("model") or {}


def model_name(lake: Lake, run_id: str, named: str | None = None) -> str:
    """The model of a run as it can be loaded here, or the one that was `named`.

    A lake may come from somebody else: only the bundled model and a folder of this machine are loaded unasked.
    """
    name = named or model_facts(lake, run_id).get("name")
    if not isinstance(name, str):
        raise ConfigError(f"Run {run_id} names no model (it was imported?): there is nothing that could read it again.")
    if named is None and name != BUNDLED and not Path(name).is_dir():
        raise UsageError(
            f"Run {run_id} was collected with the model {name!r}, which is no folder here; loading it would reach "
            f"outside of this machine. If you want that, say so: --model {name}"
        )
    return name


def load_run_model(
    lake: Lake, run_id: str, *, model: str | None = None, device: str = "cpu", dtype: str | None = None
) -> LoadedModel:
    """The model that a run was collected with; ConfigError if what is loaded is another one.

    `dtype` None computes in the run's own number format.
    """
    about, stored = lake.run_json(run_id), model_facts(lake, run_id)
    name = model_name(lake, run_id, model)
    loaded = load_model(
        name,
        revision=stored.get("revision") if name == stored.get("name") else None,
        dtype=dtype or stored.get("dtype") or "auto",
        device=device,
        attn_implementation=_implementation(stored.get("attn_implementation")),
        allow_missing=bool((about.get("config") or {}).get("allow_missing")),
    )
    check_same_model(run_id, stored, loaded.describe())
    return loaded


def load_run_readout(lake: Lake, run_id: str, *, model: str | None = None, device: str = "cpu") -> Readout | None:
    """Final norm and unembedding of the run's model alone, in the run's number format; None where that cannot be.

    ConfigError if the model is another one.
    """
    name, stored = model_name(lake, run_id, model), model_facts(lake, run_id)
    dtype = stored.get("dtype")
    if dtype not in DTYPES or stored.get("quantization") is not None:
        return None
    readout = load_readout(name, dtype=dtype, device=device)
    if readout is not None:
        check_same_model(run_id, stored, readout.loaded.describe())
    return readout


def check_same_model(run_id: str, stored: JsonView, now: JsonView) -> None:
    """ConfigError if a model is not the one that the run was collected with."""
    for fact in SAME_MODEL:
        if stored.get(fact) not in (None, now.get(fact)):
            raise ConfigError(
                f"Run {run_id} was collected with another model: its {fact} is {stored[fact]}, that of {now['name']!r} "
                f"is {now.get(fact)}. Give the model it was collected with: --model NAME_OR_FOLDER."
            )


def _implementation(stored: str | None) -> str | None:
    return stored if stored in ("eager", "sdpa") else None
