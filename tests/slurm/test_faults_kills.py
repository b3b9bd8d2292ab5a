"""Processes that die under a run, and people who stop it."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.slurm.cluster import Devcluster
from tests.slurm.sweeping import (
    EVALUATED,
    STEPS,
    UNEVALUATED,
    Sweeping,
    assert_nothing_twice,
    in_mlflow,
    is_trained,
    parent_of,
    result,
    started,
    until,
    waiting_at_the_gate,
    worker_of,
)

from tokensweep.ledger import is_alive, read_run

pytestmark = [pytest.mark.slurm, pytest.mark.slow]


@pytest.fixture(scope="module", autouse=True)
def limited(devcluster: Devcluster) -> Iterator[Sweeping]:
    """Two sweeps whose jobs have two minutes; they meet that while the other tests of this file go on."""
    with tempfile.TemporaryDirectory(prefix="store-") as folder:
        sweeping = Sweeping(Path(folder) / "store", devcluster)
        sweeping.store.mkdir()
        sweeping.close()
        # SLURM looks at limits every 30 s, so the warning comes 10 to 40 s before the end; a worker has to
        # start and get on by then, on a loaded machine too.
        site = sweeping.site("minutes", hours=2 / 60, signal_s=10)
        sweeping.train("gets_on", "seed=0", UNEVALUATED, site)
        sweeping.train("stuck", "seed=1", UNEVALUATED, f"checkpoint.every={STEPS}", site)
        yield sweeping
        sweeping.leave()


def test_a_killed_worker_task_or_slurmstepd_costs_nothing_durable(
    sweeping: Sweeping, undisturbed: dict[int, Path]
) -> None:
    sweeping.close()
    sweeping.train("killed", "seed=0,1,2", UNEVALUATED, sweeping.site())
    runs = sweeping.runs("killed")
    for run_dir in runs.values():
        waiting_at_the_gate(run_dir)
    worker, task, stepd = (worker_of(runs[0]), parent_of(worker_of(runs[1])), _stepd_of(runs[2]))
    for process in (worker, task, stepd):
        os.kill(process, signal.SIGKILL)
    until(lambda: started(runs[0], attempts=2), what="a second worker in the same job")
    until(lambda: not is_alive(runs[1]), what="the worker ends with its task")
    (job,) = sweeping.jobs("killed")
    assert sweeping.ended(f"{job}_1") == ["FAILED"]
    until(lambda: started(runs[2], attempts=2), what="the job without slurmstepd starts again")
    assert sweeping.states("killed") == {0: "running", 1: "failed", 2: "running"}
    sweeping.open()
    sweeping.command("retry", "killed", "--wait")
    assert sweeping.states("killed") == dict.fromkeys(range(3), "finished")
    for seed, run_dir in runs.items():
        assert result(run_dir) == result(undisturbed[seed])
        assert_nothing_twice(run_dir)
        assert read_run(run_dir).attempts == 2
    assert sweeping.ended(f"{job}_0") == ["COMPLETED"]
    assert sweeping.ended(f"{job}_2", attempts=2) == ["REQUEUED", "COMPLETED"]
    _, again = sweeping.jobs("killed")
    assert sweeping.ended(again) == ["COMPLETED"]


def test_what_is_cancelled_stays_so_until_it_is_retried(
    sweeping: Sweeping, undisturbed: dict[int, Path]
) -> None:
    cluster = sweeping.cluster
    assert cluster
    sweeping.close()
    sweeping.train("stopped", "seed=0,1,2", EVALUATED, "jobs=2", sweeping.site())
    runs = sweeping.runs("stopped")
    for seed in (0, 1):
        waiting_at_the_gate(runs[seed])
    (job,) = sweeping.jobs("stopped")
    told = sweeping.command("cancel", "stopped", runs[2].name)  # queued: only two may run at a time
    assert "cancelled 2 jobs" in told  # its training and its evaluation
    cluster.run("scancel", f"{job}_0")
    assert sweeping.ended(f"{job}_0") == ["CANCELLED"]
    expected = {0: "cancelled", 1: "running", 2: "cancelled"}
    until(lambda: sweeping.states("stopped") == expected, what="status tells what scancel did")
    assert not is_alive(runs[0])
    sweeping.command("cancel", "stopped")
    until(lambda: not sweeping.queued(), what="an empty queue")
    assert sweeping.states("stopped") == dict.fromkeys(range(3), "cancelled")
    sweeping.command("sync", "stopped")
    assert in_mlflow(sweeping) == {runs[0].name: "KILLED", runs[1].name: "KILLED", runs[2].name: "KILLED"}
    assert [read_run(runs[seed]).attempts for seed in range(3)] == [1, 1, 0]
    sweeping.open()
    sweeping.command("retry", "stopped", "--wait")
    sweeping.command("sync", "stopped")
    assert in_mlflow(sweeping) == {run_dir.name: "FINISHED" for run_dir in runs.values()}
    for seed, run_dir in runs.items():
        assert result(run_dir) == result(undisturbed[seed])
        assert_nothing_twice(run_dir)
    assert [read_run(runs[seed]).attempts for seed in range(3)] == [3, 3, 2]  # each with an evaluation


def test_a_time_limit_requeues_what_got_on_and_fails_what_did_not(
    limited: Sweeping, undisturbed: dict[int, Path]
) -> None:
    (on,), (stuck,) = limited.runs("gets_on").values(), limited.runs("stuck").values()
    until(lambda: "time is up; requeued" in limited.job_log("gets_on"), what="a warning")
    assert limited.ended(limited.jobs("stuck")[0]) == ["FAILED"]
    (row,) = limited.status("stuck")["runs"]
    assert (row["state"], row["error_class"], row["attempts"]) == ("failed", "timeout", 1)
    assert "lower checkpoint.every" in row["reason"]
    limited.open()
    limited.command("retry", "stuck", "--wait")
    assert result(stuck) == result(undisturbed[1])
    assert_nothing_twice(stuck)
    until(lambda: is_trained(on), what="the run goes on after its limit")
    assert result(on) == result(undisturbed[0])
    assert_nothing_twice(on)
    *before, last = limited.ended(limited.jobs("gets_on")[0], attempts=2)
    assert (set(before), last) == ({"REQUEUED"}, "COMPLETED")
    (row,) = limited.status("gets_on")["runs"]
    assert (row["state"], row["preempted"]) == ("finished", len(before))


def _stepd_of(run_dir: Path) -> int:
    """SLURM's process above the task of a run."""
    process = parent_of(parent_of(worker_of(run_dir)))
    assert Path(f"/proc/{process}/cmdline").read_text().startswith("slurmstepd")
    return process
