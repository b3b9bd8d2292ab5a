"""The MLflow pages of a synced sweep, by what people look for."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlencode

from tokensweep.mlflow_client import connect
from tokensweep.sync import sync_sweep

_TRAINING = "workflowType=machine_learning"  # MLflow's pages for training, not those for prompts


@dataclass(frozen=True, kw_only=True)
class Pages:
    """Addresses on a server that shows a sweep."""

    server: str
    experiment: str
    runs: dict[str, str]  # MLflow ids by the name of the run
    view: str  # what a sync prints

    def saved(self, key: str, mode: str) -> str:
        """A saved view as a table (TABLE), with charts (CHART) or as answers side by side (ARTIFACT)."""
        return self._runs({"viewStateShareKey": key, "compareRunsMode": mode})

    def every_run(self) -> str:
        """The runs page as it is without a view."""
        return self._runs({})

    def compare(self, *names: str) -> str:
        """The page that compares runs of these names."""
        ids = json.dumps([self.runs[name] for name in names], separators=(",", ":"))
        experiments = json.dumps([self.experiment])
        return f"{self.server}/#/compare-runs?runs={quote(ids)}&experiments={quote(experiments)}&{_TRAINING}"

    def run(self, name: str) -> str:
        """The page of the run of this name."""
        return f"{self.server}/#/experiments/{self.experiment}/runs/{self.runs[name]}?{_TRAINING}"

    def artefact(self, name: str, file: str) -> str:
        """A file of the run of this name."""
        run = f"{self.server}/#/experiments/{self.experiment}/runs/{self.runs[name]}"
        return f"{run}/artifacts/{file}?{_TRAINING}"

    def _runs(self, query: dict[str, str]) -> str:
        return f"{self.server}/#/experiments/{self.experiment}/runs?{urlencode(query)}&{_TRAINING}"


def show(store: Path, sweep: str, *, server: str) -> Pages:
    """Sync a sweep to a server; its pages. Raises AssertionError when something was not shown."""
    report = sync_sweep(store, sweep, uri=server)
    assert not report.delayed, report.delayed
    assert not report.problems, report.problems
    client = connect(server, artifacts=Path("unused"))
    experiment = client.experiment(sweep)
    runs = {run.info.run_name: run.info.run_id for run in client.runs(experiment)}
    return Pages(server=server, experiment=experiment, runs=runs, view=report.view)
