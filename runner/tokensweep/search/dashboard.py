"""``tokensweep dashboard``: optuna-dashboard on the study of a search. Needs the extra ``dashboard``."""

from __future__ import annotations

import argparse
import errno
import signal
import socket
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from optuna.storages import BaseStorage

from tokensweep.options import with_store
from tokensweep.paths import STORAGE_VARIABLE
from tokensweep.search.spec import is_search, search_folder
from tokensweep.search.storage import JOURNAL, open_storage, study_name

_HOST = "127.0.0.1"
_PORT = 8080

_Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def dashboard_command(arguments: Sequence[str], *, uri: str) -> None:
    """Serve until Ctrl-C. ``uri`` as for :func:`~tokensweep.search.storage.open_storage`.

    Raises ValueError for a sweep that is no search, a search without a study, and a port that is taken.
    """
    parser = argparse.ArgumentParser(
        prog="tokensweep dashboard",
        description="Show the trials of a search in optuna-dashboard, on this machine only, until Ctrl-C. "
        "It is for looking: nothing can be changed there.",
    )
    parser.add_argument("sweep", help="name of the search (a folder in <store>/sweeps)")
    parser.add_argument(
        "--port", type=_port, default=_PORT, metavar="N", help=f"{_PORT} unless given; 0 picks a free one"
    )
    options, store, _ = with_store(parser, arguments)
    storage, study = open_study(store, options.sweep, uri=uri)
    with _server(_application(storage), options.port) as server:
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.default_int_handler)
        port = server.server_port
        print(
            f"http://{_HOST}:{port}/dashboard/studies/{study}\n"
            f"from another machine: ssh -L {port}:{_HOST}:{port} {socket.gethostname()}, then the same "
            "address; Ctrl-C ends it",
            flush=True,
        )
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("\nthe dashboard has ended; the search has not noticed")


def open_study(store: Path, name: str, *, uri: str) -> tuple[BaseStorage, int]:
    """The storage of a search and the id of its study. Raises ValueError when there is none."""
    if not is_search(store, name):
        known = sorted(path.parents[1].name for path in (store / "sweeps").glob("*/search/search.json"))
        raise ValueError(f"no search {name!r} in {store}: known are {', '.join(known) or 'none'}")
    folder = search_folder(store, name)
    hint = f"if it is in a database, {STORAGE_VARIABLE} must hold its address"
    if not uri and not (folder / JOURNAL).is_file():
        raise ValueError(f"the search {name} has no study in {folder}: {hint}; if not, it has not begun")
    storage = open_storage(folder, uri=uri)
    try:
        return storage, storage.get_study_id_from_name(study_name(folder, uri=uri))
    except KeyError:
        where = STORAGE_VARIABLE if uri else folder / JOURNAL
        raise ValueError(f"the storage in {where} must hold the study {name}, but does not: {hint}") from None


def _application(storage: BaseStorage) -> _Application:
    """The dashboard of a storage. Raises ValueError without the extra."""
    try:
        from optuna_dashboard import wsgi  # type: ignore[import-untyped]  # it has no py.typed
    except ImportError as error:
        raise ValueError(
            f"the dashboard must have optuna-dashboard: pip install 'tokensweep[dashboard]' ({error})"
        ) from error
    return _only_looking(wsgi(storage))


def _only_looking(application: _Application) -> _Application:
    """The application without what changes a study: everybody on this machine can open its page."""

    def answer(environment: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if environment["REQUEST_METHOD"] in ("GET", "HEAD"):
            return application(environment, start)
        start("405 Method Not Allowed", [("Content-Type", "application/json"), ("Allow", "GET, HEAD")])
        return [b'{"reason": "tokensweep shows the study and changes nothing"}']

    return answer


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: a page asks every few seconds."""


def _server(application: _Application, port: int) -> WSGIServer:
    try:
        return make_server(_HOST, port, application, server_class=_Server, handler_class=_Handler)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        raise ValueError(f"port {port} is taken: --port 0 picks a free one") from error


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"must be a whole number up to 65535, got {text!r}")
    return int(text)
