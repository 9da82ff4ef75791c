"""The report: what its numbers are, which sequences it shows, what it says where nothing was kept, hostile text."""

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hand_made_lake import HOSTILE, OTHER, RUN, append, frames, typed, without, write_lake
from html_page import Page
from scipy.stats import binomtest
from small_tables import N, tables

import tracelake
from tracelake import OpenLake
from tracelake.analysis.paths.trajectory import Trajectory
from tracelake.analysis.question import ask
from tracelake.collect.inputs.tokenizing.token_texts import token_texts as tokenizer_texts
from tracelake.lake import Lake
from tracelake.lake.errors import NotFoundError, UsageError
from tracelake.queries.report import write_report
from tracelake.queries.report.choice import RISKY
from tracelake.queries.report.facts import wilson
from tracelake.queries.report.figures import packed
from tracelake.queries.report.report import WrittenReport
from tracelake.queries.report.tokens import HEAD, TAIL, flowing, scales, token_texts, token_view
from tracelake.queries.saved_query import find

NASTY = [
    HOSTILE,
    "<!--<script>",
    "\u202eabc\u2066",
    "'\"&<img src=x onerror=alert(1)>",
    "{{ 7 * 7 }}",
    "x" * 10_000,
    "\u2028",
]


def lake_without(folder: Path, *names: str) -> OpenLake:
    """The lake with these tables empty."""
    kept = {name: frame.clear() if name in names else frame for name, frame in tables().items()}
    return OpenLake(write_lake(folder, kept).path)


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> OpenLake:
    return OpenLake(write_lake(tmp_path_factory.mktemp("report"), tables()).path)


@pytest.fixture(scope="module")
def report(lake: OpenLake, tmp_path_factory: pytest.TempPathFactory) -> WrittenReport:
    """The report of the whole lake, of which most tests ask something."""
    return write_report(lake, RUN, tmp_path_factory.mktemp("page") / "report.html")


@pytest.fixture(scope="module")
def text(report: WrittenReport) -> str:
    return report.file.read_text()


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


@pytest.fixture(scope="module")
def without_cards(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report of a lake without features and effects of neurons."""
    folder = tmp_path_factory.mktemp("cards")
    missing = ("feature_stats", "feature_examples", "neuron_effects", "neuron_ranks")
    return written(lake_without(folder / "l", *missing), folder, sequences=[0])


def written(lake: OpenLake, folder: Path, **options) -> str:
    write_report(lake, options.pop("run", RUN), folder / "report.html", **options)
    return (folder / "report.html").read_text()


def shown(page: Page) -> int:
    """How many sequences the page shows."""
    return page.attributes.count(("class", "sequence"))


def specs(page: Page) -> list[dict]:
    """Every chart of the page."""
    return [value for value in map(json.loads, page.scripts[:-1]) if "$schema" in value]


# -- numbers -----------------------------------------------------------------------------------------------------------


def test_tokens_are_the_rows_of_the_table(lake: OpenLake) -> None:
    rows = tables()["token_steps"].filter(run_id=RUN, sequence_id=3).sort("position")
    with lake.connect(locked=True) as connection:
        scale = scales(connection, RUN)
        view = token_view(connection, RUN, 3, scale)
    assert view.data["position"] == rows["position"].to_list() and view.left_out == 0
    assert view.data["rank"] == rows["rank"].to_list()
    for name in ("logprob", "surprisal_bits", "entropy_bits", "top1_prob", "margin"):
        shown, stored = view.data[name], rows[name].to_list()
        assert shown[0] is None and stored[0] is None
        np.testing.assert_allclose(shown[1:], stored[1:], rtol=5e-4)
    np.testing.assert_allclose(view.data["probs"][5], np.exp(rows["topk_logprobs"][5].to_numpy()), rtol=5e-4)
    assert view.first_generated == rows["step"].null_count()

    every = tables()["token_steps"].filter(run_id=RUN)
    full = np.quantile(every["surprisal_bits"].drop_nulls().to_numpy(), 0.98)
    assert scale.surprisal_bits == pytest.approx(max(1.0, full), rel=1e-5)
    strengths = [span["surprisal"] for span in view.spans]
    assert strengths[0] is None
    expected = np.clip(rows["surprisal_bits"].to_numpy()[1:] / scale.surprisal_bits, 0, 1)
    np.testing.assert_allclose(strengths[1:], expected, atol=5.1e-4)


def test_the_page_holds_the_tokens_and_the_charts_of_its_sequences(page: Page) -> None:
    data = [value for value in map(json.loads, page.scripts[:-1]) if "surprisal_bits" in value]
    assert len(data) == shown(page) >= RISKY
    assert page.tags.count("figure") == len(specs(page)) >= 9 + 4 * shown(page)
    texts = json.loads(page.scripts[-2])
    assert texts["0"] and set(texts) == {str(i) for i in range(10)}


def test_a_chart_on_the_page_is_the_saved_querys(lake: OpenLake, page: Page) -> None:
    title = find("attention_entropy_by_head").header.title
    [spec] = [spec for spec in specs(page) if spec["title"]["text"] == title]
    rows = lake.query("attention_entropy_by_head", run=RUN)
    columns = spec["data"]["columns"]
    assert columns["layer"] == rows["layer"].to_list() and columns["head"] == rows["head"].to_list()
    np.testing.assert_allclose(columns["mean_entropy_bits"], rows["mean_entropy_bits"].to_numpy(), rtol=5e-4)
    assert spec["width"] == "container"


def test_features_stand_on_the_page_with_the_token_marked(text: str, page: Page, without_cards: str) -> None:
    stats = tables()["feature_stats"].filter(run_id=RUN).filter(pl.col("n_active") > 0)
    assert page.attributes.count(("class", "feature")) == min(12, stats.height) > 0
    assert "see<mark> a</mark> here" in text and "precision 0.90, recall 0.60" in text
    assert "<mark>" not in without_cards


def test_neurons_stand_on_the_page_with_the_problems_where_they_act_most(
    text: str, page: Page, without_cards: str, tmp_path: Path
) -> None:
    effects = tables()["neuron_effects"].filter(pl.col("mean_abs") > 0).sort("mean_abs", descending=True)
    assert page.attributes.count(("class", "neuron")) == 3 * effects["layer"].n_unique()
    shown_first = re.findall(r"<summary>layer (\d+) <b>neuron (\d+)</b>", text)
    for layer in effects["layer"].unique():
        mine = [int(neuron) for at, neuron in shown_first if int(at) == layer]
        assert mine == effects.filter(layer=layer)["neuron"].head(3).to_list()
    assert "mean-difference-final_norm-5-1" in text and "after Holm" in text
    assert f"lake experiment second-order {RUN} --direction ID fills this section" in without_cards
    assert "<summary>layer" not in without_cards
    ranked = written(lake_without(tmp_path / "ranked", "neuron_effects", "analyses"), tmp_path, sequences=[0])
    assert "lake experiment neurons" in ranked


def test_packing_keeps_rows() -> None:
    values = [{"a": 1, "b": None, "c": "x"}, {"a": 2_000_001, "b": 0.123456, "c": "y"}]
    columns = packed({"data": {"values": values}, "mark": "bar"})["data"]["columns"]
    assert columns == {"a": [1, 2_000_001], "b": [None, 0.1235], "c": ["x", "y"]}


@pytest.mark.parametrize(("right", "n"), [(0, 5), (5, 5), (54, 128), (1, 1)])
def test_the_interval_of_a_share(right: int, n: int) -> None:
    interval = binomtest(right, n).proportion_ci(0.95, method="wilson")
    assert wilson(right / n, n) == pytest.approx((interval.low, interval.high), abs=1e-4)


# -- which sequences ---------------------------------------------------------------------------------------------------


def test_the_riskiest_of_different_prompts_the_longest_and_the_first(lake: OpenLake, report: WrittenReport) -> None:
    chosen = report.sequences
    sequences = tables()["sequences"].filter(run_id=RUN)
    verdicts = lake.query("health", run=RUN).join(sequences.select("sequence_id", "prompt_id"), on="sequence_id")
    ordered = verdicts.sort("risk_v05", "sequence_id", descending=[True, False]).unique(
        "prompt_id", keep="first", maintain_order=True
    )
    lengths = sequences.with_columns(n=pl.col("n_prompt_tokens") + pl.col("n_generated_tokens"))
    longest = lengths.sort("n", "sequence_id", descending=[True, False])["sequence_id"][0]
    expected = list(dict.fromkeys([*ordered["sequence_id"].head(RISKY), longest, sequences["sequence_id"].min()]))
    assert [choice.sequence_id for choice in chosen] == expected
    why = {choice.sequence_id: choice.why for choice in chosen}
    assert why[longest].endswith(f"the longest, {lengths['n'].max()} tokens") and why[0].endswith("the first")


def test_a_run_without_risk_shows_what_was_most_surprising(tmp_path: Path) -> None:
    lake = lake_without(tmp_path, "layer_summaries", "head_summaries")
    chosen = write_report(lake, RUN, tmp_path / "r.html").sequences
    tokens = tables()["token_steps"].filter(run_id=RUN).group_by("sequence_id").agg(pl.mean("surprisal_bits"))
    most = tokens.sort("surprisal_bits", descending=True)["sequence_id"].head(RISKY).to_list()
    assert [choice.sequence_id for choice in chosen][:RISKY] == most
    assert "bits per token" in chosen[0].why


def test_sequences_asked_for(lake: OpenLake, tmp_path: Path) -> None:
    text = written(lake, tmp_path, sequences=[7, 2, 7])
    assert re.findall(r'<section id="sequence-(\d+)"', text) == ["7", "2"]
    with pytest.raises(NotFoundError, match="no sequence 999. Its sequences are between 0 and 15"):
        write_report(lake, RUN, tmp_path / "other.html", sequences=[999])
    assert not (tmp_path / "other.html").exists()


# -- what is missing ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "item"),
    [("layer_summaries", "layers"), ("head_summaries", "heads"), ("attention_edges", "edges")],
)
def test_an_empty_section_names_what_fills_it(table: str, item: str, tmp_path: Path) -> None:
    text = written(lake_without(tmp_path, table), tmp_path, sequences=[0])
    assert f"collect with --keep {item} to see it" in text
    judged = f"Not judged in {N} of {N} sequences: no {'states' if item == 'layers' else 'attention'} of generated"
    assert (judged in text) == (item != "edges")


def test_a_run_without_distributions_still_shows_its_text(tmp_path: Path) -> None:
    blank = [
        name for name in ("surprisal_bits", "entropy_bits", "logprob", "rank", "top1_prob", "margin", "top10_mass")
    ]
    tokens = frames()["token_steps"].filter(pl.col("sequence_id") < N)
    tokens = tokens.with_columns(pl.lit(None).cast(tokens.schema[name]).alias(name) for name in blank)
    lake = OpenLake(write_lake(tmp_path, tables() | {"token_steps": tokens}).path)
    text = written(lake, tmp_path, sequences=[0])
    assert "--keep tokens" in text and '<span class="token generated"' in text
    assert 'token-controls"' not in text


def test_what_could_not_be_measured_is_named_with_its_reason(tmp_path: Path) -> None:
    lake = Lake.create(tmp_path / "lake")
    unmeasured = {"head_summaries": "its attention <b>bypasses</b> the interface"}
    with lake.start_run("plain-01", {"kind": "generate", "model": {"name": "m"}, "unmeasured": unmeasured}) as run:
        with run.segment(0, (0, 64)) as segment:
            append(segment, "sequences", tables()["sequences"].filter(run_id=RUN, sequence_id=0))
        run.finish()
    text = written(OpenLake(lake.path), tmp_path, run="plain-01")
    assert "could not be measured in this run: its attention &lt;b&gt;bypasses&lt;/b&gt; the interface." in text


def test_every_run_of_the_lake_makes_a_report(lake: OpenLake, tmp_path: Path) -> None:
    for run in (OTHER, "encoder-01"):
        assert "tracelake report" in written(lake, tmp_path, run=run, sequences=[0])


def test_a_run_without_sequences_makes_a_report(tmp_path: Path) -> None:
    lake = lake_without(tmp_path, *(name for name in frames() if name != "runs"))
    assert "The run has no sequences yet." in written(lake, tmp_path)


# -- safety ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nasty(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Page]:
    """The report of a run whose every text is hostile."""
    folder = tmp_path_factory.mktemp("nasty")
    found = dict(tables())
    size = len(NASTY)
    texts = pl.Series(NASTY)
    for table, names in {
        "token_steps": ("token",),
        "feature_stats": ("label",),
        "feature_examples": ("text",),
        "neuron_words": ("word",),
        "sequences": ("prompt", "completion", "answer", "predicted_answer", "item_id", "finish_reason", "origin"),
    }.items():
        index = pl.int_range(pl.len()) % size
        frame = found[table]
        found[table] = frame.with_columns(texts.gather(frame.select(index).to_series()).alias(name) for name in names)
    found["runs"] = found["runs"].with_columns(
        tag=pl.lit("\u202e</title><script>alert(1)</script>"), model=pl.lit(HOSTILE)
    )
    found["operations"] = found["operations"].with_columns(name=pl.col("name") + HOSTILE)
    lake = OpenLake(write_lake(folder, found).path)
    text = written(lake, folder)
    return text, Page(text)


def test_hostile_text_stays_text(nasty: tuple[str, Page]) -> None:
    text, parsed = nasty
    json_scripts = parsed.scripts[:-1]
    assert all(isinstance(json.loads(script), dict) for script in json_scripts)
    assert parsed.tags.count("script") == len(specs(parsed)) + shown(parsed) + 2
    assert not {"img", "iframe", "object", "base", "link"} & set(parsed.tags)
    assert parsed.tags.count("title") == 1
    assert not [name for name, _ in parsed.attributes if name.startswith("on")]
    own, _, chart_libraries = text.partition("<script>")
    assert len(chart_libraries) > 500_000 and not set("\u202e\u2066\u2028\x00") & set(own)
    assert "{{ 7 * 7 }}" in text and "x" * 400 not in text


def test_nothing_on_the_page_leads_to_the_network(nasty: tuple[str, Page]) -> None:
    _, parsed = nasty
    policy = next(value for name, value in parsed.attributes if name == "content" and value and "default-src" in value)
    digest = base64.b64encode(hashlib.sha256(parsed.scripts[-1].encode()).digest()).decode()
    assert policy.startswith("default-src 'none'; ") and f"script-src 'sha256-{digest}';" in policy
    assert "unsafe-eval" not in policy and "http" not in policy
    assert not [value for name, value in parsed.attributes if name in ("src", "action", "srcset")]
    assert all(value and value.startswith("#") for name, value in parsed.attributes if name == "href")


def test_the_pages_own_style_and_script_fetch_nothing() -> None:
    folder = Path(tracelake.__file__).parent / "queries" / "report"
    for file in [*folder.glob("*.css"), *folder.glob("*.js"), *folder.glob("*.j2")]:
        own = file.read_text()
        assert not re.search(r"https?://|@import|url\(|innerHTML|outerHTML|insertAdjacent|eval\(|fetch\(", own), (
            file.name
        )


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        (" the", " the"),
        ("a\nb", "a\u21b5\nb"),
        ("\u202eabc", "\\u202eabc"),
        ("", "\u2205"),
        ("x" * 300, "x" * 199 + "\u2026"),
    ],
)
def test_tokens_as_running_text(token: str, expected: str) -> None:
    assert flowing(token) == expected


# -- size --------------------------------------------------------------------------------------------------------------


def test_a_long_sequence_is_cut_and_the_page_stays_small(tmp_path: Path) -> None:
    """A prompt of 20,000 tokens in 24 layers: head and tail are shown, maps are averaged, and it is said."""
    n, n_layers = 20_000, 24
    found = without(*frames())
    found["runs"] = frames()["runs"].filter(run_id=RUN)
    sequence = frames()["sequences"].filter(run_id=RUN, sequence_id=0)
    found["sequences"] = sequence.with_columns(
        n_prompt_tokens=pl.lit(n - 50, pl.Int32), n_generated_tokens=pl.lit(50, pl.Int32)
    )
    base = frames()["token_steps"].filter(run_id=RUN, sequence_id=0)
    row = base.filter(position=40).drop("position", "step", "is_prompt")
    position = pl.DataFrame({"position": range(n)})
    tokens = position.join(row, how="cross").with_columns(
        step=pl.when(pl.col("position") >= n - 50).then(pl.col("position") - (n - 50)),
        is_prompt=pl.col("position") < n - 50,
        topk_ids=pl.lit(list(range(10))),
        topk_logprobs=pl.lit([-1.5] * 10),
    )
    found["token_steps"] = typed("token_steps", tokens)
    states = frames()["layer_summaries"].filter(run_id=RUN, sequence_id=0, position=40, layer=1, site="resid_post")
    layers = pl.DataFrame({"layer": range(n_layers)})
    grid = position.join(layers, how="cross").join(states.drop("position", "layer"), how="cross")
    found["layer_summaries"] = typed("layer_summaries", grid.sort("position", "layer"))
    lake = OpenLake(write_lake(tmp_path, found).path)
    report = write_report(lake, RUN, tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text()
    assert report.n_bytes == (tmp_path / "r.html").stat().st_size < 3_000_000
    assert text.count('<span class="token') - text.count('<span class="token-') == HEAD + TAIL
    assert f"{n - HEAD - TAIL:,} tokens in the middle are not shown" in text
    assert "480,000 rows: means over" in text


# -- texts of other tokens ---------------------------------------------------------------------------------------------


def test_texts_of_tokens_come_from_the_run_first_and_from_a_tokenizer_that_agrees(lake: OpenLake) -> None:
    words = tables()["token_steps"].filter(run_id=RUN).unique("token_id").sort("token_id")
    seen = dict(zip(words["token_id"], words["token"], strict=True))
    with lake.connect(locked=True) as connection:
        alone = token_texts(connection, RUN, [0, 1, 999])
        agreeing = token_texts(connection, RUN, [0, 1, 999], lambda ids: {**seen, 999: " new"})
        other = token_texts(connection, RUN, [0, 1, 999], lambda ids: {i: f"w{i}" for i in ids})
    assert set(alone) == {0, 1} and set(other) == {0, 1}
    assert agreeing[999] == "\u2423new" and agreeing[0] == alone[0]


def test_the_bundled_vocabulary_is_what_collect_writes(tmp_path: Path) -> None:
    run = tracelake.collect(tmp_path / "lake", prompt="2+2", max_new_tokens=6, keep=["tokens"])
    rows = tracelake.open(tmp_path / "lake").sql("select distinct token_id, token from token_steps")
    texts = tokenizer_texts("tinymath", None, rows["token_id"].to_list())
    assert run and texts == dict(rows.iter_rows())
    assert tokenizer_texts(str(tmp_path / "gone"), None, [1]) == {}
    assert tokenizer_texts("some/model-nobody-has", None, [1]) == {}


# -- the command -------------------------------------------------------------------------------------------------------


def test_mistakes_leave_the_old_report(lake: OpenLake, tmp_path: Path) -> None:
    target = tmp_path / "r.html"
    target.write_text("old")
    for error, options in (
        (UsageError, {"profile": "gpt3"}),
        (UsageError, {"theme": "blue"}),
        (NotFoundError, {"sequences": [-1]}),
    ):
        with pytest.raises(error):
            write_report(lake, RUN, target, **options)
    with pytest.raises(NotFoundError, match="does not exist"):
        write_report(lake, RUN, tmp_path / "no" / "r.html")
    assert target.read_text() == "old" and [path.name for path in tmp_path.iterdir()] == ["r.html"]


def test_the_profile_is_named_and_judges(lake: OpenLake, tmp_path: Path) -> None:
    text = written(lake, tmp_path, profile="v0.3", theme="dark", sequences=[0])
    assert "profile <b>v0.3</b>" in text and 'data-theme="dark"' in text
    flagged = lake.query("health", run=RUN, profile="v0.3").filter(
        pl.any_horizontal(
            "attention_collapse", "mid_layer_anomaly", "repetition_loop", pl.col("high_entropy_steps") > 0
        )
    )
    assert f"{flagged.height:,} of {N} sequences have a flag" in text


# -- paths -------------------------------------------------------------------------------------------------------------


def title_of(spec: dict[str, Any]) -> str:
    """A chart's title in one line: a long one is wrapped."""
    text = spec["title"]["text"]
    return text if isinstance(text, str) else " ".join(text)


def test_paths_are_drawn_once_they_have_been_computed(tmp_path: Path) -> None:
    settings = {"limit": 6, "samples": 2, "max_new_tokens": 24, "temperature": 1.0, "device": "cpu"}
    keep = ["tokens", "activations:resid_post@-1:generated"]
    run = tracelake.collect(tmp_path / "lake", dataset="tinymath:test", keep=keep, **settings).run_id
    opened = tracelake.open(tmp_path / "lake")
    before = Page(written(opened, tmp_path, run=run))
    titles = {find(name).header.title for name in ("path_profiles", "shared_trajectories", "trajectory")}
    assert not titles & {title_of(spec) for spec in specs(before)}
    assert "lake analyze trajectory" in (tmp_path / "report.html").read_text()
    ask(opened, run, Trajectory(site="resid_post", umap="both"))
    after = Page(written(opened, tmp_path, run=run))
    found = [title_of(spec) for spec in specs(after)]
    assert titles <= set(found)
    assert found.count(find("trajectory").header.title) == shown(after)
