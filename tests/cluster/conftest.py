"""Code to take snapshots of, a pretended SLURM, and a store whose runs did whatever a test says."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.cluster.code import git, write
from tests.cluster.fake_slurm import FakeSlurm
from tests.cluster.made_up import Store

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


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    """SLURM's commands of this process and its children are pretended ones."""
    fake = FakeSlurm(tmp_path / "slurm")
    monkeypatch.setenv("PATH", fake.path)
    return fake


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store with nothing in it."""
    return Store(tmp_path / "store")


@pytest.fixture
def hold() -> Iterator[Callable[[Path], None]]:
    """Holds a lock as another process would."""
    with ExitStack() as files:

        def lock(path: Path) -> None:
            path.parent.mkdir(parents=True, exist_ok=True)
            fcntl.flock(files.enter_context(path.open("a")), fcntl.LOCK_EX)

        yield lock
