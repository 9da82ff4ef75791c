"""What a run keeps: the `--keep` items, parsed and checked."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from ...lake.errors import ConfigError, UsageError, did_you_mean
from ..models.sites.site_names import check_site

DEFAULT_KEEP = ("tokens", "layers", "heads", "activations:resid_post")
PLAIN_ITEMS = ("tokens", "layers", "heads", "embeddings")
EDGES = {"edges": ("prompt", "generated"), "edges:prompt": ("prompt",), "edges:generated": ("generated",)}
"""Which queries the kept attention edges are of."""
SCOPES = ("prompt", "generated", "last")
EVERY_SITE = "all"

_ITEM = re.compile(r"activations:(?P<site>[^@:]+)(?:@(?P<layers>[^:]+))?(?::(?P<scope>.+))?")
_PATTERN = re.compile(r"pattern@(?P<heads>[^:]+)(?::(?P<scope>.+))?")
_HEADS = re.compile(r"(?P<layers>\*|-?\d+(?:-\d+)?)\.(?P<head>\*|\d+)")
_CONTINUES = {"activations": re.compile(r"-?\d+(-\d+)?(:\w+)?"), "pattern": re.compile(_HEADS.pattern + r"(:\w+)?")}
"""What goes on with the layers or heads of the item before it."""
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


@dataclass(frozen=True)
class PatternKeep:
    """Whole attention rows of some heads, `LAYER.HEAD` with `*` for all; `scope` limits them to prompt or generated."""

    heads: str
    scope: str | None

    def resolve(self, n_layers: int, n_heads: int, deepest: int = 0) -> dict[int, frozenset[int]]:
        """Heads by layer in a stack of these sizes; ConfigError for a layer or head that does not exist."""
        found: dict[int, frozenset[int]] = {}
        for part in self.heads.split(","):
            match = _HEADS.fullmatch(part.strip())
            assert match is not None, "parsed"
            every = match["layers"] == "*"
            layers = (
                range(n_layers)
                if every
                else _layer_range(match["layers"], n_layers, max(n_layers, deepest), self.heads)
            )
            if match["head"] != "*" and int(match["head"]) >= n_heads:
                raise ConfigError(f"There is no head {match['head']}: layers have {n_heads} heads, 0 to {n_heads - 1}.")
            heads = range(n_heads) if match["head"] == "*" else (int(match["head"]),)
            for layer in layers:
                found[layer] = found.get(layer, frozenset()) | frozenset(heads)
        return found


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
    edges: frozenset[str]
    """Of which queries: prompt, generated; empty keeps none."""
    embeddings: bool
    activations: tuple[ActivationKeep, ...]
    patterns: tuple[PatternKeep, ...] = ()

    @classmethod
    def parse(cls, items: Iterable[str]) -> "Keep":
        """Read items as the command line gives them (each may hold several, separated by commas)."""
        plain: set[str] = set()
        edges: set[str] = set()
        activations, patterns = [], []
        for item in split_items(items):
            if item in PLAIN_ITEMS:
                plain.add(item)
            elif item in EDGES:
                edges.update(EDGES[item])
            elif (match := _ITEM.fullmatch(item)) is not None:
                activations.append(_activation(match))
            elif (match := _PATTERN.fullmatch(item)) is not None:
                patterns.append(_pattern(match))
            else:
                names = [*PLAIN_ITEMS, *EDGES, "activations:SITE[@LAYERS][:prompt|:generated|:last]"]
                names += ["activations:all", "pattern@LAYER.HEAD[:prompt|:generated]"]
                raise UsageError(f"Cannot keep {item!r}.{did_you_mean(item, names)}")
        return cls(
            tokens="tokens" in plain,
            layers="layers" in plain,
            heads="heads" in plain,
            edges=frozenset(edges),
            embeddings="embeddings" in plain,
            activations=tuple(activations),
            patterns=tuple(patterns),
        )


def _activation(match: re.Match[str]) -> ActivationKeep:
    if match["site"] != EVERY_SITE:
        check_site(match["site"])
    if match["scope"] is not None and match["scope"] not in SCOPES:
        raise UsageError(f"Cannot keep {match[0]!r}: the part after the colon must be one of {', '.join(SCOPES)}.")
    return ActivationKeep(match["site"], match["layers"], match["scope"])


def _pattern(match: re.Match[str]) -> PatternKeep:
    if match["scope"] not in (None, "prompt", "generated"):
        raise UsageError(f"Cannot keep {match[0]!r}: the part after the colon must be one of prompt, generated.")
    keep = PatternKeep(match["heads"], match["scope"])
    if wrong := [part for part in keep.heads.split(",") if _HEADS.fullmatch(part.strip()) is None]:
        raise UsageError(f"Heads {keep.heads!r} cannot be read at {wrong[0]!r}. Write LAYER.HEAD, e.g. 4.7,5.*,-1.0.")
    return keep


def split_items(items: Iterable[str]) -> list[str]:
    """Split at commas; after a comma a bare number or range (or LAYER.HEAD) continues the list before it."""
    found: list[str] = []
    for item in items:
        for part in item.split(","):
            part = part.strip()
            before = re.match(r"(activations|pattern)\b.*@", found[-1]) if found else None
            if before is not None and _CONTINUES[before[1]].fullmatch(part):
                found[-1] += "," + part
            elif part:
                found.append(part)
    return found
