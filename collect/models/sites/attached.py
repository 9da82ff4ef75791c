"""What is attached to single modules while a block of code runs; what was attached last comes first."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

from torch import nn

Thing = TypeVar("Thing")


class Attached(Generic[Thing]):
    """Things of one kind by module; keeps no module alive."""

    def __init__(self) -> None:
        self._things: WeakKeyDictionary[nn.Module, tuple[Thing, ...]] = WeakKeyDictionary()

    def of(self, module: nn.Module) -> tuple[Thing, ...]:
        """What is attached to a module."""
        return self._things.get(module, ())

    @contextmanager
    def attaching(self, things: Mapping[nn.Module, Thing]) -> Iterator[None]:
        """Attach a thing to each of the modules for the length of the block."""
        for module, thing in things.items():
            self._things[module] = (thing, *self.of(module))
        try:
            yield
        finally:
            for module, thing in things.items():
                if left := tuple(one for one in self.of(module) if one is not thing):
                    self._things[module] = left
                else:
                    self._things.pop(module, None)
