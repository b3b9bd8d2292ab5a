"""Settings that are no part of a run's identity follow the newest command, as long as the run is not done."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tokensweep.compose import register_components
from tokensweep.identity import verify
from tokensweep.ledger import Attempt, Kind
from tokensweep.models.hf import HfModel
from tokensweep.orchestrate import multirun
from tokensweep.plan import Plan, make_plan, write_plan
from tokensweep.preflight import bring_model

_JOB = ("rollout=vllm", "data.steps=1", "data.size=64", "eval.suites={}", "eval.held_out=0")


def plan_of(store: Path, *overrides: str) -> Plan:
    """The plan of a command with one run."""
    register_components()
    return make_plan(multirun([[*_JOB, f"store={store}", *overrides]], name=None, scale="tiny"))


def planned(store: Path, *overrides: str) -> Path:
    """The folder of the one run of a command."""
    plan = plan_of(store, *overrides)
    write_plan(plan)
    (run,) = plan.runs
    return run.dir(store)


def test_an_unfinished_run_takes_the_settings_of_the_newest_command(tmp_path: Path) -> None:
    first = planned(tmp_path, "rollout.kv_cache_gb=1", "compute.hang_s=7")
    again = planned(tmp_path, "rollout.kv_cache_gb=2", "rollout.max_model_len=99")
    assert again == first
    frozen = verify(first)
    assert (frozen["rollout"]["kv_cache_gb"], frozen["rollout"]["max_model_len"]) == (2, 99)
    assert frozen["compute"]["hang_s"] == 1800  # the default again: this command does not name it


def test_a_run_that_is_worked_on_keeps_its_settings(tmp_path: Path) -> None:
    folder = planned(tmp_path, "rollout.kv_cache_gb=1")
    with Attempt.open(folder):
        planned(tmp_path, "rollout.kv_cache_gb=2")
    assert verify(folder)["rollout"]["kv_cache_gb"] == 1


def test_a_finished_run_keeps_its_settings(tmp_path: Path) -> None:
    folder = planned(tmp_path, "rollout.kv_cache_gb=1")
    with Attempt.open(folder) as attempt:
        attempt.event(Kind.trained, step=40)
        attempt.event(Kind.finished)
    planned(tmp_path, "rollout.kv_cache_gb=2")
    assert verify(folder)["rollout"]["kv_cache_gb"] == 1


def test_a_config_that_somebody_changed_is_not_repaired_in_silence(tmp_path: Path) -> None:
    folder = planned(tmp_path, "rollout.kv_cache_gb=1")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "steps": 3}))
    planned(tmp_path, "rollout.kv_cache_gb=2")
    with pytest.raises(ValueError, match="was changed after it was planned"):
        verify(folder)


def test_a_hub_model_is_brought_before_a_run_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def fetched(self: HfModel, *, data: object, cache: Path, progress: object = None) -> Path:
        asked.append((self.path, cache))
        raise ValueError("out of reach")

    monkeypatch.setattr(HfModel, "materialise", fetched)
    node = {"_component_": "model/hf", "path": "owner/name", "commit": "0" * 40}
    with pytest.raises(ValueError, match="out of reach"):
        bring_model({"model": node}, tmp_path)
    assert asked == [("owner/name", tmp_path / "models")]
    bring_model({"model": {"_component_": "model/tiny"}}, tmp_path)
