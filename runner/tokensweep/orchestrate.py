"""One path for every sweep, from a single run to a paper's table: plan, write, run, report, project."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from tokensweep.compose import register_components
from tokensweep.dispatch import dispatch_local
from tokensweep.identity import digest
from tokensweep.options import default_tracking_uri
from tokensweep.plan import Plan, make_plan, write_plan
from tokensweep.preflight import bring_model, check_engine
from tokensweep.progress import Board
from tokensweep.redact import redact
from tokensweep.search.spec import is_search
from tokensweep.sweepfile import Sweep, adhoc_sweep
from tokensweep_analysis.wording import counted

LAUNCHERS = ("local", "slurm")


def multirun(job_overrides: Sequence[Sequence[str]], *, name: str | None, scale: str) -> Sweep:
    """The sweep that the jobs of a Hydra command line are."""
    jobs = [list(job) for job in job_overrides]
    return adhoc_sweep(jobs, name=name or f"adhoc-{digest(jobs)[:8]}", scale=scale)


def run_sweep(sweep: Sweep, *, launcher: str, check: Callable[[Plan], None] | None = None) -> list[str]:
    """Do everything that a sweep still needs, then print its table; returns a run id per job.

    On a cluster this returns as soon as the jobs are submitted, unless ``wait=true``. Leaves with exit code
    1 when a run failed. ``check`` sees the plan before a run is written. Raises ValueError, as ``check``
    may, when a job cannot be planned, and nothing has started then.
    """
    from tokensweep.sync import check_uri

    console = Console()
    register_components()
    plan = make_plan(_announced(sweep, console))
    _check_no_search(plan)
    check_uri(plan.tracking_uri)
    check_launcher(plan, launcher)
    if check is not None:
        check(plan)
    if launcher == "local":
        check_machine(plan)
    write_plan(plan, group=group_of(plan))
    print_plan(plan, console)
    is_away = False  # whether others work on it
    if launcher == "slurm":
        from tokensweep.cluster.launch import launch

        is_away = launch(plan, console)
    if plan.wait or not is_away:
        _finish(plan, launcher, console)
    return [str(entry["run_id"]) for entry in plan.entries]


def _check_no_search(plan: Plan) -> None:
    """Refuse arms beside the trials of a search, whose report ranks trials."""
    if is_search(plan.store, plan.sweep.name):
        raise ValueError(
            f"{plan.sweep.name} is a search in {plan.store}: name another sweep, with sweep=NAME"
        )


def check_launcher(plan: Plan, launcher: str) -> None:
    """Refuse what the launcher cannot do before anything is written."""
    if launcher not in LAUNCHERS:
        raise ValueError(f"hydra/launcher must be one of {', '.join(LAUNCHERS)}, got {launcher!r}")
    if launcher == "slurm":
        from tokensweep.cluster.site import load_site

        load_site(plan.site)
    elif plan.site:
        raise ValueError(
            f"site={plan.site} needs hydra/launcher=slurm: without it, runs work on this machine"
        )


def check_machine(plan: Plan) -> None:
    """Refuse what this machine cannot run or reach before a run is written."""
    for run in plan.missing():
        check_engine(run.config)
        bring_model(run.config, plan.store)


def group_of(plan: Plan) -> str | None:
    """The Unix group that the plan's site shares a store with."""
    if not plan.site:
        return None
    from tokensweep.cluster.site import load_site

    return load_site(plan.site).group


def _finish(plan: Plan, launcher: str, console: Console) -> None:
    """Work or wait until all runs have ended, then show the table; leaves with 1 when one did not finish."""
    name = plan.sweep.name
    if launcher == "local":
        _dispatch(plan, console)
    elif plan.missing():
        from tokensweep.cluster.launch import follow

        follow(plan.store, name, console)
    show_report(plan.store, name, tracking_uri=plan.tracking_uri, console=console)
    if missing := plan.missing():
        console.print(
            f"[red]{len(missing)} of {len(plan.runs)} runs did not finish; the same command tries them again"
        )
        raise SystemExit(1)


def _announced(sweep: Sweep, console: Console) -> Sweep:
    if len(sweep.jobs) > 50:
        console.print(f"composing {len(sweep.jobs)} runs ...")
    return sweep


def print_plan(plan: Plan, console: Console) -> None:
    """What will run, what is there already, and what turned out to be the same run twice."""
    missing = plan.missing()
    duplicates = len(plan.entries) - len(plan.runs)
    arms = len({entry["arm"] for entry in plan.entries})
    settings = len({entry["setting"] for entry in plan.entries})
    console.print(
        f"[bold]{plan.sweep.name}[/]: {counted(len(plan.runs), 'run')}, {len(missing)} to do, "
        f"{len(plan.runs) - len(missing)} finished before"
        + (f", {counted(duplicates, 'job')} the same as another" if duplicates else "")
        + f"; {counted(arms, 'arm')}"
        + (f" in {counted(settings, 'setting')}" if settings > 1 else "")
    )
    console.print(f"store {plan.store}", highlight=False)
    for remark in plan.remarks():
        console.print(remark, highlight=False, markup=False, style="yellow")


def _dispatch(plan: Plan, console: Console) -> None:
    labels = {e["run_id"]: f"{e['setting']} {e['arm']} seed {e['seed']}" for e in reversed(plan.entries)}
    try:
        dispatch_local(plan, board=Board(console, labels=labels))
    except KeyboardInterrupt:
        console.print("stopped; the same command continues where the runs were")
        raise SystemExit(130) from None


def show_report(
    store: Path, name: str, *, tracking_uri: str | None, console: Console, baseline: str | None = None
) -> None:
    """Write the report of a sweep, project it to MLflow, print the table and where to look further.

    Without a ``tracking_uri`` nothing is projected. With a ``baseline`` the report against that arm is
    written beside the sweep's own, and not projected.
    """
    from tokensweep.sync import sync_sweep
    from tokensweep_analysis.page.document import write_page
    from tokensweep_analysis.report import write_report
    from tokensweep_analysis.tables import compare

    if is_search(store, name):
        from tokensweep.search.copy import copy_study

        if problem := copy_study(store, name):
            console.print(problem, style="yellow", highlight=False)
    table = compare(store, name, baseline=baseline)
    folder = store / "sweeps" / name / "report"
    if baseline is not None:
        folder = folder / ("against-" + re.sub(r"[^\w.=,+@-]", "_", baseline))
        tracking_uri = None
    files = write_report(table, folder)
    page = write_page(table, store, folder)
    for renderable in files.renderables:
        console.print(renderable)
    places = f"report  {page}\n        {files.markdown}, {', '.join(path.name for path in files.tables)}"
    console.print(places, highlight=False, soft_wrap=True)
    if tracking_uri is None:
        return
    synced = sync_sweep(store, name, uri=tracking_uri)
    if synced.delayed:
        console.print(
            f"[yellow]MLflow was not synced ({synced.delayed}); nothing is lost: tokensweep sync {name}"
        )
    console.print(f"MLflow  {ui_command(tracking_uri, store)}", highlight=False, soft_wrap=True)
    if synced.view:
        console.print(f"        {synced.view}", highlight=False, soft_wrap=True)


def ui_command(tracking_uri: str, store: Path) -> str:
    """The one command that opens the results in the MLflow UI, for nobody but this machine."""
    if tracking_uri.startswith("http"):
        return f"open {redact(tracking_uri)}"
    ours = tracking_uri == default_tracking_uri(store)
    backend = shlex.quote(tracking_uri) if ours else "<your tracking.uri>"
    return f"mlflow server --host 127.0.0.1 --backend-store-uri {backend}   # http://127.0.0.1:5000"


def dry_run(sweep: Sweep, *, launcher: str, check: Callable[[Plan], None] | None = None) -> None:
    """Print what a sweep would run, and on a cluster write the batch files; nothing runs.

    Raises ValueError as :func:`run_sweep` does.
    """
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    from tokensweep.outlook import show_outlook

    console = Console()
    register_components()
    plan = make_plan(sweep)
    _check_no_search(plan)
    check_launcher(plan, launcher)
    if check is not None:
        check(plan)
    print_plan(plan, console)
    missing = {run.run_id for run in plan.missing()}
    table = Table("setting", "arm", "seed", "run", "state", box=None, pad_edge=False)
    for entry in track(plan.entries, console=console, transient=True):
        state = "to do" if entry["run_id"] in missing else "finished"
        row = (entry["setting"], entry["arm"], str(entry["seed"]), entry["run_id"], state)
        table.add_row(*map(escape, row))
    console.print(table)
    console.print()
    for label, overrides in _meanings(plan.entries):
        console.print(Text.assemble((f"{label}: ", "bold"), " ".join(overrides)), soft_wrap=True)
    show_outlook(plan, console)
    if launcher == "slurm":
        from tokensweep.cluster.launch import show_order

        show_order(plan, console)


def _meanings(entries: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, list[str]]]:
    """Overrides by arm, by setting where there are several, and those of all runs."""
    common = _shared(entries)
    arms, settings = _by("arm", entries), _by("setting", entries)
    everywhere = {  # what an arm of several settings has in all of them is the arm's
        arm: _shared(own) if len({entry["setting"] for entry in own}) > 1 else [] for arm, own in arms.items()
    }
    of_setting = {
        name: [
            text
            for text in _shared(own)
            if text not in common and not any(text in everywhere[entry["arm"]] for entry in own)
        ]
        for name, own in settings.items()
        if len(settings) > 1
    }
    for arm, own in arms.items():
        there = {text for entry in own for text in of_setting.get(entry["setting"], ())}
        kept = [text for text in _shared(own) if text not in common and text not in there]
        yield arm, kept or ["nothing but the rest below"]
    for name, overrides in of_setting.items():
        yield f"setting {name}", overrides or ["nothing but the rest below"]
    yield "all", sorted(common)


def _by(key: str, entries: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for entry in entries:
        found.setdefault(entry[key], []).append(entry)
    return found


def _shared(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Overrides that all of these entries have, in the order of the first."""
    others = [set(entry["overrides"]) for entry in entries]
    return [text for text in entries[0]["overrides"] if all(text in other for other in others)]


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
