"""Model and embedder folders from others: each file cut, emptied, replaced or changed in every field.

Whatever they hold, the end is an error of ours or a run; never a traceback, and no code of theirs runs.
"""

import contextlib
import json
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub.errors import StrictDataclassError
from random_embedder import save_random_embedder
from random_models import random_model, save
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from tracelake.collect.configuration.config import CollectConfig
from tracelake.collect.embedding.embedder import Embedder
from tracelake.collect.models.loading.load import open_config
from tracelake.collect.models.loading.load_errors import check_counts
from tracelake.collect.running.collector import Collection
from tracelake.lake import Lake
from tracelake.lake.errors import ConfigError, LakeError

WRONG: tuple[Any, ...] = (None, -1, 0, 10**12, 1.5, "x", "../../etc/passwd", [], {}, [[1]], True, "\u202e\x1b[2J")
FILES = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors")
CONTENTS: tuple[bytes, ...] = (b"", b"{", b"[]", b"null", b"[" * 100_000, b"\xff\xfe\x00", b"x" * 1000)
CANARY = "canary.txt"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(random_model("llama"), tmp_path_factory.mktemp("hostile") / "model")


def cases(folder: Path) -> Iterator[tuple[str, str, bytes]]:
    """What is attacked, the file and its new content."""
    for name in FILES:
        path = folder / name
        if not path.is_file():
            continue
        for content in CONTENTS:
            yield f"{name} = {content[:12]!r}", name, content
        data = path.read_bytes()
        yield f"{name} cut", name, data[: len(data) // 2]
        if name.endswith(".json") and name != "tokenizer.json":
            body = json.loads(data)
            for key in sorted(body):
                for value in WRONG:
                    yield f"{name}: {key} = {value!r}", name, json.dumps({**body, key: value}).encode()
    header = json.dumps({"model.embed_tokens.weight": {"dtype": "F32", "shape": [2**40, 9], "data_offsets": [0, 8]}})
    yield "safetensors of a lie", "model.safetensors", len(header).to_bytes(8, "little") + header.encode() + b"\0" * 8
    config = json.loads((folder / "config.json").read_text())
    code = {"auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}, "model_type": "evil"}
    yield "code of its own", "config.json", json.dumps(config | code).encode()
    yield "a pickle", "pytorch_model.bin", b"cos\nsystem\n(S'touch canary.txt'\ntR."
    template = "{% for x in range(10**9) %}{{ x }}{% endfor %}{{ ''.__class__.__mro__[1].__subclasses__() }}"
    yield "a hostile template", "chat_template.jinja", template.replace("10**9", "9").encode()


def attack(sound: Path, place: Path, every: int) -> tuple[int, int]:
    """How many folders were refused by name, and how many ran."""
    refused = ran = 0
    for number, (what, name, content) in enumerate(cases(sound)):
        if number % every:
            continue
        folder = place / "model"
        shutil.copytree(sound, folder)
        (folder / name).write_bytes(content)
        (folder / "evil.py").write_text(f"open({str(place / CANARY)!r}, 'w').close()\n")
        try:
            with warnings.catch_warnings(), contextlib.chdir(place):
                warnings.simplefilter("ignore")
                config = CollectConfig(model=str(folder), prompt=("one, two",), max_new_tokens=2, device="cpu")
                Collection(config).start(Lake.create(place / "lake"), assume_yes=True)
            ran += 1
        except LakeError as error:
            assert "Traceback" not in str(error), what
            refused += 1
        except Exception as error:
            raise AssertionError(f"{what} ends in {error!r}") from error
        assert not (place / CANARY).exists(), f"{what} ran its code"
        shutil.rmtree(folder)
        shutil.rmtree(place / "lake", ignore_errors=True)
    return refused, ran


@pytest.mark.parametrize("every", [61, pytest.param(1, marks=pytest.mark.slow)])
def test_no_folder_ends_in_a_traceback(sound: Path, tmp_path: Path, every: int, record_property) -> None:
    refused, ran = attack(sound, tmp_path, every)
    record_property("folders", refused + ran)
    record_property("refused", refused)
    assert refused > 1


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_embedder(tmp_path_factory.mktemp("embedders"))


def embedder_cases(folder: Path) -> Iterator[tuple[Path, bytes]]:
    """A file of the embedder and its new content."""
    for path in sorted(folder.rglob("*.json")):
        data = path.read_bytes()
        body = json.loads(data)
        yield from ((path, content) for content in (*CONTENTS, data[: len(data) // 2]))
        if path.name != "tokenizer.json" and isinstance(body, dict):
            yield from ((path, json.dumps({**body, key: value}).encode()) for key in sorted(body) for value in WRONG)


@pytest.mark.parametrize("every", [29, pytest.param(1, marks=pytest.mark.slow)])
def test_no_embedder_ends_in_a_traceback_or_in_other_vectors(
    embedder: Path, tmp_path: Path, every: int, record_property
) -> None:
    """It is refused, or gives unit vectors; nothing of it is random: two loads give the same."""
    n_refused = n_embedded = 0
    for path, content in list(embedder_cases(embedder))[::every]:
        folder = shutil.copytree(embedder, tmp_path / "embedder")
        (folder / path.relative_to(embedder)).write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                first, second = (Embedder(str(folder), "cpu").embed(["one and two", "two"])[0] for _ in range(2))
            except LakeError:
                n_refused += 1
            else:
                n_embedded += 1
                np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1, atol=1e-5, err_msg=str(content[:200]))
                np.testing.assert_array_equal(first, second, err_msg=str(content[:200]))
        shutil.rmtree(folder)
    record_property("embedders", n_refused + n_embedded)
    record_property("embedders refused", n_refused)
    assert n_refused > 1 and n_embedded > 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_hidden_layers": 2}, "would be random: encoder.layer.1"),
        ({"vocab_size": 9}, "would be random: embeddings.word_embeddings.weight"),
        ({"num_hidden_layers": 10**12}, "has num_hidden_layers = 1,000,000,000,000"),
        ({"layer_norm_eps": float("nan")}, "not finite"),
        ({"pad_token_id": 99}, "could not be loaded"),
    ],
)
def test_an_embedder_whose_files_do_not_fit(embedder: Path, tmp_path: Path, change: dict[str, Any], said: str) -> None:
    folder = shutil.copytree(embedder, tmp_path / "embedder")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(LakeError, match=said):
        Embedder(str(folder), "cpu")


@pytest.mark.parametrize("key", ["num_hidden_layers", "num_key_value_heads", "head_dim"])
def test_counts_that_no_model_has_are_refused_before_a_module_is_made(sound: Path, tmp_path: Path, key: str) -> None:
    folder = shutil.copytree(sound, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {key: 10**12}))
    with pytest.raises(ConfigError, match=f"has {key} = 1,000,000,000,000"):
        open_config(str(folder))


def test_counts_of_no_architecture_are_refused() -> None:
    n_checked = 0
    for kind in CONFIG_MAPPING:
        try:
            settings = CONFIG_MAPPING[kind]()
        except (ValueError, TypeError, ImportError, StrictDataclassError):
            continue  # there is no configuration by default
        for part in (settings, *(getattr(settings, name, None) for name in settings.sub_configs)):
            if part is not None:
                check_counts(kind, part.to_dict())
                n_checked += 1
    assert n_checked > 300


def test_an_embedder_folder_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "embedder").mkdir()
    for content in CONTENTS:
        (tmp_path / "embedder" / "modules.json").write_bytes(content)
        config = CollectConfig(
            model="tinymath", prompt=("1 + 1",), max_new_tokens=1, keep=("tokens", "embeddings"), device="cpu",
            embedder=str(tmp_path / "embedder"),
        )  # fmt: skip
        with pytest.raises(LakeError):
            Collection(config).start(Lake.create(tmp_path / "lake"), assume_yes=True)
