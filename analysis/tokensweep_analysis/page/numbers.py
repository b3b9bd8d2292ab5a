"""How the page writes numbers: points out of 100, true minus signs, as many digits as mean something."""

from __future__ import annotations

from math import isnan

from tokensweep_analysis.intervals import Estimate

NOTHING = "–"
NO_INTERVAL = "no interval"


def number(value: float | None, form: str = ".1f") -> str:
    """A number as ``form`` says, with a minus sign that is as wide as a plus."""
    return NOTHING if value is None or isnan(value) else format(value, form).replace("-", "−")


def points(share: float | None, *, sign: str = "") -> str:
    """A share between 0 and 1 as points out of 100."""
    return number(None if share is None else 100 * share, f"{sign}.1f")


def interval(estimate: Estimate, *, sign: str = "") -> str:
    """The interval of a share in points, or that there is none."""
    if isnan(estimate.low) or isnan(estimate.high):
        return NO_INTERVAL
    return f"[{points(estimate.low, sign=sign)}, {points(estimate.high, sign=sign)}]"


def written(estimate: Estimate | None, *, sign: str = "") -> str:
    """Value and interval on one line."""
    if estimate is None:
        return NOTHING
    return f"{points(estimate.value, sign=sign)} {interval(estimate, sign=sign)}"


def excludes_zero(estimate: Estimate) -> bool:
    """Whether the interval has 0 outside; False where there is none."""
    return estimate.low > 0 or estimate.high < 0


def p_value(value: float | None) -> str:
    """Three decimals, and what is below them."""
    if value is not None and value < 0.001:
        return "< 0.001"
    return number(value, ".3f")


def detected(share: float | None) -> str:
    """A detectable difference in points, or that it is more than any."""
    return "> 100" if share is not None and share > 1 else points(share)


def compact(count: float | None) -> str:
    """A large count in thousands, millions or billions, three digits."""
    if count is None or isnan(count):
        return NOTHING
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f}"


def duration(seconds: float | None) -> str:
    """Seconds, minutes or hours, whichever reads best."""
    if seconds is None or isnan(seconds):
        return NOTHING
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def span(counts: list[int]) -> str:
    """``30``, ``30 to 500``, or ``none``."""
    distinct = sorted(set(counts))
    if not distinct:
        return "none"
    return f"{distinct[0]:,}" if len(distinct) == 1 else f"{distinct[0]:,} to {distinct[-1]:,}"
