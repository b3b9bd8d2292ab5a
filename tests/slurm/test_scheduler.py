"""What the scheduler class tells of a real SLURM, in every state that seconds can produce."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.slurm.cluster import Devcluster

from tokensweep.cluster.jobstate import JobState, state_of
from tokensweep.cluster.scheduler import Scheduler, SlurmError

pytestmark = pytest.mark.slurm

_PATIENCE_S = 180.0
_WHOLE = ("--nodes=2", "--gres=gpu:4")  # all GPUs of the cluster
_TWICE = "echo attempt ${SLURM_RESTART_COUNT:-0}; test -z $SLURM_RESTART_COUNT || exit 0; sleep 100"


@pytest.fixture
def scheduler(devcluster: Devcluster, monkeypatch: pytest.MonkeyPatch) -> Scheduler:
    """SLURM's commands of the development cluster."""
    monkeypatch.setenv("SLURM_CONF", str(devcluster.folder / "slurm.conf"))
    return Scheduler()


def told(
    scheduler: Scheduler, *names: str, until: Callable[[dict[str, JobState]], bool]
) -> dict[str, JobState]:
    """The states of these jobs as soon as they are as wanted."""
    deadline = time.monotonic() + _PATIENCE_S
    while not until(states := scheduler.jobs(names)):
        assert time.monotonic() < deadline, states
        time.sleep(0.2)
    return states


def all_ended(states: dict[str, JobState]) -> bool:
    return bool(states) and not any(state.alive for state in states.values())


def silent(command: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a command of this name in front that knows of nothing."""
    fake = folder / command
    fake.write_text("#!/bin/sh\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_what_waits_says_why_and_what_runs_says_where(devcluster: Devcluster, scheduler: Scheduler) -> None:
    running = devcluster.submit("echo here; sleep 100", "--job-name=w-run", "--time=10")
    waiting = devcluster.submit("true", "--job-name=w-dep", f"--dependency=afterok:{running}", "--time=7")
    held = devcluster.submit("true", "--job-name=w-held", "--hold")
    later = devcluster.submit("true", "--job-name=w-later", "--begin=now+1hour")
    other = devcluster.submit("true", "--job-name=w-other", "--hold")
    devcluster.wait_for("here", running)
    states = scheduler.jobs(["w-run", "w-dep", "w-held", "w-later", "w-unknown"])
    devcluster.run("scancel", running, waiting, held, later, other)
    assert {key: (s.name, s.task, s.state, s.reason, s.alive) for key, s in states.items()} == {
        running: ("w-run", None, "RUNNING", "", True),
        waiting: ("w-dep", None, "PENDING", "Dependency", True),
        held: ("w-held", None, "PENDING", "JobHeldUser", True),
        later: ("w-later", None, "PENDING", "BeginTime", True),
    }
    assert states[running].node in ("gpu1", "gpu2")
    assert states[running].start is not None
    assert states[running].exit_code is None
    assert 500 < (states[running].time_left_s or 0) <= 600
    assert (states[waiting].node, states[waiting].time_left_s) == ("", 420)


def test_an_array_with_gaps_has_a_state_per_task(devcluster: Devcluster, scheduler: Scheduler) -> None:
    job = devcluster.submit("exit $SLURM_ARRAY_TASK_ID", "--job-name=a-gaps", "--array=0,3,7%2")
    states = told(scheduler, "a-gaps", until=all_ended)
    assert {key: (s.task, s.state, s.exit_code) for key, s in states.items()} == {
        f"{job}_0": (0, "COMPLETED", 0),
        f"{job}_3": (3, "FAILED", 3),
        f"{job}_7": (7, "FAILED", 7),
    }


def test_what_the_queue_has_forgotten_is_told_by_the_accounting(
    devcluster: Devcluster, scheduler: Scheduler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = devcluster.submit("true", "--job-name=f-good", "--array=2,5")
    bad = devcluster.submit("exit 3", "--job-name=f-bad")
    killed = devcluster.submit("kill -9 $$", "--job-name=f-killed")
    dependent = ("--kill-on-invalid-dep=yes", f"--dependency=afterok:{bad}")
    never = devcluster.submit("true", "--job-name=f-never", *dependent)
    held = devcluster.submit("true", "--job-name=f-held", "--hold", "--array=0-3")
    devcluster.run("scancel", held)
    names = ("f-good", "f-bad", "f-killed", "f-never", "f-held")
    told(scheduler, *names, until=all_ended)
    silent("squeue", tmp_path, monkeypatch)
    tasks = [(good, 2), (good, 5), (bad, None), (killed, None), (never, None), *((held, i) for i in range(4))]
    states = told(scheduler, *names, until=lambda s: all(state_of(s, job_id=j, task=i) for j, i in tasks))
    not_held = {k: (s.state, s.exit_code, s.signal) for k, s in states.items() if not k.startswith(held)}
    assert not_held == {
        f"{good}_2": ("COMPLETED", 0, None),
        f"{good}_5": ("COMPLETED", 0, None),
        bad: ("FAILED", 3, None),
        killed: ("FAILED", 0, 9),
        never: ("CANCELLED", 0, None),
    }
    for task in range(4):
        state = state_of(states, job_id=held, task=task)
        assert state is not None
        assert (state.state, state.alive) == ("CANCELLED", False)
    assert state_of(states, job_id=good, task=3) is None


def test_what_the_accounting_does_not_know_yet_is_told_by_the_queue(
    devcluster: Devcluster, scheduler: Scheduler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent("sacct", tmp_path, monkeypatch)
    job = devcluster.submit("exit 4", "--job-name=q-only")
    killed = devcluster.submit("kill -9 $$", "--job-name=q-killed")
    states = told(scheduler, "q-only", "q-killed", until=all_ended)
    assert {key: (s.state, s.exit_code, s.signal) for key, s in states.items()} == {
        job: ("FAILED", 4, None),
        killed: ("FAILED", 0, 9),
    }


def test_a_job_that_is_cancelled_while_it_runs_has_ended(
    devcluster: Devcluster, scheduler: Scheduler
) -> None:
    job = devcluster.submit("echo here; sleep 100", "--job-name=c-run")
    devcluster.wait_for("here", job)
    scheduler.cancel([job, "999999"])
    states = told(scheduler, "c-run", until=all_ended)
    assert states[job].state == "CANCELLED"
    assert (states[job].end or 0) >= (states[job].start or 0) > 0
    scheduler.cancel([job])  # once more is no error


def test_an_array_that_is_cancelled_before_it_starts_is_known_to_be(
    devcluster: Devcluster, scheduler: Scheduler
) -> None:
    filler = devcluster.submit("echo here; sleep 100", *_WHOLE)
    devcluster.wait_for("here", filler)
    job = devcluster.submit("true", "--job-name=c-array", "--array=1-3", *_WHOLE)
    told(scheduler, "c-array", until=lambda states: {s.reason for s in states.values()} >= {"Resources"})
    scheduler.cancel([job])
    states = told(scheduler, "c-array", until=all_ended)
    devcluster.run("scancel", filler)
    assert {getattr(state_of(states, job_id=job, task=i), "state", None) for i in (1, 2, 3)} == {"CANCELLED"}


def test_a_preempted_task_lives_and_tells_how_it_was_stopped(
    devcluster: Devcluster, scheduler: Scheduler
) -> None:
    job = devcluster.submit(_TWICE, "--job-name=p-once", "--array=4", *_WHOLE)
    devcluster.wait_for("attempt 0", job)
    devcluster.run("srun", "--partition=high", *_WHOLE, "true")
    states = told(scheduler, "p-once", until=lambda states: states[f"{job}_4"].restarts == 1)
    assert states[f"{job}_4"].alive
    states = told(scheduler, "p-once", until=lambda s: all_ended(s) and bool(s[f"{job}_4"].earlier))
    assert (states[f"{job}_4"].state, states[f"{job}_4"].earlier) == ("COMPLETED", ("PREEMPTED",))


def test_a_job_is_requeued_and_runs_to_its_end(devcluster: Devcluster, scheduler: Scheduler) -> None:
    job = devcluster.submit(_TWICE, "--job-name=r-once", "--time=10")
    devcluster.wait_for("attempt 0", job)
    scheduler.requeue(job)
    states = told(scheduler, "r-once", until=lambda s: s[job].reason == "BeginTime")
    assert (states[job].alive, states[job].state, states[job].restarts) == (True, "PENDING", 1)
    states = told(scheduler, "r-once", until=lambda s: all_ended(s) and bool(s[job].earlier))
    assert (states[job].state, states[job].earlier) == ("COMPLETED", ("REQUEUED",))


def test_an_unknown_job_cannot_be_requeued(scheduler: Scheduler) -> None:
    with pytest.raises(SlurmError, match=r"scontrol requeue 999999 failed with 1: Invalid job id"):
        scheduler.requeue("999999")


def test_limits_are_those_of_the_cluster_and_the_user(devcluster: Devcluster, scheduler: Scheduler) -> None:
    before = scheduler.limits()
    assert (before.max_array_size, before.max_submit, before.max_jobs) == (10, 40, 10000)
    job = devcluster.submit("true", "--hold", "--array=0-6")
    after = scheduler.limits(account="dev", qos="normal")
    devcluster.run("scancel", job)
    assert (after.queued - before.queued, after.room) == (7, 33 - before.queued)
    assert scheduler.limits(account="root").max_submit is None
    assert scheduler.accounts()["dev"] == ("normal",)


def test_partitions_are_told_with_their_nodes(scheduler: Scheduler) -> None:
    partitions = scheduler.partitions()
    assert set(partitions) == {"main", "warned", "high"}
    assert [name for name, each in partitions.items() if each.is_default] == ["main"]
    main = partitions["main"]
    assert (main.is_up, main.time_limit_s, main.gres) == (True, 7 * 86400, ("gpu:pretend:4",))
    assert sum(main.nodes.values()) == 2


def test_while_the_controller_is_down_nothing_is_known(
    second_cluster: Devcluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_CONF", str(second_cluster.folder / "slurm.conf"))
    job = second_cluster.submit("echo here; sleep 100", "--job-name=d-run")
    second_cluster.wait_for("here", job)
    os.kill(second_cluster.daemon("slurmctld"), signal.SIGTERM)
    with pytest.raises(SlurmError, match="Unable to contact slurm controller"):
        told(Scheduler(), "d-run", until=lambda states: not states)  # it answers until it has saved its state
    assert second_cluster.script("up").returncode == 0
    states = Scheduler().jobs(["d-run"])
    assert (states[job].state, states[job].alive) == ("RUNNING", True)
