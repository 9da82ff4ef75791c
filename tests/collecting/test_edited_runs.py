"""Runs with `--edit`: against plain passes that are edited by hand, where they begin, resumed, and what is refused."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from plain_sequences import Plain, PlainCausal, check_run, collect, sequences_of
from random_models import D_MODEL, PROMPTS
from safetensors.torch import save_file
from torch import nn

from tracelake import cli
from tracelake.collect.configuration.config import CollectConfig
from tracelake.collect.configuration.edit import EditSetting
from tracelake.collect.decoding.reading.reading import Reading
from tracelake.collect.running.collector import Callbacks, Collection, resume_run
from tracelake.lake import Lake
from tracelake.lake.errors import ConfigError, LakeError, StoppedError

NOT_COMPARED = ["run_id", "latency_ms"]
STRENGTH = 1.5


@pytest.fixture(scope="module")
def direction(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("directions") / "d.npy"
    np.save(path, np.random.default_rng(3).normal(size=D_MODEL))
    return path


class SteeredCausal(PlainCausal):
    """A bare model with a hook written here: block 1's output is moved from the last prompt token on."""

    def __init__(self, folder: Path, direction: Path) -> None:
        super().__init__(folder)
        self.move = torch.from_numpy(np.load(direction).astype(np.float32)) * STRENGTH

    def read(self, ids: np.ndarray, n_prompt: int = 0) -> Plain:
        def steer(module: nn.Module, args: tuple, output: object) -> object:
            states = (output if isinstance(output, torch.Tensor) else output[0]).clone()  # type: ignore[index]
            states[:, n_prompt - 1 :] += self.move
            return states if isinstance(output, torch.Tensor) else (states, *output[1:])  # type: ignore[index]

        handle = self.blocks[1].register_forward_hook(steer, prepend=True)
        try:
            return super().read(ids, n_prompt)
        finally:
            handle.remove()


def steered(direction: Path, strength: float = STRENGTH, scope: str = "generated") -> str:
    return f"add:resid_post@1:direction={direction}:x{strength}:{scope}"


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("qwen3", "gemma2", "neox")]


@pytest.mark.parametrize("architecture", ["gpt2", "mistral-window", *SLOW])
def test_an_edited_run_is_an_edited_plain_pass(
    model_folder: Callable[[str], Path], tmp_path: Path, direction: Path, architecture: str
) -> None:
    folder = model_folder(architecture)
    lake, run = collect(folder, tmp_path / "lake", edit=(steered(direction),))
    check_run(lake, run.run_id, SteeredCausal(folder, direction).read)
    lengths = lake.scan("sequences", run=run.run_id).collect()["n_generated_tokens"]
    assert lengths.n_unique() > 1, "rows leave at different steps and take their edits along"


def test_a_stricter_reading_is_edited_too(model_folder: Callable[[str], Path], tmp_path: Path, direction: Path) -> None:
    """Everything is read again at every step."""
    reading = Reading(whole_prompts=True, uncached=True)
    lake, run = collect(model_folder("llama"), tmp_path / "lake", edit=(steered(direction),), reading=reading)
    check_run(lake, run.run_id, SteeredCausal(model_folder("llama"), direction).read)


def test_generated_begins_at_the_token_that_predicts_the_first(
    model_folder: Callable[[str], Path], tmp_path: Path, direction: Path
) -> None:
    """Step 0's distribution changes, those of earlier tokens do not by a bit; the last prompt state does."""
    folder = model_folder("gpt2")
    frames, states = [], []
    for name, edit in (("plain", ()), ("edited", (steered(direction),))):
        lake, run = collect(folder, tmp_path / name, edit=edit, max_new_tokens=3)
        frames.append(lake.scan("token_steps", run=run.run_id).drop(NOT_COMPARED).collect())
        vectors = lake.scan("activations", run=run.run_id).filter(site="resid_post", layer=1).collect()
        states.append(vectors.sort("sequence_id", "position"))
    prompts = [frame.filter(pl.col("is_prompt")) for frame in frames]
    assert prompts[0].equals(prompts[1], null_equal=True)
    first = [frame.filter(pl.col("step") == 0).sort("sequence_id")["entropy_bits"].to_numpy() for frame in frames]
    assert (np.abs(first[0] - first[1]) > 1e-3).all()
    ends = prompts[0].group_by("sequence_id").agg(pl.col("position").max().alias("end"))
    joined = states[0].join(states[1], on=["sequence_id", "position"]).join(ends, on="sequence_id")
    same = (joined["vector"] == joined["vector_right"]).to_list()
    inside = joined.select(pl.col("position") <= pl.col("end"), early=pl.col("position") < pl.col("end"))
    assert [s for s, i in zip(same, inside["position"], strict=True) if i] == [
        early for early, i in zip(inside["early"], inside["position"], strict=True) if i
    ]


def test_strength_zero_changes_no_bit_of_a_run(
    model_folder: Callable[[str], Path], tmp_path: Path, direction: Path
) -> None:
    runs = []
    for name, edit in (("plain", ()), ("edited", (steered(direction, 0.0, "all"), steered(direction, 0.0)))):
        runs.append(collect(model_folder("llama"), tmp_path / name, edit=edit))
    for table in ("token_steps", "layer_summaries", "activations", "sequences"):
        a, b = (lake.scan(table, run=run.run_id).collect() for lake, run in runs)
        assert a.drop(NOT_COMPARED, strict=False).equals(b.drop(NOT_COMPARED, strict=False), null_equal=True), table


def test_an_edited_decoder_beside_an_encoder(
    model_folder: Callable[[str], Path], tmp_path: Path, direction: Path
) -> None:
    """The start token is the last prompt token: its state is edited, the encoder's are not."""
    folder, states = model_folder("t5"), []
    for name, edit in (("plain", ()), ("edited", (steered(direction),))):
        lake, run = collect(
            folder, tmp_path / name, edit=edit, max_new_tokens=3, keep=("tokens", "activations:resid_post@1")
        )
        vectors = lake.scan("activations", run=run.run_id).collect().sort("sequence_id", "position")
        lengths = lake.scan("sequences", run=run.run_id).select("sequence_id", "n_prompt_tokens").collect()
        states.append(vectors.join(lengths, on="sequence_id").filter(pl.col("position") < pl.col("n_prompt_tokens")))
    joined = states[0].join(states[1], on=["sequence_id", "position"])
    assert (joined["stack"] == "encoder").any()
    changed = (joined["vector"] != joined["vector_right"]).to_list()
    assert changed == (joined["position"] == joined["n_prompt_tokens"] - 1).to_list()


def test_what_was_edited_is_recorded_and_must_be_the_same_when_resumed(
    model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    folder, file = model_folder("gpt2"), tmp_path / "d.safetensors"
    vectors = {"a": torch.randn(D_MODEL), "b": torch.randn(D_MODEL)}
    save_file(vectors, file)
    settings = {"model": str(folder), "prompt": ("one", "two", "three"), "segment_items": 1, "device": "cpu",
                "edit": (f"add:resid_post@0-1:direction={file}#b:x2:generated", "zero:z@2:heads=1"),
                "max_new_tokens": 4, "keep": ("tokens", "activations:resid_post")}  # fmt: skip
    whole = Lake.create(tmp_path / "whole")
    run = Collection(CollectConfig(**settings)).start(whole).run_id
    about = whole.run_json(run)
    assert [(e["change"], e["site"], e["layer"], e["scope"]) for e in about["edits"]] == [
        ("add", "resid_post", 0, "generated"), ("add", "resid_post", 1, "generated"), ("zero", "z", 2, "all")
    ]  # fmt: skip
    lake = Lake.create(tmp_path / "stopped")
    calls = iter(range(1000))
    with pytest.raises(StoppedError):
        Collection(CollectConfig(**settings), Callbacks(should_stop=lambda: next(calls) > 3)).start(lake)
    save_file({**vectors, "b": vectors["a"].clone()}, file)
    with pytest.raises(ConfigError, match="a vector of its edits has changed"):
        resume_run(lake, "latest")
    save_file(vectors, file)
    assert resume_run(lake, "latest") is not None
    for table in ("token_steps", "activations", "sequences"):
        a, b = (one.scan(table, run="latest").drop(NOT_COMPARED, strict=False).collect() for one in (whole, lake))
        key = [name for name in ("sequence_id", "position", "layer", "site") if name in a.columns]
        assert a.sort(key).equals(b.sort(key), null_equal=True), table


def test_two_rows_of_a_batch_may_be_edited_otherwise(
    model_folder: Callable[[str], Path], tmp_path: Path, direction: Path
) -> None:
    """Each sequence is what it is in a run in which all are edited as it is, also after others have left."""
    folder, runs = model_folder("llama"), []
    settings = (steered(direction), "zero:v@1:generated")
    for name, edit in (("a", (settings[0],)), ("b", (settings[1],))):
        lake, run = collect(folder, tmp_path / name, edit=edit)
        runs.append(sequences_of(lake, run.run_id))

    class Alternating(Collection):
        def _runner(self, *arguments: object):  # noqa: ANN202
            runner = super()._runner(*arguments)  # type: ignore[arg-type]
            before = type(runner)._sequence

            def sequence(item: int, sample: int, tokenized: object):  # noqa: ANN202
                made = before(runner, item, sample, tokenized)  # type: ignore[arg-type]
                made.edits = (self.edits[item % 2],)
                return made

            runner._sequence = sequence  # type: ignore[method-assign]
            return runner

    config = CollectConfig(model=str(folder), prompt=PROMPTS, device="cpu", max_new_tokens=10, batch_size=5,
                           segment_items=5, keep=("tokens",), edit=settings)  # fmt: skip
    lake = Lake.create(tmp_path / "mixed")
    mixed = sequences_of(lake, Alternating(config).start(lake, assume_yes=True).run_id)
    for number, tokens in mixed.items():
        wanted = runs[number % 2][number]
        assert tokens["token_id"].equals(wanted["token_id"])
        np.testing.assert_allclose(
            tokens["logprob"].to_numpy()[1:], wanted["logprob"].to_numpy()[1:], rtol=1e-4, atol=1e-5
        )


# -- the text of an edit -----------------------------------------------------------------------------------------------


def test_an_edit_is_read() -> None:
    found = EditSetting.parse("add:encoder.mlp_post@0,-1:direction=C:/a:b.npy:x-2.5e1:neurons=3,7-9:prompt")
    assert (found.kind, found.site, found.stack, found.source) == ("add", "mlp_post", "encoder", "C:/a:b.npy")
    assert (found.strength, found.units, found.scope) == (-25.0, (3, 7, 8, 9), "prompt")
    assert found.resolve(4) == [0, 3]
    assert EditSetting.parse("zero:final_norm").resolve(5) == [4]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("zeros:z@0", "no kind 'zeros'.*zero"),
        ("zero:residpost@0", "no site 'residpost'.*resid_post"),
        ("zero:z", "names no site and layers"),
        ("zero:z@0:x2", "only add has a strength"),
        ("zero:z@0:direction=d.npy", "takes no vector"),
        ("add:z@0:x2", "needs a vector"),
        ("zero:z@0:generate", "cannot read 'generate'.*generated"),
        ("zero:z@0:neurons=1", "neurons are chosen of mlp_post"),
        ("zero:z@0:heads=3-1", "cannot read heads"),
        ("zero:encoder.z@0:generated", "an encoder reads the prompt only"),
    ],
)
def test_an_edit_that_cannot_be_read_is_named(text: str, message: str) -> None:
    with pytest.raises(LakeError, match=message):
        CollectConfig(prompt=("p",), edit=(text,)).edit_settings  # noqa: B018


@pytest.mark.parametrize(
    ("text", "message", "code"),
    [
        ("add:resid_pots@1:direction=good.npy", "resid_post", 4),
        ("add:resid_post@3:direction=good.npy", "no layer 3", 4),
        ("add:resid_post@1:direction=narrow.npy", "7 elements.*has 48", 4),
        ("add:resid_post@1:direction=nan.npy", "NaN", 4),
        ("add:resid_post@1:direction=matrix.npy", "shape", 4),
        ("add:resid_post@1:direction=text.npy", "cannot be read", 4),
        ("add:resid_post@1:direction=none.npy", "no file", 3),
        ("add:resid_post@1:direction=good.txt", "no lake", 3),
        ("zero:z@1:heads=4", "no head 4", 4),
        ("zero:cross_attn_out@1", "only in the decoder", 4),
    ],
)
def test_a_dry_run_finds_what_is_wrong_with_an_edit(
    model_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], text: str, message: str, code: int,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    vector = np.ones(D_MODEL)
    np.save("good.npy", vector)
    np.save("narrow.npy", vector[:7])
    np.save("nan.npy", np.where(np.arange(D_MODEL) == 2, np.nan, vector))
    np.save("matrix.npy", np.ones((2, D_MODEL)))
    Path("text.npy").write_text("no array")
    call = ["lake", "collect", "--model", str(model_folder("gpt2")), "--prompt", "a", "--device", "cpu", "--dry-run"]
    monkeypatch.setattr("sys.argv", [*call, "--lake", "lake", "--edit", text])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = " ".join(capsys.readouterr().err.split())
    assert ended.value.code == code, said
    assert re.search(message, said), said
    assert not Path("lake").exists()
