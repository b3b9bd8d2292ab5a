"""The file of a study: Optuna's journal, guarded against torn lines and against locks that the dead left.

One JSON record per line. A record is on disk before the lock is given back, so only the last one can be torn
by a process that died or by a full disk; readers wait for its end, and the next writer cuts it off.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import random
import sys
import time
import uuid
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path
from typing import Any

from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.001, 0.25  # between two tries to get the lock
_BLOCK = 4096  # bytes; a record has some 300
_BEGINNING = b'{"op_code":'  # of each record


class JournalLock(JournalFileOpenLock):
    """Optuna's lock, a file made with O_EXCL (safe on NFS from version 3 on); a dead holder's is broken.

    A lock is given back after one write and one fsync. One that stays for ``grace_s`` seconds belongs to a
    process that was killed, and would stop the study for ever: 30 s is more than a busy file server needs for
    an fsync, and little beside a training run.

    Departures from Optuna 5.0.0. There, of two processes that wait for the same stale lock, the second may
    remove the lock that the first has just made in its place, and then both write; and a holder that was only
    slow removes, at the end, the lock of whoever came after it. Here breaking takes turns (flock, like
    everything in a store), and who breaks a lock or gives an old one back looks whether it is the one meant.
    """

    def __init__(self, path: Path, *, grace_s: float = 30.0) -> None:
        super().__init__(str(path))
        self._path = Path(self._lock_file)
        self._grace_s = grace_s
        self._mine: tuple[int, int] | None = None
        self._since = 0.0

    def acquire(self) -> bool:
        """Wait for the lock. Raises OSError when its file cannot be made."""
        pause = _FIRST_PAUSE_S
        seen, since = None, time.monotonic()
        while (mine := self._make()) is None:
            there = _identity(self._path)
            if there is None:
                continue  # given back just now
            if there != seen:
                seen, since = there, time.monotonic()
            elif time.monotonic() - since > self._grace_s and self._break(there):
                print(
                    f"{self._path} was there for {self._grace_s:g} s, so its holder is dead: removed",
                    file=sys.stderr,
                )
                continue
            time.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, _LONGEST_PAUSE_S)
        self._mine, self._since = mine, time.monotonic()
        return True

    def release(self) -> None:
        """Give the lock back, unless it was taken away."""
        mine, self._mine = self._mine, None
        if mine is None:
            return
        if self._is_young():
            self._path.unlink(missing_ok=True)
        elif _identity(self._path) == mine:
            self._take_away(mine)

    def is_held(self) -> bool:
        """Whether it is still ours, which it need not be for a process that was stopped for long."""
        return self._mine is not None and (self._is_young() or _identity(self._path) == self._mine)

    def _is_young(self) -> bool:
        """Whether nobody can have broken it yet."""
        return time.monotonic() - self._since < self._grace_s / 2

    def _make(self) -> tuple[int, int] | None:
        """The identity of a new lock; None when there is one."""
        try:
            descriptor = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return None
        try:
            made = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        return made.st_ino, made.st_mtime_ns

    def _break(self, stale: tuple[int, int]) -> bool:
        """Whether ``stale`` was removed: not when there is another by now, or another process is at it."""
        with self._path.with_suffix(".breaking").open("a") as turn:
            try:
                fcntl.flock(turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return _identity(self._path) == stale and self._take_away(stale)

    def _take_away(self, meant: tuple[int, int]) -> bool:
        """Remove the lock if it is the one that is meant; another one, made just now, gets its name back."""
        aside = self._path.with_name(f"{self._path.name}.{uuid.uuid4()}")
        try:
            self._path.rename(aside)
        except FileNotFoundError:
            return False
        is_meant = _identity(aside) == meant
        if not is_meant:
            with suppress(FileExistsError):
                self._path.hardlink_to(aside)
        aside.unlink()
        return is_meant


def _identity(path: Path) -> tuple[int, int] | None:
    """Inode and time of making, which tell a lock from the next one of its name; None without a lock.

    Opened for it, as an NFS client asks the server on opening and may answer a plain stat from memory.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        found = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    return found.st_ino, found.st_mtime_ns


class Journal(JournalFileBackend):
    """The records of a study in a file. Raises OSError when it cannot be made.

    Departures from Optuna 5.0.0, where a record that is appended to a torn line makes the study unreadable
    for ever: a writer first cuts a torn last line off, or ends it if only its newline is missing; and damage
    elsewhere is an error that says where it is and what can be done.
    """

    def __init__(self, path: Path, *, grace_s: float = 30.0) -> None:
        self._guard = JournalLock(path, grace_s=grace_s)
        super().__init__(str(path), lock_obj=self._guard)
        self._path = path
        self._read = (0, 0)  # records, and the bytes that they take

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Add records and wait until they are on disk.

        Raises OSError naming the file when there is no space; then it ends with the record before.
        """
        lines = b"".join(json.dumps(log, separators=(",", ":")).encode() + b"\n" for log in logs)
        while not self._append(lines):
            continue  # this process was stopped for so long that its lock was broken

    def _append(self, lines: bytes) -> bool:
        """Whether they were written: not without the lock."""
        try:
            self._guard.acquire()
            descriptor = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                if not self._guard.is_held():
                    return False
                self._write(descriptor, lines)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise OSError(
                error.errno or errno.EIO,
                f"{self._path} could not be written ({error.strerror or error}): make room or fix its "
                "folder, then give the same command again; all trials up to here are kept",
            ) from error
        finally:
            self._guard.release()
        return True

    def _write(self, descriptor: int, lines: bytes) -> None:
        rest = _mend(descriptor) + lines
        try:
            while rest:
                rest = rest[os.write(descriptor, rest) :]
        except OSError:
            if self._guard.is_held():
                _mend(descriptor)
            raise
        os.fsync(descriptor)  # a whole line stays also when this fails, as others may have read it

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        """Records from this number on, up to the last whole line.

        Raises ValueError naming the line for damage before the last one, and for a file that lost records.
        """
        number, end = self._read if self._read[0] <= log_number_from else (0, 0)
        with self._path.open("rb") as file:
            file.seek(max(0, end - 1))
            if end and file.read(1) != b"\n":
                raise ValueError(
                    f"{self._path} must only grow, but a part that was read is not there any more: end all "
                    "jobs of the search before its file is changed, then give the same command again"
                )
            for line in file:
                record = _parsed(line)
                if record is None:
                    if line.endswith(b"\n") and file.read(1):
                        raise ValueError(_damage(self._path, number + 1, line))
                    return  # not written to its end, or never to be
                number, end = number + 1, end + len(line)
                if number > log_number_from:
                    self._read = (number, end)
                    yield record


def _mend(descriptor: int) -> bytes:
    """Cut a torn last line off; what has to be written first: a newline, if only that is missing."""
    size = os.fstat(descriptor).st_size
    if size == 0 or os.pread(descriptor, 1, size - 1) == b"\n":
        return b""
    begin, tail = size, b""
    while begin > 0 and b"\n" not in tail:
        length = min(_BLOCK, begin)
        begin -= length
        tail = os.pread(descriptor, length, begin) + tail
    last = tail[tail.rfind(b"\n") + 1 :]
    if _parsed(last + b"\n") is not None:
        return b"\n"
    os.ftruncate(descriptor, size - len(last))
    return b""


def _parsed(line: bytes) -> dict[str, Any] | None:
    """The record in a whole line; None for anything else."""
    if not line.endswith(b"\n"):
        return None
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and "op_code" in record else None


def _damage(path: Path, number: int, line: bytes) -> str:
    """What is wrong with a line that others follow, and the ways out of it."""
    told = (
        f"{path}: line {number} must be a record of Optuna's, got {line[:20]!r}: end all jobs of the search "
        "and "
    )
    if (begin := line.rfind(_BEGINNING)) > 0 and _parsed(line[begin:]) is not None:
        return told + (
            f"delete the first {begin} bytes of that line, the beginning of a record that was never finished "
            "(something other than tokensweep has written to the file)"
        )
    return told + (
        f"put a copy of the file back, or keep the part before that line (head -n {number - 1} {path.name}), "
        "which forgets what the study learnt since; leave no line out, as records name trials by counting"
    )
