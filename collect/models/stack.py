"""One tower of transformer blocks: all of a decoder-only model, or the encoder or the decoder of the others."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import nn

from ...lake.errors import ConfigError
from .rotary import LengthSwitch, find_switch
from .sites.anatomy import Anatomy, BlockParts, block_input, dissect, find_blocks
from .text_pass import TextPass

DECODER, ENCODER = "decoder", "encoder"
SELF, CROSS = "self", "cross"
CACHE_NAMES = ("past_key_values", "cache_params")
"""What models call the cache that they are given."""


def largest(config: Any, name: str) -> int | None:
    """A size that a configuration names; the largest where its layers have their own, None where it names none."""
    layers = config.per_layer_config if getattr(config, "is_heterogeneous", False) else (config,)
    sizes = [value for layer in layers if isinstance(value := getattr(layer, name, None), int)]
    return max(sizes, default=None)


@dataclass
class Stack:
    """A tower, its blocks and its kinds of attention; `name` is the value of the column `stack`."""

    name: str
    module: nn.Module
    """Its forward takes token ids and returns the final-normed states."""
    config: Any
    probe: Callable[[], object]
    """Runs the whole model on a few tokens."""
    blocks: nn.ModuleList
    kinds: tuple[str, ...] = (SELF,)
    takes_positions: bool = False
    """Whether its forward wants to be told the position of each token (else it counts columns itself)."""

    @property
    def n_layers(self) -> int:
        return len(self.blocks)

    @property
    def n_heads(self) -> int:
        own = largest(self.config, f"{self.name}_attention_heads")
        return own or largest(self.config, "num_attention_heads") or 0

    @property
    def is_causal(self) -> bool:
        """Whether a token's self-attention sees the tokens before it only."""
        return self.name == DECODER

    @cached_property
    def _parameters(self) -> tuple[frozenset[str], bool]:
        """Names of what the forward takes, and whether it takes other names too."""
        parameters = inspect.signature(self.module.forward).parameters.values()
        any_name = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)
        return frozenset(parameter.name for parameter in parameters), any_name

    def accepts(self, name: str) -> bool:
        """Whether the forward can be given something of this name (it may ignore it)."""
        names, any_name = self._parameters
        return any_name or name in names

    @cached_property
    def cache_name(self) -> str | None:
        """What the forward calls its cache; None if it has none (one that it would swallow unread is none)."""
        return next((name for name in CACHE_NAMES if name in self._parameters[0]), None)

    @cached_property
    def switch(self) -> LengthSwitch | None:
        """Where rotary factors change with the length of a sequence."""
        return find_switch(self.module)

    @cached_property
    def padding_id(self) -> int | None:
        """The token from whose id on positions are counted, and which is not counted itself; None: from 0."""
        for module in self.module.modules():
            positions = getattr(module, "position_embeddings", None)
            if isinstance(positions, nn.Embedding) and positions.padding_idx is not None:
                return positions.padding_idx
        return None

    @cached_property
    def anatomy(self) -> Anatomy:
        """The modules of the sites, found by one probing forward pass; ConfigError if states are not one per token."""
        lengths: list[int] = []
        shapes: list[list[int]] = []
        hooks = (
            self.module.register_forward_hook(lambda m, args, out: lengths.append(out.last_hidden_state.shape[1])),
            self.blocks[-1].register_forward_pre_hook(
                lambda m, args, kwargs: shapes.append(list(block_input(args, kwargs).shape)), with_kwargs=True
            ),
        )
        try:
            anatomy = dissect(self.blocks, self.probe)
        finally:
            for hook in hooks:
                hook.remove()
        width = largest(self.config, "hidden_size") if self.name == DECODER else None
        if shapes and (len(shapes[0]) > 3 or width not in (None, shapes[0][-1])):
            raise ConfigError(
                f"{type(self.module).__name__} cannot be observed: several streams of states run beside each other "
                "through its blocks (hyper-connections). There must be one state per token."
            )
        if lengths and anatomy.width != lengths[0]:
            raise ConfigError(
                f"{type(self.module).__name__} cannot be observed: its blocks compute {anatomy.width} states where it "
                f"reads {lengths[0]} tokens (padding to a window, or several streams). There must be one per token."
            )
        return anatomy

    def attention_modules(self) -> dict[nn.Module, tuple[str, int]]:
        """Kind and layer of every module that may call the attention function."""
        found: dict[nn.Module, tuple[str, int]] = {}
        for layer, block in enumerate(self.blocks):
            found |= dict.fromkeys(block.modules(), (SELF, layer))
            crossing = BlockParts.of(block).cross_attention if CROSS in self.kinds else None
            if crossing is not None:
                found |= dict.fromkeys(crossing.modules(), (CROSS, layer))
        return found


def only_stack(text: TextPass, config: Any, probe: Callable[[], object]) -> Stack:
    """The blocks of a decoder-only model."""
    blocks = find_blocks(text.base, text.called)
    takes_positions = "position_ids" in inspect.signature(text.base.forward).parameters
    return Stack(DECODER, text.base, config, probe, blocks, takes_positions=takes_positions)


def encoder_and_decoder(model: Any, text: TextPass, config: Any, probe: Callable[[], object]) -> tuple[Stack, Stack]:
    """The two stacks of an encoder-decoder model."""
    encoder, decoder = model.get_encoder(), text.base
    return (
        Stack(ENCODER, encoder, config, probe, find_blocks(encoder, text.called)),
        Stack(DECODER, decoder, config, probe, find_blocks(decoder, text.called), kinds=(SELF, CROSS)),
    )
