"""Reporting: from the sample files of a thousand runs to scores, tables and a report."""

from __future__ import annotations

import resource
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.finished import NAME, write_sweep
from benchmarks.frame import Benchmark, Case, Goal, Measured, measured
from tokensweep_analysis.loading import load_runs
from tokensweep_analysis.metrics import Kind, metrics_of
from tokensweep_analysis.page.document import write_page
from tokensweep_analysis.report import write_report
from tokensweep_analysis.tables import compare

PANDAS, SCORES, CURVES, REPORT = VARIANTS = (
    "pandas, mean accuracy",
    "runs and scores",
    "runs, scores, pass@k of every k",
    "report",
)
_KIBIBYTES_PER_MB = 1e6 / 1024


def measure(
    variant: str, *, runs: int, benchmarks: int, questions: int, samples: int, steps: int
) -> Measured:
    """One way through a store that was just written, so its files are in memory."""
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder)
        write_sweep(
            store,
            runs=runs,
            benchmarks=benchmarks,
            questions=questions,
            samples=samples,
            steps=steps,
            k=(1, 8, samples),
        )
        folders = sorted((store / "runs").iterdir())
        works: Mapping[str, Callable[[], object]] = {
            PANDAS: lambda: [_mean_accuracy(folder) for folder in folders],
            SCORES: lambda: _scores(folders),
            CURVES: lambda: _scores(folders, every_k=samples),
            REPORT: lambda: _report(store),
        }
        return with_helpers(works[variant])


def with_helpers(work: Callable[[], object]) -> Measured:
    """:func:`measured` with the CPU seconds of processes that the work starts, and the memory of the largest.

    They are counted whole, what they import included; the caller may not have started any before.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    own = measured(work)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return replace(own, cpu_s=own.cpu_s + cpu_s, peak_mb=own.peak_mb + after.ru_maxrss / _KIBIBYTES_PER_MB)


def _report(store: Path) -> None:
    """What ``tokensweep report`` does before it turns to MLflow."""
    comparison, folder = compare(store, NAME), store / "sweeps" / NAME / "report"
    write_report(comparison, folder)
    write_page(comparison, store, folder)


def _mean_accuracy(run_dir: Path) -> list[Any]:
    """The least that a notebook reads and counts: the share of correct samples of every question."""
    means = []
    for path in run_dir.glob("evals/*/samples-*.parquet"):
        frame = pd.read_parquet(path, columns=["question_id", "grade"])
        means.append((frame["grade"] == "correct").groupby(frame["question_id"]).mean())
    return means


def _scores(folders: list[Path], *, every_k: int = 0) -> None:
    """What a sync asks of every run; ``every_k`` adds pass@k and pass^k of every question up to that k."""
    curves = [m for m in metrics_of(range(1, every_k + 1), []) if m.kind is not Kind.maj_at]
    for run in load_runs(folders).values():
        if not run.scored:
            raise AssertionError(f"a run of the benchmark was not scored: {run.error}")
        for scored in run.scored.values():
            scored.metrics()
            scored.scores_at(curves)


def _case(runs: int, *, benchmarks: int, questions: int, samples: int, rounds: int) -> Case:
    rows = runs * benchmarks * questions * samples
    return Case(
        name=f"{runs} runs x {benchmarks * questions} questions x {samples} samples ({rows:,} rows)",
        variants=VARIANTS,
        baseline=PANDAS,
        options={
            "runs": runs,
            "benchmarks": benchmarks,
            "questions": questions,
            "samples": samples,
            "steps": 50,
        },
        rounds=rounds,
        goals={REPORT: Goal(wall_s=10, peak_mb=2000)},
    )


BENCHMARK = Benchmark(
    title="Reporting a sweep",
    unit="sweep",
    note=(
        "Finished runs of five seeds per arm, each evaluated on several benchmarks; integer answers, wrong "
        "votes spread as Zipf's law has it, maj@k at k = 8 and n. *runs and scores* reads ledgers, training "
        "metrics and samples and gives every number that MLflow gets; the next one adds pass@k and pass^k of "
        "every question for every k up to n; *report* is what `tokensweep report` does before it turns to "
        "MLflow: tables, files and the page. *pandas* only reads two columns and takes the share of correct "
        "samples per question. Files were just written, so reading them is not from disk; nothing is kept "
        "between rounds. CPU seconds and memory include the helper process that loading starts, with what it "
        "imports."
    ),
    cases=(_case(1000, benchmarks=5, questions=30, samples=64, rounds=1),),
    small=(_case(10, benchmarks=2, questions=4, samples=8, rounds=1),),
    measure=measure,
)
