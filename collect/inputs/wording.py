"""Prompt templates: a text with `{question}` that a problem is put into before the model reads it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ...lake.errors import NotFoundError, UsageError, did_you_mean
from ...lake.values import Json
from .fields import Prompt
from .source import SourceOverAnother

QUESTION = "{question}"
TEMPLATES = {
    "second_order_neurons": "Solve the following problem:\n{question}\nAnswer:",
    "sampling_geometry": "User: {question}\nPlease solve this step by step.\nAssistant:",
    "question_answer": "Question: {question}\nAnswer:",
}
"""By name: those of the experiments that this program rebuilds, and the one that tinymath was trained with."""


def read_template(name: str) -> str:
    """The template of a name or file; UsageError for one without `{question}`."""
    if name in TEMPLATES:
        return TEMPLATES[name]
    try:
        text = Path(name).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"--prompt-template {name} is not UTF-8. Save it as UTF-8.") from error
    except (OSError, ValueError) as error:
        raise NotFoundError(
            f"There is no prompt template {name!r}, neither as a file nor by name.{did_you_mean(name, TEMPLATES)}"
        ) from error
    text = text.removesuffix("\n")  # that editors end files with
    if QUESTION not in text:
        raise UsageError(f"--prompt-template {name} has no {QUESTION}: write it where the problem belongs.")
    return text


@dataclass(frozen=True)
class WordedPrompts(SourceOverAnother):
    """Another source, its prompts put into a template; a prompt's id stays that of its own text."""

    template: str

    def describe(self) -> Json:
        return {**self.source.describe(), "prompt_template": self.template}

    def __iter__(self) -> Iterator[Prompt]:
        for prompt in self.source:
            if prompt.messages is not None:
                raise UsageError(
                    f"Item {prompt.item_id} has messages, and --prompt-template takes texts. Give it a `prompt`, or "
                    "leave the template out."
                )
            yield replace(prompt, wording=self.template.replace(QUESTION, prompt.text))
