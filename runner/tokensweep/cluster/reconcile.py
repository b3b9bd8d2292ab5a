"""What became of the runs of a store: their ledgers joined with what SLURM says of their jobs.

A ledger knows what a worker did, SLURM knows whether one is still to come. Neither is asked to be complete:
SLURM's accounting lags, forgets after a while, and may not answer at all, and a worker may die without a
word. Asking is safe to repeat, and the only things written are job numbers that nobody was there to hear,
and how submissions ended.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from tokensweep.cluster.jobstate import JobState
from tokensweep.cluster.scheduler import Scheduler, SlurmError
from tokensweep.cluster.submission import (
    Submission,
    if_nobody_submits,
    record_end,
    record_job,
    submissions,
)
from tokensweep.ledger import RunRecord, Status
from tokensweep.worker import Failure

NOT_SUBMITTED = "NOT_SUBMITTED"  # the shell died, or sbatch refused
_CANCELLED = "CANCELLED"
_LOST = "LOST"
_LOST_S = 600.0  # after that, a job that SLURM does not know is gone
_NEVER = "DependencyNeverSatisfied"  # SLURM cancels such a job within a minute or so
_ON_A_NODE = ("RUNNING", "COMPLETING", "CONFIGURING")


class State(StrEnum):
    """State of a run, as people ask for it."""

    planned = "planned"
    queued = "queued"
    running = "running"
    finished = "finished"
    failed = "failed"
    cancelled = "cancelled"
    pruned = "pruned"  # a search gave it up
    interrupted = "interrupted"
    unreadable = "unreadable"  # its folder is damaged


@dataclass(frozen=True, kw_only=True)
class Seat:
    """A run's place in a submission. ``job`` is None where SLURM has not said anything of it."""

    submission: Submission
    index: int
    job: JobState | None
    silent: bool = False  # SLURM did not answer, which says nothing about the job

    @property
    def state(self) -> str:
        """SLURM's word for the task, or ours where it has none; empty when it is not known."""
        if self.job is not None:
            return self.job.state
        if self.submission.ended is not None:
            return self.submission.ended.get(str(self.index), NOT_SUBMITTED)
        if self.index in self.submission.cancelled:
            return _CANCELLED
        # A clock that is wrong by more than this makes a job that SLURM does not know old, never young.
        is_old = abs(time.time() - self.submission.created) > _LOST_S
        return _LOST if is_old and not self.silent else ""

    @property
    def alive(self) -> bool:
        """Whether the task runs or will run, as far as is known."""
        if self.job is not None:
            return self.job.alive and self.job.reason != _NEVER
        return not self.state

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
    reports: Sequence[Submission] = ()  # that are still to come
    last: int = 0  # order of the newest submission
    silence: str = ""

    def of(self, stage: str, run_id: str) -> Sequence[Seat]:
        """Every place of a run in a stage, oldest first."""
        return self.seats.get((stage, run_id), ())

    def alive(self, stage: str, run_id: str) -> Seat | None:
        """The newest place that will still do something."""
        return next((seat for seat in reversed(self.of(stage, run_id)) if seat.alive), None)


def look(store: Path, scheduler: Scheduler, *, alone: bool = False) -> Queue:
    """Ask SLURM once about all submissions of a store that have not ended, if there are any.

    ``alone`` says that the caller holds the right to submit, so a submission without a job was given up.
    """
    known = sorted(submissions(store), key=lambda submission: submission.order)
    if not alone and any(one.ended is None and one.job_id is None for one in known):
        with if_nobody_submits(store) as nobody:  # and read again: it may just have got its job
            if nobody:
                return look(store, scheduler, alone=True)
    waiting = [submission for submission in known if submission.ended is None]
    if not waiting:
        return _queue(known, {})
    if not os.access(store / "sweeps", os.W_OK):
        return _queue(known, {}, silence="this store is somebody else's, and SLURM tells only them")
    try:
        jobs = scheduler.jobs([submission.job_name for submission in waiting])
    except SlurmError as error:
        return _queue(known, {}, silence=str(error))
    by_name: dict[str, list[JobState]] = defaultdict(list)
    for job in jobs.values():
        by_name[job.name].append(job)
    of_name = {one.job_name: _of_tasks(one, by_name[one.job_name]) for one in waiting}
    settled = [
        _settle(one, of_name[one.job_name], alone=alone) if one.ended is None else one for one in known
    ]
    return _queue(settled, of_name)


def _of_tasks(submission: Submission, own: Sequence[JobState]) -> dict[int, JobState]:
    """What SLURM says of each task. Tasks that it ended together before they began share one answer."""
    if len(submission.tasks) == 1:
        return dict.fromkeys((0,), own[0]) if own else {}
    whole = [job for job in own if job.task is None and not job.alive]
    shared = dict.fromkeys(range(len(submission.tasks)), whole[0]) if whole else {}
    return shared | {job.task: job for job in own if job.task is not None}


def _settle(submission: Submission, jobs: Mapping[int, JobState], *, alone: bool) -> Submission:
    """Write down what is certain of a submission: its job's number, and how it ended."""
    if submission.job_id is None and jobs:
        key = next(iter(jobs.values())).key
        submission = record_job(submission, key.partition("_")[0])
    if submission.job_id is None and alone:
        return record_end(submission, dict.fromkeys(map(str, range(len(submission.tasks))), NOT_SUBMITTED))
    states = dict.fromkeys(submission.cancelled, _CANCELLED)
    states |= {index: job.state for index, job in jobs.items()}
    if len(states) == len(submission.tasks) and not any(job.alive for job in jobs.values()):
        restarts = {str(index): job.restarts for index, job in jobs.items() if job.restarts}
        return record_end(submission, {str(index): s for index, s in states.items()}, restarts=restarts)
    return submission


def _queue(
    known: Sequence[Submission], of_name: Mapping[str, Mapping[int, JobState]], *, silence: str = ""
) -> Queue:
    seats: dict[tuple[str, str], list[Seat]] = defaultdict(list)
    reports: list[Submission] = []
    for submission in known:
        jobs = of_name.get(submission.job_name, {})
        for index, runs in enumerate(submission.tasks):
            seat = Seat(submission=submission, index=index, job=jobs.get(index), silent=bool(silence))
            for run_id in runs:
                seats[submission.stage, run_id].append(seat)
            if submission.stage == "report" and seat.alive:
                reports.append(submission)
    return Queue(
        seats=seats,
        reports=reports,
        last=max((one.order for one in known), default=0),
        silence=silence,
    )


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
    "LAUNCH_FAILED": (State.failed, Failure.submission, "SLURM could not start the job"),
    "REVOKED": (State.cancelled, "", "another cluster took the job"),
    _LOST: (State.failed, Failure.lost, "SLURM knows nothing of the job: cancelled before it began?"),
}
_NEVER_BEGAN = (
    State.failed,
    Failure.submission,
    "the job ended before a worker had begun: tokensweep logs RUN --job",
)


def run_state(run_id: str, record: RunRecord, queue: Queue, *, complete: bool) -> RunState:
    """The state of a run. What is finished is finished; a job that is alive counts before an old failure."""
    stage = "train" if record.trained_step is None else "evaluate"
    seats = [seat for seat in queue.of(stage, run_id) if seat.alive or seat.state != NOT_SUBMITTED]
    seat = queue.alive(stage, run_id) or (seats[-1] if seats else None)
    places = [place for any_stage in ("train", "evaluate") for place in queue.of(any_stage, run_id)]
    # SLURM's count, where there is one: to a worker, who cancels its job looks like a preemption.
    preempted = sum(place.restarts for place in places) if places else record.preempted
    known = _seen(seat, preempted=preempted)
    began = seat is None or record.attempts > seat.submission.attempts.get(run_id, 0)
    failed = record.status == Status.failed and began  # and not only before this submission
    if complete:
        return replace(known, state=State.finished, node="")
    if record.status == Status.running:
        return replace(known, state=State.running, stage=stage)
    if record.status == Status.pruned and (seat is None or not seat.alive):
        return replace(known, state=State.pruned)
    if seat is not None and seat.alive and not (failed and _is_left(seat)):
        return _alive(replace(known, stage=stage), seat)
    asks_for_more = record.status == Status.finished and began
    if seat is not None and not failed and not asks_for_more and seat.state in _ENDS:
        no_worker = not began or record.status in {Status.planned, Status.trained}
        without_reason = seat.state in {"FAILED", "COMPLETED"}
        state, error_class, reason = _NEVER_BEGAN if no_worker and without_reason else _ENDS[seat.state]
        return replace(known, state=state, reason=reason, error_class=error_class)
    if record.status == Status.failed:
        reason, error_class = record.error or "", record.error_class or ""
        return replace(known, state=State.failed, reason=reason, error_class=error_class)
    waits = record.status in {Status.planned, Status.trained, Status.finished}  # for more samples
    return replace(known, state=State.planned if waits else State.interrupted)


def _seen(seat: Seat | None, *, preempted: int) -> RunState:
    """What is true of a run whatever its state is."""
    job = seat.job if seat is not None else None
    return RunState(
        state=State.planned,
        job=seat.key if seat is not None else "",
        node=job.node if job is not None else "",
        preempted=preempted,
    )


def _is_left(seat: Seat) -> bool:
    """Whether a task that is alive has nothing more to do with a run that failed in it."""
    if seat.silent or seat.job is None:
        return True
    is_packed = len(seat.submission.tasks[seat.index]) > 1
    return seat.job.state == "COMPLETING" or (seat.job.state == "RUNNING" and is_packed)


def _alive(known: RunState, seat: Seat) -> RunState:
    """A run whose task runs or waits, although no worker is on it at this moment."""
    job = seat.job
    if job is None:
        reason = "SLURM does not answer" if seat.silent else "SLURM does not know the job yet"
        return replace(known, state=State.queued, reason=reason)
    if job.state not in _ON_A_NODE:
        return replace(known, state=State.queued, reason=job.reason or job.state.lower())
    if len(seat.submission.tasks[seat.index]) > 1:
        return replace(known, state=State.queued, reason="behind other runs of its job")
    return replace(known, state=State.running, reason="starting" if job.state != "COMPLETING" else "ending")
