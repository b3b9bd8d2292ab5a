"""All that a report says of a search, computed once: :class:`Summary`. For files, terminal and page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from tokensweep_analysis.search.evidence import Evidence, evidence_of
from tokensweep_analysis.search.importance import Importance, importance_of
from tokensweep_analysis.search.ranking import Counts, counts_of, front, ranking, short_names
from tokensweep_analysis.search.stored import State, Study, Trial, find_study
from tokensweep_analysis.search.wording import Unit, unit_of
from tokensweep_analysis.tables import Comparison

MOST_SHOWN = 10  # trials in a table that is read, not searched


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A search, and what follows from its trials and their samples."""

    study: Study
    counts: Counts
    ranked: tuple[Trial, ...]  # complete trials, best first
    front: frozenset[int]  # numbers; empty with one objective
    evidence: Evidence
    importance: Importance
    comparison: Comparison  # of the arms of the best trials, with the runs that are missed

    @classmethod
    def of(cls, study: Study, comparison: Comparison) -> Summary:
        """What is to be said of ``study``, whose trials are arms of ``comparison``."""
        ranked = ranking(study)
        best = [each.arm for each in ranked[:MOST_SHOWN]]
        states = {each.arm: each for each in study.trials}
        return cls(
            study=study,
            counts=counts_of(study),
            ranked=ranked,
            front=frozenset(front(study)),
            evidence=evidence_of(study, comparison.rows),
            importance=importance_of(study),
            comparison=replace(
                comparison,
                rows=tuple(
                    sorted(
                        (row for row in comparison.rows if row.arm in best),
                        key=lambda row: (row.setting, row.benchmark, best.index(row.arm)),
                    )
                ),
                troubles=tuple(each for each in comparison.troubles if _is_trouble(states.get(each.arm))),
                contrasts=(),
            ),
        )

    @cached_property
    def names(self) -> dict[str, str]:
        """What each parameter is called in tables."""
        return short_names([one.key for one in self.study.space.parameters])

    @cached_property
    def units(self) -> tuple[Unit, ...]:
        """How each objective is shown."""
        return tuple(unit_of(goal.name) for goal in self.study.goals)

    @property
    def shown(self) -> tuple[Trial, ...]:
        """The best few."""
        return self.ranked[:MOST_SHOWN]

    def trials(self, state: State) -> Iterator[Trial]:
        """Those of a state that count."""
        return (each for each in self.study.trials if each.state is state and each.counted)


def summary_of(comparison: Comparison, sweep: Path) -> Summary | None:
    """The summary of the search in the folder of a sweep; None when the sweep is no search.

    Raises ValueError naming file and key when its trials cannot be read.
    """
    study = find_study(sweep)
    return None if study is None else Summary.of(study, comparison)


def _is_trouble(trial: Trial | None) -> bool:
    """Whether an evaluation that an arm lacks is missed: only that of a complete trial.

    Others were given up, go on, or failed, which the search says itself.
    """
    return trial is None or (trial.counted and trial.state is State.complete)
