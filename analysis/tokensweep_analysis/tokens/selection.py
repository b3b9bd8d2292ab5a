"""Which tokens are kept, which are of high entropy, and which would be by the base model's entropy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

_SEGMENT = {
    "rollout": ["step", "group", "sample"],
    "group": ["step", "group"],
    "mini": ["step", "minibatch"],
    "batch": ["step"],
}


@dataclass(frozen=True, kw_only=True)
class Rule:
    """How tokens of high entropy are told from the others.

    The run's own choice is read from the stored weights where these are the choice; otherwise it is made on
    the stored tokens: the ``k = max(1, ceil(fraction * m))`` of highest entropy of each segment of ``scope``
    with m stored tokens, ties to the earlier token, or with ``threshold`` those of at least that many nats.
    """

    fraction: float = 0.2
    threshold: float | None = None  # nats; replaces fraction
    scope: str = "batch"  # rollout | group | mini | batch
    kept_by_run: bool = False  # the run weighed tokens, and a weight of 0 means: not trained
    top_by_run: str | None = None  # "high": weights are this choice; "low": they are its complement

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction must be in (0, 1], got {self.fraction:g}")
        if self.scope not in _SEGMENT:
            raise ValueError(f"scope must be one of {', '.join(_SEGMENT)}, got {self.scope!r}")

    def __str__(self) -> str:
        if self.threshold is not None:
            return f"at least {self.threshold:g} nats"
        return f"the {100 * self.fraction:g} % of highest entropy per {self.scope}"


def select(table: pd.DataFrame, rule: Rule) -> pd.DataFrame:
    """The token table with three more columns of bool.

    ``top``: of high entropy by the policy that sampled. ``kept``: trained by the run (weight not 0); for a
    run that trained all tokens the same as ``top``, as a supposition. ``base_top``: of high entropy by the
    base model, as many per segment as ``top`` has there; all False without a base.
    """
    entropy, base, weight = (table[name].to_numpy() for name in ("entropy", "base_entropy", "weight"))
    segments = _segments(table, rule)
    if rule.top_by_run:
        top = (weight != 0) == (rule.top_by_run == "high")
    elif rule.threshold is not None:
        top = entropy >= rule.threshold
    else:
        exact = rule.fraction * np.bincount(segments) - 1e-9  # 0.07 * 100 is a little more than 7 in floats
        top = top_of_segments(entropy, segments, counts=np.maximum(1, np.ceil(exact)).astype(np.int64))
    if np.isnan(base).any():
        base_top = np.zeros(len(table), dtype=bool)
    elif rule.threshold is not None:
        base_top = base >= rule.threshold
    else:
        as_many = np.bincount(segments[top], minlength=int(segments.max()) + 1)
        base_top = top_of_segments(base, segments, counts=as_many.astype(np.int64))
    return table.assign(kept=weight != 0 if rule.kept_by_run else top, top=top, base_top=base_top)


def top_of_segments(
    x: NDArray[np.floating], segments: NDArray[np.int64], *, counts: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """The ``counts`` [S] largest of ``x`` [n] in each segment, as [n] bool; ties go to the earlier row."""
    order = np.lexsort((np.arange(len(x)), -x, segments))
    sizes = np.bincount(segments, minlength=len(counts))
    first = sizes.cumsum() - sizes
    rank = np.arange(len(x)) - first[segments[order]]
    keep = np.empty(len(x), dtype=bool)
    keep[order] = rank < counts[segments[order]]
    return keep


def _segments(table: pd.DataFrame, rule: Rule) -> NDArray[np.int64]:
    """Number of the segment of each token, [n], from 0 without gaps."""
    numbers = table.groupby(_SEGMENT[rule.scope], sort=True).ngroup()
    return numbers.to_numpy().astype(np.int64)
