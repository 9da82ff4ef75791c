"""Documents as contexts of tokens: one document each, or joined by the end token into contexts of equal length.

The stream can be taken up again behind any context: where each split's next context begins is all there is to know.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np

from ....lake.errors import ConfigError
from ....lake.values import Json, JsonView
from ..fields import Prompt
from ..tokenizing.tokenized import TokenizedPrompt, char_ends
from .documents import Corpus, Document

GROUP = 64
"""Documents tokenised in one call."""
TRAIN, VALIDATION = "train", "validation"
ALL = "all"
"""The one stream of contexts that are not packed."""


@dataclass(frozen=True)
class Place:
    """Where the next contexts begin: document and token of each stream, and what came before."""

    begins: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    n_tokens: int = 0
    n_contexts: int = 0

    def as_json(self) -> Json:
        """Plain values for a commit record."""
        return {"begins": {k: list(v) for k, v in self.begins.items()}, "n_tokens": self.n_tokens, "n": self.n_contexts}

    @classmethod
    def from_json(cls, values: JsonView) -> "Place":
        """The place that a commit record names."""
        begins = {str(k): (int(v[0]), int(v[1])) for k, v in values["begins"].items()}
        return cls(begins, int(values["n_tokens"]), int(values["n"]))


@dataclass(frozen=True)
class Piece:
    """Tokens of one document, beginning with its token `offset`; `ends` count characters from the piece's own text."""

    number: int
    item_id: str
    offset: int
    ids: np.ndarray
    ends: np.ndarray | None
    text: str

    def cut(self, start: int, stop: int) -> "Piece":
        """Some of its tokens, with their share of the text."""
        if self.ends is None:
            return replace(self, offset=self.offset + start, ids=self.ids[start:stop], text="")
        first = int(self.ends[start - 1]) if start else 0
        ends = self.ends[start:stop] - first
        text = self.text[first : first + int(ends[-1])] if len(ends) else ""
        return Piece(self.number, self.item_id, self.offset + start, self.ids[start:stop], ends, text)


@dataclass(frozen=True)
class ContextMaker:
    """Cuts a corpus into contexts. `limit` is the longest context; `pack` the length of every one, if they are packed.

    `split_long` keeps all tokens of a document longer than `document_tokens`, which is cut otherwise.
    """

    corpus: Corpus
    tokenizer: Any
    document_tokens: int
    pack: int | None
    split_long: bool
    min_chars: int
    validation: float
    budget: int
    n_embeddings: int | None
    end_id: int | None

    def contexts(self, place: Place) -> Iterator[tuple[TokenizedPrompt, Place]]:
        """The contexts from `place` on, each with the place behind it, until the budget or the corpus ends."""
        waiting: dict[str, list[Piece]] = {}
        start = min((number for number, _ in place.begins.values()), default=0)
        for document in self._pieces(start):
            split = self.split_of(document.item_id)
            stream = split if self.pack else ALL
            number, token = place.begins.get(stream, (0, 0))
            if document.number < number:
                continue
            piece = document.cut(token, len(document.ids)) if document.number == number and token else document
            if self.pack and not waiting.get(stream):
                place = replace(place, begins={**place.begins, stream: (piece.number, piece.offset)})
            for context, begin in self._cut(waiting, stream, piece):
                n_tokens = place.n_tokens + len(context.ids)
                if n_tokens > self.budget:
                    return
                place = Place({**place.begins, stream: begin}, n_tokens, place.n_contexts + 1)
                yield replace(context, prompt=replace(context.prompt, split=split)), place

    def split_of(self, item_id: str) -> str:
        """`validation` for this share of the documents, by the hash of their id; else `train`."""
        draw = int.from_bytes(hashlib.sha256(item_id.encode()).digest()[:8]) / 2**64
        return VALIDATION if draw < self.validation else TRAIN

    def mean_length(self, n_documents: int) -> float:
        """Tokens per context that is not packed, over the first documents; 0 if there are none."""
        lengths = [
            len(context.ids)
            for piece in islice(self._pieces(0), n_documents)
            for context, _ in self._cut({}, ALL, piece)
        ]
        return float(np.mean(lengths)) if lengths else 0.0

    def _cut(
        self, waiting: dict[str, list[Piece]], stream: str, piece: Piece
    ) -> Iterator[tuple[TokenizedPrompt, tuple[int, int]]]:
        """The contexts that a piece completes, each with where the next one begins."""
        if self.pack is None:
            n, most = len(piece.ids), self.document_tokens
            for start in range(0, n, most):
                part = piece.cut(start, min(start + most, n))
                behind = (piece.number, part.offset + most) if start + most < n else (piece.number + 1, 0)
                yield self._context([part]), behind
            return
        room = self.pack - len(self._begin)
        pieces = [*waiting.get(stream, []), piece]
        while sum(len(one.ids) for one in pieces) >= room:
            taken, pieces = _take(pieces, room)
            behind = (pieces[0].number, pieces[0].offset) if pieces else (piece.number + 1, 0)
            yield self._context(taken), behind
        waiting[stream] = pieces

    def _context(self, pieces: list[Piece]) -> TokenizedPrompt:
        """Pieces as one work item; packed contexts begin as the tokenizer begins a text."""
        begin = self._begin if self.pack else np.empty(0, np.int64)
        ids = np.concatenate([begin, *(piece.ids for piece in pieces)])
        ends, text = None, None
        if all(piece.ends is not None for piece in pieces):
            firsts = np.cumsum([0, *(len(piece.text) for piece in pieces[:-1])])
            shifted = [piece.ends + first for piece, first in zip(pieces, firsts, strict=True)]  # type: ignore[operator]
            ends = np.concatenate([np.zeros(len(begin), np.int32), *shifted]).astype(np.int32)
            text = "".join(piece.text for piece in pieces)
        if text is None or not text:
            text, ends = self.tokenizer.decode(ids.tolist()), None
        metadata = {"documents": _placed(pieces, len(begin))} if self.pack else None
        prompt = Prompt(text, pieces[0].item_id, metadata=metadata)
        return TokenizedPrompt(prompt, text, None, ids, ends, pieces[0].offset)

    @cached_property
    def _begin(self) -> np.ndarray:
        """The token that the tokenizer puts before every text, if it does."""
        ids = self.tokenizer("a")["input_ids"]
        bos = self.tokenizer.bos_token_id
        return np.array([bos] if bos is not None and len(ids) > 1 and ids[0] == bos else [], np.int64)

    def _pieces(self, start: int) -> Iterator[Piece]:
        """The documents from number `start` on that are long enough, as tokens."""
        numbered = enumerate(self.corpus.documents(start), start)
        while group := list(islice(numbered, GROUP)):
            kept = [(number, document) for number, document in group if len(document.text) >= max(1, self.min_chars)]
            if kept:
                yield from (piece for piece in self._tokenized(kept) if len(piece.ids))

    def _tokenized(self, documents: list[tuple[int, Document]]) -> Iterator[Piece]:
        fast = bool(getattr(self.tokenizer, "is_fast", False))
        encoded = self.tokenizer(
            [document.text for _, document in documents],
            add_special_tokens=self.pack is None,
            return_offsets_mapping=fast,
            return_attention_mask=False,
            verbose=False,
        )
        for i, (number, document) in enumerate(documents):
            ids = np.asarray(encoded["input_ids"][i], dtype=np.int64)
            if self.n_embeddings is not None and len(ids) and ids.max() >= self.n_embeddings:
                raise ConfigError(
                    f"Document {document.item_id}: token {ids.max()} has no embedding: the model has "
                    f"{self.n_embeddings:,}. Put the tokenizer that the model was trained with into its folder."
                )
            ends = char_ends(encoded["offset_mapping"][i]) if fast else None
            piece = Piece(number, document.item_id, 0, ids, ends, document.text)
            whole = self.split_long or len(ids) <= self.document_tokens
            yield self._closed(piece if whole else piece.cut(0, self.document_tokens))

    def _closed(self, piece: Piece) -> Piece:
        """A document with the end token behind it, where documents are joined."""
        if self.pack is None or not len(piece.ids):
            return piece
        assert self.end_id is not None  # packing needs one, and was refused without
        end = self.tokenizer.convert_ids_to_tokens(self.end_id)
        ids = np.append(piece.ids, self.end_id)
        if piece.ends is None:
            return replace(piece, ids=ids)
        text = piece.text[: int(piece.ends[-1])] + end
        return replace(piece, ids=ids, ends=np.append(piece.ends, len(text)).astype(np.int32), text=text)


def _take(pieces: list[Piece], n: int) -> tuple[list[Piece], list[Piece]]:
    """The first `n` tokens, and the rest."""
    taken: list[Piece] = []
    for place, piece in enumerate(pieces):
        if len(piece.ids) >= n:
            rest = [piece.cut(n, len(piece.ids))] if len(piece.ids) > n else []
            return [*taken, piece.cut(0, n)], [*rest, *pieces[place + 1 :]]
        taken.append(piece)
        n -= len(piece.ids)
    return taken, []


def _placed(pieces: list[Piece], first: int) -> list[Json]:
    """The documents of a packed context: id, position of its first token here, that token's place there, how many."""
    placed = []
    for piece in pieces:
        placed.append({"item_id": piece.item_id, "position": first, "offset": piece.offset, "n_tokens": len(piece.ids)})
        first += len(piece.ids)
    return placed
