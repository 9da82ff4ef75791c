"""What is known of a sequence beside its tokens: a column of `sequences`, or a key of its `metadata`."""

import json
from typing import Any

import polars as pl

from ..lake.errors import UsageError, did_you_mean

_NO_GROUPS = {"run_id", "sequence_id", "metadata", "prompt", "rendered_prompt", "completion"}


def attribute(sequences: pl.DataFrame, name: str, option: str) -> pl.Series:
    """The values called `name`, null where a sequence has none; UsageError for a name that no sequence has."""
    plain = [c for c, kind in sequences.schema.items() if c not in _NO_GROUPS and not kind.is_nested()]
    if name in plain:
        return sequences[name]
    metadata = [json.loads(text) if text else {} for text in sequences["metadata"].to_list()]
    keys = sorted({key for one in metadata for key, value in one.items() if not isinstance(value, dict | list)})
    if name not in keys:
        raise UsageError(
            f"{option} {name!r} is no column of `sequences` and no key of their metadata."
            f"{did_you_mean(name, [*plain, *keys], show=40)}"
        )
    values = [one.get(name) for one in metadata]
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) > 1:
        return pl.Series(name, [None if value is None else str(value) for value in values], pl.String)
    return pl.Series(name, values)


def metadata_values(sequences: pl.DataFrame, key: str) -> list[str | None]:
    """The values of a key of their metadata as text, None where a sequence has none."""
    values = [(json.loads(text) if text else {}).get(key) for text in sequences["metadata"].to_list()]
    return [None if value is None else str(value) for value in values]


def groups(sequences: pl.DataFrame, name: str, option: str) -> pl.Series:
    """The same values as text, for groups."""
    values: list[Any] = attribute(sequences, name, option).to_list()
    return pl.Series(name, [None if value is None else str(value) for value in values], pl.String)


def labels(sequences: pl.DataFrame, label: str) -> pl.Series:
    """True, false or null per sequence: a truth column, or `COLUMN=VALUE`."""
    name, equals, wanted = label.partition("=")
    if equals:
        texts = groups(sequences, name, "--label")
        known = sorted(set(texts.drop_nulls().to_list()))
        if wanted not in known:
            raise UsageError(f"--label {label}: no sequence has {name} {wanted!r}.{did_you_mean(wanted, known)}")
        return texts == wanted
    values = attribute(sequences, name, "--label")
    if values.dtype != pl.Boolean:
        known = ", ".join(sorted(set(groups(sequences, name, "--label").drop_nulls().to_list()))[:6])
        raise UsageError(f"--label {name} is not true or false. Say which value is meant: {name}=VALUE ({known}).")
    return values
