"""Planning: from a thousand jobs to a thousand run folders."""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.frame import Benchmark, Case, Measured, measured
from tokensweep.compose import register_components
from tokensweep.composer import compose_config
from tokensweep.plan import make_plan, write_plan
from tokensweep.sweepfile import Sweep, adhoc_sweep

VARIANTS = ("Hydra compose", "plan and folders")
_FRACTIONS = 50


def grid(store: Path, *, runs: int) -> Sweep:
    """Forking tokens at up to 50 fractions, with as many seeds as it takes."""
    jobs = [
        [
            "method=forking_tokens",
            f"method.token_weights.entropy.fraction={(number % _FRACTIONS + 1) / _FRACTIONS}",
            f"seed={number // _FRACTIONS}",
            f"store={store}",
        ]
        for number in range(runs)
    ]
    return adhoc_sweep(jobs, name="bench", scale="tiny")


def measure(variant: str, *, runs: int) -> Measured:
    """All runs once; what is shared by a process, such as imports, has been paid before."""
    register_components()
    with tempfile.TemporaryDirectory() as folder:
        sweep = grid(Path(folder), runs=runs)
        compose_config(sweep.jobs[0].overrides)
        if variant == "Hydra compose":
            return measured(lambda: [compose_config(job.overrides) for job in sweep.jobs], amount=runs)
        return measured(lambda: write_plan(make_plan(sweep)), amount=runs)


def _case(runs: int, *, rounds: int) -> Case:
    return Case(
        name=f"{runs} runs",
        variants=VARIANTS,
        baseline="Hydra compose",
        options={"runs": runs},
        rounds=rounds,
    )


BENCHMARK = Benchmark(
    title="Planning a sweep",
    unit="sweep",
    rate="runs",
    note=(
        "Forking tokens at 50 fractions, 20 seeds each. *plan and folders* composes, resolves, checks and "
        "hashes every run and writes its frozen config and plan, each on disk before it gets its name; "
        "*Hydra compose* is the part of it that Hydra alone takes."
    ),
    cases=(_case(1000, rounds=1),),
    small=(_case(3, rounds=1),),
    measure=measure,
)
