"""From a sweep's run folders to a comparison: a row per setting, arm and benchmark, with honest intervals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tokensweep.identity import read_json
from tokensweep_analysis.arms import Arm, Cell, absence, dense, gather, other_training, pair_mismatch
from tokensweep_analysis.bands import arm_band
from tokensweep_analysis.claims import POOLED, Judgement, arms_named, parse_claims
from tokensweep_analysis.contrasts import Contrast, adjusted, contrasts_of, difference_curve, differences
from tokensweep_analysis.effects import effects_of, lacking, what_they_are
from tokensweep_analysis.intervals import NO_SPREAD, SHARE, Estimate, Scores, arm_estimates
from tokensweep_analysis.loading import load_runs
from tokensweep_analysis.metrics import Kind, Metric, doubling
from tokensweep_analysis.runs import Run
from tokensweep_analysis.verdicts import judge

RATES = (
    "avg_completed",
    "truncated_fraction",
    "no_answer_fraction",
    "error_fraction",
    "stated_fraction",
    "ece_floor",
    "length_mean",
)
COSTS = ("kept_fraction", "entropy_kept_fraction", "generated_tokens", "seconds", "device_hours")


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
    asked: tuple[Metric, ...] = ()  # the metrics to show
    # means over questions and runs, with every k of pass@k
    results: Mapping[Metric, Estimate] = field(default_factory=dict)
    differences: Mapping[Metric, Estimate] = field(default_factory=dict)  # this arm minus the baseline
    remark: str = ""  # on the runs; what is missing in a single estimate stands in that
    caution: str = ""  # whether the model may have seen the problems before
    avg_completed: float | None = None
    truncated_fraction: float | None = None
    no_answer_fraction: float | None = None
    error_fraction: float | None = None
    stated_fraction: float | None = None  # samples that state a confidence, None where too few do
    ece_floor: float | None = None  # of a calibrated model, by chance
    length_mean: float | None = None  # completion tokens
    kept_fraction: float | None = None  # trained tokens with a weight, mean over steps
    entropy_kept_fraction: float | None = None  # share of the entropy that lies in them
    generated_tokens: float | None = None  # sampled for training
    seconds: float | None = None  # training and evaluation
    device_hours: float | None = None  # of its devices together
    by_question: Mapping[str, float] = field(default_factory=dict)  # avg by question id
    by_run: Mapping[int, tuple[float, float]] = field(default_factory=dict)  # avg and length by seed
    # the simultaneous bands of pass@k at some k, and of this arm minus the baseline
    band: Mapping[Metric, tuple[float, float]] = field(default_factory=dict)
    difference_curve: Mapping[Metric, Estimate] = field(default_factory=dict)


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
    effects: tuple[Contrast, ...] = ()  # main effects and interactions of a factorial sweep
    effects_note: str = ""  # how to read them, and where there are none

    @cached_property
    def metrics(self) -> tuple[Metric, ...]:
        """Every metric that was asked for, kinds together, k and tau rising."""
        known = {metric for row in self.rows for metric in row.asked}
        return tuple(sorted(known, key=lambda metric: (list(Kind).index(metric.kind), metric.at)))


def compare(
    store: Path,
    name: str,
    *,
    ks: Sequence[int] | None = None,
    confidence: float = 0.95,
    baseline: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """The comparison of the sweep ``name`` from what its run folders hold now.

    ``ks`` replaces the k that the evaluations were planned for, ``baseline`` the arm that the sweep names;
    ``progress`` hears (runs loaded, runs).
    Runs that failed or are missing are listed, never guessed. Raises ValueError when there is no such sweep,
    when it lists a run twice, when its claims cannot be read, or when ``baseline`` is none of its arms.
    """
    path = store / "sweeps" / name / "sweep.json"
    sweep = read_json(path)
    entries = sweep["runs"]
    _refuse_repeats(entries, path)
    runs = load_runs([store / "runs" / entry["run_id"] for entry in entries], progress=progress)
    arms = dict.fromkeys(entry["arm"] for entry in entries)
    if baseline not in (None, *arms):
        raise ValueError(f"the baseline must be an arm of {name}, got {baseline!r}: it has {', '.join(arms)}")
    baseline = baseline or sweep.get("baseline")
    cells = gather(entries, runs)
    shown = {cell: arm for cell, arm in cells.items() if cell[2] != POOLED or len(arm.benchmarks) > 1}
    rows, contrasts = [], []
    for cell, own in shown.items():
        setting, arm, benchmark = cell
        reference = Arm() if baseline in (None, arm) else shown.get((setting, baseline, benchmark), Arm())
        row = _row(cell, own, reference, ks=ks, confidence=confidence)
        rows.append(row)
        contrasts += contrasts_of(
            setting=setting, benchmark=benchmark, arm=arm, baseline=str(baseline), estimates=row.differences
        )
    claimed = sweep.get("claims", [])
    claims = parse_claims(claimed, arms={*arms, *arms_named(claimed)}, where=f"claims of {name}")
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
        contrasts=tuple(adjusted(contrasts)),
        judgements=judge(claims, cells),
        **_effects(sweep.get("factors", {}), shown, ks=ks, confidence=confidence),
    )


def _effects(
    factors: Mapping[str, Sequence[str]],
    cells: Mapping[Cell, Arm],
    *,
    ks: Sequence[int] | None,
    confidence: float,
) -> dict[str, Any]:
    """The effects of a factorial sweep and how to read them."""
    if not factors:
        return {}
    metrics = list(dict.fromkeys(metric for own in cells.values() for metric in own.metrics(ks)))
    found = effects_of(cells, factors, metrics=metrics, confidence=confidence)
    note = what_they_are(factors, len({arm for _, arm, _ in cells}))
    return {"effects": tuple(found), "effects_note": f"{note} {lacking(cells, factors)}".strip()}


def _refuse_repeats(entries: Sequence[Mapping[str, Any]], path: Path) -> None:
    """An arm with one seed twice would count one run as two."""
    counts = Counter((entry["setting"], entry["arm"], entry["seed"]) for entry in entries)
    if twice := [
        f"{setting} {arm} seed {seed}" for (setting, arm, seed), count in counts.items() if count > 1
    ]:
        raise ValueError(
            f"{path} must list every setting, arm and seed once, got several runs of {', '.join(twice)}: "
            "take the copies out"
        )


def _row(cell: Cell, own: Arm, baseline: Arm, *, ks: Sequence[int] | None, confidence: float) -> Row:
    setting, arm, benchmark = cell
    row = Row(
        setting=setting,
        arm=arm,
        benchmark=benchmark,
        seeds=own.seeds,
        num_planned=own.num_planned,
        num_failed=own.num_failed,
    )
    if not own.runs:
        return row
    row = replace(row, **({} if own.odd else _results(own, confidence, ks)))
    there = set(baseline.metrics(ks))
    compared = differences(own, baseline, metrics=[m for m in row.asked if m in there], confidence=confidence)
    known: dict[str, Any] = {name: own.mean(name) for name in RATES}
    known |= {name: own.cost(name) for name in COSTS}
    return replace(
        row,
        num_questions=own.num_questions,
        num_samples=own.num_samples,
        answer_space=own.evaluations[0].answer_space if len(own.benchmarks) == 1 else None,
        differences=compared,
        difference_curve=difference_curve(own, baseline, confidence=confidence),
        remark=_remark(own, baseline, [row.results[each] for each in row.asked], list(compared.values())),
        caution="; ".join(dict.fromkeys(each.caution for each in own.evaluations if each.caution)),
        **known,
    )


def _results(own: Arm, confidence: float, ks: Sequence[int] | None) -> dict[str, Any]:
    """Columns of a row whose evaluations fit each other; each score is looked up once."""
    metrics = own.metrics(ks)
    every = dense(metrics, own.largest_k)
    tables = own.tables(every)
    columns: dict[str, Any] = {"band": _band(own.largest_k, tables, confidence)}
    if not metrics:
        return columns
    estimates = arm_estimates(tables, confidence=confidence, limits=[metric.limits for metric in every])
    averages = [np.ascontiguousarray(table[:, :, 0]) for table in tables]  # pass@1 comes first
    return columns | {
        "asked": tuple(metrics),
        "results": dict(zip(every, estimates, strict=True)),
        "by_run": _by_run(own, averages),
        "by_question": _by_question(own, averages[0]) if len(averages) == 1 else {},
    }


def _band(most: int, tables: Sequence[Scores], confidence: float) -> dict[Metric, tuple[float, float]]:
    """The simultaneous band of pass@k up to ``most``; tables begin with every pass@k."""
    points = doubling(most)
    places = [int(metric.at) - 1 for metric in points]
    chosen = [table.take(places, axis=2) for table in tables]
    band = arm_band(chosen, confidence=confidence, limits=SHARE)
    return dict(zip(points, zip(band.low, band.high, strict=True), strict=True))


def _by_question(own: Arm, averages: Scores) -> dict[str, float]:
    return dict(zip(own.scored[0][0].questions, averages.mean(axis=0).tolist(), strict=True))


def _by_run(own: Arm, averages: Sequence[Scores]) -> dict[int, tuple[float, float]]:
    means = np.mean([table.mean(axis=1) for table in averages], axis=0)
    lengths = np.mean([[each.length_mean for each in scored] for scored in own.scored], axis=0)
    return dict(zip(own.seeds, zip(means.tolist(), lengths.tolist(), strict=True), strict=True))


def _remark(own: Arm, baseline: Arm, results: Sequence[Estimate], compared: Sequence[Estimate]) -> str:
    """What a reader of the row must know: what does not fit, ill runs, what intervals lack."""
    odd = own.odd or (pair_mismatch(own, baseline) if baseline.runs else "")
    parts = [f"not comparable: {odd}"] if odd else []
    if compared:
        other = other_training(models=(own.models, baseline.models), data=(own.datas, baseline.datas))
        parts += [f"not the method alone: arms are trained with {other}"] if other else []
        seeds = [" ".join(map(str, sorted(each.seeds))) for each in (own, baseline)]
        parts += [f"not paired by seed: seeds {' against '.join(seeds)}"] if seeds[0] != seeds[1] else []
    parts += [each.remark for each in own.evaluations if each.remark]
    parts += [
        f"seed {seed}: {run.health}" for seed, run in zip(own.seeds, own.runs, strict=True) if run.health
    ]
    parts += [part for each in (*results, *compared) for part in each.remark.split("; ")]
    return "; ".join(part for part in dict.fromkeys(parts) if part and part != NO_SPREAD)


def _troubles(entry: Mapping[str, Any], run: Run) -> list[Trouble]:
    """Why a run does not count, empty when all of its evaluations do."""
    if all(eval_id in run.scored for eval_id in entry["evals"].values()):
        return []
    return [
        Trouble(
            setting=entry["setting"],
            arm=entry["arm"],
            seed=int(entry["seed"]),
            run_id=entry["run_id"],
            state=absence(run),
            error=run.error,
        )
    ]
