"""Clocks of machines may differ: states and order come from what was written, and no time is negative."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from tests.cluster.fake_slurm import FakeSlurm
from tests.cluster.made_up import Store

from tokensweep.cluster.reconcile import State
from tokensweep.cluster.scheduler import Scheduler
from tokensweep.cluster.status import sweep_status
from tokensweep.ledger import Attempt, read_run


@pytest.mark.parametrize("hours", [-1, 1])
def test_clocks_that_are_an_hour_off_change_no_state_and_no_duration_is_negative(
    store: Store, slurm: FakeSlurm, hours: int
) -> None:
    job = store.queued(slurm, "train", "a", "b", "c", age_s=-3600.0 * hours)
    slurm.tell(f"{job}_0", state="RUNNING")
    slurm.tell(f"{job}_1", state="TIMEOUT")
    store.sweep("a", "b", "c")
    for name, attempts in {
        "a": [["step", "preempted"], ["step", "train", "left"]],
        "b": [["step"]],
        "c": [],
    }.items():
        shift(store.run(name, *attempts), hours)
    assert [store.state(name).state.value for name in "abc"] == ["planned", "failed", "queued"]
    for row in sweep_status(store.path, "s", Scheduler()).rows:
        assert row.seconds_left is None or row.seconds_left >= 0
    assert all(read_run(store.path / "runs" / name).seconds >= 0 for name in "abc")


def test_attempts_of_different_clocks_have_no_negative_duration(store: Store) -> None:
    run_dir = store.run("r", ["step"], ["step"])
    for number, hours in (("000", 2), ("001", -2)):
        _shift_attempt(run_dir / "attempts" / number, hours)
    with Attempt.open(run_dir) as attempt:
        attempt.event("trained", step=2)
    record = read_run(run_dir)
    assert 0 <= record.seconds < 60
    assert record.trained_step == 2


def test_a_retry_from_a_machine_whose_clock_is_behind_is_the_newer_submission(
    store: Store, slurm: FakeSlurm
) -> None:
    store.run("r", ["step"])
    first = store.queued(slurm, "train", "r", age_s=-3600.0)  # an hour in the future
    second = store.queued(slurm, "train", "r", attempts={"r": 1})
    slurm.tell(first, state="TIMEOUT", queue=False, accounting=True)
    slurm.tell(second, state="CANCELLED", queue=False, accounting=True)
    state = store.state("r")
    assert (state.state, state.job) == (State.cancelled, second)


def test_a_submission_from_the_future_is_not_awaited_for_ever(store: Store, slurm: FakeSlurm) -> None:
    store.run("r")
    store.submitted("train", "r", age_s=-3600.0)
    assert store.state("r").error_class == "lost"


def shift(run_dir: Path, hours: int) -> None:
    """Let the ledgers of a run have been written by a clock that is off."""
    for attempt in sorted((run_dir / "attempts").glob("*")):
        _shift_attempt(attempt, hours)


def _shift_attempt(attempt: Path, hours: int) -> None:
    for path in sorted(attempt.glob("*.jsonl")):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        lines = [json.dumps({**row, "time": row["time"] + 3600.0 * hours}) for row in rows]
        path.write_text("".join(f"{line}\n" for line in lines))


def test_shifted_ledgers_are_what_they_say(store: Store) -> None:
    run_dir = store.run("r", ["step"])
    shift(run_dir, 1)
    started = read_run(run_dir).started
    assert started is not None
    assert started == pytest.approx(time.time() + 3600, abs=60)
