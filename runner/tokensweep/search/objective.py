"""What a trial is worth, from the folders of its runs; and how far its training is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean

from tokensweep.files import last_line
from tokensweep.identity import read_json
from tokensweep.ledger import last_attempt, read_metrics, read_run
from tokensweep.search.spec import Objective

_ACCURACY = "sampled/accuracy"  # of all rollouts of a step, before groups are discarded
_TOKENS = "tokens/total_generated"
_HOUR_S = 3600.0


def values_of(objectives: Sequence[Objective], run_dirs: Sequence[Path]) -> list[float]:
    """The value of each objective, mean over the runs of a trial. Raises ValueError for runs without one."""
    return [fmean(_value(objective, run_dir) for run_dir in run_dirs) for objective in objectives]


def _value(objective: Objective, run_dir: Path) -> float:
    match objective:
        case Objective.accuracy:
            return _accuracy(run_dir)
        case Objective.tokens:
            return _last(run_dir, _TOKENS)
        case Objective.device_hours:
            return read_run(run_dir).device_seconds / _HOUR_S


def _accuracy(run_dir: Path) -> float:
    """The share of right samples, mean over suites that weigh the same: ``pooled/avg`` of every table."""
    suites = [
        read_json(run_dir / "evals" / f"{entry['suite']}-{entry['eval_id']}" / "eval.json")["summary"]["avg"]
        for entry in read_json(run_dir / "plan.json")["evals"]
    ]
    if not suites:
        raise ValueError(f"{run_dir.name} has no evaluation, so it has no accuracy: give eval=NAME")
    return fmean(suites)


def _last(run_dir: Path, metric: str) -> float:
    rows = read_metrics(run_dir)
    if not rows or metric not in rows[-1]["metrics"]:
        raise ValueError(f"{run_dir.name} has no metric {metric}: its metrics are damaged")
    return float(rows[-1]["metrics"][metric])


class Curve:
    """The accuracy of a training at its rungs, as its metrics grow: each is told once.

    The value at step r is the mean over the ``rung`` steps up to r, as one step has few rollouts. Steps that
    sample nothing (method.source=offline) have none: such a run is not stopped early.
    """

    def __init__(self, run_dir: Path, *, rung: int, reported: int) -> None:
        self._run_dir, self._rung, self._reported = run_dir, rung, reported

    def news(self) -> Iterator[tuple[int, float]]:
        """(step, accuracy) of every rung that was reached since the last call."""
        folder = last_attempt(self._run_dir)
        last = last_line(folder / "metrics.jsonl") if folder else None
        if last is None or int(last["step"]) < self._reported + self._rung:
            return
        told = ((int(row["step"]), row["metrics"].get(_ACCURACY)) for row in read_metrics(self._run_dir))
        rows = {step: float(value) for step, value in told if value is not None}
        newest = max(rows, default=0)
        for step in range(self._reported + self._rung, newest + 1, self._rung):
            window = [rows[at] for at in range(step - self._rung + 1, step + 1) if at in rows]
            if window:
                self._reported = step
                yield step, fmean(window)
