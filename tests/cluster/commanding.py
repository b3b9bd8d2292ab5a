"""A sweep's command without its composing, in this process or in one that is killed on the way."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Callable
from typing import Any

from rich.console import Console
from tests.cluster.made_up import Store

from tokensweep.cluster import launch
from tokensweep.plan import Plan, PlannedRun, write_plan
from tokensweep.sweepfile import Sweep


def plan_of(store: Store, *run_ids: str, name: str = "s", samples: int = 4) -> Plan:
    """What composing would give: untrained runs of one arm, with one suite."""
    entry = {"suite": "ops", "eval_id": "e", "num_samples": samples, "k": [1], "tau": [], "caution": None}
    compute = {"threads": 1, "hang_s": 0}
    runs = [
        PlannedRun(
            run_id=run_id,
            config={"seed": seed, "steps": 2, "compute": compute, "resources": {}},
            identity={"seed": seed},
            code="c0de",
            data_hash="d",
            model_revision="m",
            evals=(entry,),
        )
        for seed, run_id in enumerate(run_ids)
    ]
    entries = [
        {"setting": "ops", "arm": "a", "seed": seed, "run_id": run_id, "overrides": [], "evals": {"ops": "e"}}
        for seed, run_id in enumerate(run_ids)
    ]
    return Plan(
        sweep=Sweep(name=name, scale="tiny", jobs=()),
        store=store.path,
        entries=tuple(entries),
        runs=tuple(runs),
        tracking_uri="",
        workers=0,
        site="devcluster",
    )


def command(plan: Plan) -> str:
    """What the sweep's command does once it has composed; gives back what it printed."""
    console = Console(file=io.StringIO(), width=200)
    write_plan(plan)
    launch.launch(plan, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def in_process(work: Callable[[], object]) -> int:
    """Do something in a process of its own; gives back its number."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return child


def end_of(child: int) -> int:
    """Exit code of a process, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def die_at(module: Any, name: str, where: Callable[..., bool] = lambda *a, **k: True, after: int = 0) -> None:
    """Let this process be killed as it is about to call a function, at the ``after``-th such call."""
    real, seen = getattr(module, name), 0

    def deadly(*arguments: Any, **more: Any) -> Any:
        nonlocal seen
        if where(*arguments, **more):
            if seen == after:
                os.kill(os.getpid(), signal.SIGKILL)
            seen += 1
        return real(*arguments, **more)

    setattr(module, name, deadly)
