"""Ledgers and SLURM together give the state of a run, whichever of them knows less."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from tests.cluster.fake_slurm import FakeSlurm
from tests.cluster.made_up import Store

from tokensweep.cluster import reconcile
from tokensweep.cluster.jobstate import ENDED
from tokensweep.cluster.reconcile import RunState, State, look
from tokensweep.cluster.scheduler import Scheduler
from tokensweep.cluster.submission import record_cancel, submissions
from tokensweep.ledger import Attempt

_DONE = ["train", "evaluate", "finished"]
_TRAINED = ["train", "left"]


def brief(state: RunState) -> tuple[str, str, str]:
    return state.state.value, state.error_class, state.stage


# What the ledger says (attempts), what SLURM says of the job, and what is true of the run.
_TABLE: list[tuple[Sequence[Sequence[str]], str, tuple[str, str, str]]] = [
    ([], "PENDING", ("queued", "", "train")),
    ([], "CONFIGURING", ("running", "", "train")),
    ([], "RUNNING", ("running", "", "train")),
    ([], "COMPLETING", ("running", "", "train")),
    ([], "SUSPENDED", ("queued", "", "train")),
    ([], "CANCELLED", ("cancelled", "", "")),
    ([], "TIMEOUT", ("failed", "timeout", "")),
    ([], "NODE_FAIL", ("failed", "node", "")),
    ([], "BOOT_FAIL", ("failed", "node", "")),
    ([], "FAILED", ("failed", "submission", "")),
    ([], "COMPLETED", ("failed", "submission", "")),
    ([], "LAUNCH_FAILED", ("failed", "submission", "")),
    ([["step"]], "RUNNING", ("running", "", "train")),
    ([["step", "preempted"]], "PENDING", ("queued", "", "train")),
    ([["step", "preempted"]], "PREEMPTED", ("interrupted", "", "")),
    ([["step", "preempted"]], "CANCELLED", ("cancelled", "", "")),
    ([["step"]], "TIMEOUT", ("failed", "timeout", "")),
    ([["step"]], "OUT_OF_MEMORY", ("failed", "oom", "")),
    ([["step"]], "NODE_FAIL", ("failed", "node", "")),
    ([["step"]], "DEADLINE", ("failed", "timeout", "")),
    ([["step"]], "FAILED", ("failed", "other", "")),
    ([["step"]], "COMPLETED", ("failed", "unfinished", "")),
    ([["failed"]], "FAILED", ("failed", "nan", "")),
    ([["failed"]], "RUNNING", ("running", "", "train")),
    ([["failed"]], "PENDING", ("queued", "", "train")),
    ([["failed"]], "CANCELLED", ("failed", "nan", "")),
    ([_DONE], "RUNNING", ("finished", "", "")),
    ([_DONE], "CANCELLED", ("finished", "", "")),
    ([_DONE], "NODE_FAIL", ("finished", "", "")),
    ([["failed"], _DONE], "FAILED", ("finished", "", "")),
    ([_TRAINED], "COMPLETED", ("planned", "", "")),
]


@pytest.mark.parametrize(("attempts", "word", "expected"), _TABLE)
def test_a_run_in_training_has_the_state_that_ledger_and_slurm_say(
    store: Store, slurm: FakeSlurm, attempts: list[list[str]], word: str, expected: tuple[str, str, str]
) -> None:
    slurm.tell(store.queued(slurm, "train", "r"), state=word)
    store.run("r", *attempts)
    assert brief(store.state("r")) == expected


@pytest.mark.parametrize(
    ("attempts", "word", "expected"),
    [
        ([_TRAINED], "PENDING", ("queued", "", "evaluate")),
        ([_TRAINED], "RUNNING", ("running", "", "evaluate")),
        ([_TRAINED], "CANCELLED", ("cancelled", "", "")),
        ([_TRAINED], "FAILED", ("failed", "submission", "")),
        ([_TRAINED, []], "FAILED", ("failed", "other", "")),
        ([_TRAINED, []], "TIMEOUT", ("failed", "timeout", "")),
        ([_TRAINED, ["failed"]], "FAILED", ("failed", "nan", "")),
        ([_TRAINED, ["evaluate", "finished"]], "COMPLETED", ("finished", "", "")),
        ([["failed"]], "CANCELLED", ("failed", "nan", "")),  # of the training, which its dependency missed
    ],
)
def test_a_run_in_evaluation_has_the_state_that_ledger_and_slurm_say(
    store: Store, slurm: FakeSlurm, attempts: list[list[str]], word: str, expected: tuple[str, str, str]
) -> None:
    slurm.tell(store.queued(slurm, "train", "r"), state="COMPLETED")
    slurm.tell(store.queued(slurm, "evaluate", "r"), state=word)
    store.run("r", *attempts)
    assert brief(store.state("r")) == expected


def test_every_end_that_slurm_knows_gives_a_state() -> None:
    assert set(reconcile._ENDS) >= ENDED


def test_a_living_worker_is_running_whatever_slurm_says(store: Store, slurm: FakeSlurm) -> None:
    slurm.tell(store.queued(slurm, "train", "r"), state="NODE_FAIL")
    with Attempt.open(store.run("r")):
        assert brief(store.state("r")) == ("running", "", "train")


@pytest.mark.parametrize(
    ("word", "expected"),
    [("PENDING", "queued"), ("RUNNING", "running"), ("CANCELLED", "cancelled"), ("FAILED", "failed")],
)
def test_a_retry_counts_before_the_failure_that_it_is_for(
    store: Store, slurm: FakeSlurm, word: str, expected: str
) -> None:
    store.run("r", ["failed"])
    slurm.tell(store.queued(slurm, "train", "r", attempts={"r": 1}), state=word)
    state = store.state("r")
    assert state.state == expected
    if word == "FAILED":
        assert (state.error_class, "before a worker had begun" in state.reason) == ("submission", True)


def test_a_run_that_failed_again_has_the_new_reason(store: Store, slurm: FakeSlurm) -> None:
    store.run("r", ["failed"], ["failed"])
    slurm.tell(store.queued(slurm, "train", "r", attempts={"r": 1}), state="FAILED")
    assert brief(store.state("r")) == ("failed", "nan", "")


def test_a_second_job_that_lives_counts_before_a_first_that_ended(store: Store, slurm: FakeSlurm) -> None:
    store.run("r", ["step"])
    first = store.queued(slurm, "train", "r")
    store.queued(slurm, "train", "r", attempts={"r": 1})
    slurm.tell(first, state="TIMEOUT")
    assert brief(store.state("r")) == ("queued", "", "train")


def test_more_samples_leave_a_run_planned_and_not_failed(store: Store, slurm: FakeSlurm) -> None:
    slurm.tell(store.queued(slurm, "train", "r"), state="COMPLETED")
    slurm.tell(store.queued(slurm, "evaluate", "r"), state="COMPLETED")
    store.run("r", _TRAINED, ["evaluate", "finished"], samples=2)  # of the 4 that the plan asks for now
    assert brief(store.state("r")) == ("planned", "", "")


def test_a_job_that_can_never_start_counts_as_gone(store: Store, slurm: FakeSlurm) -> None:
    slurm.tell(store.queued(slurm, "evaluate", "r"), reason="DependencyNeverSatisfied")
    store.run("r", _TRAINED)
    assert look(store.path, Scheduler()).alive("evaluate", "r") is None
    assert store.state("r").state == State.planned


@pytest.mark.parametrize(
    ("age_s", "expected"), [(0, "queued"), (590, "queued"), (610, "failed"), (86400, "failed")]
)
def test_a_job_that_slurm_does_not_know_is_lost_after_ten_minutes(
    store: Store, slurm: FakeSlurm, age_s: float, expected: str
) -> None:
    store.run("r")
    store.submitted("train", "r", age_s=age_s)
    state = store.state("r")
    assert (state.state, state.error_class) == (expected, "lost" if expected == "failed" else "")
    assert state.reason.startswith("SLURM")


def test_a_silent_slurm_loses_nothing(store: Store, slurm: FakeSlurm) -> None:
    for name, attempts in {"waits": [], "done": [_DONE], "nan": [["failed"]], "half": [["step"]]}.items():
        store.run(name, *attempts)
    store.submitted("train", "waits", "done", "nan", "half", age_s=86400)
    slurm.set(down=True)
    assert {name: store.state(name).state.value for name in ("waits", "done", "nan", "half")} == {
        "waits": "queued",
        "done": "finished",
        "nan": "failed",
        "half": "queued",
    }
    assert store.state("waits").reason == "SLURM does not answer"
    assert "Unable to contact" in look(store.path, Scheduler()).silence
    assert not list(store.path.glob("sweeps/*/submissions/*/ended.json"))


def test_a_partly_cancelled_array_has_a_state_per_task(store: Store, slurm: FakeSlurm) -> None:
    job = store.queued(slurm, "train", "a", "b", "c", "d")
    for name in "abcd":
        store.run(name)
    store.run("a", _DONE)
    slurm.tell(f"{job}_0", state="COMPLETED", queue=False, accounting=True)
    slurm.tell(f"{job}_1", state="RUNNING", node="gpu1", reason="")
    for task in (2, 3):  # one row for both
        slurm.tell(f"{job}_{task}", state="CANCELLED", queue=False, accounting=f"{job}_[2-3]")
    assert [store.state(name).state.value for name in "abcd"] == [
        "finished",
        "running",
        "cancelled",
        "cancelled",
    ]
    assert store.state("b").node == "gpu1"


def test_one_row_for_an_array_that_was_cancelled_before_it_began_is_for_all_tasks(
    store: Store, slurm: FakeSlurm
) -> None:
    job = store.queued(slurm, "train", "a", "b")
    for name in "ab":
        store.run(name)
    slurm.tell(job, state="CANCELLED", queue=False, accounting=job)
    assert [store.state(name).state.value for name in "ab"] == ["cancelled", "cancelled"]
    (made,) = submissions(store.path)
    assert made.ended == {"0": "CANCELLED", "1": "CANCELLED"}


def test_a_task_that_a_person_cancelled_stays_so_when_slurm_has_forgotten_it(
    store: Store, slurm: FakeSlurm
) -> None:
    job = store.queued(slurm, "train", "a", "b")
    for name in "ab":
        store.run(name)
    (made,) = submissions(store.path)
    record_cancel(made, [1])
    assert store.state("b").state == State.queued  # as long as SLURM has it
    slurm.tell(f"{job}_1", queue=False)
    assert [store.state(name).state.value for name in "ab"] == ["queued", "cancelled"]


def test_runs_that_share_a_task_wait_for_each_other(store: Store, slurm: FakeSlurm) -> None:
    job = store.queued(slurm, "train", "a+b+c+d")
    store.run("a", _TRAINED)
    store.run("b", ["failed"])
    store.run("d")
    slurm.tell(job, state="RUNNING", reason="")
    with Attempt.open(store.run("c")):
        assert [store.state(name).state.value for name in "abcd"] == [
            "planned",
            "failed",  # this task has left it behind
            "running",
            "queued",
        ]
        assert store.state("d").reason == "behind other runs of its job"
    slurm.tell(job, state="PENDING", reason="BeginTime", restarts=1)
    assert [store.state(name).state.value for name in "bcd"] == ["queued", "queued", "queued"]
    slurm.tell(job, state="FAILED", queue=False, accounting=True)
    assert [brief(store.state(name))[:2] for name in "bcd"] == [
        ("failed", "nan"),
        ("failed", "other"),
        ("failed", "submission"),
    ]


def test_restarts_of_the_job_and_stops_of_its_workers_are_counted_once(
    store: Store, slurm: FakeSlurm
) -> None:
    slurm.tell(store.queued(slurm, "train", "r"), restarts=3)
    store.run("r", ["step", "preempted"], ["step", "preempted"])
    assert store.state("r").preempted == 3


def test_restarts_are_remembered_when_slurm_has_forgotten_the_job(store: Store, slurm: FakeSlurm) -> None:
    job = store.queued(slurm, "train", "r")
    store.run("r", ["failed"])
    slurm.tell(job, restarts=2, state="FAILED")
    assert store.state("r").preempted == 2
    slurm.tell(job, queue=False)
    assert store.state("r").preempted == 2


def test_an_end_is_written_only_when_all_is_certain_and_slurm_is_not_asked_again(
    store: Store, slurm: FakeSlurm
) -> None:
    job = store.queued(slurm, "train", "a", "b", "c")
    for name in "abc":
        store.run(name)

    def ended() -> object:
        look(store.path, Scheduler())
        return next(iter(submissions(store.path))).ended

    slurm.tell(f"{job}_0", state="FAILED")
    assert ended() is None  # two wait
    slurm.tell(f"{job}_1", state="TIMEOUT", queue=False, accounting=True)
    slurm.tell(f"{job}_2", state="COMPLETED", queue=False)
    assert ended() is None  # sacct does not know the end of one yet
    slurm.tell(f"{job}_2", state="RUNNING", accounting=True)
    assert ended() is None  # and now believes that it runs
    slurm.tell(f"{job}_2", state="CANCELLED")
    assert ended() == {"0": "FAILED", "1": "TIMEOUT", "2": "CANCELLED"}
    before = len(slurm.calls())
    slurm.set(down=True)
    assert [brief(store.state(name))[:2] for name in "abc"] == [
        ("failed", "submission"),
        ("failed", "timeout"),
        ("cancelled", ""),
    ]
    assert len(slurm.calls()) == before


def test_a_job_whose_number_nobody_heard_is_found_by_its_name(store: Store, slurm: FakeSlurm) -> None:
    store.run("r")
    made = store.submitted("train", "r", job=None)
    number = slurm.add(made.job_name, 1)
    assert store.state("r").job == number
    assert next(iter(submissions(store.path))).job_id == number


def test_a_submission_without_a_job_is_marked_once_nobody_submits(store: Store, slurm: FakeSlurm) -> None:
    store.run("r")
    store.submitted("train", "r", job=None)
    assert store.state("r").state == State.planned
    assert next(iter(submissions(store.path))).ended == {"0": "NOT_SUBMITTED"}


@pytest.mark.parametrize("lock", [".submitting", ".sbatch"])
def test_a_submission_that_is_under_way_is_not_marked_however_old_it_seems(
    store: Store, slurm: FakeSlurm, lock: str, hold: Callable[[Path], None]
) -> None:
    store.run("r")
    store.submitted("train", "r", job=None, age_s=500)
    hold(store.path / "sweeps" / lock)
    assert store.state("r").state == State.queued
    assert next(iter(submissions(store.path))).ended is None


def test_a_submission_without_a_job_hides_no_earlier_end(store: Store, slurm: FakeSlurm) -> None:
    slurm.tell(store.queued(slurm, "train", "r"), state="TIMEOUT")
    store.run("r", ["step"])
    store.submitted("train", "r", job=None, attempts={"r": 1})
    assert brief(store.state("r")) == ("failed", "timeout", "")


def test_folders_that_a_dead_shell_left_half_written_are_survived(store: Store, slurm: FakeSlurm) -> None:
    store.queued(slurm, "train", "r")
    store.run("r")
    root = store.path / "sweeps" / "s" / "submissions"
    (root / "0001").mkdir()
    (root / "0001" / ".submission.json.x1.partial").write_text('{"job_na')
    (root / "0000" / ".job.json.x2.partial").write_text("")
    (root / "0000" / ".ended.json.x3.partial").write_text('{"0": "CANC')
    assert store.state("r").state == State.queued
    assert store.submitted("evaluate", "r").folder.name == "0002"


def test_a_store_of_somebody_else_shows_its_folders_only(
    store: Store, slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.queued(slurm, "train", "r", age_s=86400)
    store.run("r")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert store.state("r").state == State.queued
    assert slurm.calls() == []
