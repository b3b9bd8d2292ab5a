"""What the samples of a search's trials say about the noise of their accuracies. For the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tokensweep_analysis.search.ranking import ACCURACY
from tokensweep_analysis.search.shrinkage import FEWEST, Shrunk, question_noise, seed_noise, shrink
from tokensweep_analysis.search.stored import Study, Trial
from tokensweep_analysis.tables import Row

_SAME = 1e-6  # of two means of the same scores

Scores = Mapping[tuple[str, str, str], float]  # by setting, benchmark, question


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Shrunk accuracies by number of the trial, or why there are none."""

    trials: tuple[int, ...] = ()
    shrunk: Shrunk | None = None
    is_one_seed: bool = False  # so that the luck of training is not in the noise
    reason: str = ""  # why there is nothing
    left_out: tuple[str, ...] = ()  # arms without scores of the same questions
    graded_again: tuple[str, ...] = ()  # arms whose stored samples say something else than was told

    @property
    def values(self) -> dict[int, float]:
        """Shrunk accuracies."""
        return dict(zip(self.trials, self.shrunk.values, strict=True)) if self.shrunk else {}

    @property
    def noise(self) -> dict[int, float]:
        """Standard errors."""
        return dict(zip(self.trials, self.shrunk.noise, strict=True)) if self.shrunk else {}


def evidence_of(study: Study, rows: Sequence[Row]) -> Evidence:
    """What is known of the noise of the complete trials, from the rows of their arms."""
    place = next((at for at, goal in enumerate(study.goals) if goal.name == ACCURACY), None)
    if place is None:
        return Evidence(reason="accuracy is no objective, and the noise of others is not known")
    by_arm: dict[str, list[Row]] = {}
    for row in rows:
        if row.by_question:
            by_arm.setdefault(row.arm, []).append(row)
    trials, scores, left_out = _alike(study.complete, by_arm)
    names = tuple(each.arm for each in left_out)
    if len(trials) < FEWEST:
        told = "" if not left_out else f"; without scores of the same questions: {', '.join(names)}"
        return Evidence(
            reason=f"it takes {FEWEST} complete trials with the same questions, got {len(trials)}{told}"
        )
    table = np.array([list(own.values()) for own in scores])
    if table.shape[1] < 2:
        return Evidence(reason="with one question, nothing tells noise from truth")
    between = seed_noise([list(_by_seed(by_arm[each.arm]).values()) for each in trials])
    noise = question_noise(table) + (0.0 if between is None else between)
    values = [each.values[place] for each in trials if each.values is not None]
    changed = [abs(value - mean) > _SAME for value, mean in zip(values, table.mean(axis=1), strict=True)]
    return Evidence(
        trials=tuple(each.number for each in trials),
        shrunk=shrink(values, noise),
        is_one_seed=between is None,
        left_out=names,
        graded_again=tuple(each.arm for each, odd in zip(trials, changed, strict=True) if odd),
    )


def _alike(
    trials: Sequence[Trial], by_arm: Mapping[str, Sequence[Row]]
) -> tuple[list[Trial], list[Scores], list[Trial]]:
    """The trials that answer the questions that most do, their scores in one order, and the other trials."""
    known = {each.number: _scores(by_arm.get(each.arm, ())) for each in trials}
    sets = Counter(tuple(own) for own in known.values() if own)
    most = sets.most_common(1)[0][0] if sets else ()
    same = [each for each in trials if most and tuple(known[each.number]) == most]
    numbers = {each.number for each in same}
    others = [each for each in trials if each.number not in numbers]
    return same, [known[each.number] for each in same], others


def _scores(rows: Sequence[Row]) -> Scores:
    """Mean over seeds per question, in the order of the questions' names; none where no seed has all."""
    if not rows or not _by_seed(rows):
        return {}
    found = {
        (row.setting, row.benchmark, question): score
        for row in rows
        for question, score in row.by_question.items()
    }
    return {key: found[key] for key in sorted(found)}


def _by_seed(rows: Sequence[Row]) -> dict[int, float]:
    """Mean over all questions of all benchmarks per seed."""
    total = sum(len(row.by_question) for row in rows)
    return {
        seed: sum(len(row.by_question) * row.by_run[seed][0] for row in rows) / total
        for seed in rows[0].by_run
        if all(seed in row.by_run for row in rows)
    }
