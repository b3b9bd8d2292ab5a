"""Files that are whole or absent: atomic replacement, and append-only JSON lines that survive a crash.

Everything that tokensweep writes goes through here, so a full disk, a quota or a killed process leaves
either the old content, the new content, or a torn last line that readers ignore.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

_TAIL_BYTES = 65536  # a metrics row is about 1 kB


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path``; when the block ends well its file takes the place of ``path``.

    The file reaches the disk before it gets its name, so a reader sees the old content or the new one.
    Missing folders are made. Raises OSError that names ``path`` and what to do when it cannot be written.
    """
    with _explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
        os.close(descriptor)
        partial = Path(name)
        try:
            yield partial
            partial.chmod(0o644)  # mkstemp gives 0600, which locks out colleagues who share a store
            fsync(partial)
            partial.replace(path)
            fsync(path.parent)
        finally:
            partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replace the content of a text file in one step. Raises OSError as :func:`replacing` does."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file in one step. Raises ValueError for NaN, OSError as :func:`replacing` does."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


class JsonLines:
    """Appends JSON objects to a file, one per line, each on disk when :meth:`append` returns.

    One writer per file. A torn last line, left by a writer that was killed, is cut off on opening.
    """

    def __init__(self, path: Path) -> None:
        """Open ``path`` for appending, making it if needed. Raises OSError that names it."""
        self.path = path
        with _explained(path):
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            content = path.read_bytes()
            whole = content.rfind(b"\n") + 1
            if whole < len(content):
                os.ftruncate(self._descriptor, whole)

    def append(self, row: Mapping[str, Any]) -> None:
        """Add one line and wait until it is on disk. NaN and infinities stay, as Python's JSON spells them.

        Raises OSError naming the file when there is no space; the file then ends with the line before.
        """
        line = json.dumps(row, separators=(",", ":")).encode() + b"\n"
        with _explained(self.path):
            before = os.fstat(self._descriptor).st_size
            try:
                rest = line
                while rest:
                    rest = rest[os.write(self._descriptor, rest) :]
                os.fsync(self._descriptor)
            except OSError:
                os.ftruncate(self._descriptor, before)
                raise

    def close(self) -> None:
        """Release the file; closing twice does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> JsonLines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_lines(path: Path) -> list[dict[str, Any]]:
    """All complete lines of a JSON lines file; none when it is missing. A torn last line is ignored.

    Raises ValueError naming file and line for damage anywhere else.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    return [_parse(line, path, number) for number, line in enumerate(content.split(b"\n")[:-1], start=1)]


def last_line(path: Path) -> dict[str, Any] | None:
    """The newest complete line, without reading the whole file; None when there is none."""
    return next(iter(last_lines(path, 1)), None)


def last_lines(path: Path, number: int) -> list[dict[str, Any]]:
    """Up to ``number`` newest complete lines, oldest first, without reading the whole file.

    Fewer, where they are longer than 64 kB together. Raises ValueError naming the file for damage in them.
    """
    lines = read_tail(path).split(b"\n")[:-1]
    return [_parse(line, path, -1) for line in lines[-number:]]


def read_tail(path: Path) -> bytes:
    """The last 64 kB of a file, from the beginning of a line on; nothing when it is missing."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL_BYTES))
            tail = file.read()
    except FileNotFoundError:
        return b""
    return tail if size <= _TAIL_BYTES else tail[tail.find(b"\n") + 1 :]


def _parse(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    if not isinstance(row, dict):
        where = "its last line" if number < 0 else f"line {number}"
        raise ValueError(f"{path}: {where} must be a JSON object, got {line[:60]!r}: remove that line")
    return row


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn an OSError into one that says which file it was and what to do next."""
    try:
        yield
    except OSError as error:
        raise OSError(
            error.errno or errno.EIO,  # pyarrow's own errors carry no number
            f"{path} could not be written ({error.strerror or error}): make room or fix its folder, then "
            "give the same command again; everything written before is kept",
        ) from error


def fsync(path: Path) -> None:
    """Wait until a file or a folder is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_locked(path: Path) -> bool:
    """Whether a process holds the file's lock now; nobody does where there is no file."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
