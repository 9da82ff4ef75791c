"""The reference for encoder-decoder models: one plain teacher-forced pass per sequence, unbatched, eager, no cache.

Sites are read by hooks that are written down here per architecture; nothing of tracelake is used.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from random_models import POST_NORM
from torch import Tensor, nn
from transformers import PreTrainedModel

Site = tuple[str, int]


@dataclass
class StackReading:
    """What one stack computes; every array has its own tokens as the first axis."""

    first: int
    """Position of its first token."""
    states: dict[Site, np.ndarray] = field(default_factory=dict)
    attention: dict[str, np.ndarray] = field(default_factory=dict)
    """By kind, `[token layer head key]`, keys by position."""

    @property
    def n(self) -> int:
        return len(self.attention["self"])

    @property
    def n_layers(self) -> int:
        return self.attention["self"].shape[1]


@dataclass
class Reading:
    """A sequence on its one axis, and what the two stacks made of it."""

    ids: np.ndarray
    n_encoded: int
    n_prompt: int
    logits: np.ndarray
    """`[decoder token, vocabulary]`"""
    stacks: dict[str, StackReading]


class PlainEncoderDecoder:
    """A model with hooks at its sites, for one architecture of `random_models.ENCODER_DECODERS`."""

    def __init__(self, model: PreTrainedModel, architecture: str) -> None:
        self.model = model
        self.model.set_attn_implementation("eager")
        self.name = architecture

    def read(self, ids: np.ndarray, n_encoded: int) -> Reading:
        """The encoder reads the first `n_encoded` ids, the decoder the others."""
        seen: dict[str, dict[Site, Tensor]] = {"encoder": {}, "decoder": {}}
        every = torch.from_numpy(ids)[None]
        with torch.no_grad(), self._hooked(seen):
            output = self.model(
                input_ids=every[:, :n_encoded], decoder_input_ids=every[:, n_encoded:], use_cache=False,
                output_attentions=True, output_hidden_states=True,
            )  # fmt: skip
        n = len(ids)
        for stack, tuples in (("encoder", output.encoder_hidden_states), ("decoder", output.decoder_hidden_states)):
            for layer, state in enumerate(tuples[:-1]):
                torch.testing.assert_close(seen[stack]["resid_pre", layer], state, rtol=0, atol=0)
            torch.testing.assert_close(seen[stack]["final_norm", len(tuples) - 2], tuples[-1], rtol=0, atol=0)
        encoder = StackReading(0, _arrays(seen["encoder"]), {"self": _maps(output.encoder_attentions, 0, n)})
        decoder = StackReading(
            n_encoded,
            _arrays(seen["decoder"]),
            {"self": _maps(output.decoder_attentions, n_encoded, n), "cross": _maps(output.cross_attentions, 0, n)},
        )
        logits = output.logits[0].float().numpy()
        return Reading(ids, n_encoded, n_encoded + 1, logits, {"encoder": encoder, "decoder": decoder})

    @contextmanager
    def _hooked(self, seen: dict[str, dict[Site, Tensor]]) -> Iterator[None]:
        handles = []
        for name in ("encoder", "decoder"):
            stack, states = getattr(self.model, f"get_{name}")(), seen[name]

            def output(site: str, layer: int, module: nn.Module, states: dict = states) -> None:
                def hook(module: nn.Module, args: tuple, out: Tensor | tuple) -> None:
                    states[site, layer] = out if isinstance(out, Tensor) else out[0]

                handles.append(module.register_forward_hook(hook))

            def entry(site: str, layer: int, module: nn.Module, states: dict = states) -> None:
                def hook(module: nn.Module, args: tuple, kwargs: dict) -> None:
                    states[site, layer] = args[0] if args else kwargs["hidden_states"]

                handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))

            (self._hook_t5 if self.name.startswith("t5") else self._hook_bart)(stack, output, entry)
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hook_t5(self, stack: nn.Module, output: Callable, entry: Callable) -> None:
        for layer, block in enumerate(stack.block):
            attention = block.layer[0].SelfAttention
            entry("resid_pre", layer, block)
            output("resid_post", layer, block)
            output("attn_out", layer, attention)
            entry("resid_mid", layer, block.layer[1].layer_norm)
            if len(block.layer) == 3:
                output("cross_attn_out", layer, block.layer[1].EncDecAttention)
                entry("resid_mid_cross", layer, block.layer[2].layer_norm)
            output("mlp_out", layer, block.layer[-1].DenseReluDense)
            entry("mlp_post", layer, block.layer[-1].DenseReluDense.wo)
            entry("z", layer, attention.o)
            projections = {"rot_q": attention.q, "rot_k": attention.k, "v": attention.v}
            for site, projection in (projections | {"q": attention.q, "k": attention.k}).items():
                output(site, layer, projection)
        output("final_norm", len(stack.block) - 1, stack.final_layer_norm)

    def _hook_bart(self, stack: nn.Module, output: Callable, entry: Callable) -> None:
        for layer, block in enumerate(stack.layers):
            attention = block.self_attn
            entry("resid_pre", layer, block)
            output("resid_post", layer, block)
            if self.name not in POST_NORM:
                output("attn_out", layer, attention)
                if hasattr(block, "encoder_attn"):
                    entry("resid_mid", layer, block.encoder_attn_layer_norm)
                    output("cross_attn_out", layer, block.encoder_attn)
                    entry("resid_mid_cross", layer, block.final_layer_norm)
                else:
                    entry("resid_mid", layer, block.final_layer_norm)
                output("mlp_out", layer, block.fc2)
            entry("mlp_post", layer, block.fc2)
            entry("z", layer, attention.out_proj)
            projections = {"rot_q": attention.q_proj, "rot_k": attention.k_proj, "v": attention.v_proj}
            for site, projection in (projections | {"q": attention.q_proj, "k": attention.k_proj}).items():
                output(site, layer, projection)
        # BART has no norm behind its last block.
        output("final_norm", len(stack.layers) - 1, getattr(stack, "layer_norm", stack.layers[-1]))


def _arrays(states: dict[Site, Tensor]) -> dict[Site, np.ndarray]:
    return {site: value[0].numpy() for site, value in states.items()}


def _maps(attentions: tuple[Tensor, ...], first_key: int, n: int) -> np.ndarray:
    """Attention of all layers as `[token layer head key]`, keys by position."""
    maps = torch.stack([layer[0].float() for layer in attentions]).permute(2, 0, 1, 3).numpy()
    return np.pad(maps, ((0, 0), (0, 0), (0, 0), (first_key, n - first_key - maps.shape[-1])))
