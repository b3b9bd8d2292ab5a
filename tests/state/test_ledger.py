"""The state of a run is what its ledger says, and a dead process is seen to be dead."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tokensweep.files import JsonLines
from tokensweep.ledger import Attempt, Status, is_alive, read_events, read_metrics, read_run

_WORKER = """
import sys, time
from pathlib import Path
from tokensweep.ledger import Attempt
attempt = Attempt.open(Path(sys.argv[1]))
attempt.metrics(1, {"reward": 0.5})
attempt.event("checkpoint", step=1)
attempt.metrics(2, {"reward": 0.6})
print("ready", flush=True)
time.sleep(60)
"""


def _train(run: Path, *, steps: range, value: float) -> None:
    with Attempt.open(run) as attempt:
        for step in steps:
            attempt.metrics(step, {"reward": value})


def test_a_folder_without_attempts_is_a_planned_run(tmp_path: Path) -> None:
    record = read_run(tmp_path / "run")
    assert (record.status, record.attempts, record.trained_step, record.started) == (
        Status.planned,
        0,
        None,
        None,
    )


def test_a_run_goes_from_running_to_finished(tmp_path: Path) -> None:
    with Attempt.open(tmp_path) as attempt:
        attempt.metrics(1, {"reward": 0.5})
        attempt.event("trained", step=1)
        attempt.event("evaluated", suite="ops", eval_id="e1", num_samples=4)
        attempt.event("evaluated", suite="ops", eval_id="e1", num_samples=8)
        attempt.event("finished")
        assert read_run(tmp_path).status == Status.running
    record = read_run(tmp_path)
    assert record.status == Status.finished
    assert (record.last_step, record.trained_step, record.durable_step) == (1, 1, 1)
    assert record.evaluated == {"e1": 8}
    assert read_events(tmp_path)[0]["kind"] == "started"


def test_a_failed_run_says_why_and_a_later_attempt_clears_it(tmp_path: Path) -> None:
    with Attempt.open(tmp_path) as attempt:
        attempt.failed(ValueError("lr must be positive, got -1"))
    record = read_run(tmp_path)
    assert (record.status, record.error, record.error_class) == (
        Status.failed,
        "lr must be positive, got -1",
        "ValueError",
    )
    with Attempt.open(tmp_path) as attempt:
        attempt.event("finished")
    record = read_run(tmp_path)
    assert (record.status, record.error, record.attempts) == (Status.finished, None, 2)


def test_a_second_attempt_on_a_living_run_is_refused_with_the_owner(tmp_path: Path) -> None:
    with Attempt.open(tmp_path), pytest.raises(RuntimeError, match=rf"worked on by process {os.getpid()} on"):
        Attempt.open(tmp_path)
    assert len(list((tmp_path / "attempts").iterdir())) == 1


def test_an_unknown_kind_of_event_is_refused(tmp_path: Path) -> None:
    with Attempt.open(tmp_path) as attempt, pytest.raises(ValueError, match="'done' is not a valid Kind"):
        attempt.event("done")


def test_a_killed_worker_leaves_an_interrupted_run_that_the_next_attempt_takes_up(tmp_path: Path) -> None:
    worker = subprocess.Popen(
        [sys.executable, "-c", _WORKER, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert worker.stdout is not None
    with worker.stdout:
        assert worker.stdout.readline() == "ready\n"
        assert is_alive(tmp_path)
        worker.send_signal(signal.SIGKILL)
        worker.wait()
    record = read_run(tmp_path)
    assert (record.status, record.last_step, record.durable_step) == (Status.interrupted, 2, 1)
    assert record.ended is not None
    with Attempt.open(tmp_path) as attempt:
        assert attempt.number == 1


def test_a_later_attempt_replaces_metrics_from_its_first_step_on(tmp_path: Path) -> None:
    _train(tmp_path, steps=range(1, 8), value=0.1)
    _train(tmp_path, steps=range(4, 6), value=0.2)  # took up after the checkpoint of step 3
    rows = read_metrics(tmp_path)
    assert [(row["step"], row["attempt"]) for row in rows] == [(1, 0), (2, 0), (3, 0), (4, 1), (5, 1)]


def test_an_attempt_without_metrics_replaces_nothing(tmp_path: Path) -> None:
    _train(tmp_path, steps=range(1, 3), value=0.1)
    _train(tmp_path, steps=range(0), value=0.2)
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2]


def test_a_folder_that_somebody_claimed_first_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "attempts" / "000").mkdir(parents=True)
    with Attempt.open(tmp_path) as attempt:
        assert attempt.number == 1


def test_a_torn_last_event_is_not_seen(tmp_path: Path) -> None:
    with Attempt.open(tmp_path) as attempt:
        attempt.event("finished")
    ledger = tmp_path / "attempts" / "000" / "events.jsonl"
    ledger.write_bytes(ledger.read_bytes()[:-3])
    assert read_run(tmp_path).status == Status.interrupted


def test_a_full_disk_is_recorded_as_the_reason_of_the_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The disk is full as long as the space that the attempt set aside is not given back.
    append = JsonLines.append

    def full(self: JsonLines, row: dict[str, object]) -> None:
        if (self.path.parent / ".reserve").exists():
            raise OSError(errno.ENOSPC, f"{self.path} could not be written (No space left on device)")
        append(self, row)

    with Attempt.open(tmp_path) as attempt:
        monkeypatch.setattr(JsonLines, "append", full)
        with pytest.raises(OSError, match="No space left on device") as caught:
            attempt.metrics(1, {"reward": 0.5})
        attempt.failed(caught.value, error_class="disk")
    record = read_run(tmp_path)
    assert (record.status, record.error_class) == (Status.failed, "disk")
    assert "metrics.jsonl could not be written (No space left on device)" in str(record.error)
    assert not list(tmp_path.glob("attempts/*/.reserve"))


def test_device_time_counts_every_device_of_an_attempt(tmp_path: Path) -> None:
    for number, (devices, start, end) in enumerate([(1, 0, 10), (4, 20, 25)]):
        with Attempt.open(tmp_path / "run", devices=devices) as attempt:
            folder = attempt.folder
        events = [
            {"time": float(start), "kind": "started", "attempt": number, "devices": devices},
            {"time": float(end), "kind": "checkpoint", "attempt": number, "step": 1},
        ]
        (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    record = read_run(tmp_path / "run")
    # 10 s on one device and 5 s on four.
    assert (record.seconds, record.device_seconds) == (15.0, 30.0)
