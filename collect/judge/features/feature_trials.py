"""What a judge is asked about a feature: for a name, and two tests of the name on held-out documents.

*Detection*: which passages contain the feature, half of them with it. *Fuzzing*: in which passages with the feature the
marked tokens are its own, half of them marked elsewhere.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass

from ..service.client import Request
from .feature_template import detection_request, fuzzing_request, label_request
from .passages import FeaturePassages, drawn, spread

LABEL, DETECTION, FUZZING = "label", "detection", "fuzzing"
N_SHOWN, N_EACH, LEAST_EACH = 12, 10, 2
"""Passages that a label is made from; those of either kind in a test, at most and at least."""


@dataclass(frozen=True)
class Trial:
    """One thing to ask about a feature."""

    feature: int
    kind: str
    label: str | None = None
    request: Request | None = None
    truth: tuple[bool, ...] = ()
    """Of each passage of a test: whether it is right to name it."""
    reason: str | None = None
    """Why it cannot be asked."""

    def score(self, reply: str) -> dict[str, float | int]:
        """What a reply of a test, numbers of passages as JSON, is worth: 0.5 is chance."""
        named = set(json.loads(reply))
        hits = [number in named for number, right in enumerate(self.truth, 1) if right]
        false_alarms = [number in named for number, right in enumerate(self.truth, 1) if not right]
        sensitivity, specificity = sum(hits) / len(hits), 1 - sum(false_alarms) / len(false_alarms)
        return {
            "n_right": len(hits), "n_wrong": len(false_alarms), "sensitivity": sensitivity,
            "specificity": specificity, "balanced_accuracy": (sensitivity + specificity) / 2,
        }  # fmt: skip


def label_trial(one: FeaturePassages) -> Trial:
    """A name for the feature, from documents that are not held out."""
    if not one.shown:
        return Trial(one.feature, LABEL, reason="it is active in held-out documents only")
    texts = [passage.text(passage.active) for passage in spread(one.shown, N_SHOWN)]
    return Trial(one.feature, LABEL, None, label_request(texts))


def score_trials(one: FeaturePassages, label: str | None) -> Iterator[Trial]:
    """Both tests of a label; none without one."""
    if label is not None:
        yield _detection(one, label)
        yield _fuzzing(one, label)


def _detection(one: FeaturePassages, label: str) -> Trial:
    n = min(len(one.held_out), len(one.without), N_EACH)
    if n < LEAST_EACH:
        lacks = "with" if len(one.held_out) < LEAST_EACH else "without"
        reason = f"fewer than {LEAST_EACH} held-out passages {lacks} the feature"
        return Trial(one.feature, DETECTION, label, reason=reason)
    texts = [(passage.text(), True) for passage in spread(one.held_out, n)]
    texts += [(passage.text(), False) for passage in one.without[:n]]
    texts.sort(key=lambda text: drawn("detection", one.feature, text[0]))
    request = detection_request(label, [text for text, _ in texts])
    return Trial(one.feature, DETECTION, label, request, tuple(right for _, right in texts))


def _fuzzing(one: FeaturePassages, label: str) -> Trial:
    """Every second passage, from the strongest down, is marked elsewhere, at as many tokens."""
    marks = [
        (passage, elsewhere)
        for passage in one.held_out
        if (elsewhere := passage.marked_elsewhere(one.feature)) is not None
    ]
    chosen = spread(marks, 2 * N_EACH)
    n = len(chosen) // 2
    if n < LEAST_EACH:
        reason = f"fewer than {2 * LEAST_EACH} held-out passages whose marks could be elsewhere"
        return Trial(one.feature, FUZZING, label, reason=reason)
    texts = [
        (passage.text(passage.active if place % 2 == 0 else elsewhere), place % 2 == 0)
        for place, (passage, elsewhere) in enumerate(chosen[: 2 * n])
    ]
    texts.sort(key=lambda text: drawn("fuzzing", one.feature, text[0]))
    request = fuzzing_request(label, [text for text, _ in texts])
    return Trial(one.feature, FUZZING, label, request, tuple(right for _, right in texts))
