"""Runs whose ranks are tasks of srun on both nodes of the development cluster."""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.slurm.cluster import Devcluster
from tests.train.conftest import make_config
from tests.train.test_worker import planned

from tokensweep.ledger import Status, read_events, read_metrics, read_run
from tokensweep.worker import RunJob, Stage

pytestmark = pytest.mark.slurm

_TWO_NODES = ("--nodes=2", "--ntasks=2", "--mem-per-cpu=1000")
_NEAR = 1e-5  # weights move by 0.05; two orders of adding the same gradients differ by less than 1e-6


def config(**changes: Any) -> dict[str, Any]:
    """Random weights solve none of these problems: it is the entropy that trains, and its memory."""
    bonus = {"_component_": "method/regularizers/entropy_target", "target": 9.0, "step": 0.1, "coef": 0.1}
    regularizers = {"entropy": bonus}
    return make_config(data={"_component_": "data/ops"}, method__regularizers=regularizers, **changes)


def submit(cluster: Devcluster, run_dir: Path) -> str:
    """A job that trains a run by one rank on each node."""
    rank = f"{sys.executable} -m tokensweep.cluster.rendezvous {sys.executable} -m tokensweep.worker"
    return cluster.submit(f"srun --kill-on-bad-exit=1 {rank} {run_dir} train", *_TWO_NODES)


def pid_of(run_dir: Path, rank: int) -> int:
    """The process that is a rank of a run."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command, environ = ((entry / name).read_text(errors="replace") for name in ("cmdline", "environ"))
        except OSError:  # gone meanwhile
            continue
        if "\0tokensweep.worker\0" in command and str(run_dir) in command and f"\0RANK={rank}\0" in environ:
            return int(entry.name)
    raise AssertionError(f"no process is rank {rank} of {run_dir}")


@dataclass(frozen=True)
class Ran:
    """Two runs that were trained at the same time; a rank of the second, which has no end, was killed."""

    store: Path
    first: list[str]  # sacct's state
    second: list[str]
    steps_meanwhile: int  # of the second run, while the first was trained


@pytest.fixture(scope="module")
def ran(devcluster: Devcluster, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """What became of both jobs."""
    store = tmp_path_factory.mktemp("ranks")
    endless = planned(store / "endless", config(steps=100000))
    short = planned(store / "short", config(steps=3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", ":".join(sys.path))
        second = submit(devcluster, endless)
        while not read_metrics(endless):
            assert devcluster.run("squeue", "--noheader", f"--jobs={second}"), devcluster.output(second)
            time.sleep(0.2)
        before = read_run(endless).last_step
        job = submit(devcluster, short)
        first = devcluster.ended(job)
        meanwhile = read_run(endless).last_step - before
        os.kill(pid_of(endless, 1), signal.SIGKILL)
        return Ran(store, first, devcluster.ended(second), meanwhile)


def test_two_nodes_end_with_the_weights_of_one_process(ran: Ran, tmp_path: Path) -> None:
    assert ran.first == ["COMPLETED"]
    alone, together = planned(tmp_path, config(steps=3)), ran.store / "short" / "runs" / "r1"
    RunJob(alone, Stage.train)()
    file = "checkpoints/step-000003/model.safetensors"
    expected = load_file(alone / file)
    torch.testing.assert_close(load_file(together / file), expected, rtol=0, atol=_NEAR)
    start = load_file(next((tmp_path / "models").glob("*/model.safetensors")))
    assert max(float((expected[key] - start[key]).abs().max()) for key in expected) > 0.01
    memories = [row["metrics"]["memory/regularizers.entropy.coef"] for row in read_metrics(together)]
    assert memories == pytest.approx([0.2, 0.3, 0.4])
    kinds = [event["kind"] for event in read_events(together)]
    assert kinds == ["started", "checkpoint", "checkpoint", "trained", "finished"]


def test_jobs_that_share_their_nodes_do_not_meet(ran: Ran) -> None:
    assert ran.steps_meanwhile > 0
    assert [
        len(list((ran.store / name / "runs/r1/attempts").iterdir())) for name in ("short", "endless")
    ] == [
        1,
        1,
    ]


def test_a_killed_rank_ends_the_job_and_the_ledger_says_so(ran: Ran) -> None:
    assert ran.second == ["FAILED"]
    record = read_run(ran.store / "endless" / "runs" / "r1")
    assert (record.status, record.error_class) == (Status.failed, "other")
    assert "another rank of this run ended" in (record.error or "")
