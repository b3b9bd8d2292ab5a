"""What a sweep's report says, as MLflow runs: one with its files and verdicts, one per arm with its numbers.

The report's files are the source; those that are not there yet are left out.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokensweep.mlflow_runs import (
    COLOR,
    NOTE,
    NOTE_CHARACTERS,
    Experiment,
    bars,
    color_of,
    legal_name,
    log,
    set_status,
    upload,
)
from tokensweep.mlflow_view import artefact_page
from tokensweep.redact import redact
from tokensweep_analysis.claims import POOLED, Verdict

RANKING = "ranking.csv"
CONTRASTS = "contrasts.csv"
CLAIMS = "claims.csv"
_MEAN_COLUMNS = (
    *("setting", "arm", "benchmark", "metric"),
    *("value", "low", "high", "runs", "planned", "estimand"),
)
_DIFFERENCE_COLUMNS = (
    *("setting", "arm", "benchmark", "metric"),
    *("difference", "low", "high", "p", "p_holm"),
)
_TEXT, _PAGE = "report.md", "report.html"
_FILES = (_TEXT, _PAGE, RANKING, CONTRASTS, CLAIMS)
_ARM = "arm:"  # begins the key of a summary run
_VERDICT = "verdict."  # begins the tag of a claim
_DRAWN = re.compile(
    r"(?:pass_at|maj_at|pass_hat|weighted_maj_at)_(\d+)"
)  # metrics that there is one of for each k
_DIGITS = 5  # significant ones
_CONTINUED = "\n\n... continued in report.md"


@dataclass(frozen=True, kw_only=True)
class Times:
    """When the runs of a sweep began and ended, in seconds, and whether some are still at work."""

    started: float
    ended: float | None
    alive: bool

    @property
    def status(self) -> str:
        """The state of an MLflow run that stands for the sweep."""
        return "RUNNING" if self.alive else "FINISHED"


def sync_report(
    experiment: Experiment, folder: Path, sweep: Mapping[str, Any], *, times: Times, links: Sequence[str]
) -> None:
    """The run that carries the report of a sweep: files, verdicts, and the report as its note.

    The note of the experiment stands above the runs, so it has only verdicts and links. ``links`` are
    Markdown links to the views of the sweep. Raises ValueError for a claims file that is none.
    """
    report = folder / "report"
    name = str(sweep["name"])
    run = experiment.run(f"sweep:{name}", name="report", start=times.started)
    claims = _read(report / CLAIMS, needs=("id", "setting", "verdict"))
    shown = _PAGE if (report / _PAGE).is_file() else _TEXT
    head = _head(claims, page=artefact_page(experiment.id, run.info.run_id, shown), links=links)
    note = redact(_note(report / _TEXT, head=head))
    verdicts = dict(_verdicts(claims))
    gone = {tag: "" for tag in run.data.tags if tag.startswith(_VERDICT) and tag not in verdicts}
    tags = {"kind": "sweep", "sweep": name, "scale": str(sweep.get("scale", "")), NOTE: note}
    log(experiment.client, run, tags={**tags, **gone, **verdicts})
    experiment.client.tag_experiment(experiment.id, {NOTE: redact(head) if note else ""})
    files = [folder / "sweep.json", *(report / file for file in _FILES)]
    upload(experiment.client, run, [path for path in files if path.is_file()])
    set_status(experiment.client, run, times.status, ended=times.ended)


def sync_arms(
    experiment: Experiment, folder: Path, sweep: Mapping[str, Any], *, ks: frozenset[int], times: Times
) -> dict[tuple[str, str], Any]:
    """A summary run per setting and arm, with means, intervals, differences and p values as bars.

    ``ks`` are the k that evaluations were asked for: there is a metric for each, not for every k that can be
    computed. Returns the MLflow runs by setting and arm. Raises ValueError for tables that are none.
    """
    if not (folder / "report" / RANKING).is_file():
        return {}
    arms = read_arms(folder / "report", ks=ks)
    prefix = f"{_ARM}{sweep['name']}:"
    _drop_untrue(experiment, prefix, {_key(prefix, *cell): summary for cell, summary in arms.items()})
    several = len({setting for setting, _ in arms}) > 1
    common = {"kind": "arm", "sweep": str(sweep["name"]), "baseline": str(sweep.get("baseline") or "")}
    names = list(dict.fromkeys(entry["arm"] for entry in sweep["runs"]))
    runs = {}
    for (setting, arm), summary in arms.items():
        name = f"{setting} {summary.title(arm)}" if several else summary.title(arm)
        run = experiment.run(_key(prefix, setting, arm), name=name, start=times.started)
        labels = {"setting": setting, "arm": arm}
        about = {"runs": f"{summary.runs}/{summary.planned}", "estimand": summary.estimand}
        about[COLOR] = run.data.tags.get(COLOR, color_of(names.index(arm)))
        points = bars(summary.metrics, known=run.data.metrics)
        log(experiment.client, run, params=labels, points=points, tags={**common, **labels, **about})
        set_status(experiment.client, run, times.status, ended=times.ended)
        runs[setting, arm] = run
    return runs


@dataclass(kw_only=True)
class Summary:
    """An arm in one setting, as the report's tables have it."""

    runs: str = ""
    planned: str = ""
    estimand: str = ""
    metrics: dict[str, float] = field(default_factory=dict)

    def title(self, arm: str) -> str:
        """The name of the arm with what its numbers are."""
        return f"{arm} (1 run)" if self.runs == "1" else f"{arm} (mean of {self.runs})"


def read_arms(report: Path, *, ks: frozenset[int]) -> dict[tuple[str, str], Summary]:
    """Numbers by setting and arm, under the names that MLflow shows.

    ``ops/pass_at_1``, its ends ``ops/pass_at_1/ci_low`` and ``.../ci_high``, and against the baseline
    ``difference/ops/pass_at_1`` with its ends, ``p/...`` and ``p_holm/...``: names that sort well.
    """
    arms: dict[tuple[str, str], Summary] = {}
    for row in _with_pooled(_read(report / RANKING, needs=_MEAN_COLUMNS)):
        arm = arms.setdefault((row["setting"], row["arm"]), Summary())
        arm.runs, arm.planned = row["runs"] or arm.runs, row["planned"] or arm.planned
        arm.estimand = arm.estimand or row["estimand"]
        if _asked(row["metric"], ks):
            name = f"{row['benchmark']}/{row['metric']}"
            arm.metrics |= _numbers(row, {name: "value", **_ends(name)})
    for row in _with_pooled(_read(report / CONTRASTS, needs=_DIFFERENCE_COLUMNS)):
        if (row["setting"], row["arm"]) in arms and _asked(row["metric"], ks):
            own = f"{row['benchmark']}/{row['metric']}"
            name = f"difference/{own}"
            numbers = {name: "difference", **_ends(name), f"p/{own}": "p", f"p_holm/{own}": "p_holm"}
            arms[row["setting"], row["arm"]].metrics |= _numbers(row, numbers)
    return arms


def _with_pooled(rows: Sequence[dict[str, str]]) -> Iterator[dict[str, str]]:
    """The rows, and those of a setting with one benchmark again as pooled: the mean over one is its own.

    The report leaves them out; with them, arms of all settings stand in the same columns.
    """
    benchmarks: dict[str, set[str]] = {}
    for row in rows:
        benchmarks.setdefault(row["setting"], set()).add(row["benchmark"])
    for row in rows:
        yield row
        if len(benchmarks[row["setting"]]) == 1:
            yield {**row, "benchmark": POOLED}


def _key(prefix: str, setting: str, arm: str) -> str:
    return f"{prefix}{setting}:{arm}"


def _drop_untrue(experiment: Experiment, prefix: str, arms: Mapping[str, Summary]) -> None:
    """Delete summary runs of arms that the sweep has no longer, or with numbers that the report took back."""
    for key in experiment.keys(prefix):
        shown = experiment.known(key).data.metrics
        if key not in arms or set(shown) - {legal_name(name) for name in arms[key].metrics}:
            experiment.drop(key)


def _ends(name: str) -> dict[str, str]:
    return {f"{name}/ci_low": "low", f"{name}/ci_high": "high"}


def _numbers(row: Mapping[str, str], columns: Mapping[str, str]) -> dict[str, float]:
    """The columns that hold a number, by the name to show; an empty cell is no number.

    With the digits that people read: MLflow shows all that it gets, and the files have them.
    """
    known = {name: float(row[column]) for name, column in columns.items() if row[column] != ""}
    return {name: float(f"{value:.{_DIGITS}g}") for name, value in known.items() if math.isfinite(value)}


def _asked(metric: str, ks: frozenset[int]) -> bool:
    drawn = _DRAWN.fullmatch(metric)
    return drawn is None or int(drawn[1]) in ks | {1}


def _read(path: Path, *, needs: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a table, none when there is no such file."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        lacks = [name for name in needs if name not in (rows.fieldnames or ())]
        if lacks:
            raise ValueError(
                f"{path} must have the columns {', '.join(needs)}, but lacks {', '.join(lacks)}: "
                "write the report again"
            )
        return list(rows)


def _verdicts(claims: Sequence[Mapping[str, str]]) -> Iterator[tuple[str, str]]:
    """A tag per claim, and per setting where a claim is judged in several."""
    for claim in claims:
        several = sum(other["id"] == claim["id"] for other in claims) > 1
        name = f"{claim['id']}.{claim['setting']}" if several and claim["setting"] else claim["id"]
        yield f"{_VERDICT}{name}", claim["verdict"]


def _head(claims: Sequence[Mapping[str, str]], *, page: str, links: Sequence[str]) -> str:
    """Markdown in a few lines, the first of which is all that MLflow shows until one asks for more.

    A link to the report and how many claims came to which verdict; links to the views; the claims.
    """
    found: dict[str, list[str]] = {verdict.value: [] for verdict in Verdict}
    for tag, verdict in _verdicts(claims):
        found.setdefault(verdict, []).append(tag.removeprefix(_VERDICT))
    counted = [f"{len(names)} {verdict}" for verdict, names in found.items() if names]
    listed = [f"- {verdict}: {', '.join(names)}" for verdict, names in found.items() if names]
    first = f"[Report]({page}), verdicts: {', '.join(counted) or 'none'}"
    return "\n".join([first, "", f"Views: {' | '.join(links)}", *(["", *listed] if listed else [])])


def _note(text: Path, *, head: str) -> str:
    """Markdown within MLflow's limit: the head, and as much of the report as fits."""
    if not text.is_file():
        return ""
    note = f"{head}\n\n{text.read_text(encoding='utf-8')}"
    if len(note) > NOTE_CHARACTERS:
        note = note[: NOTE_CHARACTERS - len(_CONTINUED)] + _CONTINUED
    return note
