"""Projects run folders to MLflow. The folders are the truth: a database that is lost is rebuilt from them.

One experiment per sweep, one MLflow run per run folder, one summary run with the sweep's report. Repeating a
sync changes nothing, and an MLflow server that cannot be reached delays the projection and nothing else.
This is the only module that imports mlflow, and only when it has something to do.
"""

from __future__ import annotations

import fcntl
import hashlib
import re
import tempfile
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
from tokensweep.ledger import RunRecord, read_metrics
from tokensweep.mlflow_client import UnreachableError, check_uri, connect
from tokensweep.redact import redact, redactor
from tokensweep.registry import KIND

ADHOC = "tokensweep/adhoc"  # experiment of runs that belong to no sweep
__all__ = ["ADHOC", "SyncReport", "check_uri", "flatten", "legal_name", "sync_all", "sync_runs", "sync_sweep"]

_KEY = "tokensweep.run_id"
_SYNCED_STEP = "tokensweep.synced_step"
_POINTS_PER_BATCH = 1000  # MLflow's limits
_PARAMS_PER_BATCH = 100
_NOTE_CHARACTERS = 8000
_STATUS = {
    State.planned: "SCHEDULED",
    State.queued: "SCHEDULED",
    State.running: "RUNNING",
    State.finished: "FINISHED",
    State.failed: "FAILED",
    State.cancelled: "KILLED",
    State.interrupted: "KILLED",
}


@dataclass(frozen=True, kw_only=True)
class SyncReport:
    """What a sync did. ``delayed`` says why MLflow was not reached, empty when it was."""

    uri: str  # without a password
    runs: int = 0  # MLflow runs that now show the state of their folder
    points: int = 0  # metric values sent
    problems: tuple[str, ...] = ()  # run folders that could not be read
    delayed: str = ""

    def __str__(self) -> str:
        if self.delayed:
            return f"not synced to {self.uri}: {self.delayed}"
        lines = [f"{self.runs} runs in {self.uri}, {self.points} new metric values", *self.problems]
        return "\n".join(lines)


@dataclass(frozen=True, kw_only=True)
class _Source:
    """A run folder as a sweep sees it."""

    run_dir: Path
    name: str
    tags: Mapping[str, str]


def sync_sweep(store: Path, name: str, *, uri: str) -> SyncReport:
    """Project the runs of a sweep and its report. Raises ValueError when there is no such sweep."""
    sweep = read_json(store / "sweeps" / name / "sweep.json")
    sources = _sources(store, name, sweep["runs"])
    queue = look(store, Scheduler())
    with _reporting(uri) as report, _one_at_a_time(store):
        experiment = _Experiment(connect(uri, artifacts=store / "mlartifacts"), name)
        for source in sources:
            report.add(experiment, source, queue)
        _sync_summary(experiment, store / "sweeps" / name, sweep, records=report.records)
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
    )


def sync_runs(store: Path, run_ids: Sequence[str], *, uri: str) -> SyncReport:
    """Project single runs into the experiment ``tokensweep/adhoc``."""
    queue = look(store, Scheduler())
    with _reporting(uri) as report, _one_at_a_time(store):
        experiment = _Experiment(connect(uri, artifacts=store / "mlartifacts"), ADHOC)
        for run_id in run_ids:
            report.add(experiment, _Source(run_dir=store / "runs" / run_id, name=run_id, tags={}), queue)
    return report.result()


def _sources(store: Path, name: str, entries: Sequence[Mapping[str, Any]]) -> list[_Source]:
    """A source per distinct run; a run that several arms share carries all their names."""
    by_run: dict[str, list[Mapping[str, Any]]] = {}
    for entry in entries:
        by_run.setdefault(entry["run_id"], []).append(entry)
    sources = []
    for run_id, own in by_run.items():
        setting, arm = (", ".join(dict.fromkeys(str(e[key]) for e in own)) for key in ("setting", "arm"))
        seed = str(own[0]["seed"])
        tags = {"sweep": name, "setting": setting, "arm": arm, "seed": seed}
        label = f"{setting} {arm} seed {seed}".strip()
        sources.append(_Source(run_dir=store / "runs" / run_id, name=label, tags=tags))
    return sources


class _Report:
    """Collects a SyncReport while the sync goes on."""

    def __init__(self, uri: str) -> None:
        self._uri = redact(uri)
        self._points = 0
        self._problems: list[str] = []
        self._shown = 0
        self.records: dict[str, tuple[RunRecord, RunState]] = {}
        self.delayed = ""

    def add(self, experiment: _Experiment, source: _Source, queue: Queue) -> None:
        """Project one run folder; a damaged one is noted and does not stop the others."""
        try:
            record, state = state_of(source.run_dir, queue)
            if record.attempts or state.state is not State.planned:
                self._points += _sync_run(experiment, source, record, state)
                self._shown += 1
            self.records[record.run_id] = record, state
        except ValueError as error:
            self._problems.append(str(error))

    def result(self) -> SyncReport:
        return SyncReport(
            uri=self._uri,
            runs=self._shown,
            points=self._points,
            problems=tuple(self._problems),
            delayed=self.delayed,
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


class _Experiment:
    """An MLflow experiment with its runs by the key of what they show."""

    def __init__(self, client: Any, name: str) -> None:
        self.client = client
        self.id = client.experiment(name)
        self._runs = {run.data.tags[_KEY]: run for run in client.runs(self.id) if _KEY in run.data.tags}

    def run(self, key: str, *, name: str, start: float) -> Any:
        """The MLflow run of a key, made if missing."""
        if key not in self._runs:
            self._runs[key] = self.client.create_run(
                self.id, start_time=_milliseconds(start), run_name=redact(name), tags={_KEY: key}
            )
        return self._runs[key]


def _sync_run(experiment: _Experiment, source: _Source, record: RunRecord, state: RunState) -> int:
    """Bring one MLflow run to the state of its folder; returns the number of metric values sent."""
    plan = read_json(source.run_dir / "plan.json")
    run = experiment.run(record.run_id, name=source.name, start=record.started or time.time())
    params = {key: str(value) for key, value in flatten(plan["identity"]).items()}
    points = _training_points(source.run_dir, record, since=int(run.data.tags.get(_SYNCED_STEP, 0)))
    final = _final_points(source.run_dir, record, known=run.data.metrics)
    tags = {
        **source.tags,
        "kind": "train",
        "status": state.state.value,
        "attempt": str(max(0, record.attempts - 1)),
        "preempted": str(state.preempted),
        "slurm_job_id": state.job,
        "code_sha": str(plan["code_sha"])[:12],
        "error": state.reason[:_NOTE_CHARACTERS] if state.error_class else "",
        "error_class": state.error_class,
    }
    _log(experiment.client, run, params=params, points=[*points, *final], tags=tags)
    _log(experiment.client, run, tags={_SYNCED_STEP: str(record.durable_step)})  # after its points
    _upload(experiment.client, run, [source.run_dir / "config.json"])
    ended = None if state.state in {State.planned, State.queued, State.running} else record.ended
    _set_status(experiment.client, run, _STATUS[state.state], ended=ended)
    return len(points) + len(final)


def _sync_summary(
    experiment: _Experiment,
    folder: Path,
    sweep: Mapping[str, Any],
    *,
    records: Mapping[str, tuple[RunRecord, RunState]],
) -> None:
    """The run that carries the sweep's report: its tables as files and as the note on its page."""
    text = folder / "report" / "report.md"
    started = min((record.started for record, _ in records.values() if record.started), default=time.time())
    run = experiment.run(f"sweep:{sweep['name']}", name="report", start=started)
    note = redact(text.read_text(encoding="utf-8")) if text.is_file() else ""
    if len(note) > _NOTE_CHARACTERS:
        note = note[: _NOTE_CHARACTERS - 40] + "\n\n... continued in report.md"
    tags = {"kind": "sweep", "sweep": str(sweep["name"]), "scale": str(sweep.get("scale", ""))}
    _log(experiment.client, run, tags={**tags, "mlflow.note.content": note})
    experiment.client.describe(experiment.id, note)
    files = [folder / "sweep.json", text, folder / "report" / "table.csv"]
    _upload(experiment.client, run, [path for path in files if path.is_file()])
    alive = any(state.state in {State.running, State.queued} for _, state in records.values())
    ended = max((record.ended for record, _ in records.values() if record.ended), default=None)
    _set_status(experiment.client, run, "RUNNING" if alive else "FINISHED", ended=ended)


def flatten(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys joined by dots; the key of a component stands for the component itself."""
    flat: dict[str, Any] = {}
    for key, value in node.items():
        name = prefix if key == KIND and prefix else f"{prefix}.{key}" if prefix else str(key)
        flat |= flatten(value, name) if isinstance(value, Mapping) else {name: value}
    return flat


def legal_name(name: str) -> str:
    """A metric or parameter name that MLflow takes: ``pass@8`` becomes ``pass_at_8``."""
    return re.sub(r"[^/\w.\- :]", "_", name.replace("@", "_at_"))


@dataclass(frozen=True)
class _Point:
    name: str
    value: float
    timestamp: int  # milliseconds
    step: int


def _training_points(run_dir: Path, record: RunRecord, *, since: int) -> list[_Point]:
    """Metrics of durable steps that were not sent before: a later attempt computes the others again."""
    return [
        _Point(legal_name(name), float(value), _milliseconds(row["time"]), int(row["step"]))
        for row in read_metrics(run_dir)
        if since < row["step"] <= record.durable_step
        for name, value in row["metrics"].items()
    ]


def _final_points(run_dir: Path, record: RunRecord, *, known: Mapping[str, float]) -> list[_Point]:
    """Evaluation results that MLflow does not show yet, at step 0: it draws those as bars."""
    from tokensweep_analysis.runs import score_run

    scored = score_run(run_dir, record).values()
    values = {legal_name(f"final/{name}"): value for each in scored for name, value in each.metrics().items()}
    now = _milliseconds(time.time())
    return [_Point(name, value, now, 0) for name, value in values.items() if known.get(name) != value]


def _log(
    client: Any,
    run: Any,
    *,
    params: Mapping[str, str] | None = None,
    points: Sequence[_Point] = (),
    tags: Mapping[str, str] | None = None,
) -> None:
    """Send what the MLflow run lacks, within the limits of a batch and without secrets."""
    clean = redactor()
    shown = {legal_name(name): clean(value) for name, value in (params or {}).items()}
    new_params = {name: value for name, value in shown.items() if name not in run.data.params}
    told = {name: clean(value) for name, value in (tags or {}).items()}
    new_tags = {name: value for name, value in told.items() if run.data.tags.get(name, "") != value}
    for batch in _batches(list(new_params.items()), _PARAMS_PER_BATCH):
        client.log(run.info.run_id, params=dict(batch))
    for chunk in _batches(list(points), _POINTS_PER_BATCH):
        client.log(run.info.run_id, metrics=[(p.name, p.value, p.timestamp, p.step) for p in chunk])
    if new_tags:
        client.log(run.info.run_id, tags=new_tags)
    run.data.tags.update(new_tags)


def _batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _upload(client: Any, run: Any, files: Sequence[Path]) -> None:
    """Log text files whose content changed since the last sync, without secrets."""
    tag, clean = "tokensweep.artifacts", redactor()
    texts = {path: path.read_text(encoding="utf-8") for path in files}
    shown = {path: clean(text) for path, text in texts.items()}
    digest = hashlib.sha256("".join(shown.values()).encode()).hexdigest()[:16]
    if run.data.tags.get(tag) == digest:
        return
    with tempfile.TemporaryDirectory() as folder:
        for path, text in shown.items():
            copy = Path(folder) / path.name
            copy.write_text(text, encoding="utf-8")
            client.log_artifact(run.info.run_id, path if text == texts[path] else copy)
    _log(client, run, tags={tag: digest})


def _set_status(client: Any, run: Any, status: str, *, ended: float | None) -> None:
    end_time = _milliseconds(ended) if ended else None
    if run.info.status != status or (end_time is not None and run.info.end_time != end_time):
        client.set_status(run.info.run_id, status, end_time=end_time)


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)
