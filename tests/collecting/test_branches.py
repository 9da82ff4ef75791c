"""Branches of stored sequences: forced to their parent's own tokens they are the parent; copied, resumed, refused."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from plain_sequences import PlainCausal, check_run
from random_models import PROMPTS, random_model, save

import tracelake
from tracelake.collect.configuration.config import CollectConfig
from tracelake.collect.decoding import prefill
from tracelake.collect.decoding.batch import Batch
from tracelake.collect.decoding.prefix import Prefix
from tracelake.collect.decoding.reading.reading import Reading
from tracelake.collect.decoding.sequence import Sequence
from tracelake.collect.inputs.branches import BranchRequest, BranchSource
from tracelake.collect.inputs.prompts import open_source
from tracelake.collect.models.loading.load import load_model
from tracelake.collect.running.collector import Callbacks, Collected, Collection, resume_run
from tracelake.lake import Lake
from tracelake.lake.errors import ConfigError, LakeError, NotFoundError, StoppedError, UsageError

KEEP = ("tokens", "layers", "heads", "activations:resid_post", "activations:final_norm")
KEY = {
    "token_steps": [], "layer_summaries": ["layer", "site"], "head_summaries": ["layer", "head", "kind"],
    "activations": ["layer", "site"],
}  # fmt: skip
Parents = Callable[[str], tuple[Lake, str]]
NOT_COMPARED = ("run_id", "latency_ms", "is_forced", "surprisal_bits")


class OwnTokens(BranchSource):
    """Every branch is forced to the token that its parent chose."""

    def _forced(self, token: dict, parent: object) -> tuple[tuple[int, ...], None]:
        return (token["token_id"],), None


def collect(folder: Path, lake: Lake, source: BranchSource | None = None, **settings: object) -> Collected:
    wanted = {"keep": KEEP, "device": "cpu", "max_new_tokens": 14, "batch_size": 5, **settings}
    config = CollectConfig(model=str(folder), **wanted)
    collection = Collection(config, source=source or open_source(config, lake=lake))
    collection.plan = replace(collection.plan, chunk=5)
    return collection.start(lake, assume_yes=True)


def read(lake: Lake, table: str, run: str) -> pl.DataFrame:
    return lake.scan(table, run=run).collect()


@pytest.fixture(scope="module")
def parents(model_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Parents:
    """A lake with a greedy run of `PROMPTS`, per architecture."""
    made: dict[str, tuple[Lake, str]] = {}

    def make(architecture: str) -> tuple[Lake, str]:
        if architecture not in made:
            lake = Lake.create(tmp_path_factory.mktemp(architecture))
            made[architecture] = lake, collect(model_folder(architecture), lake, prompt=PROMPTS).run_id
        return made[architecture]

    return make


def check_equal(lake: Lake, parent: str, run: str) -> int:
    """Rows of branches from where they leave their parents on are the parents' rows; returns how many were compared."""
    branches = read(lake, "sequences", run).select("sequence_id", "parent_sequence_id", "branch_position")
    n = 0
    for table, key in KEY.items():
        own = read(lake, table, run).join(branches, on="sequence_id")
        if table != "token_steps":
            assert (own["position"] >= own["branch_position"]).all(), f"{table}: earlier states are the parent's"
        own = own.filter(pl.col("position") >= pl.col("branch_position"))
        theirs = read(lake, table, parent)
        on = ["position", *key]
        pairs = own.join(theirs, left_on=["parent_sequence_id", *on], right_on=["sequence_id", *on])
        ends = theirs.group_by("sequence_id").agg(pl.col("position").max().alias("end"))
        wanted = own.join(ends, left_on="parent_sequence_id", right_on="sequence_id")
        assert pairs.height == wanted.filter(pl.col("position") <= pl.col("end")).height, table
        n += pairs.height
        for name in set(theirs.columns) - {*on, *NOT_COMPARED, "sequence_id", "token", "char_end"}:
            _close(f"{table}.{name}", pairs[name], pairs[f"{name}_right"], pairs)
    return n


def _close(what: str, a: pl.Series, b: pl.Series, rows: pl.DataFrame) -> None:
    """Definitions A17; ids of the best tokens may change places where they are equally good."""
    if what == "activations.vector":
        x, y = (np.stack([np.frombuffer(value, np.float32) for value in series]) for series in (a, b))
        error = np.linalg.norm(x - y, axis=-1) - 1e-4 * np.linalg.norm(y, axis=-1)
        assert error.max() <= 0, f"{what}: {error.max()}"
    elif a.dtype == pl.List(pl.Int32):
        return
    elif a.dtype == pl.List(pl.Float32):
        x, y = (np.array(series.to_list(), dtype=float) for series in (a, b))
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5, err_msg=what)
    elif a.dtype.is_float():
        both = a.is_not_null() & b.is_not_null()
        if what != "layer_summaries.cos_prev_position":
            assert a.is_null().to_list() == b.is_null().to_list(), what
        np.testing.assert_allclose(a.filter(both), b.filter(both), rtol=1e-4, atol=1e-5, err_msg=what)
    elif what.endswith((".rank", ".max_key")):
        assert (a != b).mean() < 0.01, what
    else:
        assert a.equals(b, null_equal=True) or a.cast(pl.String).equals(b.cast(pl.String), null_equal=True), what


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many prefixes were read, and how long they are."""
    seen: list[int] = []
    before = Prefix.read.__func__

    def counting(cls: type[Prefix], batch: Batch, sequence: Sequence, n: int, *rest: object) -> Prefix:
        seen.append(n)
        return before(cls, batch, sequence, n, *rest)

    monkeypatch.setattr(Prefix, "read", classmethod(counting))
    return seen


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("llama", "qwen3", "gemma2")]


@pytest.mark.parametrize("architecture", ["gpt2", "mistral-window", "t5", *SLOW])
def test_forced_to_its_own_token_a_branch_is_its_parent(
    model_folder: Callable[[str], Path],
    parents: Parents,
    counted: list[int],
    architecture: str,
) -> None:
    """Batches of unequal length; the parent's cache is shared where the common beginning is long enough."""
    lake, parent = parents(architecture)
    source = OwnTokens(lake, BranchRequest(parent, at=("every:3",), force="own"))
    run = collect(model_folder(architecture), lake, source, branch_from=parent, at=("every:3",), force="own").run_id
    assert counted, "no cache was shared"
    assert check_equal(lake, parent, run) > 1000
    tokens = read(lake, "token_steps", run).join(read(lake, "sequences", run), on="sequence_id")
    before = tokens.filter(pl.col("position") < pl.col("branch_position"))
    assert before["logprob"].is_null().all() and before["topk_ids"].is_null().all()
    forced = (tokens["position"] >= tokens["n_prompt_tokens"]) & (tokens["position"] <= tokens["branch_position"])
    assert tokens["is_forced"].to_list() == forced.to_list()
    sequences = read(lake, "sequences", run)
    assert set(sequences["origin"]) == {"forced"} and set(sequences["parent_run_id"]) == {parent}
    assert sequences["prompt_id"].n_unique() == len(PROMPTS)
    assert lake.run_json(run)["kind"] == "experiment"


@pytest.mark.parametrize("architecture", ["mistral-window", "t5"])
def test_branches_of_edited_keys_and_values(
    model_folder: Callable[[str], Path], tmp_path: Path, counted: list[int], architecture: str
) -> None:
    """What is copied of a beginning was edited when it was read, and only there where the scope reaches."""
    lake = Lake.create(tmp_path)
    edit = ("zero:v@1:generated", "zero:rot_k@0:heads=1:prompt", "zero:rot_q@2")
    parent = collect(model_folder(architecture), lake, prompt=PROMPTS, edit=edit).run_id
    source = OwnTokens(lake, BranchRequest(parent, at=("every:3",), force="own"))
    branching = {"branch_from": parent, "at": ("every:3",), "force": "own", "edit": edit}
    run = collect(model_folder(architecture), lake, source, **branching).run_id
    assert counted, "no cache was shared"
    assert check_equal(lake, parent, run) > 1000


def test_without_sharing_it_is_the_same(
    model_folder: Callable[[str], Path], parents: Parents, monkeypatch: pytest.MonkeyPatch,
    counted: list[int],
) -> None:  # fmt: skip
    """Where a model remembers more than keys and values, every branch reads its beginning itself."""
    lake, parent = parents("llama")
    monkeypatch.setattr(prefill, "can_share", lambda *arguments: False)
    source = OwnTokens(lake, BranchRequest(parent, at=("every:3",), force="own"))
    run = collect(model_folder("llama"), lake, source, branch_from=parent, at=("every:3",), force="own").run_id
    assert not counted
    assert check_equal(lake, parent, run) > 1000


@pytest.mark.parametrize("architecture", ["gpt2", "mistral-window", "gemma2", "t5"])
def test_a_copied_cache_is_bit_equal_to_its_own(model_folder: Callable[[str], Path], architecture: str) -> None:
    """Rows of a seeded cache are those that one sequence has after as many tokens, also behind a window."""
    loaded = load_model(str(model_folder(architecture)), device="cpu")
    ids = np.arange(40, 64)
    encoded = np.arange(90, 97) if loaded.encoder is not None else np.empty(0, np.int64)
    sequence = Sequence(0, 0, 0, np.concatenate((encoded, ids)), n_encoded=len(encoded))
    batch = Batch(loaded, [sequence], Reading(), room=0)
    if loaded.encoder is not None:
        with torch.no_grad():
            states = loaded.encoder.module(input_ids=torch.from_numpy(encoded)[None]).last_hidden_state
        batch.encoded = {"encoder_hidden_states": states, "encoder_attention_mask": None}
    with torch.no_grad():
        prefix = Prefix.read(batch, sequence, len(ids), 5, lambda one, a, b: one.read(a, b))
        for start, end in batch.spans(0, batch.width, 5):
            batch.read(start, end)
        lengths = np.array([24, 11, 24, 3])
        seeded = prefix.seed(lengths, 24)
    own = batch.cache
    if loaded.encoder is not None:
        for mine, theirs in zip(own.cross_attention_cache.layers, seeded.cross_attention_cache.layers, strict=True):
            assert torch.equal(mine.keys.expand(4, -1, -1, -1), theirs.keys)
        own, seeded = own.self_attention_cache, seeded.self_attention_cache
    windowed = any(layer.keys.shape[2] < batch.width for layer in own.layers)
    for mine, theirs, whole in zip(own.layers, seeded.layers, _self(prefix.cache).layers, strict=True):
        assert type(mine) is type(theirs) and mine.get_seq_length() == theirs.get_seq_length()
        for name in ("keys", "values"):
            a, b, everything = (getattr(layer, name) for layer in (mine, theirs, whole))
            assert a.shape[2] == b.shape[2]
            n = a.shape[2]
            for row, length in enumerate(lengths):
                held = min(n, length)
                assert torch.equal(b[row][:, n - held :], everything[0][:, length - held : length])
            # Over keys behind a window attention may sum in another order, and the layers above inherit that.
            torch.testing.assert_close(b[0], a[0], rtol=1e-4, atol=1e-4)
            assert windowed or torch.equal(b[0], a[0])


def _self(cache: object) -> object:
    return getattr(cache, "self_attention_cache", cache)


@pytest.mark.parametrize("settings", [{}, {"samples": 2, "temperature": 1.0, "seed": 3}], ids=["greedy", "sampled"])
def test_a_resumed_branch_run_is_bit_equal(
    model_folder: Callable[[str], Path], parents: Parents, settings: dict
) -> None:
    lake, parent = parents("llama")
    wanted = {"branch_from": parent, "at": ("every:3",), "force": "second", "segment_items": 3, **settings}
    whole = collect(model_folder("llama"), lake, **wanted).run_id
    config = CollectConfig(
        model=str(model_folder("llama")), keep=KEEP, device="cpu", max_new_tokens=14, batch_size=5, **wanted
    )
    calls = iter(range(100_000))
    stopped = Collection(config, Callbacks(should_stop=lambda: next(calls) > 60), source=open_source(config, lake=lake))
    stopped.plan = replace(stopped.plan, chunk=5)
    with pytest.raises(StoppedError):
        stopped.start(lake, assume_yes=True)
    run = lake.resolve_run("latest")
    assert 0 < len(read(lake, "sequences", run)) < len(read(lake, "sequences", whole))
    assert resume_run(lake, run) is not None
    for table in ("sequences", *KEY):
        a, b = (read(lake, table, one).drop("run_id", "latency_ms", strict=False) for one in (whole, run))
        key = [name for name in ("sequence_id", "position", *KEY.get(table, ())) if name in a.columns]
        assert a.sort(key).equals(b.sort(key), null_equal=True), table


def test_the_second_best_token_is_forced_and_the_rest_is_greedy(
    model_folder: Callable[[str], Path], parents: Parents
) -> None:
    """Against a bare model that reads every branch again."""
    lake, parent = parents("gpt2")
    run = collect(model_folder("gpt2"), lake, branch_from=parent, at=("0", "2"), sequence=(0, 2), force="second",
                  max_new_tokens=4).run_id  # fmt: skip
    plain = PlainCausal(model_folder("gpt2"))
    theirs = {number: part for (number,), part in read(lake, "token_steps", parent).sort("position").partition_by(
        "sequence_id", as_dict=True).items()}  # fmt: skip
    sequences = read(lake, "sequences", run).sort("sequence_id")
    assert sequences.select("parent_sequence_id", "branch_position", "n_prompt_tokens").rows() == [
        (number, theirs[number]["is_prompt"].sum() + step, theirs[number]["is_prompt"].sum())
        for number in (0, 2) for step in (0, 2)
    ]  # fmt: skip
    for row in sequences.iter_rows(named=True):
        tokens = read(lake, "token_steps", run).filter(sequence_id=row["sequence_id"]).sort("position")
        ids, at = tokens["token_id"].to_numpy().astype(np.int64), row["branch_position"]
        parent_ids = theirs[row["parent_sequence_id"]]["token_id"].to_numpy()
        assert (ids[:at] == parent_ids[:at]).all()
        logits, _ = plain.read(ids)
        best = np.argsort(-logits[at - 1])
        assert ids[at] == best[0 if best[0] != parent_ids[at] else 1]
        assert ids[at + 1 :].tolist() == logits.argmax(-1)[at:-1].tolist()
        assert tokens["is_forced"].sum() == at - row["n_prompt_tokens"] + 1
        assert len(ids) - at - 1 <= 4


def test_going_on_and_reading_again(model_folder: Callable[[str], Path], parents: Parents) -> None:
    """With no new tokens the same sequences are read for another --keep; else those that were cut off go on."""
    lake, parent = parents("llama")
    folder = model_folder("llama")
    again = collect(folder, lake, continue_run=parent, max_new_tokens=0).run_id
    check_run(lake, again, PlainCausal(folder).read)
    before, after = (read(lake, "token_steps", run).sort("sequence_id", "position") for run in (parent, again))
    assert before["token_id"].equals(after["token_id"]) and before["char_end"].equals(
        after["char_end"], null_equal=True
    )
    rows = [read(lake, "sequences", run).sort("sequence_id") for run in (parent, again)]
    for name in ("prompt_id", "item_id", "prompt", "completion", "n_prompt_tokens", "n_generated_tokens"):
        assert rows[0][name].equals(rows[1][name], null_equal=True), name
    assert set(rows[1]["origin"]) == {"read"} and set(rows[1]["finish_reason"]) == {"none"}
    longer = collect(folder, lake, continue_run=parent, max_new_tokens=3).run_id
    check_run(lake, longer, PlainCausal(folder).read)
    cut = rows[0].filter(pl.col("finish_reason") == "length")
    on = read(lake, "sequences", longer).sort("sequence_id")
    assert 0 < cut.height < rows[0].height
    assert on["parent_sequence_id"].to_list() == cut["sequence_id"].to_list()
    assert (on["n_generated_tokens"] > 14).all() and set(on["origin"]) == {"greedy"}


def test_vectors_of_a_run_that_is_read_again(model_folder: Callable[[str], Path], parents: Parents) -> None:
    lake, parent = parents("llama")
    keep = ("activations:z@1:generated", "activations:mlp_out@0:last", "activations:resid_pre@0:prompt")
    run = collect(model_folder("llama"), lake, continue_run=parent, max_new_tokens=0, keep=keep).run_id
    stored = read(lake, "activations", run).select("sequence_id", "position", "site").rows()
    wanted = []
    for number, n, m in read(lake, "sequences", parent).select(
        "sequence_id", "n_prompt_tokens", "n_generated_tokens"
    ).iter_rows():  # fmt: skip
        wanted += [(number, p, "z") for p in range(n, n + m)] + [(number, n + m - 1, "mlp_out")]
        wanted += [(number, p, "resid_pre") for p in range(n)]
    assert sorted(stored) == sorted(wanted)


# -- given completions -------------------------------------------------------------------------------------------------


def test_answer_choices_are_scored(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    folder = model_folder("llama")
    given = [{"id": "0", "given": " two"}, {"id": "0", "given": " one of them"}, {"id": "1", "given": [60, 61, 62]}]
    (tmp_path / "given.jsonl").write_text("\n".join(map(json.dumps, given)))
    lake = Lake.create(tmp_path / "lake")
    run = collect(folder, lake, prompt=("Tom has", "The café", "left out"), given=str(tmp_path / "given.jsonl"),
                  max_new_tokens=0).run_id  # fmt: skip
    check_run(lake, run, PlainCausal(folder).read, greedy=False)
    scores = tracelake.open(lake.path).sql(f"SELECT * FROM choice_scores WHERE run_id = '{run}' ORDER BY sequence_id")
    assert scores["item_id"].to_list() == ["0", "0", "1"]
    assert scores["given"].to_list()[:2] == [" two", " one of them"]
    plain = PlainCausal(folder)
    for row in scores.iter_rows(named=True):
        tokens = read(lake, "token_steps", run).filter(sequence_id=row["sequence_id"]).sort("position")
        ids, n = tokens["token_id"].to_numpy().astype(np.int64), int(tokens["is_prompt"].sum())
        logits, _ = plain.read(ids)
        logprobs = logits - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True)) - logits.max(
            -1, keepdims=True)  # fmt: skip
        own = logprobs[np.arange(n - 1, len(ids) - 1), ids[n:]]
        assert row["n_tokens"] == len(own)
        np.testing.assert_allclose([row["sum_logprob"], row["mean_logprob"]], [own.sum(), own.mean()], rtol=1e-4)
    best = scores.filter(item_id="0").sort("sum_logprob", descending=True)
    assert best["rank_by_sum"].to_list() == [1, 2]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['{"id": "9", "given": "x"}'], "no prompt with id '9'"),
        (['{"id": "0"}'], "expected an object with `id` and `given`"),
        (['{"id": "0", "given": []}'], "a text or a list of token ids"),
        (['{"id": "0", "given": [999]}'], "no token 999"),
        (['{"id": "0", "given": "x", "origin": "me"}'], "forced, oracle"),
        ([], "gives no completions"),
    ],
)
def test_given_completions_that_cannot_be_read_are_named(
    model_folder: Callable[[str], Path], tmp_path: Path, lines: list[str], message: str
) -> None:
    (tmp_path / "given.jsonl").write_text("\n".join(lines))
    lake = Lake.create(tmp_path / "lake")
    with pytest.raises(LakeError, match=message):
        collect(model_folder("llama"), lake, prompt=("Tom has",), given=str(tmp_path / "given.jsonl"))
    assert not lake.scan("sequences").collect().height


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        ({"at": ("99",)}, UsageError, "--at 99: sequence 0 of run .* completion tokens, steps 0 to"),
        ({"at": ("0",), "sequence": (77,)}, NotFoundError, "has no sequence 77"),
        ({"at": ("0",), "force": "one two three"}, ConfigError, "is . tokens.*one token can be forced"),
        ({"at": ("0",), "force": "id:5000"}, ConfigError, "no token 5000"),
        ({"at": ("0",), "edit": ("zero:attn_out@0",)}, ConfigError, "collected with 0 edits"),
        ({"at": ("0",), "branch_from": "nobody"}, NotFoundError, "nobody"),
    ],
)
def test_branches_that_cannot_be_are_named(
    model_folder: Callable[[str], Path], parents: Parents, settings: dict, kind: type,
    message: str,
) -> None:  # fmt: skip
    lake, parent = parents("llama")
    n = len(list(lake.runs()))
    with pytest.raises(kind, match=message):
        collect(model_folder("llama"), lake, **{"branch_from": parent, **settings})
    assert len(list(lake.runs())) == n


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"branch_from": "r"}, "needs --at"),
        ({"branch_from": "r", "force": "second"}, "needs --at"),
        ({"branch_from": "r", "at": "3rd"}, "step or every:K"),
        ({"continue_run": "r", "at": "3"}, "belong to --branch-from"),
        ({"at": "3", "prompt": "p"}, "belongs to --branch-from"),
        ({"branch_from": "r", "at": "3", "prompt": "p"}, "leave out --prompt"),
        ({"branch_from": "r", "at": "3", "continue_run": "q"}, "leave out --continue"),
        ({"branch_from": "r", "at": "3", "max_new_tokens": 0}, "no token of their own"),
        ({"branch_from": "r", "at": "3", "keep": "tokens,edges"}, "keep edges:generated"),
    ],
)
def test_settings_that_do_not_fit_together(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CollectConfig(**settings)


def test_steps_and_sequences_may_be_numbers() -> None:
    config = CollectConfig(branch_from="r", at=3, sequence=7)
    assert (config.at, config.sequence) == (("3",), (7,))
    assert CollectConfig(branch_from="r", at=[0, "every:4"], sequence=(1, 2)).at == ("0", "every:4")


def test_a_parent_of_other_weights(parents: Parents, tmp_path: Path) -> None:
    lake, parent = parents("llama")
    other = save(random_model("llama", seed=1), tmp_path / "other")
    with pytest.raises(ConfigError, match="another model: its weights_sha256 was"):
        collect(other, lake, branch_from=parent, at=("0",))


def test_the_second_best_token_must_be_known(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    lake = Lake.create(tmp_path / "lake")
    parent = collect(model_folder("llama"), lake, prompt=("Tom has",), keep=("layers",)).run_id
    with pytest.raises(ConfigError, match=f"lake collect --continue {parent} --max-new-tokens 0 --keep tokens"):
        collect(model_folder("llama"), lake, branch_from=parent, at=("0",), force="second")


def test_only_complete_runs_have_branches(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    lake = Lake.create(tmp_path / "lake")
    calls: Iterator[int] = iter(range(1000))
    config = CollectConfig(model=str(model_folder("llama")), prompt=PROMPTS, device="cpu", segment_items=1)
    with pytest.raises(StoppedError):
        Collection(config, Callbacks(should_stop=lambda: next(calls) > 3)).start(lake)
    with pytest.raises(ConfigError, match="is interrupted.*--resume"):
        collect(model_folder("llama"), lake, branch_from="latest", at=("0",))


def test_states_along_a_branch_are_its_own_behind_its_parent_s(
    model_folder: Callable[[str], Path], parents: Parents
) -> None:
    lake, parent = parents("llama")
    run = collect(model_folder("llama"), lake, branch_from=parent, at=("2",), sequence=(0,), force="second").run_id
    states = tracelake.open(lake.path).sql(
        f"SELECT * FROM branch_states WHERE run_id = '{run}' AND site = 'resid_post' AND layer = 1 ORDER BY position"
    )
    at = states["branch_position"][0]
    tokens = read(lake, "token_steps", run).sort("position")
    assert states["position"].to_list() == tokens["position"].to_list()
    assert states["source_run_id"].to_list() == [parent if position < at else run for position in range(len(tokens))]
    _, plain = PlainCausal(model_folder("llama")).read(tokens["token_id"].to_numpy().astype(np.int64))
    wanted = plain["resid_post", 1]
    found = np.array(states["vector"].to_list())
    assert (np.linalg.norm(found - wanted, axis=-1) <= 1e-4 * np.linalg.norm(wanted, axis=-1)).all()


def test_given_tokens_are_not_what_the_model_chose(model_folder: Callable[[str], Path], parents: Parents) -> None:
    lake, parent = parents("llama")
    run = collect(model_folder("llama"), lake, branch_from=parent, at=("2",), sequence=(0,), force="second").run_id
    opened = tracelake.open(lake.path)
    chosen = read(lake, "token_steps", run).filter(~pl.col("is_prompt") & ~pl.col("is_forced"))
    assert 0 < chosen.height < read(lake, "token_steps", run).filter(~pl.col("is_prompt")).height
    counted = opened.sql(f"SELECT count(*) AS n FROM generated_tokens WHERE run_id = '{run}'")["n"][0]
    assert counted == chosen.height
    shown = opened.query("token_frequency", run=run, limit=1000)
    assert shown["count"].sum() == chosen.height
    overview = opened.query("run_overview", run=run)
    assert overview["mean_generated_entropy_bits"][0] == pytest.approx(chosen["entropy_bits"].mean(), rel=1e-5)
