"""What the settings of a corpus may be beside the others: it is only read, and nothing of prompts applies to it."""

from typing import Any

from ...lake.values import JsonView

CORPUS_TOKENS = 1_000_000
"""Tokens that are read of a corpus if nothing is said."""
OF_A_CORPUS = ("tokens", "text_field", "min_chars", "document_tokens", "pack", "validation")
OF_PROMPTS = ("limit", "prompt_template", "given", "branch_from", "continue_run")


def with_corpus_defaults(values: Any) -> Any:
    """The settings as given; with a corpus nothing is generated, and the tokens are bounded."""
    if isinstance(values, dict) and values.get("corpus"):
        return {"max_new_tokens": 0, **values, "tokens": values.get("tokens") or CORPUS_TOKENS}
    return values


def check_corpus(settings: JsonView, defaults: JsonView) -> None:
    """ValueError for settings of a corpus without one, or of prompts beside one."""
    if settings["corpus"] is None:
        if given := [name for name in OF_A_CORPUS if settings[name] != defaults[name]]:
            raise ValueError(f"{given[0]} says how a corpus is read, and there is no corpus")
        return
    if settings["max_new_tokens"] or settings["samples"] > 1:
        raise ValueError("a corpus is only read: max_new_tokens is 0 and samples 1")
    if given := [name for name in OF_PROMPTS if settings[name] is not None]:
        raise ValueError(f"{given[0]} is for prompts; a corpus is bounded by tokens and read as it is")
    if settings["chat"] == "on":
        raise ValueError("chat is for prompts; a corpus is read as it is")
