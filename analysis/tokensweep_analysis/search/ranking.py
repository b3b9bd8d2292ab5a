"""Which trials are best, how many there are of each kind, and what they are called. For the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tokensweep_analysis.search.stored import Goal, State, Study, Trial

ACCURACY = "accuracy"  # the objective that verdicts are about, and whose noise is known


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Trials by what became of them; told are those that count and have ended."""

    planned: int
    complete: int
    pruned: int
    failed: int
    running: int
    waiting: int
    uncounted: int  # repetitions, and what was tried again under another number

    @property
    def told(self) -> int:
        """Trials that the study knows the end of."""
        return self.complete + self.pruned + self.failed


def counts_of(study: Study) -> Counts:
    """The trials of a study, counted."""
    counted = Counter(each.state for each in study.trials if each.counted)
    return Counts(
        planned=study.planned,
        **{state.value: counted[state] for state in State},
        uncounted=sum(not each.counted for each in study.trials),
    )


def ranking(study: Study) -> tuple[Trial, ...]:
    """The complete trials, best first, ties by number; of several objectives the front first.

    Inside of the front and behind it trials stand by their accuracy, or, where that is no objective, by the
    first one.
    """
    first = frozenset(front(study))
    place = next((at for at, goal in enumerate(study.goals) if goal.name == ACCURACY), 0)
    sign = study.goals[place].sign
    return tuple(
        sorted(
            study.complete,
            key=lambda each: (each.number not in first, -sign * _values(each)[place], each.number),
        )
    )


def front(study: Study) -> list[int]:
    """Numbers of the complete trials that no other beats: as good in all objectives, better in one.

    Empty with one objective, where the best is a single trial.
    """
    trials = study.complete
    if len(study.goals) < 2 or not trials:
        return []
    values = np.array([_values(each) for each in trials]) * [goal.sign for goal in study.goals]  # [T, G]
    beaten = [bool(((values >= own).all(axis=1) & (values > own).any(axis=1)).any()) for own in values]
    return [each.number for each, is_beaten in zip(trials, beaten, strict=True) if not is_beaten]


def running_best(values: Sequence[float], goal: Goal) -> list[float]:
    """The best value up to each."""
    signed = np.maximum.accumulate(goal.sign * np.array(values, dtype=np.float64))
    best: list[float] = (goal.sign * signed).tolist()
    return best


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """The shortest end of each dotted key that no other has."""

    def ends(key: str) -> list[str]:
        parts = key.split(".")
        return [".".join(parts[place:]) for place in range(len(parts) - 1, -1, -1)]

    known = Counter(end for key in keys for end in ends(key))
    return {key: next((end for end in ends(key) if known[end] == 1), key) for key in keys}


def _values(trial: Trial) -> tuple[float, ...]:
    assert trial.values is not None, "a complete trial has values"
    return trial.values
