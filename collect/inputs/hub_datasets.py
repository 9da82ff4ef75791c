"""Datasets of the Hugging Face hub, or of a folder that `datasets` can load: opened in one way for all."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ...lake.errors import ConfigError, NotFoundError

UNREACHED = "Fetch it where there is a network, or give its rows: --prompts FILE, --corpus FILE, --dataset-path."


def open_dataset(dataset: str, subset: str | None, split: str, *, advice: str, streaming: bool = False) -> Any:
    """The rows of one split; NotFoundError with `advice` if they cannot be had, ConfigError without the package."""
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise ConfigError("Hugging Face datasets need an extra package: pip install 'tracelake[hub]'.") from error
    name = ":".join(filter(None, (dataset, subset, split)))
    with _asking_a_hub_that_can_answer(dataset) as is_away:
        try:
            return load_dataset(dataset, subset, split=split, streaming=streaming)
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            if is_away and isinstance(error, ConnectionError):
                reason, advice = "the hub's host has no address from here, and it was not fetched before.", UNREACHED
            raise NotFoundError(f"Dataset {name} could not be loaded: {reason} {advice}") from error


@contextmanager
def _asking_a_hub_that_can_answer(dataset: str) -> Iterator[bool]:
    """Whether the hub is out of reach; meanwhile nobody tries it six times in 23 s, what was fetched before is found.

    `load_dataset` has no argument for that: two constants decide, which are read whenever a request is made.
    """
    from datasets import config
    from huggingface_hub import constants

    from ..models.loading.hub import out_of_reach

    if not out_of_reach(dataset):
        yield False
        return
    before = constants.HF_HUB_OFFLINE, config.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = config.HF_HUB_OFFLINE = True
    try:
        yield True
    finally:
        constants.HF_HUB_OFFLINE, config.HF_HUB_OFFLINE = before
