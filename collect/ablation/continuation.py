"""What a model makes of prompts when rows of one batch are edited each in its own way: losses and greedy answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...lake.values import Json, JsonView
from ..decoding.loop import BatchDecoder
from ..decoding.reading.reading import Reading
from ..decoding.sampling.settings import Sampling
from ..decoding.sampling.stop_rule import StopRule
from ..decoding.sequence import Limits
from ..decoding.sequence import Sequence as Row
from ..decoding.timings import Timings
from ..inputs.grading import Options, parse_grader
from ..inputs.tokenizing.text import TokenText
from ..models.editing.edits import applied
from ..models.model import LoadedModel
from ..observing.budget import Budget
from ..observing.kept import Kept
from ..observing.observation import ObservedModel
from ..running.stopping import stop_finder
from ..stored_sequences import StoredBatch, computing

LOGIT_BYTES, BLOCK_BYTES, CHUNK_COLUMNS = 64 * 2**20, 4 * 2**20, 256
"""Of logits, and of scores, that are alive at one time; columns of prompts that are read in one pass."""


@dataclass(frozen=True)
class AnswerSettings:
    """How a run ended and graded its answers, from its configuration."""

    max_new_tokens: int
    grader: str = "auto"
    stop: tuple[str, ...] = ()
    stop_when: tuple[str, ...] = ()
    repetition_penalty: float | None = None
    generation_config: bool = False

    @classmethod
    def of(cls, config: JsonView) -> Self:
        """Out of run.json; nothing is generated where it says nothing of it."""
        return cls(
            int(config.get("max_new_tokens") or 0), config.get("grader") or "auto", tuple(config.get("stop") or ()),
            tuple(config.get("stop_when") or ()), config.get("repetition_penalty"),
            bool(config.get("generation_config")),
        )  # fmt: skip


def reference_losses(loaded: LoadedModel, rows: Sequence[Row], reading: Reading) -> Float[np.ndarray, " row"]:
    """Mean cross-entropy in nats of the tokens that each row is given behind its prompt, in one pass."""
    batch = StoredBatch(loaded, list(rows), reading)
    n_prompt = [one.n_prompt for one in rows]
    with computing(), applied(loaded, [one.edits for one in rows], n_prompt=n_prompt, pads=batch.pads.tolist()):
        final = batch.read()
    places = np.concatenate(
        [np.arange(len(one.given)) + batch.column(r, one.n_prompt - 1) for r, one in enumerate(rows)]
    )
    row = np.repeat(np.arange(len(rows)), [len(one.given) for one in rows])
    following = torch.from_numpy(np.concatenate([np.array(one.given, np.int64) for one in rows])).to(loaded.device)
    nll = np.concatenate(
        [
            _token_losses(loaded, final[row[part], places[part]], following[part])
            for part in _parts(len(row), max(1, LOGIT_BYTES // (4 * loaded.d_vocab)))
        ]
    )
    return np.bincount(row, nll, len(rows)) / np.bincount(row, minlength=len(rows))


def _token_losses(
    loaded: LoadedModel, states: Float[Tensor, "token d_model"], ids: Int[Tensor, " token"]
) -> Float[np.ndarray, " token"]:
    with computing():
        logits = loaded.unembed(states).float()
        losses = logits.logsumexp(-1) - logits.gather(1, ids.unsqueeze(1))[:, 0]
    return losses.double().cpu().numpy()


def _parts(n: int, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, n, size)]


class GreedyAnswers:
    """Decodes rows greedily to their end, each with its own edits, and grades what they say."""

    def __init__(self, loaded: LoadedModel, settings: AnswerSettings, reading: Reading) -> None:
        self.loaded = loaded
        self.text = TokenText(loaded.tokenizer)
        self.grader = parse_grader(settings.grader)
        rules = tuple(StopRule.parse(text) for text in settings.stop_when)
        self.limits = Limits(
            settings.max_new_tokens, loaded.context_length, loaded.end_ids,
            stop_finder(self.text, settings.stop) if settings.stop else None, rules, *loaded.forced_ids,
        )  # fmt: skip
        kept = Kept(tokens=bool(rules), layers=False, heads=False, vectors=(), store_dtype="float32")
        budget = Budget(CHUNK_COLUMNS, max(1, LOGIT_BYTES // (4 * loaded.d_vocab)), BLOCK_BYTES)
        sampling = Sampling(
            repetition_penalty=settings.repetition_penalty, model_settings=settings.generation_config
        )  # fmt: skip
        self.observed = ObservedModel(loaded, kept, budget)
        self.decoder = BatchDecoder(
            self.observed, sampling, self.limits, reading, seed=0, budget=budget, timings=Timings()
        )  # fmt: skip

    def answer(
        self, rows: Sequence[Row], answers: Sequence[str | None], options: Sequence[Options | None]
    ) -> list[Json]:
        """For each row what it answers, whether that is right, and how many tokens it took."""
        batch = list(rows)
        with computing(), self.observed.attached():
            self.decoder.forget()
            for _ in self.decoder.run(batch):
                pass
        return [
            self._graded(row, answer, choices) for row, answer, choices in zip(batch, answers, options, strict=True)
        ]

    def _graded(self, row: Row, answer: str | None, options: Options | None) -> Json:
        about: Json = {"n_generated_tokens": len(row.generated), "predicted_answer": None, "correct": None}
        if answer is None:
            return about | {"reason": "no reference answer"}
        grade = self.grader.grade(self.text.completion(row.generated, row.read_ids), answer, options)
        return about | {
            "predicted_answer": grade.predicted_answer, "correct": grade.correct, "reason": grade.reason,
        }  # fmt: skip
