"""Prompts as the model will read them: chat template, token ids, character offsets, over-long ones cut or split."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from ...lake.errors import ConfigError
from .fields import Prompt
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
            for prompt, rendered, ids, ends in zip(group, *self._encoded(group), strict=True):
                if len(ids) == 0:
                    raise ConfigError(f"Item {prompt.item_id}: the prompt has no tokens. Give it a text.")
                if self.n_embeddings is not None and ids.max() >= self.n_embeddings:
                    raise self._without_embedding(prompt, int(ids.max()))
                yield from self._fitted(prompt, rendered, ids, ends)

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
