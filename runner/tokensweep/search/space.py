"""What a search may choose: one override key per parameter, in Hydra's own grammar for sweeps."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep
from hydra.errors import HydraException

from tokensweep.composer import parse
from tokensweep.sweepfile import to_overrides

if TYPE_CHECKING:
    import optuna

Value = bool | int | float | str | None
_MAX_CORNERS = 64  # configs that are composed to check a space
_FORMS = (
    "interval(LOW, HIGH), int(interval(LOW, HIGH)), range(FROM, BEFORE, STEP), choice(A, B) or A,B, "
    "each in tag(log, ...) if it is an interval on a logarithmic scale"
)


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One override key and the values it may get: numbers from ``low`` to ``high``, or ``choices``.

    ``when`` maps other keys of the space to the values under which this one exists at all. Raises ValueError
    for a range that is empty or that a scale does not allow.
    """

    key: str
    low: float | None = None
    high: float | None = None  # both ends belong to it
    integer: bool = False
    log: bool = False
    step: int | None = None  # of integers
    choices: tuple[Value, ...] = ()
    when: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.choices:
            if odd := [one for one in self.choices if not isinstance(one, Value)]:
                raise ValueError(
                    f"{self.key}: a choice must be text, a number, true, false or null, got {odd[0]!r}"
                )
            if len(set(self.choices)) < len(self.choices):
                raise ValueError(f"{self.key}: a choice stands twice in {list(self.choices)}: take one out")
            return
        if self.low is None or self.high is None or not self.low < self.high:
            raise ValueError(
                f"{self.key} must go from a low to a higher value, got {self.low} to {self.high}"
            )
        if not math.isfinite(self.low) or not math.isfinite(self.high):
            raise ValueError(f"{self.key} must have two ends, got {self.low} to {self.high}")
        if self.log and self.step:
            raise ValueError(
                f"{self.key}: a logarithmic scale has no steps, got {self.step}: take int(interval())"
            )
        if self.log and self.low <= 0:
            raise ValueError(f"{self.key}: a logarithmic scale must start above 0, got {self.low:g}")

    @property
    def ends(self) -> tuple[Value, ...]:
        """The values that are most likely to be out of range for a config: both ends, or all choices."""
        if self.choices:
            return self.choices
        assert self.low is not None
        assert self.high is not None
        return (int(self.low), int(self.high)) if self.integer else (self.low, self.high)

    @property
    def size(self) -> float:
        """How many values there are; infinite for real numbers."""
        if self.choices:
            return len(self.choices)
        if not self.integer:
            return float("inf")
        assert self.low is not None
        assert self.high is not None
        return (int(self.high) - int(self.low)) // (self.step or 1) + 1

    def distribution(self) -> optuna.distributions.BaseDistribution:
        """Optuna's word for it."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.choices:
            return CategoricalDistribution(self.choices)
        assert self.low is not None
        assert self.high is not None
        if self.integer:
            return IntDistribution(int(self.low), int(self.high), log=self.log, step=self.step or 1)
        return FloatDistribution(self.low, self.high, log=self.log)

    def exists(self, params: Mapping[str, Value]) -> bool:
        """Whether the parameter has a value where the others have these."""
        return all(other in params and params[other] in values for other, values in self.when.items())

    def as_json(self) -> dict[str, Any]:
        """Its fields, without those that say nothing."""
        told = {name: getattr(self, name) for name in ("low", "high", "integer", "log", "step")}
        kept: dict[str, Any] = {
            name: value for name, value in told.items() if value is not None and value is not False
        }
        if self.choices:
            kept["choices"] = list(self.choices)
        if self.when:
            kept["when"] = {key: list(values) for key, values in self.when.items()}
        return {"key": self.key, **kept}

    @classmethod
    def from_json(cls, node: Mapping[str, Any]) -> Parameter:
        """What :meth:`as_json` gave."""
        when = {key: tuple(values) for key, values in node.get("when", {}).items()}
        return cls(**{**node, "choices": tuple(node.get("choices", ())), "when": when})


@dataclass(frozen=True)
class Space:
    """All parameters of a search, those first that others depend on.

    Raises ValueError for a key twice, or a condition on a key that is not chosen before.
    """

    parameters: tuple[Parameter, ...]

    def __post_init__(self) -> None:
        known: dict[str, Parameter] = {}
        for one in self.parameters:
            if one.key in known:
                raise ValueError(f"{one.key} stands twice in the space: take one out")
            for other, values in one.when.items():
                if other not in known or not known[other].choices:
                    raise ValueError(
                        f"{one.key}: 'when' must name a key with choices that stands before it in the space, "
                        f"got {other}: known are {', '.join(key for key, p in known.items() if p.choices)}"
                    )
                if missing := [value for value in values if value not in known[other].choices]:
                    raise ValueError(f"{one.key}: {other} is never {missing[0]!r}, so 'when' cannot hold")
            known[one.key] = one

    @property
    def is_conditional(self) -> bool:
        """Whether some parameters exist in a part of the space only."""
        return any(one.when for one in self.parameters)

    @property
    def size(self) -> float:
        """How many distinct settings there are, at most; infinite with real numbers."""
        product = 1.0
        for one in self.parameters:
            product *= one.size
        return product

    def suggest(self, trial: optuna.trial.Trial) -> dict[str, Value]:
        """The values of a trial, each asked for where it exists."""
        params: dict[str, Value] = {}
        for one in self.parameters:
            if one.exists(params):
                params[one.key] = trial._suggest(one.key, one.distribution())
        return params

    def corners(self) -> list[dict[str, Value]]:
        """Settings whose configs are worth checking: choices in all combinations, numbers all low or high.

        Where there are more than 64, choices vary one at a time.
        """
        chosen = [one for one in self.parameters if one.choices]
        combinations: Iterable[Sequence[Value]] = itertools.product(*(one.choices for one in chosen))
        total = 1
        for one in chosen:
            total *= len(one.choices)
        if 2 * total > _MAX_CORNERS:
            first = [one.choices[0] for one in chosen]
            combinations = [
                [*first[:place], value, *first[place + 1 :]]
                for place, one in enumerate(chosen)
                for value in one.choices
            ]
        found = []
        for values in combinations:
            picked = dict(zip((one.key for one in chosen), values, strict=True))
            for end in (0, 1):
                params: dict[str, Value] = {}
                for one in self.parameters:
                    if one.exists(params):
                        params[one.key] = picked[one.key] if one.choices else one.ends[end]
                if params not in found:
                    found.append(params)
        return found

    def overrides(self, params: Mapping[str, Value]) -> list[str]:
        """The override strings of a setting, in the order of the space."""
        found = []
        for one in self.parameters:
            if one.key in params:
                value = params[one.key]
                is_list = isinstance(value, str) and value.startswith("[")
                found += [f"{one.key}={value}"] if is_list else to_overrides({one.key: value})
        return found


def is_searched(override: Override) -> bool:
    """Whether an override of a command line gives several values."""
    return bool(override.is_sweep_override())


def parameter_of(override: Override, *, when: Mapping[str, Any] | None = None) -> Parameter:
    """The parameter that a sweep override stands for. Raises ValueError for one that is none."""
    key = override.key_or_group
    value = override.value()
    conditions = {
        other: tuple(given) if isinstance(given, (list, tuple)) else (given,)
        for other, given in (when or {}).items()
    }
    if isinstance(value, IntervalSweep):
        tags = _tags(key, value.tags)
        integer = isinstance(value.start, int) and isinstance(value.end, int)
        assert value.start is not None
        assert value.end is not None
        return Parameter(
            key=key,
            low=float(value.start),
            high=float(value.end),
            integer=integer,
            log="log" in tags,
            when=conditions,
        )
    if isinstance(value, RangeSweep):
        return _range(key, value, conditions)
    if isinstance(value, ChoiceSweep):
        _tags(key, value.tags)
        return Parameter(key=key, choices=tuple(map(_choice, override.sweep_iterator())), when=conditions)
    raise ValueError(f"{key} must be something to choose from, got {override.input_line}: write {_FORMS}")


def _choice(value: Any) -> Value:
    """A choice as Optuna can hold it: a list, such as a stack of presets, as its text."""
    return f"[{','.join(map(str, value))}]" if isinstance(value, list) else value


def _range(key: str, value: RangeSweep, conditions: Mapping[str, tuple[Value, ...]]) -> Parameter:
    """Whole numbers as Hydra counts them: the end is left out."""
    ends = (value.start, value.stop, value.step)
    if not all(isinstance(end, int) for end in ends) or value.step < 1:
        raise ValueError(f"{key}: range() takes whole numbers upwards, got {ends}: use interval() for others")
    values = range(int(value.start or 0), int(value.stop or 0), int(value.step))
    if len(values) < 2:
        raise ValueError(f"{key}: range{ends} must hold at least two values")
    step = int(value.step) if value.step != 1 else None
    return Parameter(
        key=key, low=values[0], high=values[-1], integer=True, step=step, when=conditions,
        log="log" in _tags(key, value.tags),
    )  # fmt: skip


def _tags(key: str, tags: Iterable[str]) -> set[str]:
    if unknown := sorted(set(tags) - {"log"}):
        raise ValueError(
            f"{key}: no tag {', '.join(unknown)}: the only one is log, as in tag(log, interval(1,9))"
        )
    return set(tags)


def read_space(node: Any, *, where: str) -> Space:
    """The space of a sweep file: KEY to a text in Hydra's grammar, a list of choices, or {of: , when: }.

    Raises ValueError naming ``where`` and the key.
    """
    if not isinstance(node, Mapping) or not node:
        raise ValueError(f"{where} must be a mapping of KEY to what it may be, got {node!r}: {_FORMS}")
    try:
        return Space(tuple(_read_parameter(str(key), value) for key, value in node.items()))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _read_parameter(key: str, node: Any) -> Parameter:
    when: Any = {}
    if isinstance(node, Mapping):
        if unknown := sorted(node.keys() - {"of", "when"}):
            raise ValueError(f"{key} has unknown keys {', '.join(map(str, unknown))}: known are of, when")
        when, node = node.get("when", {}), node.get("of")
        if not isinstance(when, Mapping):
            raise ValueError(f"{key}: when must be a mapping of KEY to VALUE or [VALUES], got {when!r}")
    if isinstance(node, list):
        given = {other: tuple(v) if isinstance(v, list) else (v,) for other, v in when.items()}
        return Parameter(key=key, choices=tuple(map(_choice, node)), when=given)
    if not isinstance(node, str):
        raise ValueError(f"{key} must be text or a list of choices, got {node!r}: {_FORMS}")
    try:
        override = parse([f"{key}={node}"])[0]
    except HydraException as error:
        raise ValueError(f"{key}: {error}: write {_FORMS}") from None
    return parameter_of(override, when=when)
