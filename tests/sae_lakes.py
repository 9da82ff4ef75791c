"""Lakes to train sparse autoencoders on: planted vectors, and a few problems read by tinymath."""

from pathlib import Path

import numpy as np

from tracelake.collect.configuration.config import CollectConfig
from tracelake.collect.running.collector import Collection
from tracelake.collect.tinymath.problems import problems
from tracelake.collect.tinymath.vocabulary import plain_text
from tracelake.lake import Lake
from tracelake.lake.writing.writer import RunWriter

DIM, WIDTH, ACTIVE = 16, 48, 3


def planted(rng: np.random.Generator, n: int, dictionary: np.ndarray, active: int) -> np.ndarray:
    """Rows made of `active` dictionary rows each, with weights from 0.5 to 1.5, around a common centre."""
    chosen = rng.permuted(np.tile(np.arange(len(dictionary)), (n, 1)), axis=1)[:, :active]
    weights = rng.uniform(0.5, 1.5, (n, active, 1))
    return ((dictionary[chosen] * weights).sum(1) + 0.3).astype(np.float32)


def write_planted(
    run: RunWriter,
    index: int,
    rng: np.random.Generator,
    *,
    sites: dict[tuple[int, str], int] | None = None,
    n: int = 60,
) -> None:
    """Segment `index`: n sequences of 50 planted tokens, of which every sixth validates."""
    ids = np.arange(index * n, (index + 1) * n)
    with run.segment(index, (index * n, (index + 1) * n)) as segment:
        split = ["validation" if i % 6 == 5 else "train" for i in ids]
        counts = {"n_prompt_tokens": np.full(n, 50, np.int32), "n_generated_tokens": np.zeros(n, np.int32)}
        segment.append("sequences", {"sequence_id": ids, "split": split, **counts})
        position = np.tile(np.arange(50, dtype=np.int32), n)
        keys = {"sequence_id": np.repeat(ids, 50), "position": position, "stack": "decoder"}
        for place, ((layer, site), dim) in enumerate((sites or {(0, "resid_post"): DIM}).items()):
            directions = np.random.default_rng(7 + place).normal(size=(WIDTH, dim))
            directions /= np.linalg.norm(directions, axis=1, keepdims=True)
            if place == 0:
                vectors = first = planted(rng, 50 * n, directions, ACTIVE)
            else:  # every further site is a linear map of the first one
                vectors = first @ directions[:DIM].astype(np.float32)
            segment.append_vectors(
                "activations", columns=keys, vectors=vectors, dtype="float32", layer=layer, site=site
            )


def lake_of(path: Path, *, sites: dict[tuple[int, str], int] | None = None, model: str = "m", n: int = 60) -> Lake:
    """A run of two such segments."""
    lake = Lake.create(path)
    rng = np.random.default_rng(3)
    about = {"name": model, "n_layers": 2, "weights_sha256": model * 8}
    with lake.start_run(f"read-{len(lake.runs())}", {"kind": "read", "model": about}) as run:
        for index in range(2):
            write_planted(run, index, rng, sites=sites, n=n)
        run.finish()
    return lake


def tinymath_lake(path: Path, *, n: int = 40) -> Lake:
    """Runs `read` and `check` of word problems with their solutions, read by the bundled model; resid_post is kept."""
    lake = Lake.create(path)
    for tag, split in (("read", "train"), ("check", "test")):
        texts = [plain_text(problem, "direct") for problem in problems(split, limit=n if tag == "read" else n // 4)]
        keep = ["activations:resid_post@2,4"]
        config = CollectConfig(prompt=texts, max_new_tokens=0, keep=keep, batch_size=8, tag=tag)
        Collection(config).start(lake)
    return lake
