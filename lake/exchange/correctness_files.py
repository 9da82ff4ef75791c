"""A graded run as the arrays of the second-order project: its names, shapes and number formats, with keys added.

`PREFIX` is dataset_split_model. Of every graded sequence, in the order of ids: the final-normed state of its last token
(`representations`), those of its prompt's tokens, right-padded, each divided by its length (`residual_stream`), and the
difference of the class means at the last prompt token (`correctness_direction`).
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ConfigError, NotFoundError, UsageError
from ..output.files import replaced
from ..values import Json, JsonView, Row

if TYPE_CHECKING:
    import polars as pl

    from ..lake import Lake

SITE = "final_norm"
CHUNK = 256
"""Sequences whose states are in memory at once."""
MAX_LENGTH = 256


@dataclass(frozen=True)
class CorrectnessFiles:
    """What was written."""

    folder: str
    prefix: str
    n_examples: int
    n_correct: int
    files: tuple[str, ...]


@dataclass(frozen=True)
class _Graded:
    """The graded sequences of a run, in the order of their ids."""

    lake: "Lake"
    run_id: str
    rows: "pl.DataFrame"
    max_length: int
    normalize: bool

    @property
    def correct(self) -> np.ndarray:
        """1 where right."""
        return self.rows["correct"].to_numpy().astype(np.int32)

    def states(self, where: str, start: int, stop: int) -> tuple[np.ndarray, "pl.DataFrame"]:
        """Final-normed states of some tokens of the sequences from place `start` to `stop`, with their keys."""
        ids = ", ".join(map(str, self.rows["sequence_id"][start:stop].to_list()))
        try:
            matrix, keys = self.lake.vectors(
                -1, SITE, self.run_id, where=f"sequence_id IN ({ids}) AND {where}", join=()
            )
        except NotFoundError as error:
            raise NotFoundError(
                f"Run {self.run_id} lacks states of {SITE} that these files hold ({error}) "
                f"Collect it with --keep tokens,activations:{SITE}."
            ) from error
        assert isinstance(matrix, np.ndarray) and not isinstance(keys, np.ndarray)
        return matrix, keys

    def last_states(self) -> Iterator[np.ndarray]:
        """The state of each sequence's last token."""
        for start in range(0, self.rows.height, CHUNK):
            matrix, keys = self.states("last", start, start + CHUNK)
            self._check(keys["sequence_id"].to_list(), self.rows["sequence_id"][start : start + CHUNK].to_list())
            yield matrix

    def prompt_states(self) -> Iterator[np.ndarray]:
        """[sequences, max_length, d], padded with zeros, each state divided by its length if that is wanted."""
        for start in range(0, self.rows.height, CHUNK):
            matrix, keys = self.states("step IS NULL", start, start + CHUNK)
            ids = self.rows["sequence_id"][start : start + CHUNK].to_numpy()
            lengths = self.rows["n_prompt_tokens"][start : start + CHUNK].to_numpy()
            self._check(keys["sequence_id"].to_list(), np.repeat(ids, lengths).tolist())
            if self.normalize:
                matrix = matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
            padded = np.zeros((len(ids), self.max_length, matrix.shape[1]), np.float32)
            padded[np.repeat(np.arange(len(ids)), lengths), keys["position"].to_numpy()] = matrix
            yield padded

    def _check(self, found: list[int], wanted: list[int]) -> None:
        if found != wanted:
            raise NotFoundError(
                f"Run {self.run_id} has not kept {SITE} of every token that these files hold: "
                f"{len(found):,} states of {len(wanted):,}. Collect it with --keep tokens,activations:{SITE}."
            )


def export_correctness(
    lake: "Lake", run: str, folder: Path, *, max_length: int = MAX_LENGTH, normalize: bool = True
) -> CorrectnessFiles:
    """Write the nine files into `folder`; nothing is written for a run that lacks a class, states or tokens."""
    graded = _graded(lake, run, max_length, normalize)
    about = lake.run_json(graded.run_id)
    prefix = file_prefix(graded.rows, about)
    correct = graded.correct
    if correct.all() or not correct.any():
        which = "right" if correct.all() else "wrong"
        raise ConfigError(
            f"All {len(correct):,} answers of run {graded.run_id} are {which}: there is no direction from wrong to "
            "right. Choose problems that the model solves in part."
        )
    last = np.concatenate(list(graded.last_states())).astype(np.float32)
    folder.mkdir(parents=True, exist_ok=True)
    names = []

    def path(name: str) -> Path:
        names.append(f"{prefix}_{name}")
        return folder / names[-1]

    direction = _write_residual_stream(path("residual_stream.npy"), graded, last.shape[1])
    _write_array(path("representations.npy"), last)
    _write_array(path("correctness.npy"), correct)
    _write_array(path("correctness_direction.npy"), direction)
    tokens, mask = _tokens(graded)
    _write_array(path("tokens.npy"), tokens)
    _write_array(path("attention_mask.npy"), mask)
    _write_lines(path("eval.jsonl"), _eval_lines(graded))
    _write_lines(path("metadata.jsonl"), _metadata_lines(graded))
    _write_lines(path("stats.json"), [_stats(graded, about, last.shape[1])])
    return CorrectnessFiles(str(folder), prefix, len(correct), int(correct.sum()), tuple(names))


def _graded(lake: "Lake", run: str, max_length: int, normalize: bool) -> _Graded:
    import polars as pl

    run_id = lake.resolve_run(run)
    rows = lake.scan("sequences", run_id).filter(pl.col("correct").is_not_null()).sort("sequence_id").collect()
    if rows.height == 0:
        raise UsageError(
            f"Run {run_id} has no graded answers. Collect a problem set: lake collect --dataset NAME:SPLIT."
        )
    longest = int(rows["n_prompt_tokens"].max() or 0)  # type: ignore[arg-type]
    if longest > max_length:
        n_long = int((rows["n_prompt_tokens"] > max_length).sum())
        raise UsageError(
            f"{n_long:,} prompts of run {run_id} are longer than {max_length} tokens, the longest {longest}: cut off, "
            f"their last token would be another. Say --max-length {longest}."
        )
    return _Graded(lake, run_id, rows, max_length, normalize)


def file_prefix(rows: "pl.DataFrame", about: JsonView) -> str:
    """dataset_split_model, with which all names of a run's files begin."""
    parts = (
        rows["dataset"][0] or "prompts",
        rows["split"][0] or "all",
        (about.get("model") or {}).get("name") or "model",
    )
    return "_".join(re.sub(r"[/\\:\s]+", "_", str(part)).strip("_") for part in parts)


def _write_residual_stream(path: Path, graded: _Graded, d_model: int) -> np.ndarray:
    """Write the padded states chunk by chunk; the difference of the class means at the last prompt token."""
    shape = (graded.rows.height, graded.max_length, d_model)
    sums, row = np.zeros((2, d_model)), 0
    lengths, correct = graded.rows["n_prompt_tokens"].to_numpy(), graded.correct
    with replaced(path) as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)  # type: ignore[arg-type]
        for padded in graded.prompt_states():
            file.write(padded.tobytes())
            here = slice(row, row + len(padded))
            at_end = padded[np.arange(len(padded)), lengths[here] - 1].astype(np.float64)
            for kind in (0, 1):
                sums[kind] += at_end[correct[here] == kind].sum(axis=0)
            row += len(padded)
    return (sums[1] / correct.sum() - sums[0] / (1 - correct).sum()).astype(np.float32)


def _write_array(path: Path, array: np.ndarray) -> None:
    with replaced(path) as file:
        np.lib.format.write_array(file, array, allow_pickle=False)


def _write_lines(path: Path, lines: list[Json]) -> None:
    with replaced(path) as file:
        for line in lines:
            file.write((json.dumps(line, ensure_ascii=False) + "\n").encode())


def _tokens(graded: _Graded) -> tuple[np.ndarray, np.ndarray]:
    """Token ids of the prompts, right-padded with 0, and which are real."""
    import polars as pl

    steps = (
        graded.lake.scan("token_steps", graded.run_id)
        .filter(pl.col("step").is_null())
        .select("sequence_id", "position", "token_id")
        .collect()
    )
    places = graded.rows.select("sequence_id").with_row_index("row")
    steps = steps.join(places, on="sequence_id")
    tokens = np.zeros((graded.rows.height, graded.max_length), np.int32)
    mask = np.zeros_like(tokens, np.uint8)
    at = (steps["row"].to_numpy(), steps["position"].to_numpy())
    tokens[at], mask[at] = steps["token_id"].to_numpy(), 1
    return tokens, mask


def _eval_lines(graded: _Graded) -> list[Json]:
    return [
        {
            "index": index,
            "prompt": row["rendered_prompt"] or row["prompt"],
            "target_answer": row["answer"],
            "predicted_answer": row["predicted_answer"],
            "response_text": row["completion"],
            "correct": row["correct"],
            "metadata": json.loads(row["metadata"] or "{}"),
            **_keys(graded, row),
            "label_reason": row["label_reason"],
            "grader": row["grader"],
        }  # fmt: skip
        for index, row in enumerate(graded.rows.iter_rows(named=True))
    ]


def _metadata_lines(graded: _Graded) -> list[Json]:
    return [
        {
            "dataset": row["dataset"],
            "split": row["split"],
            "index": index,
            "prompt": row["prompt"],
            "answer": row["answer"],
            **_keys(graded, row),
            "n_prompt_tokens": row["n_prompt_tokens"],
        }  # fmt: skip
        for index, row in enumerate(graded.rows.iter_rows(named=True))
    ]


def _keys(graded: _Graded, row: Mapping[str, object]) -> Row:
    """What joins a line with the lake: the source's files have no keys."""
    return {
        "run_id": graded.run_id,
        "sequence_id": row["sequence_id"],
        "prompt_id": row["prompt_id"],
        "sample": row["sample"],
    }


def _stats(graded: _Graded, about: JsonView, d_model: int) -> Row:
    n, n_correct = len(graded.correct), int(graded.correct.sum())
    return {
        "num_examples": n, "max_length": graded.max_length, "hidden_size": d_model,
        "model_name": (about.get("model") or {}).get("name"), "normalize": graded.normalize,
        "prompt_template": (about.get("source") or {}).get("prompt_template"), "dataset": graded.rows["dataset"][0],
        "split": graded.rows["split"][0], "total_examples": n, "num_correct": n_correct,
        "num_incorrect": n - n_correct, "accuracy": n_correct / n, "correctness_label_source": "phase1",
        "run_id": graded.run_id, "site": SITE, "pad_token_id": 0,
    }  # fmt: skip
