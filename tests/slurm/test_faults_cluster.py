"""A cluster that falters under a sweep: its controller dies, nodes drain and go down."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from tests.slurm.sweeping import (
    EVALUATED,
    UNEVALUATED,
    Sweeping,
    assert_nothing_twice,
    is_trained,
    result,
    started,
    until,
    waiting_at_the_gate,
)

from tokensweep.ledger import read_run

pytestmark = [pytest.mark.slurm, pytest.mark.slow]


def test_a_sweep_does_not_notice_that_slurmctld_was_killed(
    sweeping_elsewhere: Sweeping, undisturbed: dict[int, Path]
) -> None:
    sweeping = sweeping_elsewhere
    cluster = sweeping.cluster
    assert cluster
    sweeping.close()
    sweeping.train("ends", "seed=0", UNEVALUATED, sweeping.site())
    sweeping.train("goes_on", "seed=1,2", EVALUATED, "jobs=1", sweeping.site())
    runs = sweeping.runs("ends") | sweeping.runs("goes_on")
    waiting_at_the_gate(runs[0])
    waiting_at_the_gate(runs[1])
    cluster.saved(sweeping.jobs("ends")[0])  # a single run is no array
    cluster.saved(f"{sweeping.jobs('goes_on')[0]}_0")
    os.kill(cluster.daemon("slurmctld"), signal.SIGKILL)
    status = sweeping.status("goes_on")
    assert "squeue" in status["silence"]
    assert status["counts"] == {"running": 1, "queued": 1}
    sweeping.open(runs[0])
    until(lambda: is_trained(runs[0]), what="a run ends without slurmctld")
    assert cluster.script("up").returncode == 0
    assert sweeping.ended(sweeping.jobs("ends")[0]) == ["COMPLETED"]
    # Only now may the next job begin: one with GPUs that starts before the nodes have told a new
    # slurmctld of theirs fails ("Invalid generic resource", SLURM 22.05).
    sweeping.open()
    sweeping.train("goes_on", "seed=1,2", EVALUATED, "jobs=1", sweeping.site(), "wait=true")
    assert len(sweeping.jobs("goes_on")) == 1  # the command has submitted nothing a second time
    for seed, run_dir in runs.items():
        assert result(run_dir) == result(undisturbed[seed])
        assert_nothing_twice(run_dir)
    assert [read_run(runs[seed]).attempts for seed in range(3)] == [1, 2, 2]
    assert sweeping.states("goes_on") == {1: "finished", 2: "finished"}


def test_a_drained_node_finishes_its_job_and_a_node_that_goes_down_loses_none(
    sweeping: Sweeping, undisturbed: dict[int, Path]
) -> None:
    cluster = sweeping.cluster
    assert cluster
    sweeping.close()
    sweeping.train("nodes", "seed=0,1,2", UNEVALUATED, "jobs=2", sweeping.site())
    runs = sweeping.runs("nodes")
    for seed in (0, 1):
        waiting_at_the_gate(runs[seed])
    (job,) = sweeping.jobs("nodes")
    node = cluster.run("squeue", "-ho%N", f"-j{job}_0")
    assert node == cluster.run("squeue", "-ho%N", f"-j{job}_1")  # SLURM fills a node first
    try:
        cluster.run("scontrol", "update", f"nodename={node}", "state=drain", "reason=test")
        sweeping.open(runs[0])
        assert sweeping.ended(f"{job}_0") == ["COMPLETED"]
        waiting_at_the_gate(runs[2])
        assert cluster.run("squeue", "-ho%N", f"-j{job}_2") not in (node, "")
        assert started(runs[1], attempts=1)
        cluster.run("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
        until(lambda: started(runs[1], attempts=2), what="a run of the lost node starts again")
        assert cluster.run("squeue", "-ho%N", f"-j{job}_1") not in (node, "")
    finally:
        cluster.run("scontrol", "update", f"nodename={node}", "state=resume")
    sweeping.open()
    until(lambda: all(map(is_trained, runs.values())), what="all runs are trained")
    assert sweeping.ended(f"{job}_1", attempts=2) == ["NODE_FAIL", "COMPLETED"]
    rows = sweeping.status("nodes")["runs"]
    assert [(row["state"], row["attempts"]) for row in rows] == [
        ("finished", 1),
        ("finished", 2),
        ("finished", 1),
    ]
    for seed, run_dir in runs.items():
        assert result(run_dir) == result(undisturbed[seed])
        assert_nothing_twice(run_dir)
