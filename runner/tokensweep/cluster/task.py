"""What a job does on its node: start a worker, watch it, pass on signals, say how it ended.

A task is the parent of the worker that computes, so it can tell what a worker cannot tell of itself: that it
was killed, hangs, or left without finishing. It needs the path of its submission and nothing else, and it
leaves with an error when a run failed, so SLURM and whatever depends on the job see a failure.

Two signals ask a job to stop. SIGUSR2 comes some time before the time limit (``--signal``), on some clusters
also before a preemption: the worker writes a checkpoint, then the task puts itself back into the queue.
SIGTERM alone is a preemption, which SLURM requeues by itself, or ``scancel``, after which nothing may start
again: the worker writes a checkpoint and the task waits for its end. (SLURM takes a job that leaves within
the grace time of a preemption for COMPLETED or FAILED, and does not requeue it.)

The worker ends with its task, and the task puts itself back into the queue when SLURM's process above it
(slurmstepd) is gone: nobody else would notice, and the job would go on without anybody in it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from tokensweep.cluster.rendezvous import rank_environment
from tokensweep.cluster.scheduler import Scheduler
from tokensweep.identity import read_json
from tokensweep.ledger import RunRecord, Status, close_dead, close_pruned, is_alive, read_run
from tokensweep.worker import PREEMPTED, STOP_SIGNALS, Failure, Stage, start_worker

_POLL_S = 0.5
_BEFORE_END_S = 5.0  # of the warning time, kept for requeueing
_EARLY_S = 90.0  # SLURM looks at time limits once a minute or so
_GRACE_S = 10.0  # for a worker of this machine to save a checkpoint
_PATIENCE_S = 180.0  # for SLURM to end a job that it has asked to
_WELL = (Status.finished, Status.trained)  # what a worker says that has done what it knew of
_AGAIN = (Failure.killed, Failure.hang)  # worth another go on the same node


class RunFailedError(Exception):
    """A run of this task failed; its ledger says why."""


@dataclass(frozen=True)
class Task:
    """One element of a submitted array. A path only, so it pickles."""

    submission: Path

    def __call__(self, index: int) -> None:
        """Work on the runs of element ``index``. Raises RunFailedError naming those that failed."""
        wanted = read_json(self.submission / "submission.json")
        store, sweep = self.submission.parents[3], self.submission.parents[1].name
        if wanted["stage"] == "report":
            _report(store, sweep)
            return
        rank = int(os.environ.get("SLURM_PROCID", 0))
        job = Job(wanted=wanted, stop=Stop.installed(), ranks=int(os.environ.get("SLURM_NTASKS", 1)))
        failures = []
        for name in wanted["tasks"][index]:
            try:
                if wanted["stage"] == "search":
                    _search(store, sweep, name, job, rank=rank)
                else:
                    (job.help_with if rank else job.work)(store / "runs" / name)
            except RunFailedError as failure:
                print(f"tokensweep: {failure}", flush=True)
                failures.append(str(failure))
        if failures:
            raise RunFailedError("; ".join(failures))


def _report(store: Path, sweep: str) -> None:
    """The tables of a sweep, for whoever opens its folder. MLflow only over HTTP: no SQLite from a node."""
    from rich.console import Console

    from tokensweep.orchestrate import show_report
    from tokensweep.paths import tracking_uri

    uri = tracking_uri()
    show_report(
        store, sweep, tracking_uri=uri if uri.startswith("http") else None, console=Console(width=160)
    )


def _search(store: Path, sweep: str, name: str, job: Job, *, rank: int) -> None:
    """Work as an element of a search, or help its rank 0. Raises RunFailedError when a trial failed."""
    from tokensweep.search.crew import Crew
    from tokensweep.search.element import Element
    from tokensweep.search.spec import search_folder

    folder, number = search_folder(store, sweep), int(name.rpartition("/")[2])
    crew = Crew.of(folder, number, os.environ)
    if rank:
        for run_id in crew.calls():
            job.help_with(store / "runs" / run_id)
        return

    def work(run_dir: Path, hopeless: Callable[[], str] = lambda: "") -> bool:
        if job.ranks > 1:
            crew.call(run_dir.name)
        return job.work(run_dir, hopeless)

    is_well = Element(folder, number).work(work)
    if job.ranks > 1:
        crew.call(None)
    if not is_well:
        raise RunFailedError(f"a trial of element {name} failed: tokensweep status {sweep} --runs")


@dataclass
class Stop:
    """Signals that asked this job to stop."""

    received: list[int] = field(default_factory=list)
    since: float = 0.0  # monotonic seconds of the first

    @classmethod
    def installed(cls) -> Stop:
        """Handlers for this process, instead of submitit's: those count short jobs as timed out."""
        stop = cls()
        for number in STOP_SIGNALS:
            signal.signal(number, stop._take)
        return stop

    def _take(self, number: int, _: object) -> None:
        self.since = self.since or time.monotonic()
        self.received.append(number)

    def __bool__(self) -> bool:
        return bool(self.received)

    def lost_parent(self) -> None:
        """As a warning signal: nobody is there any more who could pass one on."""
        if signal.SIGUSR2 not in self.received:
            self._take(signal.SIGUSR2, None)

    @property
    def requeues(self) -> bool:
        """Whether this job has to put itself back into the queue."""
        return signal.SIGUSR2 in self.received


@dataclass(frozen=True, kw_only=True)
class Job:
    """What all runs of a task share."""

    wanted: Mapping[str, Any]
    stop: Stop
    ranks: int = 1  # tasks that srun has started, each with a worker; rank 0 keeps the books
    started: float = field(default_factory=time.monotonic)
    parent: int = field(default_factory=os.getppid)  # slurmstepd
    brought_on: set[str] = field(default_factory=set)  # runs with more on disk than when the job started
    of_scheduler: bool = True  # whether SLURM started this process, and can start it again

    @classmethod
    def here(cls, stop: Stop, *, threads: int) -> Job:
        """For a process of this machine that is an element of a search."""
        every = {"threads": threads, "hang_s": 0}
        wanted = {"stage": "search", "runs": {"": every}, "restarts": 1, "signal_s": _GRACE_S + _BEFORE_END_S}
        return cls(wanted=wanted, stop=stop, of_scheduler=False)

    @property
    def stage(self) -> Stage:
        return Stage.all if self.wanted["stage"] == "search" else Stage(self.wanted["stage"])

    def work(self, run_dir: Path, hopeless: Callable[[], str] = lambda: "") -> bool:
        """Bring a run to the end of the stage, and give back whether it is there; raises RunFailedError.

        It is not when ``hopeless``, which is asked all the time, gave a reason to give it up; then that is in
        its ledger.
        """
        restarts = 0
        before = read_run(run_dir)
        while not _done(run_dir, self.stage):
            self._wait_for_others(run_dir)
            if _done(run_dir, self.stage):
                break
            if self.stage is Stage.evaluate and read_run(run_dir).trained_step is None:
                raise RunFailedError(f"{run_dir.name} is not evaluated: its training did not end well")
            start = read_run(run_dir)
            if self.stop:
                self._leave(run_dir)
            worker = self._start(run_dir)
            watched = self._watch(worker, run_dir, hopeless=hopeless)
            if _got_further(before, read_run(run_dir)):
                self.brought_on.add(run_dir.name)
            if _done(run_dir, self.stage):
                break
            if watched.given_up:
                close_pruned(run_dir, watched.given_up)
                return False
            if self.stop:
                self._leave(run_dir)
            if read_run(run_dir).status in _WELL and _got_further(start, read_run(run_dir)):
                continue  # more samples were asked for meanwhile
            failure = _account(run_dir, worker.returncode, hung=watched.hung, attempts=start.attempts)
            again = self.wanted["restarts"] if self.ranks == 1 else 0  # ranks have to start together
            if failure not in _AGAIN or restarts >= again:
                raise RunFailedError(f"{run_dir.name} failed ({failure}): {read_run(run_dir).error}")
            restarts += 1
            print(f"tokensweep: {run_dir.name} is started again after: {failure}", flush=True)
        return True

    def help_with(self, run_dir: Path) -> None:
        """Train a run together with rank 0, which says what became of it. Raises RunFailedError."""
        if _done(run_dir, self.stage):
            return
        worker = self._start(run_dir)
        self._watch(worker, run_dir, hangs=False)
        if self.stop:
            time.sleep(_PATIENCE_S)  # rank 0 puts the job back into the queue
        if worker.returncode != 0:
            raise RunFailedError(f"{run_dir.name}: a rank ended with exit code {worker.returncode}")

    def _start(self, run_dir: Path) -> subprocess.Popen[bytes]:
        return start_worker(
            run_dir,
            threads=self._settings(run_dir)["threads"],
            stage=self.stage,
            environment=rank_environment(os.environ) if self.ranks > 1 else None,
            output=None,
            bound=True,
        )

    def _settings(self, run_dir: Path) -> Mapping[str, Any]:
        """How to start and watch the worker of a run; the runs of a search share them."""
        runs = self.wanted["runs"]
        return dict(runs[run_dir.name] if run_dir.name in runs else next(iter(runs.values())))

    def _wait_for_others(self, run_dir: Path) -> None:
        """Another job may work on the run, of another sweep or of a requeue that SLURM did twice."""
        while is_alive(run_dir):
            if self.stop:
                self._leave(run_dir)
            time.sleep(_POLL_S)

    def _watch(
        self,
        worker: subprocess.Popen[bytes],
        run_dir: Path,
        *,
        hangs: bool = True,
        hopeless: Callable[[], str] = lambda: "",
    ) -> _Watched:
        """Wait until a worker has ended, and end it when it hangs, time is up, or its run is hopeless."""
        hang_s = self._settings(run_dir)["hang_s"] if hangs else 0
        seen, last = _progress(run_dir), time.monotonic()
        told, given_up = 0, ""
        while worker.poll() is None:
            time.sleep(_POLL_S)
            now = time.monotonic()
            if self.of_scheduler and os.getppid() != self.parent:
                self.stop.lost_parent()
            for number in self.stop.received[told:]:
                worker.send_signal(number)
                told += 1
                name = signal.Signals(number).name
                print(f"tokensweep: {name}; the worker saves a checkpoint after its step", flush=True)
            if self.stop and now - self.stop.since > self.wanted["signal_s"] - _BEFORE_END_S:
                _kill(worker)  # its last checkpoint has to do
            if (mark := _progress(run_dir)) != seen:
                seen, last = mark, now
                if not given_up and (given_up := hopeless()):
                    worker.send_signal(signal.SIGTERM)
            if hang_s and now - last > hang_s:
                _kill(worker)
                return _Watched(hung=not given_up, given_up=given_up)
        return _Watched(given_up=given_up)

    def _leave(self, run_dir: Path) -> NoReturn:
        """End this job so that it goes on later, if it has to; never returns to the next run."""
        if not self.of_scheduler:
            raise SystemExit(PREEMPTED)
        if not self.stop.requeues:
            print("tokensweep: asked to end; the run goes on from its checkpoint", flush=True)
            self._wait_for_the_end()
        limit_s = self.wanted["minutes"] * 60.0 - self.wanted["signal_s"] - _EARLY_S
        timed_out = time.monotonic() - self.started > max(limit_s, 0.0)
        if timed_out and not self.brought_on:
            error = (
                f"a time limit of {self.wanted['minutes']} min passed without a checkpoint: raise "
                f"resources.{self.stage}.hours, or lower checkpoint.every"
            )
            close_dead(run_dir, error, error_class=Failure.timeout)
            raise SystemExit(f"tokensweep: {run_dir.name}: {error}")
        print(f"tokensweep: {'time is up' if timed_out else 'preempted'}; requeued", flush=True)
        Scheduler().requeue(_own_key(os.environ))
        time.sleep(_PATIENCE_S)
        raise SystemExit("tokensweep: SLURM did not requeue this job: give the sweep's command again")

    def _wait_for_the_end(self) -> None:
        """Wait until SLURM ends this job; returns when it is to be requeued after all."""
        deadline = time.monotonic() + _PATIENCE_S
        while not self.stop.requeues:
            if time.monotonic() > deadline:
                raise SystemExit(128 + signal.SIGTERM)
            time.sleep(_POLL_S)


@dataclass(frozen=True, kw_only=True)
class _Watched:
    """How the watch over a worker ended."""

    hung: bool = False
    given_up: str = ""  # why its run is not worth going on with


def _own_key(environment: Mapping[str, str]) -> str:
    """How SLURM calls this task: the job number of an array's last task is that of the whole array."""
    array, index = environment.get("SLURM_ARRAY_JOB_ID"), environment.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{index}" if array and index else environment["SLURM_JOB_ID"]


def _done(run_dir: Path, stage: Stage) -> bool:
    record = read_run(run_dir)
    if record.trained_step is None:
        return False
    return stage is Stage.train or not record.missing(read_json(run_dir / "plan.json")["evals"])


def _got_further(before: RunRecord, after: RunRecord) -> bool:
    """Whether something is durable that was not."""
    return after.durable_step > before.durable_step or dict(after.evaluated) != dict(before.evaluated)


def _progress(run_dir: Path) -> tuple[int, ...]:
    """Changes whenever a worker has got on: ledger and metrics grow, samples are written."""
    sizes = (path.stat().st_size for path in sorted(run_dir.glob("attempts/*/*.jsonl")))
    return (*sizes, len(list(run_dir.glob("evals/*/*"))))


def _kill(worker: subprocess.Popen[bytes]) -> None:
    worker.kill()
    worker.wait()


def _account(run_dir: Path, code: int, *, hung: bool, attempts: int) -> Failure:
    """Why a worker that ended did not finish; written down for those that could not say it themselves."""
    record = read_run(run_dir)
    if hung:
        failure, error = (
            Failure.hang,
            "no step and no sample for compute.hang_s seconds: see where its log ends",
        )
    elif record.attempts > attempts and record.error_class in set(Failure):
        return Failure(record.error_class)
    elif code < 0:
        name = signal.Signals(-code).name
        failure, error = Failure.killed, f"the worker was killed by {name}: out of memory, or by hand"
    elif code == 0:
        failure, error = Failure.unfinished, "the worker left with exit code 0 before it had finished"
    else:
        failure, error = (
            Failure.other,
            f"the worker ended with exit code {code}: see the end of the job's log",
        )
    close_dead(run_dir, error, error_class=failure)
    return failure
