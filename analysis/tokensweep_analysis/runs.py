"""What one run is worth: its evaluations scored from stored samples, and its costs. For tables and MLflow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tokensweep.identity import read_json
from tokensweep.ledger import RunRecord, Status, read_metrics, read_run
from tokensweep_analysis.certainty import Stated
from tokensweep_analysis.counts import Counted, Floats, count_samples
from tokensweep_analysis.health import health_of
from tokensweep_analysis.intervals import Scores
from tokensweep_analysis.majority import Counts, VoteTable, majority_at_k
from tokensweep_analysis.metrics import STATED, Kind, Metric, by_count, metrics_of, stated_metrics_of
from tokensweep_analysis.passk import guess_floor

_GENERATED = "tokens/generated"
_MEANS = {"kept_fraction": "loss/kept_fraction", "entropy_kept_fraction": "loss/kept_entropy_fraction"}


@dataclass(frozen=True, kw_only=True, eq=False)
class Scored:
    """Answers and rates of one evaluation. A sample that the grader failed on counts as not correct."""

    suite: str
    conditions: Mapping[str, str]  # revision of the benchmark, decoding, grader, digest of the prompts
    questions: tuple[str, ...]  # ids, sorted
    votes: VoteTable  # of the questions in this order
    num_samples: int  # per question
    num_effective: int  # the fewest samples of a question that have a sampling seed of their own
    k: tuple[int, ...]  # what was asked for
    tau: tuple[float, ...]
    answer_space: int | None  # answers that a blind guesser chooses from; None: unknown
    avg_completed: float | None  # share of correct ones among samples that ended by themselves
    truncated_fraction: float  # samples that hit the length limit
    no_answer_fraction: float  # samples without an answer in the asked-for format
    error_fraction: float
    length_mean: float  # completion tokens
    truncated_by_question: Floats  # [Q] as truncated_fraction
    length_by_question: Floats  # [Q] as length_mean
    caution: str = ""  # whether the model may have seen the problems before
    remark: str = ""  # what makes its samples worth less than they look
    stated: Stated | None = None  # how sure its samples are; None where too few say so
    certainty: dict[Metric, Scores] = field(default_factory=dict)  # what was read off that, [Q]
    majority: dict[int, Scores] = field(default_factory=dict)  # maj@k [Q] as far as it was computed

    @property
    def num_correct(self) -> Counts:
        """Correct samples of every question, [Q]."""
        return self.votes.num_correct

    def scores(self, metric: Metric) -> Scores:
        """The metric per question, [Q]. Raises ValueError for a k above ``num_samples``."""
        return self.scores_at([metric])[:, 0]

    def scores_at(self, metrics: Sequence[Metric]) -> Scores:
        """The metrics per question, [Q, M]. Raises ValueError for a k above ``num_samples``."""
        own: Scores = scores_of_runs([self], metrics)[0]
        return own

    def majority_at(self, k: int) -> Scores:
        """maj@k, [Q], computed once. Raises ValueError for a k above ``num_samples``."""
        if k not in self.majority:
            self.majority[k] = majority_at_k(self.votes, k)
        return self.majority[k]

    def certainty_at(self, metric: Metric) -> Scores:
        """A metric of stated confidences, [Q], computed once. Raises ValueError where too few are stated."""
        if self.stated is None:
            raise ValueError(f"{metric} needs stated confidences, {self.suite} has too few: see certainty")
        if metric not in self.certainty:
            self.certainty[metric] = self.stated.scores(metric)
        return self.certainty[metric]

    @property
    def stated_fraction(self) -> float | None:
        """Share of samples that state a confidence; None where too few do."""
        return self.stated.fraction if self.stated else None

    @property
    def ece_floor(self) -> float | None:
        """What chance alone gives a calibrated model; None where too few samples state a confidence."""
        return self.stated.floor if self.stated else None

    def stated_metrics(self, ks: Sequence[int]) -> list[Metric]:
        """The metrics that can be read off its stated confidences, none where too few are stated."""
        if self.stated is None:
            return []
        able = stated_metrics_of(k for k in ks if k <= self.num_samples)
        return [metric for metric in able if np.isfinite(self.certainty_at(metric)).all()]

    def metrics(self) -> dict[str, float]:
        """Its numbers by name: ``<suite>/pass_at_1``, ``<suite>/maj_at_8``, ``<suite>/ece`` and so on."""
        ks = sorted({1, *(k for k in self.k if k <= self.num_samples)})
        asked = [*metrics_of(ks, self.tau), *self.stated_metrics(ks)]
        means = self.scores_at(asked).mean(axis=0)
        values = {metric.key: float(mean) for metric, mean in zip(asked, means, strict=True)}
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
        if self.stated is not None:
            values |= {"stated_fraction": self.stated.fraction, "ece_floor": self.stated.floor}
        return {f"{self.suite}/{name}": value for name, value in values.items()}


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run as far as it got. ``costs`` are its seconds, tokens generated for training and kept shares."""

    state: str  # of its ledger, or unreadable
    error: str = ""
    code: str = ""  # hash of the training code
    scored: Mapping[str, Scored] = field(default_factory=dict)  # by eval_id
    costs: Mapping[str, float] = field(default_factory=dict)
    health: str = ""  # what went wrong in a training that ended; empty when nothing did


def load_run(run_dir: Path) -> Run:
    """The run of a folder. A damaged folder gives a run that says so: it must not hide the others."""
    try:
        record = read_run(run_dir)
        scored = score_run(run_dir, record)
        code = str(read_json(run_dir / "plan.json")["code_sha"]) if scored else ""
        rows = [] if record.status == Status.planned else read_metrics(run_dir)
        costs = _costs(rows, record)
        health = health_of(rows)
    except (ValueError, OSError) as error:
        return Run(state="unreadable", error=str(error))
    except (KeyError, TypeError) as error:  # JSON that is whole, but not what a plan or a ledger holds
        told = (
            f"{run_dir}: its plan or its ledger must be as tokensweep writes them, got {error!r}: where it "
            "is plan.json, delete it and give the sweep again"
        )
        return Run(state="unreadable", error=told)
    return Run(
        state=record.status.value,
        error=record.error or "",
        code=code,
        scored=scored,
        costs=costs,
        health=health,
    )


def scores_of_runs(scored: Sequence[Scored], metrics: Sequence[Metric]) -> Scores:
    """The metrics of several evaluations with the same questions, [S, Q, M].

    Raises ValueError when they have not equally many questions, and for a k above the samples of one.
    """
    if len(sizes := {len(each.questions) for each in scored}) != 1:
        raise ValueError(f"evaluations must have the same questions, got {sorted(sizes)} of them")
    wanted = tuple(metrics)
    values = {num_samples: by_count(wanted, num_samples) for num_samples in {s.num_samples for s in scored}}
    scores = np.stack([values[each.num_samples][each.num_correct] for each in scored])
    for place, metric in enumerate(wanted):
        for own, each in zip(scores, scored, strict=True):
            if metric.kind is Kind.maj_at:
                own[:, place] = each.majority_at(int(metric.at))
            elif metric.kind in STATED:
                own[:, place] = each.certainty_at(metric)
    return scores


def count_majorities(scored: Sequence[Scored]) -> None:
    """Compute maj@k of every k that evaluations ask for, all questions of all of them together.

    One by one would take several times as long: questions with the same votes are then counted again, and
    small arrays cost as much as middling ones.
    """
    groups: dict[tuple[int, int], list[Scored]] = {}
    for each in scored:
        for k in each.k:
            if 1 < k <= each.num_samples and k not in each.majority:
                groups.setdefault((each.num_samples, k), []).append(each)
    for (_, k), group in groups.items():
        values = majority_at_k(VoteTable.join([each.votes for each in group]), k)
        ends = np.cumsum([len(each.questions) for each in group])[:-1]
        for each, part in zip(group, np.split(values, ends), strict=True):
            each.majority[k] = part


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
    # A run that was planned before their number was written down has the questions that are there.
    counted = count_samples(folder, num_samples, num_questions=entry.get("num_questions"))
    return Scored(
        suite=entry["suite"],
        conditions=counted.conditions,
        questions=counted.questions,
        votes=counted.votes,
        stated=counted.stated,
        num_samples=num_samples,
        num_effective=int(counted.distinct_by_question.min()),
        k=tuple(entry["k"]),
        tau=tuple(entry.get("tau", ())),  # a run that was planned before there was tau asked for none
        answer_space=entry.get("answer_space"),
        avg_completed=counted.avg_completed,
        truncated_fraction=float(counted.truncated_by_question.mean()),
        no_answer_fraction=counted.no_answer_fraction,
        error_fraction=counted.error_fraction,
        length_mean=float(counted.length_by_question.mean()),
        truncated_by_question=counted.truncated_by_question,
        length_by_question=counted.length_by_question,
        caution=entry.get("caution", ""),
        remark=_repeated(counted, num_samples),
    )


def _repeated(counted: Counted, num_samples: int) -> str:
    """A sentence when samples of a question were drawn with the same seed: they are the same sample."""
    distinct = counted.distinct_by_question
    if (num := int((distinct < num_samples).sum())) == 0:
        return ""
    return (
        f"samples of {num} of {len(distinct)} questions share a sampling seed, down to {distinct.min()} "
        f"different ones of {num_samples}: the same sample counts several times, so intervals are too narrow"
    )


def _costs(rows: Sequence[Mapping[str, Any]], record: RunRecord) -> dict[str, float]:
    """Means over steps of what is a share, sums of what is spent; ``rows`` are those of the training."""
    if record.status == Status.planned:
        return {}
    steps = [row["metrics"] for row in rows]
    costs = {"seconds": record.seconds, "device_hours": record.device_seconds / 3600}
    for name, metric in _MEANS.items():
        values = [float(step[metric]) for step in steps if metric in step]
        if values:
            costs[name] = float(np.mean(values))
    if any(_GENERATED in step for step in steps):
        costs["generated_tokens"] = float(sum(step.get(_GENERATED, 0.0) for step in steps))
    return costs
