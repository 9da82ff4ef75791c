"""The shell of `lake sql` and what Tab offers: names of the schema, runs and saved queries of the lake."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from tracelake import OpenLake
from tracelake.commands.toolkit.sql_shell import Names, last_word, run_shell
from tracelake.lake.lake import Lake
from tracelake.lake.schema import TABLES
from tracelake.queries.description import describe_schema


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> OpenLake:
    lake = Lake.create(tmp_path_factory.mktemp("shell") / "lake")
    with lake.start_run(
        "shell-01", {"kind": "generate", "tag": "mine", "model": {"name": "m", "n_layers": 2}}
    ) as writer:
        with writer.segment(0, (0, 1)) as segment:
            segment.append("sequences", {"sequence_id": [0]})
        writer.finish()
    return OpenLake.open(lake.path)


def test_names_are_those_of_the_schema() -> None:
    names = Names(describe_schema())
    assert {name for name, _ in names.matching("select * from ")} >= set(TABLES)
    assert [name for name, _ in names.matching("from token_st")] == ["token_steps"]
    assert "surprisal_bits" in [name for name, _ in names.matching("select surp")]
    assert not [name for name, _ in names.matching("from surp")]  # a column is no table
    offered = list(names.get_completions(Document("select a.entropy_b"), CompleteEvent()))
    assert offered[0].text == "entropy_bits" and offered[0].start_position == -len("entropy_b")
    assert (last_word("a.b_c"), last_word("x "), last_word("")) == ("b_c", "", "")


def test_the_shell_answers_until_it_is_ended(
    lake: OpenLake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from prompt_toolkit.application import create_app_session

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    typed = "select 41 + 1\nas answer;\nselect tokn from token_steps;\n\\d sequences\n\\x\nselect 7 as seven;\n\\q\n"
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        keys.send_text(typed.replace("\n", "\r"))
        run_shell(lake, None)
    said = capsys.readouterr()
    assert "answer\n    42" in said.out and "prompt_id" in said.out and "-- row 1 --\nseven  7" in said.out
    assert "tokn" in said.err
    assert "as answer;" in (tmp_path / "tracelake" / "sql_history").read_text()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("show --lake {lake} ", {"shell-01", "mine", "latest"}),
        ("report --lake {lake} mi", {"mine"}),
        ("sql --lake {lake} --run s", {"shell-01"}),
        ("chart norm", {"norm_map"}),
        ("query norm", {"norm_map"}),
        ("chart x --theme d", {"dark"}),
        ("show --lake /nowhere ", {"latest"}),
    ],
)
def test_the_shell_completes_names_of_the_lake(lake: OpenLake, words: str, offered: set[str]) -> None:
    line = f"lake {words.format(lake=lake.path)}"
    complete = {"_LAKE_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
    program = "import sys; sys.argv = ['lake']; from tracelake.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | complete, capture_output=True, text=True, timeout=120
    )
    assert set(done.stdout.split()) == offered, done.stderr
