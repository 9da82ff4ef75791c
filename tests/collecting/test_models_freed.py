"""A model's weights are freed with their last user, not when Python next looks for circles: two may not fit."""

import gc
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tracelake.collect.configuration.config import CollectConfig
from tracelake.collect.running.collector import Collection
from tracelake.lake import Lake


@pytest.fixture
def no_search_for_circles() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_search_for_circles")
@pytest.mark.parametrize(
    ("architecture", "edit"), [("gpt2", ()), ("llama", ("zero:v@0:generated",)), ("mistral-window", ()), ("t5", ())]
)
def test_a_collection_that_is_over_holds_no_weights(
    model_folder: Callable[[str], Path], tmp_path: Path, architecture: str, edit: tuple[str, ...]
) -> None:
    keep = ("tokens", "layers", "heads", "edges", "activations:resid_post", "activations:v")
    config = CollectConfig(
        model=str(model_folder(architecture)), prompt=("one and two", "three"), max_new_tokens=3, keep=keep, edit=edit,
        device="cpu",
    )  # fmt: skip
    collection = Collection(config)
    weights = weakref.ref(collection.loaded.model)
    assert weights() is not None
    collection.start(Lake.create(tmp_path / "lake"), assume_yes=True)
    del collection
    assert weights() is None
