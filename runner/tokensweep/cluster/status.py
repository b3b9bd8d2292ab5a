"""One view of a sweep while it works: what is done, runs, waits and failed, for people and programs."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from tokensweep.cluster.reconcile import Queue, RunState, State, look, run_state
from tokensweep.cluster.scheduler import Scheduler
from tokensweep.files import read_lines
from tokensweep.identity import read_json
from tokensweep.ledger import RunRecord, last_attempt, read_run

_TAIL_LINES = 3
_RECENT_STEPS = 10  # that speed is taken over
_OPEN = (State.running, State.queued)
_TROUBLE = (State.failed, State.cancelled, State.interrupted)


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
    reward: float | None  # of the newest step
    tokens_per_s: float | None  # sampled, over whole steps
    seconds_left: float | None  # of training, as fast as it is now
    attempts: int
    log: str = ""  # last lines, of a run in trouble


@dataclass(frozen=True, kw_only=True)
class SweepStatus:
    """A sweep at a moment. ``silence`` says why SLURM did not answer, if it was asked and did not."""

    sweep: str
    rows: tuple[RunRow, ...]
    silence: str = ""

    @property
    def open(self) -> bool:
        """Whether something runs or is going to."""
        return any(row.state.state in _OPEN for row in self.rows)

    @property
    def complete(self) -> bool:
        """Whether every run is finished."""
        return all(row.state.state is State.finished for row in self.rows)

    def counts(self) -> Counter[str]:
        """Runs in each state."""
        return Counter(row.state.state.value for row in self.rows)

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        rows = [{**asdict(row), **asdict(row.state)} for row in self.rows]
        return {"sweep": self.sweep, "silence": self.silence, "counts": dict(self.counts()), "runs": rows}


def sweep_status(store: Path, name: str, scheduler: Scheduler, *, queue: Queue | None = None) -> SweepStatus:
    """The state of every run of a sweep. Raises ValueError when there is no such sweep."""
    entries = read_json(store / "sweeps" / name / "sweep.json")["runs"]
    queue = queue or look(store, scheduler)
    rows = [_row(store, entry, queue) for entry in {entry["run_id"]: entry for entry in entries}.values()]
    return SweepStatus(sweep=name, rows=tuple(rows), silence=queue.silence)


def run_states(store: Path, run_ids: Sequence[str], queue: Queue) -> dict[str, RunState]:
    """The states of runs, which need not be of one sweep."""
    return {run_id: state_of(store / "runs" / run_id, queue)[1] for run_id in run_ids}


def state_of(run_dir: Path, queue: Queue) -> tuple[RunRecord, RunState]:
    """What the ledger says of a run, and its state with what SLURM says. Raises ValueError for damage."""
    record = read_run(run_dir)
    evals = read_json(run_dir / "plan.json")["evals"]
    complete = record.trained_step is not None and not record.missing(evals)
    return record, run_state(run_dir.name, record, queue, complete=complete)


def _row(store: Path, entry: Mapping[str, Any], queue: Queue) -> RunRow:
    run_dir = store / "runs" / str(entry["run_id"])
    record, state = state_of(run_dir, queue)
    steps = int(read_json(run_dir / "plan.json")["steps"])
    folder = last_attempt(run_dir)
    recent = read_lines(folder / "metrics.jsonl")[-_RECENT_STEPS:] if folder else []
    pace = _pace(recent)
    running = state.state is State.running and record.trained_step is None
    return RunRow(
        run_id=run_dir.name,
        setting=str(entry["setting"]),
        arm=str(entry["arm"]),
        seed=int(entry["seed"]),
        state=state,
        step=record.last_step,
        steps=steps,
        reward=recent[-1]["metrics"].get("reward") if recent else None,
        tokens_per_s=pace[1] if running and pace else None,
        seconds_left=pace[0] * (steps - record.last_step) if running and pace else None,
        attempts=record.attempts,
        log=_tail(folder / "log.txt") if folder and state.state in _TROUBLE else "",
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
    try:
        lines = path.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    return "\n".join([line for line in lines if line.strip()][-_TAIL_LINES:])


def screen(status: SweepStatus) -> RenderableType:
    """The status as a person reads it: a line per arm, then what is wrong."""
    table = Table(box=None, pad_edge=False)
    for name in (
        "setting",
        "arm",
        "finished",
        "running",
        "queued",
        "failed",
        "step",
        "reward",
        "tokens/s",
        "ready in",
    ):
        table.add_column(name, justify="left" if name in {"setting", "arm"} else "right")
    for (setting, arm), rows in _by_arm(status.rows):
        table.add_row(escape(setting), escape(arm), *_cells(rows))
    counts = ", ".join(f"{number} {state}" for state, number in sorted(status.counts().items()))
    parts: list[RenderableType] = [table, Text(f"{len(status.rows)} runs: {counts}")]
    if status.silence:
        parts.append(
            Text(f"SLURM does not answer, so this is what the run folders say: {status.silence}", "yellow")
        )
    parts += [_trouble(row) for row in status.rows if row.state.state in _TROUBLE]
    parts += [Text(f"waiting: {reason} ({number})") for reason, number in _reasons(status.rows)]
    return Group(*parts)


def _by_arm(rows: Sequence[RunRow]) -> Iterator[tuple[tuple[str, str], list[RunRow]]]:
    for key in dict.fromkeys((row.setting, row.arm) for row in rows):
        yield key, [row for row in rows if (row.setting, row.arm) == key]


def _cells(rows: Sequence[RunRow]) -> list[str]:
    count = Counter(row.state.state for row in rows)
    failed = sum(count[state] for state in _TROUBLE)
    preempted = sum(row.state.preempted for row in rows)
    active = [row for row in rows if row.state.state is State.running] or rows
    steps = sorted({row.step for row in active})
    step = str(steps[0]) if len(steps) == 1 else f"{steps[0]}-{steps[-1]}"
    rewards = [row.reward for row in rows if row.reward is not None]
    speeds = [row.tokens_per_s for row in rows if row.tokens_per_s is not None]
    left = [row.seconds_left for row in rows if row.seconds_left is not None]
    return [
        f"{count[State.finished]}/{len(rows)}",
        str(count[State.running] or ""),
        str(count[State.queued] or "") + (f" ({preempted} x preempted)" if preempted else ""),
        str(failed or ""),
        f"{step}/{rows[0].steps}",
        f"{sum(rewards) / len(rewards):.3f}" if rewards else "",
        f"{sum(speeds) / len(speeds):.0f}" if speeds else "",
        span(max(left)) if left else "",
    ]


def span(seconds: float) -> str:
    """A duration in two units at most: ``2 h 05 min``."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"


def _trouble(row: RunRow) -> Text:
    what = f"{row.state.state}" + (f" ({row.state.error_class})" if row.state.error_class else "")
    where = ", ".join(filter(None, (row.state.job and f"job {row.state.job}", row.state.node)))
    head = f"{row.setting} {row.arm} seed {row.seed}  {row.run_id}  {what}" + (f"  {where}" if where else "")
    lines = [row.state.reason.splitlines()[0] if row.state.reason else "", *row.log.splitlines()]
    text = Text(head, "red")
    for line in filter(None, lines):
        text.append(f"\n    {line}", "dim")
    return text


def _reasons(rows: Sequence[RunRow]) -> list[tuple[str, int]]:
    waiting = [row.state.reason or "?" for row in rows if row.state.state is State.queued]
    return Counter(waiting).most_common()


def follow_interval(started: float) -> float:
    """Seconds until SLURM is asked again: often at first, then rarely, as controllers like it."""
    return 2.0 if time.monotonic() - started < 120 else 15.0
