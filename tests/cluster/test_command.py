"""``logs``, ``cancel`` and ``retry`` as a person gives them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.cluster.fake_slurm import FakeSlurm
from tests.cluster.made_up import Store

from tokensweep.cluster import command
from tokensweep.cluster.command import cancel_command, logs_command, retry_command
from tokensweep.cluster.scheduler import SlurmError
from tokensweep.ledger import Attempt

Out = pytest.CaptureFixture[str]


def chain(store: Store, slurm: FakeSlurm, *run_ids: str) -> tuple[str, str, str]:
    """A whole sweep in the queue; the numbers of its jobs."""
    for run_id in run_ids:
        store.run(run_id)
    store.sweep(*run_ids)
    train, evaluate = (store.queued(slurm, stage, *run_ids) for stage in ("train", "evaluate"))
    return train, evaluate, store.queued(slurm, "report")


def test_logs_prints_the_last_lines_of_the_newest_attempt(store: Store, capsys: Out) -> None:
    run_dir = store.run("r0", ["failed"], ["step"])
    (run_dir / "attempts" / "001" / "log.txt").write_text("".join(f"line {n}\n" for n in range(100)))
    logs_command(["r0", f"store={store.path}"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"==> {run_dir}/attempts/001/log.txt"
    assert lines[1:] == [f"line {number}" for number in range(60, 100)]
    logs_command(["r0", "-n", "0", f"store={store.path}"])
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_logs_prints_what_the_job_said_before_a_worker_began(
    store: Store, slurm: FakeSlurm, capsys: Out
) -> None:
    train, evaluate, _ = chain(store, slurm, "r0", "r1")
    folder = store.path / "sweeps" / "s" / "submissions"
    for number, job in (("0000", train), ("0001", evaluate)):
        (folder / number / "submitit").mkdir()
        (folder / number / "submitit" / f"{job}_1_0_log.out").write_text(f"module: {number}\n")
    logs_command(["r1", f"store={store.path}"])
    assert capsys.readouterr().out.splitlines()[1] == "module: 0001"
    store.run("r1", ["step"])
    logs_command(["r1", f"store={store.path}"])
    assert capsys.readouterr().out.splitlines()[-1] == "last line"
    logs_command(["r1", "--job", f"store={store.path}"])
    assert capsys.readouterr().out.splitlines()[1] == "module: 0001"
    with pytest.raises(ValueError, match="r0 has no log yet: no worker has started on it"):
        logs_command(["r0", f"store={store.path}"])


def test_logs_of_an_unknown_run_says_where_ids_are(store: Store) -> None:
    store.run("r0")
    with pytest.raises(ValueError, match=r"no run 'x' in .*: tokensweep status SWEEP --runs lists ids"):
        logs_command(["x", f"store={store.path}"])


def test_logs_of_less_than_no_lines_is_refused(store: Store, capsys: Out) -> None:
    with pytest.raises(SystemExit, match="2"):
        logs_command(["r0", "-n", "-1", f"store={store.path}"])
    assert "--lines must be at least 0, got -1" in capsys.readouterr().err


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def following(store: Store, tmp_path: Path) -> Iterator[Callable[[str], tuple[subprocess.Popen[str], Path]]]:
    """Starts ``tokensweep logs RUN --follow`` and says where it prints."""
    with ExitStack() as ends:

        def follow(run_id: str) -> tuple[subprocess.Popen[str], Path]:
            arguments = [sys.executable, "-m", "tokensweep.cli", "logs", run_id, "-f", f"store={store.path}"]
            out = tmp_path / "followed.txt"
            process = ends.enter_context(
                subprocess.Popen(
                    arguments,
                    env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                    stdout=ends.enter_context(out.open("w")),
                    text=True,
                )
            )
            ends.callback(process.kill)
            return process, out

        yield follow


def test_a_followed_log_grows_and_ends_with_its_run(
    store: Store, following: Callable[[str], tuple[subprocess.Popen[str], Path]]
) -> None:
    with Attempt.open(store.run("r0")) as attempt, attempt.log.open("w", buffering=1) as log:
        log.write("one\n")
        process, out = following("r0")
        until(lambda: "one" in out.read_text())
        log.write("two\n")
        until(lambda: "two" in out.read_text())
        assert process.poll() is None
        log.write("three, the last")
    assert process.wait(30) == 0
    assert out.read_text().splitlines()[1:] == ["one", "two", "three, the last"]


def test_a_followed_log_goes_on_with_the_next_attempt_of_a_job_that_was_put_back(
    store: Store, slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch, capsys: Out
) -> None:
    train, _, _ = chain(store, slurm, "r0")
    monkeypatch.setattr(command, "follow_interval", lambda started: 0.05)
    monkeypatch.setattr(command, "_LOG_POLL_S", 0.05)
    store.run("r0", ["step", "preempted"])
    slurm.tell(train, reason="BeginTime")
    follower = threading.Thread(target=logs_command, args=(["r0", "-f", f"store={store.path}"],))
    follower.start()
    asked = len(slurm.calls("squeue"))
    until(lambda: len(slurm.calls("squeue")) > asked)
    assert follower.is_alive()
    with Attempt.open(store.run("r0")) as attempt:
        attempt.log.write_text("again\n")
        attempt.event("failed", error="boom", **{"class": "other"})
    slurm.tell(train, state="FAILED")
    follower.join(30)
    assert not follower.is_alive()
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "again"
    assert lines[-2].endswith("attempts/001/log.txt")


def test_cancel_takes_a_whole_sweep_out_of_the_queue(store: Store, slurm: FakeSlurm, capsys: Out) -> None:
    chain(store, slurm, "r0", "r1")
    other = slurm.add("of another project", 1)
    cancel_command(["s", f"store={store.path}"])
    assert slurm.living() == [other]
    assert capsys.readouterr().out == "s: cancelled 5 jobs; go on with: tokensweep retry s\n"
    assert {store.state(name).state.value for name in ("r0", "r1")} == {"cancelled"}


def test_cancel_of_a_run_leaves_the_others(store: Store, slurm: FakeSlurm) -> None:
    train, evaluate, report = chain(store, slurm, "r0", "r1")
    cancel_command(["s", "r1", f"store={store.path}"])
    assert slurm.living() == [f"{train}_0", f"{evaluate}_0", report]


def test_cancel_says_who_else_shares_the_job(store: Store, slurm: FakeSlurm, capsys: Out) -> None:
    for name in ("r0", "r1", "r2"):
        store.run(name)
    store.sweep("r0", "r1", "r2")
    store.queued(slurm, "train", "r0+r1+r2")
    cancel_command(["s", "r1", f"store={store.path}"])
    assert "also cancelled, as they share a job with these: r0, r2" in capsys.readouterr().out


def test_cancel_without_jobs_says_so_and_cancels_nothing(store: Store, slurm: FakeSlurm, capsys: Out) -> None:
    store.run("r0", ["failed"])
    store.sweep("r0")
    cancel_command(["s", f"store={store.path}"])
    assert capsys.readouterr().out == "s: no job of it is in the queue\n"
    assert slurm.calls("scancel") == []


@pytest.mark.parametrize("steer", [cancel_command, retry_command])
def test_nothing_is_steered_while_slurm_is_silent(
    store: Store, slurm: FakeSlurm, steer: Callable[[list[str]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    chain(store, slurm, "r0", "r1")
    monkeypatch.setattr("tokensweep.cluster.retry.open_snapshot", lambda folder: folder)
    slurm.set(down=True)
    with pytest.raises(SlurmError, match="Unable to contact slurm controller"):
        steer(["s", f"store={store.path}"])
    slurm.set(down=False)
    assert len(slurm.living()) == 5


def test_retry_of_what_is_complete_or_in_the_queue_submits_nothing(
    store: Store, slurm: FakeSlurm, capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain(store, slurm, "r0", "r1")
    monkeypatch.setattr("tokensweep.cluster.retry.open_snapshot", lambda folder: folder)
    store.run("r0", ["train", "evaluate", "finished"])
    retry_command(["s", f"store={store.path}"])
    assert capsys.readouterr().out == "s: nothing to submit; the table: tokensweep report s\n"
    assert slurm.calls("sbatch") == []


def test_retry_of_a_sweep_that_ran_on_this_machine_is_refused(store: Store) -> None:
    store.run("r0", ["failed"])
    store.sweep("r0")
    with pytest.raises(ValueError, match="s was never submitted to a cluster: give the sweep's own command"):
        retry_command(["s", f"store={store.path}"])


@pytest.mark.parametrize("steer", [cancel_command, retry_command])
def test_an_unknown_sweep_lists_the_known(store: Store, steer: Callable[[list[str]], None]) -> None:
    store.sweep("r0")
    with pytest.raises(ValueError, match=r"no sweep 'x' in .*: known are s"):
        steer(["x", f"store={store.path}"])
