"""What an edit makes of states: zeros, a mean, more of a direction or none of it, any function of them."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, Self

import torch
from jaxtyping import Float
from torch import Tensor

from ....lake.errors import ConfigError

States = Float[Tensor, "*batch d"]


class Change(Protocol):
    """A function of states that can be described; `of` some of their elements, where only these are to change."""

    name: str

    @property
    def width(self) -> int | None:
        """Elements of a state that it can change; None for any number."""
        ...

    def of(self, elements: Tensor) -> "Change":
        """The same for states of which only these elements are given."""
        ...

    def describe(self) -> dict[str, object]:
        """What it is, for run.json: equal descriptions change equal states equally."""
        ...

    def __call__(self, states: States) -> States: ...


@dataclass(frozen=True)
class Zero:
    """States of zeros."""

    name = "zero"
    width = None

    def of(self, elements: Tensor) -> "Zero":
        return self

    def describe(self) -> dict[str, object]:
        return {"change": self.name}

    def __call__(self, states: States) -> States:
        return torch.zeros_like(states)


@dataclass(frozen=True, eq=False)
class _OfVector:
    """A change that a vector decides, kept in float32 on the host."""

    vector: Float[Tensor, " d"]
    name = ""

    def __post_init__(self) -> None:
        vector = self.vector.detach().to("cpu", torch.float32)
        if vector.ndim != 1 or vector.numel() == 0:
            raise ConfigError(f"An edit needs one vector, not an array of shape {list(vector.shape)}.")
        if not vector.isfinite().all():
            n = int((~vector.isfinite()).sum())
            raise ConfigError(f"The vector of an edit holds {n} values that are NaN or infinite; give finite ones.")
        object.__setattr__(self, "vector", vector)

    @property
    def width(self) -> int | None:
        return self.vector.numel()

    def of(self, elements: Tensor) -> Self:
        return type(self)(self.vector[elements.cpu()], **self._options)

    @property
    def _options(self) -> dict[str, float]:
        return {}

    @cached_property
    def _sha256(self) -> str:
        return hashlib.sha256(self.vector.numpy().astype("<f4").tobytes()).hexdigest()

    def describe(self) -> dict[str, object]:
        return {"change": self.name, **self._options, "dim": self.width, "vector_sha256": self._sha256}


@dataclass(frozen=True, eq=False)
class Mean(_OfVector):
    """Every state replaced by one: the site's mean over some positions, which the caller has computed."""

    name = "mean"

    def __call__(self, states: States) -> States:
        return self.vector.to(states.device, states.dtype).expand_as(states)


@dataclass(frozen=True, eq=False)
class Add(_OfVector):
    """`strength` times the vector added."""

    strength: float = 1.0
    name = "add"

    @property
    def _options(self) -> dict[str, float]:
        return {"strength": self.strength}

    @cached_property
    def _added(self) -> Float[Tensor, " d"]:
        return self.vector * self.strength

    def __call__(self, states: States) -> States:
        return states + self._added.to(states.device, states.dtype)


@dataclass(frozen=True, eq=False)
class ProjectOut(_OfVector):
    """The component along the vector removed, whatever its length; computed in float32 at least."""

    name = "project_out"

    def __post_init__(self) -> None:
        super().__post_init__()
        if float(self.vector.norm()) == 0.0:
            raise ConfigError("project_out: the vector has length 0, so that it has no direction.")

    @cached_property
    def _unit(self) -> Float[Tensor, " d"]:
        long = self.vector.double()
        return long / long.norm()

    def __call__(self, states: States) -> States:
        wide = states.float() if states.dtype in (torch.float16, torch.bfloat16) else states
        unit = self._unit.to(wide.device, wide.dtype)
        return (wide - (wide @ unit).unsqueeze(-1) * unit).to(states.dtype)


@dataclass(frozen=True, eq=False)
class Replace:
    """Any function of the states, which keeps their shape; `digest` says which, for run.json."""

    function: Callable[[States], States]
    digest: str
    width: int | None = None
    name = "replace"

    def of(self, elements: Tensor) -> "Replace":
        raise ConfigError("An edit that replaces states by a function of them cannot be limited to some elements.")

    def describe(self) -> dict[str, object]:
        return {"change": self.name, "digest": self.digest}

    def __call__(self, states: States) -> States:
        changed = self.function(states)
        if changed.shape != states.shape:
            raise ConfigError(
                f"The function of an edit made {list(changed.shape)} of states of shape {list(states.shape)}; it must "
                "keep the shape."
            )
        return changed.to(states.dtype)
