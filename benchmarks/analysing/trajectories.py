"""What trajectories cost: embedding growing texts with and without de-duplication and sorting, and analysing paths."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import tracelake
from benchmarks.measurement import Quiet, Result, arguments, interleave, ratio_range, speed_ratio, timed
from benchmarks.report import finish
from tracelake.analysis.paths.topology import Topology
from tracelake.analysis.paths.trajectory import Trajectory
from tracelake.analysis.question import ask
from tracelake.collect.embedding.embed_run import read_texts
from tracelake.collect.embedding.embedder import Embedder, Scope, growing_texts
from tracelake.lake import Lake

BATCH = 64


def collected_texts(folder: Path, problems: int, samples: int) -> dict[str, list[str]]:
    """The growing texts of a run of the bundled model, in the order of its sequences and tokens."""
    tracelake.collect(folder, dataset="tinymath:test", limit=problems, samples=samples, keep=("tokens",), tag="texts")
    sequences = read_texts(Lake.open(folder), Lake.open(folder).resolve_run("texts"))
    return {
        name: [t for s in sequences for t in growing_texts(s.prompt, s.completion, s.char_ends, Scope.parse(name))]
        for name in ("completion", "prompt+completion")
    }


def embedding_cases(embedder: Embedder, texts: list[str]) -> dict[str, Any]:
    """From the plainest way to ours; all give the same vectors."""
    encode = embedder._model.encode
    options: dict[str, Any] = {"normalize_embeddings": True, "show_progress_bar": False}
    return {
        "one text per call": timed(lambda: [encode([text], **options) for text in texts]),
        "batches in order": timed(
            lambda: [encode(texts[i : i + BATCH], batch_size=BATCH, **options) for i in range(0, len(texts), BATCH)]
        ),
        "batches sorted by length": timed(lambda: encode(texts, batch_size=BATCH, **options)),
        "each distinct text once, sorted": timed(lambda: embedder.embed(texts)),
    }


def embedding(result: Result, options: Any, folder: Path, quick: bool) -> None:
    """Compare the ways to embed, for each scope."""
    embedder = Embedder(None, "cpu")
    for scope, texts in collected_texts(folder, 1 if quick else 12, 1 if quick else 4).items():
        cases = embedding_cases(embedder, texts)
        found = interleave(cases, options.repeats or (1 if quick else 2), warm_up=False, quiet=Quiet(options.patience))
        distinct = len(set(texts))
        table = result.table(
            f"Embedding {len(texts):,} growing texts ({scope}), {distinct:,} of them distinct",
            "way", "seconds", "texts/s", "rounds",
        )  # fmt: skip
        for name, sample in found.items():
            table.add(name, round(sample.median, 2), round(len(texts) / sample.median), sample.spread)
        plain, ordered, ours = (found[name] for name in ("one text per call", "batches in order", list(found)[-1]))
        result.notes.append(
            f"{scope}: {speed_ratio(ours, plain):.1f} times as fast as one text per call "
            f"({ratio_range(ours, plain)}), {speed_ratio(ours, ordered):.1f} times as fast as batches in order "
            f"({ratio_range(ours, ordered)})."
        )


def make_paths(folder: Path, n_sequences: int, n_steps: int, dim: int = 384) -> Lake:
    """A run whose step embeddings are unit vectors that drift like those of a growing text."""
    lake, rng = Lake.create(folder), np.random.default_rng(0)
    with lake.start_run("paths", {"plan": {"segments": [[0, n_sequences]]}}) as run:
        with run.segment(0, (0, n_sequences)) as segment:
            ids = np.arange(n_sequences)
            sizes = {"n_prompt_tokens": np.full(n_sequences, 10, np.int32)}
            segment.append("sequences", {"sequence_id": ids, "prompt_id": [f"p{i // 4}" for i in ids], **sizes})
            step = np.tile(np.arange(n_steps, dtype=np.int32), n_sequences)
            key = {"sequence_id": np.repeat(ids, n_steps), "position": step + 10, "step": step}
            noise = rng.standard_normal((n_sequences, n_steps, dim), dtype=np.float32)
            noise /= np.arange(1, n_steps + 1, dtype=np.float32)[:, None]
            vectors = np.cumsum(noise, axis=1).reshape(-1, dim)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            named = {"embedder": "drift", "scope": "completion", "truncated": False}
            segment.append_vectors("step_embeddings", columns=key | named, vectors=vectors, dtype="float32")
            first = vectors[::n_steps]
            place = {"sequence_id": ids, "position": np.full(n_sequences, 9, np.int32), "step": None}
            named = {"embedder": "drift", "scope": "prompt", "truncated": False}
            segment.append_vectors("step_embeddings", columns=place | named, vectors=first.copy(), dtype="float32")
        run.finish()
    return lake


def plain_loop(lake: Lake) -> None:
    """Velocity, curvature and cosine one step after the other, from vectors that are in memory already."""
    for points in _paths(lake):
        for t in range(1, len(points)):
            step = points[t] - points[t - 1]
            np.linalg.norm(step)
            points[t] @ points[t - 1] / (np.linalg.norm(points[t]) * np.linalg.norm(points[t - 1]))
            if t > 1:
                before = points[t - 1] - points[t - 2]
                np.arccos(np.clip(step @ before / (np.linalg.norm(step) * np.linalg.norm(before)), -1, 1))


def _paths(lake: Lake) -> list[np.ndarray]:
    rows = lake.scan("step_embeddings").collect()
    rows = rows.filter(rows["scope"] == "completion").sort("sequence_id", "position")
    vectors = np.frombuffer(b"".join(rows["vector"].to_list()), "<f4").reshape(rows.height, -1)
    return np.split(vectors, np.flatnonzero(np.diff(rows["sequence_id"].to_numpy())) + 1)


def analysis(result: Result, options: Any, folder: Path, quick: bool) -> None:
    """Time the analyses, reading and committing included."""
    n_sequences, n_steps = (20, 30) if quick else (1000, 100)
    lake = make_paths(folder, n_sequences, n_steps)
    path = Trajectory(umap="none")
    cases = {
        "trajectory, computed": timed(lambda: ask(lake, "paths", path, force=True)),
        "trajectory, looked up": timed(lambda: ask(lake, "paths", path)),
        "a plain loop over steps, nothing written": timed(lambda: plain_loop(lake)),
        "topology, computed, without a null": timed(lambda: ask(lake, "paths", Topology(null_paths=0), force=True)),
    }
    found = interleave(cases, options.repeats or (1 if quick else 3), quiet=Quiet(options.patience))
    table = result.table(f"Analysing {n_sequences:,} paths of {n_steps} steps, 384 wide", "case", "seconds", "rounds")
    for name, sample in found.items():
        table.add(name, round(sample.median, 3), sample.spread)
    seconds = found["trajectory, computed"].median
    result.promise(f"Trajectories of {n_sequences:,} x {n_steps} steps", 10, seconds, unit="s", at_most=True)
    few = 2 if quick else 20
    pictured = Trajectory(umap="sequence", sequences=tuple(range(few)))
    drawn = interleave({"umap": timed(lambda: ask(lake, "paths", pictured, force=True))}, 2)["umap"]
    chance = Topology(sequences=tuple(range(few)), null_paths=39)
    judged = interleave({"null": timed(lambda: ask(lake, "paths", chance, force=True))}, 2)["null"]
    table.add(f"UMAP picture, per sequence (of {few})", round(drawn.median / few, 3), drawn.spread)
    table.add(f"topology with 39 null paths, per sequence (of {few})", round(judged.median / few, 3), judged.spread)


def main() -> None:
    """Measure and store."""
    options = arguments(__doc__).parse_args()
    result = Result("trajectories", "Trajectories: embedding and analysis", {"embedder": "all-MiniLM-L6-v2"})
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        embedding(result, options, Path(folder) / "texts", options.quick)
        analysis(result, options, Path(folder) / "paths", options.quick)
    finish(result, options)


if __name__ == "__main__":
    main()
