"""``tokensweep status`` shows what is true, in words and at a width that people can read."""

from __future__ import annotations

import io
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console, RenderableType
from tests.cluster.fake_slurm import FakeSlurm
from tests.cluster.made_up import Store

from tokensweep.cluster.command import status_command
from tokensweep.cluster.reconcile import State
from tokensweep.cluster.scheduler import Scheduler
from tokensweep.cluster.screen import run_list, screen, sweep_list
from tokensweep.cluster.status import SweepStatus, sweep_status
from tokensweep.cluster.waiting import in_words
from tokensweep.files import write_json
from tokensweep.ledger import Attempt

_LONG = {"r0": "forking_tokens_top20_of_entropy", "r1": "forking_tokens_top20_of_entropy", "r2": "all"}


def printed(renderable: RenderableType, *, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def status(store: Store) -> SweepStatus:
    return sweep_status(store.path, "s", Scheduler())


def queued(store: Store, slurm: FakeSlurm, *run_ids: str, reason: str = "Priority") -> str:
    made = store.submitted("train", *run_ids, job=None)
    job = slurm.add(made.job_name, len(run_ids))
    slurm.tell(job, reason=reason)
    for run_id in run_ids:
        store.run(run_id)
    store.sweep(*run_ids)
    return job


def table(text: str) -> list[list[str]]:
    """The words of each line."""
    return [line.split() for line in text.splitlines() if line.strip()]


def test_an_arm_has_a_row_with_its_counts(store: Store, slurm: FakeSlurm) -> None:
    job = queued(store, slurm, "r0", "r1", "r2", "r3")
    store.run("r0", ["step", "train", "evaluate", "finished"])
    store.run("r1", ["failed"])
    slurm.tell(f"{job}_1", state="FAILED", queue=False, accounting=True)
    slurm.tell(f"{job}_2", state="RUNNING", restarts=2)
    store.sweep("r0", "r1", "r2", "r3")
    header, _, row, counts, *_ = (
        re.split(r" {2,}", line.strip()) for line in printed(screen(status(store)), width=120).splitlines()
    )
    assert dict(zip(header, row, strict=False)) == {
        "setting arm": "ops a",
        "finished": "1/4",
        "running": "1",
        "queued": "1",
        "failed": "1",
        "preempted": "2 x",
        "step": "0/2",
        "reward": "0.500",
    }
    assert counts == ["4 runs: 1 failed, 1 finished, 1 queued, 1 running"]


@pytest.mark.parametrize("width", [80, 60])
def test_long_names_fold_and_no_column_is_cut(store: Store, slurm: FakeSlurm, width: int) -> None:
    job = queued(store, slurm, "r0", "r1", "r2")
    store.sweep("r0", "r1", "r2", arms=_LONG)
    slurm.tell(f"{job}_0", state="RUNNING", node="gpu1")
    with Attempt.open(store.run("r0")) as attempt:
        for step in range(1, 4):
            attempt.metrics(step, {"reward": 0.25, "tokens/generated": 5000.0})
        text = printed(screen(status(store)), width=width)
        runs = printed(run_list(status(store)), width=width)
    for shown, words in (
        (text, ("finished", "running", "queued", "step", "reward", "tokens/s", "ready", "in")),
        (runs, ("run", "seed", "state", "step", "job", "node", "attempts")),
    ):
        assert "…" not in shown
        assert max(map(len, shown.splitlines())) <= width
        assert set(words) <= set(shown.split())
    assert "".join(text.split()).count("forking_tokens_top20_of_entropy") >= 1


def test_an_empty_column_is_left_out(store: Store) -> None:
    store.run("r0", ["step", "train", "evaluate", "finished"])
    store.sweep("r0")
    header = table(printed(screen(status(store))))[0]
    assert header == ["setting", "arm", "finished", "step", "reward"]


def test_a_failed_run_shows_class_reason_and_the_end_of_its_log(store: Store) -> None:
    folder = store.run("r0", ["failed"]) / "attempts" / "000"
    (folder / "log.txt").write_text("".join(f"line {number}\n\n" for number in range(50000)))
    store.sweep("r0")
    text = printed(screen(status(store)))
    assert "ops a seed 0  r0  failed (nan)" in text
    assert text.splitlines()[-4:] == [
        "    the loss is nan",
        "    line 49997",
        "    line 49998",
        "    line 49999",
    ]


def test_of_many_runs_in_trouble_some_are_shown_and_the_rest_is_counted(store: Store) -> None:
    names = [f"r{number}" for number in range(12)]
    for name in names:
        store.run(name, ["failed"])
    store.sweep(*names)
    text = printed(screen(status(store)))
    assert text.count("the loss is nan") == 10
    assert "and 2 more: tokensweep status s --runs" in text


@pytest.mark.parametrize(
    ("reason", "stage", "words"),
    [
        ("Priority", "train", "others come first (Priority)"),
        ("Resources", "train", "no node is free (Resources)"),
        ("Dependency", "evaluate", "waits for its training"),
        ("Dependency", "train", "waits for its turn"),
        ("JobHeldUser", "train", "held by you: scontrol release JOB (JobHeldUser)"),
        ("BeginTime", "train", "was put back, starts again in a minute or two (BeginTime)"),
        (
            "QOSMaxJobsPerUserLimit",
            "train",
            "a limit of your account or QoS is reached (QOSMaxJobsPerUserLimit)",
        ),
        ("AssocGrpGRES", "train", "a limit of your account or QoS is reached (AssocGrpGRES)"),
        (
            "ReqNodeNotAvail, UnavailableNodes:gpu[1-2]",
            "train",
            "its nodes are down, drained or reserved (ReqNodeNotAvail)",
        ),
        ("behind other runs of its job", "train", "behind other runs of its job"),
        ("SomethingNew", "train", "SomethingNew"),
        ("", "train", "no reason given"),
    ],
)
def test_a_reason_to_wait_is_said_in_words(reason: str, stage: str, words: str) -> None:
    assert in_words(reason, stage=stage) == words


def test_the_screen_counts_the_reasons_to_wait(store: Store, slurm: FakeSlurm) -> None:
    job = queued(store, slurm, "r0", "r1", "r2")
    slurm.tell(f"{job}_2", reason="Resources")
    lines = printed(screen(status(store))).splitlines()
    assert lines[-2:] == [
        "waiting: others come first (Priority) (2)",
        "waiting: no node is free (Resources) (1)",
    ]


def test_a_silent_slurm_is_said_and_the_folders_are_shown(store: Store, slurm: FakeSlurm) -> None:
    queued(store, slurm, "r0", "r1")
    store.run("r0", ["train", "evaluate", "finished"])
    slurm.set(down=True)
    text = printed(screen(status(store)), width=400)
    assert "2 runs: 1 finished, 1 queued" in text
    assert "SLURM does not answer, so this is what the run folders say: sacct" in text


def test_json_has_these_keys_and_no_nan(
    store: Store, slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    queued(store, slurm, "r0", "r1")
    with Attempt.open(store.run("r0")) as attempt:
        attempt.metrics(1, {"reward": math.nan})
    status_command(["s", "--json", f"store={store.path}"])
    told = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert {key: told[key] for key in ("sweep", "silence", "counts")} == {
        "sweep": "s",
        "silence": "",
        "counts": {"queued": 2},
    }
    first = told["runs"][0]
    assert list(first) == [
        *("run_id", "setting", "arm", "seed", "state", "step", "steps", "reward", "tokens_per_s"),
        *("seconds_left", "attempts", "log", "stage", "job", "node", "reason", "error_class", "preempted"),
    ]
    assert (first["run_id"], first["state"], first["reward"], first["reason"]) == (
        "r0",
        "queued",
        None,
        "Priority",
    )


def test_pace_and_time_left_are_of_the_newest_steps(store: Store) -> None:
    run_dir = store.run("r0")
    store.sweep("r0")
    write_json(run_dir / "plan.json", {**json.loads((run_dir / "plan.json").read_text()), "steps": 100})
    with Attempt.open(run_dir) as attempt:
        rows = [
            {
                "attempt": 0,
                "step": step,
                "time": 1000.0 + 2 * step,
                "metrics": {"reward": 0.5, "tokens/generated": 30.0},
            }
            for step in range(1, 21)
        ]
        (attempt.folder / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        (row,) = status(store).rows
    # A step takes 2 s and samples 30 tokens; 80 steps are left.
    assert (row.tokens_per_s, row.seconds_left, row.step) == (15.0, 160.0, 20)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("attempts/000/events.jsonl", b"no json\n", "must be a JSON object"),
        ("attempts/000/metrics.jsonl", b"\0\0\0\0\n", "must be a JSON object"),
        ("plan.json", b'{"run_id": "r0", "ev', "plan.json is damaged"),
    ],
)
def test_a_damaged_run_is_unreadable_and_hides_no_other(
    store: Store, name: str, content: bytes, reason: str
) -> None:
    (store.run("r0", ["step"]) / name).write_bytes(content)
    store.run("r1", ["train", "evaluate", "finished"])
    store.sweep("r0", "r1")
    found = status(store)
    assert [row.state.state.value for row in found.rows] == ["unreadable", "finished"]
    assert reason in found.rows[0].state.reason
    assert "r0  unreadable" in printed(screen(found), width=400)
    assert not found.open
    assert not found.complete


@pytest.mark.parametrize("name", ["events.jsonl", "metrics.jsonl"])
def test_a_torn_last_line_is_not_read(store: Store, name: str) -> None:
    run_dir = store.run("r0", ["step", "failed"])
    with (run_dir / "attempts" / "000" / name).open("ab") as file:
        file.write(b'{"time": 17, "ki')
    store.sweep("r0")
    (row,) = status(store).rows
    assert (row.state.state.value, row.state.error_class, row.step) == ("failed", "nan", 1)


def test_a_sweep_of_this_machine_needs_no_slurm(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    store.run("r0", ["train", "evaluate", "finished"])
    store.run("r1", ["step"])
    store.sweep("r0", "r1")
    for arguments in (["s"], ["s", "--runs"], ["s", "--follow"], ["s", "--json"], []):
        status_command([*arguments, f"store={store.path}"])
    text = capsys.readouterr().out
    assert "2 runs: 1 finished, 1 interrupted" in text
    assert "not installed" not in text


def test_without_a_name_every_sweep_has_a_line(
    store: Store, slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    queued(store, slurm, "r0", "r1")
    store.run("x", ["failed"])
    store.sweep("x", name="other")
    status_command([f"store={store.path}"])
    header, _, *rows = table(capsys.readouterr().out)
    assert header == ["sweep", "queued", "finished", "failed"]
    assert sorted(rows) == [["other", "1"], ["s", "2"]]
    assert len(slurm.calls("squeue")) == 1  # for all of them


def test_a_store_without_sweeps_says_so(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    status_command([f"store={store.path}"])
    assert capsys.readouterr().out.startswith("no sweep in ")


def test_the_list_of_sweeps_fits_eighty_columns(store: Store, slurm: FakeSlurm) -> None:
    queued(store, slurm, "r0", "r1", "r2", "r3")
    every = _every_state(status(store))
    text = printed(sweep_list([every]))
    assert "…" not in text
    assert "interrupted" in text
    assert "unreadable" in text


def _every_state(found: SweepStatus) -> SweepStatus:
    first = found.rows[0]
    rows = tuple(replace(first, state=replace(first.state, state=state)) for state in State)
    return replace(found, sweep="forking_tokens_of_qwen3_8b_on_dapo_math", rows=rows)
