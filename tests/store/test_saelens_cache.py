"""The activation cache that SAELens trains from: `datasets` opens it as its own, with the lake's numbers."""

from pathlib import Path

import datasets
import numpy as np
import pytest
from vector_lakes import add_sequences, vector_lake, vector_of

from tracelake.lake.errors import NotFoundError, UsageError
from tracelake.lake.exchange.saelens import cache
from tracelake.lake.exchange.saelens.cache import export_cache


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_datasets_opens_it_with_every_vector_and_token(tmp_path: Path, dtype: str, monkeypatch) -> None:
    monkeypatch.setattr(cache, "BATCH_BYTES", 4 * 5 * 8 * 2)  # two contexts per record batch
    lake = vector_lake(tmp_path / "lake", segments=3, sequences=3, length=5, dtype=dtype)
    done = export_cache(lake, "run-00", tmp_path / "cache", layer=0, site="resid_post")
    assert (done.n_contexts, done.context_size, done.d_in, done.n_left_out) == (9, 5, 8, 0)
    opened = datasets.load_from_disk(str(tmp_path / "cache"))
    assert opened.features["blocks.0.hook_resid_post"].shape == (5, 8)
    opened.set_format("numpy")
    for row in opened:
        sequence = int(row["blocks.0.hook_resid_post"][0, 1])
        expected = np.stack([vector_of(0, 0, sequence, position, 8) for position in range(5)])
        assert np.array_equal(row["blocks.0.hook_resid_post"], expected)
        where = f"sequence_id = {sequence}"
        ids = lake.sql(f"select token_id from token_steps where {where} order by position")["token_id"].to_list()
        assert row["token_ids"].tolist() == ids
    assert {int(row["blocks.0.hook_resid_post"][0, 1]) for row in opened} == set(range(9))


def test_shorter_sequences_are_left_out_and_longer_ones_cut(tmp_path: Path) -> None:
    lake = vector_lake(tmp_path / "lake", segments=1, sequences=3, length=5)
    with lake.start_run("run-mixed", {"kind": "read", "model": {"n_layers": 2}}) as run:
        for index, length in enumerate((4, 6, 9)):
            with run.segment(index, (index, index + 1)) as segment:
                ids = np.array([index])
                add_sequences(segment, 0, ids, length=length, dim=8, dtype="float32", sites=((1, "resid_post"),))
        run.finish()
    with pytest.raises(UsageError, match=r"have 4 to 9 tokens.*--context N"):
        export_cache(lake, "run-mixed", tmp_path / "c", layer=-1, site="resid_post")
    done = export_cache(lake, "run-mixed", tmp_path / "c", layer=-1, site="resid_post", context=6)
    assert (done.n_contexts, done.n_left_out, done.hook_name) == (2, 1, "blocks.1.hook_resid_post")
    with pytest.raises(NotFoundError, match="No sequence of run run-mixed has 10 tokens; the longest has 9"):
        export_cache(lake, "run-mixed", tmp_path / "d", layer=-1, site="resid_post", context=10)
    with pytest.raises(UsageError, match="is there already and not empty"):
        export_cache(lake, "run-mixed", tmp_path / "c", layer=-1, site="resid_post", context=6)
    with pytest.raises(NotFoundError, match="No activations of layer 0"):
        export_cache(lake, "run-mixed", tmp_path / "d", layer=0, site="resid_post", context=6)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c", "lake"]
