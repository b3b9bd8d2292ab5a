"""A sweep whose MLflow server was away: once it is back, MLflow shows what folders and SLURM say."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cluster.fake_slurm import FakeSlurm
from tests.cluster.made_up import Store

from tokensweep.ledger import Attempt
from tokensweep.mlflow_client import connect
from tokensweep.sync import sync_sweep

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # mlflow keeps its connections until the end
]


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


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path)
    yield made
    made.down()


def shown(server: Server) -> dict[str, str]:
    """The state that MLflow shows of each run."""
    client = connect(server.uri, artifacts=Path("unused"))
    runs = client.runs(client.experiment("s"))
    return {run.data.tags["tokensweep.run_id"]: run.info.status for run in runs}


def test_a_server_that_was_away_for_a_whole_sweep_shows_true_states_when_it_is_back(
    store: Store, slurm: FakeSlurm, server: Server
) -> None:
    names = ("waits", "works", "nan", "timeout", "cancelled", "stopped", "done", "new")
    store.sweep(*names)
    made = store.submitted("train", *names[:-1], job=None)
    job = slurm.add(made.job_name, len(names) - 1)
    store.run("waits")
    store.run("new")
    with Attempt.open(store.run("works")) as works:
        works.metrics(1, {"reward": 0.5})
        works.event("checkpoint", step=1)
        store.run("nan", ["failed"])
        for name in ("timeout", "cancelled", "stopped"):
            store.run(name, ["step", "preempted"])
        store.run("done", ["train", "finished"])
        plan = store.path / "runs" / "done" / "plan.json"
        plan.write_text(plan.read_text().replace('"evals": [', '"evals": [], "unused": ['))
        for task, state in {1: "RUNNING", 2: "FAILED", 3: "TIMEOUT", 4: "CANCELLED", 6: "COMPLETED"}.items():
            slurm.tell(f"{job}_{task}", state=state)
        slurm.tell(f"{job}_5", state="PREEMPTED")
        report = sync_sweep(store.path, "s", uri=server.uri)
        assert "no answer" in report.delayed or "refused" in report.delayed
        server.up()
        assert sync_sweep(store.path, "s", uri=server.uri).delayed == ""
        assert shown(server) == {
            "waits": "SCHEDULED",
            "works": "RUNNING",
            "nan": "FAILED",
            "timeout": "FAILED",
            "cancelled": "KILLED",
            "stopped": "KILLED",
            "done": "FINISHED",
            "sweep:s": "RUNNING",
        }
        server.down()
        works.event("trained", step=2)
    slurm.tell(f"{job}_0", state="CANCELLED")
    slurm.tell(f"{job}_1", state="NODE_FAIL")
    assert sync_sweep(store.path, "s", uri=server.uri).delayed != ""
    server.up()
    sync_sweep(store.path, "s", uri=server.uri)
    after = shown(server)
    assert (after["waits"], after["works"], after["sweep:s"]) == ("KILLED", "KILLED", "FINISHED")
    assert "RUNNING" not in after.values()
    slurm.set(down=True)
    sync_sweep(store.path, "s", uri=server.uri)
    assert shown(server) == after  # what is certain needs no SLURM
