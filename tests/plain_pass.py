"""The reference for any architecture: a bare model reads one whole sequence at a time, eager, without a cache.

Where the residual stream is, is not written down per architecture: the blocks are those whose inputs are the
`hidden_states` that the model itself returns.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedModel

Site = tuple[str, int]


@dataclass
class StackReading:
    """What one stack computes; every array has its own tokens as the first axis."""

    first: int
    """Position of its first token."""
    states: dict[Site, np.ndarray] = field(default_factory=dict)
    attention: dict[str, list[np.ndarray]] = field(default_factory=dict)
    """By kind and layer that has attention, `[token head key]`; keys of the stack itself, or of the encoder."""

    @property
    def n_layers(self) -> int:
        return 1 + max(layer for _, layer in self.states)


@dataclass
class PlainReading:
    """A sequence and what the model made of it."""

    ids: np.ndarray
    logits: np.ndarray
    """`[token that the decoder read, vocabulary]`"""
    stacks: dict[str, StackReading]


class NoReference(Exception):
    """The plain pass itself does not give what is to be compared."""


class PlainReader:
    """A model of a folder, as a class of transformers (`AutoModelForCausalLM`) loads it."""

    def __init__(self, folder: Path, auto: Any, dtype: torch.dtype = torch.float32) -> None:
        config = AutoConfig.from_pretrained(folder)
        try:
            model = auto.from_pretrained(folder, dtype=dtype, attn_implementation="eager")
        except ValueError:
            model = auto.from_pretrained(folder, dtype=dtype)
        self.model: PreTrainedModel = model.eval().requires_grad_(False)
        self.two_stacks = bool(config.is_encoder_decoder)

    def read(self, ids: np.ndarray, n_encoded: int = 0) -> PlainReading:
        """One pass over the sequence; the encoder, if there is one, reads the first `n_encoded` tokens."""
        with torch.no_grad(), _calls(self.model) as calls:
            output = self._forward(ids, n_encoded, output_hidden_states=True, output_attentions=True)
        maps = self._attention(output)
        stacks = {}
        for name, first in (("encoder", 0), ("decoder", n_encoded)) if self.two_stacks else (("decoder", 0),):
            prefix = f"{name}_" if self.two_stacks else ""
            reading = StackReading(first, self._states(output, calls, prefix))
            reading.attention["self"] = maps.get(f"{prefix}attentions", [])
            if self.two_stacks and name == "decoder":
                reading.attention["cross"] = maps.get("cross_attentions", [])
            stacks[name] = reading
        return PlainReading(ids, output.logits[0].double().numpy(), stacks)

    def logits(self, ids: np.ndarray, n_encoded: int) -> np.ndarray:
        """Logits behind the last token."""
        with torch.no_grad():
            return self._forward(ids, n_encoded).logits[0, -1].double().numpy()

    def greedy(self, prompt: np.ndarray, n_encoded: int, n_new: int) -> np.ndarray:
        """The best tokens one by one, each from a pass over everything before it."""
        ids = prompt
        for _ in range(n_new):
            ids = np.append(ids, self.logits(ids, n_encoded).argmax())
        return ids[len(prompt) :]

    def generated(self, prompt: np.ndarray, n_encoded: int, n_new: int) -> np.ndarray:
        """What `generate` of transformers writes, greedily."""
        read = torch.from_numpy(prompt[:n_encoded] if self.two_stacks else prompt)[None]
        options: dict[str, Any] = {}
        if self.two_stacks:
            options["decoder_start_token_id"] = 2
            options["decoder_input_ids"] = torch.from_numpy(prompt[n_encoded:])[None]
        out = self.model.generate(
            read, attention_mask=torch.ones_like(read), max_new_tokens=n_new, do_sample=False, num_beams=1,
            eos_token_id=None, pad_token_id=2, **options,
        )[0].numpy()  # fmt: skip
        return out[len(prompt) - n_encoded :]

    def _forward(self, ids: np.ndarray, n_encoded: int, **options: Any) -> Any:
        every = torch.from_numpy(ids)[None]
        if self.two_stacks:
            inputs = {"input_ids": every[:, :n_encoded], "decoder_input_ids": every[:, n_encoded:]}
        else:
            inputs = {"input_ids": every}
        try:
            return self.model(**inputs, use_cache=False, **options)
        except (ValueError, TypeError):
            if not options.pop("output_attentions", False):
                raise
            return self.model(**inputs, use_cache=False, **options)

    def _attention(self, output: Any) -> dict[str, list[np.ndarray]]:
        """Attention maps of the layers that have some; none where the model does not return them."""
        names = ("attentions", "encoder_attentions", "decoder_attentions", "cross_attentions")
        tuples = {name: getattr(output, name, None) or () for name in names}
        return {
            name: [layer[0].float().permute(1, 0, 2).numpy() for layer in maps if _is_map(layer)]
            for name, maps in tuples.items()
        }

    def _states(self, output: Any, calls: "Calls", prefix: str) -> dict[Site, np.ndarray]:
        hidden = getattr(output, f"{prefix}hidden_states", None)
        if not hidden:
            raise NoReference("the model returns no hidden_states")
        n_layers = len(hidden) - 1
        blocks = calls.blocks(hidden)
        if blocks is None:
            raise NoReference(f"no {n_layers} modules read the {len(hidden)} hidden_states one after another")
        final = calls.final(hidden[-1])
        sites = {("resid_pre", 0): blocks[0].read, ("final_norm", n_layers - 1): final}
        sites |= {("resid_post", layer): block.wrote for layer, block in enumerate(blocks)}
        return {site: state[0].numpy() for site, state in sites.items()}


@dataclass(frozen=True)
class Call:
    """One call of a module: the first tensors that it read and wrote."""

    module: nn.Module
    read: Tensor
    wrote: Tensor


class Calls:
    """What passed through the modules of a model, in order."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.outputs: list[Tensor] = []
        """Every `last_hidden_state`."""

    def blocks(self, hidden: tuple[Tensor, ...]) -> list[Call] | None:
        """The calls of one class that read all but the last of `hidden`, or (Mamba) that wrote them."""
        by_class: dict[str, list[Call]] = {}
        for call in self.calls:
            by_class.setdefault(type(call.module).__name__, []).append(call)
        together = [*by_class.values(), [call for call in self.calls if "Layer" in type(call.module).__name__]]
        for calls in sorted(together, key=len, reverse=True):
            readers = _in_order(calls, hidden[:-1], lambda call: call.read)
            if readers and all(_same(call.wrote, state) for call, state in zip(readers, hidden[1:-1], strict=False)):
                return readers
            writers = _in_order(calls, hidden[:-1], lambda call: call.wrote)
            if writers and all(_same(call.read, state) for call, state in zip(writers[1:], hidden, strict=False)):
                return writers
        return None

    def final(self, last: Tensor) -> Tensor:
        """The state that the stack hands on: its last_hidden_state."""
        fitting = [state for state in self.outputs if state.shape[:2] == last.shape[:2]]
        same = [state for state in fitting if _same(state, last)]
        if same:
            return same[-1]
        if not fitting:
            raise NoReference("no module returns a last_hidden_state")
        return fitting[-1]


def _in_order(calls: list[Call], states: tuple[Tensor, ...], tensor: Callable[[Call], Tensor]) -> list[Call]:
    """One call after the other for each of the states; empty if there is none for one of them."""
    chosen: list[Call] = []
    for call in calls:
        if len(chosen) < len(states) and _same(tensor(call), states[len(chosen)]):
            chosen.append(call)
    return chosen if len(chosen) == len(states) else []


@contextmanager
def _calls(model: nn.Module) -> Iterator[Calls]:
    """Record the inputs and outputs of all modules below `model` that read and write states of the same shape."""
    seen = Calls()
    started: dict[int, int] = {}

    def before(module: nn.Module, args: tuple, kwargs: dict) -> None:
        read = _first(args, kwargs)
        if read is not None:
            started[id(module)] = len(seen.calls)
            seen.calls.append(Call(module, read.detach().clone(), read[:0]))

    def after(module: nn.Module, args: tuple, kwargs: dict, out: Any) -> None:
        last = getattr(out, "last_hidden_state", None)
        if isinstance(last, Tensor):
            seen.outputs.append(last.detach().clone())
        place = started.pop(id(module), None)
        wrote = out if isinstance(out, Tensor) else out[0] if isinstance(out, tuple | list) and out else None
        if place is not None and isinstance(wrote, Tensor):
            seen.calls[place] = Call(module, seen.calls[place].read, wrote.detach().clone())

    handles = []
    for module in model.modules():
        if module is not model:
            handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
            handles.append(module.register_forward_hook(after, with_kwargs=True))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _first(args: tuple, kwargs: dict) -> Tensor | None:
    for value in (*args, kwargs.get("hidden_states"), *kwargs.values()):
        if isinstance(value, Tensor) and value.is_floating_point() and value.ndim >= 3:
            return value
    return None


def _is_map(weights: Any) -> bool:
    """Whether an entry of `attentions` is one; layers without attention have something else there."""
    return isinstance(weights, Tensor) and weights.ndim == 4


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(torch.equal(a, b))
