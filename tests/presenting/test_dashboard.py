"""The dashboard: every view over a real lake, mistakes as messages, a server that only this machine reaches.

The views run in Streamlit's own test harness; tests/test_browser.py clicks through them in a browser.
"""

import importlib.util
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from hand_made_lake import HOSTILE, OTHER, RUN, write_lake
from small_tables import N, tables

from tracelake.lake import Lake
from tracelake.lake.errors import NotFoundError, UsageError
from tracelake.queries.dashboard import server
from tracelake.queries.dashboard.text import literal

APP = Path(server.__file__).with_name("app.py")
NASTY_TAG = "![p](http://example.org/x.png) <b>[l](http://example.org)"
needs_streamlit = pytest.mark.skipif(
    importlib.util.find_spec("streamlit") is None, reason="needs the extra: pip install 'tracelake[dashboard]'"
)


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    import polars as pl

    found = tables() | {"runs": tables()["runs"].with_columns(tag=pl.lit(NASTY_TAG))}
    return write_lake(tmp_path_factory.mktemp("dashboard"), found)


@pytest.fixture
def view(lake: Lake, monkeypatch: pytest.MonkeyPatch):
    """Opens the dashboard on one of its views."""
    return lambda name="Run": opened(lake.path, monkeypatch, name)


def opened(path: Path, monkeypatch: pytest.MonkeyPatch, view: str = "Run"):
    from streamlit.testing.v1 import AppTest

    monkeypatch.setenv("TRACELAKE_LAKE", str(path))
    app = AppTest.from_file(str(APP), default_timeout=60)
    app.session_state["view"] = view
    return app.run()


def healthy(app) -> bool:
    return not app.exception and not app.error


def charts(app) -> int:
    return len(app.get("vega_lite_chart"))


@needs_streamlit
@pytest.mark.parametrize(
    ("name", "least"),
    [("Run", 8), ("Sequence", 4), ("Charts", 1), ("Compare", 4), ("SQL", 1), ("Feature", 1), ("Neuron", 2)],
)
def test_every_view_shows_its_charts(name: str, least: int, view) -> None:
    app = view(name)
    assert healthy(app)
    assert charts(app) >= least


@needs_streamlit
def test_another_run_can_be_chosen(view) -> None:
    app = view("Run")
    app.sidebar.selectbox(key="run").set_value(OTHER).run()
    assert healthy(app)
    assert app.title[0].value == literal(OTHER)
    assert "32" not in app.metric[0].value and app.metric[0].value == str(N)


@needs_streamlit
def test_a_feature_has_its_card_and_its_token_marked(view) -> None:
    app = view("Feature")
    assert healthy(app) and any("see<mark> a</mark> here" in one.proto.body for one in app.get("html"))
    app.number_input(key="feature").set_value(3).run()
    assert healthy(app) and "never active" in str(app.dataframe[0].value)
    app.sidebar.selectbox(key="run").set_value(OTHER).run()
    assert healthy(app) and "lake sae features" in app.info[0].value


@needs_streamlit
def test_a_neuron_has_its_card_and_what_makes_the_rest(view) -> None:
    app = view("Neuron")
    app.number_input(key="neuron").set_value(1).run()
    assert healthy(app) and "after Holm" in str(app.table[0].value) and "word0" in str(app.table[0].value)
    app.selectbox(key="layer").set_value(1).run()
    assert healthy(app) and "neuron\\-pca" in app.info[0].value
    app.sidebar.selectbox(key="run").set_value(OTHER).run()
    assert healthy(app) and "lake experiment neurons" in app.info[0].value


@needs_streamlit
def test_sequences_are_filtered_by_a_condition_in_sql(view, lake: Lake) -> None:
    app = view("Run")
    app.text_input(key="condition").set_value("not correct -- only these").run()
    wrong = lake.sql(f"select count(*) as n from sequences where run_id = '{RUN}' and not correct")["n"].item()
    assert healthy(app)
    assert len(app.dataframe[-1].value) == wrong > 0


@needs_streamlit
def test_a_wrong_condition_is_a_message(view) -> None:
    app = view("Sequence")
    for condition in ("no_such_column > 1", "correct; drop table sequences", "true) union (select", "("):
        app.text_input(key="condition").set_value(condition).run()
        assert len(app.error) == 1 and not app.exception
    app.text_input(key="condition").set_value("").run()
    assert healthy(app) and charts(app) >= 4


@needs_streamlit
def test_sql_shows_its_rows_and_draws_them(view, lake: Lake) -> None:
    app = view("SQL")
    statement = "select position, avg(surprisal_bits) as bits from token_steps group by 1 order by 1"
    app.text_area(key="statement").set_value(statement)
    app.button[0].click().run()
    assert healthy(app) and charts(app) == 1
    expected = lake.sql(statement)
    assert app.dataframe[-1].value["bits"].tolist()[1:] == pytest.approx(expected["bits"].to_list()[1:])


MISTAKES = {
    "select nothing from token_steps": "nothing",
    "select 1; select 2": "Exactly one SELECT",
    "copy (select 1) to '/tmp/stolen.csv'": "Exactly one SELECT",
    "select * from read_text('/etc/passwd')": "not possible here",
    "selec": "cannot be parsed",
}


@needs_streamlit
def test_sql_mistakes_are_messages_and_an_empty_result_is_shown(view) -> None:
    app = view("SQL")
    for statement, message in MISTAKES.items():
        app.text_area(key="statement").set_value(statement)
        app.button[0].click().run()
        assert not app.exception and len(app.error) == 1
        assert literal(message) in app.error[0].value
    app.text_area(key="statement").set_value("select position, token from token_steps where false")
    app.button[0].click().run()
    assert healthy(app) and charts(app) == 0
    assert list(app.dataframe[-1].value.columns) == ["position", "token"]


@needs_streamlit
def test_a_saved_querys_parameters_are_widgets(view) -> None:
    app = view("Charts")
    app.text_input(key="surprisal_trace.sequence").set_value("3").run()
    assert healthy(app) and "--param sequence=3" in app.code[0].value
    app.text_input(key="surprisal_trace.sequence").set_value("three").run()
    assert "whole number" in app.error[0].value and not app.exception


@needs_streamlit
def test_a_broken_query_of_the_users_leaves_the_others(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = lake.path / "queries"
    folder.mkdir(exist_ok=True)
    (folder / "mine.sql").write_text("selec")
    try:
        app = opened(lake.path, monkeypatch, "Charts")
        assert "mine" in app.warning[0].value and charts(app) == 1 and healthy(app)
    finally:
        (folder / "mine.sql").unlink()


@needs_streamlit
def test_text_from_the_lake_is_not_markdown(view) -> None:
    app = view("SQL")
    captions = " ".join(caption.value for caption in app.sidebar.caption)
    assert literal(NASTY_TAG) in captions and NASTY_TAG not in captions


@needs_streamlit
def test_tokens_are_shown_as_text(view) -> None:
    hostile = tables()["token_steps"].filter(run_id=RUN, token=HOSTILE)["sequence_id"][0]
    app = view("Sequence")
    app.selectbox(key="sequence").set_value(hostile).run()
    [frame] = app.get("iframe")
    assert "&lt;/script&gt;" in frame.proto.srcdoc and HOSTILE not in frame.proto.srcdoc
    assert "default-src &#39;none&#39;" in frame.proto.srcdoc


@needs_streamlit
def test_no_lake_and_no_runs_are_messages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "There is no lake" in opened(tmp_path / "none", monkeypatch).error[0].value
    Lake.create(tmp_path / "empty")
    app = opened(tmp_path / "empty", monkeypatch)
    assert healthy(app) and "no runs yet" in app.sidebar.info[0].value


@needs_streamlit
def test_the_server_answers_on_this_machine_only_and_ends(lake: Lake) -> None:
    with server.running(lake.path) as (address, process):
        with urllib.request.urlopen(address, timeout=10) as answer:
            assert answer.status == 200
        port = int(address.rpartition(":")[2])
        assert address == f"http://127.0.0.1:{port}"
        with socket.socket() as other, pytest.raises(OSError):
            other.connect((_own_address(), port))
        with pytest.raises(UsageError, match=f"--port {port} cannot be had"):
            server.serve(lake.path, port=port, say=lambda _: None)
    assert process.poll() is not None


@needs_streamlit
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_server_ends_with_its_command(number: int, lake: Lake) -> None:
    # A shell lets what it starts in the background ignore SIGINT, and with it everything below.
    restored = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    script = f"{restored}; from tracelake.cli import main; main()"
    command = [sys.executable, "-c", script, "dashboard", "--no-browser", "--lake", str(lake.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        urllib.request.urlopen(address, timeout=10).close()
        process.send_signal(number)
        try:
            assert process.wait(20) in (128 + number, 130)
        finally:
            process.kill()
    with pytest.raises(OSError):
        urllib.request.urlopen(address, timeout=5)


def _own_address() -> str:
    """Another address of this machine, where a server that listens on all of them would answer."""
    return "127.0.0.2"


def test_telemetry_is_off_and_nothing_but_the_loopback_is_served() -> None:
    flags = server._flags(8501)
    assert "--browser.gatherUsageStats=false" in flags and "--server.address=127.0.0.1" in flags
    assert "--server.headless=true" in flags


def test_without_streamlit_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(NotFoundError, match=r"pip install 'tracelake\[dashboard\]'"):
        server.serve(tmp_path)


@pytest.mark.parametrize("port", [-1, 65_536])
def test_a_port_is_a_port(port: int, tmp_path: Path) -> None:
    if importlib.util.find_spec("streamlit") is None:
        pytest.skip("needs the extra: pip install 'tracelake[dashboard]'")
    with pytest.raises(UsageError, match="between 1 and 65535"):
        server.serve(tmp_path, port=port)


def test_literal_leaves_nothing_to_markdown() -> None:
    assert literal("a *b* [c](d) `e` $f$ :g:") == r"a \*b\* \[c\]\(d\) \`e\` \$f\$ \:g\:"
    assert len(literal("x" * 10_000)) == 400
    assert "\u202e" not in literal("\u202e")
