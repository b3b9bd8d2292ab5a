"""Which storages there are for a study, and where their address comes from."""

from __future__ import annotations

from pathlib import Path

import pytest
from optuna.study import StudyDirection

from tokensweep.paths import storage_uri
from tokensweep.search.storage import open_storage


def test_without_an_address_a_study_is_a_file_in_the_folder_of_the_search(tmp_path: Path) -> None:
    open_storage(tmp_path / "search", uri="")
    assert [path.name for path in (tmp_path / "search").iterdir()] == ["journal.log"]


@pytest.mark.parametrize("uri", ["sqlite:///study.db", "sqlite+pysqlite:////nfs/study.db"])
def test_sqlite_is_refused_with_the_reason(tmp_path: Path, uri: str) -> None:
    with pytest.raises(ValueError, match="not sqlite, which jobs that write at once corrupt"):
        open_storage(tmp_path, uri=uri)
    assert not list(tmp_path.iterdir())


def test_another_driver_is_refused_with_the_one_to_take(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="psycopg, not postgresql\\+psycopg2: write postgresql://"):
        open_storage(tmp_path, uri="postgresql+psycopg2://h/d")


@pytest.mark.parametrize(
    "uri", ["mysql://u:some-secret@h/d", "journal.log", "redis://h", "://", "postgresql"]
)
def test_anything_else_is_refused_without_its_password(tmp_path: Path, uri: str) -> None:
    with pytest.raises(ValueError, match=r"must be postgresql://.*, grpc://HOST:PORT, or empty") as caught:
        open_storage(tmp_path, uri=uri)
    assert "some-secret" not in str(caught.value)


def test_the_address_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOKENSWEEP_SEARCH_STORAGE", raising=False)
    assert storage_uri() == ""
    monkeypatch.setenv("TOKENSWEEP_SEARCH_STORAGE", "postgresql://u:p@h/d")
    assert storage_uri() == "postgresql://u:p@h/d"


def test_a_study_in_a_file_does_not_begin_again_in_a_database(tmp_path: Path) -> None:
    open_storage(tmp_path, uri="").create_new_study([StudyDirection.MAXIMIZE], "s")
    with pytest.raises(ValueError, match=r"kept in journal\.log, but TOKENSWEEP_SEARCH_STORAGE holds"):
        open_storage(tmp_path, uri="postgresql://u:p@h/d")
