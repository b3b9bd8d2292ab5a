"""A plan draws on every run that has finished, whichever sweep ran it, and says what its figures rest on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from tokensweep.compose import register_components
from tokensweep.ledger import Attempt
from tokensweep.outlook import show_outlook
from tokensweep.plan import Plan, make_plan, write_plan
from tokensweep.sweepfile import load_sweep
from tokensweep_analysis.samples import write_samples

Row = Callable[..., dict[str, Any]]
_SWEEP = """
arms: {{all: {{method: dapo}}, top: {{method: {method}}}}}
seeds: [{seeds}]
claims:
  - {{id: better, kind: superiority, contrast: top - all, metric: ops/avg}}
  - {{id: agreed, kind: superiority, contrast: top - all, metric: ops/maj_at_4}}
scales: {{tiny: {{settings: {{ops: {{data: ops}}}}}}}}
"""


def _plan(folder: Path, name: str, *, seeds: str = "0, 1", method: str = "forking_tokens") -> Plan:
    register_components()
    path = folder / f"{name}.yaml"
    path.write_text(_SWEEP.format(seeds=seeds, method=method))
    overrides = [f"store={folder / 'store'}", "eval.held_out=25", "eval.num_samples=8"]
    return make_plan(load_sweep(str(path), scale="tiny", overrides=overrides))


def _finish(plan: Plan, row: Row, *, right: Callable[[int, int], int]) -> None:
    """What workers leave behind when all runs of a plan have finished: ``right(run, question)`` of 8 samples
    are right."""
    write_plan(plan)
    for place, run in enumerate(plan.runs):
        (entry,) = run.evals
        rows = [
            row(question_id=f"q{q}", sample_idx=n, sampling_seed=n, grade="correct" if n < num else "wrong")
            for q in range(25)
            for num in [right(place, q)]
            for n in range(8)
        ]
        with Attempt.open(run.dir(plan.store)) as attempt:
            attempt.event("trained", step=entry["step"])
            folder = run.dir(plan.store) / "evals" / f"{entry['suite']}-{entry['eval_id']}"
            write_samples(folder / "samples-000.parquet", rows)
            attempt.event("evaluated", suite=entry["suite"], eval_id=entry["eval_id"], num_samples=8)
            attempt.event("finished")


def _alike(run: int, question: int) -> int:
    """No run is better than another."""
    return (question + run) % 9


def _torn(run: int, question: int) -> int:
    """``top``, every second run, is better on odd and worse on even questions, and better in its last run."""
    return 4 + (2 if question % 2 else -2) * (run % 2) + 2 * (run == 3)


def _outlook(plan: Plan) -> str:
    """What is printed of it, on one line."""
    console = Console(width=200)
    with console.capture() as capture:
        show_outlook(plan, console)
    return " ".join(capture.get().split())


_ASSUMED = "Variances are assumed"
_RAISED = "Twice the questions or samples can raise a figure"
_NO_FIGURE = "agreed: no figure before runs have finished"


def test_runs_that_another_sweep_has_finished_give_the_variances(tmp_path: Path, make_row: Row) -> None:
    before = _outlook(_plan(tmp_path, "second"))
    assert _ASSUMED in before
    assert "at scale tiny such figures are too small" in before
    assert _RAISED not in before
    _finish(_plan(tmp_path, "first"), make_row, right=_alike)
    plan = _plan(tmp_path, "second")
    assert not plan.missing()
    text = _outlook(plan)
    assert "Variances are those of the finished runs." in text
    assert _ASSUMED not in text
    assert _NO_FIGURE not in text


def test_a_plan_of_more_seeds_draws_on_the_seeds_that_its_sweep_has_run(
    tmp_path: Path, make_row: Row
) -> None:
    _finish(_plan(tmp_path, "first"), make_row, right=_alike)
    assert "Variances are those of the finished runs." in _outlook(_plan(tmp_path, "first", seeds="2, 3"))


def test_an_arm_that_means_something_else_now_does_not_lend_its_runs(tmp_path: Path, make_row: Row) -> None:
    _finish(_plan(tmp_path, "first"), make_row, right=_alike)
    assert _ASSUMED in _outlook(_plan(tmp_path, "first", method="grpo"))


def test_a_damaged_folder_is_no_finished_run(tmp_path: Path, make_row: Row) -> None:
    plan = _plan(tmp_path, "first")
    _finish(plan, make_row, right=_alike)
    for run in plan.runs:
        for path in (run.dir(plan.store) / "evals").glob("*/samples-000.parquet"):
            path.write_bytes(b"no table")
    assert _ASSUMED in _outlook(_plan(tmp_path, "second"))


def test_a_figure_that_rises_with_more_questions_is_explained(tmp_path: Path, make_row: Row) -> None:
    _finish(_plan(tmp_path, "first"), make_row, right=_torn)
    assert _RAISED in _outlook(_plan(tmp_path, "first", seeds="0, 1, 2"))
