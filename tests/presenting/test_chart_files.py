"""Chart files: formats, atomic writing, and hostile text that must stay text in HTML and SVG."""

import base64
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import polars as pl
import pytest
from chart_queries import CHARTS, query_of
from hand_made_lake import HOSTILE, connection_to, frames
from html_page import Page

from tracelake.lake.errors import ConfigError, NotFoundError, UsageError
from tracelake.lake.sql.duck import Connection
from tracelake.queries.charts import chart_file as page
from tracelake.queries.charts.chart import build, draw
from tracelake.queries.charts.chart_file import json_for_html, offline_page, save
from tracelake.queries.saved_query import find

NASTY = [
    HOSTILE,
    "<!--<script>",
    "</SCRIPT ><img src=x onerror=alert(1)>",
    "]]>",
    "__SCRIPT__",
    "\x00\x08",
    "'\"&",
    "{signal: 'x'}",
    "\u202eabc",
]


@pytest.fixture(scope="module")
def connection() -> Iterator[Connection]:
    with connection_to(frames()) as connection:
        yield connection


def nasty_chart():
    query = query_of("mark: bar\nx: n:Q\ny: token:N\ncolor: kind:N\ntooltip: token", "SELECT 1")
    return build(query, pl.DataFrame({"token": NASTY, "n": range(1, len(NASTY) + 1), "kind": NASTY}), notes=["a note"])


@pytest.mark.parametrize("name", CHARTS)
def test_every_chart_writes_html_svg_and_json(name: str, connection: Connection, tmp_path: Path) -> None:
    chart = draw(CHARTS[name], connection).chart
    for suffix in ("html", "svg", "json"):
        save(chart, tmp_path / f"{name}.{suffix}")
    parsed = Page((tmp_path / f"{name}.html").read_text())
    assert parsed.tags.count("script") == 2
    assert json.loads(parsed.scripts[0]) == json.loads((tmp_path / f"{name}.json").read_text())
    root = ElementTree.fromstring((tmp_path / f"{name}.svg").read_text())
    assert root.tag.endswith("svg")
    assert not [element for element in root.iter() if element.tag.endswith("script")]


def test_hostile_text_makes_no_elements_in_html(tmp_path: Path) -> None:
    save(nasty_chart(), tmp_path / "x.html")
    text = (tmp_path / "x.html").read_text()
    parsed = Page(text)
    assert parsed.tags.count("script") == 2
    assert "img" not in parsed.tags and not [name for name, _ in parsed.attributes if name.startswith("on")]
    tokens = [row["token"] for row in json.loads(parsed.scripts[0])["data"]["values"]]
    assert HOSTILE in tokens and "__SCRIPT__" in tokens
    assert "\u202e" not in text and "\x00" not in text


def test_the_check_would_notice_an_unescaped_page() -> None:
    careless = f'<script type="application/json">{json.dumps([HOSTILE])}</script><script>1</script>'
    assert Page(careless).tags.count("script") > 2


def test_hostile_text_makes_no_elements_in_svg(tmp_path: Path) -> None:
    save(nasty_chart(), tmp_path / "x.svg")
    root = ElementTree.fromstring((tmp_path / "x.svg").read_text())
    names = {element.tag.rsplit("}")[-1] for element in root.iter()}
    assert not names & {"script", "img", "image", "foreignObject", "a"}
    assert any("alert(1)" in (element.text or "") for element in root.iter())


def test_the_page_allows_its_own_script_and_no_network(tmp_path: Path) -> None:
    save(nasty_chart(), tmp_path / "x.html")
    parsed = Page((tmp_path / "x.html").read_bytes().decode())
    policy = next(value for name, value in parsed.attributes if name == "content" and value and "default-src" in value)
    digest = base64.b64encode(hashlib.sha256(parsed.scripts[1].encode()).digest()).decode()
    assert policy.startswith("default-src 'none'; ") and f"script-src 'sha256-{digest}';" in policy
    assert "unsafe-eval" not in policy and "http" not in policy
    assert not [value for name, value in parsed.attributes if name in ("src", "href")]
    # Parsers turn carriage returns into newlines, which would break the digest.
    assert "\r" not in parsed.scripts[1]


def test_a_page_title_is_escaped() -> None:
    parsed = Page(offline_page({"mark": "bar"}, "</title><script>alert(1)</script>"))
    assert parsed.tags.count("script") == 2 and parsed.tags.count("title") == 1


def test_json_for_html_is_json_without_angle_brackets() -> None:
    text = json_for_html(NASTY)
    assert json.loads(text) == NASTY
    assert not set("<>&\u2028\u2029") & set(text)


def test_unknown_suffixes_and_folders(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'.gif' is not one of .png, .svg, .pdf, .html, .json"):
        save(nasty_chart(), tmp_path / "x.gif")
    with pytest.raises(NotFoundError, match="does not exist"):
        save(nasty_chart(), tmp_path / "no" / "x.png")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "x.json"
    target.write_text("old")

    def fail(source: object, destination: object) -> None:
        raise OSError("no")

    monkeypatch.setattr("pathlib.Path.replace", fail)
    with pytest.raises(ConfigError, match="cannot be written"):
        save(nasty_chart(), target)
    assert target.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_a_theme_can_be_given_when_saving(connection: Connection, tmp_path: Path) -> None:
    chart = draw(find("finish_reasons"), connection).chart
    save(chart, tmp_path / "dark.json", theme="dark")
    save(chart, tmp_path / "light.json")
    dark, light = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("dark", "light"))
    assert dark["config"]["background"] == "#12161c" and light["config"]["background"] == "#ffffff"
    assert dark["data"] == light["data"]


def test_formats_are_those_of_the_message() -> None:
    assert list(page.SUFFIXES) == [".png", ".svg", ".pdf", ".html", ".json"]
