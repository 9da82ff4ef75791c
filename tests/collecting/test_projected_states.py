"""A model that projects its final state to another width (OPT 350m) is observed whole, against one plain pass."""

import numpy as np
import pytest
import torch
from random_models import D_VOCAB, PROMPTS, save
from transformers import AutoModelForCausalLM, OPTConfig, PreTrainedModel

import tracelake
from tracelake.facade.open_lake import OpenLake

WIDTH, PROJECTED = 48, 24


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    torch.manual_seed(0)
    sizes = {"hidden_size": WIDTH, "word_embed_proj_dim": PROJECTED, "ffn_dim": 64, "num_hidden_layers": 3}
    ids = {"vocab_size": D_VOCAB, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    config = OPTConfig(**sizes, **ids, num_attention_heads=4, max_position_embeddings=96, do_layer_norm_before=False)
    random = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for weight in random.parameters():
            if weight.ndim > 1:
                weight.mul_(6)
    return random.eval()


@pytest.fixture(scope="module")
def lake(model: PreTrainedModel, tmp_path_factory: pytest.TempPathFactory) -> OpenLake:
    folder = save(model, tmp_path_factory.mktemp("projected"))
    path = tmp_path_factory.mktemp("lake")
    keep = ("tokens", "layers", "heads", "activations:final_norm", "activations:resid_post@-1")
    # Without telemetry of the prompt, what is compared with the position before comes from a pass that nobody observes.
    for observe_prompt in (True, False):
        tag = "whole" if observe_prompt else "generated"
        tracelake.collect(
            path, model=str(folder), prompt=PROMPTS, max_new_tokens=6, keep=keep, observe_prompt=observe_prompt, tag=tag
        )
    return tracelake.open(path)


@pytest.mark.parametrize("tag", ["whole", "generated"])
def test_states_of_both_widths_equal_a_plain_pass(tag: str, model: PreTrainedModel, lake: OpenLake) -> None:
    run_id = lake.resolve_run(tag)
    ids = lake.sql(
        "select sequence_id, token_id from token_steps where run_id = $r order by 1, position", {"r": run_id}
    )
    rows = lake.sql("select * from layer_summaries where run_id = $r", {"r": run_id})
    compared = 0
    for (sequence,), tokens in ids.group_by("sequence_id"):
        with torch.no_grad():
            plain = model.get_decoder()(input_ids=torch.tensor([tokens["token_id"].to_list()]), use_cache=False)
        final = plain.last_hidden_state[0].numpy()
        stored = rows.filter(sequence_id=sequence, site="final_norm").sort("position")
        positions = stored["position"].to_numpy()
        norms = np.linalg.norm(final, axis=-1)
        np.testing.assert_allclose(stored["l2_norm"].to_numpy(), norms[positions], rtol=1e-4)
        assert stored["cos_prev_layer"].null_count() == stored["delta_norm"].null_count() == len(stored)
        inner = (final[1:] * final[:-1]).sum(-1) / (norms[1:] * norms[:-1])
        later = positions > 0
        np.testing.assert_allclose(
            stored["cos_prev_position"].to_numpy()[later], inner[positions[later] - 1], rtol=1e-4, atol=1e-5
        )
        compared += len(stored)
    assert compared > len(PROMPTS) * 6
    below = rows.filter(site="resid_post", layer=2)
    assert below["cos_prev_layer"].null_count() == below["delta_norm"].null_count() == 0


def test_vectors_have_their_own_width(lake: OpenLake) -> None:
    dims = lake.sql("select site, dim, count(*) as n from activations group by all order by site").rows()
    assert [(site, dim) for site, dim, _ in dims] == [("final_norm", PROJECTED), ("resid_post", WIDTH)]
