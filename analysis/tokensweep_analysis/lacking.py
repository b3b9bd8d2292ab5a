"""Sentences on what a comparison lacks: results, or differences to a baseline. For reports and pages."""

from __future__ import annotations

from collections.abc import Sequence

from tokensweep_analysis.tables import Row


def nothing_finished(rows: Sequence[Row]) -> str:
    """That no run of these rows has finished; empty when one has, or when there are no rows."""
    if not rows or any(row.seeds for row in rows):
        return ""
    arms = {(row.setting, row.arm): row for row in rows}.values()  # a run has a row per benchmark
    planned, failed = (
        sum(counts) for counts in zip(*((a.num_planned, a.num_failed) for a in arms), strict=True)
    )
    return f"No run has finished yet: {planned} planned{f', {failed} failed' if failed else ''}."


def no_contrasts(rows: Sequence[Row], *, baseline: str | None) -> str:
    """Why no arm of a setting and benchmark is compared; empty when one is, or when no run has finished."""
    if not rows or nothing_finished(rows) or any(row.differences for row in rows):
        return ""
    if len(rows) == 1:
        return f"No contrasts: {rows[0].arm} is the only arm."
    if baseline is None:
        return "No contrasts: the sweep names no baseline."
    arms = {row.arm: row for row in rows}
    if baseline not in arms:
        return f"No contrasts: baseline {baseline} is not planned here."
    if not arms[baseline].seeds:
        return f"No contrasts: baseline {baseline} has no finished runs."
    if not any(row.seeds for row in rows if row.arm != baseline):
        return f"No contrasts: only baseline {baseline} has finished runs."
    return f"No contrasts: no arm can be compared with baseline {baseline}."
