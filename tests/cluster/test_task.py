"""What a job does on its node, with real processes: it tells how its worker ended, and passes on signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tokensweep.ledger import Attempt, Kind, Status, read_run

# Runs a task in this process; its worker is the stand-in.
_START = """
import subprocess, sys
from pathlib import Path
from tokensweep.cluster.task import Task
real = subprocess.Popen
def popen(command, **options):
    if "tokensweep.worker" in command:
        command = [command[0], sys.argv[2], *command[3:]]
    return real(command, **options)
subprocess.Popen = popen
Task(Path(sys.argv[1]))(0)
"""

# Stands in for tokensweep.worker: what it does is written in the run's folder.
_WORKER = """
import json, os, signal, sys, time
from pathlib import Path
from tokensweep.ledger import Attempt
run_dir, stage = Path(sys.argv[1]), sys.argv[2]
script = json.loads((run_dir / "script.json").read_text())
attempt = Attempt.open(run_dir)
asked = []
for number in (signal.SIGTERM, signal.SIGUSR2):
    signal.signal(number, lambda received, _: asked.append(received))
for word in script[min(attempt.number, len(script) - 1)]:
    if word == "train":
        attempt.metrics(1, {"reward": 1.0})
        attempt.event("trained", step=1)
    elif word == "checkpoint":
        attempt.event("checkpoint", step=attempt.number + 1)
    elif word == "evaluate":
        for e in json.loads((run_dir / "plan.json").read_text())["evals"]:
            attempt.event("evaluated", suite="s", eval_id=e["eval_id"], num_samples=e["num_samples"])
    elif word == "finish":
        attempt.event("finished")
    elif word == "raise":
        attempt.event("failed", error="boom", **{"class": "other"})
        sys.exit(1)
    elif word == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif word == "hang":
        time.sleep(600)
    elif word == "wait":
        (run_dir / "waiting").touch()
        while not asked:
            time.sleep(0.02)
        attempt.event("checkpoint", step=attempt.number + 1)
        attempt.event("preempted")
        sys.exit(75)
"""


@pytest.fixture
def task(tmp_path: Path) -> Iterator[Callable[..., tuple[subprocess.Popen[str], Path]]]:
    """Starts a task over one run whose worker follows a script; its scontrol notes what it is told."""
    started: list[subprocess.Popen[str]] = []

    def start(*script: list[str], stage: str = "train", **wanted: Any) -> tuple[subprocess.Popen[str], Path]:
        run_dir = tmp_path / "store" / "runs" / "r1"
        submission = tmp_path / "store" / "sweeps" / "s" / "submissions" / "0000"
        stand_in, binaries = tmp_path / "stand_in.py", tmp_path / "bin"
        for folder in (run_dir, submission, binaries):
            folder.mkdir(parents=True, exist_ok=True)
        (run_dir / "plan.json").write_text(json.dumps({"evals": [{"eval_id": "e1", "num_samples": 4}]}))
        (run_dir / "script.json").write_text(json.dumps(script))
        stand_in.write_text(_WORKER)
        scontrol = binaries / "scontrol"
        scontrol.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/scontrol.log\nkill -KILL $PPID\n')
        scontrol.chmod(0o755)
        content = {
            "stage": stage,
            "tasks": [["r1"]],
            "minutes": 60,
            "signal_s": 20,
            "restarts": 1,
            "runs": {"r1": {"threads": 1, "hang_s": 0}},
            **wanted,
        }
        (submission / "submission.json").write_text(json.dumps(content))
        environment = {"PYTHONPATH": ":".join(sys.path), "PATH": f"{binaries}:{os.environ['PATH']}"}
        process = subprocess.Popen(
            [sys.executable, "-c", _START, str(submission), str(stand_in)],
            env={**os.environ, **environment, "SLURM_JOB_ID": "12"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        return process, run_dir

    yield start
    for process in started:
        process.kill()
        process.communicate()


def until(path: Path) -> None:
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.02)


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    output, _ = process.communicate(timeout=60)
    return process.returncode, output


def test_a_run_that_is_trained_ends_its_task_well(task: Any) -> None:
    process, run_dir = task(["train", "finish"])
    assert ended(process)[0] == 0
    assert read_run(run_dir).trained_step == 1


def test_an_evaluation_ends_when_all_samples_are_there(task: Any) -> None:
    train, run_dir = task(["train", "finish"], ["evaluate", "finish"])
    assert ended(train)[0] == 0
    evaluation, _ = task(["train", "finish"], ["evaluate", "finish"], stage="evaluate")
    assert ended(evaluation)[0] == 0
    assert read_run(run_dir).evaluated == {"e1": 4}


def test_a_run_whose_training_failed_is_not_evaluated_and_keeps_its_reason(task: Any) -> None:
    train, run_dir = task(["raise"])
    assert ended(train)[0] == 1
    evaluation, _ = task(["raise"], stage="evaluate")
    code, output = ended(evaluation)
    assert code == 1
    assert "r1 is not evaluated: its training did not end well" in output
    record = read_run(run_dir)
    assert (record.attempts, record.error) == (1, "boom")


def test_a_finished_run_starts_no_worker(task: Any, tmp_path: Path) -> None:
    run_dir = tmp_path / "store" / "runs" / "r1"
    with Attempt.open(run_dir) as attempt:
        attempt.event(Kind.trained, step=1)
    process, _ = task(["raise"])
    assert ended(process)[0] == 0
    assert read_run(run_dir).attempts == 1


def test_a_run_that_raises_fails_its_task_and_is_not_tried_again(task: Any) -> None:
    process, run_dir = task(["raise"])
    code, output = ended(process)
    assert code == 1
    assert "r1 failed (other): boom" in output
    assert read_run(run_dir).attempts == 1


def test_a_worker_that_was_killed_is_started_once_more(task: Any) -> None:
    process, run_dir = task(["kill"], ["train", "finish"])
    assert ended(process)[0] == 0
    record = read_run(run_dir)
    assert (record.attempts, record.status) == (2, Status.finished)


def test_a_worker_that_is_killed_again_fails_its_run_with_the_signal(task: Any) -> None:
    process, run_dir = task(["kill"])
    assert ended(process)[0] == 1
    record = read_run(run_dir)
    assert (record.status, record.error_class, record.attempts) == (Status.failed, "killed", 2)
    assert record.error is not None
    assert "SIGKILL" in record.error


def test_a_worker_that_hangs_is_ended_and_said_to_hang(task: Any) -> None:
    process, run_dir = task(["checkpoint", "hang"], runs={"r1": {"threads": 1, "hang_s": 1}}, restarts=0)
    assert ended(process)[0] == 1
    record = read_run(run_dir)
    assert (record.status, record.error_class, record.durable_step) == (Status.failed, "hang", 1)


def test_a_worker_that_leaves_without_finishing_is_not_taken_for_finished(task: Any) -> None:
    process, run_dir = task([])
    assert ended(process)[0] == 1
    assert read_run(run_dir).error_class == "unfinished"


def test_a_worker_that_leaves_unfinished_after_a_checkpoint_is_not_started_for_ever(task: Any) -> None:
    process, run_dir = task(["checkpoint"])
    assert ended(process)[0] == 1
    record = read_run(run_dir)
    assert (record.error_class, record.attempts) == ("unfinished", 1)


def test_a_warning_signal_ends_in_a_checkpoint_and_a_requeue(task: Any, tmp_path: Path) -> None:
    process, run_dir = task(["wait"])
    until(run_dir / "waiting")
    process.send_signal(signal.SIGUSR2)
    ended(process)
    assert (tmp_path / "scontrol.log").read_text() == "requeue 12\n"
    record = read_run(run_dir)
    assert (record.status, record.durable_step, record.preempted) == (Status.interrupted, 1, 1)


def test_a_task_of_an_array_requeues_itself_alone(
    task: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The last task of an array has the array's own number, by which scontrol would requeue all of them.
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "12")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    process, run_dir = task(["wait"])
    until(run_dir / "waiting")
    process.send_signal(signal.SIGUSR2)
    ended(process)
    assert (tmp_path / "scontrol.log").read_text() == "requeue 12_3\n"


def test_a_termination_ends_in_a_checkpoint_and_never_in_a_requeue(task: Any, tmp_path: Path) -> None:
    process, run_dir = task(["wait"])
    until(run_dir / "waiting")
    process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + 30
    while read_run(run_dir).preempted == 0:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(1.5)
    assert process.poll() is None  # who leaves before SLURM ends the job is taken for finished
    assert not (tmp_path / "scontrol.log").exists()


def test_a_worker_that_does_not_stop_in_time_is_ended_and_the_job_requeued(task: Any, tmp_path: Path) -> None:
    process, run_dir = task(["checkpoint", "hang"], signal_s=7)
    deadline = time.monotonic() + 30
    while read_run(run_dir).durable_step == 0:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGUSR2)
    ended(process)
    assert (tmp_path / "scontrol.log").exists()


def test_a_time_limit_without_a_checkpoint_fails_the_run_instead_of_going_on_for_ever(
    task: Any, tmp_path: Path
) -> None:
    process, run_dir = task(["hang"], minutes=0, signal_s=6)
    while not read_run(run_dir).attempts:
        time.sleep(0.05)
    process.send_signal(signal.SIGUSR2)
    assert ended(process)[0] == 1
    record = read_run(run_dir)
    assert record.error_class == "timeout"
    assert record.error is not None
    assert "lower checkpoint.every" in record.error
    assert not (tmp_path / "scontrol.log").exists()


def test_a_task_waits_for_another_job_that_works_on_its_run(task: Any, tmp_path: Path) -> None:
    run_dir = tmp_path / "store" / "runs" / "r1"
    with Attempt.open(run_dir) as attempt:
        process, _ = task(["raise"])
        time.sleep(2)
        assert process.poll() is None
        attempt.event(Kind.trained, step=1)
    assert ended(process)[0] == 0
    assert read_run(run_dir).attempts == 1
