"""Which feature tables a judge of features reads, and which of the features it is asked about."""

from collections.abc import Sequence
from dataclasses import dataclass

from ....lake import Lake
from ....lake.derived import stored_analyses
from ....lake.errors import NotFoundError, UsageError, did_you_mean
from .passages import drawn

STATS = """
SELECT feature, n_active FROM feature_stats
WHERE run_id = $run AND sae_id = $sae AND analysis_id = $analysis ORDER BY feature
"""


@dataclass(frozen=True)
class FeatureTables:
    """Where the examples of an autoencoder's features lie."""

    sae_id: str
    run_id: str
    analysis_id: str

    @property
    def named(self) -> dict[str, str]:
        """For SQL."""
        return {"run": self.run_id, "sae": self.sae_id, "analysis": self.analysis_id}


def feature_tables(lake: Lake, sae: str, run: str) -> FeatureTables:
    """The newest of an autoencoder (an id or its beginning), of a run or of any if that is `latest`."""
    logs = lake.snapshot().runs if run == "latest" else lake.snapshot(lake.resolve_run(run)).runs
    stored = [
        one
        for log in logs.values()
        if not log.removed
        for one in stored_analyses(log).values()
        if one.n_rows.get("feature_stats") and one.n_rows.get("feature_examples")
    ]
    names = sorted({str(one.parameters["sae_id"]) for one in stored})
    chosen = [sae] if sae in names else [name for name in names if name.startswith(sae)]
    if len(chosen) > 1:
        raise UsageError(f"{sae!r} is the beginning of several autoencoders: {', '.join(chosen[:5])}.")
    if not chosen:
        where = "" if run == "latest" else f" on run {run}"
        raise NotFoundError(
            f"There are no examples of features of {sae!r}{where}: `lake sae features {sae} --run RUN` makes them."
            + did_you_mean(sae, names)
        )
    newest = max((one for one in stored if one.parameters["sae_id"] == chosen[0]), key=lambda one: one.time)
    return FeatureTables(chosen[0], newest.run_id, newest.analysis_id)


def chosen_features(lake: Lake, tables: FeatureTables, wanted: Sequence[int], n: int) -> list[int]:
    """The features asked for, or n active ones, drawn: their mean score is then one of the dictionary."""
    with lake.connect(run=tables.run_id, locked=True) as connection:
        n_active = dict(connection.execute(STATS, tables.named).fetchall())
    for feature in wanted:
        if feature not in n_active:
            raise UsageError(f"{tables.sae_id} has no feature {feature}: they are 0 to {len(n_active) - 1}.")
        if not n_active[feature]:
            where = f"Feature {feature} of {tables.sae_id} is never active on run {tables.run_id}"
            raise UsageError(f"{where}: there is nothing to name.")
    alive = [feature for feature, count in n_active.items() if count]
    return list(dict.fromkeys(wanted)) or sorted(sorted(alive, key=lambda one: drawn("feature", one))[:n])
