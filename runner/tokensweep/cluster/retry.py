"""Submits again what a sweep still lacks, from nothing but its folders: no command line, no composing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokensweep.cluster.arrange import Need
from tokensweep.cluster.scheduler import Scheduler
from tokensweep.cluster.site import Request, Site, load_site, site_request
from tokensweep.cluster.snapshot import Snapshot, open_snapshot
from tokensweep.cluster.submission import Submission, submissions
from tokensweep.cluster.submit import Order, submit_missing
from tokensweep.identity import read_json
from tokensweep.ledger import read_run
from tokensweep.search.element import Planned
from tokensweep.search.spec import is_search, search_folder


def retry(store: Path, name: str, *, tracking_uri: str, scheduler: Scheduler) -> list[Submission]:
    """Submit the runs of a sweep that are neither complete nor in the queue; gives back the new submissions.

    They get the code of the last submission that had them, and what it asked for. Raises ValueError for a
    sweep that was never submitted to a cluster.
    """
    earlier = [one for one in submissions(store, sweep=name) if one.stage != "report"]
    if not earlier:
        raise ValueError(f"{name} was never submitted to a cluster: give the sweep's own command again")
    if is_search(store, name):
        return _retry_search(store, name, earlier[-1], tracking_uri=tracking_uri, scheduler=scheduler)
    site = load_site(earlier[-1].site)
    made: list[Submission] = []
    for snapshot, run_ids in _by_code(store, name, earlier).items():
        order = Order(
            store=store,
            sweep=name,
            site=site,
            site_name=earlier[-1].site,
            needs=[_need(store, run_id, earlier, site) for run_id in run_ids],
            workers=0,
            tracking_uri=tracking_uri,
        )
        made += submit_missing(order, snapshot, scheduler)
    return made


def _retry_search(
    store: Path, name: str, last: Submission, *, tracking_uri: str, scheduler: Scheduler
) -> list[Submission]:
    """Submit the elements that a search lacks, with the code and the requests of its last submission."""
    from tokensweep.search.launch import missing_elements, order_of

    folder = search_folder(store, name)
    planned, elements = Planned.read(folder), missing_elements(folder)
    if not elements or last.snapshot is None:
        return []
    order = order_of(
        planned.search, planned.config, elements, store=store, site=last.site, tracking_uri=tracking_uri
    )
    return submit_missing(order, open_snapshot(Path(last.snapshot)), scheduler)


def _by_code(store: Path, name: str, earlier: Sequence[Submission]) -> dict[Snapshot, list[str]]:
    """The incomplete runs of a sweep by the code that they were last submitted with."""
    found: dict[Snapshot, list[str]] = {}
    entries = read_json(store / "sweeps" / name / "sweep.json")["runs"]
    for run_id in dict.fromkeys(str(entry["run_id"]) for entry in entries):
        run_dir = store / "runs" / run_id
        record, evals = read_run(run_dir), read_json(run_dir / "plan.json")["evals"]
        if record.trained_step is not None and not record.missing(evals):
            continue
        last = [one for one in earlier if one.task_of(run_id) is not None]
        if not last:
            raise ValueError(f"{run_id} of {name} was never submitted: give the sweep's own command again")
        found.setdefault(open_snapshot(Path(str(last[-1].snapshot))), []).append(run_id)
    return found


def _need(store: Path, run_id: str, earlier: Sequence[Submission], site: Site) -> Need:
    run_dir = store / "runs" / run_id
    compute = read_json(run_dir / "config.json")["compute"]
    evals = read_json(run_dir / "plan.json")["evals"]
    requests = {}
    for one in earlier:
        if one.task_of(run_id) is not None:
            requests[one.stage] = Request(**read_json(one.folder / "submission.json")["request"])
    evaluate = requests.get("evaluate", site_request(site, "evaluate"))
    record = read_run(run_dir)
    return Need(
        run_id=run_id,
        trained=record.trained_step is not None,
        attempts=record.attempts,
        train=requests.get("train", site_request(site, "train")),
        evaluate=evaluate if evals else None,
        threads=compute["threads"],
        hang_s=compute["hang_s"],
    )
