"""The ends of a run: what finished knows where it ends, and a tombstone must be one; the rest of the lake goes on."""

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest

from tracelake.lake import Lake
from tracelake.lake.analyses import commit_analysis
from tracelake.lake.derived import Analysis
from tracelake.lake.errors import DamageError, LakeError, NewerFormatError
from tracelake.lake.records.commits import sealed, unsealed

RUN, OTHER = "ended-run", "other-run"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lake = Lake.create(tmp_path_factory.mktemp("ends") / "lake")
    for run_id in (RUN, OTHER):
        with lake.start_run(run_id, {"tag": run_id[:5], "plan": {"segments": [[0, 1], [1, 2]]}}) as run:
            for index in range(2):
                with run.segment(index, (index, index + 1)) as segment:
                    segment.append("sequences", {"sequence_id": [index], "prompt": "p"})
                    position = np.arange(3, dtype=np.int32)
                    segment.append("token_steps", {"sequence_id": index, "position": position, "stack": "decoder"})
            run.finish()
    for number in range(2):
        analysis = Analysis(RUN, "trajectory", {"x": number}, "0" * 16)
        row = {"analysis_id": analysis.analysis_id, "name": "trajectory", "parameters": "{}", "snapshot": "0"}
        commit_analysis(lake, analysis, {"analyses": row})
    assert lake.verify("deep").ok
    return lake.path


@pytest.fixture
def lake(sound: Path, tmp_path: Path) -> Lake:
    shutil.copytree(sound, tmp_path / "lake")
    return Lake.open(tmp_path / "lake")


def records(lake: Lake) -> Path:
    return lake.path / "_runs" / RUN / "commits"


def is_damaged(lake: Lake) -> None:
    """The run is refused by name, found at every level, and hides no other run."""
    with pytest.raises(LakeError, match=RUN):
        lake.snapshot(RUN)
    assert lake.sql("select run_id, count(*) from token_steps group by all").rows() == [(OTHER, 6)]
    assert lake.scan("token_steps").collect().height == 6 and [row["run_id"] for row in lake.runs()] == [OTHER]
    assert lake.resolve_run("latest") and lake.resolve_run(OTHER) == OTHER and lake.resolve_run("other") == OTHER
    for level in ("quick", "full", "deep"):
        assert {problem.run_id for problem in lake.verify(level).problems} == {RUN}


@pytest.mark.parametrize("writer", ["w0", "derived"])
def test_a_lost_end_is_damage(lake: Lake, writer: str) -> None:
    sorted(records(lake).glob(f"{writer}-*"))[-1].unlink()
    is_damaged(lake)


@pytest.mark.parametrize("names", [["w0-000002", "w0-000001"], ["w0-*"], ["derived-*"], ["*"]])
def test_a_lost_tail_or_chain_is_damage(lake: Lake, names: list[str]) -> None:
    for name in names:
        for path in list(records(lake).glob(f"{name}.json" if "*" not in name else name)):
            path.unlink()
    is_damaged(lake)


@pytest.mark.parametrize("writer", ["w0", "derived"])
def test_an_edited_end_is_damage_also_when_it_is_sealed_again(lake: Lake, writer: str) -> None:
    path = sorted(records(lake).glob(f"{writer}-*"))[-1]
    body, _ = unsealed(path.read_bytes(), "record")
    path.write_bytes(sealed(body | {"time": "2026-01-01T00:00:00.000Z"})[0])
    is_damaged(lake)


def test_analyses_have_seen_the_completion(lake: Lake) -> None:
    shutil.rmtree(lake.path / "_runs" / RUN / "ends")
    assert lake.verify("deep").ok, "ends are a second witness, not the only one"
    (records(lake) / "w0-000002.json").unlink()
    is_damaged(lake)


@pytest.mark.parametrize("text", ["", "{}", "no JSON", '{"run_id": "other-run", "removed_at": "2026-01-01T00:00:00Z"}',
                                  '{"run_id": "ended-run", "removed_at": "2026-01-01T00:00:00Z"}'])  # fmt: skip
def test_an_added_tombstone_is_damage(lake: Lake, text: str) -> None:
    (lake.path / "_runs" / RUN / "tombstone.json").write_text(text)
    is_damaged(lake)


def test_the_tombstone_of_another_run_is_damage(lake: Lake) -> None:
    lake.remove(OTHER, dry_run=False)
    tombstone = (lake.path / "_runs" / OTHER / "tombstone.json").read_bytes()
    (lake.path / "_runs" / RUN / "tombstone.json").write_bytes(tombstone)
    with pytest.raises(DamageError, match=RUN):
        lake.snapshot(RUN)
    assert {problem.run_id for problem in lake.verify("quick").problems} == {RUN}


def test_a_damaged_run_is_named_once(lake: Lake, caplog: pytest.LogCaptureFixture) -> None:
    (records(lake) / "w0-000001.json").write_bytes(b"torn")
    with caplog.at_level(logging.WARNING, "tracelake"):
        for _ in range(3):
            lake.sql("select count(*) from token_steps")
            lake.runs()
    assert [record.getMessage().count(RUN) > 0 for record in caplog.records] == [True]


def test_a_run_of_a_newer_schema_is_left_out_by_name(lake: Lake) -> None:
    path = lake.path / "_runs" / RUN / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 99}))
    with pytest.raises(NewerFormatError, match=RUN):
        lake.run_json(RUN)
    is_damaged(lake)
