"""`lake analyze tracks`: features of every token or sequence followed through the layers, and how they diverge."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

from ...lake import Lake
from ...lake.errors import UsageError
from ...lake.snapshot import Snapshot
from ...lake.values import Json
from ..option import option
from ..question import Evidence, Question, Reads, Rows
from .association import Method, Rules
from .autoencoders import chosen, named_saes
from .links import SAES, Links
from .rows import track_rows
from .units import Choice, Pool, Positions, Unit

VERSION = 1
Scale = Literal["feature-mean", "none"]


@dataclass(frozen=True)
class HypothesisTracks(Question):
    """Features followed through the layers: where tracks are born and die, and 26 numbers of how they diverge."""

    name: ClassVar[str] = "tracks"
    saes: str | None = option(None, SAES + " those whose features the run stores if not given.", metavar="RUN|ID,...")
    profile: Literal["default", "source"] = option(
        "default", "source: units are sequences, no scale, silent features fill up --top-k, positions do not count."
    )
    unit: Unit | None = option(None, "Follow the features of each token, or of a sequence pooled; token by default.")
    pool: Pool | None = option(None, "Of a sequence: largest activations, or the last token's; max by default.")
    positions: Positions = option("generated", "Answer tokens, or all.")
    top_k: int = option(50, "Most features per unit and layer, the strongest.")
    scale: Scale | None = option(
        None, "feature-mean divides by a feature's mean activation when active, over the run; feature-mean by default."
    )
    weights: str | None = option(
        None, "Of cosine, activation and position in the cost of a match; 0.6,0.2,0.2 by default.", metavar="A,B,C"
    )
    match: float = option(0.5, "A pair counts if it costs less.")
    birth: float = option(0.5, "A feature without a track begins one above this activation.")
    death: float = option(0.0, "A match with an activation under this is none.")
    gap: int = option(0, "Layers that a track may go without a feature and live on.")
    method: Method = option(
        "hungarian",
        "How features are matched: least total cost, strongest first, by id, never, or the strongest alone.",
    )
    permute_decoder: int | None = option(
        None, "Control: decoder rows of all layers but the first in an order of this seed.", metavar="SEED"
    )
    metrics_only: bool = option(False, "Write track_metrics alone.")

    def check(self, run_ids: Sequence[str]) -> None:
        """UsageError for values that cannot be, or do not go together."""
        super().check(run_ids)
        for name, least in (("top_k", 1), ("gap", 0), ("birth", 0), ("death", 0), ("match", 0)):
            value = getattr(self, name)
            if not math.isfinite(value) or value < least:
                raise UsageError(f"--{name.replace('_', '-')} is at least {least}, not {value}.")
        if self.permute_decoder is not None and self.permute_decoder < 0:
            raise UsageError(f"--permute-decoder takes a seed of 0 or more, not {self.permute_decoder}.")
        if self.weights is not None:
            _weights(self.weights)
        if self.pool is not None and self._unit == "token":
            raise UsageError(f"--pool {self.pool} is of sequences: add --unit sequence, or leave it out.")

    @property
    def _unit(self) -> Unit:
        return self.unit or ("sequence" if self.profile == "source" else "token")

    def named(self, lake: Lake, run_ids: Sequence[str]) -> Self:
        """The autoencoders by their ids, in the order of layers."""
        return replace(self, saes=",".join(named_saes(lake, run_ids[0], self.saes)))

    def needs(self, snapshot: Snapshot) -> Sequence[Question]:
        """The links between the dictionaries, once per pair."""
        return [Links(self.saes)]

    def resolve(self, snapshot: Snapshot) -> Self:
        """What the profile leaves open, chosen."""
        source = self.profile == "source"
        return replace(
            self,
            unit=self._unit,
            pool=(self.pool or "max") if self._unit == "sequence" else None,
            scale=self.scale or ("none" if source else "feature-mean"),
            weights=",".join(
                f"{one:g}" for one in _weights(self.weights or ("0.6,0.2,0" if source else "0.6,0.2,0.2"))
            ),
        )

    def reads(self) -> Reads:
        """Sequences, the features, and the states that they reconstruct."""
        features = [("sae_features", {"sae_id": one}) for one in str(self.saes).split(",")]
        return [("sequences", {}), *features, ("activations", {})]

    def parameters(self, run_ids: Sequence[str]) -> Json:
        """All options, and the version of the numbers."""
        return dict(vars(self)) | {"version": VERSION}

    @property
    def choice(self) -> Choice:
        """Which features are offered to tracks."""
        return Choice(self._unit, self.pool or "max", self.positions, self.top_k, self.profile == "source")

    @property
    def rules(self) -> Rules:
        """How they are matched."""
        return Rules(self.method, _weights(str(self.weights)), self.match, self.birth, self.death, self.gap)

    def compute(self, lake: Lake, runs: Sequence[Evidence]) -> Rows:
        """The rows of `tracks`, `track_points` and `track_metrics`."""
        tables, n_sequences, notices = track_rows(
            lake,
            runs[0].snapshot,
            chosen(lake, str(self.saes)),
            self.choice,
            self.rules,
            scaled=self.scale == "feature-mean",
            permuted=self.permute_decoder,
        )
        kept = {"track_metrics": tables["track_metrics"]} if self.metrics_only else tables
        return Rows(kept, n_sequences, notices)


def _weights(text: str) -> tuple[float, float, float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != 3 or not all(math.isfinite(one) and one >= 0 for one in numbers):
        raise UsageError(f"--weights takes three numbers of 0 or more, as 0.6,0.2,0.2, not {text!r}.")
    return numbers[0], numbers[1], numbers[2]
