"""A chart's axes, words and sizes: numbers stay numbers, nothing is cut or left out without a word."""

import re
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

import pytest
import vl_convert

from tracelake import OpenLake
from tracelake.lake.lake import Lake
from tracelake.lake.sql.duck import Connection
from tracelake.queries.charts.chart import NoRowsError, Shape, draw
from tracelake.queries.charts.chart_file import save
from tracelake.queries.header import parse_header
from tracelake.queries.saved_query import SavedQuery


@pytest.fixture(scope="module")
def connection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    lake = OpenLake.open(Lake.create(tmp_path_factory.mktemp("empty") / "lake").path)
    with lake.connect(locked=True) as connection:
        yield connection


def made(header: str, sql: str) -> SavedQuery:
    text = "".join(f"-- {line}\n" for line in ("Made in a test.", *header.splitlines()))
    return SavedQuery("made", "lake", PurePath("made.sql"), sql, parse_header(text, PurePath("made.sql")))


def spec_of(connection: Connection, header: str, sql: str, **options: Any) -> tuple[dict[str, Any], str | None]:
    drawing = draw(made(header, sql), connection, **options)
    return drawing.chart.to_dict(), drawing.message


def rectangles(svg: str) -> list[tuple[float, float]]:
    """Width and height of every cell of a heat map, as Vega drew it."""
    paths = re.findall(r'aria-roledescription="rect mark" d="M([-\d.]+),([-\d.]+)h([-\d.]+)v([-\d.]+)', svg)
    return [(float(width), float(height)) for _, _, width, height in paths]


ATTENTION = "select q as position, k as key, 0.5 as weight, 't' || q as a, 't' || k as b from {}"
MAP = "mark: rect\nx: key:Q  key\ny: position:Q  query\ncolor: weight:Q\nscale: x equal, y equal, y reverse"


def test_attention_maps_are_square_and_keep_their_gaps(connection: Connection) -> None:
    spec, _ = spec_of(connection, MAP, ATTENTION.format("(values (0, 0), (9, 3), (9, 9)) t(q, k)"))
    assert spec["width"] == spec["height"]
    x, y = (spec["layer"][0]["encoding"][axis] for axis in ("x", "y"))
    assert x["type"] == y["type"] == "quantitative" and x["scale"]["domain"] == y["scale"]["domain"] == [-0.5, 9.5]
    assert y["scale"]["reverse"] is True and "reverse" not in x["scale"]
    cells = rectangles(vl_convert.vegalite_to_svg(spec))
    assert len(cells) == 3
    for width, height in cells:
        assert width == pytest.approx(height) == pytest.approx(spec["width"] / 10)


def test_cells_of_several_tokens_have_their_size(connection: Connection) -> None:
    sql = "select * from (values (0, 0, 1.0, 8), (8, 8, 0.5, 8)) t(position, key, weight, size)"
    spec, _ = spec_of(connection, f"{MAP}\ncell: size", sql)
    assert spec["layer"][0]["encoding"]["x"]["scale"]["domain"] == [-0.5, 15.5]
    assert [row["key to"] - row["key from"] for row in spec["data"]["values"]] == [8, 8]


def test_words_stand_along_short_axes_only(connection: Connection) -> None:
    labelled = f"{MAP}\nlabels: x b, y a"
    short, _ = spec_of(connection, labelled, ATTENTION.format("(select i, i // 2 from range(60) t(i)) u(q, k)"))
    long, _ = spec_of(connection, labelled, ATTENTION.format("(select i, i // 2 from range(61) t(i)) u(q, k)"))
    texts = [layer for layer in short["layer"] if layer["mark"]["type"] == "text"]
    assert len(texts) == 2 and not [layer for layer in long["layer"] if layer["mark"]["type"] == "text"]
    words = texts[0]["data"]["values"]
    assert [word["word"] for word in words] == [f"t{i}" for i in range(60)]  # also those that are no key of any edge
    assert short["width"] / 60 >= 9  # a line of text fits
    svg = vl_convert.vegalite_to_svg(short)
    box = [float(n) for n in re.search(r'viewBox="([^"]+)"', svg)[1].split()]  # type: ignore[index]
    assert box[2] > short["width"] + 90 and ">t59</text>" in svg


def test_a_column_of_layers_keeps_its_numbers(connection: Connection) -> None:
    header = "mark: rect\nx: head:Q\ny: layer:Q\ncolor: v:Q"
    spec, _ = spec_of(connection, header, "select * from (values (2, 0, 1.0), (11, 1, 2.0)) t(layer, head, v)")
    assert spec["layer"][0]["encoding"]["y"]["scale"]["domain"] == [1.5, 11.5]
    svg = vl_convert.vegalite_to_svg(spec)
    assert all(f">{number}</text>" in svg for number in (2, 11))


def test_a_log_axis_leaves_out_what_is_not_positive_and_says_so(connection: Connection) -> None:
    header = "mark: line\nx: x:Q\ny: y:Q\nscale: y log"
    sql = "select * from (values (0, 0.0), (1, 10.0), (2, 100.0), (3, -1.0)) t(x, y)"
    spec, message = spec_of(connection, header, sql)
    assert [row["y"] for row in spec["data"]["values"]] == [10.0, 100.0]
    assert message == "2 rows are left out: y is not above 0, and its axis is logarithmic."
    assert message.split(":")[0] in " ".join(spec["title"]["subtitle"])
    heights = re.findall(r'aria-roledescription="point"[^>]*transform="translate\([-\d.]+,([-\d.]+)\)', _svg(spec))
    assert len(set(heights)) == 2
    with pytest.raises(NoRowsError, match="2 rows are left out"):
        draw(made(header, "select * from (values (0, 0.0), (1, -1.0)) t(x, y)"), connection)


def _svg(spec: dict[str, Any]) -> str:
    return vl_convert.vegalite_to_svg(spec)


def test_null_and_nan_are_categories(connection: Connection) -> None:
    header = "mark: bar\nx: name:N\ny: n:Q\ncolor: part:N"
    sql = "select * from (values (1.5, 1, 'a'), ('nan'::double, 2, null), (null, 3, 'b')) t(name, n, part)"
    spec, _ = spec_of(connection, header, sql)
    assert [(row["name"], row["part"]) for row in spec["data"]["values"]] == [
        ("1.5", "a"),
        ("(NaN)", "(null)"),
        ("(null)", "b"),
    ]
    assert all(word in _svg(spec) for word in ("(NaN)", "(null)"))


def test_titles_and_legends_are_whole(connection: Connection) -> None:
    long = "a title of many words that no plot of four hundred pixels could ever show on one single line of text"
    header = f"mark: line\nx: x:Q\ny: y:Q\ncolor: c:N\ntitle: {long}"
    name = "a-category-of-more-than-forty-characters-in-all"
    sql = f"select * from (values (0, 1.0, '{name}'), (1, 2.0, '{name}'), (1, 3.0, 'b')) t(x, y, c)"
    spec, _ = spec_of(connection, header, sql, shape=Shape(width=300))
    lines = spec["title"]["text"]
    assert len(lines) > 2 and " ".join(lines) == long and max(map(len, lines)) * 8.3 < 400
    assert f">{name}</text>" in _svg(spec)  # Vega writes what it cuts with an ellipsis


def test_lines_on_each_other_are_told_apart(connection: Connection) -> None:
    header = "mark: line\nx: x:Q\ny: y:Q\ncolor: c:N"
    spec, _ = spec_of(connection, header, "select x, x as y, c from range(3) t(x), (values ('a'), ('b')) u(c)")
    dashes = set(re.findall(r'stroke-dasharray="([^"]+)"', _svg(spec)))
    assert len(dashes) >= 1 and spec["layer"][0]["encoding"]["strokeDash"]["field"] == "c"
    assert _svg(spec).count(">c</text>") == 1  # one legend for colour and dashes


def test_the_value_of_a_parameter_names_the_axis(connection: Connection) -> None:
    header = (
        "title: Of {measure}\nmark: line\nx: x:Q  {measure}, middle\ny: x:Q\nparam measure TEXT = entropy_bits  What."
    )
    query = made(header, "select 1 as x, $measure as m")
    spec = draw(query, connection).chart.to_dict()
    assert spec["layer"][0]["encoding"]["x"]["title"] == "entropy (bits), middle"
    assert spec["title"]["text"] == "Of entropy (bits)"
    hostile = draw(query, connection, params={"measure": "<script>alert(1)</script>"}).chart.to_dict()
    assert hostile["title"]["text"] == "Of measure"


def test_what_a_band_is_stands_under_the_title(connection: Connection) -> None:
    header = "mark: line\nx: x:Q\ny: y:Q\nband: low, high  95 % interval"
    spec, message = spec_of(connection, header, "select x, x as y, x - 1 as low, x + 1 as high from range(3) t(x)")
    assert spec["title"]["subtitle"] == ["Bands: 95 % interval."] and message is None


def test_a_query_says_what_its_rows_lack(connection: Connection) -> None:
    header = "mark: line\nx: x:Q\ny: x:Q\nnotice: said"
    spec, message = spec_of(connection, header, "select x, 'Edges were capped.' as said from range(3) t(x)")
    assert message == "Edges were capped." and spec["title"]["subtitle"] == ["Edges were capped."]


def test_sizes_titles_and_endings(connection: Connection, tmp_path: Path) -> None:
    query = made("mark: line\nx: x:Q\ny: x:Q", "select x from range(3) t(x)")
    shape = Shape(width=100, height=50, title="Mine")
    spec = draw(query, connection, shape=shape).chart.to_dict()
    assert (spec["width"], spec["height"], spec["title"]["text"]) == (100, 50, "Mine")
    chart = draw(query, connection, shape=shape).chart
    widths = []
    for scale in (1.0, 3.0):
        save(chart, tmp_path / "c.png", scale=scale)
        widths.append(int.from_bytes((tmp_path / "c.png").read_bytes()[16:20], "big"))
    assert widths[1] == pytest.approx(3 * widths[0], abs=3)
    save(chart, tmp_path / "c.pdf")
    assert (tmp_path / "c.pdf").read_bytes().startswith(b"%PDF-")
