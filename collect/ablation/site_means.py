"""The mean of sites over all real positions of stored sequences: what a mean ablation puts in their place."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ...lake import Lake
from ...lake.errors import ConfigError
from ..decoding.reading.check import choose_reading
from ..models.model import LoadedModel
from ..models.sites.taps import Tap
from ..stored_sequences import StoredBatch, batches_of, computing, stored_sequences

BATCH_SIZE, CHUNK_SEQUENCES = 16, 256
Key = tuple[str, int]


def site_means(
    lake: Lake, run_id: str, sequence_ids: Sequence[int], loaded: LoadedModel, keys: Sequence[Key]
) -> dict[Key, Float[Tensor, " d"]]:
    """Means in float64 by site and layer, over prompt and completion; ConfigError where one is not finite."""
    reading, tap = choose_reading(loaded), Tap(loaded.decoder.anatomy, set(keys))
    sums: dict[Key, Tensor] = {}
    n_tokens = 0
    for start in range(0, len(sequence_ids), CHUNK_SEQUENCES):
        sequences = stored_sequences(lake, run_id, sequence_ids[start : start + CHUNK_SEQUENCES])
        with computing(), tap.attached():
            for group in batches_of(sequences, reading, BATCH_SIZE):
                batch = StoredBatch(loaded, group, reading)
                batch.read()
                real = torch.arange(batch.width) >= torch.from_numpy(batch.pads)[:, None]
                n_tokens += int(real.sum())
                for key in keys:
                    summed = tap.states[key][real.to(loaded.device)].sum(0, dtype=torch.float64)
                    sums[key] = sums[key] + summed if key in sums else summed
    means = {key: total / n_tokens for key, total in sums.items()}
    for (site, layer), mean in means.items():
        if not mean.isfinite().all():
            raise ConfigError(
                f"The mean of {site} in layer {layer} over run {run_id} is not finite: some of its states are NaN or "
                "infinite (`lake query nan_report`). Ablate with --action zero, or take the mean from another run."
            )
    return means
