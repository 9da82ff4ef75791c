"""One CoreVital report as rows of the observation tables and of `imported_metrics`.

What each field becomes is the table in docs/exchange.md; `Conventions` says how the report is to be understood.
"""

from math import isfinite, log

from ...tables.uniform_attention import uniform_basin
from ...values import Columns, Json, Row
from ..imported_rows import ImportedRows, Metrics
from .conventions import Conventions, bits, entries
from .report import Attention, Hidden, Layer, Logits, Report, ReportFile, Step
from .sequence import character_ends, reported_scores, sequence_row, unknowns

STATE_COLUMNS = {"l2_norm": "l2_norm_mean", "mean": "mean", "std": "std", "max_abs": "max_abs"}
FLAGS = {
    "reported.nan": "nan_detected",
    "reported.inf": "inf_detected",
    "reported.high_entropy_steps": "high_entropy_steps",
    "reported.repetition_loop": "repetition_loop_detected",
    "reported.mid_layer_anomaly": "mid_layer_anomaly_detected",
    "reported.attention_collapse_severity": "attention_collapse_severity",
}


class ReportRows:
    """Writes the rows of one report as the sequence `sequence_id`."""

    def __init__(self, rows: ImportedRows, sequence_id: int, reading: Conventions, found: ReportFile) -> None:
        self.rows, self.sequence_id, self.reading, self.found = rows, sequence_id, reading, found
        self.report: Report = found.report
        self.metrics = Metrics(rows, sequence_id)
        self._layers: dict[tuple[int, int, str], Json] = {}
        self._heads: dict[tuple[int, int, int], Json] = {}

    def write(self) -> int:
        """Add everything to the rows; returns the number of tokens."""
        self.rows.add("sequences", sequence_row(self.found, self.reading, self.sequence_id))
        n_tokens = self._tokens()
        for step, entry in self.report.steps:
            self._step_layers(step, entry)
        self._prompt()
        self._encoder()
        self._whole_run()
        for table, kept in (("layer_summaries", self._layers), ("head_summaries", self._heads)):
            for row in kept.values():
                self.rows.add(table, row)
        return n_tokens

    # -- tokens ----------------------------------------------------------------------------------------------------

    def _tokens(self) -> int:
        report, reading = self.report, self.reading
        surprisals = (report.prompt_analysis and report.prompt_analysis.prompt_surprisals) or []
        stack = "encoder" if reading.is_encoder_decoder else "decoder"
        for position, token_id in enumerate(report.prompt.token_ids):
            row = self._token(position, None, token_id, stack)
            if 0 < position <= len(surprisals):
                value = self.metrics.column(f"prompt_surprisal_bits_{position}", surprisals[position - 1], step=None)
                row |= _likelihood(value)
            self.rows.add("token_steps", row)
        if reading.is_encoder_decoder:
            self.rows.add("token_steps", self._token(reading.n_text, None, None, "decoder"))
            self.metrics.missing("start_token_id", "the report does not name the decoder's start token")
        known = dict(report.steps)
        ends = character_ends(report)
        for step, token_id in enumerate(report.generated.token_ids):
            row = self._token(reading.n_prompt + step, step, token_id, "decoder")
            row["char_end"] = ends[step] if ends else None
            if step in known:
                row["token"] = known[step].token.token_text
                if known[step].logits_summary is not None:
                    row |= self._distribution(step, known[step].logits_summary)  # type: ignore[arg-type]
            self.rows.add("token_steps", row)
        return reading.n_prompt + len(report.generated.token_ids)

    def _token(self, position: int, step: int | None, token_id: int | None, stack: str) -> Row:
        return {
            "sequence_id": self.sequence_id,
            "position": position,
            "stack": stack,
            "step": step,
            "is_prompt": step is None,
            "is_forced": False,
            "token_id": token_id,
        }

    def _distribution(self, step: int, logits: Logits) -> Row:
        """Columns of the raw distribution if that is what was measured, of the sampled one otherwise; maybe both."""
        metrics, raw = self.metrics, self.reading.raw
        entropy = metrics.column("entropy_bits", logits.entropy, step=step)
        surprisal = metrics.column("surprisal_bits", logits.surprisal, step=step)
        margin = logits.top1_top2_margin if logits.top_k_margin is None else logits.top_k_margin
        mass = logits.voter_agreement if logits.topk_mass is None else logits.topk_mass
        metrics.add("perplexity", logits.perplexity, step=step)
        for place, candidate in enumerate(logits.topk_probs or logits.topk or [], start=1):
            metrics.add(f"topk_id_{place}", candidate.token_id, step=step)
            metrics.add(f"topk_prob_{place}", candidate.prob, step=step)
        columns: Columns = {}
        if raw:
            columns |= {"entropy_bits": entropy, **_likelihood(surprisal)}
            columns["margin"] = metrics.column("margin", margin, step=step)
            columns["top10_mass"] = metrics.column("top10_mass", mass, step=step)
        else:
            metrics.add("margin", margin, step=step)
            metrics.add("top10_mass", mass, step=step)
        if not raw or (self.reading.sampled and not self.reading.is_encoder_decoder):
            columns["sampling_entropy_bits"] = entropy
            columns["sampling_logprob"] = _likelihood(surprisal).get("logprob")
        return columns

    # -- states and attention of the steps -------------------------------------------------------------------------

    def _step_layers(self, step: int, entry: Step) -> None:
        least: list[float] = []
        for index, layer in entries(entry.layers):
            site, at = self.reading.site(index)
            if layer.hidden_summary is not None:
                self._hidden(step, site, at, layer.hidden_summary, layer)
            if layer.attention_summary is not None:
                self._attention(step, index, layer.attention_summary)
                if layer.attention_summary.entropy_min is not None:
                    least.append(layer.attention_summary.entropy_min)
            if layer.cross_attention is not None:
                self._attention_metrics("cross.", step, index, layer.cross_attention)
            if layer.anomalies is not None:
                self.metrics.add("has_nan", layer.anomalies.has_nan or None, step=step, layer=index)
                self.metrics.add("has_inf", layer.anomalies.has_inf or None, step=step, layer=index)
        if least and self.reading.n_keys(step) > 1:
            self.metrics.add("attn_entropy_bits_min", bits(min(least)), step=step)

    def _hidden(self, step: int, site: str, layer: int, hidden: Hidden, entry: Layer) -> None:
        given = {column: getattr(hidden, field) for column, field in STATE_COLUMNS.items()}
        name = f"{site}."
        if hidden.clipped:
            self.metrics.add(f"{name}clipped", 1, step=step, layer=layer)
        for place, value in enumerate(hidden.sketch or []):
            self.metrics.add(f"{name}sketch_{place}", value, step=step, layer=layer)
        if self.reading.averages_states(step):
            for column, value in given.items():
                self.metrics.add(name + column, value, step=step, layer=layer)
            return
        if all(value is None for value in given.values()):
            return
        row = self._layer_row(step, layer, site)
        for column, value in given.items():
            row[column] = self.metrics.column(name + column, value, step=step, layer=layer)
        if entry.anomalies is not None:
            # The flags cover states and attention together: false is a count of 0, true is no count.
            row["n_nan"] = 0 if entry.anomalies.has_nan is False else None
            row["n_inf"] = 0 if entry.anomalies.has_inf is False else None

    def _attention(self, step: int, layer: int, attention: Attention) -> None:
        self._counts(step, layer, attention)
        if self.reading.averages_attention(step):
            self._attention_metrics("resid_post.", step, layer, attention)
            return
        metrics = self.metrics
        columns = {
            name: metrics.column(name, value, step=step, layer=layer)
            for name, value in _attention_columns(attention).items()
            if value is not None
        }
        metrics.add("attn_entropy_normalised_mean", attention.entropy_mean_normalized, step=step, layer=layer)
        weights = attention.max_weight_per_head or []
        known = [weight for weight in weights if weight is not None]
        if weights and len(known) == len(weights):
            mean = sum(known) / len(known)
            columns["attn_max_weight_mean"] = metrics.column("attn_max_weight_mean", mean, step=step, layer=layer)
        if columns:
            self._layer_row(step, layer, "resid_post").update(columns)
        for head, weight in enumerate(weights):
            row = self._head_row(self.reading.position(step), layer, head, "decoder")
            row["max_weight"] = metrics.column(f"max_weight_{head}", weight, step=step, layer=layer)

    def _counts(self, step: int, layer: int, attention: Attention) -> None:
        rule = "normalised" if self.reading.normalised_counts else "bits"
        found = {
            f"collapsed_heads_{rule}": attention.collapsed_head_count,
            "focused_heads": attention.focused_head_count,
        }
        for name, count in found.items():
            if self.reading.n_keys(step) < 2 and count is not None:
                self.metrics.missing(name, "with one key every head is collapsed and focused", step=step, layer=layer)
            else:
                self.metrics.add(name, count, step=step, layer=layer)
        self.metrics.add("collapsed_head_rate", attention.collapsed_head_rate, step=step, layer=layer)

    def _attention_metrics(self, prefix: str, step: int | None, layer: int, attention: Attention) -> None:
        """Attention that no observation column is for: of the whole prompt, of the encoder, to the encoder."""
        for name, value in _attention_columns(attention).items():
            self.metrics.add(prefix + name, value, step=step, layer=layer)
        self.metrics.add(
            f"{prefix}attn_entropy_normalised_mean", attention.entropy_mean_normalized, step=step, layer=layer
        )
        if prefix == "resid_post.":
            return  # its counts are those of the step
        rule = "normalised" if self.reading.normalised_counts else "bits"
        self.metrics.add(f"{prefix}collapsed_heads_{rule}", attention.collapsed_head_count, step=step, layer=layer)
        self.metrics.add(f"{prefix}focused_heads", attention.focused_head_count, step=step, layer=layer)

    def _layer_row(self, step: int, layer: int, site: str) -> Row:
        position = self.reading.position(step)
        key = {"position": position, "layer": layer, "site": site}
        row = {"sequence_id": self.sequence_id, **key, "stack": "decoder"}
        return self._layers.setdefault((position, layer, site), row)

    def _head_row(self, position: int, layer: int, head: int, stack: str) -> Row:
        """A row without `n_keys`: the report does not say whether a window cuts them, so the head is not judged."""
        key = {"position": position, "layer": layer, "head": head, "kind": "self"}
        return self._heads.setdefault((position, layer, head), {"sequence_id": self.sequence_id, **key, "stack": stack})

    # -- the prompt, the encoder and the whole run -----------------------------------------------------------------

    def _prompt(self) -> None:
        analysis, reading = self.report.prompt_analysis, self.reading
        if analysis is None:
            return
        stack = "encoder" if reading.is_encoder_decoder else "decoder"
        for layer, found in enumerate(analysis.layers or []):
            for head, ratio in enumerate(found.basin_scores or []):
                row = self._head_row(reading.n_text - 1, layer, head, stack)
                row["basin_ratio"] = self.metrics.column(f"basin_ratio_{head}", ratio, step=None, layer=layer)
                if row["basin_ratio"] is not None and stack == "decoder":
                    row["basin_ratio_to_uniform"] = ratio / uniform_basin(reading.n_text, causal=True)  # type: ignore[operator]
            for head, edges in enumerate(found.heads or []):
                place = {"sequence_id": self.sequence_id, "layer": layer, "head": head, "kind": "self", "stack": stack}
                weights = [weight if isfinite(weight) else None for weight in edges.weights]
                if None in weights:
                    self.metrics.missing(f"edge_weights_{head}", "the source has NaN or infinity", layer=layer)
                columns = {"position": edges.query_indices, "key": edges.key_indices, "weight": weights}
                self.rows.extend("attention_edges", place | columns, len(edges.weights))
        for layer, value in enumerate(analysis.layer_transformations or [], start=1):
            self.metrics.add("layer_transformation", value, layer=layer)

    def _encoder(self) -> None:
        """Averages over all encoder tokens: no observation of one token."""
        for index, layer in entries(self.report.encoder_layers):
            for column, field in STATE_COLUMNS.items():
                value = getattr(layer.hidden_summary, field) if layer.hidden_summary else None
                self.metrics.add(f"encoder.{column}", value, layer=index)
            if layer.attention_summary is not None:
                self._attention_metrics("encoder.", None, index, layer.attention_summary)
            if layer.anomalies is not None:
                self.metrics.add("has_nan", layer.anomalies.has_nan or None, layer=index)
                self.metrics.add("has_inf", layer.anomalies.has_inf or None, layer=index)

    def _whole_run(self) -> None:
        report, metrics = self.report, self.metrics
        flags = report.health_flags
        for name, field in FLAGS.items():
            metrics.add(name, getattr(flags, field) if flags else None)
        if flags is not None:
            rule = "trend" if self.reading.normalised_counts else "any"
            metrics.add(f"reported.attention_collapse_{rule}", flags.attention_collapse_detected)
        for name, value in reported_scores(report.extensions or {}):
            metrics.add(f"reported.{name}", value)
        metrics.add("elapsed_ms", report.summary.elapsed_ms if report.summary else None)
        for name, reason in unknowns(report, self.reading).items():
            metrics.missing(name, reason)


def _likelihood(surprisal_bits: float | None) -> dict[str, float | None]:
    if surprisal_bits is None:
        return {}
    return {"surprisal_bits": surprisal_bits, "logprob": -surprisal_bits * log(2) + 0.0}


def _attention_columns(attention: Attention) -> dict[str, float | None]:
    return {
        "attn_entropy_bits_mean": bits(attention.entropy_mean),
        "attn_entropy_bits_min": bits(attention.entropy_min),
        "attn_entropy_bits_max": bits(attention.entropy_max),
        "attn_max_weight_min": attention.concentration_min,
        "attn_max_weight_max": attention.concentration_max,
    }
