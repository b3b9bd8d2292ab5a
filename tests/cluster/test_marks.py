"""What is remembered of jobs that SLURM does not tell of: cancelled, restarted, or all while it is silent."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pytest

from tokensweep.cluster.jobstate import JobState
from tokensweep.cluster.reconcile import State, look, run_state
from tokensweep.cluster.scheduler import Scheduler, SlurmError
from tokensweep.cluster.submission import Submission, new_submission, record_cancel, record_job
from tokensweep.ledger import Attempt, Kind, read_run


class Told(Scheduler):
    """A SLURM that says what a test wants."""

    def __init__(self, *jobs: JobState, silence: str = "") -> None:
        super().__init__()
        self._told, self._silence = {job.key: job for job in jobs}, silence

    def jobs(self, names: Iterable[str], *, since: float | None = None) -> dict[str, JobState]:
        if self._silence:
            raise SlurmError(self._silence)
        return {key: job for key, job in self._told.items() if job.name in set(names)}


@pytest.fixture
def submission(tmp_path: Path) -> Submission:
    """An array job 7 that trains r0 and r1."""
    made = new_submission(
        tmp_path, sweep="s", stage="train", tasks=[["r0"], ["r1"]], snapshot=None, site="x", more={}
    )
    return record_job(made, "7")


def _job(submission: Submission, task: int, state: str, *, restarts: int = 0) -> JobState:
    return JobState(
        name=submission.job_name,
        key=f"7_{task}",
        task=task,
        state=state,
        alive=state in ("RUNNING", "PENDING"),
        restarts=restarts,
    )


def _state(store: Path, run_id: str, slurm: Told) -> tuple[State, int]:
    run_dir = store / "runs" / run_id
    run_dir.mkdir(parents=True, exist_ok=True)
    record = read_run(run_dir)
    seen = run_state(run_id, record, look(store, slurm), complete=record.trained_step is not None)
    return seen.state, seen.preempted


def _make_old(submission: Submission) -> None:
    path = submission.folder / "submission.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "created": 1e9}))


def test_a_cancelled_task_that_slurm_does_not_know_stays_cancelled(
    submission: Submission, tmp_path: Path
) -> None:
    _make_old(submission)
    record_cancel(submission, [1])
    running = Told(_job(submission, 0, "RUNNING"))
    assert _state(tmp_path, "r1", running)[0] is State.cancelled
    assert _state(tmp_path, "r0", running)[0] is State.running
    ended = Told(_job(submission, 0, "CANCELLED"))
    assert _state(tmp_path, "r0", ended)[0] is State.cancelled
    assert json.loads((submission.folder / "ended.json").read_text())["states"] == {
        "0": "CANCELLED",
        "1": "CANCELLED",
    }


def test_a_task_that_lives_although_it_was_to_be_cancelled_is_told_as_it_is(
    submission: Submission, tmp_path: Path
) -> None:
    record_cancel(submission, [0])
    assert _state(tmp_path, "r0", Told(_job(submission, 0, "PENDING")))[0] is State.queued


def test_restarts_are_told_when_slurm_has_forgotten_the_job(submission: Submission, tmp_path: Path) -> None:
    with Attempt.open(tmp_path / "runs" / "r0") as attempt:
        attempt.event(Kind.trained, step=1)
    told = Told(_job(submission, 0, "COMPLETED", restarts=2), _job(submission, 1, "COMPLETED"))
    assert _state(tmp_path, "r0", told) == (State.finished, 2)
    assert _state(tmp_path, "r0", Told()) == (State.finished, 2)
    assert _state(tmp_path, "r1", Told())[1] == 0


def test_no_job_is_lost_while_slurm_does_not_answer(submission: Submission, tmp_path: Path) -> None:
    _make_old(submission)
    assert _state(tmp_path, "r0", Told(silence="no route to host"))[0] is State.queued
    assert _state(tmp_path, "r0", Told())[0] is State.failed  # asked, and unknown for long
