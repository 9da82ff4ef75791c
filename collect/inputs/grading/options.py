"""The options of a multiple-choice item, as people publish them, and which one a text chooses."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .notation import clean, comparable, last_box
from .numbers import read_number
from .words import after_answer_is, words_of

_LABELLED = re.compile(r"\s*[(\[]?([A-Za-z0-9]{1,2})[)\].:]\s*(\S.*)", re.DOTALL)
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class Options:
    """Labels (`A`, `B`, ... if none are given) and texts, in order."""

    labels: tuple[str, ...]
    texts: tuple[str, ...]

    def expected(self, answer: str) -> str | None:
        """The label that a reference names: a label, an option's text, or a 0-based index; None if it is none.

        ValueError where a number is the text of one option and the index of another.
        """
        text = re.sub(r"^[(\[]?(\w{1,2})[)\].:]*$", r"\1", answer.strip())
        by_label = self._labelled(text)
        if by_label is not None:
            return by_label
        by_text = self._with_text(clean(answer))
        whole = re.fullmatch(r"([0-9]+)(?:\.0+)?", text)
        by_index = self.labels[int(whole[1])] if whole and int(whole[1]) < len(self.labels) else None
        if by_text is not None and by_index is not None and by_text != by_index:
            raise ValueError(f"{answer} is the text of option {by_text} and the index of option {by_index}")
        return by_text or by_index

    def chosen(self, completion: str) -> str | None:
        """The label that a completion chooses; None if it chooses none."""
        for said in (last_box(completion), after_answer_is(completion), completion):
            if said is not None and (label := self._named(said)) is not None:
                return label
        return self._last_named(completion) or self._at_end(clean(completion))

    def _labelled(self, text: str) -> str | None:
        return next((label for label in self.labels if label.casefold() == text.casefold()), None)

    def _with_text(self, text: str) -> str | None:
        """The one option with this value or text."""
        number = read_number(text)
        same = [
            label
            for label, option in zip(self.labels, self.texts, strict=True)
            if (number is not None and number == read_number(option)) or comparable(text) == comparable(clean(option))
        ]
        return same[0] if len(same) == 1 else None

    def _named(self, said: str) -> str | None:
        """The option that a text is or begins with: `B`, `(B)`, `B.`, `B) its text`, `option B`, or its text."""
        text = re.sub(r"^[\s*_`$\"']*(?:(?:option|choice)\s+)?", "", said, flags=re.IGNORECASE)
        text = re.sub(r"^\\(?:text(?:bf|rm)?|mathrm|mathbf)\s*\{([^{}]*)\}", r"\1", text)
        match = re.match(rf"[(\[]?({self._any_label()})(?:[)\]]|[.:,*]|\s*\n|\s*\Z)", text, re.IGNORECASE)
        if match is not None:
            return self._labelled(match[1])
        return self._with_text(clean(text)) or self._with_text(clean(text.split("\n", 1)[0]))

    def _last_named(self, completion: str) -> str | None:
        """The last `(B)`, `option B`, or a `B` that ends the completion."""
        label = self._any_label()
        named = rf"[(\[]({label})[)\]]|\b(?:[Oo]ption|[Cc]hoice)\s+[*_]*({label})\b|\b({label})[\s.*_)\]]*\Z"
        matches = re.findall(named, completion)
        return self._labelled("".join(matches[-1])) if matches else None

    def _at_end(self, text: str) -> str | None:
        """The one option whose text ends the completion; the longest if several do."""
        ending = [
            (len(option), label)
            for label, option in zip(self.labels, self.texts, strict=True)
            if (words := words_of(clean(option))) and re.search(rf"{words}\W*\Z", text, re.IGNORECASE)
        ]
        return max(ending)[1] if ending else None

    def _any_label(self) -> str:
        return "|".join(re.escape(label) for label in self.labels)


def read_options(value: object) -> Options:
    """Read a list of texts, `{"label": [...], "text": [...]}`, `{"A": "...", ...}`, or these as JSON text.

    ValueError says what else it is.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise ValueError("options are a list of texts, not one text") from None
    if isinstance(value, Mapping) and {"label", "text"} <= set(value):
        labels, texts = list(value["label"]), list(value["text"])
    elif isinstance(value, Mapping):
        labels, texts = list(value), list(value.values())
    elif isinstance(value, Sequence):
        labels, texts = _split(list(value))
    else:
        raise ValueError(f"options are a list of texts, not {type(value).__name__}")
    if len(labels) != len(texts) or len(texts) < 2 or len({str(label).casefold() for label in labels}) < len(labels):
        raise ValueError("options need at least two texts, each with a label of its own")
    if not all(isinstance(text, str | int | float) for text in (*labels, *texts)):
        raise ValueError("each option is a text or a number")
    return Options(tuple(map(str, labels)), tuple(map(str, texts)))


def _split(values: list[object]) -> tuple[list[str], list[object]]:
    """Labels and texts of a list; `A) 21` has its label already."""
    if len(values) > len(LETTERS):
        raise ValueError(f"there are {len(values)} options; at most {len(LETTERS)} can have a letter")
    letters = list(LETTERS[: len(values)])
    matches = [_LABELLED.fullmatch(value) if isinstance(value, str) else None for value in values]
    labelled = [match for match in matches if match is not None]
    if len(labelled) == len(values) and [match[1].upper() for match in labelled] == letters:
        return letters, [match[2] for match in labelled]
    return letters, values
