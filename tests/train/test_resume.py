"""A run that is killed anywhere and continued ends with the bits of a run that was left alone."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tokensweep.ledger import read_metrics, read_run
from tokensweep.train.metrics import WALL_CLOCK

_SCRIPT = Path(__file__).with_name("killed_run.py")
_PLACES = (
    "in_a_rollout",
    "between_micro_batches",
    "before_a_checkpoint",
    "inside_a_checkpoint",
    "before_the_rename",
    "after_the_rename",
    "while_an_old_checkpoint_goes",
    "after_a_metrics_row",
    "after_the_last_step",
    "as_the_policy_loads",
)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory, small_config: Callable[..., dict[str, Any]]) -> Path:
    """A folder with one killed and continued run per place."""
    folder = tmp_path_factory.mktemp("killed")
    config = small_config(steps=4, method__updates_per_batch=2, store_rollouts={"every": 1, "share": 0.5})
    bonus = {"_component_": "method/regularizers/entropy_target", "target": 9.0, "step": 0.1}
    config["method"]["regularizers"] = {"entropy": bonus}  # its coefficient is remembered from step to step
    (folder / "config.json").write_text(json.dumps(config))
    done = subprocess.run(
        [sys.executable, str(_SCRIPT), str(folder / "config.json"), str(folder)],
        env={"PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.parametrize("place", _PLACES)
def test_a_killed_run_ends_with_the_weights_of_an_undisturbed_one(killed: Path, place: str) -> None:
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert _last(killed / place, name) == _last(killed / "undisturbed", name)


@pytest.mark.parametrize("place", _PLACES)
def test_a_killed_run_has_the_metrics_of_an_undisturbed_one(killed: Path, place: str) -> None:
    assert _results(killed / place) == _results(killed / "undisturbed")


@pytest.mark.parametrize("place", _PLACES)
def test_a_killed_run_stores_the_rollouts_of_an_undisturbed_one(killed: Path, place: str) -> None:
    names = sorted(path.name for path in (killed / "undisturbed" / "rollouts").iterdir())
    assert len(names) == 4
    for name in names:
        stored = (killed / place / "rollouts" / name).read_bytes()
        assert stored == (killed / "undisturbed" / "rollouts" / name).read_bytes()


def test_the_undisturbed_run_moves_its_weights(killed: Path) -> None:
    assert (
        _last(killed / "undisturbed", "model.safetensors")
        != next((killed / "models").glob("*/model.safetensors")).read_bytes()
    )


def test_a_killed_run_leaves_nothing_half_written(killed: Path) -> None:
    for place in _PLACES:
        assert [path.name for path in (killed / place / "checkpoints").iterdir()] == ["step-000004"]


def test_a_killed_run_says_that_it_is_trained(killed: Path) -> None:
    assert {read_run(killed / place).trained_step for place in _PLACES} == {4}


def _last(run_dir: Path, name: str) -> bytes:
    return (run_dir / "checkpoints" / "step-000004" / name).read_bytes()


def _results(run_dir: Path) -> list[tuple[int, dict[str, float]]]:
    rows = [(row["step"], row["metrics"]) for row in read_metrics(run_dir)]
    return [
        (step, {k: v for k, v in metrics.items() if not k.startswith(WALL_CLOCK)}) for step, metrics in rows
    ]
