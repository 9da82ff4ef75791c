"""Damaged files are never read silently: every kind of damage, through every way in which rows leave the lake."""

import dataclasses
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from damages import DAMAGES

from tracelake.lake.errors import ConfigError, DamageError, NotFoundError
from tracelake.lake.lake import Lake
from tracelake.lake.output import notices
from tracelake.lake.reading import care, checked_files
from tracelake.lake.reading.checked_files import CheckedFiles, CommittedFile, committed_files

DIM = 8


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of its own, in which files of this moment are remembered too."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(care.VARIABLE, raising=False)
    monkeypatch.setattr(checked_files, "RACY_NS", 0)
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Two runs of two segments, two layers: files of equal size, so that a swap leaves every size as it was."""
    lake = Lake.create(tmp_path_factory.mktemp("checked") / "lake")
    rng = np.random.default_rng(0)
    for run_id in ("run-one", "run-two"):
        with lake.start_run(run_id, {"plan": {"segments": [[0, 2], [2, 4]]}}) as run:
            for index in range(2):
                with run.segment(index, (2 * index, 2 * index + 2)) as segment:
                    sequence = np.repeat(np.arange(2 * index, 2 * index + 2), 30)
                    position = np.tile(np.arange(30, dtype=np.int32), 2)
                    keys = {"sequence_id": sequence, "position": position, "stack": "decoder"}
                    segment.append("sequences", {"sequence_id": np.unique(sequence), "prompt": "p"})
                    segment.append("token_steps", keys | {"logprob": rng.normal(size=60), "token_id": sequence})
                    for layer in (0, 1):
                        vectors = rng.normal(size=(60, DIM)).astype(np.float32)
                        segment.append_vectors(
                            "activations", layer=layer, site="z", columns=keys, vectors=vectors, dtype="float32"
                        )
            run.finish()
    return lake


@pytest.fixture
def lake(sound, tmp_path):
    shutil.copytree(sound.path, tmp_path / "lake")
    return Lake.open(tmp_path / "lake")


def by_sql(lake):
    return lake.sql(
        "select run_id, layer, sequence_id, position, vector[1] as x from activations order by all"
    ).rows(), lake.sql("select run_id, sequence_id, position, logprob from token_steps order by all").rows()


def by_open_connection(lake):
    with lake.connect() as connection:
        vectors = connection.execute("select sum(list_sum(vector) * (1 + layer)), count(*) from activations").fetchall()
        return vectors, connection.execute("select sum(logprob * (1 + sequence_id)) from token_steps").fetchall()


def by_polars(lake):
    keys = ["run_id", "sequence_id", "position"]
    activations = lake.scan("activations").sort([*keys, "layer"]).collect()
    return activations.rows(), lake.scan("token_steps").sort(keys).collect().rows()


def by_vectors(lake):
    return [[(keys.to_pylist(), vectors.tolist()) for keys, vectors in lake.vectors(layer, "z")] for layer in (0, 1)]


def by_sql_of_one_run(lake):
    """The first of the runs, asked for by name."""
    query = "select count(*), sum(logprob) from token_steps where run_id = 'run-one'"
    vectors = "select count(*), sum(list_sum(vector)) from activations where run_id = 'run-one'"
    return lake.sql(query).rows(), lake.sql(vectors).rows()


READS = {
    "sql": by_sql,
    "sql of one run": by_sql_of_one_run,
    "open connection": by_open_connection,
    "polars": by_polars,
    "vectors": by_vectors,
}


RUNS = ("run-one", "run-two")


@pytest.fixture(scope="module")
def truth(sound, tmp_path_factory):
    """What each way of reading gives of all runs, of each alone and of none: the answers while others are damaged."""
    answers = {}
    for left_out in ((), *((run,) for run in RUNS), RUNS):
        lake = Lake.open(shutil.copytree(sound.path, tmp_path_factory.mktemp("alone") / "lake"))
        for run in left_out:
            lake.remove(run, dry_run=False)
        answers |= {(name, left_out): answer_of(read, lake) for name, read in READS.items()}
    return answers


def answer_of(read, lake):
    """What each statement of a reading gave; None if there is nothing of the kind to read."""
    try:
        return [repr(part) for part in read(lake)]
    except NotFoundError:
        return None


def answers_after(lake, truth, table, damage, rng, caplog, reads=READS):
    """Ways of reading that gave a wrong answer without a word after one damage, and how many answered and refused.

    Each part of an answer must be that of the sound lake, or that without damaged runs, which then are named on the
    log. Two statements may meet two damaged files, of a run each.
    """
    CheckedFiles(lake.store).check(committed_files(lake.snapshot()))  # remembered as right, as after a first look
    path, other = rng.sample(sorted((lake.path / "data").glob(f"{table}/**/*.parquet")), 2)
    DAMAGES[damage](path, other, rng)
    silent, told = [], []
    for name, read in reads.items():
        notices._named.clear()
        caplog.clear()
        try:
            answer = answer_of(read, lake)
        except DamageError as error:
            assert path.name in str(error) or other.name in str(error)
            told.append(name)
            continue
        if answer == truth[name, ()]:
            continue
        named = tuple(run for run in RUNS if f"Run {run} is left out" in caplog.text)
        assert len(named) == len(caplog.records), "named once"
        subsets = {(), named, *((run,) for run in named)} if named else set()
        possible = [truth[name, subset] for subset in subsets]
        alternatives = zip(*(parts for parts in possible if parts), strict=True)
        mixed = answer and all(part in parts for part, parts in zip(answer, alternatives, strict=True))
        if possible and (mixed or answer in possible):
            told.append(name)
        else:
            silent.append(name)
    return silent, told


@pytest.mark.parametrize("damage", DAMAGES)
def test_no_damage_is_read_silently(lake, truth, damage, caplog):
    reads = {name: READS[name] for name in ("sql", "polars", "vectors")}
    silent, told = answers_after(lake, truth, "activations", damage, random.Random(damage), caplog, reads)
    assert (silent, len(told)) == ([], len(reads))


@pytest.mark.slow
def test_no_damage_is_read_silently_often(sound, truth, tmp_path, caplog, record_property):
    """Every damage, several times, to both kinds of tables; prints how many wrong answers came without a word."""
    n_reads, wrong = 0, []
    for seed in range(3):
        for table, expected in (("activations", 4), ("token_steps", 3)):  # lake.vectors reads no token_steps
            for damage in DAMAGES:
                lake = Lake.open(shutil.copytree(sound.path, tmp_path / f"{seed}-{table}-{damage}".replace(" ", "-")))
                silent, told = answers_after(lake, truth, table, damage, random.Random(f"{seed} {damage}"), caplog)
                n_reads += len(READS)
                wrong += [(seed, table, damage, name) for name in silent]
                assert len(told) >= expected or silent
    print(f"\n{n_reads} reads of damaged lakes, {len(wrong)} silently wrong: {wrong}")
    record_property("reads of damaged lakes", n_reads)
    record_property("silently wrong", len(wrong))
    assert wrong == []


def test_a_run_with_a_damaged_file_is_left_out_by_name_unless_it_is_asked_for(lake, caplog):
    whole = lake.sql("select count(*) from token_steps where run_id = 'run-two'").rows()
    path = next((lake.path / "data" / "token_steps" / "run=run-one").glob("*.parquet"))
    DAMAGES["one bit"](path, path, random.Random(1))
    notices._named.clear()
    assert lake.sql("select run_id, count(*) from token_steps group by all").rows() == [("run-two", 120)]
    with lake.connect(locked=True) as connection:
        joined = "select count(*) from token_steps t join sequences s using (run_id, sequence_id)"
        assert connection.sql(joined).rows() == whole
        # Left out of one table, a run is left out of all: an answer is about the same runs throughout.
        assert connection.sql("select distinct run_id from activations").rows() == [("run-two",)]
    assert [record.message.count("Run run-one is left out") for record in caplog.records] == [1]
    assert lake.sql("select distinct run_id from sequences order by 1").rows() == [("run-one",), ("run-two",)]
    asked = [
        lambda: lake.sql("select count(*) from token_steps where run_id = 'run-one'"),
        lambda: lake.sql("select count(*) from token_steps where run_id = $run", {"run": "run-one"}),
        lambda: lake.connect(run="run-one").sql("select sum(logprob) from token_steps"),
        lambda: lake.scan("token_steps", "run-one").collect(),
    ]
    for ask in asked:
        with pytest.raises(DamageError, match=path.name):
            ask()
    with lake.connect(locked=True) as connection:
        assert sum(batch.num_rows for batch in connection.batches("select * from token_steps")) == 120
    lake.remove("run-two", dry_run=False)
    with pytest.raises(DamageError, match=path.name):  # there is nothing else to read
        lake.sql("select count(logprob) from token_steps")


def test_vectors_of_other_runs_are_read_on(lake, caplog):
    sound = [(keys.to_pylist(), vectors.tolist()) for keys, vectors in lake.vectors(0, "z", "run-one")]
    path = sorted((lake.path / "data" / "activations" / "run=run-two" / "layer=0" / "site=z").glob("*.parquet"))[-1]
    DAMAGES["one bit"](path, path, random.Random(1))
    notices._named.clear()
    assert [(keys.to_pylist(), vectors.tolist()) for keys, vectors in lake.vectors(0, "z")] == sound
    assert "Run run-two is left out" in caplog.text and path.name in caplog.text
    with pytest.raises(DamageError, match=path.name):
        list(lake.vectors(0, "z", "run-two"))


def test_files_swapped_between_layers_and_runs_are_found(lake, truth, caplog):
    for first, second, hit in (
        ("run=run-one/layer=0", "run=run-one/layer=1", {"run-one"}),
        ("run=run-one/layer=1", "run=run-two/layer=1", set(RUNS)),
    ):
        a, b = (
            next(((lake.path / "data") / "activations" / place / "site=z").glob("*0-*.parquet"))
            for place in (first, second)
        )
        assert a.stat().st_size == b.stat().st_size
        DAMAGES["swapped with another"](a, b, random.Random(0))
        for name, read in READS.items():
            notices._named.clear()
            caplog.clear()
            if len(hit) == len(RUNS) or name == "sql of one run":
                with pytest.raises(DamageError, match="BLAKE3"):
                    read(lake), name
            else:
                without = truth[name, ("run-one",)]
                assert answer_of(read, lake) in (without, [without[0], truth[name, ()][1]])
                assert "BLAKE3" in caplog.text and "run-one" in caplog.text
        DAMAGES["swapped with another"](a, b, random.Random(0))
    assert by_sql(lake)


def test_a_file_outside_its_place_is_refused(lake):
    file = next(committed_files(lake.snapshot(), "activations"))
    checked = CheckedFiles(lake.store)
    checked.check([file])
    wrong = [
        CommittedFile("run-two", file.entry),
        CommittedFile(file.run_id, dataclasses.replace(file.entry, table="token_steps")),
        CommittedFile(file.run_id, dataclasses.replace(file.entry, partition={"layer": 1, "site": "z"})),
        CommittedFile(file.run_id, dataclasses.replace(file.entry, partition={"layer": 0, "site": "q"})),
    ]
    for misplaced in wrong:
        with pytest.raises(DamageError, match="does not lie in"):
            checked.check([misplaced])


def hashed(monkeypatch) -> list[str]:
    """The paths that are read whole from now on."""
    paths: list[str] = []
    read = CheckedFiles._read

    def counted(self, file, descriptor, before):
        paths.append(file.entry.path)
        read(self, file, descriptor, before)

    monkeypatch.setattr(CheckedFiles, "_read", counted)
    return paths


def test_each_file_is_read_whole_once_and_only_if_it_is_asked_for(lake, monkeypatch, cache):
    paths = hashed(monkeypatch)
    lake.sql("select 1")
    lake.sql("describe runs")
    assert paths == []
    lake.sql("select sum(logprob) from token_steps where run_id = 'run-one'")
    assert paths and all(path.startswith("data/token_steps/run=run-one/") for path in paths)
    lake.sql("select sum(logprob) from token_steps")
    assert sorted(paths) == sorted(file.entry.path for file in committed_files(lake.snapshot(), "token_steps"))
    before = len(paths)
    for read in READS.values():
        read(lake)
    assert len(paths) == len(set(paths)) > before
    copy = Lake.open(shutil.copytree(lake.path, lake.path.parent / "copy"))
    copy.sql("select sum(logprob) from token_steps")
    assert len(paths) == len(set(paths)) + 4  # a copy may have been damaged by copying


def test_always_reads_again_and_never_does_not(lake, monkeypatch):
    paths = hashed(monkeypatch)
    query = "select sum(logprob) from token_steps"
    for chosen, expected in (("always", 8), ("first", 4), ("never", 0)):
        monkeypatch.setenv(care.VARIABLE, chosen)
        paths.clear()
        lake.sql(query)
        lake.sql(query)
        assert len(paths) == expected, chosen
    monkeypatch.setenv(care.VARIABLE, "sometimes")
    with pytest.raises(ConfigError, match="always, first, never"):
        lake.sql(query)


def test_decay_that_leaves_every_time_is_found_by_always_only(lake, monkeypatch, cache):
    """What a disk does by itself; here the memory is told that the damaged state is the one that was right."""
    by_sql(lake)
    path = next(((lake.path / "data") / "token_steps").rglob("*.parquet"))
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)
    state = checked_files.identity(path.stat())
    remembered = next((cache / "tracelake" / "checked").rglob("run-*"))
    for memory in remembered.parent.iterdir():
        lines = memory.read_text().splitlines()
        for number, line in enumerate(lines):
            digest, *_, name = line.split(" ")
            if name == path.relative_to(lake.path).as_posix():
                lines[number] = " ".join([digest, *map(str, state), name])
        memory.write_text("\n".join(lines) + "\n")
    with_memory = CheckedFiles(lake.store)
    with_memory.check(committed_files(lake.snapshot(), "token_steps"))
    monkeypatch.setenv(care.VARIABLE, "always")
    with pytest.raises(DamageError, match=path.name):
        lake.sql(f"select count(logprob) from token_steps where run_id = '{path.parent.name[4:]}'")


def test_a_memory_that_is_nonsense_or_cannot_be_written_changes_no_answer(lake, monkeypatch, cache):
    truth = by_sql(lake)
    for memory in (cache / "tracelake" / "checked").rglob("run-*"):
        memory.write_bytes(b"\xff\0nonsense\n" + b"a b c\n" + b"0" * 64 + b" 1 2 3 4 -5 x\n")
    assert by_sql(lake) == truth
    blocked = cache.parent / "a-file"
    blocked.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    assert by_sql(lake) == truth


def test_a_file_of_this_moment_is_not_remembered(lake, monkeypatch, cache):
    monkeypatch.setattr(checked_files, "RACY_NS", 3600 * 10**9)
    by_sql(lake)
    assert not list(Path(cache).rglob("run-*"))
