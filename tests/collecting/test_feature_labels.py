"""A judge of features: what it is shown, what it is scored on, and the scores again from the stored activations."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from judge_server import KEY, JudgeServer, judge_server, shown
from typer.testing import CliRunner

import tracelake
from tracelake.analysis.sae.examples import example_columns
from tracelake.cli import app
from tracelake.collect.judge.features.feature_run import Labelled, LabelOptions, label_features
from tracelake.collect.judge.features.feature_trials import N_EACH, N_SHOWN, Trial
from tracelake.collect.judge.service import client as judge_client
from tracelake.collect.judge.service.client import Service
from tracelake.collect.judge.service.limits import Allowance, Price
from tracelake.lake import Lake
from tracelake.lake.analyses import commit_analysis, remove_analysis
from tracelake.lake.derived import Analysis, analysis_row
from tracelake.lake.errors import ConfigError, NotFoundError, StoppedError, UsageError

pytest.importorskip("openai", reason="the judge extra is not installed")
SAE, RUN = "m-resid_post-0-topk-5-abc", "read"
N_DOCUMENTS, LENGTH = 120, 60
WORDS = ["cat", "dog", "sun", "sea", "oak", "ash", "elm", "fox", "owl", "bee", "ant", "cow", "hen", "pig", "rat", "yak"]
WORDS += [f"x{word}" for word in WORDS]
CAT, SCATTERED, DEAD, EVERYWHERE, NEVER_HELD_OUT = range(5)
DRAWS = np.random.default_rng(0).integers(0, len(WORDS), (N_DOCUMENTS, LENGTH))
ITEMS = [f"item-{number}" for number in range(N_DOCUMENTS)]


def held_out(number: int) -> bool:
    """Fold 0 of five of the document's hash."""
    return int(hashlib.sha256(ITEMS[number].encode()).hexdigest()[:8], 16) % 5 == 0


def is_active(feature: int, document: int, position: int) -> bool:
    """Feature 0 is the word cat, 1 follows no word, 2 is dead, 3 is everywhere, 4 is the word dog out of the fold."""
    word = WORDS[DRAWS[document, position]]
    scattered = (document * 31 + position * 17) % 23 == 0
    return [word == "cat", scattered, False, True, word == "dog" and not held_out(document)][feature] and position > 0


def made_lake(path: Path) -> Lake:
    """Documents of words, and five features whose activations are written by hand, with their real examples."""
    lake = Lake.create(path)
    with lake.start_run(RUN, {"kind": "read", "model": {"name": "m", "n_layers": 1}}) as run:
        with run.segment(0, (0, N_DOCUMENTS)) as segment:
            texts = [" ".join(WORDS[i] for i in row) for row in DRAWS]
            segment.append("sequences", {"sequence_id": np.arange(N_DOCUMENTS), "item_id": ITEMS, "prompt": texts})
            words = [WORDS[i] if j == 0 else f" {WORDS[i]}" for row in DRAWS for j, i in enumerate(row)]
            starts = range(0, len(words), LENGTH)
            ends = np.concatenate([np.cumsum([len(word) for word in words[i : i + LENGTH]]) for i in starts])
            segment.append("token_steps", {
                "sequence_id": np.repeat(np.arange(N_DOCUMENTS), LENGTH), "token_id": DRAWS.ravel().astype(np.int32),
                "position": np.tile(np.arange(LENGTH, dtype=np.int32), N_DOCUMENTS), "stack": "decoder",
                "char_end": ends.astype(np.int32), "is_prompt": True, "token": words,
            })  # fmt: skip
        run.finish()
    write_features(lake, "0" * 16)
    return lake


def write_features(lake: Lake, snapshot: str) -> None:
    """Feature tables of SAE as an analysis of this snapshot."""
    analysis = Analysis(RUN, "sae-features", {"sae_id": SAE}, snapshot)
    named = {"sae_id": SAE, "analysis_id": analysis.analysis_id}
    rows = [
        (f, d, p, 1.0 + (d * 7 + p * 3) % 11)
        for f in range(5)
        for d in range(N_DOCUMENTS)
        for p in range(LENGTH)
        if is_active(f, d, p)
    ]
    feature, sequence, position, activation = (np.array(column) for column in zip(*rows, strict=True))
    columns = {"feature": feature.astype(np.int32), "sequence_id": sequence, "position": position.astype(np.int32)}
    columns["activation"] = activation.astype(np.float32)
    commit_analysis(lake, analysis, {"feature_activations": columns | named}, partial=True)
    with lake.connect(run=RUN, locked=True) as connection:
        examples = example_columns(connection, RUN, SAE, analysis.analysis_id, 1)
    counts = np.bincount(feature, minlength=5).astype(np.int64)
    stats = {"feature": np.arange(5, dtype=np.int32), "n_active": counts, "n_sequences": np.minimum(counts, 9)}
    tables: dict[str, Any] = {"analyses": analysis_row(analysis, 1, [], None), "feature_examples": examples | named}
    commit_analysis(lake, analysis, tables | {"feature_stats": stats | named}, partial=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    return made_lake(tmp_path_factory.mktemp("made") / "lake")


@pytest.fixture
def lake(made: Lake) -> Iterator[Lake]:
    """The same lake, without the labels of the test before."""
    yield made
    for analysis_id in {row["analysis_id"] for row in table(made)}:
        remove_analysis(made, analysis_id, dry_run=False)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[JudgeServer]:
    monkeypatch.setenv("TEST_JUDGE_KEY", KEY)
    monkeypatch.setattr(judge_client, "FIRST_WAIT_S", 0.01)
    with judge_server() as running:
        yield running


def label(
    lake: Lake, server: JudgeServer, model: str = "good", features: tuple[int, ...] = (), **more: Any
) -> Labelled:
    n = more.pop("n", 20)
    allowance = Allowance(**{"price": Price(1, 2), **more})
    options = LabelOptions(Service(model, server.base_url, "TEST_JUDGE_KEY"), features, n, allowance)
    return label_features(lake, "m-resid", RUN, options)


def table(lake: Lake) -> list[dict[str, Any]]:
    return lake.sql("SELECT * FROM feature_judgements ORDER BY feature, kind").to_dicts()


def scores(lake: Lake) -> dict[tuple[int, str], float]:
    return {(row["feature"], row["kind"]): row["balanced_accuracy"] for row in table(lake) if row["kind"] != "label"}


def words_of(passage: str) -> list[str]:
    return passage.replace("[[", "").replace("]]", "").split()


def places_of(passage: str) -> list[tuple[int, int]]:
    """Every place of the corpus whose words are these, by search."""
    words = words_of(passage)
    found = [
        (document, start)
        for document, row in enumerate(DRAWS)
        for start in range(LENGTH - len(words) + 1)
        if [WORDS[i] for i in row[start : start + len(words)]] == words
    ]
    assert found
    return found


def by_kind(server: JudgeServer, kind: str) -> list[list[str]]:
    """The passages of every call of one kind."""
    keys = {"label": '"label"', "detection": '"with"', "fuzzing": '"right"'}
    bodies = [body for body in server.bodies if keys[kind] in body["messages"][0]["content"]]
    return [[text for name, text in shown(body).items() if name.startswith("PASSAGE")] for body in bodies]


def test_a_judge_that_reads_well_and_one_that_guesses(lake: Lake, server: JudgeServer) -> None:
    good = label(lake, server, features=(CAT,))
    assert (good.n_labels, good.n_calls, good.detection, good.fuzzing) == (1, 3, 1.0, 1.0)
    assert [row["label"] for row in table(lake)] == ["the token ' cat'"] * 3
    tests = {row["kind"]: (row["n_right"], row["n_wrong"]) for row in table(lake) if row["kind"] != "label"}
    assert tests["detection"] == (N_EACH, N_EACH) and tests["fuzzing"][0] == tests["fuzzing"][1] > 4
    for blind in ("none", "all"):
        assert label(lake, server, blind, (CAT,)).detection == 0.5
    chance = label(lake, server, "chance", (CAT, SCATTERED))
    assert chance.detection is not None and 0.15 < chance.detection < 0.85
    assert lake.verify("deep").ok


def test_what_is_shown_and_the_scores_again_from_activations(lake: Lake, server: JudgeServer) -> None:
    label(lake, server, features=(SCATTERED,))
    [labelled], [detection], [fuzzing] = (by_kind(server, kind) for kind in ("label", "detection", "fuzzing"))
    assert len(labelled) == N_SHOWN and not any("[[" in text for text in detection)
    for text in labelled:  # of documents that are not held out, with every active token marked and no other
        [(document, start)] = places_of(text)
        assert not held_out(document)
        marked = [token.startswith("[[") for token in text.replace("[[ ", " [[").split()]
        assert marked == [is_active(SCATTERED, document, start + i) for i in range(len(marked))]
    truth = []
    for text in detection:
        [(document, start)] = places_of(text)
        assert held_out(document)
        truth.append(any(is_active(SCATTERED, document, start + i) for i in range(len(words_of(text)))))
    assert sum(truth) == N_EACH == len(truth) - sum(truth)
    right = []
    for text in fuzzing:
        [(document, start)] = places_of(text)
        marked = [token.startswith("[[") for token in text.replace("[[ ", " [[").split()]
        active = [is_active(SCATTERED, document, start + i) for i in range(len(marked))]
        assert held_out(document) and sum(marked) == sum(active) > 0
        assert marked == active or not any(np.array(marked) & np.array(active))
        right.append(marked == active)
    assert sum(right) == len(right) / 2 > 4
    said = {row["kind"]: json.loads(row["reply"]) for row in table(lake) if row["kind"] != "label"}
    for kind, wanted in (("detection", np.array(truth)), ("fuzzing", np.array(right))):
        named = np.isin(np.arange(1, len(wanted) + 1), said[kind])
        balanced = (named[wanted].mean() + (~named[~wanted]).mean()) / 2
        assert scores(lake)[SCATTERED, kind] == pytest.approx(balanced)


def test_what_cannot_be_scored_says_why(lake: Lake, server: JudgeServer) -> None:
    label(lake, server, features=(EVERYWHERE, NEVER_HELD_OUT))
    reasons = {(row["feature"], row["kind"]): row["reason"] for row in table(lake)}
    assert reasons[EVERYWHERE, "detection"] == "fewer than 2 held-out passages without the feature"
    assert reasons[EVERYWHERE, "fuzzing"] == "fewer than 4 held-out passages whose marks could be elsewhere"
    assert reasons[NEVER_HELD_OUT, "detection"] == "fewer than 2 held-out passages with the feature"
    assert reasons[NEVER_HELD_OUT, "label"] is None and server.calls["good"] == 2
    assert set(scores(lake).values()) == {None}


def test_nothing_is_asked_twice(lake: Lake, server: JudgeServer) -> None:
    first = label(lake, server, n=20)
    assert first.n_features == 4  # the dead one is not drawn
    rows, calls = table(lake), server.calls["good"]
    again = label(lake, server, n=20)
    assert server.calls["good"] == calls and again.n_asked == 0 and again.n_stored == len(rows)
    assert (again.detection, again.fuzzing, again.reasons) == (first.detection, first.fuzzing, first.reasons)
    assert table(lake) == rows
    write_features(lake, "1" * 16)  # the features were computed anew: the labels are those of the new tables
    assert label(lake, server, n=20).n_reused > 0 and server.calls["good"] == calls
    assert len(table(lake)) == len(rows) and {row["cached"] for row in table(lake) if row["content"]} == {True}


@pytest.mark.parametrize(("limit", "says"), [({"max_calls": 2}, "--max-calls 2"), ({"max_usd": 0.0035}, "--max-usd")])
def test_a_limit_stops_resumably(lake: Lake, server: JudgeServer, limit: dict[str, Any], says: str) -> None:
    with pytest.raises(StoppedError, match=says) as caught:
        label(lake, server, features=(CAT, SCATTERED), concurrency=1, **limit)
    done = server.calls["good"]
    assert caught.value.exit_code == 7 and 0 < done < 6 and len(table(lake)) == done
    assert sum(row["cost_usd"] for row in table(lake)) <= limit.get("max_usd", 1)
    assert label(lake, server, features=(CAT, SCATTERED)).n_labels == 2 and server.calls["good"] == 6


@pytest.mark.parametrize(
    ("model", "reason", "n_calls"),
    [
        ("fence", "the reply is no JSON", 1),
        ("cut", "the reply was cut by its length", 1),
        ("text-false", "the reply is no JSON object with the key label alone", 1),
        ("out-of-range", "`with` is no list of numbers from 1 to 20", 3),
    ],
)
def test_bad_replies_are_null_with_a_reason(
    lake: Lake, server: JudgeServer, model: str, reason: str, n_calls: int
) -> None:
    found = label(lake, server, model, (CAT,))
    assert server.calls[model] == n_calls and reason in " ".join(found.reasons) and found.detection is None
    assert {row["balanced_accuracy"] for row in table(lake)} == {None}
    label(lake, server, model, (CAT,))
    assert server.calls[model] == n_calls


def test_a_service_that_fails_leaves_no_row(lake: Lake, server: JudgeServer) -> None:
    found = label(lake, server, "503", (CAT,))
    assert found.reasons == {"label: the service did not answer: HTTP 503": 1} and table(lake) == []


def test_scores_of_a_reply() -> None:
    trial = Trial(0, "detection", "x", truth=(True, False, True, False, False))
    assert trial.score("[1, 2]") == {
        "n_right": 2, "n_wrong": 3, "sensitivity": 0.5, "specificity": pytest.approx(2 / 3),
        "balanced_accuracy": pytest.approx(7 / 12),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("features", "more", "says"),
    [
        ((9,), {}, "they are 0 to 4"),
        ((DEAD,), {}, "never active"),
        ((), {"n": 0}, "--n"),
        ((), {"max_calls": 0}, "--max-calls"),
        ((), {"max_usd": 0.0}, "--max-usd"),
        ((), {"price": None}, "--usd-per-million"),
    ],
)
def test_what_cannot_be_asked(
    lake: Lake, server: JudgeServer, features: tuple[int, ...], more: dict[str, Any], says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        label(lake, server, features=features, **more)
    assert table(lake) == [] and server.calls.total() == 0


def test_no_features_and_no_key(lake: Lake, server: JudgeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    options = LabelOptions(Service("good", server.base_url, "TEST_JUDGE_KEY"), allowance=Allowance(price=Price(1, 2)))
    with pytest.raises(NotFoundError, match="lake sae features other"):
        label_features(lake, "other", RUN, options)
    monkeypatch.setenv("TEST_JUDGE_KEY", "wrong")
    with pytest.raises(ConfigError, match="TEST_JUDGE_KEY"):
        label(lake, server, features=(CAT,))
    assert table(lake) == []


def test_the_command_line_and_the_card(lake: Lake, server: JudgeServer) -> None:
    arguments = [
        "sae",
        "label",
        SAE,
        "--lake",
        str(lake.path),
        "--run",
        RUN,
        "--features",
        "0-1",
        "--judge-model",
        "good",
    ]
    arguments += ["--base-url", server.base_url, "--key-env", "TEST_JUDGE_KEY", "--usd-per-million", "1,2", "--json"]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    assert (facts["n_features"], facts["n_labels"], facts["n_calls"]) == (2, 2, 6) and KEY not in done.output
    opened = tracelake.open(lake.path)
    from tracelake.queries.cards.feature_card import feature_card

    card = dict(feature_card(opened, RUN, SAE, CAT).facts())
    assert card["judge's label"] == "the token ' cat' (detection 1.00, fuzzing 1.00; good)"
    assert "judge's label" not in dict(feature_card(opened, RUN, SAE, EVERYWHERE).facts())
    rows = opened.query("judged_features", run=RUN)
    assert isinstance(rows, pl.DataFrame) and rows["feature"].to_list()[0] == CAT and rows["detection"][0] == 1.0
