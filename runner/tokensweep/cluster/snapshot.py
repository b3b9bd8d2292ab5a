"""The code of a run, copied once before it is submitted: edits while it waits in the queue change nothing.

``<store>/snapshots/<hash>/`` holds ``lib`` (laid out as an installed package, so that it is enough on
``PYTHONPATH``), ``extensions/<n>`` (the folders of ``TOKENSWEEP_PATH``) and ``snapshot.json`` (every file
with its hash, and what was left out and why). The name is the hash of the copied content, so the same code
is copied once, whoever submits. Of a checkout there is ``git.json``, and ``dirty.patch`` when it was changed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokensweep.cluster.checkout import Checkout, checkout_of, look_at
from tokensweep.cluster.sources import Selection, code_roots, left_out_of_patch, select
from tokensweep.files import fsync, replacing, write_json
from tokensweep.identity import code_sha, code_sha_of, digest, read_json, training_sources
from tokensweep.paths import extension_dirs
from tokensweep.redact import redact, secret_in
from tokensweep.store import make_store

_RECORD, _GIT, _PATCH = "snapshot.json", "git.json", "dirty.patch"
_LIMIT = 50_000_000  # bytes, all files
_FILE_LIMIT = 5_000_000  # bytes; of the patch, too
_SHOWN = 5  # files in a message


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A complete copy of the code in the store."""

    folder: Path
    commit: str | None  # of the checkout that it was taken of; None without git
    dirty: bool  # whether it differs from that commit; False without git

    @property
    def environment(self) -> Mapping[str, str]:
        """What a process needs to run this code and no other.

        ``PYTHONPATH`` goes in front of what a node has there, where it wins over whatever is installed.
        """
        return {
            "PYTHONPATH": str(self.folder / "lib"),
            "PYTHONSAFEPATH": "1",  # else `python -m` looks into the current folder first
            "TOKENSWEEP_PATH": os.pathsep.join(map(str, _extensions(self.folder))),
        }


def _extensions(folder: Path) -> list[Path]:
    """The copied folders of ``TOKENSWEEP_PATH``, in its order."""
    return sorted((folder / "extensions").glob("*"), key=lambda path: int(path.name))


@dataclass(frozen=True)
class _File:
    content: bytes
    executable: bool

    @property
    def sha(self) -> str:
        """Hash of what a run can notice."""
        return hashlib.sha256(self.content + (b"x" if self.executable else b"-")).hexdigest()


def take_snapshot(store: Path) -> Snapshot:
    """The code of this process as it is on disk, copied into ``store`` unless it is there already.

    Raises ValueError for a store whose path cannot stand in ``PYTHONPATH``, for code that is too large or
    holds a secret, for files that a run depends on but that are not copied, for code that was changed since
    this process planned with it, and for an earlier snapshot of the same code that was altered.
    """
    store = store.resolve()
    if os.pathsep in str(store):
        raise ValueError(
            f"the path of the store must not hold {os.pathsep!r}, which separates folders in PYTHONPATH, got "
            f"{store}: choose another one with store=FOLDER or TOKENSWEEP_HOME"
        )
    make_store(store)
    selection = select(store)
    files = _read(selection)
    name = digest({where: file.sha for where, file in files.items()})[:12]
    folder = store / "snapshots" / name
    checkout = _own_checkout(selection)
    if not folder.exists():
        with _making(folder) as partial:
            _write(partial, files, selection, checkout)
    os.utime(folder)  # gc leaves those alone that were taken within a day
    snapshot = open_snapshot(folder)
    if snapshot.dirty and checkout is not None and not _is_dirty(checkout, selection):
        _write_git(folder, checkout, selection)  # the same code has been committed since
        snapshot = open_snapshot(folder)
    _check_code(folder, selection)
    return snapshot


def open_snapshot(folder: Path) -> Snapshot:
    """The snapshot in a folder. Raises ValueError when it is gone, incomplete or was altered."""
    if not (folder / _RECORD).is_file():
        raise ValueError(f"{folder} is no complete snapshot: {_AGAIN}")
    wanted = read_json(folder / _RECORD)["files"]
    for where, file in _on_disk(folder):
        if wanted.pop(where, None) != file.sha:
            raise ValueError(f"{folder / where} was altered after the snapshot was taken: {_AGAIN}")
    if wanted:
        raise ValueError(f"{folder / next(iter(wanted))} is missing from the snapshot: {_AGAIN}")
    git = read_json(folder / _GIT) if (folder / _GIT).is_file() else {}
    return Snapshot(folder=folder, commit=git.get("commit"), dirty=bool(git.get("dirty")))


_AGAIN = "remove the folder of the snapshot and give the command of the sweep again"


def _on_disk(folder: Path) -> Iterator[tuple[str, _File]]:
    """The copied files, without what Python adds when it runs them."""
    for part in ("lib", "extensions"):
        for path in sorted((folder / part).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                executable = bool(path.stat().st_mode & 0o100)
                yield path.relative_to(folder).as_posix(), _File(path.read_bytes(), executable)


def _read(selection: Selection) -> dict[str, _File]:
    """Every file once, so that what is hashed is what is written. Raises ValueError for size and secrets."""
    sizes = {where: path.stat().st_size for where, path in selection.files.items()}
    largest = sorted(sizes, key=lambda where: sizes[where], reverse=True)
    if sum(sizes.values()) > _LIMIT or any(size > _FILE_LIMIT for size in sizes.values()):
        shown = ", ".join(f"{selection.files[where]} ({sizes[where]:,})" for where in largest[:_SHOWN])
        raise ValueError(
            f"a snapshot of the code must have at most {_LIMIT:,} bytes and {_FILE_LIMIT:,} in one file, got "
            f"{sum(sizes.values()):,}; the largest are {shown}: move data elsewhere, or let git ignore it"
        )
    files = {}
    for where, path in selection.files.items():
        content = path.read_bytes()
        if name := secret_in(content.decode(errors="replace")):
            raise ValueError(
                f"{path} must not hold the value of ${name}, because code is copied into the store: read it "
                "from the environment where it is needed"
            )
        files[where] = _File(content, bool(path.stat().st_mode & 0o100))
    return files


@contextmanager
def _making(folder: Path) -> Iterator[Path]:
    """A folder that becomes ``folder`` when the block ends well, unless another process was first."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}-{time.time_ns()}.partial")
    partial.mkdir()
    try:
        yield partial
        try:
            partial.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
        fsync(folder.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write(folder: Path, files: Mapping[str, _File], selection: Selection, checkout: Checkout | None) -> None:
    """Write a whole snapshot and wait until it is on disk."""
    for where, file in files.items():
        path = folder / where
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.content)
        path.chmod(0o555 if file.executable else 0o444)  # not for editing
        fsync(path)
    for path in [path for path in folder.rglob("*") if path.is_dir()]:
        fsync(path)
    record = {
        "created": time.time(),
        "python": sys.version,
        "sources": {where: str(path) for where, path in code_roots().items()},
        "extensions": [str(path) for path in extension_dirs()],
        "left_out": {str(path): reason for path, reason in selection.left_out.items()},
        "files": {where: file.sha for where, file in files.items()},
    }
    if checkout is not None:
        _write_git(folder, checkout, selection)
    write_json(folder / _RECORD, record)


def _own_checkout(selection: Selection) -> Checkout | None:
    """The checkout that this package is tracked in."""
    start = selection.files["lib/tokensweep/__init__.py"]
    root = checkout_of(start.parent)
    return None if root is None or start in selection.untracked else look_at(root)


def _untracked(checkout: Checkout, selection: Selection) -> list[str]:
    """Copied files of the checkout that are in no commit and in no patch, but in the snapshot."""
    own = (path for path in selection.untracked if path.is_relative_to(checkout.root))
    return sorted(path.relative_to(checkout.root).as_posix() for path in own)


def _is_dirty(checkout: Checkout, selection: Selection) -> bool:
    return checkout.commit is None or bool(checkout.changed or _untracked(checkout, selection))


def _write_git(folder: Path, checkout: Checkout, selection: Selection) -> None:
    """What a reader needs to rebuild the code from its repository, without secrets and weights."""
    left_out = dict(left_out_of_patch(checkout.changed, root=checkout.root))
    real = checkout.patch(without=left_out).decode(errors="surrogateescape")
    patch = redact(real).encode(errors="surrogateescape")
    size = len(patch)
    told: dict[str, Any] = {
        "commit": checkout.commit,
        "branch": checkout.branch,
        "dirty": _is_dirty(checkout, selection),
        "changed": list(checkout.changed),
        "untracked": _untracked(checkout, selection),
        "left_out_of_patch": left_out,
        "patch": _PATCH if 0 < size <= _FILE_LIMIT else None,
        "redacted": patch != real.encode(errors="surrogateescape"),  # such lines do not apply
    }
    if size > _FILE_LIMIT:
        told["patch_left_out"] = f"{size:,} bytes, more than {_FILE_LIMIT:,}"
    (folder / _PATCH).unlink(missing_ok=True)
    if told["patch"]:
        with replacing(folder / _PATCH) as path:
            path.write_bytes(patch)
    write_json(folder / _GIT, told)


def _check_code(folder: Path, selection: Selection) -> None:
    """Raise ValueError when a run of this snapshot would not be the one that was planned."""
    if code_sha_of(folder / "lib" / "tokensweep", _extensions(folder)) == code_sha():
        return
    needed = training_sources(code_roots()["lib/tokensweep"], extension_dirs())
    copied = set(selection.files.values())
    if missing := next((path for _, path in needed if path not in copied), None):
        reasons = [selection.left_out.get(path) for path in (missing, *missing.parents)]
        raise ValueError(
            f"{missing} is code that a run depends on, but is not copied "
            f"({next(filter(None, reasons), 'git ignores it')}): rename it, let git track it, or remove it"
        )
    raise ValueError("the code was changed while it was being planned: give the command again")
