"""How values of objectives and parameters are written for people. For all parts of a search's report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tokensweep.search.space import Value
from tokensweep_analysis.wording import NOTHING


@dataclass(frozen=True)
class Unit:
    """How an objective is shown: ``scale`` times its value in ``form``, and what that is called."""

    label: str
    form: str = ".4g"
    scale: float = 1.0

    def shown(self, value: float) -> str:
        """The value for a table."""
        return format(self.scale * value, self.form)


_UNITS = {
    "accuracy": Unit("accuracy, points", ".1f", 100.0),
    "tokens": Unit("tokens", ",.0f"),
    "device_hours": Unit("device hours", ".2f"),
}


def unit_of(objective: str) -> Unit:
    """The unit of an objective; one that is not known here is shown as it is."""
    return _UNITS.get(objective, Unit(objective))


def written(value: Value) -> str:
    """The value of a parameter as YAML has it, in one line and four digits."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.4g}"
    return "null" if value is None else plain(str(value)) or "''"


def plain(text: str) -> str:
    """A text in one line, without what would steer a terminal."""
    return "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in " ".join(text.split())
    )


def written_of(params: Mapping[str, Value], key: str) -> str:
    """The value of a key, or a dash where the trial does not have it."""
    return written(params[key]) if key in params else NOTHING
