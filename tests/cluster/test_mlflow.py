"""A sweep whose MLflow server was away: once it is back, MLflow shows what folders and SLURM say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cluster.fake_slurm import FakeSlurm
from tests.cluster.made_up import Store
from tests.cluster.mlflow_server import Server

from tokensweep.ledger import Attempt
from tokensweep.mlflow_client import connect
from tokensweep.sync import sync_sweep

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # mlflow keeps its connections until the end
]


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
