"""What a check of the doctor gives back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """Whether something is as it should be. ``warn``: runs work, with a drawback; ``fail``: some don't."""

    ok = "ok"
    warn = "warn"
    fail = "fail"


@dataclass(frozen=True)
class Finding:
    """What a check found, and what to do about it unless all is well."""

    level: Level
    found: str
    advice: str = ""


@dataclass(frozen=True)
class Check:
    """A question and how to answer it."""

    topic: str
    ask: Callable[[], Finding]
    needs: str = ""  # another topic: when that fails, this one has nothing to tell


def ok(found: str) -> Finding:
    """All is well."""
    return Finding(Level.ok, found)


def warn(found: str, advice: str) -> Finding:
    """It works, with a drawback."""
    return Finding(Level.warn, found, advice)


def fail(found: str, advice: str) -> Finding:
    """It does not work."""
    return Finding(Level.fail, found, advice)


def answer(check: Check) -> Finding:
    """The finding of a check; a check that breaks is a failure of its own and hides no other."""
    try:
        return check.ask()
    except (ValueError, OSError) as error:
        return fail(str(error), "")  # says itself what to do
    except Exception as error:  # noqa: BLE001  a doctor goes on with the next question
        return fail(f"the check itself failed: {type(error).__name__}: {error}", "report this as a bug")
