"""Runs that a cluster preempts end as if it had not."""

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
