"""One path for every sweep, from a single run to a paper's table: plan, write, run, report, project."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import track

from tokensweep.compose import register_components
from tokensweep.dispatch import dispatch_local
from tokensweep.identity import digest
from tokensweep.plan import Plan, default_tracking_uri, make_plan, write_plan
from tokensweep.progress import Board
from tokensweep.sweepfile import Sweep, adhoc_sweep


def run_multirun(job_overrides: Sequence[Sequence[str]], *, name: str | None, scale: str) -> list[str]:
    """Run the jobs of a Hydra command line; returns a run id per job.

    Leaves with exit code 2 when a job cannot be planned and 1 when a run failed.
    """
    jobs = [list(job) for job in job_overrides]
    sweep = adhoc_sweep(jobs, name=name or f"adhoc-{digest(jobs)[:8]}", scale=scale)
    return run_sweep(sweep)


def run_sweep(sweep: Sweep) -> list[str]:
    """Do everything that a sweep still needs, then print its table; returns a run id per job."""
    from tokensweep.sync import check_uri

    console = Console()
    register_components()
    plan = make_plan(_announced(sweep, console))
    check_uri(plan.tracking_uri)
    write_plan(plan)
    print_plan(plan, console)
    failed = _dispatch(plan, console)
    show_report(plan.store, sweep.name, tracking_uri=plan.tracking_uri, console=console)
    if failed:
        console.print(
            f"[red]{len(failed)} of {len(plan.runs)} runs did not finish; the same command tries them again"
        )
        raise SystemExit(1)
    return [str(entry["run_id"]) for entry in plan.entries]


def _announced(sweep: Sweep, console: Console) -> Sweep:
    if len(sweep.jobs) > 50:
        console.print(f"composing {len(sweep.jobs)} runs ...")
    return sweep


def print_plan(plan: Plan, console: Console) -> None:
    """What will run, what is there already, and what turned out to be the same run twice."""
    missing = plan.missing()
    duplicates = len(plan.entries) - len(plan.runs)
    console.print(
        f"[bold]{plan.sweep.name}[/]: {len(plan.runs)} runs, {len(missing)} to do, "
        f"{len(plan.runs) - len(missing)} finished before"
        + (f", {duplicates} jobs are the same run as another" if duplicates else "")
    )
    console.print(f"store {plan.store}", highlight=False)
    for remark in plan.remarks():
        console.print(remark, highlight=False, markup=False, style="yellow")


def _dispatch(plan: Plan, console: Console) -> list[str]:
    labels = {e["run_id"]: f"{e['setting']} {e['arm']} seed {e['seed']}" for e in reversed(plan.entries)}
    try:
        return dispatch_local(plan, board=Board(console, labels=labels))
    except KeyboardInterrupt:
        console.print("stopped; the same command continues where the runs were")
        raise SystemExit(130) from None


def show_report(store: Path, name: str, *, tracking_uri: str, console: Console) -> None:
    """Write the report of a sweep, project it to MLflow, print the table and where to look further."""
    from tokensweep.sync import sync_sweep
    from tokensweep_analysis.report import write_report
    from tokensweep_analysis.tables import compare

    table = compare(store, name)
    files = write_report(table, store / "sweeps" / name / "report")
    for renderable in files.renderables:
        console.print(renderable)
    synced = sync_sweep(store, name, uri=tracking_uri)
    console.print(f"report  {files.markdown}\n        {files.csv}", highlight=False, soft_wrap=True)
    if synced.delayed:
        console.print(
            f"[yellow]MLflow was not reached ({synced.delayed}); nothing is lost: tokensweep sync {name}"
        )
    console.print(f"MLflow  {ui_command(tracking_uri, store)}", highlight=False, soft_wrap=True)


def ui_command(tracking_uri: str, store: Path) -> str:
    """The one command that opens the results in the MLflow UI."""
    if tracking_uri.startswith("http"):
        return f"open {tracking_uri}"
    if tracking_uri == default_tracking_uri(store):
        return f"mlflow server --backend-store-uri {shlex.quote(tracking_uri)}   # http://127.0.0.1:5000"
    return "mlflow server --backend-store-uri <your tracking.uri>   # http://127.0.0.1:5000"


def dry_run(sweep: Sweep) -> None:
    """Print what a sweep would run, without writing anything."""
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    console = Console()
    register_components()
    plan = make_plan(sweep)
    print_plan(plan, console)
    missing = {run.run_id for run in plan.missing()}
    table = Table("setting", "arm", "seed", "run", "state", box=None, pad_edge=False)
    arms: dict[str, list[str]] = {}
    for entry in track(plan.entries, console=console, transient=True):
        state = "to do" if entry["run_id"] in missing else "finished"
        row = (entry["setting"], entry["arm"], str(entry["seed"]), entry["run_id"], state)
        table.add_row(*map(escape, row))
        arms.setdefault(entry["arm"], entry["overrides"])
    console.print(table)
    console.print()
    common = set.intersection(*(set(overrides) for overrides in arms.values()))
    for arm, overrides in arms.items():
        own = [text for text in overrides if text not in common] or ["nothing but the rest below"]
        console.print(Text.assemble((f"{arm}: ", "bold"), " ".join(own)), soft_wrap=True)
    console.print(Text.assemble(("all: ", "bold"), " ".join(sorted(common))), soft_wrap=True)


def regrade_sweep(store: Path, name: str, *, console: Console) -> None:
    """Grade the stored texts of every run of a sweep again, without a model."""
    from tokensweep.evaluate import regrade_entry
    from tokensweep.identity import read_json, verify
    from tokensweep.registry import build

    register_components()
    run_ids = dict.fromkeys(
        row["run_id"] for row in read_json(store / "sweeps" / name / "sweep.json")["runs"]
    )
    for run_id in track(run_ids, description="regrading", console=console, transient=True):
        run_dir = store / "runs" / run_id
        engine = verify(run_dir)["rollout"]
        for entry in read_json(run_dir / "plan.json")["evals"]:
            folder = run_dir / "evals" / f"{entry['suite']}-{entry['eval_id']}"
            if (folder / "eval.json").is_file():
                changed = regrade_entry(folder, build(entry["source"]), entry, engine=engine)
                console.print(f"{run_id}  {entry['suite']}  {changed} grades changed", highlight=False)
