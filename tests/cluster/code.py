"""What tests do with the code of this repository: run it elsewhere, take snapshots of it, ask git."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tokensweep.cluster.snapshot import Snapshot, open_snapshot

TAKE = """
from pathlib import Path
import sys
from tokensweep.cluster.snapshot import take_snapshot
print(take_snapshot(Path(sys.argv[1])).folder)
"""


def python(
    code: str, *arguments: object, paths: Sequence[Path], cwd: Path, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run code with nothing of this process's environment but what is given."""
    given = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(map(str, paths)), **(env or {})}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(
        command, env=given, cwd=cwd, capture_output=True, text=True, timeout=240, check=False
    )


def taken(source: Path, store: Path, env: Mapping[str, str] | None = None) -> Snapshot:
    """The snapshot that a process with the code of ``source`` takes."""
    done = python(TAKE, store, paths=roots(source), cwd=store.parent, env=env)
    assert done.returncode == 0, done.stderr
    return open_snapshot(Path(done.stdout.strip()))


def roots(source: Path) -> list[Path]:
    """The source roots of a checkout."""
    return [source / "runner", source / "analysis"]


def git(folder: Path, *words: str) -> str:
    who = ("-c", "user.name=n", "-c", "user.email=e@x", "-c", "commit.gpgsign=false")
    done = subprocess.run(
        ["git", *who, "-C", str(folder), *words], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def contents(folder: Path) -> dict[str, bytes]:
    """Every copied file."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for part in ("lib", "extensions")
        for path in (folder / part).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
