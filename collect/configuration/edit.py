"""`--edit` items, parsed and checked: what the model is to compute otherwise, and where; importing this loads no torch.

KIND:SITE@LAYERS[:direction=FILE|ID][:xSTRENGTH][:neurons=LIST|:heads=LIST][:SCOPE], e.g. `zero:attn_out@3`.
"""

import math
import re
from dataclasses import dataclass

from ...lake.errors import UsageError, did_you_mean
from ..models.sites.site_names import ATTENTION_SITES, check_site
from .keep import ActivationKeep

KINDS = {"zero": False, "mean": True, "add": True, "project_out": True}
"""Kinds of edits, and whether they need a vector."""
EDIT_SCOPES = ("all", "prompt", "generated", "last")
"""Which positions p change: all; p < n_prompt; p >= n_prompt - 1, since the last prompt token's state predicts the
first generated one; p = n_prompt - 1."""
UNIT_SITES = {"mlp_post": "neurons", **dict.fromkeys(("z", *ATTENTION_SITES), "heads")}
HEAD_SITES = tuple(site for site, unit in UNIT_SITES.items() if unit == "heads")
SHAPE = "KIND:SITE@LAYERS[:direction=FILE|ID][:xSTRENGTH][:neurons=LIST|:heads=LIST][:SCOPE]"

_PLACE = re.compile(r"(?:(?P<stack>encoder|decoder)\.)?(?P<site>[^@]+)@(?P<layers>.+)|(?P<final>final_norm)")
_STRENGTH = re.compile(r"x(?P<strength>[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?)", re.IGNORECASE)
_OPTION = re.compile(r"(?P<name>direction|vector|neurons|heads)=(?P<value>.*)")


@dataclass(frozen=True)
class EditSetting:
    """One `--edit`, for every layer that it names."""

    text: str
    kind: str
    site: str
    layers: str | None
    stack: str
    source: str | None
    """Where the vector comes from: a stored direction's id, or a file, see `is_file`."""
    strength: float
    units: tuple[int, ...] | None
    scope: str

    @classmethod
    def parse(cls, text: str) -> "EditSetting":
        """Read one item; UsageError or ConfigError that says what is wrong with it."""
        kind, _, rest = text.partition(":")
        if kind not in KINDS:
            raise UsageError(f"--edit {text!r}: no kind {kind!r}.{did_you_mean(kind, tuple(KINDS), show=4)} {SHAPE}")
        place, *parts = rest.split(":")
        found = _PLACE.fullmatch(place)
        if found is None:
            raise UsageError(f"--edit {text!r}: {place!r} names no site and layers. Write {SHAPE}.")
        site = found["final"] or found["site"]
        check_site(site)
        options, strength, scope = _options(text, parts)
        units = _units(text, site, options)
        source = options.get("direction", options.get("vector"))
        if KINDS[kind] and not source:
            raise UsageError(
                f"--edit {text!r}: {kind} needs a vector. Add :direction=FILE (.npy or .safetensors) or the id of a "
                "stored direction."
            )
        if source is not None and not KINDS[kind]:
            raise UsageError(f"--edit {text!r}: {kind} takes no vector; leave out direction=.")
        if strength is not None and kind != "add":
            raise UsageError(f"--edit {text!r}: only add has a strength; leave out x{strength:g}.")
        stack = found["stack"] or "decoder"
        if stack == "encoder" and scope in ("generated", "last"):
            raise UsageError(f"--edit {text!r}: an encoder reads the prompt only; use scope all or prompt.")
        return cls(
            text, kind, site, None if found["final"] else found["layers"], stack, source,
            1.0 if strength is None else strength, units, scope,
        )  # fmt: skip

    @property
    def is_file(self) -> bool:
        """Whether the vector is in a file: `.npy`, or `.safetensors`, with `#NAME` where it holds several."""
        return is_vector_file(self.source or "")

    def resolve(self, n_layers: int) -> list[int]:
        """The layers that it names, in a stack of `n_layers`."""
        return ActivationKeep(self.site, self.layers, None).resolve(n_layers)


def is_vector_file(source: str) -> bool:
    """Whether a direction is named by a file, and not by its id."""
    name = source.partition("#")[0]
    return name.endswith((".npy", ".safetensors")) or "/" in name or "\\" in name


def _options(text: str, parts: list[str]) -> tuple[dict[str, str], float | None, str]:
    options: dict[str, str] = {}
    strength, scope, last = None, "all", ""
    for part in parts:
        if part in EDIT_SCOPES:
            scope = part
        elif (match := _STRENGTH.fullmatch(part)) is not None:
            strength = float(match["strength"])
            if not math.isfinite(strength):
                raise UsageError(f"--edit {text!r}: the strength {part!r} is not a number.")
        elif (match := _OPTION.fullmatch(part)) is not None:
            last = match["name"]
            options[last] = match["value"]
        elif last in ("direction", "vector"):
            # The path of a file may hold colons.
            options[last] += f":{part}"
        else:
            raise UsageError(f"--edit {text!r}: cannot read {part!r}.{did_you_mean(part, EDIT_SCOPES, show=4)} {SHAPE}")
    return options, strength, scope


def _units(text: str, site: str, options: dict[str, str]) -> tuple[int, ...] | None:
    for name in ("neurons", "heads"):
        if name not in options:
            continue
        if UNIT_SITES.get(site) != name:
            raise UsageError(f"--edit {text!r}: neurons are chosen of mlp_post, heads of {', '.join(HEAD_SITES)}.")
        found: list[int] = []
        for part in options[name].split(","):
            match = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
            if match is None or int(match[2] or match[1]) < int(match[1]):
                raise UsageError(f"--edit {text!r}: cannot read {name}={options[name]}. Write 0,5 or 8-11.")
            found += range(int(match[1]), int(match[2] or match[1]) + 1)
        return tuple(dict.fromkeys(found))
    return None
