"""Which modules of a transformer's blocks give which site; found by structure and by trying, not by a table.

Which module's output is `attn_out` (the attention, or a norm after it) is decided by the identity of the sites.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ....lake.errors import ConfigError
from .places import Place, block_input, first_tensor
from .site_names import ADDED_SITES, RESIDUAL_SITES, SUMS

ATTENTION_NAMES = ("attn", "self_attn", "attention", "self_attention", "SelfAttention")
CROSS_ATTENTION_NAMES = ("encoder_attn", "EncDecAttention")
# In blocks without an MLP module of its own, the down projection alone gives what the MLP adds.
MLP_NAMES = ("mlp", "feed_forward", "ffn", "block_sparse_moe", "DenseReluDense", "fc2")
OUT_PROJECTION_NAMES = ("o_proj", "c_proj", "out_proj", "dense", "wo", "o")
DOWN_PROJECTION_NAMES = ("down_proj", "c_proj", "dense_4h_to_h", "fc2", "fc_out", "wo", "w2")


LARGEST_MISS, LARGEST_MISS_HALF = 1e-3, 0.1
"""Rounding in single and in half precision stays below this share, a wrong module does not."""


def find_blocks(stack: nn.Module, called: Collection[nn.Module]) -> nn.ModuleList:
    """The transformer blocks: the outermost ModuleList whose members were all `called` when text was read."""
    lists = block_lists(stack, called)
    if len(lists) != 1:
        raise ConfigError(
            f"{type(stack).__name__}: expected one list of transformer blocks, found {len(lists)}. "
            "tracelake can read transformers whose blocks are one ModuleList per stack."
        )
    return lists[0]


def block_lists(stack: nn.Module, called: Collection[nn.Module]) -> list[nn.ModuleList]:
    """What may be the transformer blocks of a stack: one list, where it can be told."""
    lists = [m for m in stack.modules() if isinstance(m, nn.ModuleList) and len(m) and all(c in called for c in m)]
    # Mixtures of experts hold lists of experts; blocks are the list some of whose members contain an attention module.
    lists = [m for m in lists if any(BlockParts.of(block).attention is not None for block in m)] or lists
    inner = {id(module) for m in lists for child in m for module in child.modules()}
    return [m for m in lists if id(m) not in inner]


def _parts(block: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Names and modules that a block is made of; where it is a list of sub-layers (T5), what those are made of."""
    for name, child in block.named_children():
        if isinstance(child, nn.ModuleList):
            for layer in child:
                yield from layer.named_children()
        else:
            yield name, child


def named_parts(block: nn.Module) -> dict[str, nn.Module]:
    """The parts by name; a name that several have is told apart by their place."""
    parts = list(_parts(block))
    names = [name for name, _ in parts]
    return {name if names.count(name) == 1 else f"{name}#{i}": child for i, (name, child) in enumerate(parts)}


def _child(module: nn.Module, names: tuple[str, ...]) -> nn.Module | None:
    children = dict(_parts(module))
    return next((children[name] for name in names if name in children), None)


@dataclass
class BlockParts:
    """The modules of one block whose output or input is a site."""

    attention: nn.Module | None
    cross_attention: nn.Module | None
    mlp: nn.Module | None
    after_attention: nn.Module | None = None
    """A norm between the attention and the residual stream, once it is known to be one; else None."""
    after_mlp: nn.Module | None = None

    @classmethod
    def of(cls, block: nn.Module) -> "BlockParts":
        """The parts found by the names that transformers gives them; None where there is none."""
        return cls(_child(block, ATTENTION_NAMES), _child(block, CROSS_ATTENTION_NAMES), _child(block, MLP_NAMES))


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
    changed: frozenset[str] = frozenset()
    """Sites whose tensor the block changes in place after it was computed."""
    parts: list[BlockParts] = field(default_factory=list)
    unlike: frozenset[int] = frozenset()
    """Layers in which the same modules do not add up to the change of the residual stream."""

    def place(self, site: str, layer: int) -> Place:
        """Where a site passes that is one module's input or output; ConfigError if there is none."""
        if site in RESIDUAL_SITES:
            return Place(self.blocks[layer], is_input=site == "resid_pre")
        parts = self.parts[layer]
        if site in ADDED_SITES and layer in self.unlike:
            kind = type(self.blocks[layer]).__name__
            raise ConfigError(
                f"Site {site} of layer {layer} cannot be observed: this {kind} adds something else to the residual "
                f"stream. Keep activations:{site} of other layers (@LAYERS), or leave it out of --keep."
            )
        if site in ADDED_SITES:
            return Place(self._added(site, parts), is_input=False)
        owner, names = (parts.attention, OUT_PROJECTION_NAMES) if site == "z" else (parts.mlp, DOWN_PROJECTION_NAMES)
        if site == "mlp_post" and owner is not None and _is_mixture(owner):
            raise ConfigError("Site mlp_post does not exist in a mixture of experts: each token has its own neurons.")
        projection = owner if isinstance(owner, nn.Linear) else None if owner is None else _child(owner, names)
        if projection is None:
            raise ConfigError(
                f"Site {site} was not found in {type(self.blocks[layer]).__name__}; leave it out of --keep."
            )
        return Place(projection, is_input=True)

    def module(self, site: str, layer: int) -> tuple[nn.Module, bool]:
        """The module of a site and whether the site is its input (else its output); ConfigError if there is none."""
        place = self.place(site, layer)
        return place.module, place.is_input

    def summands(self, site: str, layer: int) -> list[Place]:
        """What is added to the block's input, one after the other, to make a site between its parts."""
        if site == "resid_mid" and self.parallel:
            raise ConfigError(
                "Site resid_mid does not exist here: attention and MLP of this model read the same residual state "
                "(parallel blocks). Use attn_out and mlp_out."
            )
        return [self.place(part, layer) for part in SUMS[site]]

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
    number = next((i for i, part in enumerate(parts) if part.attention is not None and part.mlp is not None), 0)
    recording = Recording(blocks[number], parts[number])
    with torch.no_grad(), recording.attached():
        probe()
    seen = recording.states
    kind, anatomy.width = type(blocks[number]).__name__, seen["output"].shape[1]
    anatomy.changed = frozenset(SITE_OF[name] for name in recording.changed() if name in SITE_OF)
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
    added = _added_parts(seen)
    if added is None:
        anatomy.reason = f"in {kind} no two modules add up to the change of the residual stream."
        return anatomy
    _settle(anatomy, *added)
    anatomy.unlike = _unlike(anatomy, probe)
    read = [state for name, state in seen.items() if name.startswith("read:")]
    anatomy.parallel = not any(_is_sum(state, seen["input"], seen[added[0]]) for state in read)
    return anatomy


def _added_parts(seen: dict[str, Tensor]) -> tuple[str, str] | None:
    """What attention and MLP add to the residual stream: their own outputs, or those of norms that ran after them.

    Names in `seen`, in the order in which the modules ran; None if no pair adds up.
    """
    if "attention" not in seen or "mlp" not in seen:
        return None
    names = list(seen)
    norms = [name for name in names if name.startswith("wrote:")]
    behind_mlp = [name for name in norms if names.index(name) > names.index("mlp")]
    behind_attention = [name for name in norms if names.index(name) > names.index("attention")]
    start = seen["input"] + seen["cross_attention"] if "cross_attention" in seen else seen["input"]
    misses = {
        (attention, mlp): _miss(start + seen[attention] + seen[mlp], seen["output"], seen["input"])
        for attention in ("attention", *behind_attention)
        for mlp in ("mlp", *behind_mlp)
        if attention != mlp and seen[attention].shape == seen[mlp].shape == start.shape
    }
    best = min(misses, key=misses.__getitem__, default=None)
    return best if best is not None and misses[best] <= _largest_miss(seen["output"]) else None


def _settle(anatomy: Anatomy, attention: str, mlp: str) -> None:
    """Name the modules that add to the residual stream, in every block."""
    for block, part in zip(anatomy.blocks, anatomy.parts, strict=True):
        children = named_parts(block)
        part.after_attention = children.get(attention.removeprefix("wrote:"))
        part.after_mlp = children.get(mlp.removeprefix("wrote:"))
    anatomy.attn_out = lambda p: p.attention if attention == "attention" else p.after_attention
    anatomy.cross_attn_out = lambda p: p.cross_attention
    anatomy.mlp_out = lambda p: p.mlp if mlp == "mlp" else p.after_mlp


def _unlike(anatomy: Anatomy, probe: Callable[[], object]) -> frozenset[int]:
    """The blocks in which the same modules do not add up: one may add a bias of its own (GPT-NeoX-Japanese)."""
    assert anatomy.attn_out is not None and anatomy.mlp_out is not None
    recordings = {
        layer: Recording(block, part)
        for layer, (block, part) in enumerate(zip(anatomy.blocks, anatomy.parts, strict=True))
        if anatomy.attn_out(part) is not None and anatomy.mlp_out(part) is not None
    }
    with torch.no_grad(), ExitStack() as entered:
        for recording in recordings.values():
            entered.enter_context(recording.attached())
        probe()
    unlike = set()
    for layer, recording in recordings.items():
        seen, part = recording.states, anatomy.parts[layer]
        names = ["attention" if anatomy.attn_out(part) is part.attention else "after_attention"]
        names += ["mlp" if anatomy.mlp_out(part) is part.mlp else "after_mlp"]
        names += [name for name in ("cross_attention",) if name in seen]
        total = seen["input"] + sum(seen[name] for name in names)
        if not _miss(total, seen["output"], seen["input"]) <= _largest_miss(seen["output"]):
            unlike.add(layer)
    return frozenset(unlike)


def _largest_miss(state: Tensor) -> float:
    return LARGEST_MISS if state.dtype == torch.float32 else LARGEST_MISS_HALF


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(torch.equal(a, b))


def _miss(sum_of_parts: Tensor, state: Tensor, start: Tensor) -> float:
    """How far `sum_of_parts` is from `state`, relative to the way from `start`: all residual states are near others."""
    if sum_of_parts.shape != state.shape:
        return float("inf")
    way = (state.float() - start.float()).norm()
    error = (sum_of_parts.float() - state.float()).norm()
    # The identity must hold within the tolerance of vectors too: RWKV norms what its first block has read.
    return float(torch.maximum(error / way, 10 * error / state.float().norm()))


def _is_sum(state: Tensor, a: Tensor, b: Tensor) -> bool:
    """Whether `state` is a + b, judged by the smaller of them: where one is large, it alone is near the sum."""
    if state.shape != a.shape:
        return False
    error = (state.float() - (a + b).float()).norm()
    return bool(error <= LARGEST_MISS_HALF * torch.minimum(a.float().norm(), b.float().norm()))


SITE_OF = {"input": "resid_pre", "output": "resid_post", "attention": "attn_out", "mlp": "mlp_out",
           "cross_attention": "cross_attn_out"}  # fmt: skip


class Recording:
    """One block's input and output, its parts' outputs and what its other children read and write, in order."""

    def __init__(self, block: nn.Module, parts: BlockParts) -> None:
        self.block = block
        self.parts = {name: module for name, module in vars(parts).items() if module is not None}
        self.states: dict[str, Tensor] = {}
        self._kept: dict[str, Tensor] = {}

    def changed(self) -> set[str]:
        """What was written over after it had been recorded."""
        return {name for name, state in self._kept.items() if not _equal(state, self.states[name])}

    def _record(self, name: str, state: Tensor) -> None:
        self._kept[name], self.states[name] = state, state.detach().clone()

    def _output(self, name: str) -> Callable:
        return lambda module, args, out: self._record(name, first_tensor(out))

    def _read(self, name: str) -> Callable:
        return lambda module, args, kwargs: self._record(name, block_input(args, kwargs))

    def _wrote(self, name: str) -> Callable:
        return lambda module, args, out: self._record(name, out) if isinstance(out, Tensor) else None

    @contextmanager
    def attached(self) -> Iterator[None]:
        """The hooks are in place inside the block only."""
        block = self.block
        handles = [
            block.register_forward_pre_hook(self._read("input"), with_kwargs=True),
            block.register_forward_hook(self._output("output")),
        ]
        for name, module in self.parts.items():
            handles.append(module.register_forward_hook(self._output(name)))
        for name, child in named_parts(block).items():
            handles.append(child.register_forward_pre_hook(self._read(f"read:{name}"), with_kwargs=True))
            if not any(child is module for module in self.parts.values()):
                handles.append(child.register_forward_hook(self._wrote(f"wrote:{name}")))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
