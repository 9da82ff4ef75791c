"""`lake analyze` end to end on the bundled model: embed afterwards, trajectory, topology, compare, list, rm."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import tracelake
from tracelake.analysis.comparing.comparison import Comparison
from tracelake.analysis.paths.topology import Topology
from tracelake.analysis.question import ask
from tracelake.cli import app
from tracelake.collect.embedding import embed_run as embedding
from tracelake.collect.embedding.embed_run import embed_run
from tracelake.collect.embedding.embedder import Embedder, bundled_minilm
from tracelake.lake import Lake
from tracelake.lake.errors import NotFoundError, UsageError

pytestmark = pytest.mark.skipif(bundled_minilm() is None, reason="the minilm extra is not installed")
PROMPTS = tuple(f"Mia has {n} pens. She finds {n + 2}. How many pens has she?" for n in (15, 27, 31))
KEEP = ("tokens", "activations:resid_post@5")


def collect(folder: Path, tag: str, seed: int, **more: Any) -> None:
    settings = {"prompt": PROMPTS, "samples": 4, "max_new_tokens": 24, "keep": KEEP, "tag": tag, "seed": seed}
    tracelake.collect(folder, **{**settings, **more})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("analysis") / "lake"
    collect(folder, "first", 0)
    collect(folder, "second", 1, temperature=1.5)
    for tag in ("first", "second"):
        embed_run(Lake.open(folder), tag)
    return folder


def lake_json(folder: Path, *arguments: str) -> Any:
    result = CliRunner().invoke(app, ["analyze", *arguments, "--json", "--lake", str(folder)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_embedding_afterwards_equals_embedding_while_collecting(folder: Path, tmp_path: Path) -> None:
    collect(tmp_path, "first", 0, keep=("tokens", "embeddings"), embed_scope=("completion",))
    query = (
        "select sequence_id, position, step, scope, embedder, n_pieces, truncated, vector from step_embeddings "
        "where run_id like 'first%' order by all"
    )
    after, during = (tracelake.open(path).sql(query) for path in (folder, tmp_path))
    assert after.drop("vector").equals(during.drop("vector")) and after.height > 100
    np.testing.assert_allclose(np.array(after["vector"].to_list()), np.array(during["vector"].to_list()), atol=2e-5)
    assert Lake.open(folder).verify("deep").ok


def test_embedding_twice_is_a_look_up_that_loads_no_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "Embedder", None)
    found = embed_run(Lake.open(folder), "first")
    n_tokens = tracelake.open(folder).sql("select count(*) from generated_tokens where run_id like 'first%'").item()
    assert found.n_embedded == 0 and found.n_stored == n_tokens + 12 and found.n_truncated == 0
    assert lake_json(folder, "embed", "--run", "first")["n_embedded"] == 0


def test_interrupted_embedding_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    collect(tmp_path, "first", 0)
    lake, original, calls = Lake.open(tmp_path), Embedder.embed, []
    monkeypatch.setattr(embedding, "CHUNK_TEXTS", 40)

    def stopping(self: Embedder, texts: list[str]) -> Any:
        calls.append(len(texts))
        if len(calls) == 4:  # each embedder embeds two words first, to see that it can
            raise KeyboardInterrupt
        return original(self, texts)

    monkeypatch.setattr(Embedder, "embed", stopping)
    with pytest.raises(KeyboardInterrupt):
        embed_run(lake, "first", scopes=("completion",))
    assert lake.sql("select count(*) from step_embeddings").item() == sum(calls[1:3])
    assert lake.run_status("first") == "complete" and lake.sql("from analyses").height == 0
    done = embed_run(lake, "first", scopes=("completion",))
    n_tokens = lake.sql("select count(*) from token_steps where step is not null").item()
    assert done.n_stored == sum(calls[1:3]) and done.n_embedded == n_tokens - done.n_stored
    assert lake.sql("select count(distinct (sequence_id, position)) from step_embeddings").item() == n_tokens
    assert lake.sql("select name from analyses").rows() == [("embed",)] and lake.verify("deep").ok


def test_a_run_that_only_read_has_nothing_to_embed(tmp_path: Path) -> None:
    tracelake.collect(tmp_path, prompt="Only read.", max_new_tokens=0, keep=("tokens",))
    with pytest.raises(UsageError, match="no generated tokens"):
        embed_run(Lake.open(tmp_path), "latest")


def test_trajectory_with_figures(folder: Path, tmp_path: Path) -> None:
    found = lake_json(folder, "trajectory", "first", "--sequence", "0", "--sequence", "7", "--figures", str(tmp_path))
    assert [a["name"] for a in found["analyses"]] == ["trajectory", "topology"]
    pictures = sorted(path.name for path in tmp_path.glob("*.png"))
    assert len(pictures) == 16 == found["figures"]["n_figures"]
    assert {"seq00000_umap_trajectory.png", "seq00007_trace_cos_prev.png"} <= set(pictures)
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in pictures)
    with (tmp_path / "analysis_index.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert (
        list(rows[0])[:12]
        == (
            "run_id prompt_id label model_name bucket prompt_half_life@95pct num_h1_loops@0.02 mean_speed max_speed "
            "total_path_len mean_curvature max_curvature"
        ).split()
    )
    plane = tracelake.open(folder).sql(
        "select umap_velocity, umap_curvature_rad from trajectories where sequence_id = 7 and umap_x is not null"
    )
    speeds = np.array(plane["umap_velocity"].drop_nulls().to_list())
    assert float(rows[1]["mean_speed"]) == pytest.approx(speeds.mean(), rel=1e-4)
    assert float(rows[1]["total_path_len"]) == pytest.approx(speeds.sum(), rel=1e-4)
    assert "temperature" in (tmp_path / "config.yml").read_text()


def test_states_of_a_site_make_paths_too(folder: Path) -> None:
    found = lake_json(folder, "trajectory", "first", "--site", "resid_post", "--layer", "5", "--umap", "none")
    lake = Lake.open(folder)
    rows = lake.sql(
        f"select step, velocity, cos_to_prompt from trajectories where analysis_id = '{found['analysis_id']}' "
        "and sequence_id = 2 order by position"
    )
    states = [
        vector
        for keys, vectors in lake.vectors(5, "resid_post", run="first")
        for key, vector in zip(keys.to_pylist(), vectors, strict=True)
        if key["sequence_id"] == 2
    ]
    n = rows.height
    own, prompt = np.stack(states[-n:]).astype(float), states[-n - 1].astype(float)
    np.testing.assert_allclose(rows["velocity"][1:], np.linalg.norm(np.diff(own, axis=0), axis=1), rtol=1e-5)
    cosine = own @ prompt / np.linalg.norm(own, axis=1) / np.linalg.norm(prompt)
    np.testing.assert_allclose(rows["cos_to_prompt"], cosine, atol=1e-5)
    whole = lake_json(folder, "trajectory", "first", "--site", "resid_post", "--include-prompt", "--umap", "none")
    assert whole["n_rows"]["trajectories"] > found["n_rows"]["trajectories"]
    with pytest.raises(NotFoundError, match="resid_post@5"):
        ask(lake, "first", Topology(site="resid_post", layer=3))


def test_topology_rows_are_ripsers(folder: Path) -> None:
    from ripser import ripser
    from scipy.spatial.distance import pdist, squareform

    found = lake_json(folder, "topology", "first", "--null", "9")
    lake = tracelake.open(folder)
    vectors = lake.sql(
        "select vector from step_embeddings where run_id like 'first%' and sequence_id = 3 and scope = 'completion' "
        "order by position"
    )
    points = np.array(vectors["vector"].to_list(), np.float32).astype(float)
    direct = ripser(squareform(pdist(points)), distance_matrix=True, maxdim=1)["dgms"]
    where = f"analysis_id = '{found['analysis_id']}' and sequence_id = 3 and space = 'raw'"
    for dimension in (0, 1):
        rows = lake.sql(f"select birth, death from persistence_pairs where {where} and dimension = {dimension}")
        pairs = np.array([[b, np.inf if d is None else d] for b, d in rows.rows()]).reshape(-1, 2)
        expected = direct[dimension]
        np.testing.assert_allclose(np.sort(pairs, axis=0), np.sort(expected, axis=0), atol=1e-6)
    [summary] = lake.sql(f"select * from persistence_summaries where {where} and dimension = 1").to_dicts()
    lives = direct[1][:, 1] - direct[1][:, 0]
    assert summary["n_loops"] == (lives >= 0.02).sum() and summary["null_paths"] == 9
    assert summary["n_landmarks"] == summary["n_points"] == vectors.height and 0.1 <= summary["p_loops"] <= 1
    sparse = lake_json(folder, "topology", "first", "--null", "0", "--max-points", "10")
    assert "landmarks" in sparse["notices"][0]


def test_compare_two_runs_and_two_groups(folder: Path) -> None:
    found = lake_json(folder, "compare", "first", "second", "--permutations", "199")
    again = lake_json(folder, "compare", "first", "second", "--permutations", "199")
    assert found["computed"] and not again["computed"]
    lake = tracelake.open(folder)
    rows = {
        r["metric"]: r for r in lake.query("path_comparison", run="first", analysis=found["analysis_id"]).to_dicts()
    }
    assert rows["mean_velocity"]["design"] == "within prompts" and rows["mean_velocity"]["n_prompts"] == 3
    means = lake.sql(
        "select run_id, avg(m) from (select t.run_id, prompt_id, avg(mean_velocity) as m from trajectory_summaries t "
        "join sequences using (run_id, sequence_id) join analyses a using (run_id, analysis_id) "
        "where scope = 'completion' and parameters ->> 'sequences' is null group by all) group by 1 order by 1"
    ).rows()
    assert [rows["mean_velocity"][name] for name in ("mean_a", "mean_b")] == pytest.approx([m for _, m in means])
    assert rows["n_steps"]["p_value"] is not None
    assert lake.query("path_fingerprint", run="first").height > 20
    assert lake.sql("select distinct label from trajectory_correlations").height == 2
    options = Comparison(by="item_id", values=("0", "1"), n_permutations=99)
    grouped = ask(Lake.open(folder), "first", options)
    rows = lake.query("path_comparison", run="first", analysis=grouped.analysis_id)
    assert set(rows["label_a"]) == {"0"} and all("fewer than two prompts" in reason for reason in rows["reason"])
    for arguments, message in (
        (("first", "first"), "same run"),
        (("first",), "two groups of one run"),
    ):
        with pytest.raises(UsageError, match=message):
            ask(Lake.open(folder), arguments, Comparison())
    with pytest.raises(UsageError, match="Did you mean 'solution_method'"):
        ask(Lake.open(folder), "first", Comparison(by="solution_metod"))


def test_list_and_rm(folder: Path) -> None:
    listed = lake_json(folder, "list", "second")
    assert {a["name"] for a in listed} >= {"embed"} and all(a["run_id"].startswith("second") for a in listed)
    embedded = next(a["analysis_id"] for a in listed if a["parameters"].get("scope") == "prompt")
    assert lake_json(folder, "rm", embedded)["dry_run"]
    lake_json(folder, "rm", embedded, "--yes")
    left = tracelake.open(folder).sql("select distinct scope from step_embeddings where run_id like 'second%'")
    assert left.rows() == [("completion",)]
    assert lake_json(folder, "embed", "--run", "second")["n_embedded"] == 12
