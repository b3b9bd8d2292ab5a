"""A real MLflow server for tests, and for the pictures of the documentation."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path


class Server:
    """A real MLflow server on this machine, up or down."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def up(self) -> None:
        """Start it and wait until it answers."""
        arguments = ("--backend-store-uri", f"sqlite:///{self.folder}/served.db", "--workers", "1")
        where = ("--host", "127.0.0.1", "--port", str(self.port), "--artifacts-destination", str(self.folder))
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", *arguments, *where],
                env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=5).close()
            except (urllib.error.URLError, OSError):
                said = (self.folder / "server.log").read_text()
                assert time.monotonic() < deadline and self.process.poll() is None, said  # noqa: PT018
                time.sleep(0.2)
            else:
                return

    def down(self) -> None:
        """End it with everything that it started."""
        if self.process is not None:
            os.killpg(self.process.pid, 9)
            self.process.wait()
            self.process = None
