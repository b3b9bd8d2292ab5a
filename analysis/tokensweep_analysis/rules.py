"""When a claim counts as reproduced and when as refuted, fixed before the runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tokensweep_analysis.claims import ClaimKind
from tokensweep_analysis.decisions import tost_p
from tokensweep_analysis.intervals import Estimate

ALPHA = 0.05


@dataclass(frozen=True)
class Bounds:
    """Ends of the intervals of a difference that the rules call 95 % and 90 %; Holm may widen either."""

    low: float
    high: float
    low_90: float
    high_90: float


@dataclass(frozen=True, kw_only=True)
class Rule:
    """When a claim counts as reproduced and as refuted. Effect is the margin, or the smallest effect.

    The two are different tests, so Holm adjusts each over its own p values: with levels borrowed from the
    other one, at least one of 8 claims would be refuted falsely in a quarter of sweeps (simulated).
    """

    reproduced: Callable[[Bounds, float], bool]  # bounds, effect
    refuted: Callable[[Bounds, float], bool]
    p_reproduced: Callable[[Estimate, float], float]  # estimate, effect
    p_refuted: Callable[[Estimate, float], float]
    # Reproduced is read off the 95 % interval and refuted off the 90 %; otherwise the reverse.
    is_two_sided: bool
    words: str
    # Whether both arms must be well and readable; otherwise the left one: a collapse of the other may be
    # what is claimed.
    is_mutual: bool = False


RULES: Mapping[ClaimKind, Rule] = {
    ClaimKind.superiority: Rule(
        reproduced=lambda ends, _: ends.low > 0,
        refuted=lambda ends, effect: ends.high_90 < effect or ends.high < 0,
        p_reproduced=lambda estimate, _: estimate.p_value(),
        p_refuted=lambda estimate, effect: estimate.p_below(effect),
        is_two_sided=True,
        words="reproduced if the 95 % interval lies above 0, refuted if it lies below 0 or the 90 % interval "
        "lies below {effect}",
    ),
    ClaimKind.non_inferiority: Rule(
        reproduced=lambda ends, margin: ends.low_90 > -margin,
        refuted=lambda ends, _: ends.high < 0,
        p_reproduced=lambda estimate, margin: estimate.p_above(-margin),
        p_refuted=lambda estimate, _: estimate.p_value(),
        is_two_sided=False,
        words="reproduced if the 90 % interval lies above -{effect}, else refuted if the 95 % interval lies "
        "below 0",
    ),
    ClaimKind.equivalence: Rule(
        reproduced=lambda ends, margin: -margin < ends.low_90 and ends.high_90 < margin,
        refuted=lambda ends, margin: ends.low > margin or ends.high < -margin,
        p_reproduced=tost_p,
        p_refuted=lambda estimate, margin: 2 * min(estimate.p_above(margin), estimate.p_below(-margin), 0.5),
        is_two_sided=False,
        words="reproduced if the 90 % interval lies within {effect} of 0, refuted if the 95 % interval lies "
        "outside",
        is_mutual=True,
    ),
    ClaimKind.at_least: Rule(
        reproduced=lambda ends, margin: ends.low > margin,
        refuted=lambda ends, margin: ends.high_90 < margin,
        p_reproduced=lambda estimate, margin: estimate.p_value(margin),
        p_refuted=lambda estimate, margin: estimate.p_below(margin),
        is_two_sided=True,
        words="reproduced if the 95 % interval lies above {effect}, refuted if the 90 % interval lies below",
    ),
}
