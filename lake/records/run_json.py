"""run.json: the immutable description of a run, and what of it the store itself relies on."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, TypedDict, cast

from .. import layout
from ..errors import DamageError, NewerFormatError, NotFoundError, UsageError
from ..json_values import Time, check_types, parse
from ..layout import RUN_ID, check_name
from ..schema import SCHEMA_VERSION
from ..storage.store import Store
from ..tables.key_columns import BOOL, I32, TEXT
from ..tables.kind import Kind
from ..tables.runs import RUNS
from ..values import Json, JsonView
from . import commits

FORMAT_VERSION = 2
"""Of lakes and runs: raised when an older tracelake could read one wrongly. 2: checksums are BLAKE3."""
MODEL_KEYS = {
    "model": "name",
    "model_revision": "revision",
    **{
        name: name
        for name in (
            "weights_sha256", "tokenizer_sha256", "architecture", "attn_implementation", "quantization",
            "is_encoder_decoder", "n_layers", "n_heads", "d_model", "d_vocab", "dtype", "device",
        )
    },
}  # fmt: skip
"""Columns of `runs` that come from `model`, and their keys there."""

TOMBSTONES = "tombstones"
"""Key of run.json in runs that only a sealed tombstone removes; older versions wrote plain ones."""
OWN = frozenset({"created_at"})
"""Keys of run.json that the writer who starts a run decides alone."""

_TYPES: dict[Kind, Any] = {TEXT: str, BOOL: bool, I32: int}
_MODEL_KINDS = {key: _TYPES[RUNS.column(column).kind] | None for column, key in MODEL_KEYS.items()}
_KINDS: Json = {
    "run_id": str, "format_version": int, "schema_version": int, "created_at": Time | None, "tag": str | None,
    "kind": str | None, "seed": int | None, "model": Json | None, "config": Json | None,
    "versions": Json | None, "plan": Json | None, "source": Json | None,
    "unmeasured": Json | None, "experiment": Json | None,
}  # fmt: skip


class RunJson(TypedDict, total=False):
    """What run.json says of a run; its keys are checked to be of these types when it is read."""

    run_id: str
    format_version: int
    schema_version: int
    tombstones: str
    created_at: str | None
    tag: str | None
    kind: str | None
    seed: int | None
    model: Json | None
    """Facts of the model (`MODEL_KEYS`), and whatever else its collector knew."""
    config: Json | None
    versions: Json | None
    plan: Json | None
    source: Json | None
    experiment: Json | None
    """`id` and `step`, of a run that belongs to an experiment."""
    unmeasured: Json | None
    """What could not be measured, and why, by table."""
    notices: list[str]


def read_run_json(store: Store, run_id: str) -> tuple[RunJson, str]:
    """run.json and the digest that the first records carry; NotFoundError if there is no such run."""
    name = layout.run_json(run_id)
    try:
        data = store.read(name)
    except FileNotFoundError:
        raise NotFoundError(f"There is no run {run_id!r} in the lake {store.path}.") from None
    except OSError:
        data = commits.read(store, name, run_id)  # to say it in the words of records
    what = f"run.json of run {run_id} ({store.path}/{name})"
    body = parse(data, what)
    check_run_json(body, run_id, what)
    return cast(RunJson, body), hashlib.sha256(data).hexdigest()


def check_run_json(body: JsonView, run_id: str, what: str) -> None:
    """DamageError for values of types that do not belong there, NewerFormatError for a run of a later version."""
    check_types(body, _KINDS, what)
    check_types(body.get("model") or {}, _MODEL_KINDS, f"{what} (its model)")
    experiment = {"id": str | None, "step": str | None}
    check_types(body.get("experiment") or {}, experiment, f"{what} (its experiment)")
    kinds = {"format": str | None, "records": list[Json] | None}
    check_types(body.get("source") or {}, kinds, f"{what} (its source)")
    segments = (body.get("plan") or {}).get("segments")
    check_types({"segments": segments}, {"segments": list[list[int]] | None}, f"{what} (its plan)")
    if body.get("run_id", run_id) != run_id:
        raise DamageError(f"{what} is of run {body['run_id']!r}: somebody moved or changed it. Run `lake verify`.")
    wide = [
        value for value in (body.get("model") or {}).values() if type(value) is int and not -(2**31) <= value < 2**31
    ]
    if wide or any(len(pair) != 2 or not 0 <= pair[0] <= pair[1] for pair in segments or []):
        raise DamageError(f"{what} cannot be read: a size or a range in it cannot be. Run `lake verify`.")
    if body.get("format_version", 1) > FORMAT_VERSION or body.get("schema_version", 1) > SCHEMA_VERSION:
        raise NewerFormatError(
            f"Run {run_id} was written with format {body.get('format_version')}, schema {body.get('schema_version')}; "
            f"this tracelake reads up to {FORMAT_VERSION} and {SCHEMA_VERSION}. Install a newer tracelake."
        )


def encode_run_json(run_id: str, run_json: Mapping[str, object]) -> bytes:
    """The bytes of run.json; UsageError for what no reader could read."""
    check_name(run_id, RUN_ID, "run id")
    body = {"run_id": run_id, "format_version": FORMAT_VERSION, "schema_version": SCHEMA_VERSION, TOMBSTONES: "sealed"}
    body |= {"created_at": commits.now()} | dict(run_json)
    if body["run_id"] != run_id:
        raise UsageError(f"run.json is of run {body['run_id']!r}, not {run_id!r}.")
    try:
        data = (json.dumps(body, ensure_ascii=False, indent=1, allow_nan=False) + "\n").encode()
        check_run_json(parse(data, "run.json"), run_id, "run.json")
    except (DamageError, ValueError, TypeError) as error:
        raise UsageError(f"The description of run {run_id} cannot be written: {error}") from error
    return data
