"""Which trials of a search are confirmed. Chosen once, by looking; written down, so that no second look
changes it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from tokensweep.files import write_json
from tokensweep.identity import read_json
from tokensweep.search.spec import Objective, Search
from tokensweep_analysis.wording import counted

Trial = Mapping[str, Any]  # a row of trials.json


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A trial that is confirmed."""

    name: str
    params: Mapping[str, Any]
    values: tuple[float, ...]  # one per objective of the search, flattered by the choice
    overrides: tuple[str, ...]  # of these parameters


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What ``confirm.json`` holds: what was chosen, among what, and what the search had seen by then."""

    search: str
    objectives: tuple[str, ...]
    top: int  # arms asked for; the Pareto front of several objectives may hold fewer
    arms: tuple[Arm, ...]  # the best first
    base: tuple[str, ...]  # overrides that all arms share
    seeds: tuple[int, ...]
    searched_seeds: tuple[int, ...]
    num_trials: int
    num_complete: int
    seen: tuple[Mapping[str, Any], ...]  # config nodes of the suites that the search asked

    def write(self, path: Path) -> None:
        """Write it down."""
        write_json(path, asdict(self))

    @classmethod
    def read(cls, path: Path) -> Choice:
        """What :meth:`write` wrote. Raises ValueError for a file that is damaged."""
        node = read_json(path)
        if missing := [each.name for each in fields(cls) if each.name not in node]:
            raise ValueError(f"{path} must have {', '.join(missing)}: start another with sweep=NAME")
        lists: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in node.items()
        }
        arms = tuple(
            Arm(
                name=arm["name"],
                params=arm["params"],
                values=tuple(arm["values"]),
                overrides=tuple(arm["overrides"]),
            )
            for arm in node["arms"]
        )
        lists["arms"] = arms
        return cls(**lists)


def complete_trials(trials: Iterable[Trial]) -> list[Trial]:
    """Those with values, each setting once."""
    found: dict[str, Trial] = {}
    for trial in trials:
        if trial["state"] == "complete" and trial["values"] and trial["counted"]:
            found.setdefault(json.dumps(trial["params"], sort_keys=True), trial)
    return list(found.values())


def best_trials(
    trials: Iterable[Trial], objectives: Sequence[Objective], *, top: int, search: str
) -> list[Trial]:
    """The ``top`` best complete trials, the best first, those of the same value in their order.

    With several objectives they are of the Pareto front, which may hold fewer, by accuracy. Raises ValueError
    where accuracy is none of the objectives, as it is what verdicts are about, and for fewer complete trials.
    """
    if Objective.accuracy not in objectives:
        raise ValueError(
            f"the search {search} looked for {' and '.join(objectives)} alone, and verdicts are about "
            "accuracy: compare its arms with a sweep file that claims non_inferiority with a margin of yours"
        )
    complete = complete_trials(trials)
    if not complete:
        raise ValueError(f"the search {search} has no complete trial yet: tokensweep status {search}")
    if not 1 <= top <= len(complete):
        raise ValueError(
            f"--top must be at least 1 and at most {len(complete)}, got {top}: the search {search} has "
            f"{counted(len(complete), 'complete trial')} with different settings"
        )
    scores = [_score(trial, objectives) for trial in complete]
    front = [trial for trial, score in zip(complete, scores, strict=True) if not _is_beaten(score, scores)]
    place = list(objectives).index(Objective.accuracy)
    candidates = complete if len(objectives) == 1 else front
    return sorted(candidates, key=lambda trial: (-trial["values"][place], trial["number"]))[:top]


def _score(trial: Trial, objectives: Sequence[Objective]) -> tuple[float, ...]:
    """The values of a trial, more being better."""
    signs = [1.0 if one.direction == "maximize" else -1.0 for one in objectives]
    return tuple(sign * value for sign, value in zip(signs, trial["values"], strict=True))


def _is_beaten(score: Sequence[float], others: Iterable[Sequence[float]]) -> bool:
    """Whether another trial is at least as good everywhere and better somewhere."""
    return any(
        tuple(other) != tuple(score) and all(b >= a for a, b in zip(score, other, strict=True))
        for other in others
    )


def searched_seeds(search: Search, trials: Iterable[Trial]) -> list[int]:
    """The seeds that any run of the search has, in order."""
    return sorted({*search.seeds, *(int(seed) for trial in trials for seed in trial["runs"])})


def fresh_seeds(used: Sequence[int], *, count: int, given: Sequence[int]) -> list[int]:
    """The seeds of a confirmation: those given, else the next ``count`` behind those that were used.

    Raises ValueError for one that the search used or that is given twice, and for another number than
    ``count``.
    """
    if both := sorted(set(used) & set(given)):
        raise ValueError(
            f"seeds= must have none of the search's seeds {', '.join(map(str, used))}, got "
            f"{', '.join(map(str, both))}: on them its arms were chosen; take others, such as {used[-1] + 1}"
        )
    if len(set(given)) < len(given):
        raise ValueError(
            f"seeds= has one twice, which would count one run as two: {', '.join(map(str, given))}"
        )
    if count < 1:
        raise ValueError(f"--seeds must be at least 1, got {count}")
    if given and len(given) != count:
        typed = ",".join(map(str, given))
        raise ValueError(f"seeds={typed} are {len(given)} seeds, and --seeds is {count}: give one of both")
    return list(given) or list(range(used[-1] + 1, used[-1] + 1 + count))
