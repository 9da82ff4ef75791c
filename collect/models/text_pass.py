"""Which parts of a model read text: found by letting it read a few tokens, not by names."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...lake.errors import ConfigError

FAILURES = (RuntimeError, ValueError, TypeError, AttributeError, LookupError, AssertionError)
"""What architectures raise where they cannot read in some way."""


@dataclass(frozen=True)
class TextPass:
    """What ran when the model read a few tokens."""

    base: nn.Module
    """The module whose final-normed states the head reads; its forward takes token ids."""
    called: frozenset[nn.Module]
    """Every module that ran: the towers for images and sound of a model that can read text alone are not among them."""


def run_text(model: Any, inputs: dict[str, Tensor]) -> TextPass:
    """Let the model read `inputs`; ConfigError if what feeds its head cannot be told."""
    called: set[nn.Module] = set()
    open_calls: list[nn.Module] = []
    bases: list[nn.Module] = []

    def enter(module: nn.Module, args: Any) -> None:
        called.add(module)
        open_calls.append(module)

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        open_calls.pop()
        if not open_calls and isinstance(getattr(output, "last_hidden_state", None), Tensor):
            bases.append(module)

    handles = []
    for module in model.modules():
        if module is not model:
            handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    try:
        with torch.no_grad():
            model(**inputs, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    if model.config.is_encoder_decoder and bases:
        # What the head calls may be both stacks in one: the states it reads are those of the second.
        bases.append(model.get_decoder())
    if not bases:
        raise ConfigError(
            f"{type(model).__name__} cannot be collected: it reads tokens, but none of its parts returns the final "
            "states that its head reads. tracelake reads models of transformers whose base model is a module."
        )
    return TextPass(bases[-1], frozenset(called))


def assumed_text(model: Any) -> TextPass:
    """The same for a model without weights, which cannot run: what it calls its decoder."""
    base = model.get_decoder() or model.base_model
    parts = set(base.modules())
    if model.config.is_encoder_decoder:
        parts |= set(model.get_encoder().modules())
    return TextPass(base, frozenset(parts))


def run_shapes(model: Any, inputs: dict[str, Tensor]) -> TextPass:
    """What `run_text` finds, for a model without weights: shapes alone pass through it; ConfigError if they cannot."""
    given = {name: ids.to("meta") for name, ids in inputs.items()}
    # Without masks, and for fused attention, transformers looks at values.
    given |= {name.replace("input_ids", "attention_mask"): torch.ones_like(ids) for name, ids in given.items()}
    chosen = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        return run_text(model, given)
    except FAILURES as error:
        raise ConfigError(
            f"{type(model).__name__} has several lists of blocks, and which of them read text shows only with its "
            f"weights ({str(error).splitlines()[0]}): it can be collected, but not planned. Leave out --dry-run."
        ) from error
    finally:
        model.set_attn_implementation(chosen)


def text_inputs(model: Any, ids: Tensor) -> dict[str, Tensor]:
    """What a model is given to read `[batch pos]` tokens; a decoder fewer than an encoder: no state fits both."""
    return (
        {"input_ids": ids, "decoder_input_ids": ids[:, :3]} if model.config.is_encoder_decoder else {"input_ids": ids}
    )
