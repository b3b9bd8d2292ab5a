"""``hydra/launcher=slurm``: a plan becomes jobs, and if asked to, is followed until they have ended."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from rich.console import Console
from rich.live import Live
from rich.table import Table

from tokensweep.cluster.arrange import Array, need
from tokensweep.cluster.reconcile import look
from tokensweep.cluster.scheduler import Scheduler
from tokensweep.cluster.screen import screen
from tokensweep.cluster.site import load_site
from tokensweep.cluster.snapshot import take_snapshot
from tokensweep.cluster.status import follow_interval, span, sweep_status
from tokensweep.cluster.submission import Submission
from tokensweep.cluster.submit import Order, submit_missing, write_batch_files
from tokensweep.doctor import cluster as doctor
from tokensweep.ledger import read_run
from tokensweep.plan import Plan, PlannedRun
from tokensweep.store import make_store


def launch(plan: Plan, console: Console) -> bool:
    """Submit what is missing of a plan that has been written, say how to watch it, and return at once.

    Gives back whether something was missing; SLURM is not asked when nothing is.
    """
    missing = plan.missing()
    if not missing:
        return False
    made = submit_missing(order_of(plan, missing), take_snapshot(plan.store), Scheduler())
    show_submissions(made, console)
    name = plan.sweep.name
    if not made:
        console.print("nothing to submit: the jobs of all missing runs are in the queue")
    if not plan.wait:
        console.print(
            f"this shell may be closed\nwatch:  tokensweep status {name} --follow\n"
            f"then:   tokensweep report {name}\nstop:   tokensweep cancel {name}",
            highlight=False,
            soft_wrap=True,
        )
    return True


def order_of(plan: Plan, missing: Sequence[PlannedRun]) -> Order:
    """What a plan asks of its site for runs. Raises ValueError when no site is named or none is so called."""
    site = load_site(plan.site)
    path = Path(plan.site or "")
    needs = [
        need(
            run.run_id,
            site=site,
            record=read_run(run.dir(plan.store)),
            evaluates=bool(run.evals),
            resources=run.config["resources"],
            compute=run.config["compute"],
        )
        for run in missing
    ]
    return Order(
        store=plan.store,
        sweep=plan.sweep.name,
        site=site,
        site_name=str(path.resolve()) if path.suffix else site.name,
        needs=needs,
        workers=plan.workers,
        tracking_uri=plan.tracking_uri,
    )


def show_submissions(made: Sequence[Submission], console: Console) -> None:
    """A line per array."""
    for one in made:
        runs = sum(len(task) for task in one.tasks)
        console.print(
            f"submitted {one.stage:8}  job {one.job_id}  "
            + (f"{runs} runs, " if runs else "")
            + one.job_name,
            highlight=False,
        )


def follow(store: Path, name: str, console: Console, *, scheduler: Scheduler | None = None) -> bool:
    """Show a sweep until none of its runs works or waits; whether all are finished."""
    scheduler = scheduler or Scheduler()
    started = time.monotonic()
    status = sweep_status(store, name, scheduler)
    try:
        with Live(screen(status), console=console, auto_refresh=False) as live:
            while status.open or status.silence:
                time.sleep(follow_interval(started))
                status = sweep_status(store, name, scheduler)
                live.update(screen(status), refresh=True)
    except KeyboardInterrupt:
        console.print(f"the jobs go on; watch: tokensweep status {name} --follow", highlight=False)
        console.print(f"stop: tokensweep cancel {name}", highlight=False)
        raise SystemExit(130) from None
    if not console.is_terminal:
        console.print()  # the live screen ends without a newline there
    return status.complete


def show_order(plan: Plan, console: Console) -> None:
    """What a plan would submit and what it would take; writes the batch files, submits nothing."""
    order, scheduler = order_of(plan, plan.missing()), Scheduler()
    arrays = order.arrays(look(plan.store, scheduler), scheduler=scheduler)
    if not arrays:
        console.print("nothing to submit: all runs are finished or in the queue")
        return
    console.print(_table(arrays, order))
    for wanted in dict.fromkeys(array.request for array in arrays):
        finding = doctor.request(order.site, wanted, scheduler)
        if finding.advice:
            console.print(f"would not start: {finding.found}; {finding.advice}", style="red", highlight=False)
    for line in costs(plan, order, arrays):
        console.print(line, highlight=False)
    make_store(plan.store, group=order.site.group)
    folder = plan.sweep_dir / "batch"
    files = write_batch_files(order, folder, snapshot=take_snapshot(plan.store), scheduler=scheduler)
    for path in files:
        console.print(f"would submit  {path}", highlight=False, soft_wrap=True)


def _table(arrays: Sequence[Array], order: Order) -> Table:
    table = Table(title=f"site {order.site.name}", title_justify="left", box=None, pad_edge=False)
    for name in (
        "array",
        "stage",
        "tasks",
        "runs",
        "at a time",
        "nodes",
        "GPUs",
        "CPUs",
        "GB",
        "limit",
        "after",
    ):
        table.add_column(name, justify="left" if name in {"stage", "after"} else "right")
    for position, array in enumerate(arrays):
        request = array.request
        table.add_row(
            f"{position:02d}",
            array.stage,
            str(len(array.tasks)),
            str(sum(len(runs) for runs in array.tasks) or ""),
            str(array.throttle),
            str(request.nodes),
            str(request.gpus),
            str(request.cpus),
            "" if request.mem_gb is None else f"{request.mem_gb:g}",
            span(request.minutes * 60),
            (array.dependency([f"{number:02d}" for number in range(len(arrays))]) or "").replace(":", " "),
        )
    return table


def costs(plan: Plan, order: Order, arrays: Sequence[Array]) -> list[str]:
    """Device-hours at most, from the time limits, and as far as finished runs of the same arms tell."""
    devices = "GPU" if any(array.request.gpus for array in arrays) else "CPU"
    counted = [array for array in arrays if array.request.gpus or devices == "CPU"]
    most = sum(array.request.device_hours * max(1, sum(map(len, array.tasks))) for array in counted)
    price = order.site.gpu_hour_price if devices == "GPU" else None

    def spelt(hours: float) -> str:
        cost = f", {hours * price:.2f} {order.site.currency}" if price else ""
        return f"{hours:.1f} {devices}-hours{cost}"

    lines = [f"at most {spelt(most)} if every run uses a whole time limit"]
    seconds, unknown = _expected_seconds(plan)
    if seconds:
        devices_each = fmean(one.train.nodes * (one.train.gpus or one.train.cpus) for one in order.needs)
        lines.append(
            f"about {spelt(seconds / 3600 * devices_each)} as finished runs of the same arms took"
            + (f"; {unknown} runs are of arms that have none" if unknown else "")
        )
    return lines


def _expected_seconds(plan: Plan) -> tuple[float, int]:
    """Seconds of the missing runs, from finished runs of their arms; and how many of them that leaves out."""
    missing = {run.run_id for run in plan.missing()}
    took: dict[tuple[str, str], list[float]] = defaultdict(list)
    for entry in plan.entries:
        if entry["run_id"] not in missing:
            record = read_run(plan.store / "runs" / entry["run_id"])
            took[entry["setting"], entry["arm"]].append(record.seconds)
    arms = {entry["run_id"]: (entry["setting"], entry["arm"]) for entry in plan.entries}
    known = [fmean(took[arms[run_id]]) for run_id in missing if took.get(arms[run_id])]
    return sum(known), len(missing) - len(known)
