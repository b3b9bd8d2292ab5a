"""A real PostgreSQL for tests, from Debian's packages: on a free port, in a folder of its own.

A test module takes the fixtures with ``from tests.search.postgres import postgres, database``.
"""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

_FAST = ("fsync=off", "full_page_writes=off", "synchronous_commit=off", "shared_buffers=16MB")
_POLICY = Path("/usr/sbin/policy-rc.d")  # Debian's packages ask it before they start a service
_USER = "tokensweep"
PASSWORD = "pass word/with@signs"  # what an address has to spell otherwise
_SPELT = "pass%20word%2Fwith%40signs"


class Postgres:
    """A server whose superuser ``tokensweep`` logs in with a password."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self.folder, self._programs = folder, programs
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self._as_user: list[str] = []
        if os.geteuid() == 0:  # which initdb refuses
            owner = pwd.getpwnam("postgres")
            os.chown(folder, owner.pw_uid, owner.pw_gid)
            self._as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        secret = folder / "password"
        secret.write_text(f"{PASSWORD}\n")
        login = (f"--username={_USER}", "--auth=scram-sha-256", f"--pwfile={secret}")
        self._run("initdb", *login, "--encoding=UTF8", "--locale=C", "--no-sync")

    def uri(self, name: str, *, password: str = _SPELT) -> str:
        """The address of a database."""
        return f"postgresql://{_USER}:{password}@127.0.0.1:{self.port}/{name}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        settings = (*_FAST, "listen_addresses=127.0.0.1", f"port={self.port}")
        options = " ".join(f"-c {one}" for one in (*settings, f"unix_socket_directories={self.folder}"))
        self._run("pg_ctl", "start", "--wait", f"--options={options}", f"--log={self.folder / 'log'}")

    def stop(self) -> None:
        """Stop it, cutting all connections, and wait for its end."""
        self._run("pg_ctl", "stop", "--wait", "--mode=fast")

    def execute(self, statement: str, *, name: str = "postgres") -> str:
        """What ``psql`` prints for a statement in a database: values without ornaments."""
        return subprocess.run(
            [self._programs / "psql", "-Atq", "-d", self.uri(name), "-c", statement],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [*self._as_user, self._programs / program, f"--pgdata={self.folder / 'data'}", *arguments],
            cwd=self.folder,
            env={**os.environ, "LC_ALL": "C"},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr


def _find_programs() -> Path | None:
    """The folder of ``initdb``, the newest of those in Debian's place."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    places = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    return max((place.parent for place in places), key=lambda place: int(place.parent.name), default=None)


def _install(log: Path) -> None:
    """Install the package without starting its service."""
    step = ["apt-get", "install", "--yes", "--no-install-recommends", "--option=DPkg::Lock::Timeout=300"]
    is_ours = not _POLICY.exists()
    if is_ours:
        _POLICY.write_text("#!/bin/sh\nexit 101\n")
        _POLICY.chmod(0o755)
    try:
        with log.open("wb") as out:
            for command in (["apt-get", "update"], [*step, "postgresql"]):
                done = subprocess.run(
                    command,
                    env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=out,
                )
    finally:
        if is_ours:
            _POLICY.unlink(missing_ok=True)
    assert done.returncode == 0, log.read_text(errors="replace")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A server while it is up. Only root can install it: for others without it, tests are NOT RUN."""
    with tempfile.TemporaryDirectory(prefix="postgres-") as name:
        folder = Path(name)
        if _find_programs() is None and os.geteuid() == 0 and shutil.which("apt-get"):
            _install(folder / "apt.log")
        if (programs := _find_programs()) is None:
            pytest.skip("NOT RUN: PostgreSQL is missing: ask for 'apt-get install postgresql'")
        folder.chmod(0o755)
        server = Postgres(folder, programs)
        server.start()
        try:
            yield server
        finally:
            server.stop()


@pytest.fixture
def database(postgres: Postgres) -> str:
    """The address of a new, empty database; it goes with the server."""
    name = f"search_{uuid.uuid4().hex[:8]}"
    postgres.execute(f"CREATE DATABASE {name}")
    return postgres.uri(name)
