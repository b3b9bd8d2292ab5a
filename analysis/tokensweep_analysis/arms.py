"""The runs of an arm, put together for one benchmark or for all of a setting. For tables and verdicts."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tokensweep.ledger import Status
from tokensweep_analysis.claims import POOLED
from tokensweep_analysis.counts import CONDITION_WORDS
from tokensweep_analysis.intervals import Scores
from tokensweep_analysis.metrics import Kind, Metric, metrics_of
from tokensweep_analysis.runs import Run, Scored, scores_of_runs

Cell = tuple[str, str, str]  # setting, arm, benchmark or POOLED


@dataclass(frozen=True, kw_only=True)
class Arm:
    """The runs of an arm that were evaluated on every one of ``benchmarks``, and how many were planned."""

    benchmarks: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    runs: tuple[Run, ...] = ()
    scored: tuple[tuple[Scored, ...], ...] = ()  # per benchmark, per run
    num_planned: int = 0
    num_failed: int = 0
    absent: tuple[tuple[int, str], ...] = ()  # seed and state of the planned runs that do not count
    models: tuple[str, ...] = ()  # what was trained, one unless the arm mixes
    datas: tuple[str, ...] = ()

    @property
    def evaluations(self) -> tuple[Scored, ...]:
        """Those of all runs and benchmarks."""
        return tuple(each for own in self.scored for each in own)

    @property
    def num_samples(self) -> int:
        """Per question, the fewest of any run; 0 without runs."""
        return min((each.num_samples for each in self.evaluations), default=0)

    @property
    def largest_k(self) -> int:
        """Of pass@k: the fewest different samples of a question of any run; 0 without runs."""
        return min((each.num_effective for each in self.evaluations), default=0)

    @property
    def num_questions(self) -> int:
        """Of all benchmarks."""
        return sum(len(own[0].questions) for own in self.scored if own)

    @property
    def odd(self) -> str:
        """In what its evaluations differ though they must be alike; empty when they are alike."""
        return next(filter(None, map(mismatch, self.scored)), "")

    def metrics(self, ks: Sequence[int] | None = None) -> list[Metric]:
        """The metrics that every run has samples for; ``ks`` replaces what was asked for."""
        asked = ks if ks is not None else {k for each in self.evaluations for k in (1, *each.k)}
        taus = [set(each.tau) for each in self.evaluations]
        able = [k for k in asked if k <= self.largest_k]
        usual = metrics_of(able, set.intersection(*taus) if taus else ())
        return [*usual, *self.stated_metrics(able)]

    def stated_metrics(self, ks: Sequence[int]) -> list[Metric]:
        """The metrics that can be read off the stated confidences of every one of its evaluations."""
        each = [own.stated_metrics(ks) for own in self.evaluations]
        return [metric for metric in each[0] if all(metric in own for own in each)] if each else []

    def tables(self, metrics: Sequence[Metric]) -> list[Scores]:
        """Scores per benchmark, [S, Q, M]."""
        return [scores_of_runs(own, metrics) for own in self.scored]

    def mean(self, name: str) -> float | None:
        """Mean of a rate over its evaluations, each weighing the same; None when none has it."""
        known = [value for each in self.evaluations if (value := getattr(each, name)) is not None]
        return float(np.mean(known)) if known else None

    def cost(self, name: str) -> float | None:
        """Mean of a cost over its runs, None when none has it."""
        known = [value for run in self.runs if (value := run.costs.get(name)) is not None]
        return float(np.mean(known)) if known else None


def gather(entries: Sequence[Mapping[str, Any]], runs: Mapping[str, Run]) -> dict[Cell, Arm]:
    """Arms by cell in the order of the sweep, settings together, each one's POOLED cell last."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for entry in entries:
        groups.setdefault((entry["setting"], entry["arm"]), []).append(entry)
    settings = dict.fromkeys(setting for setting, _ in groups)
    cells: dict[Cell, Arm] = {}
    for setting in settings:
        arms = {arm: own for (place, arm), own in groups.items() if place == setting}
        suites = list(dict.fromkeys(s for own in arms.values() for entry in own for s in entry["evals"]))
        for benchmark in [*suites, POOLED]:
            wanted = suites if benchmark == POOLED else [benchmark]
            for arm, own in arms.items():
                if any(suite in entry["evals"] for entry in own for suite in wanted):
                    cells[setting, arm, benchmark] = _arm(own, wanted, runs)
    return cells


def _arm(entries: Sequence[Mapping[str, Any]], suites: Sequence[str], runs: Mapping[str, Run]) -> Arm:
    done = [
        entry
        for entry in entries
        if all(entry["evals"].get(suite) in runs[entry["run_id"]].scored for suite in suites)
    ]
    own = [runs[entry["run_id"]] for entry in done]
    lacking = [entry for entry in entries if entry not in done]
    return Arm(
        benchmarks=tuple(suites),
        seeds=tuple(int(entry["seed"]) for entry in done),
        runs=tuple(own),
        scored=tuple(
            tuple(run.scored[entry["evals"][suite]] for run, entry in zip(own, done, strict=True))
            for suite in suites
        ),
        num_planned=len(entries),
        num_failed=sum(runs[entry["run_id"]].state == Status.failed for entry in entries),
        absent=tuple((int(entry["seed"]), absence(runs[entry["run_id"]])) for entry in lacking),
        models=_distinct(entries, "model"),
        datas=_distinct(entries, "data"),
    )


def absence(run: Run) -> str:
    """The state of a run that lacks an evaluation: missing | running | trained | interrupted | failed |
    unreadable."""
    return "missing" if run.state in (Status.planned, Status.finished) else run.state


def _distinct(entries: Iterable[Mapping[str, Any]], key: str) -> tuple[str, ...]:
    """A run that was planned before this was written down has none."""
    return tuple(sorted({str(entry[key]) for entry in entries if entry.get(key)}))


def pair_mismatch(left: Arm, right: Arm) -> str:
    """Why two arms cannot be compared; empty when they can."""
    pairs = zip(left.scored, right.scored, strict=True)
    return next(filter(None, (mismatch((*one, *other)) for one, other in pairs)), "")


def other_training(
    *, models: tuple[Collection[str], Collection[str]], data: tuple[Collection[str], Collection[str]]
) -> str:
    """In what the training of two arms differs beside the method; empty when in nothing that is known.

    Each pair is what the left and what the right arm is trained with. A difference of scores is then not due
    to the method alone.
    """
    odd = []
    for what, (mine, theirs) in (("model", models), ("data", data)):
        if mine and theirs and len({*mine, *theirs}) > 1:
            left, right = (" and ".join(sorted(set(side))) for side in (mine, theirs))
            odd.append(f"{what} {left} against {right}" if left != right else f"{what} {left} within an arm")
    return f"different {', '.join(odd)}" if odd else ""


def mismatch(scored: Sequence[Scored]) -> str:
    """In what evaluations of one benchmark differ that must be alike; empty when they are alike."""
    if not scored:
        return ""
    first = scored[0]
    if any(each.questions != first.questions for each in scored):
        sizes = sorted({len(each.questions) for each in scored})
        odd = [f"questions ({' and '.join(map(str, sizes))} of them)" if len(sizes) > 1 else "questions"]
    else:
        differing = [n for n in first.conditions if len({each.conditions[n] for each in scored}) > 1]
        odd = [CONDITION_WORDS[name] for name in differing]
    return f"evaluations of {first.suite} differ in {', '.join(odd)}" if odd else ""


def dense(metrics: Sequence[Metric], num_samples: int) -> list[Metric]:
    """The metrics and pass@k of every k from 1 to ``num_samples``."""
    passes = [Metric(Kind.pass_at, k) for k in range(1, num_samples + 1)]
    return [*passes, *(metric for metric in metrics if metric.kind is not Kind.pass_at)]
