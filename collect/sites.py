"""Where in a block a site is: finds the parts of a model by structure and hooks them for the length of a with-block.

Sites are TransformerLens words fixed by identities (definitions A4): resid_pre + attn_out + mlp_out = resid_post. Which
module's output is `attn_out` (the attention, or a norm after it) is decided by trying the identity, not by a table.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..lake.errors import ConfigError, did_you_mean

SITE_SEMANTICS = 1
"""Version of what the site names mean; stored in run.json."""

RESIDUAL_SITES = ("resid_pre", "resid_post")
ATTENTION_SITES = ("v", "rot_q", "rot_k")
MODULE_SITES = ("attn_out", "mlp_out", "resid_mid", "mlp_post", "z")
SITES = (*RESIDUAL_SITES, "resid_mid", "attn_out", "mlp_out", "mlp_post", "z", *ATTENTION_SITES, "final_norm")

ATTENTION_NAMES = ("attn", "self_attn", "attention", "self_attention")
MLP_NAMES = ("mlp", "feed_forward", "ffn", "block_sparse_moe")
AFTER_ATTENTION_NAMES = ("post_attention_layernorm", "post_self_attn_layernorm", "post_attention_norm")
AFTER_MLP_NAMES = ("post_feedforward_layernorm", "post_mlp_layernorm", "post_feedforward_norm")
OUT_PROJECTION_NAMES = ("o_proj", "c_proj", "out_proj", "dense", "wo", "o")
DOWN_PROJECTION_NAMES = ("down_proj", "c_proj", "dense_4h_to_h", "fc2", "fc_out", "wo", "w2")


LARGEST_MISS = 0.1
"""Rounding in half precision stays below this share, a wrong module does not."""


def check_site(site: str) -> None:
    """ConfigError with the possible names if `site` is not one of SITES."""
    if site not in SITES:
        raise ConfigError(f"There is no site {site!r}.{did_you_mean(site, SITES, show=len(SITES))}")


def find_blocks(model: nn.Module, n_layers: int) -> nn.ModuleList:
    """The transformer blocks: the one ModuleList whose length is the number of layers."""
    found = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == n_layers]
    # Mixtures of experts hold lists of experts; blocks are the list that contains an attention module.
    found = [m for m in found if _child(m[0], ATTENTION_NAMES) is not None] or found
    if len(found) != 1:
        raise ConfigError(
            f"{type(model).__name__}: expected one list of {n_layers} transformer blocks, found {len(found)}. "
            "tracelake can read decoder-only transformers whose blocks are one ModuleList."
        )
    return found[0]


def _child(module: nn.Module, names: tuple[str, ...]) -> nn.Module | None:
    children = dict(module.named_children())
    return next((children[name] for name in names if name in children), None)


def _first_tensor(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output[0]


def _block_input(args: tuple, kwargs: dict) -> Tensor:
    if args:
        return args[0]
    return kwargs["hidden_states"] if "hidden_states" in kwargs else next(iter(kwargs.values()))


@dataclass
class BlockParts:
    """The modules of one block whose output or input is a site."""

    attention: nn.Module | None
    mlp: nn.Module | None
    after_attention: nn.Module | None
    after_mlp: nn.Module | None

    @classmethod
    def of(cls, block: nn.Module) -> "BlockParts":
        """The parts found by the names that transformers gives them; None where there is none."""
        return cls(
            _child(block, ATTENTION_NAMES),
            _child(block, MLP_NAMES),
            _child(block, AFTER_ATTENTION_NAMES),
            _child(block, AFTER_MLP_NAMES),
        )


@dataclass
class Anatomy:
    """Which module gives which site, the same for every block; made by `dissect`."""

    blocks: nn.ModuleList
    attn_out: Callable[[BlockParts], nn.Module | None] | None = None
    mlp_out: Callable[[BlockParts], nn.Module | None] | None = None
    parallel: bool = False
    reason: str = ""
    parts: list[BlockParts] = field(default_factory=list)

    def module(self, site: str, layer: int) -> tuple[nn.Module, bool]:
        """The module of a site and whether the site is its input (else its output); ConfigError if there is none."""
        parts = self.parts[layer]
        if site in ("attn_out", "mlp_out", "resid_mid"):
            return self._added(site, parts), False
        owner, names = (parts.attention, OUT_PROJECTION_NAMES) if site == "z" else (parts.mlp, DOWN_PROJECTION_NAMES)
        if site == "mlp_post" and owner is not None and _is_mixture(owner):
            raise ConfigError("Site mlp_post does not exist in a mixture of experts: each token has its own neurons.")
        projection = None if owner is None else _child(owner, names)
        if projection is None:
            raise ConfigError(
                f"Site {site} was not found in {type(self.blocks[layer]).__name__}; leave it out of --keep."
            )
        return projection, True

    def _added(self, site: str, parts: BlockParts) -> nn.Module:
        if site == "resid_mid" and self.parallel:
            raise ConfigError(
                "Site resid_mid does not exist here: attention and MLP of this model read the same residual state "
                "(parallel blocks). Use attn_out and mlp_out."
            )
        choose = self.mlp_out if site == "mlp_out" else self.attn_out
        module = choose(parts) if choose else None
        if module is None:
            raise ConfigError(f"Site {site} cannot be observed: {self.reason} Leave it out of --keep.")
        return module


def _is_mixture(mlp: nn.Module) -> bool:
    return any("expert" in name for name, _ in mlp.named_modules())


def dissect(model: nn.Module, blocks: nn.ModuleList, probe: Callable[[], object]) -> Anatomy:
    """Find the modules of every site: run `probe` once and test resid_pre + attn_out + mlp_out = resid_post."""
    parts = [BlockParts.of(block) for block in blocks]
    anatomy = Anatomy(blocks, parts=parts)
    seen: dict[str, Tensor] = {}
    with torch.no_grad(), _recording(blocks[0], parts[0], seen):
        probe()
    misses = {
        (attn_name, mlp_name): _miss(seen["input"] + seen[attn_name] + seen[mlp_name], seen["output"], seen["input"])
        for attn_name in ("after_attention", "attention")
        for mlp_name in ("after_mlp", "mlp")
        if attn_name in seen and mlp_name in seen
    }
    best = min(misses, key=misses.__getitem__, default=None)
    if best is None or not misses[best] <= LARGEST_MISS:
        anatomy.reason = f"in {type(blocks[0]).__name__} no two modules add up to the change of the residual stream."
        return anatomy
    attn_name, mlp_name = best
    anatomy.attn_out = lambda p: getattr(p, attn_name)
    anatomy.mlp_out = lambda p: getattr(p, mlp_name)
    read = [state for name, state in seen.items() if name.startswith("read:")]
    anatomy.parallel = not any(_is_sum(state, seen["input"], seen[attn_name]) for state in read)
    return anatomy


def _miss(sum_of_parts: Tensor, state: Tensor, start: Tensor) -> float:
    """How far `sum_of_parts` is from `state`, relative to the way from `start`: all residual states are near others."""
    if sum_of_parts.shape != state.shape:
        return float("inf")
    way = (state.float() - start.float()).norm()
    return float((sum_of_parts.float() - state.float()).norm() / way)


def _is_sum(state: Tensor, a: Tensor, b: Tensor) -> bool:
    """Whether `state` is a + b, judged by the smaller of them: where one is large, it alone is near the sum."""
    if state.shape != a.shape:
        return False
    error = (state.float() - (a + b).float()).norm()
    return bool(error <= LARGEST_MISS * torch.minimum(a.float().norm(), b.float().norm()))


@contextmanager
def _recording(block: nn.Module, parts: BlockParts, seen: dict[str, Tensor]) -> Iterator[None]:
    """Keep the block's input and output, its parts' outputs and everything that its children read."""

    def output(name: str) -> Callable:
        return lambda module, args, out: seen.__setitem__(name, _first_tensor(out).detach())

    def read(name: str) -> Callable:
        return lambda module, args, kwargs: seen.__setitem__(name, _block_input(args, kwargs).detach())

    handles = [
        block.register_forward_pre_hook(read("input"), with_kwargs=True),
        block.register_forward_hook(output("output")),
    ]
    for name in ("attention", "mlp", "after_attention", "after_mlp"):
        module = getattr(parts, name)
        if module is not None:
            handles.append(module.register_forward_hook(output(name)))
    for name, child in block.named_children():
        handles.append(child.register_forward_pre_hook(read(f"read:{name}"), with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class Tap:
    """Hooks that keep the states of wanted (site, layer) pairs of the last forward pass, `[batch pos d]` each."""

    def __init__(self, anatomy: Anatomy, wanted: set[tuple[str, int]]) -> None:
        self.anatomy = anatomy
        self.wanted = wanted
        self.states: dict[tuple[str, int], Tensor] = {}
        for site, layer in wanted:
            if site in MODULE_SITES:
                anatomy.module(site, layer)  # a site that does not exist is an error before anything runs

    @contextmanager
    def attached(self) -> Iterator["Tap"]:
        """The hooks are in place inside the block only."""
        handles = []
        try:
            for site, layer in sorted(self.wanted):
                handles.extend(self._hook(site, layer))
            yield self
        finally:
            for handle in handles:
                handle.remove()
            self.states.clear()

    def _hook(self, site: str, layer: int) -> Iterator[Any]:
        block, keep = self.anatomy.blocks[layer], self.states.__setitem__
        key = (site, layer)
        if site == "resid_post":
            yield block.register_forward_hook(lambda m, args, out: keep(key, _first_tensor(out)))
        elif site == "resid_pre":
            yield block.register_forward_pre_hook(
                lambda m, args, kw: keep(key, _block_input(args, kw)), with_kwargs=True
            )
        elif site == "resid_mid":
            attn_out = self.anatomy.module(site, layer)[0]
            entering: list[Tensor] = []
            yield block.register_forward_pre_hook(
                lambda m, args, kw: entering.__setitem__(slice(None), [_block_input(args, kw)]), with_kwargs=True
            )
            yield attn_out.register_forward_hook(lambda m, args, out: keep(key, entering[0] + _first_tensor(out)))
        elif site in MODULE_SITES:
            module, is_input = self.anatomy.module(site, layer)
            if is_input:
                yield module.register_forward_pre_hook(lambda m, args: keep(key, args[0]))
            else:
                yield module.register_forward_hook(lambda m, args, out: keep(key, _first_tensor(out)))
