"""A search on this machine as a user runs it: stopped in the middle, given again, read, and made larger."""

from __future__ import annotations

import json
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.slurm.sweeping import Sweeping, until, waiting_at_the_gate

from tokensweep.ledger import read_run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # mlflow keeps its connections
]

_NAME = "local"
_SEARCH = (
    *("hydra/sweeper=optuna_pull", "hydra.sweeper.trials=2", "optim.lr=1e-3,1e-2,1e-1"),
    *("seed=0,1", "eval.held_out=4", "jobs=2"),
)


class Lab:
    """A search of two trials with two seeds each that was stopped by Ctrl-C and then given again."""

    def __init__(self, sweeping: Sweeping) -> None:
        self.sweeping = sweeping
        self.study = sweeping.store / "sweeps" / _NAME / "search"
        sweeping.close()
        process = sweeping.start(*sweeping.training(_NAME, *_SEARCH))
        self.stopped_runs = until(self._two_training, what="two trials that train")
        for run_dir in self.stopped_runs:
            waiting_at_the_gate(run_dir)
        process.send_signal(signal.SIGINT)
        sweeping.open()
        self.stopped, _ = process.communicate(timeout=300)
        self.stopped_code = process.returncode
        self.after_stop = [read_run(run_dir) for run_dir in self.stopped_runs]
        self.told = sweeping.train(_NAME, *_SEARCH, patience_s=900)

    def _two_training(self) -> list[Path]:
        paths = [path.parent for path in (self.sweeping.store / "runs").glob("*/plan.json")]
        found = [path for path in paths if read_run(path).status == "running"]
        return found if len(found) == 2 else []

    def trials(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = json.loads((self.study / "trials.json").read_text())["trials"]
        return rows


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with tempfile.TemporaryDirectory(prefix="store-") as folder:
        sweeping = Sweeping(Path(folder) / "store")
        sweeping.store.mkdir()
        yield Lab(sweeping)


def test_ctrl_c_stops_all_processes_and_says_how_to_go_on(lab: Lab) -> None:
    assert lab.stopped_code == 130
    assert "stopped; the same command goes on where the trials were" in lab.stopped
    assert {record.status for record in lab.after_stop} == {"interrupted"}
    assert all(record.durable_step >= 2 for record in lab.after_stop)


def test_the_same_command_goes_on_with_the_same_trials(lab: Lab) -> None:
    rows = lab.trials()
    assert [row["state"] for row in rows] == ["complete", "complete"]  # none failed, none was asked anew
    first = {row["runs"]["0"] for row in rows}
    assert {run_dir.name for run_dir in lab.stopped_runs} <= first | {row["runs"]["1"] for row in rows}
    for run_dir in lab.stopped_runs:
        assert read_run(run_dir).attempts == 2


def test_a_trial_s_value_is_the_mean_over_its_seeds(lab: Lab) -> None:
    for row in lab.trials():
        values = []
        for run_id in row["runs"].values():
            (path,) = (lab.sweeping.store / "runs" / run_id).glob("evals/*/eval.json")
            values.append(json.loads(path.read_text())["summary"]["avg"])
        assert len(values) == 2
        assert row["values"] == [pytest.approx(sum(values) / 2)]


def test_the_report_is_of_trials(lab: Lab) -> None:
    assert "2 trials planned, 2 told" in lab.told
    assert "optim.lr" in lab.told
    status = lab.sweeping.status(_NAME)
    assert status["counts"] == {"finished": 4}
    assert (status["search"]["complete"], status["search"]["elements"]) == (2, 0)
    assert "search: 2 of 2 trials told" in lab.sweeping.command("status", _NAME)


def test_more_trials_end_with_the_space(lab: Lab) -> None:
    more = [text.replace("trials=2", "trials=5") for text in _SEARCH]
    told = lab.sweeping.train(_NAME, *more, code=1, patience_s=900)
    rows = [row for row in lab.trials() if row["counted"]]
    assert sorted(row["params"]["optim.lr"] for row in rows) == [1e-3, 1e-2, 1e-1]
    assert "the space has only 3 settings" in told


def test_fewer_trials_are_refused(lab: Lab) -> None:
    assert "a search can only grow" in lab.sweeping.train(
        _NAME, *(text.replace("trials=2", "trials=1") for text in _SEARCH), code=2
    )


def test_arms_and_trials_do_not_share_a_sweep(lab: Lab) -> None:
    said = "is a search in"
    assert said in lab.sweeping.train(_NAME, "optim.lr=1e-3,1e-2", "eval.held_out=4", code=2)
    (folder := lab.sweeping.store / "sweeps" / "arms").mkdir()
    (folder / "sweep.json").write_text("{}")
    assert "is a sweep in" in lab.sweeping.train("arms", *_SEARCH, code=2)


def test_words_about_a_search_may_change(lab: Lab) -> None:
    path = lab.study / "search.json"
    node = json.loads(path.read_text())
    path.write_text(json.dumps({**node, "search": {**node["search"], "note": "worded better"}}))
    told = lab.sweeping.command("plan", *lab.sweeping.training(_NAME, *_SEARCH))
    assert "0 to do" in told


def test_a_plan_says_what_is_searched_and_runs_nothing(lab: Lab) -> None:
    before = sorted((lab.sweeping.store / "runs").iterdir())
    told = lab.sweeping.command("plan", *lab.sweeping.training("another", *_SEARCH))
    assert "optim.lr: one of 0.001, 0.01, 0.1" in told
    assert "at most 4 runs of 6 steps" in told
    assert sorted((lab.sweeping.store / "runs").iterdir()) == before
    assert not (lab.sweeping.store / "sweeps" / "another").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["hydra.sweeper.sampler=best"], "hydra.sweeper.sampler must be one of random, tpe"),
        (["hydra.sweeper.pruner=asha", "hydra.sweeper.warmup=6"], "nothing can be pruned"),
        (["hydra.sweeper.pruner=asha", "hydra.sweeper.objective=[accuracy,tokens]"], "no look at its curve"),
        (["optim.beta1=interval(0,2)", "batch.group_size=-1,4"], "batch.group_size must be at least 1"),
        (["optim.momentum=interval(0,1)"], "no key or group 'optim.momentum'"),
        (["hydra.sweeper.when={optim.eps: {optim.lr: 1e-3}}"], "optim.eps is not searched"),
        (["hydra.sweeper.when={optim.lr: {optim.eps: 1e-3}}"], "'when' must name a key with choices"),
        (["hydra.sweeper.when=3"], "hydra.sweeper.when must be a mapping"),
        (["hydra.sweeper.trails=2"], "did you mean hydra.sweeper.trials"),
        (["eval.held_out=0"], "needs an evaluation"),
    ],
)
def test_bad_searches_are_refused_before_anything_starts(
    lab: Lab, overrides: list[str], message: str
) -> None:
    assert message in lab.sweeping.train("bad", *_SEARCH, *overrides, code=2)
    assert not (lab.sweeping.store / "sweeps" / "bad").exists()


def test_a_range_without_the_sweeper_is_refused_with_its_name(lab: Lab) -> None:
    assert "add -m hydra/sweeper=optuna_pull" in lab.sweeping.train("bad", "optim.eps=interval(0,1)", code=2)
