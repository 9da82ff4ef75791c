"""What a run keeps: the `--keep` items, parsed and checked."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from ..lake.errors import ConfigError, UsageError, did_you_mean
from .models.site_names import check_site

DEFAULT_KEEP = ("tokens", "layers", "heads", "activations:resid_post")
PLAIN_ITEMS = ("tokens", "layers", "heads", "edges", "embeddings")
SCOPES = ("prompt", "generated", "last")

_ITEM = re.compile(r"activations:(?P<site>[^@:]+)(?:@(?P<layers>[^:]+))?(?::(?P<scope>.+))?")
_RANGE = re.compile(r"(-?\d+)(?:-(\d+))?")


@dataclass(frozen=True)
class ActivationKeep:
    """Vectors of one site at some layers; `scope` limits them to the prompt, the generated tokens or the last token."""

    site: str
    layers: str | None
    scope: str | None

    def resolve(self, n_layers: int, deepest: int = 0) -> list[int]:
        """Block indexes of `layers` in a stack of `n_layers`; ConfigError for a layer that does not exist.

        Another stack of the model may be deeper, with `deepest` layers: a layer that only that one has is no error.
        """
        if self.site == "final_norm":
            return [n_layers - 1]
        if self.layers is None:
            return list(range(n_layers))
        found: set[int] = set()
        for part in self.layers.split(","):
            found.update(_layer_range(part, n_layers, max(n_layers, deepest), self.layers))
        return sorted(found)


def _layer_range(part: str, n_layers: int, deepest: int, given: str) -> Iterable[int]:
    match = _RANGE.fullmatch(part.strip())
    if match is None:
        raise UsageError(f"Layers {given!r} cannot be read at {part!r}. Write numbers or ranges, e.g. 0,6,-1 or 8-11.")
    first = int(match[1])
    last = int(match[2]) if match[2] else first
    for layer in (first, last):
        if not -deepest <= layer < deepest:
            raise ConfigError(
                f"There is no layer {layer}: the model has {deepest} layers, 0 to {deepest - 1} (-1 is the last)."
            )
    if last < first and match[2]:
        raise UsageError(f"Layers {given!r}: the range {part!r} runs backwards.")
    return (layer % n_layers for layer in range(first, last + 1) if -n_layers <= layer < n_layers)


@dataclass(frozen=True)
class Keep:
    """The resolved `--keep`: which tables are filled, and with which vectors."""

    tokens: bool
    layers: bool
    heads: bool
    edges: bool
    embeddings: bool
    activations: tuple[ActivationKeep, ...]

    @classmethod
    def parse(cls, items: Iterable[str]) -> "Keep":
        """Read items as the command line gives them (each may hold several, separated by commas)."""
        plain: set[str] = set()
        activations = []
        for item in split_items(items):
            if item in PLAIN_ITEMS:
                plain.add(item)
            elif (match := _ITEM.fullmatch(item)) is not None:
                activations.append(_activation(match))
            else:
                names = [*PLAIN_ITEMS, "activations:SITE[@LAYERS][:prompt|:generated|:last]"]
                raise UsageError(f"Cannot keep {item!r}.{did_you_mean(item, names)}")
        return cls(
            tokens="tokens" in plain,
            layers="layers" in plain,
            heads="heads" in plain,
            edges="edges" in plain,
            embeddings="embeddings" in plain,
            activations=tuple(activations),
        )


def _activation(match: re.Match[str]) -> ActivationKeep:
    check_site(match["site"])
    if match["scope"] is not None and match["scope"] not in SCOPES:
        raise UsageError(f"Cannot keep {match[0]!r}: the part after the colon must be one of {', '.join(SCOPES)}.")
    return ActivationKeep(match["site"], match["layers"], match["scope"])


def split_items(items: Iterable[str]) -> list[str]:
    """Split at commas; after a comma a bare number or range continues the layer list before it."""
    found: list[str] = []
    for item in items:
        for part in item.split(","):
            part = part.strip()
            if found and re.fullmatch(r"-?\d+(-\d+)?(:\w+)?", part) and "@" in found[-1]:
                found[-1] += "," + part
            elif part:
                found.append(part)
    return found
