"""A search on a cluster: elements ask when they start, and nothing that dies on the way costs a trial."""

from __future__ import annotations

import json
import os
import signal
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.slurm.cluster import Devcluster
from tests.slurm.sweeping import Sweeping, until, waiting_at_the_gate, worker_of

from tokensweep.ledger import read_events, read_run
from tokensweep.mlflow_client import connect

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # mlflow keeps its connections
]

_NAME = "found"
_TRIALS = 24
_SEARCH = (
    *("hydra/sweeper=optuna_pull", f"hydra.sweeper.trials={_TRIALS}", "hydra.sweeper.pruner=asha"),
    *("hydra.sweeper.rung=1", "hydra.sweeper.warmup=4", "optim.lr=tag(log,interval(1e-4,1e-1))"),
    *("eval.held_out=4", "jobs=4"),
)


class Lab:
    """The search after a kill -9, a cancelled job, a preemption and a torn journal line, when all is over."""

    def __init__(self, sweeping: Sweeping) -> None:
        self.sweeping = sweeping
        self.study = sweeping.store / "sweeps" / _NAME / "search"
        self.torn = b""

    def trials(self) -> list[dict[str, Any]]:
        """What ``status`` copies of the study."""
        self.sweeping.status(_NAME)
        rows: list[dict[str, Any]] = json.loads((self.study / "trials.json").read_text())["trials"]
        return rows

    def at_the_gate(self, *, number: int) -> list[Path]:
        """The run folders of that many trials that wait in the middle of their training."""

        def waiting() -> list[Path]:
            paths = sorted(path.parent for path in (self.sweeping.store / "runs").glob("*/plan.json"))
            found = [path for path in paths if read_run(path).status == "running"]
            return found if len(found) >= number else []

        found = until(waiting, what=f"{number} trials that train")
        for run_dir in found:
            waiting_at_the_gate(run_dir)
        return found

    def break_things(self) -> None:
        """One of each; every trial of the first round is in the middle of its training."""
        cluster = self.sweeping.cluster
        assert cluster is not None
        first = self.at_the_gate(number=4)
        os.kill(worker_of(first[0]), signal.SIGKILL)
        journal = self.study / "journal.log"
        self.torn = journal.read_bytes()[-40:-20]
        with journal.open("ab") as file:
            file.write(b'{"op_code":8,"worker_id":"of somebody who d')
        until(lambda: read_run(first[0]).attempts == 2, what="a second attempt of the killed run")
        cluster.run("scancel", self.task_of(first[1]))
        cluster.run("srun", "--partition=high", "-N2", "--gres=gpu:4", "true")  # all GPUs of the cluster
        self.sweeping.open()

    def task_of(self, run_dir: Path) -> str:
        """SLURM's key of the element that trains a run."""
        element = next(row["element"] for row in self.trials() if run_dir.name in row["runs"].values())
        for path in sorted((self.study.parent / "submissions").glob("*/submission.json")):
            tasks = [seat for (seat,) in json.loads(path.read_text())["tasks"] or [("",)] if seat]
            seats = [int(seat.rpartition("/")[2]) for seat in tasks]
            if element in seats:
                job = json.loads(path.with_name("job.json").read_text())["job_id"]
                return f"{job}_{seats.index(element)}"
        raise AssertionError(f"no submission has element {element}")


@pytest.fixture(scope="module")
def lab(devcluster: Devcluster) -> Iterator[Lab]:
    with tempfile.TemporaryDirectory(prefix="store-") as folder:
        sweeping = Sweeping(Path(folder) / "store", devcluster)
        sweeping.store.mkdir()
        lab = Lab(sweeping)
        sweeping.close()
        told = sweeping.train(_NAME, sweeping.site(), *_SEARCH)
        assert f"{_TRIALS} trials, {_TRIALS} to do" in told
        assert "this shell may be closed" in told
        lab.break_things()
        sweeping.train(_NAME, sweeping.site(), *_SEARCH, "wait=true", patience_s=1800)
        yield lab
        sweeping.leave()


def test_every_trial_is_told_and_none_twice(lab: Lab) -> None:
    counted = [row for row in lab.trials() if row["counted"]]
    assert Counter(row["state"] in ("complete", "pruned") for row in counted) == {True: _TRIALS}
    assert len({json.dumps(row["params"]) for row in counted}) == _TRIALS
    assert all(len(row["values"]) == 1 for row in counted if row["state"] == "complete")


def test_no_zombie_stays_running(lab: Lab) -> None:
    assert {row["state"] for row in lab.trials()} <= {"complete", "pruned", "failed"}
    status = lab.sweeping.status(_NAME)
    assert status["search"]["elements"] == 0
    assert set(status["counts"]) <= {"finished", "pruned"}


def test_a_cancelled_element_s_values_were_tried_again_from_their_checkpoint(lab: Lab) -> None:
    rows = lab.trials()
    (dead,) = [row for row in rows if row["state"] == "failed" and not row["counted"] and row["reason"]]
    assert "is gone" in dead["reason"]
    (again,) = [row for row in rows if row["counted"] and row["params"] == dead["params"]]
    assert again["runs"] == dead["runs"]
    (run_id,) = again["runs"].values()
    saved = [
        e["step"] for e in read_events(lab.sweeping.store / "runs" / run_id) if e["kind"] == "checkpoint"
    ]
    assert saved == sorted(set(saved))


def test_preemption_and_kill_really_happened(lab: Lab) -> None:
    runs = [lab.sweeping.store / "runs" / next(iter(row["runs"].values())) for row in lab.trials()]
    assert sum(read_run(run_dir).attempts > 1 for run_dir in runs) >= 3
    assert b"of somebody who d" not in (lab.study / "journal.log").read_bytes()  # cut by the next writer


def test_the_best_value_is_found_again_after_deleting_mlflow(lab: Lab) -> None:
    database = lab.sweeping.store / "mlflow.db"
    database.unlink()
    lab.sweeping.command("sync", "--all")
    client = connect(f"sqlite:///{database}", artifacts=lab.sweeping.store / "mlartifacts")
    runs = [run for run in client.runs(client.experiment(_NAME)) if run.data.tags["kind"] == "train"]
    shown = {run.data.tags["trial"]: run for run in runs}
    told = {str(row["number"]): row for row in lab.trials() if row["counted"]}
    assert shown.keys() == told.keys()
    best = max((row for row in told.values() if row["values"]), key=lambda row: row["values"][0])
    values = {number: run.data.metrics.get("trial/accuracy") for number, run in shown.items()}
    assert (
        values[str(best["number"])] == best["values"][0] == max(v for v in values.values() if v is not None)
    )
    for number, run in shown.items():
        assert run.data.tags["trial.state"] == told[number]["state"]
        assert run.info.status == ("KILLED" if told[number]["state"] == "pruned" else "FINISHED")
        assert run.data.metrics.get("trial/pruned_step") == told[number]["pruned_step"]


def test_the_report_ranks_trials_and_claims_nothing(lab: Lab) -> None:
    text = (lab.study.parent / "report" / "report.md").read_text()
    assert f"{_TRIALS} trials planned, {_TRIALS} told" in text
    assert "no verdict" in text


def test_the_same_command_submits_nothing_and_more_trials_add_only_those(lab: Lab) -> None:
    told = lab.sweeping.train(_NAME, lab.sweeping.site(), *_SEARCH)
    assert "nothing to submit" in told or "0 to do" in told
    assert "submitted" not in told
    before = {row["number"]: row["params"] for row in lab.trials() if row["counted"]}
    more = [text.replace(f"trials={_TRIALS}", f"trials={_TRIALS + 2}") for text in _SEARCH]
    lab.sweeping.train(_NAME, lab.sweeping.site(), *more, "wait=true", patience_s=900)
    after = {row["number"]: row["params"] for row in lab.trials() if row["counted"]}
    assert len(after) == _TRIALS + 2
    assert before.items() <= after.items()
    assert len({json.dumps(params) for params in after.values()}) == _TRIALS + 2


def test_a_search_that_was_planned_otherwise_is_refused(lab: Lab) -> None:
    other = [text.replace("1e-1", "1e-2") for text in _SEARCH]
    assert "sweep=NAME" in lab.sweeping.train(_NAME, lab.sweeping.site(), *other, code=2)


def test_a_cancelled_search_goes_on_with_retry(devcluster: Devcluster) -> None:
    with tempfile.TemporaryDirectory(prefix="store-") as folder:
        sweeping = Sweeping(Path(folder) / "store", devcluster)
        sweeping.store.mkdir()
        lab = Lab(sweeping)
        sweeping.close()
        search = [text.replace(f"trials={_TRIALS}", "trials=3") for text in _SEARCH]
        sweeping.train(_NAME, sweeping.site(), *search)
        lab.at_the_gate(number=3)
        sweeping.command("cancel", _NAME)
        until(lambda: not sweeping.queued(), what="an empty queue")
        assert sweeping.status(_NAME)["search"]["elements"] == 0
        sweeping.open()
        sweeping.command("retry", _NAME, "--wait")
        counted = [row for row in lab.trials() if row["counted"]]
        assert Counter(row["state"] in ("complete", "pruned") for row in counted) == {True: 3}
        sweeping.leave()


def test_several_gpus_train_a_trial_together(devcluster: Devcluster) -> None:
    with tempfile.TemporaryDirectory(prefix="store-") as folder:
        sweeping = Sweeping(Path(folder) / "store", devcluster)
        sweeping.store.mkdir()
        lab = Lab(sweeping)
        search = [text.replace(f"trials={_TRIALS}", "trials=2") for text in _SEARCH]
        more = ("resources.train.gpus=2", "batch.micro_tokens=32", "wait=true")
        sweeping.train(_NAME, sweeping.site(), *search, *more, patience_s=900)
        counted = [row for row in lab.trials() if row["counted"]]
        assert Counter(row["state"] in ("complete", "pruned") for row in counted) == {True: 2}
        for row in counted:
            (run_id,) = row["runs"].values()
            (started, *_) = read_events(sweeping.store / "runs" / run_id)
            assert (started["kind"], started["devices"]) == ("started", 2)
        sweeping.leave()
