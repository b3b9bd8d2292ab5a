"""Every trial of a search as a flat table, for files that other programs read."""

from __future__ import annotations

from typing import Any

import pandas as pd

from tokensweep_analysis.search.ranking import ACCURACY
from tokensweep_analysis.search.stored import Trial
from tokensweep_analysis.search.summary import Summary

FILE_NAME = "search.csv"


def search_frame(summary: Summary) -> pd.DataFrame:
    """A line per trial: complete ones best first, then the others by number. Accuracies are shares.

    Columns of objectives have their names, those of parameters ``params.KEY``; what a trial lacks is empty,
    a value that is null says so.
    """
    last = len(summary.ranked)
    rank = {each.number: place for place, each in enumerate(summary.ranked)}
    ordered = sorted(summary.study.trials, key=lambda each: (rank.get(each.number, last), each.number))
    keys = [one.key for one in summary.study.space.parameters]
    goals = [goal.name for goal in summary.study.goals]
    columns = [
        *("number", "arm", "state", "counted"),
        *goals,
        *(("shrunk", "standard_error") if ACCURACY in goals else ()),
        *(("front",) if len(goals) > 1 else ()),
        *("pruned_step", "seeds", "runs", "started", "ended", "reason"),
        *(f"params.{key}" for key in keys),
    ]
    return pd.DataFrame([_record(each, summary) for each in ordered], columns=columns, dtype=object)


def _record(trial: Trial, summary: Summary) -> dict[str, Any]:
    goals = [goal.name for goal in summary.study.goals]
    return {
        "number": trial.number,
        "arm": trial.arm,
        "state": trial.state.value,
        "counted": trial.counted,
        **dict(zip(goals, trial.values or (), strict=False)),
        "shrunk": summary.evidence.values.get(trial.number),
        "standard_error": summary.evidence.noise.get(trial.number),
        "front": trial.number in summary.front,
        "pruned_step": trial.pruned_step,
        "seeds": " ".join(map(str, trial.runs)),
        "runs": " ".join(trial.runs.values()),
        "started": trial.started,
        "ended": trial.ended,
        "reason": trial.reason,
        **{f"params.{key}": "null" if value is None else value for key, value in trial.params.items()},
    }
