"""``tokensweep status | logs | cancel | retry``: watch and steer the runs of a sweep, wherever they work."""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from tokensweep.cluster.launch import follow, show_submissions
from tokensweep.cluster.reconcile import Queue, look
from tokensweep.cluster.scheduler import Scheduler, SlurmError
from tokensweep.cluster.screen import run_list, screen, sweep_list
from tokensweep.cluster.status import OPEN, follow_interval, state_of, sweep_status
from tokensweep.cluster.submission import read_submission, record_cancel
from tokensweep.ledger import last_attempt, read_run
from tokensweep.options import known_run, known_sweep, known_sweeps, with_store

_LOG_LINES = 40
_LOG_POLL_S = 0.5


def status_command(arguments: Sequence[str]) -> None:
    """Show how the runs of a sweep are, once or until they have ended; leaves with 1 when one failed."""
    parser = argparse.ArgumentParser(
        prog="tokensweep status",
        description="Per arm: runs finished, running, queued (how often preempted), failed; step, reward, "
        "tokens sampled per second, time until training is ready. Without SWEEP: a line per sweep.",
    )
    parser.add_argument("sweep", nargs="?", help="name of a sweep")
    parser.add_argument("-f", "--follow", action="store_true", help="stay and refresh until all has ended")
    parser.add_argument("--runs", action="store_true", help="a line per run, with id, job and node")
    parser.add_argument("--json", action="store_true", help="for programs")
    options, store, _ = with_store(parser, arguments)
    console, scheduler = Console(), Scheduler()
    if options.sweep is None:
        _all_sweeps(store, scheduler, console, as_json=options.json)
        return
    name = known_sweep(store, options.sweep)
    if options.follow:
        follow(store, name, console, scheduler=scheduler)
        return
    status = sweep_status(store, name, scheduler)
    if options.json:
        print(json.dumps(status.as_json(), indent=1))
        return
    console.print(screen(status))
    if options.runs:
        console.print(run_list(status))


def _all_sweeps(store: Path, scheduler: Scheduler, console: Console, *, as_json: bool) -> None:
    queue = look(store, scheduler)
    found = [sweep_status(store, name, scheduler, queue=queue) for name in known_sweeps(store)]
    if as_json:
        print(json.dumps([status.as_json() for status in found], indent=1))
        return
    console.print(sweep_list(found) if found else f"no sweep in {store}", highlight=False)


def logs_command(arguments: Sequence[str]) -> None:
    """Print the log of a run: of its newest attempt, or what its job said where there is none."""
    parser = argparse.ArgumentParser(
        prog="tokensweep logs",
        description="The log of a run's newest attempt; what its job said before it had one.",
    )
    parser.add_argument("run", help="id of a run, or its beginning (tokensweep status SWEEP --runs)")
    parser.add_argument("-f", "--follow", action="store_true", help="go on as long as somebody works on it")
    parser.add_argument(
        "-n", "--lines", type=int, default=_LOG_LINES, help="last lines (default %(default)s)"
    )
    parser.add_argument("--job", action="store_true", help="what the job of the cluster said instead")
    options, store, _ = with_store(parser, arguments)
    if options.lines < 0:
        parser.error(f"--lines must be at least 0, got {options.lines}")
    run_dir = known_run(store, options.run)
    path = _log(store, run_dir, job=options.job)
    if path is None and not options.follow:
        raise ValueError(f"{run_dir.name} has no log yet: no worker has started on it")
    at = _print_log(path, lines=options.lines) if path else 0
    if options.follow:
        _follow_log(store, run_dir, path, at, job=options.job)


def _print_log(path: Path, *, lines: int) -> int:
    """Print the last lines of a log; gives back how far it was read, in bytes."""
    content = path.read_bytes()
    every = content.decode(errors="replace").splitlines(keepends=True)
    print(f"==> {path}\n" + "".join(every[max(0, len(every) - lines) :]), end="", flush=True)
    return len(content)


def _log(store: Path, run_dir: Path, *, job: bool) -> Path | None:
    """The log of a run's newest attempt; of its newest job where there is none, or when asked for."""
    folder = last_attempt(run_dir)
    path = folder / "log.txt" if folder and not job else None
    return path if path is not None and path.is_file() else _job_log(store, run_dir.name)


def _follow_log(store: Path, run_dir: Path, path: Path | None, at: int, *, job: bool) -> None:
    """Print a run's log from byte ``at`` on, and the logs of attempts to come, until nobody works on it."""
    started = time.monotonic()
    while True:
        works = read_run(run_dir).status == "running"
        goes_on = works or state_of(run_dir, look(store, Scheduler()))[1].state in OPEN
        newer = _log(store, run_dir, job=job)
        for one in dict.fromkeys(filter(None, (path, newer))):
            if one != path:
                print(f"==> {one}")
                path, at = one, 0
            with one.open("rb") as file:
                file.seek(at)
                more = file.read()
            more = more[: more.rfind(b"\n") + 1] if goes_on else more  # no half characters
            print(more.decode(errors="replace"), end="", flush=True)
            at += len(more)
        if not goes_on:
            return
        time.sleep(_LOG_POLL_S if works else follow_interval(started))


def _job_log(store: Path, run_id: str) -> Path | None:
    """What the newest job of a run has printed."""
    queue = look(store, Scheduler())
    seats = [seat for stage in ("train", "evaluate") for seat in queue.of(stage, run_id)]
    for seat in reversed(sorted(seats, key=lambda seat: seat.submission.order)):
        path = seat.submission.folder / "submitit" / f"{seat.key}_0_log.out"
        if path.is_file():
            return path
    return None


def cancel_command(arguments: Sequence[str]) -> None:
    """Take the jobs of a sweep, or of some of its runs, out of the queue; nothing computed is lost."""
    parser = argparse.ArgumentParser(
        prog="tokensweep cancel",
        description="Cancel the jobs of a sweep, or of single runs of it. Checkpoints stay: retry, or the "
        "sweep's own command, goes on from them.",
    )
    parser.add_argument("sweep")
    parser.add_argument("runs", nargs="*", help="ids of runs, or their beginnings; none: all of the sweep")
    options, store, _ = with_store(parser, arguments)
    name, scheduler = known_sweep(store, options.sweep), Scheduler()
    queue = _answered(look(store, scheduler))
    only = {known_run(store, run).name for run in options.runs}
    seats = [
        seat
        for (_, run_id), places in queue.seats.items()
        for seat in places
        if seat.alive
        and seat.submission.job_id is not None
        and seat.submission.sweep == name
        and (not only or run_id in only)
    ]
    keys = {seat.key for seat in seats}
    if not only:
        keys |= {one.job_id for one in queue.reports if one.sweep == name and one.job_id}
    if not keys:
        print(f"{name}: no job of it is in the queue")
        return
    tasks: dict[Path, set[int]] = defaultdict(set)
    for seat in seats:
        tasks[seat.submission.folder].add(seat.index)
    for folder, indices in tasks.items():
        record_cancel(read_submission(folder), indices)
    scheduler.cancel(sorted(keys))
    print(f"{name}: cancelled {len(keys)} jobs; go on with: tokensweep retry {name}")
    shared = {run_id for seat in seats for run_id in seat.submission.tasks[seat.index]} - only
    if only and shared:
        print(f"also cancelled, as they share a job with these: {', '.join(sorted(shared))}")


def retry_command(arguments: Sequence[str]) -> None:
    """Submit again what failed, was cancelled or got lost, with the code and the requests of before."""
    from tokensweep.cluster.retry import retry

    parser = argparse.ArgumentParser(
        prog="tokensweep retry",
        description="Submit the runs of a sweep that are neither finished nor in the queue once more, with "
        "the code and the resources that they were submitted with. To change those, or the code, give the "
        "sweep's own command.",
    )
    parser.add_argument("sweep")
    parser.add_argument("--wait", action="store_true", help="follow until all has ended")
    options, store, uri = with_store(parser, arguments)
    name, console = known_sweep(store, options.sweep), Console()
    made = retry(store, name, tracking_uri=uri, scheduler=Scheduler())
    show_submissions(made, console)
    if not made:
        console.print(f"{name}: nothing to submit; the table: tokensweep report {name}", highlight=False)
    if options.wait and not follow(store, name, console):
        raise SystemExit(1)


def _answered(queue: Queue) -> Queue:
    if queue.silence:
        raise SlurmError(queue.silence)
    return queue
