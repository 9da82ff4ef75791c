"""Token ids to text: display strings, completions in context, and where in the completion each token ends.

A SentencePiece tokenizer writes a word's space at its first piece and takes away the one in front of a whole text, a
WordPiece tokenizer puts spaces between words: what a token says depends on what stands before it. So nothing is decoded
alone: the text of some tokens is what the text of all grows by.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

CONTEXT = 16
"""Tokens of what stands before that are decoded too."""
SIGN = "\ufffd"
"""Stands for bytes that are no character, or not yet."""


class Context(NamedTuple):
    """Tokens before others, and their text."""

    ids: list[int]
    text: str


class TokenText:
    """Decodes with one tokenizer; remembers the display string of every token it has met."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.special = special_ids(tokenizer)
        self._word = word_id(lambda ids: self._decoded(ids, special=True), _first_ids(tokenizer), self.special)
        self._display: dict[int, str] = {}
        self._alone: dict[int, Context] = {}

    def display(self, ids: np.ndarray) -> list[str]:
        """What each token adds to a text, a word's space included; pieces of a character show as the replacement sign.

        It is a property of the id alone, so also the first word of a text shows the space that its token stands for.
        """
        known = self._display
        for token_id in np.unique(ids).tolist():
            if token_id not in known:
                word = None if token_id in self.special else self._word
                known[token_id] = added_text(lambda ids: self._decoded(ids, special=True), word, [token_id])
        return [known[token_id] for token_id in ids.tolist()]

    def completion(self, ids: Sequence[int], before: Sequence[int] | np.ndarray = ()) -> str:
        """The text that `ids` add to that of the tokens before them, without special tokens.

        The text of the prompt followed by it is the text of all tokens. Where the tokens finish a character that the
        prompt breaks off, or take back a space at its end, it begins after what remains of the prompt's text.
        """
        return self._added(self._context(before), ids)

    def char_ends(self, ids: Sequence[int], completion: str, before: Sequence[int] | np.ndarray = ()) -> np.ndarray:
        """Characters of `completion` that are complete after each token."""
        context = self._context(before)
        ends = self._by_window(context, ids, completion)
        return self._by_prefix(context, ids, completion) if ends is None else ends

    def written(self, ids: Sequence[int], before: Sequence[int] | np.ndarray = (), *, special: bool = False) -> str:
        """What a text to stop at is looked for in: as `completion`, or with special tokens.

        The space in front of a first word counts, whether or not there is a text before it.
        """
        context = self._context(before)
        if self._word is not None and not context.text.strip():
            context = self._text_of([*context.ids, self._word])
        if special:
            context = self._text_of(context.ids, special=True)
        return self._added(context, ids, special=special)

    def names_special(self, text: str) -> bool:
        """Whether the text of a special token stands in it."""
        names = (self._decoded([token_id], special=True).strip() for token_id in self.special)
        return any(name and name in text for name in names)

    def _decoded(self, ids: Sequence[int], *, special: bool = False) -> str:
        return self.tokenizer.decode(list(ids), skip_special_tokens=not special)

    def _text_of(self, ids: Sequence[int], *, special: bool = False) -> "Context":
        return Context(list(ids), self._decoded(ids, special=special))

    def _window(self, ids: list[int]) -> "Context":
        """As `_text_of`, remembered for single tokens, which most windows are."""
        if len(ids) > 1:
            return self._text_of(ids)
        if ids[0] not in self._alone:
            self._alone[ids[0]] = self._text_of(ids)
        return self._alone[ids[0]]

    def _context(self, before: Sequence[int] | np.ndarray) -> "Context":
        """The end of what stands before, long enough to be a text by itself; all of it where no end is."""
        size = CONTEXT
        while True:
            tail = self._text_of([int(token_id) for token_id in before[max(0, len(before) - size) :]])
            if len(tail.ids) == len(before) or (SIGN not in tail.text and tail.text.strip()):
                return tail
            size *= 4

    def _added(self, context: "Context", ids: Sequence[int], *, special: bool = False) -> str:
        """What the text of `context` grows by."""
        before, whole = context.text, self._decoded([*context.ids, *ids], special=special)
        if whole.startswith(before):
            return whole[len(before) :]
        shared = _shared(before, whole)
        if whole.startswith(SIGN, shared) and not before.startswith(SIGN, shared):
            # Bytes that spoil a whole row of them, also those of the text before: that one stays as it was written.
            return added_text(lambda ids: self._decoded(ids, special=special), self._word, ids)
        return whole[shared:]

    def _by_window(self, context: "Context", ids: Sequence[int], completion: str) -> np.ndarray | None:
        """A few tokens at a time, behind those of the last whole text; None if their texts are not the completion."""
        first, length = 0, 0
        ends = np.empty(len(ids), dtype=np.int32)
        for i in range(len(ids)):
            text = self._added(context, ids[first : i + 1])
            whole = _complete(text)
            ends[i] = length + _shared(whole, completion[length : length + len(whole)])
            if text and whole == text and completion.startswith(text, length):
                # What ends here is final. A window of spaces alone is no text that the next could stand behind.
                window = list(ids[first : i + 1])
                context = self._window(window) if text.strip() else self._text_of([*context.ids, *window])
                first, length = i + 1, length + len(text)
        done = int(ends[-1]) if len(ids) else 0
        return None if _complete(completion[done:]) else np.maximum.accumulate(ends)

    def _by_prefix(self, context: "Context", ids: Sequence[int], completion: str) -> np.ndarray:
        """Decode every prefix and count what it shares with the completion; quadratic, for odd texts only."""
        ends = np.empty(len(ids), dtype=np.int32)
        for i in range(len(ids)):
            ends[i] = _shared(_complete(self._added(context, ids[: i + 1])), completion)
        return np.maximum.accumulate(ends)


def special_ids(tokenizer: Any) -> frozenset[int]:
    """Ids of a tokenizer of transformers that its texts leave out when they are to."""
    added = {token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special}
    return frozenset(added | set(tokenizer.all_special_ids))


def _first_ids(tokenizer: Any) -> Iterable[int]:
    """Ids among which a word is to be found: of a letter, then any."""
    yield from reversed(tokenizer("a", add_special_tokens=False)["input_ids"])
    yield from range(len(tokenizer))


def word_id(decode: Callable[[list[int]], str], ids: Iterable[int], special: frozenset[int]) -> int | None:
    """The first id whose text stands for itself: no special token, no space, no piece of a character."""
    for token_id in ids:
        if token_id not in special and (text := decode([token_id])).strip() and _complete(text) == text:
            return token_id
    return None


def added_text(decode: Callable[[list[int]], str], word: int | None, ids: Sequence[int]) -> str:
    """What tokens add to the text of the token `word`, or without such a token their text alone."""
    before = "" if word is None else decode([word])
    whole = decode([*ids] if word is None else [word, *ids])
    # Tokens that change the word before them have no text of their own there.
    return whole[len(before) :] if whole.startswith(before) else decode([*ids])


def _complete(text: str) -> str:
    """The text without the signs at its end that stand for the bytes of an unfinished character."""
    return text.rstrip(SIGN)


def _shared(one: str, other: str) -> int:
    """Characters that two texts have in common at their beginning."""
    if other.startswith(one):
        return len(one)
    return len(os.path.commonprefix((one, other)))
