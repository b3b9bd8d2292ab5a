"""Code to take snapshots of: this repository's, copied, committed, or with a user's extension."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cluster.code import git, write

from tokensweep import identity

_REPOSITORY = Path(__file__).parents[2]
_PARTS = ("runner", "analysis", "conf", "sweeps", "slurm")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The code of this repository in a folder that git knows nothing of."""
    ignore = shutil.ignore_patterns("__pycache__")
    for part in _PARTS:
        shutil.copytree(_REPOSITORY / part, tmp_path / "source" / part, ignore=ignore)
    return tmp_path / "source"


@pytest.fixture
def checkout(source: Path) -> Path:
    """The same, committed."""
    write(source / ".gitignore", "__pycache__/\nignored*\n")
    git(source, "init", "--quiet", "--initial-branch=trunk")
    git(source, "add", "--all")
    git(source, "commit", "--quiet", "--message=all")
    return source


@pytest.fixture
def extension(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder in TOKENSWEEP_PATH of this process."""
    folder = tmp_path / "extension"
    write(folder / "methods" / "mine.py", "X = 1\n")
    monkeypatch.setenv("TOKENSWEEP_PATH", str(folder))
    identity.code_sha.cache_clear()
    yield folder
    identity.code_sha.cache_clear()
