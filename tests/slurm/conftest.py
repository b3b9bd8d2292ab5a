"""The development cluster of a session: up for the first test that asks, down at the end."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.slurm.cluster import Devcluster
from tests.slurm.sweeping import EVALUATED, Sweeping

_PACKAGES_MISSING = 3  # the exit code of `devcluster up`


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """An empty folder whose path is short enough for sockets, which that of ``tmp_path`` need not be."""
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder:
        yield Path(folder)


def _running(folder: str) -> Iterator[Devcluster]:
    """A cluster while it is up. Only root can install SLURM: for others without it, tests are NOT RUN."""
    cluster = Devcluster(Path(folder))
    try:
        done = cluster.script("up")
        if done.returncode == _PACKAGES_MISSING and os.geteuid() != 0:
            pytest.skip(f"NOT RUN: {done.stderr.strip()}")
        assert done.returncode == 0, done.stderr
        yield cluster
    finally:
        cluster.script("down")


@pytest.fixture(scope="session")
def devcluster() -> Iterator[Devcluster]:
    """The cluster that all tests of a session share: each leaves it without jobs."""
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder:
        yield from _running(folder)


@pytest.fixture
def second_cluster(short_folder: Path) -> Iterator[Devcluster]:
    """Another cluster on the same machine, for a test that breaks it."""
    yield from _running(str(short_folder))


@pytest.fixture
def sweeping(devcluster: Devcluster) -> Iterator[Sweeping]:
    """An empty store whose sweeps go to the cluster of the session."""
    yield from _store(devcluster)


@pytest.fixture
def sweeping_elsewhere(second_cluster: Devcluster) -> Iterator[Sweeping]:
    """An empty store whose sweeps go to a cluster that the test breaks."""
    yield from _store(second_cluster)


def _store(cluster: Devcluster) -> Iterator[Sweeping]:
    with tempfile.TemporaryDirectory(prefix="store-") as folder:
        sweeping = Sweeping(Path(folder) / "store", cluster)
        sweeping.store.mkdir()
        yield sweeping
        sweeping.leave()


@pytest.fixture(scope="session")
def undisturbed() -> Iterator[dict[int, Path]]:
    """Run folders by seed of tiny runs that this machine trained without a cluster."""
    with tempfile.TemporaryDirectory(prefix="store-") as folder:
        sweeping = Sweeping(Path(folder) / "store")
        sweeping.store.mkdir()
        sweeping.train("undisturbed", "seed=0,1,2", EVALUATED, "jobs=2")
        yield sweeping.runs("undisturbed")
