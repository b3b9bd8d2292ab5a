"""Searches without training: a study in a folder, asked and told by the test itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tokensweep.composer import parse
from tokensweep.search.space import Parameter, Space, Value, parameter_of
from tokensweep.search.spec import Search
from tokensweep.search.study import Asked, Study

STEPS = 27


def space_of(*texts: str) -> Space:
    """A space of overrides in Hydra's grammar."""
    return Space(tuple(parameter_of(override) for override in parse(list(texts))))


def search_of(space: Space, **fields: Any) -> Search:
    return Search(name="made-up", space=space, **fields)


def study_of(folder: Path, search: Search, *, steps: int = STEPS) -> Study:
    return Study(search, folder / search.name / "search", steps=steps)


def everybody_lives(_: int) -> bool:
    return True


def ask(study: Study, element: int = 0) -> Asked:
    asked = study.ask(element, is_alive=everybody_lives)
    assert asked is not None
    return asked


def run(study: Study, value: Callable[[Mapping[str, Value]], float]) -> list[float]:
    """Ask and tell until nothing is left; the values in order."""
    values = []
    element = 0
    while (asked := study.ask(element, is_alive=everybody_lives)) is not None:
        values.append(value(asked.params))
        study.tell(asked, [values[-1]])
        element += 1
    return values


def choices(key: str, *values: Value) -> Parameter:
    return Parameter(key=key, choices=values)
