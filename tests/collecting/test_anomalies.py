"""A model that breaks while it generates: counted per token, layer and tensor, ended with a reason, nothing dropped."""

import math

import pytest
import torch
from random_models import random_model, save

import tracelake
from tracelake.collect.configuration.config import resolve_config
from tracelake.collect.models.weights import broken_weights
from tracelake.collect.running.collector import Collection

BREAKS_AT = 10
PROMPTS = ["a", "Mia", "one, two,"]
"""All end before it breaks: within one pass a key that is NaN spoils the queries before it too (0 x NaN is NaN)."""


@pytest.fixture(scope="module", params=[math.nan, math.inf], ids=["nan", "inf"])
def broken(request, tmp_path_factory):
    """A run of a GPT-2 model whose position embedding is not finite from one position on."""
    model = random_model("gpt2")
    with torch.no_grad():
        model.transformer.wpe.weight[BREAKS_AT:, 3] = request.param
    folder = save(model, tmp_path_factory.mktemp("broken"))
    lake = tmp_path_factory.mktemp("lake")
    settings = {"max_new_tokens": 30, "samples": 8, "temperature": 2.0, "seed": 5, "device": "cpu"}
    tracelake.collect(lake, model=str(folder), prompt=PROMPTS, **settings, keep=["tokens", "layers", "heads"])
    return tracelake.open(lake), request.param


def test_generation_ends_broken_and_keeps_all_rows_until_then(broken):
    lake, _ = broken
    reached = lake.sql("select * from sequences where n_prompt_tokens + n_generated_tokens > $n", {"n": BREAKS_AT})
    # The token chosen last before the break may itself be an end token.
    assert {"broken"} <= set(reached["finish_reason"]) <= {"broken", "eos"}
    for row in reached.iter_rows(named=True):
        n_tokens = lake.sql(f"select count(*) from token_steps where sequence_id = {row['sequence_id']}").item()
        assert n_tokens == BREAKS_AT + 1 == row["n_prompt_tokens"] + row["n_generated_tokens"]
        assert row["next_entropy_bits"] is None
    others = lake.sql(
        "select finish_reason from sequences where n_prompt_tokens + n_generated_tokens <= $n", {"n": BREAKS_AT}
    )
    assert "broken" not in others["finish_reason"].to_list()


def test_elements_are_counted_where_they_are_and_nowhere_else(broken):
    lake, value = broken
    embedded = "n_nan" if math.isnan(value) else "n_inf"
    rows = lake.sql("select * from layer_summaries order by sequence_id, position, layer, site")
    before = rows.filter(rows["position"] < BREAKS_AT)
    assert before["n_nan"].sum() == before["n_inf"].sum() == 0
    assert before.select("l2_norm", "mean", "std").null_count().sum_horizontal().item() == 0
    after = rows.filter(rows["position"] >= BREAKS_AT)
    first = after.filter((after["site"] == "resid_pre") & (after["layer"] == 0))
    assert len(first) > 0 and first[embedded].to_list() == [1] * len(first)
    assert ((after["n_nan"] + after["n_inf"]) > 0).all()


def test_the_report_names_every_kind_of_tensor(broken):
    lake, _ = broken
    report = lake.query("nan_report")
    assert set(report["tensor"]) == {"state", "self-attention", "distribution"}
    assert report["first_position"].min() == BREAKS_AT
    states = report.filter(report["tensor"] == "state")
    assert (states["nan_elements"] + states["infinite_elements"]).sum() == lake.sql(
        "select sum(n_nan + n_inf)::bigint from layer_summaries"
    ).item()
    heads = report.filter(report["tensor"] == "self-attention")
    assert heads["not_finite"].sum() == lake.sql("select count(*) from head_summaries where max_weight is null").item()
    assert heads["layer"].to_list() == [0, 1, 2]
    n_broken = lake.sql("select count(*) from sequences where finish_reason = 'broken'").item()
    assert report.filter(report["tensor"] == "distribution")["sequences"].item() == n_broken


def test_health_judges_it_and_deep_verification_accepts_it(broken):
    lake, _ = broken
    health = lake.query("health")
    hit = health.filter(health["is_broken"])
    assert len(hit) > 0 and (hit["has_nan"] | hit["has_inf"]).all() and set(hit["risk_v05"]) == {1.0}
    assert lake.verify("deep").ok


def test_it_is_said_at_the_start_and_at_the_end(broken, tmp_path):
    lake, _ = broken
    notices = lake.run_json("latest")["notices"]
    assert any("transformer.wpe.weight" in text and "damaged" in text for text in notices)
    config = resolve_config(lake.run_json("latest")["config"], environ={})
    collected = Collection(config).start(tmp_path / "lake")
    sequences = tracelake.open(tmp_path / "lake").scan("sequences").collect()
    n_broken = sequences["finish_reason"].to_list().count("broken")
    assert n_broken > 0
    assert collected.notices[-1] == f"Broken sequences, ended by logits that are NaN or infinite: {n_broken}."


def test_every_type_of_weight_is_looked_at():
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)).to(dtype)
        assert broken_weights(model) == ()
        with torch.no_grad():
            model[1].weight[1, 2] = math.nan
            model[0].bias[3] = -math.inf
        assert broken_weights(model) == ("0.bias", "1.weight")
    assert broken_weights(torch.nn.Linear(2, 2, device="meta")) == ()


def test_a_sound_run_reports_nothing(tmp_path, model_folder):
    settings = {"model": str(model_folder("gpt2")), "max_new_tokens": 8, "device": "cpu"}
    tracelake.collect(tmp_path, prompt=PROMPTS, **settings, keep=["tokens", "layers", "heads"])
    assert len(tracelake.open(tmp_path).query("nan_report")) == 0
