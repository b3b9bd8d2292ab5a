"""One training run as an MLflow run: identity, curves, results, state and answers. For the syncer."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokensweep.cluster.reconcile import RunState, State
from tokensweep.identity import read_json
from tokensweep.ledger import RunRecord, read_metrics
from tokensweep.mlflow_runs import (
    COLOR,
    NOTE_CHARACTERS,
    Experiment,
    Point,
    bars,
    legal_name,
    log,
    milliseconds,
    set_status,
    upload,
)
from tokensweep.mlflow_tables import sync_questions
from tokensweep.redact import redactor
from tokensweep.registry import KIND

if TYPE_CHECKING:
    from tokensweep_analysis.runs import Scored

_SYNCED_STEP = "tokensweep.synced_step"
_STATUS = {
    State.planned: "SCHEDULED",
    State.queued: "SCHEDULED",
    State.running: "RUNNING",
    State.finished: "FINISHED",
    State.failed: "FAILED",
    State.cancelled: "KILLED",
    State.pruned: "KILLED",  # with a tag that says so
    State.interrupted: "KILLED",
}


@dataclass(frozen=True, kw_only=True)
class Source:
    """A run folder as a sweep sees it. ``labels`` become tags, and parameters too, which charts can show."""

    run_dir: Path
    name: str
    labels: Mapping[str, str] = field(default_factory=dict)  # setting and arm
    tags: Mapping[str, str] = field(default_factory=dict)
    results: Mapping[str, float] = field(default_factory=dict)  # shown beside the run's own
    color: str = ""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What MLflow shows of a run after a sync."""

    points: int  # metric values that were sent
    params: Mapping[str, str]
    metrics: frozenset[str]
    suites: tuple[str, ...]  # that it is evaluated on
    ks: frozenset[int]  # the k that its evaluations were asked for


def sync_training_run(experiment: Experiment, source: Source, record: RunRecord, state: RunState) -> Shown:
    """Bring one MLflow run to the state of its folder. Raises ValueError for a damaged folder."""
    from tokensweep_analysis.runs import score_run

    plan = read_json(source.run_dir / "plan.json")
    method = read_json(source.run_dir / "config.json")["method"]
    scored = score_run(source.run_dir, record)
    _drop_relabelled(experiment, record.run_id, source.labels)
    run = experiment.run(record.run_id, name=source.name, start=record.started or time.time())
    params = {key: str(value) for key, value in flatten(plan["identity"]).items()} | {**source.labels}
    points = _training_points(source.run_dir, record, since=int(run.data.tags.get(_SYNCED_STEP, 0)))
    final = bars(_results(plan, record, scored) | {**source.results}, known=run.data.metrics)
    tags = {
        **source.labels,
        **source.tags,
        "kind": "train",
        "method": method["name"],
        "paper": method["paper"],
        "evidence": method["evidence"],
        "applies_to": ", ".join(method.get("applies_to", ())),  # a key that older runs lack
        "status": state.state.value,
        "attempt": str(max(0, record.attempts - 1)),
        "preempted": str(state.preempted),
        "slurm_job_id": state.job,
        "code_sha": str(plan["code_sha"])[:12],
        "error": state.reason[:NOTE_CHARACTERS] if state.error_class else "",
        "error_class": state.error_class,
        COLOR: run.data.tags.get(COLOR, source.color),  # a colour that somebody chose in the UI stays
    }
    log(experiment.client, run, params=params, points=[*points, *final], tags=tags)
    log(experiment.client, run, tags={_SYNCED_STEP: str(record.durable_step)})  # after its points
    upload(experiment.client, run, [source.run_dir / "config.json"])
    sync_questions(experiment.client, run, source.run_dir, scored)
    ended = None if state.state in {State.planned, State.queued, State.running} else record.ended
    set_status(experiment.client, run, _STATUS[state.state], ended=ended)
    return Shown(
        points=len(points) + len(final),
        params={legal_name(key): value for key, value in params.items()},
        metrics=frozenset(run.data.metrics),
        suites=tuple(dict.fromkeys(str(entry["suite"]) for entry in plan["evals"])),
        ks=frozenset(int(k) for entry in plan["evals"] for k in entry["k"]),
    )


def flatten(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys joined by dots; the key of a component stands for the component itself."""
    flat: dict[str, Any] = {}
    for key, value in node.items():
        name = prefix if key == KIND and prefix else f"{prefix}.{key}" if prefix else str(key)
        flat |= flatten(value, name) if isinstance(value, Mapping) else {name: value}
    return flat


def axes_of(runs: Sequence[Mapping[str, str]]) -> tuple[str, ...]:
    """Parameters that every run has and in which some differ, those of the method first.

    Parallel coordinates leave out runs that lack one. Seeds are replicates and no axis, and neither is what
    changes with the setting only, which is an axis itself.
    """
    if not runs:
        return ()
    common = [name for name in runs[0] if all(name in run for run in runs)]
    vary = [name for name in common if name != "seed" and len({run[name] for run in runs}) > 1]
    settings = {run.get("setting", "") for run in runs}
    own = [
        name for name in vary if len({(run.get("setting", ""), run[name]) for run in runs}) > len(settings)
    ]
    return tuple(sorted(own, key=lambda name: not name.startswith("method")))


def _drop_relabelled(experiment: Experiment, key: str, labels: Mapping[str, str]) -> None:
    """Delete an MLflow run whose arm has another name now: it is made again from its folder."""
    if key in experiment.keys(key):
        clean, params = redactor(), experiment.known(key).data.params
        if any(params.get(name, clean(value)) != clean(value) for name, value in labels.items()):
            experiment.drop(key)


def _training_points(run_dir: Path, record: RunRecord, *, since: int) -> list[Point]:
    """Metrics of durable steps that were not sent before: a later attempt computes the others again."""
    return [
        Point(legal_name(name), float(value), milliseconds(row["time"]), int(row["step"]))
        for row in read_metrics(run_dir)
        if since < row["step"] <= record.durable_step
        for name, value in row["metrics"].items()
    ]


def _results(plan: Mapping[str, Any], record: RunRecord, scored: Mapping[str, Scored]) -> dict[str, float]:
    """Evaluation results under ``final/<suite>/...``, and ``pooled/...``: their mean over all suites.

    Every suite weighs the same. There is nothing pooled before the last suite is evaluated.
    """
    by_suite = {each.suite: each.metrics() for each in scored.values()}
    values = {f"final/{name}": value for metrics in by_suite.values() for name, value in metrics.items()}
    if not by_suite or set(by_suite) != {entry["suite"] for entry in plan["evals"]}:
        return values
    bare = [
        {name.removeprefix(f"{suite}/"): value for name, value in metrics.items()}
        for suite, metrics in by_suite.items()
    ]
    common = [name for name in bare[0] if all(name in each for each in bare)]
    pooled = {f"pooled/{name}": sum(each[name] for each in bare) / len(bare) for name in common}
    return {**values, **pooled, "final/seconds": record.seconds}
