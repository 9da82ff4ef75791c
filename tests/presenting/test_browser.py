"""The report and the dashboard in a real browser: what a reader does, no error in the console, no request elsewhere.

Run by `make test-browser`, which installs Chromium; `make test` skips it.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hand_made_lake import HOSTILE, OTHER, RUN, write_lake
from small_tables import tables

from tracelake import OpenLake
from tracelake.queries.report import write_report

if not os.environ.get("LAKE_TEST_BROWSER"):
    pytest.skip("opens a browser; run it with `make test-browser`", allow_module_level=True)

sync_api = pytest.importorskip("playwright.sync_api", reason="needs the extra: pip install 'tracelake[browser]'")
CHROMIUM = os.environ.get("LAKE_TEST_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
SEQUENCE = 5
# Streamlit asks its frames for features that Chromium does not know; it says so in warnings, which are no errors.


class Watched:
    """A page with what it said on its console and what it asked for."""

    def __init__(self, page: Any) -> None:
        self.page, self.errors, self.requests = page, [], []
        page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("dialog", lambda dialog: self.errors.append(f"dialog: {dialog.message}") or dialog.dismiss())
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("websocket", lambda socket: self.requests.append(socket.url))

    def check(self, *allowed: str) -> None:
        """No error, and no request that begins otherwise."""
        assert not self.errors, self.errors
        assert [url for url in self.requests if not url.startswith((*allowed, "data:", "blob:", "about:"))] == []


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> OpenLake:
    """The synthetic lake, with a hostile token that the report shows."""
    tokens = tables()["token_steps"].with_columns(
        token=pl.when(pl.col("position") == 3)
        .then(pl.lit(f"\u202e{HOSTILE}<img src=x onerror=alert(2)>"))
        .otherwise("token")
    )
    return OpenLake(write_lake(tmp_path_factory.mktemp("browser"), tables() | {"token_steps": tokens}).path)


@contextmanager
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.fail("There is no Chromium: apt-get install chromium, or set LAKE_TEST_CHROMIUM to one.")
    # Chromium has no sandbox for the superuser.
    flags = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield opened
        opened.close()


@contextmanager
def watched(width: int) -> Iterator[Watched]:
    with browser() as opened:
        yield Watched(opened.new_page(viewport={"width": width, "height": 900}))


@pytest.mark.parametrize(("theme", "width"), [("light", 1440), ("dark", 1280), ("light", 420)])
def test_a_report_is_read(theme: str, width: int, lake: OpenLake, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    write_report(lake, RUN, file, theme=theme, sequences=[SEQUENCE])
    row = tables()["token_steps"].filter(run_id=RUN, sequence_id=SEQUENCE, position=40).to_dicts()[0]
    with watched(width) as seen:
        page = seen.page
        page.goto(file.as_uri())
        page.evaluate("window.dispatchEvent(new Event('beforeprint'))")  # draws every chart, not only those in sight
        drawn = "document.querySelectorAll('.chart svg.marks').length"
        page.wait_for_function(f"{drawn} >= 12 && {drawn} == document.querySelectorAll('.chart').length")
        view = page.locator(".token-view").first
        panel = view.locator(".token-panel")
        view.locator(".token").nth(40).hover()
        assert "position 40" in panel.inner_text()
        facts = dict(zip(panel.locator("dt").all_inner_texts(), panel.locator("dd").all_inner_texts(), strict=True))
        assert float(facts["surprisal"].removesuffix(" bits")) == pytest.approx(row["surprisal_bits"], rel=1e-3)
        assert int(facts["rank"]) == row["rank"]
        assert panel.locator(".candidate").count() == 10
        assert panel.locator(".candidate .prob").first.inner_text() == f"{100 * 2.718281828**-0.1:.1f} %"

        view.locator(".token").nth(10).click()
        page.keyboard.press("ArrowRight")
        assert "position 11" in panel.inner_text()
        page.keyboard.press("End")
        assert f"position {view.locator('.token').count() - 1}" in panel.inner_text()
        view.get_by_role("button", name="entropy").click()
        assert view.get_attribute("data-by") == "entropy"
        view.locator(".token").nth(3).hover()
        assert HOSTILE in panel.locator(".token-name").inner_text()

        assert page.evaluate("document.documentElement.scrollWidth") <= width
        seen.check(file.as_uri())


def test_the_dashboard_is_clicked_through(lake: OpenLake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("streamlit", reason="needs the extra: pip install 'tracelake[dashboard]'")
    from tracelake.queries.dashboard.server import running

    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    with running(lake.path) as (address, _), watched(1440) as seen:
        seen.page.goto(address)
        _choose_run(seen.page)
        _look_at_a_sequence(seen.page)
        _draw_a_chart(seen.page)
        _compare(seen.page)
        _ask_in_sql(seen.page)
        seen.check(address, address.replace("http", "ws", 1))
    assert [path.name for path in (tmp_path / "home").rglob("*") if path.is_file() and "streamlit" in str(path)] == []
    assert not (tmp_path / "home" / ".streamlit").exists()


def test_the_address_holds_what_is_shown(lake: OpenLake) -> None:
    pytest.importorskip("streamlit", reason="needs the extra: pip install 'tracelake[dashboard]'")
    from tracelake.queries.dashboard.server import running

    with running(lake.path) as (address, _), watched(1280) as seen:
        page = seen.page
        page.goto(address)
        _choose_run(page)
        _draw_a_chart(page)
        page.wait_for_url("**query=layer_norms**")
        assert "view=Charts" in page.url
        page.reload()
        page.get_by_text("lake chart layer_norms").wait_for()
        page.goto(f"{address}/?view=SQL&run={OTHER}&statement=select+41+%2B+1+as+answer&table=sequences")
        page.get_by_role("heading", name="SQL").wait_for()
        assert page.get_by_label("One SELECT").input_value() == "select 41 + 1 as answer"
        page.get_by_text("1 rows").wait_for()


@pytest.mark.parametrize("width", [1280, 480])
def test_a_map_of_attention_is_square_and_the_page_is_not_wider_than_the_window(width: int, lake: OpenLake) -> None:
    pytest.importorskip("streamlit", reason="needs the extra: pip install 'tracelake[dashboard]'")
    from tracelake.queries.dashboard.server import running

    with running(lake.path) as (address, _), watched(width) as seen:
        page = seen.page
        page.goto(f"{address}/?view=Charts&run={RUN}&query=attention_map")
        _chart(page, "Attention of one head")
        cell = page.locator("[data-testid=stVegaLiteChart] .mark-rect.role-mark path").first.bounding_box()
        assert cell["width"] == pytest.approx(cell["height"], rel=0.05)
        main = page.locator("[data-testid=stMain]")
        assert main.evaluate("element => element.scrollWidth <= element.clientWidth")


def _chart(page: Any, title: str) -> None:
    """Waits until a chart with this title is drawn, with marks that have a size."""
    chart = page.locator("[data-testid=stVegaLiteChart]").filter(has_text=title).first
    chart.scroll_into_view_if_needed()
    chart.locator(".mark-rect path, .mark-line path, .mark-symbol path").first.wait_for(state="attached")


def _select(page: Any, label: str, option: str) -> None:
    page.get_by_label(label).first.click()
    page.keyboard.type(option)  # a long list shows only what is near, or what is typed
    page.get_by_role("option", name=option).first.click()


def _view(page: Any, name: str) -> None:
    page.locator("[data-testid=stSidebar]").get_by_text(name, exact=True).click()
    page.get_by_role("heading", name=name).wait_for()


def _choose_run(page: Any) -> None:
    page.get_by_role("heading", name=RUN).wait_for()
    _select(page, "Run", OTHER)
    page.get_by_role("heading", name=OTHER).wait_for()
    _select(page, "Run", RUN)
    page.get_by_role("heading", name=RUN).wait_for()
    _chart(page, "Entropy while generating")


def _look_at_a_sequence(page: Any) -> None:
    _view(page, "Sequence")
    frame = page.frame_locator("iframe")
    frame.locator(".token").nth(12).hover()
    frame.get_by_text("position 12, prompt").wait_for()
    _chart(page, "Norm of the state")


def _draw_a_chart(page: Any) -> None:
    _view(page, "Charts")
    _select(page, "Saved query", "layer_norms")
    _chart(page, "Norm of the state by layer")
    page.get_by_text("lake chart layer_norms").wait_for()


def _compare(page: Any) -> None:
    _view(page, "Compare")
    _chart(page, "Entropy of generated tokens")
    _chart(page, "Two runs, prompt by prompt")


def _ask_in_sql(page: Any) -> None:
    _view(page, "SQL")
    _chart(page, "Result")
    box = page.get_by_label("One SELECT")
    box.fill("select no_such_column from token_steps")
    page.get_by_role("button", name="Run", exact=True).click()
    page.locator("[data-testid=stAlert]").get_by_text("no_such_column").wait_for()
    box.fill("select position, avg(entropy_bits) as bits from token_steps group by 1 order by 1")
    page.get_by_role("button", name="Run", exact=True).click()
    page.locator("[data-testid=stAlert]").wait_for(state="detached")
    _chart(page, "Result")
    _complete_names(page, box)


def _complete_names(page: Any, box: Any) -> None:
    """What is typed is completed by Tab from tables, then from the columns of those that are read."""
    bar = page.get_by_role("group", name="Names that fit")
    page.locator("[data-testid=stApp][data-test-script-state=notRunning]").wait_for()
    box.fill("")
    box.press_sequentially("select avg(t.) as mean from token_st")
    bar.get_by_role("button", name="token_steps", exact=True).wait_for()
    assert bar.get_by_role("button").count() == 1
    page.keyboard.press("Tab")
    box.press_sequentially(" t where ")
    for _ in range(len("select avg(t."), len("select avg(t.) as mean from token_steps t where ")):
        page.keyboard.press("ArrowLeft")
    box.press_sequentially("entr")
    bar.get_by_role("button", name="entropy_bits", exact=True).dispatch_event("pointerdown")
    assert box.input_value() == "select avg(t.entropy_bits) as mean from token_steps t where "
    page.keyboard.press("End")
    box.press_sequentially("st")
    page.keyboard.press("Escape")
    assert bar.get_by_role("button").count() == 0
    box.press_sequentially("ep")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("End")
    box.press_sequentially(" < 4")
    page.get_by_role("button", name="Run", exact=True).click()  # what Streamlit was told is what is in the box
    page.locator("[data-testid=stDataFrame]").first.wait_for()
    page.locator("[data-testid=stAlert]").wait_for(state="detached")
