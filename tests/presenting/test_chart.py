"""Charts: every saved query with a mark draws; thinning of many rows; axis titles; themes."""

import struct
from collections.abc import Iterator
from pathlib import Path

import altair as alt
import polars as pl
import pytest
from altair.utils.schemapi import SchemaValidationError, debug_mode
from chart_queries import CHARTS, query_of
from hand_made_lake import HOSTILE, RUN, connection_to, frames, without

from tracelake.lake.errors import ConfigError, UsageError
from tracelake.lake.schema import TABLES
from tracelake.lake.sql.duck import Connection
from tracelake.queries.charts.axis_titles import axis_title, visible
from tracelake.queries.charts.chart import NoRowsError, build, draw
from tracelake.queries.charts.chart_file import save
from tracelake.queries.charts.chart_rows import MAX_BINS, MAX_ROWS, chart_rows
from tracelake.queries.charts.theme import THEMES, configuration
from tracelake.queries.saved_query import find


@pytest.fixture(scope="module")
def connection() -> Iterator[Connection]:
    with connection_to(frames()) as connection:
        yield connection


def drawn_values(chart: alt.Chart | alt.LayerChart | alt.FacetChart) -> list[dict]:
    return chart.to_dict()["data"]["values"]


def png_size(path: Path) -> tuple[int, int]:
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n" and content.endswith(b"IEND\xaeB`\x82")
    return struct.unpack(">II", content[16:24])


@pytest.mark.parametrize("name", CHARTS)
def test_every_chart_draws_to_png(name: str, connection: Connection, tmp_path: Path) -> None:
    chart, message = draw(CHARTS[name], connection)
    chart.to_dict(validate=True)  # nobody else checks what was built
    save(chart, tmp_path / "chart.png")
    width, height = png_size(tmp_path / "chart.png")
    assert 480 <= width <= 2400 and 200 <= height <= 1600, (width, height)
    # A chart of the first point, or of the first neuron, says which one that is.
    assert message is None or name in ("attribution_waterfall", "neuron_words")


def test_the_check_of_a_chart_sees_what_vega_lite_has_not(connection: Connection) -> None:
    """Charts are built unchecked, in every part: what is wrong there shows in the check of the whole."""
    chart = draw(find("entropy_by_step"), connection).chart
    chart.to_dict(validate=True)
    assert isinstance(chart, alt.LayerChart)
    with debug_mode(False):
        chart.layer[-1].encoding.x = alt.X(field="step", type="quantitative", axis=alt.Axis(grid="perhaps"))
    with pytest.raises(SchemaValidationError, match="perhaps"):
        chart.to_dict(validate=True)


def test_every_chart_of_an_empty_lake_says_so() -> None:
    with connection_to(without(*TABLES)) as connection:
        for query in CHARTS.values():
            with pytest.raises(NoRowsError, match=f"{query.name}.* has no rows"):
                draw(query, connection)


def test_fields_that_are_no_columns_are_errors(connection: Connection) -> None:
    query = query_of("mark: line\nx: step:Q\ny: entrpy:Q", "SELECT 1 AS step, 2 AS entropy")
    with pytest.raises(ConfigError, match="names the field 'entrpy', which is not a column.*Did you mean 'entropy'"):
        draw(query, connection)


def test_a_query_without_a_mark_has_no_chart(connection: Connection) -> None:
    with pytest.raises(UsageError, match="'run_overview' has no chart"):
        draw(find("run_overview"), connection)


def test_too_many_rows_for_build_name_the_way_out() -> None:
    query = query_of("mark: line\nx: a:Q\ny: b:Q", "SELECT 1")
    rows = pl.DataFrame({"a": range(MAX_ROWS + 1), "b": range(MAX_ROWS + 1)})
    with pytest.raises(UsageError, match="too many to draw"):
        build(query, rows)


def test_many_rows_are_averaged_in_bins_per_series(connection: Connection) -> None:
    sql = """
        SELECT i // 2 AS x, 'ab'[1 + i % 2] AS series, (i // 2)::DOUBLE + 1000 * (i % 2) AS y, 'text' AS note
        FROM range(20000) AS numbers(i)
    """
    query = query_of("mark: line\nx: x:Q\ny: y:Q\ncolor: series:N\ntooltip: note", sql)
    rows, message = (kept := chart_rows(query, connection, {})).rows, kept.message
    assert rows.height == 2 * MAX_BINS
    assert message == "20,000 rows: means over 500 bins of x, each 20 wide."
    # x 0..19 fall into the first bin: their mean is 9.5 in one series and 1009.5 in the other.
    first = rows.filter(pl.col("x") == 0).sort("series")
    assert first["y"].to_list() == [9.5, 1009.5]
    chart, said = draw(query, connection)
    assert len(drawn_values(chart)) == rows.height and said == message
    assert message in chart.to_dict()["title"]["subtitle"]


def test_bins_share_the_rows_among_many_series(connection: Connection) -> None:
    sql = "SELECT i % 997 AS x, i % 100 AS series, random() AS y FROM range(99700) AS numbers(i)"
    query = query_of("mark: line\nx: x:Q\ny: y:Q\ncolor: series:O", sql)
    rows = chart_rows(query, connection, {}).rows
    assert MAX_ROWS // 4 <= rows.height <= MAX_ROWS
    assert rows["y"].mean() == pytest.approx(0.5, abs=0.02)


def test_fractions_are_binned_and_what_is_not_finite_is_left_out(connection: Connection) -> None:
    sql = """
        SELECT i / 6000 AS x, CASE WHEN i % 3 = 0 THEN 'nan'::FLOAT ELSE 2 END AS y FROM range(6001) AS numbers(i)
        UNION ALL SELECT 'inf'::DOUBLE, 7
    """
    query = query_of("mark: line\nx: x:Q\ny: y:Q", sql)
    rows = chart_rows(query, connection, {}).rows
    assert rows.height == MAX_BINS
    assert rows["y"].unique().to_list() == [2.0]
    assert 0 < rows["x"].min() < rows["x"].max() < 1


def test_a_long_heat_map_keeps_its_rows_and_bins_its_columns(connection: Connection) -> None:
    sql = "SELECT i // 12 AS position, i % 12 AS layer, (i % 12)::DOUBLE AS value FROM range(24000) AS numbers(i)"
    query = query_of("mark: rect\nx: position:O\ny: layer:O\ncolor: value:Q", sql)
    rows = chart_rows(query, connection, {}).rows
    assert rows.height <= MAX_ROWS and rows["layer"].n_unique() == 12
    assert (rows["value"] == rows["layer"]).all()
    assert rows.schema["position"] == pl.Int64


def test_many_points_are_sampled_and_the_same_each_time(connection: Connection) -> None:
    query = query_of("mark: point\nx: x:Q\ny: y:Q", "SELECT i AS x, i * 2 AS y FROM range(12000) AS numbers(i)")
    once, again = (chart_rows(query, connection, {}) for _ in range(2))
    assert once.rows.height == MAX_ROWS and once.message == "5,000 of 12,000 rows, drawn at random."
    assert once.rows.sort("x").equals(again.rows.sort("x"))
    assert (once.rows["y"] == 2 * once.rows["x"]).all()


def test_many_categories_are_cut_with_a_word(connection: Connection) -> None:
    query = query_of("mark: bar\nx: n:Q\ny: name:N", "SELECT 'n' || i AS name, i AS n FROM range(7000) AS numbers(i)")
    kept = chart_rows(query, connection, {})
    assert kept.rows.height <= MAX_ROWS and kept.message and kept.message.startswith("Only the first 5,000")


def test_thinning_takes_bound_parameters(connection: Connection) -> None:
    query = query_of(
        "mark: line\nx: x:Q\ny: y:Q\nparam top BIGINT = 9000  Rows.",
        "SELECT i AS x, i AS y FROM range(100000) AS numbers(i) WHERE i < $top -- a comment at the end",
    )
    _, message = draw(query, connection, params={"top": "8000"})
    assert message == "8,000 rows: means over 500 bins of x, each 16 wide."


def test_titles_and_units() -> None:
    assert axis_title("mean_surprisal_bits") == "mean surprisal (bits)"
    assert axis_title("l2_norm") == "L2 norm (model units)"
    assert axis_title("median_l2_norm") == "median L2 norm (model units)"
    assert axis_title("latency_ms") == "latency (ms)"
    assert axis_title("accuracy") == "accuracy"
    assert axis_title("position") == "position (tokens)"


def test_titles_never_come_from_rows(connection: Connection) -> None:
    spec = draw(find("token_frequency"), connection).chart.to_dict()
    shell = {key: value for key, value in spec.items() if key != "data"}
    assert spec["title"]["text"] == "Most frequent generated tokens"
    assert "expr" not in str(shell) and spec["title"]["subtitle"] == [f"run {RUN} \u00b7 limit 25"]


def test_text_that_a_user_typed_stays_out_of_the_subtitle(connection: Connection) -> None:
    query = query_of("mark: line\nx: x:Q\ny: x:Q\nparam word TEXT = a  A word.", "SELECT 1 AS x, $word AS word")
    assert draw(query, connection).chart.to_dict()["title"]["subtitle"] == ["word a"]
    assert "subtitle" not in draw(query, connection, params={"word": "a <b>"}).chart.to_dict()["title"]


def test_tokens_are_made_visible() -> None:
    assert visible(" the") == "\u2423the"
    assert visible("\n") == "\u21b5"
    assert visible("a b") == "a b"
    assert visible("  ") == "\u2423\u2423"
    assert visible("\x00\u202e") == "\\u0000\\u202e"
    assert visible(HOSTILE) == HOSTILE


def contrast(one: str, other: str) -> float:
    def luminance(color: str) -> float:
        parts = (int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))
        linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", THEMES.values(), ids=THEMES)
def test_text_and_marks_stand_out_in_both_themes(theme) -> None:
    assert contrast(theme.text, theme.background) >= 7
    assert contrast(theme.muted, theme.background) >= 4.5
    for color in (*theme.categories, *theme.meanings.values()):
        assert contrast(color, theme.background) >= 2, color


def test_the_theme_is_the_charts_own(connection: Connection) -> None:
    before = alt.theme.active
    dark = draw(find("layer_norms"), connection, theme="dark").chart
    assert dark.to_dict()["config"]["background"] == configuration(THEMES["dark"])["background"]
    assert alt.theme.active == before
    assert any("vegalite" in kind or "html" in kind for kind in dark._repr_mimebundle_())
    with pytest.raises(UsageError, match="No theme 'drak'. Did you mean 'dark'"):
        draw(find("layer_norms"), connection, theme="drak")
