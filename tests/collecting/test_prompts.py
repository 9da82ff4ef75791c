"""Prompts as people have them: every format and encoding gives the same items, what does not fit is refused by name."""

import codecs
import datetime
import decimal
import gzip
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tracelake.collect.configuration.config import CollectConfig, resolve_config
from tracelake.collect.inputs.fields import Prompt, prompt_from_row
from tracelake.collect.inputs.prompts import StdinPrompts, checked_source, open_source
from tracelake.lake.errors import DamageError, LakeError, NotFoundError, UsageError

TEXTS = ["Hello, you; there", 'He said "hi"', "café\tau lait"]
ROWS = [{"prompt": text, "answer": str(i), "level": str(i)} for i, text in enumerate(TEXTS)]


def read(path: Path | str, **settings: Any) -> list[Prompt]:
    return list(open_source(CollectConfig(prompts=str(path), **settings)))


def file(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def csv_text(delimiter: str, newline: str = "\n") -> str:
    def quoted(text: str) -> str:
        return '"' + text.replace('"', '""') + '"'

    lines = [delimiter.join(ROWS[0]), *(delimiter.join(map(quoted, row.values())) for row in ROWS)]
    return newline.join(lines) + newline


def zst(content: bytes) -> bytes:
    return pa.compress(content, "zstd", asbytes=True)


JSON_LINES = "".join(json.dumps(row) + "\n" for row in ROWS)
FORMS: dict[str, str] = {
    "p.jsonl": JSON_LINES,
    "p.ndjson": "\n" + JSON_LINES.replace("\n", "\r\n\r\n"),
    "lines.json": JSON_LINES,
    "p.json": json.dumps(ROWS, indent=2),
    "p.csv": csv_text(","),
    "crlf.csv": csv_text(",", "\r\n"),
    "semicolons.csv": csv_text(";"),
    "tabs.csv": csv_text("\t"),
    "p.tsv": csv_text("\t"),
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize(
    "encode",
    [
        str.encode,
        lambda text: codecs.BOM_UTF8 + text.encode(),
        lambda text: text.encode("utf-16"),
        lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
        lambda text: text.encode("utf-32"),
    ],
    ids=["utf-8", "bom", "utf-16-le", "utf-16-be", "utf-32"],
)
def test_every_format_and_encoding_gives_the_same_items(name: str, encode: Any, tmp_path: Path) -> None:
    found = read(file(tmp_path, name, encode(FORMS[name])))
    assert [(p.text, p.answer, p.item_id, p.metadata) for p in found] == [
        (row["prompt"], row["answer"], str(i), {"level": row["level"]}) for i, row in enumerate(ROWS)
    ]


@pytest.mark.parametrize("name", [*FORMS, "p.txt"])
@pytest.mark.parametrize(("ending", "pack"), [(".gz", gzip.compress), (".zst", zst)])
def test_packed_files(name: str, ending: str, pack: Any, tmp_path: Path) -> None:
    text = FORMS.get(name, "".join(text + "\n" for text in TEXTS))
    assert [p.text for p in read(file(tmp_path, name + ending, pack(text.encode())))] == TEXTS


def test_parquet_gives_the_same_items(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "p.parquet")
    assert [(p.text, p.answer, p.metadata) for p in read(tmp_path / "p.parquet")] == [
        (row["prompt"], row["answer"], {"level": row["level"]}) for row in ROWS
    ]


@pytest.mark.parametrize(
    "content", [b"One\nTwo\n", b"\xef\xbb\xbfOne\r\nTwo", "One\n\n  \nTwo".encode("utf-16"), b"One\rTwo\r"]
)
def test_text_files_have_a_prompt_per_line_and_no_marks_in_it(content: bytes, tmp_path: Path) -> None:
    assert [p.text for p in read(file(tmp_path, "p.txt", content))] == ["One", "Two"]


def test_a_text_file_as_one_document(tmp_path: Path) -> None:
    path = file(tmp_path, "p.txt", b"\xef\xbb\xbfOne\r\n\r\nTwo\n")
    assert [p.text for p in read(path, split_lines="no")] == ["One\n\nTwo\n"]
    with pytest.raises(UsageError, match="text file"):
        read(file(tmp_path, "p.jsonl", JSON_LINES), split_lines=False)


def test_fields_of_any_length(tmp_path: Path) -> None:
    long = "a " * 70_000 + "\nb"
    (found,) = read(file(tmp_path, "p.csv", f'prompt,answer\n"{long}",1\n'))
    assert (found.text, found.answer) == (long, "1")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("prompt,answer\nHi, there,3\n", "line 2 has 3 fields"),
        ("prompt,answer\nHi,3\n\nonly\n", "line 4 has 1 fields"),
        ('prompt,answer\n"Hi,3\nHo,4\n', "line 2: a quote that opens here"),
        ('prompt,answer\nHi,3\n"a\nb",4\n"Hi"x,5\n', "line 5"),
        ("prompt, answer\nHi, 3\n", "line 1: the column name ' answer'"),
        ("prompt,,answer\nHi,,3\n", "line 1: the column name ''"),
        ("prompt,answer,answer\nHi,3,4\n", "'answer' is there twice"),
        ("Hi,3\nHo,4\n", "line 1 is the header"),
        ("prompt\nOne, two\n", "line 2 has 2 fields"),
        ("prompt,answer\n,3\n", "line 2 (item 0) has no `prompt`"),
    ],
)
def test_csv_that_does_not_fit_its_header_is_refused_with_the_line(content: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        read(file(tmp_path, "p.csv", content))
    assert says in str(caught.value) and "p.csv" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "kind", "says"),
    [
        ("p.txt", b"ok\ncaf\xe9\n", UsageError, "not UTF-8 (byte 0xe9 in line 2)"),
        ("p.csv", b"prompt\nok\ncaf\xe9\n", UsageError, "line 3"),
        ("p.jsonl", b'{"prompt": "caf\xe9"}', UsageError, "not UTF-8"),
        ("p.txt", "ab".encode("utf-16-le"), UsageError, "NUL"),
        ("p.txt", codecs.BOM_UTF16_LE + b"a", UsageError, "not UTF-16"),
        ("p.jsonl", b'{"prompt": "a"}\n{"prompt"\n', UsageError, "line 2 is not JSON"),
        ("p.jsonl", b"[1]\n", UsageError, "expected an object"),
        ("p.jsonl", b'{"prompt": "a", "m": ' + b"[" * 200_000 + b"\n", UsageError, "line 1"),
        ("p.json", b'[{"prompt": "a"}, 5]', UsageError, "entry 1"),
        ("p.json", b'[{"prompt": "a"},', UsageError, "not JSON"),
        ("p.jsonl.gz", b'{"prompt": "a"}', UsageError, "not packed"),
        ("p.jsonl.gz", gzip.compress(b"a" * 999, mtime=0)[:-9], DamageError, "cannot be read"),
        ("p.jsonl.zst", zst(b"a" * 999)[:-9], DamageError, "cannot be read"),
        ("p.parquet", b"PAR1 no", DamageError, "Parquet"),
        ("p.xlsx", b"x", UsageError, ".xlsx"),
        ("p.parquet.gz", b"x", UsageError, ".parquet.gz"),
        ("prompts", b"x", UsageError, "--prompts-format"),
    ],
)
def test_what_cannot_be_read_is_named(
    name: str, content: bytes, kind: type[LakeError], says: str, tmp_path: Path
) -> None:
    with pytest.raises(kind) as caught:
        read(file(tmp_path, name, content))
    assert says in str(caught.value) and name in str(caught.value)


def test_a_missing_file_and_a_named_format(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="nowhere"):
        read(tmp_path / "nowhere.jsonl")
    path = file(tmp_path, "prompts.dat", JSON_LINES)
    assert [p.text for p in read(path, prompts_format="jsonl")] == TEXTS


# -- standard input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "form"),
    [
        (JSON_LINES.encode(), "auto"),
        (gzip.compress(JSON_LINES.encode(), mtime=0), "auto"),
        (JSON_LINES.encode("utf-16"), "auto"),
        (FORMS["p.csv"].encode(), "csv"),
        ("".join(text + "\n" for text in TEXTS).encode(), "auto"),
    ],
)
def test_piped_prompts_can_be_read_twice_and_are_recorded(
    content: bytes, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    config = CollectConfig(prompts="-", prompts_format=form)  # type: ignore[arg-type]
    source = open_source(config)
    assert [p.text for p in source] == [p.text for p in source] == TEXTS
    recorded = json.loads(json.dumps(source.describe()))
    again = open_source(config, recorded)
    assert list(again) == list(source) and again.describe() == recorded


def test_texts_that_look_like_json_are_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"[INST] Hi [/INST]\n{braces}\n")))
    assert [p.text for p in open_source(CollectConfig(prompts="-"))] == ["[INST] Hi [/INST]", "{braces}"]


def test_too_much_is_not_taken_from_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tracelake.collect.inputs.prompt_files.STDIN_BYTES", 10)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"x" * 11)))
    with pytest.raises(UsageError, match="Save longer input"):
        StdinPrompts.read()


# -- fields ------------------------------------------------------------------------------------------------------------


def test_unknown_fields_go_to_metadata() -> None:
    row = {"question": "Q?", "text": "t", "id": 7, "metadata": {"a": 1}, "level": 2, "gone": None}
    found = prompt_from_row(row, 3, "x")
    assert (found.text, found.item_id) == ("Q?", "7")
    assert found.metadata == {"a": 1, "text": "t", "level": 2}
    with pytest.raises(UsageError, match="'a' is a field and also in `metadata`"):
        prompt_from_row({**row, "a": 2}, 3, "x")


@pytest.mark.parametrize(
    ("metadata", "stored"),
    [
        ('{"a": 1}', {"a": 1}),
        ("plain words", {"metadata": "plain words"}),
        ([1, 2], {"metadata": [1, 2]}),
        (None, None),
        ({}, None),
        ({"t": datetime.datetime(2020, 1, 1)}, {"t": "2020-01-01T00:00:00"}),
        ({"t": pd.Timestamp("2020-01-01", tz="UTC")}, {"t": "2020-01-01T00:00:00+00:00"}),
        ({"d": datetime.date(2020, 1, 1), "x": decimal.Decimal("1.50")}, {"d": "2020-01-01", "x": "1.50"}),
        ({"n": float("nan"), "i": float("-inf")}, {"n": None, "i": "-inf"}),
        ({"a": np.arange(2), "s": np.float32(0.5), 3: (1, 2)}, {"a": [0, 1], "s": 0.5, "3": [1, 2]}),
        (
            {"b": b"abc"},
            {"b": {"bytes": 3, "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}},
        ),
    ],
)
def test_metadata_has_a_json_form(metadata: Any, stored: Any) -> None:
    found = prompt_from_row({"prompt": "p", "metadata": metadata}, 0, "x").metadata
    assert found == stored
    json.dumps(found, allow_nan=False).encode()


@pytest.mark.parametrize(
    ("answer", "stored"),
    [(float("nan"), None), (np.nan, None), ("", None), ("  ", None), (None, None), (5, "5"), (3.0, "3.0"),
     (True, "true"), (decimal.Decimal("1.5"), "1.5"), (["41"], "41"), (datetime.date(2020, 1, 2), "2020-01-02")],
)  # fmt: skip
def test_answers_of_every_type(answer: Any, stored: str | None) -> None:
    assert prompt_from_row({"prompt": "p", "answer": answer}, 0, "x").answer == stored


@pytest.mark.parametrize(
    ("given", "item_id"), [(float("nan"), "4"), (None, "4"), ("", "4"), (1.0, "1"), (1.5, "1.5"), (0, "0"), ("a", "a")]
)
def test_ids_of_every_type(given: Any, item_id: str) -> None:
    assert prompt_from_row({"prompt": "p", "id": given}, 4, "x").item_id == item_id


def test_a_table_of_pandas_with_holes(tmp_path: Path) -> None:
    frame = pd.DataFrame({"prompt": ["hi", "ho"], "answer": [3.0, np.nan], "id": [7.0, np.nan], "note": ["n", None]})
    frame["when"] = pd.to_datetime(["2020-01-01T00:00:00.000000001", None]).astype("datetime64[ns]")
    frame.to_parquet(tmp_path / "p.parquet")
    frame.to_csv(tmp_path / "p.csv", index=False)
    first, second = read(tmp_path / "p.parquet")
    assert (first.answer, first.item_id, second.answer, second.item_id) == ("3.0", "7", None, "1")
    assert second.metadata is None and first.metadata is not None
    assert first.metadata["note"] == "n" and first.metadata["when"].endswith("00.000000001")
    assert [(p.answer, p.item_id) for p in read(tmp_path / "p.csv")] == [("3.0", "7.0"), (None, "1")]


@pytest.mark.parametrize("ids", [(1, 1), ("a", "b", "a"), (1, None), ("2", 0, None)])
def test_two_items_of_one_id_are_refused(ids: tuple, tmp_path: Path) -> None:
    rows = [{"prompt": f"prompt {i}"} | ({} if given is None else {"id": given}) for i, given in enumerate(ids)]
    lines = file(tmp_path, "p.jsonl", "\n".join(map(json.dumps, rows)))
    with pytest.raises(UsageError, match=rf"items 0 and {len(ids) - 1} both have the id"):
        read(lines)
    config = CollectConfig(prompts=str(lines))
    assert len(list(open_source(config, recorded={}))) == len(ids)  # of a run that was begun before


HALF = "\ud83d"


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": f"hi {HALF}"},
        {"prompt": "hi", "answer": HALF},
        {"prompt": "hi", "id": HALF},
        {"prompt": "hi", "metadata": {"a": [HALF]}},
        {"prompt": "hi", "metadata": {HALF: 1}},
        {"prompt": "hi", "extra": HALF},
        {"messages": [{"role": "user", "content": HALF}]},
    ],
)
def test_half_of_a_surrogate_pair_is_refused_with_its_line(row: dict[str, Any], tmp_path: Path) -> None:
    path = file(tmp_path, "p.jsonl", json.dumps({"prompt": "ok"}) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(UsageError, match=r"p.jsonl, line 2 .*\\ud83d"):
        read(path)


@pytest.mark.parametrize("settings", [{"prompt": HALF}, {"prompt": "a", "stop": HALF}, {"prompt": "a", "tag": HALF}])
def test_half_characters_in_settings_are_refused(settings: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="surrogate"):
        open_source(resolve_config(settings))


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"answer": "5"}, "has no `prompt`"),
        ({"prompt": 5}, "`prompt` must be a text, not int 5"),
        ({"prompt": " "}, "the prompt is empty"),
        ({"prompt": "p", "id": [1]}, "`id` must be a text or a number, not a list"),
        ({"prompt": "p", "answer": ["a", "b"]}, "`answer` must be a text or a number, not a list"),
        ({"prompt": "p", "answer": {"value": "a"}}, "not an object"),
        ({"prompt": "p", "metadata": {"a": {1, 2}}}, "cannot be stored"),
        ({"prompt": "p", "options": ["3", "4"], "answer": "C"}, "none of the options A, B"),
        ({"prompt": "p", "options": ["1", "2"], "answer": 1}, "text of option A and the index of option B"),
        ({"prompt": "p", "options": "3 or 4", "answer": "A"}, "list of texts"),
        ({"messages": "hi"}, "`messages` must be a list of objects with role and content, not a text"),
        ({"messages": []}, "`messages` must be a list"),
        ({"messages": ["hi"]}, "message 0 must be an object"),
        ({"messages": [{"from": "human", "value": "hi"}]}, "message 0 has no role; its fields are from, value"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": None}]}, "message 1"),
        ({"messages": [{"role": "user", "content": 5}]}, "content must be a text or a list of parts"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "not image_url"),
    ],
)
def test_records_of_another_shape_are_refused_by_item(row: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        prompt_from_row(row, 6, "f.jsonl, line 9")
    assert says in str(caught.value) and str(caught.value).startswith("f.jsonl, line 9 (item 6)")


def test_messages_in_a_column_of_text_and_as_the_prompt() -> None:
    messages = [{"role": "user", "content": "hi"}]
    rows: list[dict[str, Any]] = [{"messages": messages}, {"messages": json.dumps(messages)}, {"prompt": messages}]
    found = [prompt_from_row(row, 0, "x") for row in rows]
    assert len({(p.text, p.prompt_id) for p in found}) == 1 and found[0].messages == tuple(messages)
    assert all(p.metadata is None for p in found)


def test_options_are_kept_with_the_item() -> None:
    row = {"question": "Q?", "choices": {"label": ["A", "B"], "text": ["x", "y"]}, "answerKey": "B"}
    found = prompt_from_row(row, 0, "x")
    assert found.options is not None and found.options.texts == ("x", "y") and found.answer == "B"
    assert found.metadata == {"choices": row["choices"]}


def test_the_grader_choice_wants_options(tmp_path: Path) -> None:
    rows = '{"prompt": "a", "answer": "A", "options": ["x", "y"]}\n{"prompt": "b", "answer": "A"}\n'
    with pytest.raises(UsageError, match="item 1 has an answer but no `options`"):
        checked_source(CollectConfig(prompts=str(file(tmp_path, "p.jsonl", rows)), grader="choice"))


def test_an_empty_source_is_refused(tmp_path: Path) -> None:
    for name in ("p.txt", "p.jsonl", "p.json", "p.csv"):
        with pytest.raises(UsageError, match="no prompts"):
            checked_source(CollectConfig(prompts=str(file(tmp_path, name, "\n"))))


# -- what is loaded ----------------------------------------------------------------------------------------------------

HEAVY = {"torch", "transformers", "sentence_transformers", "tokenizers", "datasets", "duckdb", "polars"}


def test_settings_and_prompts_are_checked_without_a_model_library(tmp_path: Path) -> None:
    path = file(tmp_path, "p.jsonl", JSON_LINES)
    script = (
        "import sys\nfrom tracelake.collect.configuration.config import resolve_config\n"
        "from tracelake.collect.inputs.prompts import checked_source\n"
        f"config = resolve_config({{'prompts': {str(path)!r}, 'keep': ['activations:z@1'], 'temperature': 0.5}})\n"
        "assert config.sampling.temperature == 0.5 and len(list(checked_source(config))) == 3\n"
        f"print(*{HEAVY!r} & {{name.split('.')[0] for name in sys.modules}})"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("--prompts", "nowhere.jsonl"), 3, "nowhere.jsonl"),
        (("--prompt", "a", "--keep", "tokns"), 2, "tokens"),
        (("--prompt", "a", "--keep", "activations:resid_psot"), 4, "resid_post"),
        (("--prompt", "a", "--grader", "exakt"), 2, "exact"),
        (("--prompt", "a", "--tag", "9"), 2, "tag"),
        (("--prompt", "a", "--top-p", "3"), 2, "--top-p"),
    ],
)
def test_a_typo_is_found_before_a_model_library_is_imported(
    arguments: tuple[str, ...], code: int, says: str, tmp_path: Path
) -> None:
    # A folder of that name, found first, would end the command with another error if it were imported.
    for name in ("torch", "transformers"):
        file(tmp_path, f"{name}.py", "raise SystemExit(99)")
    command = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from tracelake.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", command, "collect", *arguments, "--lake", str(tmp_path / "l")],
        capture_output=True, text=True, check=False, cwd=tmp_path, timeout=120,
    )  # fmt: skip
    assert done.returncode == code and says in done.stderr, done.stderr
    assert not (tmp_path / "l").exists()
