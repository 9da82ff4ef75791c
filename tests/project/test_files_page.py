"""docs/files.md as its readers run it: each recipe with the real library, its result against the lake's own reader."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

import tracelake

PAGE = Path(tracelake.__file__).parent / "docs" / "files.md"


def recipes() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The names of the page after all of its recipes have run in one folder."""
    folder = tmp_path_factory.mktemp("files")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("HF_HUB_OFFLINE", "1")
        tracelake.collect(
            "lakehouse",
            dataset="tinymath:test",
            limit=2,
            max_new_tokens=4,
            keep=("tokens", "activations:resid_post@2,-1"),
        )
        names: dict[str, Any] = {}
        for recipe in recipes():
            exec(recipe, names)
    return names


def test_every_reader_gets_the_vectors_of_the_lake(ran: dict[str, Any]) -> None:
    batches = list(ran["lake"].vectors(-1, "resid_post", "latest"))
    expected = np.concatenate([values for _, values in batches])
    assert len(ran["vectors"]) >= 1 and len(expected) > 20
    first = batches[0][1]
    assert np.array_equal(ran["x"][: len(first)], first)
    in_lists = np.concatenate([np.asarray(ran["as_lists"].to_list(), np.float32)])
    for values in (ran["y"], ran["z"], in_lists):
        assert sorted(map(bytes, values)) == sorted(map(bytes, expected))
    assert ran["bytes_per_vector"] == [(expected.shape[1] * 4,)]
    assert len(ran["frame"]) == 2 * len(expected) and set(ran["frame"]["layer"]) == {2, ran["last"]}


def test_scalar_tables_are_read_alike(ran: dict[str, Any]) -> None:
    lake = ran["lake"]
    [mean] = lake.sql("select avg(surprisal_bits) as m from token_steps where step is not null")["m"]
    assert ran["surprisal"] == pytest.approx(mean)
    assert ran["hard"].height == lake.sql("from token_steps where surprisal_bits > 1").height
    assert ran["table"].num_rows == lake.sql("from token_steps").height


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "int8", "float32"])
def test_the_numpy_recipe_decodes_every_format(ran: dict[str, Any], kind: str) -> None:
    values = torch.from_numpy(np.random.default_rng(0).normal(size=(7, 6)).astype(np.float32)) * 8
    scale = np.linspace(0.5, 2, 7, dtype=np.float32)
    typed = values.round().clamp(-127, 127).to(torch.int8) if kind == "int8" else values.to(getattr(torch, kind))
    raw = typed.view(torch.uint16).numpy() if kind == "bfloat16" else typed.numpy()
    rows = [row.tobytes() for row in raw]
    table = pa.table({"dtype": [kind] * 7, "scale": scale, "vector": pa.array(rows, pa.binary(len(rows[0])))})
    expected = typed.float().numpy() * (scale[:, None] if kind == "int8" else 1)
    assert np.array_equal(ran["matrix"](table), expected)
