"""Edits against weights and biases that do the same, on several architectures; scopes, units, rows; what is refused."""

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from edit_probes import IDS, far, kept_models, logits, vector
from random_models import D_HEAD, D_MLP, D_MODEL, N_HEADS, N_LAYERS
from silenced_models import projection, silence
from torch import Tensor, nn

from tracelake.collect.models.editing.changes import Add, Change, Mean, ProjectOut, Replace, Zero
from tracelake.collect.models.editing.edits import Edit, Editing, applied
from tracelake.collect.models.model import LoadedModel
from tracelake.collect.models.sites.taps import Tap
from tracelake.lake.errors import ConfigError

N_TOKENS = IDS.shape[1]
SITES = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "mlp_post", "z")
ARCHITECTURES = ("gpt2", "llama", "qwen3", "gemma2", "neox", "t5")
CASES = [
    pytest.param(architecture, site, layer, marks=[] if layer == 1 else pytest.mark.slow)
    for architecture in ARCHITECTURES
    for site in (*SITES, *(("cross_attn_out", "resid_mid_cross") if architecture == "t5" else ()))
    for layer in (0, 1, N_LAYERS - 1)
    if not (architecture == "neox" and site == "resid_mid")
] + [pytest.param(architecture, "final_norm", N_LAYERS - 1) for architecture in ARCHITECTURES]


@pytest.fixture(scope="module")
def loaded(model_folder: Callable[[str], Path]) -> Callable[[str], LoadedModel]:
    return kept_models(model_folder)


# -- weights that do the same ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("architecture", "site", "layer"), CASES)
def test_zero_is_weights_and_biases_of_zero(
    loaded: Callable[[str], LoadedModel], architecture: str, site: str, layer: int
) -> None:
    model = loaded(architecture)
    wanted = logits(silence(model.model, architecture, site, layer))
    with applied(model, [Edit(site, layer, Zero())]):
        edited = logits(model.model)
    assert far(logits(model.model), wanted) > 1e-2, "the site matters"
    torch.testing.assert_close(edited, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("site", ["attn_out", "mlp_out"])
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "qwen3", "neox"])
@pytest.mark.parametrize("make", [Add, Mean, ProjectOut])
def test_changes_are_other_weights_and_biases(
    loaded: Callable[[str], LoadedModel], architecture: str, site: str, make: type[Change]
) -> None:
    model, v = loaded(architecture), vector(D_MODEL)
    change = make(v, 0.7) if make is Add else make(3.0 * v) if make is ProjectOut else make(v)
    other = copy.deepcopy(model.model)
    module = projection(other, architecture, site, 1)
    weight = module.weight.detach().T if architecture == "gpt2" else module.weight.detach()
    bias = torch.zeros(D_MODEL) if module.bias is None else module.bias.detach()
    unit = v / v.norm()
    weight, bias = {
        "add": (weight, bias + 0.7 * v),
        "mean": (torch.zeros_like(weight), v),
        "project_out": (weight - torch.outer(unit, unit @ weight), bias - unit * (unit @ bias)),
    }[change.name]
    module.weight = nn.Parameter(weight.T.contiguous() if architecture == "gpt2" else weight)
    module.bias = nn.Parameter(bias)
    wanted = logits(other)
    with applied(model, [Edit(site, 1, change)]):
        edited = logits(model.model)
    assert far(logits(model.model), wanted) > 1e-3
    torch.testing.assert_close(edited, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("site", "units", "size", "width"),
                         [("mlp_post", (5, 11), 1, D_MLP), ("z", (2, 0), D_HEAD, N_HEADS * D_HEAD)])  # fmt: skip
@pytest.mark.parametrize("name", ["zero", "mean", "add"])
def test_chosen_units(
    loaded: Callable[[str], LoadedModel], site: str, units: tuple[int, ...], size: int, width: int, name: str
) -> None:
    model, v = loaded("llama"), vector(width)
    change = {"zero": Zero(), "mean": Mean(v), "add": Add(v, 0.5)}[name]
    chosen = [unit * size + i for unit in units for i in range(size)]
    other = copy.deepcopy(model.model)
    module = projection(other, "llama", "mlp_out" if site == "mlp_post" else "attn_out", 1)
    weight, part = module.weight.detach().clone(), torch.zeros(width)
    part[chosen] = v[chosen]
    bias = {"zero": torch.zeros(D_MODEL), "mean": weight @ part, "add": 0.5 * weight @ part}[name]
    if name != "add":
        weight[:, chosen] = 0.0
    module.weight, module.bias = nn.Parameter(weight), nn.Parameter(bias)
    with applied(model, [Edit(site, 1, change, units=units)]):
        torch.testing.assert_close(logits(model.model), logits(other), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("architecture", "site", "layer"), CASES)
def test_strength_zero_changes_no_bit(
    loaded: Callable[[str], LoadedModel], architecture: str, site: str, layer: int
) -> None:
    model = loaded(architecture)
    width = {"mlp_post": D_MLP, "z": N_HEADS * D_HEAD}.get(site, D_MODEL)
    if architecture in ("gpt2", "neox") and site == "mlp_post":
        width = 4 * D_MODEL if architecture == "gpt2" else model.config.intermediate_size
    before = logits(model.model)
    with applied(model, [Edit(site, layer, Add(vector(width), 0.0), scope) for scope in ("all", "generated", "last")],
                 n_prompt=4):  # fmt: skip
        assert torch.equal(logits(model.model), before)
    with applied(model, [Edit(site, layer, Add(vector(width), 1.0))]):
        assert not torch.equal(logits(model.model), before)


def test_a_sum_is_what_is_read_there_and_goes_on(loaded: Callable[[str], LoadedModel]) -> None:
    """resid_mid + mlp_out = resid_post, with the edited resid_mid; taps see what was edited."""
    model, v = loaded("llama"), vector(D_MODEL)
    sites = ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")
    tap = Tap(model.decoder.anatomy, {(site, 1) for site in sites})
    with tap.attached():
        logits(model.model)
        before = dict(tap.states)
        edits = [Edit("resid_mid", 1, Add(v)), Edit("attn_out", 1, Zero()), Edit("resid_post", 1, Add(v, 2.0))]
        with applied(model, edits):
            logits(model.model)
        after = dict(tap.states)
    torch.testing.assert_close(after["resid_mid", 1], before["resid_pre", 1] + v, rtol=1e-4, atol=1e-4)
    wanted = after["resid_pre", 1] + after["attn_out", 1] + after["mlp_out", 1] + 2.0 * v
    torch.testing.assert_close(after["resid_post", 1], wanted, rtol=1e-4, atol=1e-4)


# -- scopes and rows ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scope", "first", "end"), [("all", 0, N_TOKENS), ("prompt", 0, 6), ("generated", 5, N_TOKENS), ("last", 5, 6)]
)
def test_scopes(loaded: Callable[[str], LoadedModel], scope: str, first: int, end: int) -> None:
    """`generated` begins at the last prompt token, whose state predicts the first generated one."""
    model, v = loaded("gpt2"), vector(D_MODEL)
    tap = Tap(model.decoder.anatomy, {("resid_post", 1)})
    with tap.attached():
        plain = logits(model.model)
        before = tap.states["resid_post", 1].clone()
        with applied(model, [Edit("resid_post", 1, Add(v), scope)], n_prompt=6):
            edited = logits(model.model)
        after = tap.states["resid_post", 1]
    positions = torch.arange(N_TOKENS)
    touched = (positions >= first) & (positions < end)
    torch.testing.assert_close(after - before, touched[:, None] * v.expand(2, N_TOKENS, -1), rtol=1e-4, atol=1e-4)
    # What was read before the first edited position does not change by a bit, all behind it does.
    assert (edited != plain).any(-1).tolist() == [[position >= first for position in range(N_TOKENS)]] * 2


def test_padding_on_the_left(loaded: Callable[[str], LoadedModel]) -> None:
    model, v = loaded("gpt2"), vector(D_MODEL)
    tap = Tap(model.decoder.anatomy, {("resid_post", 1)})
    mask = torch.ones_like(IDS)
    mask[1, :3] = 0
    states = []
    with tap.attached(), torch.no_grad():
        for edits in ([], [Edit("resid_post", 1, Add(v), "last")]):
            with applied(model, edits, n_prompt=(4, 2), pads=(0, 3)):
                model.model(IDS, attention_mask=mask, use_cache=False)
            states.append(tap.states["resid_post", 1].clone())
    moved = (states[1] - states[0]).norm(dim=-1) > 1e-3
    assert [np.flatnonzero(row).tolist() for row in moved.numpy()] == [[3], [4]]


def test_every_row_has_its_own(loaded: Callable[[str], LoadedModel]) -> None:
    """Rows are what they are alone, also when rows leave, change places and are repeated."""
    model = loaded("llama")
    recipes = [
        [Edit("resid_post", 1, Add(vector(D_MODEL)))],
        [],
        [Edit("z", 0, Zero(), units=(1,)), Edit("mlp_out", 2, Zero())],
        [Edit("resid_post", 1, Add(vector(D_MODEL), 2.0)), Edit("resid_post", 1, ProjectOut(vector(D_MODEL, seed=1)))],
    ]  # fmt: skip
    ids = torch.stack([IDS[0], IDS[0], IDS[1], IDS[0]])
    with applied(model, recipes):
        together = logits(model.model, ids)
    alone = []
    for row, recipe in enumerate(recipes):
        with applied(model, recipe):
            alone.append(logits(model.model, ids[row : row + 1])[0])
    torch.testing.assert_close(together, torch.stack(alone), rtol=1e-4, atol=1e-4)
    editing = Editing(model.decoder, recipes)
    rows = np.array([3, 3, 0, 2])
    with editing.attached():
        editing.expect(np.zeros((4, ids.shape[1])), np.zeros(4), rows)
        torch.testing.assert_close(logits(model.model, ids[rows]), torch.stack(alone)[rows], rtol=1e-4, atol=1e-4)


def test_a_function_of_the_states(loaded: Callable[[str], LoadedModel]) -> None:
    model = loaded("llama")
    with applied(model, [Edit("resid_post", 1, Replace(lambda states: 0.5 * states, "half"))]):
        found = logits(model.model)
    seen: list[Tensor] = []
    block = model.decoder.blocks[1]
    hook = block.register_forward_hook(lambda m, a, o: (0.5 * o) if isinstance(o, Tensor) else (0.5 * o[0], *o[1:]))
    seen.append(logits(model.model))
    hook.remove()
    assert torch.equal(found, seen[0])
    with pytest.raises(ConfigError, match="keep the shape"), applied(
        model, [Edit("resid_post", 1, Replace(lambda states: states[..., :3], "cut"))]
    ):  # fmt: skip
        logits(model.model)


def test_gradients_pass_through(loaded: Callable[[str], LoadedModel]) -> None:
    model = loaded("llama")
    leaves: list[Tensor] = []

    def leaf(states: Tensor) -> Tensor:
        leaves.append(states.detach().requires_grad_())
        return leaves[-1]

    with applied(model, [Edit("resid_post", 0, Replace(leaf, "leaf"))]):
        model.model(IDS, use_cache=False).logits[:, -1, 7].sum().backward()
    assert leaves[0].grad is not None and bool(leaves[0].grad.abs().sum() > 0)


def test_nothing_is_left_behind(loaded: Callable[[str], LoadedModel]) -> None:
    model = loaded("llama")
    with pytest.raises(ZeroDivisionError), applied(model, [Edit(site, 1, Zero()) for site in SITES]):
        1 / 0  # noqa: B018
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.model.modules())


def test_an_encoder_is_edited_by_name(loaded: Callable[[str], LoadedModel]) -> None:
    model = loaded("t5")
    with applied(model, [Edit("mlp_out", 1, Zero(), stack="encoder")]):
        found = logits(model.model)
    other = copy.deepcopy(model.model)
    other.encoder.block[1].layer[1].DenseReluDense.wo.weight.data.zero_()
    torch.testing.assert_close(found, logits(other), rtol=1e-4, atol=1e-4)


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Edit("residpost", 0, Zero()), "no site 'residpost'.*resid_post"),
        (lambda: Edit("z", 0, Zero(), "before"), "scope is one of all, prompt, generated, last"),
        (lambda: Edit("resid_post", 0, Zero(), units=(1,)), "resid_post has no units"),
        (lambda: Edit("z", 0, Zero(), units=(4,)), "no head 4: z has 4 heads"),
        (lambda: Edit("mlp_post", 0, Zero(), units=(64,)), "no neuron 64"),
        (lambda: Edit("resid_post", 3, Zero()), "no layer 3"),
        (lambda: Edit("resid_post", 0, Add(vector(7))), "7 elements, resid_post of .* has 48"),
        (lambda: Edit("cross_attn_out", 0, Zero()), "only in the decoder"),
        (lambda: Edit("final_norm", 0, Zero()), "last layer"),
        (lambda: Edit("z", 0, Zero(), stack="encoder"), "no encoder"),
        (lambda: Edit("z", 0, Replace(lambda s: s, "same"), units=(1,)), "cannot be limited"),
        (lambda: Add(torch.tensor([1.0, float("nan")])), "1 values that are NaN"),
        (lambda: ProjectOut(torch.zeros(4)), "no direction"),
    ],
)  # fmt: skip
def test_what_cannot_be_edited_is_named(
    loaded: Callable[[str], LoadedModel], make: Callable[[], Edit], message: str
) -> None:
    with pytest.raises(ConfigError, match=message), applied(loaded("llama"), [make()]):
        logits(loaded("llama").model)


def test_parallel_blocks_have_no_resid_mid_to_edit(loaded: Callable[[str], LoadedModel]) -> None:
    with (
        pytest.raises(ConfigError, match="resid_mid.*parallel"),
        applied(loaded("neox"), [Edit("resid_mid", 0, Zero())]),
    ):
        pass
