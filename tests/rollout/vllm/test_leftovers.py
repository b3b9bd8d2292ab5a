"""A server that is killed leaves none of its processes behind, also one that never came up. Needs no vLLM."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

_FACTORY = """
class WeightTransferEngineFactory:
    _registry = {}
    register_engine = staticmethod(lambda *names: None)
"""
_ENTRY = """
import os, subprocess, sys, time
def main():
    engine = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    print("pids", os.getpid(), engine.pid, flush=True)
    time.sleep(600)
"""
_OWNER = """
import os, sys, time
from pathlib import Path
from tokensweep.rollout.vllm.process import ServerProcess
server = ServerProcess([], environment={}, log=Path(sys.argv[1]))
time.sleep(600)
"""


def pretended_vllm(folder: Path) -> None:
    """A vllm whose server starts one process and then does nothing."""
    for name, text in (
        ("entrypoints/launchers/api_server/entry.py", _ENTRY),
        ("distributed/weight_transfer/factory.py", _FACTORY),
    ):
        file = folder / "vllm" / name
        file.parent.mkdir(parents=True)
        for parent in list(file.parents)[: len(Path(name).parents)]:
            (parent / "__init__.py").touch()  # else the installed one goes before
        file.write_text(text)


@pytest.mark.parametrize("killed", ["owner", "server"])
def test_nothing_of_a_server_outlives_it(tmp_path: Path, killed: str) -> None:
    pretended_vllm(tmp_path)
    source = str(Path(sys.modules["tokensweep"].__file__ or "").parents[1])
    log = tmp_path / "log"
    log.touch()
    with subprocess.Popen(
        [sys.executable, "-c", _OWNER, str(log)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), source])},
    ) as owner:
        try:
            server, engine = map(psutil.Process, _pids_in(log))
            os.kill(owner.pid if killed == "owner" else server.pid, signal.SIGKILL)
            assert psutil.wait_procs([engine], timeout=60)[1] == []
            if killed == "owner":
                assert psutil.wait_procs([server], timeout=60)[1] == []
        finally:
            owner.kill()
            for pid in _pids_in(log):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def _pids_in(log: Path) -> list[int]:
    """The server's and its engine's, once they are there."""
    deadline = time.monotonic() + 300
    while not (found := re.search(r"^pids (\d+) (\d+)\n", text := log.read_text(), re.MULTILINE)):
        assert time.monotonic() < deadline, text
        time.sleep(0.1)
    return [int(pid) for pid in found.groups()]
