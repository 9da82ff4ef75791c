"""The batch files of SAEDashboard: every number is that of the tables, token by token."""

import json
from pathlib import Path

import pytest
from dashboard_lake import SAE, dashboard_lake

from tracelake.lake.errors import NotFoundError, UsageError
from tracelake.lake.exchange.saedashboard import writing
from tracelake.lake.exchange.saedashboard.writing import export_dashboard


def test_records_are_what_the_tables_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "BEFORE", 1)
    monkeypatch.setattr(writing, "AFTER", 2)
    lake = dashboard_lake(tmp_path / "lake")
    done = export_dashboard(lake, "m-resid", tmp_path / "out", run="run-00", per_file=1)
    assert done.files == ("batch-0.json", "batch-1.json") and done.n_features == 2 and done.sae_id == SAE
    first, second = (json.loads((tmp_path / "out" / name).read_text()) for name in done.files)
    assert (first["model_id"], first["layer"], first["sae_set"]) == ("m", 0, "0-resid_post")
    [zero], [two] = first["features"], second["features"]
    assert (zero["feature_index"], two["feature_index"]) == (0, 2)
    # 3 sequences of 5 tokens, the first of each left out.
    assert zero["frac_nonzero"] == 3 / 12 and two["frac_nonzero"] == 1 / 12
    assert (zero["n_prompts_total"], zero["n_tokens_in_prompt"]) == (3, 5)
    assert sum(zero["freq_hist_data_bar_heights"]) == 3 and len(zero["freq_hist_data_bar_values"]) == 50
    steps = lake.sql("select sequence_id, position, token from token_steps").rows()
    token = {(sequence, position): text for sequence, position, text in steps}
    top, tenth = zero["activations"]
    assert top["tokens"] == [token[1, p] for p in (1, 2, 3, 4)] and top["values"] == [0.0, 6.0, 4.0, 0.0]
    assert top["qualifying_token_index"] == 1 and (top["bin_min"], top["bin_max"], top["bin_contains"]) == (-1, 99, -1)
    assert tenth["tokens"] == [token[0, p] for p in (0, 1, 2, 3)] and tenth["values"] == [0.0, 2.0, 0.0, 0.0]
    assert (tenth["bin_min"], tenth["bin_max"], tenth["bin_contains"]) == (2.0, 2.0, 0.1)
    assert two["activations"][0]["tokens"] == [token[2, p] for p in (3, 4)]
    assert two["activations"][0]["qualifying_token_index"] == 1


def test_what_was_not_computed_is_named(tmp_path: Path) -> None:
    lake = dashboard_lake(tmp_path / "lake")
    for error, match, sae, run, more in [
        (NotFoundError, f"not computed on run sae-run: lake sae features {SAE} --run sae-run", SAE, "sae-run", {}),
        (NotFoundError, "'x' is no autoencoder here", "x", "run-00", {}),
        (UsageError, "--per-file must be at least 1", SAE, "run-00", {"per_file": 0}),
    ]:
        with pytest.raises(error, match=match):
            export_dashboard(lake, sae, tmp_path / "out", run=run, **more)
    assert not (tmp_path / "out").exists()
