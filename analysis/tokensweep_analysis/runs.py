"""What one run is worth: its evaluations scored from stored samples, and its costs. For tables and MLflow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tokensweep.identity import read_json
from tokensweep.ledger import RunRecord, Status, read_metrics, read_run
from tokensweep_analysis.intervals import Scores
from tokensweep_analysis.majority import Votes, count_votes
from tokensweep_analysis.metrics import Metric, metrics_of
from tokensweep_analysis.passk import guess_floor
from tokensweep_analysis.samples import read_samples

_CONDITIONS = ("benchmark_revision", "decode_hash", "grader")  # must agree between runs that are compared
_GENERATED = "tokens/generated"
_MEANS = {"kept_fraction": "loss/kept_fraction", "entropy_kept_fraction": "loss/kept_entropy_fraction"}


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Answers and rates of one evaluation. A sample that the grader failed on counts as not correct."""

    suite: str
    conditions: Mapping[str, str]  # revision of the benchmark, decoding, grader
    questions: tuple[str, ...]  # ids, sorted
    votes: tuple[Votes, ...]  # per question
    num_samples: int  # per question
    k: tuple[int, ...]  # what was asked for
    tau: tuple[float, ...]
    answer_space: int | None  # answers that a blind guesser chooses from; None: unknown
    avg_completed: float | None  # share of correct ones among samples that ended by themselves
    truncated_fraction: float  # samples that hit the length limit
    no_answer_fraction: float  # samples without an answer in the asked-for format
    error_fraction: float
    length_mean: float  # completion tokens
    caution: str = ""  # whether the model may have seen the problems before

    def scores(self, metric: Metric) -> Scores:
        """The metric per question, [Q]. Raises ValueError for a k above ``num_samples``."""
        value = {votes: metric.of(votes) for votes in set(self.votes)}
        return np.array([value[votes] for votes in self.votes])

    def metrics(self) -> dict[str, float]:
        """Its numbers by name: ``<suite>/pass_at_1``, ``<suite>/maj_at_8`` and so on."""
        ks = sorted({1, *(k for k in self.k if k <= self.num_samples)})
        values = {metric.key: float(self.scores(metric).mean()) for metric in metrics_of(ks, self.tau)}
        if self.answer_space is not None:
            values |= {f"guess_floor_at_{k}": guess_floor(self.answer_space, k) for k in ks}
        values |= {
            "truncated_fraction": self.truncated_fraction,
            "no_answer_fraction": self.no_answer_fraction,
            "error_fraction": self.error_fraction,
            "length_mean": self.length_mean,
        }
        if self.avg_completed is not None:
            values["pass_at_1_completed"] = self.avg_completed
        return {f"{self.suite}/{name}": value for name, value in values.items()}


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run as far as it got. ``costs`` are its seconds, tokens generated for training and kept shares."""

    state: str  # of its ledger, or unreadable
    error: str = ""
    code: str = ""  # hash of the training code
    scored: Mapping[str, Scored] = field(default_factory=dict)  # by eval_id
    costs: Mapping[str, float] = field(default_factory=dict)


def load_run(run_dir: Path) -> Run:
    """The run of a folder. A damaged folder gives a run that says so: it must not hide the others."""
    try:
        record = read_run(run_dir)
        scored = score_run(run_dir, record)
        code = str(read_json(run_dir / "plan.json")["code_sha"]) if scored else ""
        costs = _costs(run_dir, record)
    except ValueError as error:
        return Run(state="unreadable", error=str(error))
    return Run(state=record.status.value, error=record.error or "", code=code, scored=scored, costs=costs)


def score_run(run_dir: Path, record: RunRecord) -> dict[str, Scored]:
    """Every evaluation that the ledger says is complete, by eval_id.

    Raises ValueError naming the folder when its samples are not what the ledger says.
    """
    path = run_dir / "plan.json"
    entries = read_json(path)["evals"] if path.is_file() else []
    return {
        entry["eval_id"]: _score(
            run_dir / "evals" / f"{entry['suite']}-{entry['eval_id']}", entry, num_samples
        )
        for entry in entries
        if (num_samples := record.evaluated.get(entry["eval_id"], 0)) > 0
    }


def _score(folder: Path, entry: Mapping[str, Any], num_samples: int) -> Scored:
    frame = read_samples([folder], text=False)
    frame = frame[frame["sample_idx"] < num_samples]
    correct = frame["grade"] == "correct"
    votes = count_votes(frame)
    fewest = min((each.num_samples for each in votes.values()), default=0)
    if fewest != num_samples:
        raise ValueError(
            f"{folder} must hold {num_samples} samples of every question, got {fewest} of some: "
            "evaluate again"
        )
    completed = frame["finish_reason"] != "length"
    return Scored(
        suite=entry["suite"],
        conditions={name: "+".join(sorted(frame[name].unique())) for name in _CONDITIONS},
        questions=tuple(votes),
        votes=tuple(votes.values()),
        num_samples=num_samples,
        k=tuple(entry["k"]),
        tau=tuple(entry.get("tau", ())),  # a run that was planned before there was tau asked for none
        answer_space=entry.get("answer_space"),
        avg_completed=float(correct[completed].mean()) if completed.any() else None,
        truncated_fraction=float((~completed).mean()),
        no_answer_fraction=_share(frame["grade"], "no_answer"),
        error_fraction=_share(frame["grade"], "error"),
        length_mean=float(frame["n_output_tokens"].mean()),
        caution=entry.get("caution", ""),
    )


def _share(grades: pd.Series[str], grade: str) -> float:
    return float((grades == grade).mean())


def _costs(run_dir: Path, record: RunRecord) -> dict[str, float]:
    """Means over steps of what is a share, sums of what is spent."""
    if record.status == Status.planned:
        return {}
    rows = [row["metrics"] for row in read_metrics(run_dir)]
    costs = {"seconds": record.seconds}
    for name, metric in _MEANS.items():
        values = [float(row[metric]) for row in rows if metric in row]
        if values:
            costs[name] = float(np.mean(values))
    if any(_GENERATED in row for row in rows):
        costs["generated_tokens"] = float(sum(row.get(_GENERATED, 0.0) for row in rows))
    return costs
