"""Where in a block a site is: finds the parts of a model by structure and hooks them for the length of a with-block.

Sites are TransformerLens words fixed by identities (definitions A4): resid_pre + attn_out + mlp_out = resid_post, with
cross_attn_out as a fourth term where a decoder reads an encoder. Which module's output is `attn_out` (the attention, or
a norm after it) is decided by trying the identity, not by a table.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ...lake.errors import ConfigError
from .site_names import ADDED_SITES, MODULE_SITES, SUMS

ATTENTION_NAMES = ("attn", "self_attn", "attention", "self_attention", "SelfAttention")
CROSS_ATTENTION_NAMES = ("encoder_attn", "EncDecAttention")
# In blocks without an MLP module of its own, the down projection alone gives what the MLP adds.
MLP_NAMES = ("mlp", "feed_forward", "ffn", "block_sparse_moe", "DenseReluDense", "fc2")
AFTER_ATTENTION_NAMES = ("post_attention_layernorm", "post_self_attn_layernorm", "post_attention_norm")
AFTER_MLP_NAMES = ("post_feedforward_layernorm", "post_mlp_layernorm", "post_feedforward_norm")
OUT_PROJECTION_NAMES = ("o_proj", "c_proj", "out_proj", "dense", "wo", "o")
DOWN_PROJECTION_NAMES = ("down_proj", "c_proj", "dense_4h_to_h", "fc2", "fc_out", "wo", "w2")


LARGEST_MISS, LARGEST_MISS_HALF = 1e-3, 0.1
"""Rounding in single and in half precision stays below this share, a wrong module does not."""


def find_blocks(stack: nn.Module, called: Collection[nn.Module]) -> nn.ModuleList:
    """The transformer blocks: the outermost ModuleList whose members were all `called` when text was read."""
    lists = [m for m in stack.modules() if isinstance(m, nn.ModuleList) and len(m) and all(c in called for c in m)]
    # Mixtures of experts hold lists of experts; blocks are the list some of whose members contain an attention module.
    lists = [m for m in lists if any(BlockParts.of(block).attention is not None for block in m)] or lists
    inner = {id(module) for m in lists for child in m for module in child.modules()}
    found = [m for m in lists if id(m) not in inner]
    if len(found) != 1:
        raise ConfigError(
            f"{type(stack).__name__}: expected one list of transformer blocks, found {len(found)}. "
            "tracelake can read transformers whose blocks are one ModuleList per stack."
        )
    return found[0]


def _parts(block: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Names and modules that a block is made of; where it is a list of sub-layers (T5), what those are made of."""
    for name, child in block.named_children():
        if isinstance(child, nn.ModuleList):
            for layer in child:
                yield from layer.named_children()
        else:
            yield name, child


def _child(module: nn.Module, names: tuple[str, ...]) -> nn.Module | None:
    children = dict(_parts(module))
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
    cross_attention: nn.Module | None
    mlp: nn.Module | None
    after_attention: nn.Module | None
    after_mlp: nn.Module | None

    @classmethod
    def of(cls, block: nn.Module) -> "BlockParts":
        """The parts found by the names that transformers gives them; None where there is none."""
        return cls(
            _child(block, ATTENTION_NAMES),
            _child(block, CROSS_ATTENTION_NAMES),
            _child(block, MLP_NAMES),
            _child(block, AFTER_ATTENTION_NAMES),
            _child(block, AFTER_MLP_NAMES),
        )


@dataclass
class Anatomy:
    """Which module gives which site, the same for every block; made by `dissect`."""

    blocks: nn.ModuleList
    attn_out: Callable[[BlockParts], nn.Module | None] | None = None
    cross_attn_out: Callable[[BlockParts], nn.Module | None] | None = None
    mlp_out: Callable[[BlockParts], nn.Module | None] | None = None
    parallel: bool = False
    reason: str = ""
    width: int = 0
    """States of one sequence in the probe."""
    parts: list[BlockParts] = field(default_factory=list)

    def module(self, site: str, layer: int) -> tuple[nn.Module, bool]:
        """The module of a site and whether the site is its input (else its output); ConfigError if there is none."""
        parts = self.parts[layer]
        if site in ADDED_SITES:
            return self._added(site, parts), False
        owner, names = (parts.attention, OUT_PROJECTION_NAMES) if site == "z" else (parts.mlp, DOWN_PROJECTION_NAMES)
        if site == "mlp_post" and owner is not None and _is_mixture(owner):
            raise ConfigError("Site mlp_post does not exist in a mixture of experts: each token has its own neurons.")
        projection = owner if isinstance(owner, nn.Linear) else None if owner is None else _child(owner, names)
        if projection is None:
            raise ConfigError(
                f"Site {site} was not found in {type(self.blocks[layer]).__name__}; leave it out of --keep."
            )
        return projection, True

    def modules(self, site: str, layer: int) -> list[nn.Module]:
        """The modules whose outputs, added to the block's input, make a site between its parts."""
        if site == "resid_mid" and self.parallel:
            raise ConfigError(
                "Site resid_mid does not exist here: attention and MLP of this model read the same residual state "
                "(parallel blocks). Use attn_out and mlp_out."
            )
        return [self.module(part, layer)[0] for part in SUMS[site]]

    def _added(self, site: str, parts: BlockParts) -> nn.Module:
        if site == "cross_attn_out" and parts.cross_attention is None:
            raise ConfigError(f"Site {site} exists only in the decoder of an encoder-decoder model.")
        choose = {"attn_out": self.attn_out, "cross_attn_out": self.cross_attn_out, "mlp_out": self.mlp_out}[site]
        module = choose(parts) if choose else None
        if module is None:
            raise ConfigError(f"Site {site} cannot be observed: {self.reason} Leave it out of --keep.")
        return module


def _is_mixture(mlp: nn.Module) -> bool:
    return any("expert" in name for name, _ in mlp.named_modules())


def dissect(blocks: nn.ModuleList, probe: Callable[[], object]) -> Anatomy:
    """Find the modules of every site: run `probe` once and test resid_pre + attn_out + mlp_out = resid_post."""
    parts = [BlockParts.of(block) for block in blocks]
    anatomy = Anatomy(blocks, parts=parts)
    seen: dict[str, Tensor] = {}
    with torch.no_grad(), _recording(blocks[0], parts[0], seen):
        probe()
    kind, anatomy.width = type(blocks[0]).__name__, seen["output"].shape[1]
    if "mlp" in seen and seen["mlp"].shape != seen["input"].shape:
        # OPT's down projection sees its tokens in one row: nothing tells the sequences apart.
        for part in parts:
            part.mlp = None
        del seen["mlp"]
    if any(name.startswith("wrote:") and _equal(state, seen["output"]) for name, state in seen.items()):
        anatomy.reason = (
            f"{kind} norms the residual stream after each addition (post-norm), so that resid_pre + attn_out + mlp_out "
            "is not resid_post."
        )
        return anatomy
    crossed = seen["input"] + seen["cross_attention"] if "cross_attention" in seen else seen["input"]
    misses = {
        (attn_name, mlp_name): _miss(crossed + seen[attn_name] + seen[mlp_name], seen["output"], seen["input"])
        for attn_name in ("after_attention", "attention")
        for mlp_name in ("after_mlp", "mlp")
        if attn_name in seen and mlp_name in seen
    }
    best = min(misses, key=misses.__getitem__, default=None)
    if best is None or not misses[best] <= _largest_miss(seen["output"]):
        anatomy.reason = f"in {kind} no two modules add up to the change of the residual stream."
        return anatomy
    attn_name, mlp_name = best
    anatomy.attn_out = lambda p: getattr(p, attn_name)
    anatomy.cross_attn_out = lambda p: p.cross_attention
    anatomy.mlp_out = lambda p: getattr(p, mlp_name)
    read = [state for name, state in seen.items() if name.startswith("read:")]
    anatomy.parallel = not any(_is_sum(state, seen["input"], seen[attn_name]) for state in read)
    return anatomy


def _largest_miss(state: Tensor) -> float:
    return LARGEST_MISS if state.dtype == torch.float32 else LARGEST_MISS_HALF


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(torch.equal(a, b))


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
    return bool(error <= LARGEST_MISS_HALF * torch.minimum(a.float().norm(), b.float().norm()))


@contextmanager
def _recording(block: nn.Module, parts: BlockParts, seen: dict[str, Tensor]) -> Iterator[None]:
    """Keep the block's input and output, its parts' outputs and what its other children read and write."""

    def output(name: str) -> Callable:
        return lambda module, args, out: seen.__setitem__(name, _first_tensor(out).detach())

    def read(name: str) -> Callable:
        return lambda module, args, kwargs: seen.__setitem__(name, _block_input(args, kwargs).detach())

    def wrote(name: str) -> Callable:
        return lambda module, args, out: seen.__setitem__(name, out.detach()) if isinstance(out, Tensor) else None

    handles = [
        block.register_forward_pre_hook(read("input"), with_kwargs=True),
        block.register_forward_hook(output("output")),
    ]
    known = {name: module for name, module in vars(parts).items() if module is not None}
    for name, module in known.items():
        handles.append(module.register_forward_hook(output(name)))
    for number, (_, child) in enumerate(_parts(block)):
        handles.append(child.register_forward_pre_hook(read(f"read:{number}"), with_kwargs=True))
        if not any(child is module for module in known.values()):
            handles.append(child.register_forward_hook(wrote(f"wrote:{number}")))
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
            # A site that does not exist is an error before anything runs.
            if site in SUMS:
                anatomy.modules(site, layer)
            elif site in MODULE_SITES:
                anatomy.module(site, layer)

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

    def skip(self, n: int) -> None:
        """Forget the first `n` positions of the last pass."""
        for key, state in self.states.items():
            self.states[key] = state[:, n:]

    def _hook(self, site: str, layer: int) -> Iterator[Any]:
        block, keep = self.anatomy.blocks[layer], self.states.__setitem__
        key = (site, layer)
        if site == "resid_post":
            yield block.register_forward_hook(lambda m, args, out: keep(key, _first_tensor(out)))
        elif site == "resid_pre":
            yield block.register_forward_pre_hook(
                lambda m, args, kw: keep(key, _block_input(args, kw)), with_kwargs=True
            )
        elif site in SUMS:
            running: list[Tensor] = []
            yield block.register_forward_pre_hook(
                lambda m, args, kw: running.__setitem__(slice(None), [_block_input(args, kw)]), with_kwargs=True
            )
            modules = self.anatomy.modules(site, layer)
            for module in modules:
                yield module.register_forward_hook(lambda m, args, o: running.append(running[-1] + _first_tensor(o)))
            yield modules[-1].register_forward_hook(lambda m, args, out: keep(key, running[-1]))
        elif site in MODULE_SITES:
            module, is_input = self.anatomy.module(site, layer)
            if is_input:
                yield module.register_forward_pre_hook(lambda m, args: keep(key, args[0]))
            else:
                yield module.register_forward_hook(lambda m, args, out: keep(key, _first_tensor(out)))
