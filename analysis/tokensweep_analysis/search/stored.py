"""The trials of a search as its folder lists them. For the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import isclose, isfinite
from pathlib import Path
from typing import Any

from tokensweep.identity import read_json
from tokensweep.search.space import Parameter, Space, Value

_PLACE = Path("search", "trials.json")  # in the folder of a sweep


class State(StrEnum):
    """How far a trial is."""

    complete = "complete"
    pruned = "pruned"
    failed = "failed"
    running = "running"
    waiting = "waiting"


@dataclass(frozen=True)
class Goal:
    """An objective and which way it is better."""

    name: str
    direction: str  # maximize | minimize

    @property
    def sign(self) -> int:
        """What a value is multiplied with so that more is better."""
        return 1 if self.direction == "maximize" else -1


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A setting that was tried, or that waits to be."""

    number: int
    arm: str
    state: State
    params: Mapping[str, Value]  # of the parameters that exist in it
    values: tuple[float, ...] | None  # one per objective
    pruned_step: int | None
    runs: Mapping[int, str]  # run ids by seed
    reason: str = ""  # of a failure
    counted: bool = True  # false for a repetition, and for what was tried again under another number
    started: float | None = None  # seconds since the epoch
    ended: float | None = None

    @property
    def first_reason(self) -> str:
        """The first line of why it failed."""
        return self.reason.strip().partition("\n")[0] or "no reason known"


@dataclass(frozen=True, kw_only=True)
class Study:
    """A search as far as it got. ``trials`` stand in the order of their numbers."""

    name: str
    sampler: str
    pruner: str
    goals: tuple[Goal, ...]
    planned: int
    space: Space
    trials: tuple[Trial, ...]

    @property
    def complete(self) -> tuple[Trial, ...]:
        """The trials that have values and count."""
        return tuple(each for each in self.trials if each.state is State.complete and each.counted)


def find_study(sweep: Path) -> Study | None:
    """The search of a sweep's folder, None when the sweep is no search. Raises ValueError for damage."""
    path = sweep / _PLACE
    return read_study(path) if path.is_file() else None


def read_study(path: Path) -> Study:
    """The search that ``trials.json`` lists. Raises ValueError naming the file and the key for damage."""
    node = _Node(read_json(path), path)
    goals = tuple(
        Goal(each.take("name", _text), each.take("direction", _direction))
        for each in node.nodes("objectives")
    )
    if not goals:
        raise node.wrong("objectives", "hold at least one objective", goals)
    space = _space(node)
    trials = [_trial(each, space=space, num_goals=len(goals)) for each in node.nodes("trials")]
    numbers = [each.number for each in trials]
    if twice := sorted(number for number, count in Counter(numbers).items() if count > 1):
        raise node.wrong("trials", "list every number once", twice)
    return Study(
        name=node.take("name", _text),
        sampler=node.take("sampler", _text),
        pruner=node.take("pruner", _text),
        goals=goals,
        planned=node.take("planned", _count),
        space=space,
        trials=tuple(sorted(trials, key=lambda each: each.number)),
    )


def _space(node: _Node) -> Space:
    parameters = []
    for each in node.nodes("space"):
        try:
            one = Parameter.from_json(each.content)
            numbers = [end for end in (one.low, one.high) if not one.choices]
            if not all(map(_is_number, numbers)):
                raise ValueError(f"{one.key}: low and high must be numbers, got {numbers}")
            parameters.append(one)
        except (TypeError, AttributeError, KeyError, ValueError) as error:
            raise each.wrong("", f"be a parameter ({error})", each.content) from error
    try:
        return Space(tuple(parameters))
    except (TypeError, ValueError) as error:
        raise node.wrong("space", f"be a space ({error})", [one.key for one in parameters]) from error


def _trial(node: _Node, *, space: Space, num_goals: int) -> Trial:
    state = State(node.take("state", _state))
    values: list[float] | None = node.take("values", _optional(_numbers))
    if state is State.complete and (values is None or len(values) != num_goals):
        raise node.wrong("values", f"hold {num_goals} of a complete trial", values)
    runs: Mapping[str, str] = node.take("runs", _runs)
    params: Mapping[str, Value] = node.take("params", _mapping)
    known = {one.key: one for one in space.parameters}
    asked = {} if state is State.waiting else params  # whoever queues a trial may want anything of it
    for key, value in asked.items():
        if key not in known or not _fits(known[key], value):
            raise node.wrong(f"params.{key}", "be a value of the space", value)
    node.take("intermediate", _mapping)
    return Trial(
        number=node.take("number", _count),
        arm=node.take("arm", _text),
        state=state,
        params=params,
        values=None if values is None else tuple(map(float, values)),
        pruned_step=node.take("pruned_step", _optional(_count)),
        runs={int(seed): run_id for seed, run_id in runs.items()},
        reason=node.take("reason", _optional(_any_text)) or "",
        counted=node.take("counted", _flag),
        started=node.take("started", _optional(_number)),
        ended=node.take("ended", _optional(_number)),
    )


def _fits(parameter: Parameter, value: Value) -> bool:
    """Whether the parameter can have the value; ends may be missed by a rounding."""
    if parameter.choices:
        return any(type(value) is type(choice) and value == choice for choice in parameter.choices)
    if not _is_number(value):
        return False
    assert isinstance(value, (int, float))
    assert parameter.low is not None
    assert parameter.high is not None
    is_inside = parameter.low <= value <= parameter.high
    return is_inside or any(isclose(value, end, rel_tol=1e-9) for end in (parameter.low, parameter.high))


_Check = tuple[str, Callable[[Any], bool]]  # what must hold, in words, and whether it does


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_runs(value: Any) -> bool:
    return isinstance(value, dict) and all(
        seed.isdecimal() and isinstance(run_id, str) for seed, run_id in value.items()
    )


_text: _Check = ("be a text", lambda value: isinstance(value, str) and value != "")
_any_text: _Check = ("be a text or null", lambda value: isinstance(value, str))
_flag: _Check = ("be true or false", lambda value: isinstance(value, bool))
_count: _Check = ("be a whole number from 0 on", _is_count)
_number: _Check = ("be a finite number", _is_number)
_numbers: _Check = (
    "be a list of finite numbers",
    lambda value: isinstance(value, list) and all(map(_is_number, value)),
)
_mapping: _Check = ("be an object", lambda value: isinstance(value, dict))
_runs: _Check = ("give a run id per seed", _is_runs)
_state: _Check = (f"be one of {', '.join(State)}", lambda value: value in list(State))
_direction: _Check = ("be maximize or minimize", lambda value: value in ("maximize", "minimize"))


def _optional(check: _Check) -> _Check:
    words, holds = check
    return f"{words.removesuffix(' or null')} or null", lambda value: value is None or holds(value)


@dataclass(frozen=True)
class _Node:
    """A JSON object of the file, and where it stands in it."""

    content: Mapping[str, Any]
    path: Path
    place: str = ""

    def take(self, key: str, check: _Check) -> Any:
        """The value of a key. Raises ValueError where it is missing or is not what must be there."""
        rule, holds = check
        if key not in self.content:
            raise self.wrong(key, "be there", None)
        value = self.content[key]
        if not holds(value):
            raise self.wrong(key, rule, value)
        return value

    def nodes(self, key: str) -> list[_Node]:
        """The objects that a key lists. Raises ValueError where it lists none."""
        listed: Sequence[Any] = self.take(key, ("be a list", lambda value: isinstance(value, list)))
        found = [_Node(each, self.path, f"{self.place}{key}[{at}].") for at, each in enumerate(listed)]
        for each in found:
            if not isinstance(each.content, dict):
                raise each.wrong("", "be an object", each.content)
        return found

    def wrong(self, key: str, rule: str, got: Any) -> ValueError:
        """What to raise for a value that cannot be."""
        return ValueError(
            f"{self.path}: {f'{self.place}{key}'.rstrip('.')} must {rule}, got {got!r:.200}: delete the "
            "file, tokensweep report writes it again"
        )
