"""How figures that reports, pages and plans share are written for people."""

from __future__ import annotations

NOTHING = "-"  # where there is no number


def percent(confidence: float) -> str:
    """``0.95`` as ``95 %``, an adjusted ``0.98333`` as ``98.33 %``."""
    return f"{100 * confidence:.4g} %"


def detected(share: float | None) -> str:
    """A detectable difference in points; of more than 100 that is all one needs to know, NaN is none."""
    if share is None or share != share:
        return NOTHING
    return ">100" if share > 1 else f"{100 * share:.1f}"


def counted(number: int, noun: str) -> str:
    """A number with its noun: ``1 slip``, ``2 slips``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
