"""Prompts as the model will read them: chat template, token ids, character offsets, over-long ones cut or split."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np

from ....lake.errors import ConfigError
from ..beginnings import Beginning
from ..fields import Prompt
from .template import ChatTemplate
from .text import TokenText

GROUP = 256
"""Prompts tokenised in one call."""


@dataclass(frozen=True)
class TokenizedPrompt:
    """One work item: token ids of a prompt or of a piece of one, with the character offset where each token ends."""

    prompt: Prompt
    text: str
    rendered: str | None
    ids: np.ndarray
    char_ends: np.ndarray | None
    item_offset: int = 0
    given: tuple[int, ...] = ()
    """Ids that its completions begin with."""
    retokenised: bool = False
    """Whether the ids of prompt and given text together do not begin with the prompt's: the text's are its own."""

    @property
    def n_opening(self) -> int:
        """Tokens that are read before one is chosen."""
        return len(self.ids) + len(self.given)


@dataclass(frozen=True)
class PromptTokenizer:
    """Applies the template and the tokenizer; `limit` is the longest prompt in tokens.

    `n_embeddings` is how many tokens the model has an embedding for: a tokenizer of another model may have more.
    """

    tokenizer: Any
    chat: Literal["auto", "on", "off"]
    on_long: Literal["error", "truncate", "split"]
    limit: int
    generates: bool
    template_name: str | None = None
    n_embeddings: int | None = None
    given_counts: bool = True
    """Whether prompt and completion share the model's positions; an encoder's are its own."""

    @property
    def uses_template(self) -> bool:
        """`auto` applies a template iff the tokenizer has one and tokens are to be generated."""
        has = bool(self.tokenizer.chat_template)
        if self.chat == "on" and not has:
            raise ConfigError("--chat on: this model's tokenizer has no chat template. Use --chat off or auto.")
        return self.chat == "on" or (self.chat == "auto" and has and self.generates)

    @cached_property
    def template(self) -> ChatTemplate | None:
        """The template for messages, and for prompts where one is used; None if the tokenizer has none."""
        return ChatTemplate.of(self.tokenizer, self.template_name, add_prompt=self.generates)

    def tokenize(self, prompts: Iterable[Prompt]) -> Iterator[TokenizedPrompt]:
        """Work items in the order of the prompts; a long prompt may give several."""
        for group in _groups(prompts, GROUP):
            if group[0].stored is not None:
                yield from map(self._read_before, group)
                continue
            for prompt, rendered, ids, ends in zip(group, *self._encoded(group), strict=True):
                if len(ids) == 0:
                    raise ConfigError(f"Item {prompt.item_id}: the prompt has no tokens. Give it a text.")
                if self.n_embeddings is not None and ids.max() >= self.n_embeddings:
                    raise self._without_embedding(prompt, int(ids.max()))
                for item in self._fitted(prompt, rendered, ids, ends):
                    yield item if prompt.beginning is None else self._begun(item, prompt.beginning)

    def _read_before(self, prompt: Prompt) -> TokenizedPrompt:
        """A prompt of a stored sequence, as it was read then."""
        stored = prompt.stored
        assert stored is not None
        item = TokenizedPrompt(
            prompt, prompt.text, stored.rendered, stored.ids, stored.char_ends, item_offset=stored.item_offset
        )
        return item if prompt.beginning is None else self._begun(item, prompt.beginning)

    def _begun(self, item: TokenizedPrompt, beginning: Beginning) -> TokenizedPrompt:
        """The item with the ids that its completions begin with."""
        given, retokenised = beginning.ids, False
        if beginning.text is not None and beginning.one_token:
            given = (*given, self._one_token(beginning.text))
        elif beginning.text is not None:
            before, text = (item.text if item.rendered is None else item.rendered), beginning.text
            if beginning.joined and not before[-1:].isspace() and not text[:1].isspace():
                text = f" {text}"
            whole = before + text
            n, own = len(item.ids), item.ids.tolist()
            # A chat template writes special tokens itself, the words of --prompt-template do not.
            plain = item.rendered is None
            both = (self.tokenizer(whole, add_special_tokens=adds, verbose=False) for adds in (plain, not plain))
            ids = next((one["input_ids"] for one in both if list(one["input_ids"][:n]) == own), None)
            if ids is None:
                retokenised = True
                ids, n = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"], 0
            given = (*given, *ids[n:])
            if len(given) == 0:
                raise ConfigError(f"Item {item.prompt.item_id}: the given text has no tokens.")
        unknown = [i for i in given if self.n_embeddings is not None and not 0 <= i < self.n_embeddings]
        if unknown:
            raise ConfigError(f"Item {item.prompt.item_id}: the model has no token {unknown[0]} to be given.")
        n = len(given) + (len(item.ids) if self.given_counts else 0)
        if n > self.limit:
            raise ConfigError(
                f"Item {item.prompt.item_id}: {n:,} tokens of prompt and given completion; the model takes "
                f"{self.limit:,}. Branch earlier or give less."
            )
        return replace(item, given=given, retokenised=retokenised)

    def _one_token(self, text: str) -> int:
        ids = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        if len(ids) != 1:
            pieces = ", ".join(f"{self.tokenizer.decode([i])!r} ({i})" for i in ids) or "none"
            raise ConfigError(
                f"--force {text!r} is {len(ids)} tokens ({pieces}); one token can be forced. Give one of these, or its "
                "id as a number."
            )
        return int(ids[0])

    def _without_embedding(self, prompt: Prompt, token_id: int) -> ConfigError:
        token = self.tokenizer.convert_ids_to_tokens(token_id)
        return ConfigError(
            f"Item {prompt.item_id}: token {token_id} ({token!r}) has no embedding: the tokenizer has "
            f"{len(self.tokenizer):,} tokens, the model {self.n_embeddings:,}. Put the tokenizer that the model was "
            "trained with into its folder."
        )

    def _encoded(self, group: list[Prompt]) -> tuple[list[str | None], list[np.ndarray], list[np.ndarray | None]]:
        """Rendered text (None if equal to the prompt), ids and character ends of each prompt."""
        rendered = [self._render(prompt) for prompt in group]
        fast = bool(getattr(self.tokenizer, "is_fast", False))
        ids: list[np.ndarray] = []
        ends: list[np.ndarray | None] = []
        for prompt, text in zip(group, rendered, strict=True):
            # A template writes its special tokens itself; adding the tokenizer's own would double the first one.
            encoded = self.tokenizer(
                prompt.text if text is None else text,
                add_special_tokens=prompt.messages is None and not self.uses_template,
                return_offsets_mapping=fast,
                return_attention_mask=False,
                verbose=False,
            )
            ids.append(np.asarray(encoded["input_ids"], dtype=np.int64))
            ends.append(char_ends(encoded["offset_mapping"]) if fast else None)
        return rendered, ids, ends

    def _render(self, prompt: Prompt) -> str | None:
        if prompt.messages is None and not self.uses_template:
            return prompt.wording
        if self.template is None:
            raise ConfigError(f"Item {prompt.item_id} has messages, but this model's tokenizer has no chat template.")
        return self.template.render(prompt)

    def _fitted(
        self, prompt: Prompt, rendered: str | None, ids: np.ndarray, ends: np.ndarray | None
    ) -> Iterator[TokenizedPrompt]:
        if len(ids) <= self.limit or self.on_long == "truncate":
            kept = None if ends is None else ends[: self.limit]
            yield TokenizedPrompt(prompt, prompt.text, rendered, ids[: self.limit], kept)
        elif self.on_long == "error":
            raise ConfigError(
                f"Item {prompt.item_id} has {len(ids):,} tokens; the model takes {self.limit:,} "
                f"{'before it generates' if self.generates else 'at most'}. "
                "Use --on-long truncate (keeps the beginning) or --on-long split."
            )
        else:
            yield from self._pieces(prompt, rendered, ids, ends)

    def _pieces(
        self, prompt: Prompt, rendered: str | None, ids: np.ndarray, ends: np.ndarray | None
    ) -> Iterator[TokenizedPrompt]:
        """Pieces of `limit` tokens, each with its own slice of the text, so that a book is not stored once a piece."""
        source = prompt.text if rendered is None else rendered
        decoder = TokenText(self.tokenizer)
        for start in range(0, len(ids), self.limit):
            part = slice(start, start + self.limit)
            if ends is None:
                text, local = decoder.completion(ids[part].tolist(), ids[:start]), None
            else:
                first = int(ends[start - 1]) if start else 0
                text, local = source[first : int(ends[part][-1])], ends[part] - first
            yield TokenizedPrompt(prompt, text, None, ids[part], local, item_offset=start)


def char_ends(offsets: list[tuple[int, int]]) -> np.ndarray:
    """End offset of each token; tokens that the tokenizer added itself repeat the value before them."""
    return (
        np.maximum.accumulate(np.array([end for _, end in offsets], dtype=np.int32)) if offsets else np.empty(0, "i4")
    )


def _groups(prompts: Iterable[Prompt], size: int) -> Iterator[list[Prompt]]:
    group: list[Prompt] = []
    for prompt in prompts:
        group.append(prompt)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group
