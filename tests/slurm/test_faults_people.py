"""What people do to a sweep on its way: edit its code, submit it twice, write components that fail."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.slurm.sweeping import (
    EVALUATED,
    UNEVALUATED,
    Sweeping,
    assert_nothing_twice,
    in_mlflow,
    is_trained,
    result,
    until,
)

from tokensweep.ledger import read_run

pytestmark = [pytest.mark.slurm, pytest.mark.slow]
_ROOT = Path(__file__).parents[2]
_LATER = {"begin": "now+1hour"}  # jobs wait until the test says otherwise


@pytest.fixture
def checkout(sweeping: Sweeping) -> Sweeping:
    """Commands run from a copy of the source, which a test may spoil."""
    copy = sweeping.store.parent / "checkout"
    for name in ("runner", "analysis", "conf", "sweeps", "slurm"):
        shutil.copytree(_ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(_ROOT / "pyproject.toml", copy)
    return Sweeping(sweeping.store, sweeping.cluster, copy)


def test_a_sweep_that_is_submitted_twice_and_then_edited_is_trained_once_as_it_was(
    checkout: Sweeping, undisturbed: dict[int, Path]
) -> None:
    cluster = checkout.cluster
    assert cluster
    words = checkout.training("twice", "seed=0,1,2", UNEVALUATED, checkout.site("later", sbatch=_LATER))
    shells = [checkout.start(*words) for _ in range(2)]
    told = [shell.communicate(timeout=120)[0] for shell in shells]
    assert [shell.returncode for shell in shells] == [0, 0], told
    assert sorted("nothing to submit" in text for text in told) == [False, True]
    (job,) = checkout.jobs("twice")
    assert len(checkout.queued()) == 4  # three runs and a report
    for name in ("trainer.py", "update.py"):
        (checkout.code / "runner" / "tokensweep" / "train" / name).write_text("raise ImportError('edited')")
    (checkout.code / "conf" / "train.yaml").write_text("edited")
    for task in range(3):
        cluster.run("scontrol", "update", f"jobid={job}_{task}", "StartTime=now")
    runs = checkout.runs("twice")
    until(lambda: all(map(is_trained, runs.values())), what="all runs are trained")
    for seed, run_dir in runs.items():
        assert result(run_dir) == result(undisturbed[seed])
        assert_nothing_twice(run_dir)
        assert read_run(run_dir).attempts == 1


def test_runs_that_fail_in_their_own_ways_leave_the_others_alone_and_can_be_mended(
    sweeping: Sweeping,
) -> None:
    arms: dict[str, dict[str, Any]] = {fault: {"data.fault": fault} for fault in ("none", "raise", "leave")}
    arms["hang"] = {"data.fault": "hang", "compute.hang_s": 60}  # longer than a worker takes to start
    site = sweeping.site("once", restarts=0)
    told = sweeping.sweep("faulty", arms, EVALUATED, site, "wait=true", code=1)
    assert "3 of 4 runs did not finish" in told
    rows = {row["arm"]: row for row in sweeping.status("faulty")["runs"]}
    assert {fault: row["state"] for fault, row in rows.items()} == {
        "none": "finished",
        "raise": "failed",
        "hang": "failed",
        "leave": "failed",
    }
    assert {fault: row["error_class"] for fault, row in rows.items()} == {
        "none": "",
        "raise": "other",
        "hang": "hang",
        "leave": "unfinished",
    }
    assert "the third batch is spoilt" in rows["raise"]["log"]
    of_run = {row["run_id"]: "FINISHED" if fault == "none" else "FAILED" for fault, row in rows.items()}
    assert in_mlflow(sweeping) == of_run
    (sweeping.store / "mended").touch()
    sweeping.command("retry", "faulty", "--wait")
    sweeping.command("report", "faulty")
    assert set(in_mlflow(sweeping).values()) == {"FINISHED"}
    runs = {fault: sweeping.store / "runs" / row["run_id"] for fault, row in rows.items()}
    assert {fault: read_run(run_dir).attempts for fault, run_dir in runs.items()} == {
        "none": 2,
        "raise": 3,
        "hang": 3,
        "leave": 3,
    }
    for run_dir in runs.values():
        assert result(run_dir) == result(runs["none"])
        assert_nothing_twice(run_dir)
    report = (sweeping.store / "sweeps" / "faulty" / "report" / "report.md").read_text()
    assert report.count("| 1/1 |") >= 4
