"""Everything that runs a model. The package itself can be called: `tracelake.collect(lake, model="gpt2", prompt="Hi")`.

A package called `collect` and a function called `collect` share one name under `tracelake`, and Python lets the package
win as soon as a file of it is imported; so the package is the function.
"""

import sys
from os import PathLike
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..lake.lake import Lake
    from .running.collector import Collected


class CallablePackage(ModuleType):
    """The type of this package; its call collects one run."""

    def __call__(self, lake: "Lake | str | PathLike[str]", *, assume_yes: bool = False, **settings: Any) -> "Collected":
        """Run a model and record it: `settings` are the fields of `CollectConfig`, e.g. `model="gpt2", prompt="Hi"`.

        A path is opened, or made if there is no lake yet. Progress bars and signals are the command line's business.
        """
        from ..lake.lake import Lake
        from .config import resolve_config
        from .inputs.prompts import checked_source

        config = resolve_config(settings)
        source = checked_source(config)
        from .running.collector import Collection

        collection = Collection(config, source=source)
        return collection.start(lake if isinstance(lake, Lake) else Lake.create(str(lake)), assume_yes=assume_yes)


sys.modules[__name__].__class__ = CallablePackage
