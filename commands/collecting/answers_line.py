"""What a run's answers were worth, as one line: right, wrong, unreadable, and the same by level."""

from typing import TYPE_CHECKING

from ...lake.values import Json

if TYPE_CHECKING:
    from ...lake import Lake

COUNTS = """
    SELECT
        coalesce(json_extract_string(metadata, '$.level'), '') AS level,
        count(*) FILTER (WHERE correct) AS n_right,
        count(*) FILTER (WHERE NOT correct AND predicted_answer IS NOT NULL) AS n_wrong,
        count(*) FILTER (WHERE NOT correct AND predicted_answer IS NULL) AS n_unreadable
    FROM sequences
    WHERE run_id = ? AND correct IS NOT NULL
    GROUP BY ALL
    ORDER BY level
"""
NAMES = ("n_right", "n_wrong", "n_unreadable")


def answers(lake: "Lake", run_id: str) -> Json | None:
    """Counts of graded answers, overall and `by_level`; None if nothing was graded."""
    with lake.connect(locked=True, at_once=False) as connection:
        rows = connection.execute(COUNTS, [run_id]).fetchall()
    if not rows:
        return None
    levels = {level: dict(zip(NAMES, counts, strict=True)) for level, *counts in rows}
    total = {name: sum(counts[name] for counts in levels.values()) for name in NAMES}
    by_level = {level: counts for level, counts in levels.items() if level}
    return total | ({"by_level": by_level} if by_level else {})


def answers_text(counts: Json) -> str:
    """`480 right, 20 wrong, 0 unreadable of 500 (96.0 % right); level 1: 200 of 200, level 2: ...`"""
    n = sum(counts[name] for name in NAMES)
    said = ", ".join(f"{counts[name]:,} {name.removeprefix('n_')}" for name in NAMES)
    levels = [
        f"level {level}: {row['n_right']:,} of {sum(row.values()):,}"
        for level, row in counts.get("by_level", {}).items()
    ]
    tail = f"; {', '.join(levels)}" if levels else ""
    return f"Answers: {said} of {n:,} ({100 * counts['n_right'] / n:.1f} % right){tail}"
