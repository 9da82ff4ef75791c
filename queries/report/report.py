"""Makes a report: reads a run through SQL, draws its charts, fills the page and writes it in one step."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...lake.errors import NotFoundError
from ...lake.output.files import replace_file
from ...lake.values import Json, Row
from ..charts.absence import DISTRIBUTION, KEPT, not_kept
from ..charts.theme import theme_called
from ..derived_views import view_definitions
from ..saved_query import find
from .choice import Chosen, choose
from .facts import model_facts, overview, run_row, settings, shown, tiles
from .features import feature_section
from .figures import Figure, Figures, with_legend_above, with_rule
from .health import flags, health_section, outcome
from .neurons import neuron_section
from .page import render
from .tokens import Scales, Vocabulary, scales, token_texts, token_view

if TYPE_CHECKING:
    import polars

    from ...lake.lake import Lake
    from ...lake.sql.duck import Connection

TRACE_HEIGHT = 230
_SEQUENCE = """
    SELECT
        sequence_id, prompt_id, item_id, sample, origin, finish_reason, n_prompt_tokens, n_generated_tokens, dataset,
        answer, predicted_answer, correct, label_reason
    FROM sequences
    WHERE run_id = $run AND sequence_id = $sequence
"""


@dataclass(frozen=True)
class WrittenReport:
    """What was written."""

    run_id: str
    file: Path
    n_bytes: int
    profile: str
    sequences: list[Chosen]

    def as_dict(self) -> dict[str, object]:
        """Plain values with stable keys."""
        return {
            "run_id": self.run_id,
            "file": str(self.file),
            "n_bytes": self.n_bytes,
            "profile": self.profile,
            "sequences": [{"sequence_id": chosen.sequence_id, "why": chosen.why} for chosen in self.sequences],
        }


def write_report(
    lake: "Lake",
    run: str,
    output: str | Path | None = None,
    *,
    profile: str = "default",
    sequences: Iterable[int] = (),
    theme: str = "light",
    vocabulary: Vocabulary | None = None,
) -> WrittenReport:
    """Write one run as an HTML page, `report-RUN.html` unless `output` names it.

    Without `sequences` it shows the riskiest, the longest and the first. `vocabulary` gives texts of token ids that no
    token of the run has. NotFoundError for a run or sequence that does not exist, UsageError for a profile or theme.
    """
    run_id = lake.resolve_run(run)
    target = Path(output) if output is not None else Path(f"report-{run_id}.html")
    if not target.absolute().parent.is_dir():
        raise NotFoundError(f"Cannot write {str(target)!r}: the folder {str(target.parent)!r} does not exist.")
    look = theme_called(theme)
    # Not locked, so that the verdicts can be kept: every statement here is our own, and values are bound.
    with lake.connect(run=run_id, extra_views=view_definitions()) as connection:
        verdicts = _judged(connection, run_id, profile)
        chosen = choose(connection, run_id, verdicts, sequences)
        making = _Making(connection, run_id, theme, profile, lake.run_json(run_id).get("unmeasured") or {})
        context = making.context(chosen, verdicts, vocabulary)
    content = render(context, look).encode()
    replace_file(target, content)
    return WrittenReport(run_id, target, len(content), profile, chosen)


def _judged(connection: "Connection", run_id: str, profile: str) -> "polars.DataFrame":
    """The rows of saved query `health`; the view that it and the charts read is computed once and kept."""
    health = find("health")
    values = health.bind(connection, {"run": run_id, "profile": profile})
    connection.execute("CREATE TEMP TABLE judged AS FROM risk_scores WHERE profile = $profile", {"profile": profile})
    connection.execute("CREATE OR REPLACE VIEW risk_scores AS FROM judged")
    return health.execute(connection, values)


class _Making:
    """One report in the making: everything that its sections read."""

    def __init__(
        self, connection: "Connection", run_id: str, theme: str, profile: str, unmeasured: dict[str, str]
    ) -> None:
        self.connection, self.run_id, self.profile, self.unmeasured = connection, run_id, profile, unmeasured
        self.figures = Figures(connection, run_id, theme)
        self.muted = theme_called(theme).muted

    def context(self, chosen: list[Chosen], verdicts: Any, vocabulary: Vocabulary | None) -> Json:
        """Everything that the template shows."""
        run, found = run_row(self.connection, self.run_id), overview(self.connection, self.run_id)
        scale = scales(self.connection, self.run_id)
        judged = {row["sequence_id"]: row for row in verdicts.iter_rows(named=True)}
        sections = [self._sequence(choice, judged[choice.sequence_id], scale) for choice in chosen]
        ids = {token for section in sections for token in section["tokens"].topk_ids}
        return {
            "run": {"run_id": self.run_id, "error": shown(run["error"] or "")},
            "tiles": tiles(found),
            "model_facts": model_facts(run),
            "settings": settings(run),
            "profile": self.profile,
            "health": health_section(self.connection, self.run_id, verdicts),
            "graded": bool(found["graded"]),
            "charts": self._charts(bool(found["graded"])),
            "missing": self._missing() | _computed(self.run_id),
            "features": feature_section(self.connection, self.run_id),
            "neurons": neuron_section(self.connection, self.run_id),
            "sequences": sections,
            "scale": scale,
            "shown_ids": {choice.sequence_id for choice in chosen},
            "has_tokens": any(section["tokens"].has_distribution for section in sections),
            "texts": {str(k): v for k, v in token_texts(self.connection, self.run_id, ids, vocabulary).items()},
            "version": version("tracelake"),
            "made_at": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        }

    def _missing(self) -> dict[str, str]:
        """One sentence per table for an empty section."""
        kept = KEPT | {"token_steps": DISTRIBUTION}
        return {table: not_kept(*words, self.unmeasured.get(table)) for table, words in kept.items()}

    def _charts(self, graded: bool) -> dict[str, Figure | None]:
        names = {
            "health_overview": {"profile": self.profile},
            "entropy_by_step": {},
            "surprisal_by_position": {},
            "layer_norms": {},
            "layer_change": {},
            "attention_entropy_by_head": {},
            "attention_weight_by_head": {},
            "path_profiles": {},
            "shared_trajectories": {},
            "feature_density": {},
            "second_order_by_layer": {},
            "second_order_heads": {},
            "time_accounts": {},
        }
        graded_only = {"confidence_calibration": {}, "risk_by_outcome": {"profile": self.profile}}
        found = {name: self.figures.draw(name, **params) for name, params in names.items()}
        return found | {name: self.figures.draw(name, **p) if graded else None for name, p in graded_only.items()}

    def _sequence(self, chosen: Chosen, verdict: Row, scale: Scales) -> Row:
        sequence = chosen.sequence_id
        [row] = self.connection.arrow(_SEQUENCE, {"run": self.run_id, "sequence": sequence}).to_pylist()
        view = token_view(self.connection, self.run_id, sequence, scale)
        maps = [self.figures.draw(name, sequence=sequence) for name in ("norm_map", "cosine_map", "delta_map")]
        return {
            "id": sequence,
            "why": chosen.why,
            "row": {name: shown(value) if isinstance(value, str) else value for name, value in row.items()},
            "outcome": outcome(row["correct"]),
            "flags": flags(verdict),
            "risk": verdict["risk_v05"],
            "factors": (verdict["risk_v05_factors"] or "").replace("_", " "),
            "tokens": view,
            "start": view.first_generated,
            "trace": self._trace(sequence, row),
            "maps": [Figure(with_legend_above(figure.spec), figure.command) for figure in maps if figure],
            "attention": self._attention(sequence),
            "path": self.figures.draw("trajectory", sequence=sequence),
        }

    def _attention(self, sequence: int) -> Figure | None:
        """Attention over the prompt, its legend above: beside the map stand its words."""
        drawn = self.figures.draw("prompt_attention", sequence=sequence)
        return drawn and Figure(with_legend_above(drawn.spec), drawn.command)

    def _trace(self, sequence: int, row: Row) -> Figure | None:
        """Entropy and surprisal along the text, low enough to stand under it; a line where the completion begins."""
        drawn = self.figures.draw("uncertainty_trace", sequence=sequence)
        if drawn is None:
            return None
        spec = drawn.spec | {"height": TRACE_HEIGHT}
        if row["n_prompt_tokens"] and row["n_generated_tokens"]:
            spec = with_rule(spec, row["n_prompt_tokens"] - 0.5, "generated", self.muted)
        return Figure(spec, drawn.command)


def _computed(run_id: str) -> dict[str, str]:
    """Sentences for empty sections that an analysis fills, by table."""
    path, effects = f"lake analyze trajectory {run_id}", f"lake experiment second-order {run_id} --direction ID"
    return {
        "trajectories": f"No path has been computed, or none is long enough to draw; {path} fills this section.",
        "neuron_effects": f"No effects of neurons have been computed; {effects} fills this section, and "
        f"lake experiment neurons {run_id} ranks them.",
    }
