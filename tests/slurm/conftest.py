"""The development cluster of a session: up for the first test that asks, down at the end."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.slurm.cluster import Devcluster

_PACKAGES_MISSING = 3  # the exit code of `devcluster up`


def _running(folder: Path) -> Iterator[Devcluster]:
    """A cluster while it is up. Only root can install SLURM: for others without it, tests are NOT RUN."""
    cluster = Devcluster(folder)
    try:
        done = cluster.script("up")
        if done.returncode == _PACKAGES_MISSING and os.geteuid() != 0:
            pytest.skip(f"NOT RUN: {done.stderr.strip()}")
        assert done.returncode == 0, done.stderr
        yield cluster
    finally:
        cluster.script("down")


@pytest.fixture(scope="session")
def devcluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Devcluster]:
    """The cluster that all tests of a session share: each leaves it without jobs."""
    yield from _running(tmp_path_factory.mktemp("slurm"))


@pytest.fixture
def second_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Devcluster]:
    """Another cluster on the same machine, for a test that breaks it."""
    yield from _running(tmp_path_factory.mktemp("slurm"))
