"""Everything that runs a model. The package itself can be called: `tracelake.collect(lake, model="gpt2", prompt="Hi")`.

A package called `collect` and a function called `collect` share one name under `tracelake`, and Python lets the package
win as soon as a file of it is imported; so the package is the function.
"""

import sys
from os import PathLike
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from inspect import Signature
    from typing import Unpack

    from ..lake.lake import Lake
    from .configuration.settings import CollectSettings
    from .running.collector import Collected


class CallablePackage(ModuleType):
    """The type of this package; its call collects one run."""

    def __call__(
        self,
        lake: "Lake | str | PathLike[str]" = "lakehouse",
        *,
        assume_yes: bool = False,
        progress: bool | None = None,
        **settings: "Unpack[CollectSettings]",
    ) -> "Collected":
        """Run a model and record it: `settings` are the fields of `CollectConfig`, e.g. `model="gpt2", prompt="Hi"`.

        A path is opened, or made if there is no lake yet. `progress` shows how far it is on stderr, by default in a
        notebook or a terminal; `assume_yes` starts also a run whose estimate exceeds half of the free disk.
        """
        from ..lake.lake import Lake
        from .configuration.config import resolve_config
        from .configuration.model_name import check_model_name
        from .inputs.prompts import checked_source

        config = resolve_config(settings)
        check_model_name(config.model)
        opened = lake if isinstance(lake, Lake) else Lake.open(str(lake)) if config.looks_up else None
        source = checked_source(config, lake=opened)
        from .progress_line import ProgressLine, is_watched
        from .running.collector import Callbacks, Collection

        line = ProgressLine() if (is_watched() if progress is None else progress) else None
        collection = Collection(config, Callbacks(line.update, line.say) if line else None, source=source, lake=opened)
        try:
            return collection.start(lake if isinstance(lake, Lake) else str(lake), assume_yes=assume_yes)
        finally:
            if line:
                line.finish()

    @property
    def __signature__(self) -> "Signature":
        """Every setting by name, for `help` and for editors that ask the running program."""
        from inspect import Parameter, signature

        from .configuration.settings import CollectSettings

        own = signature(type(self).__call__)
        kept = [p for p in own.parameters.values() if p.kind is not Parameter.VAR_KEYWORD and p.name != "self"]
        named = [
            Parameter(name, Parameter.KEYWORD_ONLY, default=..., annotation=kind)
            for name, kind in CollectSettings.__annotations__.items()
        ]
        return own.replace(parameters=[*kept, *named])


sys.modules[__name__].__class__ = CallablePackage
