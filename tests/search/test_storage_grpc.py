"""A study behind Optuna's gRPC proxy, with a real PostgreSQL behind it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import optuna
import pytest
from optuna.trial import TrialState
from tests.search.postgres import Postgres, database, postgres

from tokensweep.search.database import open_database
from tokensweep.search.proxy import open_proxy

__all__ = ["database", "postgres"]  # fixtures

_SERVER = """
import os
from optuna.storages import run_grpc_proxy_server
from tokensweep.search.database import open_database
storage = open_database(os.environ["TOKENSWEEP_SEARCH_STORAGE"])
run_grpc_proxy_server(storage, host="127.0.0.1", port=int(os.environ["PORT"]))
"""


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def _serving(uri: str, port: int) -> Iterator[None]:
    environment = {**os.environ, "TOKENSWEEP_SEARCH_STORAGE": uri, "PORT": str(port)}
    server = subprocess.Popen([sys.executable, "-c", _SERVER], env=environment)
    try:
        yield
    finally:
        server.kill()
        server.wait()


def _study(storage: optuna.storages.BaseStorage) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = optuna.samplers.RandomSampler(seed=0)
    return optuna.create_study(study_name="s", storage=storage, load_if_exists=True, sampler=sampler)


def _tell(study: optuna.Study) -> int:
    trial = study.ask()
    x = trial.suggest_float("x", 0.0, 1.0)
    trial.report(x, 1)
    study.tell(trial, x)
    return trial.number


def test_a_study_lives_behind_the_proxy_and_through_its_restart(database: str) -> None:
    port = _free_port()
    with _serving(database, port):
        storage = open_proxy(f"grpc://127.0.0.1:{port}", answer_s=60, call_s=60)
        study = _study(storage)
        assert [_tell(study) for _ in range(3)] == [0, 1, 2]
        trial = study.ask()
    with _serving(database, port):  # the call waits for it
        trial.report(0.5, 1)
        study.tell(trial, 0.5)
    direct = _study(open_database(database))
    assert [one.state for one in direct.trials] == [TrialState.COMPLETE] * 4
    assert direct.trials[3].intermediate_values == {1: 0.5}


def test_a_server_that_went_away_is_said_after_a_bounded_wait(database: str) -> None:
    port = _free_port()
    with _serving(database, port):
        study = _study(open_proxy(f"grpc://127.0.0.1:{port}", answer_s=60, call_s=1.5))
    began = time.monotonic()
    with pytest.raises(ConnectionError, match=rf":{port} must answer .*: check host and port"):
        study.ask()
    assert time.monotonic() - began < 10


def test_a_database_that_went_away_behind_the_proxy_is_said(postgres: Postgres, database: str) -> None:
    port = _free_port()
    with _serving(database, port):
        study = _study(open_proxy(f"grpc://127.0.0.1:{port}", answer_s=60, call_s=20))
        postgres.stop()
        try:
            with pytest.raises(ConnectionError, match=r"must serve a database .*refused.*look at what"):
                study.ask()
        finally:
            postgres.start()
        assert _tell(study) == 0


def test_nobody_at_the_address_is_said() -> None:
    port = _free_port()
    with pytest.raises(ConnectionError, match=rf":{port} must answer .*none within 0\.5 s"):
        open_proxy(f"grpc://127.0.0.1:{port}", answer_s=0.5)


@pytest.mark.parametrize(
    "uri",
    [
        "grpc://h",
        "grpc://:13000",
        "grpc://u:secret@h:13000",
        "grpc://h:port",
        "grpc://h:1/d",
        "grpc://h:1?a=b",
    ],
)
def test_only_host_and_port_are_an_address(uri: str) -> None:
    with pytest.raises(ValueError, match=r"must be grpc://HOST:PORT and nothing else") as caught:
        open_proxy(uri)
    assert "secret" not in str(caught.value)


def test_missing_grpc_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "grpc", None)
    with pytest.raises(ValueError, match=r"pip install 'tokensweep\[grpc\]'"):
        open_proxy("grpc://h:13000")
