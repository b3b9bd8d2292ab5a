"""Hands a sweep to SLURM: decides what is missing, records what it wants, calls sbatch, and is done.

Every step can be the last one of this process: what was recorded is found by the next call, which submits
the rest. Submitting again while jobs live attaches to them; two calls at once take turns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import submitit

from tokensweep.cluster.arrange import Array, Need, arrange
from tokensweep.cluster.reconcile import Queue, look
from tokensweep.cluster.sbatch import batch_text, executor, job_options, setup_lines, submit
from tokensweep.cluster.scheduler import Scheduler, SlurmError
from tokensweep.cluster.site import Site
from tokensweep.cluster.snapshot import Snapshot
from tokensweep.cluster.submission import (
    Submission,
    new_submission,
    record_job,
    sbatch_lock,
    submitting,
)
from tokensweep.cluster.task import Task
from tokensweep.paths import TRACKING_VARIABLE


@dataclass(frozen=True, kw_only=True)
class Order:
    """A sweep on its way to a site: what every submission of it shares."""

    store: Path
    sweep: str
    site: Site
    site_name: str  # as it was given, absolute if it is a file
    needs: Sequence[Need]
    workers: int  # runs at a time; 0: what the site says
    stage: str = "train"  # what a run needs first; ``search`` for elements
    tracking_uri: str = ""  # may hold a password: goes to the jobs in their environment, into no file

    def arrays(self, queue: Queue, *, scheduler: Scheduler) -> list[Array]:
        """What has to be submitted as things stand. Raises ValueError when the queue has no room."""
        site = self.site
        limits = scheduler.limits(account=site.account, qos=site.qos, partition=site.partition)
        return arrange(
            self.needs,
            sweep=self.sweep,
            queue=queue,
            site=site,
            room=limits.room,
            longest=limits.max_array_tasks,
            workers=self.workers or self.site.max_parallel,
            stage=self.stage,
        )

    def executor(
        self, array: Array, folder: Path, *, name: str, dependency: str | None, snapshot: Snapshot
    ) -> submitit.SlurmExecutor:
        """submitit's executor for one array."""
        options = job_options(
            self.site, array.request, name=name, throttle=array.throttle, dependency=dependency
        )
        setup = setup_lines(self.site, snapshot.environment)
        return executor(folder, options, setup=setup, python=self.site.python)


def submit_missing(order: Order, snapshot: Snapshot, scheduler: Scheduler) -> list[Submission]:
    """Submit every array that is missing; gives back what was submitted, in order.

    Raises SlurmError when SLURM does not answer (nothing is submitted then: what lives could not be told),
    and ValueError with sbatch's words when it refuses; what was submitted before that stays.
    """
    with submitting(order.store):
        queue = look(order.store, scheduler, alone=True)
        if queue.silence:
            raise SlurmError(f"nothing was submitted, give the command again later: {queue.silence}")
        made: list[Submission] = []
        for array in order.arrays(queue, scheduler=scheduler):
            made.append(_submit(order, array, queue, made, snapshot=snapshot))
    return made


def _submit(
    order: Order, array: Array, queue: Queue, before: Sequence[Submission], *, snapshot: Snapshot
) -> Submission:
    job_ids = [one.job_id or "" for one in before]
    submission = new_submission(
        order.store,
        sweep=order.sweep,
        stage=array.stage,
        order=queue.last + len(before) + 1,
        tasks=array.tasks,
        snapshot=str(snapshot.folder),
        site=order.site_name,
        more=_for_the_task(order, array),
    )
    made = order.executor(
        array,
        submission.folder / "submitit",
        name=submission.job_name,
        dependency=array.dependency(job_ids),
        snapshot=snapshot,
    )
    secret = {TRACKING_VARIABLE: order.tracking_uri} if array.stage == "report" else {}
    # An error does not say that there is no job: a controller that is late may still take it. The next call
    # asks for it by name.
    job_id = submit(
        made,
        Task(submission.folder),
        tasks=len(array.tasks),
        environment=secret,
        lock=sbatch_lock(order.store),
    )
    return record_job(submission, job_id)


def _for_the_task(order: Order, array: Array) -> Mapping[str, Any]:
    """What a task has to know, and what a retry will ask for again."""
    runs = {run_id for task in array.tasks for run_id in task}
    return {
        "request": asdict(array.request),
        "minutes": array.request.minutes,
        "signal_s": order.site.signal_s,
        "restarts": order.site.restarts,
        "runs": {
            n.run_id: {"threads": n.threads, "hang_s": n.hang_s, "attempts": n.attempts}
            for n in order.needs
            if n.run_id in runs
        },
    }


def write_batch_files(order: Order, folder: Path, *, snapshot: Snapshot, scheduler: Scheduler) -> list[Path]:
    """The batch files that :func:`submit_missing` would submit now; ids of jobs to come are ``<name>``."""
    files: list[Path] = []
    names: list[str] = []
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.sh"):
        old.unlink()
    for array in order.arrays(look(order.store, scheduler), scheduler=scheduler):
        name = f"{len(names):02d}-{array.stage}"
        dependency = array.dependency([f"<{other}>" for other in names])
        made = order.executor(array, folder / name, name=name, dependency=dependency, snapshot=snapshot)
        path = folder / f"{name}.sh"
        path.write_text(batch_text(made, tasks=len(array.tasks)))
        names.append(name)
        files.append(path)
    return files
