"""Layer ablation: losses and greedy answers against the bare model with hooks of the test's own; resumable; refused."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from random_models import END_IDS, N_LAYERS, byte_tokenizer, random_model
from torch import Tensor, nn

import tracelake
from tracelake.collect.ablation import layers as module
from tracelake.collect.ablation.edited_ends import EditedEnds
from tracelake.collect.ablation.layers import AblationOptions, ablate
from tracelake.collect.inputs.grading import parse_grader
from tracelake.collect.models.editing.changes import Mean, Zero
from tracelake.collect.models.editing.edits import Edit
from tracelake.collect.rereading.targets import Target
from tracelake.collect.stored_sequences import load_run_model
from tracelake.lake.errors import ConfigError, LakeError, NotFoundError, UsageError

PROBLEMS = [
    {
        "prompt": f"{a} plus {b} is", "id": f"p{a}", "answer": str(a + b),
        "metadata": {"oracle": {"own": f"{a + b} of course"}},
    }
    for a, b in ((2, 3), (40, 7), (11, 12), (5, 5))
]  # fmt: skip
NEW = 6


def collected(folder: Path, model: Path, problems: list[dict] = PROBLEMS, **options: object) -> tracelake.OpenLake:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder.parent / f"{folder.name}.jsonl"
    file.write_text("\n".join(map(json.dumps, problems)))
    settings = {"model": str(model), "prompts": str(file), "max_new_tokens": NEW, "keep": ("tokens",), "tag": "made"}
    tracelake.collect(folder, **{**settings, **options})
    return tracelake.open(folder)


@contextmanager
def without(model: nn.Module, architecture: str, site: str | None, layer: int, value: Tensor | None) -> Iterator[None]:
    """The bare model with a module's output put in its place."""
    blocks = model.transformer.h if architecture == "gpt2" else model.model.layers
    names = {"attn_out": "attn" if architecture == "gpt2" else "self_attn", "mlp_out": "mlp"}
    if site is None:
        yield
        return

    def replaced(_: nn.Module, args: tuple, output: object) -> object:
        state = output if isinstance(output, Tensor) else output[0]
        new = torch.zeros_like(state) if value is None else value.to(state).expand_as(state)
        return new if isinstance(output, Tensor) else (new, *output[1:])

    handle = getattr(blocks[layer], names[site]).register_forward_hook(replaced)
    try:
        yield
    finally:
        handle.remove()


def by_hand(model: nn.Module, architecture: str, problem: dict, place: tuple, value: Tensor | None) -> tuple:
    """Loss of the reference solution and the greedy completion's text and length."""
    tokenizer = byte_tokenizer()
    prompt = tokenizer(problem["prompt"])["input_ids"]
    whole = tokenizer(problem["prompt"] + " " + problem["metadata"]["oracle"]["own"])["input_ids"]
    assert whole[: len(prompt)] == prompt
    with torch.no_grad(), without(model, architecture, *place, value):
        logits = model(torch.tensor([whole])).logits[0].log_softmax(-1)
        loss = -logits[range(len(prompt) - 1, len(whole) - 1), whole[len(prompt) :]].mean()
        ids = list(prompt)
        for _ in range(NEW):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
            if ids[-1] in END_IDS:
                break
    return float(loss), len(whole) - len(prompt), tokenizer.decode(ids[len(prompt) :]), len(ids) - len(prompt)


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_rows_equal_the_bare_model_with_its_parts_taken_away(
    architecture: str, model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    lake = collected(tmp_path / "lake", model_folder(architecture))
    result = lake.ablate("made")
    model = random_model(architecture)
    rows = lake.scan("ablated_problems", "made").sort("sequence_id").collect()
    assert rows.height == len(PROBLEMS) * (1 + 2 * N_LAYERS)
    grader = parse_grader("auto")
    losses: dict[tuple, list[tuple[float, int]]] = {}
    for row in rows.iter_rows(named=True):
        problem = PROBLEMS[row["sequence_id"]]
        place = (row["site"], row["layer"] or 0)
        loss, n_tokens, text, n_generated = by_hand(model, architecture, problem, place, None)
        assert row["loss"] == pytest.approx(loss, rel=1e-4) and row["n_tokens"] == n_tokens
        assert row["n_generated_tokens"] == n_generated
        graded = grader.grade(text, problem["answer"])
        assert (row["predicted_answer"], row["correct"]) == (graded.predicted_answer, graded.correct)
        losses.setdefault((row["site"], row["layer"]), []).append((loss, n_tokens))
    layers = lake.scan("layer_ablations", "made").collect()
    assert layers.height == 1 + 2 * N_LAYERS and result.layers.computed
    whole = np.array(losses[None, None])
    for row in layers.iter_rows(named=True):
        mine = np.array(losses[row["site"], row["layer"]])
        assert row["loss"] == pytest.approx(np.average(mine[:, 0], weights=mine[:, 1]), rel=1e-4)
        change = np.average(mine[:, 0] - whole[:, 0], weights=mine[:, 1])
        assert row["loss_change"] == pytest.approx(change, rel=1e-3, abs=1e-5)
        assert row["loss_ci_low"] <= row["loss_change"] + 1e-9 and row["loss_change"] <= row["loss_ci_high"] + 1e-9
        assert row["n_problems"] == row["n_graded"] == len(PROBLEMS)
    stored = lake.scan("sequences", "made").sort("sequence_id").collect()["predicted_answer"].to_list()
    assert rows.filter(action="none")["predicted_answer"].to_list() == stored


def test_means_are_of_the_train_split(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    architecture = "gpt2"
    folder = model_folder(architecture)
    lake = collected(tmp_path / "lake", folder)
    with pytest.raises(NotFoundError, match="split `train`, and run made.* has none"):
        ablate(lake, "made", AblationOptions(actions=("mean",)), lambda: pytest.fail("nothing may be loaded"))
    train = [dict(one, prompt="So " + one["prompt"]) for one in PROBLEMS]
    collected(tmp_path / "lake", folder, train, tag="train")
    result = lake.ablate("made", actions=["mean"], sites=["mlp_out"], layers="1", means_from="train")
    model, seen = random_model(architecture), []
    handle = model.transformer.h[1].mlp.register_forward_hook(lambda m, a, out: seen.append(out[0]))
    ids = lake.scan("token_steps", "train").sort("sequence_id", "position").group_by("sequence_id").agg("token_id")
    for some in ids.collect()["token_id"].to_list():
        with torch.no_grad():
            model(torch.tensor([some]))
    handle.remove()
    mean = torch.cat(seen).mean(0)
    assert any("tokens of 4 sequences of run train" in notice for notice in result.problems.notices)
    rows = lake.scan("ablated_problems", "made").filter(action="mean").collect()
    assert rows.height == len(PROBLEMS)
    for row in rows.iter_rows(named=True):
        loss, *_ = by_hand(model, architecture, PROBLEMS[row["sequence_id"]], ("mlp_out", 1), mean)
        assert row["loss"] == pytest.approx(loss, rel=1e-4)


def test_what_broke_off_goes_on(
    model_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK_ROWS", 1)
    lake = collected(tmp_path / "lake", model_folder("gpt2"))
    calls: list[int] = []
    original = module._Ablation.columns

    def stopping(self: object, problems: object) -> object:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(self, problems)

    monkeypatch.setattr(module._Ablation, "columns", stopping)
    with pytest.raises(KeyboardInterrupt):
        lake.ablate("made", layers="0")
    assert lake.scan("ablated_problems").select("sequence_id").unique().collect().height == 2
    assert lake.scan("layer_ablations").collect().height == 0
    lake.ablate("made", layers="0")
    rows = lake.scan("ablated_problems").collect()
    assert len(calls) == 5 and rows.height == 4 * 3 and rows.unique(["sequence_id", "site"]).height == rows.height
    again = ablate(lake, "made", AblationOptions(layers="0"), lambda: pytest.fail("a look-up"))
    assert not again.computed


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_all_neurons_of_a_layer_are_its_mlp_without_bias(
    architecture: str, model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    lake = collected(tmp_path / "lake", model_folder(architecture))
    loaded = load_run_model(lake, lake.resolve_run("made"))
    targets = [Target(i, 3) for i in range(len(PROBLEMS))]
    ends = EditedEnds(lake, lake.resolve_run("made"), targets, loaded)
    neurons = ends.states([Edit("mlp_post", 1, Zero())])
    bias = loaded.model.transformer.h[1].mlp.c_proj.bias if architecture == "gpt2" else torch.zeros(loaded.d_model)
    mlp = ends.states([Edit("mlp_out", 1, Mean(bias.detach()))])
    np.testing.assert_allclose(neurons, mlp, rtol=1e-4, atol=1e-5)
    assert np.abs(neurons - ends.states()).max() > 1e-2
    direction = torch.randn(loaded.d_model, generator=torch.Generator().manual_seed(0))
    without_each = ends.without_each(1, [3, 7, 11], direction)
    for place, neuron in enumerate((3, 7, 11)):
        alone = ends.states([Edit("mlp_post", 1, Zero(), units=(neuron,))]) @ direction.double().numpy()
        np.testing.assert_allclose(without_each[:, place], alone, rtol=1e-4, atol=1e-4)
    assert np.abs(without_each - (ends.states() @ direction.double().numpy())[:, None]).max() > 1e-3


def test_what_cannot_be_ablated_is_named(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    lake = collected(tmp_path / "lake", model_folder("gpt2"))
    for options, error, words in (
        (AblationOptions(actions=("drop",)), UsageError, "no --action 'drop'"),
        (AblationOptions(scope="some"), UsageError, "no --scope 'some'"),
        (AblationOptions(sites=("rot_x",)), LakeError, "rot_x.*Possible"),
        (AblationOptions(layers="9"), LakeError, "9"),
        (AblationOptions(oracle="other"), NotFoundError, "no solution|No problem .* has a solution 'other'"),
        (AblationOptions(limit=0), UsageError, "--limit"),
    ):
        with pytest.raises(error, match=words):
            ablate(lake, "made", options, lambda: load_run_model(lake, lake.resolve_run("made")))
    bare = collected(tmp_path / "bare", model_folder("gpt2"), [{"prompt": "no answer here"}])
    with pytest.raises(ConfigError, match="neither a reference solution nor an answer"):
        bare.ablate("made")
    encoder = collected(tmp_path / "t5", model_folder("t5"))
    with pytest.raises(ConfigError, match="has an encoder"):
        encoder.ablate("made")
    for one in (lake, bare, encoder):
        assert one.scan("ablated_problems").select(pl.len()).collect().item() == 0
        assert one.scan("analyses").collect().height == 0 and one.verify().ok


def test_problems_with_an_answer_only_have_its_loss(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    problems = [{"prompt": "one and one is", "answer": "2"}, {"prompt": "nothing known of"}]
    lake = collected(tmp_path / "lake", model_folder("llama"), problems)
    result = lake.ablate("made", layers="0", sites=["mlp_out"])
    assert any("loss is that of the reference answer" in notice for notice in result.problems.notices)
    rows = lake.scan("ablated_problems").sort("sequence_id", "action").collect()
    assert rows["loss"].is_null().to_list() == [False, False, True, True]
    assert rows["reason"].to_list()[2] == "no reference solution and no answer"
    assert lake.scan("layer_ablations").collect()["n_problems"].to_list() == [1, 1]


def test_a_run_that_only_read_has_no_accuracy(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    lake = collected(tmp_path / "lake", model_folder("gpt2"), max_new_tokens=0)
    result = lake.ablate("made", layers="0")
    assert any("only read" in notice for notice in result.problems.notices)
    layers = lake.scan("layer_ablations").collect()
    assert layers["accuracy"].null_count() == 3 and set(layers["reason"]) == {"accuracy: nothing was graded"}
