"""In which layers a model's attention can be observed; tried with one short pass."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from ..models.model import LoadedModel
from ..models.sites.anatomy import LARGEST_MISS, LARGEST_MISS_HALF
from ..models.stack import SELF, Stack
from .attention import AttentionObserver, observing

REFUSALS = (ValueError, KeyError, AttributeError)
"""What architectures raise that choose their attention class by name and do not know ours."""


@dataclass(frozen=True)
class ObservableAttention:
    """Layers whose attention passes through transformers' AttentionInterface; by default all of them."""

    layers: Mapping[tuple[str, str], tuple[int, ...]] | None = None
    """By stack and kind of attention; None: every layer of every stack."""
    reason: str = ""
    """Why it cannot be observed elsewhere; empty where it can be observed in all layers."""
    twice: frozenset[tuple[str, str]] = field(default_factory=frozenset)
    """Stacks and kinds that weigh two sets of values with the same attention."""

    def __bool__(self) -> bool:
        return self.layers is None or all(self.layers.values())

    def layers_of(self, stack: Stack, kind: str) -> tuple[int, ...]:
        """The observed layers of one kind of attention of a stack."""
        return self.numbers(stack.name, kind, stack.n_layers)

    def numbers(self, stack: str, kind: str, n_layers: int) -> tuple[int, ...]:
        """The same, of a stack that is given by its name and depth."""
        return tuple(range(n_layers)) if self.layers is None else self.layers[stack, kind]


def observable_attention(loaded: LoadedModel) -> ObservableAttention:
    """Run the model on a few tokens and see which layers call the observing function.

    A shell cannot be run: there it is whether the architecture's file knows the interface at all.
    """
    refused = f"{type(loaded.model).__name__} does not pass its attention through transformers' interface"
    nowhere = {(stack.name, kind): () for stack in loaded.stacks for kind in stack.kinds}
    if loaded.is_shell:
        knows = hasattr(sys.modules[type(loaded.model).__module__], "ALL_ATTENTION_FUNCTIONS")
        return ObservableAttention() if knows else ObservableAttention(nowhere, refused)
    observers, modules = observers_of(loaded)
    try:
        with observing(loaded.model, modules):
            loaded.probe()
    except REFUSALS:
        return ObservableAttention(nowhere, refused)
    return _seen(loaded, observers, nowhere, refused)


def observers_of(
    loaded: LoadedModel, capture: frozenset[str] = frozenset()
) -> tuple[dict[tuple[str, str], AttentionObserver], dict[nn.Module, tuple[AttentionObserver, int]]]:
    """An observer of every kind of attention of every stack, and the modules that they look at."""
    observers: dict[tuple[str, str], AttentionObserver] = {}
    modules: dict[nn.Module, tuple[AttentionObserver, int]] = {}
    for stack in loaded.stacks:
        for kind in stack.kinds:
            observers[stack.name, kind] = AttentionObserver(
                kind, causal=stack.is_causal, statistics=True, capture=capture, block_bytes=2**20
            )
            observers[stack.name, kind].misses = {}
        found = stack.attention_modules().items()
        modules |= {module: (observers[stack.name, kind], layer) for module, (kind, layer) in found}
    return observers, modules


def _seen(
    loaded: LoadedModel,
    observers: Mapping[tuple[str, str], AttentionObserver],
    nowhere: Mapping[tuple[str, str], tuple[int, ...]],
    refused: str,
) -> ObservableAttention:
    """What the observers of a pass say about the model."""
    name = type(loaded.model).__name__
    layers = {key: tuple(sorted(observer.rows)) for key, observer in observers.items()}
    if not all(layers.values()):
        return ObservableAttention(nowhere, refused)
    if any(observer.conflicts for observer in observers.values()):
        return ObservableAttention(nowhere, f"{name} calls its attention several times per layer, with unlike queries")
    if any(len({rows.entropy_bits.shape[1] for rows in o.rows.values()}) > 1 for o in observers.values()):
        return ObservableAttention(nowhere, f"the layers of {name} have unlike numbers of heads")
    largest = LARGEST_MISS if loaded.model.dtype == torch.float32 else LARGEST_MISS_HALF
    if any(miss > largest for observer in observers.values() for miss in (observer.misses or {}).values()):
        unknown = f"{name} hands its attention function something that is not known here: its weights are others"
        return ObservableAttention(nowhere, unknown)
    twice = frozenset(key for key, observer in observers.items() if observer.repeated)
    reason = _elsewhere(loaded, layers)
    return ObservableAttention(layers if reason else None, reason, twice)


def _elsewhere(loaded: LoadedModel, layers: Mapping[tuple[str, str], tuple[int, ...]]) -> str:
    """Why some layers have no attention to observe, in words; empty if all have."""
    for stack in loaded.stacks:
        missing = sorted(set(range(stack.n_layers)) - set(layers[stack.name, SELF]))
        if missing:
            kinds = sorted({type(stack.blocks[layer]).__name__ for layer in missing})
            return (
                f"{_ranges(missing)} of {type(loaded.model).__name__} ({', '.join(kinds)}) "
                f"{'has' if len(missing) == 1 else 'have'} no softmax attention that passes through transformers' "
                "interface (a recurrent or linear layer has no heads to look at)"
            )
    return ""


def _ranges(numbers: list[int]) -> str:
    """Layers in words: `layers 0-2, 4-6`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    texts = [str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]
    return f"{'layer' if len(numbers) == 1 else 'layers'} {', '.join(texts)}"
