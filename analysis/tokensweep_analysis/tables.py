"""From a sweep's run folders to a comparison: a row per setting, arm and benchmark, with honest intervals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tokensweep.identity import read_json
from tokensweep.ledger import Status
from tokensweep_analysis.claims import Judgement
from tokensweep_analysis.contrasts import Contrast
from tokensweep_analysis.intervals import NO_SPREAD, Estimate, Scores, arm_estimate, difference_estimate
from tokensweep_analysis.metrics import Kind, Metric, metrics_of
from tokensweep_analysis.passk import guess_floor
from tokensweep_analysis.runs import Run, Scored, load_run

RATES = (
    "avg_completed",
    "truncated_fraction",
    "no_answer_fraction",
    "error_fraction",
    "length_mean",
)
COSTS = ("kept_fraction", "entropy_kept_fraction", "generated_tokens", "seconds")


@dataclass(frozen=True, kw_only=True)
class Row:
    """An arm on a benchmark. Rates are means over its runs, costs are per run, None where unknown."""

    setting: str
    arm: str
    benchmark: str
    seeds: tuple[int, ...] = ()  # of the runs that count
    num_planned: int  # runs
    num_failed: int
    num_questions: int = 0
    num_samples: int = 0  # per question, the fewest of any run
    answer_space: int | None = None  # answers that a blind guesser chooses from
    results: Mapping[Metric, Estimate] = field(default_factory=dict)  # means over questions and runs
    differences: Mapping[Metric, Estimate] = field(default_factory=dict)  # this arm minus the baseline
    remark: str = ""  # on the runs; what is missing in a single estimate stands in that
    caution: str = ""  # whether the model may have seen the problems before
    avg_completed: float | None = None
    truncated_fraction: float | None = None
    no_answer_fraction: float | None = None
    error_fraction: float | None = None
    length_mean: float | None = None  # completion tokens
    kept_fraction: float | None = None  # trained tokens with a weight, mean over steps
    entropy_kept_fraction: float | None = None  # share of the entropy that lies in them
    generated_tokens: float | None = None  # sampled for training
    seconds: float | None = None  # training and evaluation
    by_question: Mapping[str, float] = field(
        default_factory=dict
    )  # avg over runs and samples, by question id
    band: Mapping[Metric, tuple[float, float]] = field(
        default_factory=dict
    )  # simultaneous over the k of pass@k


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """A run that is not in the table, and why."""

    setting: str
    arm: str
    seed: int
    run_id: str
    state: str  # missing | running | trained | interrupted | failed | unreadable
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A sweep as far as it got."""

    name: str
    scale: str
    paper: str
    question: str
    note: str  # what a reader of any of its numbers must know
    baseline: str | None
    code: tuple[str, ...]  # hashes of the training code of its runs
    confidence: float
    rows: tuple[Row, ...]
    troubles: tuple[Trouble, ...]
    contrasts: tuple[Contrast, ...] = ()
    judgements: tuple[Judgement, ...] = ()

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Every metric that some row has, kinds together, k and tau rising."""
        known = {metric for row in self.rows for metric in row.results}
        return tuple(sorted(known, key=lambda metric: (list(Kind).index(metric.kind), metric.at)))


@dataclass(frozen=True, kw_only=True)
class _Arm:
    """The runs of an arm that have one benchmark's evaluation, and how many were planned."""

    seeds: tuple[int, ...] = ()
    runs: tuple[Run, ...] = ()
    scored: tuple[Scored, ...] = ()
    num_planned: int = 0
    num_failed: int = 0

    def table(self, metric: Metric) -> Scores:
        """The metric per run and question, [S, Q]."""
        return np.stack([each.scores(metric) for each in self.scored])

    def metrics(self, ks: Sequence[int] | None) -> list[Metric]:
        """The metrics that every run has samples for; ``ks`` replaces what was asked for."""
        fewest = min((each.num_samples for each in self.scored), default=0)
        asked = ks if ks is not None else {k for each in self.scored for k in each.k}
        taus = {tau for each in self.scored for tau in each.tau}
        return metrics_of((k for k in asked if k <= fewest), taus)


_Cell = tuple[str, str, str]  # setting, arm, benchmark


def compare(
    store: Path, name: str, *, ks: Sequence[int] | None = None, confidence: float = 0.95
) -> Comparison:
    """The comparison of the sweep ``name`` from what its run folders hold now.

    ``ks`` replaces the k that the evaluations were planned for. Runs that failed or are missing are
    listed, never guessed. Raises ValueError when there is no such sweep.
    """
    sweep = read_json(store / "sweeps" / name / "sweep.json")
    entries = sweep["runs"]
    runs = {entry["run_id"]: load_run(store / "runs" / entry["run_id"]) for entry in entries}
    baseline = sweep.get("baseline")
    arms = _arms(entries, runs)
    rows = []
    for cell, own in arms.items():
        setting, arm, suite = cell
        reference = _Arm() if baseline in (None, arm) else arms.get((setting, baseline, suite), _Arm())
        rows.append(_row(cell, own, reference, ks=ks, confidence=confidence))
    return Comparison(
        name=name,
        scale=sweep.get("scale", ""),
        paper=sweep.get("paper", ""),
        question=sweep.get("question", ""),
        note=sweep.get("note", ""),
        baseline=baseline,
        code=tuple(sorted({run.code[:12] for run in runs.values() if run.code})),
        confidence=confidence,
        rows=tuple(rows),
        troubles=tuple(t for entry in entries for t in _troubles(entry, runs[entry["run_id"]])),
    )


def to_frame(comparison: Comparison) -> pd.DataFrame:
    """The rows as a flat table; shares are between 0 and 1, an estimate has columns for its interval."""
    records = []
    for row in comparison.rows:
        record: dict[str, Any] = {
            "sweep": comparison.name,
            "scale": comparison.scale,
            "setting": row.setting,
            "arm": row.arm,
            "benchmark": row.benchmark,
            "runs": len(row.seeds),
            "planned": row.num_planned,
            "failed": row.num_failed,
            "seeds": " ".join(map(str, row.seeds)),
            "questions": row.num_questions,
            "samples": row.num_samples,
        }
        for metric in comparison.metrics:
            record |= _flat(str(metric), row.results.get(metric))
            record |= _flat(f"difference {metric}", row.differences.get(metric))
        for k in (int(metric.at) for metric in comparison.metrics if metric.kind is Kind.pass_at):
            record[f"guess floor@{k}"] = guess_floor(row.answer_space, k) if row.answer_space else None
        for name in (*RATES, *COSTS):
            record[name] = getattr(row, name)
        record["remark"] = row.remark
        records.append(record)
    return pd.DataFrame(records)


def _flat(name: str, estimate: Estimate | None) -> dict[str, Any]:
    columns = {
        "": "value",
        " low": "low",
        " high": "high",
        " se": "standard_error",
        " df": "df",
        " estimand": "estimand",
    }
    return {f"{name}{suffix}": getattr(estimate, key, None) for suffix, key in columns.items()}


def _arms(entries: Sequence[Mapping[str, Any]], runs: Mapping[str, Run]) -> dict[_Cell, _Arm]:
    """Arms by cell in the order of the sweep, settings together."""
    groups: dict[_Cell, list[Mapping[str, Any]]] = {}
    for entry in entries:
        for suite in entry["evals"]:
            groups.setdefault((entry["setting"], entry["arm"], suite), []).append(entry)
    first = {setting: place for place, (setting, _, _) in reversed(list(enumerate(groups)))}
    cells = sorted(groups, key=lambda cell: first[cell[0]])
    return {cell: _arm(groups[cell], cell[2], runs) for cell in cells}


def _arm(entries: Sequence[Mapping[str, Any]], suite: str, runs: Mapping[str, Run]) -> _Arm:
    done = [entry for entry in entries if entry["evals"][suite] in runs[entry["run_id"]].scored]
    return _Arm(
        seeds=tuple(int(entry["seed"]) for entry in done),
        runs=tuple(runs[entry["run_id"]] for entry in done),
        scored=tuple(runs[entry["run_id"]].scored[entry["evals"][suite]] for entry in done),
        num_planned=len(entries),
        num_failed=sum(runs[entry["run_id"]].state == Status.failed for entry in entries),
    )


def _row(cell: _Cell, own: _Arm, baseline: _Arm, *, ks: Sequence[int] | None, confidence: float) -> Row:
    known: dict[str, Any] = {}
    if own.scored:
        odd = _mismatch(own.scored)
        odd_pair = odd or _mismatch((*own.scored, *baseline.scored))
        metrics = [] if odd else own.metrics(ks)
        results = {each: arm_estimate(own.table(each), confidence=confidence) for each in metrics}
        differences = {} if odd_pair else _differences(own, baseline, ks=ks, confidence=confidence)
        remarks = [f"not comparable: {odd_pair}"] if odd_pair else []
        estimates = [*results.values(), *differences.values()]
        remarks += [part for each in estimates for part in each.remark.split("; ") if part]
        known = {
            "num_questions": len(own.scored[0].questions),
            "num_samples": min(each.num_samples for each in own.scored),
            "answer_space": own.scored[0].answer_space,
            "results": {metric: each.clipped(0, 1) for metric, each in results.items()},
            "differences": {metric: each.clipped(-1, 1) for metric, each in differences.items()},
            "remark": "; ".join(part for part in dict.fromkeys(remarks) if part != NO_SPREAD),
            "caution": "; ".join(dict.fromkeys(each.caution for each in own.scored if each.caution)),
            **{name: _mean(getattr(each, name) for each in own.scored) for name in RATES},
            **{name: _mean(run.costs.get(name) for run in own.runs) for name in COSTS},
        }
    setting, arm, benchmark = cell
    return Row(
        setting=setting,
        arm=arm,
        benchmark=benchmark,
        seeds=own.seeds,
        num_planned=own.num_planned,
        num_failed=own.num_failed,
        **known,
    )


def _differences(
    own: _Arm, baseline: _Arm, *, ks: Sequence[int] | None, confidence: float
) -> dict[Metric, Estimate]:
    there = set(baseline.metrics(ks))
    return {
        metric: difference_estimate(
            own.table(metric),
            baseline.table(metric),
            seeds=own.seeds,
            baseline_seeds=baseline.seeds,
            confidence=confidence,
        )
        for metric in own.metrics(ks)
        if metric in there
    }


def _mismatch(scored: Sequence[Scored]) -> str:
    """In what evaluations differ that must be alike to be compared; empty when they are alike."""
    first = scored[0]
    odd = [
        name for name, value in first.conditions.items() if any(s.conditions[name] != value for s in scored)
    ]
    if not odd and any(each.questions != first.questions for each in scored):
        odd = ["questions"]
    return f"evaluations differ in {', '.join(odd)}" if odd else ""


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _troubles(entry: Mapping[str, Any], run: Run) -> list[Trouble]:
    """Why a run does not count, empty when all of its evaluations do."""
    if all(eval_id in run.scored for eval_id in entry["evals"].values()):
        return []
    state = "missing" if run.state in (Status.planned, Status.finished) else run.state
    return [
        Trouble(
            setting=entry["setting"],
            arm=entry["arm"],
            seed=int(entry["seed"]),
            run_id=entry["run_id"],
            state=state,
            error=run.error,
        )
    ]
