"""A disk that fills while a run works: it says so, keeps what is complete, and goes on to the same bits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tokensweep.identity import code_sha, digest
from tokensweep.ledger import Status, read_metrics, read_run
from tokensweep_analysis.samples import read_samples

_SIZE_KB = 4096
_DATA = {"_component_": "data/ops", "steps": 1, "size": 64, "max_tokens": 8}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """The runs folder of a store, on a disk of its own. Only root can mount one."""
    runs = tmp_path / "full" / "runs"
    runs.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={_SIZE_KB}k", "tmpfs", str(runs)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("NOT RUN: mounting a small disk takes root, and a container that lets it")
    yield runs
    subprocess.run(["umount", str(runs)], check=True)


def planned(runs: Path, config: dict[str, Any]) -> Path:
    """A run folder as the planner leaves it."""
    run_dir = runs / "r1"
    run_dir.mkdir(parents=True)
    entry = {"suite": "ops", "eval_id": "e1", "source": _DATA, "revision": "r", "step": config["steps"]}
    sampling = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_tokens": 3}
    plan = {
        "run_id": "r1",
        "config_sha": digest(config),
        "code_sha": code_sha(),
        "steps": config["steps"],
        "evals": [{**entry, "num_samples": 2, "k": [1, 2], "seed": 0, "sampling": sampling}],
        "created": time.time(),
    }
    (run_dir / "config.json").write_text(json.dumps(config))
    (run_dir / "plan.json").write_text(json.dumps(plan))
    return run_dir


def work(run_dir: Path) -> subprocess.CompletedProcess[str]:
    """The worker of a run, to its end."""
    return subprocess.run(
        [sys.executable, "-m", "tokensweep.worker", str(run_dir)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def fill(disk: Path, *, but_kb: int) -> Path:
    """A file that leaves so many kB free."""
    stat = os.statvfs(disk)
    ballast = disk / "ballast"
    ballast.write_bytes(b"\1" * (stat.f_bavail * stat.f_frsize - but_kb * 1024))
    return ballast


@pytest.mark.slow
def test_a_run_on_a_full_disk_fails_as_such_and_ends_with_the_same_bits_when_there_is_room(
    small_disk: Path, tmp_path: Path, small_config: Callable[..., dict[str, Any]]
) -> None:
    config = small_config(steps=6, data=_DATA, checkpoint={"every": 2, "keep": 1})
    undisturbed = planned(tmp_path / "roomy" / "runs", config)
    done = work(undisturbed)
    assert done.returncode == 0, done.stderr
    run_dir = planned(small_disk, config)
    # More than the 64 kB that a worker keeps for its last words: one attempt ends at its first checkpoint,
    # and the next one at the second.
    for free_kb, durable in ((76, 0), (140, 2)):
        ballast = fill(small_disk, but_kb=free_kb)
        assert work(run_dir).returncode == 1
        record = read_run(run_dir)
        assert (record.status, record.error_class, record.durable_step) == (Status.failed, "disk", durable)
        assert record.last_step > durable
        ballast.unlink()
    done = work(run_dir)
    assert done.returncode == 0, done.stderr
    assert read_run(run_dir).status == Status.finished
    assert bits(run_dir) == bits(undisturbed)


def bits(run_dir: Path) -> list[object]:
    """Everything that a run computed."""
    weights = sorted(run_dir.glob("checkpoints/step-000006/*.safetensors"))
    rewards = [(row["step"], row["metrics"]["reward"]) for row in read_metrics(run_dir)]
    texts = read_samples([run_dir / "evals" / "ops-e1"])["text"].tolist()
    assert len(weights) == 2
    return [[(path.name, path.read_bytes()) for path in weights], rewards, texts]
