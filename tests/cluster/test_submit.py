"""A shell may die anywhere while it submits: the same command then submits the rest, and nothing twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import submitit
from tests.cluster.commanding import command, die_at, end_of, in_process, plan_of
from tests.cluster.fake_slurm import FakeSlurm
from tests.cluster.made_up import Store

from tokensweep import entries
from tokensweep import plan as planning
from tokensweep.cluster import launch, retry, sbatch, submit
from tokensweep.cluster.reconcile import State, look
from tokensweep.cluster.scheduler import Scheduler, SlurmError
from tokensweep.cluster.submission import submissions
from tokensweep.plan import Plan, write_plan

_RUNS = ("r0", "r1", "r2")


@dataclass(frozen=True)
class _Code:
    """A snapshot that nobody reads."""

    folder: Path

    @property
    def environment(self) -> Mapping[str, str]:
        return {"PYTHONPATH": str(self.folder)}


@pytest.fixture(autouse=True)
def _no_code_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "take_snapshot", lambda store: _Code(store / "snapshots" / "c0de"))
    monkeypatch.setattr(retry, "open_snapshot", _Code)


def is_named(name: str) -> Callable[..., bool]:
    return lambda path, *_: path.name == name


def is_stage(stage: str) -> Callable[..., bool]:
    return lambda *_, **more: more["stage"] == stage


def killed(plan: Plan, *point: Any, **more: Any) -> None:
    """The command, killed at a point."""

    def work() -> None:
        die_at(*point, **more)
        command(plan)

    assert end_of(in_process(work)) == -signal.SIGKILL


def living(store: Store, slurm: FakeSlurm, *run_ids: str) -> dict[str, list[int]]:
    """How many living tasks each run has per stage, by what is recorded; and all in SLURM's queue."""
    queue = look(store.path, Scheduler())
    found = {
        stage: [sum(seat.alive for seat in queue.of(stage, run_id)) for run_id in run_ids]
        for stage in ("train", "evaluate")
    }
    return {**found, "report": [len(queue.reports)], "queue": [len(slurm.living())]}


ONCE = {"train": [1, 1, 1], "evaluate": [1, 1, 1], "report": [1], "queue": [7]}

_POINTS: dict[str, tuple[Any, ...]] = {
    "before the first plan is written": (planning, "write_json", is_named("plan.json")),
    "between run folders": (planning, "write_json", is_named("plan.json"), 1),
    "after run folders": (entries, "write_json", is_named("sweep.json")),
    "before anything is recorded": (submit, "new_submission"),
    "after submission.json": (submit, "submit"),
    "as the batch file is written": (submitit.SlurmExecutor, "_make_submission_file_text"),
    "after sbatch, before the pickles are renamed": (submitit.core.utils.JobPaths, "move_temporary_file"),
    "after sbatch, before job.json": (submit, "record_job"),
    "between training and evaluation": (submit, "new_submission", is_stage("evaluate")),
    "after submission.json of the evaluation": (submit, "submit", lambda *a, **k: True, 1),
    "after sbatch of the evaluation": (submit, "record_job", lambda *a, **k: True, 1),
    "before the report": (submit, "new_submission", is_stage("report")),
    "after sbatch of the report": (submit, "record_job", lambda *a, **k: True, 2),
    "after all": (launch, "show_submissions"),
}


@pytest.mark.parametrize("point", _POINTS)
def test_after_a_kill_the_same_command_submits_the_rest_and_nothing_twice(
    store: Store, slurm: FakeSlurm, point: str
) -> None:
    plan = plan_of(store, *_RUNS)
    module, name, *more = _POINTS[point]
    killed(plan, module, name, **dict(zip(("where", "after"), more, strict=False)))
    command(plan)
    assert living(store, slurm, *_RUNS) == ONCE
    assert command(plan).startswith("nothing to submit: the jobs of all missing runs are in the queue")
    assert living(store, slurm, *_RUNS) == ONCE
    assert all(one.job_id or one.ended for one in submissions(store.path))


def test_a_submission_that_was_killed_before_sbatch_is_marked_not_submitted(
    store: Store, slurm: FakeSlurm
) -> None:
    plan = plan_of(store, *_RUNS)
    killed(plan, submit, "submit")
    assert store.state("r0").state == State.planned
    command(plan)
    first = next(iter(submissions(store.path)))
    assert (first.job_id, first.ended) == (None, {str(task): "NOT_SUBMITTED" for task in range(3)})


def test_an_sbatch_that_outlives_its_shell_is_waited_for(store: Store, slurm: FakeSlurm) -> None:
    plan = plan_of(store, *_RUNS)
    (slurm.folder / "sbatch.wait").touch()
    first = in_process(lambda: command(plan))
    until(lambda: bool(slurm.calls("sbatch")))
    os.kill(first, signal.SIGKILL)
    end_of(first)
    assert store.state("r0").state == State.queued  # not given up while its sbatch works
    second = in_process(lambda: command(plan))
    time.sleep(0.5)
    (slurm.folder / "sbatch.wait").unlink()
    assert end_of(second) == 0
    assert living(store, slurm, *_RUNS) == ONCE


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_two_that_submit_at_once_make_one_set_of_jobs(store: Store, slurm: FakeSlurm) -> None:
    plan = plan_of(store, *_RUNS)
    both = [in_process(lambda: command(plan)) for _ in range(2)]
    assert [end_of(child) for child in both] == [0, 0]
    assert living(store, slurm, *_RUNS) == ONCE


def test_tasks_that_never_found_their_pickle_are_failed_and_submitted_again(
    store: Store, slurm: FakeSlurm
) -> None:
    plan = plan_of(store, *_RUNS)
    killed(plan, submitit.core.utils.JobPaths, "move_temporary_file")
    command(plan)
    # What SLURM does with them: the trainings leave with an error, what depends on them is cancelled.
    slurm.tell(slurm.jobs("-train-")[0]["job"], state="FAILED", queue=False, accounting=True)
    slurm.tell(slurm.jobs("-evaluate-")[0]["job"], state="CANCELLED", queue=False, accounting=True)
    state = store.state("r1")
    assert (state.state, state.error_class) == (State.failed, "submission")
    assert state.reason == "the job ended before a worker had begun: tokensweep logs RUN --job"
    command(plan)
    assert living(store, slurm, *_RUNS)["train"] == [1, 1, 1]
    assert living(store, slurm, *_RUNS)["evaluate"] == [1, 1, 1]


@pytest.mark.parametrize("words", ["Invalid qos", "Job violates accounting/QOS policy", "Invalid partition"])
def test_what_sbatch_refuses_with_is_said_and_the_next_call_goes_on(
    store: Store, slurm: FakeSlurm, words: str
) -> None:
    plan = plan_of(store, *_RUNS)
    slurm.set(refusal=words)
    with pytest.raises(ValueError, match=f"sbatch refused the job: .*{words}"):
        command(plan)
    assert store.state("r0").state == State.planned
    slurm.set(refusal="")
    command(plan)
    assert living(store, slurm, *_RUNS) == ONCE


def test_a_refusal_in_the_middle_leaves_what_was_submitted(
    store: Store, slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(store, *_RUNS)
    with monkeypatch.context() as refusing:
        real = sbatch.submit

        def only_trainings(made: Any, *arguments: Any, **more: Any) -> str:
            slurm.set(refusal="" if "-train-" in made.parameters["job_name"] else "QOSMaxSubmitJobPerUser")
            return real(made, *arguments, **more)

        refusing.setattr(submit, "submit", only_trainings)
        with pytest.raises(ValueError, match="QOSMaxSubmitJobPerUser"):
            command(plan)
    slurm.set(refusal="")
    assert Counter(job["name"].split("-")[2] for job in slurm.jobs()) == {"train": 3}
    command(plan)
    assert living(store, slurm, *_RUNS) == ONCE


def test_an_sbatch_that_complained_although_its_job_was_taken_submits_nothing_twice(
    store: Store, slurm: FakeSlurm
) -> None:
    plan = plan_of(store, *_RUNS)
    slurm.set(refusal="Socket timed out on send/recv operation")
    with pytest.raises(ValueError, match="Socket timed out"):
        command(plan)
    slurm.set(refusal="")
    slurm.add(next(iter(submissions(store.path))).job_name, 3)  # slurmctld was only late
    command(plan)
    assert living(store, slurm, *_RUNS) == ONCE


def test_a_complete_sweep_asks_slurm_nothing(store: Store, slurm: FakeSlurm) -> None:
    write_plan(plan_of(store, *_RUNS))
    for run_id in _RUNS:
        store.run(run_id, ["train", "evaluate", "finished"])
    slurm.set(down=True)
    assert command(plan_of(store, *_RUNS)) == ""
    assert slurm.calls() == []


def test_a_silent_slurm_gets_nothing_submitted(store: Store, slurm: FakeSlurm) -> None:
    plan = plan_of(store, *_RUNS)
    command(plan)
    slurm.set(down=True)
    with pytest.raises(SlurmError, match="Unable to contact slurm controller"):
        command(plan_of(store, *_RUNS, "r3"))
    slurm.set(down=False)
    assert len(slurm.jobs()) == 7
    command(plan_of(store, *_RUNS, "r3"))
    assert Counter(job["name"].split("-")[2] for job in slurm.jobs()) == {
        "train": 4,
        "evaluate": 4,
        "report": 2,
    }


def test_a_full_queue_is_refused_with_what_to_do_and_records_nothing(store: Store, slurm: FakeSlurm) -> None:
    slurm.add("of another project", 8)
    slurm.set(limit=10)
    with pytest.raises(ValueError, match="at least 3 more jobs of yours for this sweep, and has room for 2"):
        command(plan_of(store, *_RUNS))
    assert list(submissions(store.path)) == []


def test_runs_share_tasks_where_there_is_little_room(store: Store, slurm: FakeSlurm) -> None:
    slurm.add("of another project", 5)
    slurm.set(limit=10)
    # 5 places for 3 runs: a task of each stage and the report take 3; 2 more for 6 tasks are none per stage.
    command(plan_of(store, *_RUNS))
    assert [one.tasks for one in submissions(store.path)] == [(_RUNS,), (_RUNS,), ((),)]
    assert len(slurm.living()) == 5 + 3


def test_a_new_seed_adds_its_own_jobs_and_a_report(store: Store, slurm: FakeSlurm) -> None:
    command(plan_of(store, *_RUNS))
    command(plan_of(store, *_RUNS, "r3"))
    assert living(store, slurm, *_RUNS, "r3") == {
        "train": [1, 1, 1, 1],
        "evaluate": [1, 1, 1, 1],
        "report": [2],
        "queue": [10],
    }


def test_more_samples_of_finished_runs_are_evaluations_only(store: Store, slurm: FakeSlurm) -> None:
    write_plan(plan_of(store, *_RUNS))
    for run_id in _RUNS:
        store.run(run_id, ["train", "evaluate", "finished"])
    command(plan_of(store, *_RUNS, samples=8))
    assert [(one.stage, len(one.tasks)) for one in submissions(store.path)] == [
        ("evaluate", 3),
        ("report", 1),
    ]


def test_a_run_of_two_sweeps_is_trained_once_and_reported_in_both(store: Store, slurm: FakeSlurm) -> None:
    command(plan_of(store, *_RUNS))
    command(plan_of(store, *_RUNS, name="other"))
    assert living(store, slurm, *_RUNS) == {**ONCE, "report": [2], "queue": [8]}


def test_retry_submits_what_is_neither_finished_nor_in_the_queue(store: Store, slurm: FakeSlurm) -> None:
    plan = plan_of(store, "done", "nan", "waits", "trained")
    command(plan)
    job = slurm.jobs("-train-")[0]["job"]
    store.run("done", ["train", "left"], ["evaluate", "finished"])
    store.run("nan", ["failed"])
    store.run("trained", ["train", "left"])
    for task, state in {0: "COMPLETED", 1: "FAILED", 3: "COMPLETED"}.items():
        slurm.tell(f"{job}_{task}", state=state)
    evaluation = slurm.jobs("-evaluate-")[0]["job"]
    for task, state in {0: "COMPLETED", 1: "CANCELLED", 3: "OUT_OF_MEMORY"}.items():
        slurm.tell(f"{evaluation}_{task}", state=state)
    made = retry.retry(store.path, "s", tracking_uri="", scheduler=Scheduler())
    assert [(one.stage, one.tasks) for one in made] == [
        ("train", (("nan",),)),
        ("evaluate", (("nan",),)),
        ("evaluate", (("trained",),)),
        ("report", ((),)),
    ]
    assert {one.snapshot for one in made} == {str(store.path / "snapshots" / "c0de")}
    assert made[0].attempts == {"nan": 1}
    assert retry.retry(store.path, "s", tracking_uri="", scheduler=Scheduler()) == []


def test_retry_refuses_a_sweep_that_was_never_submitted(store: Store, slurm: FakeSlurm) -> None:
    write_plan(plan_of(store, *_RUNS))
    with pytest.raises(ValueError, match="s was never submitted to a cluster: give the sweep's own command"):
        retry.retry(store.path, "s", tracking_uri="", scheduler=Scheduler())


_COMMAND = (
    *("train", "-m", "method=grpo", "seed=0,1", "hydra/launcher=slurm", "site=devcluster", "sweep=s"),
    *("data.steps=1", "data.size=64", "steps=2", "eval.held_out=4"),
)


@pytest.mark.slow
def test_the_command_line_says_why_nothing_was_submitted_and_leaves_with_2(
    store: Store, slurm: FakeSlurm
) -> None:
    def call() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "tokensweep.cli", *_COMMAND, f"store={store.path}"],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=False,
        )

    slurm.set(down=True)
    done = call()
    assert done.returncode == 2
    assert "Unable to contact slurm controller" in done.stderr
    slurm.set(down=False, refusal="Invalid partition name specified")
    done = call()
    assert done.returncode == 2
    assert "sbatch refused the job" in done.stderr
    assert "Invalid partition name specified" in done.stderr
    assert "Traceback" not in done.stderr
    slurm.set(refusal="")
    done = call()
    assert done.returncode == 0, done.stderr
    assert len(slurm.living()) == 2 + 2 + 1
