"""Fixtures that several test files share."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from random_models import ENCODER_DECODERS, random_encoder_decoder, random_model, save

torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What is remembered outside of lakes (checked files, begun runs, histories) is of the tests alone."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(home / "cache"))
        patch.setenv("XDG_STATE_HOME", str(home / "state"))
        yield home


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of a small random model of the named architecture (see `random_models`), saved once per session."""
    saved: dict[str, Path] = {}

    def folder(architecture: str) -> Path:
        if architecture not in saved:
            make = random_encoder_decoder if architecture in ENCODER_DECODERS else random_model
            saved[architecture] = save(make(architecture), tmp_path_factory.mktemp(architecture))
        return saved[architecture]

    return folder
