"""The whole path as a user walks it: command line, plan, workers, table, MLflow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tokensweep.ledger import read_events, read_metrics, read_run

pytestmark = pytest.mark.slow

# One-step chains and a model that gets one in ten right: mixed groups, and runs of two seconds.
_SMALL = (
    *(
        "data.steps=1",
        "data.size=64",
        "data.max_tokens=8",
        "batch.prompts=4",
        "steps=2",
        "checkpoint.every=1",
    ),
    *(
        "model.hidden=48",
        "model.layers=2",
        "model.heads=3",
        "model.head_dim=16",
        "model.mlp=96",
        "model.steps=200",
    ),
    *("eval.held_out=4", "eval.num_samples=8"),
)


def tokensweep(
    *arguments: str, cwd: Path, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tokensweep.cli", *arguments],
        cwd=cwd,
        env={**os.environ, "COLUMNS": "200", "OMP_NUM_THREADS": "1", **(env or {})},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def _runs(store: Path, sweep: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((store / "sweeps" / sweep / "sweep.json").read_text())["runs"]
    return rows


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which one run of the small setting is finished."""
    store = tmp_path_factory.mktemp("store")
    done = tokensweep("train", *_SMALL, "sweep=first", f"store={store}", cwd=store)
    assert done.returncode == 0, done.stderr + done.stdout
    return store


def test_one_job_without_m_is_a_sweep_of_one_and_ends_with_its_table(store: Path) -> None:
    (row,) = _runs(store, "first")
    record = read_run(store / "runs" / row["run_id"])
    assert record.status == "finished"
    assert record.trained_step == 2
    report = (store / "sweeps" / "first" / "report" / "report.md").read_text()
    assert "avg@n" in report
    assert "pass@8" in report


def test_the_same_command_again_runs_nothing_and_more_samples_train_nothing(store: Path) -> None:
    (row,) = _runs(store, "first")
    folder = store / "runs" / row["run_id"]
    again = tokensweep("train", "-m", *_SMALL, "sweep=again", f"store={store}", cwd=store)
    assert "1 run, 0 to do, 1 finished before" in again.stdout
    assert read_run(folder).attempts == 1
    more = tokensweep("train", *_SMALL, "eval.num_samples=12", "sweep=again", f"store={store}", cwd=store)
    assert more.returncode == 0, more.stderr
    events = read_events(folder)
    assert [e["num_samples"] for e in events if e["kind"] == "evaluated"] == [8, 12]
    assert len([e for e in events if e["kind"] == "trained"]) == 1


def test_a_failed_run_is_reported_and_does_not_stop_the_others(store: Path) -> None:
    done = tokensweep(
        "train", "-m", *_SMALL, "optim.lr=0.001,1e38", "sweep=failing", f"store={store}", cwd=store
    )  # 1e38 overflows float32 within the first update
    assert done.returncode == 1
    states = {row["arm"]: read_run(store / "runs" / row["run_id"]) for row in _runs(store, "failing")}
    assert states["lr=0.001"].status == "finished"
    assert states["lr=1e+38"].status == "failed"
    assert states["lr=1e+38"].error_class == "nan"
    assert "1 of 2 runs did not finish" in done.stdout
    assert "nan" in (store / "sweeps" / "failing" / "report" / "report.md").read_text().lower()


def test_four_orders_of_the_hoelder_mean_end_with_four_different_models(store: Path) -> None:
    done = tokensweep(
        "train", "-m", *_SMALL, "method=holderpo", "method.ratio.p=-2,0,1,2", "method.updates_per_batch=2",
        "optim.lr=3e-3", "optim.warmup_steps=0", "steps=4", "sweep=orders", f"store={store}", cwd=store,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    weights = set()
    for row in _runs(store, "orders"):
        folder = store / "runs" / row["run_id"]
        assert sum(m["metrics"]["updates"] for m in read_metrics(folder)) >= 2
        weights.add((folder / "checkpoints" / "step-000004" / "model.safetensors").read_bytes())
    assert len(weights) == 4


def test_an_annealed_run_logs_the_falling_order(store: Path) -> None:
    done = tokensweep(
        "train", *_SMALL, "method=holderpo_annealed", "method.schedules.holder_p.steps=2",
        "method.updates_per_batch=2", "steps=3", "sweep=annealed", f"store={store}", cwd=store,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    (row,) = _runs(store, "annealed")
    orders = [m["metrics"]["schedule/holder_p"] for m in read_metrics(store / "runs" / row["run_id"])]
    assert orders == [2.0, 0.0, -2.0]  # linear from 2 to -2 in two steps


def test_the_kept_share_of_a_threshold_is_logged(store: Path) -> None:
    done = tokensweep(
        "train", "-m", *_SMALL, "method=forking_tokens", "method.token_weights.entropy.threshold=0.0,0.3,50",
        "sweep=thresholds", f"store={store}", cwd=store,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    kept = {}
    for row in _runs(store, "thresholds"):
        rows = read_metrics(store / "runs" / row["run_id"])
        kept[row["arm"]] = [
            m["metrics"]["loss/kept_fraction"] for m in rows if "loss/kept_fraction" in m["metrics"]
        ]
    assert set(kept["threshold=0.0"]) == {1.0}  # entropy is never below 0 nats
    assert all(0 < share < 1 for share in kept["threshold=0.3"])
    assert not any(kept["threshold=50"])  # log(64), the most there can be, is 4.2 nats


def test_a_changed_frozen_config_ends_as_a_failed_run_with_its_reason(store: Path) -> None:
    tokensweep("train", *_SMALL, "seed=9", "sweep=tampered", f"store={store}", cwd=store)
    (row,) = _runs(store, "tampered")
    folder = store / "runs" / row["run_id"]
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "steps": 1}))
    again = tokensweep(
        "train", *_SMALL, "seed=9", "eval.num_samples=9", "sweep=tampered", f"store={store}", cwd=store
    )
    assert again.returncode == 1
    assert "was changed after it was planned" in (read_run(folder).error or "")
    assert "was changed after it was planned" in again.stdout.replace("\n", " ")


def test_evaluate_takes_a_run_or_a_model(store: Path) -> None:
    (row,) = _runs(store, "first")
    of_run = tokensweep(
        "evaluate", f"run={row['run_id'][:8]}", f"store={store}", "eval.num_samples=9", cwd=store
    )
    assert of_run.returncode == 0, of_run.stderr
    for column in ("avg@n", "pass@8", "guess@8", "maj@8", "pass^8", "cover@0.5", "cover@0.9", "no answer"):
        assert column in of_run.stdout
    small = [o for o in _SMALL if o.startswith(("data.", "model.", "eval."))]
    of_model = tokensweep(
        "evaluate", "model=tiny", "data=ops", "eval=held_out", *small, f"store={store}", cwd=store
    )
    assert of_model.returncode == 0, of_model.stderr
    neither = tokensweep("evaluate", f"store={store}", cwd=store)
    assert neither.returncode == 2
    assert "either run=ID or model=NAME" in neither.stderr


def test_a_report_is_printed_again_and_a_lost_database_is_rebuilt(store: Path) -> None:
    assert "avg@n" in tokensweep("report", "first", f"store={store}", cwd=store).stdout
    (store / "mlflow.db").unlink()
    done = tokensweep("sync", "--all", f"store={store}", cwd=store)
    assert done.returncode == 0, done.stderr
    assert (store / "mlflow.db").stat().st_size > 0
    unknown = tokensweep("report", "nope", f"store={store}", cwd=store)
    assert unknown.returncode == 2
    assert "no sweep 'nope'" in unknown.stderr


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["nonsense=1"], "no key or group 'nonsense'"),
        (["eval.k=[16]"], "pass@16 needs at least 16 samples"),
        (["data=gsm8k", "data.path=missing.jsonl"], "missing.jsonl is none"),
        (["data=gsm8k"], "give data.path=FILE"),
        (["model=hf", "model.path=nowhere"], "nowhere"),
        (["tracking.uri=sqlite:////proc/nowhere/mlflow.db"], "/proc/nowhere"),
        (["method.ratio.p=1,2", "method=holderpo_annealed"], "driven by the schedule"),
    ],
)
def test_bad_input_ends_with_one_clear_line_before_anything_starts(
    tmp_path: Path, overrides: list[str], message: str
) -> None:
    done = tokensweep("train", "-m", *overrides, "scale=smoke", f"store={tmp_path / 'store'}", cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "store" / "runs").exists()


def test_an_unreachable_tracking_server_delays_and_loses_nothing(store: Path) -> None:
    done = tokensweep(
        "train", *_SMALL, "sweep=offline", "tracking.uri=http://127.0.0.1:9", f"store={store}", cwd=store
    )
    assert done.returncode == 0, done.stderr
    assert "nothing is lost" in done.stdout
    assert tokensweep("sync", "offline", f"store={store}", cwd=store).returncode == 0


def test_completion_works_with_the_subcommand_in_front(tmp_path: Path) -> None:
    def complete(line: str) -> str:
        env = {"COMP_LINE": line, "COMP_POINT": str(len(line))}
        return tokensweep("-sc", "query=bash", cwd=tmp_path, env=env).stdout

    assert "method=forking_tokens" in complete("tokensweep train method=fork")
    assert "eval=aime25" in complete("tokensweep evaluate eval=aim")
    assert complete("tokensweep sw").split() == ["sweep"]
    assert "hydra" in tokensweep("-sc", "install=bash", cwd=tmp_path).stdout


def test_help_names_groups_and_examples_and_writes_nothing(tmp_path: Path) -> None:
    text = tokensweep("train", "--help", cwd=tmp_path).stdout
    assert "method.ratio.p=-2,0,1,2" in text
    assert "forking_tokens" in text
    assert (
        "fraction: 0.2" in tokensweep("train", "--cfg", "job", "method=forking_tokens", cwd=tmp_path).stdout
    )
    assert not list(tmp_path.iterdir())
