"""Planning: from a thousand jobs to a thousand run folders, and to the batch files of a cluster."""

from __future__ import annotations

import os
import tempfile
from collections import deque
from collections.abc import Mapping
from pathlib import Path

from benchmarks.frame import Benchmark, Case, Goal, Measured, measured
from tokensweep.cluster.launch import order_of
from tokensweep.cluster.scheduler import Limits, Scheduler
from tokensweep.cluster.snapshot import take_snapshot
from tokensweep.cluster.submit import write_batch_files
from tokensweep.compose import register_components
from tokensweep.composer import compose_config
from tokensweep.plan import make_plan, write_plan
from tokensweep.sweepfile import Sweep, adhoc_sweep

HYDRA, PLAN, DISTINCT, DRY = VARIANTS = (
    "Hydra compose",
    "plan and folders",
    "plan and folders, no method twice",
    "plan, folders, snapshot and batch files",
)
_FRACTIONS = 50
# A thousand runs in 20 s, where Hydra alone takes 100 s.
_GOALS = {PLAN: Goal(ratio=5, peak_mb=15), DRY: Goal(ratio=5, peak_mb=15)}


class _Roomy(Scheduler):
    """A cluster with SLURM's default limits and an empty queue, which nobody has to be asked for."""

    def limits(
        self, *, account: str | None = None, qos: str | None = None, partition: str | None = None
    ) -> Limits:
        return Limits(max_array_size=1001, max_array_tasks=1001, max_jobs=10000, max_submit=None, queued=0)


def grid(store: Path, *, runs: int, fractions: int = _FRACTIONS) -> Sweep:
    """Forking tokens at up to ``fractions`` fractions, with as many seeds as it takes."""
    jobs = [
        [
            "method=forking_tokens",
            f"method.token_weights.entropy.fraction={(number % fractions + 1) / fractions}",
            f"seed={number // fractions}",
            f"store={store}",
            "site=devcluster",
        ]
        for number in range(runs)
    ]
    return adhoc_sweep(jobs, name="bench", scale="tiny")


def measure(variant: str, *, runs: int) -> Measured:
    """All runs once; what is shared by a process, such as imports, has been paid before."""
    register_components()
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder)
        sweep = grid(store, runs=runs, fractions=runs if variant == DISTINCT else _FRACTIONS)
        write_plan(make_plan(grid(store / "before", runs=1)))
        if variant == HYDRA:
            composed = (compose_config(job.overrides) for job in sweep.jobs)
            return measured(lambda: deque(composed, maxlen=0), amount=runs)
        if variant == DRY:
            return measured(lambda: _dry_submit(sweep, store), amount=runs)
        return measured(lambda: write_plan(make_plan(sweep)), amount=runs)


def _dry_submit(sweep: Sweep, store: Path) -> None:
    """All that a submission does, but for handing the files to sbatch."""
    plan = make_plan(sweep)
    write_plan(plan)
    (store / "bin").mkdir()
    (store / "bin" / "srun").write_text("#!/bin/sh\n")  # submitit wants to see one
    (store / "bin" / "srun").chmod(0o755)
    os.environ["PATH"] += f":{store / 'bin'}"
    order = order_of(plan, plan.missing())
    write_batch_files(order, store / "batch", snapshot=take_snapshot(store), scheduler=_Roomy())


def _case(runs: int, *, rounds: int, goals: Mapping[str, Goal] | None = None) -> Case:
    return Case(
        name=f"{runs} runs",
        variants=VARIANTS,
        baseline=HYDRA,
        options={"runs": runs},
        rounds=rounds,
        goals=goals or {},
    )


BENCHMARK = Benchmark(
    title="Planning a sweep",
    unit="sweep",
    rate="runs",
    note=(
        "Forking tokens at 50 fractions, as many seeds of each as it takes. *plan and folders* composes, "
        "resolves, checks and hashes every run and writes its frozen config and plan, each on disk before "
        "it gets its name; what runs share is composed and checked once. *no method twice*: as many "
        "fractions as runs, so that every method is checked by itself. *batch files* adds the "
        "snapshot of the code and the files for sbatch, of a cluster with SLURM's default limits. "
        "*Hydra compose* is what Hydra takes "
        "to compose every run, each config dropped at once; a run that selects groups as no other run does "
        "costs that, too."
    ),
    cases=(_case(100, rounds=3), _case(1000, rounds=1, goals=_GOALS)),
    small=(_case(3, rounds=1),),
    measure=measure,
)
