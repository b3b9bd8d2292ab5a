"""Submissions: what was handed to SLURM, each in a folder of its sweep, written before sbatch is called.

``<store>/sweeps/<name>/submissions/0003/`` holds ``submission.json`` (which task works on which runs, and
under which job name SLURM knows it), ``job.json`` once sbatch has answered with a number, ``cancelled.json``
when a person took tasks out of the queue, and ``ended.json`` once SLURM has said how every task ended. A
shell that dies between two of these loses nothing: the job name is unique, so a job that was submitted
without a ``job.json`` is found by it.

Two locks in ``<store>/sweeps`` tell who is at work: ``.submitting`` of the one process that submits, and
``.sbatch`` of its sbatch, which may outlive it by seconds.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokensweep.files import write_json
from tokensweep.identity import read_json

_WANTED, _JOB, _CANCELLED, _ENDED = "submission.json", "job.json", "cancelled.json", "ended.json"


@dataclass(frozen=True, kw_only=True)
class Submission:
    """One array of jobs, or a single one."""

    folder: Path
    job_name: str  # unique
    sweep: str
    stage: str
    tasks: tuple[tuple[str, ...], ...]  # run ids, worked on one after the other; empty for a report
    order: int  # of all submissions of a store; times are of different clocks
    created: float  # seconds since the epoch
    snapshot: str | None  # folder of the code that runs
    site: str  # as it was given
    job_id: str | None = None  # None: sbatch has not answered, or nobody was there to hear it
    cancelled: frozenset[int] = frozenset()  # tasks that a person cancelled
    ended: Mapping[str, str] | None = None  # state of every task, once all have ended
    restarts: Mapping[str, int] = field(default_factory=dict)  # how often each was, once all have ended
    attempts: Mapping[str, int] = field(default_factory=dict)  # that each run had before

    def task_of(self, run_id: str) -> int | None:
        """The task that works on a run."""
        return next((index for index, runs in enumerate(self.tasks) if run_id in runs), None)

    def task_key(self, index: int) -> str | None:
        """How SLURM calls a task: ``123_4``, or ``123`` for a single job."""
        if self.job_id is None:
            return None
        return f"{self.job_id}_{index}" if len(self.tasks) > 1 else self.job_id


def new_submission(
    store: Path,
    *,
    sweep: str,
    stage: str,
    order: int,
    tasks: Sequence[Sequence[str]],
    snapshot: str | None,
    site: str,
    more: Mapping[str, Any],
) -> Submission:
    """Record what will be submitted; ``more`` is what a task needs to know besides.

    ``order`` is larger than that of every submission of the store.
    """
    root = store / "sweeps" / sweep / "submissions"
    root.mkdir(parents=True, exist_ok=True)
    folder = _claim(root)
    content = {
        "job_name": f"ts-{sweep}-{stage}-{folder.name}-{secrets.token_hex(3)}",
        "sweep": sweep,
        "stage": stage,
        "order": order,
        "tasks": [list(runs) for runs in tasks],
        "created": time.time(),
        "snapshot": snapshot,
        "site": site,
        "submitted_by": {"pid": os.getpid(), "host": socket.gethostname()},
        **more,
    }
    write_json(folder / _WANTED, content)
    return read_submission(folder)


def _claim(root: Path) -> Path:
    """The folder of the next number; making it is the claim."""
    number = max((int(path.name) for path in root.iterdir() if path.name.isdecimal()), default=-1) + 1
    while True:
        try:
            (root / f"{number:04d}").mkdir()
        except FileExistsError:
            number += 1
        else:
            return root / f"{number:04d}"


def record_job(submission: Submission, job_id: str) -> Submission:
    """Remember the number that SLURM gave."""
    write_json(submission.folder / _JOB, {"job_id": job_id})
    return read_submission(submission.folder)


def record_cancel(submission: Submission, tasks: Iterable[int]) -> Submission:
    """Remember that tasks are cancelled: of one that never began, SLURM soon knows nothing any more."""
    tasks = submission.cancelled.union(tasks)
    write_json(submission.folder / _CANCELLED, {"tasks": sorted(tasks)})
    return read_submission(submission.folder)


def record_end(
    submission: Submission, states: Mapping[str, str], *, restarts: Mapping[str, int] | None = None
) -> Submission:
    """Remember how every task ended and how often it had started again, for when SLURM has forgotten it."""
    write_json(submission.folder / _ENDED, {"states": dict(states), "restarts": dict(restarts or {})})
    return read_submission(submission.folder)


def read_submission(folder: Path) -> Submission:
    """A submission from its folder. Raises ValueError that names a file that is missing or damaged."""
    wanted = read_json(folder / _WANTED)
    job = read_json(folder / _JOB) if (folder / _JOB).is_file() else {}
    ended = read_json(folder / _ENDED) if (folder / _ENDED).is_file() else {}
    cancelled = read_json(folder / _CANCELLED)["tasks"] if (folder / _CANCELLED).is_file() else ()
    return Submission(
        folder=folder,
        job_name=wanted["job_name"],
        sweep=wanted["sweep"],
        stage=wanted["stage"],
        tasks=tuple(tuple(runs) for runs in wanted["tasks"]),
        order=wanted["order"],
        created=wanted["created"],
        snapshot=wanted["snapshot"],
        site=wanted["site"],
        job_id=job.get("job_id"),
        cancelled=frozenset(cancelled),
        ended=ended.get("states"),
        restarts=ended.get("restarts", {}),
        attempts={run_id: own["attempts"] for run_id, own in wanted.get("runs", {}).items()},
    )


def submissions(store: Path, *, sweep: str | None = None) -> Iterator[Submission]:
    """All submissions of a sweep, or of a store, oldest first in each sweep.

    A folder without ``submission.json`` is of a shell that died before it meant to submit anything.
    """
    for path in sorted((store / "sweeps").glob(f"{sweep or '*'}/submissions/*/{_WANTED}")):
        yield read_submission(path.parent)


@contextmanager
def submitting(store: Path) -> Iterator[None]:
    """Only one process submits from a store at a time; others wait, also for an sbatch that outlived its."""
    (store / "sweeps").mkdir(parents=True, exist_ok=True)
    with ExitStack() as locks:
        _lock(store, locks, wait=True)
        yield


@contextmanager
def if_nobody_submits(store: Path) -> Iterator[bool]:
    """Whether nobody submits from a store; then nobody does while the block lasts."""
    with ExitStack() as locks:
        try:
            _lock(store, locks, wait=False)
        except (BlockingIOError, PermissionError):  # or somebody else's store: not for us to say
            yield False
        else:
            yield True


def sbatch_lock(store: Path) -> Path:
    """What an sbatch of a store holds while it works."""
    return store / "sweeps" / ".sbatch"


def _lock(store: Path, locks: ExitStack, *, wait: bool) -> None:
    mode = fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB
    for path in (store / "sweeps" / ".submitting", sbatch_lock(store)):
        fcntl.flock(file := locks.enter_context(path.open("a")), mode)
    fcntl.flock(file, fcntl.LOCK_UN)  # was waited for, and is needed by our own sbatch
