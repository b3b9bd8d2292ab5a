"""A study behind Optuna's gRPC proxy, for nodes that reach the login node but not its database.

Needs the extra ``grpc``. The server is Optuna's own, ``optuna.storages.run_grpc_proxy_server``. It has to
stand before a database: before a journal Optuna does not support it (optuna/optuna#6084), as all clients are
one worker to the journal then.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from optuna.exceptions import ExperimentalWarning
from optuna.storages import BaseStorage, GrpcStorageProxy

_ANSWER_S = 10.0  # for the first sign of life
_CALL_S = 60.0  # for one call, in which a server may also start again


def open_proxy(uri: str, *, answer_s: float = _ANSWER_S, call_s: float = _CALL_S) -> BaseStorage:
    """Optuna's storage behind the server at ``grpc://HOST:PORT``.

    Raises ValueError for an address that cannot be used or without gRPC; ConnectionError when nobody answers
    within ``answer_s`` seconds, and from every method when a call is not answered within ``call_s``.
    """
    host, port = _parts(uri)
    if importlib.util.find_spec("grpc") is None:
        raise ValueError("a storage at grpc:// must have gRPC: pip install 'tokensweep[grpc]'")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # said once: the range of Optuna is pinned
        storage = _Proxy(host=host, port=port, call_s=call_s)
    try:
        storage.wait_server_ready(timeout=answer_s)
    except ConnectionError:
        storage.close()
        raise ConnectionError(_unanswered(f"{host}:{port}", f"none within {answer_s:g} s")) from None
    return storage


def _parts(uri: str) -> tuple[str, int]:
    """Host, in brackets if IPv6, and port. Raises ValueError."""
    try:
        parts = urlsplit(uri)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or not port or "@" in uri or parts.path.strip("/") or parts.query:
        raise ValueError(
            "the storage of a search behind gRPC must be grpc://HOST:PORT and nothing else: Optuna's proxy "
            "asks for no password, so it must be in a network that you trust"
        )
    return (f"[{host}]" if ":" in host else host), port


class _Proxy(GrpcStorageProxy):
    """Optuna's client, with an end to waiting and errors that say what to do."""

    def __init__(self, *, host: str, port: int, call_s: float) -> None:
        self._call_s = call_s
        super().__init__(host=host, port=port)

    def _setup(self) -> None:
        super()._setup()
        patient: Any = _Patient(self._stub, address=f"{self._host}:{self._port}", call_s=self._call_s)
        self._stub = self._cache.grpc_client = patient


class _Patient:
    """The server's methods: each waits for a server that starts again, and not for ever."""

    def __init__(self, stub: Any, *, address: str, call_s: float) -> None:
        self._stub, self._address, self._call_s = stub, address, call_s

    def __getattr__(self, name: str) -> Callable[[Any], Any]:
        import grpc  # type: ignore[import-untyped]  # its stubs are another package

        method = getattr(self._stub, name)

        def call(request: Any) -> Any:
            try:
                return method(request, timeout=self._call_s, wait_for_ready=True)
            except grpc.RpcError as error:
                code, details = error.code(), " ".join(str(error.details()).split())
                if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                    raise ConnectionError(_unanswered(self._address, details)) from None
                if code is grpc.StatusCode.UNKNOWN:  # an error in the server itself
                    raise ConnectionError(
                        f"grpc://{self._address} must serve a database for the study, and failed: {details}: "
                        "look at what it says and at its database"
                    ) from None
                raise

        return call


def _unanswered(address: str, said: str) -> str:
    return (
        f"grpc://{address} must answer for the study, got {said}: check host and port, that Optuna's proxy "
        "server runs there (docs/search_storage.md), and that no_proxy names the host if this machine has an "
        "HTTP proxy; the study is kept, so the same command can be given again"
    )
