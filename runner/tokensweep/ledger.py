"""What happened to a run: an append-only ledger per attempt, written by its worker, read by everybody.

An attempt is one process working on a run. It owns ``attempts/NNN`` and, as long as it lives, a lock on
``<run>/lock``; so a run whose process died is known to be dead without asking anybody, and no state is
ever rewritten. The ledger is the truth; MLflow and every table are projections of it.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tokensweep.files import JsonLines, is_locked, last_line, read_lines, write_json
from tokensweep.redact import redact

_PATIENCE_S = 1.0  # a reader that asks who is alive holds the lock for microseconds
_RESERVE_BYTES = 65536  # given back when the disk is full, so that the reason can still be written


class Kind(StrEnum):
    """Kinds of events. Their fields: step (checkpoint, trained); suite, eval_id, num_samples (evaluated);
    devices (started); error, class (failed); stage (finished, when something is left for another stage);
    reason (pruned: a search gave the run up)."""

    planned = "planned"
    started = "started"
    checkpoint = "checkpoint"
    trained = "trained"
    evaluated = "evaluated"
    finished = "finished"
    failed = "failed"
    preempted = "preempted"
    pruned = "pruned"


class Status(StrEnum):
    """State of a run. ``trained``: its evaluation is left to another process; ``pruned``: a search gave it
    up; ``interrupted``: it was stopped, or its process is gone without having said how it ended."""

    planned = "planned"
    running = "running"
    trained = "trained"
    finished = "finished"
    failed = "failed"
    pruned = "pruned"
    interrupted = "interrupted"


class Attempt:
    """One process's work on a run: its events, metrics and log. Made by :meth:`open`."""

    def __init__(self, *, folder: Path, number: int, lock: int) -> None:
        self.folder = folder
        self.number = number
        self._lock = lock
        self._events = JsonLines(folder / "events.jsonl")
        self._metrics = JsonLines(folder / "metrics.jsonl")
        self._reserve = folder / ".reserve"
        self._reserve.write_bytes(b"\0" * _RESERVE_BYTES)

    @classmethod
    def open(cls, run_dir: Path, *, devices: int = 1) -> Self:
        """Take the lock of a run, claim the next attempt and record that it started, with how many devices.

        Raises RuntimeError naming the process that works on the run already, OSError when the disk is full.
        """
        run_dir.mkdir(parents=True, exist_ok=True)
        lock = _take_lock(run_dir)
        try:
            number, folder = _claim(run_dir)
            who = {"pid": os.getpid(), "host": socket.gethostname()}
            write_json(folder / "claim.json", {**who, "time": time.time()})
            attempt = cls(folder=folder, number=number, lock=lock)
            attempt.event(Kind.started, **who, devices=devices)
        except BaseException:
            os.close(lock)
            raise
        return attempt

    @property
    def log(self) -> Path:
        """Where the worker writes its log."""
        return self.folder / "log.txt"

    def event(self, kind: str, **fields: Any) -> None:
        """Record an event without secrets; it is on disk when this returns. Raises ValueError for an unknown
        kind."""
        told = {name: redact(value) if isinstance(value, str) else value for name, value in fields.items()}
        self._events.append({"time": time.time(), "kind": Kind(kind), "attempt": self.number, **told})

    def metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record the metrics of a step; they are on disk when this returns."""
        self._metrics.append(
            {"attempt": self.number, "step": step, "time": time.time(), "metrics": dict(metrics)}
        )

    def failed(self, error: BaseException, *, error_class: str | None = None) -> None:
        """Record why the attempt failed, also when the disk is full; the class defaults to the error's."""
        self._reserve.unlink(missing_ok=True)
        fields = {"error": str(error) or repr(error), "class": error_class or type(error).__name__}
        self.event(Kind.failed, **fields)

    def close(self) -> None:
        """Give the run free; closing twice does nothing."""
        if self._lock < 0:
            return
        self._reserve.unlink(missing_ok=True)
        self._events.close()
        self._metrics.close()
        os.close(self._lock)
        self._lock = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """All attempts of a run in one view. Times are seconds since the epoch."""

    run_id: str
    status: Status
    attempts: int
    preempted: int = 0  # attempts that were asked to stop
    error: str | None = None  # of the last attempt
    error_class: str | None = None
    last_step: int = 0  # newest step with metrics
    durable_step: int = 0  # no later attempt computes steps up to here again
    trained_step: int | None = None  # set when training is complete
    evaluated: Mapping[str, int]  # eval_id -> samples per problem
    started: float | None = None  # of the first attempt
    ended: float | None = None  # of the last attempt; its last sign of life when interrupted
    seconds: float = 0.0  # worked, all attempts together
    device_seconds: float = 0.0  # the same, times the devices of each attempt; a CPU process counts as one

    def missing(self, evals: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Those of the planned evaluations that have fewer samples than they ask for."""
        return [entry for entry in evals if self.evaluated.get(entry["eval_id"], 0) < entry["num_samples"]]


def read_run(run_dir: Path) -> RunRecord:
    """The state of a run from its folder; a folder without attempts is a planned run.

    Raises ValueError naming the file when a ledger is damaged other than by a torn last line.
    """
    alive = is_alive(run_dir)  # asked first: the ledger of a process that has ended is complete
    folders = _attempts(run_dir)
    ledgers = [read_lines(folder / "events.jsonl") for folder in folders]
    last_rows = [last_line(folder / "metrics.jsonl") for folder in folders]
    events = [event for ledger in ledgers for event in ledger]
    spans = list(_spans(ledgers, last_rows))
    last = ledgers[-1] if ledgers else []
    status = _status(last, alive=alive, attempts=len(folders))
    ends = [event for event in last if event["kind"] == status]
    failure = ends[-1] if status == Status.failed else {}
    trained = [int(e["step"]) for e in events if e["kind"] == Kind.trained]
    saved = [int(e["step"]) for e in events if e["kind"] == Kind.checkpoint]
    evaluated: dict[str, int] = {}
    for e in events:
        if e["kind"] == Kind.evaluated:
            evaluated[e["eval_id"]] = max(int(e["num_samples"]), evaluated.get(e["eval_id"], 0))
    return RunRecord(
        run_id=run_dir.name,
        status=status,
        attempts=len(folders),
        preempted=_preempted(events),
        error=failure.get("error"),
        error_class=failure.get("class"),
        last_step=max((int(row["step"]) for row in last_rows if row), default=0),
        durable_step=max([*trained, *saved], default=0),
        trained_step=max(trained, default=None),
        evaluated=evaluated,
        started=spans[0][0] if spans else None,
        ended=spans[-1][1] if spans and status != Status.running else None,
        seconds=sum(end - start for start, end, _ in spans),
        device_seconds=sum((end - start) * devices for start, end, devices in spans),
    )


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """Rows {attempt, step, time, metrics} by step; an attempt replaces earlier ones from its first step."""
    rows: dict[int, dict[str, Any]] = {}
    for folder in _attempts(run_dir):
        own = read_lines(folder / "metrics.jsonl")
        if own:
            first = min(int(row["step"]) for row in own)
            rows = {step: row for step, row in rows.items() if step < first}
        rows.update({int(row["step"]): row for row in own})
    return [rows[step] for step in sorted(rows)]


def read_events(run_dir: Path) -> list[dict[str, Any]]:
    """Events of all attempts in order. Raises ValueError naming the file for damage."""
    return [event for folder in _attempts(run_dir) for event in read_lines(folder / "events.jsonl")]


def last_attempt(run_dir: Path) -> Path | None:
    """The folder of the newest attempt: ``events.jsonl``, ``metrics.jsonl``, ``log.txt``."""
    return next(reversed(_attempts(run_dir)), None)


def is_alive(run_dir: Path) -> bool:
    """Whether a process is working on the run now."""
    return is_locked(run_dir / "lock")


def close_dead(run_dir: Path, error: str, *, error_class: str) -> None:
    """Record for a worker that is gone why its attempt failed.

    For who watched the worker end. Raises RuntimeError when another process works on the run by now.
    """
    _close(run_dir, {"kind": Kind.failed, "error": redact(error), "class": error_class})


def close_pruned(run_dir: Path, reason: str) -> None:
    """Record that a run was given up on purpose, after its worker has ended; it can still be continued.

    Raises RuntimeError when another process works on the run by now.
    """
    _close(run_dir, {"kind": Kind.pruned, "reason": redact(reason)})


def _close(run_dir: Path, fields: Mapping[str, str]) -> None:
    """Add the end of the last attempt for a worker that is gone."""
    lock = _take_lock(run_dir)
    try:
        folders = _attempts(run_dir) or [_claim(run_dir)[1]]
        path = folders[-1] / "events.jsonl"
        if any(event["kind"] in {Kind.finished, Kind.failed, Kind.pruned} for event in read_lines(path)):
            path = _claim(run_dir)[1] / "events.jsonl"  # it died before it had an attempt of its own
        with JsonLines(path) as ledger:
            ledger.append({"time": time.time(), "attempt": int(path.parent.name), **fields})
    finally:
        os.close(lock)


def _take_lock(run_dir: Path) -> int:
    """The locked descriptor of ``<run>/lock``."""
    descriptor = os.open(run_dir / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(descriptor)
                raise RuntimeError(
                    f"{run_dir.name} is being worked on by {_owner(run_dir)}: wait for it or stop it first"
                ) from None
            time.sleep(0.02)
        else:
            return descriptor


def _owner(run_dir: Path) -> str:
    for folder in reversed(_attempts(run_dir)):
        try:
            claim = json.loads((folder / "claim.json").read_text())
        except (FileNotFoundError, ValueError):
            continue
        return f"process {claim['pid']} on {claim['host']} (attempt {folder.name})"
    return "another process"


def _claim(run_dir: Path) -> tuple[int, Path]:
    """Number and folder of the next attempt; making the folder is the claim."""
    (run_dir / "attempts").mkdir(exist_ok=True)
    number = max((int(folder.name) for folder in _attempts(run_dir)), default=-1) + 1
    while True:
        folder = run_dir / "attempts" / f"{number:03d}"
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        else:
            return number, folder


def _attempts(run_dir: Path) -> list[Path]:
    folders = [path for path in (run_dir / "attempts").glob("*") if path.name.isdecimal()]
    return sorted(folders, key=lambda path: int(path.name))


def _status(last: list[dict[str, Any]], *, alive: bool, attempts: int) -> Status:
    if alive:
        return Status.running
    if not attempts:
        return Status.planned
    ends = [event for event in last if event["kind"] in {Kind.finished, Kind.failed, Kind.pruned}]
    if not ends:
        return Status.interrupted
    return Status.trained if "stage" in ends[-1] else Status(ends[-1]["kind"])


def _preempted(events: Iterable[Mapping[str, Any]]) -> int:
    """Attempts that were asked to stop; not those whose run was given up with it."""
    kinds = [event["kind"] for event in events]
    return max(0, kinds.count(Kind.preempted) - kinds.count(Kind.pruned))


def _spans(
    ledgers: list[list[dict[str, Any]]], last_rows: list[dict[str, Any] | None]
) -> Iterator[tuple[float, float, int]]:
    """First and last sign of life of each attempt that wrote anything, and its devices."""
    for ledger, row in zip(ledgers, last_rows, strict=True):
        times = [float(event["time"]) for event in ledger] + ([float(row["time"])] if row else [])
        if times:
            yield min(times), max(times), int(ledger[0].get("devices", 1) if ledger else 1)
