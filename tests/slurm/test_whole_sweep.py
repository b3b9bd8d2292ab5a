"""A paper's ablation on a cluster, as a user has it: submit, be preempted, crash, read the table."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.slurm.cluster import Devcluster

from tokensweep.ledger import Status, read_events, read_metrics, read_run
from tokensweep.mlflow_client import connect

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # mlflow keeps its connections
]

_NAME = "forking_tokens-tiny"
_SWEEP = (
    *(
        "sweep",
        "forking_tokens",
        "scale=tiny",
        "arms=all,top20",
        "seeds=0,1",
        "steps=8",
        "checkpoint.every=2",
    ),
    *("batch.prompts=6", "eval.held_out=24", "eval.num_samples=2", "eval.k=[1,2]"),
    *("hydra/launcher=slurm", "site=devcluster", "jobs=4"),
)


class Lab:
    """One user's shell on the cluster's login node."""

    def __init__(self, cluster: Devcluster, store: Path) -> None:
        self.cluster, self.store = cluster, store

    def tokensweep(self, *arguments: str, code: int = 0) -> str:
        """What the command prints; it must leave with ``code``."""
        done = subprocess.run(
            [sys.executable, "-m", "tokensweep.cli", *arguments, f"store={self.store}"],
            env={
                **os.environ,
                "SLURM_CONF": str(self.cluster.folder / "slurm.conf"),
                "PYTHONPATH": ":".join(sys.path),
                "COLUMNS": "160",
            },
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    def status(self) -> dict[str, Any]:
        """What ``status --json`` says of the sweep."""
        told: dict[str, Any] = json.loads(self.tokensweep("status", _NAME, "--json"))
        return told

    def run_dirs(self) -> list[Path]:
        return sorted(path.parent for path in (self.store / "runs").glob("*/plan.json"))

    def wait_for_a_checkpoint(self, *, but_not: Path | None = None) -> Path:
        """The folder of a run that is in the middle of its training."""
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline:
            for run_dir in self.run_dirs():
                record = read_run(run_dir)
                middle = record.status == Status.running and 0 < record.durable_step < 6
                if run_dir != but_not and middle and record.trained_step is None:
                    return run_dir
            time.sleep(0.1)
        raise AssertionError(f"no run came to a checkpoint: {self.tokensweep('status', _NAME)}")


@pytest.fixture(scope="module")
def lab(devcluster: Devcluster) -> Iterator[Lab]:
    """The sweep after a preemption and a crash, with everything ended."""
    with tempfile.TemporaryDirectory(prefix="store-") as folder:
        lab = Lab(devcluster, Path(folder) / "store")
        told = lab.tokensweep(*_SWEEP)
        assert "8 runs, 8 to do" in told
        assert "this shell may be closed" in told
        preempted = lab.wait_for_a_checkpoint()
        devcluster.run("srun", "--partition=high", "-N2", "--gres=gpu:4", "true")  # all GPUs of the cluster
        crashed = lab.wait_for_a_checkpoint(but_not=preempted)
        claim = json.loads(max((crashed / "attempts").glob("*/claim.json")).read_text())
        os.kill(claim["pid"], signal.SIGKILL)
        lab.tokensweep(*_SWEEP, "wait=true")  # submits nothing: all of it is in the queue
        yield lab


def test_every_run_ends_finished(lab: Lab) -> None:
    status = lab.status()
    assert status["counts"] == {"finished": 8}
    assert status["silence"] == ""
    assert max(run["preempted"] for run in status["runs"]) >= 1


def test_no_step_and_no_sample_is_computed_twice_once_it_is_durable(lab: Lab) -> None:
    for run_dir in lab.run_dirs():
        assert [row["step"] for row in read_metrics(run_dir)] == list(range(1, 9))
        saved = [event["step"] for event in read_events(run_dir) if event["kind"] == "checkpoint"]
        assert saved == sorted(set(saved)), run_dir
        assert [event["kind"] for event in read_events(run_dir)].count("evaluated") == 1


def test_the_crash_and_the_preemption_really_happened(lab: Lab) -> None:
    attempts = [len(list((run_dir / "attempts").iterdir())) for run_dir in lab.run_dirs()]
    assert min(attempts) == 2  # trained, evaluated
    assert sum(number > 2 for number in attempts) >= 2


def test_the_report_of_the_last_job_has_every_cell(lab: Lab) -> None:
    text = (lab.store / "sweeps" / _NAME / "report" / "report.md").read_text()
    assert text.count("| 2/2 |") >= 4  # two arms in two settings
    for trouble in ("missing", "failed", "interrupted"):
        assert trouble not in text


def test_mlflow_shows_finished_runs_and_the_table(lab: Lab) -> None:
    client = connect(f"sqlite:///{lab.store / 'mlflow.db'}", artifacts=lab.store / "mlartifacts")
    runs = client.runs(client.experiment(_NAME))
    trained = [run for run in runs if run.data.tags["kind"] == "train"]
    assert len(trained) == 8
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert all(run.data.tags["slurm_job_id"] for run in trained)
    assert all(
        "final/ops/pass_at_1" in r.data.metrics or "final/countdown/pass_at_1" in r.data.metrics
        for r in trained
    )
    summary = next(run for run in runs if run.data.tags["kind"] == "sweep")
    assert summary.data.tags["mlflow.note.content"].count("| 2/2 |") >= 4


def test_the_same_command_again_submits_nothing(lab: Lab) -> None:
    told = lab.tokensweep(*_SWEEP)
    assert "8 runs, 0 to do" in told
    assert "submitted" not in told
    assert "nothing to submit" in lab.tokensweep("retry", _NAME)


def test_another_seed_adds_its_own_runs_only(lab: Lab) -> None:
    told = lab.tokensweep(*_SWEEP, "seeds=0,1,2", "arms=all")
    assert "6 runs, 2 to do, 4 finished before" in told
    assert "cancelled" in lab.tokensweep("cancel", _NAME)
    lab.cluster.idle()
    assert lab.status()["counts"] == {"finished": 8, "cancelled": 2}
