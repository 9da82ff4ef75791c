"""`--no-prompt`: the generated part is the same, the prompt has its tokens and the state of its last one only."""

import polars as pl
import pytest
from polars.testing import assert_frame_equal

import tracelake
from tracelake.lake.errors import UsageError

SETTINGS = {
    "dataset": "tinymath:test",
    "limit": 12,
    "max_new_tokens": 12,
    "batch_size": 5,
    "device": "cpu",
    "keep": ["tokens", "layers", "heads", "activations:resid_post@1,-1", "activations:rot_k@2"],
}
BASINS = ("basin_ratio", "basin_ratio_to_uniform")


@pytest.fixture(scope="module", params=["tinymath", "qwen2", "mistral"])
def both(request, tmp_path_factory, model_folder):
    """The same prompts of unequal lengths with and without observation of the prompt."""
    settings = dict(SETTINGS)
    if request.param != "tinymath":
        texts = ["one", "two and three", "four five six seven eight nine", "a b c d e f g h i j k l m n o p q r s t"]
        settings |= {"model": str(model_folder(request.param)), "prompt": texts}
        settings.pop("dataset")
        settings.pop("limit")
    lakes = []
    for observe in (True, False):
        folder = tmp_path_factory.mktemp(f"{request.param}-{observe}")
        tracelake.collect(folder, **settings, observe_prompt=observe)
        lakes.append(tracelake.open(folder))
    return lakes


def table(lake, name: str) -> pl.DataFrame:
    lengths = "(select sequence_id, n_prompt_tokens as n_prompt from sequences)"
    order = {"token_steps": "", "layer_summaries": ", layer, site", "head_summaries": ", layer, head"}
    rows = lake.sql(
        f"select * from {name} join {lengths} using (sequence_id) order by sequence_id, position{order[name]}"
    )
    return rows.drop("run_id", "latency_ms", strict=False)


@pytest.mark.parametrize("name", ["layer_summaries", "head_summaries"])
def test_states_of_what_is_generated_are_the_same(both, name):
    full, lean = (table(lake, name) for lake in both)
    expected = full.filter(pl.col("position") >= pl.col("n_prompt") - 1)
    drop = [column for column in BASINS if column in full.columns]
    assert_frame_equal(lean.drop(drop), expected.drop(drop), rel_tol=1e-4, abs_tol=1e-5)
    assert len(expected) < len(full)
    assert all(lean[column].null_count() == len(lean) for column in drop)


def test_tokens_are_all_there_and_their_prediction_only_where_generated(both):
    full, lean = (table(lake, "token_steps") for lake in both)
    keys = ["sequence_id", "position", "token_id", "char_end", "is_prompt", "step"]
    assert_frame_equal(lean.select(keys), full.select(keys))
    assert lean.filter("is_prompt")["entropy_bits"].null_count() == lean["is_prompt"].sum()
    generated = ~pl.col("is_prompt")
    assert_frame_equal(lean.filter(generated), full.filter(generated), rel_tol=1e-4, abs_tol=1e-5)


def test_vectors_are_those_of_generated_tokens(both):
    sql = "select sequence_id, position, layer, site, vector from activations"
    order = " order by all"
    full, lean = (lake.sql(sql + order) for lake in both)
    lengths = both[0].sql("select sequence_id, n_prompt_tokens as n_prompt from sequences")
    expected = full.join(lengths, on="sequence_id").filter(pl.col("position") >= pl.col("n_prompt")).drop("n_prompt")
    keys = ["sequence_id", "position", "layer", "site"]
    both_frames = [frame.sort(keys).explode("vector") for frame in (lean, expected)]
    assert_frame_equal(*both_frames, rel_tol=1e-3, abs_tol=1e-3)
    assert 0 < len(lean) < len(full)


@pytest.mark.parametrize(
    "settings",
    [{"max_new_tokens": 0}, {"keep": ["tokens", "edges:prompt"]}, {"keep": ["activations:resid_post:prompt"]}],
)
def test_what_contradicts_it_is_refused(tmp_path, settings):
    with pytest.raises(UsageError, match="observe_prompt"):
        tracelake.collect(tmp_path / "lake", prompt="1 + 1", observe_prompt=False, **settings)
    assert not (tmp_path / "lake").exists()
