"""What cannot be loaded is said in one sentence that names it, with the exit code of its kind."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import constants
from random_models import random_model, save

from tracelake.collect.models.loading.hub import out_of_reach
from tracelake.collect.models.loading.load import load_model
from tracelake.lake.errors import LakeError, NotFoundError

POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'a' * 64}\nsize 12345\n"


def configured(**settings: object) -> Callable[[Path], object]:
    def edit(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | settings))

    return edit


def quantised(method: str, **settings: object) -> Callable[[Path], object]:
    return configured(quantization_config={"quant_method": method, **settings})


def cut(n_bytes: int) -> Callable[[Path], object]:
    def edit(folder: Path) -> None:
        file = folder / "model.safetensors"
        file.write_bytes(file.read_bytes()[:n_bytes])

    return edit


@pytest.mark.parametrize(
    ("edit", "code", "message"),
    [
        (quantised("bitsandbytes", load_in_4bit=True), 4, "not installed here.*bitsandbytes"),
        (quantised("gptq", bits=4, group_size=128), 4, "not installed here.*optimum"),
        (quantised("awq", bits=4, group_size=128), 4, "not installed here.*gptqmodel"),
        (quantised("torchao", quant_type="int8wo"), 4, "not installed here.*torchao"),
        (quantised("compressed-tensors", config_groups={}), 4, "not installed here.*compressed-tensors"),
        (cut(5), 6, "model.safetensors is cut off"),
        (cut(-5000), 6, "model.safetensors is cut off"),
        (lambda f: (f / "model.safetensors").write_text(POINTER), 3, "model.safetensors is a Git LFS pointer"),
        (lambda f: (f / "model.safetensors").unlink(), 3, "The folder has config.json"),
        (lambda f: (f / "config.json").write_text('{"a":'), 4, "config.* cannot be read"),
        (lambda f: (f / "tokenizer.json").write_text('{"a":'), 4, "tokenizer of model .* cannot be read"),
        (configured(model_type="vit"), 4, "is of the kind vit, of which transformers offers no language model"),
        (configured(hidden_act="nonsense"), 4, "names 'nonsense'"),
    ],
)
def test_what_is_wrong_is_named(edit: Callable[[Path], object], code: int, message: str, tmp_path: Path) -> None:
    folder = save(random_model("llama"), tmp_path)
    edit(folder)
    with pytest.raises(LakeError, match=message) as caught:
        load_model(str(folder), device="cpu")
    assert caught.value.exit_code == code


def test_attention_that_is_not_installed_is_named(tmp_path: Path) -> None:
    folder = save(random_model("llama"), tmp_path)
    with pytest.raises(LakeError, match="FlashAttention2.*--attn-implementation"):
        load_model(str(folder), device="cpu", attn_implementation="flash_attention_2")


def test_a_hub_without_an_address_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither for a name that is wrong nor for a model that was fetched before: the hub's retries take 23 s each."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert not out_of_reach("some/model"), "an address that refuses may answer the next request"
    monkeypatch.setattr(constants, "ENDPOINT", "https://hub.invalid")
    assert out_of_reach("some/model") and not out_of_reach(str(tmp_path))
    began = time.monotonic()
    with pytest.raises(NotFoundError, match="some/model.*could not be loaded"):
        load_model("some/model", device="cpu")
    assert time.monotonic() - began < 15
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.invalid:3128")
    assert not out_of_reach("some/model"), "the proxy looks hosts up"
