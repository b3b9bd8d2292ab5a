"""Projects run folders to MLflow. The folders are the truth: a database that is lost is rebuilt from them.

One experiment per sweep, one MLflow run per run folder, a summary run per arm, one run with the sweep's
report, and saved views of the runs page. Repeating a sync changes nothing, and an MLflow server that is away
delays the projection and nothing else. Only this, through ``mlflow_client``, imports mlflow,
and only when there is something to do.
"""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokensweep.cluster.reconcile import Queue, RunState, State, look
from tokensweep.cluster.scheduler import Scheduler
from tokensweep.cluster.status import state_of
from tokensweep.identity import read_json
from tokensweep.ledger import RunRecord
from tokensweep.mlflow_client import UnreachableError, check_uri, connect
from tokensweep.mlflow_runs import Experiment, color_of, digest_of, legal_name, milliseconds
from tokensweep.mlflow_summary import Times, sync_arms, sync_report
from tokensweep.mlflow_training import Shown, Source, axes_of, flatten, sync_training_run
from tokensweep.mlflow_view import TAG, Layout, View, encode, page, view_url, views_of
from tokensweep.redact import redact
from tokensweep.search.copy import copy_study
from tokensweep.search.spec import is_search, search_folder
from tokensweep_analysis.wording import counted

ADHOC = "tokensweep/adhoc"  # experiment of runs that belong to no sweep
__all__ = ["ADHOC", "SyncReport", "check_uri", "flatten", "legal_name", "sync_all", "sync_runs", "sync_sweep"]

_VIEWS_TAG = "tokensweep.views"  # digests of the views that were published
_CURVES = ("reward", "entropy/mean", "length/mean", "loss/kept_fraction")  # drawn where a sweep has them


@dataclass(frozen=True, kw_only=True)
class SyncReport:
    """What a sync did. ``delayed`` says why MLflow was not synced, empty when it was."""

    uri: str  # without a password
    runs: int = 0  # MLflow runs that now show the state of their folder
    points: int = 0  # metric values sent
    problems: tuple[str, ...] = ()  # run folders that could not be read
    delayed: str = ""
    views: tuple[str, ...] = ()  # where a browser shows each sweep, once a server is up

    @property
    def view(self) -> str:
        """Where a browser shows the sweep, empty when nothing was shown."""
        return self.views[0] if self.views else ""

    def __str__(self) -> str:
        if self.delayed:
            return f"not synced to {self.uri}: {self.delayed}"
        lines = [
            f"{counted(self.runs, 'run')} in {self.uri}, {self.points} new metric values",
            *self.problems,
        ]
        lines += [f"view {view}" for view in self.views]
        return "\n".join(lines)


def sync_sweep(store: Path, name: str, *, uri: str) -> SyncReport:
    """Project the runs of a sweep and its report. Raises ValueError when there is no such sweep."""
    sweep = read_json(store / "sweeps" / name / "sweep.json")
    problem = copy_study(store, name) if is_search(store, name) else ""
    sources = _sources(store, name, sweep["runs"])
    queue = look(store, Scheduler())
    with _reporting(uri) as report, _one_at_a_time(store):
        report.problems += [problem] if problem else []
        experiment = Experiment(connect(uri, artifacts=store / "mlartifacts"), name)
        for source in sources:
            report.add(experiment, source, queue)
        try:
            views = _sync_results(experiment, store / "sweeps" / name, sweep, report)
            report.views = [view_url(uri, experiment.id, view) for view in views[:1]]
        except ValueError as error:  # a table of the report is damaged; the runs are there
            report.problems.append(str(error))
    return report.result()


def sync_all(store: Path, *, uri: str) -> SyncReport:
    """Project every sweep of a store, and the runs that are in none."""
    names = sorted(path.parent.name for path in (store / "sweeps").glob("*/sweep.json"))
    reports: list[SyncReport] = []
    for name in names:
        reports.append(sync_sweep(store, name, uri=uri))
        if reports[-1].delayed:
            return reports[-1]
    known = {e["run_id"] for name in names for e in read_json(store / "sweeps" / name / "sweep.json")["runs"]}
    rest = sorted(
        path.parent.name for path in (store / "runs").glob("*/plan.json") if path.parent.name not in known
    )
    if rest or not reports:
        reports.append(sync_runs(store, rest, uri=uri))
    return SyncReport(
        uri=reports[0].uri,
        runs=sum(report.runs for report in reports),
        points=sum(report.points for report in reports),
        problems=tuple(problem for report in reports for problem in report.problems),
        delayed=reports[-1].delayed,
        views=tuple(view for report in reports for view in report.views),
    )


def sync_runs(store: Path, run_ids: Sequence[str], *, uri: str) -> SyncReport:
    """Project single runs into the experiment ``tokensweep/adhoc``."""
    queue = look(store, Scheduler())
    with _reporting(uri) as report, _one_at_a_time(store):
        experiment = Experiment(connect(uri, artifacts=store / "mlartifacts"), ADHOC)
        for run_id in run_ids:
            report.add(experiment, Source(run_dir=store / "runs" / run_id, name=run_id), queue)
    return report.result()


def _sources(store: Path, name: str, entries: Sequence[Mapping[str, Any]]) -> list[Source]:
    """A source per distinct run; a run that several arms share carries all their names."""
    places = {arm: place for place, arm in enumerate(dict.fromkeys(entry["arm"] for entry in entries))}
    by_run: dict[str, list[Mapping[str, Any]]] = {}
    for entry in entries:
        by_run.setdefault(entry["run_id"], []).append(entry)
    trials = _trials(store, name)
    sources = []
    for run_id, own in by_run.items():
        trial = trials.get(run_id)
        own = [e for e in own if trial is None or e["arm"] == trial["arm"]]  # not those that it replaces
        setting, arm = (", ".join(dict.fromkeys(str(e[key]) for e in own)) for key in ("setting", "arm"))
        seed = str(own[0]["seed"])
        source = Source(
            run_dir=store / "runs" / run_id,
            name=f"{setting} {arm} seed {seed}".strip(),
            labels={"setting": setting, "arm": arm},
            tags={"sweep": name, "seed": seed, "group": f"{setting} {arm}".strip(), **_tags(trial)},
            results=_told(trial),
            color=color_of(places[own[0]["arm"]]),
        )
        sources.append(source)
    return sources


def _trials(store: Path, name: str) -> dict[str, Mapping[str, Any]]:
    """The trial of each run of a search, the one that counts; none of another sweep."""
    if not is_search(store, name):
        return {}
    node = read_json(search_folder(store, name) / "trials.json")
    names = [str(objective["name"]) for objective in node["objectives"]]
    rows = sorted(node["trials"], key=lambda row: (row["counted"], row["number"]))
    return {run_id: {**row, "objectives": names} for row in rows for run_id in row["runs"].values()}


def _tags(trial: Mapping[str, Any] | None) -> dict[str, str]:
    """What a run shows of its trial, to filter by."""
    if trial is None:
        return {}
    return {"trial": str(trial["number"]), "trial.state": str(trial["state"])}


def _told(trial: Mapping[str, Any] | None) -> dict[str, float]:
    """The values that a search was told of a trial, and the step at which it was given up."""
    if trial is None:
        return {}
    values = zip(trial["objectives"], trial["values"] or (), strict=False)
    told = {f"trial/{name}": float(value) for name, value in values}
    return told | ({"trial/pruned_step": float(trial["pruned_step"])} if trial["pruned_step"] else {})


class _Report:
    """Collects a SyncReport while the sync goes on."""

    def __init__(self, uri: str) -> None:
        self._uri = redact(uri)
        self.problems: list[str] = []
        self.shown: dict[str, Shown] = {}
        self.records: dict[str, tuple[RunRecord, RunState]] = {}
        self.delayed = ""
        self.views: list[str] = []

    def add(self, experiment: Experiment, source: Source, queue: Queue) -> None:
        """Project one run folder; a damaged one is noted and does not stop the others."""
        try:
            record, state = state_of(source.run_dir, queue)
            if record.attempts or state.state is not State.planned:
                self.shown[record.run_id] = sync_training_run(experiment, source, record, state)
            self.records[record.run_id] = record, state
        except ValueError as error:
            self.problems.append(str(error))

    def result(self) -> SyncReport:
        return SyncReport(
            uri=self._uri,
            runs=len(self.shown),
            points=sum(shown.points for shown in self.shown.values()),
            problems=tuple(self.problems),
            delayed=self.delayed,
            views=tuple(self.views),
        )


@contextmanager
def _reporting(uri: str) -> Iterator[_Report]:
    """What keeps MLflow from being reached ends in the report: the folders keep everything for later."""
    report = _Report(uri)
    try:
        yield report
    except (UnreachableError, OSError) as error:
        report.delayed = redact(str(error))


@contextmanager
def _one_at_a_time(store: Path) -> Iterator[None]:
    """Two syncs of a store at once would each create a missing run."""
    with (store / ".sync.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _sync_results(
    experiment: Experiment, folder: Path, sweep: Mapping[str, Any], report: _Report
) -> tuple[View, ...]:
    """Summary runs, views and the report of a sweep; returns the views. Raises ValueError for bad tables."""
    records = report.records.values()
    times = Times(
        started=min((record.started for record, _ in records if record.started), default=time.time()),
        ended=max((record.ended for record, _ in records if record.ended), default=None),
        alive=any(state.state in {State.running, State.queued} for _, state in records),
    )
    shown = list(report.shown.values())
    ks = frozenset(k for each in shown for k in each.ks)
    arms = sync_arms(experiment, folder, sweep, ks=ks, times=times)
    metrics = {name for each in shown for name in each.metrics}
    baseline = [run for (_, arm), run in arms.items() if arm == sweep.get("baseline")]
    layout = Layout(
        sweep=str(sweep["name"]),
        suites=tuple(dict.fromkeys(suite for each in shown for suite in each.suites)),
        several_settings=len({entry["setting"] for entry in sweep["runs"]}) > 1,
        axes=axes_of([each.params for each in shown]),
        curves=tuple(name for name in _CURVES if name in metrics),
        metrics=tuple(sorted(metrics)),
        arm_metrics=tuple(sorted({name for run in arms.values() for name in run.data.metrics})),
        baseline_run=baseline[0].info.run_id if len(baseline) == 1 else "",  # there is one per setting
    )
    views = views_of(layout)
    _publish(experiment, views)
    links = [f"[{view.name}]({page(experiment.id, view)})" for view in views]
    sync_report(experiment, folder, sweep, times=times, links=links)
    return views


def _publish(experiment: Experiment, views: Sequence[View]) -> None:
    """Save the views that changed. One that somebody edited in the UI stays until the sweep's own changes."""
    known = experiment.client.experiment_tags(experiment.id)
    before = json.loads(known.get(_VIEWS_TAG, "{}"))
    now = milliseconds(time.time())
    digests, tags = {}, {}
    for view in views:
        digests[view.key] = digest_of(encode(view, created=0, updated=0))
        if before.get(view.key) != digests[view.key] or f"{TAG}{view.key}" not in known:
            tags[f"{TAG}{view.key}"] = encode(view, created=now, updated=now)
    experiment.client.tag_experiment(experiment.id, {**tags, _VIEWS_TAG: json.dumps(digests)})
    for key in set(before) - set(digests):
        experiment.client.untag_experiment(experiment.id, f"{TAG}{key}")
