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
from tokensweep_analysis.passk import pass_at_k
from tokensweep_analysis.samples import read_samples

_CONDITIONS = ("benchmark_revision", "decode_hash", "grader")  # must agree between runs that are compared
_GENERATED = "tokens/generated"
_MEANS = {"kept_fraction": "loss/kept_fraction", "entropy_kept_fraction": "loss/kept_entropy_fraction"}


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Counts and rates of one evaluation. A sample that the grader failed on counts as not correct."""

    suite: str
    conditions: Mapping[str, str]  # revision of the benchmark, decoding, grader
    questions: tuple[str, ...]  # ids, sorted
    num_correct: tuple[int, ...]  # per question
    num_samples: int  # per question
    k: tuple[int, ...]  # the pass@k that were asked for
    avg_completed: float | None  # share of correct ones among samples that ended by themselves
    truncated_fraction: float  # samples that hit the length limit
    no_answer_fraction: float  # samples without an answer in the asked-for format
    error_fraction: float
    length_mean: float  # completion tokens

    def pass_at(self, k: int) -> Scores:
        """Unbiased pass@k per question, [Q]. Raises ValueError for more than ``num_samples``."""
        value = {c: pass_at_k(self.num_samples, c, k) for c in set(self.num_correct)}
        return np.array([value[c] for c in self.num_correct])

    def metrics(self) -> dict[str, float]:
        """Its numbers by name: ``<suite>/pass_at_1`` and so on."""
        ks = sorted({1, *(k for k in self.k if k <= self.num_samples)})
        values = {f"pass_at_{k}": float(self.pass_at(k).mean()) for k in ks}
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
    counts = correct.groupby(frame["question_id"]).agg(["size", "sum"]).sort_index()
    if counts.empty or (counts["size"] != num_samples).any():
        raise ValueError(
            f"{folder} must hold {num_samples} samples of every question, got "
            f"{counts['size'].min() if len(counts) else 0} of some: evaluate again"
        )
    completed = frame["finish_reason"] != "length"
    return Scored(
        suite=entry["suite"],
        conditions={name: "+".join(sorted(frame[name].unique())) for name in _CONDITIONS},
        questions=tuple(counts.index),
        num_correct=tuple(int(c) for c in counts["sum"]),
        num_samples=num_samples,
        k=tuple(entry["k"]),
        avg_completed=float(correct[completed].mean()) if completed.any() else None,
        truncated_fraction=float((~completed).mean()),
        no_answer_fraction=_share(frame["grade"], "no_answer"),
        error_fraction=_share(frame["grade"], "error"),
        length_mean=float(frame["n_output_tokens"].mean()),
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
