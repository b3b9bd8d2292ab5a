"""Where a study lives: a file beside the search, PostgreSQL, or a server of Optuna's in front of a database.

The address may hold a password, so it is handed over in the environment (``TOKENSWEEP_SEARCH_STORAGE``) and
stands in no file.
"""

from __future__ import annotations

from pathlib import Path

from optuna.storages import BaseStorage, JournalStorage

from tokensweep.redact import redact
from tokensweep.search.journal import Journal

JOURNAL = "journal.log"

_POSTGRES = ("postgresql", "postgres", "postgresql+psycopg")


def open_storage(folder: Path, *, uri: str) -> BaseStorage:
    """The storage at ``uri``: ``postgresql://...``, ``grpc://HOST:PORT``, or empty for a file in ``folder``.

    Raises ValueError for an address that cannot be used and for a damaged file, ConnectionError when nobody
    answers, OSError when the file cannot be made. Passwords are in no message.
    """
    if not uri:
        folder.mkdir(parents=True, exist_ok=True)
        return JournalStorage(Journal(folder / JOURNAL))
    scheme = uri.partition("://")[0] if "://" in uri else ""
    if scheme in _POSTGRES:
        from tokensweep.search.database import open_database

        return open_database(uri)
    if scheme == "grpc":
        from tokensweep.search.proxy import open_proxy

        return open_proxy(uri)
    raise ValueError(_refusal(scheme, uri))


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
