"""A study in a real PostgreSQL: many processes, a restart, and what goes wrong for users."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import traceback
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState
from tests.search.postgres import PASSWORD, Postgres, database, postgres

from tokensweep.search.database import open_database
from tokensweep.search.storage import open_storage

__all__ = ["database", "postgres"]  # fixtures


def _study(uri: str) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.create_study(
        study_name="s",
        storage=open_database(uri),
        load_if_exists=True,
        sampler=optuna.samplers.RandomSampler(),
    )


def _tell(study: optuna.Study) -> int:
    trial = study.ask()
    x = trial.suggest_float("x", 0.0, 1.0)
    for step in range(3):
        trial.report(x, step)
    trial.set_user_attr("element", 7)
    study.tell(trial, x)
    return trial.number


_WORKER = """
import sys, optuna
from tokensweep.search.database import open_database
print("ready", flush=True)
uri = sys.stdin.readline().strip()  # they wait for each other, and then make the tables at the same time
study = optuna.create_study(study_name="s", storage=open_database(uri), load_if_exists=True)
for _ in range(5):
    trial = study.ask()
    x = trial.suggest_float("x", 0.0, 1.0)
    for step in range(3):
        trial.report(x, step)
    trial.set_user_attr("element", 7)
    study.tell(trial, x)
    print(trial.number)
"""


def _four_work(uri: str) -> list[int]:
    """The numbers of the trials of four processes."""
    command = [sys.executable, "-c", _WORKER]
    workers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    for one in workers:
        assert one.stdout is not None
        assert one.stdout.readline() == "ready\n"
    numbers = []
    for one in workers:
        assert one.stdin is not None
        one.stdin.write(f"{uri}\n")
        one.stdin.flush()
    for one in workers:
        numbers += [int(line) for line in one.communicate(timeout=120)[0].split()]
        assert one.returncode == 0
    return sorted(numbers)


def _as(uri: str, user: str, password: str) -> str:
    return f"postgresql://{user}:{password}@{uri.partition('@')[2]}"


def test_four_processes_make_the_tables_and_share_a_study(database: str) -> None:
    assert _four_work(database) == list(range(20))
    trials = _study(database).trials
    assert [trial.number for trial in trials] == list(range(20))
    assert all(trial.state is TrialState.COMPLETE and trial.user_attrs == {"element": 7} for trial in trials)
    assert all(list(trial.intermediate_values) == [0, 1, 2] for trial in trials)


def test_a_study_outlives_the_server_which_is_said_meanwhile(postgres: Postgres, database: str) -> None:
    study = _study(database)
    _tell(study)
    trial = study.ask()
    postgres.stop()
    try:
        for use in (study.ask, lambda: trial.report(0.5, 1), lambda: study.trials, lambda: _study(database)):
            with pytest.raises(
                ConnectionError, match=r"\*\*\*@127.*refused.*: check host and port"
            ) as caught:
                use()
            assert PASSWORD not in "".join(traceback.format_exception(caught.value))
    finally:
        postgres.start()
    trial.report(0.5, 1)
    study.tell(trial, 0.5)
    assert _tell(study) == 2
    assert [one.state for one in _study(database).trials] == [TrialState.COMPLETE] * 3


def test_an_idle_connection_ends_and_the_next_use_makes_another(
    postgres: Postgres, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokensweep.search.database._IDLE", "300ms")
    study = _study(database)
    _tell(study)
    count = f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{database.rpartition('/')[2]}'"
    end = time.monotonic() + 20
    while postgres.execute(count) != "0":
        assert time.monotonic() < end
        time.sleep(0.1)
    assert _tell(study) == 1


def test_a_wrong_password_is_said_without_it(postgres: Postgres, database: str) -> None:
    uri = postgres.uri(database.rpartition("/")[2], password="wrong-and-secret")
    with pytest.raises(
        ConnectionError, match=r"authentication failed.*: correct user and password"
    ) as caught:
        open_database(uri)
    assert "wrong-and-secret" not in "".join(traceback.format_exception(caught.value))


def test_a_missing_database_is_said(postgres: Postgres) -> None:
    with pytest.raises(ConnectionError, match=r'database "nowhere" does not exist.*: make it \(createdb\)'):
        open_database(postgres.uri("nowhere"))


def test_a_user_who_may_not_make_tables_is_told_how_they_may(postgres: Postgres, database: str) -> None:
    postgres.execute("CREATE ROLE guest LOGIN PASSWORD 'guest-password'")
    with pytest.raises(ConnectionError, match=r"permission denied for schema public.*ALTER DATABASE"):
        open_database(_as(database, "guest", "guest-password"))


def test_too_many_connections_are_said(postgres: Postgres, database: str) -> None:
    postgres.execute("CREATE ROLE busy LOGIN PASSWORD 'busy-password' CONNECTION LIMIT 0")
    with pytest.raises(ConnectionError, match=r"too many connections.*: raise max_connections"):
        open_database(_as(database, "busy", "busy-password"))


def test_a_host_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as silent:  # takes the connection, and says nothing
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        uri = f"postgresql://u:some-secret@127.0.0.1:{silent.getsockname()[1]}/d?connect_timeout=2"
        began = time.monotonic()
        with pytest.raises(ConnectionError, match=r"timeout.*: check host and port") as caught:
            open_database(uri)
        assert time.monotonic() - began < 10
    assert "some-secret" not in "".join(traceback.format_exception(caught.value))


def test_tables_of_another_release_are_said(postgres: Postgres, database: str) -> None:
    open_database(database)
    postgres.execute("UPDATE alembic_version SET version_num = 'v3.0.0.a'", name=database.rpartition("/")[2])
    with pytest.raises(ValueError, match=r"\*\*\*@.*no longer compatible with the table schema"):
        open_database(database)


def test_a_database_without_an_encoding_is_one_as_well(postgres: Postgres) -> None:
    postgres.execute("CREATE DATABASE plain ENCODING 'SQL_ASCII' TEMPLATE template0")
    assert _tell(_study(postgres.uri("plain"))) == 0


@pytest.mark.parametrize(
    "uri",
    [
        "postgresql://u:some/secret@h/d",
        "postgresql://u:some@secret@h/d",
        "postgresql://u:some-secret@h",
        "postgresql://u:some-secret@h:port/d",
        "postgresql://u:some#secret@h/d",
    ],
)
def test_an_address_that_cannot_be_taken_apart_is_not_repeated(uri: str) -> None:
    with pytest.raises(ValueError, match=r"must be postgresql://USER:PASSWORD@HOST:PORT/DATABASE") as caught:
        open_database(uri)
    assert "secret" not in "".join(traceback.format_exception(caught.value))


def test_a_missing_driver_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ValueError, match=r"pip install 'tokensweep\[postgres\]'"):
        open_database("postgresql://u@h/d")


def test_a_study_in_a_database_does_not_begin_again_in_a_file(database: str, tmp_path: Path) -> None:
    open_storage(tmp_path, uri=database)
    kept = (tmp_path / "database.txt").read_text()
    assert kept == database.replace("pass%20word%2Fwith%40signs", "***") + "\n"
    with pytest.raises(ValueError, match=r"is kept at postgresql://.*: TOKENSWEEP_SEARCH_STORAGE must hold"):
        open_storage(tmp_path, uri="")
    assert [path.name for path in tmp_path.iterdir()] == ["database.txt"]
