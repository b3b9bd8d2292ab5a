"""Syncing: run folders to a fresh MLflow database, and once more with nothing new."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.frame import Benchmark, Case, Measured, measured
from benchmarks.planning import grid
from tokensweep.compose import register_components
from tokensweep.ledger import Attempt, Kind
from tokensweep.plan import make_plan, write_plan
from tokensweep.sync import sync_sweep
from tokensweep.train.metrics import DENOMINATORS

VARIANTS = ("log_metrics in each step", "first sync", "second sync")
_STEPS = 40
_METRICS = tuple(DENOMINATORS)[:31]  # as many as when it was first measured: rows stay comparable


def measure(variant: str, *, runs: int, live_runs: int) -> Measured:
    """The runs of a finished sweep; ``live_runs`` of them are enough to measure logging while training."""
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder)
        uri = f"sqlite:///{store / 'mlflow.db'}"
        if variant == "log_metrics in each step":
            log = _live(uri)
            return measured(lambda: log(live_runs), amount=live_runs)
        _finished_sweep(store, runs)
        if variant == "second sync":
            sync_sweep(store, "bench", uri=uri)
        return measured(lambda: sync_sweep(store, "bench", uri=uri), amount=runs)


def _metrics(step: int) -> dict[str, float]:
    """A row as the trainer writes it."""
    return {name: step + 1 / (1 + number) for number, name in enumerate(_METRICS)}


def _finished_sweep(store: Path, runs: int) -> None:
    """Folders of trained runs, as workers leave them."""
    register_components()
    plan = make_plan(grid(store, runs=runs))
    write_plan(plan)
    for run in plan.runs:
        with Attempt.open(run.dir(store)) as attempt:
            for step in range(1, _STEPS + 1):
                attempt.metrics(step, _metrics(step))
            attempt.event(Kind.trained, step=_STEPS)
            attempt.event(Kind.finished)


def _live(uri: str) -> Callable[[int], None]:
    """What trainers do that log to MLflow themselves: one call per step, with the same values."""
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=uri)
    experiment = client.create_experiment("live")

    def log(runs: int) -> None:
        for _ in range(runs):
            run = client.create_run(experiment)
            for step in range(1, _STEPS + 1):
                now = int(time.time() * 1000)
                values = [
                    mlflow.entities.Metric(name, value, now, step) for name, value in _metrics(step).items()
                ]
                client.log_batch(run.info.run_id, metrics=values)
            client.set_terminated(run.info.run_id)

    return log


def _case(runs: int, *, live_runs: int) -> Case:
    return Case(
        name=f"{runs} runs of {_STEPS} steps, {len(_METRICS)} metrics",
        variants=VARIANTS,
        baseline="log_metrics in each step",
        options={"runs": runs, "live_runs": live_runs},
        rounds=1,
    )


BENCHMARK = Benchmark(
    title="Sync to MLflow",
    unit="sync",
    rate="runs",
    note=(
        "Finished runs to an SQLite database that does not exist yet: the first sync also pays for MLflow's "
        "migrations, for files, parameters and tags. *log_metrics in each step* is what trainers pay that "
        "log to MLflow themselves, on a tenth of the runs, metrics only, into a database that is there; "
        "*second sync* finds nothing new."
    ),
    cases=(_case(200, live_runs=20),),
    small=(_case(2, live_runs=1),),
    measure=measure,
)
