"""What a search is: its space, how Optuna chooses and prunes, what is good, where trials start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Any

from tokensweep.names import check_name
from tokensweep.search.space import Parameter, Space


class Sampler(StrEnum):
    """How the next trial is chosen from those before."""

    random = "random"
    tpe = "tpe"
    gp = "gp"
    cmaes = "cmaes"
    nsgaii = "nsgaii"


class Pruner(StrEnum):
    """When a trial is given up before its last training step."""

    none = "none"
    median = "median"
    asha = "asha"  # asynchronous successive halving
    hyperband = "hyperband"


class Objective(StrEnum):
    """What a trial is judged by, mean over its seeds."""

    accuracy = "accuracy"  # share of right samples; suites weigh the same
    tokens = "tokens"  # completion tokens that training sampled
    device_hours = "device_hours"  # worked, times devices

    @property
    def direction(self) -> str:
        """Optuna's word for what is better."""
        return "maximize" if self is Objective.accuracy else "minimize"


_ONE_ONLY = (Sampler.cmaes,)  # of several objectives


@dataclass(frozen=True, kw_only=True)
class Search:
    """A search before it starts. Raises ValueError for what cannot work, with the reason.

    ``rung`` training steps lie between two looks at a trial, the first of which is at ``warmup``: reward
    curves cross early. Null means an eighth and a quarter of the steps.
    """

    name: str
    space: Space
    base: tuple[str, ...] = ()  # overrides of every trial
    seeds: tuple[int, ...] = (0,)  # replicates: each trial trains one run per seed, the mean is told
    trials: int = 20  # to be told; more can be added later
    sampler: Sampler = Sampler.tpe
    sampler_seed: int = 0
    pruner: Pruner = Pruner.none
    rung: int | None = None
    warmup: int | None = None
    objectives: tuple[Objective, ...] = (Objective.accuracy,)
    stop_evaluation: float = 0.0  # chance of giving up a trial that is as good as the best; 0: evaluate all
    scale: str = ""
    paper: str = ""
    question: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        check_name(self.name, what="the name of a search")
        if self.trials < 1:
            raise ValueError(f"trials must be at least 1, got {self.trials}")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must be distinct and at least one, got {list(self.seeds)}")
        if not self.objectives or len(set(self.objectives)) < len(self.objectives):
            raise ValueError(
                f"objectives must be distinct and at least one, got {list(map(str, self.objectives))}"
            )
        for key, value in (("rung", self.rung), ("warmup", self.warmup)):
            if value is not None and value < 1:
                raise ValueError(f"{key} must be at least 1 step, got {value}")
        if not 0 <= self.stop_evaluation < 0.5:
            raise ValueError(f"stop_evaluation must be in [0, 0.5), got {self.stop_evaluation:g}")
        if len(self.objectives) > 1:
            self._check_several()
        elif Objective.accuracy not in self.objectives and self.pruner is not Pruner.none:
            raise ValueError(
                f"pruner={self.pruner} compares accuracy during training, and the objective is "
                f"{self.objectives[0]}: take pruner=none"
            )
        if any(one.key == "seed" for one in self.space.parameters):
            raise ValueError("seed cannot be searched: a lucky one would win; seed=0,1,2 are replicates")

    def _check_several(self) -> None:
        names = " and ".join(self.objectives)
        if self.pruner is not Pruner.none:
            raise ValueError(
                f"pruner={self.pruner} cannot be used with the objectives {names}: a trial that is behind in "
                "one may be ahead in another, so no look at its curve says that it is hopeless; take "
                "pruner=none, or one objective"
            )
        if self.stop_evaluation:
            raise ValueError(
                f"stop_evaluation cannot be used with the objectives {names}: a trial with fewer right "
                "answers may still be the cheapest; take stop_evaluation=0, or one objective"
            )
        if self.sampler in _ONE_ONLY:
            raise ValueError(
                f"sampler={self.sampler} knows one objective only, got {names}: take nsgaii, tpe, gp, random"
            )

    @property
    def directions(self) -> list[str]:
        """Of the objectives, in Optuna's words."""
        return [one.direction for one in self.objectives]

    def rungs(self, steps: int) -> tuple[int, int]:
        """(steps between two looks, step of the first one) for trials of ``steps``. Raises ValueError."""
        rung = self.rung or max(1, steps // 8)
        warmup = self.warmup if self.warmup is not None else max(rung, steps // 4)
        first = -(-warmup // rung) * rung  # looks are at whole rungs
        if self.pruner is not Pruner.none and first >= steps:
            raise ValueError(
                f"the first look at a trial is at step {first} of {steps}, so nothing can be pruned: lower "
                "warmup or rung, raise steps, or take pruner=none"
            )
        return rung, first

    def as_json(self) -> dict[str, Any]:
        """For ``search.json``."""
        told = {f.name: getattr(self, f.name) for f in fields(self)}
        return {**told, "space": [one.as_json() for one in self.space.parameters]}

    @classmethod
    def from_json(cls, node: Mapping[str, Any]) -> Search:
        """What :meth:`as_json` gave, after a trip through a file."""
        return cls(
            **{
                **node,
                "space": Space(tuple(map(Parameter.from_json, node["space"]))),
                "base": tuple(node["base"]),
                "seeds": tuple(node["seeds"]),
                "sampler": Sampler(node["sampler"]),
                "pruner": Pruner(node["pruner"]),
                "objectives": tuple(map(Objective, node["objectives"])),
            }
        )


def search_folder(store: Path, name: str) -> Path:
    """Where a search keeps its study."""
    return store / "sweeps" / name / "search"


def is_search(store: Path, name: str) -> bool:
    """Whether a sweep of the store is a search."""
    return (search_folder(store, name) / "search.json").is_file()


def check_is_free(store: Path, name: str) -> None:
    """Raise ValueError when the name of a search is that of a sweep with arms of its own."""
    if (store / "sweeps" / name / "sweep.json").is_file() and not search_folder(store, name).is_dir():
        raise ValueError(f"{name} is a sweep in {store} and no search: name another one, with sweep=NAME")


def arm_of(number: int) -> str:
    """What a trial is called in tables."""
    return f"trial-{number:03d}"
