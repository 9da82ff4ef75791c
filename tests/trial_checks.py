"""Every column of a collected run against plain passes over its sequences; what differs comes back as sentences."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
from plain_forward import entropy_of, log_probabilities
from plain_pass import PlainReader, PlainReading, StackReading
from random_models import byte_tokenizer

from tracelake.lake import Lake

KEY = ["sequence_id", "position"]
RELATIVE, ABSOLUTE = 1e-4, 1e-5
"""The tolerance of the glossary: of scalars both, of vectors the first, by norm."""


@dataclass(frozen=True)
class Trial:
    """A run, the bare model, and what both were given."""

    lake: Lake
    run: str
    reader: PlainReader
    prompts: list[np.ndarray]
    greedy: list[np.ndarray] | None
    """What `generate` writes; None if the run sampled."""

    def table(self, name: str) -> pl.DataFrame:
        """The rows of the run, by key."""
        return self.lake.scan(name, run=self.run).collect().sort(KEY if name != "sequences" else KEY[:1])

    @cached_property
    def tokens(self) -> pl.DataFrame:
        return self.table("token_steps")

    @cached_property
    def sequences(self) -> pl.DataFrame:
        return self.table("sequences")

    @cached_property
    def readings(self) -> list[PlainReading]:
        """One plain pass over what each sequence became."""
        ids = [part["token_id"].to_numpy().astype(np.int64) for part in self.tokens.partition_by("sequence_id")]
        return [self.reader.read(own, self.n_encoded(number)) for number, own in enumerate(ids)]

    def prompt(self, number: int) -> np.ndarray:
        """Ids of the prompt of a sequence."""
        return self.prompts[number]

    def n_encoded(self, number: int) -> int:
        return len(self.prompt(number)) - 1 if self.reader.two_stacks else 0


def differences(trial: Trial) -> list[str]:
    """What is wrong in a run, one sentence per quantity."""
    if trial.sequences.height != len(trial.prompts):
        return [f"sequences: {trial.sequences.height} of {len(trial.prompts)}"]
    sentences: dict[str, str] = {}
    for text in (*_texts(trial), *_distributions(trial), *_stacks(trial)):
        sentences.setdefault(text.split(":")[0], text)
    return list(sentences.values())


def _texts(trial: Trial) -> Iterator[str]:
    """Token ids, the text that they are, greedy choices and ends."""
    lengths = set()
    for number, (row, reading) in enumerate(zip(trial.sequences.iter_rows(named=True), trial.readings, strict=True)):
        prompt = trial.prompt(number)
        own = reading.ids[len(prompt) :]
        lengths.add(len(own))
        if reading.ids[: len(prompt)].tolist() != prompt.tolist() or row["n_prompt_tokens"] != len(prompt):
            yield f"prompt: ids of sequence {number} differ"
        text = byte_tokenizer().decode(own.tolist(), skip_special_tokens=True)
        if row["completion"] != text:
            yield f"completion: {row['completion']!r}, {text!r} wanted"
        if trial.greedy is None:
            continue
        if own.tolist() != trial.greedy[number].tolist():
            yield f"generate: writes {trial.greedy[number].tolist()} in sequence {number}, not {own.tolist()}"
        logits = reading.logits[-len(own) - 1 : -1]
        short = logits.max(-1) - np.take_along_axis(logits, own[:, None], -1)[:, 0]
        if (short > ABSOLUTE + RELATIVE * np.abs(logits).max(-1)).any():
            yield f"greedy: a token of sequence {number} is not the best"
    if trial.greedy is not None and lengths != {len(ids) for ids in trial.greedy}:
        yield f"ends: sequences of {lengths} tokens, {sorted(map(len, trial.greedy))} wanted"


def _distributions(trial: Trial) -> Iterator[str]:
    """The columns of `token_steps`, and the distribution behind the last token."""
    parts: dict[str, list[np.ndarray]] = {}
    last = []
    for reading in trial.readings:
        nothing = np.full(len(reading.ids) - len(reading.logits) + 1, np.nan)
        for name, values in _predictions(reading).items():
            parts.setdefault(name, []).append(np.concatenate((nothing, values)))
        last.append(entropy_of(np.exp(log_probabilities(reading.logits[-1]))))
    wanted = {name: np.concatenate(values) for name, values in parts.items()}
    low, high = wanted.pop("least_rank"), wanted.pop("largest_rank")
    for name, values in wanted.items():
        yield from _off(name, trial.tokens[name], values)
    # Sampled at temperature 1 without filters: the model's own distribution.
    drawn = trial.tokens["is_prompt"].not_().to_numpy() & (trial.greedy is None)
    yield from _off("sampling_logprob", trial.tokens["sampling_logprob"], np.where(drawn, wanted["logprob"], np.nan))
    rank = trial.tokens["rank"].cast(pl.Float64).to_numpy()
    with np.errstate(invalid="ignore"):
        outside = (rank < low) | (rank > high) | (np.isnan(rank) != np.isnan(low))
    if outside.any():
        yield f"rank: wrong in {outside.sum()} rows"
    yield from _off("next_entropy_bits", trial.sequences["next_entropy_bits"], np.array(last))


def _predictions(reading: PlainReading) -> dict[str, np.ndarray]:
    """What the distribution behind every token but the first of the decoder is like."""
    logits, targets = reading.logits[:-1], reading.ids[len(reading.ids) - len(reading.logits) + 1 :]
    logprobs = log_probabilities(logits)
    own = np.take_along_axis(logprobs, targets[:, None], -1)[:, 0]
    own_logit = np.take_along_axis(logits, targets[:, None], -1)
    best = -np.sort(-np.exp(logprobs), axis=-1)
    tie = ABSOLUTE + RELATIVE * np.abs(own_logit)
    return {
        "logprob": own,
        "surprisal_bits": -own / np.log(2),
        "entropy_bits": entropy_of(np.exp(logprobs)),
        "top1_prob": best[:, 0],
        "margin": best[:, 0] - best[:, 1],
        "top10_mass": best[:, :10].sum(-1),
        "least_rank": (logits > own_logit + tie).sum(-1),
        "largest_rank": (logits > own_logit - tie).sum(-1) - 1,
    }


def _stacks(trial: Trial) -> Iterator[str]:
    layers, heads = trial.table("layer_summaries"), trial.table("head_summaries")
    for name in ("encoder", "decoder") if trial.reader.two_stacks else ("decoder",):
        stacks = [reading.stacks[name] for reading in trial.readings]
        sentences = [*_layers(layers.filter(stack=name), stacks), *_vectors(trial, name, stacks)]
        if heads.height:
            sentences += _heads(heads.filter(stack=name), stacks)
        yield from (f"{name} {text}" for text in sentences)


def _layers(rows: pl.DataFrame, stacks: list[StackReading]) -> Iterator[str]:
    """The columns of `layer_summaries`; sites in the order in which each is compared with the one before it."""
    last = stacks[0].n_layers - 1
    sites = [("resid_pre", 0), *(("resid_post", layer) for layer in range(last + 1)), ("final_norm", last)]
    before: list[np.ndarray] | None = None
    for site, layer in sites:
        states = [stack.states[site, layer].astype(np.float64) for stack in stacks]
        length = np.concatenate([np.linalg.norm(one, axis=-1) for one in states])
        # What a vector may be off by moves the mean of its elements, and its distance from another.
        slack = {"mean": RELATIVE * length / states[0].shape[-1] ** 0.5, "delta_norm": RELATIVE * length}
        mine = rows.filter((pl.col("site") == site) & (pl.col("layer") == layer))
        for name, values in {**_statistics(states), **_from_below(before, states)}.items():
            yield from _off(f"{name} of {site} {layer}", mine[name], values, slack.get(name, 0.0))
        before = states


def _statistics(states: list[np.ndarray]) -> dict[str, np.ndarray]:
    every = np.concatenate(states)
    return {
        "l2_norm": np.linalg.norm(every, axis=-1),
        "mean": every.mean(-1),
        "std": every.std(-1, ddof=1),
        "max_abs": np.abs(every).max(-1),
        "cos_prev_position": np.concatenate([np.append(np.nan, _cosine(one[:-1], one[1:])) for one in states]),
    }


def _from_below(before: list[np.ndarray] | None, states: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Difference and angle to the states one block below."""
    if before is None:
        nothing = np.full(sum(map(len, states)), np.nan)
        return {"delta_norm": nothing, "cos_prev_layer": nothing}
    if before[0].shape != states[0].shape:
        return {}
    pairs = list(zip(before, states, strict=True))
    return {
        "delta_norm": np.concatenate([np.linalg.norm(b - a, axis=-1) for a, b in pairs]),
        "cos_prev_layer": np.concatenate([_cosine(a, b) for a, b in pairs]),
    }


def _cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return (a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))


def _vectors(trial: Trial, name: str, stacks: list[StackReading]) -> Iterator[str]:
    """Residual states against the plain pass, and what is added to them against the identities of the sites."""
    kept = trial.lake.scan("activations", run=trial.run).filter(stack=name).select("site", "layer").unique().collect()
    stored = {(site, layer): _stored(trial, site, layer, name) for site, layer in kept.rows()}
    for key in stacks[0].states:
        if key in stored:
            wanted = np.concatenate([stack.states[key] for stack in stacks])
            yield from _apart(f"{key[0]} of layer {key[1]}", stored[key], wanted)
        elif key[0] == "resid_post":
            yield f"{key[0]} of layer {key[1]}: not stored"
    for layer in range(stacks[0].n_layers):
        start, end = stored.get(("resid_pre", layer)), stored.get(("resid_post", layer))
        attention, mlp = stored.get(("attn_out", layer)), stored.get(("mlp_out", layer))
        if start is None or attention is None or mlp is None or end is None:
            continue
        if ("resid_mid", layer) in stored:
            yield from _apart(f"resid_mid of layer {layer}", stored["resid_mid", layer], start + attention)
        total = start + attention + stored.get(("cross_attn_out", layer), 0) + mlp
        yield from _apart(f"sum of layer {layer}", total, end)


def _stored(trial: Trial, site: str, layer: int, stack: str) -> np.ndarray:
    """The vectors of one stack by key."""
    keys, parts = [], []
    for key, matrix in trial.lake.vectors(layer, site, run=trial.run):
        # Stacks may differ in width.
        mine = pl.DataFrame(pl.from_arrow(key)).with_row_index("row").filter(stack=stack)
        keys.append(mine)
        parts.append(matrix[mine["row"].to_numpy()])
    order = pl.concat(keys).with_row_index("place").sort(KEY)["place"].to_numpy()
    return np.concatenate([part for part in parts if len(part)])[order]


def _heads(rows: pl.DataFrame, stacks: list[StackReading]) -> Iterator[str]:
    """Entropy, largest weight and number of keys of every head, where the bare model returns its maps."""
    for kind, maps in stacks[0].attention.items():
        mine = rows.filter(kind=kind).sort(*KEY, "layer", "head")
        layers = mine["layer"].unique().sort().to_list()
        if not layers or len(maps) != len(layers):
            yield f"{kind} heads: rows of {len(layers)} layers, {len(maps)} maps to compare"
            continue
        for place, layer in enumerate(layers):
            own = mine.filter(pl.col("layer") == layer)
            weights = [stack.attention[kind][place] for stack in stacks]
            flat = {
                "entropy_bits": np.concatenate([entropy_of(one).ravel() for one in weights]),
                "max_weight": np.concatenate([one.max(-1).ravel() for one in weights]),
            }
            for name, values in flat.items():
                yield from _off(f"{kind} {name} of layer {layer}", own[name], values)
            # A weight may underflow to 0, but a key that is not seen has no weight.
            seen = np.concatenate([(one > 0).sum(-1).ravel() for one in weights])
            if own.height == len(seen) and (own["n_keys"].to_numpy() < seen).any():
                yield f"{kind} n_keys of layer {layer}: too few"


def _off(name: str, column: pl.Series, wanted: np.ndarray, slack: np.ndarray | float = 0.0) -> Iterator[str]:
    """A sentence if a column differs from what is wanted, where NaN stands for null."""
    given = column.cast(pl.Float64).to_numpy()
    if given.shape != wanted.shape:
        yield f"{name}: {len(given)} values, {len(wanted)} wanted"
    elif (np.isnan(given) != np.isnan(wanted)).any():
        yield f"{name}: null in {np.isnan(given).sum()} rows, {np.isnan(wanted).sum()} wanted"
    elif not np.isnan(given).all():
        miss = np.abs(given - wanted) - ABSOLUTE - RELATIVE * np.abs(wanted) - slack
        worst = int(np.nanargmax(miss))
        if miss[worst] > 0:
            yield f"{name}: {given[worst]:.6g}, {wanted[worst]:.6g} wanted ({(miss > 0).sum()} of {len(miss)} rows)"


def _apart(name: str, given: np.ndarray, wanted: np.ndarray) -> Iterator[str]:
    """A sentence if vectors differ by more than their norm allows."""
    if given.shape != wanted.shape:
        yield f"{name}: {given.shape}, {wanted.shape} wanted"
        return
    norm = np.linalg.norm(wanted, axis=-1)
    error = np.linalg.norm(given.astype(np.float64) - wanted, axis=-1)
    if not (error <= RELATIVE * norm).all():
        yield f"{name}: off by up to {(error / np.maximum(norm, 1e-30)).max():.3g} of the norm"
