"""What became of the runs of a store: their ledgers joined with what SLURM says of their jobs.

A ledger knows what a worker did, SLURM knows whether one is still to come. Neither is asked to be complete:
SLURM's accounting lags, forgets after a while, and may not answer at all, and a worker may die without a
word. Asking is safe to repeat, and the only things written are job numbers that nobody was there to hear,
and how submissions ended.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from tokensweep.cluster.jobstate import JobState
from tokensweep.cluster.scheduler import Scheduler, SlurmError
from tokensweep.cluster.submission import Submission, record_end, record_job, submissions
from tokensweep.ledger import RunRecord, Status
from tokensweep.worker import Failure

NOT_SUBMITTED = "NOT_SUBMITTED"  # the shell died, or sbatch refused
_CANCELLED = "CANCELLED"
_LOST = "LOST"
_LAG_S = 120.0  # SLURM may not know a job that was submitted so recently
_LOST_S = 600.0  # after that, a job that SLURM does not know is gone


class State(StrEnum):
    """State of a run, as people ask for it."""

    planned = "planned"
    queued = "queued"
    running = "running"
    finished = "finished"
    failed = "failed"
    cancelled = "cancelled"
    interrupted = "interrupted"


@dataclass(frozen=True, kw_only=True)
class Seat:
    """A run's place in a submission. ``job`` is None where SLURM has not said anything of it."""

    submission: Submission
    index: int
    job: JobState | None
    silent: bool = False  # SLURM was asked and did not answer

    @property
    def state(self) -> str:
        """SLURM's word for the task, or ours where it has none."""
        if self.job is not None:
            return self.job.state
        if self.submission.ended is not None:
            return self.submission.ended.get(str(self.index), NOT_SUBMITTED)
        if self.index in self.submission.cancelled:
            return _CANCELLED
        is_old = time.time() - self.submission.created > _LOST_S
        return _LOST if is_old and not self.silent else ""

    @property
    def alive(self) -> bool:
        """Whether the task runs or will run, as far as is known."""
        return self.job.alive if self.job is not None else not self.state

    @property
    def restarts(self) -> int:
        """How often the task was put back into the queue and started again."""
        known = self.submission.restarts.get(str(self.index), 0)
        return self.job.restarts if self.job is not None else known

    @property
    def key(self) -> str:
        """How SLURM calls the task."""
        return self.submission.task_key(self.index) or "not submitted"


@dataclass(frozen=True, kw_only=True)
class Queue:
    """All places that runs have or had, newest last. ``silence`` says why SLURM did not answer."""

    seats: Mapping[tuple[str, str], Sequence[Seat]] = field(default_factory=dict)
    reports: Sequence[Submission] = ()  # that have not ended
    silence: str = ""

    def of(self, stage: str, run_id: str) -> Sequence[Seat]:
        """Every place of a run in a stage, oldest first."""
        return self.seats.get((stage, run_id), ())

    def alive(self, stage: str, run_id: str) -> Seat | None:
        """The newest place that will still do something."""
        return next((seat for seat in reversed(self.of(stage, run_id)) if seat.alive), None)


def look(store: Path, scheduler: Scheduler, *, alone: bool = False) -> Queue:
    """Ask SLURM once about all submissions of a store that have not ended.

    ``alone`` says that nobody else is submitting, so one that has no job was given up.
    """
    known = sorted(submissions(store), key=lambda submission: submission.created)
    waiting = [submission for submission in known if submission.ended is None]
    if not waiting:
        return _queue(known, {})
    try:
        jobs = scheduler.jobs([submission.job_name for submission in waiting])
    except SlurmError as error:
        return _queue(known, {}, silence=str(error))
    of_name = {one.job_name: _of_tasks(one, jobs) for one in waiting}
    settled = [
        _settle(one, of_name[one.job_name], alone=alone) if one.ended is None else one for one in known
    ]
    return _queue(settled, of_name)


def _of_tasks(submission: Submission, jobs: Mapping[str, JobState]) -> dict[int, JobState]:
    """What SLURM says of each task. Tasks that it ended together before they began share one answer."""
    own = [job for job in jobs.values() if job.name == submission.job_name]
    if len(submission.tasks) == 1:
        return dict.fromkeys((0,), own[0]) if own else {}
    whole = [job for job in own if job.task is None and not job.alive]
    shared = dict.fromkeys(range(len(submission.tasks)), whole[0]) if whole else {}
    return shared | {job.task: job for job in own if job.task is not None}


def _settle(submission: Submission, jobs: Mapping[int, JobState], *, alone: bool) -> Submission:
    """Write down what is certain of a submission: its job's number, and how it ended."""
    age = time.time() - submission.created
    if submission.job_id is None and jobs:
        key = next(iter(jobs.values())).key
        submission = record_job(submission, key.partition("_")[0])
    if submission.job_id is None and (alone or age > _LAG_S):
        return record_end(submission, dict.fromkeys(map(str, range(len(submission.tasks))), NOT_SUBMITTED))
    states = dict.fromkeys(submission.cancelled, _CANCELLED)
    states |= {index: job.state for index, job in jobs.items()}
    if len(states) == len(submission.tasks) and not any(job.alive for job in jobs.values()):
        restarts = {str(index): job.restarts for index, job in jobs.items() if job.restarts}
        return record_end(submission, {str(index): s for index, s in states.items()}, restarts=restarts)
    return submission


def _queue(
    known: Iterable[Submission], of_name: Mapping[str, Mapping[int, JobState]], *, silence: str = ""
) -> Queue:
    seats: dict[tuple[str, str], list[Seat]] = defaultdict(list)
    known = list(known)
    for submission in known:
        jobs = of_name.get(submission.job_name, {})
        for index, runs in enumerate(submission.tasks):
            for run_id in runs:
                seat = Seat(submission=submission, index=index, job=jobs.get(index), silent=bool(silence))
                seats[submission.stage, run_id].append(seat)
    reports = [one for one in known if one.stage == "report" and one.ended is None]
    return Queue(seats=seats, reports=reports, silence=silence)


@dataclass(frozen=True, kw_only=True)
class RunState:
    """A run in one view."""

    state: State
    stage: str = ""  # train or evaluate, while it is queued or running
    job: str = ""  # SLURM's key of the job that works on it, or did last
    node: str = ""
    reason: str = ""  # why it waits, or what went wrong
    error_class: str = ""  # of a failure
    preempted: int = 0  # times that it was stopped and started again


_ENDS = {  # what SLURM says of a job whose worker said nothing
    _CANCELLED: (State.cancelled, "", "cancelled"),
    "TIMEOUT": (
        State.failed,
        Failure.timeout,
        "the time limit came before the worker had stopped: raise signal_s",
    ),
    "DEADLINE": (State.failed, Failure.timeout, "the job's deadline has passed"),
    "OUT_OF_MEMORY": (State.failed, Failure.oom, "SLURM ended the job: more memory than it had asked for"),
    "NODE_FAIL": (State.failed, Failure.node, "the node failed"),
    "BOOT_FAIL": (State.failed, Failure.node, "the node did not start"),
    "FAILED": (State.failed, Failure.other, "the job failed: see its log"),
    "COMPLETED": (State.failed, Failure.unfinished, "the job completed without finishing the run"),
    "PREEMPTED": (State.interrupted, "", "preempted, and not put back into the queue"),
    _LOST: (State.failed, Failure.node, "SLURM forgot the job: cancelled before it began?"),
}


def run_state(run_id: str, record: RunRecord, queue: Queue, *, complete: bool) -> RunState:
    """The state of a run. What is finished is finished; a job that is alive counts before an old failure."""
    stage = "train" if record.trained_step is None else "evaluate"
    seats = queue.of(stage, run_id)
    seat = queue.alive(stage, run_id) or (seats[-1] if seats else None)
    restarts = sum(place.restarts for stage in ("train", "evaluate") for place in queue.of(stage, run_id))
    known = _seen(record, seat, restarts=restarts)
    if complete:
        return replace(known, state=State.finished, node="")
    if record.status == Status.running:
        return replace(known, state=State.running, stage=stage)
    if seat is not None and seat.alive:
        return _alive(replace(known, stage=stage), seat)
    if record.status == Status.failed:
        reason, error_class = record.error or "", record.error_class or ""
        return replace(known, state=State.failed, reason=reason, error_class=error_class)
    if seat is not None and seat.state in _ENDS:
        state, error_class, reason = _ENDS[seat.state]
        return replace(known, state=state, reason=reason, error_class=error_class)
    waits = record.status in {Status.planned, Status.trained, Status.finished}  # for more samples
    return replace(known, state=State.planned if waits else State.interrupted)


def _seen(record: RunRecord, seat: Seat | None, *, restarts: int) -> RunState:
    """What is true of a run whatever its state is."""
    job = seat.job if seat is not None else None
    return RunState(
        state=State.planned,
        job=seat.key if seat is not None else "",
        node=job.node if job is not None else "",
        preempted=max(record.preempted, restarts),
    )


def _alive(known: RunState, seat: Seat) -> RunState:
    """A run whose task runs or waits, although no worker is on it at this moment."""
    job = seat.job
    if job is not None and job.state == "RUNNING":
        if len(seat.submission.tasks[seat.index]) > 1:
            return replace(known, state=State.queued, reason="behind other runs of its job")
        return replace(known, state=State.running, reason="starting")
    if job is not None and job.state == "COMPLETING":
        return replace(known, state=State.running, reason="ending")
    unknown = "SLURM does not answer" if seat.silent else "SLURM does not know the job yet"
    reason = job.reason if job is not None else unknown
    return replace(known, state=State.queued, reason=reason)
