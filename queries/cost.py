"""Where the time of a run went: operations as shares of its wall time, what none of them explains, and the overhead."""

from ..lake.errors import NotFoundError
from ..lake.values import Json
from .queried_lake import QueriedLake

WALL = "wall"

OPERATIONS = """
SELECT
    name,
    any_value(parent) AS parent,
    sum(count)::BIGINT AS count,
    sum(total_ms) AS total_ms,
    max(max_ms) AS max_ms
FROM operations
WHERE run_id = $run
GROUP BY name
ORDER BY total_ms DESC, name
"""


def run_cost(lake: QueriedLake, run_id: str) -> Json:
    """Operations of a run, its wall time, the remainder, and the overhead if strict timings measured it.

    The wall time runs from loading the model to the last segment's rows; writing the last segment is not in it.
    NotFoundError if the run has no timings.
    """
    rows = lake.sql(OPERATIONS, {"run": run_id}).to_dicts()
    found = {row["name"]: row for row in rows}
    if not rows:
        raise NotFoundError(f"Run {run_id} has no committed timings yet. `lake runs` shows its status.")
    wall = found.pop(WALL)["total_ms"] if WALL in found else None
    top = [row for row in found.values() if row["parent"] is None]
    for row in found.values():
        row["share"] = row["total_ms"] / wall if wall and row["parent"] is None else None
    explained = sum(row["total_ms"] for row in top)
    return {
        "run_id": run_id,
        "wall_ms": wall,
        "operations": list(found.values()),
        "unaccounted_ms": None if wall is None else wall - explained,
        "overhead": _overhead(found),
    }


def _overhead(found: dict[str, Json]) -> dict[str, float] | None:
    """What observing one segment cost over the bare model's passes of the same tokens; writing not included."""
    if not {"baseline", "instrumented"} <= set(found):
        return None
    baseline, instrumented = (found[name]["total_ms"] for name in ("baseline", "instrumented"))
    return {
        "baseline_ms": baseline,
        "instrumented_ms": instrumented,
        "overhead_ms": instrumented - baseline,
        "overhead_share": (instrumented - baseline) / baseline,
    }


def cost_text(cost: Json) -> str:
    """The cost of a run, for reading."""
    lines = [f"{'operation':<18}{'calls':>10}{'total s':>12}{'mean ms':>12}{'longest ms':>12}{'share':>9}"]
    for row in cost["operations"]:
        share = "" if row["share"] is None else f"{row['share']:.1%}"
        lines.append(
            f"{row['name']:<18}{row['count']:>10,}{row['total_ms'] / 1000:>12.3f}"
            f"{row['total_ms'] / max(row['count'], 1):>12.3f}{row['max_ms']:>12.3f}{share:>9}"
        )
    if cost["wall_ms"]:
        rest = cost["unaccounted_ms"]
        share = f"{rest / cost['wall_ms']:.1%}"
        lines.append(f"{'unaccounted':<18}{'':>10}{rest / 1000:>12.3f}{'':>24}{share:>9}")
        lines.append(f"{'wall time':<18}{'':>10}{cost['wall_ms'] / 1000:>12.3f}")
    if cost["overhead"]:
        overhead = cost["overhead"]
        lines.append(
            f"\nObserving one segment took {overhead['instrumented_ms'] / 1000:.3f} s, the bare model with the same "
            f"tokens {overhead['baseline_ms'] / 1000:.3f} s: {overhead['overhead_share']:+.1%} (writing not included)."
        )
    return "\n".join(lines)
