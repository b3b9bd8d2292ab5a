"""Where a study lives: a file beside the search, PostgreSQL, or a server of Optuna's in front of a database.

The address may hold a password, so it is handed over in the environment (``TOKENSWEEP_SEARCH_STORAGE``) and
stands in no file.
"""

from __future__ import annotations

from pathlib import Path

from optuna.storages import BaseStorage, JournalStorage

from tokensweep.files import write_text
from tokensweep.identity import digest
from tokensweep.paths import STORAGE_VARIABLE
from tokensweep.redact import redact
from tokensweep.search.journal import Journal

JOURNAL = "journal.log"
_ELSEWHERE = "database.txt"  # for people, and against a shell without the variable: where the study is

_POSTGRES = ("postgresql", "postgres", "postgresql+psycopg")


def open_storage(folder: Path, *, uri: str) -> BaseStorage:
    """The storage at ``uri``: ``postgresql://...``, ``grpc://HOST:PORT``, or empty for a file in ``folder``.

    Raises ValueError for an address that cannot be used, a damaged file and a study that is elsewhere,
    ConnectionError when nobody answers, OSError when the file cannot be made. Passwords are in no message.
    """
    _check_place(folder, uri)
    if not uri:
        folder.mkdir(parents=True, exist_ok=True)
        return JournalStorage(Journal(folder / JOURNAL))
    storage = _open_elsewhere(uri)
    if not (folder / _ELSEWHERE).is_file():
        write_text(folder / _ELSEWHERE, f"{redact(uri)}\n")
    return storage


def study_name(folder: Path, *, uri: str) -> str:
    """What Optuna calls the study of the search in ``folder``: databases may be shared by several stores."""
    name = folder.parent.name
    return f"{name}@{digest(str(folder.resolve()))[:8]}" if uri else name


def _open_elsewhere(uri: str) -> BaseStorage:
    scheme = uri.partition("://")[0] if "://" in uri else ""
    if scheme in _POSTGRES:
        from tokensweep.search.database import open_database

        return open_database(uri)
    if scheme == "grpc":
        from tokensweep.search.proxy import open_proxy

        return open_proxy(uri)
    raise ValueError(_refusal(scheme, uri))


def _check_place(folder: Path, uri: str) -> None:
    """Raise ValueError when a study would begin again, as the variable is missing or there by mistake."""
    journal, elsewhere = folder / JOURNAL, folder / _ELSEWHERE
    if not uri and elsewhere.is_file():
        raise ValueError(
            f"the study in {folder} is kept at {elsewhere.read_text().strip()}: {STORAGE_VARIABLE} must hold "
            "that address, with its password"
        )
    if uri and journal.is_file() and journal.stat().st_size:
        raise ValueError(
            f"the study in {folder} is kept in {JOURNAL}, but {STORAGE_VARIABLE} holds an address: unset it "
            "for this search"
        )


def _refusal(scheme: str, uri: str) -> str:
    if scheme.startswith("sqlite"):
        reason = (
            "not sqlite, which jobs that write at once corrupt or block on a shared file system: leave it "
            "empty for a file that bears it, or name a PostgreSQL database"
        )
    elif scheme.startswith("postgres"):
        reason = f"with the driver psycopg, not {scheme}: write postgresql://"
    else:
        reason = f"got {redact(uri)!r}"
    return (
        "the storage of a search must be postgresql://USER:PASSWORD@HOST/DATABASE, grpc://HOST:PORT, or "
        f"empty for a file in its folder; {reason}"
    )
