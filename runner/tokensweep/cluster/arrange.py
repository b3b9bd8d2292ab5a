"""Which job arrays a sweep still needs: pure decisions, before anything is written or submitted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tokensweep.cluster.reconcile import Queue
from tokensweep.cluster.site import Request, Site, site_request
from tokensweep.ledger import RunRecord


@dataclass(frozen=True, kw_only=True)
class Need:
    """A run that is not complete, and what its jobs have to know; or an element of a search."""

    run_id: str
    trained: bool
    train: Request
    evaluate: Request | None  # None: nothing to evaluate
    threads: int
    hang_s: int
    attempts: int = 0  # so far: what a worker said in one of these is not about the jobs to come


@dataclass(frozen=True, kw_only=True)
class Array:
    """A job array that is to be submitted. ``after`` are positions of arrays in the same list."""

    stage: str
    request: Request
    tasks: tuple[tuple[str, ...], ...]  # run ids; a task works on its runs one after the other
    throttle: int  # tasks at a time
    after: tuple[int, ...] = ()
    after_jobs: tuple[str, ...] = ()  # jobs that are in the queue already
    task_by_task: bool = False  # each task waits for the one of its number, and for its success

    def dependency(self, job_ids: Sequence[str]) -> str | None:
        """sbatch's word for what it waits for; ``job_ids`` are those of the arrays before."""
        jobs = [*(job_ids[position] for position in self.after), *self.after_jobs]
        if not jobs:
            return None
        kind = ("aftercorr" if len(self.tasks) > 1 else "afterok") if self.task_by_task else "afterany"
        return f"{kind}:{':'.join(jobs)}"


def need(
    run_id: str,
    *,
    site: Site,
    record: RunRecord,
    evaluates: bool,
    resources: Mapping[str, Any],
    compute: Mapping[str, Any],
) -> Need:
    """What a run needs at a site; ``resources`` and ``compute`` are those of its config."""
    return Need(
        run_id=run_id,
        trained=record.trained_step is not None,
        attempts=record.attempts,
        train=site_request(site, "train", resources.get("train")),
        evaluate=site_request(site, "evaluate", resources.get("evaluate")) if evaluates else None,
        threads=compute["threads"],
        hang_s=compute["hang_s"],
    )


def arrange(
    needs: Iterable[Need],
    *,
    sweep: str,
    queue: Queue,
    site: Site,
    room: int,
    longest: int,
    workers: int,
    stage: str = "train",
) -> list[Array]:
    """The arrays that are missing of a sweep, in the order in which they are submitted.

    ``room`` is how many jobs the queue takes of this user now, ``longest`` how many tasks an array may
    have, ``workers`` how many runs may work at a time (0: any number). Where there is not enough
    room for a task each, runs share tasks. ``stage`` is what comes first: of a search, everything that an
    element does. Raises ValueError when there is no room at all.
    """
    fresh: dict[tuple[Request, Request | None], list[str]] = defaultdict(list)
    later: dict[tuple[Request, str], list[str]] = defaultdict(list)  # evaluations of what others train
    living: dict[str, int] = {}  # jobs that work on these runs already, for which the report waits, too
    for one in needs:
        training = queue.alive(stage, one.run_id)
        evaluation = queue.alive("evaluate", one.run_id)
        living |= {
            seat.submission.job_id: seat.submission.order
            for seat in (training, evaluation)
            if seat is not None and seat.submission.job_id is not None
        }
        if not one.trained and training is None:
            fresh[one.train, one.evaluate].append(one.run_id)
        elif one.evaluate is not None and evaluation is None:
            job = training.submission.job_id if training is not None and not one.trained else None
            later[one.evaluate, job or ""].append(one.run_id)
    reported = max((one.order for one in queue.reports if one.sweep == sweep), default=0)
    if not fresh and not later and max(living.values(), default=0) <= reported:
        return []
    share = _share(fresh, later, room=room)
    arrays: list[Array] = []
    for (train, evaluate), runs in fresh.items():
        first = len(arrays)
        chunks = _chunks(_dealt(runs, share=share), longest)
        arrays += _throttled(chunks, stage, train, workers=workers, first=first)
        if evaluate is not None:
            arrays += [_evaluation(arrays[at], at, evaluate) for at in range(first, first + len(chunks))]
    for (evaluate, job), runs in later.items():
        chunks = _chunks(_dealt(runs, share=share), longest)
        made = _throttled(chunks, "evaluate", evaluate, workers=workers, first=len(arrays))
        arrays += [replace(chunk, after_jobs=(job,) if job else ()) for chunk in made]
    last = [position for position, array in enumerate(arrays) if not any(position in a.after for a in arrays)]
    report = Array(
        stage="report",
        request=site_request(site, "report"),
        tasks=((),),
        throttle=1,
        after=tuple(last),
        after_jobs=tuple(sorted(living)),
    )
    return [*arrays, report]


def _share(
    fresh: Mapping[tuple[Request, Request | None], Sequence[str]],
    later: Mapping[tuple[Request, str], Sequence[str]],
    *,
    room: int,
) -> float:
    """Tasks per run, at most 1, so that all arrays and the report find room."""
    wanted = sum(len(runs) * (2 if evaluate else 1) for (_, evaluate), runs in fresh.items())
    wanted += sum(len(runs) for runs in later.values())
    least = sum(2 if evaluate else 1 for _, evaluate in fresh) + len(later) + 1
    if room < least:
        raise ValueError(
            f"the queue must take at least {least} more jobs of yours for this sweep, and has room for "
            f"{room}: wait until others have ended, or cancel some (tokensweep status)"
        )
    return 1.0 if room > wanted else (room - least) / wanted


def _dealt(runs: Sequence[str], *, share: float) -> list[tuple[str, ...]]:
    """Runs dealt out to tasks like cards, one each where there is room."""
    width = max(1, min(len(runs), int(len(runs) * share) or 1))
    return [tuple(runs[start::width]) for start in range(width)]


def _chunks(tasks: Sequence[tuple[str, ...]], longest: int) -> list[tuple[tuple[str, ...], ...]]:
    return [tuple(tasks[start : start + longest]) for start in range(0, len(tasks), longest)]


def _throttled(
    chunks: Sequence[tuple[tuple[str, ...], ...]], stage: str, request: Request, *, workers: int, first: int
) -> list[Array]:
    """Arrays that together run at most ``workers`` tasks at a time: each has a share of them, or its turn."""
    lanes = min(workers or len(chunks), len(chunks))
    made = []
    for position, tasks in enumerate(chunks):
        lane = position % lanes
        throttle = workers // lanes + (lane < workers % lanes) if workers else len(tasks)
        turn = (first + position - lanes,) if position >= lanes and workers else ()
        made.append(
            Array(stage=stage, request=request, tasks=tasks, throttle=min(throttle, len(tasks)), after=turn)
        )
    return made


def _evaluation(training: Array, position: int, request: Request) -> Array:
    """The array that evaluates what the array at ``position`` trains."""
    return Array(
        stage="evaluate",
        request=request,
        tasks=training.tasks,
        throttle=training.throttle,
        after=(position,),
        task_by_task=all(len(runs) == 1 for runs in training.tasks),
    )
