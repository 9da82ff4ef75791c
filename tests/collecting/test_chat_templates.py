"""Chat templates: several under their names, ones that refuse, messages of shapes that a template cannot take."""

from pathlib import Path
from typing import Any

import pytest
from random_models import byte_tokenizer, random_model, save

import tracelake
from tracelake.collect.inputs.fields import prompt_from_row
from tracelake.collect.inputs.tokenizing.tokenized import PromptTokenizer, TokenizedPrompt
from tracelake.lake import Lake
from tracelake.lake.errors import ConfigError

PLAIN = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] }}\n{% endfor %}"
REFUSES = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + PLAIN
)
SHOWS = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
PARTS = "{% for m in messages %}{% for part in m['content'] %}{{ part['text'] }}{% endfor %}\n{% endfor %}"
NAMED = {"default": SHOWS, "short": "{{ messages[-1]['content'] }}"}


def rendered(template: Any, row: dict[str, Any], name: str | None = None, chat: str = "auto") -> TokenizedPrompt:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    reader = PromptTokenizer(tokenizer, chat, "error", 500, True, name)  # type: ignore[arg-type]
    (item,) = reader.tokenize([prompt_from_row(row, 7, "p.jsonl, line 8")])
    return item


def said(content: Any, role: str = "user") -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content}]}


@pytest.mark.parametrize(
    ("template", "row", "says"),
    [
        (REFUSES, said("be brief", "system"), r"roles system\): System role not supported"),
        (PLAIN, said([{"type": "text", "text": "hi"}]), "refuses these messages"),
        (SHOWS, said([{"type": "text", "text": "hi"}]), "not as a list of parts"),
        ("{{ messages[0]['content'][0]['image'] + 1 }}", said("hi"), "refuses these messages"),
        ("{{ messages[3]['content'].strip() }}", said("hi"), "refuses these messages"),
        ("{{ 1 // 0 }}", {"prompt": "hi"}, "refuses these messages"),
        ("{% for %}", {"prompt": "hi"}, "refuses these messages"),
        (None, said("hi"), "has no chat template"),
    ],
)
def test_what_a_template_refuses_names_the_item(template: str | None, row: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=f"Item 7.*{says}"):
        rendered(template, row)


def test_parts_of_text_are_read_by_a_template_that_takes_them() -> None:
    row = said([{"type": "text", "text": "Hello "}, {"type": "text", "text": "there"}])
    assert rendered(PARTS, row).rendered == "Hello there"
    calls = [{"type": "function", "function": {"name": "add", "arguments": {}}}]
    row = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": None, "tool_calls": calls}]}
    template = "{% for m in messages %}{{ m['tool_calls'][0]['function']['name'] if m['tool_calls'] }}{% endfor %}"
    assert rendered(template, row).rendered == "add"


def test_one_of_several_templates_is_chosen_by_name() -> None:
    row = {"prompt": "hi"}
    assert rendered(NAMED, row).rendered == "user: hi\n"
    assert rendered(NAMED, row, "short").rendered == "hi"
    assert rendered(NAMED, row, chat="off").rendered is None
    with pytest.raises(ConfigError, match="shrt.*Did you mean 'short'.*default, short"):
        rendered(NAMED, row, "shrt")
    with pytest.raises(ConfigError, match="None of the chat templates is called default.*tool_use"):
        rendered({"tool_use": PLAIN, "rag": PLAIN}, row)
    with pytest.raises(ConfigError, match="has no chat template"):
        rendered(None, {"prompt": "hi"}, "short", chat="on")


def test_a_model_with_several_templates_is_collected_and_resumable(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = NAMED
    folder = str(save(random_model("gpt2"), tmp_path / "model", tokenizer))
    settings = {"model": folder, "prompt": "hi there", "max_new_tokens": 2, "keep": ["tokens"]}
    runs = [
        tracelake.collect(tmp_path / "lake", **settings, **more).run_id  # type: ignore[arg-type]
        for more in ({}, {"chat_template": "short"}, {"chat": "off"})
    ]
    rows = tracelake.open(tmp_path / "lake").sql("select run_id, rendered_prompt from sequences")
    by_run = dict(rows.iter_rows())
    assert [by_run[run] for run in runs] == ["user: hi there\n", None, None]
    lake = Lake.open(tmp_path / "lake")
    hashes = {lake.run_json(run)["model"]["chat_template_sha256"] for run in runs}
    assert len(hashes) == 1 and None not in hashes
