"""Fixtures that several test files share."""

import atexit
import gc
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from longest_files import LONGEST_FILES, TESTS
from memory_folder import memory_folder

# As many processes compute at a time as there are cores. Before anything imports torch, which reads it once.
os.environ["OMP_NUM_THREADS"] = "1"


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Everything that tests write goes to memory where there is enough, unless --basetemp says where: half the time."""
    if config.option.basetemp is None and not hasattr(config, "workerinput") and (folder := memory_folder()):
        config.option.basetemp = folder / "pytest"
        os.environ["TMPDIR"], tempfile.tempdir = str(folder), None
        atexit.register(shutil.rmtree, folder, ignore_errors=True)  # after all that registers itself later


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {TESTS / name: number for number, name in enumerate(LONGEST_FILES)}
    items.sort(key=lambda item: place.get(item.path, len(place)))


def pytest_collection_finish() -> None:
    """Libraries of models make a million objects that stay: collections of garbage need not look at them again."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    gc.unfreeze()


@pytest.fixture(scope="session", autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What is remembered outside of lakes (checked files, begun runs, histories) is of the tests alone."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(home / "cache"))
        patch.setenv("XDG_STATE_HOME", str(home / "state"))
        yield home


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Torch goes on in one thread: two processes of two threads each wait for each other, ten times as long."""
    yield
    torch = sys.modules.get("torch")
    assert torch is None or torch.get_num_threads() == 1


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of a small random model of the named architecture (see `random_models`), saved once per session."""
    # Imported late: the process that hands out tests needs none, nor do most files.
    from random_models import ENCODER_DECODERS, random_encoder_decoder, random_model, save

    saved: dict[str, Path] = {}

    def folder(architecture: str) -> Path:
        if architecture not in saved:
            make = random_encoder_decoder if architecture in ENCODER_DECODERS else random_model
            saved[architecture] = save(make(architecture), tmp_path_factory.mktemp(architecture))
        return saved[architecture]

    return folder
