"""What is submitted: arrays within the cluster's limits, chained, never for what is in the queue."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from tokensweep.cluster.arrange import Array, Need, arrange
from tokensweep.cluster.reconcile import Queue, Seat
from tokensweep.cluster.site import Request, Site
from tokensweep.cluster.submission import Submission

_REQUEST = Request(partition="gpu", qos=None, nodes=1, gpus=1, cpus=8, mem_gb=64.0, minutes=60)
_SHORT = replace(_REQUEST, minutes=30)


def runs(count: int, **changes: object) -> list[Need]:
    """Untrained runs with one evaluation each."""
    need = Need(run_id="", trained=False, train=_REQUEST, evaluate=_SHORT, threads=1, hang_s=0)
    return [replace(need, run_id=f"r{number}", **changes) for number in range(count)]  # type: ignore[arg-type]


def arranged(
    needs: list[Need],
    *,
    queue: Queue | None = None,
    room: int = 10000,
    longest: int = 1000,
    workers: int = 0,
) -> list[Array]:
    return arrange(
        needs,
        sweep="s",
        queue=queue or Queue(),
        site=Site(),
        room=room,
        longest=longest,
        workers=workers,
    )


def in_queue(stage: str, *run_ids: str, job_id: str = "77") -> Queue:
    """A queue in which one living array works on these runs."""
    submission = submitted(stage, *run_ids, job_id=job_id)
    seats = {(stage, r): (Seat(submission=submission, index=i, job=None),) for i, r in enumerate(run_ids)}
    return Queue(seats=seats)


def submitted(stage: str, *run_ids: str, job_id: str = "77", order: int = 1, sweep: str = "s") -> Submission:
    return Submission(
        folder=Path("0000"),
        job_name="ts",
        sweep=sweep,
        stage=stage,
        order=order,
        tasks=tuple((run_id,) for run_id in run_ids),
        created=time.time(),  # SLURM need not know it yet
        snapshot=None,
        site="x",
        job_id=job_id,
    )


def test_training_evaluation_and_report_are_chained() -> None:
    train, evaluate, report = arranged(runs(3))
    assert [array.stage for array in (train, evaluate, report)] == ["train", "evaluate", "report"]
    assert train.tasks == evaluate.tasks == (("r0",), ("r1",), ("r2",))
    assert train.dependency([]) is None
    assert evaluate.dependency(["10"]) == "aftercorr:10"
    assert report.dependency(["10", "11"]) == "afterany:11"
    assert (train.request.minutes, evaluate.request.minutes, report.request.gpus) == (60, 30, 0)


def test_a_single_run_waits_for_the_success_of_its_training() -> None:
    _, evaluate, _ = arranged(runs(1))
    assert evaluate.dependency(["10"]) == "afterok:10"


def test_runs_with_other_requests_are_in_arrays_of_their_own() -> None:
    large = replace(_REQUEST, gpus=4)
    needs = [*runs(2), replace(runs(1)[0], run_id="big", train=large)]
    arrays = arranged(needs)
    assert [(a.stage, a.tasks, a.request.gpus) for a in arrays[:4]] == [
        ("train", (("r0",), ("r1",)), 1),
        ("evaluate", (("r0",), ("r1",)), 1),
        ("train", (("big",),), 4),
        ("evaluate", (("big",),), 1),
    ]
    assert arrays[3].after == (2,)
    assert arrays[4].after == (1, 3)  # the report waits for both evaluations


def test_no_array_is_longer_than_the_cluster_takes() -> None:
    arrays = arranged(runs(25), longest=10)
    assert [len(a.tasks) for a in arrays if a.stage == "train"] == [10, 10, 5]
    assert [a.after for a in arrays if a.stage == "evaluate"] == [(0,), (1,), (2,)]
    assert sum((a.tasks for a in arrays if a.stage == "train"), ()) == tuple((f"r{i}",) for i in range(25))


def test_arrays_share_the_workers_that_a_user_allows() -> None:
    arrays = arranged(runs(25), longest=10, workers=7)
    train = [a for a in arrays if a.stage == "train"]
    assert [a.throttle for a in train] == [3, 2, 2]  # 7 in all
    assert [a.after for a in train] == [(), (), ()]


def test_with_more_arrays_than_workers_some_take_turns() -> None:
    train = [a for a in arranged(runs(25), longest=5, workers=2) if a.stage == "train"]
    assert [a.throttle for a in train] == [1, 1, 1, 1, 1]
    assert [a.after for a in train] == [(), (), (0,), (1,), (2,)]
    assert train[2].dependency(["10"]) == "afterany:10"


def test_runs_share_tasks_when_the_queue_has_too_little_room() -> None:
    # 20 runs want 20 trainings, 20 evaluations and a report; 21 fit: 9 tasks of each stage, as 41 > 21.
    arrays = arranged(runs(20), room=21)
    assert sum(len(a.tasks) for a in arrays) <= 21
    train = next(a for a in arrays if a.stage == "train")
    assert sorted(run for task in train.tasks for run in task) == sorted(f"r{i}" for i in range(20))
    assert len(train.tasks) == 9
    assert train.tasks[0] == ("r0", "r9", "r18")


def test_tasks_with_several_runs_are_evaluated_even_if_one_of_them_failed() -> None:
    evaluate = next(a for a in arranged(runs(20), room=21) if a.stage == "evaluate")
    assert evaluate.dependency(["10"]) == "afterany:10"


def test_room_that_is_just_enough_is_used() -> None:
    arrays = arranged(runs(5), room=11)
    assert [len(a.tasks) for a in arrays] == [5, 5, 1]


def test_a_full_queue_is_refused_with_what_to_do() -> None:
    with pytest.raises(ValueError, match="at least 3 more jobs of yours for this sweep, and has room for 2"):
        arranged(runs(4), room=2)


def test_nothing_is_submitted_for_what_is_in_the_queue() -> None:
    seats = {**in_queue("train", "r0", "r1").seats, **in_queue("evaluate", "r0", "r1", job_id="78").seats}
    report = submitted("report", order=2)
    assert arranged(runs(2), queue=Queue(seats=seats, reports=[report])) == []


@pytest.mark.parametrize(
    "reports",
    [
        [],  # the shell died before
        [submitted("report", order=2, sweep="another")],
        [submitted("report", order=0)],  # too early: does not wait for these jobs
    ],
)
def test_a_report_is_added_to_jobs_that_are_in_the_queue_without_one(reports: list[Submission]) -> None:
    seats = {**in_queue("train", "r0").seats, **in_queue("evaluate", "r0", job_id="78").seats}
    (report,) = arranged(runs(1), queue=Queue(seats=seats, reports=reports))
    assert (report.stage, report.dependency([])) == ("report", "afterany:77:78")


def test_a_run_that_another_job_trains_is_evaluated_after_that_job() -> None:
    evaluate, report = arranged(runs(2), queue=in_queue("train", "r0", "r1"))
    assert (evaluate.stage, evaluate.tasks) == ("evaluate", (("r0",), ("r1",)))
    assert evaluate.dependency([]) == "afterany:77"
    assert report.after == (0,)


def test_a_trained_run_is_evaluated_at_once_and_trained_no_more() -> None:
    evaluate, report = arranged(runs(1, trained=True))
    assert (evaluate.stage, evaluate.dependency([]), report.stage) == ("evaluate", None, "report")


def test_a_new_seed_adds_its_own_jobs_only() -> None:
    seats = {**in_queue("train", "r0").seats, **in_queue("evaluate", "r0", job_id="78").seats}
    arrays = arranged(runs(2), queue=Queue(seats=seats))
    assert [(a.stage, a.tasks) for a in arrays[:2]] == [("train", (("r1",),)), ("evaluate", (("r1",),))]


def test_a_run_without_evaluation_is_only_trained() -> None:
    train, report = arranged(runs(2, evaluate=None))
    assert (train.stage, report.after) == ("train", (0,))


def test_a_complete_sweep_needs_nothing() -> None:
    assert arranged([]) == []
