"""The reference for what collection stores: one plain forward pass per sequence, unbatched, eager, without a cache.

Sites are read by hooks that are written down here per architecture, rotary embedding and statistics are computed again
in numpy; nothing of tracelake is used.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from random_models import ARCHITECTURES, N_HEADS, N_LAYERS
from torch import Tensor, nn
from transformers import PreTrainedModel

Site = tuple[str, int]

VECTOR_SITES = (
    "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "mlp_post", "z", "v", "q", "k", "rot_q", "rot_k",
)  # fmt: skip


@dataclass
class Reading:
    """What a model computes when it reads `ids`; every array has the position as its first axis."""

    ids: np.ndarray
    n_prompt: int
    logits: np.ndarray
    attention: np.ndarray
    """`[position layer head key]`, zero behind the query."""
    n_keys: np.ndarray
    """`[position layer]`, from the rule of the window."""
    states: dict[Site, np.ndarray]


class PlainModel:
    """A model with hooks at its sites, for one architecture of `random_models`."""

    def __init__(self, model: PreTrainedModel, architecture: str) -> None:
        self.model = model
        self.model.set_attn_implementation("eager")
        self.name = architecture
        self.windows = ARCHITECTURES[architecture].windows
        self.n_shared = ARCHITECTURES[architecture].n_shared

    def read(self, ids: np.ndarray, n_prompt: int) -> Reading:
        """One forward pass over the whole sequence."""
        seen: dict[Site, Tensor] = {}
        with torch.no_grad(), self._hooked(seen):
            output = self.model(torch.from_numpy(ids)[None], output_attentions=True, use_cache=False)
        n = len(ids)
        attention = torch.stack([layer[0].float() for layer in output.attentions]).permute(2, 0, 1, 3)
        rule = [np.minimum(np.arange(1, n + 1), window or n) for window in self.windows]
        states = {site: value[0].detach() for site, value in seen.items()}
        return Reading(
            ids=ids,
            n_prompt=n_prompt,
            logits=output.logits[0].float().numpy(),
            attention=attention.numpy(),
            n_keys=np.stack(rule, axis=1),
            states={site: _bits(value) for site, value in (states | self._rotated(states)).items()},
        )

    @contextmanager
    def _hooked(self, seen: dict[Site, Tensor]) -> Iterator[None]:
        handles = []

        def output(site: str, layer: int, module: nn.Module) -> None:
            def hook(module: nn.Module, args: tuple, out: Tensor | tuple) -> None:
                seen[site, layer] = out if isinstance(out, Tensor) else out[0]

            handles.append(module.register_forward_hook(hook))

        def entry(site: str, layer: int, module: nn.Module) -> None:
            def hook(module: nn.Module, args: tuple, kwargs: dict) -> None:
                seen[site, layer] = args[0] if args else kwargs["hidden_states"]

            handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))

        hooks = {"gpt2": self._hook_gpt2, "neox": self._hook_neox}.get(self.name, self._hook_llama)
        final, blocks = hooks(output, entry)
        output("final_norm", N_LAYERS - 1, final)
        for layer, block in enumerate(blocks):
            entry("resid_pre", layer, block)
            output("resid_post", layer, block)
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hook_gpt2(self, output: Callable, entry: Callable) -> tuple[nn.Module, nn.ModuleList]:
        body = self.model.transformer
        for layer, block in enumerate(body.h):
            output("attn_out", layer, block.attn)
            output("mlp_out", layer, block.mlp)
            entry("resid_mid", layer, block.ln_2)
            entry("z", layer, block.attn.c_proj)
            entry("mlp_post", layer, block.mlp.c_proj)
            output("qkv", layer, block.attn.c_attn)
        return body.ln_f, body.h

    def _hook_neox(self, output: Callable, entry: Callable) -> tuple[nn.Module, nn.ModuleList]:
        body = self.model.gpt_neox
        for layer, block in enumerate(body.layers):
            output("attn_out", layer, block.attention)
            output("mlp_out", layer, block.mlp)
            entry("z", layer, block.attention.dense)
            entry("mlp_post", layer, block.mlp.dense_4h_to_h)
            output("qkv", layer, block.attention.query_key_value)
        return body.final_layer_norm, body.layers

    def _hook_llama(self, output: Callable, entry: Callable) -> tuple[nn.Module, nn.ModuleList]:
        body = self.model.model
        for layer, block in enumerate(body.layers):
            attention = block.self_attn
            if self.name == "gemma2":
                output("attn_out", layer, block.post_attention_layernorm)
                output("mlp_out", layer, block.post_feedforward_layernorm)
                entry("resid_mid", layer, block.pre_feedforward_layernorm)
            else:
                output("attn_out", layer, attention)
                output("mlp_out", layer, block.mlp)
                entry("resid_mid", layer, block.post_attention_layernorm)
            entry("z", layer, attention.o_proj)
            entry("mlp_post", layer, block.mlp.down_proj)
            if self.name == "phi3":
                output("qkv", layer, attention.qkv_proj)
                continue
            output("q", layer, attention.q_norm if self.name == "qwen3" else attention.q_proj)
            output("k", layer, attention.k_norm if self.name == "qwen3" else attention.k_proj)
            output("v", layer, attention.v_proj)
        return body.norm, body.layers

    def _rotated(self, seen: dict[Site, Tensor]) -> dict[Site, Tensor]:
        """Sites of every layer that come from its projections, before and after rotary; removes those from `seen`."""
        found: dict[Site, Tensor] = {}
        for layer in range(N_LAYERS):
            q, k, v = self._projected(seen, layer)
            found |= {("q", layer): q.flatten(1), ("k", layer): k.flatten(1)}
            if self.name != "gpt2":
                share = 0.5 if self.name == "neox" else 1.0
                q, k = rotated(q, share), rotated(k, share)
            found |= {("rot_q", layer): q.flatten(1), ("rot_k", layer): k.flatten(1), ("v", layer): v.flatten(1)}
        return found

    def _projected(self, seen: dict[Site, Tensor], layer: int) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values `[position head d_head]` before rotary embedding."""
        if self.name == "neox":
            joint = seen.pop(("qkv", layer)).unflatten(-1, (N_HEADS, 3, -1))
            return joint[:, :, 0], joint[:, :, 1], joint[:, :, 2]
        if self.name in ("gpt2", "phi3"):
            joint = seen.pop(("qkv", layer)).unflatten(-1, (N_HEADS + 2 * self.n_shared, -1))
            q, k, v = joint.split((N_HEADS, self.n_shared, self.n_shared), dim=1)
            return q, k, v
        q, k, v = (seen.pop((name, layer)).flatten(1) for name in "qkv")
        return q.unflatten(1, (N_HEADS, -1)), k.unflatten(1, (self.n_shared, -1)), v.unflatten(1, (self.n_shared, -1))


def rotated(x: Tensor, share: float, base: float = 10_000.0) -> Tensor:
    """Rotary embedding of the first `share` of each head, halves paired as GPT-NeoX and Llama do."""
    n, _, d_head = x.shape
    width = int(d_head * share)
    angle = np.arange(n)[:, None] * base ** (-np.arange(0, width, 2) / width)
    cos, sin = (torch.from_numpy(f(angle)).to(torch.float32)[:, None].to(x.dtype) for f in (np.cos, np.sin))
    first, second, rest = x[..., : width // 2], x[..., width // 2 : width], x[..., width:]
    return torch.cat((first * cos - second * sin, second * cos + first * sin, rest), dim=-1)


def _bits(states: Tensor) -> np.ndarray:
    """As numpy; bfloat16 as its bit patterns in uint16."""
    return states.view(torch.int16).numpy().view(np.uint16) if states.dtype == torch.bfloat16 else states.numpy()


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    """Natural log of softmax(logits), in double precision."""
    x = logits.astype(np.float64)
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def entropy_of(probabilities: np.ndarray) -> np.ndarray:
    """Entropy in bits; terms of probability 0 are 0."""
    p = probabilities.astype(np.float64)
    return -(p * np.log2(np.where(p > 0, p, 1.0))).sum(-1)


def sampled_from(
    logits: np.ndarray, *, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> np.ndarray:
    """Probabilities after temperature, the k best tokens, then the smallest set of tokens with mass `top_p`."""
    x = logits.astype(np.float64) / temperature
    if top_k is not None:
        x = np.where(x < np.sort(x, axis=-1)[..., [-top_k]], -np.inf, x)
    p = np.exp(x - x.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    if top_p is not None and top_p < 1:
        order = np.argsort(-p, axis=-1, kind="stable")
        ranked = np.take_along_axis(p, order, -1)
        mass_before = ranked.cumsum(-1) - ranked
        kept = np.empty_like(p, dtype=bool)
        np.put_along_axis(kept, order, mass_before < top_p, -1)
        p = np.where(kept, p, 0.0)
        p /= p.sum(-1, keepdims=True)
    return p


def basin(weights: np.ndarray) -> float:
    """Of one head's prompt map `[query key]`: mean weight on the middle third of the keys over that on the others."""
    n = len(weights)
    if n < 3:
        return 1.0
    middle = weights[:, n // 3 : 2 * n // 3].sum(-1).mean()
    others = np.delete(weights, np.s_[n // 3 : 2 * n // 3], axis=1).sum(-1).mean()
    return float(middle / (others + 1e-10))


def uniform_basin(n: int) -> float:
    """Basin ratio of a head that looks at all earlier tokens alike."""
    return basin(np.tril(np.ones((n, n))) / np.arange(1, n + 1)[:, None])
