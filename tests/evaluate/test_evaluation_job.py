"""What ``tokensweep evaluate run=ID`` takes over from the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tokensweep.compose import freeze_run, register_components, resolve
from tokensweep.composer import compose_config
from tokensweep.evaluation_job import _remarks, _run_subject, evaluate_subject
from tokensweep.files import write_json
from tokensweep.identity import digest

register_components()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with a run that was trained with another prompt than the default."""
    frozen = freeze_run(["prompt=base", f"store={tmp_path}"])
    folder = tmp_path / "runs" / "run-1"
    write_json(folder / "config.json", frozen)
    write_json(folder / "plan.json", {"config_sha": digest(frozen)})
    (folder / "checkpoints" / "step-000004").mkdir(parents=True)
    return tmp_path


def prompt_asked(store: Path, *words: str) -> Any:
    config = resolve(compose_config(["run=run-1", f"store={store}", *words], name="evaluate"))
    _run_subject(config, words)
    return config["prompt"]["_component_"]


def test_a_run_is_evaluated_with_its_own_prompt_unless_another_is_typed(store: Path) -> None:
    assert prompt_asked(store) == "prompt/base"
    assert prompt_asked(store, "eval.num_samples=9") == "prompt/base"
    assert prompt_asked(store, "prompt=chat") == "prompt/chat"


def rule_asked(store: Path, *words: str) -> Any:
    config = resolve(compose_config(["run=run-1", f"store={store}", *words], name="evaluate"))
    _run_subject(config, words)
    return config["eval"]["rule"]


def test_a_run_is_evaluated_by_the_rule_that_is_typed(store: Path) -> None:
    assert rule_asked(store) is None
    assert rule_asked(store, "eval/rule=two_temperatures", "eval.rule.high=1.4") == {
        "_component_": "eval/rule/two_temperatures",
        "high": 1.4,
        "low": 1.0,
        "threshold": 0.672,
    }


def test_a_rule_must_go_with_the_settings_that_the_run_was_planned_with(tmp_path: Path) -> None:
    frozen = freeze_run(["eval.temperature=0.6", f"store={tmp_path}"])
    write_json(tmp_path / "runs" / "run-1" / "config.json", frozen)
    write_json(tmp_path / "runs" / "run-1" / "plan.json", {"config_sha": digest(frozen)})
    (tmp_path / "runs" / "run-1" / "checkpoints" / "step-000004").mkdir(parents=True)
    words = ["run=run-1", f"store={tmp_path}", "eval/rule=two_temperatures"]
    config = resolve(compose_config(words, name="evaluate"))
    with pytest.raises(ValueError, match=r"eval.rule: two_temperatures .* temperature must be 1, got 0.6"):
        evaluate_subject(config, overrides=words, console=Console())


class _Summary:
    problems = 28


def test_dropped_problems_and_the_caution_are_said_with_the_numbers() -> None:
    entry = {"suite": "aime25", "caution": "aime25 is old"}
    assert _remarks(entry, _Summary(), 30) == [
        "aime25 is old",
        "aime25: 2 of 30 problems dropped, longer than prompt.max_tokens",
    ]
    assert _remarks({**entry, "caution": ""}, _Summary(), 28) == []
