"""Whether a checkpoint held exactly the weights that the model needs; what is missing would be random numbers."""

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from ...lake.errors import ConfigError
from ...lake.values import Json

SHOWN = 5
LOOKED_AT = (torch.float64, torch.float32, torch.float16, torch.bfloat16)

# Tied heads and what an architecture itself ignores are left out by transformers already. Older versions also saved
# buffers that follow from the configuration: causal masks, rotary frequencies, position numbers, format versions.
HARMLESS_UNEXPECTED = re.compile(
    r"(^|\.)(attn|attention|self_attn|self_attention)\.(bias|masked_bias|causal_mask)$"
    r"|(^|\.)rotary_emb\.(inv_freq|original_inv_freq|cos_cached|sin_cached)$"
    r"|(^|\.)(position_ids|embed_positions\.(weights|_float_tensor))$"
    r"|(^|\.)(encoder|decoder)\.version$"
)
# Zero unless somebody trained one: BART and its kind add it to the logits.
HARMLESS_MISSING = re.compile(r"(^|\.)(final_logits_bias|rotary_emb\.inv_freq|position_ids)$")

_BLOCK = re.compile(r"(.*?\.\d+)\.")


@dataclass(frozen=True)
class WeightGaps:
    """Weights that model and checkpoint do not have in common; false where they fit."""

    missing: tuple[str, ...] = ()
    """Needed by the model, not in the file: initialised at random."""
    unexpected: tuple[str, ...] = ()
    """In the file, not in the model: left out."""
    mismatched: tuple[str, ...] = ()
    """Of another shape in the file, `name (file AxB, model CxD)`: initialised at random."""

    @classmethod
    def of(cls, info: Json) -> "WeightGaps":
        """What remains of transformers' loading information without what is known to be harmless."""
        return cls(
            tuple(sorted(key for key in info["missing_keys"] if not HARMLESS_MISSING.search(key))),
            tuple(sorted(key for key in info["unexpected_keys"] if not HARMLESS_UNEXPECTED.search(key))),
            tuple(
                f"{key} (file {_shape(in_file)}, model {_shape(in_model)})"
                for key, in_file, in_model in sorted(info["mismatched_keys"])
            ),
        )

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.mismatched)

    def describe(self) -> dict[str, list[str]]:
        """The names for run.json, none where everything fits."""
        return {f"{kind}_weights": list(names) for kind, names in asdict(self).items() if names}

    def sentence(self) -> str:
        """Which weights, in words."""
        parts = [
            (self.missing, "missing in the checkpoint"),
            (self.unexpected, "in the checkpoint but not in the model"),
            (self.mismatched, "of another shape in the checkpoint"),
        ]
        return "; ".join(f"{_count(names)} {where}: {_some(names)}" for names, where in parts if names)

    def refuse(self, name: str, model: Any) -> ConfigError:
        """The error for a model that has gaps."""
        return ConfigError(
            f"Model {name!r}: {self.sentence()}. {self._reason(model)}Give a checkpoint that was saved with its own "
            "config.json; --allow-missing runs it all the same, with random numbers for what is missing or of another "
            "shape and without what is not in the model, and records that in run.json."
        )

    def _reason(self, model: Any) -> str:
        prefix = _common_prefix(self.missing, self.unexpected)
        if prefix is not None:
            wrapped = " (saved from torch.compile: save `model._orig_mod` instead)" if "_orig_mod." in prefix else ""
            return f"The names in the checkpoint begin with {prefix!r}{wrapped}; remove that. "
        if self.missing and all("head" in name or "embed_out" in name for name in self.missing):
            return "It has no language-modelling head: a base model or a classifier cannot predict tokens. "
        n_layers = getattr(model.config.get_text_config(), "num_hidden_layers", None)
        blocks = {_block(name) for name in model.state_dict()} - {None}
        if self.unexpected and all(_block(name) is not None for name in self.unexpected):
            if not {_block(name) for name in self.unexpected} & blocks:
                return f"It has more layers than the {n_layers} of config.json. "
        here = {_block(name) for name in model.state_dict() if name not in self.missing}
        if blocks - here:
            return f"It has fewer layers than the {n_layers} of config.json. "
        return ""


def broken_weights(model: nn.Module) -> tuple[str, ...]:
    """Names of the parameters that hold NaN or infinite numbers; those that are not loaded are not looked at."""
    held = {
        name: weight
        for name, weight in model.named_parameters()
        if weight.dtype in LOOKED_AT and weight.numel() and weight.device.type != "meta"
    }
    ends = [torch.stack(torch.aminmax(weight.detach())).float().isfinite().all() for weight in held.values()]
    # Asked once, where the weights are: an answer per weight would cost a transfer each.
    finite = torch.stack([end.to(ends[0].device) for end in ends]).tolist() if ends else []
    return tuple(name for name, is_finite in zip(held, finite, strict=True) if not is_finite)


def broken_sentence(names: tuple[str, ...]) -> str:
    """What to say of such a model."""
    holds = "holds" if len(names) == 1 else "hold"
    return (
        f"{_count(names)} {holds} NaN or infinite numbers: {_some(names)}. The checkpoint is damaged: whatever is "
        "computed from there on means nothing, even where it looks like numbers (some attention functions hide NaN)."
    )


def _block(name: str) -> str | None:
    """The block that a weight belongs to, `model.layers.3`; None outside of blocks."""
    match = _BLOCK.match(name)
    return None if match is None else match[1]


def _shape(size: Iterable[int]) -> str:
    return "x".join(str(length) for length in size)


def _count(names: tuple[str, ...]) -> str:
    return f"{len(names):,} weight{'' if len(names) == 1 else 's'}"


def _some(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN])}{more}"


def _common_prefix(missing: tuple[str, ...], unexpected: tuple[str, ...]) -> str | None:
    """What stands before every name in the file, if without it the names are those that are missing."""
    wanted = set(missing)
    prefixes = {name[: -len(end)] for name in unexpected for end in wanted if name.endswith("." + end)}
    shared = [prefix for prefix in prefixes if all(name.startswith(prefix) for name in unexpected)]
    return max(shared, key=len, default=None)
