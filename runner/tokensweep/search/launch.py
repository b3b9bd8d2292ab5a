"""From a search to elements at work: check everything, write what they start from, start or submit them.

The same command is how a search goes on: elements that were stopped are started again, trials that are
missing get new ones, and with a larger number of trials the study simply grows.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from tokensweep.compose import Freezer
from tokensweep.entries import write_entries
from tokensweep.files import write_json
from tokensweep.identity import code_sha, digest
from tokensweep.paths import storage_uri
from tokensweep.plan import LAUNCH_KEYS, Plan, freeze_job, make_plan
from tokensweep.search.element import Living, Planned, seat_of, sweep_of
from tokensweep.search.spec import Objective, Search, check_is_free, search_folder
from tokensweep.store import make_store
from tokensweep.sweepfile import Job
from tokensweep_analysis.wording import counted

if TYPE_CHECKING:
    from tokensweep.cluster.submit import Order
    from tokensweep.search.study import Study

_POLL_S = 0.3
_STOP_GRACE_S = 20.0  # an element gives its worker half of that to save a checkpoint


@dataclass(frozen=True, kw_only=True)
class SearchPlan:
    """A search that was checked: ``base`` is the plan of its runs with nothing searched."""

    search: Search
    base: Plan
    config: Mapping[str, Any]  # frozen, of the base

    @property
    def folder(self) -> Path:
        """Of the search."""
        return search_folder(self.base.store, self.search.name)

    @property
    def base_sha(self) -> str:
        """Hash of the config that trials start from, without what concerns the command."""
        return digest({key: value for key, value in self.config.items() if key not in LAUNCH_KEYS})


def plan_search(search: Search, launch: Sequence[str] = ()) -> SearchPlan:
    """Compose the base and the corners of the space, and check them; nothing is written.

    ``launch`` are overrides that concern the command: store, site, jobs, tracking, resources. Raises
    ValueError for a setting that cannot run, with the overrides, and for a search that contradicts itself.
    """
    from tokensweep.compose import register_components

    register_components()
    freezer = Freezer()
    seed = f"seed={search.seeds[0]}"
    config = freeze_job(Job("", "base", (*search.base, *launch, seed)), freezer)
    sweep = replace(
        sweep_of(search, "base", (*search.base, *launch), store=Path(config["store"])),
        jobs=(Job("", "base", (*search.base, *launch, seed)),),
    )
    base = make_plan(sweep)
    for params in search.space.corners():
        freeze_job(Job("", "corner", (*search.base, *search.space.overrides(params), *launch, seed)), freezer)
    search.rungs(config["steps"])
    if Objective.accuracy in search.objectives and not config["eval"]["suites"]:
        raise ValueError("the objective accuracy needs an evaluation: give eval=NAME, such as eval=held_out")
    return SearchPlan(search=search, base=base, config=config)


def run_search(search: Search, *, launcher: str, launch: Sequence[str]) -> None:
    """Do everything that a search still needs, then print what it found.

    Leaves with 1 when trials are missing in the end. On a cluster this returns as soon as the elements are
    submitted, unless ``wait=true``.
    """
    from tokensweep.orchestrate import check_launcher, check_machine, group_of, show_report
    from tokensweep.search.study import Study
    from tokensweep.sync import check_uri

    console = Console()
    plan = plan_search(search, launch)
    check_uri(plan.base.tracking_uri)
    check_launcher(plan.base, launcher)
    if launcher == "local":
        check_machine(plan.base)
    make_store(plan.base.store, group=group_of(plan.base))
    _write(plan)
    study = Study(search, plan.folder, steps=plan.config["steps"], uri=storage_uri())
    study.export()
    show_plan(plan, console, missing=study.missing())
    if launcher == "slurm":
        is_away = _submit(plan, study, console)
        if is_away and not plan.base.wait:
            return
        if is_away:
            from tokensweep.cluster.launch import follow

            follow(plan.base.store, search.name, console)
    else:
        _work_here(plan, study, console)
    show_report(plan.base.store, search.name, tracking_uri=plan.base.tracking_uri, console=console)
    if missing := study.missing():
        why = "the same command goes on with them"
        if search.space.size < search.trials:
            why = f"the space has only {search.space.size:.0f} settings"
        console.print(f"[red]{missing} of {search.trials} trials were not told; {why}")
        raise SystemExit(1)


def _write(plan: SearchPlan) -> None:
    """Write ``search.json``, or check that it says the same. Raises ValueError when it does not."""
    path = plan.folder / "search.json"
    check_is_free(plan.base.store, plan.search.name)
    if path.is_file():
        before = Planned.read(plan.folder)
        _check_same(before, plan)
        if before.search.trials > plan.search.trials:
            raise ValueError(
                f"{plan.search.name} has {before.search.trials} trials planned, got {plan.search.trials}: a "
                "search can only grow; stop it with: tokensweep cancel, or Ctrl-C"
            )
    write_json(
        path,
        {
            "search": plan.search.as_json(),
            "base_sha": plan.base_sha,
            "code_sha": code_sha(),
            "config": {key: value for key, value in plan.config.items() if key not in _KEPT_OUT},
        },
    )
    write_entries(plan.base.sweep, (), folder=plan.base.sweep_dir)


_KEPT_OUT = tuple(key for key in LAUNCH_KEYS if key != "resources")


_MAY_CHANGE = ("trials", "paper", "question", "note")  # words about a search are no part of it


def _check_same(before: Planned, plan: SearchPlan) -> None:
    """Raise ValueError for anything but the number of trials that is not as it was planned."""
    other = f"another search is started with sweep=NAME (this one is {plan.search.name})"
    if before.code_sha != code_sha():
        raise ValueError(
            f"the code changed since {plan.search.name} began (now {code_sha()[:12]}, then "
            f"{before.code_sha[:12]}): trials of two codes cannot be compared; {other}"
        )
    then, now = before.search.as_json(), plan.search.as_json()
    for key in (key for key in now if key not in _MAY_CHANGE and digest(then[key]) != digest(now[key])):
        raise ValueError(f"{plan.search.name} was planned with {key}={then[key]}, got {now[key]}: {other}")
    if before.base_sha != plan.base_sha:
        raise ValueError(f"what the trials of {plan.search.name} start from has changed: {other}")


def show_plan(plan: SearchPlan, console: Console, *, missing: int) -> None:
    """What is searched, how, and how much of it is still to do."""
    search = plan.search
    rung, first = search.rungs(plan.config["steps"])
    runs = "" if len(search.seeds) == 1 else f" of {len(search.seeds)} seeds each"
    console.print(
        f"[bold]{search.name}[/]: {counted(search.trials, 'trial')}{runs}, {missing} to do; sampler "
        f"{search.sampler}, pruner {search.pruner}"
        + (f" from step {first}, every {rung}" if search.pruner != "none" else "")
        + f"; objective {', '.join(search.objectives)}"
    )
    for one in search.space.parameters:
        if one.choices:
            told = "one of " + ", ".join(map(str, one.choices))
        else:
            told = f"{one.low:g} to {one.high:g}" + (", whole numbers" if one.integer else "")
            told += (", logarithmic" if one.log else "") + (f", every {one.step}" if one.step else "")
        if one.when:
            told += "; where " + " and ".join(
                f"{key} is {' or '.join(map(str, values))}" for key, values in one.when.items()
            )
        console.print(escape(f"  {one.key}: {told}"), highlight=False)
    if search.sampler == "cmaes" and any(one.choices for one in search.space.parameters):
        console.print("  cmaes searches numbers only: choices are drawn at random", style="yellow")
    if search.sampler in ("gp", "cmaes") and search.space.is_conditional:
        console.print(f"  {search.sampler} draws conditional keys at random: tpe learns them", style="yellow")
    console.print(f"store {plan.base.store}", highlight=False)
    for remark in plan.base.remarks():
        console.print(remark, highlight=False, markup=False, style="yellow")


def elements_to_start(study: Study, alive: Living) -> list[int]:
    """The elements that a search lacks: first those that have a trial and were stopped, then new ones."""
    known, busy = alive.known(), study.running().values()
    stopped = sorted(element for element in busy if not alive(element))
    idle = [element for element in known if alive(element) and element not in busy]
    first = max([study.last_element(), *known]) + 1
    return [*stopped, *range(first, first + max(0, study.missing() - len(idle)))]


def _submit(plan: SearchPlan, study: Study, console: Console) -> bool:
    """Submit the elements that are missing as one array; whether any element works or waits."""
    from tokensweep.cluster.launch import show_submissions
    from tokensweep.cluster.scheduler import Scheduler
    from tokensweep.cluster.snapshot import take_snapshot
    from tokensweep.cluster.submit import submit_missing

    alive = Living(plan.folder)
    elements = elements_to_start(study, alive)
    if not elements:
        at_work = [element for element in alive.known() if alive(element)]
        console.print(
            f"nothing to submit: {counted(len(at_work), 'element')} in the queue" if at_work else
            "nothing to submit: all trials are told"
        )  # fmt: skip
        return bool(at_work)
    made = submit_missing(_order(plan, elements), take_snapshot(plan.base.store), Scheduler())
    show_submissions(made, console)
    if not plan.base.wait:
        name = plan.search.name
        console.print(
            f"this shell may be closed\nwatch:  tokensweep status {name} --follow\n"
            f"then:   tokensweep report {name}\nstop:   tokensweep cancel {name}",
            highlight=False,
            soft_wrap=True,
        )
    return True


def missing_elements(folder: Path) -> list[int]:
    """The elements that the search in ``folder`` lacks. Raises ValueError for a study out of reach."""
    from tokensweep.search.study import Study

    planned = Planned.read(folder)
    study = Study(planned.search, folder, steps=planned.config["steps"], uri=storage_uri())
    return elements_to_start(study, Living(folder))


def order_of(
    search: Search,
    config: Mapping[str, Any],
    elements: Sequence[int],
    *,
    store: Path,
    site: str | None,
    workers: int = 0,
    tracking_uri: str = "",
) -> Order:
    """The order of elements at a site. Raises ValueError for a site that is not known."""
    from tokensweep.cluster.arrange import Need
    from tokensweep.cluster.site import load_site, site_request
    from tokensweep.cluster.submit import Order

    found, path = load_site(site), Path(site or "")
    request = site_request(found, "train", config["resources"]["train"])
    compute = config["compute"]
    needs = [
        Need(
            run_id=seat_of(search.name, element),
            trained=False,
            train=request,
            evaluate=None,
            threads=compute["threads"],
            hang_s=compute["hang_s"],
        )
        for element in elements
    ]
    return Order(
        store=store,
        sweep=search.name,
        site=found,
        site_name=str(path.resolve()) if path.suffix else found.name,
        needs=needs,
        workers=workers,
        stage="search",
        tracking_uri=tracking_uri,
    )


def _order(plan: SearchPlan, elements: Sequence[int]) -> Order:
    return order_of(
        plan.search,
        plan.config,
        elements,
        store=plan.base.store,
        site=plan.base.site,
        workers=plan.base.workers,
        tracking_uri=plan.base.tracking_uri,
    )


def _work_here(plan: SearchPlan, study: Study, console: Console) -> None:
    """Run the missing elements as processes of this machine, a few at a time, and wait for them."""
    from tokensweep.search.board import SearchBoard

    waiting = elements_to_start(study, Living(plan.folder))
    width = plan.base.workers or os.cpu_count() or 1
    working: dict[int, subprocess.Popen[bytes]] = {}
    board = SearchBoard(console, study)
    board.start()
    try:
        while waiting or working:
            while waiting and len(working) < width:
                element = waiting.pop(0)
                working[element] = _start(plan.folder, element)
            for element in [key for key, process in working.items() if process.poll() is not None]:
                del working[element]
            board.show()
            time.sleep(_POLL_S)
        board.show()
    except KeyboardInterrupt:
        for process in working.values():
            process.send_signal(signal.SIGTERM)
        for process in working.values():
            _await(process)
        board.stop()
        console.print("stopped; the same command goes on where the trials were")
        raise SystemExit(130) from None
    finally:
        board.stop()


def _start(folder: Path, element: int) -> subprocess.Popen[bytes]:
    """An element as a process that lives on if this one or its terminal ends, with a log of its own."""
    log = folder / "elements" / f"{element:04d}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "tokensweep.search.element", str(folder), str(element)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def _await(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(_STOP_GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def dry_run_search(search: Search, *, launcher: str, launch: Sequence[str]) -> None:
    """Print what a search would do, and on a cluster write its batch file; nothing runs."""
    from tokensweep.orchestrate import check_launcher

    console = Console()
    plan = plan_search(search, launch)
    check_launcher(plan.base, launcher)
    check_is_free(plan.base.store, plan.search.name)
    missing = search.trials
    if (plan.folder / "search.json").is_file():
        from tokensweep.search.study import Study

        _check_same(Planned.read(plan.folder), plan)
        missing = Study(search, plan.folder, steps=plan.config["steps"], uri=storage_uri()).missing()
    show_plan(plan, console, missing=missing)
    console.print(
        f"at most {counted(missing * len(search.seeds), 'run')} of {plan.config['steps']} steps; "
        f"{len(search.space.corners())} corners of the space were composed and checked"
    )
    if launcher == "slurm" and missing:
        _show_batch(plan, missing, console)


def _show_batch(plan: SearchPlan, missing: int, console: Console) -> None:
    from tokensweep.cluster.scheduler import Scheduler
    from tokensweep.cluster.snapshot import take_snapshot
    from tokensweep.cluster.submit import write_batch_files

    order = _order(plan, range(missing))
    hours = sum(need.train.device_hours for need in order.needs)
    devices = "GPU" if order.needs[0].train.gpus else "CPU"
    console.print(f"at most {hours:.1f} {devices}-hours if every element uses a whole time limit")
    make_store(plan.base.store, group=order.site.group)
    files = write_batch_files(
        order,
        plan.base.sweep_dir / "batch",
        snapshot=take_snapshot(plan.base.store),
        scheduler=Scheduler(),
    )
    for path in files:
        console.print(f"would submit  {path}", highlight=False, soft_wrap=True)
