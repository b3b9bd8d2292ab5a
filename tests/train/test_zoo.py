"""Every method trains: two steps of each arm of the zoo, in its own setting."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import pytest

from tokensweep.compose import freeze_run, register_components
from tokensweep.ledger import Attempt, read_metrics
from tokensweep.presets import presets
from tokensweep.sweepfile import Job, load_sweep
from tokensweep.train.trainer import run_training

pytestmark = pytest.mark.slow

_SMALL = (
    "steps=2",
    "model.steps=200",  # a shorter warm start
    "batch.prompts=4",
    "optim.warmup_steps=1",
    "checkpoint.every=2",
    "store_rollouts.every=0",
)
_CORRECTIONS = {"tis", "mis", "icepop", "geo_mask"}  # off unless stacked on a method
_STANDS_FOR = {
    "arXiv:2402.03300": "arXiv:2503.14476"
}  # GRPO is there in DAPO's setup, which updates off-policy


@cache
def jobs() -> dict[str, Job]:
    """A job per arm: in ``ops``, or in the setting that the arm has for itself."""
    register_components()
    found: dict[str, Job] = {}
    for job in load_sweep("zoo", scale="tiny", seeds=[0], overrides=_SMALL).jobs:
        found.setdefault(job.arm, job)
    return found


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the warm-started models of the settings lie."""
    return tmp_path_factory.mktemp("models")


@pytest.mark.parametrize("arm", jobs())
def test_a_method_makes_steps_and_tells_numbers(arm: str, models: Path, tmp_path: Path) -> None:
    config = freeze_run((*jobs()[arm].overrides, f"store={tmp_path}"))
    if config["method"]["source"]["_component_"] == "method/source/offline":
        config["method"]["source"] |= {"problems": 12, "kept": 6}  # instead of hundreds
    with Attempt.open(tmp_path / "run") as attempt:
        run_training(config, tmp_path / "run", attempt, cache=models)
    rows = [row["metrics"] for row in read_metrics(tmp_path / "run")]
    assert len(rows) == 2
    assert all(math.isfinite(value) for row in rows for value in row.values())
    assert sum(row["updates"] for row in rows) > 0


def test_every_paper_is_in_the_zoo() -> None:
    known = presets()
    chosen = {freeze_run(job.overrides)["method"]["paper"] for job in jobs().values()}
    lacking = [
        name
        for name, preset in known.items()
        if preset.paper
        and _STANDS_FOR.get(preset.paper, preset.paper) not in chosen
        and name not in _CORRECTIONS
    ]
    assert not lacking
