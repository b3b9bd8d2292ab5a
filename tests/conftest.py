"""The order of the tests, and which of them share a process, when several processes run them."""

from __future__ import annotations

import pytest

_WAIT = ("slurm", "vllm", "ui")  # folders whose tests wait for clusters, servers and browsers


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each test its group, and put long groups first, so that none is left alone last.

    A file is a group, except that all tests on SLURM are one: they share a cluster, and two clusters at once
    would keep a small machine from answering in time.
    """
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (not _waits(item), item.path not in slow))
    for item in items:
        group = "slurm" if "slurm" in item.path.parts else "/".join(item.path.parts[-3:])
        item.add_marker(pytest.mark.xdist_group(group))


def _waits(item: pytest.Item) -> bool:
    return any(folder in item.path.parts for folder in _WAIT)
