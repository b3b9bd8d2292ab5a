"""Sweeps on a development cluster as a user starts them, and what must be true of their runs at the end."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import yaml
from tests.slurm.cluster import Devcluster

from tokensweep.ledger import Status, read_events, read_metrics, read_run
from tokensweep.train.metrics import WALL_CLOCK

T = TypeVar("T")
_PATIENCE_S = 300.0  # of a loaded machine; a test that goes well waits a fraction of it
_ROOT = Path(__file__).parents[2]
STEPS, EVERY = 6, 2  # the third batch of an attempt is where it waits: after the first checkpoint
_TINY = (
    *("model.steps=0", "model.hidden=16", "model.layers=1", "model.heads=2", "model.head_dim=8"),
    *("model.mlp=32", "method=grpo", "data=test_faulty", f"steps={STEPS}", f"checkpoint.every={EVERY}"),
    *("batch.prompts=2", "batch.group_size=4", "optim.warmup_steps=0"),
    *("eval.num_samples=2", "eval.k=[1]"),
)
UNEVALUATED = "eval.held_out=0"
EVALUATED = "eval.held_out=4"


def until(ask: Callable[[], T], *, what: str) -> T:
    """The first answer that is true."""
    deadline = time.monotonic() + _PATIENCE_S
    while not (answer := ask()):
        assert time.monotonic() < deadline, f"not within {_PATIENCE_S:g} s: {what}"
        time.sleep(0.1)
    return answer


@dataclass(frozen=True)
class Sweeping:
    """A store, and the cluster that its sweeps go to."""

    store: Path
    cluster: Devcluster | None = None  # None: this machine
    code: Path = _ROOT  # the checkout that commands run from

    @property
    def environment(self) -> dict[str, str]:
        """What a user has exported."""
        more = {
            "PYTHONPATH": f"{self.code / 'runner'}:{self.code / 'analysis'}",
            "TOKENSWEEP_PATH": str(self.extension()),
            "TOKENSWEEP_HOME": str(self.store),
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "200",
        }
        conf = {"SLURM_CONF": str(self.cluster.folder / "slurm.conf")} if self.cluster else {}
        return {**os.environ, **more, **conf}

    def extension(self) -> Path:
        """A folder for ``TOKENSWEEP_PATH`` with the task that fails when it is told to."""
        folder = self.store.parent / "extension"  # not in the store, which is no code
        if not folder.is_dir():
            (folder / "methods").mkdir(parents=True)
            (folder / "methods" / "faulty.py").write_text(Path(__file__).with_name("faulty.py").read_text())
        return folder

    def site(self, name: str = "devcluster", **changes: Any) -> str:
        """A YAML file with the site of the development cluster, and with changes."""
        content = yaml.safe_load((_ROOT / "slurm" / "sites" / "devcluster.yaml").read_text())
        path = self.store.parent / f"{name}.yaml"
        path.write_text(yaml.safe_dump({**content, **changes}))
        return f"site={path}"

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """A command of tokensweep's that goes on."""
        return subprocess.Popen(
            [sys.executable, "-m", "tokensweep.cli", *arguments],
            cwd=self.store,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def command(self, *arguments: str, code: int = 0, patience_s: float = 300.0) -> str:
        """What a command of tokensweep's prints; ``code`` is what it must leave with."""
        process = self.start(*arguments)
        output, _ = process.communicate(timeout=patience_s)
        assert process.returncode == code, output
        return output

    def training(self, name: str, *overrides: str) -> list[str]:
        """The words of the command that trains a tiny sweep; ``site=`` among them sends it to SLURM."""
        launcher = ["hydra/launcher=slurm"] if any(text.startswith("site=") for text in overrides) else []
        return ["train", "-m", *_TINY, f"sweep={name}", *launcher, *overrides]

    def train(self, name: str, *overrides: str, code: int = 0, patience_s: float = 300.0) -> str:
        """What the command that trains a tiny sweep prints."""
        return self.command(*self.training(name, *overrides), code=code, patience_s=patience_s)

    def sweep(self, name: str, arms: Mapping[str, Mapping[str, Any]], *overrides: str, code: int = 0) -> str:
        """What the command prints that runs a sweep file of tiny runs with these arms, on SLURM."""
        base = dict(text.split("=", 1) for text in _TINY if not text.startswith("data="))
        settings = {"tiny": {"settings": {"faulty": {"data": "test_faulty"}}}}
        content = {"arms": arms, "baseline": next(iter(arms)), "seeds": [0], "scales": settings}
        path = self.store.parent / f"{name}.yaml"
        path.write_text(yaml.safe_dump(content))
        more = (f"{key}={value}" for key, value in base.items())
        return self.command(
            *("sweep", str(path), f"sweep={name}", "hydra/launcher=slurm", *more, *overrides), code=code
        )

    def status(self, name: str) -> dict[str, Any]:
        """``tokensweep status NAME --json``."""
        told: dict[str, Any] = json.loads(self.command("status", name, "--json"))
        return told

    def states(self, name: str) -> dict[int, str]:
        """The state of each run by its seed, as ``status`` tells it."""
        return {row["seed"]: row["state"] for row in self.status(name)["runs"]}

    def runs(self, name: str) -> dict[int, Path]:
        """The run folder of each seed."""
        rows = json.loads((self.store / "sweeps" / name / "sweep.json").read_text())["runs"]
        return {row["seed"]: self.store / "runs" / row["run_id"] for row in rows}

    def close(self) -> None:
        """From now on, workers wait in their third batch."""
        (self.store / "closed").touch()

    def open(self, run_dir: Path | None = None) -> None:
        """Let one run go on, or all of them."""
        if run_dir is not None:
            (run_dir / "open").touch()
        else:
            (self.store / "closed").unlink()

    def jobs(self, name: str, *, stage: str = "train") -> list[str]:
        """The jobs of a sweep's stage, oldest first."""
        folders = sorted((self.store / "sweeps" / name / "submissions").iterdir())
        wanted = {folder: json.loads((folder / "submission.json").read_text()) for folder in folders}
        return [
            json.loads((folder / "job.json").read_text())["job_id"]
            for folder, content in wanted.items()
            if content["stage"] == stage
        ]

    def task_of(self, name: str, seed: int) -> str:
        """SLURM's key of the newest task that trains a seed."""
        run_id = self.runs(name)[seed].name
        row = next(row for row in self.status(name)["runs"] if row["run_id"] == run_id)
        return str(row["job"])

    def ended(self, job: str, *, attempts: int = 1) -> list[str]:
        """How all attempts of a job or task ended, oldest first, once the accounting knows."""
        assert self.cluster is not None
        command = ("sacct", "-X", "--noheader", "--parsable2", "--duplicates", f"--jobs={job}")
        ask = partial(self.cluster.run, *command, "--format=submit,state")
        over = ("COMPLETED", "FAILED", "CANCELLED", "NODE_FAIL", "TIMEOUT")

        def states() -> list[str]:
            rows = [row.partition("|")[2].split()[0] for row in sorted(ask().splitlines())]
            return rows if len(rows) >= attempts and rows[-1] in over else []

        return until(states, what=f"{job} has ended after {attempts} attempts")

    def job_log(self, name: str) -> str:
        """What the jobs of a sweep have printed."""
        paths = (self.store / "sweeps" / name).glob("submissions/*/submitit/*_log.out")
        return "".join(path.read_text() for path in paths)

    def checkpoints(self, run_dir: Path) -> list[dict[str, Any]]:
        """The checkpoints that a run has written, in order."""
        return [event for event in read_events(run_dir) if event["kind"] == "checkpoint"]

    def queued(self) -> list[str]:
        """The jobs and tasks of this store that are in the queue."""
        assert self.cluster is not None
        paths = self.store.glob("sweeps/*/submissions/*/submission.json")
        names = ",".join(json.loads(path.read_text())["job_name"] for path in paths)
        command = ("squeue", "--array", "--noheader", "--format=%i", f"--name={names}")
        return self.cluster.run(*command).split() if names else []

    def leave(self) -> None:
        """Cancel whatever of this store is in the queue, and wait until it is gone."""
        assert self.cluster is not None
        if jobs := self.queued():
            self.cluster.run("scancel", "--quiet", *jobs)
        until(lambda: not self.queued(), what="an empty queue")


def waiting_at_the_gate(run_dir: Path) -> None:
    """Wait until a run has its first checkpoint, and so comes to its third batch."""
    until(lambda: read_run(run_dir).durable_step == EVERY, what=f"a checkpoint in {run_dir}")


def worker_of(run_dir: Path) -> int:
    """The process that works on a run."""
    newest = max((run_dir / "attempts").iterdir(), key=lambda path: int(path.name))
    return int(json.loads((newest / "claim.json").read_text())["pid"])


def parent_of(process: int) -> int:
    """The parent of a process."""
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def started(run_dir: Path, *, attempts: int) -> bool:
    """Whether a worker works on a run, and it is that many-th."""
    record = read_run(run_dir)
    return record.status == Status.running and record.attempts == attempts


def is_trained(run_dir: Path) -> bool:
    return read_run(run_dir).trained_step is not None


def result(run_dir: Path) -> tuple[dict[str, bytes], list[tuple[int, dict[str, float]]]]:
    """Weights, optimizer and metrics of a trained run, without what clocks say."""
    folder = run_dir / "checkpoints" / f"step-{STEPS:06d}"
    files = {name: (folder / name).read_bytes() for name in ("model.safetensors", "optimizer.safetensors")}
    rows = [
        (row["step"], {key: v for key, v in row["metrics"].items() if not key.startswith(WALL_CLOCK)})
        for row in read_metrics(run_dir)
    ]
    return files, rows


def assert_nothing_twice(run_dir: Path) -> None:
    """No durable step was computed again, nothing was trained or evaluated twice."""
    events = read_events(run_dir)
    durable = 0
    first_rows = {}
    for path in sorted(run_dir.glob("attempts/*/metrics.jsonl")):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        if rows:
            first_rows[rows[0]["attempt"]] = rows[0]["step"]
    for event in events:
        if event["kind"] == "started" and event["attempt"] in first_rows:
            assert first_rows[event["attempt"]] == durable + 1, (run_dir, event)
        if event["kind"] == "checkpoint":
            assert event["step"] > durable, (run_dir, event)
            durable = event["step"]
    assert [e["step"] for e in events if e["kind"] == "trained"] == [STEPS]
    evaluated = [e["eval_id"] for e in events if e["kind"] == "evaluated"]
    assert len(evaluated) == len(set(evaluated))
    for path in run_dir.glob("evals/*/samples*.jsonl"):
        lines = path.read_text().splitlines()
        assert len(lines) == len(set(lines)), path


def in_mlflow(sweeping: Sweeping) -> dict[str, str]:
    """The status of every training run in MLflow's database: no sweep, no summary of an arm."""
    query = (
        "select tags.value, runs.status from runs join tags on tags.run_uuid = runs.run_uuid "
        "where tags.key = 'tokensweep.run_id' and tags.value not like 'sweep:%' "
        "and tags.value not like 'arm:%'"
    )
    with sqlite3.connect(sweeping.store / "mlflow.db") as database:
        rows = dict(database.execute(query))
    database.close()
    return rows
