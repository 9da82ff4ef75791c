"""`feature_links`: the nearest features of the next layer, by the cosine of decoder rows, of every feature."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
from jaxtyping import Float, Int

from ...lake import Lake
from ...lake.errors import UsageError
from ...lake.snapshot import Snapshot
from ...lake.values import Json
from ..option import option
from ..question import Evidence, Question, Reads, Rows
from .autoencoders import chosen, decoder, named_saes
from .dictionaries import unit_rows

VERSION = 1
BLOCK_CELLS = 1 << 22
"""Cosines that are alive at one time."""
SAES = "Autoencoders of the layers: ids or beginnings, separated by commas, or the run that trained them;"


@dataclass(frozen=True)
class Links(Question):
    """The nearest features of the next layer of every feature, by the cosine of their decoder rows."""

    name: ClassVar[str] = "links"
    saes: str | None = option(
        None, SAES + " those that the run made or has features of if not given.", metavar="RUN|ID,..."
    )
    partners: int = option(5, "How many of the nearest features are kept.")

    def check(self, run_ids: Sequence[str]) -> None:
        """UsageError if no partner is asked for."""
        super().check(run_ids)
        if self.partners < 1:
            raise UsageError(f"--partners is at least 1, not {self.partners}.")

    def named(self, lake: Lake, run_ids: Sequence[str]) -> Self:
        """The autoencoders by their ids, in the order of layers."""
        if self.saes is None and lake.run_json(run_ids[0]).get("kind") == "sae":
            return replace(self, saes=",".join(sae.sae_id for sae in chosen(lake, run_ids[0])))
        return replace(self, saes=",".join(named_saes(lake, run_ids[0], self.saes, with_features=self.saes is None)))

    def resolve(self, snapshot: Snapshot) -> Self:
        """Nothing else is open."""
        return self

    def reads(self) -> Reads:
        """Weights are named by the ids of the autoencoders; no row is read."""
        return []

    def parameters(self, run_ids: Sequence[str]) -> Json:
        """All options."""
        return dict(vars(self)) | {"version": VERSION}

    def compute(self, lake: Lake, runs: Sequence[Evidence]) -> Rows:
        """The rows of `feature_links`, one pair of layers after the other."""
        saes = chosen(lake, str(self.saes))
        rows = [unit_rows(decoder(lake, sae)) for sae in saes]
        columns: dict[str, list[np.ndarray]] = {}
        notices = []
        for here, there in zip(range(len(saes) - 1), range(1, len(saes)), strict=True):
            feature, partner, cosine = nearest(rows[here], rows[there], self.partners)
            shape = feature.shape
            made = {
                "sae_id": np.full(feature.size, saes[here].sae_id), "feature": feature.ravel().astype(np.int32),
                "next_sae_id": np.full(feature.size, saes[there].sae_id),
                "next_feature": partner.ravel().astype(np.int32),
                "cosine": cosine.ravel(), "place": np.tile(np.arange(shape[1], dtype=np.int32), shape[0]),
            }  # fmt: skip
            for name, values in made.items():
                columns.setdefault(name, []).append(values)
            best = np.median(cosine[:, 0])
            notices.append(f"Layers {saes[here].layer} and {saes[there].layer}: median best cosine {best:.2f}.")
        return Rows({"feature_links": {name: np.concatenate(parts) for name, parts in columns.items()}}, 0, notices)


def nearest(
    rows: Float[np.ndarray, "feature dim"], others: Float[np.ndarray, "other dim"], n: int
) -> tuple[Int[np.ndarray, "feature place"], Int[np.ndarray, "feature place"], Float[np.ndarray, "feature place"]]:
    """Of each row (length 1) the `n` others of the largest cosine, nearest first; of equal ones the lower number."""
    n = min(n, len(others))
    partners, cosines = np.empty((len(rows), n), np.int64), np.empty((len(rows), n))
    block = max(1, BLOCK_CELLS // len(others))
    for start in range(0, len(rows), block):
        found = rows[start : start + block] @ others.T
        # The n-th largest splits what is kept; the stable sort then decides ties by number.
        least = np.partition(found, -n, axis=1)[:, [-n]]
        order = np.argsort(np.where(found >= least, -found, np.inf), axis=1, kind="stable")[:, :n]
        partners[start : start + block] = order
        cosines[start : start + block] = np.take_along_axis(found, order, 1)
    return np.repeat(np.arange(len(rows))[:, None], n, axis=1), partners, cosines
