"""Whether a training went well enough for its results to count as a win of its method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

# Chosen here: healthy trainings of the tiny scale end at 0.24 to 1.1 times their first entropy, and at a
# twentieth of it a policy has about one answer per prompt left, so that more samples add nothing.
COLLAPSED_ENTROPY = 0.05
# Half of what it solved before training, and by more than the noise of a step's few hundred rollouts.
LOST_SHARE = 0.5
LOST_POINTS = 0.05
_WINDOW = 10  # the first and the last tenth of the steps are compared
_FEWEST_STEPS = 20  # below, a tenth is one step
_ENTROPY, _ACCURACY, _GRADIENT = "entropy/mean", "sampled/accuracy", "grad_norm"


def health_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """What is wrong with a training, from its metrics rows {step, metrics}; empty when nothing is.

    In this order: a metric that is not finite, no gradient in any step, entropy that collapsed, accuracy that
    was lost.
    """
    return _not_finite(rows) or _untrained(rows) or _collapsed(rows) or _lost(rows)


def _not_finite(rows: Sequence[Mapping[str, Any]]) -> str:
    odd = [row for row in rows if not isfinite(sum(row["metrics"].values()))]
    if not odd:
        return ""
    names = sorted({name for row in odd for name, value in row["metrics"].items() if not isfinite(value)})
    shown = ", ".join(names[:3]) + (" and others" if len(names) > 3 else "")
    return f"not finite in {len(odd)} of {len(rows)} steps, first in step {odd[0]['step']}: {shown}"


def _untrained(rows: Sequence[Mapping[str, Any]]) -> str:
    norms = [row["metrics"].get(_GRADIENT) for row in rows]
    if not norms or any(norm != 0 for norm in norms):
        return ""
    return (
        f"nothing was learned: no gradient in any of {len(norms)} steps, so it is the model it started from"
    )


def _collapsed(rows: Sequence[Mapping[str, Any]]) -> str:
    start, end = _ends(rows, _ENTROPY)
    if end >= COLLAPSED_ENTROPY * start:
        return ""
    return (
        f"entropy collapsed: {end:.2g} nats in the last tenth of the steps, {start:.2g} in the first "
        f"(below {COLLAPSED_ENTROPY:.0%})"
    )


def _lost(rows: Sequence[Mapping[str, Any]]) -> str:
    start, end = _ends(rows, _ACCURACY)
    if end >= LOST_SHARE * start or start - end <= LOST_POINTS:
        return ""
    return (
        f"accuracy was lost: {end:.1%} of the training samples are correct in the last tenth of the steps, "
        f"{start:.1%} in the first"
    )


def _ends(rows: Sequence[Mapping[str, Any]], name: str) -> tuple[float, float]:
    """Means of a metric over the first and the last tenth of its steps; equal where there are too few."""
    values = [float(row["metrics"][name]) for row in rows if name in row["metrics"]]
    if len(values) < _FEWEST_STEPS:
        return 0.0, 0.0
    size = len(values) // _WINDOW
    return sum(values[:size]) / size, sum(values[-size:]) / size
