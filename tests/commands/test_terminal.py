"""Nothing steers a terminal: hostile text through every verb on a pseudo-terminal; files and pipes keep the bytes."""

import csv
import io
import json
import os
import pty
import subprocess
import sys
import unicodedata
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from tracelake.lake.lake import Lake
from tracelake.lake.output.printable import printable
from tracelake.queries.charts.axis_titles import visible
from tracelake.queries.results.formats import render

HOSTILE = "".join(
    [
        "\x1b[2J\x1b[1;1H\x1b[31mred\x1b[8m",  # clears, moves, colours, hides
        "\x1b]0;title\x07\x1b]8;;http://evil.example\x1b\\link",  # window title, hyperlink
        "\x1b]52;c;ZXZpbA==\x07",  # clipboard
        "\x9b31m\x9d0;title\x9c\x85\x8d",  # the same in C1
        "\u202eesrever\u202c\u2066\u2069\u200f\u061c",  # directions
        "\u2028\u2029\ufeff\u200b\x00\x08\x7f\r",
        "\U000e0041\ue000",  # tags, private use
    ]
)

TYPED = HOSTILE.replace("\x00", "")
"""What a command line can hold."""

VERBS = [
    ["runs"],
    ["runs", "--format", "csv"],
    ["runs", "--json"],
    ["show", "bad-run"],
    ["show", "bad-run", "--json"],
    ["show", "bad-run", "--timings"],
    ["show", "bad-run", "--timings", "--json"],
    ["show", "bad-run", "--follow"],
    ["show", "--schema"],
    ["show", TYPED],
    ["show", "bad-rum"],
    *(["sql", "select * from sequences", "--format", form] for form in ("table", "csv", "json", "jsonl")),
    ["sql", "select * from token_steps", "--csv-safe", "-f", "csv"],
    ["sql", f'select 1 as "{TYPED}"'],
    ["sql", f'select * from "{TYPED}"'],
    ["sql", f"selct '{TYPED}'"],
    ["sql", "select error(prompt) from sequences"],
    ["sql", "select prompt::int from sequences"],
    ["sql", "select 1", "--format", TYPED],
    ["sql", "--file", TYPED],
    ["sql", "select 1", "-f", "csv", "-o", f"/nowhere/{TYPED}"],
    ["query"],
    ["query", "evil"],
    ["query", "evil", "--sql"],
    ["query", TYPED],
    ["query", "run_overview"],
    ["query", "run_overview", "--param", f"run={TYPED}"],
    ["query", "run_overview", "--param", f"{TYPED}=1"],
    ["metrics", "bad-run"],
    ["metrics", "bad-run", "--format", "json"],
    ["metrics", "--push-gateway", f"http://{TYPED}"],
    ["export", "steps-jsonl", "bad-run"],
    ["export", "vectors", "bad-run", "--layer", "0", "--site", TYPED, "-o", "x.npy"],
    ["analyze", "list"],
    ["analyze", "trajectory", "bad-run"],
    ["verify"],
    ["verify", TYPED],
    ["rm", "bad-run"],
    ["rm", TYPED],
    ["vacuum"],
    ["chart", "evil", "-o", f"x.{TYPED}"],
    ["report", TYPED],
    ["import", "tsif", TYPED],
    ["collect", "--model", TYPED, "--dry-run", "--prompt", "p"],
    ["collect", "--resume", "bad-run"],
    [TYPED],
    ["--help"],
]


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    lake = Lake.create(tmp_path_factory.mktemp("terminal") / "lake")
    about = {
        "tag": HOSTILE, "kind": "generate", "model": {"name": HOSTILE, "revision": HOSTILE, "architecture": HOSTILE},
        "config": {"model": HOSTILE, "prompt": [HOSTILE], "embedder": HOSTILE}, "versions": {HOSTILE: HOSTILE},
        "unmeasured": {HOSTILE: HOSTILE}, "notices": [HOSTILE], "plan": {"segments": [[0, 1]]},
    }  # fmt: skip
    with lake.start_run("bad-run", about) as run:
        with run.segment(0, (0, 1)) as segment:
            keys = {"sequence_id": [0, 0], "position": np.arange(2, dtype=np.int32), "stack": "decoder"}
            texts = {"prompt": [HOSTILE], "completion": [HOSTILE], "metadata": [json.dumps({"a": HOSTILE})]}
            segment.append("sequences", {"sequence_id": [0]} | texts)
            segment.append("token_steps", keys | {"token": [HOSTILE, "=1+1"], "token_id": [1, 2], "step": [None, 0]})
            segment.append(
                "operations",
                {
                    "writer": "w0",
                    "segment": [0],
                    "name": [HOSTILE],
                    "parent": [None],
                    "count": [1],
                    "total_ms": [1.0],
                    "max_ms": [1.0],
                },
            )
        run.finish(status="failed", error=HOSTILE)
    (lake.path / "queries").mkdir()
    evil = "".join(c for c in HOSTILE if c not in "\r\x00\x85\u2028\u2029")  # one line each
    (lake.path / "queries" / "evil.sql").write_text(f"-- {evil}\nselect 1 as a\n")
    return lake


def steers(text: str) -> set[str]:
    """Characters that are no visible signs, line breaks and tabs aside."""
    return {c for c in text if unicodedata.category(c)[0] == "C" or unicodedata.category(c) in ("Zl", "Zp")} - set(
        "\n\t"
    )


def all_of(terminal: int) -> bytes:
    """What is written to a terminal until its other end is closed."""
    data = bytearray()
    while True:
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # how Linux says that the other end is closed
            break
        if not piece:
            break
        data += piece
    os.close(terminal)
    return bytes(data)


def seen_on_a_terminal(lake: Path, verbs: list[list[str]]) -> list[str]:
    """What each command writes to a terminal, stdout and stderr together; one process for all of them."""
    script = (
        "import json, os, sys, traceback\n"
        "from tracelake.cli import app\nfrom tracelake.commands.toolkit.outcome import outcome\n"
        "for verb in json.loads(os.environ['VERBS']):\n"
        "    sys.argv = ['lake', *verb]\n"
        "    try:\n        outcome(app)\n    except Exception:\n        traceback.print_exc()\n"
        "    os.write(1, b'\\x1c')\n"
    )
    ours, theirs = pty.openpty()
    environment = {**os.environ, "VERBS": json.dumps(verbs), "TRACELAKE_LAKE": str(lake), "COLUMNS": "150"}
    environment |= {"HF_HUB_OFFLINE": "1", "TERM": "xterm-256color"}
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, env=environment,
        cwd=lake.parent,
    )  # fmt: skip
    os.close(theirs)
    data = all_of(ours)
    process.wait(60)
    return data.decode().replace("\r\n", "\n").split("\x1c")[:-1]


@pytest.mark.parametrize("verbs", [VERBS[::6], pytest.param(VERBS, marks=pytest.mark.slow)])
def test_no_verb_steers_a_terminal(lake, verbs, record_property):
    record_property("commands", len(verbs))
    outputs = seen_on_a_terminal(lake.path, verbs)
    assert len(outputs) == len(verbs)
    for verb, text in zip(verbs, outputs, strict=True):
        assert not steers(text), (verb, text)
        assert "Traceback" not in text, (verb, text)
    shown = "".join(outputs)
    for sign in ("\\u001b", "\\u009b", "\\u202e", "\\u2028", "\\U000e0041"):
        assert sign in shown  # it was there to be seen


@pytest.mark.parametrize("has_keyboard", [True, False])
def test_a_long_table_is_paged_where_there_is_a_keyboard(lake, tmp_path, has_keyboard):
    ours, theirs = pty.openpty()
    paged = tmp_path / "paged.txt"
    command = [Path(sys.executable).with_name("lake"), "sql", "select unnest(range(100)) as n", "--lake", lake.path]
    environment = {**os.environ, "PAGER": f"cat > {paged}", "LINES": "24", "COLUMNS": "80"}
    process = subprocess.Popen(
        command, stdin=theirs if has_keyboard else subprocess.DEVNULL, stdout=theirs, stderr=theirs, env=environment
    )
    os.close(theirs)
    seen = all_of(ours)
    assert process.wait(60) == 0
    assert paged.exists() is has_keyboard
    text = paged.read_text() if has_keyboard else seen.decode().replace("\r\n", "\n")
    assert text.split() == ["n", *map(str, range(100))]


def test_files_and_pipes_keep_the_bytes(lake, tmp_path):
    command = [
        str(Path(sys.executable).with_name("lake")),
        "sql",
        "select prompt from sequences",
        "--lake",
        str(lake.path),
    ]
    piped = subprocess.run([*command, "--format", "json"], capture_output=True, check=True).stdout
    assert json.loads(piped) == [{"prompt": HOSTILE}]
    subprocess.run([*command, "--format", "jsonl", "-o", str(tmp_path / "x.jsonl")], check=True, capture_output=True)
    assert json.loads((tmp_path / "x.jsonl").read_text()) == {"prompt": HOSTILE}


def test_printable_says_what_it_hides():
    assert printable("plain text, é 漢 🙂") == "plain text, é 漢 🙂"
    assert not steers(printable(HOSTILE)) and not steers(visible(HOSTILE))
    assert printable("\x1b[31m") == "\\u001b[31m"
    assert printable("a\nb", "\n") == "a\nb" and printable("a\nb") == "a\\u000ab"
    assert not steers(printable("".join(map(chr, [*range(0x20000), *range(0xE0000, 0xF0100)]))))


ODD = [
    *"\n\r\t,\"';-",
    "\r\n",
    "a\rb",
    "a\x0bb",
    "a\x0cb",
    "a\x85b",
    "a\u2028b",
    "a\n\nb",
    " a",
    "a ",
    "",
    "=1",
    HOSTILE,
]


@pytest.mark.parametrize("safe", [False, True])
def test_csv_reads_back_with_as_many_rows(safe, tmp_path):
    table = pa.table({"text": ODD, "n": list(range(len(ODD)))})
    data = render(table, "csv", csv_safe=safe)
    expected = [f"'{text}" if safe and text[:1] in tuple("=-\t\r\n") and text else text for text in ODD]
    rows = list(csv.reader(io.StringIO(data.decode(), newline="")))[1:]
    assert [row[0] for row in rows] == expected and [int(row[1]) for row in rows] == table["n"].to_pylist()
    assert pl.read_csv(data).height == len(ODD)
    path = tmp_path / "x.csv"
    path.write_bytes(data)
    with duckdb.connect() as connection:
        assert connection.execute(f"select count(*) from read_csv('{path}', header=true)").fetchone() == (len(ODD),)
    alone = render(pa.table({"only": pa.array([None, "", "x", None], pa.string())}), "csv")
    assert len(list(csv.reader(io.StringIO(alone.decode(), newline="")))) == 5


def test_csv_safe_leaves_no_formula():
    formulas = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\uff1d1+1", "=cmd|' /C calc'!A0"]
    rows = list(
        csv.reader(io.StringIO(render(pa.table({"=a": formulas, "n": [-1.5] * 8}), "csv", csv_safe=True).decode()))
    )
    assert all(cell.startswith("'") for row in rows for cell in row[:1])
    assert {row[1] for row in rows[1:]} == {"-1.5"}
