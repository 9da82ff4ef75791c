"""Every column of a collected run against the plain readings of its sequences; differences come back as sentences."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl
from plain_forward import entropy_of, log_probabilities
from plain_pass import PlainReader, PlainReading, StackReading

from tracelake.lake import Lake

KEY = ["sequence_id", "position"]


def problems_of(
    lake: Lake, run: str, reader: PlainReader, prompts: list[np.ndarray], greedy: list[np.ndarray] | None, settings: dict[str, Any]
) -> list[str]:
    """What is wrong in a run, one sentence per quantity."""
    frames = {
        name: lake.scan(name, run=run).collect()
        for name in ("sequences", "token_steps", "layer_summaries", "head_summaries")
    }
    sequences = frames["sequences"].sort("sequence_id")
    tokens = frames["token_steps"].sort(KEY)
    samples = settings.get("samples", 1)
    found: dict[str, str] = {}
    if sequences.height != samples * len(prompts):
        found["sequences"] = f"{sequences.height} sequences, {samples * len(prompts)} wanted"
    readings: list[PlainReading] = []
    lengths = []
    for row in sequences.iter_rows(named=True):
        mine = tokens.filter(pl.col("sequence_id") == row["sequence_id"])
        ids = mine["token_id"].to_numpy().astype(np.int64)
        prompt = prompts[row["sequence_id"] // samples]
        if ids[: len(prompt)].tolist() != prompt.tolist() or row["n_prompt_tokens"] != len(prompt):
            found.setdefault("prompt", f"prompt ids of sequence {row['sequence_id']} differ")
        generated = ids[len(prompt) :]
        lengths.append(len(generated))
        if greedy is not None and generated.tolist() != greedy[row["sequence_id"]].tolist():
            found.setdefault(
                "generate", f"generate: sequence {row['sequence_id']}: {generated.tolist()}, {greedy[row['sequence_id']].tolist()} wanted"
            )
        text = lake_text(generated)
        if row["completion"] != text:
            found.setdefault("completion", f"text {row['completion']!r}, {text!r} wanted")
        n_encoded = len(prompt) - 1 if reader.two_stacks else 0
        readings.append(reader.read(ids, n_encoded))
        if greedy is not None:
            logits = readings[-1].logits[-len(generated) - 1 : -1]
            taken = np.take_along_axis(logits, generated[:, None], -1)[:, 0]
            if (logits.max(-1) - taken > 1e-5 + 1e-4 * np.abs(taken)).any():
                found.setdefault("greedy", f"greedy: sequence {row['sequence_id']} has a token that is not the best")
    if len(set(lengths)) < 2:
        found.setdefault("ends", f"all sequences end at the same step {set(lengths)}")
    for text in _checks(lake, run, frames, sequences, tokens, readings, reader, settings):
        found.setdefault(text.split(":")[0], text)
    return list(found.values())


def lake_text(ids: np.ndarray) -> str:
    from random_models import byte_tokenizer

    return byte_tokenizer().decode(ids.tolist(), skip_special_tokens=True)


def off(name: str, given: Any, wanted: np.ndarray, slack: np.ndarray | float = 0.0) -> Iterator[str]:
    """A sentence if two columns differ beyond A17 and `slack`; NaN is null."""
    if isinstance(given, pl.Series):
        given = given.cast(pl.Float64).to_numpy()
    given, wanted = np.asarray(given, dtype=np.float64), np.asarray(wanted, dtype=np.float64)
    if given.shape != wanted.shape:
        yield f"{name}: {given.shape} values, {wanted.shape} wanted"
        return
    if (np.isnan(given) != np.isnan(wanted)).any():
        yield f"{name}: null in {np.isnan(given).sum()} rows, {np.isnan(wanted).sum()} wanted"
        return
    if np.isnan(given).all():
        return
    miss = np.abs(given - wanted) - (1e-5 + 1e-4 * np.abs(wanted)) - slack
    worst = int(np.nanargmax(miss))
    if miss.flat[worst] > 0:
        yield f"{name}: {given.flat[worst]:.6g} in row {worst} of {given.size}, {wanted.flat[worst]:.6g} wanted ({(miss > 0).sum()} rows)"


def _checks(
    lake: Lake, run: str, frames: dict, sequences: pl.DataFrame, tokens: pl.DataFrame, readings: list[PlainReading], reader: PlainReader, settings: dict
) -> Iterator[str]:
    yield from _distributions(tokens, sequences, readings, reader, settings)
    names = ("encoder", "decoder") if reader.two_stacks else ("decoder",)
    for name in names:
        stacks = [reading.stacks[name] for reading in readings]
        yield from _layers(frames["layer_summaries"].filter(stack=name).sort(KEY), name, stacks, readings)
        yield from _vectors(lake, run, name, stacks)
        if frames["head_summaries"].height:
            yield from _heads(frames["head_summaries"].filter(stack=name), name, stacks)


def _distributions(tokens, sequences, readings, reader, settings) -> Iterator[str]:
    logprob, entropy, top1, margin, rank_low, rank_high, drawn = ([] for _ in range(7))
    next_entropy = []
    for reading in readings:
        n, first = len(reading.ids), len(reading.ids) - len(reading.logits) + 1
        lp = log_probabilities(reading.logits)
        next_entropy.append(entropy_of(np.exp(lp[-1])))
        lp, logits, targets = lp[:-1], reading.logits[:-1], reading.ids[first:]
        best = -np.sort(-np.exp(lp), axis=-1)
        own = np.take_along_axis(lp, targets[:, None], -1)[:, 0]
        own_logit = np.take_along_axis(logits, targets[:, None], -1)
        nothing = np.full(n - len(own), np.nan)
        logprob.append(np.concatenate((nothing, own)))
        entropy.append(np.concatenate((nothing, entropy_of(np.exp(lp)))))
        top1.append(np.concatenate((nothing, best[:, 0])))
        margin.append(np.concatenate((nothing, best[:, 0] - best[:, 1])))
        slack = 1e-5 + 1e-4 * np.abs(own_logit)
        rank_low.append(np.concatenate((nothing, (logits > own_logit + slack).sum(-1))))
        rank_high.append(np.concatenate((nothing, (logits > own_logit - slack).sum(-1) - 1)))
    for name, values in (("logprob", logprob), ("entropy_bits", entropy), ("top1_prob", top1), ("margin", margin)):
        yield from off(name, tokens[name], np.concatenate(values))
    yield from off("surprisal_bits", tokens["surprisal_bits"], -np.concatenate(logprob) / np.log(2))
    rank = tokens["rank"].cast(pl.Float64).to_numpy()
    low, high = np.concatenate(rank_low), np.concatenate(rank_high)
    if rank.shape == low.shape:
        with np.errstate(invalid="ignore"):
            bad = (rank < low) | (rank > high)
        if bad.any() or (np.isnan(rank) != np.isnan(low)).any():
            yield f"rank: {bad.sum()} rows wrong"
    sampled = tokens["is_prompt"].to_numpy() if settings.get("samples") else np.ones(len(tokens), dtype=bool)
    yield from off("sampling_logprob", tokens["sampling_logprob"], np.where(sampled, np.nan, np.concatenate(logprob)))
    yield from off("next_entropy_bits", sequences["next_entropy_bits"], np.array(next_entropy))


def _layers(frame: pl.DataFrame, name: str, stacks: list[StackReading], readings: list) -> Iterator[str]:
    n_layers = stacks[0].n_layers
    sites = [("resid_pre", 0), *(("resid_post", layer) for layer in range(n_layers)), ("final_norm", n_layers - 1)]
    before: list[np.ndarray] = []
    for number, site in enumerate(sites):
        mine = frame.filter((pl.col("site") == site[0]) & (pl.col("layer") == site[1]))
        states = [stack.states[site].astype(np.float64) for stack in stacks]
        wanted = _statistics(states)
        nothing = np.full(len(wanted["mean"]), np.nan)
        if number and before[0].shape == states[0].shape:
            pairs = list(zip(before, states, strict=True))
            wanted["delta_norm"] = np.concatenate([np.linalg.norm(b - a, axis=-1) for a, b in pairs])
            wanted["cos_prev_layer"] = np.concatenate([_cosine(a, b) for a, b in pairs])
        elif not number:
            wanted |= {"delta_norm": nothing, "cos_prev_layer": nothing}
        for column, values in wanted.items():
            # What vectors may be off by their norm moves the mean of their elements and the length of differences.
            length = np.concatenate([np.linalg.norm(one, axis=-1) for one in states])
            slack = {"mean": 1e-4 * length / states[0].shape[-1] ** 0.5, "delta_norm": 1e-4 * length}.get(column, 0.0)
            label = f"{column} of {site[0]} {site[1]}"
            yield from (f"{name} {text}" for text in off(label, mine[column], values, slack))
        before = states


def _statistics(states: list[np.ndarray]) -> dict[str, np.ndarray]:
    every = np.concatenate(states)
    earlier = [np.append(np.nan, _cosine(one[:-1], one[1:])) for one in states]
    return {
        "l2_norm": np.linalg.norm(every, axis=-1),
        "mean": every.mean(-1),
        "std": every.std(-1, ddof=1),
        "max_abs": np.abs(every).max(-1),
        "cos_prev_position": np.concatenate(earlier),
    }


def _cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return (a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))


def _vectors(lake: Lake, run: str, name: str, stacks: list[StackReading]) -> Iterator[str]:
    rows = lake.scan("activations", run=run).filter(pl.col("stack") == name).select("site", "layer").unique().collect()
    stored = {site: _read(lake, run, *site, name) for site in rows.rows()}
    for site, wanted in {key: [stack.states[key] for stack in stacks] for key in stacks[0].states}.items():
        if site in stored:
            yield from _apart(f"{name} vector {site[0]} {site[1]}", stored[site], np.concatenate(wanted))
        elif site[0] in ("resid_post", "final_norm"):
            yield f"{name} vector {site[0]} {site[1]}: not stored"
    # resid_pre + attn_out (+ cross_attn_out) + mlp_out = resid_post, as the definitions say.
    for layer in range(stacks[0].n_layers):
        parts = [("resid_pre", layer), ("attn_out", layer), ("mlp_out", layer)]
        if all(part in stored for part in parts):
            total = sum(stored[part] for part in parts) + stored.get(("cross_attn_out", layer), 0)
            yield from _apart(f"{name} identity of layer {layer}", total, stored["resid_post", layer])
        if ("resid_mid", layer) in stored:
            total = stored["resid_pre", layer] + stored["attn_out", layer]
            yield from _apart(f"{name} resid_mid of layer {layer}", stored["resid_mid", layer], total)


def _apart(name: str, given: np.ndarray, wanted: np.ndarray) -> Iterator[str]:
    if given.shape != wanted.shape:
        yield f"{name}: {given.shape}, {wanted.shape} wanted"
        return
    norm = np.linalg.norm(wanted, axis=-1)
    miss = np.linalg.norm(given.astype(np.float64) - wanted, axis=-1) - 1e-4 * norm
    if miss.max() > 0 or np.isnan(miss).any():
        worst = int(np.nanargmax(miss / np.maximum(norm, 1e-30)))
        yield f"{name}: off by {miss[worst] / norm[worst]:.3g} of its norm in row {worst} of {len(miss)} ({(miss > 0).sum()} rows)"


def _read(lake: Lake, run: str, site: str, layer: int, stack: str) -> np.ndarray:
    keys, parts = [], []
    for key, matrix in lake.vectors(layer, site, run=run):
        keys.append(pl.DataFrame(pl.from_arrow(key)))
        parts.append(matrix)
    frame = pl.concat(keys)
    order = np.lexsort((frame["position"].to_numpy(), frame["sequence_id"].to_numpy()))
    every = np.concatenate(parts)[order]
    if "stack" in frame.columns:
        every = every[(frame["stack"].to_numpy() == stack)[order]]
    return every


def _heads(frame: pl.DataFrame, name: str, stacks: list[StackReading]) -> Iterator[str]:
    for kind, maps in stacks[0].attention.items():
        mine = frame.filter(kind=kind).sort(*KEY, "layer", "head")
        if not mine.height:
            yield f"{name} heads: no rows of kind {kind}"
            continue
        layers = sorted(set(mine["layer"]))
        if len(maps) != len(layers):
            yield f"{name} heads {kind}: no reference, {len(maps)} maps for {len(layers)} layers"
            continue
        for place, layer in enumerate(layers):
            rows = mine.filter(pl.col("layer") == layer)
            weights = [stack.attention[kind][place] for stack in stacks]
            entropy = np.concatenate([entropy_of(one).ravel() for one in weights])
            heaviest = np.concatenate([one.max(-1).ravel() for one in weights])
            yield from off(f"{name} {kind} head entropy of layer {layer}", rows["entropy_bits"], entropy)
            yield from off(f"{name} {kind} head max_weight of layer {layer}", rows["max_weight"], heaviest)
            support = np.concatenate([(one > 0).sum(-1).ravel() for one in weights])
            n_keys = rows["n_keys"].to_numpy()
            if n_keys.shape == support.shape and (n_keys < support).any():
                yield f"{name} {kind} n_keys of layer {layer}: too few in {(n_keys < support).sum()} rows"
