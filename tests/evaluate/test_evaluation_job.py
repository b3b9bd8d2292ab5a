"""What ``tokensweep evaluate run=ID`` takes over from the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tokensweep.compose import freeze_run, register_components, resolve
from tokensweep.composer import compose_config
from tokensweep.evaluation_job import _remarks, _run_subject
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


class _Summary:
    problems = 28


def test_dropped_problems_and_the_caution_are_said_with_the_numbers() -> None:
    entry = {"suite": "aime25", "caution": "aime25 is old"}
    assert _remarks(entry, _Summary(), 30) == [
        "aime25 is old",
        "aime25: 2 of 30 problems dropped, longer than prompt.max_tokens",
    ]
    assert _remarks({**entry, "caution": ""}, _Summary(), 28) == []
