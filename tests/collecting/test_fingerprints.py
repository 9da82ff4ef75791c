"""What run.json says of a model does not change by using it; a changed file does, and stops a run from resuming."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from random_models import byte_tokenizer, random_model, save
from subword_tokenizers import slow_word_tokenizer
from transformers import AutoTokenizer

from tracelake.collect.configuration.config import CollectConfig
from tracelake.collect.configuration.keep import Keep
from tracelake.collect.models.fingerprints import tokenizer_digest
from tracelake.collect.models.loading.load import load_model
from tracelake.collect.observing.budget import Budget
from tracelake.collect.observing.kept import Kept
from tracelake.collect.observing.observation import ObservedModel
from tracelake.collect.observing.vectors import kept_vectors
from tracelake.collect.running.collector import Callbacks, Collection, resume_run
from tracelake.lake import Lake
from tracelake.lake.errors import ConfigError, StoppedError

DIGESTS = ("weights_sha256", "config_sha256", "generation_config_sha256", "tokenizer_sha256", "chat_template_sha256")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model with a chat template whose tokenizer file pads and truncates."""
    return with_padding(save(random_model("llama"), tmp_path / "model", byte_tokenizer(chat=True)))


def with_padding(folder: Path) -> Path:
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    content["padding"] = {
        "strategy": {"Fixed": 16}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 2, "pad_type_id": 0,
        "pad_token": "<pad>",
    }  # fmt: skip
    content["truncation"] = {"direction": "Right", "max_length": 16, "strategy": "LongestFirst", "stride": 0}
    file.write_text(json.dumps(content), encoding="utf-8")
    return folder


def test_calls_change_nothing(folder: Path) -> None:
    loaded = load_model(str(folder), device="cpu")
    before = loaded.describe()
    assert all(before[name] for name in DIGESTS)
    tokenizer, ids = loaded.tokenizer, torch.tensor([[3, 4, 5]])
    calls: dict[str, Callable[[], object]] = {
        "tokenize": lambda: tokenizer("Tom has three apples"),
        "pad": lambda: tokenizer(["a", "Tom has"], padding=True, return_tensors="pt"),
        "truncate": lambda: tokenizer("Tom has three apples", truncation=True, max_length=2),
        "template": lambda: tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False),
        "decode": lambda: tokenizer.decode([3, 4]),
        "pass": lambda: loaded.model(ids),
        "generate": lambda: loaded.model.generate(ids, max_new_tokens=2, do_sample=False, pad_token_id=2),
        "observe": lambda: observe(loaded, ids),
    }
    for name, call in calls.items():
        call()
        assert loaded.describe() == before, name
    assert load_model(str(folder), device="cpu").describe() == before


def observe(loaded: object, ids: torch.Tensor) -> None:
    keep = Keep.parse(("tokens", "layers", "heads", "activations:resid_post"))
    vectors = tuple(kept_vectors(keep, loaded.stacks, observe_prompt=True))  # type: ignore[attr-defined]
    kept = Kept(True, True, True, vectors, "float32")
    with ObservedModel(loaded, kept, Budget(64, 64, 2**20)).attached(), torch.no_grad():  # type: ignore[arg-type]
        loaded.model(ids)  # type: ignore[attr-defined]


def edit(file: Path, **changes: object) -> None:
    content = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**content, **changes}), encoding="utf-8")


CHANGES: dict[str, Callable[[Path], object]] = {
    "config_sha256": lambda folder: edit(folder / "config.json", rms_norm_eps=1e-3),
    "generation_config_sha256": lambda folder: edit(folder / "generation_config.json", eos_token_id=[5]),
    "tokenizer_sha256": lambda folder: edit(folder / "tokenizer.json", normalizer={"type": "Lowercase"}),
    "chat_template_sha256": lambda folder: (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}"),
}


def interrupted(folder: Path, path: Path) -> tuple[Lake, str]:
    lake, done = Lake.create(path), []
    callbacks = Callbacks(lambda p: done.append(p.segments_done), should_stop=lambda: bool(done) and done[-1] >= 1)
    config = CollectConfig(
        model=str(folder), prompt=("one", "two and two", "three"), max_new_tokens=3, segment_items=1, device="cpu"
    )
    with pytest.raises(StoppedError):
        Collection(config, callbacks).start(lake)
    return lake, lake.resolve_run("latest")


def test_a_tokenizer_file_that_pads_resumes(folder: Path, tmp_path: Path) -> None:
    lake, run_id = interrupted(folder, tmp_path / "lake")
    result = resume_run(lake, run_id)
    assert result is not None and result.n_sequences == 3
    row = lake.runs()[0]
    assert row["status"] == "complete" and row["tokenizer_sha256"] == lake.run_json(run_id)["model"]["tokenizer_sha256"]
    lengths = lake.sql("select n_prompt_tokens n from sequences order by sequence_id")["n"].to_list()
    assert lengths != [16, 16, 16], "the padding of the file is none of the prompt"


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_file_is_refused_by_name(name: str, folder: Path, tmp_path: Path) -> None:
    lake, run_id = interrupted(folder, tmp_path / "lake")
    CHANGES[name](folder)
    with pytest.raises(ConfigError, match=rf"model's {name} was"):
        resume_run(lake, run_id)
    assert lake.run_status(run_id) == "interrupted"


def test_the_digest_of_a_tokenizer_is_that_of_its_files(tmp_path: Path) -> None:
    byte_tokenizer().save_pretrained(tmp_path / "one")
    byte_tokenizer().save_pretrained(tmp_path / "same")
    byte_tokenizer(begin=True).save_pretrained(tmp_path / "other")
    one, same, other = (AutoTokenizer.from_pretrained(tmp_path / name) for name in ("one", "same", "other"))
    assert tokenizer_digest(one) == tokenizer_digest(same) != tokenizer_digest(other)
    memory = byte_tokenizer()
    first = tokenizer_digest(memory)
    memory(["a", "Tom has"], padding=True)
    assert tokenizer_digest(memory) == first, "also without files"


def test_a_tokenizer_without_a_fast_form(tmp_path: Path) -> None:
    slow = slow_word_tokenizer(tmp_path)
    slow.save_pretrained(tmp_path / "slow")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "slow")
    assert not loaded.is_fast
    first = tokenizer_digest(loaded)
    file = tmp_path / "slow" / "vocab.txt"
    file.write_text(file.read_text(encoding="utf-8") + "\nmore", encoding="utf-8")
    assert tokenizer_digest(AutoTokenizer.from_pretrained(tmp_path / "slow")) != first
