"""A study in PostgreSQL. Needs the extra ``postgres``."""

from __future__ import annotations

import re
import weakref
from typing import Any

from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage, get_storage
from sqlalchemy import URL, NullPool, create_engine, event, text
from sqlalchemy.engine import ExceptionContext, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, DBAPIError

from tokensweep.redact import redact

_TABLES = 0x746F6B656E  # "token" in ASCII: the number of the lock under which tables are made
_AWAY = ("08", "28", "3D", "53", "57")  # SQLSTATE classes: connection, login, database, resources, operator
_DENIED = ("42501", "25006")  # privilege, read-only
_IDLE = "10s"  # until the server ends a connection
_PATIENCE: dict[str, Any] = {  # libpq's words; what the address says goes before
    "connect_timeout": 10,  # s
    "keepalives_idle": 30,  # s
    "keepalives_interval": 10,  # s
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,  # ms; a host that vanished is noticed after a minute instead of 15
    "application_name": "tokensweep",
    "client_encoding": "utf8",  # a database in SQL_ASCII answers in bytes, which SQLAlchemy does not expect
}
_ADVICE = (  # what the server or libpq says, and what to do
    (r"password authentication failed|no password supplied", "correct user and password in the address"),
    (r'database ".*" does not exist', "make it (createdb), or correct its name in the address"),
    (r'role ".*" does not exist', "make it (createuser), or correct the user in the address"),
    (r"no pg_hba.conf entry", "ask for an entry of pg_hba.conf that lets this host, user and database in"),
    (
        r"too many (clients|connections)|connection slots",
        "raise max_connections of the server, or let fewer jobs run at once",
    ),
    (r"permission denied", "make the user the owner of the database (ALTER DATABASE ... OWNER TO ...)"),
    (r"No space left|could not extend file", "make room on the server"),
    (r"read-only transaction|in recovery mode", "name the primary server, this one is a replica"),
)
_UNREACHABLE = (
    "check host and port, that the server runs, listens there (listen_addresses) and can be reached from "
    "this machine; the study is kept, so the same command can be given again"
)


def open_database(uri: str) -> BaseStorage:
    """Optuna's storage in the database at ``uri``, with its tables made if there are none.

    An element of a search talks to the study for a moment and then trains for long, and a connection that it
    kept meanwhile would count against the server's limit of some 100. So the server ends one that is not used
    for ten seconds (before PostgreSQL 14 it does not), and the next use makes another, as after a restart of
    the server. One connection for each use would be a fifth as fast.
    Raises ValueError for an address that cannot be used or without the driver; ConnectionError, here and from
    every method, when the server is away or turns us out. Passwords are in no message.
    """
    url = _checked(uri)
    patience = {key: value for key, value in _PATIENCE.items() if key not in url.query}
    address = url.render_as_string(hide_password=False)
    owner = create_engine(url, pool_size=1, pool_pre_ping=True, connect_args=patience)
    event.listen(owner, "connect", _end_when_idle)
    try:
        with create_engine(url, poolclass=NullPool, connect_args=patience).begin() as turn:
            # Of processes that make the tables at the same time, Optuna lets all but one fail.
            turn.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _TABLES})
            storage = RDBStorage(address, engine_kwargs={"pool": owner.pool})
    except (DBAPIError, StorageInternalError) as error:
        owner.dispose()
        raise ConnectionError(_explanation(_of_the_driver(error), url)) from None
    except RuntimeError as error:  # the tables are of another release
        owner.dispose()
        raise ValueError(f"{_named(url)}: {redact(str(error))}") from None
    event.listen(storage.engine, "handle_error", _tell)
    weakref.finalize(storage, owner.pool.dispose)  # psycopg warns of connections that nobody closes
    return get_storage(storage)  # which remembers what has ended


def _checked(uri: str) -> URL:
    """The address in parts. Raises ValueError."""
    try:
        import psycopg  # noqa: F401  without libpq this fails, too
    except ImportError as error:
        raise ValueError(
            f"a search in PostgreSQL must have psycopg: pip install 'tokensweep[postgres]' ({error})"
        ) from error
    try:
        url = make_url(uri).set(drivername="postgresql+psycopg")
    except (ArgumentError, ValueError):  # may hold the password
        url = None
    is_hidden = url is None or not url.password or redact(uri) != uri  # as logs would hide it
    if url is None or not url.database or not is_hidden or uri.partition("?")[0].count("@") > 1:
        raise ValueError(
            "the storage of a search must be postgresql://USER:PASSWORD@HOST:PORT/DATABASE, with %40 for @, "
            f"%2F for / and so on in the password, got {_hidden(uri)}"
        )
    return url


def _hidden(uri: str) -> str:
    """An address that cannot be taken apart, without what may be a password."""
    scheme, _, rest = uri.partition("://")
    return f"{scheme}://{'***@' if '@' in rest else ''}{redact(rest.rpartition('@')[2])}"


def _named(url: URL) -> str:
    return url.set(drivername="postgresql").render_as_string(hide_password=True)


def _of_the_driver(error: BaseException) -> BaseException:
    """What the server or libpq said, out of what SQLAlchemy and Optuna wrapped it in."""
    inner = error.__cause__ if isinstance(error, StorageInternalError) else error
    return (inner.orig if isinstance(inner, DBAPIError) else inner) or error


def _explanation(error: BaseException, url: URL) -> str:
    said = " ".join(str(error).split())
    if url.password:
        said = said.replace(str(url.password), "***")
    advice = next((advice for pattern, advice in _ADVICE if re.search(pattern, said)), _UNREACHABLE)
    return f"{_named(url)} must be a PostgreSQL database for the study, got {redact(said)!r}: {advice}"


def _end_when_idle(connection: DBAPIConnection, _: object) -> None:
    cursor = connection.cursor()
    cursor.execute(
        "SELECT set_config(name, %s, false) FROM pg_settings WHERE name = 'idle_session_timeout'", (_IDLE,)
    )
    cursor.close()
    connection.commit()


def _tell(context: ExceptionContext) -> None:
    """Raise ConnectionError for what a user has to mend; SQLAlchemy and Optuna see to the rest."""
    import psycopg

    error, engine = context.original_exception, context.engine
    if engine is None or not isinstance(error, psycopg.Error):
        return
    state = error.sqlstate
    is_away = isinstance(error, psycopg.OperationalError) and (state is None or state[:2] in _AWAY)
    if is_away or state in _DENIED:
        raise ConnectionError(_explanation(error, engine.url)) from None
