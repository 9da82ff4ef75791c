"""Feature tables with what needs the model: the tokens that each decoder row raises and lowers."""

from collections.abc import Callable

import torch

from ..analysis.sae.evaluation import run_to_read
from ..analysis.sae.features import FeatureTables, Logits, feature_tables
from ..analysis.sae.folder import load_sae
from ..analysis.sae.sae import Sae
from ..lake import Lake

N_TOKENS = 10
BLOCK_BYTES = 64 * 2**20
RESIDUAL = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "final_norm")
"""Sites whose vectors are added to what the unembedding reads."""


def compute_features(
    lake: Lake,
    name: str,
    run: str,
    *,
    model: str | None = None,
    with_model: bool = True,
    device: str = "cpu",
    should_stop: Callable[[], None] = lambda: None,
    on_progress: Callable[[int], None] = lambda n_rows: None,
) -> FeatureTables:
    """The feature tables of an autoencoder on a run; the model is loaded only if they are not there yet."""
    sae = load_sae(lake, name)
    run_id, about = run_to_read(lake, sae, run), sae.about or {}
    writes = about.get("to_site") or about.get("site")
    logits = _logits(lake, run_id, model, device) if with_model and writes in RESIDUAL else None
    return feature_tables(lake, name, run_id, logits=logits, should_stop=should_stop, on_progress=on_progress)


def _logits(lake: Lake, run_id: str, model: str | None, device: str) -> Logits:
    def top_and_bottom(sae: Sae) -> tuple[list[list[str]], list[list[str]]]:
        from ..collect.models.readout import Readout
        from ..collect.stored_sequences import load_run_model

        loaded = load_run_model(lake, run_id, model=model, device=device)
        readout = Readout.of(loaded)
        # The norm's gain belongs to what the unembedding reads; its scale, one number per state, changes no order.
        rows = readout.form.gained(readout.form.centre(sae.weights["W_dec"].to(device)))
        weight = readout.weight.float()
        names = [str(loaded.tokenizer.decode([i])) for i in range(len(weight))]
        n = min(N_TOKENS, len(names))
        found: tuple[list[list[str]], list[list[str]]] = ([], [])
        block = max(1, BLOCK_BYTES // (4 * len(names)))
        for start in range(0, len(rows), block):
            effects = rows[start : start + block] @ weight.T
            for largest, texts in ((True, found[0]), (False, found[1])):
                places = effects.topk(n, dim=1, largest=largest).indices.tolist()
                texts += [[names[i] for i in row] for row in places]
        return found

    return torch.no_grad()(top_and_bottom)
