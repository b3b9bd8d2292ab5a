"""Saved views of the MLflow runs page: filter, columns, order, groups and charts of a sweep, under a name.

MLflow keeps a view as a tag of the experiment. The format is internal to its UI, so it lives here alone, and
tests/ui opens every view in a browser with the MLflow that is installed. Read from the UI of 3.17.2: a tag
``mlflow.sharedViewState.<key>`` holds an envelope with name, times in milliseconds and the state as JSON,
packed with zlib and base64.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit, urlunsplit

TAG = "mlflow.sharedViewState."
_PACKED = "deflate;"
_DEFAULT_SERVER = "http://127.0.0.1:5000"  # where `mlflow server` listens when nothing else is said
_WORKFLOW = "machine_learning"  # otherwise a fresh browser shows the pages for traces and prompts
_UNGROUPED_SECTION = "Model metrics"  # MLflow's section of metrics without a slash
_MAX_AXES = 5  # of more, the names lie on each other
_NAME_COLUMN = "attributes.`Run Name`"
_BUILT_IN_COLUMNS = ("runDateAndNestInfo", "duration")
# Widths in pixels. MLflow takes them for columns in columnOrder only, and gives others 100.
_NAME_WIDTH = 270
_LABEL_WIDTH = 120
_NARROWEST = 80
_PIXELS_PER_LETTER = 7.5
_PADDING = 44  # and the arrow of the column that is sorted by


@dataclass(frozen=True, kw_only=True)
class View:
    """A named view; ``key`` stands in its URL, ``mode`` is what the page opens with."""

    key: str
    name: str
    mode: str  # TABLE | CHART | ARTIFACT
    state: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What the runs of a sweep have, as far as views show it. Names are those of MLflow."""

    sweep: str
    suites: tuple[str, ...]
    several_settings: bool = False
    axes: tuple[str, ...] = ()  # parameters in which runs differ, all runs have them
    curves: tuple[str, ...] = ()  # training metrics to draw
    metrics: tuple[str, ...] = ()  # every metric of the training runs
    arm_metrics: tuple[str, ...] = ()  # every metric of the summary runs, empty without them
    baseline_run: str = ""  # MLflow id of the summary run that all others may be compared with

    @property
    def labels(self) -> tuple[str, ...]:
        """The tags that name an arm."""
        return ("setting", "arm") if self.several_settings else ("arm",)

    @property
    def group(self) -> str:
        """The one tag to group by: with two, MLflow writes both names in front of every arm."""
        return "group" if self.several_settings else "arm"


def views_of(layout: Layout) -> tuple[View, ...]:
    """The views of a sweep: the arms' means, every run, and the summary runs where there are any."""
    views = [_by_arm(layout), _every_run(layout)]
    return tuple([*views, _summaries(layout)] if layout.arm_metrics else views)


def encode(view: View, *, created: int, updated: int) -> str:
    """The value of the tag of a view; times in milliseconds."""
    packed = base64.b64encode(zlib.compress(_json(view.state).encode(), 9)).decode()
    return _json({"name": view.name, "createdAt": created, "updatedAt": updated, "state": _PACKED + packed})


def decode(value: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Envelope and state of a tag. Raises ValueError for another format."""
    try:
        envelope = json.loads(value)
        state = envelope["state"]
        if state.startswith(_PACKED):
            state = zlib.decompress(base64.b64decode(state.removeprefix(_PACKED))).decode()
        return envelope, json.loads(state)
    except (KeyError, TypeError, AttributeError, zlib.error, ValueError) as error:
        raise ValueError(
            f"a saved view must be an envelope with name, times and state, got {value[:40]!r}"
        ) from error


def view_url(uri: str, experiment_id: str, view: View) -> str:
    """Where a browser shows the view. A database has no address: it is that of a server on this machine."""
    parts = urlsplit(uri) if uri.startswith("http") else urlsplit(_DEFAULT_SERVER)
    server = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])).rstrip("/")
    return f"{server}/{page(experiment_id, view)}"


def page(experiment_id: str, view: View) -> str:
    """The page of a view, for a link within MLflow."""
    query = urlencode(
        {"viewStateShareKey": view.key, "compareRunsMode": view.mode, "workflowType": _WORKFLOW}
    )
    return f"#/experiments/{experiment_id}/runs?{query}"


def artefact_page(experiment_id: str, run_id: str, file: str) -> str:
    """The page of a file of a run, for a link within MLflow."""
    return f"#/experiments/{experiment_id}/runs/{run_id}/artifacts/{file}?workflowType={_WORKFLOW}"


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, separators=(",", ":"), sort_keys=True)


def _by_arm(layout: Layout) -> View:
    """Training runs grouped by arm: means over seeds, in the table and in the charts."""
    charts = _Charts({"results": 2, "training": 2}, known=layout.metrics)
    for metric in _main_metrics(layout):
        charts.add("results", "BAR", metricKey=metric)
    for metric in layout.curves:
        charts.add("training", "LINE", metricKey=metric, selectedMetricKeys=[metric])
    state = _state(
        layout,
        kind="train",
        order=_pooled("pass_at_1"),
        columns=_run_columns(layout),
        charts=charts,
        groupBy={
            "aggregateFunction": "average",
            "groupByKeys": [{"mode": "tag", "groupByData": layout.group}],
        },
    )
    return View(key="tokensweep", name=f"tokensweep: {layout.sweep}", mode="CHART", state=state)


def _every_run(layout: Layout) -> View:
    """Training runs one by one: what differs between them, and their answers question by question."""
    charts = _Charts({"axes": 1, "results": 2, "differences": 1, "training": 2}, known=layout.metrics)
    axes = list(dict.fromkeys((*layout.labels, *layout.axes)))[:_MAX_AXES]
    ends = [m for m in (_pooled("pass_at_1"), _pooled("length_mean")) if m in layout.metrics]
    charts.add("axes", "PARALLEL", selectedParams=axes, selectedMetrics=ends, showAllRuns=True)
    for metric in _main_metrics(layout):
        charts.add("results", "BAR", metricKey=metric)
    charts.difference("differences", groups=["Parameters"])
    for metric in layout.curves:
        charts.add("training", "LINE", metricKey=metric, selectedMetricKeys=[metric])
    columns = _run_columns(layout)
    state = _state(layout, kind="train", order=_pooled("pass_at_1"), columns=columns, charts=charts)
    name = f"tokensweep: {layout.sweep}, every run"
    return View(key="tokensweep-runs", name=name, mode="CHART", state=state)


def _summaries(layout: Layout) -> View:
    """Summary runs: means with their intervals and p values."""
    known = set(layout.arm_metrics)
    places = [place for place in ("pooled", *layout.suites) if f"{place}/pass_at_1" in known]
    shown = [
        name
        for place in places
        for name in (
            f"{place}/pass_at_1",
            f"{place}/pass_at_1/ci_low",
            f"{place}/pass_at_1/ci_high",
            f"difference/{place}/pass_at_1",
            f"p_holm/{place}/pass_at_1",
        )
        if name in known
    ]
    charts = _Charts({"results": 2, "differences": 1}, known=layout.arm_metrics)
    for metric in (f"{prefix}{place}/pass_at_1" for place in places for prefix in ("", "difference/")):
        if metric in known:
            charts.add("results", "BAR", metricKey=metric)
    charts.difference("differences", groups=["Model metrics"], baseline=layout.baseline_run)
    state = _state(
        layout,
        kind="arm",
        order=f"{places[0]}/pass_at_1" if places else "",
        columns=[_column("tags", "runs"), *(_column("metrics", name) for name in shown)],
        charts=charts,
    )
    name = f"tokensweep: {layout.sweep}, means and intervals"
    return View(key="tokensweep-arms", name=name, mode="TABLE", state=state)


def _state(
    layout: Layout, *, kind: str, order: str, columns: Sequence[str], charts: _Charts, **more: Any
) -> dict[str, Any]:
    """The state of the runs page. What it leaves out has MLflow's defaults."""
    return {
        "searchFilter": f'tags.kind = "{kind}"',
        "orderByKey": _column("metrics", order) if order else "attributes.start_time",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "selectedColumns": list(columns),
        "columnOrder": [_NAME_COLUMN, *columns, *_BUILT_IN_COLUMNS],
        "columnWidths": {_NAME_COLUMN: _NAME_WIDTH, **{column: _width(column) for column in columns}},
        "runsHiddenMode": "SHOW_ALL",  # the default draws ten runs
        "compareRunCharts": charts.cards,
        "compareRunSections": charts.sections,
        "isAccordionReordered": True,  # otherwise MLflow sorts sections by name
        "hideEmptyCharts": True,
        **more,
    }


class _Charts:
    """Cards in sections. Sections that MLflow would open for other metrics are there, but closed."""

    def __init__(self, sections: Mapping[str, int], *, known: Sequence[str]) -> None:
        """``sections`` are cards per row by name, ``known`` the metrics of the runs."""
        others = {name.rpartition("/")[0] or _UNGROUPED_SECTION for name in known}
        open_ = [
            {**_section(name), "display": True, "columns": columns} for name, columns in sections.items()
        ]
        closed = [{**_section(name), "display": False} for name in sorted(others - set(sections))]
        self.sections = [*open_, *closed]
        self.cards: list[dict[str, Any]] = []

    def add(self, section: str, kind: str, **fields: Any) -> None:
        """Put a card at the end of a section."""
        self.cards.append(
            {
                "uuid": f"chart-{len(self.cards)}",
                "type": kind,
                "metricSectionId": f"section-{section}",
                "runsCountToCompare": 1000,  # MLflow's default is 10
                "deleted": False,
                "isGenerated": False,
                **fields,
            }
        )

    def difference(self, section: str, *, groups: Sequence[str], baseline: str = "") -> None:
        """A table of what differs between runs, counted from the ``baseline`` run."""
        self.add(
            section,
            "DIFFERENCE",
            compareGroups=list(groups),
            chartName="Runs difference view",
            showChangeFromBaseline=bool(baseline),
            showDifferencesOnly=True,
            baselineColumnUuid=baseline,
        )


def _section(name: str) -> dict[str, Any]:
    return {"uuid": f"section-{name}", "name": name, "isReordered": False}


def _width(column: str) -> int:
    """Pixels in which the header of a column can be read, and the name of an arm below it."""
    name = column.partition("`")[2].rstrip("`")
    if name in ("setting", "arm"):
        return _LABEL_WIDTH
    return max(_NARROWEST, round(_PIXELS_PER_LETTER * len(name)) + _PADDING)


def _run_columns(layout: Layout) -> list[str]:
    lengths = [f"final/{suite}/length_mean" for suite in layout.suites]
    numbers = [*_main_metrics(layout), *(name for name in lengths if name in layout.metrics)]
    seconds = ["final/seconds"] if "final/seconds" in layout.metrics else []
    tags = [_column("tags", name) for name in (*layout.labels, "seed", "status")]
    return [*tags, *(_column("metrics", name) for name in [*numbers, *seconds])]


def _main_metrics(layout: Layout) -> list[str]:
    names = [_pooled("pass_at_1"), *(f"final/{suite}/pass_at_1" for suite in layout.suites)]
    return [name for name in names if name in layout.metrics]


def _pooled(metric: str) -> str:
    return f"pooled/{metric}"


def _column(kind: str, name: str) -> str:
    return f"{kind}.`{name}`"
