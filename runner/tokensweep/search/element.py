"""One element of a search: asks the study when it starts, trains what it was given, tells what came of it.

On a cluster an element is a task of an array; on this machine it is a process of its own
(``python -m tokensweep.search.element FOLDER NUMBER``). Either may die at any moment: its trial is its own
until another element finds it gone, and the same element, started again, goes on with it.
"""

from __future__ import annotations

import argparse
import fcntl
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tokensweep.cluster.reconcile import Queue, look
from tokensweep.cluster.scheduler import Scheduler
from tokensweep.files import is_locked
from tokensweep.identity import code_sha, read_json
from tokensweep.ledger import read_events, read_run
from tokensweep.paths import storage_uri
from tokensweep.redact import redact
from tokensweep.search.spec import Search

if TYPE_CHECKING:
    from collections.abc import Callable

    from tokensweep.plan import Plan
    from tokensweep.search.study import Asked, Study

_FRESH_S = 5.0  # that an answer of SLURM's is good for
_PATIENCE_S = 1.0  # who asks whether an element works holds its lock for microseconds
_FAULTS_OF_THE_ARM = ("nan", "oom", "bad_config", "data")  # the same values would fail again


class Work(Protocol):
    """Brings a run to its end; false when ``hopeless`` gave a reason to give it up. May end the process."""

    def __call__(self, run_dir: Path, hopeless: Callable[[], str] = ...) -> bool: ...


@dataclass(frozen=True)
class Planned:
    """``search.json``: what elements start from."""

    search: Search
    base_sha: str  # of the config that trials start from
    code_sha: str
    config: Mapping[str, Any]  # that config, without what concerns the command

    @classmethod
    def read(cls, folder: Path) -> Planned:
        """Of the search in ``folder``. Raises ValueError for a damaged file."""
        node = read_json(folder / "search.json")
        return cls(Search.from_json(node["search"]), node["base_sha"], node["code_sha"], node["config"])


@dataclass(frozen=True)
class Element:
    """Element ``number`` of the search in ``folder``. Paths and numbers only, so it pickles."""

    folder: Path
    number: int

    @property
    def store(self) -> Path:
        """The store of the search."""
        return self.folder.parents[2]

    def work(self, work: Work) -> bool:
        """Work on a trial, and on those that dead elements left; whether none of them failed.

        Raises ValueError when the search was planned with other code, RuntimeError when another process is
        this element.
        """
        from tokensweep.compose import register_components
        from tokensweep.search.study import Study

        planned = Planned.read(self.folder)
        if code_sha() != planned.code_sha:
            raise ValueError(
                f"the code changed after {planned.search.name} was planned (now {code_sha()[:12]}, planned "
                f"{planned.code_sha[:12]}): trials of two codes cannot be compared; start another search "
                "with sweep=NAME"
            )
        register_components()
        all_well = True
        with _alone(self.folder, self.number):
            study = Study(planned.search, self.folder, steps=planned.config["steps"], uri=storage_uri())
            alive = Living(self.folder)
            asked = study.resume(self.number) or study.ask(self.number, is_alive=alive)
            if asked is None:
                print("tokensweep: no trial is left to do", flush=True)
            while asked is not None:
                all_well &= _Trial(self, planned, study, asked).work(work)
                asked = study.ask(self.number, is_alive=alive, only_waiting=True)
        return all_well


@dataclass(frozen=True)
class _Trial:
    """A trial at work."""

    element: Element
    planned: Planned
    study: Study
    asked: Asked

    def work(self, work: Work) -> bool:
        """Train and evaluate its runs, tell their mean; whether it did not fail."""
        print(f"tokensweep: {self.asked.arm}: {dict(self.asked.params)}", flush=True)
        try:
            plan = self._frozen()
        except ValueError as error:
            self.study.fail(self.asked, str(error), again=False)
            print(f"tokensweep: {self.asked.arm} cannot run: {error}", flush=True)
            return False
        run_dirs = [run.dir(self.element.store) for run in plan.runs]
        for place, run_dir in enumerate(run_dirs):
            if not self._run(run_dir, work, is_first=place == 0):
                return self._ended(run_dir)
        values = self._values(run_dirs)
        self.study.tell(self.asked, values)
        told = ", ".join(
            f"{name} {value:.4g}" for name, value in zip(self.planned.search.objectives, values, strict=True)
        )
        print(f"tokensweep: {self.asked.arm} told: {told}", flush=True)
        return True

    def _frozen(self) -> Plan:
        """The runs of the trial, written into the store. Raises ValueError when they cannot be planned."""
        from tokensweep.plan import make_plan, write_plan

        search = self.planned.search
        own = (*search.base, *search.space.overrides(self.asked.params))
        plan = make_plan(sweep_of(search, self.asked.arm, own, store=self.element.store))
        write_plan(plan)
        runs = {int(entry["seed"]): str(entry["run_id"]) for entry in plan.entries}
        self.study.name_runs(self.asked, runs)
        return plan

    def _run(self, run_dir: Path, work: Work, *, is_first: bool) -> bool:
        """Bring a run to its end. The first one, whose seed all trials share, decides about pruning."""
        from tokensweep.cluster.task import RunFailedError

        watch = _Watch(self, run_dir)
        try:
            is_done = work(run_dir, watch.hopeless) if is_first else work(run_dir)
        except RunFailedError as error:
            print(f"tokensweep: {error}", flush=True)
            return False
        if is_done and is_first:
            watch.report()  # the last steps; it is too late to give up
        return is_done

    def _ended(self, run_dir: Path) -> bool:
        """Tell that the trial has no value; whether that is no failure."""
        record = read_run(run_dir)
        if record.status == "pruned":
            reason = read_events(run_dir)[-1]["reason"]
            self.study.prune(self.asked, reason)
            print(f"tokensweep: {self.asked.arm} pruned: {reason}", flush=True)
            return True
        kind = record.error_class or "other"
        reason = f"{run_dir.name} failed ({kind}): {record.error}"
        self.study.fail(self.asked, reason, again=kind not in _FAULTS_OF_THE_ARM)
        return False

    def _values(self, run_dirs: Sequence[Path]) -> list[float]:
        from tokensweep.search.objective import values_of

        return values_of(self.planned.search.objectives, run_dirs)


class _Watch:
    """Whether a run is worth going on with: its training by the pruner, its evaluation by the best one's."""

    def __init__(self, trial: _Trial, run_dir: Path) -> None:
        from tokensweep.evaluate import SHARD_SAMPLES
        from tokensweep.search.objective import Curve
        from tokensweep.search.race import Race

        search = trial.planned.search
        rung, _ = search.rungs(trial.planned.config["steps"])
        self._trial = trial
        self._curve = Curve(run_dir, rung=rung, reported=trial.asked.reported)
        best = trial.study.best_run(search.seeds[0]) if search.stop_evaluation else None
        self._race = Race(
            run_dir,
            best=None if best is None else trial.element.store / "runs" / best,
            chance=search.stop_evaluation,
            shard=SHARD_SAMPLES,
        )

    def hopeless(self) -> str:
        """Why the run is to be given up, or nothing."""
        return self.report() or self._race.look()

    def report(self) -> str:
        """Tell the study how training goes, and hear whether it is to be given up.

        A study that is out of reach for a moment hears less, and nothing is given up meanwhile.
        """
        for step, value in self._curve.news():
            try:
                is_hopeless = self._trial.study.report(self._trial.asked, step, value)
            except ConnectionError as error:
                print(f"tokensweep: step {step} is not reported: {redact(str(error))}", flush=True)
                continue
            if is_hopeless:
                return f"{self._trial.planned.search.pruner} at step {step}: accuracy {value:.3f}"
        return ""


def sweep_of(search: Search, arm: str, overrides: Sequence[str], *, store: Path) -> Any:
    """The sweep whose only arm is a trial: a job per seed."""
    from tokensweep.sweepfile import Job, Sweep

    ends = (f"store={_quoted(store)}",)
    jobs = tuple(Job("", arm, (*overrides, f"seed={seed}", *ends)) for seed in search.seeds)
    return Sweep(
        name=search.name,
        jobs=jobs,
        scale=search.scale,
        paper=search.paper,
        question=search.question,
        note=search.note,
    )


def _quoted(path: Path) -> str:
    from tokensweep.sweepfile import to_overrides

    return to_overrides({"": str(path)})[0].removeprefix("=")


class Living:
    """Which elements of a search work, or are going to. SLURM is asked once in a few seconds."""

    def __init__(self, folder: Path, *, queue: Queue | None = None) -> None:
        """With a ``queue``, that is what SLURM says, and it is not asked."""
        self._folder, self._name = folder, folder.parent.name
        self._queue, self._asked = queue or Queue(), math.inf if queue else -math.inf

    def __call__(self, element: int) -> bool:
        """Whether a process is this element, or its job is still in the queue as far as is known."""
        if is_held(self._folder, element):
            return True
        places = self._look().of("search", seat_of(self._name, element))
        return any(place.alive for place in places)

    def known(self) -> list[int]:
        """Every element that was ever started or submitted."""
        started = {int(path.stem) for path in (self._folder / "elements").glob("*.lock")}
        seats = self._look().seats
        submitted = {
            int(seat.rpartition("/")[2])
            for stage, seat in seats
            if stage == "search" and seat.rpartition("/")[0] == self._name
        }
        return sorted(started | submitted)

    def _look(self) -> Queue:
        if time.monotonic() - self._asked > _FRESH_S:
            self._queue, self._asked = look(self._folder.parents[2], Scheduler()), time.monotonic()
        return self._queue


def seat_of(name: str, element: int) -> str:
    """What an element is called in a submission."""
    return f"{name}/{element:04d}"


def is_held(folder: Path, element: int) -> bool:
    """Whether a process is this element now."""
    return is_locked(_lock_of(folder, element))


def _lock_of(folder: Path, element: int) -> Path:
    return folder / "elements" / f"{element:04d}.lock"


@contextmanager
def _alone(folder: Path, element: int) -> Iterator[None]:
    """Be this element. Raises RuntimeError when another process is."""
    path = _lock_of(folder, element)
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + _PATIENCE_S
    with path.open("a") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    name = folder.parent.name
                    raise RuntimeError(f"another process is element {element} of {name} now") from None
                time.sleep(0.02)
        yield


def main() -> None:
    """Be an element on this machine; leaves with 1 when a trial failed."""
    from tokensweep.cluster.task import Job, Stop

    parser = argparse.ArgumentParser(prog="python -m tokensweep.search.element", description=main.__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("number", type=int)
    options = parser.parse_args()
    compute = Planned.read(options.folder).config["compute"]
    job = Job.here(Stop.installed(), threads=compute["threads"])
    try:
        is_well = Element(options.folder, options.number).work(job.work)
    except Exception as error:  # noqa: BLE001  one line for the log of the element; the run has its own
        print(f"tokensweep: {type(error).__name__}: {redact(str(error))}", file=sys.stderr)
        raise SystemExit(1) from None
    raise SystemExit(0 if is_well else 1)


if __name__ == "__main__":
    main()
