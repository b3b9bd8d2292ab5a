"""The worker: from a run folder to a trained and evaluated run, or to a reason why not."""

from __future__ import annotations

import errno
import json
import pickle
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tokensweep.identity import code_sha, digest
from tokensweep.ledger import Attempt, Kind, Status, read_events, read_metrics, read_run
from tokensweep.train.setup import DataError
from tokensweep.train.trainer import PreemptedError
from tokensweep.train.update import NonFiniteError
from tokensweep.worker import PREEMPTED, Failure, RunJob, Stage, classify, start_worker
from tokensweep_analysis.samples import read_samples

Make = Callable[..., dict[str, Any]]


def planned(store: Path, config: dict[str, Any], *, num_samples: int = 2) -> Path:
    """A run folder as the planner leaves it, with one suite."""
    run_dir = store / "runs" / "r1"
    run_dir.mkdir(parents=True, exist_ok=True)
    entry = {
        "suite": "even",
        "eval_id": "e1",
        "source": {"_component_": "data/test_even", "size": 3},
        "revision": "even3",
        "step": config["steps"],
        "num_samples": num_samples,
        "k": [1, 2],
        "seed": 0,
        "sampling": {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_tokens": 3},
    }
    plan = {
        "run_id": "r1",
        "config_sha": digest(config),
        "code_sha": code_sha(),
        "steps": config["steps"],
        "evals": [entry],
        "created": time.time(),
    }
    (run_dir / "config.json").write_text(json.dumps(config))
    (run_dir / "plan.json").write_text(json.dumps(plan))
    return run_dir


def kinds(run_dir: Path) -> list[str]:
    return [event["kind"] for event in read_events(run_dir)]


def test_code_that_changed_since_the_plan_trains_nothing(tmp_path: Path, small_config: Make) -> None:
    run_dir = planned(tmp_path, small_config())
    plan = json.loads((run_dir / "plan.json").read_text())
    (run_dir / "plan.json").write_text(json.dumps({**plan, "code_sha": "another"}))
    with pytest.raises(ValueError, match=r"the code changed after the run was planned"):
        RunJob(run_dir)()
    assert read_run(run_dir).error_class == "bad_config"
    assert read_metrics(run_dir) == []


def test_a_job_trains_evaluates_and_says_that_it_finished(tmp_path: Path, small_config: Make) -> None:
    run_dir = planned(tmp_path, small_config())
    RunJob(run_dir)()
    assert kinds(run_dir) == ["started", "checkpoint", "trained", "evaluated", "finished"]
    record = read_run(run_dir)
    assert (record.status, record.trained_step, record.evaluated) == (Status.finished, 2, {"e1": 2})
    assert len(read_samples([run_dir / "evals" / "even-e1"])) == 6
    assert "even: avg@2" in (run_dir / "attempts" / "000" / "log.txt").read_text()


def test_a_finished_run_is_not_computed_again(tmp_path: Path, small_config: Make) -> None:
    run_dir = planned(tmp_path, small_config())
    RunJob(run_dir)()
    RunJob(run_dir)()
    assert kinds(run_dir)[5:] == ["started", "finished"]


def test_more_samples_are_drawn_without_training_again(tmp_path: Path, small_config: Make) -> None:
    run_dir = planned(tmp_path, small_config())
    RunJob(run_dir)()
    planned(tmp_path, small_config(), num_samples=3)
    RunJob(run_dir)()
    assert kinds(run_dir)[5:] == ["started", "evaluated", "finished"]
    assert read_run(run_dir).evaluated == {"e1": 3}


def test_a_failed_job_says_why_and_raises(tmp_path: Path, small_config: Make) -> None:
    run_dir = planned(tmp_path, small_config(data={"_component_": "data/test_even", "spoilt": True}))
    with pytest.raises(DataError, match="the problems are spoilt"):
        RunJob(run_dir)()
    failed = read_events(run_dir)[-1]
    assert (failed["kind"], failed["class"]) == ("failed", "data")
    assert failed["error"] == "the problems are spoilt: fetch them again"
    assert "Traceback" in (run_dir / "attempts" / "000" / "log.txt").read_text()


def test_a_failed_run_continues_when_it_is_started_again(
    tmp_path: Path, small_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = planned(tmp_path, small_config())
    with monkeypatch.context() as broken:
        broken.setattr("tokensweep.evaluate.evaluate", _out_of_space)
        with pytest.raises(OSError, match="No space left"):
            RunJob(run_dir)()
    assert read_events(run_dir)[-1]["class"] == "disk"
    RunJob(run_dir)()
    assert kinds(run_dir)[-3:] == ["started", "evaluated", "finished"]


def _out_of_space(*args: Any, **kwargs: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_job_that_is_stopped_by_hand_is_interrupted_and_not_failed(
    tmp_path: Path, small_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = planned(tmp_path, small_config())
    monkeypatch.setattr("tokensweep.evaluate.evaluate", _stopped)
    with pytest.raises(KeyboardInterrupt, match="by hand"):
        RunJob(run_dir)()
    assert read_run(run_dir).status == Status.interrupted


def _stopped(*args: Any, **kwargs: Any) -> None:
    raise KeyboardInterrupt("by hand")


def test_a_config_that_was_changed_after_planning_is_refused(tmp_path: Path, small_config: Make) -> None:
    run_dir = planned(tmp_path, small_config())
    (run_dir / "config.json").write_text(json.dumps(small_config(seed=1)))
    with pytest.raises(ValueError, match="was changed after it was planned"):
        RunJob(run_dir)()
    assert read_events(run_dir)[-1]["class"] == "bad_config"


def test_a_run_that_is_being_worked_on_is_left_alone(tmp_path: Path, small_config: Make) -> None:
    run_dir = planned(tmp_path, small_config())
    with Attempt.open(run_dir), pytest.raises(RuntimeError, match="is being worked on by process"):
        RunJob(run_dir)()


def test_a_trained_run_without_its_checkpoint_is_refused(tmp_path: Path, small_config: Make) -> None:
    run_dir = planned(tmp_path, small_config())
    with Attempt.open(run_dir) as attempt:
        attempt.event(Kind.trained, step=2)
    with pytest.raises(ValueError, match="is missing although the run is trained"):
        RunJob(run_dir)()


def test_a_trained_run_waits_for_its_evaluation_and_another_stage_adds_it(
    tmp_path: Path, small_config: Make
) -> None:
    run_dir = planned(tmp_path, small_config())
    RunJob(run_dir, Stage.train)()
    record = read_run(run_dir)
    assert (record.status, record.trained_step, record.evaluated) == (Status.trained, 2, {})
    RunJob(run_dir, Stage.evaluate)()
    record = read_run(run_dir)
    assert (record.status, record.evaluated) == (Status.finished, {"e1": 2})


def test_the_training_of_an_evaluated_run_leaves_nothing_for_later(
    tmp_path: Path, small_config: Make
) -> None:
    run_dir = planned(tmp_path, small_config())
    RunJob(run_dir)()
    RunJob(run_dir, Stage.train)()
    assert read_run(run_dir).status == Status.finished


def test_a_run_that_is_not_trained_is_not_evaluated(tmp_path: Path, small_config: Make) -> None:
    run_dir = planned(tmp_path, small_config())
    with pytest.raises(ValueError, match="r1 must be trained before it is evaluated"):
        RunJob(run_dir, Stage.evaluate)()


def test_a_job_that_is_asked_to_stop_leaves_a_checkpoint_of_its_last_step(
    tmp_path: Path, small_config: Make
) -> None:
    run_dir = planned(tmp_path, small_config(steps=4, checkpoint={"every": 4, "keep": 1}))
    asked = iter([False, True])  # before the first step, before the second
    with pytest.raises(PreemptedError, match="asked to stop after step 1 of 4"):
        RunJob(run_dir)(should_stop=lambda: next(asked))
    record = read_run(run_dir)
    assert (record.status, record.durable_step, record.preempted) == (Status.interrupted, 1, 1)
    RunJob(run_dir)()
    assert [row["step"] for row in read_metrics(run_dir)] == [1, 2, 3, 4]
    assert read_run(run_dir).status == Status.finished


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_a_worker_that_is_signalled_says_that_it_can_be_continued(
    tmp_path: Path, small_config: Make, number: signal.Signals
) -> None:
    run_dir = planned(tmp_path, small_config(steps=100000, data={"_component_": "data/ops"}))
    worker = start_worker(run_dir, threads=1)
    while not read_metrics(run_dir):
        assert worker.poll() is None
        time.sleep(0.05)
    worker.send_signal(number)
    assert worker.wait(60) == PREEMPTED
    record = read_run(run_dir)
    assert record.status == Status.interrupted
    assert record.durable_step == record.last_step


def test_a_job_survives_pickling(tmp_path: Path) -> None:
    assert pickle.loads(pickle.dumps(RunJob(tmp_path))) == RunJob(tmp_path)


def test_a_run_out_of_memory_says_where_and_what_to_change(
    tmp_path: Path, small_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory: tried to allocate 3 GiB")

    monkeypatch.setattr("tokensweep.train.trainer.Updater.update", full)
    run_dir = planned(tmp_path, small_config())
    with pytest.raises(torch.OutOfMemoryError):
        RunJob(run_dir, Stage.train)()
    event = read_events(run_dir)[-1]
    assert event["class"] == "oom"
    # 64 KB of weights and optimiser state are not in a figure with two digits after the point
    assert re.match(
        r"out of memory in the phase update: planned 0\.00 GB of \d+\.\d\d for update; lower "
        r"batch\.micro_tokens=20; found \d+\.\d\d GB in use at most\. CUDA out of memory: tried to "
        r"allocate 3 GiB",
        event["error"],
    )


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), Failure.oom),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), Failure.oom),
        (MemoryError(), Failure.oom),
        (NonFiniteError("the loss is nan"), Failure.nan),
        (DataError("bad line"), Failure.data),
        (OSError(errno.ENOSPC, "full"), Failure.disk),
        (RuntimeError("I/O error: No space left on device (os error 28)"), Failure.disk),
        (OSError(errno.ENOENT, "gone"), Failure.other),
        (ValueError("seed must be"), Failure.bad_config),
        (KeyError("oops"), Failure.other),
    ],
)
def test_a_failure_has_the_class_that_decides_what_to_do(error: Exception, failure: Failure) -> None:
    assert classify(error) is failure


def test_the_process_leaves_with_1_and_one_line_when_the_run_fails(tmp_path: Path) -> None:
    (tmp_path / "runs" / "r1").mkdir(parents=True)
    done = subprocess.run(
        [sys.executable, "-m", "tokensweep.worker", str(tmp_path / "runs" / "r1")],
        env={"PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert "plan.json is missing" in done.stderr
    assert len(done.stderr.splitlines()) == 1
