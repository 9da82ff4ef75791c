"""A character that is written with several tokens is shown once: Arabic, Chinese and emoji are readable."""

import json
from pathlib import Path

import pytest
from scripted_models import scripted_model
from subword_tokenizers import TOKENIZERS

from tracelake import OpenLake
from tracelake.collect.configuration.config import CollectConfig
from tracelake.collect.running.collector import Collection
from tracelake.lake import Lake
from tracelake.queries.report.report import write_report
from tracelake.queries.report.tokens import TokenView, scales, token_view

PROMPT = "\u0633\u0644\u0627\u0645 a \U0001f680 \u6f22\u5b57"
COMPLETION = " \u0645\u0631\u062d\u0628\u0627 \u6f22 \U0001f680\U0001f680 b"
SIGN = "\ufffd"


@pytest.fixture(scope="module", params=["bytes", "llama", "gemma"])
def lake(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> OpenLake:
    """A model that writes COMPLETION behind PROMPT, then one byte that begins a character."""
    tokenizer = TOKENIZERS[request.param]()
    prompt = tokenizer(PROMPT)["input_ids"]
    plain = len(tokenizer(PROMPT, add_special_tokens=False)["input_ids"])
    own = tokenizer(PROMPT + COMPLETION + "\u6f22", add_special_tokens=False)["input_ids"][plain:-2]
    assert own, "the completion begins a token of its own"
    end = tokenizer.convert_tokens_to_ids("<pad>" if request.param == "bytes" else "<unk>")
    folder = scripted_model(tmp_path_factory.mktemp("model"), tokenizer, len(prompt), own, end)
    store = Lake.create(tmp_path_factory.mktemp("lake"))
    config = CollectConfig(model=str(folder), prompt=(PROMPT,), max_new_tokens=90, device="cpu", keep=("tokens",))
    Collection(config).start(store)
    return OpenLake(store.path)


def view_of(lake: OpenLake) -> TokenView:
    run_id = lake.runs()[0]["run_id"]
    with lake.connect(locked=True) as connection:
        return token_view(connection, run_id, 0, scales(connection, run_id))


def test_every_character_is_shown_once(lake: OpenLake) -> None:
    view = view_of(lake)
    n = len(view.data["position"])
    assert [i for span in view.spans for i in range(span["first"], span["first"] + span["count"])] == list(range(n))
    prompt = "".join(span["text"] for span in view.spans if not span["generated"])
    completion = "".join(span["text"] for span in view.spans if span["generated"])
    # Where it is no text of its own, a token shows its name: the begin token, the token that ends the sequence.
    assert prompt.removeprefix("<s>").strip() == PROMPT.strip()
    assert completion.removesuffix("<pad>").removesuffix("<unk>") == COMPLETION + SIGN
    several = {span["text"].strip(): span["count"] for span in view.spans if span["count"] > 1}
    assert several["\u6f22"] == 3 and several["\U0001f680"] in (3, 4) and several["\u0631"] == 2


def test_a_character_has_the_colour_of_its_strongest_token(lake: OpenLake) -> None:
    view = view_of(lake)
    run_id = lake.runs()[0]["run_id"]
    full = scales(lake.connect(), run_id).surprisal_bits
    checked = 0
    for span in view.spans:
        bits = view.data["surprisal_bits"][span["first"] : span["first"] + span["count"]]
        known = [min(1.0, value / full) for value in bits if value is not None]
        assert span["surprisal"] == (pytest.approx(max(known), abs=1e-3) if known else None)
        checked += span["count"] > 1
    assert checked > 5


def test_the_page_holds_one_span_per_character(lake: OpenLake, tmp_path: Path) -> None:
    run_id = lake.runs()[0]["run_id"]
    write_report(lake, run_id, tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    view = view_of(lake)
    assert page.count('<span class="token') - page.count('<span class="token-') == len(view.spans)
    assert page.count('data-count="3"') == sum(span["count"] == 3 for span in view.spans) > 0
    data = json.loads(page.split('class="token-data">')[1].split("</script>")[0])
    assert data["position"] == view.data["position"], "the panel still has every token"
