"""What of a store nobody needs any more, how large it is, and its removal. Nothing here asks or shows.

Never offered: a run's last checkpoint, its samples, ledgers, metrics, stored rollouts and configuration, and
anything of a run that somebody works on or that was submitted within a day.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from tokensweep.cluster.reconcile import Queue
from tokensweep.cluster.submission import submissions
from tokensweep.identity import read_json
from tokensweep.ledger import Status, is_alive, read_run

_DAY_S = 86400.0
_KEEP_JOB_FILES_S = 30 * _DAY_S
_LOCK_PATIENCE_S = 0.5  # who asks whether a run is alive holds its lock for microseconds
_BY_WORKERS = ("attempts", "checkpoints", "rollouts")  # in a run folder, written under its lock alone


class Kind(StrEnum):
    """Kinds of things that can go."""

    leftover = "leftover"
    checkpoint = "checkpoint"
    snapshot = "snapshot"
    model = "model"
    job_files = "job files"


@dataclass(frozen=True, kw_only=True)
class Item:
    """A file or folder that can go. ``lock`` is the file whose lock its users would hold."""

    kind: Kind
    path: Path
    size: int  # bytes
    why: str
    lock: Path | None = None


def protected_runs(store: Path, queue: Queue, *, now: float | None = None) -> set[str]:
    """Ids of runs that were submitted within a day, or whose jobs live or may live."""
    now = time.time() if now is None else now
    found: set[str] = set()
    for seats in queue.seats.values():
        for seat in seats:
            is_young = now - seat.submission.created < _DAY_S
            is_open = seat.alive or (bool(queue.silence) and seat.submission.ended is None)
            if is_young or is_open:
                found.update(seat.submission.tasks[seat.index])
    return found


def find_garbage(
    store: Path,
    *,
    sweeps: Sequence[str] | None,
    protected: Collection[str],
    models: bool = False,
    now: float | None = None,
) -> list[Item]:
    """What can go of some sweeps, or of the whole store (``sweeps`` None); nothing is changed.

    ``protected`` are ids of runs to leave alone, besides those that a worker is on.
    """
    now = time.time() if now is None else now
    items: list[Item] = []
    for run_dir in _run_dirs(store, sweeps):
        if run_dir.name not in protected and not is_alive(run_dir):
            items += _of_run(run_dir, now=now)
    for folder in _sweep_dirs(store, sweeps):
        items += _leftovers(folder, now=now)
    items += _job_files(store, sweeps, now=now)
    if sweeps is None:
        for name in (".", "data", "models", "runs", "snapshots"):
            items += _leftovers(store / name, now=now, deep=False)
        items += _snapshots(store, now=now)
        items += _models(store, unused=models, now=now)
    return items


def delete(store: Path, items: Iterable[Item]) -> dict[Path, str]:
    """Remove items, and tell of those that were left, and why.

    A removal that is interrupted leaves a hidden folder, which is a leftover for the next call.
    """
    left: dict[Path, str] = {}
    for item in items:
        with _unused(item.lock) as free:
            if not free:
                left[item.path] = "somebody works on it now"
            elif item.kind is Kind.snapshot and item.path in _used_snapshots(store):
                left[item.path] = "was submitted just now"
            else:
                # The name must not look like a checkpoint's: a worker clears those, too.
                doomed = item.path.with_name(f".gc{time.time_ns()}-{item.path.name}.removed")
                try:
                    item.path.rename(doomed)
                except FileNotFoundError:
                    continue
        if item.path not in left:
            _remove(doomed)
    return left


def _run_dirs(store: Path, sweeps: Sequence[str] | None) -> list[Path]:
    if sweeps is None:
        return sorted(path for path in (store / "runs").glob("*") if path.is_dir())
    entries = [each for name in sweeps for each in read_json(store / "sweeps" / name / "sweep.json")["runs"]]
    folders = {store / "runs" / entry["run_id"] for entry in entries}
    return sorted(folder for folder in folders if folder.is_dir())


def _sweep_dirs(store: Path, sweeps: Sequence[str] | None) -> list[Path]:
    if sweeps is not None:
        return [store / "sweeps" / name for name in sweeps]
    return sorted(path for path in (store / "sweeps").glob("*") if path.is_dir())


def _of_run(run_dir: Path, *, now: float) -> Iterator[Item]:
    lock = run_dir / "lock"
    for path in _hidden(run_dir):
        part = path.relative_to(run_dir).parts[0]
        is_reserve = path.name == ".reserve"  # a living worker gives it back
        size, newest = _measure(path)
        # Others write here without the lock: plans, evaluations of a run by its name.
        if part in _BY_WORKERS or now - newest > _DAY_S:
            why = (
                "space that a killed worker kept in reserve" if is_reserve else "of a process that was killed"
            )
            yield Item(kind=Kind.leftover, path=path, size=size, why=why, lock=lock)
    for path in _older_checkpoints(run_dir):
        yield Item(
            kind=Kind.checkpoint,
            path=path,
            size=_measure(path)[0],
            why="the run is finished and keeps its last",
            lock=lock,
        )


def _older_checkpoints(run_dir: Path) -> list[Path]:
    """All but the last checkpoint of a finished run; none while the last is not whole."""
    if not (run_dir / "plan.json").is_file():
        return []
    record = read_run(run_dir)
    if record.status is not Status.finished or record.trained_step is None:
        return []
    folders = sorted((run_dir / "checkpoints").glob("step-*"))
    if not folders or folders[-1].name != f"step-{record.trained_step:06d}" or not _is_whole(folders[-1]):
        return []
    return folders[:-1]


def _is_whole(checkpoint: Path) -> bool:
    """Whether all files of a checkpoint are there in their size."""
    try:
        files = json.loads((checkpoint / "state.json").read_text())["files"]
        sizes = {name: int(mark.partition(":")[0]) for name, mark in files.items()}
        return all((checkpoint / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError, AttributeError):
        return False


def _leftovers(folder: Path, *, now: float, deep: bool = True) -> Iterator[Item]:
    """Half-written files outside of run folders, a day old: their writers hold no lock."""
    for path in _hidden(folder, deep=deep):
        size, newest = _measure(path)
        if now - newest > _DAY_S:
            yield Item(kind=Kind.leftover, path=path, size=size, why="of a process that was killed")


def _job_files(store: Path, sweeps: Sequence[str] | None, *, now: float) -> Iterator[Item]:
    for submission in submissions(store):
        folder, end = submission.folder / "submitit", submission.folder / "ended.json"
        if (
            (sweeps is None or submission.sweep in sweeps)
            and submission.ended is not None
            and folder.is_dir()
        ):
            age_s = now - end.stat().st_mtime
            if age_s > _KEEP_JOB_FILES_S:
                why = f"its jobs ended {age_s / _DAY_S:.0f} days ago"
                yield Item(kind=Kind.job_files, path=folder, size=_measure(folder)[0], why=why)


def _snapshots(store: Path, *, now: float) -> Iterator[Item]:
    used = _used_snapshots(store)
    lock = store / "sweeps" / ".submitting"
    for path in sorted((store / "snapshots").glob("[!.]*")):
        size, newest = _measure(path)
        newest = max(newest, path.stat().st_ctime)  # files in it may keep the times of their originals
        if path.is_dir() and path not in used and now - newest > _DAY_S:
            yield Item(
                kind=Kind.snapshot, path=path, size=size, why="no submission runs this code", lock=lock
            )


def _used_snapshots(store: Path) -> set[Path]:
    """Folders of code that some submission runs, or ran and would run again."""
    named = (submission.snapshot for submission in submissions(store))
    return {store / "snapshots" / Path(text).name for text in named if text}


def _models(store: Path, *, unused: bool, now: float) -> Iterator[Item]:
    """Builds and downloads that were killed; if asked for, whole models that no run of the store uses."""
    root = store / "models"
    for path in sorted(root.glob("[!.]*.partial")):
        lock = path.with_name(f"{path.name.removesuffix('.partial')}.lock")
        with _unused(lock) as free:
            if free:
                why = "of a process that was killed"
                yield Item(kind=Kind.leftover, path=path, size=_measure(path)[0], why=why, lock=lock)
    for path in sorted(root.glob("[!.]*/.cache/huggingface/download/**/*.incomplete")):
        size, newest = _measure(path)
        if now - newest > _DAY_S:
            yield Item(kind=Kind.leftover, path=path, size=size, why="a download that was killed")
    if not unused:
        return
    used = {_model_folder(read_json(path)) for path in (store / "runs").glob("*/plan.json")}
    for path in sorted(root.glob("[!.]*")):
        if path.is_dir() and not path.name.endswith(".partial") and path.name not in used:
            lock = path.with_name(f"{path.name}.lock")
            why = "no run uses it; made or downloaded again when needed"
            yield Item(kind=Kind.model, path=path, size=_measure(path)[0], why=why, lock=lock)


def _model_folder(plan: dict[str, str]) -> str:
    """The folder in the cache that holds the model of a run: see ``models.hf``."""
    path, at, commit = plan["model_revision"].partition("@")
    return f"{path.replace('/', '--')}-{commit[:12]}" if at else path


def _hidden(folder: Path, *, deep: bool = True) -> Iterator[Path]:
    """Half-written and half-removed things below a folder, not again what is in them."""
    for path in sorted(folder.glob("*")):
        hidden = path.name.startswith(".") and path.name.endswith((".partial", ".removed"))
        if hidden or path.name.startswith(".step-") or path.name == ".reserve":
            yield path
        elif deep and path.is_dir() and not path.is_symlink():
            yield from _hidden(path)


def _measure(path: Path) -> tuple[int, float]:
    """Bytes in a file or folder, and when anything in it changed last (seconds since the epoch)."""
    stats = [path.lstat()]
    if path.is_dir() and not path.is_symlink():
        for folder, _, files in os.walk(path):
            for name in files:
                with suppress(FileNotFoundError):  # somebody tidies up at the same time
                    stats.append((Path(folder) / name).lstat())
    sizes = (stat.st_size for stat in stats[1:] or stats)
    return sum(sizes), max(stat.st_mtime for stat in stats)


@contextmanager
def _unused(lock: Path | None) -> Iterator[bool]:
    """Whether nobody holds a lock; nobody gets it meanwhile. A lock that is not there is held by nobody."""
    if lock is None or not lock.exists():
        yield True
        return
    descriptor = os.open(lock, os.O_RDWR)
    deadline = time.monotonic() + _LOCK_PATIENCE_S
    try:
        while not _locked(descriptor):
            if time.monotonic() > deadline:
                yield False
                return
            time.sleep(0.02)
        yield True
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
