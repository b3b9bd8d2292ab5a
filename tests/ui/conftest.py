"""A browser and an MLflow server for all tests of pages, and what pictures are taken of."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from tests.analysis.conftest import write_run, write_sweep
from tests.analysis.report_files import write_report_files
from tests.cluster.mlflow_server import Server
from tests.ui.browser import Browser, chromium, missing
from tests.ui.pages import Pages, show


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of test_pictures.py, which are there when it is named on the command line."""
    parser.addoption("--store", help="store of the sweep to take pictures of; without it, a made-up one")
    parser.addoption("--sweep", help="name of that sweep")
    parser.addoption("--into", help="folder for the pictures; without it, they are only checked")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Only root can install a browser: for others without one, tests are NOT RUN."""
    if missing() and os.geteuid() != 0:
        pytest.skip(f"NOT RUN: {missing()}")
    assert not missing(), missing()
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="session")
def server(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server that the browser has visited before. It takes 20 s to start: all share it."""
    made = Server(tmp_path_factory.mktemp("server"))
    try:
        made.up()
        browser.visit(made.uri)
        yield made.uri
    finally:
        made.down()


@pytest.fixture(scope="session")
def pages(server: str, tmp_path_factory: pytest.TempPathFactory) -> Pages:
    """A sweep of two arms and two seeds with its report, on the server."""
    store = tmp_path_factory.mktemp("store")
    for seed in (0, 1):
        write_run(store, f"a{seed}", correct=[4, 2, seed], seed=seed)
        write_run(store, f"t{seed}", correct=[4, 3, seed], seed=seed)
    entries = [(arm, seed, f"{arm[0]}{seed}") for arm in ("all", "top") for seed in (0, 1)]
    write_sweep(store, entries)
    write_report_files(store / "sweeps" / "demo" / "report")
    return show(store, "demo", server=server)
