"""Runs that a cluster takes off their nodes end as if it had not."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.slurm.sweeping import (
    UNEVALUATED,
    Sweeping,
    assert_nothing_twice,
    is_trained,
    result,
    until,
    waiting_at_the_gate,
)

from tokensweep.ledger import is_alive

pytestmark = [pytest.mark.slurm, pytest.mark.slow]


def test_preempted_runs_end_bit_identical_to_undisturbed_ones(
    sweeping: Sweeping, undisturbed: dict[int, Path]
) -> None:
    cluster = sweeping.cluster
    assert cluster
    sweeping.close()
    sweeping.train("abrupt", "seed=0,1", UNEVALUATED, sweeping.site("main"))
    sweeping.train("warned", "seed=2", UNEVALUATED, sweeping.site("warned", partition="warned"))
    runs = sweeping.runs("abrupt") | sweeping.runs("warned")
    for run_dir in runs.values():
        waiting_at_the_gate(run_dir)
    cluster.submit("true", "--partition=high", "--nodes=2", "--gres=gpu:4")  # all GPUs of the cluster
    (abrupt,), (warned,) = sweeping.jobs("abrupt"), sweeping.jobs("warned")
    until(lambda: "SIGUSR2" in sweeping.job_log("warned"), what="a warning")
    sweeping.open(runs[2])
    until(lambda: not any(map(is_alive, runs.values())), what="all workers are gone")
    assert sweeping.states("abrupt") == {0: "queued", 1: "queued"}
    sweeping.open()
    until(lambda: all(map(is_trained, runs.values())), what="all runs are trained")
    for seed, run_dir in runs.items():
        assert result(run_dir) == result(undisturbed[seed])
        assert_nothing_twice(run_dir)
    for name in ("abrupt", "warned"):
        for row in sweeping.status(name)["runs"]:
            assert (row["state"], row["preempted"], row["attempts"]) == ("finished", 1, 2)
    assert sweeping.ended(f"{abrupt}_0", attempts=2) == ["PREEMPTED", "COMPLETED"]
    assert sweeping.ended(f"{abrupt}_1", attempts=2) == ["PREEMPTED", "COMPLETED"]
    assert sweeping.ended(warned, attempts=2) == ["REQUEUED", "COMPLETED"]
    assert [e["step"] for e in sweeping.checkpoints(runs[0])] == [2, 4, 6]
    assert [e["step"] for e in sweeping.checkpoints(runs[2])] == [2, 3, 4, 6]  # 3: the warning's


def test_a_time_limit_requeues_what_got_on_and_fails_what_did_not(
    sweeping: Sweeping, undisturbed: dict[int, Path]
) -> None:
    # SLURM looks at limits every 30 s, so the warning comes 10 to 40 s before the end of this minute.
    site = sweeping.site("minute", hours=0.02, signal_s=10)
    sweeping.close()
    sweeping.train("gets_on", "seed=0", UNEVALUATED, site)
    sweeping.train("stuck", "seed=1", UNEVALUATED, "checkpoint.every=6", site)
    (on,), (stuck,) = sweeping.runs("gets_on").values(), sweeping.runs("stuck").values()
    waiting_at_the_gate(on)
    until(lambda: "SIGUSR2" in sweeping.job_log("gets_on"), what="a warning")
    sweeping.open(on)
    until(lambda: is_trained(on), what="the run goes on after its limit")
    assert result(on) == result(undisturbed[0])
    assert_nothing_twice(on)
    assert sweeping.ended(sweeping.jobs("gets_on")[0], attempts=2) == ["REQUEUED", "COMPLETED"]
    (row,) = sweeping.status("gets_on")["runs"]
    assert (row["state"], row["preempted"]) == ("finished", 1)
    assert sweeping.ended(sweeping.jobs("stuck")[0]) == ["FAILED"]
    (row,) = sweeping.status("stuck")["runs"]
    assert (row["state"], row["error_class"], row["attempts"]) == ("failed", "timeout", 1)
    assert "lower checkpoint.every" in row["reason"]
    sweeping.open()
    sweeping.command("retry", "stuck", "--wait")
    assert result(stuck) == result(undisturbed[1])
