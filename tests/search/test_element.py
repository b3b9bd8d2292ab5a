"""An element between study and worker: what is told when runs end well, are given up, fail, or cannot be."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tokensweep.cluster.task import RunFailedError
from tokensweep.files import write_json
from tokensweep.identity import read_json
from tokensweep.ledger import Attempt, Kind, close_dead, close_pruned, read_run
from tokensweep.search.element import Element, Living, Planned, _alone
from tokensweep.search.launch import _write, elements_to_start, plan_search
from tokensweep.search.read import search_of_command
from tokensweep.search.study import Study

_SPACE = "method.token_weights.entropy.fraction=interval(0.05,1.0)"
_SMALL = ("method=forking_tokens", "data=ops", "steps=8", "eval.held_out=4", "eval.k=[1]")


@dataclass
class Worker:
    """Instead of training: leaves the ledger and files of a run whose accuracy it was given."""

    accuracies: list[float]
    outcomes: list[str] = field(default_factory=list)  # finished unless it says nan, killed or pruned
    worked: list[str] = field(default_factory=list)

    def __call__(self, run_dir: Path, hopeless: Callable[[], str] = lambda: "") -> bool:
        self.worked.append(run_dir.name)
        outcome = self.outcomes.pop(0) if self.outcomes else "finished"
        with Attempt.open(run_dir) as attempt:
            for step in range(1, 9):
                attempt.metrics(step, {"sampled/accuracy": step / 10, "tokens/total_generated": 100.0 * step})
                hopeless()
            if outcome == "finished":
                self._finish(run_dir, attempt)
        if outcome == "pruned":
            close_pruned(run_dir, "asha at step 4: accuracy 0.100")
            return False
        if outcome != "finished":
            close_dead(run_dir, "it broke", error_class=outcome)
            raise RunFailedError(f"{run_dir.name} failed ({outcome})")
        return True

    def _finish(self, run_dir: Path, attempt: Attempt) -> None:
        attempt.event(Kind.trained, step=8)
        accuracy = self.accuracies.pop(0)
        for entry in read_json(run_dir / "plan.json")["evals"]:
            folder = run_dir / "evals" / f"{entry['suite']}-{entry['eval_id']}"
            write_json(folder / "eval.json", {"summary": {"avg": accuracy}})
            attempt.event(
                Kind.evaluated,
                suite=entry["suite"],
                eval_id=entry["eval_id"],
                num_samples=entry["num_samples"],
            )
        attempt.event(Kind.finished)


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., tuple[Element, Study]]:
    """A planned search on disk: its first element, and its study."""

    def make(*overrides: str, **settings: Any) -> tuple[Element, Study]:
        given = search_of_command(
            [_SPACE, *_SMALL, *overrides],
            settings={"trials": 2, **settings},
            when={},
            name="made",
            scale="tiny",
        )
        plan = plan_search(given.search, (*given.launch, f"store={tmp_path / 'store'}"))
        _write(plan)
        return Element(plan.folder, 0), Study(given.search, plan.folder, steps=8)

    return make


def test_the_mean_over_seeds_is_told_and_all_runs_are_the_trial_s(made: Any) -> None:
    element, study = made("seed=3,5")
    worker = Worker([0.25, 0.75])
    assert element.work(worker)
    (row,) = study.rows()
    assert (row["state"], row["values"]) == ("complete", [0.5])  # (0.25 + 0.75) / 2
    assert row["runs"] == dict(zip(["3", "5"], worker.worked, strict=True))
    entries = read_json(element.store / "sweeps" / "made" / "sweep.json")["runs"]
    assert [(e["arm"], e["seed"], e["run_id"]) for e in entries] == [
        ("trial-000", 3, worker.worked[0]),
        ("trial-000", 5, worker.worked[1]),
    ]
    for run_id in worker.worked:
        config = read_json(element.store / "runs" / run_id / "config.json")
        assert (
            config["method"]["token_weights"]["entropy"]["fraction"]
            == row["params"][_SPACE.partition("=")[0]]
        )


def test_the_first_seed_reports_at_rungs_and_only_it(made: Any) -> None:
    element, study = made("seed=3,5", rung=3, warmup=3)
    element.work(Worker([0.25, 0.75]))
    (row,) = study.rows()
    # Means over steps 1 to 3 and 4 to 6 of step / 10.
    assert row["intermediate"] == {"3": pytest.approx(0.2), "6": pytest.approx(0.5)}


def test_several_objectives_are_told_together(made: Any) -> None:
    element, study = made(objective=["accuracy", "tokens", "device_hours"])
    element.work(Worker([0.25]))
    accuracy, tokens, hours = study.rows()[0]["values"]
    assert (accuracy, tokens) == (0.25, 800.0)
    assert 0 < hours < 0.1


def test_a_run_that_was_given_up_is_told_as_pruned_with_the_reason(made: Any) -> None:
    element, study = made(pruner="asha", rung=1, warmup=2)
    assert element.work(Worker([], outcomes=["pruned"]))
    (row,) = study.rows()
    assert (row["state"], row["reason"]) == ("pruned", "asha at step 4: accuracy 0.100")
    (run_id,) = row["runs"].values()
    assert read_run(element.store / "runs" / run_id).status == "pruned"


def test_a_study_out_of_reach_ends_no_training(
    made: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    element, study = made(rung=3, warmup=3)

    def away(*_: Any) -> bool:
        raise ConnectionError("nobody answers at db.example.org")

    with monkeypatch.context() as patched:
        patched.setattr(Study, "report", away)
        assert element.work(Worker([0.25]))
    assert study.rows()[0]["values"] == [0.25]
    assert "step 3 is not reported: nobody answers at db.example.org" in capsys.readouterr().out


def test_a_killed_run_s_values_are_tried_again_by_the_same_element(made: Any) -> None:
    element, study = made()
    worker = Worker([0.25], outcomes=["killed", "finished"])
    assert not element.work(worker)  # a trial of it failed, although its values are told by now
    assert worker.worked[0] == worker.worked[1]  # the same run, from its checkpoint
    first, second = study.rows()
    assert (first["state"], first["counted"]) == ("failed", False)
    assert (second["state"], second["counted"], second["values"]) == ("complete", True, [0.25])


def test_values_that_give_no_number_are_told_as_failed_once(made: Any) -> None:
    element, study = made()
    worker = Worker([], outcomes=["nan"])
    assert not element.work(worker)
    (row,) = study.rows()
    assert (row["state"], row["counted"]) == ("failed", True)
    assert "failed (nan): it broke" in row["reason"]
    assert len(worker.worked) == 1


def test_an_element_goes_on_with_the_trial_that_it_had(made: Any) -> None:
    element, study = made()
    asked = study.ask(0, is_alive=lambda _: True)
    element.work(Worker([0.5]))
    (row,) = study.rows()
    assert (row["number"], row["values"]) == (asked.number, [0.5])


def test_code_that_changed_since_the_plan_is_refused(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    element, study = made()
    monkeypatch.setattr("tokensweep.search.element.code_sha", lambda: "0" * 64)
    with pytest.raises(ValueError, match="trials of two codes cannot be compared"):
        element.work(Worker([0.5]))
    assert study.rows() == []


def test_two_processes_cannot_be_one_element(made: Any) -> None:
    element, _ = made()
    with _alone(element.folder, 0), pytest.raises(RuntimeError, match="another process is element 0 of made"):
        element.work(Worker([0.5]))


def test_an_element_is_alive_as_long_as_its_lock_is_held(made: Any) -> None:
    element, _ = made()
    alive = Living(element.folder)
    assert alive.known() == []
    with _alone(element.folder, 4):
        assert alive(4)
        assert alive.known() == [4]
    assert not alive(4)
    assert not alive(5)


def test_stopped_elements_come_first_and_numbers_are_not_used_again(made: Any) -> None:
    _, study = made(trials=5)
    study.ask(3, is_alive=lambda _: True)
    alive = Living(study.folder)
    assert elements_to_start(study, alive) == [3, 4, 5, 6, 7]  # 3 goes on, and four new ones
    with _alone(study.folder, 3), _alone(study.folder, 4):
        assert elements_to_start(study, alive) == [5, 6, 7]  # 4 is there and has not asked yet


def test_a_search_is_planned_once_and_then_only_grows(made: Any) -> None:
    element, _ = made()
    made(trials=7)
    assert Planned.read(element.folder).search.trials == 7
    with pytest.raises(ValueError, match="a search can only grow"):
        made(trials=6)
    with pytest.raises(ValueError, match="was planned with sampler=tpe, got random"):
        made(trials=7, sampler="random")
    with pytest.raises(ValueError, match="was planned with base"):
        made("optim.lr=1e-3", trials=7)


def test_search_json_holds_no_secret_and_can_be_read_by_anybody(made: Any) -> None:
    element, _ = made("tracking.uri=http://me:secret@host")
    text = (element.folder / "search.json").read_text()
    assert "secret" not in text
    assert json.loads(text)["config"]["steps"] == 8
