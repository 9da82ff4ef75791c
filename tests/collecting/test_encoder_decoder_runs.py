"""Runs of encoder-decoder models as a whole: resuming, sizes, timings, what is refused, queries on such a lake."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from compared_tables import compared_tables
from plain_forward import log_probabilities
from random_models import D_MODEL, D_VOCAB, N_DECODER_LAYERS, N_ENCODER_LAYERS, PROMPTS, START, save
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, LEDConfig, LEDForConditionalGeneration

import tracelake
from tracelake.collect.configuration.config import CollectConfig
from tracelake.collect.decoding.reading.replay import replay
from tracelake.collect.decoding.sequence import Sequence
from tracelake.collect.running.collector import Callbacks, Collection, resume_run
from tracelake.lake import TABLES, Lake
from tracelake.lake.errors import ConfigError, StoppedError
from tracelake.queries.derived_views import view_definitions
from tracelake.queries.saved_query import saved_queries

KEEP = ("tokens", "layers", "heads", "edges", "activations:resid_post", "activations:z@-1:last")


def config(folder: Path, **settings: object) -> CollectConfig:
    defaults = {"model": str(folder), "prompt": PROMPTS, "device": "cpu", "keep": KEEP, "max_new_tokens": 8}
    return CollectConfig(**{**defaults, **settings})


def collected(path: Path, folder: Path, **settings: object) -> Lake:
    lake = Lake.create(path)
    Collection(config(folder, **settings)).start(lake, assume_yes=True)
    return lake


def rows(lake: Lake, table: str) -> pl.DataFrame:
    left_out = {"run_id", "latency_ms", "created_at", "finished_at"}
    frame = lake.scan(table).collect()
    key = [name for name in TABLES[table].key if name != "run_id"]
    return frame.drop([name for name in left_out if name in frame.columns]).sort(key)


@pytest.mark.parametrize("architecture", ["t5", "bart"])
def test_a_resumed_run_is_equal_bit_for_bit(
    model_folder: Callable[[str], Path], tmp_path: Path, architecture: str
) -> None:
    settings = {"samples": 2, "segment_items": 2, "batch_size": 3, "seed": 5}
    whole = collected(tmp_path / "whole", model_folder(architecture), **settings)
    lake = Lake.create(tmp_path / "parts")
    done: list[int] = []
    callbacks = Callbacks(lambda p: done.append(p.segments_done), should_stop=lambda: bool(done) and done[-1] >= 1)
    with pytest.raises(StoppedError):
        Collection(config(model_folder(architecture), **settings), callbacks).start(lake)
    assert 0 < rows(lake, "sequences").height < 10
    assert resume_run(lake, "latest", model=str(model_folder(architecture))) is not None
    for table in compared_tables(whole, lake):
        assert rows(whole, table.name).equals(rows(lake, table.name), null_equal=True), table.name
    assert lake.verify("deep").ok


def test_sampled_tokens_do_not_depend_on_the_batch(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    """Batch size moves states by rounding only, so that the same tokens are drawn."""
    ids = [
        rows(collected(tmp_path / str(n), model_folder("t5"), samples=2, batch_size=n), "token_steps")["token_id"]
        for n in (1, 4)
    ]
    assert ids[0].equals(ids[1])


def test_sizes_are_estimated(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    """Tokens exactly and bytes nearly when the lengths are known: when only reading."""
    prompts = tuple(f"{prompt} {i}" for prompt in PROMPTS for i in range(40))
    keep = ("tokens", "layers", "heads", "activations:resid_post", "activations:mlp_post")
    settings = config(model_folder("t5"), prompt=prompts, max_new_tokens=0, keep=keep)
    collection = Collection(settings)
    sizes = collection.estimate()
    lake = Lake.create(tmp_path)
    run = collection.start(lake, assume_yes=True)
    assert sizes.exact and sizes.n_tokens == run.n_tokens == rows(lake, "token_steps").height
    files = [path for path in tmp_path.rglob("*.parquet")]
    assert sizes.n_files - 2 - len(collection.plan.segments) == len(files)
    written = sum(path.stat().st_size for path in files)
    assert 0.95 * written < sizes.n_bytes < 1.1 * written


def test_reading_only_ends_with_the_start_token(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    folder = model_folder("t5")
    lake = collected(tmp_path, folder, max_new_tokens=0, keep=("tokens", "layers", "activations:resid_post:last"))
    tokens = rows(lake, "token_steps")
    sequences = rows(lake, "sequences")
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    for i, prompt in enumerate(PROMPTS):
        mine = tokens.filter(sequence_id=i)
        assert mine["token_id"].to_list() == [*tokenizer(prompt)["input_ids"], START]
        assert mine["stack"].to_list() == ["encoder"] * (len(mine) - 1) + ["decoder"]
        assert mine["step"].is_null().all() and mine["logprob"].is_null().all()
        with torch.no_grad():
            logits = model(**tokenizer(prompt, return_tensors="pt"), decoder_input_ids=torch.tensor([[START]])).logits
        best = np.sort(log_probabilities(logits[0, -1].numpy()))[::-1][:10]
        np.testing.assert_allclose(sequences["next_topk_logprobs"][i].to_list(), best, rtol=1e-4, atol=1e-5)
    assert set(sequences["finish_reason"]) == {"none"}
    states = lake.scan("activations").select("sequence_id", "position", "stack").unique().sort("sequence_id").collect()
    assert states["stack"].unique().to_list() == ["decoder"]
    assert states["position"].to_list() == (sequences["n_prompt_tokens"] - 1).to_list()


def test_char_ends_cut_the_texts(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    lake = collected(tmp_path, model_folder("t5"), keep=("tokens",))
    tokens, sequences = rows(lake, "token_steps"), rows(lake, "sequences")
    for row in sequences.iter_rows(named=True):
        mine = tokens.filter(sequence_id=row["sequence_id"])
        prompt, own = mine.filter("is_prompt")["char_end"], mine.filter(~pl.col("is_prompt"))["char_end"]
        assert prompt[-1] == prompt[-2] == len(row["prompt"]), "the start token is in no text"
        assert own.is_sorted() and own[-1] <= len(row["completion"])


def test_the_prompt_need_not_be_observed(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    few = ("tokens", "layers", "heads", "activations:resid_post")
    part = collected(tmp_path / "part", model_folder("t5"), keep=few, observe_prompt=False)
    whole = collected(tmp_path / "whole", model_folder("t5"), keep=few)
    assert rows(part, "token_steps").equals(rows(whole, "token_steps"), null_equal=True)
    for table in ("layer_summaries", "head_summaries"):
        everything = rows(whole, table).filter(pl.col("stack") == "decoder")
        assert rows(part, table).equals(everything, null_equal=True), table
    vectors = rows(part, "activations")
    assert set(vectors["stack"]) == {"decoder"}
    assert (
        vectors.select("sequence_id", "position").unique().height == rows(part, "sequences")["n_generated_tokens"].sum()
    )


def test_the_encoder_runs_once_per_batch(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    lake = collected(tmp_path, model_folder("bart"), batch_size=2, segment_items=5)
    operations = lake.scan("operations").collect()
    counts = dict(operations.select("name", "count").rows())
    assert counts["encode"] == counts["prefill"] == 3
    assert counts["decode"] > 8


@pytest.mark.parametrize("architecture", ["t5", "bart"])
def test_the_bare_model_sees_the_same_tokens(
    model_folder: Callable[[str], Path], tmp_path: Path, architecture: str
) -> None:
    """The comparison of strict timings reads the encoder too, and sequences leave it as they did."""
    collection = Collection(config(model_folder(architecture), keep=("tokens",)))
    lake = Lake.create(tmp_path)
    collection.start(lake, assume_yes=True)
    batch = []
    for part in rows(lake, "token_steps").partition_by("sequence_id", maintain_order=True):
        prompt, own = part.filter("is_prompt")["token_id"].to_numpy(), part.filter(~pl.col("is_prompt"))["token_id"]
        batch.append(Sequence(len(batch), len(batch), 0, prompt.astype(np.int64), own.to_list(), len(prompt) - 1))
    forced = rows(lake, "token_steps").filter("is_forced")["step"].unique().to_list()
    batch[2].generated = batch[2].generated[:4]
    seen: list[torch.Tensor] = []
    unembed = collection.loaded.unembed

    class Recording:
        def __call__(self, states: torch.Tensor) -> torch.Tensor:
            seen.append(unembed(states).argmax(-1))
            return unembed(states)

    collection.loaded.__dict__["unembed"] = Recording()
    replay(collection.loaded, [batch], collection.plan.reading, chunk=3)
    compared = 0
    for step, ids in enumerate(seen):
        alive = [s for s in batch if len(s.generated) >= step]
        assert len(ids) == len(alive)
        for sequence, found in zip(alive, ids.tolist(), strict=True):
            if step < len(sequence.generated) and step not in forced:
                assert sequence.generated[step] == found
                compared += 1
    assert compared > 15


def test_a_stop_rule_and_forced_tokens(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    """A forced token was not sampled, so that a rule on the sampling distribution cannot hold there."""
    lake = collected(
        tmp_path, model_folder("bart"), temperature=1.0, keep=("tokens",), stop_when=("sampling_entropy_bits > 0",)
    )
    assert set(rows(lake, "sequences")["n_generated_tokens"]) == {2}
    assert set(rows(lake, "sequences")["finish_reason"]) <= {"stopped", "eos"}
    tokens = rows(lake, "token_steps")
    assert tokens.filter("is_forced")["step"].to_list() == [0] * len(PROMPTS)
    assert tokens.filter("is_forced")["sampling_logprob"].is_null().all()


@pytest.mark.parametrize("architecture", ["gpt2"])
def test_decoder_only_models_force_their_last_token_too(
    model_folder: Callable[[str], Path], tmp_path: Path, architecture: str
) -> None:
    """And the second of the sequence, as generation does: after a prompt of one token only."""
    collection = Collection(config(model_folder(architecture), keep=("tokens",), max_new_tokens=5))
    generation = collection.loaded.model.generation_config
    generation.forced_bos_token_id, generation.forced_eos_token_id = 50, [61, 60]
    lake = Lake.create(tmp_path)
    collection.start(lake, assume_yes=True)
    short = rows(lake, "sequences").filter(pl.col("n_prompt_tokens") == 1)["sequence_id"].to_list()
    forced = rows(lake, "token_steps").filter("is_forced")
    assert short and forced.filter(pl.col("step") == 0)["sequence_id"].to_list() == short
    assert set(forced.filter(pl.col("step") == 0)["token_id"]) == {50}
    assert set(forced.filter(pl.col("step") > 0).select("step", "token_id").rows()) == {(4, 60)}
    at_limit = rows(lake, "sequences").filter(pl.col("n_generated_tokens") == 5)
    assert at_limit.height and set(at_limit["finish_reason"]) == {"length"}


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("site", ["attn_out", "mlp_out", "cross_attn_out", "resid_mid", "resid_mid_cross"])
def test_post_norm_blocks_add_nothing_up(model_folder: Callable[[str], Path], site: str) -> None:
    with pytest.raises(ConfigError, match=r"post-norm"):
        Collection(config(model_folder("bart"), keep=(f"activations:{site}",)))


@pytest.mark.parametrize("site", ["cross_attn_out", "resid_mid_cross"])
def test_cross_sites_need_an_encoder(model_folder: Callable[[str], Path], site: str) -> None:
    with pytest.raises(ConfigError, match="only in the decoder of an encoder-decoder model"):
        Collection(config(model_folder("gpt2"), keep=(f"activations:{site}",)))


def test_states_must_be_one_per_token(tmp_path: Path) -> None:
    """LED's encoder pads to its attention window: its rows would be nobody's."""
    shape = {"d_model": D_MODEL, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
             "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}  # fmt: skip
    model = LEDForConditionalGeneration(LEDConfig(vocab_size=D_VOCAB, attention_window=8, **shape))
    with pytest.raises(ConfigError, match="8 states where it reads 5 tokens"):
        Collection(config(save(model, tmp_path), keep=("layers",)))


def test_layers_are_counted_per_stack(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    """-1 is the last layer of each stack; a layer that only the deeper stack has is no error."""
    lake = collected(tmp_path, model_folder("t5"), keep=("activations:resid_post@-1", "activations:z@0,2"))
    found = set(lake.scan("activations").select("stack", "site", "layer").unique().collect().rows())
    last = {("encoder", "resid_post", N_ENCODER_LAYERS - 1), ("decoder", "resid_post", N_DECODER_LAYERS - 1)}
    assert found == last | {("encoder", "z", 0), ("decoder", "z", 0), ("decoder", "z", 2)}
    with pytest.raises(ConfigError, match="no layer 3"):
        Collection(config(model_folder("t5"), keep=("activations:z@3",)))


def test_a_model_that_does_not_say_how_to_start(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    folder = shutil.copytree(model_folder("t5"), tmp_path / "model")
    for name in ("config.json", "generation_config.json"):
        settings = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**settings, "decoder_start_token_id": None, "bos_token_id": None}))
    with pytest.raises(ConfigError, match="decoder_start_token_id"):
        Collection(config(folder))


def test_prompts_longer_than_the_encoder_s_positions(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    long = "one, two, " * 60
    with pytest.raises(ConfigError, match="takes 96"):
        Collection(config(model_folder("bart"), prompt=(long,)))
    cut = collected(tmp_path / "cut", model_folder("bart"), prompt=(long,), on_long="truncate")
    assert rows(cut, "sequences")["n_prompt_tokens"].to_list() == [97]
    # T5 has relative positions, so it has no limit.
    free = collected(tmp_path / "free", model_folder("t5"), prompt=(long,), keep=("tokens",))
    assert rows(free, "sequences")["n_prompt_tokens"][0] > 97


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("architecture", ["t5", "bart"])
def test_half_precision(model_folder: Callable[[str], Path], tmp_path: Path, architecture: str, dtype: str) -> None:
    """Vectors are the model's own; statistics are computed from them in float32."""
    lake = collected(
        tmp_path, model_folder(architecture), dtype=dtype, keep=("tokens", "layers", "heads", "activations:resid_post")
    )
    assert lake.verify("deep").ok
    vectors = tracelake.open(tmp_path).sql("select * exclude (dtype) from activations")
    norms = vectors.with_columns(norm=pl.col("vector").list.eval(pl.element().cast(pl.Float64) ** 2).list.sum().sqrt())
    joined = norms.join(rows(lake, "layer_summaries"), on=["sequence_id", "position", "layer", "site"])
    assert joined.height == norms.height
    np.testing.assert_allclose(joined["l2_norm"].to_numpy(), joined["norm"].to_numpy(), rtol=2e-3)


# -- the rest of the product on such a lake ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lake_path(model_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lake")
    for architecture in ("t5", "bart"):
        collected(path, model_folder(architecture), tag=architecture, samples=2, keep=(*KEEP, "embeddings"))
    return path


def test_verify_passes(lake_path: Path) -> None:
    report = Lake.open(lake_path).verify("deep")
    assert report.ok and not report.notes


def test_saved_queries_and_views_answer(lake_path: Path) -> None:
    lake, answered = Lake(lake_path), {}
    with lake.connect(extra_views=view_definitions(), locked=True) as connection:
        for name, query in saved_queries(lake).items():
            given = {parameter: "latest" for parameter in query.parameters if parameter.startswith("run")}
            answered[name] = query.run(connection, lake.resolve_run, **given).height
    for name in ("health", "prompt_health", "attention_entropy_by_head", "attention_sinks", "entropy_by_step",
                 "embedding_path", "run_overview", "layer_norms", "attention_basin"):  # fmt: skip
        assert answered[name] > 0, name


def test_states_are_paired_with_what_they_predict(lake_path: Path) -> None:
    """The start token's states lead to the first generated token; encoder tokens lead to none."""
    pairs = tracelake.open(lake_path).sql(
        "select p.*, t.stack from predictions p join token_steps t using (run_id, sequence_id, position)"
    )
    assert set(pairs["stack"]) == {"decoder"}
    assert set(pairs.filter(pl.col("next_step") == 0)["position"] + 1) == set(
        pairs.filter(pl.col("next_step") == 0)["next_position"]
    )
    assert not pairs["next_is_prompt"].any() and not pairs["next_logprob"].has_nulls()


def test_growing_texts_are_embedded(lake_path: Path) -> None:
    lake = Lake.open(lake_path)
    embedded = lake.scan("step_embeddings").collect()
    generated = lake.scan("token_steps").filter(~pl.col("is_prompt")).collect()
    embedded = embedded.filter(pl.col("scope").is_in(["prompt+completion", "completion"]))
    assert embedded.height == 2 * generated.height
    keys = ["run_id", "sequence_id", "position", "step"]
    assert set(embedded.select(keys).rows()) == set(generated.select(keys).rows())


def test_the_encoder_s_prompt_health_has_its_own_layers(lake_path: Path) -> None:
    found = tracelake.open(lake_path).query("prompt_health", run="t5", sequence=0)
    assert found.sort("layer", "site").select("layer", "site").rows() == [
        (0, "resid_post"), (N_ENCODER_LAYERS - 1, "final_norm"), (N_ENCODER_LAYERS - 1, "resid_post")
    ]  # fmt: skip
    assert not found["transformation"].has_nulls()
    assert found["mean_basin_ratio"].is_null().to_list() == (found["site"] == "final_norm").to_list()
