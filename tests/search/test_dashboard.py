"""``tokensweep dashboard``: started as a user would, asked as a browser does, ended by Ctrl-C."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import optuna
import pytest

from tokensweep.search.dashboard import dashboard_command, open_study
from tokensweep.search.storage import open_storage


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with a search called s, whose study has two trials."""
    folder = tmp_path / "sweeps" / "s" / "search"
    study = optuna.create_study(study_name="s", storage=open_storage(folder, uri=""), direction="maximize")
    for value in (0.25, 0.75):
        trial = study.ask({"fraction": optuna.distributions.FloatDistribution(0.05, 1.0)})
        study.tell(trial, value)
    (folder / "search.json").write_text("{}")
    return tmp_path


def _start(store: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    environment.pop("TOKENSWEEP_SEARCH_STORAGE", None)
    return subprocess.Popen(
        [sys.executable, "-m", "tokensweep.cli", "dashboard", *arguments, f"store={store}"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def serving(store: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command while it serves the search, and the address that it has printed."""
    process = _start(store, "s", "--port", "0")
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


def _get(url: str) -> str:
    with urlopen(url, timeout=30) as answer:
        return str(answer.read().decode())


def test_it_shows_the_study_changes_nothing_and_ends_on_ctrl_c(
    serving: tuple[subprocess.Popen[str], str],
) -> None:
    process, url = serving
    match = re.fullmatch(r"(http://127\.0\.0\.1:\d+)/dashboard/studies/0", url)
    assert match, url
    assert "<title>Optuna Dashboard" in _get(url)
    studies: list[Any] = json.loads(_get(f"{match[1]}/api/studies"))["study_summaries"]
    assert [(one["study_id"], one["study_name"]) for one in studies] == [(0, "s")]
    study = json.loads(_get(f"{match[1]}/api/studies/0"))
    assert [trial["values"] for trial in study["trials"]] == [[0.25], [0.75]]
    for method in ("DELETE", "POST", "PUT", "PATCH"):  # it is for looking
        with pytest.raises(HTTPError, match="405") as caught:
            urlopen(Request(f"{match[1]}/api/studies/0", method=method), timeout=30)
        caught.value.close()
    assert _get(f"{match[1]}/api/studies/0")
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "the dashboard has ended" in output
    assert errors == ""


def test_an_unknown_search_is_said_with_those_there_are(store: Path) -> None:
    process = _start(store, "other")
    output, errors = process.communicate(timeout=120)
    assert (process.returncode, output) == (2, "")
    assert errors == f"tokensweep: error: no search 'other' in {store}: known are s\n"


def test_a_port_that_is_taken_is_said(store: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=rf"port {port} is taken: --port 0 picks a free one"):
            dashboard_command(["s", "--port", str(port), f"store={store}"], uri="")


def test_a_search_whose_study_is_elsewhere_is_said(store: Path) -> None:
    (store / "sweeps" / "s" / "search" / "journal.log").unlink()
    with pytest.raises(ValueError, match=r"no study in .*TOKENSWEEP_SEARCH_STORAGE must hold its address"):
        open_study(store, "s", uri="")
    assert not (store / "sweeps" / "s" / "search" / "journal.log").exists()


def test_a_storage_without_this_study_is_said(store: Path) -> None:
    (store / "sweeps" / "s" / "search" / "journal.log").write_text("")
    with pytest.raises(ValueError, match=r"journal\.log must hold the study s, but does not"):
        open_study(store, "s", uri="")


def test_the_missing_extra_is_said(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)
    with pytest.raises(ValueError, match=r"pip install 'tokensweep\[dashboard\]'"):
        dashboard_command(["s", f"store={store}"], uri="")


def test_a_port_is_a_number(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        dashboard_command(["s", "--port", "70000", f"store={store}"], uri="")
    assert "--port: must be a whole number up to 65535, got '70000'" in capsys.readouterr().err
