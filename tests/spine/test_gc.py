"""``tokensweep gc`` offers what nobody needs, and nothing else."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from tokensweep import garbage
from tokensweep.cluster.reconcile import Queue, Seat
from tokensweep.cluster.submission import Submission, new_submission, record_end, record_job, submissions
from tokensweep.garbage import delete, find_garbage, protected_runs
from tokensweep.gc import gc_command, spelt
from tokensweep.ledger import Attempt, Kind

_DAY_S = 86400.0


def write(path: Path, size: int = 1) -> Path:
    """A file of that many bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    return path


def age(path: Path, days: float) -> Path:
    """Let a file, or a folder with all that is in it, be that old."""
    then = time.time() - days * _DAY_S
    for each in (path, *path.rglob("*")):
        os.utime(each, (then, then))
    return path


def checkpoint(run_dir: Path, step: int) -> Path:
    """A whole checkpoint of 10 bytes and its state."""
    folder = run_dir / "checkpoints" / f"step-{step:06d}"
    write(folder / "model.safetensors", 10)
    (folder / "state.json").write_text(json.dumps({"files": {"model.safetensors": "10:abc"}}))
    return folder


def finished_run(store: Path, name: str, *, steps: Iterable[int] = (10, 20, 30)) -> Path:
    """A run that ended well, with all that one has."""
    run_dir = store / "runs" / name
    write(run_dir / "config.json")
    (run_dir / "plan.json").write_text(json.dumps({"run_id": name, "model_revision": "tiny-1"}))
    for step in steps:
        checkpoint(run_dir, step)
    write(run_dir / "rollouts" / "step-000010.parquet")
    write(run_dir / "evals" / "ops-1" / "samples-000.parquet")
    with Attempt.open(run_dir) as attempt:
        attempt.metrics(30, {"reward": 1.0})
        attempt.event(Kind.trained, step=30)
        attempt.event(Kind.finished)
    return run_dir


def sweep(store: Path, name: str, runs: Iterable[str]) -> None:
    folder = store / "sweeps" / name
    folder.mkdir(parents=True)
    (folder / "sweep.json").write_text(json.dumps({"name": name, "runs": [{"run_id": run} for run in runs]}))


def submission(
    store: Path, runs: Iterable[str] = ("a",), *, snapshot: str | None = None, days: float = 0.0
) -> Submission:
    """A submission with a task per run, of so many days ago."""
    made = new_submission(
        store,
        sweep="s",
        stage="train",
        order=1,
        tasks=[[run] for run in runs],
        snapshot=snapshot,
        site="devcluster",
        more={},
    )
    path = made.folder / "submission.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "created": time.time() - days * _DAY_S}))
    return next(each for each in submissions(store) if each.folder == made.folder)


def files(store: Path) -> set[str]:
    """All files and empty folders."""
    every = {path for path in store.rglob("*") if not path.is_dir() or not any(path.iterdir())}
    return {str(path.relative_to(store)) for path in every}


def offered(store: Path, *, sweeps: list[str] | None = None, later_days: float = 0.0) -> dict[str, str]:
    """Kinds by path of what gc would show so many days from now."""
    now = time.time() + later_days * _DAY_S
    items = find_garbage(store, sweeps=sweeps, protected=(), models=True, now=now)
    return {str(item.path.relative_to(store)): item.kind.value for item in items}


def test_a_finished_run_keeps_its_last_checkpoint_and_all_else(tmp_path: Path) -> None:
    finished_run(tmp_path, "a")
    (tmp_path / "models" / "tiny-1").mkdir(parents=True)
    assert offered(tmp_path, later_days=100) == {
        "runs/a/checkpoints/step-000010": "checkpoint",
        "runs/a/checkpoints/step-000020": "checkpoint",
    }


def test_sizes_are_those_of_all_files(tmp_path: Path) -> None:
    run_dir = finished_run(tmp_path, "a", steps=(10, 30))
    write(run_dir / "checkpoints" / "step-000010" / "deep" / "more", 1000)
    (item,) = find_garbage(tmp_path, sweeps=None, protected=())
    state = (run_dir / "checkpoints" / "step-000010" / "state.json").stat().st_size
    assert item.size == 10 + state + 1000


def test_no_checkpoint_goes_while_the_last_is_not_whole(tmp_path: Path) -> None:
    run_dir = finished_run(tmp_path, "a")
    last = run_dir / "checkpoints" / "step-000030"
    write(last / "model.safetensors", 9)  # one byte short
    assert offered(tmp_path) == {}
    (last / "state.json").unlink()
    assert offered(tmp_path) == {}
    (last / "model.safetensors").unlink()
    last.rmdir()
    assert offered(tmp_path) == {}


def test_a_run_that_is_not_finished_keeps_its_checkpoints(tmp_path: Path) -> None:
    run_dir = finished_run(tmp_path, "a")
    with Attempt.open(run_dir) as attempt:
        attempt.event(Kind.failed, error="full", **{"class": "disk"})
    assert offered(tmp_path) == {}
    with Attempt.open(run_dir):
        pass  # killed
    assert offered(tmp_path) == {}


def test_what_a_killed_worker_left_can_go_at_once(tmp_path: Path) -> None:
    run_dir = tmp_path / "runs" / "a"
    with Attempt.open(run_dir):
        pass
    write(run_dir / "attempts" / "000" / ".reserve", 65536)
    write(run_dir / "checkpoints" / ".step-000010.partial" / "model.safetensors")
    write(run_dir / "checkpoints" / ".step-000005.removed" / "model.safetensors")
    write(run_dir / "rollouts" / ".step-000010.parquet.abc.partial")
    assert offered(tmp_path) == dict.fromkeys(
        (
            "runs/a/attempts/000/.reserve",
            "runs/a/checkpoints/.step-000010.partial",
            "runs/a/checkpoints/.step-000005.removed",
            "runs/a/rollouts/.step-000010.parquet.abc.partial",
        ),
        "leftover",
    )


@pytest.mark.parametrize(
    "path",
    [
        "runs/a/.config.json.abc.partial",
        "runs/a/evals/ops-1/.samples-001.parquet.abc.partial",
        "sweeps/s/.sweep.json.abc.partial",
        "sweeps/s/report/.table.csv.abc.partial",
        ".mlflow.db.12-34.partial",
        "data/.aime25.jsonl.abc.partial",
        "snapshots/.abc.partial/lib/file",
        "models/big/.cache/huggingface/download/abc.incomplete",
    ],
)
def test_what_may_be_written_without_a_lock_goes_after_a_day(tmp_path: Path, path: str) -> None:
    write(tmp_path / path)
    hidden = path.removesuffix("/lib/file")
    assert hidden not in offered(tmp_path, later_days=0.9)
    assert offered(tmp_path, later_days=1.1)[hidden] == "leftover"


def test_a_folder_is_as_old_as_the_youngest_file_in_it(tmp_path: Path) -> None:
    partial = tmp_path / "data" / ".x.partial"
    write(partial / "old")
    age(partial, 3)
    assert list(offered(tmp_path)) == ["data/.x.partial"]
    write(partial / "deep" / "new")
    age(partial / "deep", 3)
    write(partial / "deep" / "new")
    assert offered(tmp_path) == {}


def test_a_run_that_is_working_is_not_touched(tmp_path: Path) -> None:
    run_dir = finished_run(tmp_path, "a")
    write(run_dir / "checkpoints" / ".step-000040.partial" / "model.safetensors")
    items = find_garbage(tmp_path, sweeps=None, protected=())
    assert len(items) == 3
    with Attempt.open(run_dir):
        before = files(tmp_path)
        assert find_garbage(tmp_path, sweeps=None, protected=()) == []
        left = delete(tmp_path, items)  # found before the worker came
        assert set(left.values()) == {"somebody works on it now"}
        assert set(left) == {item.path for item in items}
        assert files(tmp_path) == before


def test_a_run_in_the_queue_is_not_touched(tmp_path: Path) -> None:
    for name in ("young", "open", "old"):
        finished_run(tmp_path, name)
    young = submission(tmp_path, ["young"], days=0.9)
    open_one = submission(tmp_path, ["x", "open"], days=9)
    old = record_end(submission(tmp_path, ["old"], days=9), {"0": "COMPLETED"})
    seats = {
        ("train", "young"): [Seat(submission=record_end(young, {"0": "COMPLETED"}), index=0, job=None)],
        ("train", "open"): [Seat(submission=open_one, index=1, job=None)],
        ("train", "old"): [Seat(submission=old, index=0, job=None)],
    }
    assert protected_runs(tmp_path, Queue(seats=seats)) == {"young"}  # SLURM has forgotten the open one
    assert protected_runs(tmp_path, Queue(seats=seats, silence="away")) == {"young", "open"}
    items = find_garbage(tmp_path, sweeps=None, protected={"young", "open"})
    assert {item.path.parts[-3] for item in items} == {"old"}


def test_a_snapshot_goes_when_no_submission_runs_it(tmp_path: Path) -> None:
    for name in ("used", "unused"):
        write(tmp_path / "snapshots" / name / "lib" / "code.py")
        age(tmp_path / "snapshots" / name, 30)
    record_end(submission(tmp_path, snapshot=str(tmp_path / "snapshots" / "used")), {"0": "COMPLETED"})
    submission(tmp_path, snapshot=None)
    assert offered(tmp_path, later_days=0.9) == {}  # unpacked just now, whatever its files say
    assert offered(tmp_path, later_days=1.1) == {"snapshots/unused": "snapshot"}
    assert offered(tmp_path, sweeps=[], later_days=1.1) == {}


def test_a_snapshot_that_was_submitted_meanwhile_stays(tmp_path: Path) -> None:
    code = write(tmp_path / "snapshots" / "abc" / "code.py")
    items = find_garbage(tmp_path, sweeps=None, protected=(), now=time.time() + 2 * _DAY_S)
    submission(tmp_path, snapshot=str(tmp_path / "snapshots" / "abc"))
    assert list(delete(tmp_path, items).values()) == ["was submitted just now"]
    assert code.is_file()


def test_models_go_only_when_asked_for_and_unused(tmp_path: Path) -> None:
    run_dir = finished_run(tmp_path, "a", steps=[30])
    (run_dir / "plan.json").write_text(json.dumps({"model_revision": f"Owner/Name@{'0123456789abcd':0<40}"}))
    for name in ("Owner--Name-0123456789ab", "Owner--Name-ba9876543210", "tiny-2"):
        write(tmp_path / "models" / name / "model.safetensors")
    assert find_garbage(tmp_path, sweeps=None, protected=()) == []
    assert offered(tmp_path) == {"models/Owner--Name-ba9876543210": "model", "models/tiny-2": "model"}


def test_a_model_that_is_being_built_is_not_touched(tmp_path: Path) -> None:
    write(tmp_path / "models" / "tiny-1.partial" / "model.safetensors")
    with write(tmp_path / "models" / "tiny-1.lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert offered(tmp_path) == {}
    assert offered(tmp_path) == {"models/tiny-1.partial": "leftover"}


def test_job_files_go_thirty_days_after_the_jobs_ended(tmp_path: Path) -> None:
    ended, waiting = submission(tmp_path, days=99), record_job(submission(tmp_path, days=99), "12")
    for each in (ended, waiting):
        write(each.folder / "submitit" / "12_submitted.pkl")
    record_end(ended, {"0": "COMPLETED"})
    assert offered(tmp_path, later_days=29) == {}
    assert offered(tmp_path, later_days=31) == {
        f"sweeps/s/submissions/{ended.folder.name}/submitit": "job files"
    }
    sweep(tmp_path, "other", [])
    assert offered(tmp_path, sweeps=["other"], later_days=31) == {}


def test_what_is_shown_is_what_is_deleted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = finished_run(tmp_path, "a")
    finished_run(tmp_path, "b", steps=[30])
    write(run_dir / "checkpoints" / ".step-000031.partial" / "model.safetensors")
    age(write(tmp_path / ".mlflow.db.1-2.partial"), 2)
    sweep(tmp_path, "s", ["a", "b"])
    old = submission(tmp_path, ["a"], days=99)
    write(old.folder / "submitit" / "12_submitted.pkl")
    record_end(old, {"0": "COMPLETED"})
    age(old.folder / "ended.json", 31)
    before = files(tmp_path)

    gc_command([f"store={tmp_path}", "--all", "--json"])
    shown = json.loads(capsys.readouterr().out)
    assert files(tmp_path) == before
    assert len(shown["items"]) == 5

    gc_command([f"store={tmp_path}", "--all", "--delete", "--json"])
    removed = json.loads(capsys.readouterr().out)
    assert removed["items"] == shown["items"]
    paths = tuple(row["path"] for row in shown["items"])
    assert files(tmp_path) == {path for path in before if not path.startswith(paths)}

    gc_command([f"store={tmp_path}", "--all"])
    assert "can go" in capsys.readouterr().out


def test_people_see_sizes_and_how_to_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = finished_run(tmp_path, "a", steps=(10, 30))
    write(run_dir / "checkpoints" / "step-000010" / "optimizer.safetensors", 2_000_000)
    sweep(tmp_path, "s", ["a"])
    gc_command([f"store={tmp_path}", "s"])
    assert "1 could go, 2 MB; --delete removes them" in capsys.readouterr().out
    gc_command([f"store={tmp_path}", "s", "--delete"])
    assert "removed 1, 2 MB" in capsys.readouterr().out
    assert [path.name for path in (run_dir / "checkpoints").iterdir()] == ["step-000030"]


def test_a_sweep_is_tidied_without_the_others(tmp_path: Path) -> None:
    finished_run(tmp_path, "a", steps=(10, 30))
    finished_run(tmp_path, "b", steps=(10, 30))
    sweep(tmp_path, "s", ["a"])
    assert list(offered(tmp_path, sweeps=["s"])) == ["runs/a/checkpoints/step-000010"]


def test_a_removal_that_is_interrupted_is_ended_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = finished_run(tmp_path, "a", steps=(10, 30))

    def interrupt(_: Path) -> None:
        raise KeyboardInterrupt

    items = find_garbage(tmp_path, sweeps=None, protected=())
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", interrupt)
        with pytest.raises(KeyboardInterrupt):
            delete(tmp_path, items)
    (left,) = find_garbage(tmp_path, sweeps=None, protected=())
    assert left.kind is garbage.Kind.leftover
    assert delete(tmp_path, [left]) == {}
    assert [path.name for path in (run_dir / "checkpoints").iterdir()] == ["step-000030"]


def test_a_link_is_removed_and_not_what_it_leads_to(tmp_path: Path) -> None:
    precious = write(tmp_path / "elsewhere" / "file").parent
    folder = tmp_path / "store" / "data"
    folder.mkdir(parents=True)
    (folder / ".x.partial").symlink_to(precious)
    items = find_garbage(tmp_path / "store", sweeps=None, protected=(), now=time.time() + 2 * _DAY_S)
    assert [item.path for item in items] == [folder / ".x.partial"]
    delete(tmp_path / "store", items)
    assert list(folder.iterdir()) == []
    assert (precious / "file").is_file()


def test_an_empty_store_has_nothing_to_offer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gc_command([f"store={tmp_path}/none", "--all", "--models", "--delete"])
    assert "can go" in capsys.readouterr().out
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("arguments", [[], ["s", "--all"], ["s", "--models"]])
def test_what_is_to_be_tidied_must_be_said(
    tmp_path: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        gc_command([f"store={tmp_path}", *arguments])
    assert left.value.code == 2
    assert "--all" in capsys.readouterr().err


def test_sizes_are_spelt_in_three_digits() -> None:
    assert [spelt(size) for size in (0, 999, 1000, 65_536, 2_000_000, 6_123_000_000, 10**13)] == [
        *("0 B", "999 B", "1 kB", "65.5 kB", "2 MB", "6.12 GB", "10 TB"),
    ]
