"""The `generation_series` of a segment, from the rows of its other tables as they are written.

What the health views would gather from token, layer and head rows each time they are asked, gathered once. The view
`health_verdicts` computes the same for sequences that have no row; a test holds the two against each other.
"""

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..tables.series import COLLAPSED_NATS, COLLAPSED_NORMALISED, FOCUSED_WEIGHTS, GENERATION_SERIES, MIN_KEYS
from .grouped import Groups, correlation, slope

COLLAPSED_BITS = COLLAPSED_NATS / float(np.log(2.0))
_TOKENS = ("sequence_id", "position", "step", "entropy_bits", "margin", "surprisal_bits", "top10_mass")
_SERIES = {"entropies": 3, "margins": 4, "surprisals": 5, "masses": 6}
_HEADS = ("sequence_id", "position", "n_keys", "entropy_bits", "max_weight")
_STATES = ("sequence_id", "position", "layer", "l2_norm", "n_nan", "n_inf", "cos_prev_position")


@dataclass
class GenerationSeries:
    """Keeps of every row what the series need, and makes one row per sequence of the segment."""

    n_layers: int | None
    _kept: dict[str, list[pa.Table]] = field(default_factory=dict)
    _is_given: bool = False
    """Whether whoever fills the segment writes the rows himself."""

    def take(self, table: str, rows: pa.Table) -> None:
        """See rows of one table, sorted by key; called from several threads, with different tables."""
        keep = {
            "sequences": self._take_sequences,
            "token_steps": self._take_tokens,
            "layer_summaries": self._take_layers,
            "head_summaries": self._take_heads,
            GENERATION_SERIES.name: self._take_given,
        }.get(table)
        if keep is not None:
            keep(rows)

    def columns(self) -> dict[str, object] | None:
        """The rows as columns; None where no sequence was written with its tokens, or the rows were given."""
        if self._is_given or "sequences" not in self._kept or "tokens" not in self._kept:
            return None
        ids = np.unique(_numbers(pa.concat_tables(self._kept["sequences"]), "sequence_id"))
        steps = _Steps.of(ids, self._all("tokens", ids))
        columns: dict[str, object] = {
            "sequence_id": ids,
            "n_steps": steps.groups.sizes.astype(np.int32),
            "positions": steps.groups.lists(steps.position),
            "min_keys": MIN_KEYS,
            "collapsed_bits": COLLAPSED_BITS,
            "collapsed_normalised": COLLAPSED_NORMALISED,
        }
        return columns | self._damage(ids) | steps.distributions() | self._states(steps) | self._heads(steps)

    def _keep(self, name: str, rows: pa.Table) -> None:
        self._kept.setdefault(name, []).append(rows)

    def _all(self, name: str, ids: np.ndarray) -> pa.Table | None:
        """What was kept about these sequences, all of the segment's; None if nothing was."""
        if name not in self._kept:
            return None
        rows = pa.concat_tables(self._kept[name])
        return rows.filter(pc.is_in(rows["sequence_id"], pa.array(ids)))

    def _take_given(self, rows: pa.Table) -> None:
        self._is_given = self._is_given or len(rows) > 0

    def _take_sequences(self, rows: pa.Table) -> None:
        self._keep("sequences", rows.select(["sequence_id"]))

    def _take_tokens(self, rows: pa.Table) -> None:
        chosen = pc.and_(pc.is_valid(rows["step"]), pc.invert(pc.fill_null(rows["is_forced"], False)))
        self._keep("tokens", rows.select(_TOKENS).filter(chosen))

    def _take_layers(self, rows: pa.Table) -> None:
        self._keep("damage", _summed(rows.select(["sequence_id", "n_nan", "n_inf"])))
        of_decoder, states = pc.equal(rows["stack"], "decoder"), rows.select(_STATES)
        self._keep("final", states.filter(pc.and_(of_decoder, pc.equal(rows["site"], "final_norm"))))
        first, last = self._thirds
        if last:
            of_block = pc.and_(of_decoder, pc.equal(rows["site"], "resid_post"))
            early = pc.less(rows["layer"], first)
            middle = pc.and_not(pc.less(rows["layer"], last), early)
            self._keep("early", states.filter(pc.and_(of_block, early)))
            self._keep("middle", states.filter(pc.and_(of_block, middle)))

    def _take_heads(self, rows: pa.Table) -> None:
        of_self = pc.equal(rows["kind"], "self")
        last = pc.and_(of_self, pc.is_valid(rows["basin_ratio"]))
        self._keep("basins", rows.select(["sequence_id", "basin_ratio"]).filter(last))
        counted = pc.and_(pc.and_(of_self, pc.equal(rows["stack"], "decoder")), pc.is_valid(rows["n_keys"]))
        rows = rows.select(_HEADS)
        rows = rows if pc.all(counted).as_py() else rows.filter(counted)
        if len(rows):
            self._keep("heads", _counted(rows))

    @property
    def _thirds(self) -> tuple[int, int]:
        """Where the middle third of the layers begins and ends; (0, 0) for models without one."""
        n_layers = self.n_layers if self.n_layers and self.n_layers >= 3 else 0
        return n_layers // 3, 2 * n_layers // 3

    def _damage(self, ids: np.ndarray) -> dict[str, object]:
        rows = self._all("damage", ids)
        found: dict[str, object] = {"has_nan": None, "has_inf": None}
        if rows is None:
            return found
        for name, count in (("has_nan", "n_nan"), ("has_inf", "n_inf")):
            known = rows.filter(pc.is_valid(rows[count]))
            groups = Groups.of_values(ids, _numbers(known, "sequence_id"))
            totals = groups.sums(_numbers(known, count))
            found[name] = pa.array(totals > 0, mask=groups.sizes == 0)
        return found

    def _states(self, steps: "_Steps") -> dict[str, object]:
        final, at = steps.led_by(self._all("final", steps.ids))
        has_state = np.zeros(len(steps), dtype=bool)
        has_state[at] = True
        cosine = np.full(len(steps), np.nan, dtype=np.float32)
        cosine[at] = _numbers(final, "cos_prev_position")
        cosine[steps.step == 0] = np.nan
        early, at = steps.led_by(self._all("early", steps.ids))
        norms = _numbers(early, "l2_norm").astype(np.float64)
        finite = np.isfinite(norms)
        of_step = Groups(at[finite], len(steps))
        middle, at = steps.led_by(self._all("middle", steps.ids))
        known, norm, damaged, judged = _middle(middle)
        largest = np.full(len(steps), -np.inf, dtype=np.float32)
        np.maximum.at(largest, at[known], norm[known])
        is_known, is_judged = Groups(at[known], len(steps)).sizes > 0, Groups(at[judged], len(steps)).sizes > 0
        is_seen = is_known | is_judged
        lists = steps.groups.lists
        return {
            "has_states": pa.array(steps.groups.sums(has_state) > 0, mask=steps.groups.sizes == 0),
            "state_cosines": lists(cosine, np.isfinite(cosine)),
            "early_medians": lists(of_step.medians(norms[finite]), of_step.sizes > 0),
            "early_means": lists(of_step.means(norms[finite]), of_step.sizes > 0),
            "mid_norms": lists(largest, is_known, where=is_seen),
            "mid_damaged": lists(Groups(at[damaged], len(steps)).sizes.astype(np.int32), is_judged, where=is_seen),
        }

    def _heads(self, steps: "_Steps") -> dict[str, object]:
        rows, at = steps.led_by(self._all("heads", steps.ids))
        of_step = Groups(at, len(steps))
        counts = {name: of_step.sums(_numbers(rows, name)).astype(np.int32) for name in _COUNTS}
        judged = counts["n_heads"] > 0
        of_sequence = Groups(steps.groups.index[judged], len(steps.groups))
        rates = [of_sequence.means(counts[name][judged] / counts["n_heads"][judged]) for name in _FOCUSED]
        known = of_sequence.sizes > 0
        basins = self._all("basins", steps.ids)
        of_prompt = Groups.of_values(steps.ids, _numbers(basins, "sequence_id"))
        means = of_prompt.means(_numbers(basins, "basin_ratio").astype(np.float64))
        cuts = Groups(np.repeat(np.arange(len(known)), len(rates)), len(known))
        return {
            "mean_basin_ratio": pa.array(means, mask=of_prompt.sizes == 0),
            "focused_weights": cuts.lists(np.tile(FOCUSED_WEIGHTS, len(known))),
            "focused_rates": cuts.lists(np.stack(rates, axis=1).reshape(-1), np.repeat(known, len(rates))),
            **{name: steps.groups.lists(counts[name], of_step.sizes > 0) for name in _COUNTS[:3]},
        }


_FOCUSED = tuple(f"n_focused_{i}" for i in range(len(FOCUSED_WEIGHTS)))
_COUNTS = ("n_heads", "n_collapsed_bits", "n_collapsed_normalised", *_FOCUSED)


@dataclass(frozen=True)
class _Steps:
    """The generated tokens of a segment, sorted by sequence and position."""

    ids: np.ndarray
    groups: Groups
    """The tokens by sequence, as places in `ids`."""
    position: np.ndarray
    step: np.ndarray
    values: list[np.ndarray]

    @classmethod
    def of(cls, ids: np.ndarray, tokens: pa.Table | None) -> "_Steps":
        """The tokens of the sequences `ids`."""
        columns = [_numbers(tokens, name) for name in _TOKENS]
        order = np.lexsort((columns[1], columns[0]))
        columns = [column[order] for column in columns]
        groups = Groups.of_values(ids, columns[0])
        return cls(ids, groups, columns[1].astype(np.int32), columns[2], columns)

    def __len__(self) -> int:
        return len(self.position)

    def distributions(self) -> dict[str, object]:
        """The finite values of each series, and what needs their steps too."""
        series = {name: self.values[place].astype(np.float64) for name, place in _SERIES.items()}
        finite = {name: np.isfinite(values) for name, values in series.items()}
        both = finite["entropies"] & finite["margins"]
        columns: dict[str, object] = {}
        for name, place in _SERIES.items():
            columns[name] = self.groups.only(finite[name]).lists(self.values[place][finite[name]])
        for name in ("entropies", "margins", "surprisals"):
            groups = self.groups.only(finite[name])
            found = slope(groups, self.step[finite[name]], series[name][finite[name]])
            columns[f"{name.removesuffix('s').replace('entropie', 'entropy')}_slope"] = _finite(found)
        pair = series["entropies"][both], series["margins"][both]
        return columns | {"entropy_margin_correlation": _finite(correlation(self.groups.only(both), *pair))}

    def led_by(self, rows: pa.Table | None) -> tuple[pa.Table | None, np.ndarray]:
        """The rows about states that led to one of the tokens (those one position before it), and its place."""
        if rows is None or not len(self):
            return None, np.zeros(0, dtype=np.int64)
        width = int(self.position.max()) + 1
        place = np.searchsorted(self.ids, _numbers(rows, "sequence_id"))
        position = _numbers(rows, "position").astype(np.int64) + 1
        wanted = self.groups.index * width + self.position
        given = np.where((position >= 0) & (position < width), place * width + position, -1)
        at = np.searchsorted(wanted, given).clip(max=len(wanted) - 1)
        led = wanted[at] == given
        return rows.filter(pa.array(led)), at[led]


def _numbers(rows: pa.Table | None, name: str) -> np.ndarray:
    """A column without nulls where it is of whole numbers, NaN for null where it is not; empty without rows."""
    return np.zeros(0) if rows is None else rows[name].to_numpy()


def _finite(values: np.ndarray) -> pa.Array:
    return pa.array(values, mask=~np.isfinite(values))


def _summed(rows: pa.Table) -> pa.Table:
    """Sums of both counts by sequence; null where none is known."""
    sums = rows.group_by("sequence_id").aggregate([("n_nan", "sum"), ("n_inf", "sum")])
    return sums.rename_columns({"n_nan_sum": "n_nan", "n_inf_sum": "n_inf"})


def _middle(rows: pa.Table | None) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Per row: whether its norm is known, the norm, whether the state is damaged, and whether that is known."""
    if rows is None:
        none = np.zeros(0, dtype=bool)
        return none, np.zeros(0, dtype=np.float32), none, none
    odd = pc.or_kleene(pc.greater(rows["n_nan"], 0), pc.greater(rows["n_inf"], 0))
    masks = (pc.is_valid(rows["l2_norm"]), pc.fill_null(odd, False), pc.is_valid(odd))
    known, damaged, judged = (mask.to_numpy() for mask in masks)
    return known, _numbers(rows, "l2_norm"), damaged, judged


def _sums(truths: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """How many are true in each stretch that begins at one of `starts`."""
    before = np.concatenate(([0], np.cumsum(truths, dtype=np.int32)))
    return np.diff(before[np.append(starts, len(truths))])


def _counted(rows: pa.Table) -> pa.Table:
    """Heads by sequence and position, rows that follow each other: how many are judged, collapsed, focused."""
    sequence, position = _numbers(rows, "sequence_id"), _numbers(rows, "position")
    starts = np.flatnonzero(np.r_[True, (sequence[1:] != sequence[:-1]) | (position[1:] != position[:-1])])
    n_keys = _numbers(rows, "n_keys")
    entropy, weight = (_numbers(rows, name).astype(np.float64) for name in ("entropy_bits", "max_weight"))
    judged = n_keys >= MIN_KEYS
    with np.errstate(invalid="ignore"):
        least = COLLAPSED_NORMALISED * np.log2(np.maximum(n_keys, MIN_KEYS))
        tests = [judged, judged & (entropy < COLLAPSED_BITS), judged & (entropy < least)]
        weight[~(judged & np.isfinite(weight))] = -np.inf
        tests += [weight > cut for cut in FOCUSED_WEIGHTS]
    counts = {name: _sums(test, starts) for name, test in zip(_COUNTS, tests, strict=True)}
    return pa.table({"sequence_id": sequence[starts], "position": position[starts], **counts})
