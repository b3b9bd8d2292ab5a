"""A store is its owner's alone unless a group is named, and one that exists stays as it is."""

from __future__ import annotations

import grp
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tokensweep.mlflow_client import check_uri
from tokensweep.store import make_store


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(params=[0o022, 0o077, 0o000])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.mark.usefixtures("umask")
def test_a_new_store_is_for_its_owner_alone(tmp_path: Path) -> None:
    make_store(tmp_path / "home" / "store")
    assert mode(tmp_path / "home" / "store") == 0o700


@pytest.mark.usefixtures("umask")
def test_a_group_may_read_a_store_and_gets_what_is_made_in_it(tmp_path: Path) -> None:
    own = os.getgroups()[-1] if os.getgroups() else os.getgid()
    make_store(tmp_path / "store", group=grp.getgrgid(own).gr_name)
    (tmp_path / "store" / "runs").mkdir()
    assert mode(tmp_path / "store") == 0o2750
    assert (tmp_path / "store" / "runs").stat().st_gid == own


def test_in_a_folder_that_was_there_before_only_the_parts_of_the_store_are_private(tmp_path: Path) -> None:
    (tmp_path / "store" / "runs").mkdir(parents=True)
    for folder in (tmp_path / "store", tmp_path / "store" / "runs"):
        folder.chmod(0o755)
    make_store(tmp_path / "store")
    modes = {name: mode(tmp_path / "store" / name) for name in ("", "runs", "sweeps", "snapshots")}
    assert modes == {"": 0o755, "runs": 0o755, "sweeps": 0o700, "snapshots": 0o700}


def test_an_unknown_group_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no group 'no_such_group' on this machine"):
        make_store(tmp_path / "store", group="no_such_group")
    assert list(tmp_path.iterdir()) == []


def test_a_group_of_others_is_refused_and_no_store_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chown", refuse)
    with pytest.raises(ValueError, match="you must be a member of the group"):
        make_store(tmp_path / "store", group=grp.getgrgid(os.getgid()).gr_name)
    assert list(tmp_path.iterdir()) == []


def test_a_look_at_a_tracking_uri_makes_no_folder(tmp_path: Path) -> None:
    check_uri(f"sqlite:///{tmp_path / 'store' / 'mlflow.db'}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("data", "fetch", "aime24"),
        ("evaluate", "model=tiny", "data=ops", "eval=held_out", "eval.held_out=1", "eval.num_samples=1",
         "eval.k=[1]", "model.steps=0", "eval.max_tokens=2"),
    ],
)  # fmt: skip
def test_a_command_that_makes_the_store_makes_it_private(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    store = tmp_path / "store"
    done = subprocess.run(
        [sys.executable, "-m", "tokensweep.cli", *arguments, f"store={store}"],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,  # there is no hub to fetch from
        timeout=120,
    )
    assert store.is_dir(), done.stderr
    assert mode(store) == 0o700
