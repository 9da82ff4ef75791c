"""Edits of queries, keys and values against weights and biases that do the same, in one pass and through a cache."""

import copy
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from edit_probes import IDS, far, kept_models, logits, vector
from plain_sequences import PlainCausal, check_run, collect
from random_models import D_HEAD, D_MODEL, N_HEADS, N_SHARED, save
from silenced_models import blocks_of, input_projection, projection, silence, weights_of
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, Gemma4TextConfig
from transformers.modeling_utils import AttentionInterface
from unusual_models import save_unusual

from tracelake.collect.decoding.batch import Batch
from tracelake.collect.decoding.reading.check import choose_reading
from tracelake.collect.decoding.sequence import Sequence
from tracelake.collect.models.editing.changes import Add, Change, Mean, ProjectOut, Zero
from tracelake.collect.models.editing.edits import Edit, Editing, applied
from tracelake.collect.models.loading.load import load_model
from tracelake.collect.models.model import LoadedModel
from tracelake.collect.observing.attention import observing
from tracelake.collect.observing.attention_layers import observers_of
from tracelake.lake.errors import ConfigError

SITES = ("v", "rot_q", "rot_k", "q", "k")
ARCHITECTURES = ("gpt2", "llama", "qwen3", "mistral-window", "gemma2", "neox", "t5")
SHARED = ("llama", "qwen3", "mistral-window", "gemma2")


def width_of(architecture: str, site: str) -> int:
    return D_HEAD * (N_SHARED if architecture in SHARED and site in ("v", "rot_k", "k") else N_HEADS)


@pytest.fixture(scope="module")
def loaded(model_folder: Callable[[str], Path]) -> Callable[[str], LoadedModel]:
    return kept_models(model_folder)


def stepwise(loaded: LoadedModel, ids: Tensor = IDS, chunk: int = 5) -> Tensor:
    """Of a pass over ten tokens in chunks and then token by token, through our cache."""
    cache, found = loaded.cache(), []
    encoded = {"input_ids": ids.flip(-1)} if loaded.encoder is not None else {}
    with torch.no_grad():
        chunks = [(start, start + chunk) for start in range(0, 10, chunk)]
        for start, end in [*chunks, *((at, at + 1) for at in range(10, ids.shape[1]))]:
            inputs = {**encoded, "decoder_input_ids" if encoded else "input_ids": ids[:, start:end]}
            found.append(loaded.model(**inputs, past_key_values=cache, use_cache=True).logits)
    return torch.cat(found, dim=1)


# -- weights that do the same ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_zero_is_weights_and_biases_of_zero(loaded: Callable[[str], LoadedModel], architecture: str, site: str) -> None:
    """In one pass, and where keys and values lie in a cache, also one that drops what left its window."""
    model = loaded(architecture)
    wanted = logits(silence(model.model, architecture, site, 1))
    assert far(logits(model.model), wanted) > 1e-2, "the site matters"
    with applied(model, [Edit(site, 1, Zero())]):
        torch.testing.assert_close(logits(model.model), wanted, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(stepwise(model), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "mistral-window"])
@pytest.mark.parametrize("make", [Add, Mean, ProjectOut])
def test_changes_are_other_weights_and_biases(
    loaded: Callable[[str], LoadedModel], architecture: str, site: str, make: type[Change]
) -> None:
    """Of v, q and k, which a projection gives, and of the turned queries and keys where nothing turns them."""
    if architecture != "gpt2" and site.startswith("rot_"):
        site = "v"
    model, v = loaded(architecture), vector(width_of(architecture, site))
    change = make(v, 0.7) if make is Add else make(3.0 * v) if make is ProjectOut else make(v)
    other = copy.deepcopy(model.model)
    module, outputs = input_projection(other, architecture, site, 1)
    with torch.no_grad():
        weight = weights_of(module)[outputs].clone()
        if module.bias is None:
            module.bias = nn.Parameter(torch.zeros(len(weight)))
        bias, unit = module.bias[outputs].clone(), v / v.norm()
        weights_of(module)[outputs], module.bias[outputs] = {
            "add": (weight, bias + 0.7 * v),
            "mean": (torch.zeros_like(weight), v),
            "project_out": (weight - torch.outer(unit, unit @ weight), bias - unit * (unit @ bias)),
        }[change.name]
    wanted = logits(other)
    with applied(model, [Edit(site, 1, change)]):
        torch.testing.assert_close(logits(model.model), wanted, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(stepwise(model), wanted, rtol=1e-4, atol=1e-4)
    # One vector more of every key moves all scores of a query alike, which no softmax sees.
    moves = not (site in ("k", "rot_k") and architecture == "gpt2" and make is Add)
    assert (far(logits(model.model), wanted) > 1e-3) == moves


@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_what_is_added_to_every_turned_key_is_seen_by_no_softmax(
    loaded: Callable[[str], LoadedModel], architecture: str
) -> None:
    model, v = loaded(architecture), vector(width_of(architecture, "rot_k"))
    plain = logits(model.model)
    with applied(model, [Edit("rot_k", 1, Add(v))]):
        torch.testing.assert_close(stepwise(model), plain, rtol=1e-4, atol=1e-4)
    with applied(model, [Edit("k", 1, Add(v))]):
        assert far(stepwise(model), plain) > 1e-2


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "t5"])
def test_what_is_added_to_every_value_comes_out(loaded: Callable[[str], LoadedModel], architecture: str) -> None:
    """Weights add up to one: all heads that share a value head give its vector on."""
    model, v = loaded(architecture), vector(width_of(architecture, "v"))
    other = copy.deepcopy(model.model)
    module = blocks_of(other, architecture)[1].self_attn.o_proj if architecture == "gemma2" else projection(
        other, architecture, "attn_out", 1
    )  # fmt: skip
    heads = v.view(-1, D_HEAD)
    module.bias = nn.Parameter(module.weight @ heads.repeat_interleave(N_HEADS // len(heads), 0).reshape(-1))
    with applied(model, [Edit("v", 1, Add(v))]):
        torch.testing.assert_close(stepwise(model), logits(other), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("site", "heads"), [("v", (1,)), ("k", (0,)), ("rot_k", (0,)), ("rot_q", (3, 1)), ("q", (2,))])
def test_chosen_heads(loaded: Callable[[str], LoadedModel], site: str, heads: tuple[int, ...]) -> None:
    model = loaded("llama")
    other = copy.deepcopy(model.model)
    module, _ = input_projection(other, "llama", site, 1)
    with torch.no_grad():
        for head in heads:
            module.weight[head * D_HEAD : (head + 1) * D_HEAD] = 0.0
    wanted = logits(other)
    with applied(model, [Edit(site, 1, Zero(), units=heads)]):
        torch.testing.assert_close(stepwise(model), wanted, rtol=1e-4, atol=1e-4)
    assert far(logits(model.model), wanted) > 1e-3


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_strength_zero_changes_no_bit(loaded: Callable[[str], LoadedModel], architecture: str, site: str) -> None:
    model, v = loaded(architecture), vector(width_of(architecture, site))
    before, through_cache = logits(model.model), stepwise(model)
    with applied(model, [Edit(site, layer, Add(v, 0.0)) for layer in range(3)]):
        assert torch.equal(logits(model.model), before)
        assert torch.equal(stepwise(model), through_cache)
    with applied(model, [Edit(site, 1, Add(v), "generated")], n_prompt=5):
        edited = logits(model.model)
    # What was read before the last prompt token keeps its bits, that token does not.
    assert (edited != before).any(-1).tolist() == [[position >= 4 for position in range(12)]] * 2


def test_an_encoder_is_edited_by_name(loaded: Callable[[str], LoadedModel]) -> None:
    model, other = loaded("t5"), copy.deepcopy(loaded("t5").model)
    other.encoder.block[1].layer[0].SelfAttention.v.weight.data.zero_()
    with applied(model, [Edit("v", 1, Zero(), stack="encoder")]):
        torch.testing.assert_close(logits(model.model), logits(other), rtol=1e-4, atol=1e-4)


# -- batches -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "mistral-window", "gemma2"])
def test_rows_have_their_own_and_keep_them_when_they_are_repeated(
    loaded: Callable[[str], LoadedModel], architecture: str
) -> None:
    """Padded prompts in chunks, forks, tokens one by one: every row is one edited plain pass."""
    model = loaded(architecture)
    v, q = vector(width_of(architecture, "v")), vector(width_of(architecture, "rot_q"))
    recipes = [
        (Edit("v", 1, Add(v, 2.0), "generated"), Edit("rot_k", 0, Zero(), "prompt")),
        (),
        (Edit("rot_q", 2, Add(q), "last"), Edit("k", 1, Zero(), "generated"), Edit("v", 0, Zero())),
    ]
    prompts, following = [IDS[0, :9], IDS[1, :11], IDS[1, 3:7]], [61, 140, 23, 187, 95, 12, 30]
    sequences = [Sequence(i, i, 0, ids.numpy(), edits=recipes[i]) for i, ids in enumerate(prompts)]
    batch = Batch(model, sequences, choose_reading(model), room=8)
    editing = batch.editing = Editing(model.decoder, recipes)
    with editing.attached(), torch.inference_mode():
        for start, end in batch.spans(0, batch.width, 4):
            batch.read(start, end)
        batch.take(torch.tensor([2, 0, 2, 1]))
        states = []
        for token in following:
            batch.append(torch.tensor([token, token, token + 1, token]), 4)
            states.append(batch.read(batch.end - 1, batch.end)[:, 0])
    for row, (number, later) in enumerate([(2, 0), (0, 0), (2, 1), (1, 0)]):
        ids = torch.cat((prompts[number], torch.tensor(following) + later))[None]
        with applied(model, recipes[number], n_prompt=len(prompts[number])), torch.no_grad():
            plain = model.decoder.module(input_ids=ids, use_cache=False).last_hidden_state[0, -len(following) :]
        torch.testing.assert_close(torch.stack(states)[:, row], plain, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("architecture", ["gpt2", "qwen3", "mistral-window"])
def test_a_run_is_one_plain_pass_with_other_weights(
    model_folder: Callable[[str], Path], tmp_path: Path, architecture: str
) -> None:
    """Prompts of unequal length in chunks, rows that leave at different steps, a cache with a window."""
    folder = model_folder(architecture)
    other = AutoModelForCausalLM.from_pretrained(folder).eval()
    for site, layer in (("v", 1), ("rot_k", 0), ("rot_q", 2)):
        other = silence(other, architecture, site, layer)
    edits = ("zero:v@1", "zero:rot_k@0", "zero:rot_q@2")
    lake, run = collect(folder, tmp_path / "lake", edit=edits, temperature=1.0)
    check_run(lake, run.run_id, PlainCausal(save(other, tmp_path / "other")).read, greedy=False)
    lengths = lake.scan("sequences", run=run.run_id).collect()["n_generated_tokens"]
    assert lengths.n_unique() > 1


class MovedValues(PlainCausal):
    """A bare model with a hook written here: block 1's values are moved from the last prompt token on."""

    move = vector(N_SHARED * D_HEAD) * 1.5

    def read(self, ids: np.ndarray, n_prompt: int = 0):  # noqa: ANN201
        def moved(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
            later = torch.arange(output.shape[1]) >= n_prompt - 1
            return output + later[:, None] * self.move

        handle = self.blocks[1].self_attn.v_proj.register_forward_hook(moved)  # type: ignore[union-attr, operator]
        try:
            return super().read(ids, n_prompt)
        finally:
            handle.remove()


@pytest.mark.parametrize("architecture", ["llama", "mistral-window"])
def test_generated_begins_at_the_last_prompt_token_and_what_is_stored_was_edited(
    model_folder: Callable[[str], Path], tmp_path: Path, architecture: str
) -> None:
    folder, file = model_folder(architecture), tmp_path / "d.npy"
    np.save(file, MovedValues.move.numpy() / 1.5)
    edit = (f"add:v@1:direction={file}:x1.5:generated",)
    lake, run = collect(folder, tmp_path / "lake", edit=edit)
    check_run(lake, run.run_id, MovedValues(folder).read)
    vectors = []
    for name, edits in (("edited", edit), ("plain", ())):
        kept, run = collect(folder, tmp_path / name, edit=edits, keep=("tokens", "activations:v@1"), max_new_tokens=1)
        rows = kept.scan("activations", run=run.run_id).collect().sort("sequence_id", "position")
        vectors.append(np.stack([np.frombuffer(row, np.float32) for row in rows["vector"]]))
    ends = kept.scan("sequences").collect().sort("sequence_id")["n_prompt_tokens"].to_numpy()
    behind = rows["position"].to_numpy() - ends[rows["sequence_id"].to_numpy() - rows["sequence_id"].min()]
    moved = vectors[1] + (behind >= -1)[:, None] * MovedValues.move.numpy()
    # The token that was generated may be another one.
    np.testing.assert_allclose(vectors[0][behind < 0], moved[behind < 0], rtol=1e-4, atol=1e-4)
    assert (behind == -1).sum() == len(ends)


# -- order, and what is left -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["edits", "observers"])
def test_what_is_observed_was_edited_whatever_was_attached_first(
    loaded: Callable[[str], LoadedModel], first: str
) -> None:
    model = loaded("llama")
    edits = [Edit("q", 1, Mean(vector(48))), Edit("rot_k", 1, Zero()), Edit("v", 1, Mean(vector(24)))]
    observers, modules = observers_of(model, capture=frozenset(SITES))
    entered = [applied(model, edits), observing(model.model, modules)]
    outer, inner = entered if first == "edits" else entered[::-1]
    with outer, inner:
        logits(model.model)
    states = observers["decoder", "self"].states
    torch.testing.assert_close(states["q", 1], vector(48).expand(2, 12, -1))
    torch.testing.assert_close(states["v", 1], vector(24).expand(2, 12, -1))
    assert not states["rot_k", 1].any() and bool(states["k", 1].any()) and bool(states["rot_k", 0].any())
    turned = states["rot_q", 1].unflatten(2, (4, 12)).norm(dim=-1)
    torch.testing.assert_close(turned, vector(48).view(4, 12).norm(dim=-1).expand_as(turned))


def test_edits_in_edits_come_one_after_the_other(loaded: Callable[[str], LoadedModel]) -> None:
    model, v = loaded("gpt2"), vector(D_MODEL)
    with applied(model, [Edit("v", 1, Zero())]), applied(model, [Edit("v", 1, Add(v))]):
        zeroed = stepwise(model)
    with applied(model, [Edit("v", 1, Zero())]):
        torch.testing.assert_close(zeroed, stepwise(model), rtol=1e-4, atol=1e-4)
    with applied(model, [Edit("v", 1, Add(v))]), applied(model, [Edit("v", 1, Zero())]):
        moved = stepwise(model)
    with applied(model, [Edit("v", 1, Mean(v))]):
        torch.testing.assert_close(moved, stepwise(model), rtol=1e-4, atol=1e-4)


def test_nothing_is_left_behind(loaded: Callable[[str], LoadedModel]) -> None:
    """Also after an error in the middle of a pass."""
    model, cache = loaded("llama"), loaded("llama").cache()
    before, rotary = dict(AttentionInterface._global_mapping), _rotary(model)
    block = model.decoder.blocks[1]
    stop = block.mlp.register_forward_hook(lambda *_: 1 / 0)
    with applied(model, [Edit(site, 1, Zero()) for site in SITES]):
        assert _rotary(model) is not rotary
        with pytest.raises(ZeroDivisionError), torch.no_grad():
            model.model(IDS, past_key_values=cache, use_cache=True)
        stop.remove()
        assert "update" not in vars(cache)
        cache = model.cache()
        torch.testing.assert_close(stepwise(model), logits(model.model), rtol=1e-4, atol=1e-4)
    assert before == AttentionInterface._global_mapping and _rotary(model) is rotary
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.model.modules())


def _rotary(model: LoadedModel) -> object:
    return sys.modules[type(model.model).__module__].apply_rotary_pos_emb


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def unusual(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], LoadedModel]:
    kept: dict[str, LoadedModel] = {}

    def load(name: str) -> LoadedModel:
        if name not in kept:
            folder = tmp_path_factory.mktemp(name)
            if name in BORROWING:
                save(AutoModelForCausalLM.from_config(BORROWING[name]()), folder)
            else:
                save_unusual(name, folder)
            kept[name] = load_model(str(folder), device="cpu")
        return kept[name]

    return load


BORROWING = {
    "gemma4": lambda: Gemma4TextConfig(
        vocab_size=300, hidden_size=48, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, head_dim=12, global_head_dim=12, num_kv_shared_layers=2, hidden_size_per_layer_input=8,
        vocab_size_per_layer_input=300, max_position_embeddings=96, sliding_window=9, pad_token_id=2,
        layer_types=["sliding_attention", "full_attention"] * 2,
    )
}  # fmt: skip
"""Models whose last layers read the keys and values of others."""


@pytest.mark.parametrize(("name", "layer"), [("jamba", 1), ("falcon_h1", 0), ("opt", 1)])
@pytest.mark.parametrize("site", ["v", "rot_k"])
def test_attention_beside_other_memories(
    unusual: Callable[[str], LoadedModel], name: str, layer: int, site: str
) -> None:
    model = unusual(name)
    layer = next(at for at in range(layer, 3) if ("v", at) in model.attention_inputs["decoder"].heads)
    other = copy.deepcopy(model.model)
    parts = dict(blocks_of(other, name)[layer].named_modules()) if name != "opt" else dict(
        other.model.decoder.layers[layer].named_modules()
    )  # fmt: skip
    for part in (module for at, module in parts.items() if at.endswith(f"{site[-1]}_proj")):
        for parameter in part.parameters():
            parameter.data.zero_()
    with applied(model, [Edit(site, layer, Zero())]):
        torch.testing.assert_close(logits(model.model), logits(other), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(stepwise(model, chunk=10), logits(other), rtol=1e-4, atol=1e-4)
    assert far(logits(model.model), logits(other)) > 1e-4


@pytest.mark.parametrize(
    ("name", "site", "layer", "message"),
    [
        ("openai-gpt", "v", 0, "Site v of layer 0 cannot be edited: OpenAIGPTLMHeadModel does not pass the attention"),
        ("jamba", "rot_q", 0, "does not pass the attention of this layer"),
        ("kimi_linear", "v", 1, "stores something else than the keys and values"),
        ("gemma4", "v", 0, "layers that store no keys and values of their own .2, 3."),
        ("gemma4", "rot_k", 3, "layers that store no keys and values of their own"),
    ],
)
def test_what_cannot_be_edited_is_named(
    unusual: Callable[[str], LoadedModel], name: str, site: str, layer: int, message: str
) -> None:
    model = unusual(name)
    with pytest.raises(ConfigError, match=message), applied(model, [Edit(site, layer, Zero())]):
        logits(model.model)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Edit("v", 0, Zero(), units=(2,)), "no head 2: v has 2 heads"),
        (lambda: Edit("rot_k", 0, Add(vector(48))), "48 elements, rot_k of .* has 24"),
        (lambda: Edit("q", 3, Zero()), "no layer 3"),
    ],
)
def test_what_does_not_fit_is_named(
    loaded: Callable[[str], LoadedModel], make: Callable[[], Edit], message: str
) -> None:
    with pytest.raises(ConfigError, match=message), applied(loaded("llama"), [make()]):
        pass
