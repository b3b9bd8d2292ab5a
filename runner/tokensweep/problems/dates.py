"""Whether a benchmark can have been in a model's training data, as far as dates say."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Any


def check_day(field: str, day: str) -> None:
    """Raise ValueError for a day that is neither empty (unknown) nor of the form 2025-02-12."""
    try:
        sound = not day or date.fromisoformat(day).isoformat() == day  # "20250212" would sort elsewhere
    except ValueError:
        sound = False
    if not sound:
        raise ValueError(f"{field} must be a day such as 2025-02-12, or empty, got {day!r}")


def caution(suite: str, source: Mapping[str, Any], model: Mapping[str, Any] | None) -> str:
    """A sentence where a benchmark may have been in the model's training data, empty where it cannot.

    ``source`` and ``model`` are config nodes. Without a field ``date`` the problems are made for the run, and
    without a field ``released`` the model is: neither was anywhere before. An empty field is unknown.
    """
    if model is None or "date" not in source or "released" not in model:
        return ""
    posed, released = source["date"], model["released"]
    if posed and released:
        if posed > released:
            return ""
        return (
            f"{suite} ({posed}) is older than the model ({released}): it may have been in its training data"
        )
    lacking = " and ".join(
        text for known, text in ((posed, "a date of the problems"), (released, "model.released")) if not known
    )
    return f"{suite}: unknown whether it was in the model's training data, for lack of {lacking}"
