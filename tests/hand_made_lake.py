"""The synthetic lake that the tests of `queries` ask: rows like a small GPT-2's, consistent with the definitions."""

import functools
import hashlib
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
from readout_rows import readout_rows
from sae_rows import sae_rows
from sampling_rows import sampling_rows
from track_rows import track_rows

from tracelake.lake.lake import Lake
from tracelake.lake.schema import TABLES
from tracelake.lake.sql.duck import Connection
from tracelake.lake.writing.segments import SegmentWriter
from tracelake.queries.derived_views import view_definitions

LAYERS, HEADS, PROMPTS, SAMPLES = 6, 4, 32, 4
RUN, OTHER, ENCODER = "sampled-01", "greedy-01", "encoder-01"
HOSTILE = "</script><script>alert(1)</script>"
WORDS = [" apples", " has", " and", " gives", " to", " Tom", " Mia", "1", "2", "3", "7", " +", " =", ".", "\n", HOSTILE]

Rows = dict[str, list[dict]]


def sequence_rows(rng: np.random.Generator, run: str, samples: int) -> list[dict]:
    rows = []
    for item in range(PROMPTS):
        level, prompt = 1 + item % 3, f"Question: problem {item}? " + "Tom has 12 apples. " * (2 + item % 3)
        for sample in range(samples):
            correct = bool(rng.random() < (0.95, 0.75, 0.4)[level - 1])
            n_prompt, n_generated = 34 + item % 12, int(rng.integers(40, 80))
            answer = str(10 + item)
            predicted = answer if correct else str(int(rng.integers(1, 9)))
            rows.append(
                {
                    "run_id": run,
                    "sequence_id": item * samples + sample,
                    "prompt_id": hashlib.sha256(prompt.encode()).hexdigest()[:16],
                    "item_id": str(item),
                    "item_offset": 0,
                    "sample": sample,
                    "origin": "sampled" if samples > 1 else "greedy",
                    "prompt": prompt,
                    "completion": f"so x = {sample % 3} " + "and " * n_generated + "\\boxed{" + predicted + "}",
                    "n_prompt_tokens": n_prompt,
                    "n_generated_tokens": n_generated,
                    "finish_reason": "eos" if rng.random() < 0.9 else "length",
                    "temperature": 1.0 if samples > 1 else 0.0,
                    "seed": 0,
                    "dataset": "tinymath",
                    "split": "test",
                    "answer": answer,
                    "predicted_answer": predicted,
                    "correct": correct,
                    "grader": "boxed-1",
                    "solution_method": ("direct", "split")[int(rng.integers(2))],
                    "metadata": json.dumps({"level": level}),
                    "batch_size": 8,
                    "batch_index": sample,
                }
            )
    return rows


def token_rows(rng: np.random.Generator, sequence: dict) -> list[dict]:
    rows, n_prompt = [], sequence["n_prompt_tokens"]
    for position in range(n_prompt + sequence["n_generated_tokens"]):
        step = position - n_prompt if position >= n_prompt else None
        row = {key: sequence[key] for key in ("run_id", "sequence_id")} | {
            "position": position,
            "stack": "decoder",
            "step": step,
            "is_prompt": step is None,
            "is_forced": False,
            "token_id": (token := int(rng.zipf(1.6)) % len(WORDS)),
            "token": WORDS[token],
            "char_end": 4 * (position if step is None else step) + 4,
        }
        rows.append(row if position == 0 else row | distribution(rng, sequence, step))
    return rows


def distribution(rng: np.random.Generator, sequence: dict, step: int | None) -> dict:
    wrong = not sequence["correct"]
    sure = rng.beta(1.5, 2.5) if step is None else rng.beta(5 - wrong, 1.2 + wrong)
    rank = 0 if rng.random() < sure else int(rng.geometric(0.3))
    logprob = float(np.log(sure if rank == 0 else (1 - sure) * 0.3**rank + 1e-6))
    entropy = float(2.5 * (1 - sure) + 0.4 * rng.random())
    sampled = step is not None and sequence["origin"] == "sampled"
    return {
        "logprob": logprob,
        "surprisal_bits": -logprob / np.log(2),
        "entropy_bits": entropy,
        "rank": rank,
        "top1_prob": float(sure),
        "margin": float(sure * 0.8),
        "top10_mass": float(0.5 + sure / 2),
        "sampling_logprob": logprob * 0.9 if sampled else None,
        "sampling_entropy_bits": entropy * 0.8 if sampled else None,
        "latency_ms": None if step is None else float(rng.gamma(20, 0.4) + 0.02 * step),
    }


def layer_rows(rng: np.random.Generator, sequence: dict, n: int) -> pl.DataFrame:
    """Norms that grow by layer, a huge first token, cosines near 1; wrong sequences are updated more, late."""
    frames = []
    sites = [(0, "resid_pre"), *((layer, "resid_post") for layer in range(LAYERS)), (LAYERS - 1, "final_norm")]
    for layer, site in sites:
        depth = 0 if site == "resid_pre" else layer + 1
        norm = 8.0 * 1.35**depth * rng.lognormal(0, 0.12, n)
        norm[0] *= 25
        change = norm * (0.30 + 0.05 * rng.random(n) + 0.02 * depth * (not sequence["correct"]))
        first = site == "resid_pre"
        post = site == "resid_post"
        entropy = 1.0 + rng.random(n)
        frames.append(
            pl.DataFrame(
                {
                    "position": np.arange(n),
                    "l2_norm": norm,
                    "mean": rng.normal(0, 0.01, n),
                    "std": norm / 11.3,
                    "max_abs": norm / 3,
                    "n_nan": np.zeros(n, dtype=np.int32),
                    "n_inf": np.zeros(n, dtype=np.int32),
                    "cos_prev_layer": np.full(n, np.nan) if first else 1 - change**2 / norm**2 / 2,
                    "cos_prev_position": 0.6 + 0.3 * rng.random(n),
                    "delta_norm": np.full(n, np.nan) if first else change,
                    "attn_entropy_bits_mean": entropy if post else np.full(n, np.nan),
                    "attn_max_weight_mean": 0.3 + 0.2 * rng.random(n) if post else np.full(n, np.nan),
                }
            ).with_columns(layer=pl.lit(layer), site=pl.lit(site))
        )
    frame = pl.concat(frames).with_columns(pl.col(pl.Float64).fill_nan(None))
    frame = frame.with_columns(
        cos_prev_position=pl.when(pl.col("position") > 0).then("cos_prev_position"),
        stack=pl.lit("decoder"),
        run_id=pl.lit(sequence["run_id"]),
        sequence_id=pl.lit(sequence["sequence_id"]),
    )
    return frame.sort("position", "layer")


def head_rows(rng: np.random.Generator, sequence: dict, surprisal: np.ndarray) -> pl.DataFrame:
    """Head (2, 1) spreads with the surprisal of the next token; heads of even layers rest on the first token."""
    n = len(surprisal)
    position, layer, head = (
        axis.ravel() for axis in np.meshgrid(np.arange(n), np.arange(LAYERS), np.arange(HEADS), indexing="ij")
    )
    keys = position + 1
    share = 0.2 + 0.1 * layer / LAYERS + 0.15 * head + 0.1 * rng.random(len(position))
    follows = (layer == 2) & (head == 1)
    after = np.append(surprisal[1:], 1.0)[position]
    share = np.where(follows, np.clip(0.15 + 0.08 * after + 0.02 * rng.random(len(position)), 0, 1), share)
    sink = (layer % 2 == 0) & (rng.random(len(position)) < 0.5 + 0.1 * head)
    last = position == sequence["n_prompt_tokens"] - 1
    basin = np.where(last, 0.3 + 0.2 * layer / LAYERS + 0.1 * head, np.nan)
    frame = pl.DataFrame(
        {
            "position": position,
            "layer": layer,
            "head": head,
            "n_keys": keys,
            "entropy_bits": share * np.log2(keys),
            "max_weight": 1 / (1 + share * np.log2(keys)),
            "max_key": np.where(sink, 0, rng.integers(0, keys)),
            "basin_ratio": basin,
            "basin_ratio_to_uniform": basin / 0.5,
        }
    )
    return frame.with_columns(
        pl.col("basin_ratio", "basin_ratio_to_uniform").fill_nan(None),
        kind=pl.lit("self"),
        stack=pl.lit("decoder"),
        run_id=pl.lit(sequence["run_id"]),
        sequence_id=pl.lit(sequence["sequence_id"]),
    )


def run_row(run: str, minutes: int, **more: object) -> dict:
    created = datetime(2026, 11, 20, 12, minutes, tzinfo=UTC)
    return {
        "run_id": run,
        "tag": run.split("-")[0],
        "kind": "generate",
        "status": "complete",
        "created_at": created,
        "finished_at": created + timedelta(minutes=1),
        "model": "tinymath",
        "architecture": "GPT2LMHeadModel",
        "is_encoder_decoder": False,
        "n_layers": LAYERS,
        "n_heads": HEADS,
        "d_model": 128,
    } | more


def edge_rows(rng: np.random.Generator, sequence: dict) -> list[dict]:
    rows = []
    for query in range(sequence["n_prompt_tokens"]):
        keys = sorted({0, query, *(int(k) for k in rng.integers(0, query + 1, 4))})
        weights = rng.dirichlet(np.ones(len(keys)) * 0.7)
        for key, weight in zip(keys, weights, strict=True):
            rows.append(
                {"run_id": sequence["run_id"], "sequence_id": sequence["sequence_id"], "position": query}
                | {"layer": 0, "head": 0, "kind": "self", "stack": "decoder", "key": key, "weight": float(weight)}
            )
    return rows


def embedding_rows(rng: np.random.Generator, sequence: dict) -> list[dict]:
    rows, vector = [], rng.normal(size=16)
    for step in range(sequence["n_generated_tokens"]):
        vector = vector + 0.25 * rng.normal(size=16)
        for scope in ("completion", "prompt+completion"):
            unit = vector + (0 if scope == "completion" else 2.0)
            unit = unit / np.linalg.norm(unit)
            rows.append(
                {"run_id": sequence["run_id"], "sequence_id": sequence["sequence_id"], "scope": scope, "step": step}
                | {"position": sequence["n_prompt_tokens"] + step, "embedder": "minilm", "dtype": "float32", "dim": 16}
                | {"n_pieces": 10, "truncated": False, "vector": unit.astype(np.float32).tolist()}
            )
    return rows


def derived_rows(rng: np.random.Generator, sequences: list[dict]) -> Rows:
    """What the analyses would have written: trajectory and topology of 16 sequences, one comparison by method."""
    created = datetime(2026, 11, 20, 13, tzinfo=UTC)
    parameters = {"trajectory": {"umap": "both"}, "topology": {"null_paths": 19}, "compare": {}}
    rows: Rows = {
        "analyses": [
            {"run_id": RUN, "analysis_id": f"{name}-1", "name": name, "parameters": json.dumps(given)}
            | {"snapshot": "0" * 16, "created_at": created, "n_sequences": 16}
            for name, given in parameters.items()
        ]
        # Newer, but of one sequence only, and without rows here: charts must not take it.
        + [
            {"run_id": RUN, "analysis_id": "trajectory-2", "name": "trajectory", "snapshot": "0" * 16}
            | {"parameters": json.dumps({"umap": "both", "sequences": [0]}), "created_at": created + timedelta(hours=1)}
        ]
    }
    for sequence in sequences[:16]:
        key = {"run_id": RUN, "sequence_id": sequence["sequence_id"]}
        path = {"embedder": "minilm", "scope": "completion", "analysis_id": "trajectory-1"}
        n = sequence["n_generated_tokens"]
        plane = np.cumsum(rng.normal(size=(n, 2)), axis=0).tolist()
        rows.setdefault("trajectories", []).extend(
            key
            | path
            | {"position": sequence["n_prompt_tokens"] + i, "step": i, "truncated": False}
            | {
                "cos_to_prompt": float(rng.uniform(0.2, 0.9)),
                "cos_prev_step": float(rng.uniform(0.8, 1)) if i else None,
            }
            | {"velocity": float(rng.gamma(2, 0.1)) if i else None, "umap_x": plane[i][0], "umap_y": plane[i][1]}
            | {"curvature_rad": float(rng.uniform(1, 2.2)) if i > 1 else None, "path_length": 0.2 * i}
            | {"shared_umap_x": plane[i][1], "shared_umap_y": plane[i][0]}
            for i in range(n)
        )
        rows.setdefault("trajectory_summaries", []).append(
            key | path | {"n_steps": n, "mean_velocity": 0.2, "path_length": 0.2 * n, "tortuosity": 4.0}
        )
        for dimension, low in ((0, 0.0), (1, 0.3)):
            place = key | {"analysis_id": "topology-1", "space": "pca", "dimension": dimension}
            births = [0.0] * 6 if dimension == 0 else sorted(rng.uniform(0, 0.3, 3).tolist())
            rows.setdefault("persistence_pairs", []).extend(
                place | {"pair": i, "birth": b, "death": b + 0.3 / (i + 1), "persistence": 0.3 / (i + 1)}
                for i, b in enumerate(births)
            )
            rows.setdefault("persistence_summaries", []).append(
                place | {"n_points": n, "n_landmarks": n, "n_pairs": len(births), "max_persistence": 0.3 + low}
                | ({"n_loops": 3, "null_paths": 19, "null_mean_max_persistence": float(rng.uniform(0.1, 0.9)),
                    "p_max_persistence": 0.05, "p_loops": 0.1, "null_mean_loops": 2.0} if dimension else {})
            )  # fmt: skip
    about = {"run_id": RUN, "analysis_id": "compare-1"}
    rows["comparisons"] = [
        about | {"metric": metric, "label_a": "direct", "label_b": "split", "difference": gap, "effect_size": gap}
        | {"p_value": 0.01, "p_holm": p, "design": "within prompts", "n_prompts": 9}
        for metric, gap, p in (("mean_velocity", 1.2, 0.02), ("n_loops", -0.4, 0.3), ("correct", -0.9, 0.01))
    ]  # fmt: skip
    rows["fingerprints"] = [
        about | {"label": label, "metric": "velocity", "per": "step", "n": 99, "mean": 0.2, "median": 0.2}
        for label in ("direct", "split")
    ]  # fmt: skip
    rows["trajectory_correlations"] = [
        about | {"label": "direct", "metric": metric, "other": other, "steps_from_end": k, "n": 60, "n_prompts": 9}
        | {"spearman": float(r), "ci_low": float(r - 0.2), "ci_high": float(r + 0.2)}
        for metric in ("velocity", "curvature_rad") for other in ("surprisal_bits", "correct")
        for k, r in enumerate(rng.uniform(-0.5, 0.5, 8))
    ]  # fmt: skip
    return rows


def encoder_rows() -> Rows:
    """One sequence of an encoder-decoder model: encoder tokens 0-3, the start token 4, generated tokens 5-7."""
    key = {"run_id": ENCODER, "sequence_id": 0}
    tokens, states = [], []
    for position in range(8):
        stack = "encoder" if position < 4 else "decoder"
        step = position - 5 if position >= 5 else None
        row = key | {"position": position, "stack": stack, "step": step, "is_prompt": step is None, "is_forced": False}
        row |= {"token_id": position, "token": f"t{position}", "char_end": position}
        tokens.append(
            row if step is None else row | {"surprisal_bits": float(position), "entropy_bits": 1.0, "rank": 0}
        )
        states.append(key | {"position": position, "stack": stack, "layer": 0, "site": "resid_post", "l2_norm": 1.0})
    sequence = key | {"prompt_id": "e" * 16, "item_id": "0", "sample": 0, "origin": "greedy", "prompt": "p"}
    sequence |= {"completion": "c", "n_prompt_tokens": 5, "n_generated_tokens": 3, "finish_reason": "eos"}
    return {"sequences": [sequence], "token_steps": tokens, "layer_summaries": states}


@functools.cache
def frames() -> dict[str, pl.DataFrame]:
    """All tables as polars frames with the lake's types; vectors as lists, as the lake's views show them."""
    rng = np.random.default_rng(7)
    encoder = encoder_rows()
    sequences = sequence_rows(rng, RUN, SAMPLES) + sequence_rows(rng, OTHER, 1)
    tokens = {(s["run_id"], s["sequence_id"]): token_rows(rng, s) for s in sequences}
    layers, heads = [], []
    for sequence in sequences:
        rows = tokens[sequence["run_id"], sequence["sequence_id"]]
        layers.append(layer_rows(rng, sequence, len(rows)))
        if sequence["run_id"] == RUN:
            heads.append(head_rows(rng, sequence, np.array([r.get("surprisal_bits", 0.0) for r in rows])))
    operations = [
        {"run_id": RUN, "writer": "w0", "segment": segment, "name": name, "parent": parent}
        | {"count": count, "total_ms": total * (1 + 0.1 * segment), "max_ms": 2.5 * total / count}
        for segment in range(8)
        for name, parent, count, total in (
            ("prefill", None, 2, 140.0),
            ("decode", None, 60, 820.0),
            ("summarise", "decode", 60, 190.0),
            ("write", None, 1, 75.0),
            ("fsync", "write", 5, 30.0),
        )
    ]
    features = [
        {"run_id": RUN, "sequence_id": i % 8, "position": 5 + i, "sae_id": "sae-1", "layer": 3, "site": "resid_post"}
        | {"feature": i % 3, "activation": float(rng.gamma(2))}
        for i in range(120)
    ]
    runs = [run_row(RUN, 30), run_row(OTHER, 10), run_row(ENCODER, 5, is_encoder_decoder=True, n_layers=1)]
    loose: dict[str, list[dict] | pl.DataFrame] = {
        "runs": runs,
        "sequences": sequences + encoder["sequences"],
        "token_steps": [row for rows in tokens.values() for row in rows] + encoder["token_steps"],
        "layer_summaries": pl.concat(
            [*layers, pl.DataFrame(encoder["layer_summaries"])], how="diagonal_relaxed", rechunk=True
        ),
        "head_summaries": pl.concat(heads),
        "attention_edges": edge_rows(rng, sequences[0]),
        "step_embeddings": embedding_rows(rng, sequences[0]),
        "sae_features": features,
        "operations": operations,
    }
    loose |= derived_rows(rng, sequences) | sae_rows(RUN)
    for more in (readout_rows(rng, sequences), sampling_rows(rng, sequences), track_rows(rng, sequences)):
        for name, rows in more.items():
            loose[name] = [*loose.get(name, []), *rows]  # type: ignore[list-item]
    return {name: typed(name, loose.get(name, [])) for name in TABLES}


def typed(name: str, rows: list[dict] | pl.DataFrame) -> pl.DataFrame:
    """The rows with every column of the table, in its type."""
    empty = pl.DataFrame(pl.from_arrow(view_schema(name).empty_table()))
    frame = pl.DataFrame(rows, infer_schema_length=None)
    present = [pl.col(c).cast(t) for c, t in empty.schema.items() if c in frame.columns]
    return pl.concat([empty, frame.select(present)], how="diagonal") if frame.width else empty


def view_schema(name: str) -> pa.Schema:
    """The schema of the lake's view: as stored, with vectors as lists of floats."""
    schema = TABLES[name].schema
    vector = TABLES[name].vector
    if vector is None:
        return schema
    return schema.set(schema.get_field_index(vector), pa.field(vector, pa.list_(pa.float32())))


def write_lake(folder: Path, tables: dict[str, pl.DataFrame]) -> Lake:
    """A real lake with these rows, every run in two segments."""
    lake = Lake.create(folder / "lake")
    for run in tables["runs"].iter_rows(named=True):
        model = {name: run[name] for name in ("architecture", "is_encoder_decoder", "n_layers", "n_heads", "d_model")}
        body = {"tag": run["tag"], "kind": run["kind"], "model": {"name": run["model"]} | model}
        with lake.start_run(run["run_id"], body | {"created_at": run["created_at"].isoformat()}) as writer:
            for segment, (low, high) in enumerate(((0, 64), (64, 10_000))):
                with writer.segment(segment, (low, high)) as open_segment:
                    for name, frame in tables.items():
                        rows = frame.filter(pl.col("run_id") == run["run_id"]) if name != "runs" else frame.clear()
                        ours = next((c for c in ("sequence_id", "segment") if c in rows.columns), None)
                        here = pl.lit(low == 0) if ours is None else pl.col(ours).is_between(low, high - 1)
                        if rows.height:
                            append(open_segment, name, rows.filter(here))
            writer.finish()
    return lake


def append(segment: SegmentWriter, name: str, rows: pl.DataFrame) -> None:
    if rows.height == 0:
        return
    vector = TABLES[name].vector
    drop = {"run_id", "dtype", "dim"} if vector else {"run_id"}
    columns = {c: rows[c].to_arrow() for c in rows.columns if c not in drop and c != vector}
    if vector:
        segment.append_vectors(
            name, columns=columns, vectors=np.stack(rows[vector].to_list()).astype(np.float32), dtype="float32"
        )
        return
    laid_out = [c for c in TABLES[name].partitions if c in columns]
    for values, piece in rows.group_by(laid_out, maintain_order=True) if laid_out else [((), rows)]:
        given = {c: piece[c].to_arrow() for c in columns} | dict(zip(laid_out, values, strict=True))
        segment.append(name, given)


@contextmanager
def connection_to(tables: dict[str, pl.DataFrame]) -> Iterator[Connection]:
    """The locked connection, derived views included, of a lake with these rows, in a folder that goes away."""
    with tempfile.TemporaryDirectory() as folder:
        lake = write_lake(Path(folder), tables)
        with lake.connect(extra_views=view_definitions(), locked=True) as connection:
            yield connection


def without(*tables: str) -> dict[str, pl.DataFrame]:
    """All tables, these of them empty."""
    return {name: frame.clear() if name in tables else frame for name, frame in frames().items()}
