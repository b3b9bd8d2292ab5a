"""One view of a sweep while it works: what is done, runs, waits and failed. ``screen`` shows it to people."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tokensweep.cluster.reconcile import Queue, RunState, State, look, run_state
from tokensweep.cluster.scheduler import Scheduler
from tokensweep.files import last_lines, read_tail
from tokensweep.identity import read_json
from tokensweep.ledger import RunRecord, last_attempt, read_run
from tokensweep.search.spec import is_search
from tokensweep.search.standing import Standing, standing

_TAIL_LINES = 3
_RECENT_STEPS = 10  # that speed is taken over
OPEN = (State.running, State.queued)
TROUBLE = (State.failed, State.cancelled, State.interrupted, State.unreadable)


@dataclass(frozen=True, kw_only=True)
class RunRow:
    """A run of a sweep. Speeds are of the newest steps; None where there are none yet."""

    run_id: str
    setting: str
    arm: str
    seed: int
    state: RunState
    step: int
    steps: int
    reward: float | None = None  # of the newest step
    tokens_per_s: float | None = None  # sampled, over whole steps
    seconds_left: float | None = None  # of training, as fast as it is now
    attempts: int = 0
    log: str = ""  # last lines, of a run in trouble


@dataclass(frozen=True, kw_only=True)
class SweepStatus:
    """A sweep at a moment. ``silence`` says why SLURM did not answer, if it was asked and did not."""

    sweep: str
    rows: tuple[RunRow, ...]
    silence: str = ""
    search: Standing | None = None  # of a sweep whose arms are trials

    @property
    def open(self) -> bool:
        """Whether something runs or is going to."""
        at_work = self.search is not None and self.search.elements > 0
        return at_work or any(row.state.state in OPEN for row in self.rows)

    @property
    def complete(self) -> bool:
        """Whether every run is finished; of a search, whether every trial is told."""
        if self.search is not None:
            return self.search.told >= self.search.planned
        return all(row.state.state is State.finished for row in self.rows)

    def counts(self) -> Counter[str]:
        """Runs in each state."""
        return Counter(row.state.state.value for row in self.rows)

    def as_json(self) -> dict[str, Any]:
        """For programs: states that occur have a count, and a number that is none (NaN) is null."""
        rows = [{**asdict(row), **asdict(row.state)} for row in self.rows]
        return {
            "sweep": self.sweep,
            "silence": self.silence,
            "counts": dict(self.counts()),
            **({"search": asdict(self.search)} if self.search else {}),
            "runs": [{key: _finite(value) for key, value in row.items()} for row in rows],
        }


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def sweep_status(store: Path, name: str, scheduler: Scheduler, *, queue: Queue | None = None) -> SweepStatus:
    """The state of every run of a sweep. Raises ValueError when there is no such sweep.

    A run whose folder is damaged is ``unreadable`` and hides no other.
    """
    entries = read_json(store / "sweeps" / name / "sweep.json")["runs"]
    queue = queue or look(store, scheduler)
    rows = [_row(store, entry, queue) for entry in {entry["run_id"]: entry for entry in entries}.values()]
    search = standing(store, name, queue) if is_search(store, name) else None
    return SweepStatus(sweep=name, rows=tuple(rows), silence=queue.silence, search=search)


def state_of(run_dir: Path, queue: Queue) -> tuple[RunRecord, RunState]:
    """What the ledger says of a run, and its state with what SLURM says. Raises ValueError for damage."""
    record = read_run(run_dir)
    return record, _state(record, read_json(run_dir / "plan.json"), queue)


def _state(record: RunRecord, plan: Mapping[str, Any], queue: Queue) -> RunState:
    complete = record.trained_step is not None and not record.missing(plan["evals"])
    return run_state(record.run_id, record, queue, complete=complete)


def _row(store: Path, entry: Mapping[str, Any], queue: Queue) -> RunRow:
    run_dir = store / "runs" / str(entry["run_id"])
    row = RunRow(
        run_id=run_dir.name,
        setting=str(entry["setting"]),
        arm=str(entry["arm"]),
        seed=int(entry["seed"]),
        state=RunState(state=State.unreadable),
        step=0,
        steps=0,
    )
    try:
        return _filled(row, run_dir, queue)
    except ValueError as error:
        return replace(row, state=RunState(state=State.unreadable, reason=str(error)))


def _filled(row: RunRow, run_dir: Path, queue: Queue) -> RunRow:
    """The row with what the folder of its run says. Raises ValueError for damage."""
    plan, record = read_json(run_dir / "plan.json"), read_run(run_dir)
    state, steps = _state(record, plan, queue), int(plan["steps"])
    folder = last_attempt(run_dir) if record.attempts else None
    recent = last_lines(folder / "metrics.jsonl", _RECENT_STEPS) if folder else []
    pace = _pace(recent) if state.state is State.running and record.trained_step is None else None
    return replace(
        row,
        state=state,
        step=record.last_step,
        steps=steps,
        reward=recent[-1]["metrics"].get("reward") if recent else None,
        tokens_per_s=pace[1] if pace else None,
        seconds_left=pace[0] * (steps - record.last_step) if pace else None,
        attempts=record.attempts,
        log=_tail(folder / "log.txt") if folder and state.state in TROUBLE else "",
    )


def _pace(rows: Sequence[Mapping[str, Any]]) -> tuple[float, float] | None:
    """Seconds per step and tokens per second over rows of one attempt; clocks of one machine only."""
    if len(rows) < 2:
        return None
    seconds = float(rows[-1]["time"]) - float(rows[0]["time"])
    tokens = sum(float(row["metrics"].get("tokens/generated", 0.0)) for row in rows[1:])
    return (seconds / (len(rows) - 1), tokens / seconds) if seconds > 0 else None


def _tail(path: Path) -> str:
    """The last lines of a log."""
    lines = read_tail(path).decode(errors="replace").splitlines()
    return "\n".join([line for line in lines if line.strip()][-_TAIL_LINES:])


def span(seconds: float) -> str:
    """A duration in two units at most: ``2 h 05 min``."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"


def follow_interval(started: float) -> float:
    """Seconds until SLURM is asked again: often at first, then rarely, as controllers like it."""
    return 2.0 if time.monotonic() - started < 120 else 15.0
