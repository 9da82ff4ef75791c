"""Damage of every kind is found by verify, and met while reading it is a DamageError that names file and run."""

import json
import random
import re
import shutil

import numpy as np
import pytest

from tracelake.lake.errors import DamageError, UsageError
from tracelake.lake.lake import Lake

RUN = "good-run"


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    lake = Lake.create(tmp_path_factory.mktemp("damage") / "lake")
    rng = np.random.default_rng(0)
    with lake.start_run(RUN, {"plan": {"segments": [[0, 2], [2, 4], [4, 6]]}}) as run:
        for index in range(3):
            with run.segment(index, (2 * index, 2 * index + 2)) as segment:
                sequence = np.repeat(np.arange(2 * index, 2 * index + 2), 40)
                position = np.tile(np.arange(40, dtype=np.int32), 2)
                segment.append("sequences", {"sequence_id": np.unique(sequence), "prompt": "p"})
                token_steps = {"sequence_id": sequence, "position": position, "stack": "decoder"}
                segment.append("token_steps", token_steps | {"logprob": rng.normal(size=80)})
                segment.append(
                    "layer_summaries", token_steps | {"layer": 0, "site": "resid_post", "n_nan": 0, "n_inf": 0}
                )
                segment.append_vectors(
                    "activations",
                    layer=0,
                    site="resid_post",
                    columns=token_steps,
                    vectors=rng.normal(size=(80, 16)).astype(np.float32),
                    dtype="float32",
                )
        run.finish()
    assert all(lake.verify(level).ok for level in ("quick", "full", "deep"))
    return lake


@pytest.fixture
def lake(sound, tmp_path):
    shutil.copytree(sound.path, tmp_path / "lake")
    return Lake.open(tmp_path / "lake")


def file_of(lake, table, index=0):
    return sorted((lake.path / "data").glob(f"{table}/**/*.parquet"))[index]


def record_of(lake, number):
    return (lake.path / "_runs" / RUN / "commits") / f"w0-{number:06d}.json"


def test_a_flipped_bit_anywhere_is_found(lake):
    rng = random.Random(1)
    for table in ("token_steps", "activations", "sequences"):
        path = file_of(lake, table)
        good = path.read_bytes()
        for _ in range(6):
            place = rng.randrange(len(good))
            path.write_bytes(good[:place] + bytes([good[place] ^ 1 << rng.randrange(8)]) + good[place + 1 :])
            report = lake.verify("full")
            assert [p.path for p in report.problems] == [path.relative_to(lake.path).as_posix()]
        path.write_bytes(good)
    assert lake.verify("full").ok


@pytest.mark.parametrize("keep", [0, 4, 0.5, -1])
def test_a_short_file_is_found_and_named_when_read(lake, keep):
    path = file_of(lake, "token_steps")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep) if isinstance(keep, float) else keep])
    assert not lake.verify("quick").ok
    with pytest.raises(DamageError, match=rf"{path.name} of run {RUN}.*lake verify"):
        lake.sql("select sum(logprob) from token_steps")
    with pytest.raises(DamageError, match=path.name):
        lake.scan("token_steps").collect()


def test_a_missing_file_is_found_and_named_when_read(lake):
    path = file_of(lake, "activations")
    path.unlink()
    report = lake.verify("quick")
    assert [(p.kind, p.run_id) for p in report.problems] == [("file", RUN)]
    for read in (
        lambda: lake.sql("select sum(len(vector)) from activations"),
        lambda: list(lake.vectors(0, "resid_post")),
        lambda: lake.scan("activations").collect(),
    ):
        with pytest.raises(DamageError, match=path.name):
            read()
    assert lake.sql("select count(*) as n from token_steps")["n"][0] == 240


def test_swapped_files_are_found(lake):
    first, second = file_of(lake, "activations", 0), file_of(lake, "activations", 1)
    a, b = first.read_bytes(), second.read_bytes()
    first.write_bytes(b)
    second.write_bytes(a)
    assert len(lake.verify("full").problems) >= 2


def test_a_page_that_does_not_decode_is_a_damage_error(lake):
    path = file_of(lake, "token_steps")
    data = bytearray(path.read_bytes())
    data[4:400] = b"\xff" * 396
    path.write_bytes(bytes(data))
    with pytest.raises(DamageError, match="lake verify"):
        lake.sql("from token_steps")


@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_an_edited_record_is_found_and_refused(lake, number):
    path = record_of(lake, number)
    path.write_text(path.read_text().replace('"run_id":"good-run"', '"run_id":"good-ruN"', 1))
    assert {p.kind for p in lake.verify("quick").problems} >= {"record"}
    with pytest.raises(DamageError, match=path.name):
        lake.sql("select count(*) from token_steps")


@pytest.mark.parametrize("data", [b"", b"{", b'{"sha256":"' + b"0" * 64])
def test_a_torn_record_is_found_and_refused(lake, data):
    record_of(lake, 1).write_bytes(data)
    assert not lake.verify("quick").ok
    with pytest.raises(DamageError, match=f"w0-000001.json of run {RUN}"):
        lake.runs()


def test_a_rewritten_record_breaks_the_chain(lake):
    from tracelake.lake.records.commits import sealed, unsealed

    path = record_of(lake, 1)
    body, _ = unsealed(path.read_bytes(), "record")
    body["counters"]["n_tokens"] = 7
    path.write_bytes(sealed(body)[0])
    assert "chain" in {p.kind for p in lake.verify("quick").problems}
    with pytest.raises(DamageError, match="does not follow"):
        lake.snapshot()


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_missing_record_is_found(lake, number):
    record_of(lake, number).unlink()
    assert "chain" in {p.kind for p in lake.verify("quick").problems}
    with pytest.raises(DamageError, match=f"w0-{number:06d}.json is missing"):
        lake.snapshot()


def test_the_completion_has_seen_the_last_record_of_other_writers(lake):
    with lake.resume_run(RUN, writer="w1") as other:
        with other.segment(7, (6, 7)) as segment:
            segment.append("sequences", {"sequence_id": [14], "prompt": "p"})
        other.finish()
    with lake.resume_run(RUN) as run:
        run.finish()
    ((lake.path / "_runs" / RUN / "commits") / "w1-000001.json").unlink()
    with pytest.raises(DamageError, match="w1-000001.json is missing"):
        lake.snapshot()
    assert not lake.verify("quick").ok


def test_an_edited_run_json_is_found(lake):
    path = lake.path / "_runs" / RUN / "run.json"
    path.write_text(path.read_text().replace("good-run", "evil-run"))
    assert not lake.verify("quick").ok
    path.write_text("{")
    assert "run.json" in {p.kind for p in lake.verify("quick").problems}
    with pytest.raises(DamageError, match="run.json"):
        lake.runs()


def test_a_record_that_points_outside_is_refused(lake):
    from tracelake.lake.records.commits import sealed, unsealed

    good, _ = unsealed(record_of(lake, 0).read_bytes(), "record")
    for path in (
        "../x.parquet",
        "/etc/x.parquet",
        "data/../../x.parquet",
        "data/a//x.parquet",
        "data/x/y.txt",
        "lake.json",
    ):
        body = json.loads(json.dumps(good))
        body["files"][0]["path"] = path
        record_of(lake, 0).write_bytes(sealed(body)[0])
        with pytest.raises(DamageError, match="not a normal relative path"):
            lake.snapshot()


def rewrite(lake, table, change):
    """Replace a file by one with other rows, and the record by one that vouches for it: only a deep look can tell."""
    import pyarrow.parquet as pq

    from tracelake.lake.reading.damage import file_checksum
    from tracelake.lake.records.checksum import named_checksum
    from tracelake.lake.records.commits import sealed, unsealed

    path = file_of(lake, table)
    rows = pq.ParquetFile(path).read()
    pq.write_table(change(rows), path)
    previous = None
    for number in range(4):
        body, digest = unsealed(record_of(lake, number).read_bytes(), "record")
        for entry in body["files"]:
            if entry["path"] == path.relative_to(lake.path).as_posix():
                rows = pq.read_metadata(path).num_rows
                entry |= {
                    "size": path.stat().st_size,
                    "blake3": file_checksum(lake.store, entry["path"], named_checksum(entry)).digest,
                    "rows": rows,
                }
        body["previous"] = previous or body["previous"]
        data, previous = sealed(body)
        record_of(lake, number).write_bytes(data)
    [end] = (lake.path / "_runs" / RUN / "ends").iterdir()
    end.rename(end.with_name(f"w0-000003.{previous}"))
    assert lake.verify("full").ok, lake.verify("full").problems


def replaced(rows, name, value):
    import pyarrow as pa

    field = rows.schema.field(name)
    return rows.set_column(rows.schema.names.index(name), field, pa.array(value, field.type))


def nan_vector(rows):
    vectors = rows["vector"].to_pylist()
    vectors[3] = np.array([np.nan] * 16, np.float32).tobytes()
    return replaced(rows, "vector", vectors)


@pytest.mark.parametrize(
    ("table", "change", "words"),
    [
        ("activations", lambda r: replaced(r, "layer", [5] * len(r)), "layer"),
        ("activations", lambda r: replaced(r, "run_id", ["other"] * len(r)), "run_id"),
        ("activations", lambda r: replaced(r, "dim", [15] * len(r)), "dim"),
        ("activations", nan_vector, "sequence 0, position 3 is not finite"),
        ("token_steps", lambda r: r.take(list(range(79, -1, -1))), "order"),
        ("token_steps", lambda r: r.take([0, 0, *range(2, 80)]), "same key"),
        ("token_steps", lambda r: replaced(r, "sequence_id", [0] * 40 + [9] * 40), "keys span"),
        ("token_steps", lambda r: r.slice(0, 40), "keys span|no tokens"),
        ("token_steps", lambda r: r.drop_columns("logprob"), "lacks the column logprob"),
        ("token_steps", lambda r: r.set_column(5, "is_prompt", r["position"]), "is_prompt is int32"),
        ("sequences", lambda r: r.slice(1), "sequences|keys span"),
    ],
)
def test_deep_finds_values_that_cannot_be(lake, table, change, words):
    rewrite(lake, table, change)
    report = lake.verify("deep")
    assert any(re.search(words, p.message) for p in report.problems), report.problems
    assert json.loads(json.dumps(report.as_dict()))["ok"] is False


def test_foreign_files_and_unknown_levels(lake):
    folder = file_of(lake, "token_steps").parent
    (folder / "stray.parquet").write_bytes(b"PAR1")
    assert "foreign file" in {p.kind for p in lake.verify("quick").problems}
    with pytest.raises(UsageError, match="quick"):
        lake.verify("quik")


def test_a_leftover_is_a_note_not_a_problem(lake):
    path = file_of(lake, "token_steps")
    shutil.copy(path, path.with_name("part-w0-000009-0123abcd.parquet"))
    report = lake.verify("deep")
    assert report.ok and [n.kind for n in report.notes] == ["leftover"]
    assert lake.sql("select count(*) as n from token_steps")["n"][0] == 240


SHAPES = (
    "select * from token_steps",
    "select count(*) from token_steps",
    "select count(*) from token_steps where run_id = 'good-run'",
    "select count(*) from token_steps where sequence_id = 1 and position > 3",
    "select run_id, avg(logprob) from token_steps where logprob < 0 group by run_id",
    "select count(*) from sequences s join token_steps t using (run_id, sequence_id) where t.position = 1",
    "select count(*) from sequences s left join token_steps t using (run_id, sequence_id) where t.logprob is null",
    "select count(*) from sequences where sequence_id not in (select sequence_id from token_steps where position = 2)",
    "select max(position) from token_steps where stack = 'decoder' limit 1",
)


@pytest.mark.parametrize("statement", SHAPES)
def test_no_filter_hides_damage(lake, statement):
    """Files that cannot be opened must not read as no rows: an optimizer may prove a filter false over nothing."""
    for path in (lake.path / "data").glob("token_steps/**/*.parquet"):
        path.unlink()
    with pytest.raises(DamageError):
        lake.sql(statement)
    assert lake.sql("select count(*) from sequences where sequence_id < 3").item() == 3
